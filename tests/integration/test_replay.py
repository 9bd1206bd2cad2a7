"""What a consumer has not made durable is handed in again, whenever and however ingest ends."""

import asyncio
import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from broker.codec import Publish
from broker.messages import AlarmEvent, Announcement, Birth, MeasuredQuantity, encode
from broker.session import Link, Session
from broker.topics import Channel, device_topic
from city.cityfile import Address
from city.clock import wall_ms
from city.readings import ReadingBatch
from ingest.receiver import Receiver
from ingest.service import IngestService
from ingest.spool import Group, Message, Spool
from ingest.store import Point, Store

T0 = wall_ms()
DEADLINE_S = 60.0
STATION = Address("lanting", "east", "air", "park", "aq-1")
TELEMETRY = device_topic(STATION, Channel.TELEMETRY).encode()
BIRTH = Birth(
    kind="air-station",
    model="A1",
    position=(120.0, 31.8),
    interval_s=60,
    quantities={"pm25": MeasuredQuantity(unit="ug/m3", low=0, high=1000)},
)
EVENT = AlarmEvent(
    rule="smog", event="raised", state="unacknowledged", severity="high", level="H",
    quantity="pm25", value=80.0, limit=75.0, unit="ug/m3", ts=T0, raised=T0,
)  # fmt: skip

RUNNING = """
import asyncio, hashlib, json, os, sys
from pathlib import Path
from alerts.archive import Archive
from alerts.state import pack, unpack
from broker.codec import Publish
from ingest.receiver import Receiver
from ingest.service import IngestService
from ingest.spool import Spool

folder, total = Path(sys.argv[1]), int(sys.argv[2])
messages = [(t.encode(), p.encode()) for t, p in json.loads((folder / "messages").read_text())]
acknowledged = folder / "acknowledged"


class Chain:
    def __init__(self):
        self.archive = Archive(folder / "alarms.sqlite")
        found = self.archive.snapshot()
        self.covered = found[0] if found else 0
        self.state = unpack(found[1]) if found else {"count": 0, "hash": "", "births": {}}

    def learn(self, address, birth):
        self.state["births"][str(address)] = birth.position[0]

    def consume(self, batch):
        for series, ts, value in zip(batch.series, batch.ts, batch.value):
            found = f"{batch.table[series].address} {ts} {value} {self.state['hash']}"
            self.state["hash"] = hashlib.sha256(found.encode()).hexdigest()
            self.state["count"] += 1
        return []

    def committed(self, number, *, replaying):
        if int(self.state["hash"][:2] or "0", 16) % 13 == 0:
            self.archive.save(number, pack(self.state))
            self.covered = number
        print("committed", number, flush=True)


class Store:
    name = "nowhere"

    async def write(self, points):
        await asyncio.sleep(0)


class Broker:
    def __init__(self):
        self.next = int(acknowledged.read_text() or 0) if acknowledged.exists() else 0
        self.acknowledged = self.next
        self.more = asyncio.Event()

    async def run(self):
        while self.next < len(messages):
            part = range(self.next, min(self.next + 40, len(messages)))
            self.next = part.stop
            self.more.clear()
            service.receiver.receive(self, [Publish(*messages[n], 1, False, False, 1) for n in part])
            await self.more.wait()
        await asyncio.sleep(3600)

    def pause(self):
        pass

    def resume(self):
        self.more.set()

    def acknowledge(self, mids):
        self.acknowledged += len(mids)
        (folder / "acknowledged.new").write_text(str(self.acknowledged))
        os.replace(folder / "acknowledged.new", acknowledged)


async def main():
    global service
    chain = Chain()
    spool = Spool(folder / "spool.sqlite", tail_messages=60, reserve_bytes=0)
    receiver = Receiver(distance_s=0.001)
    service = IngestService(spool=spool, store=Store(), consumers=[chain], receiver=receiver)
    running = asyncio.create_task(service.run(Broker()))
    for _ in range(6000):
        if chain.state["count"] >= total or running.done():
            break
        await asyncio.sleep(0.01)
    print(json.dumps(["done", chain.state, service.consumer_failures, spool.newest]), flush=True)
    os._exit(0)

asyncio.run(main())
"""


def telemetry(seq: int, *, pad: int = 0) -> Message:
    """A message as a device sends it; `pad` blanks make it longer."""
    payload = json.dumps({"ts": T0 + seq, "seq": seq, "values": {"pm25": float(seq)}})
    return TELEMETRY, payload.encode() + b" " * pad


def born(east: float, device: str = "aq-1") -> Message:
    """A birth document as a device sends it."""
    topic = device_topic(replace(STATION, device=device), Channel.META)
    return topic.encode(), encode(replace(BIRTH, position=(east, 31.8)))


class Memory:
    """A store that keeps how many points it was given."""

    name = "memory"

    def __init__(self) -> None:
        self.points: list[Point] = []

    async def write(self, points: Sequence[Point]) -> None:
        """Keep the points."""
        self.points += points


class Broker:
    """A session and its link at once: what is published arrives as one group."""

    def __init__(self) -> None:
        self.trouble = None
        self.receiver = Receiver(distance_s=0.001)
        self.unacknowledged = 0

    async def run(self) -> None:
        """Stay."""
        await asyncio.sleep(3600)

    def publish(self, *messages: Message) -> None:
        """Deliver `messages`."""
        self.unacknowledged += len(messages)
        arrived = [Publish(*message, 1, False, False, 1) for message in messages]
        self.receiver.receive(cast("Link", self), arrived)

    def acknowledge(self, mids: Sequence[int]) -> None:
        """Take note that messages are safe."""
        self.unacknowledged -= len(mids)

    def pause(self) -> None:
        """Nothing more comes by itself."""

    def resume(self) -> None:
        """The same."""


class Keeper:
    """A consumer that keeps what it is told, announces an alarm per batch, and raises on demand."""

    def __init__(self, covered: int | None = 0) -> None:
        self.covered = covered
        self.heard: list[Any] = []
        self.failing = False
        self.asked = 0

    @property
    def numbers(self) -> list[tuple[int, bool]]:
        """The groups that it was told of, and whether again."""
        return [
            heard for heard in self.heard if isinstance(heard, tuple) and heard[0] in range(10**6)
        ]

    def learn(self, address: Address, birth: Birth) -> None:
        """Keep a birth."""
        self.heard.append((address.device, birth.position[0]))

    def consume(self, batch: ReadingBatch) -> Sequence[Announcement]:
        """Keep the values."""
        self.heard.append(batch.value.tolist())
        if self.failing:
            raise RuntimeError("no")
        return [Announcement(STATION, EVENT)]

    def committed(self, number: int, *, replaying: bool) -> None:
        """Keep the number."""
        self.heard.append((number, replaying))

    def cover(self) -> None:
        """Cover everything that was heard of."""
        self.asked += 1


class Ingest:
    """A service that can be stopped as by a crash, and started again on the same spool."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "spool.sqlite"
        self.store = Memory()
        self._running: asyncio.Task[None] | None = None

    async def start(self, *consumers: Keeper, max_bytes: int = 1 << 30) -> None:
        """Start; nothing has arrived yet."""
        self.broker = Broker()
        self.spool = Spool(self.path, tail_messages=0, reserve_bytes=0, max_bytes=max_bytes)
        self.service = IngestService(
            spool=self.spool,
            store=cast("Store", self.store),
            consumers=consumers,
            receiver=self.broker.receiver,
        )
        self._running = asyncio.create_task(self.service.run(cast("Session", self.broker)))

    async def stop(self) -> None:
        """Stop at once, if it runs: nothing is drained."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running], timeout=DEADLINE_S)
            self._running = None
            await self.service.close()

    async def take(self, *messages: Message) -> None:
        """Have `messages` arrive, and return when they are acknowledged and stored."""
        self.broker.publish(*messages)
        async with asyncio.timeout(DEADLINE_S):
            while self.broker.unacknowledged or self.spool.settled < self.spool.newest:  # noqa: ASYNC110 - a test polls from outside
                await asyncio.sleep(0.001)


@pytest.fixture
async def ingest(tmp_path: Path) -> AsyncIterator[Ingest]:
    """A service, not yet started."""
    ingest = Ingest(tmp_path)
    yield ingest
    await ingest.stop()


async def test_what_is_not_covered_is_handed_in_again(ingest: Ingest) -> None:
    """After a restart a consumer hears the groups that it does not cover, then what is new."""
    first = Keeper()
    await ingest.start(first)
    await ingest.take(born(120.0), telemetry(0), telemetry(1))
    await ingest.take(telemetry(2), born(121.0, "aq-2"))
    await ingest.take(telemetry(3))
    await ingest.stop()
    second = Keeper(covered=1)
    await ingest.start(second)
    await ingest.take(telemetry(4))
    before = [("aq-1", 120.0), [0.0, 1.0], (1, False), ("aq-2", 121.0), [2.0], (2, False),
              [3.0], (3, False)]  # fmt: skip
    after = [("aq-2", 121.0), [2.0], (2, True), [3.0], (3, True), [4.0], (4, False)]

    assert (before, after) == (first.heard, second.heard)


async def test_again_and_again(ingest: Ingest) -> None:
    """As long as nothing is covered, every restart hands in the same."""
    await ingest.start(Keeper())
    await ingest.take(born(120.0), telemetry(0))
    heard = []
    for _ in range(3):
        await ingest.stop()
        keeper = Keeper()
        await ingest.start(keeper)
        await ingest.take(born(120.0))
        heard.append(keeper.heard[:3])

    assert [[("aq-1", 120.0), [0.0], (1, True)]] * 3 == heard


async def test_each_consumer_gets_what_it_needs(ingest: Ingest) -> None:
    """Consumers that cover differently far are handed different groups; one that wants none, none."""
    await ingest.start(Keeper())
    for seq in range(3):
        await ingest.take(telemetry(seq))
    await ingest.stop()
    keepers = [Keeper(covered=0), Keeper(covered=2), Keeper(covered=None)]
    await ingest.start(*keepers)
    await ingest.take(telemetry(3))
    again = [[number for number, replaying in keeper.numbers if replaying] for keeper in keepers]

    assert [[1, 2, 3], [3], []] == again


async def test_alarms_of_groups_handed_in_again_are_stored_once(ingest: Ingest) -> None:
    """What a consumer announces when it is handed a group again is in the spool already."""
    await ingest.start(Keeper())
    await ingest.take(telemetry(0))
    await ingest.stop()
    stored = list(ingest.store.points)
    await ingest.start(Keeper())
    await ingest.take(born(120.0))
    new = ingest.store.points[len(stored) :]

    assert (2, ["stations"]) == (len(stored), [point.key.measurement for point in new])


async def test_what_is_covered_goes(ingest: Ingest) -> None:
    """The spool forgets stored groups as soon as the consumers cover them, and not before."""
    keeper = Keeper()
    await ingest.start(keeper)
    for seq in range(3):
        await ingest.take(telemetry(seq))
    held = [number for number, _, _ in ingest.spool.journal(0)]
    keeper.covered = 3
    for seq in range(3, 6):
        await ingest.take(telemetry(seq))
    kept = [number for number, _, _ in ingest.spool.journal(0)]

    assert ([1, 2, 3], [4, 5, 6]) == (held, kept)


async def test_nothing_is_held_for_nobody(ingest: Ingest) -> None:
    """Without a consumer that wants groups again, nothing is kept; a birth is a point to store."""
    keeper = Keeper(covered=None)
    await ingest.start(keeper)
    await ingest.take(born(120.0))
    newest = ingest.spool.newest
    await ingest.take(telemetry(0))

    assert (1, []) == (newest, list(ingest.spool.journal(0)))
    assert [("aq-1", 120.0), (1, False), [0.0], (2, False)] == keeper.heard


async def test_a_consumer_that_fails_again(ingest: Ingest) -> None:
    """One that raises at what it is handed again is counted; others, and new messages, are served."""
    await ingest.start(Keeper())
    await ingest.take(telemetry(0))
    await ingest.stop()
    broken, sound = Keeper(), Keeper()
    broken.failing = True
    await ingest.start(broken, sound)
    await ingest.take(telemetry(1))
    sound.covered = 2
    await ingest.take(telemetry(2))
    await ingest.take(telemetry(3))
    kept = [number for number, _, _ in ingest.spool.journal(0)]

    assert [[0.0], (1, True), [1.0], (2, False)] == sound.heard[:4]
    assert (4, [3, 4]) == (ingest.service.consumer_failures, kept)


async def test_a_failed_consumer_that_recovers(ingest: Ingest) -> None:
    """When one that has failed covers more than it did, groups are held for it again."""
    await ingest.start(Keeper())
    await ingest.take(telemetry(0))
    await ingest.stop()
    keeper = Keeper()
    keeper.failing = True
    await ingest.start(keeper)
    await ingest.take(telemetry(1))
    keeper.covered = 2
    for seq in range(2, 5):
        await ingest.take(telemetry(seq))

    assert [3, 4, 5] == [number for number, _, _ in ingest.spool.journal(0)]


async def test_a_journal_that_cannot_be_read(ingest: Ingest) -> None:
    """With a damaged group the service says so, and takes in what is new all the same."""
    await ingest.start(Keeper())
    await ingest.take(telemetry(0))
    await ingest.stop()
    with sqlite3.connect(ingest.path) as other:
        other.execute("INSERT INTO births VALUES (1, x'c1')")
    other.close()
    keeper = Keeper()
    with capture_logs() as logs:
        await ingest.start(keeper)
        await ingest.take(telemetry(1))

    assert [[1.0], (2, False)] == keeper.heard
    assert ["the spool's journal cannot be handed in again to its end"] == [
        log["event"] for log in logs if log["log_level"] == "error"
    ]


async def test_no_room_for_what_is_held(ingest: Ingest) -> None:
    """When the spool must give up what is held, the consumer is asked to cover it until it has."""
    keeper = Keeper()
    await ingest.start(keeper, max_bytes=1 << 20)
    for seq in range(40):
        await ingest.take(telemetry(seq, pad=60_000))
    asked, keeper.covered = keeper.asked, ingest.spool.newest
    for seq in range(40, 43):
        await ingest.take(telemetry(seq))

    assert asked > 1
    assert keeper.asked == asked


async def test_a_gap_is_said(ingest: Ingest) -> None:
    """Where groups are gone that a consumer does not cover, that is said; the rest is handed in."""
    keeper = Keeper(covered=None)
    await ingest.start(keeper)
    await ingest.take(telemetry(0))
    await ingest.take(telemetry(1))
    await ingest.stop()
    keeper = Keeper(covered=1)
    with capture_logs() as logs:
        await ingest.start(keeper)
        await ingest.take(telemetry(2))

    assert [[2.0], (3, False)] == keeper.heard
    assert {"after": 1, "log_level": "warning"}.items() <= logs[0].items()


async def test_a_younger_spool(ingest: Ingest) -> None:
    """A spool that somebody has removed begins anew behind what the consumers cover."""
    keeper = Keeper(covered=41)
    await ingest.start(keeper)
    await ingest.take(telemetry(0))
    await ingest.stop()
    again = Keeper(covered=41)
    await ingest.start(again)
    await ingest.take(telemetry(1))

    assert [[0.0], (42, False)] == keeper.heard
    assert [[0.0], (42, True), [1.0], (43, False)] == again.heard


async def test_the_loop_goes_on_meanwhile(ingest: Ingest) -> None:
    """While much is handed in again, the loop has its turn between any two groups."""
    await ingest.start(Keeper())
    await ingest.take(telemetry(0))
    for _ in range(200):
        ingest.spool.append(Group([telemetry(seq) for seq in range(100)]))
    await ingest.stop()
    keeper = Keeper()
    await ingest.start(keeper)
    grown, known = [], 0
    async with asyncio.timeout(4 * DEADLINE_S):
        while known < 201:
            await asyncio.sleep(0)
            grown.append(len(keeper.numbers) - known)
            known = len(keeper.numbers)

    assert max(grown) <= 1


def killed(folder: Path, messages: int, lines: int | None) -> list[str]:
    """Run ingest until it has said so many lines, then kill it; without `lines`, until it ends."""
    command = [sys.executable, "-c", RUNNING, str(folder), str(messages)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines or 0)]
        if lines:
            child.kill()
        said += child.stdout.readlines()
    return said


@pytest.mark.parametrize("kills", [(), (1, 4, 2, 9), (25, 1, 1, 12), (2, 40, 3)])
def test_killed_and_started_again(tmp_path: Path, kills: tuple[int, ...]) -> None:
    """However often ingest is killed, a consumer's running hash ends as if it never was."""
    births = [born(100.0 + number, f"aq-{number}") for number in range(30)]
    readings = [telemetry(seq) for seq in range(1800)]
    messages = [*births, *readings[:600], born(1.0, "aq-7"), *readings[600:]]
    texts = [(topic.decode(), payload.decode()) for topic, payload in messages]
    (tmp_path / "messages").write_text(json.dumps(texts))
    for lines in kills:
        killed(tmp_path, len(readings), lines)
    said, state, failures, newest = json.loads(killed(tmp_path, len(readings), None)[-1])
    expected = ""
    for seq in range(len(readings)):
        found = f"{STATION} {T0 + seq} {float(seq)} {expected}"
        expected = hashlib.sha256(found.encode()).hexdigest()
    positions = {str(replace(STATION, device=f"aq-{n}")): 100.0 + n for n in range(30)}

    assert ("done", expected, len(readings)) == (said, state["hash"], state["count"])
    assert positions | {str(replace(STATION, device="aq-7")): 1.0} == state["births"]
    assert (0, True) == (failures, newest > 40)
