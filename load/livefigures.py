"""A running test's figures for others to watch: to MQTT, and to the store for the dashboard.

Once a second, one message on `cityeye/v1/{city}/load/{run}/figures` and one point of measurement
`cityeye`. Neither is part of the test: when one fails, the report says so and the test goes on.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from broker.loadmessages import LoadFigures, Spread
from broker.topics import load_topic
from city.errors import CityEyeError
from ingest.points import figures_point
from ingest.store import Point as StoredPoint
from ingest.store import Store
from load.course import Course
from load.series import Point

EVERY_S: Final = 1.0
_PATIENCE_S: Final = 5.0
"""Whoever does not take a second's figures for so long does not get them."""

Publish = Callable[[str, bytes], Awaitable[None]]
"""As `broker.session.Session.publish`."""


def live_figures(course: Course, second: Point) -> LoadFigures:
    """A second of a test."""
    counts, stand = course.counts, second.stand
    return LoadFigures(
        run=course.plan.run,
        ts=course.start_ms + round(second.at_s * 1000),
        phase=second.phase,
        at_s=second.at_s,
        devices=course.plan.devices,
        connected=stand.connected,
        due=counts["due"],
        sent=counts["sent"],
        acked=counts["acked"],
        received=counts["received"],
        lost=course.lost,
        waiting=stand.waiting,
        wanted_rate=stand.rates.get("due", 0.0),
        rate=stand.rates.get("sent", 0.0),
        latency_ms={
            stage: Spread(one.p50, one.p95, one.p99, one.max)
            for stage, one in second.latency.items()
        },
        cpu=stand.cpu,
    )


def stored_point(figures: LoadFigures) -> StoredPoint:
    """The same as a point of the store, named as the dashboard asks for it."""
    numbers: dict[str, float | int] = {
        "devices": figures.devices,
        "connected": figures.connected,
        "sent": figures.sent,
        "acked": figures.acked,
        "received": figures.received,
        "waiting": figures.waiting,
        "wanted_rate": figures.wanted_rate,
        "rate": figures.rate,
    }
    if figures.lost is not None:
        numbers["lost"] = figures.lost
    for stage, spread in figures.latency_ms.items():
        for name, value_ms in msgspec.structs.asdict(spread).items():
            numbers[f"latency_{stage}_{name}_ms"] = float(value_ms)
    numbers |= {f"cpu_{kind}": float(cores) for kind, cores in figures.cpu.items()}
    return figures_point("load", numbers, ts=figures.ts, worker=figures.run)


class LiveTeller:
    """Tells a test's figures while it runs. The store is not open yet; it is closed by `close`."""

    def __init__(
        self,
        course: Course,
        *,
        city: str,
        publish: Publish | None = None,
        store: Store | None = None,
    ) -> None:
        self._course = course
        self._topic = load_topic(city, course.plan.run, "figures")
        self._publish = publish
        self._store = store
        self._opened = False
        self._told_s = -1.0

    async def run(self) -> None:
        """Tell once a second until cancelled."""
        while True:
            started_s = time.monotonic()
            await self.tell()
            await asyncio.sleep(max(0.0, EVERY_S - (time.monotonic() - started_s)))

    async def tell(self) -> None:
        """Tell the newest second, once; what goes wrong becomes a warning of the course."""
        second = self._course.latest()
        if second is None or second.at_s <= self._told_s:
            return
        self._told_s = second.at_s
        figures = live_figures(self._course, second)
        async with asyncio.TaskGroup() as telling:
            telling.create_task(self._to_broker(figures), name="figures to MQTT")
            telling.create_task(self._to_store(figures), name="figures to the store")

    async def close(self) -> None:
        """Let go of the store."""
        if self._store is not None and self._opened:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await self._store.close()
            except (CityEyeError, OSError, TimeoutError) as error:
                self._warn(f"store {self._store.name}", error)

    async def _to_broker(self, figures: LoadFigures) -> None:
        if self._publish is None:
            return
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._publish(self._topic, msgspec.json.encode(figures))
        except (CityEyeError, OSError, TimeoutError) as error:
            self._warn(f"topic {self._topic}", error)

    async def _to_store(self, figures: LoadFigures) -> None:
        if self._store is None:
            return
        try:
            async with asyncio.timeout(_PATIENCE_S):
                if not self._opened:
                    await self._store.open()
                    self._opened = True
                await self._store.write([stored_point(figures)])
        except (CityEyeError, OSError, TimeoutError) as error:
            self._warn(f"store {self._store.name}", error)

    def _warn(self, where: str, error: Exception) -> None:
        why = str(error) or f"no answer within {_PATIENCE_S:g} s"
        self._course.warn(
            f"live figures did not reach the {where}: {why}; the test is not affected"
        )
