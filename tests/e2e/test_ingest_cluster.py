"""The districts of a city divided among owners on a Dask cluster, one of its workers killed."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from broker.mosquitto import PrivateMosquitto
from city.clock import wall_ms
from ingest.influx1 import Influx1Store
from ingest.influxd import PrivateInfluxd

DEADLINE_S = 100.0
COUNT = 300
T0 = wall_ms() - 1000 * COUNT
OVERS = COUNT // 3
"""Messages of each district; every one of the last third is over the limit."""
DISTRICTS = ("north", "east", "west")
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
COMMAND = """
import sys, uvloop
from pathlib import Path
from city.settings import resolve
from cli.ingestcluster import run_ingest_cluster
from cli.logs import start_logging

if __name__ == "__main__":
    options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    start_logging("info")
    work = run_ingest_cluster(resolve(options, {}), scheduler=None, local=2, share=None)
    sys.exit(uvloop.run(work).show(as_json=True))
"""
Until = Callable[..., Awaitable[None]]


class Town:
    """A client that sends as a device of each district, and hears what alarms do."""

    def __init__(self, broker: PrivateMosquitto) -> None:
        self.acknowledged = 0
        self.events: Counter[tuple[str, str]] = Counter()
        """How often an event of an alarm was published, by topic and number."""
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


class Command:
    """`cityeye ingest --local-cluster 2`, running."""

    def __init__(self, folder: Path, broker: str, store: str) -> None:
        self.data = folder / "data"
        self.log = folder / "command.log"
        self._script = folder / "command.py"
        self._arguments = (
            "city", str(folder / "city.yaml"), "rules", str(folder / "rules.yaml"),
            "data", str(self.data), "broker", broker, "store", store,
        )  # fmt: skip
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it."""
        self._script.write_text(COMMAND)
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, str(self._script), *self._arguments, start_new_session=True,
                stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip

    def works(self, *owners: str) -> bool:
        """Whether these owners work."""
        assert self.process is not None
        assert self.process.returncode is None, self.log.read_text()
        return all((self.data / owner / "run.json").exists() for owner in owners)

    def worker_of(self, owner: str) -> int:
        """The process in which an owner runs."""
        running = json.loads((self.data / owner / "run.json").read_text())
        return int(running["pid"])

    async def end(self) -> tuple[int, dict[str, Any]]:
        """Ctrl-C on its terminal, which every process there hears: exit status and summary."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGINT)
        async with asyncio.timeout(DEADLINE_S):
            output, _ = await self.process.communicate()
        return self.process.returncode or 0, json.loads(output)

    async def kill(self) -> None:
        """End whatever is left of it."""
        if self.process is not None and self.process.returncode is None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
            self.process.kill()
            await self.process.communicate()


@pytest.fixture
async def influxd(tmp_path: Path) -> AsyncIterator[PrivateInfluxd]:
    """A running InfluxDB 1.x."""
    async with PrivateInfluxd(tmp_path / "influxd") as server:
        yield server


@pytest.fixture
async def command(
    mosquitto: PrivateMosquitto, influxd: PrivateInfluxd, tmp_path: Path
) -> AsyncIterator[Command]:
    """The command, not yet started."""
    (tmp_path / "city.yaml").write_text(CITY)
    (tmp_path / "rules.yaml").write_text(RULES)
    store = f"influx1://127.0.0.1:{influxd.port}/cityeye"
    found = Command(tmp_path, f"mqtt://{mosquitto.host}:{mosquitto.port}", store)
    yield found
    await found.kill()


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


@pytest.mark.mosquitto
@pytest.mark.influxd
@pytest.mark.timeout(400)
async def test_worker_killed(
    command: Command, town: Town, influxd: PrivateInfluxd, until: Until
) -> None:
    """Through the kill of a worker every message is stored once, and every alarm raised once."""
    await command.start()
    await until(lambda: command.works("north.west", "east"), deadline_s=DEADLINE_S)
    town.send(range(COUNT // 2))
    async with asyncio.timeout(DEADLINE_S):
        while len(await stored(influxd, "air")) < COUNT // 4:  # noqa: ASYNC110 - a test polls
            await asyncio.sleep(0.05)
    killed = command.worker_of("north.west")
    (command.data / "north.west" / "run.json").unlink()
    os.kill(killed, signal.SIGKILL)
    town.send(range(COUNT // 2, COUNT))
    await until(lambda: command.works("north.west"), deadline_s=DEADLINE_S)
    raised = {f"cityeye/v1/weir/{n}/alarms/air/park-{n}/aq/dust" for n in DISTRICTS}
    await until(lambda: town.acknowledged == COUNT * len(DISTRICTS), deadline_s=DEADLINE_S)
    await until(lambda: raised == {topic for topic, _ in town.events}, deadline_s=DEADLINE_S)
    status, summary = await command.end()
    sites = Counter(tags["site"] for tags in await stored(influxd, "air"))
    alarms = Counter(
        tags["site"] for tags in await stored(influxd, "alarms") if tags["event"] == "raised"
    )
    told = {topic: count for (topic, event), count in town.events.items() if event == "raised"}
    ledger = summary["ledger"]

    assert dict.fromkeys((f"park-{n}" for n in DISTRICTS), COUNT) == sites
    assert dict.fromkeys((f"park-{n}" for n in DISTRICTS), 1) == alarms
    assert dict.fromkeys(raised, 1) == told
    assert (0, 1, {"north.west", "east"}) == (status, summary["restarts"], set(summary["owners"]))
    assert COUNT * len(DISTRICTS) == ledger["written"]
    assert (0, len(DISTRICTS)) == (ledger["pending"], summary["alarms"]["standing"])
