"""The intervals that devices are in: sums, extremes and counts of what they have measured so far."""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from city.cityfile import Address
from city.readings import SeriesTable
from ingest.rollups import Segments, merged

NEVER: Final = -1
"""The start of an interval where there is none yet."""

NOTHING: Final = Segments(
    np.empty(0, np.int32),
    np.empty(0, np.int64),
    np.empty(0, np.float64),
    np.empty(0, np.float64),
    np.empty(0, np.float64),
    np.empty(0, np.int32),
)


class Roster:
    """Which device a series belongs to, and which series a device has."""

    def __init__(self) -> None:
        self.addresses: list[Address] = []
        self.device = np.empty(0, np.int32)
        """Of each series."""
        self.quantities: list[str] = []
        """Of each series."""
        self.known = 0
        """How many series."""
        self._numbers: dict[Address, int] = {}
        self._by_device = np.empty(0, np.int32)
        self._first = np.zeros(1, np.int64)
        self._sorted = True

    def learn(self, table: SeriesTable) -> None:
        """Take note of the series that are new in `table`."""
        if len(table) == self.known:
            return
        self.device = grown(self.device, len(table), 0)
        for series in range(self.known, len(table)):
            address = table[series].address
            self.quantities.append(table[series].quantity)
            number = self._numbers.setdefault(address, len(self.addresses))
            if number == len(self.addresses):
                self.addresses.append(address)
            self.device[series] = number
        self.known = len(table)
        self._sorted = False

    def series_of(self, devices: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
        """All series of `devices`."""
        if not self._sorted:
            device = self.device[: self.known]
            self._by_device = np.argsort(device, kind="stable").astype(np.int32)
            self._first = np.searchsorted(
                device[self._by_device], np.arange(len(self.addresses) + 1)
            )
            self._sorted = True
        first, lengths = self._first[devices], self._first[devices + 1] - self._first[devices]
        before = np.cumsum(lengths) - lengths
        places = np.repeat(first - before, lengths) + np.arange(lengths.sum())
        found: NDArray[np.int32] = self._by_device[places]
        return found


class OpenIntervals:
    """One open interval per device, of `interval_ms`, and in it one segment per series."""

    SERIES_ARRAYS: Final = ("total", "low", "high", "count")
    DEVICE_ARRAYS: Final = ("start", "fresh")

    def __init__(self, interval_ms: int, roster: Roster) -> None:
        self.interval_ms = interval_ms
        self.start = np.empty(0, np.int64)
        """Of each device's interval [ms since the epoch], `NEVER` before its first reading."""
        self.fresh = np.empty(0, np.bool_)
        """Whether a device's interval has what was told in no row yet."""
        self.total = np.empty(0, np.float64)
        self.low = np.empty(0, np.float64)
        self.high = np.empty(0, np.float64)
        self.count = np.empty(0, np.int32)
        self._roster = roster
        self._moving = np.empty(0, np.bool_)

    def make_room(self) -> None:
        """Have a place for every series and device of the roster."""
        series, devices = self._roster.known, len(self._roster.addresses)
        self.start = grown(self.start, devices, NEVER)
        self.fresh = grown(self.fresh, devices, fill=False)
        self._moving = grown(self._moving, devices, fill=False)
        self.total = grown(self.total, series, 0.0)
        self.low = grown(self.low, series, np.inf)
        self.high = grown(self.high, series, -np.inf)
        self.count = grown(self.count, series, 0)

    def feed(
        self, segments: Segments, devices: NDArray[np.integer[Any]], starts: NDArray[np.int64]
    ) -> Segments:
        """Add `segments`, move `devices` on to the intervals at `starts`, return what that closed.

        Args:
            segments: One per series and interval; none after the new interval of its device, and
                none before its present one.
            devices: Each once; all that have a segment.
            starts: Where the device's newest interval begins [ms]; never before its present one.
        """
        moved = starts > self.start[devices]
        self.fresh[devices] = True
        if not moved.any():
            self._add(segments)
            return NOTHING
        movers = devices[moved]
        self._moving[movers] = True
        beyond = self._moving[self._roster.device[segments.series]]
        self._moving[movers] = False
        self._add(segments.where(~beyond))
        before = self._held(movers)
        self._clear(before.series)
        self.start[movers] = starts[moved]
        return self._keep_open(merged(before, segments.where(beyond)))

    def due(self, newest_ms: int) -> NDArray[np.intp]:
        """The devices whose interval has been over for another one at `newest_ms`, and is untold.

        They count as told from now on.
        """
        over = self.fresh & (self.start + 2 * self.interval_ms <= newest_ms) & (self.start >= 0)
        devices = np.flatnonzero(over)
        self.fresh[devices] = False
        return devices

    def of(self, devices: NDArray[np.integer[Any]]) -> Segments:
        """What the open intervals of `devices` hold."""
        return self._held(devices)

    def _held(self, devices: NDArray[np.integer[Any]]) -> Segments:
        series = self._roster.series_of(devices)
        series = series[self.count[series] > 0]
        return Segments(
            series,
            self.start[self._roster.device[series]],
            self.total[series],
            self.low[series],
            self.high[series],
            self.count[series],
        )

    def _clear(self, series: NDArray[np.int32]) -> None:
        self.total[series], self.count[series] = 0.0, 0
        self.low[series], self.high[series] = np.inf, -np.inf

    def _keep_open(self, segments: Segments) -> Segments:
        """Add those of the open intervals, and return the others."""
        still = segments.at == self.start[self._roster.device[segments.series]]
        self._add(segments.where(still))
        return segments.where(~still)

    def _add(self, segments: Segments) -> None:
        """Add segments of the open intervals, one per series."""
        series = segments.series
        with np.errstate(over="ignore", invalid="ignore"):  # put right where a mean is made
            self.total[series] += segments.total
        self.low[series] = np.minimum(self.low[series], segments.low)
        self.high[series] = np.maximum(self.high[series], segments.high)
        self.count[series] += segments.count

    def arrays(self, names: Iterable[str], length: int) -> list[NDArray[Any]]:
        """Copies of these arrays, cut to `length`."""
        return [getattr(self, name)[:length].copy() for name in names]


def grown(array: NDArray[Any], length: int, fill: float) -> NDArray[Any]:
    """`array` with at least `length` places, the new ones filled; a quarter more, to seldom grow."""
    if length <= len(array):
        return array
    wider = np.full(length + length // 4, fill, array.dtype)
    wider[: len(array)] = array
    return wider
