import asyncio
import contextlib
import json
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from broker.choice import BrokerAddress
from broker.codec import ConnectCode
from broker.mosquitto import PrivateMosquitto, answers, free_port
from city.cityfile import City, check_city
from city.clock import Clock, wall_ms
from city.documents import Document
from sensors.engine import CityEngine
from sensors.fleet import Fleet

Until = Callable[..., Awaitable[None]]
Run = Callable[..., Any]

AIR = """
city: testville
position: [120.0, 31.0]
districts: [{id: d1}]
sites:
  - id: air-1
    district: d1
    domain: air
    name: First station
    position: [120.01, 31.02]
    devices:
      - {id: a, kind: air-micro, interval_s: INTERVAL}
      - {id: b, kind: air-micro, interval_s: INTERVAL}
      - {id: c, kind: air-micro, interval_s: INTERVAL}
      - {id: d, kind: air-micro, interval_s: INTERVAL}
"""
GAS = """
city: testville
districts: [{id: d1}]
sites:
  - id: gas-1
    district: d1
    domain: gas
    devices: [{id: valve, kind: gas-valve, interval_s: 0.2, junction: K1288}]
"""
VALVE = "cityeye/v1/testville/d1/gas/gas-1/valve"
DEVICE = "cityeye/v1/testville/d1/air/air-1/a"


def city(text: str = AIR, *, interval_s: float = 0.2) -> City:
    """The city in `text`."""
    return check_city(Document(text.replace("INTERVAL", str(interval_s)), "test.yaml"))


class Observer:
    """Paho on all of the city's topics, in a session that outlives broker and connection."""

    def __init__(self, port: int) -> None:
        self.messages: list[tuple[int, paho.MQTTMessage]] = []
        """What arrived, and when [ms since the epoch]."""
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"observer-{uuid.uuid4().hex}",
            clean_session=False,
        )
        self.client.reconnect_delay_set(min_delay=1, max_delay=1)
        self.client.on_message = lambda _c, _u, m: self.messages.append((wall_ms(), m))
        self.client.on_connect = lambda c, *_: c.subscribe("cityeye/#", qos=1)
        self.subscribed = False
        self.client.on_subscribe = lambda *_: setattr(self, "subscribed", True)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def on(self, topic: str) -> list[Any]:
        """The JSON payloads on `topic`, in the order of arrival."""
        return [json.loads(m.payload) for _, m in self.messages if m.topic == topic and m.payload]

    def last(self, topic: str) -> paho.MQTTMessage | None:
        """The newest message on `topic`."""
        return next((m for _, m in reversed(self.messages) if m.topic == topic), None)

    def send(self, topic: str, **command: Any) -> None:
        """Give a command."""
        order = {"name": "close_valve", "ts": wall_ms(), "by": "test"} | command
        self.client.publish(topic, json.dumps(order), qos=1)


@pytest.fixture
async def observe(until: Until) -> AsyncIterator[Callable[[int], Awaitable[Observer]]]:
    """Connects observers; they are stopped at the end of the test."""
    observers = []

    async def open_observer(port: int) -> Observer:
        observer = await asyncio.to_thread(Observer, port)
        observers.append(observer)
        await until(lambda: observer.subscribed)
        return observer

    yield open_observer
    for observer in observers:
        observer.client.disconnect()
        await asyncio.to_thread(observer.client.loop_stop)


@pytest.fixture
def running() -> Run:
    """Runs a fleet as a context; at its end the fleet leaves as it does when it is told to stop."""

    @contextlib.asynccontextmanager
    async def run(
        port: int, what: City | None = None, *, speed: float = 1.0, until_s: float | None = None,
        username: str | None = None, **options: Any,
    ) -> AsyncIterator[Fleet]:  # fmt: skip
        start_ms = wall_ms()
        engine = CityEngine(what or city(), seed=1, start_ms=start_ms)
        clock = Clock(start_ms, speed=speed)
        address = BrokerAddress("127.0.0.1", port, username=username)
        fleet = Fleet(engine, clock, address, **options)
        until_ms = None if until_s is None else start_ms + round(until_s * 1000)
        playing = asyncio.create_task(fleet.run(until_ms=until_ms), name="fleet")
        try:
            yield fleet
        finally:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
            await fleet.leave()

    return run


@pytest.mark.mosquitto
class TestWire:
    """What the broker sees of a device."""

    async def test_birth(
        self, mosquitto: PrivateMosquitto, running: Run, observe: Any, until: Until
    ) -> None:
        """A birth document is retained and says what is measured, in what unit and how often."""
        async with running(mosquitto.port) as fleet:
            await until(lambda: fleet.online == 4)
            late = await observe(mosquitto.port)
            await until(lambda: late.last(f"{DEVICE}/meta"))

        message = late.last(f"{DEVICE}/meta")
        birth = json.loads(message.payload)
        assert message.retain
        assert (0.2, [120.01, 31.02], "First station") == (
            birth["interval_s"], birth["position"], birth["name"],
        )  # fmt: skip
        assert {"unit": "ug/m3", "low": 0.0, "high": 2000.0} == birth["quantities"]["pm25"]

    async def test_gas_position(
        self, mosquitto: PrivateMosquitto, running: Run, observe: Any, until: Until
    ) -> None:
        """A gas device is born where its junction lies, not in the middle of the city."""
        gas = city(GAS)
        observer = await observe(mosquitto.port)

        async with running(mosquitto.port, gas):
            await until(lambda: observer.on(f"{VALVE}/meta"))

        engine = CityEngine(gas, seed=1, start_ms=0)
        birth = observer.on(f"{VALVE}/meta")[0]
        assert list(gas.position) != birth["position"]
        assert list(engine.device_positions()["gas-1/valve"]) == birth["position"]

    async def test_stop(
        self, mosquitto: PrivateMosquitto, running: Run, observe: Any, until: Until
    ) -> None:
        """A device is online while it is connected, and offline after a clean stop."""
        observer = await observe(mosquitto.port)
        async with running(mosquitto.port):
            await until(lambda: observer.on(f"{DEVICE}/status"))
        late = await observe(mosquitto.port)
        await until(lambda: late.last(f"{DEVICE}/status"))

        states = [status["state"] for status in late.on(f"{DEVICE}/status")]
        assert "online" == observer.on(f"{DEVICE}/status")[0]["state"]
        assert {"offline"} == set(states)

    async def test_lost(
        self, mosquitto: PrivateMosquitto, running: Run, observe: Any, until: Until
    ) -> None:
        """The broker says that a device is lost when its connection is cut, and it comes back."""
        observer = await observe(mosquitto.port)
        async with running(mosquitto.port) as fleet:
            await until(lambda: fleet.online == 4)
            fleet.devices[0].abort()
            await until(lambda: len(observer.on(f"{DEVICE}/status")) >= 3)

        states = [status["state"] for status in observer.on(f"{DEVICE}/status")]
        assert ["online", "lost", "online"] == states[:3]

    async def test_telemetry(
        self, mosquitto: PrivateMosquitto, running: Run, observe: Any, until: Until
    ) -> None:
        """Telemetry comes at QoS 1, counted from 0, one interval of measurement apart."""
        observer = await observe(mosquitto.port)
        async with running(mosquitto.port):
            await until(lambda: len(observer.on(f"{DEVICE}/telemetry")) >= 5)

        sent = observer.on(f"{DEVICE}/telemetry")
        assert 1 == observer.last(f"{DEVICE}/telemetry").qos
        assert list(range(len(sent))) == [telemetry["seq"] for telemetry in sent]
        assert {200} == {b["ts"] - a["ts"] for a, b in pairwise(sent)}
        assert {"pm25", "pm10", "temperature", "humidity"} == set(sent[0]["values"])

    async def test_even(
        self, mosquitto: PrivateMosquitto, running: Run, observe: Any, until: Until
    ) -> None:
        """Devices of one interval do not send in bursts: each sends when it measures, by turns."""
        observer = await observe(mosquitto.port)
        async with running(mosquitto.port, city(interval_s=1.0)):
            await until(
                lambda: sum(m.topic.endswith("/telemetry") for _, m in observer.messages) > 9
            )

        sent = [(at, m) for at, m in observer.messages if m.topic.endswith("/telemetry")]
        early_ms = [json.loads(m.payload)["ts"] - at for at, m in sent]
        instants = sorted(json.loads(m.payload)["ts"] for _, m in sent)
        gaps_ms = [b - a for a, b in pairwise(instants)]
        assert max(early_ms) < 50
        assert max(gaps_ms) < 500
        assert sum(gap_ms < 50 for gap_ms in gaps_ms) <= len(gaps_ms) / 4

    async def test_idle(self, mosquitto: PrivateMosquitto, running: Run, until: Until) -> None:
        """Pings keep a device connected that has nothing to say."""
        idle = city(interval_s=3600)
        async with running(mosquitto.port, idle, keep_alive_s=2) as fleet:
            await until(lambda: fleet.online == 4)
            began_s = time.monotonic()
            await until(lambda: time.monotonic() - began_s > 3.5)

            assert (4, 4) == (fleet.online, fleet.connects)


@pytest.mark.mosquitto
class TestOutage:
    """A broker that is not there."""

    async def test_killed(
        self, mosquitto: PrivateMosquitto, running: Run, observe: Any, until: Until
    ) -> None:
        """After a kill, what was measured meanwhile is sent: complete, in order, with its instants."""
        observer = await observe(mosquitto.port)
        assert mosquitto.pid
        os.kill(mosquitto.pid, signal.SIGUSR1)  # Mosquitto saves the observer's session
        async with running(mosquitto.port) as fleet:
            await until(lambda: len(observer.on(f"{DEVICE}/telemetry")) >= 3)
            os.kill(mosquitto.pid, signal.SIGKILL)
            await until(lambda: fleet.online == 0)
            await until(lambda: fleet.waiting > 12)
            await mosquitto.start()
            await until(lambda: fleet.online == 4 and not fleet.devices[0].waiting)
        await until(
            lambda: observer.on(f"{DEVICE}/telemetry")[-1]["seq"] == fleet.devices[0]._seq - 1
        )

        sent = {json.dumps(t): t for t in observer.on(f"{DEVICE}/telemetry")}
        assert list(range(len(sent))) == [telemetry["seq"] for telemetry in sent.values()]
        assert {200} == {b["ts"] - a["ts"] for a, b in pairwise(sent.values())}

    async def test_stopped(
        self, mosquitto: PrivateMosquitto, running: Run, observe: Any, until: Until
    ) -> None:
        """What was acknowledged before an outage does not come again after it."""
        observer = await observe(mosquitto.port)
        async with running(mosquitto.port, city(interval_s=0.5)) as fleet:
            await until(lambda: fleet.acknowledged >= 4 and not fleet.waiting)
            acknowledged = fleet.devices[0]._seq
            await mosquitto.stop()
            await until(lambda: fleet.waiting > 4)
            await mosquitto.start()
            await until(lambda: fleet.online == 4 and not fleet.waiting)
        await until(lambda: len(observer.on(f"{DEVICE}/telemetry")) >= 3)

        seqs = [telemetry["seq"] for telemetry in observer.on(f"{DEVICE}/telemetry")]
        assert list(range(acknowledged)) == [seq for seq in seqs if seq < acknowledged]
        assert list(range(max(seqs) + 1)) == sorted(set(seqs))

    async def test_bounded(self, running: Run, until: Until) -> None:
        """A full backlog pushes out its oldest message, and that is counted."""
        async with running(free_port(), city(interval_s=0.1), backlog_max=3) as fleet:
            await until(lambda: fleet.dropped > 4)

            assert 12 == fleet.waiting
            assert fleet.messages == fleet.waiting + fleet.dropped
            for device in fleet.devices:
                device._backlog.clear()

    async def test_bounded_keeps_the_newest(
        self, running: Run, until: Until, observe: Any, mosquitto: PrivateMosquitto
    ) -> None:
        """After a long outage, the messages that are left are the newest of each device."""
        await mosquitto.stop()
        async with running(mosquitto.port, city(interval_s=0.1), backlog_max=3) as fleet:
            await until(lambda: fleet.dropped > 8)
            await mosquitto.start()
            observer = await observe(mosquitto.port)
            await until(lambda: fleet.online == 4 and observer.on(f"{DEVICE}/telemetry"))

        seqs = [telemetry["seq"] for telemetry in observer.on(f"{DEVICE}/telemetry")]
        assert seqs[0] >= 2
        assert list(range(seqs[0], seqs[0] + len(seqs))) == seqs


@pytest.fixture
def guarded(tmp_path: Path) -> Callable[..., Any]:
    """Runs a Mosquitto with some lines of configuration of its own; yields its port."""

    @contextlib.asynccontextmanager
    async def run(*lines: str) -> AsyncIterator[int]:
        port = free_port()
        conf = tmp_path / "guarded.conf"
        user = ["user root"] if os.geteuid() == 0 else []
        conf.write_text("\n".join([f"listener {port} 127.0.0.1", *user, *lines]) + "\n")
        process = await asyncio.create_subprocess_exec(
            "mosquitto", "-c", conf, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(60):
                while not await answers("127.0.0.1", port):  # noqa: ASYNC110 - it is another process
                    await asyncio.sleep(0.02)
            yield port
        finally:
            process.terminate()
            async with asyncio.timeout(60):
                await process.wait()

    return run


@pytest.fixture
def passwords(tmp_path: Path) -> str:
    """The configuration lines of a broker that knows nobody."""
    path = tmp_path / "passwords"
    path.touch(mode=0o600)
    return f"allow_anonymous false\npassword_file {path}"


@pytest.mark.mosquitto
class TestRefusal:
    """A broker that does not let a device in."""

    async def test_credentials(
        self, guarded: Any, passwords: str, running: Run, until: Until
    ) -> None:
        """Refused connects are counted by their code, and tried again ever more slowly."""
        async with guarded(passwords) as port:
            wrong = {"username": "nobody", "password": "wrong"}
            async with running(port, city(interval_s=3600), **wrong) as fleet:
                await until(lambda: fleet.refusals.total() >= 8)

                assert {ConnectCode.NOT_AUTHORISED} == set(fleet.refusals)
                assert 0 == fleet.online

    @pytest.mark.parametrize("speed", [1.0, float("inf")])
    async def test_stalls_nobody(
        self, guarded: Any, running: Run, until: Until, speed: float
    ) -> None:
        """The others send while one device is refused, at any speed."""
        text = AIR + AIR.split("sites:\n")[1].replace("air-1", "air-2").replace(
            "{id: d,", "{id: e,"
        )
        lines = ("allow_anonymous true", "clientid_prefixes cityeye.testville.air-1")
        async with (
            guarded(*lines) as port,
            running(port, city(text, interval_s=0.5), speed=speed, backlog_max=50) as fleet,
        ):
            await until(lambda: fleet.refusals and fleet.online == 4)
            before = fleet.acknowledged
            await until(lambda: fleet.acknowledged > before + (16 if speed == 1.0 else 1000))

            assert 4 == fleet.online
            assert {d.device.name for d in fleet._turned_away} == {
                f"air-2/{name}" for name in "abce"
            }


@pytest.mark.mosquitto
class TestCommands:
    """What comes back when a device is told to do something."""

    async def test_close(
        self, mosquitto: PrivateMosquitto, running: Run, observe: Any, until: Until
    ) -> None:
        """A valve closes, says so once and in what time, and shows it from then on."""
        observer = await observe(mosquitto.port)
        async with running(mosquitto.port, city(GAS)) as fleet:
            await until(lambda: fleet.online == 1)
            for _ in range(2):
                observer.send(f"{VALVE}/command", id="c1")
            await until(lambda: observer.on(f"{VALVE}/reply"))
            closed_ms = observer.on(f"{VALVE}/reply")[0]["ts"]
            await until(
                lambda: any(t["ts"] > closed_ms + 400 for t in observer.on(f"{VALVE}/telemetry"))
            )

        replies = observer.on(f"{VALVE}/reply")
        last = observer.on(f"{VALVE}/telemetry")[-1]
        assert [("c1", True, "closed in 1.8 s")] == [
            (r["id"], r["ok"], r["detail"]) for r in replies
        ]
        assert last["values"]["valve_position"] < 3

    async def test_leaving(
        self, mosquitto: PrivateMosquitto, running: Run, observe: Any, until: Until
    ) -> None:
        """A valve that still travels when the fleet leaves answers before it goes."""
        observer = await observe(mosquitto.port)
        async with running(mosquitto.port, city(GAS)) as fleet:
            await until(lambda: fleet.online == 1)
            observer.send(f"{VALVE}/command", id="c1")
            await until(lambda: fleet._commander.underway)

        await until(lambda: observer.on(f"{VALVE}/reply"))
        assert "c1" == observer.on(f"{VALVE}/reply")[0]["id"]

    @pytest.mark.parametrize(
        ("command", "reason"),
        [
            ({"name": "explode"}, "unknown command 'explode'; this device knows: close_valve"),
            ({"args": {"slowly": True}}, "close_valve takes no arguments; got: slowly"),
            ({"expires": wall_ms() - 60_000}, "expired"),
        ],
    )
    async def test_refused(
        self, mosquitto: PrivateMosquitto, running: Run, observe: Any, until: Until,
        command: dict[str, Any], reason: str,
    ) -> None:  # fmt: skip
        """A command that cannot be carried out is answered with the reason."""
        observer = await observe(mosquitto.port)
        async with running(mosquitto.port, city(GAS)) as fleet:
            await until(lambda: fleet.online == 1)
            observer.send(f"{VALVE}/command", **{"id": "c1"} | command)
            await until(lambda: observer.on(f"{VALVE}/reply"))

        reply = observer.on(f"{VALVE}/reply")[0]
        assert ("c1", False) == (reply["id"], reply["ok"])
        assert reply["detail"].startswith(reason)

    async def test_not_json(
        self, mosquitto: PrivateMosquitto, running: Run, observe: Any, until: Until
    ) -> None:
        """What is no command is answered as well."""
        observer = await observe(mosquitto.port)
        async with running(mosquitto.port, city(GAS)) as fleet:
            await until(lambda: fleet.online == 1)
            observer.client.publish(f"{VALVE}/command", b"close it, please", qos=1)
            await until(lambda: observer.on(f"{VALVE}/reply"))

        reply = observer.on(f"{VALVE}/reply")[0]
        assert (False, "not-json") == (reply["ok"], reply["detail"].partition(":")[0])
