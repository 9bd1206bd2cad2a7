import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from alerts.archive import Archive
from alerts.publisher import CURSOR, Publisher
from broker.messages import AlarmEvent, AlarmState, Announcement, decode
from broker.topics import alarm_topic
from city.cityfile import Address
from city.errors import ArchiveError, BrokerError

NODES = [Address("city", "east", "gas", "main", f"node-{n}") for n in range(3)]
TOPICS = [alarm_topic(node, "pressure") for node in NODES]
Until = Callable[..., Awaitable[None]]


class Wire:
    """Keeps what is published; topics in `away` fail, `silent` ones never answer."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self.away: set[str] = set()
        self.silent: set[str] = set()
        self.tried = 0

    async def __call__(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Publish as the publisher expects it."""
        await asyncio.sleep(0)
        self.tried += 1
        if topic in self.silent:
            await asyncio.Event().wait()
        if topic in self.away:
            raise BrokerError("the broker is away")
        self.messages.append((topic, payload, retain))

    def said(self, topic: str) -> list[tuple[int | None, bool]]:
        """Number, None for an emptied topic, and retain mark of each message on a topic."""
        return [
            (decode(AlarmEvent, payload).number if payload else None, retain)
            for to, payload, retain in self.messages
            if to == topic
        ]


def happened(number: int, node: int = 0, state: AlarmState = "unacknowledged") -> Announcement:
    """One event."""
    event = AlarmEvent(
        rule="pressure", event="raised", state=state, severity="high", level="L",
        quantity="gas_pressure", value=80, limit=85, unit="kPa", ts=number, raised=0, number=number,
    )  # fmt: skip
    return Announcement(NODES[node], event)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """An archive."""
    archive = Archive(tmp_path / "alarms.sqlite")
    yield archive
    archive.close()


@pytest.fixture
def wire() -> Wire:
    """What is published to."""
    return Wire()


@pytest.fixture
async def publisher(archive: Archive, wire: Wire) -> AsyncIterator[Publisher]:
    """A working publisher with little patience."""
    publisher = Publisher(archive, timeout_s=0.05)
    working = asyncio.create_task(publisher.run(wire), name="publisher")
    yield publisher
    working.cancel()
    await asyncio.wait([working], timeout=60)


async def published(publisher: Publisher) -> None:
    """Wait until everything is published."""
    publisher.wake()
    async with asyncio.timeout(60):
        await publisher.settled()


async def test_life_on_a_topic(archive: Archive, publisher: Publisher, wire: Wire) -> None:
    """Events are retained until the alarm is normal: then said once, and the topic emptied."""
    archive.record([happened(1), happened(2), happened(3, state="normal")])
    await published(publisher)

    assert [(1, True), (2, True), (3, False), (None, True)] == wire.said(TOPICS[0])


@pytest.mark.parametrize("trouble", ["away", "silent"])
async def test_one_topic_waits(
    archive: Archive, publisher: Publisher, wire: Wire, until: Until, trouble: str
) -> None:
    """A topic that cannot be published to holds up no other, and nothing is published twice."""
    stuck: set[str] = getattr(wire, trouble)
    stuck.add(TOPICS[0])
    archive.record([happened(1), happened(1, 1), happened(2), happened(1, 2)])
    publisher.wake()
    await until(lambda: wire.tried > 4)
    before = [wire.said(topic) for topic in TOPICS]
    stuck.clear()
    await published(publisher)

    assert [[], [(1, True)], [(1, True)]] == before
    assert [[(1, True), (2, True)], [(1, True)], [(1, True)]] == [wire.said(t) for t in TOPICS]


async def test_cursor_not_moved(
    archive: Archive,
    publisher: Publisher,
    wire: Wire,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a full disk does not let the cursor move, it works on and publishes nothing twice."""
    settle, refused = archive.settle, [0]

    def full(*_: object) -> None:
        refused[0] += 1
        raise ArchiveError("disk is full")

    monkeypatch.setattr(archive, "settle", full)
    archive.record([happened(1), happened(2)])
    publisher.wake()
    await until(lambda: refused[0] > 2)
    archive.record([happened(3)])
    monkeypatch.setattr(archive, "settle", settle)
    await published(publisher)

    assert [(1, True), (2, True), (3, True)] == wire.said(TOPICS[0])
    assert [] == archive.after(CURSOR, 9)


async def test_next_publisher_goes_on(archive: Archive, publisher: Publisher) -> None:
    """What one publisher has published, the next on the same archive does not."""
    archive.record([happened(1)])
    await published(publisher)
    later, another = Wire(), Publisher(archive)
    working = asyncio.create_task(another.run(later), name="another")
    archive.record([happened(2)])
    await published(another)
    working.cancel()
    await asyncio.wait([working], timeout=60)

    assert [(2, True)] == later.said(TOPICS[0])
