"""Announces the simulated time on the clock topic, so that instants can be judged by it."""

import asyncio
from typing import Final

from broker.messages import ClockTick, encode
from broker.session import Session
from broker.topics import clock_topic
from city.clock import Clock, wall_ms

_EVERY_S: Final = 5.0
_FAST_EVERY_S: Final = 0.2


class Timekeeper:
    """Publishes a city's clock, retained."""

    def __init__(self, session: Session, clock: Clock, *, city: str, seed: int) -> None:
        self._session = session
        self._clock = clock
        self._city = city
        self._seed = seed

    async def announce(self) -> None:
        """Publish the simulated time once; returns when the broker has it."""
        fast = self._clock.as_fast_as_possible
        tick = ClockTick(
            ts=self._clock.now_ms(),
            speed=0.0 if fast else self._clock.speed,
            seed=self._seed,
            wall=wall_ms(),
        )
        await self._session.publish(clock_topic(self._city), encode(tick), retain=True)

    async def run(self) -> None:
        """Publish the simulated time now and then, until cancelled."""
        while True:
            await asyncio.sleep(_FAST_EVERY_S if self._clock.as_fast_as_possible else _EVERY_S)
            await self.announce()
