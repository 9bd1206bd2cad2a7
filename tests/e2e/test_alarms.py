"""What people do with alarms, orders and rules, by the shipped command on a running service."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from broker.messages import ClockTick, encode
from broker.mosquitto import PrivateMosquitto

DEADLINE_S = 60.0
CITYEYE = Path(sys.executable).with_name("cityeye")
T0 = 1_780_272_000_000
"""2026-06-01T00:00:00Z."""
CITY = """
city: weir
timezone: Asia/Shanghai
position: [120.15, 33.4]
districts: [{id: east}]
alarms: {actions: {mode: armed, rules: [pressure]}}
sites:
  - {id: park, district: east, domain: air, devices: [{id: aq-1, kind: air-station}]}
"""
RULES = """
pack: town
title: Rules of a town
standard: ST 1
rules:
  - id: pressure
    quantity: gas_pressure
    unit: kPa
    low: {limit: 85, severity: high, deadband: 1}
    latch: true
    actions: [repair_order]
"""
ALARM = "main/node-1/pressure"
WRONG = [
    (("alarms", "ack", "nowhere/node-1/pressure"), "the device is not known here"),
    (("alarms", "ack", "main/node-1/nothing"), "the rule is not known here"),
    (("alarms", "ack", "main"), "'main' names no alarm; give site/device/rule"),
    (("alarms", "shelve", ALARM, "--for", "30m"), "the reason is missing"),
    (("alarms", "shelve", ALARM, "--for", "9d", "--why", "works"), "24"),
    (("alarms", "reset", ALARM), "still holds"),
    (("orders", "close", "ro-nothing", "--why", "done"), "ro-nothing"),
]
"""What cannot be done, and a part of why."""
Until = Callable[..., Awaitable[None]]


class Town:
    """A running `cityeye ingest`, its one sensor, and whoever asks."""

    def __init__(self, folder: Path, broker: PrivateMosquitto) -> None:
        self.rules = folder / "rules.yaml"
        self.said = folder / "ingest.log"
        self._city = folder / "city.yaml"
        self._data = folder / "data"
        self._broker = f"mqtt://{broker.host}:{broker.port}"
        self.rules.write_text(RULES)
        self._city.write_text(CITY)
        self._seq = 0
        self.state = ""
        """The alarm's, as its topic told last."""
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._take
        self._client.connect(broker.host, broker.port)
        self._client.subscribe("cityeye/v1/weir/+/alarms/#", 1)
        self._client.loop_start()
        tick = encode(ClockTick(ts=T0, speed=0, seed=1, wall=T0))
        self._client.publish("cityeye/v1/weir/clock", tick, qos=1, retain=True)

    async def start(self, until: Until) -> None:
        """Start the service, and wait until it works."""
        with self.said.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                CITYEYE, "ingest", "--city", str(self._city), "--rules", str(self.rules),
                "--data", str(self._data), "--broker", self._broker, "--json",
                stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip
        await until((self._data / "run.json").exists, deadline_s=DEADLINE_S)

    def leave(self) -> None:
        """Take the sensor away."""
        self._client.disconnect()
        self._client.loop_stop()

    async def end(self) -> int | None:
        """End the service by SIGTERM; its exit status."""
        self.leave()
        self._process.terminate()
        async with asyncio.timeout(DEADLINE_S):
            await self._process.communicate()
        return self._process.returncode

    def hang_up(self) -> None:
        """Send SIGHUP."""
        self._process.send_signal(signal.SIGHUP)

    def measure(self, pressure: float) -> None:
        """Publish one reading, a hundred seconds after the last: nothing chatters."""
        self._seq += 1
        body = {
            "ts": T0 + 100_000 * self._seq,
            "seq": self._seq,
            "values": {"gas_pressure": pressure},
        }
        topic = "cityeye/v1/weir/east/gas/main/node-1/telemetry"
        self._client.publish(topic, json.dumps(body).encode(), qos=1)

    async def run(self, *arguments: str) -> tuple[int | None, dict[str, Any], str]:
        """Run a command on the same data directory: exit status, JSON, standard error."""
        process = await asyncio.create_subprocess_exec(
            CITYEYE, *arguments, "--data", str(self._data), "--json",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(DEADLINE_S):
            output, errors = await process.communicate()
        return process.returncode, json.loads(output or b"{}"), errors.decode()

    async def tell(self, *arguments: str) -> tuple[int | None, dict[str, Any], str]:
        """The same, asking the service as this town's operator."""
        return await self.run(*arguments, "--by", "lin", "--city", str(self._city))

    async def states(self) -> list[str]:
        """The states of the alarms that are listed."""
        _, found, _ = await self.run("alarms", "list")
        return [alarm["state"] for alarm in found["alarms"]]

    async def alarm(self, pressure: float, state: str) -> None:
        """Measure, and wait until the alarm is in that state."""
        self.measure(pressure)
        await self.reaches(state)

    async def reaches(self, state: str) -> None:
        """Wait until the alarm's topic tells that state."""
        async with asyncio.timeout(DEADLINE_S):
            while self.state != state:  # noqa: ASYNC110 - a test polls from outside
                await asyncio.sleep(0.05)

    def _take(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        if message.payload:
            self.state = json.loads(message.payload)["state"]


@pytest.fixture
async def town(mosquitto: PrivateMosquitto, tmp_path: Path, until: Until) -> AsyncIterator[Town]:
    """A town with a standing alarm."""
    town = Town(tmp_path, mosquitto)
    await town.start(until)
    try:
        await town.alarm(80, "unacknowledged")
        yield town
    finally:
        status = await town.end()
    assert 0 == status


@pytest.mark.mosquitto
async def test_life_by_command(town: Town) -> None:
    """Everything that people do to an alarm is done, seen at once, and kept with who and why."""
    steps = [
        (("ack", ALARM), "acknowledged"),
        (("comment", ALARM, "--why", "crew on site"), "acknowledged"),
        (("shelve", ALARM, "--for", "30m", "--why", "works"), "shelved"),
        (("unshelve", ALARM), "unacknowledged"),
        (("disable", ALARM, "--why", "rebuilt"), "out-of-service"),
        (("enable", "main/*/*"), "unacknowledged"),
    ]
    found = []
    for (verb, *rest), state in steps:
        town.measure(80)
        status, answer, _ = await town.tell("alarms", verb, *rest)
        await town.reaches(state)
        found.append((status, answer["changed"]))
    await town.alarm(95, "latched")
    await town.tell("alarms", "ack", ALARM)
    _, reset, _ = await town.tell("alarms", "reset", ALARM, "--why", "repaired")
    _, history, _ = await town.run("alarms", "history", "main/*/*")
    _, shown, _ = await town.run("alarms", "show", ALARM)
    listed = await town.states()

    assert [(0, [ALARM])] * len(steps) == found
    assert ([ALARM], []) == (reset["changed"], listed)
    trail = [(one["event"], one.get("by", ""), one.get("why", "")) for one in history["events"]]
    assert [
        ("raised", "", ""),
        ("acknowledged", "lin", ""),
        ("commented", "lin", "crew on site"),
        ("shelved", "lin", "works"),
        ("unshelved", "lin", ""),
        ("raised", "", ""),
        ("out-of-service", "lin", "rebuilt"),
        ("in-service", "lin", ""),
        ("raised", "", ""),
        ("cleared", "", ""),
        ("acknowledged", "lin", ""),
        ("reset", "lin", "repaired"),
    ] == trail
    assert list(range(1, len(trail) + 1)) == [one["number"] for one in history["events"]]
    assert (None, history["events"]) == (shown["alarm"], shown["events"])


@pytest.mark.mosquitto
async def test_wrong(town: Town) -> None:
    """What cannot be done ends with 2 and one line that says why, and changes nothing."""
    answers = [await town.tell(*arguments) for arguments, _ in WRONG]
    said = [error for (_, _, error), (_, why) in zip(answers, WRONG, strict=True) if why in error]

    assert [(2, {}, 1)] * len(WRONG) == [(s, a, error.count("\n")) for s, a, error in answers]
    assert [error for _, _, error in answers] == said
    assert ["unacknowledged"] == await town.states()


@pytest.mark.mosquitto
async def test_orders(town: Town) -> None:
    """The alarm has opened an order; it is taken, closed with what was done, and gone."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(DEADLINE_S):
        while not found:
            found = (await town.run("orders", "list"))[1]["orders"]
    number = found[0]["id"]
    taken, _, _ = await town.tell("orders", "take", number)
    _, listed, _ = await town.run("orders", "list")
    unsaid, _, error = await town.tell("orders", "close", number)
    closed, _, _ = await town.tell("orders", "close", number, "--why", "sleeve fitted")
    _, after, _ = await town.run("orders", "list")

    assert [("open", ALARM)] == [(one["state"], one["alarm"]) for one in found]
    assert [("taken", "lin")] == [(one["state"], one["by"]) for one in listed["orders"]]
    assert (0, 2, 0, []) == (taken, unsaid, closed, after["orders"])
    assert "why" in error


@pytest.mark.mosquitto
async def test_rules_read_again(town: Town, until: Until) -> None:
    """A bad rule file is refused with file, line and path, and the old rules stay; a good one works.

    By command and by SIGHUP.
    """
    town.rules.write_text(RULES.replace("limit: 85", "limit: eighty"))
    status, _, error = await town.run("rules", "reload")
    town.hang_up()
    await until(lambda: "the rules stay as they are" in town.said.read_text())
    held = await town.states()
    town.rules.write_text(RULES.replace("limit: 85", "limit: 75"))
    good, answer, _ = await town.run("rules", "reload")
    await town.alarm(80, "latched")
    town.rules.write_text(RULES)
    town.hang_up()
    await until(lambda: "rules read again" in town.said.read_text())
    await town.alarm(80, "unacknowledged")

    assert (2, ["unacknowledged"]) == (status, held)
    assert "refused, the rules stay as they are" in error
    assert f"{town.rules}:9: rules[0].low.limit" in error
    assert (0, "1 rules are at work") == (good, answer["detail"])
    assert 1 == town.said.read_text().count("rules[0].low.limit")


@pytest.mark.mosquitto
async def test_nobody_at_work(mosquitto: PrivateMosquitto, tmp_path: Path) -> None:
    """Where no service runs, that is said with the remedy, and the status is not 0."""
    town = Town(tmp_path, mosquitto)
    status, _, error = await town.run("alarms", "list")
    town.leave()

    assert 2 == status
    assert "no cityeye runs in" in error
