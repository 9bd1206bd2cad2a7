"""The unit that a signal is read in, how a rule file may write it, and what can be measured at all."""

import math
from typing import Final

import msgspec

from alerts.signals import IN_UNIT, Index, Signal
from city.quantities import QUANTITIES, UNITS, Quantity, convertible_units

_PER_MINUTE: Final = {"s": 60.0, "min": 1.0, "h": 1 / 60}
_SECONDS: Final = {"s": 1.0, "min": 60.0, "h": 3_600.0}
_SHARES: Final = {"1": 1.0, "%": 0.01}
_INDEX_RANGES: Final[dict[Index, tuple[float, float]]] = {
    "aqi-2012": (0, 500),
    "aqi-2026": (0, 500),
    "aqi-day-2012": (0, 500),
    "aqi-day-2026": (0, 500),
    "us-epa-2024": (0, math.inf),
    "river-class": (1, 6),
}
"""US EPA goes on above 500 with its last segment; class 6 of a river is worse than V."""


class Scale(msgspec.Struct, frozen=True):
    """How the numbers of a signal read: `unit` is theirs, `low` and `high` what they can be.

    `factors` are the units in which a rule file may write limits: `number * factor` is in `unit`.
    """

    what: str
    unit: str
    factors: dict[str, float]
    low: float
    high: float

    def factor(self, unit: str | None) -> float:
        """What turns a limit in `unit` (None: the scale's own) into the scale's unit.

        Raises:
            ValueError: The unit is unknown or of another dimension; the text names the allowed.
        """
        if unit is None:
            return 1.0
        if unit not in self.factors:
            allowed = ", ".join(self.factors)
            raise ValueError(f"unit {unit!r} does not fit {self.what}; allowed: {allowed}")
        return self.factors[unit]


def scale_of(signal: Signal) -> Scale:
    """The scale of a signal's numbers.

    Raises:
        ValueError: The signal is a difference of numbers in different units.
    """
    if signal.over is not None:
        return _quotient(signal, signal.over)
    if signal.minus is not None:
        return _difference(signal, signal.minus)
    return _alone(signal)


def needs_unit(signal: Signal) -> bool:
    """Whether a rule file must say the unit, because it is not the same for every quantity."""
    return signal.over is None and (signal.stat in IN_UNIT or signal.stat == "rate")


def _alone(signal: Signal) -> Scale:
    if signal.index is not None:
        return Scale(f"index {signal.index}", "1", {"1": 1.0}, *_INDEX_RANGES[signal.index])
    if signal.stat in {"silence", "stuck"}:
        return Scale(f"{signal.stat} time", "s", _SECONDS, 0, math.inf)
    if signal.stat == "flagged":
        return Scale("flagged", "1", {"1": 1.0}, 0, 1)
    if signal.stat == "share":
        return Scale("a share", "1", _SHARES, 0, 1)
    quantity = QUANTITIES[signal.quantity]
    if signal.stat == "rate":
        return _rate(signal, quantity)
    factors = _factors(quantity.unit)
    span = quantity.high - quantity.low
    ends = {"sd": (0.0, span / 2), "range": (0.0, span)}
    return Scale(
        quantity.id, quantity.unit, factors, *ends.get(signal.stat, (quantity.low, quantity.high))
    )


def _rate(signal: Signal, quantity: Quantity) -> Scale:
    steepest = (quantity.high - quantity.low) / (signal.window_ms / 60_000)
    factors = {
        f"{unit}/{per}": factor * often
        for unit, factor in _factors(quantity.unit).items()
        for per, often in _PER_MINUTE.items()
    }
    what = f"the rate of {quantity.id}"
    return Scale(what, f"{quantity.unit}/min", factors, -steepest, steepest)


def _quotient(signal: Signal, other: Signal) -> Scale:
    """Of one unit a pure number, of two the one per the other."""
    upper, lower = _alone(signal.alone), _alone(other.alone)
    what = f"{upper.what} over {lower.what}"
    if upper.unit == lower.unit:
        return Scale(what, "1", _SHARES, -math.inf, math.inf)
    factors = {
        f"{one} per {another}": factor / divisor
        for one, factor in upper.factors.items()
        for another, divisor in lower.factors.items()
    }
    return Scale(what, f"{upper.unit} per {lower.unit}", factors, -math.inf, math.inf)


def _difference(signal: Signal, other: Signal) -> Scale:
    left, right = _alone(signal.alone), _alone(other.alone)
    what = f"{left.what} minus {right.what}"
    if left.unit != right.unit:
        raise ValueError(
            f"mixes units: {left.what} is in {left.unit}, {right.what} in {right.unit}; "
            "allowed: a quantity of the same unit"
        )
    return Scale(what, left.unit, left.factors, left.low - right.high, left.high - right.low)


def _factors(unit: str) -> dict[str, float]:
    """The units that turn into `unit`, and by what."""
    base = UNITS[unit].factor
    return {other: UNITS[other].factor / base for other in convertible_units(unit)}
