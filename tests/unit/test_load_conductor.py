"""The conductor of a load test, with parts that a test plays."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from broker.choice import BrokerAddress
from city.clock import wall_ms
from load.conductor import Conductor
from load.course import Course
from load.figures import Delta, PartKind
from load.line import said_for
from load.plan import LoadPlan, Order, Phase

PLAN = LoadPlan(
    run="t", broker=BrokerAddress("127.0.0.1", 1883), devices=1, interval_s=1.0, ramp_s=0.0,
    phases=(Phase(name="steady", for_s=3_600.0),), kinds=("air-micro",), seed=1, city_start_ms=0,
)  # fmt: skip


class Played:
    """A crew whose words are known before."""

    def __init__(self, words: Sequence[Delta]) -> None:
        self.orders: list[Order] = []
        self._words = words

    async def start(self, plan: LoadPlan, *, shards: int, subscribers: int) -> int:
        """It is there."""
        assert (1, plan.subscribers) == (shards, subscribers)
        return wall_ms()

    async def words(self) -> AsyncIterator[Delta]:
        """Say them."""
        for word in self._words:
            yield word

    def order(self, order: Order) -> None:
        """Keep it."""
        self.orders.append(order)

    async def close(self) -> None:
        """Nothing runs."""


def word(kind: PartKind, **fields: int) -> Delta:
    """A word of the first part of a kind."""
    return Delta(kind=kind, part=0, at_ms=wall_ms(), **fields)  # type: ignore[arg-type]


async def conducted(words: Sequence[Delta]) -> tuple[Course, Played]:
    """A test whose parts say that."""
    crew = Played(words)
    conductor = Conductor(PLAN, crew)
    return await conductor.run(shards=1, subscribers=1, stop=asyncio.Event()), crew


class TestFailed:
    """A part that ends before its time."""

    async def test_shard(self) -> None:
        """Without a shard the test is stopped in order; what was told stays told."""
        told = word("shard", confirmed=7)
        course, crew = await conducted([told, said_for(told, "it died", failed=True)])

        assert [True] == [order.stop for order in crew.orders]
        assert (["it died"], 7) == (course.warnings, course.confirmed)

    async def test_subscriber(self) -> None:
        """Without a subscriber it goes on; what was lost can no longer be told from what is unread."""
        told = word("subscriber")
        course, crew = await conducted([told, said_for(told, "it died", failed=True)])

        assert [] == crew.orders
        assert 1 == course.counts["unread_possible"]

    async def test_replaced(self) -> None:
        """A shard that another goes on for stops nothing."""
        told = word("shard")
        course, crew = await conducted([told, said_for(told, "it was started again")])

        assert ([], ["it was started again"]) == (crew.orders, course.warnings)
