"""What is made of each device's readings, and which leaves watch it.

The engine numbers series and devices in the order in which it meets them, and outputs, the numbers
that operators make, beside them. A device is bound when its series are first seen and again when
its birth says what it is.
"""

import sys
from array import array
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


class Place(NamedTuple):
    """Where the numbers of a leaf at a device are found."""

    is_derived: bool
    series: int


_Leaves = dict[Place, dict[str, Leaf]]
"""The leaves that watch a device, by their identifiers, where they find their numbers."""


class _Kind(msgspec.Struct, frozen=True):
    """What is known of a device from its birth."""

    device: str | None = None
    plant: str | None = None
    interval_ms: int = _INTERVAL_MS


_UNKNOWN: Final = _Kind()


class _Demand(msgspec.Struct, frozen=True):
    """What one leaf wants of one quantity of a device."""

    rule: Rule
    leaf: Leaf
    role: Role
    signal: Signal
    """The signal to make of the quantity, by itself."""
    is_plain: bool
    """Whether it is the readings as they come."""
    other: Signal
    """What it is compared with; itself where it is not."""
    comparing: Signal
    """The signal that compares them."""


class _Binding:
    """What a device is being bound to."""

    def __init__(self, device: int, kind: _Kind, outs: dict[Signal, int]) -> None:
        self.device, self.kind = device, kind
        self.outs = outs
        self.leaves: _Leaves = {}
        self.lefts: list[tuple[Signal, int, int]] = []
        """The other side, an output and the one that compares them, of this device alone."""
        self.compared: set[int] = set()
        """The outputs that compare something."""

    def watch(self, place: Place, leaf: Leaf) -> None:
        """Let a leaf watch what is found there."""
        self.leaves.setdefault(place, {})[leaf.id] = leaf


class _Hushing(msgspec.Struct, frozen=True):
    """How a leaf watches the silence of a device."""

    leaf: Leaf
    signal: Signal
    operator: SilenceOperator


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
        self._zone = zone
        self._raw, self._made, self._composites = raw, made, composites
        self._addresses: list[Address] = []
        self._devices: dict[Address, int] = {}
        self._kinds: dict[int, _Kind] = {}
        self._series_of: list[list[int]] = []
        self._signals: dict[Signal, int] = {SILENT: 0}
        self._signal_at = [SILENT]
        self._outs_of: list[array[int]] = []
        self._out_device = array("q")
        self._out_signal = array("q")
        self._bound: dict[int, _Kind] = {}
        self._hushings: dict[tuple[str | None, str | None], tuple[_Hushing, ...]] = {}
        self._demands: dict[tuple[str, str | None, str | None], tuple[_Demand, ...]] = {}
        self._lefts: defaultdict[tuple[str, Signal], dict[int, int]] = defaultdict(dict)
        self._rights: defaultdict[tuple[str, Signal], set[int]] = defaultdict(set)
        self._operators: dict[str, Operator] = {}
        self._operator_of: dict[Signal, Operator] = {}
        self._marks = MarkOperator(zone)
        self._marks_used = False
        self._compare = CompareOperator()
        self._compares = False
        self._indices: dict[str, Operator] = {}
        self._silences: dict[Signal, SilenceOperator] = {}
        self._late_ms = 0
        self.silence = self._silence(SILENT)
        self._watched = tuple((rule, leaf) for rule in rules for leaf in rule.leaves)
        self._rule_of = {leaf.id: rule for rule, leaf in self._watched}
        self._composing = {leaf.id for rule, leaf in self._watched if rule.is_composite}
        self._make_operators()

    @property
    def outputs(self) -> int:
        """How many outputs there are."""
        return len(self._out_device)

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
            met: dict[int, None] = {}
            devices = np.empty(len(self.table) - known, dtype=np.int64)
            for number in range(known, len(self.table)):
                device = self._device(self.table[number].address)
                self._series_of[device].append(number)
                devices[number - known] = device
                met[device] = None
            self.device_of = np.concatenate((self.device_of, devices))
            self._raw.reserve(len(self.table))
            for device in met:
                self._bind(device)
        return numbers

    def learn(self, address: Address, birth: Birth) -> list[tuple[Rule, Leaf]]:
        """Bind a device as what it is; returns the leaves that watch it no more."""
        kind = _Kind(birth.kind, birth.plant, max(1, round(1000 * birth.interval_s)))
        device = self._device(address)
        if self._kinds.get(device) == kind:
            return []
        self._kinds[device] = kind
        return self._bind(device) if self._series_of[device] else []

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
        if made and self._compares:
            made.append(self._compare.take(_together(made)))
        return made

    def hushes(self, derived: Derived) -> NDArray[np.int64] | None:
        """All positions, where these numbers tell of silence; None where they do not."""
        tells = len(derived) and self._out_signal[int(derived.series[0])] == self._signals[SILENT]
        return np.arange(len(derived)) if tells else None

    def hushed(self, out: int) -> Address | None:
        """The device of which the output says whether it is silent; None: it says something else."""
        tells = self._out_signal[out] == self._signals[SILENT]
        return self._addresses[self._out_device[out]] if tells else None

    def address(self, series: int, *, is_derived: bool) -> Address:
        """The device of a series or output."""
        device = self._out_device[series] if is_derived else self.device_of[series]
        return self._addresses[device]

    def output(self, address: Address, leaf: Leaf) -> Place | None:
        """Where a leaf's numbers of a device are found; None: it does not watch it."""
        device = self._devices.get(address)
        for place, found in () if device is None else self._watching(device):
            if found.id == leaf.id:
                return place
        return None

    def capture(self) -> dict[str, Any]:
        """All that has a number, what is known of the devices, and the operators' states."""
        operators = {**self._operators, **self._indices}
        return {
            "devices": [msgspec.structs.astuple(address) for address in self._addresses],
            "kinds": self._captured_kinds(),
            "series": self._captured_series(),
            "signals": [signal.id for signal in self._signals],
            "outs": {"device": np.array(self._out_device), "signal": np.array(self._out_signal)},
            "operators": {key: operator.capture() for key, operator in operators.items()},
            "marks": self._marks.capture(),
            "compare": self._compare.capture(),
            "late": self._late_ms,
            "silences": {signal.id: one.capture() for signal, one in self._silences.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Number and bind everything as it was, and give the operators their states."""
        for row in state["devices"]:
            self._device(Address(*row))
        signals = [msgspec.json.decode(signal, type=Signal) for signal in state["signals"]]
        outs = state["outs"]
        for device, signal in zip(outs["device"].tolist(), outs["signal"].tolist(), strict=True):
            self._new_out(device, signals[signal])
        kinds = msgspec.convert(state["kinds"]["kinds"], list[_Kind])
        for device, kind in enumerate(state["kinds"]["of"].tolist()):
            if kind >= 0:
                self._kinds[device] = kinds[kind]
        quantities, series = state["series"]["quantities"], state["series"]
        rows = zip(series["device"].tolist(), series["quantity"].tolist(), strict=True)
        self.index(Series(self._addresses[device], quantities[number]) for device, number in rows)
        for key, operator in {**self._operators, **self._indices}.items():
            if key in state["operators"]:
                operator.restore(state["operators"][key])
        self._marks.restore(state["marks"])
        self._compare.restore(state["compare"])
        self.allow_late(int(state["late"]))
        for signal, silence in self._silences.items():
            if signal.id in state["silences"]:
                silence.restore(state["silences"][signal.id])

    def _captured_kinds(self) -> dict[str, Any]:
        """Every kind once, and by device its place among them; -1 where none is known."""
        place: dict[_Kind, int] = {}
        of = np.full(len(self._addresses), -1, dtype=np.int64)
        for device, kind in self._kinds.items():
            of[device] = place.setdefault(kind, len(place))
        return {"kinds": msgspec.to_builtins(list(place)), "of": of}

    def _captured_series(self) -> dict[str, Any]:
        """Every quantity once, and by series the device and the quantity's place among them."""
        place: dict[str, int] = {}
        names = (self.table[number].quantity for number in range(len(self.table)))
        quantity = np.array([place.setdefault(name, len(place)) for name in names], dtype=np.int64)
        return {"device": self.device_of, "quantity": quantity, "quantities": list(place)}

    def _make_operators(self) -> None:
        for _, leaf in self._watched:
            for signal in (leaf.signal, leaf.signal.over, leaf.signal.minus):
                if signal is not None and signal.stat == "silence":
                    self._silence(signal)
                elif signal is not None:
                    self._operator(signal.alone)

    def _operator(self, signal: Signal) -> Operator:
        """The operator that makes a signal, made when it is first asked for.

        Of readings as they come the marks make numbers, so that they can be compared.
        """
        found = self._operator_of.get(signal)
        if found is None:
            found = self._operator_of[signal] = self._operator_by_key(signal)
        return found

    def _operator_by_key(self, signal: Signal) -> Operator:
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
            self._series_of.append([])
            self._outs_of.append(array("q"))
        return number

    def _out(self, binding: _Binding, signal: Signal) -> int:
        out = binding.outs.get(signal)
        if out is None:
            out = binding.outs[signal] = self._new_out(binding.device, signal)
        return out

    def _new_out(self, device: int, signal: Signal) -> int:
        number = self._signals.setdefault(signal, len(self._signals))
        if number == len(self._signal_at):
            self._signal_at.append(signal)
        out = len(self._out_device)
        self._out_device.append(device)
        self._out_signal.append(number)
        self._outs_of[device].append(out)
        self._made.reserve(out + 1)
        return out

    def _watching(self, device: int) -> Iterator[tuple[Place, Leaf]]:
        """The leaves that watch a device, and where."""
        for series in self._series_of[device]:
            for leaf in self._raw.leaves(series):
                yield Place(False, series), leaf
        for out in self._outs_of[device]:
            for leaf in self._made.leaves(out):
                yield Place(True, out), leaf

    def _bind(self, device: int) -> list[tuple[Rule, Leaf]]:
        """Bind a device as what is known of it says; returns the leaves that watch it no more."""
        kind, before = self._kinds.get(device, _UNKNOWN), self._bound.get(device)
        outs = {self._signal_at[self._out_signal[out]]: out for out in self._outs_of[device]}
        binding = _Binding(device, kind, outs)
        if before is not None and before != kind:
            self._part(device, before, outs)
        for series in self._series_of[device]:
            for demand in self._wanted(self.table[series].quantity, kind):
                self._supply(binding, series, demand)
        self._watch_silence(binding)
        self._compare_own(binding)
        if before is not None:
            self._leave(binding, before)
        self._bound[device] = kind
        return self._rebind(binding)

    def _leave(self, binding: _Binding, before: _Kind) -> None:
        """Make no more what a device of its kind before had and has no longer."""
        for out in self._outs_of[binding.device]:
            signal = self._signal_at[self._out_signal[out]]
            if (signal.over or signal.minus) and out not in binding.compared:
                self._compare.unlink(out)
        for series in self._series_of[binding.device] if before != binding.kind else ():
            quantity = self.table[series].quantity
            kept = {demand.signal for demand in self._wanted(quantity, binding.kind)}
            for demand in self._wanted(quantity, before):
                if demand.signal not in kept and not demand.is_plain:
                    self._operator(demand.signal).exclude(series, demand.signal)

    def _rebind(self, binding: _Binding) -> list[tuple[Rule, Leaf]]:
        """Set the watches of a device; returns the leaves that watch it no more."""
        before: dict[str, Leaf] = {}
        after: dict[str, Leaf] = {}
        for place, leaf in list(self._watching(binding.device)):
            before[leaf.id] = leaf
            if place not in binding.leaves:
                self._watches(place).bind(place.series, ())
        for place, by_id in binding.leaves.items():
            after |= by_id
            self._watches(place).bind(place.series, tuple(by_id.values()))
        address = self._addresses[binding.device]
        for key, leaf in after.items():
            if key in self._composing and key not in before:
                self._composites.add(self._rule_of[key], leaf, address)
        return [(self._rule_of[key], leaf) for key, leaf in before.items() if key not in after]

    def _watches(self, place: Place) -> Watches:
        return self._made if place.is_derived else self._raw

    def _supply(self, binding: _Binding, series: int, demand: _Demand) -> None:
        """Have one demand's signal made of a series, and bind its leaf to what it watches."""
        if demand.is_plain:
            binding.watch(Place(False, series), demand.leaf)
            return
        out = self._include(binding, series, demand.signal)
        if demand.role in {"watched", "index"}:
            binding.watch(Place(True, out), demand.leaf)
        else:
            self._link(binding, demand, out)

    def _link(self, binding: _Binding, demand: _Demand, out: int) -> None:
        """Compare an output with those of the other side that there are, and that will be."""
        signal, other = demand.leaf.signal, demand.other
        is_left = demand.role == "compared"
        if is_left:
            self._compares = True
            compared = self._out(binding, demand.comparing)
            binding.compared.add(compared)
            binding.watch(Place(True, compared), demand.leaf)
        if not other.at:
            if is_left:
                binding.lefts.append((other.alone, out, compared))
            return
        key = (_scope(self._addresses[binding.device], other), other.alone)
        if is_left:
            self._lefts[key][compared] = out
            for right in self._rights[key]:
                self._compare.link(out, right, compared, signal.over is not None)
            return
        self._rights[key].add(out)
        for compared, left in self._lefts[key].items():
            quotient = self._signal_at[self._out_signal[compared]].over is not None
            self._compare.link(left, out, compared, quotient)

    def _compare_own(self, binding: _Binding) -> None:
        """Compare the outputs of a device with one another."""
        for other, left, compared in binding.lefts:
            right = binding.outs.get(other)
            if right is None:
                self._compare.unlink(compared)
            else:
                quotient = self._signal_at[self._out_signal[compared]].over is not None
                self._compare.link(left, right, compared, quotient)

    def _include(self, binding: _Binding, series: int, signal: Signal) -> int:
        out = self._out(binding, signal)
        operator = self._operator(signal)
        self._marks_used |= operator is self._marks
        if isinstance(operator, IndexOperator):
            operator.name(series, self.table[series].quantity)
        operator.include(series, signal, out, binding.kind.interval_ms)
        return out

    def _part(self, device: int, kind: _Kind, outs: Mapping[Signal, int]) -> None:
        """Compare nothing of a device with other devices any more."""
        for series in self._series_of[device]:
            for demand in self._wanted(self.table[series].quantity, kind):
                if demand.role not in {"compared", "against"} or not demand.other.at:
                    continue
                key = (_scope(self._addresses[device], demand.other), demand.other.alone)
                if demand.role == "against":
                    self._rights[key].discard(outs.get(demand.signal, -1))
                elif demand.comparing in outs:
                    self._lefts[key].pop(outs[demand.comparing], None)
                    self._compare.unlink(outs[demand.comparing])

    def _watch_silence(self, binding: _Binding) -> None:
        kind, device = binding.kind, binding.device
        self.silence.include(device, self._out(binding, SILENT), kind.interval_ms)
        key = (kind.device, kind.plant)
        if key not in self._hushings:
            self._hushings[key] = tuple(self._all_hushings(kind))
        for hushing in self._hushings[key]:
            out = self._out(binding, hushing.signal)
            hushing.operator.include(device, out, kind.interval_ms)
            binding.watch(Place(True, out), hushing.leaf)

    def _all_hushings(self, kind: _Kind) -> Iterator[_Hushing]:
        for rule, leaf in self._watched:
            signal = leaf.signal
            if signal.stat == "silence" and _fits(rule, signal.at, kind):
                window_ms, intervals = signal.window_ms, signal.intervals
                made = replace(SILENT, window_ms=window_ms, intervals=intervals)
                yield _Hushing(leaf, made, self._silence(signal))

    def _wanted(self, quantity: str, kind: _Kind) -> tuple[_Demand, ...]:
        key = (quantity, kind.device, kind.plant)
        if key not in self._demands:
            self._demands[key] = tuple(self._all_demands(quantity, kind))
        return self._demands[key]

    def _all_demands(self, quantity: str, kind: _Kind) -> Iterator[_Demand]:
        for rule, leaf in self._watched:
            signal = leaf.signal
            other = signal.over or signal.minus
            if other is not None and other.quantity == quantity:
                where = other.at or signal.at
                if _fits(rule, where, kind):
                    yield _demand(rule, leaf, "against", other.alone)
            if not _fits(rule, signal.at, kind):
                continue
            if signal.index is not None and quantity in INDEX_QUANTITIES[signal.index]:
                yield _demand(rule, leaf, "index", signal.alone)
            elif signal.quantity == quantity:
                role: Role = "watched" if other is None else "compared"
                yield _demand(rule, leaf, role, signal.alone)


def _demand(rule: Rule, leaf: Leaf, role: Role, signal: Signal) -> _Demand:
    whole = leaf.signal
    other = whole.over or whole.minus or whole
    plain = role == "watched" and signal.is_raw
    return _Demand(rule, leaf, role, signal, plain, other, replace(whole, at=""))


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
    """Among which devices of others the other side of a comparison is looked for."""
    return sys.intern(f"{address.city}/{address.district}/{address.site} {other.at}")


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
