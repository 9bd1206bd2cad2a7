"""Dashboard Enterprise emissions: raw and corrected against permit, hours over limit, flags."""

from typing import Final

from alerts.rules import Limit
from city.kinds import PlantKind
from city.quantities import QUANTITIES

from .board import Board, Variable, scope, tag_values
from .influxql import SCOPE, Query, latest, line, scoped
from .limits import limits_of, plants, steps_of, title_of, unit_of
from .panels import Look, Panel, Row
from .resolution import READINGS

STACK: Final = ("stack_pm", "stack_so2", "stack_nox")
OUTFALL: Final = ("effluent_cod", "effluent_ammonia_n", "effluent_total_n", "effluent_total_p")
_PLANT: Final = ("plant_load", "plant_power", "stack_o2", "flue_flow")
_FLAGGED: Final = (*STACK, *OUTFALL)
_NO_PLANT: Final = "The city has no such plant, or it is not chosen."


def _list(plant: PlantKind) -> str:
    """The hidden variable that lists the sites of a kind of plant."""
    return f"sites_{plant.id.replace('-', '_')}"


def _of(plant: PlantKind) -> str:
    """The condition that a site is such a plant."""
    return f'"site" =~ /^${{{_list(plant)}:regex}}$/'


def _stack(plant: PlantKind, quantity: str) -> Panel:
    corrected = f"{quantity}_corrected"
    return Panel(
        kind="lines",
        title=f"{plant.name_en} {plant.name_zh}: {title_of(quantity)}",
        queries=(
            line(READINGS, f'mean("{corrected}") AS "corrected"', by=("site",), where=_of(plant),
                 alias="$tag_site corrected 折算", empty=_NO_PLANT),
            line(READINGS, f'mean("{quantity}") AS "raw"', by=("site",), where=_of(plant),
                 alias="$tag_site raw 实测", empty=_NO_PLANT),
        ),
        note=f"Corrected to {plant.o2_ref:g} % O2; the line across is the permit, {plant.standard}.",
        unit=unit_of(corrected),
        steps=steps_of(corrected, plant.id),
        edged=True,
        looks={"B": Look(dashed=True)},
    )  # fmt: skip


def _outfall(plant: PlantKind, quantity: str) -> Panel:
    shown = f'mean("{quantity}") AS "{quantity}"'
    return Panel(
        kind="lines",
        title=f"{plant.name_en} {plant.name_zh}: {title_of(quantity)}",
        queries=(line(READINGS, shown, by=("site",), where=_of(plant), empty=_NO_PLANT),),
        note=f"The line across is the permit, {plant.standard}.",
        unit=unit_of(quantity),
        steps=steps_of(quantity, plant.id),
        edged=True,
        width=6,
    )


def _hours_over(plant: PlantKind, quantity: str, limit: Limit) -> Query:
    """How many hourly means lay above a limit, by device; its first column says what of."""
    inner = (
        f'SELECT mean("{quantity}") AS "hour" FROM {READINGS} WHERE $timeFilter AND '
        f'{scoped(*SCOPE)} AND {_of(plant)} GROUP BY time(1h), "site", "device"'
    )
    name = f"{QUANTITIES[quantity].name_en} > {limit.limit:g} {QUANTITIES[quantity].unit}"
    return Query(
        text=f'SELECT count("hour") AS "{name}" FROM ({inner}) WHERE "hour" > {limit.limit:g} '
        'GROUP BY "site", "device"',
        shape="table",
        empty="No hour of this plant lies above this limit.",
    )


def _permits() -> list[tuple[PlantKind, str, Limit]]:
    """Every upper limit of a permit: kind of plant, quantity, limit."""
    corrected = tuple(f"{name}_corrected" for name in STACK)
    pairs = [(plant, name) for plant in plants(burning=True) for name in corrected]
    pairs += [(plant, name) for plant in plants(burning=False) for name in OUTFALL]
    return [
        (plant, name, limit)
        for plant, name in pairs
        for limit in limits_of(name, plant.id)
        if limit.upper
    ]


_OVER: Final = Panel(
    kind="table",
    title="Hours over limit 超标小时数",
    queries=tuple(_hours_over(*permit) for permit in _permits()),
    note=(
        "Hourly means above the permit, in the time shown, by device. Means of all values, also of "
        "those flagged; the alarms of pack emission-permits leave those out and ask for 45 minutes."
    ),
    joined=True,
    decimals=0,
    none="0",
    width=12,
    height=9,
)
_FLAGS: Final = Panel(
    kind="table",
    title="Data flags 数据标记",
    queries=(
        latest(
            "emission", ", ".join(f'count("{name}_flag") AS "{name}"' for name in _FLAGGED),
            span="24h", empty="No value of the last day is flagged.",
        ),
    ),
    note="How many values of the last 24 hours carry a flag of HJ 212 (F M S D C T B), by device.",
    decimals=0,
    none="0",
    width=12,
    height=9,
)  # fmt: skip
_EVENTS: Final = Panel(
    kind="table",
    title="Alarms of permits 超标报警",
    queries=(
        Query(
            text='SELECT "rule", "event", "value", "limit", "unit", "standard", "site", "device" '
            f'FROM "alarms" WHERE $timeFilter AND {scoped(*SCOPE)} AND "domain" = \'emission\' '
            "ORDER BY time DESC LIMIT 200",
            shape="table",
            empty="No alarm of a plant in this time.",
        ),
    ),
    looks={"Time": Look(name="Time")},
    none="none",
    width=24,
)


def _curve(quantity: str) -> Panel:
    shown = f'mean("{quantity}") AS "{quantity}"'
    return Panel(
        kind="lines",
        title=title_of(quantity),
        queries=(line(READINGS, shown, by=("site",)),),
        unit=unit_of(quantity),
        width=6,
    )


def _variables() -> tuple[Variable, ...]:
    lists = tuple(
        Variable(
            name=_list(plant),
            query=tag_values(
                "stations", "site", "city", "district", where=f"\"plant\" = '{plant.id}'"
            ),
            hidden=True,
        )
        for plant in (*plants(burning=True), *plants(burning=False))
    )
    return (*scope("emission"), *lists)


BOARD: Final = Board(
    uid="cityeye-emissions",
    title="Enterprise emissions 污染源排放",
    note="Every plant by its kind: what leaves it, raw and corrected, against its permit.",
    variables=_variables(),
    domain="emission",
    resolved=True,
    since="now-6h",
    rows=(
        Row(title="Compliance 达标情况", panels=(_OVER, _FLAGS, _EVENTS)),
        *(
            Row(title=f"{plant.name_en} {plant.name_zh}",
                panels=tuple(_stack(plant, name) for name in STACK))
            for plant in plants(burning=True)
        ),
        *(
            Row(title=f"{plant.name_en} {plant.name_zh}",
                panels=tuple(_outfall(plant, name) for name in OUTFALL))
            for plant in plants(burning=False)
        ),
        Row(title="Operation 工况", panels=tuple(_curve(name) for name in _PLANT)),
    ),
)  # fmt: skip
