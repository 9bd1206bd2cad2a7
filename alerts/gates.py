"""The gates of one watch: what one number does to the condition that it is held against.

A watch has up to four bounds, and each bound is a gate. A shut gate opens when the bound has been
crossed for the on-delay and by enough numbers in a row; an open gate shuts when the value has been
back by the deadband for the off-delay. The level is that of the deepest open gate, and `EVENTS`
says what a change of level is called. All times are instants of measurement, so a replay gives the
same. A number that is not one (NaN) crosses nothing and releases everything.
"""

import math
from typing import Final, Literal

import msgspec

Level = Literal["HH", "H", "L", "LL"]
Happening = Literal["raised", "escalated", "eased", "cleared"]

DEEPEST_FIRST: Final[tuple[Level, ...]] = ("HH", "LL", "H", "L")
UPPER: Final[frozenset[Level]] = frozenset({"H", "HH"})
QUIET_NOWHERE: Final = (math.inf, -math.inf)

EVENTS: Final[dict[Level | None, dict[Level | None, Happening | None]]] = {
    None: {None: None, "L": "raised", "H": "raised", "LL": "raised", "HH": "raised"},
    "L": {None: "cleared", "L": None, "H": "escalated", "LL": "escalated", "HH": "escalated"},
    "H": {None: "cleared", "L": "escalated", "H": None, "LL": "escalated", "HH": "escalated"},
    "LL": {None: "cleared", "L": "eased", "H": "eased", "LL": None, "HH": "escalated"},
    "HH": {None: "cleared", "L": "eased", "H": "eased", "LL": "escalated", "HH": None},
}
"""From level, to level: the event. A jump to the other side is no weaker than what it leaves when
it is as deep, so it counts as an escalation and one reading never means two events."""


class Bound(msgspec.Struct, frozen=True):
    """One limit of a watch; a value that equals the limit keeps it."""

    level: Level
    limit: float
    deadband: float

    @property
    def upper(self) -> bool:
        """Whether values above the limit cross it, and not those below."""
        return self.level in UPPER

    @property
    def reset(self) -> float:
        """The value from which the bound lets go."""
        return self.limit - self.deadband if self.upper else self.limit + self.deadband

    def crossed(self, value: float) -> bool:
        """Whether `value` lies beyond the limit."""
        return value > self.limit if self.upper else value < self.limit

    def released(self, value: float) -> bool:
        """Whether `value` is back by the deadband."""
        return not value > self.reset if self.upper else not value < self.reset


class Watch(msgspec.Struct, frozen=True):
    """What one series is held against: bounds, deepest first, and how long they must be crossed."""

    bounds: tuple[Bound, ...]
    on_delay_ms: int = 0
    off_delay_ms: int = 0
    in_a_row: int = 1
    """So many numbers one after the other must cross a bound."""


class Gate(msgspec.Struct, frozen=True):
    """One bound's memory: open or shut, since when the contrary is asked for, and how often."""

    open: bool = False
    contrary_since: int | None = None
    streak: int = 0


SHUT: Final = Gate()
OPEN: Final = Gate(open=True)


class Life(msgspec.Struct, frozen=True):
    """The state of one watch: a gate per bound, and when the first opened if one is open."""

    gates: tuple[Gate, ...]
    raised: int | None = None

    @property
    def is_normal(self) -> bool:
        """Whether no gate is open and no delay runs."""
        return all(gate == SHUT for gate in self.gates)

    @property
    def open(self) -> bool:
        """Whether a gate is open: the condition holds at some level."""
        return any(gate.open for gate in self.gates)


class Change(msgspec.Struct, frozen=True):
    """What a number changed, with the level it is about: the one left when cleared."""

    event: Happening
    level: Level
    raised: int


def normal(watch: Watch) -> Life:
    """The life of a watch that nothing has crossed."""
    return Life((SHUT,) * len(watch.bounds))


def standing(watch: Watch, level: Level, raised: int) -> Life:
    """The life of a watch that stands at `level`, or at the deepest bound left up to there."""
    side, depth = level in UPPER, len(level)
    gates = (
        OPEN if bound.upper is side and len(bound.level) <= depth else SHUT
        for bound in watch.bounds
    )
    return Life(tuple(gates), raised)


def level_of(watch: Watch, life: Life) -> Level | None:
    """The level at which the watch stands, or None."""
    pairs = zip(watch.bounds, life.gates, strict=True)
    return next((bound.level for bound, gate in pairs if gate.open), None)


def step(watch: Watch, life: Life, ts: int, value: float) -> tuple[Life, Change | None]:
    """The life after a reading of `value` at `ts`, and the change if its level is another one.

    Readings come in the order of `ts`.
    """
    pairs = zip(watch.bounds, life.gates, strict=True)
    gates = tuple(_move(watch, bound, gate, ts, value) for bound, gate in pairs)
    if gates == life.gates:
        return life, None
    after = Life(_one_side(watch, life.gates, gates), life.raised)
    left, reached = level_of(watch, life), level_of(watch, after)
    event, level = EVENTS[left][reached], reached or left
    if event is None or level is None:
        return after, None
    raised = ts if life.raised is None else life.raised
    still = None if reached is None else raised
    return Life(after.gates, still), Change(event, level, raised)


def quiet_band(watch: Watch, life: Life) -> tuple[float, float]:
    """The closed interval of values that change nothing; empty while a delay runs."""
    if any(gate.contrary_since is not None for gate in life.gates):
        return QUIET_NOWHERE
    low, high = -math.inf, math.inf
    for bound, gate in zip(watch.bounds, life.gates, strict=True):
        if bound.upper is gate.open:
            edge = math.nextafter(bound.reset, math.inf) if gate.open else bound.limit
            low = max(low, edge)
        else:
            edge = math.nextafter(bound.reset, -math.inf) if gate.open else bound.limit
            high = min(high, edge)
    return low, high


def _move(watch: Watch, bound: Bound, gate: Gate, ts: int, value: float) -> Gate:
    contrary = bound.released(value) if gate.open else bound.crossed(value)
    if not contrary:
        return OPEN if gate.open else SHUT
    since = ts if gate.contrary_since is None else gate.contrary_since
    streak = gate.streak + 1
    if gate.open:
        return SHUT if ts - since >= watch.off_delay_ms else Gate(True, since, streak)
    enough = streak >= watch.in_a_row and ts - since >= watch.on_delay_ms
    return OPEN if enough else Gate(False, since, streak)


def _one_side(watch: Watch, before: tuple[Gate, ...], gates: tuple[Gate, ...]) -> tuple[Gate, ...]:
    """A side that opens shuts the other, which may still be waiting for its off-delay."""
    rows = list(zip(watch.bounds, before, gates, strict=True))
    opened = {bound.upper for bound, old, new in rows if new.open and not old.open}
    if not opened:
        return gates
    return tuple(new if bound.upper in opened else SHUT for bound, _, new in rows)
