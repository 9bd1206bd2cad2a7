"""Two `cityeye ingest` share a city by district: one broker, one store, nothing lost or twice."""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from broker.mosquitto import PrivateMosquitto
from city.clock import wall_ms
from ingest.influx1 import Influx1Store
from ingest.influxd import PrivateInfluxd

DEADLINE_S = 60.0
CITYEYE = Path(sys.executable).with_name("cityeye")
COUNT = 300
T0 = wall_ms() - 1000 * COUNT
"""Messages of each district; every one of the last third is over the limit."""
OVERS = COUNT // 3
DISTRICTS = ("north", "east", "west")
SHARES = (("north",), ("west", "east"))
WORKERS = ("north", "east.west")
CITY = """
city: weir
timezone: Asia/Shanghai
position: [120.15, 33.4]
districts: [{id: north}, {id: east}, {id: west}]
sites:
  - {id: park-north, district: north, domain: air, devices: [{id: aq, kind: air-station}]}
  - {id: park-east, district: east, domain: air, devices: [{id: aq, kind: air-station}]}
  - {id: park-west, district: west, domain: air, devices: [{id: aq, kind: air-station}]}
"""
RULES = """
pack: town
title: Rules of a town
standard: ST 1
rules:
  - id: dust
    quantity: pm25
    unit: ug/m3
    high: {limit: 75, severity: high}
"""
Until = Callable[..., Awaitable[None]]


class Town:
    """A client that sends as a device of each district, and hears what alarms do."""

    def __init__(self, broker: PrivateMosquitto) -> None:
        self.acknowledged = 0
        self.events: Counter[tuple[str, str]] = Counter()
        """How often an event of an alarm was published, by topic."""
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(1000)
        self._client.on_publish = lambda *_: self._count()
        self._client.on_message = self._hear
        self._client.connect(broker.host, broker.port)
        self._client.subscribe("cityeye/v1/weir/+/alarms/#", 1)
        self._client.loop_start()

    def send(self, numbers: range) -> None:
        """Send these messages of every district."""
        for seq in numbers:
            dust = 90.0 if seq >= COUNT - OVERS else 20.0
            body = json.dumps({"ts": T0 + 1000 * seq, "seq": seq, "values": {"pm25": dust}})
            for name in DISTRICTS:
                topic = f"cityeye/v1/weir/{name}/air/park-{name}/aq/telemetry"
                self._client.publish(topic, body, qos=1)

    def leave(self) -> None:
        """Say goodbye."""
        self._client.disconnect()
        self._client.loop_stop()

    def _count(self) -> None:
        self.acknowledged += 1

    def _hear(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        if message.payload:
            self.events[message.topic, json.loads(message.payload)["event"]] += 1


class Worker:
    """One `cityeye ingest` that owns some districts."""

    def __init__(self, folder: Path, districts: tuple[str, ...], broker: str, store: str) -> None:
        self.data = folder / "-".join(districts)
        self._log = folder / f"{self.data.name}.log"
        self._arguments = (
            "--city", str(folder / "city.yaml"), "--rules", str(folder / "rules.yaml"),
            "--districts", ",".join(districts), "--data", str(self.data), "--broker", broker,
            "--store", store, "--json",
        )  # fmt: skip
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, until: Until) -> None:
        """Start it, and wait until it works."""
        (self.data / "run.json").unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                CITYEYE, "ingest", *self._arguments, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        await until((self.data / "run.json").exists, deadline_s=DEADLINE_S)

    async def kill(self) -> None:
        """End it without a chance to do anything (SIGKILL), if it runs."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            async with asyncio.timeout(DEADLINE_S):
                await self.process.wait()

    async def end(self) -> dict[str, Any]:
        """Ask it to end; its summary."""
        assert self.process is not None
        self.process.terminate()
        async with asyncio.timeout(DEADLINE_S):
            output, _ = await self.process.communicate()
        summary: dict[str, Any] = json.loads(output)
        return summary


@pytest.fixture
async def influxd(tmp_path: Path) -> AsyncIterator[PrivateInfluxd]:
    """A running InfluxDB 1.x."""
    async with PrivateInfluxd(tmp_path / "influxd") as server:
        yield server


@pytest.fixture
async def workers(
    mosquitto: PrivateMosquitto, influxd: PrivateInfluxd, tmp_path: Path
) -> AsyncIterator[list[Worker]]:
    """The owners of the city's districts, not yet started."""
    (tmp_path / "city.yaml").write_text(CITY)
    (tmp_path / "rules.yaml").write_text(RULES)
    store = f"influx1://127.0.0.1:{influxd.port}/cityeye"
    broker = f"mqtt://{mosquitto.host}:{mosquitto.port}"
    found = [Worker(tmp_path, districts, broker, store) for districts in SHARES]
    yield found
    for worker in found:
        await worker.kill()


@pytest.fixture
async def town(mosquitto: PrivateMosquitto) -> AsyncIterator[Town]:
    """The devices of the city."""
    town = Town(mosquitto)
    yield town
    await asyncio.to_thread(town.leave)


async def stored(influxd: PrivateInfluxd, measurement: str) -> list[dict[str, str]]:
    """The tags of every point of a measurement."""
    store = Influx1Store(influxd.url, "cityeye")
    await store.open()
    try:
        points = await store.read(measurement, T0 - 1, T0 + 10_000_000, limit=100_000)
    finally:
        await store.close()
    return [dict(point.key.tags) for point in points]


async def said_workers(influxd: PrivateInfluxd) -> set[str]:
    """The workers whose ledgers are in the store."""
    query = {
        "db": "cityeye",
        "q": 'SHOW TAG VALUES FROM "cityeye" WITH KEY = "worker" WHERE "part" = \'ledger\'',
    }
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{influxd.url}/query", params=query) as answer,
    ):
        series = (await answer.json())["results"][0].get("series", [{"values": []}])
    return {name for _, name in series[0]["values"]}


async def acknowledge(broker: PrivateMosquitto, alarm: str, folder: Path) -> tuple[int, list[str]]:
    """Acknowledge an alarm as a person does: exit status, and which alarms that changed."""
    process = await asyncio.create_subprocess_exec(
        CITYEYE, "alarms", "ack", alarm, "--by", "lin", "--city", str(folder / "city.yaml"),
        "--broker", f"mqtt://{broker.host}:{broker.port}", "--json",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(DEADLINE_S):
        output, _ = await process.communicate()
    return process.returncode or 0, json.loads(output or b'{"changed": []}')["changed"]


@pytest.mark.mosquitto
@pytest.mark.influxd
async def test_two_owners(
    workers: list[Worker], town: Town, influxd: PrivateInfluxd, until: Until
) -> None:
    """Through a kill of one owner every message is stored once, and every alarm raised once."""
    for worker in workers:
        await worker.start(until)
    town.send(range(COUNT // 2))
    await workers[1].kill()
    town.send(range(COUNT // 2, COUNT))
    await workers[1].start(until)
    raised = {f"cityeye/v1/weir/{n}/alarms/air/park-{n}/aq/dust" for n in DISTRICTS}
    await until(lambda: town.acknowledged == COUNT * len(DISTRICTS), deadline_s=DEADLINE_S)
    await until(lambda: raised == {topic for topic, _ in town.events}, deadline_s=DEADLINE_S)
    summaries = [await worker.end() for worker in workers]
    sites = Counter(tags["site"] for tags in await stored(influxd, "air"))
    alarms = Counter(
        tags["site"] for tags in await stored(influxd, "alarms") if tags["event"] == "raised"
    )
    told = {topic: count for (topic, event), count in town.events.items() if event == "raised"}

    assert dict.fromkeys((f"park-{n}" for n in DISTRICTS), COUNT) == sites
    assert dict.fromkeys((f"park-{n}" for n in DISTRICTS), 1) == alarms
    assert dict.fromkeys(raised, 1) == told
    assert list(WORKERS) == [summary["worker"] for summary in summaries]
    assert [0, 0] == [summary["ledger"]["pending"] for summary in summaries]


@pytest.mark.mosquitto
@pytest.mark.influxd
async def test_each_answers_for_its_own(
    workers: list[Worker],
    town: Town,
    mosquitto: PrivateMosquitto,
    influxd: PrivateInfluxd,
    tmp_path: Path,
    until: Until,
) -> None:
    """A person asks without knowing who owns what; each owner's figures are a series of its own."""
    for worker in workers:
        await worker.start(until)
    town.send(range(COUNT))
    await until(lambda: len({topic for topic, _ in town.events}) == len(DISTRICTS))
    answers = {
        name: await acknowledge(mosquitto, f"park-{name}/aq/dust", tmp_path) for name in DISTRICTS
    }
    async with asyncio.timeout(DEADLINE_S):
        while set(WORKERS) != await said_workers(influxd):  # noqa: ASYNC110 - a test polls
            await asyncio.sleep(0.1)

    assert {name: (0, [f"park-{name}/aq/dust"]) for name in DISTRICTS} == answers


def cityeye(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the shipped command."""
    return subprocess.run(
        [CITYEYE, *arguments], capture_output=True, text=True, check=False, timeout=DEADLINE_S,
        env=os.environ | environment,
    )  # fmt: skip


def test_unknown_district(tmp_path: Path) -> None:
    """A district that the city lacks is wrong input, with the nearest that it has."""
    done = cityeye("ingest", "--districts", "milside", "--data", str(tmp_path))

    assert 2 == done.returncode
    assert "lanting has no district 'milside'; did you mean 'millside'?" in done.stderr


def test_districts_of_no_city(tmp_path: Path) -> None:
    """Districts are those of one city."""
    done = cityeye("ingest", "--every-city", "--districts", "millside", "--data", str(tmp_path))

    assert (2, True) == (done.returncode, "leave --every-city out" in done.stderr)


def test_run_takes_the_whole_city(tmp_path: Path) -> None:
    """`cityeye run` would wait for ever for what it does not take in; it says so."""
    done = cityeye("run", "--data", str(tmp_path), CITYEYE_DISTRICTS="millside")

    assert (2, True) == (done.returncode, "takes in the whole city" in done.stderr)
