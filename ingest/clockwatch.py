"""What time it is in a city, learnt from its clock topic, and which instants are believable."""

from typing import Final

from broker.messages import ClockTick
from city.errors import PayloadError

_YEAR_2000_MS: Final = 946_684_800_000
_YEAR_2100_MS: Final = 4_102_444_800_000
_DAY_MS: Final = 86_400_000
_INSTANT_MAX_MS: Final = 2**53
"""No instant on the wire lies further from the epoch."""


class ClockWatch:
    """The span of believable instants of measurement.

    Without a clock, anything in this century is believable. With one, a reading may lie
    `ahead_ms` in the future (clocks differ) and `behind_ms` in the past (a device may have kept
    its readings through an outage). A city that runs as fast as possible announces its clock
    irregularly and gets a day ahead.
    """

    def __init__(self, *, ahead_ms: int = 300_000, behind_ms: int = 30 * _DAY_MS) -> None:
        self.span_ms = (_YEAR_2000_MS, _YEAR_2100_MS)
        """The earliest and latest believable instant, as of the last `look`."""
        self._ahead_ms = ahead_ms
        self._behind_ms = behind_ms
        self._tick: ClockTick | None = None

    def learn(self, tick: ClockTick) -> None:
        """Take note of the newest announcement.

        Raises:
            PayloadError: Its time runs backwards.
        """
        if tick.speed < 0:
            raise PayloadError("impossible-clock", f"speed {tick.speed} is below 0")
        self._tick = tick

    def look(self, wall_ms: int) -> None:
        """Bring `span_ms` up to date when the wall clock shows `wall_ms`."""
        tick = self._tick
        if tick is None:
            return
        if not tick.speed:
            self.span_ms = (tick.ts - self._behind_ms, tick.ts + _DAY_MS)
            return
        now_ms = _bounded(tick.ts + max(0, wall_ms - tick.wall) * tick.speed)
        ahead_ms = _bounded(self._ahead_ms * max(1.0, tick.speed))
        self.span_ms = (now_ms - self._behind_ms, now_ms + ahead_ms)


def _bounded(ms: float) -> int:
    """Whole milliseconds; any speed is allowed, so that the product may be infinite."""
    return int(min(ms, _INSTANT_MAX_MS))
