"""The conductor of a test: starts the parts, listens, orders, and ends when all have ended.

What is ordered takes effect a little later, at an instant that lies ahead of every shard.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog

from city.clock import wall_ms
from load.course import Course
from load.crew import Crew
from load.keys import Dial, Wish
from load.knee import Knee, Second, Tail
from load.plan import LoadPlan, Order
from load.series import Point

_log = structlog.get_logger(__name__)

LEAD_MS: Final = 400
"""An order's instant is so far ahead."""

_TICK_S: Final = 1.0
_GRACE_S: Final = 30.0
"""So long after the planned end and the drain, parts that have not ended are ended."""
_STAGES: Final = ("ack", "subscriber", "store", "alarm")

Onlooker = Callable[[Course], None]
"""Called once a second."""


class Conductor:
    """One test, from its beginning to the last word of its last part."""

    def __init__(
        self,
        plan: LoadPlan,
        crew: Crew,
        *,
        knee: Knee | None = None,
    ) -> None:
        self.plan = plan
        self.city = plan.city().city
        self.course: Course | None = None
        self.started_ms = 0
        self.knee = knee
        self.onlookers: list[Onlooker] = []
        self._begun: asyncio.Future[Course] = asyncio.get_running_loop().create_future()
        self._crew = crew
        self._dial = Dial(plan.rate)
        self._stopping = False
        self._seen_s = 0.0
        self._postpone: Callable[[], None] = lambda: None

    @property
    def search(self) -> str:
        """What the search for the limit does now; nothing without one."""
        return "" if self.knee is None else self.knee.state

    async def begun(self) -> Course:
        """The course, once the test has begun."""
        return await asyncio.shield(self._begun)

    async def run(self, *, shards: int, subscribers: int, stop: asyncio.Event) -> Course:
        """Play the test to its end, or to the wish to stop, which ends it in order.

        So does a shard that cannot go on; without a subscriber or a store watcher the test goes on.

        Raises:
            ServiceError: A part cannot prepare itself.
        """
        self.started_ms = await self._crew.start(self.plan, shards=shards, subscribers=subscribers)
        course = self.course = Course(self.plan, self.started_ms)
        self._begun.set_result(course)
        try:
            async with asyncio.TaskGroup() as tasks:
                around = [
                    tasks.create_task(self._stop_when(stop), name="stop"),
                    tasks.create_task(self._tick(course), name="conductor"),
                ]
                async with self._patience(course):
                    await self._listen(course)
                for task in around:
                    task.cancel()
        except* TimeoutError:
            course.warn("not every part ended in time; what it had not told by then is missing")
        return course

    def wish(self, wish: Wish) -> None:
        """Somebody wants something of the running test; a search keeps the rate to itself."""
        if wish.stop:
            self.stop()
        elif self.knee is not None and wish.pause is None:
            _log.warning("the search for the limit sets the rate; stop and pause are possible")
        else:
            self._turn(wish)

    def _turn(self, wish: Wish) -> None:
        factor = self._dial.turn(wish)
        if factor is not None:
            self._order(Order(at_ms=wall_ms() + LEAD_MS, factor=factor))
            said = "rate changed" if factor else 'paused; r or {"pause": false} goes on'
            _log.info(said, factor=round(factor, 3), rate=round(factor * self.plan.rate))

    def stop(self) -> None:
        """End the test in order; a second call does nothing."""
        if not self._stopping:
            self._stopping = True
            self._order(Order(at_ms=wall_ms() + LEAD_MS, stop=True))

    def _order(self, order: Order) -> None:
        if self.course is not None:
            self.course.follow([order])
        self._postpone()
        self._crew.order(order)

    async def _listen(self, course: Course) -> None:
        async for delta in self._crew.words():
            for warning in delta.warnings:
                if warning not in course.warnings:
                    _log.warning(warning)
            course.add(delta)
            if delta.failed and delta.kind == "shard":
                self.stop()

    async def _stop_when(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self.stop()

    async def _tick(self, course: Course) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            for onlooker in self.onlookers:
                onlooker(course)
            self._judge(course)

    def _judge(self, course: Course) -> None:
        """Let the search for the limit see the newest second that all parts have told."""
        point = course.latest()
        if self.knee is None or point is None or point.at_s <= self._seen_s:
            return
        self._seen_s = point.at_s
        if point.at_s <= self.plan.ramp_s or self._stopping:
            return
        factor = self.knee.feed(self._second(point))
        if self.knee.finished:
            _log.info("search over", found=self.knee.result().sentence())
            self.stop()
        elif factor is not None:
            self._turn(Wish(factor=factor))

    def _second(self, point: Point) -> Second:
        rates, lateness = point.stand.rates, point.latency.get("lateness")
        measured = [stage for stage in _STAGES if stage in point.latency]
        verified = self.plan.subscribers > 0
        return Second(
            at_s=point.at_s,
            factor=point.pace,
            wanted=rates["due"],
            sent=rates["sent"],
            acked=rates["acked"] if self.plan.qos else None,
            received=rates["received"] if verified else None,
            waiting=point.stand.waiting,
            lost=point.missing if verified else None,
            latency_ms={
                stage: Tail(point.latency[stage].p50, point.latency[stage].p99)
                for stage in measured
            },
            lateness_p99_ms=lateness.p99 if lateness else 0.0,
            generator_cpu=point.stand.busiest.get("shard", 0.0),
            subscriber_cpu=point.stand.busiest.get("subscriber", 0.0),
            disconnects=point.cumulated.get("disconnects", 0),
        )

    @asynccontextmanager
    async def _patience(self, course: Course) -> AsyncIterator[None]:
        """Bound what is inside by the end of the test, whenever that is, and the drain.

        Raises:
            TimeoutError: It took longer.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as limit:

            def later() -> None:
                left_s = (course.pace.end_ms - wall_ms()) / 1000 + self.plan.drain_s + _GRACE_S
                if not limit.expired():
                    limit.reschedule(loop.time() + left_s)

            self._postpone = later
            later()
            yield
