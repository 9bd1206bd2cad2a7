"""Alarms through `kill -9`, by the shipped command: the same as without it.

The reference is a run of the same stream of messages that nobody disturbs.
"""

import asyncio
import json
import math
import random
import sqlite3
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from broker.messages import Birth, ClockTick, MeasuredQuantity, OperatorRequest, encode
from broker.mosquitto import PrivateMosquitto

DEADLINE_S = 60.0
CITYEYE = Path(sys.executable).with_name("cityeye")
T0 = 1_780_272_000_000
"""2026-06-01T00:00:00Z."""
STEP_S = 20
TICKS = 450
NODES = 6
SEGMENTS = 6
SEED = 4
CITY = """
city: weir
position: [120.15, 33.4]
districts: [{id: east}]
sites:
  - {id: park, district: east, domain: air, devices: [{id: aq-1, kind: air-station}]}
"""
RULES = """
pack: killed
title: Rules with everything that takes time
standard: ST 1
rules:
  - id: pressure
    quantity: gas_pressure
    unit: kPa
    low: {limit: 85, severity: high, deadband: 1}
    low_low: {limit: 75, severity: critical, deadband: 1}
    on_delay_s: 60
    off_delay_s: 60
    realarm_s: 400
    escalate: [{after_s: 90, to: district}, {after_s: 300, to: city}]
  - id: hourly
    quantity: pm25
    unit: ug/m3
    stat: hour
    high: {limit: 75, severity: medium, deadband: 3}
  - id: many-low
    count: {at_least: 3, within: site, of: {quantity: gas_pressure, unit: kPa, below: 84}}
    severity: high
    on_delay_s: 45
    off_delay_s: 45
    latch: true
  - id: silent
    silence: {intervals: 5, at_least: 60s}
    high: {limit: 0, severity: low}
"""
TELLING = """
channels: [{{id: hook, kind: webhook, url: "{url}"}}]
routes:
  - {{id: crew, channels: [hook], group_wait_s: 70, repeat_s: 330, group_by: site}}
  - {{id: chief, channels: [hook], severity: critical, group_wait_s: 0}}
"""
ACTIONS: dict[int, tuple[dict[str, Any], ...]] = {
    2: (
        {"action": "acknowledge", "targets": ("main/*/pressure",)},
        {"action": "shelve", "targets": ("main/node-1/pressure",), "why": "works", "for_s": 1500},
        {"action": "comment", "targets": ("main/node-1/pressure",), "why": "crew on site"},
    ),
    4: (
        {"action": "disable", "targets": ("main/node-2/pressure",), "why": "rebuilt"},
        {"action": "shelve", "targets": ("main/node-3/pressure",), "why": "works", "for_s": 900},
        {"action": "unshelve", "targets": ("main/node-3/pressure",)},
    ),
}
"""After so many segments of the stream: what people ask for."""

Until = Callable[..., Awaitable[None]]


def telemetry() -> list[tuple[str, bytes]]:
    """The stream: pressures that swing at different paces, dust that rises with the second hour.

    Node 5 falls silent in alarm, and comes back.
    """
    found = []
    for tick in range(TICKS):
        ts = T0 + 1000 * STEP_S * tick
        for node in range(NODES):
            turn = 2 * math.pi * STEP_S * tick / (600 + 170 * node)
            value = round(90 + 17 * math.sin(turn), 3)
            if node != 5 or not 199 <= tick < 300:
                body = {"ts": ts, "seq": tick, "values": {"gas_pressure": value}}
                found.append((f"east/gas/main/node-{node}", json.dumps(body).encode()))
        dust = {"ts": ts, "seq": tick, "values": {"pm25": 60.0 + 40 * (tick * STEP_S > 3600)}}
        found.append(("east/air/park/aq-1", json.dumps(dust).encode()))
    return found


def birth(kind: str, quantity: str, unit: str) -> bytes:
    """A birth document."""
    measured = {quantity: MeasuredQuantity(unit=unit, low=0, high=500)}
    return encode(
        Birth(kind=kind, model="m", position=(0, 0), interval_s=STEP_S, quantities=measured)
    )


class Hook:
    """A webhook that takes its time, so that a kill meets notices on their way."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []

    async def answer(self, request: web.Request) -> web.Response:
        """Keep the notice."""
        self.got.append(await request.json())
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)
        return web.Response()


class City:
    """Sensors, operators and watchers of one city, all on one client that stays connected."""

    def __init__(self, broker: PrivateMosquitto) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        """Topic and content of every event on the alarm topics that was not retained before."""
        self.replies: dict[str, dict[str, Any]] = {}
        self.sent = 0
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(1000)
        self._client.on_message = self._take
        self._client.connect(broker.host, broker.port)
        self._client.subscribe(
            [("cityeye/v1/weir/+/alarms/#", 1), ("cityeye/v1/weir/operator/#", 1)]
        )
        self._client.loop_start()
        tick = ClockTick(ts=T0, speed=0, seed=1, wall=T0)
        self._publish("clock", encode(tick), retain=True)
        for node in range(NODES):
            self._publish(f"east/gas/main/node-{node}/meta",
                          birth("gas-node", "gas_pressure", "kPa"), retain=True)  # fmt: skip
        self._publish("east/air/park/aq-1/meta", birth("air-station", "pm25", "ug/m3"), retain=True)

    def send(self, messages: list[tuple[str, bytes]], *, pause_s: float) -> None:
        """Publish readings, a few at a time; in a thread."""
        waiting = threading.Event()
        for start in range(0, len(messages), 10):
            for device, payload in messages[start : start + 10]:
                self._publish(f"{device}/telemetry", payload)
                self.sent += 1
            waiting.wait(pause_s)

    def ask(self, name: str, action: dict[str, Any]) -> None:
        """Ask the alarm service for something."""
        self._publish("operator/request", encode(OperatorRequest(id=name, by="lin", **action)))

    def leave(self) -> None:
        """Say goodbye."""
        self._client.disconnect()
        self._client.loop_stop()

    def by_number(self) -> dict[str, dict[int, dict[str, Any]]]:
        """The events by topic and number."""
        found: defaultdict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for topic, event in self.events:
            found[topic].setdefault(event["number"], event)
        return found

    def _publish(self, rest: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(f"cityeye/v1/weir/{rest}", payload, qos=1, retain=retain)

    def _take(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        if message.topic.endswith("/operator/reply"):
            reply = json.loads(message.payload)
            self.replies[reply["id"]] = reply
        elif "/alarms/" in message.topic and message.payload:
            self.events.append((message.topic, json.loads(message.payload)))


class Service:
    """`cityeye ingest` in a process of its own."""

    def __init__(self, folder: Path, broker: PrivateMosquitto, url: str) -> None:
        folder.mkdir(exist_ok=True)
        self.data = folder / "data"
        self._log = folder / "ingest.log"
        texts = {"city.yaml": CITY, "rules.yaml": RULES, "telling.yaml": TELLING.format(url=url)}
        for name, text in texts.items():
            (folder / name).write_text(text)
        self._arguments = [
            "--city", str(folder / "city.yaml"), "--rules", str(folder / "rules.yaml"),
            "--telling", str(folder / "telling.yaml"), "--data", str(self.data),
            "--broker", f"mqtt://{broker.host}:{broker.port}", "--json",
        ]  # fmt: skip
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Begin, or go on."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                CITYEYE, "ingest", *self._arguments, stdout=asyncio.subprocess.PIPE, stderr=log
            )

    async def kill(self) -> None:
        """End it without a chance to do anything."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        async with asyncio.timeout(DEADLINE_S):
            await self._process.wait()

    async def terminate(self) -> int | None:
        """Ask it to end; its exit status."""
        assert self._process is not None
        self._process.terminate()
        async with asyncio.timeout(DEADLINE_S):
            await self._process.communicate()
        return self._process.returncode

    def listening(self) -> bool:
        """Whether it has said that it is at work: from then on the broker keeps what it misses."""
        return (self.data / "run.json").exists()

    def taken(self) -> int:
        """How many messages it has taken in, repeats not counted."""
        with suppress(sqlite3.OperationalError):
            rows = self._rows("spool.sqlite", "SELECT fate, sum(count) FROM ledger GROUP BY fate")
            fates = dict(rows)
            return int(fates.get("received", 0) - fates.get("duplicate", 0))
        return 0

    def sending(self) -> list[str]:
        """The notices that were on their way at a kill."""
        rows = self._rows("alarms.sqlite", "SELECT id FROM mails WHERE state = 'sending'")
        return [name for (name,) in rows]

    def unpublished(self) -> list[tuple[str, int]]:
        """The events that were recorded and of which it was not noted that the broker has them."""
        return self._rows(
            "alarms.sqlite",
            "SELECT site || '/' || device || '/' || rule, number FROM events WHERE id > "
            "coalesce((SELECT upto FROM cursors WHERE name = 'mqtt'), 0)",
        )

    def said(self) -> str:
        """What it wrote to standard error."""
        return self._log.read_text()

    async def history(self) -> list[dict[str, Any]]:
        """The audit trail, as the command prints it."""
        process = await asyncio.create_subprocess_exec(
            CITYEYE, "alarms", "history", "--most", "100000", "--json", "--data", str(self.data),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(DEADLINE_S):
            output, _ = await process.communicate()
        events: list[dict[str, Any]] = json.loads(output)["events"]
        return events

    def _rows(self, name: str, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.data / name}?mode=ro", uri=True)) as database:
            return database.execute(statement).fetchall()


class Witness:
    """What one run left behind: the audit trail, the topics, the notices, and what may be double."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.history: list[dict[str, Any]] = []
        self.topics: dict[str, dict[int, dict[str, Any]]] = {}
        self.published: Counter[tuple[str, int]] = Counter()
        self.notices: list[dict[str, Any]] = []
        self.in_flight: Counter[tuple[str, int]] = Counter()
        self.sending: Counter[str] = Counter()
        self.replies: list[tuple[bool, list[str]]] = []
        self.kills = 0


def _named(topic: str) -> str:
    return "/".join(topic.split("/")[-3:])


async def _play(folder: Path, until: Until, chance: random.Random | None) -> Witness:
    """Run the service on the stream; with `chance`, kill it now and then."""
    hook, witness = Hook(), Witness()
    application = web.Application()
    application.router.add_post("/", hook.answer)
    server = TestServer(application, host="127.0.0.1")
    await server.start_server()
    async with PrivateMosquitto(folder / "mosquitto") as broker:
        city = City(broker)
        service = Service(folder, broker, str(server.make_url("/")))
        try:
            await service.start()
            await _stream(city, service, until, chance, witness)
            witness.status = await service.terminate()
            witness.history = await service.history()
            await until(lambda: len({(t, e["number"]) for t, e in city.events})
                        >= len(witness.history))  # fmt: skip
        finally:
            await service.kill()
            await asyncio.to_thread(city.leave)
            await server.close()
    witness.topics = city.by_number()
    witness.published = Counter((_named(topic), event["number"]) for topic, event in city.events)
    witness.notices = hook.got
    return witness


async def _stream(
    city: City, service: Service, until: Until, chance: random.Random | None, witness: Witness
) -> None:
    messages = telemetry()
    size = -(-len(messages) // SEGMENTS)
    await until(service.listening, deadline_s=DEADLINE_S)
    for number in range(SEGMENTS):
        part = messages[number * size : (number + 1) * size]
        sending = asyncio.create_task(asyncio.to_thread(city.send, part, pause_s=0.015))
        if chance is not None:
            await asyncio.sleep(chance.uniform(0.05, 0.7))
            await _kill(service, witness)
            await service.start()
        await sending
        await until(lambda: service.taken() >= city.sent, deadline_s=DEADLINE_S)
        for place, action in enumerate(ACTIONS.get(number, ())):
            name = f"request-{number}-{place}"
            city.ask(name, action)
            await until(lambda name=name: name in city.replies, deadline_s=DEADLINE_S)
            reply = city.replies[name]
            witness.replies.append((reply["ok"], reply.get("changed", [])))
        if chance is not None and number in ACTIONS:
            await _kill(service, witness)
            await service.start()


async def _kill(service: Service, witness: Witness) -> None:
    await service.kill()
    witness.kills += 1
    witness.in_flight.update(service.unpublished())
    witness.sending.update(service.sending())


@pytest.fixture
async def witnesses(tmp_path: Path, until: Until) -> tuple[Witness, Witness]:
    """What an undisturbed run and one that is killed again and again leave."""
    calm = await _play(tmp_path / "calm", until, None)
    chance = random.Random(SEED)  # noqa: S311 - a test's dice
    return calm, await _play(tmp_path / "killed", until, chance)


@pytest.mark.mosquitto
async def test_killed_anywhere(witnesses: tuple[Witness, Witness]) -> None:
    """Killed eight times, a service leaves the same audit trail, topics and notices, none twice.

    What was on its way at the instant of a kill may come twice, with the same number or id: whether
    the broker or the receiver had it, nobody can know but they. That is the bound, and no more: an
    event is on its way from its record until the cursor of the topics has passed it, a notice while
    it is marked as being sent.
    """
    calm, killed = witnesses
    happened = Counter(event["event"] for event in calm.history)
    notices = Counter(notice["id"] for notice in killed.notices)

    assert (0, 0, 0, 8) == (calm.status, killed.status, calm.kills, killed.kills)
    assert {"raised", "escalated", "eased", "cleared", "promoted", "repeated", "shelved",
            "unshelved", "acknowledged", "commented", "out-of-service", "stale",
            "heard"} <= happened.keys()  # fmt: skip
    assert calm.history == killed.history
    assert calm.replies == killed.replies
    assert calm.topics == killed.topics
    assert all(calm.published[one] == 1 for one in calm.published)
    assert not {one for one, n in killed.published.items() if n > 1 + killed.in_flight[one]}
    assert {one["id"]: one for one in calm.notices} == {one["id"]: one for one in killed.notices}
    assert not {one for one, n in notices.items() if n > 1 + killed.sending[one]}
    assert len(calm.history) > 200
    assert len(calm.notices) > 30
