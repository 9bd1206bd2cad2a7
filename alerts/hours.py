"""Means over clock hours and calendar days, valid as air quality standards say.

A reading covers the time since the previous one of its series, at most one and a half intervals or
a minute. An hour's mean is that of the readings in (start, end]; it is valid if enough of the hour
is covered (45 minutes: GB 3095-2026, Table 4), and known when the first later reading arrives.

Values are summed in millionths of their unit, as integers: sums do not depend on the order of
summation, and the mean of equal values of up to six decimals is that value.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, time, tzinfo
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from alerts.signals import COUNTED, NOTHING, Arrived, Derived, Signal, derived
from city.readings import Flag

HOUR_MS: Final = 3_600_000
NEVER: Final = -(2**31)
"""An hour and, in ms, an instant that is before all others."""
HOURS_KEPT: Final = 25
"""The longest calendar day."""
GAP_HOURS: Final = 2 * HOURS_KEPT + 2
"""So many hours after its last reading, nothing of a series is valid any more."""
MILLIONTHS: Final = 1e6

_LARGEST: Final = 1e9
_SHORTEST_CAP_MS: Final = 60_000
_COUNTED: Final = np.array([flag.name in COUNTED for flag in sorted(Flag)])
_LEAST_OF_8: Final = 6
"""Valid hours in a mean over eight: GB 3095-2026, Table 4 (A)."""
_LEAST_OF_DAY: Final = 20
"""Valid hours in a daily mean: GB 3095-2026, Table 4 (A)."""
_LEAST_OF_MDA8: Final = 14
"""Valid 8-hour means in a day, of the 17 that lie within it: HJ 663-2013 (D)."""
_MDA8_CERTAIN_ABOVE: Final = 100.0
"""The largest of fewer counts all the same if it exceeds the limit: HJ 663-2013 (D); the lowest
limit is that of class 1, GB 3095-2026, Table 1 (A) [ug/m3]."""

Windows = tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]
"""Hourly means of m series, newest first: `micro` (m, width) in millionths, `valid` (m, width), and
the number of hours of the local day that ends with the newest (m,), 0 where none does."""


class Slots:
    """Rows of state, one per key (a series or an output), in columns that grow by doubling.

    `state` is captured by key and restored, `settings` are not; each is given as one blank row.
    """

    def __init__(
        self, state: Mapping[str, NDArray[Any]], settings: Mapping[str, NDArray[Any]]
    ) -> None:
        self._state = tuple(state)
        self._blank = {**state, **settings}
        self._columns = {
            name: np.empty((0, *blank.shape), blank.dtype) for name, blank in self._blank.items()
        }
        self._slot_of = np.full(1, -1, dtype=np.int64)
        self._keys: dict[int, int] = {}
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: int) -> bool:
        return key in self._keys

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self._columns[column]

    @property
    def capacity(self) -> int:
        """One more than the highest slot there can be."""
        return len(next(iter(self._columns.values())))

    def slot(self, key: int) -> int:
        """The slot of a key that is there."""
        return self._keys[key]

    def find(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """The slots of `keys`, -1 for those that are not there."""
        last = len(self._slot_of) - 1
        if len(keys) and keys.max() >= last:
            return self._slot_of[np.minimum(keys, last)]
        return self._slot_of[keys]

    def add(self, key: int) -> int:
        """The slot of `key`, blank if it is new."""
        if key in self._keys:
            return self._keys[key]
        if not self._free:
            self._grow()
        slot = self._keys[key] = self._free.pop()
        for name, blank in self._blank.items():
            self._columns[name][slot] = blank
        if key >= len(self._slot_of) - 1:
            # The last element stays -1: it stands for all keys beyond.
            more = np.full(key + 2, -1, dtype=np.int64)
            self._slot_of = np.concatenate((self._slot_of, more))
        self._slot_of[key] = slot
        return slot

    def remove(self, key: int) -> None:
        """Forget `key`, if it is there."""
        slot = self._keys.pop(key, None)
        if slot is not None:
            self._slot_of[key] = -1
            self._free.append(slot)

    def capture(self) -> dict[str, Any]:
        """A copy of the state, by key."""
        slots = np.fromiter(self._keys.values(), dtype=np.int64, count=len(self._keys))
        keys = np.fromiter(self._keys, dtype=np.int64, count=len(self._keys))
        return {"keys": keys} | {name: self._columns[name][slots] for name in self._state}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what was captured of the keys that are there."""
        slots = self.find(np.asarray(state["keys"], dtype=np.int64))
        known = slots >= 0
        for name in self._state:
            self._columns[name][slots[known]] = np.asarray(state[name])[known]

    def _grow(self) -> None:
        size = self.capacity
        more = max(size, 16)
        for name, column in self._columns.items():
            wider = np.empty((size + more, *column.shape[1:]), column.dtype)
            wider[:size] = column
            self._columns[name] = wider
        self._free.extend(range(size + more - 1, size - 1, -1))


class Calendar:
    """Clock hours and local days, as whole numbers of hours since the epoch.

    Where a zone is off by a part of an hour, that part is taken to be the same all year.
    """

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        offset = datetime(2026, 1, 1, tzinfo=UTC).astimezone(zone).utcoffset()
        self._phase_ms = int(offset.total_seconds() * 1000) % HOUR_MS if offset else 0
        self._days: dict[int, int] = {}

    def hour(self, ts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The hour that an instant [ms] lies in; its end belongs to it."""
        return (ts + (self._phase_ms - 1)) // HOUR_MS

    def start(self, hour: NDArray[np.int64]) -> NDArray[np.int64]:
        """The start of an hour [ms]."""
        return hour * HOUR_MS - self._phase_ms

    def end(self, hour: NDArray[np.int64]) -> NDArray[np.int64]:
        """The end of an hour [ms]."""
        return self.start(hour) + HOUR_MS

    def day_hours(self, hour: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of hours of the local day that ends with `hour`, 0 where none does."""
        distinct, at = np.unique(hour, return_inverse=True)
        return np.array([self._day(int(one)) for one in distinct], dtype=np.int64)[at]

    def _day(self, hour: int) -> int:
        if hour not in self._days:
            if len(self._days) > 10 * GAP_HOURS:
                self._days.clear()
            end_s = ((hour + 1) * HOUR_MS - self._phase_ms) / 1000
            within = datetime.fromtimestamp(end_s - 1, self._zone).date()
            midnight = datetime.combine(within, time(0), self._zone)
            over = datetime.fromtimestamp(end_s, self._zone).date() != within
            hours = round((end_s - midnight.timestamp()) * 1000 / HOUR_MS)
            self._days[hour] = hours if over else 0
        return self._days[hour]


class ClosedHours(msgspec.Struct, frozen=True):
    """Hours with readings that are over, in the order of their rows; all of length n.

    `later` is the instant of the reading that closed them [ms], `micro` the mean in millionths.
    """

    row: NDArray[np.int64]
    series: NDArray[np.int64]
    hour: NDArray[np.int64]
    later: NDArray[np.int64]
    micro: NDArray[np.int64]
    covered_ms: NDArray[np.int64]


_INTEGERS: Final = np.empty(0, dtype=np.int64)
NO_HOURS: Final = ClosedHours(_INTEGERS, _INTEGERS, _INTEGERS, _INTEGERS, _INTEGERS, _INTEGERS)


def needed_ms(signal: Signal) -> int:
    """How much of an hour must be covered [ms]."""
    return round(signal.at_least * HOUR_MS)


def counted(arrived: Arrived) -> NDArray[np.bool_]:
    """Which readings say something about the medium."""
    return _COUNTED[arrived.flag] & np.isfinite(arrived.value)


def window_mean(
    micro: NDArray[np.int64], valid: NDArray[np.bool_], least: int
) -> NDArray[np.float64]:
    """The mean of the valid hours of each row, in the unit; NaN if there are fewer than `least`."""
    count = valid.sum(axis=-1)
    total = np.where(valid, micro, 0).sum(axis=-1)
    mean = np.full(count.shape, np.nan)
    np.divide(total, count * MILLIONTHS, out=mean, where=count >= least)
    return mean


def _day(windows: Windows) -> NDArray[np.float64]:
    micro, valid, _ = windows
    return window_mean(micro, valid & _within(windows), _LEAST_OF_DAY)


def _within(windows: Windows) -> NDArray[np.bool_]:
    """Which hours lie within the day that ends with the newest."""
    width = windows[0].shape[1]
    within: NDArray[np.bool_] = np.arange(width) < windows[2][:, np.newaxis]
    return within


def _mda8(windows: Windows) -> NDArray[np.float64]:
    micro, valid, _ = windows
    valid = valid & _within(windows)
    sliding = np.lib.stride_tricks.sliding_window_view
    means = window_mean(sliding(micro, 8, axis=1), sliding(valid, 8, axis=1), _LEAST_OF_8)
    means[~sliding(_within(windows), 8, axis=1).all(axis=-1)] = np.nan
    largest: NDArray[np.float64] = np.fmax.reduce(means, axis=1)
    enough = (~np.isnan(means)).sum(axis=1) >= _LEAST_OF_MDA8
    return np.where(enough | (largest > _MDA8_CERTAIN_ABOVE), largest, np.nan)


def _largest_hour(windows: Windows) -> NDArray[np.float64]:
    micro, valid, _ = windows
    valid = valid & _within(windows)
    largest = np.where(valid, micro, np.iinfo(np.int64).min).max(axis=1) / MILLIONTHS
    return np.where(valid.sum(axis=1) >= _LEAST_OF_DAY, largest, np.nan)


class HourStat(msgspec.Struct, frozen=True):
    """A statistic of the hourly means of the last `width` hours."""

    width: int
    of: Callable[[Windows], NDArray[np.float64]]
    daily: bool = False
    """Whether it is only of hours that end a local day."""


HOUR_STATS: Final[dict[str, HourStat]] = {
    "hour": HourStat(1, lambda windows: window_mean(windows[0], windows[1], 1)),
    "hours-8": HourStat(8, lambda windows: window_mean(windows[0], windows[1], _LEAST_OF_8)),
    "hours-24": HourStat(24, lambda windows: window_mean(windows[0], windows[1], _LEAST_OF_DAY)),
    "day": HourStat(HOURS_KEPT, _day, daily=True),
    "mda8": HourStat(HOURS_KEPT, _mda8, daily=True),
    "max-hour": HourStat(HOURS_KEPT, _largest_hour, daily=True),
}


class HourOperator:
    """Hourly means, and the means over hours and days made of them.

    `closed` holds the hours that the last `take` has closed, for operators that build on them and
    have said by `follow` of which series.
    """

    def __init__(self, zone: tzinfo) -> None:
        self.calendar = Calendar(zone)
        self.closed = NO_HOURS
        never, zero = np.array(NEVER, dtype=np.int64), np.array(0, dtype=np.int64)
        self._slots = Slots(
            {
                "hour": never, "last": never, "total": zero, "count": zero, "covered": zero,
                "hours": np.full(HOURS_KEPT, NEVER, dtype=np.int32),
                "micro": np.zeros(HOURS_KEPT, dtype=np.int64),
                "covers": np.zeros(HOURS_KEPT, dtype=np.int32),
            },
            {"series": zero, "cap": zero, "uses": zero},
        )  # fmt: skip
        self._boards: dict[Signal, Slots] = {}

    def include(self, series: int, signal: Signal, out: int, interval_ms: int) -> None:
        """Make the numbers of `signal` from the readings of `series`, from now on, as `out`."""
        board = self._board(signal)
        if series not in board:
            self.follow(series)
        self.retime(series, interval_ms)
        slot = board.add(series)
        board["out"][slot] = out

    def exclude(self, series: int, signal: Signal) -> None:
        """Make them no more."""
        board = self._boards.get(signal)
        if board is not None and series in board:
            board.remove(series)
            self.leave(series)
            if not len(board):
                del self._boards[signal]

    def follow(self, series: int) -> None:
        """Close the hours of `series` for one more; its interval is to be told by `retime`."""
        slot = self._slots.add(series)
        self._slots["series"][slot] = series
        self._slots["uses"][slot] += 1

    def leave(self, series: int) -> None:
        """Undo one `follow`."""
        slot = self._slots.slot(series)
        self._slots["uses"][slot] -= 1
        if not self._slots["uses"][slot]:
            self._slots.remove(series)

    def retime(self, series: int, interval_ms: int) -> None:
        """Set the interval of a series that is followed."""
        cap = max(_SHORTEST_CAP_MS, 3 * interval_ms // 2)
        self._slots["cap"][self._slots.slot(series)] = cap

    def take(self, arrived: Arrived) -> Derived:
        """What the readings complete."""
        self.closed = NO_HOURS
        slot = self._slots.find(arrived.series)
        rows = np.flatnonzero((slot >= 0) & counted(arrived))
        if not len(rows):
            return NOTHING
        rows = rows[np.argsort(slot[rows], kind="stable")]
        spans = self._spans(slot[rows], arrived.ts[rows], arrived.value[rows], arrived.row[rows])
        made: list[Derived] = []
        closed = [self._enter(span, made) for span in spans]
        self.closed = _joined(closed)
        return _all(made)

    def capture(self) -> Mapping[str, Any]:
        """A copy of the state."""
        boards = {signal.id: board.capture() for signal, board in self._boards.items()}
        return {"series": self._slots.capture(), "signals": boards}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a captured state."""
        self._slots.restore(state["series"])
        for signal, board in self._boards.items():
            if signal.id in state["signals"]:
                board.restore(state["signals"][signal.id])

    def _board(self, signal: Signal) -> Slots:
        """The outputs of one signal; their order depends on the signals alone."""
        if signal not in self._boards:
            out = np.array(0, dtype=np.int64)
            self._boards[signal] = Slots({"standing": np.array(False)}, {"out": out})
            self._boards = dict(sorted(self._boards.items(), key=lambda item: item[0].id))
        return self._boards[signal]

    def _spans(
        self,
        slot: NDArray[np.int64],
        ts: NDArray[np.int64],
        value: NDArray[np.float64],
        row: NDArray[np.int64],
    ) -> Iterator["_Span"]:
        """Readings sorted by slot, summed by slot and hour; no slot comes twice in one span."""
        slots, calendar = self._slots, self.calendar
        first = np.concatenate(([True], slot[1:] != slot[:-1]))
        before = np.where(first, slots["last"][slot], np.concatenate((ts[:1], ts[:-1])))
        begin = np.maximum(before, ts - slots["cap"][slot])
        hour = calendar.hour(ts)
        inside = ts - np.maximum(begin, calendar.start(hour))
        micro = np.rint(np.clip(value, -_LARGEST, _LARGEST) * MILLIONTHS).astype(np.int64)
        at = np.flatnonzero(first | np.concatenate(([True], hour[1:] != hour[:-1])))
        slots["last"][slot] = ts
        sums = np.add.reduceat(micro, at), np.add.reduceat(inside, at)
        count = np.diff(at, append=len(slot))
        index = np.arange(len(at))
        rank = index - np.maximum.accumulate(np.where(first[at], index, 0))
        columns = (slot[at], hour[at], row[at], ts[at], begin[at], *sums, count)
        for nth in range(int(rank.max()) + 1):
            mine = rank == nth
            yield _Span(*(column[mine] for column in columns))

    def _enter(self, span: "_Span", made: list[Derived]) -> ClosedHours:
        """Close the hours that `span` leaves behind, then count its readings."""
        slots = self._slots
        stood = slots["hour"][span.slot]
        over = (stood != span.hour) & (stood != NEVER)
        closed = NO_HOURS
        if over.any():
            gone = _Span(*(column[over] for column in msgspec.structs.astuple(span)))
            closed = self._close(gone, stood[over], made)
        fresh = span.slot[stood != span.hour]
        for column in ("total", "count", "covered"):
            slots[column][fresh] = 0
        slots["hour"][span.slot] = span.hour
        slots["total"][span.slot] += span.total
        slots["count"][span.slot] += span.count
        slots["covered"][span.slot] += span.covered
        return closed

    def _close(self, span: "_Span", hour: NDArray[np.int64], made: list[Derived]) -> ClosedHours:
        slots, slot = self._slots, span.slot
        tail = np.maximum(self.calendar.end(hour) - span.begin, 0)
        covered = slots["covered"][slot] + tail
        micro = np.rint(slots["total"][slot] / slots["count"][slot]).astype(np.int64)
        place = hour % HOURS_KEPT
        slots["hours"][slot, place] = hour
        slots["micro"][slot, place] = micro
        slots["covers"][slot, place] = covered
        gap = np.minimum(span.hour - hour, GAP_HOURS)
        for after in range(int(gap.max()) if self._boards else 0):
            live = gap > after
            made.extend(self._announce(slot[live], hour[live] + after, span.row[live]))
        series = slots["series"][slot]
        return ClosedHours(span.row, series, hour, span.ts, micro, covered)

    def _announce(
        self, slot: NDArray[np.int64], hour: NDArray[np.int64], row: NDArray[np.int64]
    ) -> Iterator[Derived]:
        """The numbers of these hours, and one NaN where there is none any more."""
        day_hours = self.calendar.day_hours(hour)
        for signal, board in self._boards.items():
            stat = HOUR_STATS[signal.stat]
            own = board.find(self._slots["series"][slot])
            some = np.flatnonzero((own >= 0) & (day_hours > 0) if stat.daily else own >= 0)
            if len(some):
                micro, valid = self._window(slot[some], hour[some], stat.width, needed_ms(signal))
                value = stat.of((micro, valid, day_hours[some]))
                tell = said(board["standing"], own[some], value)
                some, own = some[tell], own[some[tell]]
                end = self.calendar.end(hour[some])
                yield Derived(row[some], board["out"][own], end, value[tell])

    def _window(
        self, slot: NDArray[np.int64], hour: NDArray[np.int64], width: int, needed: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        hours = hour[:, np.newaxis] - np.arange(width)
        at = slot[:, np.newaxis], hours % HOURS_KEPT
        valid = (self._slots["hours"][at] == hours) & (self._slots["covers"][at] >= needed)
        return self._slots["micro"][at], valid


class _Span(msgspec.Struct, frozen=True):
    """Readings of one hour of each of n slots: the first one's row, instant and reach, and sums."""

    slot: NDArray[np.int64]
    hour: NDArray[np.int64]
    row: NDArray[np.int64]
    ts: NDArray[np.int64]
    begin: NDArray[np.int64]
    total: NDArray[np.int64]
    covered: NDArray[np.int64]
    count: NDArray[np.int64]


def said(
    standing: NDArray[np.bool_], at: NDArray[np.int64], value: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Which of the values are to be told: the numbers, and NaN where a number stood.

    `standing` at the places `at`, no two of them equal, is brought up to date.
    """
    number = ~np.isnan(value)
    tell = np.flatnonzero(number | standing[at])
    standing[at] = number
    return tell


def _joined(closed: list[ClosedHours]) -> ClosedHours:
    some = [hours for hours in closed if len(hours.row)]
    if not some:
        return NO_HOURS
    columns = [np.concatenate(c) for c in zip(*map(msgspec.structs.astuple, some), strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return ClosedHours(*(column[order] for column in columns))


def _all(made: list[Derived]) -> Derived:
    some = [numbers for numbers in made if len(numbers)]
    if not some:
        return NOTHING
    columns = zip(*map(msgspec.structs.astuple, some), strict=True)
    return derived(*(np.concatenate(column) for column in columns))
