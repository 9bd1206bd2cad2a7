"""Tells the ground truth as it happens: on the truth topic, and into the truth log."""

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol

from broker.messages import TruthRecord, encode
from broker.session import Session
from broker.topics import truth_topic
from city.clock import Clock
from sensors.truth import TruthLog

_EVERY_S: Final = 0.5


class Knowing(Protocol):
    """Whoever knows what begins to happen: the engine."""

    def truths(self, from_ms: int, until_ms: int) -> Iterable[TruthRecord]:
        """What begins from `from_ms` to before `until_ms`."""


class Truthteller:
    """Publishes every event of a city when it begins; nothing of it is in the telemetry."""

    def __init__(
        self,
        session: Session,
        engine: Knowing,
        clock: Clock,
        *,
        city: str,
        log: TruthLog | None = None,
    ) -> None:
        self.told = 0
        self._session = session
        self._engine = engine
        self._clock = clock
        self._topic = truth_topic(city)
        self._log = log
        self._told_ms = clock.start_ms

    async def run(self) -> None:
        """Tell what happens until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.tell(self._clock.now_ms())

    async def tell(self, until_ms: int) -> None:
        """Tell what begins before `until_ms` and was not told yet."""
        from_ms, self._told_ms = self._told_ms, max(self._told_ms, until_ms)
        records = list(self._engine.truths(from_ms, self._told_ms))
        if self._log is not None:
            self._log.write(records)
        for record in records:
            self.told += 1
            await self._session.publish(self._topic, encode(record))
