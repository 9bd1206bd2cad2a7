"""Simulated time: real, N times faster, or as fast as the work goes.

Every part that needs the time gets a clock; nothing else in CityEye reads one.
"""

import asyncio
import math
import time


class Clock:
    """Simulated time in milliseconds since the epoch, UTC.

    `speed` is simulated seconds per wall second; `math.inf` means that time stands still while
    there is work and jumps to the next instant that somebody waits for.
    """

    def __init__(self, start_ms: int, *, speed: float = 1.0) -> None:
        if not speed > 0:
            raise ValueError(f"speed must be above 0, not {speed}")
        self.start_ms = start_ms
        self.speed = speed
        self._started_s = time.monotonic()
        self._now_ms = start_ms

    @property
    def as_fast_as_possible(self) -> bool:
        """Whether time is driven by the work and not by the wall."""
        return math.isinf(self.speed)

    def now_ms(self) -> int:
        """The simulated instant."""
        if self.as_fast_as_possible:
            return self._now_ms
        return self.start_ms + int((time.monotonic() - self._started_s) * 1000.0 * self.speed)

    async def sleep_until(self, instant_ms: int) -> None:
        """Return when the simulated instant has come; at once if it has passed."""
        if self.as_fast_as_possible:
            self._now_ms = max(self._now_ms, instant_ms)
            await asyncio.sleep(0)
            return
        delay_s = (instant_ms - self.now_ms()) / 1000.0 / self.speed
        await asyncio.sleep(max(0.0, delay_s))


def wall_ms() -> int:
    """The wall clock, in milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000
