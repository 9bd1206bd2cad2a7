"""Numbers over sliding windows made of panes, so that a window costs no more than its panes.

A pane holds what the readings of one step of time sum up to. When a reading of a series falls into
a later pane, the panes before it close, and with each the window that ends there is complete. Every
sum is made in the order of arrival, so that it does not depend on batches to the last bit.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from alerts.signals import NOTHING, Arrived, Derived, Signal
from alerts.slots import LONG_AGO, OUT, Column, Field, Slots, joined

_NEVER: Final = 2**62
_COVER_AT_LEAST_MS: Final = 60_000
_COVER_INTERVALS: Final = 1.5
_AT_ONCE: Final = 16_384
"""Panes read together."""

_PANES: Final[dict[str, tuple[type, float]]] = {
    "sum": (np.float64, 0.0),
    "squares": (np.float64, 0.0),
    "min": (np.float64, np.inf),
    "max": (np.float64, -np.inf),
    "count": (np.int32, 0),
    "covered": (np.int32, 0),
}
"""What a pane holds: type, and value while empty; `covered` in ms. The sums are of differences from
the slot's `origin`, a value of the window, so that little is lost when they cancel out."""
_WITHIN: Final = "within"
"""A share's own: how many readings of a pane lie in its band."""
_SINCE: Final = "since"
"""A share's own: the first pane in which all readings were compared with its band."""


class PaneOperator:
    """Makes `mean`, `sd` (of the population), `min`, `max`, `range` and `share` over one window.

    A number comes at the end of each step, with the first reading after it, if readings cover the
    signal's `at_least` of the window. A reading covers the time since the one before it of its
    series, at most a minute or 1.5 intervals (or the window), and all of that in its own pane. When the window is
    no longer covered enough, one NaN comes.
    """

    def __init__(self, window_ms: int, step_ms: int) -> None:
        """The step divides the window; panes begin at multiples of it since the epoch."""
        if window_ms % step_ms:
            raise ValueError(f"a step of {step_ms} ms does not divide a window of {window_ms} ms")
        self._window_ms, self._step_ms = window_ms, step_ms
        self._panes = window_ms // step_ms
        self._slots = Slots(
            Field("pane", np.int64, LONG_AGO),
            Field("last", np.int64, LONG_AGO),
            Field("origin", np.float64, 0.0),
            Field("cover", np.int64, _COVER_AT_LEAST_MS, captured=False),
            Field("counted", np.int64, 0),
            Field("covering", np.int64, 0),
            *(Field(name, *pane, width=self._panes) for name, pane in _PANES.items()),
            per_signal=self._own_fields,
        )

    def include(self, series: int, signal: Signal, out: int, interval_ms: int) -> None:
        """Make `signal` from the readings of `series`, as `out`."""
        slots, slot = self._slots, self._slots.include(series, signal, out)
        cover_ms = max(_COVER_AT_LEAST_MS, round(_COVER_INTERVALS * interval_ms))
        slots["cover"][slot] = min(cover_ms, self._window_ms)
        self._compare_from_here(np.array([slot]))

    def exclude(self, series: int, signal: Signal) -> None:
        """Make it no more."""
        self._slots.exclude(series, signal)

    def take(self, arrived: Arrived) -> Derived:
        """What the readings complete."""
        slots, visits = self._slots, self._slots.visit(arrived.series)
        if not len(visits):
            return NOTHING
        ts, value, slot = arrived.ts[visits.index], arrived.value[visits.index], visits.slot
        pane, last = ts // self._step_ms, visits.before(ts, slots["last"])
        covers = np.where(last == LONG_AGO, 0, np.minimum(ts - last, slots["cover"].take(slot)))
        visits.keep(slots["last"], ts)
        before = visits.before(pane, slots["pane"])
        closes = (pane > before) & (before != LONG_AGO)
        spoken: list[Derived] = []
        for turn in visits.turns(closes):
            closing = turn[closes[turn]]
            if len(closing):
                row = arrived.row[visits.index[closing]]
                self._close(row, slot[closing], pane[closing], spoken)
            opening = turn if visits.first is None else turn[(closes | visits.first)[turn]]
            self._open(slot[opening], pane[opening], value[opening])
            self._add(slot[turn], pane[turn], value[turn], covers[turn])
        return joined(spoken)

    def capture(self) -> Mapping[str, Any]:
        """A copy of the state, by series."""
        return self._slots.capture()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a captured state, of the series that are included."""
        for column in self._slots.columns:
            if column.signal.stat == "share":
                self._slots.of(column, _SINCE)[:] = _NEVER
        self._slots.restore(state)
        self._compare_from_here(self._slots.live())

    def _own_fields(self, signal: Signal) -> tuple[Field, ...]:
        live = Field("live", np.bool_, fill=False)
        if signal.stat != "share":
            return (live,)
        within = Field(_WITHIN, np.int32, 0, width=self._panes)
        return (live, within, Field(_SINCE, np.int64, _NEVER))

    def _compare_from_here(self, slot: NDArray[np.intp]) -> None:
        """Let shares of the slots that are new begin with the next pane, or with the first."""
        for column in self._slots.columns:
            if column.signal.stat == "share":
                since = self._slots.of(column, _SINCE)
                included = self._slots.of(column, OUT.name)[slot] >= 0
                fresh = slot[included & (since[slot] == _NEVER)]
                since[fresh] = self._slots["pane"][fresh] + 1

    def _open(
        self, slot: NDArray[np.intp], pane: NDArray[np.int64], value: NDArray[np.float64]
    ) -> None:
        """Before the first readings of some panes, one a slot, are added."""
        slots = self._slots
        slots["pane"][slot] = pane
        empty = np.flatnonzero(slots["counted"].take(slot) == 0)
        slots["origin"][slot[empty]] = value[empty]

    def _add(
        self,
        slot: NDArray[np.intp],
        pane: NDArray[np.int64],
        value: NDArray[np.float64],
        covers: NDArray[np.int64],
    ) -> None:
        """Add readings to the newest panes of their slots."""
        slots, at = self._slots, slot * self._panes + pane % self._panes
        difference, one = value - slots["origin"].take(slot), np.ones(len(slot), dtype=np.int32)
        np.add.at(slots["sum"].reshape(-1), at, difference)
        np.add.at(slots["squares"].reshape(-1), at, difference * difference)
        np.minimum.at(slots["min"].reshape(-1), at, value)
        np.maximum.at(slots["max"].reshape(-1), at, value)
        np.add.at(slots["count"].reshape(-1), at, one)
        np.add.at(slots["covered"].reshape(-1), at, covers.astype(np.int32))
        np.add.at(slots["counted"], slot, one.astype(np.int64))
        np.add.at(slots["covering"], slot, covers)
        for column in slots.columns:
            if column.signal.band is not None and column.signal.stat == "share":
                low, high = column.signal.band
                compared = slots.of(column, OUT.name).take(slot) >= 0
                within = compared & (value >= low) & (value <= high)
                np.add.at(slots.of(column, _WITHIN).reshape(-1), at, within.astype(np.int32))

    def _close(
        self,
        row: NDArray[np.int64],
        slot: NDArray[np.intp],
        until: NDArray[np.int64],
        spoken: list[Derived],
    ) -> None:
        """Close the panes of the slots, each once, before `until`, and say what that completes.

        Once a window is not covered enough for any signal, later ones are not without readings.
        """
        while len(slot):
            goes_on = self._say(row, slot, spoken)
            following = np.where(goes_on, self._slots["pane"].take(slot) + 1, until)
            self._move(slot, following)
            left = np.flatnonzero(following < until)
            row, slot, until = row[left], slot[left], until[left]

    def _say(
        self, row: NDArray[np.int64], slot: NDArray[np.intp], spoken: list[Derived]
    ) -> NDArray[np.bool_]:
        """Say the windows that end with the panes of the slots; which are covered enough."""
        slots, pane = self._slots, self._slots["pane"].take(slot)
        counted, covering = slots["counted"].take(slot), slots["covering"].take(slot)
        goes_on = np.zeros(len(slot), dtype=np.bool_)
        for column in slots.columns:
            out, live = slots.of(column, OUT.name).take(slot), slots.of(column, "live")
            need_ms = round(column.signal.at_least * self._window_ms)
            enough = (out >= 0) & (covering >= need_ms) & (counted > 0)
            goes_on |= enough
            if column.signal.stat == "share":
                enough &= slots.of(column, _SINCE).take(slot) <= pane - self._panes + 1
            given = np.flatnonzero(enough | live.take(slot))
            live[slot] = enough
            value = np.full(len(slot), np.nan)
            if enough.any():
                value[enough] = self._number(column, slot[enough])
            ends = (pane[given] + 1) * self._step_ms
            spoken.append(Derived(row[given], out[given], ends, value[given]))
        return goes_on

    def _move(self, slot: NDArray[np.intp], to: NDArray[np.int64]) -> None:
        """Make `to`, which is later, the newest pane, and empty those that fall out for it."""
        slots, pane = self._slots, self._slots["pane"].take(slot)
        gap = np.minimum(to - pane, self._panes)
        steps = np.arange(1, gap.max() + 1)
        at = slot[:, None] * self._panes + (pane[:, None] + steps) % self._panes
        stale, owner = at[steps <= gap[:, None]], np.repeat(slot, gap)
        np.subtract.at(slots["counted"], owner, slots["count"].reshape(-1).take(stale))
        np.subtract.at(slots["covering"], owner, slots["covered"].reshape(-1).take(stale))
        for name, (_, empty) in _PANES.items():
            slots[name].reshape(-1)[stale] = empty
        for column in slots.columns:
            if column.signal.stat == "share":
                slots.of(column, _WITHIN).reshape(-1)[stale] = 0
        slots["pane"][slot] = to

    def _number(self, column: Column, slot: NDArray[np.intp]) -> NDArray[np.float64]:
        """The statistic over all panes of the slots, which hold readings."""
        slots = self._slots
        if column.signal.stat == "share":
            within = _over_panes(np.add, slots.of(column, _WITHIN), slot)
            share: NDArray[np.float64] = within / slots["counted"].take(slot)
            return share
        return _STATISTICS[column.signal.stat](slots, slot)


def _mean(slots: Slots, slot: NDArray[np.intp]) -> NDArray[np.float64]:
    return slots["origin"].take(slot) + _average(slots, "sum", slot)


def _sd(slots: Slots, slot: NDArray[np.intp]) -> NDArray[np.float64]:
    """Exactly 0 where all values are equal, which rounding would hide."""
    variance = _average(slots, "squares", slot) - _average(slots, "sum", slot) ** 2
    flat = _lowest(slots, slot) == _highest(slots, slot)
    return np.where(flat, 0.0, np.sqrt(np.maximum(variance, 0.0)))


def _lowest(slots: Slots, slot: NDArray[np.intp]) -> NDArray[np.float64]:
    return _over_panes(np.minimum, slots["min"], slot)


def _highest(slots: Slots, slot: NDArray[np.intp]) -> NDArray[np.float64]:
    return _over_panes(np.maximum, slots["max"], slot)


def _range(slots: Slots, slot: NDArray[np.intp]) -> NDArray[np.float64]:
    return _highest(slots, slot) - _lowest(slots, slot)


def _average(slots: Slots, name: str, slot: NDArray[np.intp]) -> NDArray[np.float64]:
    total = _over_panes(np.add, slots[name], slot)
    average: NDArray[np.float64] = total / slots["counted"].take(slot)
    return average


def _over_panes(
    reduction: np.ufunc, panes: NDArray[Any], slot: NDArray[np.intp]
) -> NDArray[np.float64]:
    """All panes of each slot as one, a few slots after the other so that the cache holds them."""
    at_once = max(1, _AT_ONCE // panes.shape[1])
    parts = (slot[begin : begin + at_once] for begin in range(0, len(slot), at_once))
    return np.concatenate([reduction.reduce(panes.take(part, axis=0), axis=1) for part in parts])


_STATISTICS: Final[dict[str, Callable[[Slots, NDArray[np.intp]], NDArray[np.float64]]]] = {
    "mean": _mean,
    "sd": _sd,
    "min": _lowest,
    "max": _highest,
    "range": _range,
}
