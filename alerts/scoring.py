"""How good rules are: alarms held against what really happened.

A rule looks for a kind of event when a row of `DETECTORS` fits it, or when its identifier has the
kind's name in it (`stuck-o3`, `gas-burst-fall`). An event is hit when such a rule raises an alarm at
a device that the event affects, from its start until it can be felt no more.

Some rules are there for nothing but such events: their alarms are false where no event explains
them. Others, witnesses, watch limits: they may be the first to notice, but an exceedance is one
whatever caused it, and right when what it was raised for truly lay beyond the limit.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from statistics import median
from typing import Any, Final

import msgspec

from alerts.gates import UPPER, Level
from alerts.rules import Count, Every, Leaf, Not, Rule, RuleKind, RuleSet, Some
from alerts.signals import WINDOWED, Signal
from broker.messages import AlarmState, Announcement, Severity, TruthRecord
from city.cityfile import Address
from city.events import EVENT_KINDS
from city.quantities import Domain, quantities_of

HIDDEN: Final[frozenset[AlarmState]] = frozenset({"shelved", "suppressed", "out-of-service"})
"""States in which nobody is told."""

AFTERMATH_MS: Final = {
    "air": 6 * 3_600_000,
    "water": 24 * 3_600_000,
    "gas": 3_600_000,
    "emission": 1_800_000,
}
"""By domain of the device: so long after its end an event of the world may be felt there
(engineering default)."""

AFTER_FAULT_MS: Final = 1_800_000
"""The same for faults and frauds, anywhere: what looks back, looks back at them (engineering
default)."""

_MEMORY_MS: Final = {
    "hour": 3_600_000,
    "hours-8": 8 * 3_600_000,
    "hours-24": 86_400_000,
    "day": 86_400_000,
    "mda8": 86_400_000,
    "index": 3_600_000,
}
_SHOWS_ANEW: Final = frozenset({"raised", "unshelved", "unsuppressed", "in-service"})

TrueValues = Mapping[tuple[str, str, int], float]
"""By device (`site/device`), quantity and instant [ms]: what was true of a reading that an event
affects. All other readings show what is so, as well as their instrument can."""


class Detector(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of these packs and kinds, about one of these quantities; empty means any.

    `foreign`: but not rules whose identifier begins with one of these words. `flags`: rules that
    count one of these letters. `witness`: they watch limits.
    """

    packs: frozenset[str] = frozenset()
    kinds: frozenset[RuleKind] = frozenset()
    quantities: frozenset[str] = frozenset()
    foreign: frozenset[str] = frozenset()
    flags: str = ""
    witness: bool = False

    def fits(self, rule: Rule) -> bool:
        """Whether `rule` is one of them."""
        signals = [leaf.signal for leaf in rule.leaves]
        return (
            (not self.packs or rule.pack in self.packs)
            and (not self.kinds or rule.kind in self.kinds)
            and (not self.quantities or any(s.quantity in self.quantities for s in signals))
            and not any(f"{rule.id}-".startswith(f"{word}-") for word in self.foreign)
            and (not self.flags or any(_counts(signal, self.flags) for signal in signals))
        )


_QUALITY: Final = frozenset({"data-quality"})
_GAS: Final = frozenset({"gas-network"})
_LIMITS: Final[frozenset[RuleKind]] = frozenset({"limit", "average", "index"})
_PARTICULATES: Final = frozenset({"pm25", "pm10", "no2", "co", ""})
_AIR: Final = frozenset({"air-gb3095-2026", "air-who-2021", "air-us-epa-2024"})
_WATER: Final = frozenset({"water-gb3838"})
_PERMITS: Final = frozenset({"emission-permits"})
_FALSIFIED: Final = frozenset({"falsification"})
_SIGNS: Final = frozenset(
    {
        "constant", "cap", "scale", "air-dilution", "o2-fake", "sample-swap", "secret-discharge",
        "inspection",
    }
)  # fmt: skip
"""How the identifiers of falsification rules begin."""


def _quality(*kinds: RuleKind) -> Detector:
    return Detector(packs=_QUALITY, kinds=frozenset(kinds))


def _signs(*words: str) -> Detector:
    """Rules for these signs of fraud, and those whose identifier names no sign."""
    return Detector(packs=_FALSIFIED, foreign=_SIGNS.difference(words))


def _any_pack(*kinds: RuleKind) -> Detector:
    return Detector(kinds=frozenset(kinds))


_EXCEEDED: Final = Detector(packs=_PERMITS, kinds=_LIMITS, witness=True)
_DOWNSTREAM: Final = Detector(packs=_WATER, kinds=_LIMITS, witness=True)
_DOWNWIND: Final = Detector(packs=_AIR, kinds=_LIMITS, witness=True)

DETECTORS: Final[Mapping[str, tuple[Detector, ...]]] = {
    "smog": (Detector(packs=_AIR, kinds=_LIMITS, quantities=_PARTICULATES, witness=True),),
    "spill": (_DOWNSTREAM,),
    "treatment-failure": (_EXCEEDED, _DOWNSTREAM, _DOWNWIND),
    "secret-discharge": (_signs("secret-discharge"), _EXCEEDED, _DOWNSTREAM, _DOWNWIND),
    "gas-leak": (Detector(packs=_GAS, quantities=frozenset({"methane"})),),
    "gas-burst": (
        Detector(packs=_GAS, quantities=frozenset({"gas_pressure", "gas_flow", "methane"})),
    ),
    "drift": (_quality("comparison"),),
    "stuck": (_any_pack("stuck"),),
    "spike": (_quality("rate", "range"),),
    "noise": (_quality("range", "average", "rate"),),
    "silence": (_any_pack("silence"),),
    "comm-loss": (_any_pack("silence"), Detector(kinds=frozenset({"flags"}), flags="B")),
    "calibration": (Detector(kinds=frozenset({"flags"}), flags="C"),),
    "maintenance": (Detector(kinds=frozenset({"flags"}), flags="M"),),
    "fault": (Detector(kinds=frozenset({"flags"}), flags="D"),),
    "stopped": (Detector(kinds=frozenset({"flags"}), flags="F"),),
    "constant": (_signs("constant", "cap", "scale"),),
    "cap": (_signs("cap", "constant", "scale"),),
    "scale": (_signs("scale", "sample-swap"),),
    "air-dilution": (_signs("air-dilution"),),
    "o2-fake": (_signs("o2-fake"),),
    "sample-swap": (_signs("sample-swap", "scale", "constant"),),
}
"""By kind of event; kinds that are not here are looked for by rules with their name alone."""


def looks_for(rule: Rule, kind: str) -> bool:
    """Whether an alarm of `rule` at the right place and time detects an event of that kind."""
    return _named_for(rule, kind) or any(row.fits(rule) for row in DETECTORS.get(kind, ()))


@lru_cache(maxsize=4096)
def dedicated_to(rule: Rule) -> frozenset[str]:
    """The kinds of event that the rule is there for and for nothing else; a witness has none."""
    return frozenset(
        kind
        for kind in EVENT_KINDS
        if _named_for(rule, kind)
        or any(row.fits(rule) and not row.witness for row in DETECTORS.get(kind, ()))
    )


def _named_for(rule: Rule, kind: str) -> bool:
    return f"-{kind}-" in f"-{rule.id}-"


def _counts(signal: Signal, flags: str) -> bool:
    return signal.stat == "flagged" and not set(signal.flags).isdisjoint(flags)


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """One alarm as people saw it, from when it was shown until its condition went; None: it stands.

    `value` was held against `limit` when it was raised, at `level`.
    """

    rule: str
    address: Address
    quantity: str
    severity: Severity
    level: Level
    value: float
    limit: float
    raised: int
    cleared: int | None = None

    @property
    def device(self) -> str:
        """`site/device`, as truth records name it."""
        return f"{self.address.site}/{self.address.device}"

    @property
    def name(self) -> str:
        """`site/device/rule`."""
        return f"{self.device}/{self.rule}"


class Alarms:
    """Makes alarms of what is announced. `hidden` counts those raised that nobody was told of."""

    def __init__(self) -> None:
        self.hidden = 0
        self._all: list[Alarm] = []
        self._open: dict[tuple[Address, str], int] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Alarm]:
        return iter(self._all)

    def add(self, announcements: Iterable[Announcement]) -> None:
        """Take note of announcements, in their order."""
        for announcement in announcements:
            event = announcement.event
            key = (announcement.address, event.rule)
            if not event.active:
                place = self._open.pop(key, None)
                if place is not None:
                    ended = msgspec.structs.replace(self._all[place], cleared=event.ts)
                    self._all[place] = ended
            elif event.event in _SHOWS_ANEW and key not in self._open:
                self._show(announcement)

    def _show(self, announcement: Announcement) -> None:
        address, event = announcement.address, announcement.event
        if event.state in HIDDEN:
            self.hidden += event.event == "raised"
            return
        self._open[address, event.rule] = len(self._all)
        self._all.append(
            Alarm(
                rule=event.rule,
                address=address,
                quantity=event.quantity,
                severity=event.severity,
                level=event.level,
                value=event.value,
                limit=event.limit,
                raised=event.ts,
            )
        )


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """How well one kind of event was found.

    `rules` look for it, `alarms` are those of the rules that are there for nothing but such things:
    of them `right` are explained by an event of this kind, others (`elsewhere`, by kind) by events
    of other kinds only, and `unexplained` by none. `delays_ms` has one entry per event that was hit.
    """

    kind: str
    rules: int
    events: int
    alarms: int
    right: int
    elsewhere: dict[str, int]
    unexplained: int
    delays_ms: tuple[int, ...]

    @property
    def precision(self) -> float | None:
        """Right alarms to right and unexplained ones; None where there are none."""
        judged = self.right + self.unexplained
        return self.right / judged if judged else None

    @property
    def recall(self) -> float | None:
        """Events that were hit to all of them; None where no rule looks for them."""
        return len(self.delays_ms) / self.events if self.rules and self.events else None

    @property
    def delay_s(self) -> tuple[float, float] | None:
        """Median and longest time from the start of an event to its detection [s]."""
        if not self.delays_ms:
            return None
        return median(self.delays_ms) / 1000, max(self.delays_ms) / 1000

    def figures(self) -> dict[str, Any]:
        """The score as plain data."""
        delay_s = self.delay_s
        return {
            "events": self.events,
            "rules": self.rules,
            "hit": len(self.delays_ms),
            "recall": _rounded(self.recall),
            "alarms": self.alarms,
            "right": self.right,
            "unexplained": self.unexplained,
            "explained_by": self.elsewhere,
            "precision": _rounded(self.precision),
            "detection_s_median": delay_s and delay_s[0],
            "detection_s_max": delay_s and delay_s[1],
        }


class Judgement(msgspec.Struct, frozen=True):
    """Limit alarms: truly beyond the limit, truly within it, or of a reading no event affects."""

    right: int
    wrong: int
    unaffected: int


class Scoring:
    """Holds the alarms of a set of rules against truth records."""

    def __init__(self, rules: RuleSet, records: Iterable[TruthRecord]) -> None:
        self._rules = {rule.id: rule for rule in rules.rules}
        self._sights = {rule.id: _sight(rule) for rule in rules.rules}
        self._records: dict[str, list[TruthRecord]] = {}
        for record in sorted(records, key=lambda record: (record.start, record.id)):
            self._records.setdefault(record.kind, []).append(record)

    def scores(self, alarms: Iterable[Alarm]) -> list[Score]:
        """One score per kind of event that happened, by name of the kind."""
        known = [alarm for alarm in alarms if alarm.rule in self._rules]
        kinds = [self.explained_by(alarm) for alarm in known]
        return [self._score(kind, known, kinds) for kind in sorted(self._records)]

    def unexplained(self, alarms: Iterable[Alarm]) -> dict[str, int]:
        """The alarms of detectors that no event explains, by rule, the worst rule first."""
        found = Counter(
            alarm.rule
            for alarm in alarms
            if alarm.rule in self._rules
            and dedicated_to(self._rules[alarm.rule])
            and not self.explained_by(alarm)
        )
        return dict(found.most_common())

    def explained_by(self, alarm: Alarm) -> frozenset[str]:
        """The kinds of the events that may have caused an alarm."""
        return frozenset(
            kind
            for kind, records in self._records.items()
            if any(self._explains(record, alarm) for record in records)
        )

    def _score(self, kind: str, alarms: Sequence[Alarm], kinds: Sequence[frozenset[str]]) -> Score:
        rules = {rule.id for rule in self._rules.values() if looks_for(rule, kind)}
        own = {rule for rule in rules if kind in dedicated_to(self._rules[rule])}
        why = [kinds[place] for place, alarm in enumerate(alarms) if alarm.rule in own]
        others = Counter(other for found in why if kind not in found for other in found)
        candidates = [alarm for alarm in alarms if alarm.rule in rules]
        firsts = (self._first(record, candidates) for record in self._records[kind])
        return Score(
            kind=kind,
            rules=len(rules),
            events=len(self._records[kind]),
            alarms=len(why),
            right=sum(kind in found for found in why),
            elsewhere=dict(others.most_common()),
            unexplained=sum(not found for found in why),
            delays_ms=tuple(delay for delay in firsts if delay is not None),
        )

    def _first(self, record: TruthRecord, alarms: Iterable[Alarm]) -> int | None:
        """From the start of an event to the first alarm that hits it [ms]."""
        delays = (a.raised - record.start for a in alarms if self._explains(record, a))
        return min(delays, default=None)

    def _explains(self, record: TruthRecord, alarm: Alarm) -> bool:
        sight = self._sights[alarm.rule]
        return (
            record.start <= alarm.raised <= _felt_until(record, alarm, sight)
            and sight.may_see(record, self._rules[alarm.rule])
            and any(sight.reaches(place, alarm) for place in record.devices)
        )


def judged(rules: RuleSet, alarms: Iterable[Alarm], true_values: TrueValues) -> Judgement:
    """Alarms about limits on plain readings, held against what was true at that instant."""
    plain = {r.id for r in rules.rules if not r.is_composite and r.head.signal.is_raw}
    counts: Counter[bool | None] = Counter()
    for alarm in alarms:
        if alarm.rule in plain:
            true = true_values.get((alarm.device, alarm.quantity, alarm.raised))
            counts[None if true is None else _beyond(alarm, true)] += 1
    return Judgement(right=counts[True], wrong=counts[False], unaffected=counts[None])


def _beyond(alarm: Alarm, value: float) -> bool:
    return value > alarm.limit if alarm.level in UPPER else value < alarm.limit


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


class _Sight(msgspec.Struct, frozen=True):
    """What a rule looks at: quantities, how far back [ms], and at which devices."""

    quantities: frozenset[str]
    memory_ms: int
    within: str
    """`device`, `site`, `district` or `city`."""
    of_flags: bool

    def may_see(self, record: TruthRecord, rule: Rule) -> bool:
        """Whether a change of what the record names could make the rule raise an alarm."""
        if looks_for(rule, record.kind):
            return not (record.quantities and self.quantities) or self._shares(record)
        if not self.quantities or (self.of_flags and record.layer == "world"):
            return False
        return self._shares(record)

    def reaches(self, place: str, alarm: Alarm) -> bool:
        """Whether an alarm of the rule is about that place of a record."""
        site = place.partition("/")[0]
        if place == "*" or self.within in {"district", "city"}:
            return True
        if self.within == "site":
            return site == alarm.address.site
        return place in {alarm.device, f"{alarm.address.site}/*"}

    def _shares(self, record: TruthRecord) -> bool:
        return not self.quantities.isdisjoint(record.quantities)


def _sight(rule: Rule) -> _Sight:
    signals = [signal for leaf in rule.leaves for signal in _parts(leaf.signal)]
    stats = {signal.stat for signal in signals}
    return _Sight(
        quantities=frozenset(name for signal in signals for name in _quantities(signal)),
        memory_ms=max(_memory_ms(signal) for signal in signals),
        within=_within(rule.condition) if not any(s.at for s in signals) else "site",
        of_flags=stats == {"flagged"},
    )


def _parts(signal: Signal) -> Iterator[Signal]:
    yield signal
    for other in (signal.over, signal.minus):
        if other is not None:
            yield from _parts(other)


def _quantities(signal: Signal) -> Iterable[str]:
    if signal.index is None:
        return (signal.quantity,) if signal.quantity else ()
    domain = Domain.WATER if signal.index == "river-class" else Domain.AIR
    return (quantity.id for quantity in quantities_of(domain))


def _memory_ms(signal: Signal) -> int:
    if signal.stat in WINDOWED or signal.stat == "rate":
        return signal.window_ms
    return _MEMORY_MS.get(signal.stat, 0)


def _within(condition: Leaf | Every | Some | Not | Count) -> str:
    """The widest group that a condition counts in."""
    if isinstance(condition, Leaf):
        return "device"
    if isinstance(condition, Count):
        return "city" if condition.within == "section" else condition.within
    if isinstance(condition, Not):
        return _within(condition.of)
    widths = ("device", "site", "district", "city")
    return max((_within(part) for part in condition.of), key=widths.index)


def _felt_until(record: TruthRecord, alarm: Alarm, sight: _Sight) -> float:
    if record.end is None:
        return float("inf")
    world = record.layer == "world"
    after_ms = AFTERMATH_MS[alarm.address.domain] if world else AFTER_FAULT_MS
    return record.end + after_ms + sight.memory_ms
