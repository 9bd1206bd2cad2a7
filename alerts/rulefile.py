"""The rule file: one pack of alarm rules as YAML, checked as a whole before anything uses it."""

from collections.abc import Iterable
from datetime import date
from itertools import pairwise
from typing import Annotated, Final, Literal

import msgspec

from alerts.gates import Level
from broker.messages import Severity
from city.cityfile import IDENTIFIER, Identifier
from city.documents import Document, suggestion
from city.kinds import DEVICE_KINDS, PLANT_KINDS
from city.quantities import QUANTITIES, Domain, Quantity, to_canonical

DELAY_MAX_S: Final = 86_400
Grade = Literal["A", "B", "C", "D", "X"]
"""Evidence for a figure: A read in the official document, B stated by others, C computed, D general
knowledge, X sources disagree."""

Delay = Annotated[float, msgspec.Meta(ge=0, le=DELAY_MAX_S)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Kinds = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
Place = tuple[str | int, ...]

LEVEL_KEYS: Final[dict[str, Level]] = {"low_low": "LL", "low": "L", "high": "H", "high_high": "HH"}
"""The keys of a rule's limits, in ascending order of the limits."""


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the rule file; unknown keys are errors."""


class LimitSpec(_Strict, frozen=True, kw_only=True):
    """One limit of a rule; what it does not say of its source, the rule or the pack says."""

    limit: float
    severity: Severity
    deadband: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    standard: Text | None = None
    clause: Text | None = None
    grade: Grade | None = None


class RuleSpec(_Strict, frozen=True, kw_only=True):
    """One rule as the file gives it: limits in `unit` on one quantity."""

    id: Identifier
    quantity: str
    unit: str
    device_kinds: Kinds | None = None
    plant_kinds: Kinds | None = None
    standard: Text | None = None
    clause: Text | None = None
    grade: Grade | None = None
    low_low: LimitSpec | None = None
    low: LimitSpec | None = None
    high: LimitSpec | None = None
    high_high: LimitSpec | None = None
    on_delay_s: Delay = 0.0
    off_delay_s: Delay = 0.0
    message: str = ""
    message_zh: str = ""

    def limits(self) -> dict[str, LimitSpec]:
        """The limits that are given, by key, in ascending order."""
        specs = {key: getattr(self, key) for key in LEVEL_KEYS}
        return {key: spec for key, spec in specs.items() if spec is not None}

    def canonical(self, value: float) -> float:
        """`value` in the canonical unit of the quantity."""
        return to_canonical(value, self.unit, QUANTITIES[self.quantity])


class PackSpec(_Strict, frozen=True, kw_only=True):
    """The content of one rule file."""

    pack: Identifier
    title: str
    title_zh: str = ""
    standard: Text
    grade: Grade = "A"
    valid_from: date | None = None
    valid_until: date | None = None
    """The last day on which the pack's figures are in force."""
    note: str = ""
    rules: Annotated[tuple[RuleSpec, ...], msgspec.Meta(min_length=1)]


def check_pack(document: Document) -> PackSpec:
    """The pack in `document`, checked as a whole.

    Raises:
        DocumentError: Names file, line and path, what was found and what is allowed.
    """
    pack = document.convert(PackSpec)
    _check_identifier(document, ("pack",), pack.pack)
    if pack.valid_from and pack.valid_until and pack.valid_until < pack.valid_from:
        problem = f"ends on {pack.valid_until}, before it begins on {pack.valid_from}"
        document.fail(("valid_until",), problem)
    seen: set[str] = set()
    for index, rule in enumerate(pack.rules):
        place = ("rules", index)
        _check_identifier(document, (*place, "id"), rule.id)
        if rule.id in seen:
            document.fail((*place, "id"), f"rule {rule.id!r} stands twice; rename one of them")
        seen.add(rule.id)
        _check_rule(document, place, rule)
    return pack


def _check_rule(document: Document, place: Place, rule: RuleSpec) -> None:
    if rule.quantity not in QUANTITIES:
        problem = f"unknown quantity {rule.quantity!r}; {suggestion(rule.quantity, QUANTITIES)}"
        document.fail((*place, "quantity"), problem)
    quantity = QUANTITIES[rule.quantity]
    try:
        to_canonical(0.0, rule.unit, quantity)
    except ValueError as error:
        document.fail((*place, "unit"), str(error))
    if not rule.limits():
        document.fail(place, f"rule {rule.id!r} has no limit; give one of {', '.join(LEVEL_KEYS)}")
    _check_kinds(document, place, rule, quantity)
    _check_limits(document, place, rule, quantity)


def _check_kinds(document: Document, place: Place, rule: RuleSpec, quantity: Quantity) -> None:
    measuring = [kind.id for kind in DEVICE_KINDS.values() if quantity.id in kind.quantities]
    for kind in rule.device_kinds or ():
        if kind not in measuring:
            what = "does not measure" if kind in DEVICE_KINDS else "is unknown, so cannot measure"
            problem = f"device kind {kind!r} {what} {quantity.id!r}; {suggestion(kind, measuring)}"
            document.fail((*place, "device_kinds"), problem)
    if rule.plant_kinds is not None and quantity.domain is not Domain.EMISSION:
        problem = f"{quantity.id!r} is not measured at plants; only emission quantities are"
        document.fail((*place, "plant_kinds"), problem)
    for kind in rule.plant_kinds or ():
        if kind not in PLANT_KINDS:
            problem = f"unknown plant kind {kind!r}; {suggestion(kind, PLANT_KINDS)}"
            document.fail((*place, "plant_kinds"), problem)


def _check_limits(document: Document, place: Place, rule: RuleSpec, quantity: Quantity) -> None:
    limits = rule.limits()
    for key, spec in limits.items():
        if not quantity.low <= rule.canonical(spec.limit) <= quantity.high:
            problem = (
                f"{spec.limit:g} {rule.unit} can never be measured; {quantity.id} "
                f"ranges from {quantity.low:g} to {quantity.high:g} {quantity.unit}"
            )
            document.fail((*place, key, "limit"), problem)
    keys = list(limits)
    for lower, upper in pairwise(keys):
        if not limits[lower].limit < limits[upper].limit:
            problem = f"{limits[upper].limit:g} must be above {lower} ({limits[lower].limit:g})"
            document.fail((*place, upper, "limit"), problem)
    for key in limits:
        _check_deadband(document, place, rule, key)


def _check_deadband(document: Document, place: Place, rule: RuleSpec, key: str) -> None:
    """The value at which a limit lets go lies between it and its inner neighbour."""
    quantity, limits = QUANTITIES[rule.quantity], rule.limits()
    upper = key in {"high", "high_high"}
    ends = (quantity.low, quantity.high)
    inner = _inner_neighbour(key, limits)
    edge = rule.canonical(limits[inner].limit) if inner else ends[0 if upper else 1]
    limit, deadband = rule.canonical(limits[key].limit), rule.canonical(limits[key].deadband)
    gap = abs(limit - edge)
    if not deadband <= gap * (1 + 1e-12):
        to = inner or f"the end of the range of {quantity.id}"
        problem = (
            f"{deadband:g} {quantity.unit} is more than the gap of {gap:g} {quantity.unit} "
            f"to {to}: the alarm would never clear; allowed: 0 to {gap:g}"
        )
        document.fail((*place, key, "deadband"), problem)


def _inner_neighbour(key: str, present: Iterable[str]) -> str | None:
    keys = list(present)
    step = -1 if key in {"high", "high_high"} else 1
    index = keys.index(key) + step
    return keys[index] if 0 <= index < len(keys) else None


def _check_identifier(document: Document, place: Place, identifier: str) -> None:
    if not IDENTIFIER.fullmatch(identifier):
        allowed = "small letters, digits and inner hyphens"
        document.fail(place, f"identifier {identifier!r} is not allowed; use {allowed}")
