"""A test second by second: what each part said, added up into points, and those into columns."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec
from hdrh.histogram import HdrHistogram

from load.figures import Delta, PartKind
from load.percentiles import Latency
from load.sums import Sums

RATES: Final = ("due", "sent", "acked", "received")
"""Counts that are shown as rates; `due` is what the plan wanted."""

CUMULATED: Final = ("repeated", "out_of_order", "disconnects")
"""Counts that are shown as sums since the beginning."""

SPREAD: Final = ("p50", "p95", "p99", "max")
STALE_MS: Final = 5_000
"""A part that has said nothing for so long is no longer there."""

T = TypeVar("T")
PartKey = tuple[PartKind, int]


class Gauge(msgspec.Struct):
    """What a part said last: how it stood, and what it counted over which time."""

    at_ms: int
    span_ms: float
    connected: int
    waiting: int
    rss_bytes: int
    cpu_s: float
    counts: dict[str, int]
    last: bool

    @classmethod
    def of(cls, delta: Delta, since_ms: float) -> "Gauge":
        """From one word; the one before it was said at `since_ms`."""
        counts = {name: count for name, count in delta.counts.items() if name in RATES}
        return cls(
            at_ms=delta.at_ms,
            span_ms=max(1.0, delta.at_ms - since_ms),
            connected=delta.connected,
            waiting=delta.waiting,
            rss_bytes=delta.rss_bytes,
            cpu_s=delta.cpu_s,
            counts=counts,
            last=delta.last,
        )

    def after(self, earlier: "Gauge") -> "Gauge":
        """Both together: the later stand, the sums over both times."""
        return msgspec.structs.replace(
            self,
            span_ms=self.span_ms + earlier.span_ms,
            cpu_s=self.cpu_s + earlier.cpu_s,
            counts=dict(Counter(self.counts) + Counter(earlier.counts)),
        )

    def per_s(self, name: str) -> float:
        """The rate of a count."""
        return self.counts.get(name, 0) / self.span_ms * 1000

    @property
    def cpu_share(self) -> float:
        """Of one core."""
        return self.cpu_s / self.span_ms * 1000


Gauges = dict[PartKey, Gauge]


class Stand(msgspec.Struct, frozen=True):
    """All parts together at one instant.

    A part says its word about once a second: its rates are over the time since its word before,
    and hold until its next, so that a second in which two words or none fell shows no jump.
    """

    rates: dict[str, float]
    """Messages per second, by `RATES`."""
    connected: int
    waiting: int
    cpu: dict[str, float]
    """Cores used, by kind of part."""
    busiest: dict[str, float]
    """The share of its core that the busiest part of a kind used."""
    rss_mb: dict[str, float]
    """Resident memory [MB], by kind of part."""


def stand(gauges: Gauges) -> Stand:
    """The parts that are there, added up."""
    kinds = sorted({kind for kind, _ in gauges})
    each = {kind: [gauge for (of, _), gauge in gauges.items() if of == kind] for kind in kinds}
    return Stand(
        rates={name: round(sum(g.per_s(name) for g in gauges.values()), 1) for name in RATES},
        connected=sum(gauge.connected for gauge in gauges.values()),
        waiting=sum(gauge.waiting for gauge in gauges.values()),
        cpu={kind: round(sum(gauge.cpu_share for gauge in all_), 4) for kind, all_ in each.items()},
        busiest={
            kind: round(max(gauge.cpu_share for gauge in all_), 4) for kind, all_ in each.items()
        },
        rss_mb={
            kind: round(sum(gauge.rss_bytes for gauge in all_) / 1e6, 1)
            for kind, all_ in each.items()
        },
    )


def followed(gauges: Gauges, told: Gauges, until_ms: float) -> Gauges:
    """The gauges after what was told up to an instant; who has ended or gone silent is left out."""
    return {
        key: gauge
        for key, gauge in (gauges | told).items()
        if (key in told or not gauge.last) and gauge.at_ms > until_ms - STALE_MS
    }


class Moment:
    """One second of a test, or a few of a long one."""

    def __init__(self) -> None:
        self.sums = Sums()
        self.told: Gauges = {}
        self.stand: Stand | None = None
        self.cumulated: dict[str, int] = {}
        self.missing: int | None = None

    def add(self, delta: Delta, delays: Mapping[str, HdrHistogram], gauge: Gauge) -> None:
        """Take in one word."""
        self.sums.add(delta, delays)
        if self.stand is None:
            key = (delta.kind, delta.part)
            earlier = self.told.get(key)
            self.told[key] = gauge if earlier is None else gauge.after(earlier)

    def close(self, gauges: Gauges) -> Stand:
        """Be done with it, the parts standing like this after it; late words still add to sums."""
        if self.stand is None:
            self.stand, self.told = stand(gauges), {}
        self.sums.seal()
        return self.stand

    def merge(self, later: "Moment") -> None:
        """Take in the moment that follows this one; both are closed or neither is."""
        self.sums.merge(later.sums)
        self.cumulated = later.cumulated or self.cumulated
        self.missing = later.missing if later.cumulated else self.missing
        if self.stand is not None and later.stand is not None:
            self.sums.seal()
            self.stand = _between(self.stand, later.stand)
        for key, gauge in later.told.items():
            earlier = self.told.get(key)
            self.told[key] = gauge if earlier is None else gauge.after(earlier)


def _between(one: Stand, other: Stand) -> Stand:
    """Two seconds as one: rates and shares in the middle, stands the higher."""
    return Stand(
        rates=_middle(one.rates, other.rates),
        connected=max(one.connected, other.connected),
        waiting=max(one.waiting, other.waiting),
        cpu=_middle(one.cpu, other.cpu),
        busiest=_highest(one.busiest, other.busiest),
        rss_mb=_highest(one.rss_mb, other.rss_mb),
    )


def _middle(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {
        name: round((one.get(name, 0.0) + other.get(name, 0.0)) / 2, 4)
        for name in sorted({*one, *other})
    }


def _highest(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: max(one.get(name, 0.0), other.get(name, 0.0)) for name in sorted({*one, *other})}


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """The whole test in one second."""

    at_s: float
    """The end of that second since the test began."""
    phase: str
    pace: float
    stand: Stand
    latency: dict[str, Latency]
    cumulated: dict[str, int]
    missing: int | None
    """Acknowledged by then and not received by then; None without a subscriber."""


Column = list[float | None]


class Series(msgspec.Struct, kw_only=True):
    """The points of a test as columns of equal length, for files and plots."""

    at_s: list[float]
    phase: list[str]
    pace: list[float]
    rate: dict[str, Column]
    connected: list[int]
    waiting: list[int]
    missing: list[int | None]
    lost: list[int | None]
    """What was missing then and at every later instant: on its way no longer, but lost."""
    cumulated: dict[str, list[int]]
    latency_ms: dict[str, dict[str, Column]]
    cpu: dict[str, Column]
    busiest: dict[str, Column]
    rss_mb: dict[str, Column]


def series_of(points: Sequence[Point]) -> Series:
    """Columns from points."""
    stands = [point.stand for point in points]
    missing = [point.missing for point in points]
    return Series(
        at_s=[point.at_s for point in points],
        phase=[point.phase for point in points],
        pace=[point.pace for point in points],
        rate=_columns([one.rates for one in stands]),
        connected=[one.connected for one in stands],
        waiting=[one.waiting for one in stands],
        missing=missing,
        lost=lost_for_good(missing),
        cumulated={name: [point.cumulated.get(name, 0) for point in points] for name in CUMULATED},
        latency_ms=_latencies(points),
        cpu=_columns([one.cpu for one in stands]),
        busiest=_columns([one.busiest for one in stands]),
        rss_mb=_columns([one.rss_mb for one in stands]),
    )


def lost_for_good(missing: Sequence[int | None]) -> list[int | None]:
    """The least of what is missing now and later: what is on its way is not lost."""
    least: int | None = None
    lost: list[int | None] = []
    for one in reversed(missing):
        if one is not None:
            least = one if least is None else min(least, one)
        lost.append(least if one is not None else None)
    return lost[::-1]


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, Column]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _latencies(points: Sequence[Point]) -> dict[str, dict[str, Column]]:
    """By stage and percentile; None where a stage has no delays."""
    stages = dict.fromkeys(stage for point in points for stage in point.latency)
    return {
        stage: {
            name: [
                getattr(point.latency[stage], name) if stage in point.latency else None
                for point in points
            ]
            for name in SPREAD
        }
        for stage in stages
    }


def thinned(series: Series, at_most: int) -> Series:
    """At most so many points, for a plot: neighbours become one.

    Rates, paces and shares are averaged; of delays and stands the highest is kept, so that nothing
    bad disappears; sums and losses are those at the end of the neighbours.
    """
    step = -(-len(series.at_s) // at_most)
    if step <= 1:
        return series
    return Series(
        at_s=_picked(series.at_s, step),
        phase=_picked(series.phase, step),
        pace=_picked(series.pace, step),
        rate=_each(series.rate, _mean, step),
        connected=[max(series.connected[at : at + step]) for at in _starts(series, step)],
        waiting=[max(series.waiting[at : at + step]) for at in _starts(series, step)],
        missing=_picked(series.missing, step),
        lost=_picked(series.lost, step),
        cumulated={name: _picked(column, step) for name, column in series.cumulated.items()},
        latency_ms={
            stage: _each(columns, _most, step) for stage, columns in series.latency_ms.items()
        },
        cpu=_each(series.cpu, _mean, step),
        busiest=_each(series.busiest, _most, step),
        rss_mb=_each(series.rss_mb, _most, step),
    )


def _starts(series: Series, step: int) -> range:
    return range(0, len(series.at_s), step)


def _picked(column: list[T], step: int) -> list[T]:
    """The last of each group."""
    return [column[min(at + step, len(column)) - 1] for at in range(0, len(column), step)]


def _each(
    columns: Mapping[str, Column], join: Callable[[list[float]], float], step: int
) -> dict[str, Column]:
    """Groups of each column joined, None where a group is empty."""
    joined: dict[str, Column] = {}
    for name, column in columns.items():
        groups = (column[at : at + step] for at in range(0, len(column), step))
        known = ([value for value in group if value is not None] for group in groups)
        joined[name] = [join(values) if values else None for values in known]
    return joined


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4)


def _most(values: list[float]) -> float:
    return max(values)
