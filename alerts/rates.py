"""How fast a value changes: the difference to what it was a window ago."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from alerts.signals import NOTHING, Arrived, Derived, Signal
from alerts.slots import LONG_AGO, Field, Slots

_RING_MOST: Final = 256
_RING_SPARE: Final = 3
"""Beside the readings spaced over a window: both of its ends, and the one before it."""
_SPACING: Final = 0.75
"""Of the interval; a reading that comes sooner after the last one kept is not kept."""
_MINUTE_MS: Final = 60_000.0


class _Rings:
    """Space for rings of instants [ms] and values, of sizes that are powers of two."""

    def __init__(self) -> None:
        self.ts = np.empty(1024, dtype=np.int64)
        self.value = np.empty(1024)
        self._end = 0
        self._free: defaultdict[int, list[int]] = defaultdict(list)

    def allot(self, size: int) -> int:
        """Where a ring of that size begins."""
        if self._free[size]:
            return self._free[size].pop()
        begin, self._end = self._end, self._end + size
        if self._end > len(self.ts):
            self.ts, self.value = _twice(self.ts), _twice(self.value)
        return begin

    def release(self, begin: int, size: int) -> None:
        """Let another ring have the space."""
        self._free[size].append(begin)


class RateOperator:
    """Makes `rate`: the change per minute since the reading nearest to a window earlier.

    A number comes with every reading for which that one is at least 0.75 and at most 1.5 windows
    old. Each series keeps a ring of past readings. Readings that come much sooner than the
    interval, or than a 253rd of the window, are not kept there, but rates come for them too.
    """

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._rings = _Rings()
        self._slots = Slots(
            Field("begin", np.int64, -1, captured=False),
            Field("size", np.int64, 0, captured=False),
            Field("spacing", np.int64, 0, captured=False),
            Field("head", np.int64, 0, captured=False),
            Field("tail", np.int64, 0, captured=False),
            Field("newest", np.int64, LONG_AGO, captured=False),
        )

    def include(self, series: int, signal: Signal, out: int, interval_ms: int) -> None:
        """Make `signal` from the readings of `series`, as `out`; room for a window of intervals."""
        slots, slot = self._slots, self._slots.include(series, signal, out)
        most = _RING_MOST - _RING_SPARE
        spacing = max(round(_SPACING * interval_ms), -(-self._window_ms // most), 1)
        size = 1 << (self._window_ms // spacing + _RING_SPARE - 1).bit_length()
        slots["spacing"][slot] = spacing
        if slots["size"][slot] != size:
            self._resize(slot, size)

    def exclude(self, series: int, signal: Signal) -> None:
        """Make it no more."""
        slot = self._slots.get(series)
        if self._slots.exclude(series, signal) and slot is not None:
            begin, size = (int(self._slots[name][slot]) for name in ("begin", "size"))
            self._rings.release(begin, size)

    def take(self, arrived: Arrived) -> Derived:
        """What the readings complete."""
        visits = self._slots.visit(arrived.series)
        if not len(visits):
            return NOTHING
        ts, value = arrived.ts[visits.index], arrived.value[visits.index]
        then, old = np.empty_like(ts), np.empty_like(value)
        for turn in visits.turns():
            slot = visits.slot[turn]
            self._push(slot, ts[turn], value[turn])
            at = self._nearest(slot, ts[turn] - self._window_ms)
            then[turn], old[turn] = self._rings.ts.take(at), self._rings.value.take(at)
        age = ts - then
        fitting = (4 * age >= 3 * self._window_ms) & (2 * age <= 3 * self._window_ms)
        given = np.flatnonzero(fitting)
        rate = (value[given] - old[given]) / (age[given] / _MINUTE_MS)
        row = arrived.row[visits.index[given]]
        return self._slots.say(row, visits.slot[given], ts[given], rate)

    def capture(self) -> Mapping[str, Any]:
        """A copy of the state, by series: of every ring the readings that still can matter."""
        live = self._slots.live()
        length, ts, value = self._kept(live)
        newest = self._slots["newest"][live]
        series = self._slots.series(live)
        return {"series": series, "newest": newest, "length": length, "ts": ts, "value": value}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a captured state, of the series that are included."""
        slot = self._slots.find(state["series"])
        known = slot >= 0
        entries = np.repeat(known, state["length"])
        kept = (state["length"][known], state["ts"][entries], state["value"][entries])
        self._fill(slot[known], *kept)
        self._slots["newest"][slot[known]] = state["newest"][known]

    def _resize(self, slot: int, size: int) -> None:
        """Give a slot a ring of another size; of the readings kept, those spaced enough stay."""
        slots, begin = self._slots, self._rings.allot(size)
        old_begin, old_size = int(slots["begin"][slot]), int(slots["size"][slot])
        if not old_size:
            slots["begin"][slot], slots["size"][slot] = begin, size
            return
        at = np.array([slot])
        _, ts, value = self._kept(at)
        slots["begin"][slot], slots["size"][slot] = begin, size
        self._rings.release(old_begin, old_size)
        spaced = _spaced(ts.tolist(), int(slots["spacing"][slot]))
        self._fill(at, np.array([len(spaced)]), ts[spaced], value[spaced])

    def _push(
        self, slot: NDArray[np.intp], ts: NDArray[np.int64], value: NDArray[np.float64]
    ) -> None:
        """Keep the readings that are far enough from the last one kept; `slot` has no repeats."""
        slots = self._slots
        due = ts - slots["newest"].take(slot) >= slots["spacing"].take(slot)
        if not due.all():
            slot, ts, value = slot[due], ts[due], value[due]
        head, size = slots["head"].take(slot), slots["size"].take(slot)
        at = slots["begin"].take(slot) + (head & (size - 1))
        self._rings.ts[at], self._rings.value[at] = ts, value
        slots["newest"][slot] = ts
        slots["head"][slot] = head + 1
        slots["tail"][slot] = np.maximum(slots["tail"].take(slot), head + 1 - size)

    def _nearest(self, slot: NDArray[np.intp], target: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the kept readings nearest to the instants are; of two equally near, the newer.

        Instants never decrease, so the search goes on from where the last one ended.
        """
        slots, ts = self._slots, self._rings.ts
        begin, mask = slots["begin"].take(slot), slots["size"].take(slot) - 1
        tail, last = slots["tail"].take(slot), slots["head"].take(slot) - 1
        distance = np.abs(ts.take(begin + (tail & mask)) - target)
        moving = np.flatnonzero(tail < last)
        while len(moving):
            at = begin[moving] + ((tail[moving] + 1) & mask[moving])
            further = np.abs(ts.take(at) - target[moving])
            nearer = further <= distance[moving]
            moving, further = moving[nearer], further[nearer]
            tail[moving] += 1
            distance[moving] = further
            moving = moving[tail[moving] < last[moving]]
        slots["tail"][slot] = tail
        nearest: NDArray[np.int64] = begin + (tail & mask)
        return nearest

    def _kept(
        self, slot: NDArray[np.intp]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """How many readings each ring holds, and those, ring after ring, oldest first."""
        slots = self._slots
        length = slots["head"][slot] - slots["tail"][slot]
        place = _places(length) + np.repeat(slots["tail"][slot], length)
        mask = np.repeat(slots["size"][slot] - 1, length)
        at = np.repeat(slots["begin"][slot], length) + (place & mask)
        return length, self._rings.ts[at], self._rings.value[at]

    def _fill(
        self,
        slot: NDArray[np.intp],
        length: NDArray[np.int64],
        ts: NDArray[np.int64],
        value: NDArray[np.float64],
    ) -> None:
        """Set the rings to those readings, given as by `_kept`; the newest where not all fit."""
        slots = self._slots
        size = slots["size"][slot]
        mask = np.repeat(size - 1, length)
        place = _places(length)
        fits = place >= np.repeat(length - size, length)
        at = (np.repeat(slots["begin"][slot], length) + (place & mask))[fits]
        self._rings.ts[at], self._rings.value[at] = ts[fits], value[fits]
        slots["head"][slot] = length
        slots["tail"][slot] = np.maximum(0, length - size)


def _twice(array: NDArray[Any]) -> NDArray[Any]:
    """The array with as much room again behind it."""
    longer = np.empty(2 * len(array), dtype=array.dtype)
    longer[: len(array)] = array
    return longer


def _spaced(ts: list[int], spacing_ms: int) -> list[int]:
    """The positions of the instants that are kept when each is that far from the one before."""
    kept: list[int] = []
    for position, instant in enumerate(ts):
        if not kept or instant - ts[kept[-1]] >= spacing_ms:
            kept.append(position)
    return kept


def _places(length: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, ... for each of the lengths."""
    ends = np.cumsum(length)
    return np.arange(int(length.sum())) - np.repeat(ends - length, length)
