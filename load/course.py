"""How a test goes: the words of all parts, added up into totals and into a series of seconds.

What happened up to the end of the ramp stands in the series and in the counts, but not in the
latency of the totals: connecting thousands of devices is a load of its own. Only `connect`, whose
time is the ramp, counts from the beginning.

A word tells of the time since the one before it, and belongs to the phase and the second in which
the middle of that time lies. Parts speak where a phase ends, so this parts phases to some hundredths of a second.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from hdrh.histogram import HdrHistogram

from load.figures import Delta, PartKind
from load.pace import Pace
from load.plan import LoadPlan, Order
from load.series import (
    CUMULATED,
    Gauge,
    Gauges,
    Moment,
    Point,
    Series,
    Stand,
    followed,
    series_of,
    stand,
)
from load.sums import Sums

POINTS_MAX: Final = 3_600
"""So many points at most; when there would be more, neighbours become one."""

RAMP: Final = "ramp"
DRAIN: Final = "drain"
_WARNINGS_MAX: Final = 200
_OPEN: Final = 6
"""So many of the newest moments still wait for words that come late."""
_JUDGED_MS: Final = 500
"""The share of a core is not judged by less than this."""


class Attempt(msgspec.Struct):
    """One process of a test, and what it alone has said."""

    kind: PartKind
    part: int
    attempt: str
    since_ms: int
    """When the test began, or the process before it in this part said its last word."""
    at_ms: int
    sums: Sums
    """All of it, but the latency as in the totals: without the ramp."""
    confirmed: int = 0
    complete_ms: int = 0
    connected_most: int = 0
    waiting: int = 0
    rss_bytes: int = 0
    """The most that it ever had."""
    empty_rss_bytes: int = 0
    busiest: float = 0.0
    """The greatest share of a core that it used between two words."""
    ended: bool = False

    @property
    def lasted_s(self) -> float:
        """How long it has been speaking within the test."""
        return max(0.0, self.at_ms - self.since_ms) / 1000


class Stretch(msgspec.Struct):
    """A phase as it was run; the ramp before the phases and the drain after them are stretches."""

    name: str
    begins_ms: float
    ends_ms: float
    """As planned; the test may be stopped before."""
    sums: Sums


class Course:
    """Adds up what parts say."""

    def __init__(self, plan: LoadPlan, start_ms: int) -> None:
        self.plan = plan
        self.start_ms = start_ms
        self.pace = Pace(plan, start_ms)
        self.total = Sums()
        self.after_ramp: dict[PartKind, Sums] = {}
        """Counts and processor time after the ramp, by kind of part; no delays."""
        self.reasons: Counter[str] = Counter()
        self.warnings: list[str] = []
        self.attempts: dict[tuple[PartKind, int, str], Attempt] = {}
        self.stretches = _stretches(plan, start_ms)
        self._moments: dict[int, Moment] = {}
        self._width_s = 1
        self._sealed: Gauges = {}
        self._sealed_to = -1
        self._most = 0
        self._confirmed = 0
        self._subscribed = False

    @property
    def ramp_end_ms(self) -> float:
        """Until this instant, itself included, what happens belongs to the ramp."""
        return self.start_ms + self.plan.ramp_s * 1000

    @property
    def at_s(self) -> float:
        """How far the test has come, by the newest word."""
        newest = max((one.at_ms for one in self.attempts.values()), default=self.start_ms)
        return max(0.0, (newest - self.start_ms) / 1000)

    @property
    def counts(self) -> Counter[str]:
        """All counts since the beginning."""
        return self.total.counts

    @property
    def confirmed(self) -> int:
        """Different messages that are known to have been acknowledged."""
        return self._confirmed

    @property
    def lost(self) -> int | None:
        """Acknowledged and not received so far, None without a subscriber."""
        if not self._subscribed:
            return None
        return max(0, self._confirmed - self.counts["distinct"])

    @property
    def connected_most(self) -> int:
        """The most devices that were online at once."""
        return max([self._most, *(one.connected for one in self._open_stands().values())])

    def follow(self, orders: Iterable[Order]) -> None:
        """Bend the pace as ordered."""
        self.pace.follow(orders)

    def warn(self, warning: str) -> None:
        """Keep what people should know, once."""
        if warning not in self.warnings and len(self.warnings) < _WARNINGS_MAX:
            self.warnings.append(warning)

    def add(self, delta: Delta) -> None:
        """Take in one word of one part."""
        attempt = self._attempt(delta)
        since_ms = max(attempt.at_ms, self.start_ms)
        gauge = Gauge.of(delta, since_ms)
        middle_ms = (min(since_ms, delta.at_ms) + delta.at_ms) / 2
        self._subscribed |= delta.kind == "subscriber"
        self.reasons.update(delta.reasons)
        for warning in delta.warnings:
            self.warn(warning)
        self._stand(attempt, delta, gauge)
        delays = {stage: HdrHistogram.decode(one) for stage, one in delta.delays.items()}
        self._count(attempt, delta, delays, ramping=middle_ms <= self.ramp_end_ms)
        if delta.at_ms > self.start_ms:
            self._stretch(middle_ms).sums.add(delta, delays)
            self._second(middle_ms, delta, delays, gauge)
        else:
            self._sealed[delta.kind, delta.part] = gauge

    def latest(self, behind_s: int = 1) -> Point | None:
        """The whole test, so many seconds before the newest word: a second that all have told."""
        return next(iter(self.recent(1, behind_s)), None)

    def recent(self, count: int, behind_s: int = 1) -> list[Point]:
        """So many seconds up to that one, oldest first."""
        indices = sorted(self._moments)
        return list(self._points(indices[: len(indices) - behind_s][-count:]))

    def series(self) -> Series:
        """All seconds so far."""
        return series_of(self.points())

    def points(self) -> list[Point]:
        """All seconds so far, oldest first."""
        return list(self._points(sorted(self._moments)))

    def _attempt(self, delta: Delta) -> Attempt:
        """The process that said it; one that takes over a part counts from the other's last word."""
        key = (delta.kind, delta.part, delta.attempt)
        if key not in self.attempts:
            earlier = [
                one.at_ms
                for one in self.attempts.values()
                if (one.kind, one.part) == (delta.kind, delta.part)
            ]
            since_ms = max([self.start_ms, *earlier])
            self.attempts[key] = Attempt(
                kind=delta.kind, part=delta.part, attempt=delta.attempt,
                since_ms=since_ms, at_ms=since_ms, sums=Sums(),
            )  # fmt: skip
        return self.attempts[key]

    def _stand(self, attempt: Attempt, delta: Delta, gauge: Gauge) -> None:
        """What a process says of itself."""
        self._confirmed += delta.confirmed - attempt.confirmed
        attempt.confirmed = delta.confirmed
        attempt.complete_ms = max(attempt.complete_ms, delta.complete_ms)
        attempt.connected_most = max(attempt.connected_most, delta.connected)
        attempt.waiting = delta.waiting
        attempt.rss_bytes = max(attempt.rss_bytes, delta.rss_bytes)
        attempt.empty_rss_bytes = delta.empty_rss_bytes or attempt.empty_rss_bytes
        attempt.ended |= delta.last
        if gauge.span_ms >= _JUDGED_MS:
            attempt.busiest = max(attempt.busiest, round(gauge.cpu_share, 4))
        attempt.at_ms = max(attempt.at_ms, delta.at_ms)

    def _count(
        self, attempt: Attempt, delta: Delta, delays: Mapping[str, HdrHistogram], *, ramping: bool
    ) -> None:
        """Into the totals; of delays before the end of the ramp, those of `connect` alone."""
        for sums in (self.total, attempt.sums, *(() if ramping else (self._after(delta.kind),))):
            sums.counts.update(delta.counts)
            sums.cpu_s += delta.cpu_s if delta.at_ms > self.start_ms else 0.0
        for stage, some in delays.items():
            if stage == "connect" or not ramping:
                attempt.sums.add_delays(stage, some)
                self.total.add_delays(stage, some)

    def _after(self, kind: PartKind) -> Sums:
        return self.after_ramp.setdefault(kind, Sums())

    def _stretch(self, at_ms: float) -> Stretch:
        """The stretch of the test that an instant belongs to; those long over are sealed."""
        if at_ms > self.pace.end_ms:
            return self.stretches[-1]
        for stretch in self.stretches[:-1]:
            if at_ms <= stretch.ends_ms:
                return stretch
            if stretch.ends_ms < at_ms - _OPEN * 1000:
                stretch.sums.seal()
        return self.stretches[-1]

    def _second(
        self, middle_ms: float, delta: Delta, delays: Mapping[str, HdrHistogram], gauge: Gauge
    ) -> None:
        """Into the series."""
        index = int((middle_ms - self.start_ms) // (1000 * self._width_s))
        newest = index >= max(self._moments, default=-1)
        moment = self._moments.setdefault(index, Moment())
        moment.add(delta, delays, gauge)
        if newest:
            moment.cumulated = {name: self.counts[name] for name in CUMULATED}
            moment.missing = self.lost
            self._seal(index - _OPEN)
        elif index <= self._sealed_to:
            moment.close(self._sealed)
        while len(self._moments) > POINTS_MAX:
            self._halve()

    def _seal(self, until: int) -> None:
        """Be done with the moments up to that one, in their order."""
        if until <= self._sealed_to:
            return
        for index in sorted(one for one in self._moments if self._sealed_to < one <= until):
            moment = self._moments[index]
            self._sealed = followed(self._sealed, moment.told, self._end_ms(index))
            self._most = max(self._most, moment.close(self._sealed).connected)
        self._sealed_to = until

    def _halve(self) -> None:
        """Two neighbours become one, all along."""
        if self._sealed_to % 2 == 0:
            self._seal(self._sealed_to + 1)
        self._width_s *= 2
        self._sealed_to //= 2
        halved: dict[int, Moment] = {}
        for index, moment in sorted(self._moments.items()):
            if index // 2 in halved:
                halved[index // 2].merge(moment)
            else:
                halved[index // 2] = moment
        self._moments = halved

    def _end_ms(self, index: int) -> float:
        return self.start_ms + (index + 1) * self._width_s * 1000

    def _open_stands(self) -> dict[int, Stand]:
        """How the parts stood in the moments that are not sealed."""
        gauges, stands = self._sealed, {}
        for index in sorted(self._moments):
            if index > self._sealed_to:
                gauges = followed(gauges, self._moments[index].told, self._end_ms(index))
                stands[index] = stand(gauges)
        return stands

    def _points(self, indices: Sequence[int]) -> Iterable[Point]:
        open_stands = self._open_stands()
        for index in indices:
            moment, middle_ms = self._moments[index], self._end_ms(index) - self._width_s * 500
            yield Point(
                at_s=(index + 1.0) * self._width_s,
                phase=self._stretch(middle_ms).name,
                pace=round(self.pace.pace_at(middle_ms), 4),
                stand=moment.stand or open_stands[index],
                latency=moment.sums.latency(),
                cumulated=moment.cumulated,
                missing=moment.missing,
            )


def _stretches(plan: LoadPlan, start_ms: int) -> list[Stretch]:
    """The ramp, the phases and the drain."""
    made = []
    at_ms = float(start_ms)
    lengths = [(RAMP, plan.ramp_s), *((phase.name, phase.for_s) for phase in plan.phases)]
    for name, for_s in [*lengths, (DRAIN, plan.drain_s)]:
        made.append(Stretch(name, at_ms, at_ms + for_s * 1000, Sums()))
        at_ms += for_s * 1000
    return made
