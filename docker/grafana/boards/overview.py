"""Dashboard City overview: where everything stands, in one page."""

from typing import Final

from city.quantities import Domain

from .airstation import POLLUTANTS
from .alarmlist import count_panel, standing_panel
from .board import Board, scope
from .gasnetwork import state_panel
from .influxql import SCOPE, UNTIL_NOW, Query, lately, of_each, scoped
from .limits import Step, aqi_steps, title_of, unit_of
from .panels import Look, Panel, Row
from .river import class_panel

_NAMES: Final = {
    Domain.AIR: "Air 空气",
    Domain.WATER: "River 地表水",
    Domain.GAS: "Gas 燃气",
    Domain.EMISSION: "Emissions 污染源",
}
_ALARMED: Final = '"state" !~ /^(normal|shelved|suppressed|out-of-service)$/'
_NEWEST_STATES: Final = (
    'SELECT last("state") AS "state" FROM "alarms" '
    f'WHERE {UNTIL_NOW} AND {scoped(*SCOPE)} GROUP BY "site", "device", "rule"'
)
_MAP: Final = Panel(
    kind="map",
    title="Stations by state 站点状态",
    queries=(
        Query(
            text='SELECT last("lon") AS "lon", "lat", "name" AS "name" FROM "stations" '
            f'WHERE {scoped(*SCOPE)} GROUP BY "site", "device"',
            shape="table",
        ),
        Query(
            text=f'SELECT count("state") AS "alarms" FROM ({_NEWEST_STATES}) '
            f'WHERE {_ALARMED} GROUP BY "site", "device"',
            shape="table",
            empty="No alarm stands.",
        ),
    ),
    note="Green: no alarm stands; yellow one or two, red three or more.",
    looks={
        "alarms": Look(
            name="alarms",
            steps=(Step(None, "green"), Step(1, "yellow"), Step(3, "red")),
        ),
    },
    joined=True,
    width=12,
    height=14,
)
_AQI: Final = Panel(
    kind="stat",
    title="Worst station by AQI level 空气质量",
    queries=tuple(
        of_each(f'mean("{name}") AS "hour"', "air", f'max("hour") AS "{title_of(name)}"',
                time=lately("1h"))
        for name in POLLUTANTS
    ),
    note=(
        "The highest mean of the last hour among the stations, in the colour of its level, "
        "HJ 633-2026: green, yellow, orange, red, purple, maroon. The AQI is that of the worst."
    ),
    looks={
        letter: Look(unit=unit_of(name), steps=aqi_steps(name), name=title_of(name))
        for letter, name in zip("ABCDEF", POLLUTANTS, strict=True)
    },
    decimals=1,
    width=12,
    height=14,
)  # fmt: skip
_HEARD: Final = Panel(
    kind="stat",
    title="Devices heard in the last 10 minutes 在线设备",
    queries=tuple(
        of_each('last("seq") AS "seq"', domain, 'count("seq") AS "heard"', time=lately("10m"))
        for domain in _NAMES
    ),
    looks={
        letter: Look(name=name, link=f"/d/cityeye-{page}?${{__url_time_range}}&${{__all_variables}}")
        for letter, name, page in zip(
            "ABCD", _NAMES.values(), ("air-station", "river", "gas-network", "emissions"), strict=True
        )
    },
    width=12,
    height=5,
)  # fmt: skip

BOARD: Final = Board(
    uid="cityeye-overview",
    title="City overview 城市总览",
    note="The whole city: who has an alarm, how the air and the river are, what the gas does.",
    variables=scope("stations"),
    marked=False,
    rows=(
        Row(title="Alarms 报警", panels=(count_panel(width=12, height=5), _HEARD)),
        Row(title="City 城市", panels=(_MAP, _AQI)),
        Row(
            title="River and gas 水与燃气",
            panels=(class_panel(width=12, height=9), state_panel(width=12, height=9)),
        ),
        Row(title="Standing 当前报警", panels=(standing_panel(width=24, height=10),)),
    ),
)
