"""What is made of each device's readings, and which leaves watch it.

The engine numbers series and devices in the order in which it meets them, and outputs, the numbers
that operators make, beside them. A device is bound when its series are first seen and again when
its birth says what it is.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import tzinfo
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from alerts.comparisons import CompareOperator
from alerts.composites import Composites
from alerts.hours import HourOperator
from alerts.indexing import INDEX_QUANTITIES, IndexOperator
from alerts.panes import PaneOperator
from alerts.rates import RateOperator
from alerts.rules import Leaf, Rule
from alerts.runs import MarkOperator, StuckOperator
from alerts.signals import HOURLY, WINDOWED, Arrived, Derived, Operator, Signal
from alerts.silence import SilenceOperator
from alerts.watches import Watches
from broker.messages import Birth
from city.cityfile import Address
from city.readings import Series, SeriesTable

SILENT: Final = Signal(stat="silence", window_ms=60_000, intervals=5.0)
"""When a device counts as silent whatever the rules: its alarms are marked stale then."""
_INTERVAL_MS: Final = 60_000
"""A device's interval until its birth is known."""

Role = Literal["watched", "compared", "against", "index"]
Placed = tuple[bool, int]
"""Whether it is an output, and the number of the series or output."""


class Place(NamedTuple):
    """Where the numbers of a leaf at a device are found."""

    is_derived: bool
    series: int


class _Kind(msgspec.Struct, frozen=True):
    """What is known of a device from its birth."""

    device: str | None = None
    plant: str | None = None
    interval_ms: int = _INTERVAL_MS


class _Demand(msgspec.Struct, frozen=True):
    """What one leaf wants of one quantity of a device."""

    rule: Rule
    leaf: Leaf
    role: Role
    signal: Signal
    """The signal to make of the quantity, by itself."""


class _Bound(msgspec.Struct):
    """What one device is bound to."""

    leaves: dict[Placed, dict[str, Leaf]]
    sources: set[tuple[int, Signal, int]]
    """Series, signal and output of everything that is made for it."""
    lefts: list[tuple[tuple[str, Signal], int]]
    """The outputs that compare something of the device, with what."""
    rights: list[tuple[tuple[str, Signal], int]]
    """The outputs that something may be compared with, as what."""


class Bindings:
    """Series, devices, outputs, and the operators between them."""

    def __init__(
        self,
        rules: Sequence[Rule],
        zone: tzinfo,
        raw: Watches,
        made: Watches,
        composites: Composites,
    ) -> None:
        self.table = SeriesTable()
        self.device_of: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._rules = tuple(rules)
        self._zone = zone
        self._raw, self._made, self._composites = raw, made, composites
        self._addresses: list[Address] = []
        self._devices: dict[Address, int] = {}
        self._kinds: dict[Address, _Kind] = {}
        self._series_of: defaultdict[Address, list[int]] = defaultdict(list)
        self._outs: dict[tuple[Address, Signal], int] = {}
        self._out_address: list[Address] = []
        self._bound: dict[Address, _Bound] = {}
        self._demands: dict[tuple[str, str | None, str | None], tuple[_Demand, ...]] = {}
        self._lefts: defaultdict[tuple[str, Signal], dict[int, tuple[int, bool]]] = defaultdict(
            dict
        )
        self._rights: defaultdict[tuple[str, Signal], set[int]] = defaultdict(set)
        self._operators: dict[str, Operator] = {}
        self._marks = MarkOperator(zone)
        self._marks_used = False
        self._compare = CompareOperator()
        self._indices: dict[str, Operator] = {}
        self._silences: dict[Signal, SilenceOperator] = {}
        self._late_ms = 0
        self.silence = self._silence(SILENT)
        self._rule_of = {leaf.id: rule for rule in rules for leaf in rule.leaves}
        self._make_operators()

    @property
    def outputs(self) -> int:
        """How many outputs there are."""
        return len(self._out_address)

    @property
    def marks_anything(self) -> bool:
        """Whether readings of every flag are looked at."""
        return self._marks_used

    def allow_late(self, late_ms: int) -> None:
        """Let devices' messages lag behind those of others by so much."""
        self._late_ms = late_ms
        for silence in self._silences.values():
            silence.late_ms = late_ms

    def index(self, all_series: Iterable[Series]) -> list[int]:
        """The numbers of series; devices of new ones are bound to what watches them."""
        known = len(self.table)
        numbers = [self.table.index(one.address, one.quantity) for one in all_series]
        if len(self.table) > known:
            met: dict[Address, None] = {}
            devices = np.empty(len(self.table) - known, dtype=np.int64)
            for number in range(known, len(self.table)):
                address = self.table[number].address
                self._series_of[address].append(number)
                devices[number - known] = self._device(address)
                met[address] = None
            self.device_of = np.concatenate((self.device_of, devices))
            self._raw.reserve(len(self.table))
            for address in met:
                self._bind(address)
        return numbers

    def learn(self, address: Address, birth: Birth) -> list[tuple[Rule, Leaf]]:
        """Bind a device as what it is; returns the leaves that watch it no more."""
        kind = _Kind(birth.kind, birth.plant, max(1, round(1000 * birth.interval_s)))
        if self._kinds.get(address) == kind:
            return []
        self._kinds[address] = kind
        return self._bind(address) if address in self._series_of else []

    def hear(
        self,
        row: NDArray[np.int64],
        device: NDArray[np.int64],
        ts: NDArray[np.int64],
        reached: NDArray[np.int64],
    ) -> list[Derived]:
        """Note that the devices speak; who falls silent, and who is heard again."""
        return [silence.take(row, device, ts, reached) for silence in self._silences.values()]

    def advance(self, now: int) -> list[Derived]:
        """Who falls silent when it is `now`."""
        return [silence.advance(now) for silence in self._silences.values()]

    def take(self, arrived: Arrived, counted: Arrived) -> list[Derived]:
        """What operators make of readings: of all, and of those whose flag counts."""
        made = [self._marks.take(arrived)] if self._marks_used else []
        made += [operator.take(counted) for operator in self._operators.values()]
        made += [operator.take(counted) for operator in self._indices.values()]
        made = [derived for derived in made if len(derived)]
        if made and self._lefts:
            made.append(self._compare.take(_together(made)))
        return made

    def hushes(self, derived: Derived) -> NDArray[np.int64] | None:
        """All positions, where these numbers tell of silence; None where they do not."""
        tells = len(derived) and self.hushed(int(derived.series[0])) is not None
        return np.arange(len(derived)) if tells else None

    def hushed(self, out: int) -> Address | None:
        """The device of which the output says whether it is silent; None: it says something else."""
        address = self._out_address[out]
        return address if self._outs.get((address, SILENT)) == out else None

    def address(self, series: int, *, is_derived: bool) -> Address:
        """The device of a series or output."""
        return self._out_address[series] if is_derived else self.table[series].address

    def output(self, address: Address, leaf: Leaf) -> Place | None:
        """Where a leaf's numbers of a device are found; None: it does not watch it."""
        bound = self._bound.get(address)
        for (is_derived, series), leaves in bound.leaves.items() if bound else ():
            if leaf.id in leaves:
                return Place(is_derived, series)
        return None

    def capture(self) -> dict[str, Any]:
        """All that has a number, what is known of the devices, and the operators' states."""
        plain = msgspec.to_builtins
        operators = {**self._operators, **self._indices}
        return {
            "outs": [[plain(at), signal.id] for at, signal in self._outs],
            "kinds": [[plain(at), plain(kind)] for at, kind in self._kinds.items()],
            "devices": [plain(address) for address in self._addresses],
            "series": [plain(self.table[number]) for number in range(len(self.table))],
            "operators": {key: operator.capture() for key, operator in operators.items()},
            "marks": self._marks.capture(),
            "compare": self._compare.capture(),
            "late": self._late_ms,
            "silences": {signal.id: one.capture() for signal, one in self._silences.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Number and bind everything as it was, and give the operators their states."""
        for at, signal_id in state["outs"]:
            signal = msgspec.json.decode(signal_id, type=Signal)
            self._out(msgspec.convert(at, Address), signal)
        for at, kind in state["kinds"]:
            self._kinds[msgspec.convert(at, Address)] = msgspec.convert(kind, _Kind)
        for at in state["devices"]:
            self._device(msgspec.convert(at, Address))
        self.index(msgspec.convert(series, Series) for series in state["series"])
        for key, operator in {**self._operators, **self._indices}.items():
            if key in state["operators"]:
                operator.restore(state["operators"][key])
        self._marks.restore(state["marks"])
        self._compare.restore(state["compare"])
        self.allow_late(int(state["late"]))
        for signal, silence in self._silences.items():
            if signal.id in state["silences"]:
                silence.restore(state["silences"][signal.id])

    def _make_operators(self) -> None:
        for rule in self._rules:
            for leaf in rule.leaves:
                for signal in (leaf.signal, leaf.signal.over, leaf.signal.minus):
                    if signal is not None and signal.stat == "silence":
                        self._silence(signal)
                    elif signal is not None:
                        self._operator(signal.alone)

    def _operator(self, signal: Signal) -> Operator:
        """The operator that makes a signal, made when it is first asked for.

        Of readings as they come the marks make numbers, so that they can be compared.
        """
        key = _operator_key(signal)
        if not key:
            return self._marks
        operators = self._operators if signal.index is None else self._indices
        if key not in operators:
            operators[key] = self._made_for(signal)
        return operators[key]

    def _made_for(self, signal: Signal) -> Operator:
        if signal.stat in WINDOWED:
            return PaneOperator(signal.window_ms, signal.step_ms)
        if signal.stat == "rate":
            return RateOperator(signal.window_ms)
        if signal.stat == "stuck":
            return StuckOperator()
        if signal.index is None:
            return HourOperator(self._zone)
        hours = self._operators.setdefault("hours", HourOperator(self._zone))
        if not isinstance(hours, HourOperator):
            raise TypeError("the operator of hours is another one")
        return IndexOperator(signal.index, self._zone, hours)

    def _silence(self, signal: Signal) -> SilenceOperator:
        key = replace(SILENT, window_ms=signal.window_ms, intervals=signal.intervals)
        if key not in self._silences:
            self._silences[key] = SilenceOperator(key.intervals, key.window_ms)
        return self._silences[key]

    def _device(self, address: Address) -> int:
        number = self._devices.get(address)
        if number is None:
            number = self._devices[address] = len(self._addresses)
            self._addresses.append(address)
        return number

    def _out(self, address: Address, signal: Signal) -> int:
        out = self._outs.get((address, signal))
        if out is None:
            out = self._outs[address, signal] = len(self._out_address)
            self._out_address.append(address)
            self._made.reserve(len(self._out_address))
        return out

    def _bind(self, address: Address) -> list[tuple[Rule, Leaf]]:
        """Bind a device as what is known of it says; returns the leaves that watch it no more."""
        kind = self._kinds.get(address, _Kind())
        old = self._bound.get(address, _Bound({}, set(), [], []))
        bound = _Bound({}, set(), [], [])
        self._part(old)
        for series in self._series_of[address]:
            quantity = self.table[series].quantity
            for demand in self._wanted(quantity, kind):
                self._supply(bound, address, series, demand, kind)
        self._watch_silence(bound, address, kind)
        self._bound[address] = bound
        for series, signal, _ in old.sources - bound.sources:
            self._operator(signal).exclude(series, signal)
        return self._rebind(address, old, bound)

    def _rebind(self, address: Address, old: _Bound, bound: _Bound) -> list[tuple[Rule, Leaf]]:
        """Set the watches of a device."""
        for placed in {**old.leaves, **bound.leaves}:
            is_derived, series = placed
            leaves = tuple(bound.leaves.get(placed, {}).values())
            (self._made if is_derived else self._raw).bind(series, leaves)
        before = {key: leaf for leaves in old.leaves.values() for key, leaf in leaves.items()}
        after = {key: leaf for leaves in bound.leaves.values() for key, leaf in leaves.items()}
        for key, leaf in after.items():
            if key not in before and self._rule_of[key].is_composite:
                self._composites.add(self._rule_of[key], leaf, address)
        gone = before.keys() - after.keys()
        return [(self._rule_of[key], leaf) for key, leaf in before.items() if key in gone]

    def _supply(
        self, bound: _Bound, address: Address, series: int, demand: _Demand, kind: _Kind
    ) -> None:
        """Have one demand's signal made of a series, and bind its leaf to what it watches."""
        signal, leaf = demand.signal, demand.leaf
        if demand.role == "watched" and signal.is_raw:
            bound.leaves.setdefault((False, series), {})[leaf.id] = leaf
            return
        out = self._include(bound, address, series, signal, kind)
        if demand.role in {"watched", "index"}:
            bound.leaves.setdefault((True, out), {})[leaf.id] = leaf
            return
        self._link(bound, address, leaf, out, is_left=demand.role == "compared")

    def _link(
        self, bound: _Bound, address: Address, leaf: Leaf, out: int, *, is_left: bool
    ) -> None:
        """Compare an output with those of the other side that there are, and that will be."""
        other = leaf.signal.over or leaf.signal.minus
        if other is None:
            return
        key = (_scope(address, other), other.alone)
        if not is_left:
            self._rights[key].add(out)
            bound.rights.append((key, out))
            for compared, (left, quotient) in self._lefts[key].items():
                self._compare.link(left, out, compared, quotient)
            return
        compared = self._out(address, replace(leaf.signal, at=""))
        quotient = leaf.signal.over is not None
        self._lefts[key][compared] = (out, quotient)
        bound.lefts.append((key, compared))
        for right in self._rights[key]:
            self._compare.link(out, right, compared, quotient)
        bound.leaves.setdefault((True, compared), {})[leaf.id] = leaf

    def _include(
        self, bound: _Bound, address: Address, series: int, signal: Signal, kind: _Kind
    ) -> int:
        out = self._out(address, signal)
        operator = self._operator(signal)
        self._marks_used |= operator is self._marks
        if isinstance(operator, IndexOperator):
            operator.name(series, self.table[series].quantity)
        operator.include(series, signal, out, kind.interval_ms)
        bound.sources.add((series, signal, out))
        return out

    def _part(self, bound: _Bound) -> None:
        """Compare nothing of a device any more."""
        for key, compared in bound.lefts:
            self._lefts[key].pop(compared, None)
            self._compare.unlink(compared)
        for key, out in bound.rights:
            self._rights[key].discard(out)

    def _watch_silence(self, bound: _Bound, address: Address, kind: _Kind) -> None:
        device = self._device(address)
        self.silence.include(device, self._out(address, SILENT), kind.interval_ms)
        for rule in self._rules:
            for leaf in rule.leaves:
                if leaf.signal.stat == "silence" and _fits(rule, leaf.signal.at, kind):
                    operator = self._silence(leaf.signal)
                    signal = replace(
                        SILENT, window_ms=leaf.signal.window_ms, intervals=leaf.signal.intervals
                    )
                    out = self._out(address, signal)
                    operator.include(device, out, kind.interval_ms)
                    bound.leaves.setdefault((True, out), {})[leaf.id] = leaf

    def _wanted(self, quantity: str, kind: _Kind) -> tuple[_Demand, ...]:
        key = (quantity, kind.device, kind.plant)
        if key not in self._demands:
            self._demands[key] = tuple(self._all_demands(quantity, kind))
        return self._demands[key]

    def _all_demands(self, quantity: str, kind: _Kind) -> Iterator[_Demand]:
        for rule in self._rules:
            for leaf in rule.leaves:
                signal = leaf.signal
                other = signal.over or signal.minus
                if other is not None and other.quantity == quantity:
                    where = other.at or signal.at
                    if _fits(rule, where, kind):
                        yield _Demand(rule, leaf, "against", other.alone)
                if not _fits(rule, signal.at, kind):
                    continue
                if signal.index is not None and quantity in INDEX_QUANTITIES[signal.index]:
                    yield _Demand(rule, leaf, "index", signal.alone)
                elif signal.quantity == quantity:
                    role: Role = "watched" if other is None else "compared"
                    yield _Demand(rule, leaf, role, signal.alone)


def _operator_key(signal: Signal) -> str:
    """The name of the operator that makes the signal; empty: the marks."""
    if signal.stat in WINDOWED:
        return f"panes {signal.window_ms} {signal.step_ms}"
    if signal.stat == "rate":
        return f"rate {signal.window_ms}"
    if signal.stat in HOURLY:
        return "hours"
    if signal.index is not None:
        return f"index {signal.index}"
    return signal.stat if signal.stat == "stuck" else ""


def _fits(rule: Rule, at: str, kind: _Kind) -> bool:
    """Whether a signal of the rule is taken at such a device."""
    if not at:
        return rule.applies(kind.device, kind.plant)
    return kind.device == at and (not rule.plant_kinds or kind.plant in rule.plant_kinds)


def _scope(address: Address, other: Signal) -> str:
    """Among which devices the other side of a comparison is looked for."""
    if not other.at:
        return str(address)
    return f"{address.city}/{address.district}/{address.site} {other.at}"


def _together(made: Sequence[Derived]) -> Derived:
    """Several batches of numbers as one, in the order of their rows."""
    if len(made) == 1:
        return made[0]
    row = np.concatenate([derived.row for derived in made])
    order = np.argsort(row, kind="stable")
    columns = (
        np.concatenate([getattr(derived, name) for derived in made])[order]
        for name in ("series", "ts", "value")
    )
    return Derived(row[order], *columns)
