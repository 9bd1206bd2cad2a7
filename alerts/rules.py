"""Alarm rules: what is watched on which devices, held against which limits of which standard."""

from collections.abc import Iterable, Iterator
from datetime import date
from importlib.resources import files as package_files
from itertools import count
from pathlib import Path
from typing import Final, Literal

import msgspec

from alerts import rulefile
from alerts.gates import DEEPEST_FIRST, Bound, Level, Watch
from alerts.rulecheck import check_pack, check_together
from alerts.rulefile import (
    LEVEL_KEYS,
    ConditionSpec,
    CountSpec,
    Grade,
    LimitSpec,
    PackSpec,
    RuleSpec,
    joints,
)
from alerts.scales import scale_of
from alerts.signals import HOURLY, Signal
from broker.messages import Severity, Supervision
from city.documents import Document, suggestion
from city.errors import DocumentError

RuleKind = Literal[
    "limit", "average", "rate", "range", "share", "silence", "stuck", "flags", "index",
    "comparison", "count", "composite",
]  # fmt: skip
Group = rulefile.Group

_KINDS: Final[dict[str, RuleKind]] = {
    "mean": "average", "sd": "range", "min": "range", "max": "range", "range": "range",
    "share": "share", "rate": "rate", "stuck": "stuck", "flagged": "flags",
    "silence": "silence", "index": "index",
}  # fmt: skip
"""What a rule of one signal is called by its statistic, where it is compared with nothing."""

_SIGNIFICANT: Final = 12
"""Digits kept of a converted limit, so that 0.3 g/m3 reads 300 mg/m3 and not 300.00000000000006."""


class Limit(Bound, frozen=True, kw_only=True):
    """A bound in the quantity's canonical unit, and the standard that it comes from."""

    severity: Severity
    standard: str
    clause: str
    grade: Grade


class Leaf(msgspec.Struct, frozen=True, kw_only=True, tag="leaf"):
    """One signal held against limits: the simplest condition, and the end of every other.

    `id` is the rule's own where the rule is nothing else, else `rule#number`. `unit` is what
    people read the numbers of the signal in.
    """

    id: str
    signal: Signal
    unit: str
    limits: tuple[Limit, ...]
    watch: Watch


class Every(msgspec.Struct, frozen=True, tag="all"):
    """Holds while all of its conditions do."""

    of: tuple["Condition", ...]


class Some(msgspec.Struct, frozen=True, tag="any"):
    """Holds while one of its conditions does."""

    of: tuple["Condition", ...]


class Not(msgspec.Struct, frozen=True, tag="not"):
    """Holds while its condition does not."""

    of: "Condition"


class Count(msgspec.Struct, frozen=True, tag="count"):
    """Holds while its condition does at so many devices of one site, district or city."""

    at_least: int
    within: Group
    of: "Condition"


Condition = Leaf | Every | Some | Not | Count


class Suppressor(msgspec.Struct, frozen=True):
    """An alarm that, while it stands, suppresses others within its device, site or section."""

    rule: str
    within: Group


class Step(msgspec.Struct, frozen=True):
    """An alarm that nobody has acknowledged for so long is told to the next level of supervision."""

    after_ms: int
    to: Supervision


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What is watched, and what becomes of it.

    Devices of some kinds at plants of some kinds; empty kinds mean every device that measures the
    quantity of the first leaf. A composite rule has one limit, on the side of its first leaf's, which
    carries severity and standard.
    """

    id: str
    pack: str
    kind: RuleKind
    condition: Condition
    limits: tuple[Limit, ...]
    unit: str
    device_kinds: frozenset[str] = frozenset()
    plant_kinds: frozenset[str] = frozenset()
    valid_from: date | None = None
    valid_until: date | None = None
    on_delay_ms: int = 0
    """Of a composite condition as a whole; those of leaves are in their watches."""
    off_delay_ms: int = 0
    latched: bool = False
    """Whether a person must reset it when the condition is gone."""
    acknowledged_by_itself: bool = False
    """Whether it needs nobody's acknowledgement."""
    realarm_ms: int = 0
    """Acknowledged or not, it is told again after so long; 0: never."""
    escalation: tuple[Step, ...] = ()
    suppressed_by: tuple[Suppressor, ...] = ()
    actions: tuple[str, ...] = ()
    """Names of actions that may be taken when it is raised, where the city arms them."""
    message: str = ""
    message_zh: str = ""

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """The ends of its condition, in their order; the first says which devices it is about."""
        return tuple(_leaves(self.condition))

    @property
    def head(self) -> Leaf:
        """The leaf that says which devices the rule is about."""
        return next(_leaves(self.condition))

    @property
    def is_composite(self) -> bool:
        """Whether it is more than one leaf."""
        return not isinstance(self.condition, Leaf)

    def applies(self, device_kind: str | None, plant_kind: str | None) -> bool:
        """Whether the rule watches such a device; None where the kind is not known or none."""
        fits_device = not self.device_kinds or device_kind in self.device_kinds
        fits_plant = not self.plant_kinds or plant_kind in self.plant_kinds
        return fits_device and fits_plant

    def in_force(self, day: date) -> bool:
        """Whether its figures are in force on `day`."""
        begun = self.valid_from is None or self.valid_from <= day
        return begun and (self.valid_until is None or day <= self.valid_until)

    def limit(self, level: Level) -> Limit:
        """The limit of that level, which the rule has."""
        return next(limit for limit in self.limits if limit.level == level)


def _leaves(condition: Condition) -> Iterator[Leaf]:
    if isinstance(condition, Leaf):
        yield condition
    elif isinstance(condition, Not | Count):
        yield from _leaves(condition.of)
    else:
        for one in condition.of:
            yield from _leaves(one)


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one file, in force from the first to the last day of its validity."""

    id: str
    title: str
    title_zh: str
    valid_from: date | None
    valid_until: date | None
    note: str
    source: str
    rules: tuple[Rule, ...]

    def remark(self, day: date) -> str | None:
        """A sentence for people when the pack's figures are not in force on `day`."""
        if self.valid_from is not None and day < self.valid_from:
            return (
                f"rule pack {self.id} is used on {day}, before it is in force ({self.valid_from})"
            )
        if self.valid_until is not None and day > self.valid_until:
            return f"rule pack {self.id} is used on {day}, after its last day ({self.valid_until})"
        return None


class RuleSet(msgspec.Struct, frozen=True):
    """All packs that watch one city; a rule's identifier is unique among them."""

    packs: tuple[Pack, ...]

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every rule, in the order of the packs and their files."""
        return tuple(rule for pack in self.packs for rule in pack.rules)

    def on(self, day: date) -> "RuleSet":
        """The packs with those of their rules that are in force on `day`.

        Only a rule's own dates count: they choose between versions of one law. Those of a pack are
        for `remarks`.
        """
        packs = (
            msgspec.structs.replace(
                pack, rules=tuple(rule for rule in pack.rules if rule.in_force(day))
            )
            for pack in self.packs
        )
        return RuleSet(tuple(packs))

    def rule(self, name: str) -> Rule:
        """The rule of that identifier.

        Raises:
            DocumentError: There is none; the text names the nearest.
        """
        known = {rule.id: rule for rule in self.rules}
        if name not in known:
            raise DocumentError(f"no rule named {name!r}; {suggestion(name, known)}")
        return known[name]

    def remarks(self, day: date) -> tuple[str, ...]:
        """What to tell people about packs that are not in force on `day`.

        Such a pack is used all the same: a simulated city may live in any year, and to watch
        nothing because of a date would be the worse surprise.
        """
        remarks = (pack.remark(day) for pack in self.packs)
        return tuple(remark for remark in remarks if remark is not None)


def shipped_packs() -> dict[str, Path]:
    """The rule packs that come with CityEye, by name."""
    folder = Path(str(package_files("alerts") / "packs"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_packs(names: Iterable[str] | None = None, *, files: Iterable[Path] = ()) -> RuleSet:
    """The shipped packs of these names (None: all but the optional) and the rule files at `files`.

    Raises:
        DocumentError: There is no such pack, a file is wrong, or the packs do not fit together.
    """
    shipped = shipped_packs()
    if names is None:
        usual = [Document.read(path, shipped=True) for path in shipped.values()]
        chosen = [document for document in usual if not document.content.get("optional")]
    else:
        chosen = [Document.read(_shipped(name, shipped), shipped=True) for name in names]
    return rule_set((*chosen, *(Document.read(path) for path in files)))


def _shipped(name: str, shipped: dict[str, Path]) -> Path:
    if name not in shipped:
        raise DocumentError(f"no rule pack named {name!r}; {suggestion(name, shipped)}")
    return shipped[name]


def rule_set(documents: Iterable[Document], *, known: Iterable[str] = ()) -> RuleSet:
    """The packs in `documents`, each checked as a whole and all with one another.

    `known` are rules of other files, beside those of the shipped packs, that may suppress theirs.

    Raises:
        DocumentError: One is wrong, or they do not fit together.
    """
    sheets = [(document, check_pack(document)) for document in documents]
    check_together(sheets, lambda: (*known, *_shipped_rules()))
    return RuleSet(tuple(_pack(document, spec) for document, spec in sheets))


def read_rules(path: Path) -> Pack:
    """The pack in the rule file at `path`, checked as a whole."""
    return pack_of(Document.read(path))


def pack_of(document: Document) -> Pack:
    """The pack in `document`, checked as a whole, but not against other packs."""
    return _pack(document, check_pack(document))


def _shipped_rules() -> Iterator[str]:
    for path in shipped_packs().values():
        yield from (rule.id for rule in check_pack(Document.read(path, shipped=True)).rules)


def _pack(document: Document, spec: PackSpec) -> Pack:
    return Pack(
        id=spec.pack,
        title=spec.title,
        title_zh=spec.title_zh,
        valid_from=spec.valid_from,
        valid_until=spec.valid_until,
        note=spec.note,
        source=document.name,
        rules=tuple(_rule(spec, rule) for rule in spec.rules),
    )


def _rule(pack: PackSpec, spec: RuleSpec) -> Rule:
    condition: Condition
    if spec.is_signal:
        condition = _limited(pack, spec)
        limits, unit = condition.limits, condition.unit
    else:
        condition = _Combination(pack, spec).whole()
        head = next(_leaves(condition))
        limits, unit = _overall(pack, spec, head), head.unit
    whole = not spec.is_signal
    return Rule(
        id=spec.id,
        pack=pack.pack,
        kind=_kind(condition),
        condition=condition,
        limits=limits,
        unit=unit,
        device_kinds=frozenset(spec.device_kinds or ()),
        plant_kinds=frozenset(spec.plant_kinds or ()),
        valid_from=spec.valid_from,
        valid_until=spec.valid_until,
        on_delay_ms=round(1000 * spec.on_delay_s) if whole else 0,
        off_delay_ms=round(1000 * spec.off_delay_s) if whole else 0,
        latched=spec.latch,
        acknowledged_by_itself=spec.acknowledge == "automatic",
        realarm_ms=round(1000 * (spec.realarm_s or 0)),
        escalation=tuple(Step(round(1000 * step.after_s), step.to) for step in spec.escalate),
        suppressed_by=tuple(Suppressor(by.rule, by.within) for by in spec.suppressed_by),
        actions=spec.actions,
        message=spec.message,
        message_zh=spec.message_zh,
    )


def _limited(pack: PackSpec, spec: RuleSpec) -> Leaf:
    """The one leaf of a rule that gives a signal with limits."""
    signal = spec.signal()
    scale = scale_of(signal)
    factor = scale.factor(spec.unit)
    given = {LEVEL_KEYS[key]: limit for key, limit in spec.limits().items()}
    levels = (level for level in DEEPEST_FIRST if level in given)
    limits = tuple(_limit(pack, spec, level, given[level], factor) for level in levels)
    delays = (round(1000 * spec.on_delay_s), round(1000 * spec.off_delay_s))
    watch = Watch(limits, *delays, spec.in_a_row)
    return Leaf(id=spec.id, signal=signal, unit=scale.unit, limits=limits, watch=watch)


class _Combination:
    """The condition of a rule that combines several; its leaves are numbered as they stand."""

    def __init__(self, pack: PackSpec, rule: RuleSpec) -> None:
        self._pack = pack
        self._rule = rule
        self._numbers = count(1)

    def whole(self) -> Condition:
        """The condition of the rule."""
        return self._joint(self._rule)

    def _condition(self, spec: ConditionSpec) -> Condition:
        return self._leaf(spec) if spec.is_signal else self._joint(spec)

    def _joint(self, spec: ConditionSpec | RuleSpec) -> Condition:
        ((key, part),) = joints(spec).items()
        if isinstance(part, CountSpec):
            return Count(part.at_least, part.within, self._condition(part.of))
        if isinstance(part, ConditionSpec):
            return Not(self._condition(part))
        parts = tuple(self._condition(one) for one in part)
        return Every(parts) if key == "all" else Some(parts)

    def _leaf(self, spec: ConditionSpec) -> Leaf:
        signal = spec.signal()
        scale = scale_of(signal)
        level: Level = "H" if spec.above is not None else "L"
        bound = spec.above if spec.above is not None else spec.below
        limit = LimitSpec(
            limit=bound or 0.0, severity=self._rule.severity or "low", deadband=spec.deadband
        )
        limits = (_limit(self._pack, self._rule, level, limit, scale.factor(spec.unit)),)
        return Leaf(
            id=f"{self._rule.id}#{next(self._numbers)}",
            signal=signal,
            unit=scale.unit,
            limits=limits,
            watch=Watch(limits, round(1000 * spec.hold_s), in_a_row=spec.in_a_row),
        )


def _overall(pack: PackSpec, spec: RuleSpec, head: Leaf) -> tuple[Limit, ...]:
    """The one limit of a combination: its severity and source, beside the head's number."""
    number, level = head.limits[0].limit, head.limits[0].level
    given = LimitSpec(limit=number, severity=spec.severity or "low")
    return (_limit(pack, spec, level, given, 1.0),)


def _kind(condition: Condition) -> RuleKind:
    if isinstance(condition, Count):
        return "count"
    if not isinstance(condition, Leaf):
        return "composite"
    signal = condition.signal
    if signal.over is not None or signal.minus is not None:
        return "comparison"
    if signal.stat in HOURLY:
        return "average"
    if signal.when is not None:
        return "range"
    return _KINDS.get(signal.stat, "limit")


def _limit(pack: PackSpec, rule: RuleSpec, level: Level, spec: LimitSpec, factor: float) -> Limit:
    return Limit(
        level=level,
        limit=_rounded(factor * spec.limit),
        deadband=_rounded(factor * spec.deadband),
        severity=spec.severity,
        standard=spec.standard or rule.standard or pack.standard,
        clause=spec.clause or rule.clause or "",
        grade=spec.grade or rule.grade or pack.grade,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{_SIGNIFICANT}g}")
