from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from broker.choice import BrokerAddress
from broker.loadmessages import LoadFigures
from city.errors import BrokerError, StoreUnavailable
from ingest.store import Point
from load.course import Course
from load.figures import Delta, histogram_of
from load.livefigures import LiveTeller, Publish
from load.plan import LoadPlan, Phase

START_MS = 1_795_413_600_000
PLAN = LoadPlan(
    run="trial", broker=BrokerAddress("127.0.0.1", 1883), devices=10, interval_s=1.0, ramp_s=0.0,
    phases=(Phase(name="steady", for_s=20),), kinds=("air",), seed=1, city_start_ms=0,
)  # fmt: skip


class Shelf:
    """A store that keeps points in a list, or fails."""

    name = "a shelf"

    def __init__(self, error: Exception | None = None) -> None:
        self.points: list[Point] = []
        self.error = error
        self.opened = self.closed = 0

    async def open(self) -> None:
        """Open it, or fail."""
        self.opened += 1
        if self.error:
            raise self.error

    async def write(self, points: Sequence[Point]) -> None:
        """Keep them, or fail."""
        if self.error:
            raise self.error
        self.points += points

    async def read(self, *_: Any, **__: Any) -> list[Point]:
        """Everything."""
        return self.points

    async def close(self) -> None:
        """Close it."""
        self.closed += 1


def course_of(seconds: int) -> Course:
    """So many seconds of a course of one shard and one subscriber."""
    course = Course(PLAN, START_MS)
    for at_s in range(1, seconds + 1):
        said: dict[str, Any] = {"part": 0, "at_ms": START_MS + at_s * 1000}
        course.add(Delta(
            kind="shard", connected=10, counts={"due": 10, "sent": 10, "acked": 10},
            confirmed=10 * at_s, delays={"ack": histogram_of([2_000] * 10).encode()}, **said,
        ))  # fmt: skip
        course.add(Delta(kind="subscriber", counts={"distinct": 10, "received": 10}, **said))
    return course


def kept() -> tuple[list[tuple[str, LoadFigures]], Publish]:
    """What is published, and how."""
    messages: list[tuple[str, LoadFigures]] = []

    async def publish(topic: str, payload: bytes) -> None:
        messages.append((topic, msgspec.json.decode(payload, type=LoadFigures)))

    return messages, publish


async def refuse(_topic: str, _payload: bytes) -> None:
    """A broker that takes nothing."""
    raise BrokerError("the broker is gone")


async def test_a_second_is_told_on_its_topic() -> None:
    """Whoever subscribes to the test's topic sees its figures, typed."""
    messages, publish = kept()

    await LiveTeller(course_of(5), city="haven", publish=publish).tell()

    [(topic, figures)] = messages
    assert "cityeye/v1/haven/load/trial/figures" == topic
    assert (10, 10, 50, 50, 0, 10.0) == (
        figures.devices, figures.connected, figures.sent, figures.received, figures.lost,
        figures.rate,
    )  # fmt: skip
    assert 2.0 == pytest.approx(figures.latency_ms["ack"].p99, rel=0.01)


async def test_the_dashboard_finds_its_fields() -> None:
    """The point has the measurement, tags and fields that the dashboard asks for."""
    shelf = Shelf()

    await LiveTeller(course_of(5), city="haven", store=shelf).tell()

    [point] = shelf.points
    assert "cityeye" == point.key.measurement
    assert (("part", "load"), ("worker", "trial")) == point.key.tags
    asked = {"devices", "connected", "sent", "acked", "received", "lost"}
    assert asked <= set(point.counts)
    assert {"rate", "latency_ack_p99_ms"} <= set(point.values)


async def test_no_second_is_told_twice() -> None:
    """Telling more often than seconds pass tells nothing new."""
    messages, publish = kept()
    teller = LiveTeller(course_of(5), city="haven", publish=publish)

    await teller.tell()
    await teller.tell()

    assert 1 == len(messages)


async def test_nothing_is_told_before_the_first_second() -> None:
    """A test that is being prepared has no figures."""
    messages, publish = kept()

    await LiveTeller(Course(PLAN, START_MS), city="haven", publish=publish).tell()

    assert [] == messages


async def test_a_broker_that_takes_nothing_is_a_warning() -> None:
    """The test goes on, the store still has its figures, and the report will say it."""
    shelf, course = Shelf(), course_of(5)

    await LiveTeller(course, city="haven", publish=refuse, store=shelf).tell()

    assert 1 == len(shelf.points)
    assert [True] == ["the broker is gone" in warning for warning in course.warnings]


async def test_a_store_that_comes_back_gets_figures_again() -> None:
    """A store that is down is a warning, once, and is tried again in the next second."""
    shelf, course = Shelf(StoreUnavailable("the store is down")), course_of(5)
    teller = LiveTeller(course, city="haven", store=shelf)

    await teller.tell()
    course.add(Delta(kind="shard", part=0, at_ms=START_MS + 6_000))
    await teller.tell()
    shelf.error = None
    course.add(Delta(kind="shard", part=0, at_ms=START_MS + 7_000))
    await teller.tell()
    await teller.close()

    assert (3, 1, 1) == (shelf.opened, len(shelf.points), shelf.closed)
    assert 1 == len(course.warnings)


async def test_a_store_that_was_never_open_is_not_closed() -> None:
    """Closing is for what was opened."""
    shelf = Shelf(StoreUnavailable("the store is down"))

    await LiveTeller(course_of(5), city="haven", store=shelf).close()

    assert 0 == shelf.closed
