"""The promise of ingest, kept by the shipped command under real faults.

A message that the broker has acknowledged to a sensor ends as exactly one of written, duplicate,
quarantined or refused, whatever is killed, stopped or started meanwhile.
"""

import asyncio
import json
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from broker.mosquitto import PrivateMosquitto, free_port
from city.clock import wall_ms
from ingest.influx1 import Influx1Store
from ingest.influxd import PrivateInfluxd

DEADLINE_S = 60.0
DEVICES = 3
T0 = wall_ms()
CITYEYE = Path(sys.executable).with_name("cityeye")

Until = Callable[..., Awaitable[None]]


def topic(device: int) -> str:
    """The telemetry topic of a device."""
    return f"cityeye/v1/lanting/east/air/park/aq-{device}/telemetry"


class Sensors:
    """One paho client per device, all at QoS 1, that know what the broker has acknowledged."""

    def __init__(self, broker: PrivateMosquitto) -> None:
        self._clients = [self._client(broker, device) for device in range(DEVICES)]
        self.sent = 0
        self.acknowledged: set[tuple[int, int]] = set()
        """Device and sequence number of each message that the broker has taken."""
        self._waiting: dict[tuple[int, int], tuple[int, int]] = {}
        self._stopped = threading.Event()
        self._stream: threading.Thread | None = None

    def _client(self, broker: PrivateMosquitto, device: int) -> Client:
        client = Client(CallbackAPIVersion.VERSION2)
        client.max_inflight_messages_set(1000)
        client.reconnect_delay_set(1, 1)
        client.on_publish = lambda _client, _data, mid, *_: self._acknowledge(device, mid)
        client.connect(broker.host, broker.port)
        client.loop_start()
        return client

    def send(self, count: int, *, retain: bool = False) -> None:
        """Publish so many messages, the devices taking turns, without waiting."""
        for _ in range(count):
            seq, device = divmod(self.sent, DEVICES)
            self.sent += 1
            payload = {"ts": T0 + seq, "seq": seq, "values": {"pm25": seq / 10, "no2": 31.0}}
            body = json.dumps(payload).encode()
            info = self._clients[device].publish(topic(device), body, qos=1, retain=retain)
            self._waiting[device, info.mid] = (device, seq)

    def stream(self) -> None:
        """Publish about 500 messages/s from now on."""

        def run() -> None:
            while not self._stopped.wait(0.02):
                self.send(10)

        self._stream = threading.Thread(target=run)
        self._stream.start()

    def end_stream(self) -> None:
        """Publish no more."""
        self._stopped.set()
        if self._stream is not None:
            self._stream.join(DEADLINE_S)

    def leave(self) -> None:
        """Say goodbye."""
        self.end_stream()
        for client in self._clients:
            client.disconnect()
            client.loop_stop()

    @property
    def all_acknowledged(self) -> bool:
        """Whether the broker has taken every message."""
        return len(self.acknowledged) == self.sent

    def _acknowledge(self, device: int, mid: int) -> None:
        # paho may be told of an acknowledgement before `publish` has returned the number
        deadline = threading.Event()
        for _ in range(1000):
            if (device, mid) in self._waiting:
                self.acknowledged.add(self._waiting[device, mid])
                return
            deadline.wait(0.001)


class Ingest:
    """`cityeye ingest` as a user starts it, in a process of its own."""

    def __init__(self, folder: Path, broker: str, store: str) -> None:
        self.data = folder / "data"
        self._log = folder / "ingest.log"
        self._arguments = ["--broker", broker, "--store", store, "--data", str(self.data), "--json"]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *more: str) -> None:
        """Start it; it is not ready yet."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                CITYEYE, "ingest", *self._arguments, *more,
                stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip

    @property
    def running(self) -> asyncio.subprocess.Process:
        """The process."""
        assert self._process is not None
        return self._process

    async def kill(self) -> None:
        """End it without a chance to do anything (SIGKILL)."""
        self.running.kill()
        async with asyncio.timeout(DEADLINE_S):
            await self.running.wait()

    async def terminate(self) -> tuple[int | None, dict[str, Any]]:
        """Ask it to end (SIGTERM); its exit status and its JSON summary."""
        self.running.terminate()
        status, output = await self.ended()
        return status, json.loads(output or b"{}")

    async def ended(self) -> tuple[int | None, bytes]:
        """Its exit status and standard output, once it has ended."""
        async with asyncio.timeout(DEADLINE_S):
            output, _ = await self.running.communicate()
        return self.running.returncode, output

    async def close(self) -> None:
        """End it if it still runs."""
        if self._process is not None and self._process.returncode is None:
            await self.kill()

    def said(self) -> str:
        """What it wrote to standard error."""
        return self._log.read_text()

    def counts(self) -> dict[str, int]:
        """The ledger on disk, since the spool was made; `pending` is what has no fate yet."""
        spool = self.data / "spool.sqlite"
        try:
            with closing(sqlite3.connect(f"file:{spool}?mode=ro", uri=True)) as database:
                found = dict(
                    database.execute("SELECT fate, sum(count) FROM ledger GROUP BY fate").fetchall()
                )
        except sqlite3.OperationalError:
            found = {}
        received = found.get("received", 0)
        return {"written": 0, **found, "pending": 2 * received - sum(found.values())}

    def received(self) -> int:
        """How many messages it has received."""
        return self.counts().get("received", 0)

    def written(self) -> int:
        """How many messages are in the store."""
        return self.counts()["written"]


@pytest.fixture
async def influxd(tmp_path: Path) -> AsyncIterator[PrivateInfluxd]:
    """A running InfluxDB 1.x."""
    async with PrivateInfluxd(tmp_path / "influxd") as server:
        yield server


@pytest.fixture
async def ingest(
    mosquitto: PrivateMosquitto, influxd: PrivateInfluxd, tmp_path: Path
) -> AsyncIterator[Ingest]:
    """The command for a real broker and a real database, not yet started."""
    broker = f"mqtt://{mosquitto.host}:{mosquitto.port}"
    command = Ingest(tmp_path, broker, f"influx1://127.0.0.1:{influxd.port}/cityeye")
    yield command
    await command.close()


@pytest.fixture
async def sensors(mosquitto: PrivateMosquitto) -> AsyncIterator[Sensors]:
    """Sensors on that broker."""
    sensors = Sensors(mosquitto)
    yield sensors
    await asyncio.to_thread(sensors.leave)


@pytest.fixture
async def flowing(ingest: Ingest, sensors: Sensors, until: Until) -> Ingest:
    """The command, started and subscribed: it has received a first message, a retained one."""
    sensors.send(1, retain=True)
    await until(lambda: sensors.all_acknowledged)
    await ingest.start()
    await until(ingest.received, deadline_s=DEADLINE_S)
    return ingest


@pytest.fixture
def stored(influxd: PrivateInfluxd) -> Callable[[], Awaitable[list[tuple[int, int]]]]:
    """Reads device and sequence number of every row in the database."""

    async def read() -> list[tuple[int, int]]:
        store = Influx1Store(influxd.url, "cityeye")
        await store.open()
        try:
            points = await store.read("air", T0 - 1, T0 + 10_000_000, limit=1_000_000)
        finally:
            await store.close()
        return sorted((int(dict(p.key.tags)["device"][3:]), p.counts["seq"]) for p in points)

    return read


Stored = Callable[[], Awaitable[list[tuple[int, int]]]]


@pytest.mark.mosquitto
@pytest.mark.influxd
async def test_killed_in_the_middle(
    flowing: Ingest, sensors: Sensors, stored: Stored, until: Until
) -> None:
    """Through two kills in full flow every acknowledged message is stored and counted once."""
    sensors.stream()
    for _ in range(2):
        before = flowing.received()
        await until(lambda: flowing.received() > before + 200, deadline_s=DEADLINE_S)  # noqa: B023 - awaited here
        await flowing.kill()
        await flowing.start()
    before = flowing.received()
    await until(lambda: flowing.received() > before + 200, deadline_s=DEADLINE_S)
    await asyncio.to_thread(sensors.end_stream)
    await until(lambda: sensors.all_acknowledged, deadline_s=DEADLINE_S)
    await until(lambda: flowing.written() >= sensors.sent, deadline_s=DEADLINE_S)
    status, _ = await flowing.terminate()
    counts = flowing.counts()

    assert (0, sensors.sent, 0) == (status, counts["written"], counts["pending"])
    assert sorted(sensors.acknowledged) == await stored()


@pytest.mark.mosquitto
@pytest.mark.influxd
async def test_killed_while_the_database_is_away(
    flowing: Ingest, influxd: PrivateInfluxd, sensors: Sensors, stored: Stored, until: Until
) -> None:
    """What was received while the database was away survives a kill, and is written later."""
    await influxd.stop()
    sensors.send(500)
    await until(lambda: flowing.received() >= 501, deadline_s=DEADLINE_S)
    waiting = flowing.counts()["pending"]
    await flowing.kill()
    sensors.send(500)
    await influxd.start()
    await flowing.start()
    await until(lambda: flowing.written() == 1001, deadline_s=DEADLINE_S)
    await until(lambda: sensors.all_acknowledged)
    status, _ = await flowing.terminate()

    assert waiting >= 500
    assert (0, sorted(sensors.acknowledged)) == (status, await stored())


@pytest.mark.mosquitto
@pytest.mark.influxd
async def test_the_database_comes_back(
    flowing: Ingest, influxd: PrivateInfluxd, sensors: Sensors, stored: Stored, until: Until
) -> None:
    """While the database is stopped messages are taken in; when it is back they are written."""
    await influxd.stop()
    sensors.send(600)
    await until(lambda: flowing.received() >= 601, deadline_s=DEADLINE_S)
    await until(lambda: "store does not take points" in flowing.said(), deadline_s=DEADLINE_S)
    await influxd.start()
    sensors.send(300)
    await until(lambda: flowing.written() == 901, deadline_s=DEADLINE_S)
    status, summary = await flowing.terminate()

    assert (0, 0) == (status, summary["ledger"]["pending"])
    assert sorted(sensors.acknowledged) == await stored()


@pytest.mark.mosquitto
@pytest.mark.influxd
async def test_the_broker_comes_back(
    flowing: Ingest, mosquitto: PrivateMosquitto, sensors: Sensors, stored: Stored, until: Until
) -> None:
    """A broker that is stopped and started on its port again costs no message."""
    sensors.stream()
    await until(lambda: flowing.received() > 200, deadline_s=DEADLINE_S)
    await mosquitto.stop()
    await mosquitto.start()
    before = flowing.received()
    await until(lambda: flowing.received() > before + 200, deadline_s=DEADLINE_S)
    await asyncio.to_thread(sensors.end_stream)
    await until(lambda: sensors.all_acknowledged, deadline_s=DEADLINE_S)
    await until(lambda: flowing.written() >= sensors.sent, deadline_s=DEADLINE_S)
    status, summary = await flowing.terminate()

    assert (0, sensors.sent) == (status, summary["ledger"]["written"])
    assert sorted(sensors.acknowledged) == await stored()


@pytest.mark.mosquitto
@pytest.mark.influxd
async def test_asked_to_end(flowing: Ingest, sensors: Sensors, until: Until) -> None:
    """On SIGTERM in full flow it finishes what it has, and ends with 0 and its summary."""
    sensors.stream()
    await until(lambda: flowing.received() > 100, deadline_s=DEADLINE_S)
    status, summary = await flowing.terminate()
    ledger = summary["ledger"]
    fates = ledger["written"] + ledger["duplicate"] + ledger["quarantined"] + ledger["refused"]

    assert (0, 0) == (status, ledger["pending"])
    assert ledger["received"] == fates > 100


@pytest.mark.mosquitto
@pytest.mark.influxd
async def test_bad_messages_are_told_by_reason(
    flowing: Ingest, mosquitto: PrivateMosquitto, until: Until
) -> None:
    """The summary counts bad messages by reason, and the log warns once of each."""
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect(mosquitto.host, mosquitto.port)
    client.loop_start()
    for payload in (b"{", b"rain", b'{"ts":1,"seq":0,"values":{"pm25":NaN}}'):
        client.publish(topic(0), payload, qos=1)
    await until(lambda: flowing.received() == 4, deadline_s=DEADLINE_S)
    client.disconnect()
    client.loop_stop()
    status, summary = await flowing.terminate()
    reasons = {"quarantined:not-json": 2, "quarantined:not-finite": 1}

    assert (0, reasons) == (status, summary["ledger"]["reasons"])
    assert 1 == flowing.said().count("reason=not-json")


async def test_no_broker_at_start(tmp_path: Path) -> None:
    """A broker that cannot be reached is named, with the remedy, after the stated patience."""
    broker = f"mqtt://127.0.0.1:{free_port()}"
    command = Ingest(tmp_path, broker, "duckdb")
    await command.start("--patience-s", "1")
    status, output = await command.ended()
    await command.close()

    assert (1, b"") == (status, output)
    assert f"broker {broker} cannot be reached for 1 s" in command.said()
    assert "start it, or give another one with --broker" in command.said()


@pytest.mark.mosquitto
async def test_no_store_at_start(mosquitto: PrivateMosquitto, tmp_path: Path) -> None:
    """A store that cannot be reached is named, with the remedy, after the stated patience."""
    port = free_port()
    broker = f"mqtt://{mosquitto.host}:{mosquitto.port}"
    command = Ingest(tmp_path, broker, f"influx1://127.0.0.1:{port}/cityeye")
    await command.start("--patience-s", "1")
    status, output = await command.ended()
    await command.close()

    assert (1, b"") == (status, output)
    assert f"127.0.0.1:{port}" in command.said()
    assert "gave up after 1 s: start it, or give another --store" in command.said()
