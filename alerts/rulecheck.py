"""What is wrong with a rule file: found when it is loaded, told with file, line, path and remedy."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

from alerts.rulefile import (
    ATTRIBUTES,
    JOINTS,
    LEVEL_KEYS,
    ConditionSpec,
    CountSpec,
    PackSpec,
    RuleSpec,
    joints,
)
from alerts.scales import Scale
from alerts.signalcheck import Place, check_signal, domain_of, foreign_fields, measuring
from city.cityfile import IDENTIFIER
from city.documents import Document, suggestion
from city.kinds import DEVICE_KINDS, PLANT_KINDS
from city.quantities import Domain

DEPTH_MAX: Final = 8
_SOURCES: Final = ("quantity", "silence", "index")
_CROSSING: Final = ("above", "below", "deadband", "hold_s", "in_a_row")
"""What only a condition of one signal has."""
_BARE: Final = ConditionSpec()
_EXACT: Final = 1 + 1e-12

Sheet = tuple[Document, PackSpec]
Leaf = tuple[Place, ConditionSpec | RuleSpec, bool]
"""Where a signal stands, what it says, and whether it is counted at other devices too."""


def check_pack(document: Document) -> PackSpec:
    """The pack in `document`, checked as a whole.

    Raises:
        DocumentError: Names file, line and path, what was found and what is allowed.
    """
    try:
        pack = document.convert(PackSpec)
    except RecursionError:
        document.fail((), "is nested too deeply, or in itself")
    _check_identifier(document, ("pack",), pack.pack)
    _check_dates(document, (), pack)
    seen: set[str] = set()
    for index, rule in enumerate(pack.rules):
        place = ("rules", index)
        _check_identifier(document, (*place, "id"), rule.id)
        if rule.id in seen:
            document.fail((*place, "id"), f"rule {rule.id!r} stands twice; rename one of them")
        seen.add(rule.id)
        _check_rule(document, place, rule)
    return pack


def check_together(sheets: Sequence[Sheet], others: Callable[[], Iterable[str]]) -> None:
    """Check what only shows when several packs are used at once.

    `others` names the rules of packs that exist but are not used: to be suppressed by one of those
    is no mistake.

    Raises:
        DocumentError: Two rules have one identifier, a suppressing rule does not exist, or rules
            suppress each other in a circle.
    """
    sources: dict[str, str] = {}
    for document, pack in sheets:
        for index, rule in enumerate(pack.rules):
            if rule.id in sources:
                problem = f"rule {rule.id!r} stands in {sources[rule.id]} too; rename one of them"
                document.fail(("rules", index, "id"), problem)
            sources[rule.id] = document.name
    for document, pack in sheets:
        _check_suppressors(document, pack, sources, others)
    _check_cycles(sheets)


def _check_suppressors(
    document: Document,
    pack: PackSpec,
    known: Iterable[str],
    others: Callable[[], Iterable[str]],
) -> None:
    for index, rule in enumerate(pack.rules):
        for number, suppressor in enumerate(rule.suppressed_by):
            if suppressor.rule in known:
                continue
            names = {*known, *others()}
            if suppressor.rule not in names:
                problem = f"no pack has a rule {suppressor.rule!r}"
                place = ("rules", index, "suppressed_by", number, "rule")
                document.fail(place, f"{problem}; {suggestion(suppressor.rule, names)}")


def _check_cycles(sheets: Sequence[Sheet]) -> None:
    above = {
        rule.id: [suppressor.rule for suppressor in rule.suppressed_by]
        for _, pack in sheets
        for rule in pack.rules
    }
    for document, pack in sheets:
        for index, rule in enumerate(pack.rules):
            circle = _circle(above, rule.id)
            if circle:
                way = " is suppressed by ".join(circle)
                problem = f"a circle of suppression: {way}; take one of them out"
                document.fail(("rules", index, "suppressed_by"), problem)


def _circle(above: dict[str, list[str]], start: str) -> list[str]:
    """The way from a rule over those that suppress it back to itself; empty if there is none."""
    came: dict[str, str] = {}
    waiting = [start]
    while waiting:
        rule = waiting.pop()
        for suppressor in above.get(rule, ()):
            if suppressor == start:
                way = [rule]
                while way[-1] != start:
                    way.append(came[way[-1]])
                return [*reversed(way), start]
            if suppressor not in came:
                came[suppressor] = rule
                waiting.append(suppressor)
    return []


def _check_rule(document: Document, place: Place, rule: RuleSpec) -> None:
    _check_dates(document, place, rule)
    given = _check_shape(document, place, rule)
    if given in JOINTS:
        _check_combination(document, place, rule, given)
    else:
        _check_limited(document, place, rule)
    _check_kinds(document, place, rule)
    _check_escalation(document, place, rule)
    for key in ("actions", "suppressed_by"):
        rows = getattr(rule, key)
        if len(set(rows)) < len(rows):
            document.fail((*place, key), "names one of its entries twice; leave one out")


def _check_limited(document: Document, place: Place, rule: RuleSpec) -> None:
    """A rule of one signal and its limits."""
    scale = check_signal(document, place, rule)
    if rule.severity is not None:
        problem = "is of rules that combine conditions; here each limit has its own"
        document.fail((*place, "severity"), problem)
    if not rule.limits():
        document.fail(place, f"rule {rule.id!r} has no limit; give one of {', '.join(LEVEL_KEYS)}")
    _check_limits(document, place, rule, scale)


def _check_combination(document: Document, place: Place, rule: RuleSpec, key: str) -> None:
    """A rule of several conditions with one severity."""
    for level in rule.limits():
        problem = f"is of rules with a signal; here the conditions in {key!r} have the limits"
        document.fail((*place, level), problem)
    if rule.in_a_row != 1:
        document.fail((*place, "in_a_row"), f"is of signals; say it in the conditions of {key!r}")
    if rule.severity is None:
        allowed = "low, medium, high, critical"
        document.fail(place, f"rule {rule.id!r} has no severity; give severity: one of {allowed}")
    _check_joint(document, (*place, key), rule, key, depth=1, counted=False)
    if _negated(rule):
        problem = (
            "begins with a condition that must not hold, and that does not say which devices "
            "it is about; put one that must hold before it, in all: [...]"
        )
        document.fail((*place, key), problem)


def _check_joint(
    document: Document,
    place: Place,
    spec: ConditionSpec | RuleSpec,
    key: str,
    *,
    depth: int,
    counted: bool,
) -> None:
    if depth > DEPTH_MAX:
        document.fail(place, f"is nested more than {DEPTH_MAX} deep")
    if key == "count" and counted:
        document.fail(place, "counts within a count; allowed: one count around signals")
    if key in {"all", "any"} and not getattr(spec, ATTRIBUTES[key]):
        document.fail(place, "is empty; give at least one condition")
    inside = counted or key == "count"
    for where, child in _children(place, spec, key):
        _check_condition(document, where, child, depth=depth + 1, counted=inside)


def _check_condition(
    document: Document, place: Place, spec: ConditionSpec, *, depth: int, counted: bool
) -> None:
    key = _check_shape(document, place, spec)
    if key in JOINTS:
        for name in _CROSSING:
            if getattr(spec, name) != getattr(_BARE, name):
                problem = f"does not go with {key!r}; say it of the signals in it"
                document.fail((*place, name), problem)
        _check_joint(document, (*place, key), spec, key, depth=depth, counted=counted)
    else:
        _check_crossing(document, place, spec, check_signal(document, place, spec))


def _check_crossing(document: Document, place: Place, spec: ConditionSpec, scale: Scale) -> None:
    """The one bound of a condition."""
    bounds = {key: getattr(spec, key) for key in ("above", "below")}
    given = {key: bound for key, bound in bounds.items() if bound is not None}
    if len(given) != 1:
        found = " and ".join(given) or "neither"
        document.fail(place, f"found {found}; give one of above: NUMBER, below: NUMBER")
    ((key, bound),) = given.items()
    factor = scale.factor(spec.unit)
    _check_measurable(document, (*place, key), bound, spec.unit, scale)
    edge = scale.low if key == "above" else scale.high
    to = f"the end of the range of {scale.what}"
    _check_deadband(document, place, scale, factor * bound, factor * spec.deadband, edge, to)


def _check_limits(document: Document, place: Place, rule: RuleSpec, scale: Scale) -> None:
    limits = rule.limits()
    factor = scale.factor(rule.unit)
    for key, spec in limits.items():
        _check_measurable(document, (*place, key, "limit"), spec.limit, rule.unit, scale)
    for lower, upper in pairwise(limits):
        if not limits[lower].limit < limits[upper].limit:
            problem = f"{limits[upper].limit:g} must be above {lower} ({limits[lower].limit:g})"
            document.fail((*place, upper, "limit"), problem)
    for key, spec in limits.items():
        inner = _inner_neighbour(key, limits)
        end = scale.low if key in {"high", "high_high"} else scale.high
        edge = factor * limits[inner].limit if inner else end
        to = inner or f"the end of the range of {scale.what}"
        numbers = (factor * spec.limit, factor * spec.deadband)
        _check_deadband(document, (*place, key), scale, *numbers, edge, to)


def _check_measurable(
    document: Document, place: Place, value: float, unit: str | None, scale: Scale
) -> None:
    inside = scale.low <= scale.factor(unit) * value <= scale.high
    if not (inside and math.isfinite(value)):
        problem = (
            f"{value:g} {unit or scale.unit} can never be measured; {scale.what} "
            f"ranges from {scale.low:g} to {scale.high:g} {scale.unit}"
        )
        document.fail(place, problem)


def _check_deadband(
    document: Document,
    place: Place,
    scale: Scale,
    limit: float,
    deadband: float,
    edge: float,
    to: str,
) -> None:
    """The value at which a limit lets go lies between it and its inner neighbour."""
    gap = abs(limit - edge)
    if not (deadband <= gap * _EXACT and math.isfinite(deadband)):
        problem = (
            f"{deadband:g} {scale.unit} is more than the gap of {gap:g} {scale.unit} "
            f"to {to}: the alarm would never clear; allowed: 0 to {gap:g}"
        )
        document.fail((*place, "deadband"), problem)


def _inner_neighbour(key: str, present: Iterable[str]) -> str | None:
    keys = list(present)
    step = -1 if key in {"high", "high_high"} else 1
    index = keys.index(key) + step
    return keys[index] if 0 <= index < len(keys) else None


def _check_shape(document: Document, place: Place, spec: ConditionSpec | RuleSpec) -> str:
    """The one key that says what is watched; every other of its kind would be lost."""
    sources = [key for key in _SOURCES if getattr(spec, key) is not None]
    found = [*sources, *joints(spec)]
    allowed = ", ".join((*_SOURCES, *JOINTS))
    if not found:
        document.fail(place, f"says nothing to watch; give one of {allowed}")
    if len(found) > 1:
        document.fail((*place, found[1]), f"stands beside {found[0]!r}; give one of {allowed}")
    if found[0] in JOINTS:
        for key in foreign_fields(spec):
            document.fail((*place, key), f"is of a signal and does not go with {found[0]!r}")
    return found[0]


def _children(
    place: Place, spec: ConditionSpec | RuleSpec, key: str
) -> Iterator[tuple[Place, ConditionSpec]]:
    """The conditions in a combination that stands at `place`, which ends with its key."""
    part = getattr(spec, ATTRIBUTES.get(key, key))
    if isinstance(part, CountSpec):
        yield (*place, "of"), part.of
    elif isinstance(part, ConditionSpec):
        yield place, part
    else:
        yield from (((*place, index), child) for index, child in enumerate(part))


def _negated(spec: ConditionSpec | RuleSpec) -> bool:
    """Whether the first signal in it stands in a `not`."""
    key = next(iter(joints(spec)), None)
    if key is None:
        return False
    return key == "not" or _negated(next(_children((), spec, key))[1])


def _leaves(
    place: Place, spec: ConditionSpec | RuleSpec, *, counted: bool = False
) -> Iterator[Leaf]:
    key = next(iter(joints(spec)), None)
    if key is None:
        yield place, spec, counted
        return
    for where, child in _children((*place, key), spec, key):
        yield from _leaves(where, child, counted=counted or key == "count")


def _check_kinds(document: Document, place: Place, rule: RuleSpec) -> None:
    leaves = list(_leaves(place, rule))
    _, head, _ = leaves[0]
    fitting = measuring(head)
    if head.at:
        fitting = [kind.id for kind in DEVICE_KINDS.values() if kind.domain is domain_of(head)]
        if rule.device_kinds is None:
            problem = "is taken at another device; give device_kinds: which the rule is about"
            document.fail((*leaves[0][0], "at"), problem)
    for kind in rule.device_kinds or ():
        if kind not in fitting:
            what = "does not measure" if kind in DEVICE_KINDS else "is unknown, so cannot measure"
            named = repr(head.quantity or head.index or "anything")
            problem = f"device kind {kind!r} {what} {named}; {suggestion(kind, fitting)}"
            document.fail((*place, "device_kinds"), problem)
    _check_plants(document, place, rule, domain_of(head))
    for leaf in leaves:
        _check_reach(document, leaf, rule.device_kinds or tuple(fitting))


def _check_plants(document: Document, place: Place, rule: RuleSpec, domain: Domain | None) -> None:
    if rule.plant_kinds is not None and domain not in {Domain.EMISSION, None}:
        measured = next(leaf.quantity or leaf.index for _, leaf, _ in _leaves(place, rule))
        problem = f"{measured!r} is not measured at plants; only emission quantities are"
        document.fail((*place, "plant_kinds"), problem)
    for kind in rule.plant_kinds or ():
        if kind not in PLANT_KINDS:
            problem = f"unknown plant kind {kind!r}; {suggestion(kind, PLANT_KINDS)}"
            document.fail((*place, "plant_kinds"), problem)


def _check_reach(document: Document, leaf: Leaf, kinds: tuple[str, ...]) -> None:
    """Each signal is one that the rule's devices have, or that is taken at another of their site."""
    place, spec, counted = leaf
    for where, one in (
        (place, spec),
        ((*place, "over"), spec.over),
        ((*place, "minus"), spec.minus),
    ):
        if one is None or counted:
            continue
        at = one.at or spec.at
        if at and DEVICE_KINDS[at].domain not in {DEVICE_KINDS[kind].domain for kind in kinds}:
            problem = f"a {at} does not stand at the sites of {', '.join(kinds)}"
            document.fail((*where, "at") if one.at else where, problem)
        if not at and not set(kinds) & set(measuring(one)):
            others = ", ".join(measuring(one))
            key = "quantity" if one.quantity else "index"
            problem = (
                f"{one.quantity or one.index!r} is not measured by {', '.join(kinds)}; "
                f"if it is another device of the site, say at: with one of {others}"
            )
            document.fail((*where, key), problem)


def _check_escalation(document: Document, place: Place, rule: RuleSpec) -> None:
    rank = {"district": 1, "city": 2}
    for index, (one, other) in enumerate(pairwise(rule.escalate), start=1):
        where = (*place, "escalate", index)
        if not one.after_s < other.after_s:
            problem = f"{other.after_s:g} must be above the step before it ({one.after_s:g})"
            document.fail((*where, "after_s"), problem)
        if not rank[one.to] < rank[other.to]:
            problem = f"{other.to} does not come after {one.to}; allowed: district, then city"
            document.fail((*where, "to"), problem)


def _check_dates(document: Document, place: Place, spec: PackSpec | RuleSpec) -> None:
    if spec.valid_from and spec.valid_until and spec.valid_until < spec.valid_from:
        problem = f"ends on {spec.valid_until}, before it begins on {spec.valid_from}"
        document.fail((*place, "valid_until"), problem)


def _check_identifier(document: Document, place: Place, identifier: str) -> None:
    if not IDENTIFIER.fullmatch(identifier):
        allowed = "small letters, digits and inner hyphens"
        document.fail(place, f"identifier {identifier!r} is not allowed; use {allowed}")
