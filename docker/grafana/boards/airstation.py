"""Dashboard Air station: one station's pollutants against their limits, and its weather."""

from typing import Final

from city.quantities import QUANTITIES, Domain, quantities_of

from .board import Board, scope
from .influxql import latest, line
from .limits import aqi_steps, steps_of, title_of, unit_of
from .panels import Look, Panel, Row
from .resolution import READINGS

POLLUTANTS: Final = ("pm25", "pm10", "so2", "no2", "co", "o3")
WEATHER: Final = tuple(q.id for q in quantities_of(Domain.AIR) if q.id not in POLLUTANTS)


def _curve(quantity: str, width: int) -> Panel:
    return Panel(
        kind="lines",
        title=title_of(quantity),
        queries=(line(READINGS, f'mean("{quantity}") AS "{quantity}"', alias="$tag_device"),),
        note="Lines across are limits of hourly means, from the rule packs.",
        unit=unit_of(quantity),
        decimals=QUANTITIES[quantity].decimals,
        steps=steps_of(quantity),
        edged=quantity in POLLUTANTS,
        width=width,
    )


_TILES: Final = Panel(
    kind="stat",
    title="Mean of the last hour, coloured by AQI level",
    queries=tuple(
        latest("air", f'mean("{name}") AS "{title_of(name)}"', by=()) for name in POLLUTANTS
    ),
    note="Levels of HJ 633-2026 for the real-time AQI; flagged values count in this mean.",
    looks={
        letter: Look(unit=unit_of(name), steps=aqi_steps(name), name=title_of(name))
        for letter, name in zip("ABCDEF", POLLUTANTS, strict=True)
    },
    width=24,
    height=5,
)
_FLAGS: Final = Panel(
    kind="table",
    title="Flagged values by device 数据标记",
    queries=(
        latest("air", ", ".join(f'count("{name}_flag") AS "{name}"' for name in POLLUTANTS), span="24h",
               empty="No value of the last day is flagged at the station."),
    ),
    note="How many values of the last 24 hours were not normal, by pollutant.",
    decimals=0,
    width=24,
    height=6,
    none="0",
)  # fmt: skip

BOARD: Final = Board(
    uid="cityeye-air-station",
    title="Air station 空气质量",
    note="One station: pollutants against GB 3095-2026, the level of its air, and its weather.",
    variables=scope("air", one="site"),
    domain="air",
    resolved=True,
    rows=(
        Row(title="Now", panels=(_TILES,)),
        Row(title="Pollutants 污染物", panels=tuple(_curve(name, 12) for name in POLLUTANTS)),
        Row(title="Weather 气象", panels=tuple(_curve(name, 6) for name in WEATHER)),
        Row(title="Data 数据", panels=(_FLAGS,)),
    ),
)
