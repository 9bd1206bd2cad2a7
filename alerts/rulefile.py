"""The rule file: one pack of alarm rules as YAML, typed, before anything in it is judged.

`alerts.rulecheck` says what is wrong with it, `alerts.rules` makes rules of it; `docs/rules.md`
explains the grammar.
"""

import re
from datetime import date, time
from typing import Annotated, Final, Literal

import msgspec

from alerts.gates import Level
from alerts.signals import COUNTED, HOURLY, WEEKDAYS, WINDOWED, Index, Shift, Signal, Stat, Weekday
from broker.messages import Severity
from city.cityfile import Identifier
from city.settings import seconds_in

DELAY_MAX_S: Final = 86_400
WINDOW_MAX_S: Final = 31 * 86_400
PANES: Final = 12
"""A window without a step is cut into about so many."""
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400
_DAY_DIVISORS_S: Final = tuple(step for step in range(1, _DAY_S + 1) if _DAY_S % step == 0)
_HOURS: Final = re.compile(r"([01]\d:[0-5]\d|2[0-3]:[0-5]\d)-([01]\d:[0-5]\d|2[0-3]:[0-5]\d)")

Grade = Literal["A", "B", "C", "D", "X"]
"""Evidence for a figure: A read in the official document, B stated by others, C computed, D general
knowledge, X sources disagree."""
Group = Literal["device", "site", "section", "district", "city"]
Gathering = Literal["site", "section", "district", "city"]
Action = Literal["close_valve", "stop_unit", "cut_power", "ventilate", "repair_order"]

Delay = Annotated[float, msgspec.Meta(ge=0, le=DELAY_MAX_S)]
Wait = Annotated[float, msgspec.Meta(gt=0, le=WINDOW_MAX_S)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Kinds = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
Row = Annotated[int, msgspec.Meta(ge=1, le=1_000)]

LEVEL_KEYS: Final[dict[str, Level]] = {"low_low": "LL", "low": "L", "high": "H", "high_high": "HH"}
"""The keys of a rule's limits, in ascending order of the limits."""
JOINTS: Final = ("all", "any", "not", "count")
"""The keys of conditions that consist of others."""
ATTRIBUTES: Final = {"all": "all_of", "any": "any_of", "not": "not_of"}
"""How keys are called here that Python keeps for itself."""


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the rule file; unknown keys are errors."""


class ShiftSpec(_Strict, frozen=True, kw_only=True):
    """When a signal is looked at, in the city's local time: hours such as `22:00-05:00`."""

    hours: str | None = None
    days: Annotated[tuple[Weekday, ...], msgspec.Meta(min_length=1)] = WEEKDAYS
    months: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=1, le=12)], ...], msgspec.Meta(min_length=1)
    ] = tuple(range(1, 13))

    def shift(self) -> Shift:
        """The shift.

        Raises:
            ValueError: The hours are not of the form 22:00-05:00.
        """
        begins, ends = _span(self.hours) if self.hours is not None else (time(0), time(0))
        days, months = frozenset(self.days), frozenset(self.months)
        return Shift(begins=begins, ends=ends, days=days, months=months)


class SilenceSpec(_Strict, frozen=True, kw_only=True):
    """How long a device may say nothing: so many of its own intervals, but at least so long."""

    intervals: Annotated[float, msgspec.Meta(ge=1, le=10_000)] = 5.0
    at_least: str | float = "60s"


class SignalSpec(_Strict, frozen=True, kw_only=True):
    """What is looked at: a number per device, in `unit`.

    Durations are texts such as `90s` or `1h`, or numbers of seconds.
    """

    quantity: str | None = None
    unit: str | None = None
    stat: Stat | None = None
    window: str | float | None = None
    step: str | float | None = None
    at_least: str | float | None = None
    """A share of the window, or of an hour, or a duration within it."""
    band: tuple[float, float] | None = None
    """In the canonical unit of the quantity."""
    flags: str | None = None
    when: ShiftSpec | None = None
    at: str | None = None
    over: "SignalSpec | None" = None
    minus: "SignalSpec | None" = None
    silence: SilenceSpec | None = None
    index: Index | None = None

    @property
    def kind(self) -> Stat:
        """The statistic, given or meant."""
        if self.silence is not None:
            return "silence"
        if self.index is not None:
            return "index"
        return self.stat or "value"

    @property
    def is_signal(self) -> bool:
        """Whether it names something to look at."""
        return any(part is not None for part in (self.quantity, self.silence, self.index))

    def signal(self) -> Signal:
        """The signal; what it says has been checked, or may raise a ValueError or KeyError."""
        return Signal(
            stat=self.kind,
            quantity=self.quantity or "",
            window_ms=self._window_ms(),
            step_ms=self.step_ms(),
            at_least=self.share_needed(),
            band=self.band,
            flags="".join(sorted(set(self.flags))) if self.flags is not None else COUNTED,
            intervals=self.silence.intervals if self.silence is not None else 5.0,
            index=self.index,
            when=self.when.shift() if self.when is not None else None,
            at=self.at or "",
            over=self.over.signal() if self.over is not None else None,
            minus=self.minus.signal() if self.minus is not None else None,
        )

    def share_needed(self) -> float:
        """The part of the window, or of an hour, that valid readings must cover."""
        if self.at_least is None:
            return 0.75
        if isinstance(self.at_least, str):
            whole_s = _HOUR_S if self.kind in HOURLY else duration_s(self.window or 0)
            return duration_s(self.at_least) / whole_s
        return self.at_least

    def _window_ms(self) -> int:
        window = self.silence.at_least if self.silence is not None else self.window
        return 0 if window is None else round(1000 * duration_s(window))

    def step_ms(self) -> int:
        """How often a number of a window comes; 0 where there is no window."""
        if self.kind not in WINDOWED:
            return 0
        if self.step is not None:
            return round(1000 * duration_s(self.step))
        return 1000 * step_for(round(duration_s(self.window or 0)))


class ConditionSpec(SignalSpec, frozen=True, kw_only=True):
    """A signal beyond a bound, or a combination of conditions."""

    above: float | None = None
    below: float | None = None
    deadband: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    hold_s: Delay = 0.0
    in_a_row: Row = 1
    all_of: tuple["ConditionSpec", ...] | None = msgspec.field(name="all", default=None)
    any_of: tuple["ConditionSpec", ...] | None = msgspec.field(name="any", default=None)
    not_of: "ConditionSpec | None" = msgspec.field(name="not", default=None)
    count: "CountSpec | None" = None


class CountSpec(_Strict, frozen=True, kw_only=True):
    """A condition that holds at so many devices of one site, section, district or city."""

    at_least: Annotated[int, msgspec.Meta(ge=1, le=100_000)]
    within: Gathering
    of: ConditionSpec


class LimitSpec(_Strict, frozen=True, kw_only=True):
    """One limit of a rule; what it does not say of its source, the rule or the pack says."""

    limit: float
    severity: Severity
    deadband: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    standard: Text | None = None
    clause: Text | None = None
    grade: Grade | None = None


class SuppressorSpec(_Strict, frozen=True, kw_only=True):
    """An alarm that, while it stands, suppresses this one within its device, site or section."""

    rule: str
    within: Group = "device"


class StepSpec(_Strict, frozen=True, kw_only=True):
    """Unacknowledged for so long, the alarm is told to the next level of supervision."""

    after_s: Wait
    to: Literal["district", "city"]


class RuleSpec(SignalSpec, frozen=True, kw_only=True):
    """One rule as the file gives it: a signal with limits, or a combination with a severity."""

    id: Identifier
    message: str = ""
    message_zh: str = ""
    standard: Text | None = None
    clause: Text | None = None
    grade: Grade | None = None
    valid_from: date | None = None
    valid_until: date | None = None
    device_kinds: Kinds | None = None
    plant_kinds: Kinds | None = None
    low_low: LimitSpec | None = None
    low: LimitSpec | None = None
    high: LimitSpec | None = None
    high_high: LimitSpec | None = None
    in_a_row: Row = 1
    all_of: tuple[ConditionSpec, ...] | None = msgspec.field(name="all", default=None)
    any_of: tuple[ConditionSpec, ...] | None = msgspec.field(name="any", default=None)
    not_of: ConditionSpec | None = msgspec.field(name="not", default=None)
    count: CountSpec | None = None
    severity: Severity | None = None
    on_delay_s: Delay = 0.0
    off_delay_s: Delay = 0.0
    latch: bool = False
    acknowledge: Literal["required", "automatic"] = "required"
    realarm_s: Wait | None = None
    escalate: tuple[StepSpec, ...] = ()
    suppressed_by: tuple[SuppressorSpec, ...] = ()
    actions: tuple[Action, ...] = ()

    def limits(self) -> dict[str, LimitSpec]:
        """The limits that are given, by key, in ascending order."""
        specs = {key: getattr(self, key) for key in LEVEL_KEYS}
        return {key: spec for key, spec in specs.items() if spec is not None}


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
    optional: bool = False
    """Used only where it is named; a pack that is not optional is used unless others are named."""
    note: str = ""
    rules: Annotated[tuple[RuleSpec, ...], msgspec.Meta(min_length=1)]


Part = tuple[ConditionSpec, ...] | ConditionSpec | CountSpec


def joints(spec: ConditionSpec | RuleSpec) -> dict[str, Part]:
    """The combinations that a condition gives, by key; a good one gives at most one."""
    parts = {key: getattr(spec, ATTRIBUTES.get(key, key)) for key in JOINTS}
    return {key: part for key, part in parts.items() if part is not None}


def duration_s(value: str | float) -> float:
    """The seconds in a duration.

    Raises:
        SettingError: It is a text that is none.
    """
    return seconds_in(value, "duration") if isinstance(value, str) else float(value)


def step_for(window_s: int) -> int:
    """The step of a window that gives none [s]: a divisor of window and day near a twelfth of it."""
    aim = window_s / PANES
    fitting = (step for step in _DAY_DIVISORS_S if window_s % step == 0)
    return min(fitting, key=lambda step: (abs(step - aim), -step))


def _span(hours: str) -> tuple[time, time]:
    match = _HOURS.fullmatch(hours)
    if match is None:
        raise ValueError(f"{hours!r} is no span of hours; give e.g. 22:00-05:00")
    return time.fromisoformat(match[1]), time.fromisoformat(match[2])
