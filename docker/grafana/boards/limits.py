"""Units, names and thresholds of panels: from the quantity table, the rule packs and the indices."""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from alerts.indices import BREAKPOINTS, CLASS_LIMITS, ClassLimits
from alerts.rules import Leaf, Limit, Rule, RuleSet, load_packs
from broker.messages import Severity
from city.kinds import PLANT_KINDS, PlantKind
from city.quantities import QUANTITIES

RULES: Final[RuleSet] = load_packs()
"""The shipped packs that a city uses unless it says otherwise."""

GOOD: Final = "green"
SEVERITY_COLOURS: Final[dict[Severity, str]] = {
    "low": "yellow",
    "medium": "orange",
    "high": "red",
    "critical": "dark-red",
}
AQI_COLOURS: Final = ("#00e400", "#ffff00", "#ff7e00", "#ff0000", "#99004c", "#7e0023")
"""Levels 1 to 6 of HJ 633, whose Table 2 names them green to maroon."""
AQI_NAMES: Final = (
    "excellent 优",
    "good 良",
    "light 轻度",
    "moderate 中度",
    "heavy 重度",
    "severe 严重",
)
CLASS_COLOURS: Final = ("#4fc3f7", "#1e88e5", "#43a047", "#fdd835", "#fb8c00", "#e53935")
"""Classes I to V of GB 3838-2002, and worse."""
_AQI_EDGES: Final = slice(1, 6)
"""The breakpoints at which sub-indices of 50, 100, 150, 200 and 300 are reached."""

_GRAFANA_UNITS: Final = {
    "ug/m3": "conμgm3",
    "mg/m3": "conmgm3",
    "degC": "celsius",
    "%": "percent",
    "m/s": "velocityms",
    "deg": "degree",
    "pH": "pH",
    "kPa": "pressurekpa",
    "m3/s": "flowcms",
    "kW": "kwatt",
    "uS/cm": "suffix: µS/cm",
    "m3/h": "suffix: m³/h",
}
"""Grafana's own units by our symbols; it shows any other symbol as it is."""


class Step(msgspec.Struct, frozen=True):
    """From `value` on (None: from below everything) a panel has this colour."""

    value: float | None
    colour: str


Steps = tuple[Step, ...]
PLAIN: Final[Steps] = (Step(None, GOOD),)


def unit_of(quantity: str) -> str:
    """Grafana's unit for a quantity."""
    symbol = QUANTITIES[quantity].unit
    return _GRAFANA_UNITS.get(symbol, f"suffix: {symbol}")


def title_of(quantity: str) -> str:
    """What people call a quantity, in both languages; the same word once."""
    row = QUANTITIES[quantity]
    return f"{row.name_en} {row.name_zh}"


def plants(*, burning: bool) -> tuple[PlantKind, ...]:
    """The kinds of plant that have a stack, or those that have an outfall."""
    return tuple(kind for kind in PLANT_KINDS.values() if (kind.o2_ref is not None) is burning)


def limits_of(quantity: str, plant: str | None = None) -> tuple[Limit, ...]:
    """The limits that single values or hourly means of a quantity are held against.

    Rules for kinds of plant count for that plant alone.
    """
    return tuple(limit for rule in _rules_of(quantity, plant) for limit in rule.limits)


def _rules_of(quantity: str, plant: str | None) -> Iterator[Rule]:
    for rule in RULES.rules:
        leaf = rule.condition
        if not isinstance(leaf, Leaf) or rule.kind not in {"limit", "average"}:
            continue
        signal = leaf.signal
        fits = signal.quantity == quantity and signal.stat in {"value", "hour"}
        mine = plant in rule.plant_kinds if rule.plant_kinds else True
        if fits and mine:
            yield rule


def steps_of(quantity: str, plant: str | None = None) -> Steps:
    """The thresholds of a quantity: green between its limits, else the colour of the severity."""
    return steps(limits_of(quantity, plant))


def steps(limits: Iterable[Limit]) -> Steps:
    """Limits as thresholds; a limit counts from its value on, so to a hair."""
    ordered = sorted(limits, key=lambda limit: limit.limit)
    lower = [limit for limit in ordered if not limit.upper]
    upper = [limit for limit in ordered if limit.upper]
    colours = [*(SEVERITY_COLOURS[limit.severity] for limit in lower), GOOD]
    edges: list[float | None] = [None, *(limit.limit for limit in lower)]
    rising = [Step(limit.limit, SEVERITY_COLOURS[limit.severity]) for limit in upper]
    return (*(Step(edge, colour) for edge, colour in zip(edges, colours, strict=True)), *rising)


def aqi_steps(quantity: str) -> Steps:
    """The six levels of the real-time AQI of HJ 633-2026, for an hourly mean of a pollutant."""
    table = BREAKPOINTS[2026]
    row = table.get(f"{quantity}_1h")
    edges = (row or table[f"{quantity}_24h"]).concentrations[_AQI_EDGES]
    values = (None, *edges)
    return tuple(Step(value, colour) for value, colour in zip(values, AQI_COLOURS, strict=False))


def class_steps(quantity: str) -> Steps:
    """The classes of GB 3838-2002 for a mean of a river quantity."""
    row: ClassLimits = CLASS_LIMITS[quantity]
    colours = CLASS_COLOURS[::-1] if row.minimum else CLASS_COLOURS
    edges = sorted(row.limits)
    return tuple(Step(v, c) for v, c in zip((None, *edges), colours, strict=True))
