"""Tells the ground truth as it happens: on the truth topic, and into the truth log."""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol

import structlog

from broker.messages import TruthRecord, encode
from broker.session import Session
from broker.topics import truth_topic
from city.clock import Clock
from city.errors import StoreError
from sensors.truth import TruthLog

_log = structlog.get_logger(__name__)

_EVERY_S: Final = 0.5
_UNWRITTEN_MAX: Final = 10_000


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
        self._known_ms = clock.start_ms
        self._untold: deque[TruthRecord] = deque()
        self._unwritten: deque[TruthRecord] = deque(maxlen=_UNWRITTEN_MAX)
        self._warned = False

    async def run(self) -> None:
        """Tell what happens until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.tell(self._clock.now_ms())

    async def tell(self, until_ms: int) -> None:
        """Tell what begins before `until_ms` and was not told yet; go on where it was cut short."""
        if until_ms > self._known_ms:
            records = list(self._engine.truths(self._known_ms, until_ms))
            self._known_ms = until_ms
            self._unwritten += records
            self._untold += records
        self._write()
        while self._untold:
            await self._session.publish(self._topic, encode(self._untold[0]))
            self._untold.popleft()
            self.told += 1

    def _write(self) -> None:
        """Append to the log; what a full disk does not take is tried again next time."""
        if self._log is None:
            self._unwritten.clear()
            return
        try:
            self._log.write(self._unwritten)
        except StoreError as error:
            if not self._warned:
                _log.warning("the truth log cannot be written", why=str(error))
            self._warned = True
        else:
            self._unwritten.clear()
