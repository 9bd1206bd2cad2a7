"""What time it is in the city, learnt from its clock topic, and which instants are believable."""

from typing import Final

from broker.messages import ClockTick

_YEAR_2000_MS: Final = 946_684_800_000
_YEAR_2100_MS: Final = 4_102_444_800_000
_DAY_MS: Final = 86_400_000


class ClockWatch:
    """The span of believable instants of measurement.

    Without a clock, anything in this century is believable. With one, a reading may lie
    `ahead_ms` in the future (clocks differ) and `behind_ms` in the past (a device may have kept
    its readings through an outage). A city that runs as fast as possible announces its clock
    irregularly and gets a day ahead.
    """

    def __init__(self, *, ahead_ms: int = 300_000, behind_ms: int = 30 * _DAY_MS) -> None:
        self._ahead_ms = ahead_ms
        self._behind_ms = behind_ms
        self._tick: ClockTick | None = None

    def learn(self, tick: ClockTick) -> None:
        """Take note of the newest announcement."""
        self._tick = tick

    def span_ms(self, wall_ms: int) -> tuple[int, int]:
        """The earliest and latest believable instant when the wall clock shows `wall_ms`."""
        tick = self._tick
        if tick is None:
            return _YEAR_2000_MS, _YEAR_2100_MS
        if not tick.speed:
            return tick.ts - self._behind_ms, tick.ts + _DAY_MS
        now_ms = tick.ts + int(max(0, wall_ms - tick.wall) * tick.speed)
        ahead_ms = int(self._ahead_ms * max(1.0, tick.speed))
        return now_ms - self._behind_ms, now_ms + ahead_ms
