"""What a rule looks at: a number per device, made from its readings.

A `Signal` says which number: a quantity as it comes, its mean over an hour, its rate of change, the
time since anything was heard, an air quality index, the ratio of two others. An operator makes the
numbers of one kind of signal from what arrives; the engine then holds them against limits as it
does with readings, so that every kind of rule has the same deadbands, delays and life.

What an operator says depends on the readings and their order alone, never on how they are batched:
a derived number carries the position of the reading that completed it.
"""

from collections.abc import Mapping
from datetime import datetime, time, tzinfo
from typing import Any, Final, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Stat = Literal[
    "value", "mean", "sd", "min", "max", "range", "share", "rate", "stuck", "flagged",
    "hour", "hours-8", "hours-24", "day", "mda8", "silence", "index",
]  # fmt: skip
"""`mean` to `share` are over a sliding window, `hour` to `mda8` over calendar hours with the
validity rule of GB 3095-2026, Table 4."""

WINDOWED: Final = frozenset({"mean", "sd", "min", "max", "range", "share"})
HOURLY: Final = frozenset({"hour", "hours-8", "hours-24", "day", "mda8"})
IN_UNIT: Final = frozenset({"value", "mean", "sd", "min", "max", "range"}) | HOURLY
"""Statistics in the unit of their quantity. `rate` is per minute; `stuck` and `silence` are in
seconds; `share` and `flagged` in 1; an index has no unit."""
COUNTED: Final = "NST"
"""The flags of values that say something about the medium."""

Index = Literal[
    "aqi-2012", "aqi-2026", "aqi-day-2012", "aqi-day-2026", "us-epa-2024", "river-class"
]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: Final[tuple[Weekday, ...]] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Shift(msgspec.Struct, frozen=True, kw_only=True):
    """When a rule watches, in local time; a span over midnight belongs to the day it begins on."""

    begins: time = time(0)
    ends: time = time(0)
    """Equal to `begins`: all day."""
    days: frozenset[Weekday] = frozenset(WEEKDAYS)
    months: frozenset[int] = frozenset(range(1, 13))

    def holds(self, ts: int, zone: tzinfo) -> bool:
        """Whether the instant `ts` [ms] lies in the shift."""
        local = datetime.fromtimestamp(ts / 1000, zone)
        now, day = local.time(), local.weekday()
        over_midnight = self.begins > self.ends
        if over_midnight and now < self.ends:
            day, inside = (day - 1) % 7, True
        elif over_midnight:
            inside = now >= self.begins
        else:
            inside = self.begins == self.ends or self.begins <= now < self.ends
        return inside and WEEKDAYS[day] in self.days and local.month in self.months


class Signal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, cache_hash=True):
    """A number per device. Which fields count depends on `stat`; the rule file has checked them."""

    stat: Stat = "value"
    quantity: str = ""
    """Empty for `silence` and `index`."""
    window_ms: int = 0
    """`mean` to `share`, `rate`: how far back. `silence`: the shortest silence that counts."""
    step_ms: int = 0
    """`mean` to `share`: how often a number comes; divides the window and, in all, the day."""
    at_least: float = 0.75
    """The part of the window, or of an hour, that valid readings must cover."""
    band: tuple[float, float] | None = None
    """`share`: the closed interval, in the canonical unit."""
    flags: str = COUNTED
    """The letters of the flags that count; others than `COUNTED` for `value` and `flagged` only."""
    intervals: float = 5.0
    """`silence`: so many of the device's own intervals, but at least the window."""
    index: Index | None = None
    when: Shift | None = None
    """`value` only: outside the shift nothing is crossed."""
    at: str = ""
    """The kind of the device, at the same site, that it is taken from; empty: the device itself."""
    over: "Signal | None" = None
    """The signal is the quotient of this one and that; both have the same step."""
    minus: "Signal | None" = None
    """The same for the difference."""

    @property
    def id(self) -> str:
        """Its name, the same for equal signals."""
        return msgspec.json.encode(self).decode()

    @property
    def name(self) -> str:
        """What it is a number of: the quantity, the index, or that nothing is heard."""
        return self.quantity or self.index or self.stat

    @property
    def is_raw(self) -> bool:
        """Whether it is the readings of its quantity as they come."""
        plain = self.stat == "value" and self.flags == COUNTED and self.when is None
        return plain and self.over is None and self.minus is None

    @property
    def alone(self) -> "Signal":
        """The signal without what it is compared with and without where it is taken."""
        return msgspec.structs.replace(self, over=None, minus=None, at="")


class Arrived(msgspec.Struct, frozen=True):
    """Readings in the order of arrival, on the engine's own numbering of series; all of length n.

    `row` is the position in the batch as it arrived, ascending; `ts` in ms, `value` in canonical
    units, `flag` as in `city.readings.Flag`. Per series `ts` never decreases.
    """

    row: NDArray[np.int64]
    series: NDArray[np.int64]
    ts: NDArray[np.int64]
    value: NDArray[np.float64]
    flag: NDArray[np.uint8]


class Derived(msgspec.Struct, frozen=True):
    """Numbers of signals; all of length m.

    `row` is the position of the reading that completed the number, `series` the output that was
    given to `include`, `ts` the instant that the number is of (for a window its end) and never
    decreases per output. NaN says that the signal has no value from then on.
    """

    row: NDArray[np.int64]
    series: NDArray[np.int64]
    ts: NDArray[np.int64]
    value: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.row)


class Operator(Protocol):
    """Makes the numbers of one kind of signal, for any number of series.

    Its state is arrays over its own slots, one per series included; they grow by doubling.
    """

    def include(self, series: int, signal: Signal, out: int, interval_ms: int) -> None:
        """Make the numbers of `signal` from the readings of `series`, from now on, as `out`.

        Calling it again with the same series, signal and out only updates the interval.
        """

    def exclude(self, series: int, signal: Signal) -> None:
        """Make them no more."""

    def take(self, arrived: Arrived) -> Derived:
        """What the readings complete; those of series that are not included are passed over."""

    def capture(self) -> Mapping[str, Any]:
        """A copy of the state, of arrays, numbers, text, lists and dicts; by series, not by slot."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a state captured by an operator of the same configuration.

        Called after the series were included, maybe in another order, maybe not all, maybe more.
        """


def derived(
    row: NDArray[np.int64],
    series: NDArray[np.int64],
    ts: NDArray[np.int64],
    value: NDArray[np.float64],
) -> Derived:
    """The numbers in the order of their rows, those of one row as they were given."""
    order = np.argsort(row, kind="stable")
    return Derived(row[order], series[order], ts[order], value[order])


NOTHING: Final = Derived(
    np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64),
    np.empty(0, dtype=np.int64), np.empty(0),
)  # fmt: skip
