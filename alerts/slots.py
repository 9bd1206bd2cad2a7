"""What operators over readings share: their state as arrays, and the readings of a batch by series.

`Slots` holds an operator's state, one row per series; `Visits` are the readings of one batch brought
together by series.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from alerts.signals import NOTHING, Derived, Signal, derived

LONG_AGO: Final = -(2**62)
"""An instant [ms] or a count before all others, of which differences still do not overflow."""

_NONE: Final = -1
_FIRST_CAPACITY: Final = 64


class Field(msgspec.Struct, frozen=True):
    """One array of an operator's state: a row per slot, of `width` entries or of one number."""

    name: str
    dtype: type
    fill: float
    width: int = 0
    captured: bool = True


class Column(msgspec.Struct, frozen=True):
    """One kind of signal of an operator, on whatever quantities; its fields are named after it."""

    id: str
    signal: Signal
    fields: tuple[Field, ...]

    def name(self, field: str) -> str:
        """The name of its own field among those of the slots."""
        return f"{field} {self.id}"


OUT: Final = Field("out", np.int64, _NONE, captured=False)
"""Of every column: the output that was given to `include`; negative where there is none."""


class Visits(msgspec.Struct, frozen=True):
    """Readings of included series; those of one slot stand together, in the order of arrival.

    `index` is the position in the batch; `first` marks the first reading of each slot, and is None
    where no slot occurs twice. All arrays that the methods take and give are parallel to `index`,
    but for `state`, which has a row per slot.
    """

    index: NDArray[np.intp]
    slot: NDArray[np.intp]
    first: NDArray[np.bool_] | None

    def __len__(self) -> int:
        return len(self.index)

    def before(self, after: NDArray[Any], state: NDArray[Any]) -> NDArray[Any]:
        """What `after` was at the reading before, and at the first of a slot its state."""
        if self.first is None:
            return state.take(self.slot)
        earlier = np.roll(after, 1)
        earlier[self.first] = state.take(self.slot[self.first])
        return earlier

    def held(
        self, decides: NDArray[np.bool_], value: NDArray[Any], state: NDArray[Any]
    ) -> NDArray[Any]:
        """`value` at the newest reading so far that decides; the state where none has."""
        if self.first is None:
            return np.where(decides, value, state.take(self.slot))
        place = np.arange(len(self.index))
        newest = np.maximum.accumulate(np.where(decides | self.first, place, 0))
        return np.where(decides[newest], value[newest], state.take(self.slot))

    def keep(self, state: NDArray[Any], after: NDArray[Any]) -> None:
        """Set the state of each slot to `after` at its last reading."""
        if self.first is None:
            state[self.slot] = after
        else:
            last = np.append(self.first[1:], True)
            state[self.slot[last]] = after[last]

    def turns(self, starts: NDArray[np.bool_] | None = None) -> list[NDArray[np.intp]]:
        """The readings in rounds, of which each has no reading that starts but the first of a slot.

        Without `starts`, every reading starts a round of its slot.
        """
        if self.first is None:
            return [np.arange(len(self.index))]
        every = np.ones(len(self.index), dtype=np.int64)
        step = every if starts is None else starts.astype(np.int64)
        count = np.cumsum(step)
        begin = np.flatnonzero(self.first)
        lengths = np.diff(np.append(begin, len(count)))
        turn = count - np.repeat(count[begin], lengths)
        order = np.argsort(turn, kind="stable")
        return np.split(order, np.cumsum(np.bincount(turn))[:-1])


class Slots:
    """The state of an operator: named arrays with a row per series, and the outputs per signal.

    Rows are reused and the arrays grow by doubling, so hold on to none of them.
    """

    def __init__(
        self, *fields: Field, per_signal: Callable[[Signal], tuple[Field, ...]] = lambda _: ()
    ) -> None:
        self.columns: Sequence[Column] = ()
        """In an order that does not depend on that of their inclusion."""
        self._per_signal = per_signal
        self._fields: dict[str, Field] = {}
        self._state: dict[str, NDArray[Any]] = {}
        self._column_of: dict[Signal, Column] = {}
        self._users: dict[str, int] = {}
        self._slot_of = np.full(_FIRST_CAPACITY, _NONE, dtype=np.intp)
        self._series = np.full(_FIRST_CAPACITY, _NONE, dtype=np.int64)
        self._turn = np.zeros(_FIRST_CAPACITY, dtype=np.intp)
        self._free = list(range(_FIRST_CAPACITY))[::-1]
        for field in fields:
            self._extend(field.name, field)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._state[name]

    def of(self, column: Column, field: str) -> NDArray[Any]:
        """An array of a column's own."""
        return self._state[column.name(field)]

    def get(self, series: int) -> int | None:
        """The slot of a series, if it has one."""
        slot = int(self._slot_of[series]) if series < len(self._slot_of) else _NONE
        return None if slot == _NONE else slot

    def include(self, series: int, signal: Signal, out: int) -> int:
        """Give the series a slot, and there the signal its output; what is new is at its start."""
        column = self._column(signal)
        slot = self.get(series)
        if slot is None:
            slot = self._allot(series)
        outs = self.of(column, OUT.name)
        if outs[slot] == _NONE:
            self._users[column.id] += 1
            self._clear(slot, [column.name(field.name) for field in column.fields])
        outs[slot] = out
        return slot

    def exclude(self, series: int, signal: Signal) -> bool:
        """Take the signal's output away, and the slot with the last; whether the slot is gone."""
        slot, column = self.get(series), self._column_of.get(signal)
        if slot is None or column is None or self.of(column, OUT.name)[slot] == _NONE:
            return False
        self._clear(slot, [column.name(field.name) for field in column.fields])
        gone = all(self.of(each, OUT.name)[slot] == _NONE for each in self.columns)
        if gone:
            self._slot_of[series] = self._series[slot] = _NONE
            self._free.append(slot)
        self._users[column.id] -= 1
        if not self._users[column.id]:
            self._drop(column)
        return gone

    def live(self) -> NDArray[np.intp]:
        """The slots in use."""
        return np.flatnonzero(self._series != _NONE)

    def series(self, slots: NDArray[np.intp]) -> NDArray[np.int64]:
        """The series that have the slots."""
        return self._series[slots]

    def find(self, series: NDArray[np.int64]) -> NDArray[np.intp]:
        """The slot of each series; negative where it has none."""
        self._reach(int(series.max(initial=0)))
        return self._slot_of.take(series)

    def visit(self, series: NDArray[np.int64]) -> Visits:
        """The readings of included series, by slot."""
        slot = self.find(series)
        index = np.flatnonzero(slot >= 0)
        if len(index) < len(slot):
            slot = slot[index]
        place = np.arange(len(slot))
        self._turn[slot] = place
        if np.array_equal(self._turn.take(slot), place):
            return Visits(index, slot, None)
        order = np.argsort(slot, kind="stable")
        index, slot = index[order], slot[order]
        first = np.empty(len(slot), dtype=np.bool_)
        first[0] = True
        np.not_equal(slot[1:], slot[:-1], out=first[1:])
        return Visits(index, slot, first)

    def say(
        self,
        row: NDArray[np.int64],
        slot: NDArray[np.intp],
        ts: NDArray[np.int64],
        value: NDArray[np.float64],
    ) -> Derived:
        """The same numbers for every signal of the slots."""
        spoken = []
        for column in self.columns:
            out = self.of(column, OUT.name).take(slot)
            given = np.flatnonzero(out >= 0)
            spoken.append(Derived(row[given], out[given], ts[given], value[given]))
        return joined(spoken)

    def capture(self) -> dict[str, Any]:
        """A copy of what is captured, by series."""
        live = self.live()
        kept = [name for name, field in self._fields.items() if field.captured]
        fields = {name: self._state[name][live] for name in kept}
        return {"series": self._series[live], "fields": fields}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what was captured of series and signals that are included."""
        slot = self.find(state["series"])
        known = slot >= 0
        for name, array in state["fields"].items():
            if name in self._state:
                self._state[name][slot[known]] = array[known]

    def _column(self, signal: Signal) -> Column:
        """The column of a signal whatever its quantity, so that a few do for all series."""
        column = self._column_of.get(signal)
        if column is None:
            kind = msgspec.structs.replace(signal, quantity="")
            column = self._column_of.get(kind) or self._new_column(kind)
            self._column_of[signal] = column
        return column

    def _new_column(self, kind: Signal) -> Column:
        column = Column(kind.id, kind, (OUT, *self._per_signal(kind)))
        self._column_of[kind], self._users[column.id] = column, 0
        for field in column.fields:
            self._extend(column.name(field.name), field)
        self.columns = sorted([*self.columns, column], key=lambda each: each.id)
        return column

    def _drop(self, column: Column) -> None:
        self.columns = [each for each in self.columns if each is not column]
        self._column_of = {
            signal: each for signal, each in self._column_of.items() if each is not column
        }
        del self._users[column.id]
        for field in column.fields:
            del self._state[column.name(field.name)], self._fields[column.name(field.name)]

    def _extend(self, name: str, field: Field) -> None:
        self._fields[name] = field
        self._state[name] = _filled(field, len(self._series))

    def _allot(self, series: int) -> int:
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._reach(series)
        self._slot_of[series], self._series[slot] = slot, series
        self._clear(slot, self._fields)
        return slot

    def _reach(self, series: int) -> None:
        if series >= len(self._slot_of):
            more = max(series + 1, 2 * len(self._slot_of)) - len(self._slot_of)
            self._slot_of = np.append(self._slot_of, np.full(more, _NONE, dtype=np.intp))

    def _grow(self) -> None:
        held = len(self._series)
        for name, field in self._fields.items():
            longer = _filled(field, 2 * held)
            longer[:held] = self._state[name]
            self._state[name] = longer
        self._series = np.append(self._series, np.full(held, _NONE))
        self._turn = np.zeros(2 * held, dtype=np.intp)
        self._free = list(range(held, 2 * held))[::-1]

    def _clear(self, slot: int, names: Sequence[str] | Mapping[str, Field]) -> None:
        for name in names:
            self._state[name][slot] = self._fields[name].fill


def joined(spoken: Sequence[Derived]) -> Derived:
    """All of the numbers in the order of their rows, those of one row in the order given."""
    filled = [each for each in spoken if len(each)]
    if not filled:
        return NOTHING
    if len(filled) == 1:
        return derived(filled[0].row, filled[0].series, filled[0].ts, filled[0].value)
    return derived(
        np.concatenate([each.row for each in filled]),
        np.concatenate([each.series for each in filled]),
        np.concatenate([each.ts for each in filled]),
        np.concatenate([each.value for each in filled]),
    )


def _filled(field: Field, rows: int) -> NDArray[Any]:
    """An array of the fill value; where that is 0, rows take no memory before they are used."""
    shape = (rows, field.width) if field.width else (rows,)
    if field.fill == 0:
        return np.zeros(shape, dtype=field.dtype)
    return np.full(shape, field.fill, dtype=field.dtype)
