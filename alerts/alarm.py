"""One alarm: a rule at a device, with all that its life needs."""

import math
from typing import Any, Final, Literal

import msgspec

from alerts.life import Input, Own
from alerts.rules import Rule
from alerts.shelving import Chatter, Shelf
from alerts.transitions import AlarmKey, Transition, alarm_name
from broker.messages import AlarmEvent, AlarmState, Severity, Supervision
from city.cityfile import Address

NEVER: Final = 2**62
"""The instant of what is not due [ms]."""
LEVELS_OF_SUPERVISION: Final[tuple[Supervision, ...]] = ("site", "district", "city")

Due = Literal["unshelve", "promote", "repeat"]
_ACKNOWLEDGED: Final[dict[Input, Input]] = {
    "raise": "raise-acknowledged",
    "escalate": "escalate-acknowledged",
    "repeat": "repeat-acknowledged",
    "appear": "appear-acknowledged",
}
_LATCHED: Final[dict[Input, Input]] = {"clear": "clear-latched", "vanish": "vanish-latched"}


class Finding(msgspec.Struct, frozen=True):
    """What the rule has found last: the fields of an event that speak of the condition."""

    level: Literal["HH", "H", "L", "LL"]
    severity: Severity
    quantity: str
    value: float
    limit: float
    unit: str
    standard: str
    clause: str
    grade: str
    message: str
    message_zh: str


class Alarm(msgspec.Struct, kw_only=True):
    """The whole memory of one alarm; `state` is its own, `shown` what people see.

    Instants are in ms. `serial` is its place among all alarms, in the order of their first events.
    """

    address: Address
    rule: str
    finding: Finding
    serial: int = 0
    state: Own = "normal"
    active: bool = False
    """Whether the condition holds."""
    stale: bool = False
    disabled: bool = False
    shelf: Shelf | None = None
    suppressor: str = ""
    """The name of the alarm that suppresses it."""
    raised: int = 0
    waiting_since: int = 0
    """Since when it has waited for an acknowledgement."""
    told: int = 0
    """When people were last told that it holds."""
    supervision: Supervision = "site"
    cause: str = ""
    first_out: bool = False
    number: int = 0
    annunciations: int = 0
    chatter: Chatter = msgspec.field(default_factory=Chatter)
    last: AlarmEvent | None = None
    """Its newest event, while it is not normal."""

    @property
    def key(self) -> AlarmKey:
        """Its device and rule."""
        return self.address, self.rule

    @property
    def name(self) -> str:
        """`site/device/rule`."""
        return alarm_name(self.key)

    @property
    def shown(self) -> AlarmState:
        """Its state as people see it: the highest cover, or its own."""
        if self.disabled:
            return "out-of-service"
        if self.shelf is not None:
            return "shelved"
        return "suppressed" if self.suppressor else self.state

    @property
    def stands(self) -> bool:
        """Whether there is anything to it beside its covers."""
        return self.active or self.state != "normal"

    @property
    def is_open(self) -> bool:
        """Whether nothing covers it."""
        return not (self.disabled or self.shelf is not None or self.suppressor)

    def suppresses(self, rule: Rule | None) -> bool:
        """Whether it suppresses those that it can: it holds, or is latched, and is in service."""
        latch = rule is not None and rule.latched and self.state != "normal"
        return rule is not None and not self.disabled and (self.active or latch)

    def next_due(self, rule: Rule | None) -> tuple[int, Due]:
        """What is due next and when; of things due at once, the end of the shelf goes first.

        An alarm under a cover is not told to anyone. Promoted is what waits for a person to act:
        not one whose condition is gone and that needs no reset.
        """
        if self.shelf is not None:
            return self.shelf.until, "unshelve"
        if rule is None or not self.is_open:
            return NEVER, "unshelve"
        promotion = self._promotion(rule)
        repeats = rule.realarm_ms > 0 and self.state in {"unacknowledged", "acknowledged"}
        repeat = self.told + rule.realarm_ms if repeats else NEVER
        return (promotion, "promote") if promotion <= repeat else (repeat, "repeat")

    def next_supervision(self, rule: Rule) -> Supervision | None:
        """The level of supervision that it is told to next, if anyone stands above."""
        step = self._step(rule)
        return None if step is None else rule.escalation[step].to

    def event(self, fields: dict[str, Any]) -> AlarmEvent:
        """The next event: what was found, how the alarm is now, and `fields`."""
        self.number += 1
        finding = msgspec.structs.asdict(self.finding)
        now: dict[str, Any] = {
            "rule": self.rule,
            "state": self.shown,
            "raised": self.raised,
            "number": self.number,
            "active": self.active,
            "stale": self.stale,
            "supervision": self.supervision,
            "until": None if self.shelf is None else self.shelf.until,
            "cause": self.cause,
            "first_out": self.first_out,
        }
        event = AlarmEvent(**(finding | now | fields))
        self.last = None if event.state == "normal" else event
        return event

    def _promotion(self, rule: Rule) -> int:
        step = self._step(rule)
        if step is None or self.state not in {"unacknowledged", "latched"}:
            return NEVER
        return self.waiting_since + rule.escalation[step].after_ms

    def _step(self, rule: Rule) -> int | None:
        rank = LEVELS_OF_SUPERVISION.index(self.supervision)
        ranks = (LEVELS_OF_SUPERVISION.index(step.to) for step in rule.escalation)
        return next((place for place, to in enumerate(ranks) if to > rank), None)


def found(transition: Transition, before: Finding | None) -> Finding:
    """What `transition` says of the condition.

    A number that is not finite (a signal that has no value any more lets a condition go) cannot be
    told; the one found before stays in its place, or else the limit.
    """
    limit = transition.rule.limit(transition.change.level)
    held = transition.limit if math.isfinite(transition.limit) else limit.limit
    value = transition.value
    if not math.isfinite(value):
        value = held if before is None else before.value
    return _finding(transition.rule, limit.level, transition.quantity, value, held)


def unfound(rule: Rule) -> Finding:
    """What events say of a condition that never held: the shallowest limit, and its very value."""
    limit = rule.limits[-1]
    signal = rule.head.signal
    quantity = signal.quantity or signal.index or signal.stat
    return _finding(rule, limit.level, quantity, limit.limit, limit.limit)


def as_of(rule: Rule, happens: Input) -> Input:
    """The row of the table for `happens` in the life of the alarms of `rule`."""
    if rule.latched and happens in _LATCHED:
        return _LATCHED[happens]
    if rule.acknowledged_by_itself:
        return _ACKNOWLEDGED.get(happens, happens)
    return happens


def _finding(
    rule: Rule, level: Literal["HH", "H", "L", "LL"], quantity: str, value: float, held: float
) -> Finding:
    limit = rule.limit(level)
    return Finding(
        level=level,
        severity=limit.severity,
        quantity=quantity,
        value=value,
        limit=held,
        unit=rule.unit,
        standard=limit.standard,
        clause=limit.clause,
        grade=limit.grade,
        message=rule.message,
        message_zh=rule.message_zh,
    )
