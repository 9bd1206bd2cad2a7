"""A rule in sentences: what it watches, when it is raised and cleared, by which standard."""

from collections.abc import Iterator
from typing import Final

from alerts.gates import Bound
from alerts.rulefile import Grade
from alerts.rules import Condition, Count, Every, Group, Leaf, Limit, Not, Rule, RuleSet, Some
from alerts.signals import HOURLY, WEEKDAYS, WINDOWED, Index, Shift, Signal, Stat
from city.cityfile import City
from city.kinds import DEVICE_KINDS, PLANT_KINDS
from city.quantities import QUANTITIES

_GRADES: Final[dict[Grade, str]] = {
    "A": "read in the official document",
    "B": "stated by others, not read in the official document",
    "C": "computed from figures of grade A or B",
    "D": "general knowledge or a default, not verified",
    "X": "sources disagree",
}
_INDICES: Final[dict[Index, tuple[str, str]]] = {
    "aqi-2012": ("hourly air quality index of HJ 633-2012", "空气质量指数（HJ 633-2012，实时）"),
    "aqi-2026": ("hourly air quality index of HJ 633-2026", "空气质量指数（HJ 633-2026，实时）"),
    "aqi-day-2012": ("daily air quality index of HJ 633-2012", "空气质量指数（HJ 633-2012，日报）"),
    "aqi-day-2026": ("daily air quality index of HJ 633-2026", "空气质量指数（HJ 633-2026，日报）"),
    "us-epa-2024": ("air quality index of the US EPA", "美国环保署空气质量指数"),
    "river-class": ("river class of GB 3838-2002 (6: worse than V)", "地表水水质类别（6为劣Ⅴ类）"),
}
_STATS: Final[dict[Stat, str]] = {
    "value": "{name}",
    "mean": "the mean of {name} over {window}",
    "sd": "the standard deviation of {name} over {window}",
    "min": "the smallest {name} of {window}",
    "max": "the largest {name} of {window}",
    "range": "the range of {name} over {window}",
    "share": "the share of {window} for which {name} lies in {band}",
    "rate": "the change of {name} per minute, over {window}",
    "stuck": "the time for which {name} has not changed at all",
    "flagged": "whether {name} carries one of the flags {flags}",
    "hour": "the mean of {name} over the clock hour",
    "hours-8": "the mean of {name} over the last 8 hours",
    "hours-24": "the mean of {name} over the last 24 hours",
    "day": "the mean of {name} over the calendar day",
    "mda8": "the largest 8-hour mean of {name} of the calendar day",
    "silence": "the time since anything was heard (from {intervals:g} of the device's own intervals "
    "and {window} on)",
    "index": "the {name}",
}
_PLACES: Final[dict[Group, str]] = {
    "device": "at the same device",
    "site": "at the same site",
    "section": "in the same section of the network",
    "district": "in the same district",
    "city": "anywhere in the city",
}
_UNITS_MS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


class Explanation:
    """The sentences about one rule among others, for a city that may arm its actions."""

    def __init__(self, rule: Rule, rules: RuleSet, city: City, *, zh: bool = False) -> None:
        self._rule = rule
        self._rules = rules
        self._city = city
        self._zh = zh

    def lines(self) -> Iterator[str]:
        """All that there is to say, a line per thing; deeper conditions are indented."""
        rule = self._rule
        message = rule.message_zh if self._zh else rule.message
        yield f"{rule.id} ({rule.kind}, pack {rule.pack}): {message}"
        yield f"Watches {self._devices()}."
        if isinstance(rule.condition, Leaf):
            yield f"Looks at {self._signal(rule.condition.signal)}, in {rule.unit}."
            yield from (self._limit(rule.condition, limit) for limit in reversed(rule.limits))
        else:
            severity = rule.limits[0].severity
            waits = self._waits(rule.on_delay_ms, "", "and that for ")
            yield f"Raised with severity {severity} while this holds{waits}:"
            yield from self._condition(rule.condition, "  ")
            off = self._waits(rule.off_delay_ms, " for ", "")
            yield f"Cleared when it does not hold{off}."
            yield _source(rule.limits[0])
        yield from self._validity()
        yield from self._life()
        yield from self._suppression()
        yield from self._actions()

    def _devices(self) -> str:
        rule, signal = self._rule, self._rule.head.signal
        if rule.device_kinds:
            which = ", ".join(self._kind(kind) for kind in sorted(rule.device_kinds))
        elif signal.quantity:
            fitting = [
                kind.id for kind in DEVICE_KINDS.values() if signal.quantity in kind.quantities
            ]
            listed = ", ".join(self._kind(kind) for kind in fitting)
            which = f"every device that measures {self._name(signal)}: {listed}"
        else:
            which = (
                "every device" if signal.stat == "silence" else "every device that it is made from"
            )
        if not rule.plant_kinds:
            return which
        plants = (PLANT_KINDS[kind] for kind in sorted(rule.plant_kinds))
        return f"{which}; at plants of kind " + ", ".join(
            plant.name_zh if self._zh else plant.id for plant in plants
        )

    def _kind(self, kind: str) -> str:
        return DEVICE_KINDS[kind].name_zh if self._zh else kind

    def _name(self, signal: Signal) -> str:
        if signal.index is not None:
            return _INDICES[signal.index][1 if self._zh else 0]
        if not signal.quantity:
            return ""
        quantity = QUANTITIES[signal.quantity]
        return quantity.name_zh if self._zh else f"{quantity.name_en} ({quantity.id})"

    def _signal(self, signal: Signal) -> str:
        text = _STATS[signal.stat].format(
            name=self._name(signal),
            window=_lasting(signal.window_ms),
            band=f"{signal.band[0]:g} to {signal.band[1]:g}" if signal.band else "",
            flags=", ".join(signal.flags),
            intervals=signal.intervals,
        )
        text += _remarks(signal)
        if signal.at:
            text += f", taken at a {self._kind(signal.at)} of the same site"
        if signal.over is not None:
            text += f", divided by {self._signal(signal.over)}"
        if signal.minus is not None:
            text += f", minus {self._signal(signal.minus)}"
        return text

    def _limit(self, leaf: Leaf, limit: Limit) -> str:
        watch, unit = leaf.watch, _unit(leaf.unit)
        beyond = "above" if limit.upper else "below"
        back = "or less" if limit.upper else "or more"
        row = f", {watch.in_a_row} times in a row" if watch.in_a_row > 1 else ""
        on = self._waits(watch.on_delay_ms, " for ", "")
        off = self._waits(watch.off_delay_ms, " for ", "")
        return (
            f"{limit.level}: raised with severity {limit.severity} {beyond} {limit.limit:g}{unit}"
            f"{row}{on}; cleared at {limit.reset:g}{unit} {back}{off}. {_source(limit)}"
        )

    def _condition(self, condition: Condition, indent: str) -> Iterator[str]:
        deeper = f"{indent}  "
        if isinstance(condition, Leaf):
            yield f"{indent}- {self._crossing(condition)}"
            return
        if isinstance(condition, Not):
            yield f"{indent}- not:"
            yield from self._condition(condition.of, deeper)
            return
        if isinstance(condition, Count):
            where = _PLACES[condition.within]
            yield f"{indent}- at {condition.at_least} or more devices {where}:"
            yield from self._condition(condition.of, deeper)
            return
        yield f"{indent}- {_JOINTS[type(condition)]}:"
        for one in condition.of:
            yield from self._condition(one, deeper)

    def _crossing(self, leaf: Leaf) -> str:
        bound: Bound = leaf.limits[0]
        watch, unit = leaf.watch, _unit(leaf.unit)
        beyond = "above" if bound.upper else "below"
        row = f", {watch.in_a_row} times in a row" if watch.in_a_row > 1 else ""
        on = self._waits(watch.on_delay_ms, " for ", "")
        back = f" (until {bound.reset:g}{unit})" if bound.deadband else ""
        return f"{self._signal(leaf.signal)} {beyond} {bound.limit:g}{unit}{row}{on}{back}"

    def _waits(self, delay_ms: int, before: str, lead: str) -> str:
        if not delay_ms:
            return ""
        return f"{before}{_lasting(delay_ms)}" if before else f", {lead}{_lasting(delay_ms)}"

    def _validity(self) -> Iterator[str]:
        begins, ends = self._rule.valid_from, self._rule.valid_until
        if begins or ends:
            since = f" from {begins}" if begins else ""
            until = f" until {ends}" if ends else ""
            yield f"In force{since}{until}."

    def _life(self) -> Iterator[str]:
        rule = self._rule
        yield (
            "Needs nobody's acknowledgement."
            if rule.acknowledged_by_itself
            else "A person must acknowledge it."
        )
        if rule.latched:
            yield "Stays until a person resets it."
        if rule.realarm_ms:
            yield f"Told again every {_lasting(rule.realarm_ms)} while it stands."
        for step in rule.escalation:
            yield f"Unacknowledged for {_lasting(step.after_ms)}, it is told to the {step.to}."

    def _suppression(self) -> Iterator[str]:
        for suppressor in self._rule.suppressed_by:
            yield f"Suppressed while {suppressor.rule} stands {_PLACES[suppressor.within]}."
        for other in self._rules.rules:
            for suppressor in other.suppressed_by:
                if suppressor.rule == self._rule.id:
                    yield f"Suppresses {other.id} {_PLACES[suppressor.within]}."

    def _actions(self) -> Iterator[str]:
        actions, city = self._city.alarms.actions, self._city.city
        if not self._rule.actions:
            return
        if actions.armed(self._rule.id):
            state = f"the city {city} arms them"
        elif actions.off:
            state = f"the city {city} takes no actions"
        else:
            state = f"a dry run, for the city {city} does not arm them"
        yield f"Actions: {', '.join(self._rule.actions)}; {state}."


_JOINTS: Final[dict[type, str]] = {Every: "all of", Some: "any of"}


def _source(limit: Limit) -> str:
    clause = f", {limit.clause}" if limit.clause else ""
    return f"By {limit.standard}{clause} (grade {limit.grade}: {_GRADES[limit.grade]})."


def _remarks(signal: Signal) -> str:
    """What must be known of a number beside what it is."""
    if signal.stat in WINDOWED:
        share = f"{100 * signal.at_least:g} %"
        return f" (every {_lasting(signal.step_ms)}, with {share} of the window covered)"
    if signal.stat in HOURLY:
        return f" (an hour counts with {60 * signal.at_least:g} minutes of valid readings)"
    if signal.when is not None:
        return f" ({_shift(signal.when)})"
    if signal.stat == "value" and signal.flags != Signal().flags:
        return f" (with flags {', '.join(signal.flags)})"
    return ""


def _shift(shift: Shift) -> str:
    parts = []
    if shift.begins != shift.ends:
        parts.append(f"from {shift.begins:%H:%M} to {shift.ends:%H:%M}")
    if len(shift.days) < len(WEEKDAYS):
        parts.append("on " + ", ".join(day for day in WEEKDAYS if day in shift.days))
    if len(shift.months) < len(Shift().months):
        parts.append("in months " + ", ".join(str(month) for month in sorted(shift.months)))
    return " ".join(parts) or "at all times"


def _unit(unit: str) -> str:
    return "" if unit == "1" else f" {unit}"


def _lasting(ms: int) -> str:
    """A duration in the largest unit that it is a whole number of."""
    for unit_ms, unit in _UNITS_MS:
        if ms >= unit_ms and ms % unit_ms == 0:
            return f"{ms // unit_ms} {unit}"
    return f"{ms} ms"
