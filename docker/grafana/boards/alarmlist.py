"""Dashboard Alarms: what stands, what happened, who was first, and how the alarms themselves do."""

from typing import Final, get_args

from alerts.figures import FLOOD_ALARMS
from broker.messages import Severity

from .board import Board, Variable, scope, tag_values
from .influxql import SCOPE, Query, line, of_each, scoped
from .limits import SEVERITY_COLOURS, Step, Steps
from .panels import Look, Panel, Row

SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)[::-1]
"""The worst first."""
UNSEEN: Final = "normal|shelved|suppressed|out-of-service"
"""States in which an alarm is not shown to people."""
_STANDS: Final = f'"state" !~ /^({UNSEEN})$/'
_NEWEST: Final = (
    'last("state") AS "state", "severity", "value", "limit", "unit", "cause", "raised", "by"'
)
_TAGS: Final = (*SCOPE, "rule")
_DAY_BEARABLE: Final = 150
_DAY_TOO_MANY: Final = 300
"""EEMUA 191: about 150 a day are what an operator can handle, 300 are the most."""
_WORST_SHARES: Final = {"low": 0.8, "medium": 0.15, "high": 0.05}
NOTHING_STANDS: Final = "No alarm of this severity stands."
BY_SEVERITY: Final = Look(texts={name: (name, colour) for name, colour in SEVERITY_COLOURS.items()})
_STATES: Final = Look(
    texts={
        "unacknowledged": ("unacknowledged 未确认", "red"),
        "acknowledged": ("acknowledged 已确认", "orange"),
        "returned": ("returned, unacknowledged 已恢复未确认", "yellow"),
        "latched": ("latched 锁定", "purple"),
        "latched-acknowledged": ("latched, acknowledged 锁定已确认", "light-purple"),
    }
)


def count_panel(*, width: int, height: int, tags: tuple[str, ...] = SCOPE) -> Panel:
    """How many alarms stand, by severity."""
    return Panel(
        kind="stat",
        title="Standing alarms 当前报警",
        queries=tuple(
            of_each('last("state") AS "state", "severity"', "alarms", f'count("state") AS "{name}"',
                    tags=tags, by=("city", "site", "device", "rule"),
                    kept=f"{_STANDS} AND \"severity\" = '{name}'", empty=NOTHING_STANDS)
            for name in SEVERITIES
        ),
        note="What stands at the end of the time shown, whenever it began.",
        looks={
            letter: Look(name=name, steps=(Step(None, "green"), Step(1, SEVERITY_COLOURS[name])))
            for letter, name in zip("ABCD", SEVERITIES, strict=True)
        },
        none="0",
        width=width,
        height=height,
    )  # fmt: skip


def standing_panel(*, width: int, height: int, tags: tuple[str, ...] = SCOPE) -> Panel:
    """Every alarm that stands."""
    shown = (
        '"severity", "state", "domain", "site", "device", "rule", "value", "limit", "unit", "cause"'
    )
    return Panel(
        kind="table",
        title="Standing 当前报警",
        queries=(
            of_each(_NEWEST, "alarms", shown, tags=tags, kept=_STANDS, shape="table",
                    by=("city", "domain", "site", "device", "rule"), empty="No alarm stands."),
        ),
        note="Acknowledge on the command line: cityeye alarms ack SITE/DEVICE/RULE --by NAME.",
        looks={"Time": Look(name="Since"), "severity": BY_SEVERITY, "state": _STATES},
        none="none",
        width=width,
        height=height,
    )  # fmt: skip


def _listed(title: str, where: str, note: str, *, empty: str, width: int = 24) -> Panel:
    return Panel(
        kind="table",
        title=title,
        queries=(
            Query(
                text='SELECT "event", "severity", "domain", "site", "device", "rule", "value", '
                '"limit", "unit", "cause", "by", "why" FROM "alarms" '
                f"WHERE $timeFilter AND {scoped(*_TAGS)}{where} ORDER BY time DESC LIMIT 500",
                shape="table",
                empty=empty,
            ),
        ),
        note=note,
        looks={"Time": Look(name="Time"), "severity": BY_SEVERITY},
        none="none",
        width=width,
        height=10,
    )


def _counted(title: str, *by: str) -> Panel:
    groups = ", ".join(f'"{tag}"' for tag in by)
    text = (
        'SELECT count("value") AS "raised" FROM "alarms" WHERE $timeFilter AND '
        f"{scoped(*_TAGS)} AND \"event\" = 'raised' GROUP BY {groups}"
    )
    return Panel(
        kind="table",
        title=title,
        queries=(Query(text=text, shape="table", empty="Nothing was raised."),),
        decimals=0,
        none="none",
        width=12,
    )


def _figure(
    name: str,
    fields: dict[str, str],
    steps: Steps,
    *,
    unit: str = "short",
    note: str = "",
    empty: str = "",
    width: int = 6,
) -> Panel:
    """A figure of alarm management over time; `fields` are shown under their names."""
    shown = ", ".join(f'mean("{field}") AS "{title}"' for field, title in fields.items())
    ours = "\"part\" = 'alarms'"
    return Panel(
        kind="lines",
        title=name,
        queries=(
            line("cityeye", shown, by=("worker",), tags=(), where=ours,
                 alias="$col $tag_worker", empty=empty),
        ),
        note=note,
        unit=unit,
        steps=steps,
        edged=len(steps) > 1,
        width=width,
    )  # fmt: skip


_GREEN: Final[Steps] = (Step(None, "green"),)
_FIGURES: Final = (
    _figure(
        "Alarms per operator and 10 minutes",
        {"operator_10min": "now", "operator_10min_peak": "peak"},
        (Step(None, "green"), Step(FLOOD_ALARMS, "red")),
        note=f"More than {FLOOD_ALARMS} are a flood (ISA-18.2, EEMUA 191).",
    ),
    _figure(
        "Alarms per operator and day",
        {"operator_day": "a day"},
        (Step(None, "green"), Step(_DAY_BEARABLE, "orange"), Step(_DAY_TOO_MANY, "red")),
        note=f"About {_DAY_BEARABLE} a day are what one operator can handle.",
    ),
    _figure(
        "Share of time in flood",
        {"flood_share": "in flood"},
        (Step(None, "green"), Step(0.01, "red")),
        unit="percentunit",
    ),
    _figure(
        "Share by severity",
        {f"share_{name}": name for name in SEVERITIES},
        _GREEN,
        unit="percentunit",
        note="Aimed at: " + ", ".join(f"{n} {s:.0%}" for n, s in _WORST_SHARES.items()) + ".",
        empty="Nothing has been annunciated yet.",
    ),
    _figure(
        "Standing and unacknowledged",
        {"standing": "standing", "unacknowledged": "unacknowledged",
         "long_standing": "over 24 h"},
        _GREEN,
        width=12,
    ),
    _figure(
        "Under a cover",
        {"shelved": "shelved", "suppressed": "suppressed", "out_of_service": "out of service",
         "chattering": "automatic shelves so far"},
        _GREEN,
        width=12,
    ),
)  # fmt: skip
_FLOW: Final = Panel(
    kind="lines",
    title="Events 报警事件",
    queries=(
        line("alarms", 'count("value") AS "events"', by=("event",), tags=_TAGS,
             empty="No alarm in this time."),
    ),
    note="How many events of each kind per step of the curve.",
    width=24,
    height=7,
)  # fmt: skip

BOARD: Final = Board(
    uid="cityeye-alarms",
    title="Alarms 报警",
    note="What stands, what happened, who was first; and whether the alarms do their job.",
    variables=(
        *scope("alarms"),
        Variable(name="rule", label="Rule", query=tag_values("alarms", "rule", *SCOPE)),
    ),
    marked=False,
    since="now-6h",
    rows=(
        Row(title="Standing", panels=(
            count_panel(width=24, height=4, tags=_TAGS), standing_panel(width=24, height=10, tags=_TAGS),
        )),
        Row(title="History 历史", panels=(
            _FLOW,
            _listed("History 报警历史", "", "The newest 500 events.", empty="No alarm in this time."),
            _listed("First out 首发报警", " AND \"event\" = 'raised' AND \"first_out\" = 1",
                    "Of alarms of one cause, the one that came first.",
                    empty="No alarm had others of the same cause."),
        )),
        Row(title="Sources 来源", panels=(
            _counted("Raised, by rule 按规则", "rule"),
            _counted("Raised, by source 按来源", "site", "device"),
        )),
        Row(title="Alarm management 报警管理指标", panels=_FIGURES),
    ),
)  # fmt: skip
