"""What is read off one reading after the other: values that do not move, and flags that mark them."""

from collections.abc import Mapping
from datetime import tzinfo
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from alerts.signals import NOTHING, Arrived, Derived, Shift, Signal
from alerts.slots import OUT, Column, Field, Slots, Visits, joined
from city.readings import FLAG_OF_LETTER, Flag

_RUN_MS: Final = 60_000
_MINUTE_MS: Final = 60_000


class StuckOperator:
    """Makes `stuck`: for how many seconds the value has been exactly equal, once over a minute.

    A number comes with each reading that extends such a run, and a 0 with the reading that ends it.
    """

    def __init__(self) -> None:
        self._slots = Slots(
            Field("value", np.float64, np.nan),
            Field("since", np.int64, 0),
            Field("length", np.int64, 0),
        )

    def include(self, series: int, signal: Signal, out: int, interval_ms: int) -> None:  # noqa: ARG002 - of the protocol
        """Make `signal` from the readings of `series`, as `out`; the interval does not matter."""
        self._slots.include(series, signal, out)

    def exclude(self, series: int, signal: Signal) -> None:
        """Make it no more."""
        self._slots.exclude(series, signal)

    def take(self, arrived: Arrived) -> Derived:
        """What the readings complete."""
        slots = self._slots
        visits = slots.visit(arrived.series)
        ts, value = arrived.ts[visits.index], arrived.value[visits.index]
        starts = value != visits.before(value, slots["value"])
        since = visits.held(starts, ts, slots["since"])
        length = ts - since
        ended = starts & (visits.before(length, slots["length"]) > _RUN_MS)
        for name, after in (("value", value), ("since", since), ("length", length)):
            visits.keep(slots[name], after)
        given = np.flatnonzero((length > _RUN_MS) | ended)
        if not len(given):
            return NOTHING
        row = arrived.row[visits.index[given]]
        return slots.say(row, visits.slot[given], ts[given], length[given] / 1000.0)

    def capture(self) -> Mapping[str, Any]:
        """A copy of the state, by series."""
        return self._slots.capture()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a captured state, of the series that are included."""
        self._slots.restore(state)


class MarkOperator:
    """Makes `flagged`, and `value` of the readings with certain flags or in a shift.

    It is to be given all readings, whatever their flags. `flagged` is 1 with each reading that has
    one of the signal's flags, and 0 with the first that has not. `value` is the value of each
    reading with such a flag in the shift, and NaN at the first reading after the shift.
    """

    def __init__(self, zone: tzinfo) -> None:
        """`zone` is that of the shifts."""
        self._zone = zone
        self._slots = Slots(per_signal=lambda _: (Field("on", np.bool_, fill=False),))

    def include(self, series: int, signal: Signal, out: int, interval_ms: int) -> None:  # noqa: ARG002 - of the protocol
        """Make `signal` from the readings of `series`, as `out`; the interval does not matter."""
        self._slots.include(series, signal, out)

    def exclude(self, series: int, signal: Signal) -> None:
        """Make it no more."""
        self._slots.exclude(series, signal)

    def take(self, arrived: Arrived) -> Derived:
        """What the readings complete."""
        visits = self._slots.visit(arrived.series)
        if not len(visits):
            return NOTHING
        return joined([self._say(column, visits, arrived) for column in self._slots.columns])

    def capture(self) -> Mapping[str, Any]:
        """A copy of the state, by series."""
        return self._slots.capture()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a captured state, of the series that are included."""
        self._slots.restore(state)

    def _say(self, column: Column, visits: Visits, arrived: Arrived) -> Derived:
        out = self._slots.of(column, OUT.name).take(visits.slot)
        ts, value = arrived.ts[visits.index], arrived.value[visits.index]
        counts = (out >= 0) & _counting(column.signal)[arrived.flag[visits.index]]
        inside = np.ones(len(ts), dtype=np.bool_)
        if column.signal.stat == "flagged":
            inside, value = counts, counts.astype(np.float64)
        elif column.signal.when is not None:
            inside = _within(column.signal.when, ts, self._zone)
        state = self._slots.of(column, "on")
        said = counts & inside
        after = visits.held(said | ~inside, said, state)
        over = ~inside & visits.before(after, state)
        visits.keep(state, after)
        if column.signal.stat != "flagged":
            value = np.where(over, np.nan, value)
        given = np.flatnonzero(said | over)
        return Derived(arrived.row[visits.index[given]], out[given], ts[given], value[given])


def _counting(signal: Signal) -> NDArray[np.bool_]:
    """Whether a flag counts, by flag."""
    counting = np.zeros(len(Flag), dtype=np.bool_)
    counting[[FLAG_OF_LETTER[letter] for letter in signal.flags]] = True
    return counting


def _within(shift: Shift, ts: NDArray[np.int64], zone: tzinfo) -> NDArray[np.bool_]:
    """Whether each instant lies in the shift; asked once per minute where it ends on minutes."""
    whole = all(not (end.second or end.microsecond) for end in (shift.begins, shift.ends))
    unit = _MINUTE_MS if whole else 1
    spans, which = np.unique(ts // unit, return_inverse=True)
    holds = [shift.holds(int(span) * unit, zone) for span in spans]
    return np.array(holds, dtype=np.bool_)[which]
