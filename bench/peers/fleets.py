"""The fleets that are compared on the load job: how each is started, stopped and read."""

import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.peers.devices import HOST, Device
from bench.peers.toolbox import Toolbox, version_of
from broker.topics import Channel, device_topic
from city.synthetic import synthetic_city
from load.connecting import CONNECTS_PER_S

KINDS: Final = ("air-micro", "air-gas")
"""Kinds of devices with four values."""

HERE: Final = Path(__file__).resolve().parent


class Order(NamedTuple):
    """What a fleet is to do."""

    devices: int
    interval_s: float
    port: int
    roster: Path
    seconds: float
    """How long the run is going to take, for a fleet that cannot be told to stop."""


class Tool(NamedTuple):
    """A load generator.

    `command` makes its command line; `settings` go to its environment. `stop` is the signal after
    which it leaves and prints its figures; None if it ends by itself. `descriptors` are what each
    device takes of the process's limit.
    """

    name: str
    package: str | None
    command: Callable[[Order, Toolbox], list[str]]
    settings: Callable[[Order], Mapping[str, str]] = lambda _: {}
    stop: signal.Signals | None = signal.SIGTERM
    descriptors: int = 1

    @property
    def title(self) -> str:
        """Its name with its version."""
        return f"{self.name} {version_of(self.package)}" if self.package else self.name


def roster(devices: int, interval_s: float) -> list[Device]:
    """The devices of the city that CityEye plays, for the peers."""
    city = synthetic_city(devices, interval_s=interval_s, seed=1, kinds=KINDS)
    return [
        Device(
            client_id=f"peer-{number}",
            topic=device_topic(device.address, Channel.TELEMETRY),
            quantities=tuple(device.kind.quantities),
        )
        for number, device in enumerate(city.devices())
    ]


def cityeye_fleet(order: Order, _: Toolbox) -> list[str]:
    """`cityeye load` without a subscriber of its own, connecting as fast as it does."""
    ramp_s = max(0.1, order.devices / CONNECTS_PER_S)
    return [
        str(Path(sys.executable).with_name("cityeye")), "load", "--json", "--log", "warning",
        "--devices", str(order.devices), "--interval", f"{order.interval_s:.6f}s",
        "--kinds", ",".join(KINDS), "--ramp", f"{ramp_s:g}s",
        "--for", f"{max(1.0, order.seconds - ramp_s):g}s", "--subscribers", "0",
        "--broker", f"mqtt://{HOST}:{order.port}", "--out", str(order.roster.with_name("load")),
    ]  # fmt: skip


def cityeye_report(printed: str) -> dict[str, Any]:
    """The figures of `cityeye_fleet` under the names that all fleets use."""
    said = last_object(printed)
    return {
        "sent": said.get("sent"),
        "acknowledged": said.get("acked"),
        "ack_ms": said.get("latency_ms", {}).get("ack", {}),
    }


def _python(program: str) -> Callable[[Order, Toolbox], list[str]]:
    return lambda order, toolbox: [
        toolbox.python, "-m", f"bench.peers.{program}", str(order.port), str(order.roster),
        str(order.interval_s),
    ]  # fmt: skip


def _mqttjs(order: Order, toolbox: Toolbox) -> list[str]:
    program = str(HERE / "mqttjs_fleet.js")
    return [toolbox.node, program, str(order.port), str(order.roster), str(order.interval_s)]


def _locust(order: Order, toolbox: Toolbox) -> list[str]:
    users = str(order.devices)
    return [
        toolbox.python, "-m", "locust", "--locustfile", str(HERE / "locustfile.py"),
        "--headless", "--users", users, "--spawn-rate", users, "--stop-timeout", "10",
        "--only-summary", "--loglevel", "ERROR", "--host", HOST,
    ]  # fmt: skip


def _locust_settings(order: Order) -> Mapping[str, str]:
    return {
        "PEERS_PORT": str(order.port),
        "PEERS_ROSTER": str(order.roster),
        "PEERS_INTERVAL_S": str(order.interval_s),
    }


CITYEYE: Final = Tool("CityEye", None, cityeye_fleet, stop=signal.SIGINT)

TOOLS: Final = (
    CITYEYE,
    Tool("MQTT.js", "mqtt", _mqttjs),
    Tool("gmqtt", "gmqtt", _python("gmqtt_fleet")),
    Tool("paho-mqtt", "paho-mqtt", _python("paho_fleet")),
    Tool("aiomqtt", "aiomqtt", _python("aiomqtt_fleet")),
    Tool("Locust", "locust", _locust, settings=_locust_settings, descriptors=3),
)


def read_report(tool: Tool, printed: str) -> dict[str, Any]:
    """What a fleet says at its end."""
    return cityeye_report(printed) if tool is CITYEYE else last_object(printed)


def last_object(printed: str) -> dict[str, Any]:
    """The last line that is a JSON object; nothing if there is none."""
    for line in reversed(printed.splitlines()):
        if line.startswith("{"):
            said: dict[str, Any] = json.loads(line)
            return said
    return {}
