"""What downsampled readings are called, and how a row of them looks in the store.

The readings of a device become one row per minute in measurement `<domain>_1m` and one per hour in
`<domain>_1h`, under the tags of the readings. A row's instant is the START of its interval, as with
InfluxQL's `GROUP BY time` and the minute and hour data (2051, 2061) of HJ 212-2017. Intervals are
aligned to UTC.

Of every quantity a row has `<quantity>`, the mean, `<quantity>_min`, `<quantity>_max` and
`<quantity>_count`. Only values whose flag counts go in: normal, set by hand, and over range.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.quantities import QUANTITIES
from city.readings import Flag
from ingest.store import Point, PointKey

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
SUFFIXES: Final = {MINUTE_MS: "_1m", HOUR_MS: "_1h"}
"""What the measurement of an interval's rows has after the domain."""

MEASUREMENTS: Final = frozenset(
    row.domain + suffix for row in QUANTITIES.values() for suffix in SUFFIXES.values()
)
"""Every measurement that holds downsampled readings."""

POLICY: Final = "rollup"
"""The retention policy that keeps them, beside the one of the readings."""

COUNTS: Final = np.isin(np.arange(len(Flag)), (Flag.N, Flag.S, Flag.T))
"""By flag: whether a value counts."""

RowName = tuple[str, str, str, str]
"""The fields of a quantity's mean, minimum, maximum and count."""

NAMES: Final[dict[str, RowName]] = {
    name: (name, f"{name}_min", f"{name}_max", f"{name}_count") for name in QUANTITIES
}


class Segments(msgspec.Struct, frozen=True, gc=False):
    """What is known of some series in some intervals: arrays of one length n.

    `series` are indices into the series table, `at` the start of the interval [ms since the epoch,
    UTC], `total`, `low` and `high` the sum, minimum and maximum of `count` values in the quantity's
    canonical unit.
    """

    series: NDArray[np.int32]
    at: NDArray[np.int64]
    total: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    count: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.series)

    def where(self, rows: NDArray[np.bool_]) -> "Segments":
        """Only these rows."""
        return Segments(
            self.series[rows],
            self.at[rows],
            self.total[rows],
            self.low[rows],
            self.high[rows],
            self.count[rows],
        )

    def within(self, interval_ms: int) -> "Segments":
        """The same, as parts of longer intervals."""
        longer = self.at // interval_ms * interval_ms
        return Segments(self.series, longer, self.total, self.low, self.high, self.count)


def of_values(
    series: NDArray[np.int32], at: NDArray[np.int64], value: NDArray[np.float64]
) -> Segments:
    """Every value as a segment of its own."""
    return Segments(series, at, value, value, value, np.ones(len(series), dtype=np.int32))


def merged(*parts: Segments) -> Segments:
    """One segment per series and interval, sorted by both."""
    series = np.concatenate([part.series for part in parts])
    at = np.concatenate([part.at for part in parts])
    order = np.lexsort((at, series)) if len(at) and at.min() < at.max() else _by_series(series)
    series, at = series[order], at[order]
    first = np.ones(len(series), dtype=np.bool_)
    first[1:] = (series[1:] != series[:-1]) | (at[1:] != at[:-1])
    starts = np.flatnonzero(first)
    total, low, high, count = (
        np.concatenate([getattr(part, name) for part in parts])[order]
        for name in ("total", "low", "high", "count")
    )
    if len(starts) == len(series):
        return Segments(series, at, total, low, high, count)
    with np.errstate(over="ignore", invalid="ignore"):  # a mean is put right where it is made
        return Segments(
            series[starts],
            at[starts],
            np.add.reduceat(total, starts),
            np.minimum.reduceat(low, starts),
            np.maximum.reduceat(high, starts),
            np.add.reduceat(count, starts),
        )


def _by_series(series: NDArray[np.int32]) -> NDArray[np.intp]:
    return np.argsort(series, kind="stable")


def points_of(
    segments: Segments,
    devices: NDArray[np.int32],
    key: Callable[[int], PointKey],
    names: Callable[[int], RowName],
) -> Iterator[Point]:
    """The rows of `segments`, one per device and interval, in the order of the devices.

    Args:
        segments: At most one per series and interval.
        devices: The device of each segment.
        key: Under what the rows of a device are stored.
        names: The fields of a series.
    """
    order = np.lexsort((segments.series, segments.at, devices))
    with np.errstate(over="ignore", invalid="ignore"):
        # rounding may lead out of the extremes, and a sum of huge values to infinity
        mean = np.clip(segments.total / segments.count, segments.low, segments.high)
    mean = np.where(np.isnan(mean), segments.low, mean)
    columns = (devices, segments.at, segments.series, mean, segments.low, segments.high,
               segments.count)  # fmt: skip
    place: tuple[int, int] | None = None
    row = Point(PointKey("", ()), 0, {}, {}, {})
    for device, at, series, *numbers, count in zip(
        *(column[order].tolist() for column in columns), strict=True
    ):
        if place != (device, at):
            if place:
                yield row
            place, row = (device, at), Point(key(device), at, {}, {}, {})
        middle, least, most, counted = names(series)
        row.values[middle], row.values[least], row.values[most] = numbers
        row.counts[counted] = count
    if place:
        yield row


class Parts(msgspec.Struct, frozen=True):
    """Points by how long they are kept."""

    others: Sequence[Point]
    """Readings, and everything else that is no downsampled reading."""
    rows: Sequence[Point]

    @classmethod
    def of(cls, points: Sequence[Point]) -> "Parts":
        """The parts of `points`, each in their order."""
        rows = [point for point in points if point.key.measurement in MEASUREMENTS]
        if not rows:
            return cls(points, ())
        return cls([point for point in points if point.key.measurement not in MEASUREMENTS], rows)
