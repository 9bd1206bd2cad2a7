"""Dashboard Gas network: pressures, valves, leaks and repair orders."""

from typing import Final

from .board import Board, scope
from .influxql import SCOPE, Query, lately, latest, line, of_each, scoped
from .limits import Step, Steps, steps_of, title_of, unit_of
from .panels import Look, Panel, Row
from .resolution import READINGS

OPEN_PERCENT: Final = 99.0
"""From here on a valve counts as open."""
_NEW: Final = lately("10m")
_VALVE: Final[Steps] = (Step(None, "red"), Step(OPEN_PERCENT, "green"))
_EXTREMES: Final = {"min": "lowest", "max": "highest"}
ONLY_OF_MEANS: Final = "Raw readings have no means: their own lowest and highest are shown."
_PRESENT: Final[Steps] = (Step(None, "green"), Step(1, "red"))


def state_panel(*, width: int, height: int) -> Panel:
    """The network in four numbers."""
    return Panel(
        kind="stat",
        title="Gas network 燃气管网",
        queries=(
            of_each('last("gas_pressure") AS "p"', "gas", 'min("p") AS "p"', time=_NEW),
            of_each('last("methane") AS "m"', "gas", 'max("m") AS "m"', time=_NEW),
            of_each('last("valve_position") AS "v"', "gas", 'count("v") AS "v"',
                    time=_NEW, kept=f'"v" < {OPEN_PERCENT:g}', empty="No valve is closed."),
            of_each('last("valve_position") AS "v"', "gas", 'count("v") AS "v"', time=_NEW),
        ),
        note="What the newest value of every device heard in the last 10 minutes says.",
        looks={
            "A": Look(name="Lowest pressure", unit=unit_of("gas_pressure"),
                      steps=steps_of("gas_pressure")),
            "B": Look(name="Most methane", unit=unit_of("methane"), steps=steps_of("methane")),
            "C": Look(name="Valves not open", steps=_PRESENT),
            "D": Look(name="Valves"),
        },
        none="0",
        decimals=1,
        width=width,
        height=height,
    )  # fmt: skip


def _curve(quantity: str, shown: str, note: str = "") -> Panel:
    """A quantity by site; of means that are kept, also the lowest or highest value beneath them."""
    curves = [line(READINGS, f'{shown}("{quantity}") AS "{quantity}"', by=("site",))]
    if shown in _EXTREMES:
        inside = f'{shown}("{quantity}_{shown}") AS "{quantity}_{shown}"'
        alias = f"$tag_site {_EXTREMES[shown]}"
        curves.append(line(READINGS, inside, by=("site",), alias=alias, empty=ONLY_OF_MEANS))
    return Panel(
        kind="lines",
        title=title_of(quantity),
        queries=tuple(curves),
        note=note,
        looks={"B": Look(dashed=True)} if len(curves) > 1 else {},
        unit=unit_of(quantity),
        steps=steps_of(quantity),
        edged=True,
        decimals=1,
        width=12,
        height=9,
    )


_VALVES: Final = Panel(
    kind="table",
    title="Valves 阀门",
    queries=(
        latest(
            "gas", 'last("valve_position") AS "valve_position", "gas_pressure"',
            by=("district", "site", "device"),
        ),
    ),
    looks={
        "valve_position": Look(unit=unit_of("valve_position"), steps=_VALVE,
                               name=title_of("valve_position")),
        "gas_pressure": Look(unit=unit_of("gas_pressure"), steps=steps_of("gas_pressure"),
                             name=title_of("gas_pressure")),
    },
    decimals=1,
    width=12,
    height=9,
)  # fmt: skip


def _seen(field: str, name: str, empty: str) -> Query:
    """The most that a field has been at each detector, where that is a leak."""
    return of_each(
        f'max("{field}") AS "{name}"', READINGS, f'"site", "device", "{name}"',
        time="$timeFilter", kept=f'"{name}" > 5', shape="table", empty=empty,
    )  # fmt: skip


_LEAKS: Final = Panel(
    kind="table",
    title="Methane above 5 %LEL 泄漏",
    queries=(
        _seen("methane", "methane", "No detector has seen methane in this time."),
        _seen("methane_max", "highest", ONLY_OF_MEANS),
    ),
    note="The most that a detector has shown in this time; of means, also the highest beneath them.",
    looks={
        name: Look(unit=unit_of("methane"), steps=steps_of("methane"))
        for name in ("methane", "highest")
    },
    joined=True,
    none="none",
    width=12,
    height=9,
)  # fmt: skip
_ORDERS: Final = Panel(
    kind="table",
    title="Repair orders 维修工单",
    queries=(
        Query(
            text='SELECT last("state") AS "state", "priority", "title", "title_zh", "customers", '
            '"section", "by" FROM "orders" WHERE time <= ${__to}ms AND '
            f'{scoped("city", "site", "device")} GROUP BY "order", "site", "device", "rule"',
            shape="table",
            empty="No alarm has called the repair crew.",
        ),
    ),
    note="Every order as it stands; the newest change of each.",
    looks={
        "Time": Look(name="Changed"),
        "state": Look(texts={"open": ("open 待处理", "red"), "taken": ("taken 处理中", "orange"),
                             "done": ("done 已完成", "green")}),
    },
    none="none",
    width=24,
    height=8,
)  # fmt: skip
_EVENTS: Final = Panel(
    kind="table",
    title="Alarms of the network 报警",
    queries=(
        Query(
            text='SELECT "rule", "event", "value", "limit", "severity", "site", "device", "cause" '
            f'FROM "alarms" WHERE $timeFilter AND {scoped(*SCOPE)} AND "domain" = \'gas\' '
            "ORDER BY time DESC LIMIT 200",
            shape="table",
            empty="No alarm of the network in this time.",
        ),
    ),
    looks={"Time": Look(name="Time")},
    none="none",
    width=12,
    height=9,
)

BOARD: Final = Board(
    uid="cityeye-gas-network",
    title="Gas network 燃气管网",
    note="Pressures, valves, leaks and the orders of the repair crew.",
    variables=scope("gas"),
    domain="gas",
    resolved=True,
    refresh="5s",
    rows=(
        Row(title="Now", panels=(state_panel(width=24, height=5),)),
        Row(
            title="Pressure and flow 压力与流量",
            panels=(
                _curve("gas_pressure", "min", "The lowest of the site; limits of gas-network."),
                _curve("gas_flow", "mean"),
            ),
        ),
        Row(title="Valves and leaks 阀门与泄漏", panels=(_VALVES, _LEAKS)),
        Row(title="Methane 甲烷", panels=(_curve("methane", "max"), _EVENTS)),
        Row(title="Repair 维修", panels=(_ORDERS,)),
    ),
)
