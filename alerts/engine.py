"""The alarm engine: readings in, changes of alarms out.

A batch goes through operators, which make numbers of readings, and is then compared with the quiet
bands of what is watched by a handful of array operations; only series with a number outside its
band are followed number by number. What the engine says depends on what it is given and in which
order, not on how that is batched; its state can be captured at any time and taken up elsewhere.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from alerts.bindings import Bindings
from alerts.book import AlarmBook
from alerts.citytime import CityTime
from alerts.composites import Composites, Evidence
from alerts.figures import AlarmFigures
from alerts.gates import Change, standing, step
from alerts.rules import Leaf, Rule, RuleSet
from alerts.signals import Arrived, Derived
from alerts.surroundings import Nowhere, Surroundings
from alerts.transitions import AlarmKey, Transition
from alerts.watches import Watches
from broker.messages import Announcement, Birth, OperatorRequest
from city.cityfile import Address
from city.readings import Flag, ReadingBatch, SeriesTable

_COUNTED: Final = np.array([flag in {Flag.N, Flag.S, Flag.T} for flag in sorted(Flag)])
"""By flag: whether the value says something about the medium."""
_LONG_AGO: Final = int(np.iinfo(np.int64).min)
_NOT_YET: Final = 2**62


class _Number(msgspec.Struct, frozen=True):
    """One number that may change something: where it stands, and what it is of."""

    row: int
    is_derived: bool
    series: int
    ts: int
    value: float


class AlarmEngine:
    """Holds readings against rules; one alarm per rule and device.

    `late_ms` is how far the messages of one device may lag behind those of others.
    """

    def __init__(
        self,
        rules: RuleSet,
        surroundings: Surroundings | None = None,
        *,
        operators: int = 1,
        late_ms: int = 0,
        reported: Sequence[Rule] = (),
    ) -> None:
        """`operators` is the number of people who watch the alarms, for the figures.

        `reported` are rules whose conditions others than the engine watch.
        """
        self._surroundings = surroundings or Nowhere()
        self._rules = {rule.id: rule for rule in rules.rules}
        self._composites = Composites(self._surroundings)
        self._raw, self._made = Watches(), Watches()
        self._bindings = Bindings(
            rules.rules, self._surroundings.zone, self._raw, self._made, self._composites
        )
        self._bindings.allow_late(late_ms)
        everything = (*rules.rules, *reported)
        self.book = AlarmBook(everything, self._surroundings, operators=operators)
        self._last = np.empty(0, dtype=np.int64)
        self._last_any = np.empty(0, dtype=np.int64)
        self._time = CityTime()
        self._now = _LONG_AGO
        self._foreign: SeriesTable | None = None
        self._own = np.empty(0, dtype=np.int64)

    @property
    def now(self) -> int:
        """The city's time, by what its devices say or `advance` was told."""
        return self._now

    @property
    def due(self) -> int:
        """The instant of the next change that needs no reading."""
        waiting = self._composites.due
        return min(self.book.due, _NOT_YET if waiting is None else waiting)

    def allow_late(self, late_ms: int) -> None:
        """Let messages of one device lag behind those of others by so much."""
        self._bindings.allow_late(late_ms)

    def learn(self, address: Address, birth: Birth) -> list[Announcement]:
        """Select the rules for a device; until its birth is known, those for every kind apply.

        Returns the ends of alarms whose rule is not for such a device.
        """
        found: list[Announcement] = []
        for rule, leaf in self._bindings.learn(address, birth):
            found += self._unwatched(rule, leaf, address)
        return found

    def evaluate(self, batch: ReadingBatch) -> list[Announcement]:
        """What `batch` changes, in the order of arrival."""
        if not len(batch):
            return []
        series = self._numbered(batch)
        row = np.arange(len(series))
        device = self._bindings.device_of.take(series)
        reached = self._time.hear(device, batch.ts)
        heard = self._bindings.hear(row, device, batch.ts, reached)
        arrived = Arrived(row, series, batch.ts, batch.value, batch.flag)
        counted = arrived
        if arrived.flag.any():
            counted = _part(arrived, _COUNTED[arrived.flag])
        counted = _in_order(counted, self._last)
        if self._bindings.marks_anything:
            arrived = _in_order(arrived, self._last_any)
        made = [*heard, *self._bindings.take(arrived, counted)]
        numbers = self._numbers(counted, made)
        until = self._time.now
        if not numbers and until < self.due:
            self._now = until
            return []
        found: list[Announcement] = []
        for number in numbers:
            found += self._advanced(int(reached[number.row]))
            found += self._take(number)
        found += self._advanced(until)
        return found

    def advance(self, now: int) -> list[Announcement]:
        """What is due up to `now`, though no reading came."""
        if now <= self._now:
            return []
        self._time.advance(now)
        found: list[Announcement] = []
        made = self._bindings.advance(now)
        for number in sorted(self._noisy(made), key=lambda number: number.ts):
            found += self._advanced(number.ts)
            found += self._take(number)
        return found + self._advanced(now)

    def obey(self, request: OperatorRequest, ts: int) -> tuple[list[Announcement], tuple[str, ...]]:
        """What a person's request changes, and the names of the alarms that it changes.

        Raises:
            InputError: It cannot be done; the text says why and what can.
        """
        return self.book.obey(request, max(ts, self._now))

    def report(self, transition: Transition) -> list[Announcement]:
        """Take note of a condition that others than the engine watch, such as a deaf valve."""
        return self.book.change(transition)

    def standing(self) -> list[Announcement]:
        """The newest event of every alarm that is not normal, in the order of being raised."""
        return self.book.standing()

    def figures(self) -> AlarmFigures:
        """The figures of alarm management up to now."""
        return self.book.figures(self._now)

    def capture(self) -> dict[str, Any]:
        """The whole state, as plain data and arrays."""
        return {
            "now": self._now,
            "time": self._time.capture(),
            "last": self._last[: len(self._bindings.table)].copy(),
            "last_any": self._last_any[: len(self._bindings.table)].copy(),
            "bindings": self._bindings.capture(),
            "raw": self._raw.capture(),
            "made": self._made.capture(),
            "composites": self._composites.capture(),
            "book": self.book.capture(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a state, on an engine that has seen nothing yet; its rules may be others."""
        self._bindings.restore(state["bindings"])
        count = len(self._bindings.table)
        self._reserve(count)
        self._last[:count] = state["last"]
        self._last_any[:count] = state["last_any"]
        self._raw.restore(state["raw"])
        self._made.restore(state["made"])
        self._composites.restore(state["composites"])
        self.book.restore(state["book"])
        self._time.restore(state["time"])
        self._now = int(state["now"])
        self._reconcile()

    def _reconcile(self) -> None:
        """Let watches stand that the book says do, where their rule has changed its limits."""
        for announcement in self.book.standing():
            address, event = announcement.address, announcement.event
            rule = self._rules.get(event.rule)
            if rule is None or rule.is_composite or not self.book.is_active((address, rule.id)):
                continue
            place = self._bindings.output(address, rule.head)
            if place is None:
                continue
            watches = self._made if place.is_derived else self._raw
            if not watches.life(place.series, rule.head).open:
                life = standing(rule.head.watch, event.level, event.raised)
                watches.set_life(place.series, rule.head, life)

    def _numbered(self, batch: ReadingBatch) -> NDArray[np.int64]:
        """The readings' series in the engine's own numbering."""
        if self._foreign is not batch.table:
            self._foreign, self._own = batch.table, np.empty(0, dtype=np.int64)
        known, count = len(self._own), len(batch.table)
        if known < count:
            new = self._bindings.index(batch.table[i] for i in range(known, count))
            self._own = np.concatenate((self._own, np.array(new, dtype=np.int64)))
            self._reserve(len(self._bindings.table))
        return self._own.take(batch.series)

    def _reserve(self, count: int) -> None:
        self._raw.reserve(count)
        more = len(self._raw.low) - len(self._last)
        if more > 0:
            self._last = np.concatenate((self._last, np.full(more, _LONG_AGO)))
            self._last_any = np.concatenate((self._last_any, np.full(more, _LONG_AGO)))

    def _numbers(self, counted: Arrived, made: Sequence[Derived]) -> list[_Number]:
        """The numbers that may change something, in the order of arrival."""
        found = []
        positions = self._raw.noisy(counted.series, counted.value)
        if positions is not None:
            part = _part(counted, positions)
            columns = (part.row, part.series, part.ts, part.value)
            rows = zip(*(column.tolist() for column in columns), strict=True)
            found = [_Number(row, False, series, ts, value) for row, series, ts, value in rows]
        more = list(self._noisy(made))
        if more:
            found = sorted(found + more, key=lambda number: number.row)
        return found

    def _noisy(self, made: Iterable[Derived]) -> Iterator[_Number]:
        for derived in made:
            if not len(derived):
                continue
            self._made.reserve(self._bindings.outputs)
            positions = self._made.noisy(derived.series, derived.value)
            hushing = self._bindings.hushes(derived)
            if hushing is not None:
                positions = hushing
            if positions is not None:
                columns = (derived.row, derived.series, derived.ts, derived.value)
                rows = zip(*(column[positions].tolist() for column in columns), strict=True)
                for row, series, ts, value in rows:
                    yield _Number(row, True, series, ts, value)

    def _advanced(self, now: int) -> list[Announcement]:
        """Let time pass up to `now`: what delays let through, and what is due in the book."""
        found: list[Announcement] = []
        self._now = max(self._now, now)
        if self.due > now:
            return found
        for transition in self._composites.advance(now):
            found += self.book.advance(transition.ts)
            found += self.book.change(transition)
        return found + self.book.advance(now)

    def _take(self, number: _Number) -> list[Announcement]:
        found: list[Announcement] = []
        if number.is_derived:
            found += self._hushed(number)
        watches = self._made if number.is_derived else self._raw
        for leaf in watches.leaves(number.series):
            before = watches.life(number.series, leaf)
            after, change = step(leaf.watch, before, number.ts, number.value)
            if after is not before:
                watches.set_life(number.series, leaf, after)
            if change is not None:
                found += self._changed(leaf, number, change)
        return found

    def _hushed(self, number: _Number) -> list[Announcement]:
        """Tell the book of devices that fall silent and speak again."""
        address = self._bindings.hushed(number.series)
        if address is None:
            return []
        tell = self.book.hush if number.value > 0.0 else self.book.hear
        return tell(address, number.ts)

    def _changed(self, leaf: Leaf, number: _Number, change: Change) -> list[Announcement]:
        """What a change of one leaf means for its rule."""
        address = self._bindings.address(number.series, is_derived=number.is_derived)
        rule = self._rules[leaf.id.partition("#")[0]]
        bound = next(limit for limit in leaf.watch.bounds if limit.level == change.level)
        limit = number.value if leaf.signal.stat == "silence" else bound.limit
        if rule.is_composite:
            gone = change.event == "cleared"
            name, unit = leaf.signal.name, leaf.unit
            evidence = None if gone else Evidence(number.ts, name, number.value, limit, unit)
            transitions = self._composites.change(rule, leaf, address, evidence, number.ts)
        else:
            transitions = [
                Transition(
                    rule=rule, address=address, change=change, ts=number.ts, value=number.value,
                    limit=limit, quantity=leaf.signal.name, unit=leaf.unit,
                )
            ]  # fmt: skip
        found: list[Announcement] = []
        for transition in transitions:
            found += self.book.change(transition)
        return found

    def _unwatched(self, rule: Rule, leaf: Leaf, address: Address) -> list[Announcement]:
        """A leaf watches a device no more."""
        found: list[Announcement] = []
        if rule.is_composite:
            for transition in self._composites.remove(rule, leaf, address, self._now):
                found += self.book.change(transition)
        key: AlarmKey = (address, rule.id)
        if leaf is rule.head and self.book.is_active(key):
            found += self.book.forget(key, self._now)
        return found


def _part(arrived: Arrived, where: NDArray[np.bool_] | NDArray[np.int64]) -> Arrived:
    """Some of the readings."""
    return Arrived(
        arrived.row[where], arrived.series[where], arrived.ts[where],
        arrived.value[where], arrived.flag[where],
    )  # fmt: skip


def _in_order(arrived: Arrived, last: NDArray[np.int64]) -> Arrived:
    """The readings that are not older than one before of their series; `last` moves with them."""
    series, ts = arrived.series, arrived.ts
    before = last.take(series)
    last[series] = ts
    if not (ts < before).any() and _ascends(series, ts):
        return arrived
    keep = np.zeros(len(series), dtype=np.bool_)
    newest: dict[int, int] = dict(zip(series.tolist(), before.tolist(), strict=True))
    for position, (one, instant) in enumerate(zip(series.tolist(), ts.tolist(), strict=True)):
        if instant >= newest[one]:
            newest[one], keep[position] = instant, True
    last[list(newest)] = list(newest.values())
    return _part(arrived, keep)


def _ascends(series: NDArray[np.int64], ts: NDArray[np.int64]) -> bool:
    """Whether no reading is older than the one before of its series."""
    if (ts[1:] >= ts[:-1]).all():
        return True
    order = np.argsort(series, kind="stable")
    one, at = series[order], ts[order]
    return not ((at[1:] < at[:-1]) & (one[1:] == one[:-1])).any()
