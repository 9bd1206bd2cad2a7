"""Dashboard River: what flows past the stations, by class and by factor."""

from typing import Final

from alerts.indices import CLASS_LIMITS
from city.quantities import QUANTITIES, Domain, quantities_of

from .board import Board, scope
from .influxql import SCOPE, Query, latest, line, scoped
from .limits import class_steps, steps_of, title_of, unit_of
from .panels import Look, Panel, Row
from .resolution import READINGS

CLASSED: Final = tuple(CLASS_LIMITS)
_FACTORS: Final = tuple(quantity.id for quantity in quantities_of(Domain.WATER))


def class_panel(*, width: int, height: int) -> Panel:
    """The factors of every station in the colour of their class."""
    shown = ", ".join(f'mean("{name}") AS "{name}"' for name in CLASSED)
    return Panel(
        kind="table",
        title="River class by factor 水质类别",
        queries=(latest("water", shown, where=f'"{CLASSED[1]}" >= 0'),),
        note=(
            "Means of the last hour in the colour of their class, GB 3838-2002, Table 1: blue I "
            "and II, green III, yellow IV, orange V, red worse. The class of a station is that of "
            "its worst factor."
        ),
        looks={
            name: Look(unit=unit_of(name), steps=class_steps(name), name=title_of(name))
            for name in CLASSED
        },
        decimals=2,
        width=width,
        height=height,
    )


def _curve(quantity: str) -> Panel:
    return Panel(
        kind="lines",
        title=title_of(quantity),
        queries=(line(READINGS, f'mean("{quantity}") AS "{quantity}"', by=("site",)),),
        unit=unit_of(quantity),
        decimals=QUANTITIES[quantity].decimals,
        steps=steps_of(quantity),
        edged=True,
        width=12,
    )


_CLASS_ALARMS: Final = Panel(
    kind="table",
    title="Alarms of class and spill 水质报警",
    queries=(
        Query(
            text='SELECT "rule", "event", "value", "limit", "severity", "site", "device" '
            f'FROM "alarms" WHERE $timeFilter AND {scoped(*SCOPE)} AND "domain" = \'water\' '
            "ORDER BY time DESC LIMIT 200",
            shape="table",
            empty="No alarm of the river in this time.",
        ),
    ),
    note="Of rule river-class the value is the class: 6 is worse than V.",
    looks={"Time": Look(name="Time")},
    none="none",
    width=12,
    height=9,
)

BOARD: Final = Board(
    uid="cityeye-river",
    title="River 地表水",
    note="Water stations in the order of their names: class, factors and spills.",
    variables=scope("water"),
    domain="water",
    resolved=True,
    rows=(
        Row(title="Class 类别", panels=(class_panel(width=12, height=9), _CLASS_ALARMS)),
        Row(title="Factors 监测因子", panels=tuple(_curve(name) for name in _FACTORS)),
    ),
)
