"""What is wrong with one signal of a rule file: the fields of its statistic, durations, units."""

import math
from typing import Final

from alerts.rulefile import WINDOW_MAX_S, SignalSpec, duration_s
from alerts.scales import Scale, needs_unit, scale_of
from alerts.signals import HOURLY, IN_UNIT, WINDOWED
from city.documents import Document, suggestion
from city.errors import SettingError
from city.kinds import DEVICE_KINDS
from city.quantities import QUANTITIES, Domain
from city.readings import FLAG_OF_LETTER

Place = tuple[str | int, ...]

PANES_MAX: Final = 1_500
_DAY_MS: Final = 86_400_000
_FIELDS: Final[dict[str, frozenset[str]]] = {
    "stat": IN_UNIT | {"rate", "stuck", "flagged", "share"},
    "window": WINDOWED | {"rate"},
    "step": WINDOWED,
    "at_least": WINDOWED | HOURLY,
    "band": frozenset({"share"}),
    "flags": frozenset({"value", "flagged"}),
    "when": frozenset({"value"}),
    "over": IN_UNIT | {"rate", "share"},
    "minus": IN_UNIT | {"rate", "share"},
}
"""The statistics that each field of a signal goes with."""
_NEEDED: Final[dict[str, frozenset[str]]] = {
    "window": WINDOWED | {"rate"},
    "band": frozenset({"share"}),
    "flags": frozenset({"flagged"}),
}
_EXAMPLES: Final = {"window": "window: 1h", "band": "band: [0, 10]", "flags": "flags: DB"}


def check_signal(document: Document, place: Place, spec: SignalSpec) -> Scale:
    """Check a signal with what it is compared to; the scale of its numbers.

    Raises:
        DocumentError: Names file, line and path, what was found and what is allowed.
    """
    _check_alone(document, place, spec)
    _check_comparison(document, place, spec)
    signal = spec.signal()
    try:
        scale = scale_of(signal)
    except ValueError as error:
        document.fail((*place, "minus"), str(error))
    if spec.unit is None and needs_unit(signal):
        document.fail(place, f"has no unit; give unit: one of {', '.join(scale.factors)}")
    try:
        scale.factor(spec.unit)
    except ValueError as error:
        document.fail((*place, "unit"), f"mixes units: {error}")
    return scale


def foreign_fields(spec: SignalSpec) -> list[str]:
    """The fields of a signal that are given where there is none."""
    return [key for key in ("unit", "at", *_FIELDS) if getattr(spec, key) is not None]


def measuring(spec: SignalSpec) -> list[str]:
    """The kinds of device that have such a signal; taken at another device, only of that kind."""
    if spec.quantity is None:
        domain = domain_of(spec)
        return [kind.id for kind in DEVICE_KINDS.values() if domain in {kind.domain, None}]
    return [kind.id for kind in DEVICE_KINDS.values() if spec.quantity in kind.quantities]


def domain_of(spec: SignalSpec) -> Domain | None:
    """The domain of what is looked at; None: any may be silent."""
    if spec.quantity is not None:
        return QUANTITIES[spec.quantity].domain
    if spec.index is not None:
        return Domain.WATER if spec.index == "river-class" else Domain.AIR
    return None


def _check_alone(document: Document, place: Place, spec: SignalSpec) -> None:
    _check_fields(document, place, spec)
    if spec.quantity is not None and spec.quantity not in QUANTITIES:
        problem = f"unknown quantity {spec.quantity!r}; {suggestion(spec.quantity, QUANTITIES)}"
        document.fail((*place, "quantity"), problem)
    _check_window(document, place, spec)
    _check_cover(document, place, spec)
    _check_band(document, place, spec)
    _check_flags(document, place, spec)
    _check_at(document, place, spec)
    if spec.when is not None:
        try:
            spec.when.shift()
        except ValueError as error:
            document.fail((*place, "when", "hours"), str(error))


def _check_fields(document: Document, place: Place, spec: SignalSpec) -> None:
    kind = spec.kind
    source = next(key for key in ("silence", "index", "quantity") if getattr(spec, key) is not None)
    for key, stats in _FIELDS.items():
        if getattr(spec, key) is not None and kind not in stats:
            owner = f"stat {kind!r}" if source == "quantity" else repr(source)
            problem = f"does not go with {owner}"
            if key != "stat":
                problem += f"; it is of stat {', '.join(sorted(stats))}"
            document.fail((*place, key), problem)
    for key, stats in _NEEDED.items():
        if getattr(spec, key) is None and kind in stats:
            document.fail(place, f"stat {kind!r} needs {key}; give e.g. {_EXAMPLES[key]}")


def _check_window(document: Document, place: Place, spec: SignalSpec) -> None:
    """A window is whole seconds, and its step divides both it and the day."""
    if spec.silence is not None:
        _duration_ms(document, (*place, "silence", "at_least"), spec.silence.at_least)
    if spec.window is None:
        return
    window_ms = _duration_ms(document, (*place, "window"), spec.window)
    if window_ms % 1000:
        document.fail((*place, "window"), f"{spec.window} is not whole seconds")
    if spec.step is None:
        return
    where = (*place, "step")
    step_ms = _duration_ms(document, where, spec.step)
    if step_ms % 1000 or window_ms % step_ms or _DAY_MS % step_ms:
        problem = f"{spec.step} does not divide the window of {spec.window} and the day of 24h"
        document.fail(where, f"{problem}; allowed: whole seconds that do")
    if window_ms // step_ms > PANES_MAX:
        problem = f"{spec.step} cuts the window of {spec.window} into more than {PANES_MAX} parts"
        document.fail(where, problem)


def _duration_ms(document: Document, place: Place, value: str | float) -> int:
    try:
        seconds = duration_s(value)
    except SettingError as error:
        document.fail(place, str(error).removeprefix("duration: "))
    if not 1 <= seconds <= WINDOW_MAX_S:
        document.fail(place, f"{value} is out of bounds; allowed: 1s to {WINDOW_MAX_S // 86_400}d")
    return round(1000 * seconds)


def _check_cover(document: Document, place: Place, spec: SignalSpec) -> None:
    where = (*place, "at_least")
    try:
        share = spec.share_needed()
    except SettingError as error:
        document.fail(where, str(error).removeprefix("duration: "))
    if not 0 < share <= 1:
        whole = "hour" if spec.kind in HOURLY else f"window of {spec.window}"
        problem = f"{spec.at_least} is not a part of the {whole}"
        document.fail(
            where, f"{problem}; give a share above 0 and up to 1, or a duration within it"
        )


def _check_band(document: Document, place: Place, spec: SignalSpec) -> None:
    if spec.band is None or spec.quantity is None:
        return
    low, high = spec.band
    if not (math.isfinite(low) and math.isfinite(high)):
        document.fail((*place, "band"), f"[{low}, {high}] is not finite")
    if low > high:
        document.fail((*place, "band"), f"is reversed: {low:g} is above {high:g}; give [low, high]")
    quantity = QUANTITIES[spec.quantity]
    if high < quantity.low or low > quantity.high:
        problem = (
            f"[{low:g}, {high:g}] can never be measured; {quantity.id} "
            f"ranges from {quantity.low:g} to {quantity.high:g} {quantity.unit}"
        )
        document.fail((*place, "band"), problem)


def _check_flags(document: Document, place: Place, spec: SignalSpec) -> None:
    if spec.flags is None:
        return
    unknown = [letter for letter in spec.flags if letter not in FLAG_OF_LETTER]
    if unknown or not spec.flags:
        found = f"unknown flag {unknown[0]!r}" if unknown else "is empty"
        document.fail((*place, "flags"), f"{found}; allowed: letters of {''.join(FLAG_OF_LETTER)}")


def _check_at(document: Document, place: Place, spec: SignalSpec) -> None:
    if spec.at is None:
        return
    known = measuring(spec)
    if spec.at not in known:
        what = "does not measure" if spec.at in DEVICE_KINDS else "is unknown, so cannot measure"
        named = spec.quantity or spec.index
        problem = f"device kind {spec.at!r} {what} {named!r}; {suggestion(spec.at, known)}"
        document.fail((*place, "at"), problem)


def _check_comparison(document: Document, place: Place, spec: SignalSpec) -> None:
    """Two numbers are compared when they are of one instant, so both come at one pace."""
    if spec.over is not None and spec.minus is not None:
        document.fail((*place, "minus"), "stands beside 'over'; give one of them")
    for key, other in (("over", spec.over), ("minus", spec.minus)):
        if other is None:
            continue
        where = (*place, key)
        if other.quantity is None:
            document.fail(where, "has no quantity; give quantity: and, where it has one, stat:")
        if other.kind not in _FIELDS[key]:
            allowed = ", ".join(sorted(_FIELDS[key]))
            document.fail((*where, "stat"), f"{other.kind!r} is not compared; allowed: {allowed}")
        if other.over is not None or other.minus is not None:
            document.fail(where, "is compared itself; allowed: one comparison in a signal")
        if other.unit is not None:
            document.fail(
                (*where, "unit"), f"is not needed; the unit beside {key!r} is the result's"
            )
        _check_alone(document, where, other)
        if _pace(spec) != _pace(other):
            problem = f"comes {_pace(other)}, the other side {_pace(spec)}"
            document.fail(where, f"{problem}; give both the same kind of stat and step")


def _pace(spec: SignalSpec) -> str:
    """How often the numbers of a signal come."""
    if spec.kind in WINDOWED:
        return f"every {spec.step_ms() / 1000:g} s"
    if spec.kind in {"day", "mda8"}:
        return "every day"
    return "every hour" if spec.kind in HOURLY else "with every reading"
