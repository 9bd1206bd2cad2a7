"""The ingest service between a real Mosquitto and a real store."""

import asyncio
import json
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from broker.choice import BrokerAddress
from broker.messages import AlarmEvent, Announcement, Birth, ClockTick, MeasuredQuantity, encode
from broker.mosquitto import PrivateMosquitto
from broker.session import Session
from broker.topics import Channel, clock_topic, device_topic
from city.cityfile import Address
from city.clock import wall_ms
from city.errors import SpoolFull, StoreUnavailable
from city.readings import ReadingBatch
from ingest.duck import DuckStore
from ingest.influx1 import Influx1Store
from ingest.intake import Intake
from ingest.ledger import Ledger
from ingest.receiver import Receiver
from ingest.service import IngestService, subscriptions
from ingest.spool import Group, Spool
from ingest.store import Point, Store

pytestmark = pytest.mark.mosquitto

T0 = wall_ms()
DEADLINE_S = 60.0
STATION = Address("lanting", "east", "air", "park", "aq-1")
BIRTH = Birth(
    kind="air-station",
    model="A1",
    position=(120.0, 31.8),
    interval_s=60,
    quantities={"pm25": MeasuredQuantity(unit="ug/m3", low=0, high=1000)},
)
EVENT = AlarmEvent(
    rule="smog", event="raised", state="unacknowledged", severity="high", level="H", quantity="pm25",
    value=80.0, limit=75.0, unit="ug/m3", ts=T0, raised=T0, standard="ST 1",
)  # fmt: skip

Until = Callable[..., Awaitable[None]]


def address(device: int) -> Address:
    """One of many devices."""
    return Address("lanting", "east", "air", "park", f"aq-{device}")


def telemetry(seq: int, *, pad: int = 0, **values: float) -> bytes:
    """A payload; `pad` blanks make it longer."""
    content = {"ts": T0 + seq, "seq": seq, "values": values or {"pm25": float(seq)}}
    return json.dumps(content).encode() + b" " * pad


class Sensors:
    """A paho client that publishes at QoS 1 and knows what the broker has acknowledged."""

    def __init__(self, broker: PrivateMosquitto) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(1000)
        self._client.on_publish = self._acknowledge
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()
        self._sent = 0
        self._acknowledged = 0

    def send(self, payload: bytes, who: Address = STATION, channel: str = "telemetry") -> None:
        """Publish on a channel of a device, without waiting."""
        self.publish(device_topic(who, Channel(channel)), payload)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish on any topic, without waiting."""
        self._sent += 1
        self._client.publish(topic, payload, qos=1, retain=retain)

    async def acknowledged(self) -> None:
        """Return when the broker has acknowledged everything."""
        async with asyncio.timeout(DEADLINE_S):
            while self._acknowledged < self._sent:  # noqa: ASYNC110 - paho counts in its thread
                await asyncio.sleep(0.01)

    def _acknowledge(self, *_: object) -> None:
        self._acknowledged += 1

    def leave(self) -> None:
        """Say goodbye."""
        self._client.disconnect()
        self._client.loop_stop()


class Ingest:
    """A running service; it can be stopped and another one started on the same spool."""

    def __init__(self, broker: PrivateMosquitto, store: Store, folder: Path) -> None:
        self._address = BrokerAddress(broker.host, broker.port)
        self._store = store
        self._path = folder / "spool.sqlite"
        self._running: asyncio.Task[None] | None = None
        self.service: IngestService
        self.spool: Spool
        self.session: Session

    async def start(
        self,
        *,
        max_bytes: int = 1 << 30,
        devices_max: int = 1000,
        consumers: Sequence[Any] = (),
        reserve_bytes: int = 0,
        folder: Path | None = None,
    ) -> None:
        """Start, and return when it is subscribed."""
        path = folder / "spool.sqlite" if folder else self._path
        self.spool = Spool(path, max_bytes=max_bytes, reserve_bytes=reserve_bytes)
        self.service = IngestService(
            spool=self.spool,
            store=self._store,
            consumers=consumers,
            intake=Intake(devices_max=devices_max),
            receiver=Receiver(),
        )
        self.session = Session(
            self._address,
            client_id="ingest",
            subscriptions=subscriptions("lanting"),
            receive=self.service.receiver.receive,
        )
        self._running = asyncio.create_task(self.service.run(self.session), name="ingest")
        await self.session.ready(patience_s=DEADLINE_S)

    async def stop(self) -> None:
        """Stop at once, as a crash would: nothing is drained."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running], timeout=DEADLINE_S)
            self._running = None
            await self.service.close()

    async def drain(self) -> Ledger:
        """Let what has arrived reach the store; the ledger then."""
        async with asyncio.timeout(DEADLINE_S):
            await self.service.drain()
        return self.service.ledger()

    async def rows(self, measurement: str = "air") -> list[Point]:
        """Everything of a measurement that is in the store."""
        return await self._store.read(measurement, -(2**53), 2**53, limit=100_000)

    async def stored(self) -> list[int]:
        """The sequence numbers in the store, in the order of their instants."""
        return [row.counts["seq"] for row in await self.rows()]


class FickleStore(DuckStore):
    """A DuckDB store that is away on demand."""

    away = False

    async def write(self, points: Sequence[Point]) -> None:
        """Write unless it is away."""
        if self.away:
            raise StoreUnavailable("away")
        await super().write(points)


class Witness:
    """A consumer that keeps what it is told, raises on demand, and announces an alarm."""

    def __init__(self) -> None:
        self.births: list[tuple[Address, Birth]] = []
        self.values: list[float] = []
        self.groups: list[int] = []
        self.failing = False

    covered = None
    """Nothing is handed in again."""

    def learn(self, address: Address, birth: Birth) -> None:
        """Keep a birth."""
        if self.failing:
            raise RuntimeError("no")
        self.births.append((address, birth))

    def consume(self, batch: ReadingBatch) -> list[Announcement]:
        """Keep the values; announce one alarm."""
        if self.failing:
            raise RuntimeError("no")
        self.values += batch.value.tolist()
        return [Announcement(STATION, EVENT)]

    def committed(self, number: int, *, replaying: bool) -> None:
        """Keep the number."""
        if self.failing or replaying:
            raise RuntimeError("no")
        self.groups.append(number)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FickleStore]:
    """A DuckDB store."""
    store = FickleStore(tmp_path / "store.duckdb")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def ingest(
    mosquitto: PrivateMosquitto, store: FickleStore, tmp_path: Path
) -> AsyncIterator[Ingest]:
    """A service, not yet started."""
    ingest = Ingest(mosquitto, store, tmp_path)
    yield ingest
    await ingest.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if not mount or not unmount:
        pytest.skip("there is no mount on PATH")
    options = [mount, "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if subprocess.run(options, capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("a file system can only be mounted by root")
    yield folder
    subprocess.run([unmount, "-l", str(folder)], timeout=60, check=True)


@pytest.fixture
def sensors(mosquitto: PrivateMosquitto) -> Iterator[Sensors]:
    """A client that publishes."""
    sensors = Sensors(mosquitto)
    yield sensors
    sensors.leave()


async def test_all_fates(ingest: Ingest, sensors: Sensors) -> None:
    """In one run messages are written, repeated, quarantined and refused, each counted once."""
    await ingest.start(devices_max=2)
    for seq in range(20):
        sensors.send(telemetry(seq), address(seq % 2))
    sensors.send(telemetry(0), address(0))
    sensors.send(b"not json", address(1))
    sensors.send(telemetry(99, pm99=1.0), address(1))
    sensors.send(telemetry(0), address(3))
    await sensors.acknowledged()
    reasons = {
        "quarantined:not-json": 1,
        "quarantined:unknown-quantity": 1,
        "refused:too-many-devices": 1,
    }
    expected = Ledger(
        received=24, written=20, duplicate=1, quarantined=2, refused=1, reasons=reasons
    )

    assert expected == await ingest.drain()
    assert list(range(20)) == await ingest.stored()


@pytest.mark.influxd
async def test_the_same_on_influxdb(
    mosquitto: PrivateMosquitto, influx1: Influx1Store, sensors: Sensors, tmp_path: Path
) -> None:
    """A message arrives in InfluxDB with its values, its number and its flags."""
    ingest = Ingest(mosquitto, influx1, tmp_path)
    await ingest.start()
    payload = {"ts": T0, "seq": 5, "values": {"pm25": 12.4, "no2": 31.0}, "flags": {"no2": "D"}}
    sensors.send(json.dumps(payload).encode())
    await sensors.acknowledged()
    await ingest.drain()
    [row] = await ingest.rows()
    await ingest.stop()

    assert ({"pm25": 12.4, "no2": 31.0}, {"seq": 5}) == (row.values, row.counts)
    assert {"no2_flag": "D"} == row.texts


async def test_births_and_readings_reach_consumers(ingest: Ingest, sensors: Sensors) -> None:
    """A consumer gets births, retained ones included, and the values of every reading."""
    sensors.publish(device_topic(STATION, Channel.META), encode(BIRTH), retain=True)
    await sensors.acknowledged()
    witness = Witness()
    await ingest.start(consumers=[witness])
    sensors.send(telemetry(0, pm25=1.5))
    await sensors.acknowledged()
    await ingest.drain()

    assert ([(STATION, BIRTH)], [1.5]) == (witness.births, witness.values)


async def test_consumers_hear_what_is_durable(
    ingest: Ingest, sensors: Sensors, until: Until
) -> None:
    """A consumer is told the number of each group once it is in the spool."""
    witness = Witness()
    await ingest.start(consumers=[witness])
    for seq in range(2):
        sensors.send(telemetry(seq))
        await until(lambda seq=seq: len(witness.groups) > seq)

    assert [1, 2] == witness.groups
    assert 2 == ingest.spool.newest


async def test_what_consumers_announce_is_stored(ingest: Ingest, sensors: Sensors) -> None:
    """An alarm that a consumer announces is in the store, and not in the ledger."""
    await ingest.start(consumers=[Witness()])
    sensors.send(telemetry(0))
    await sensors.acknowledged()
    ledger = await ingest.drain()
    [alarm] = await ingest.rows("alarms")
    event = dict(alarm.key.tags)["event"]

    assert (1, "raised", 80.0) == (ledger.received, event, alarm.values["value"])


async def test_a_failing_consumer_stops_nothing(ingest: Ingest, sensors: Sensors) -> None:
    """Readings are stored and other consumers are served though one consumer raises."""
    broken, sound = Witness(), Witness()
    broken.failing = True
    await ingest.start(consumers=[broken, sound])
    sensors.send(encode(BIRTH), channel="meta")
    sensors.send(telemetry(0, pm25=2.5))
    await sensors.acknowledged()
    ledger = await ingest.drain()

    assert (1, [2.5]) == (ledger.written, sound.values)
    assert ingest.service.consumer_failures >= 2


async def test_instants_are_judged_by_the_retained_clock(ingest: Ingest, sensors: Sensors) -> None:
    """The city's clock is heard before the first reading, so a wrong instant is seen."""
    tick = ClockTick(ts=T0 - 400 * 86_400_000, speed=1.0, seed=1, wall=T0)
    sensors.publish(clock_topic("lanting"), encode(tick), retain=True)
    await sensors.acknowledged()
    await ingest.start()
    sensors.send(telemetry(0))
    await sensors.acknowledged()

    assert {"quarantined:impossible-time": 1} == (await ingest.drain()).reasons


async def test_nothing_is_acknowledged_before_it_is_spooled(
    ingest: Ingest, sensors: Sensors, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the spool takes nothing the broker keeps every message, also for a later service."""
    await ingest.start()

    def full(group: Group) -> int:
        raise SpoolFull(f"no room for {group.received}")

    monkeypatch.setattr(ingest.spool, "append", full)
    for seq in range(50):
        sensors.send(telemetry(seq))
    await sensors.acknowledged()
    await until(lambda: ingest.service.holding)
    held = ingest.service.ledger()
    await ingest.stop()
    await ingest.start()
    await until(lambda: ingest.service.ledger().received >= 50)

    assert Ledger() == held
    assert Ledger(received=50, written=50) == await ingest.drain()
    assert list(range(50)) == await ingest.stored()


async def test_holding_is_said(
    ingest: Ingest, sensors: Sensors, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service tells why it does not acknowledge, and resumes without being told."""
    await ingest.start()
    append, failing = ingest.spool.append, [True]

    def full(group: Group) -> int:
        if failing:
            raise SpoolFull("no room on the disk")
        return append(group)

    monkeypatch.setattr(ingest.spool, "append", full)
    sensors.send(telemetry(0))
    await until(lambda: ingest.service.holding)
    said = ingest.service.holding
    failing.clear()
    await until(lambda: ingest.service.ledger().written == 1)

    assert ("no room on the disk", None) == (said, ingest.service.holding)


async def test_a_lost_connection_makes_duplicates(
    ingest: Ingest, sensors: Sensors, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages that were spooled but not acknowledged come again and are known."""
    await ingest.start()
    append, release = ingest.spool.append, threading.Event()

    def slow(group: Group) -> int:
        release.wait(DEADLINE_S)
        return append(group)

    monkeypatch.setattr(ingest.spool, "append", slow)
    for seq in range(20):
        sensors.send(telemetry(seq))
    await sensors.acknowledged()
    await until(lambda: ingest.service._busy)
    link = ingest.session._link
    assert link is not None
    link.abort("the test cuts the line")
    await until(lambda: ingest.session.connections == 2)
    release.set()
    await until(lambda: ingest.service.ledger().written == 20)
    ledger = await ingest.drain()

    assert ledger.duplicate > 0
    assert (20, True) == (ledger.written, ledger.balanced)
    assert list(range(20)) == await ingest.stored()


async def test_a_restarted_service_knows_what_it_had(
    ingest: Ingest, sensors: Sensors, until: Until
) -> None:
    """What is delivered again after a restart is counted as a repeat, not stored twice."""
    await ingest.start()
    sensors.send(telemetry(0))
    await until(lambda: ingest.service.ledger().written == 1)
    await ingest.stop()
    await ingest.start()
    sensors.send(telemetry(0))
    sensors.send(telemetry(1))
    await until(lambda: ingest.service.ledger().received == 2)

    assert Ledger(received=2, written=1, duplicate=1) == await ingest.drain()


async def test_a_full_spool_lets_the_broker_queue(
    ingest: Ingest, store: FickleStore, sensors: Sensors, until: Until
) -> None:
    """With the store away and the spool at its bound the broker queues; then all is written."""
    store.away = True
    await ingest.start(max_bytes=500_000)
    for seq in range(20):
        sensors.send(telemetry(seq, pad=10_000))
    await until(lambda: ingest.service.ledger().received >= 20)
    for seq in range(20, 300):
        sensors.send(telemetry(seq, pad=10_000))
    await sensors.acknowledged()
    await until(lambda: ingest.service.holding)
    held = ingest.service.ledger()
    store.away = False
    await until(lambda: ingest.service.ledger().written == 300, deadline_s=DEADLINE_S)

    assert held.received == held.pending < 300
    assert Ledger(received=300, written=300) == await ingest.drain()
    assert list(range(300)) == await ingest.stored()


async def test_a_full_disk_lets_the_broker_queue(
    small_disk: Path, ingest: Ingest, store: FickleStore, sensors: Sensors, until: Until
) -> None:
    """On a full disk the broker queues; when the store is back all is written, disk full or not."""
    store.away = True
    await ingest.start(folder=small_disk, reserve_bytes=8 << 20)
    for seq in range(600):
        sensors.send(telemetry(seq, pad=50_000))
    await until(lambda: ingest.service.holding, deadline_s=DEADLINE_S)
    held, why = ingest.service.ledger(), ingest.service.holding
    store.away = False
    await until(lambda: ingest.service.ledger().written == 600, deadline_s=DEADLINE_S)
    ledger = await ingest.drain()
    await ingest.stop()

    assert held.received == held.pending < 600
    assert "spool.sqlite: the disk is full; make room on it" in str(why)
    assert Ledger(received=600, written=600) == ledger
    assert list(range(600)) == await ingest.stored()


async def test_the_ledger_balances_at_all_times(
    ingest: Ingest, sensors: Sensors, until: Until
) -> None:
    """Whenever it is asked, received is the sum of the fates and of what is pending."""
    await ingest.start()
    unbalanced: list[Ledger] = []

    def all_written() -> bool:
        ledger = ingest.service.ledger()
        if not ledger.balanced:
            unbalanced.append(ledger)
        return ledger.written == 1000

    for seq in range(1000):
        sensors.send(telemetry(seq))
    await until(all_written)

    assert [] == unbalanced


async def test_draining_ends_under_load(ingest: Ingest, sensors: Sensors, until: Until) -> None:
    """Draining ends though devices never pause; the broker keeps the rest for the next start."""
    await ingest.start()
    stop, sent = threading.Event(), iter(range(100_000))

    def stream() -> None:
        while not stop.wait(0.005):
            sensors.send(telemetry(next(sent)))

    thread = threading.Thread(target=stream)
    thread.start()
    await until(lambda: ingest.service.ledger().received)
    ledger = await ingest.drain()
    await ingest.stop()
    stop.set()
    await asyncio.to_thread(thread.join, DEADLINE_S)
    await sensors.acknowledged()
    count = next(sent)
    await ingest.start()
    await until(lambda: ingest.service.ledger().written >= count - ledger.received)
    await ingest.drain()

    assert 0 == ledger.pending
    assert list(range(count)) == await ingest.stored()


async def test_a_broker_restart(
    ingest: Ingest, mosquitto: PrivateMosquitto, sensors: Sensors, until: Until
) -> None:
    """A broker that stops and starts again loses nothing, and nobody has to do anything."""
    await ingest.start()
    for seq in range(100):
        sensors.send(telemetry(seq))
    await mosquitto.stop()
    for seq in range(100, 200):
        sensors.send(telemetry(seq))
    await mosquitto.start()
    await sensors.acknowledged()
    await until(lambda: ingest.service.ledger().written == 200, deadline_s=DEADLINE_S)

    assert (await ingest.drain()).balanced
    assert list(range(200)) == await ingest.stored()
