"""Two load tests side by side: what was asked differently, and which figures truly differ."""

from collections.abc import Callable, Iterable, Sequence
from math import hypot, sqrt
from statistics import median
from typing import Any, Final, Literal

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from load.course import DRAIN, RAMP
from load.report import Report
from load.series import SPREAD, Column, Series
from load.verdict import KIND_NAMES, STAGE_NAMES, flat

RULE: Final = (
    "Counts of what should not happen differ as soon as they are not equal. Any other figure "
    "differs when the two are further apart than runs of the same test are on one machine (5 % of "
    "the greater for rates and counts, 10 % for costs and percentiles, 50 % for a single worst "
    "delay, at least 0.2 ms for any delay), and also further than three standard errors of the "
    "medians of its seconds, five of which count as one because neighbours are alike."
)
"""When a difference is more than noise, for people."""

_ERRORS: Final = 3.0
_ALIKE: Final = 5
_MAD_TO_SIGMA: Final = 1.4826
_MEDIAN_TO_MEAN: Final = 1.2533
"""By how much a median spreads more than a mean, of normal values."""

_PRIVATE: Final = ", private, "
"""In the name of a broker of our own, whose address, at the end, is another one each time."""

_WHOLE: Final = 1000
"""From here on a value is said without decimals."""

Better = Literal["lower", "higher"]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """How one figure is found and judged."""

    name: str
    unit: str = ""
    better: Better | None = None
    noise_share: float = 0.0
    """What is nothing, as a share of the greater value."""
    noise_least: float = 0.0
    find: Callable[[Report], float | None]
    seconds: Callable[[Series], Column | None] | None = None
    """The same figure by the second, where there is such."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of both runs."""

    name: str
    unit: str
    a: float | None
    b: float | None
    ratio: float | None
    """B by A; None where A is 0 or one of them is unknown."""
    noise: float
    """How far apart they may be and still be the same."""
    differs: bool
    better: Literal["a", "b"] | None
    """Which of them is better, where they differ and that can be said."""


class Asked(msgspec.Struct, frozen=True):
    """What was asked differently, or was different to begin with."""

    name: str
    a: str
    b: str


class Comparison(msgspec.Struct, kw_only=True):
    """Two runs side by side."""

    a: str
    b: str
    asked: list[Asked]
    rows: list[Row]
    rule: str = RULE

    def encode(self) -> bytes:
        """The JSON document."""
        return msgspec.json.encode(self)


def compare(a: Report, b: Report) -> Comparison:
    """Every figure of both runs that either of them has."""
    rules = {rule.name: rule for rule in [*_rules(a), *_rules(b)]}
    rows = (_row(rule, a, b) for rule in rules.values())
    return Comparison(
        a=_name(a),
        b=_name(b),
        asked=_asked(a, b),
        rows=[row for row in rows if row.a is not None or row.b is not None],
    )


def shown(comparison: Comparison) -> RenderableType:
    """Both runs as tables for a terminal."""
    parts: list[RenderableType] = [Text(f"A  {comparison.a}"), Text(f"B  {comparison.b}"), Text()]
    if comparison.asked:
        parts += [_table(["asked differently", "A", "B"], _asked_cells(comparison)), Text()]
    figures = _table(["", "A", "B", "B / A", ""], figure_cells(comparison))
    return Group(*parts, figures, Text(), Text(comparison.rule, style="dim"))


def figure_cells(comparison: Comparison) -> list[list[str]]:
    """The rows as text: name, both values, their ratio and the mark."""
    return [
        [
            f"{row.name} [{row.unit}]" if row.unit else row.name,
            _number(row.a),
            _number(row.b),
            "" if row.ratio is None else f"{row.ratio:.2f}",
            mark(row),
        ]
        for row in comparison.rows
    ]


def mark(row: Row) -> str:
    """What is said of a difference."""
    if not row.differs:
        return ""
    return "differs" if row.better is None else f"{row.better.upper()} is better"


def _asked_cells(comparison: Comparison) -> list[list[str]]:
    return [[one.name, one.a, one.b] for one in comparison.asked]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        style = (
            "bold yellow"
            if len(row) == len(heads) and row[-1].endswith(("better", "differs"))
            else ""
        )
        table.add_row(*(Text(cell) for cell in row), style=style)
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    whole = abs(value) >= _WHOLE or float(value).is_integer()
    return f"{value:,.0f}" if whole else f"{value:.4g}"


def _name(report: Report) -> str:
    return f"{report.run}, {report.started}, CityEye {report.version}"


def _asked(a: Report, b: Report) -> list[Asked]:
    """Plans first, then the surroundings; a run's name and a private broker's port are nothing."""
    ours, theirs = _surroundings(a), _surroundings(b)
    names = dict.fromkeys([*ours, *theirs])
    pairs = (Asked(name, ours.get(name, "–"), theirs.get(name, "–")) for name in names)
    return [one for one in pairs if one.a != one.b]


def _surroundings(report: Report) -> dict[str, str]:
    chance = {"run", "city_start_ms"}
    broker = report.broker
    if _PRIVATE in broker:
        broker = broker.rpartition(", ")[0]
        chance |= {"broker", "credentials", "ca"}
    plan = {name: value for name, value in report.plan.items() if name not in chance}
    machine: dict[str, Any] = msgspec.to_builtins(report.machine)
    return {
        **dict(flat(plan)),
        "broker": broker,
        **dict(flat(machine, "machine.")),
        "processes": str(len({part.part for part in report.parts if part.kind == "shard"})),
        "CityEye": report.version,
    }


def _row(rule: Rule, a: Report, b: Report) -> Row:
    one, other = rule.find(a), rule.find(b)
    noise = _noise(rule, a, b, max(abs(one or 0.0), abs(other or 0.0)))
    differs = one is not None and other is not None and abs(one - other) > noise
    return Row(
        name=rule.name,
        unit=rule.unit,
        a=one,
        b=other,
        ratio=round(other / one, 4) if one and other is not None else None,
        noise=round(noise, 4),
        differs=differs,
        better=_better(rule, one or 0.0, other or 0.0) if differs else None,
    )


def _better(rule: Rule, one: float, other: float) -> Literal["a", "b"] | None:
    if rule.better is None:
        return None
    return "a" if (one < other) == (rule.better == "lower") else "b"


def _noise(rule: Rule, a: Report, b: Report, greater: float) -> float:
    """How far apart the figures may be and still be the same: `RULE`."""
    known: float = max(rule.noise_share * greater, rule.noise_least)
    if rule.seconds is None:
        return known
    errors = (_error(rule.seconds(one.series), one.series) for one in (a, b))
    return max(known, _ERRORS * hypot(*errors))


def _error(column: Column | None, series: Series) -> float:
    """The standard error of the median of a figure's seconds, outside of ramp and drain."""
    values = [
        value
        for value, phase in zip(column or [], series.phase, strict=False)
        if value is not None and phase not in {RAMP, DRAIN}
    ]
    if not values:
        return 0.0
    middle = median(values)
    sigma = _MAD_TO_SIGMA * median(abs(value - middle) for value in values)
    return _MEDIAN_TO_MEAN * sigma / sqrt(max(1.0, len(values) / _ALIKE))


_WRONGS: Final = (
    "lost", "unread", "repeated", "out_of_order", "unreadable", "dropped", "broker_dropped",
    "unconfirmed",
)  # fmt: skip
"""Counts of what should not happen."""

_COUNTS: Final = ("devices", "connected", "connects", "disconnects", "sent", "received", "alarms")


def _rules(report: Report) -> list[Rule]:
    """The rules of the figures that a report has."""
    wrongs = [Rule(name=_words(name), better="lower", find=_field(name)) for name in _WRONGS]
    rate = Rule(
        name="rate", unit="messages/s", better="higher", noise_share=0.05,
        find=_field("rate_per_s"), seconds=lambda series: series.rate.get("sent"),
    )  # fmt: skip
    counts = [Rule(name=_words(name), noise_share=0.05, find=_field(name)) for name in _COUNTS]
    delays = [
        _delay(stage, percentile)
        for stage in [*report.latency_ms, *(["lateness"] if report.lateness_ms else [])]
        for percentile in SPREAD
    ]
    return [*wrongs, rate, *delays, *_costs(report), *_limits(report), *counts]


def _delay(stage: str, percentile: str) -> Rule:
    def find(report: Report) -> float | None:
        spread = report.lateness_ms if stage == "lateness" else report.latency_ms.get(stage)
        return getattr(spread, percentile, None)

    worst = percentile == "max"
    return Rule(
        name=f"{STAGE_NAMES[stage]}, {percentile}",
        unit="ms",
        better="lower",
        noise_share=0.5 if worst else 0.1,
        noise_least=0.2,
        find=find,
        seconds=None if worst else lambda s: s.latency_ms.get(stage, {}).get(percentile),
    )


def _costs(report: Report) -> list[Rule]:
    def cpu(kind: str) -> Callable[[Report], float | None]:
        return lambda one: one.cpu_us_per_msg.get(kind)

    each = [
        Rule(name=f"CPU per message, {KIND_NAMES[kind]}", unit="us", better="lower", noise_share=0.1,
             find=cpu(kind))
        for kind in report.cpu_us_per_msg
    ]  # fmt: skip
    memory = Rule(
        name="memory per device", unit="KB", better="lower", noise_share=0.1,
        find=_field("rss_kb_per_device"),
    )  # fmt: skip
    return [*each, memory]


def _limits(report: Report) -> list[Rule]:
    """The limits that were found: whatever of them is a number."""

    def limit(name: str) -> Callable[[Report], float | None]:
        return lambda one: _plain_number((one.knee or {}).get(name))

    return [
        Rule(name=f"limit, {_words(name)}", noise_share=0.05, find=limit(name))
        for name, value in (report.knee or {}).items()
        if _plain_number(value) is not None
    ]


def _plain_number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _field(name: str) -> Callable[[Report], float | None]:
    return lambda report: getattr(report, name)


def _words(name: str) -> str:
    return name.replace("_", " ")
