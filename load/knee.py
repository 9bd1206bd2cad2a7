"""The search for the limit of a system: raise the load until a bound is broken, back off, bisect.

A step holds one rate: some seconds to settle, then some that are judged. A step that breaks a bound
ends the climb; what is broken by far ends it in the same second. Then the load falls below the
highest rate that was held, until the system is calm again, and the gap between the highest rate
held and the lowest one broken is halved until it is narrow enough. A broken load is therefore never
held for longer than a step.

No clock is read and nothing is sent here: `Knee.feed` gets the figures of each second and says what
factor to order.
"""

from collections.abc import Iterable, Sequence
from math import inf
from statistics import fmean, median
from typing import Any, Final, Literal

import msgspec

from city.documents import suggestion
from city.errors import SettingError
from city.settings import seconds_in
from load.figures import BUSY, LATE_P99_MS

BOUNDED: Final = ("ack", "subscriber", "store", "alarm")
"""Stages of `load.figures.STAGES` whose p99 can be bound."""

ACK_MS: Final = 1_000.0
"""Default bound of the acknowledgement: a device that measures once a second then has no more than
one message on its way."""

_BACK_OFF: Final = 0.9
"""Recovering runs at this share of the highest rate held."""
_PROGRESS: Final = 0.9
"""A backlog that has fallen to this share is on its way to the end."""
_STEPS_MAX: Final = 60
_LEAST: Final = 1 / 128
"""A system that is not even calm at this share of the first rate, or of what it held, is given up."""

Culprit = Literal["system", "generator", "subscriber"]


class Tail(msgspec.Struct, frozen=True):
    """How long something took, in half and in 99 % of the cases [ms]."""

    p50: float
    p99: float


class Second(msgspec.Struct, frozen=True, kw_only=True):
    """What all parts together did in one second."""

    at_s: float
    """Since whenever, by a clock that never goes back."""
    factor: float
    """What was in force."""
    wanted: float
    """Messages that were due in this second, as all other rates."""
    sent: float
    acked: float | None
    """None: QoS 0."""
    received: float | None = None
    """None: there is no subscriber."""
    waiting: int = 0
    """Messages that are due and not acknowledged at the end of the second."""
    lost: int | None = None
    """Confirmed and not received since the test began, those on their way included."""
    missed: int | None = None
    """Known to be lost since the test began, without those on their way: a later number of the
    same device has arrived. Judged in place of `lost` where it is known."""
    latency_ms: dict[str, Tail] = {}
    """By stage, of this second."""
    lateness_p99_ms: float = 0.0
    generator_cpu: float = 0.0
    """Of a core, of the busiest shard; and of the busiest subscriber."""
    subscriber_cpu: float = 0.0
    disconnects: int = 0
    """Connections lost since the test began."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a load must keep to be held."""

    latency_ms: dict[str, float] = msgspec.field(default_factory=lambda: {"ack": ACK_MS})
    """The highest p99, by stage."""
    lost_share: float = 0.0
    rate_share: float = 0.97
    """Of the wanted rate, what must be sent, acknowledged and received."""
    emergency: float = 5.0
    """Breaking a latency bound so many times over ends a step at once."""
    transit_s: float = 2.0
    """What was acknowledged within this time may be on its way, where losses are not known."""


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """How the limit is looked for."""

    step: float = 0.25
    """Each step of the climb is higher by this share."""
    settle_s: float = 5.0
    judged_s: float = 10.0
    resolution: float = 0.05
    """How far apart the highest rate held and the lowest broken may be in the end."""
    recover_s: float = 15.0
    """How long a backlog may fail to shrink by a tenth before the load is halved again."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One rate that was tried, and the means of its judged seconds; medians of tails."""

    factor: float
    wanted: float
    from_s: float
    held_s: float
    sent: float
    acked: float | None
    received: float | None
    waiting: float
    lost: int | None
    latency_ms: dict[str, Tail]
    lateness_p99_ms: float
    generator_cpu: float
    subscriber_cpu: float
    disconnects: int
    broken: tuple[str, ...] = ()
    """Which bounds were broken, in words; none: the load was held."""
    emergency: bool = False
    culprit: Culprit | None = None
    """Who gave out, if anything did."""


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """What the search found."""

    rate: float | None
    """The highest rate held [messages/s]; None: not even the lowest."""
    factor: float | None
    at_least: bool
    """Whether the system may hold more: the generator or a subscriber gave out first, or the
    search was ended before anything did."""
    broken_rate: float | None
    """The lowest rate that broke a bound, and which."""
    broken_by: tuple[str, ...]
    bottleneck: Culprit | None
    ended: str
    """Why the search ended."""
    bounds: Bounds
    search: Search
    steps: tuple[Step, ...]

    def figures(self) -> dict[str, Any]:
        """The finding as plain data, with its sentence, for a report."""
        told: dict[str, Any] = msgspec.to_builtins(self)
        return {"sentence": self.sentence(), **told}

    def sentence(self) -> str:
        """The finding for people."""
        held = "no rate was held" if self.rate is None else f"{self.rate:,.0f} messages/s were held"
        if self.rate is not None and self.at_least:
            held = f"at least {held}"
        if self.broken_rate is None:
            return f"{held}; nothing was broken ({self.ended})"
        broken = f"{self.broken_rate:,.0f}/s broke the bounds: {', '.join(self.broken_by)}"
        return f"{held}; {broken}; {_BLAME[self.bottleneck or 'system']} ({self.ended})"


_BLAME: Final[dict[Culprit, str]] = {
    "system": "the system under test gave out",
    "generator": "the generator gave out first, so the system may hold more: give it more "
    "processes or machines",
    "subscriber": "the subscriber gave out first, so the system may hold more: give it more "
    "subscribers",
}


class Knee:
    """The search, fed once a second."""

    def __init__(self, bounds: Bounds | None = None, search: Search | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._search = search or Search()
        self._steps: list[Step] = []
        self._seconds: list[Second] = []
        self._since: Second | None = None
        self._base: Second | None = None
        self._acked_since_base = 0.0
        self._recovering = False
        self._calm_since_s: float | None = None
        self._least_waiting = inf
        self._better_at_s = 0.0
        self._ended = ""
        self.factor = 1.0
        """What is ordered now; the test begins with 1."""

    @property
    def finished(self) -> bool:
        """Whether the search is over."""
        return bool(self._ended)

    @property
    def state(self) -> str:
        """What is going on, for a live view."""
        if self._ended:
            return self.result().sentence()
        doing = "recovering at" if self._recovering else f"step {len(self._steps) + 1}:"
        return f"looking for the limit, {doing} {self.factor:.3g} times the rate"

    def feed(self, second: Second) -> float | None:
        """Judge a second; the factor to order now, or None to go on.

        Seconds in which the last order is not in force yet are passed over while it settles. A
        pause is not judged; what was under way begins anew after it.
        """
        if self._ended:
            return None
        if second.factor == 0:
            return self._order(self.factor)
        self._acked_since_base += second.sent if second.acked is None else second.acked
        if self._since is None:
            self._since = second
        if self._base is None:
            self._rebase(second)
        settling = second.at_s < self._since.at_s + self._search.settle_s
        if settling and abs(second.factor - self.factor) > self.factor / 1_000:
            return None
        return self._recover(second) if self._recovering else self._hold(second)

    def result(self, ended: str = "ended before the search was over") -> Limit:
        """What was found so far; `ended` says why, if the search itself did not end."""
        held, broken = self._held(), self._broken()
        culprit = None if broken is None else broken.culprit
        return Limit(
            rate=None if held is None else held.wanted,
            factor=None if held is None else held.factor,
            at_least=culprit != "system" or not self._ended,
            broken_rate=None if broken is None else broken.wanted,
            broken_by=() if broken is None else broken.broken,
            bottleneck=culprit,
            ended=self._ended or ended,
            bounds=self._bounds,
            search=self._search,
            steps=tuple(self._steps),
        )

    def _hold(self, second: Second) -> float | None:
        """A second of a step."""
        self._seconds.append(second)
        emergency = self._emergency(second)
        if emergency:
            return self._end_step(emergency, emergency=True)
        if second.at_s < self._began_s + self._search.settle_s + self._search.judged_s:
            return None
        return self._end_step(self._verdict(), emergency=False)

    def _end_step(self, broken: tuple[str, ...], *, emergency: bool) -> float | None:
        judged = self._judged()
        step = _step(judged, from_s=self._began_s, broken=broken, emergency=emergency)
        step = msgspec.structs.replace(step, factor=self.factor, lost=self._lost(judged[-1]))
        self._steps.append(step)
        if not broken:
            return self._go_on()
        held = self._held()
        if held is not None:
            return self._back_off(held.factor * _BACK_OFF)
        taken = step.sent if step.acked is None else step.acked
        able = min(1.0, taken / step.wanted) if step.wanted else 1.0
        return self._back_off(self.factor * max(able / 2, _LEAST))

    def _back_off(self, factor: float) -> float | None:
        self._recovering = True
        self._calm_since_s = None
        self._least_waiting = inf
        return self._order(factor)

    def _recover(self, second: Second) -> float | None:
        """A second below what is held, until the system has been calm for a while."""
        if self._calm(second):
            self._calm_since_s = second.at_s if self._calm_since_s is None else self._calm_since_s
            if second.at_s - self._calm_since_s >= self._search.settle_s:
                self._recovering = False
                self._rebase(second)
                return self._go_on()
            return None
        self._calm_since_s = None
        if second.waiting < _PROGRESS * self._least_waiting:
            self._least_waiting, self._better_at_s = second.waiting, second.at_s
        if second.at_s - self._better_at_s < self._search.recover_s:
            return None
        held = self._held()
        if self.factor / 2 < _LEAST * (1.0 if held is None else held.factor):
            self._ended = "the system did not recover"
            return None
        return self._back_off(self.factor / 2)

    def _go_on(self) -> float | None:
        """The next step, or the end of the search."""
        held, broken = self._held(), self._broken()
        if len(self._steps) >= _STEPS_MAX:
            self._ended = f"{_STEPS_MAX} steps were tried"
        elif held is None and self.factor < _LEAST:
            self._ended = f"not even 1/{1 / _LEAST:.0f} of the first rate was held"
        elif held is None:
            return self._order(self.factor)
        elif broken is None:
            return self._order(held.factor * (1 + self._search.step))
        elif broken.factor / held.factor - 1 > self._search.resolution:
            middle = (held.factor + broken.factor) / 2
            return self._order(min(middle, held.factor * (1 + self._search.step)))
        else:
            self._ended = f"found to within {self._search.resolution:.0%}"
        return None

    def _order(self, factor: float) -> float | None:
        """Begin anew at a factor; the first second that is fed then is its first."""
        self._seconds.clear()
        self._since = None
        before, self.factor = self.factor, factor
        return None if factor == before else factor

    @property
    def _began_s(self) -> float:
        return 0.0 if self._since is None else self._since.at_s

    def _held(self) -> Step | None:
        """The highest step held below the lowest broken."""
        broken = self._broken()
        held = [step for step in self._steps if not step.broken]
        if broken is not None:
            held = [step for step in held if step.factor < broken.factor]
        return max(held, key=lambda step: step.factor, default=None)

    def _broken(self) -> Step | None:
        broken = [step for step in self._steps if step.broken]
        return min(broken, key=lambda step: step.factor, default=None)

    def _judged(self) -> list[Second]:
        """The seconds after settling; all of a step that did not come so far."""
        from_s = self._began_s + self._search.settle_s
        return [one for one in self._seconds if one.at_s >= from_s] or self._seconds

    def _rebase(self, second: Second) -> None:
        """From now on count losses anew."""
        self._base = second
        self._acked_since_base = 0.0

    def _lost(self, second: Second) -> int | None:
        """Messages lost since the base; those that may be on their way are not."""
        base = self._base
        if base is None:
            return None
        if second.missed is not None and base.missed is not None:
            return max(0, second.missed - base.missed)
        if second.lost is None or base.lost is None:
            return None
        rate = second.sent if second.acked is None else second.acked
        return max(0, round(second.lost - base.lost - rate * self._bounds.transit_s))

    def _loss(self, second: Second) -> tuple[str, ...]:
        lost = self._lost(second) or 0
        if lost > self._bounds.lost_share * self._acked_since_base:
            return (f"{lost:,} messages lost",)
        return ()

    def _emergency(self, second: Second) -> tuple[str, ...]:
        """What a single second breaks by far."""
        return (*self._tails([second], self._bounds.emergency), *self._loss(second))

    def _verdict(self) -> tuple[str, ...]:
        """What the judged seconds of a step break together."""
        judged = self._judged()
        rates = [
            *self._rate("sent", [one.sent for one in judged], judged),
            *self._rate("acknowledged", [one.acked for one in judged], judged),
            *self._rate("received", [one.received for one in judged], judged),
        ]
        return (*self._tails(judged, 1.0), *rates, *self._backlog(judged))

    def _tails(self, seconds: Sequence[Second], times: float) -> tuple[str, ...]:
        """Latencies above their bounds so many times over.

        The middle one of the seconds counts, so that one hiccup of a machine does not end a search.
        """
        broken = []
        for stage, bound_ms in self._bounds.latency_ms.items():
            taken = [one.latency_ms[stage].p99 for one in seconds if stage in one.latency_ms]
            if taken and median(taken) > times * bound_ms:
                broken.append(f"{stage} p99 {median(taken):,.0f} ms > {bound_ms:,.0f} ms")
        return tuple(broken)

    def _rate(
        self, what: str, rates: Sequence[float | None], seconds: Sequence[Second]
    ) -> tuple[str, ...]:
        known = [rate for rate in rates if rate is not None]
        wanted = fmean(one.wanted for one in seconds)
        if not known or fmean(known) >= self._bounds.rate_share * wanted:
            return ()
        return (f"{what} {fmean(known):,.0f}/s < {self._bounds.rate_share:.0%} of the wanted rate",)

    def _backlog(self, seconds: Sequence[Second]) -> tuple[str, ...]:
        """Whether ever more waits: between the halves of the step by more than may be missing."""
        half = len(seconds) // 2
        if not half:
            return ()
        first, last = seconds[:half], seconds[-half:]
        took_s = fmean(one.at_s for one in last) - fmean(one.at_s for one in first)
        grown = fmean(one.waiting for one in last) - fmean(one.waiting for one in first)
        allowed = 1 - self._bounds.rate_share
        if grown <= allowed * fmean(one.wanted for one in seconds) * took_s:
            return ()
        return (f"the backlog grew by {grown / took_s:,.0f}/s",)

    def _calm(self, second: Second) -> bool:
        share = self._bounds.rate_share
        flows = [rate for rate in (second.acked, second.received) if rate is not None]
        slow = any(rate < share * second.wanted for rate in flows)
        return not slow and not self._piled(second) and not self._tails([second], 1.0)

    def _piled(self, second: Second) -> bool:
        """Whether clearly more waits than at the highest rate held: a backlog is being worked off."""
        held = self._held()
        usual = inf if held is None else held.waiting
        return second.waiting > 1.2 * usual + 0.01 * second.wanted


def bounds_of(texts: Iterable[str]) -> Bounds:
    """Bounds as the command line says them: `ack=500ms`, `subscriber=2s`, `lost=0.1%`.

    A bare duration is for the acknowledgement, which has its default bound where no latency is
    given.

    Raises:
        SettingError: A bound is none; the text says what is allowed.
    """
    latency_ms: dict[str, float] = {}
    lost_share = 0.0
    for text in texts:
        name, _, value = text.rpartition("=")
        name = name.strip() or "ack"
        if name == "lost":
            lost_share = _share(value)
        elif name in BOUNDED:
            latency_ms[name] = 1_000 * seconds_in(value, "bound")
        else:
            hint = suggestion(name, (*BOUNDED, "lost"))
            raise SettingError(f"bound: {name!r} cannot be bound; {hint}, e.g. ack=500ms lost=0.1%")
    return Bounds(latency_ms=latency_ms or {"ack": ACK_MS}, lost_share=lost_share)


def _share(text: str) -> float:
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise SettingError(f"bound: lost={text} is no share; give e.g. lost=0.1% or lost=0.001")
    return share


def _step(
    seconds: Sequence[Second], *, from_s: float, broken: tuple[str, ...], emergency: bool
) -> Step:
    """What these seconds of one step were together."""
    last = seconds[-1]
    made = Step(
        factor=last.factor, wanted=fmean(one.wanted for one in seconds), from_s=from_s,
        held_s=last.at_s - from_s, sent=fmean(one.sent for one in seconds),
        acked=_mean([one.acked for one in seconds]),
        received=_mean([one.received for one in seconds]),
        waiting=fmean(one.waiting for one in seconds), lost=last.lost,
        latency_ms=_tails_of(seconds),
        lateness_p99_ms=median(one.lateness_p99_ms for one in seconds),
        generator_cpu=fmean(one.generator_cpu for one in seconds),
        subscriber_cpu=fmean(one.subscriber_cpu for one in seconds),
        disconnects=last.disconnects - seconds[0].disconnects, broken=broken, emergency=emergency,
    )  # fmt: skip
    return msgspec.structs.replace(made, culprit=_culprit(made)) if broken else made


def _culprit(step: Step) -> Culprit:
    """Who gave out in a broken step; only who measures itself can be ruled out."""
    if step.lateness_p99_ms > LATE_P99_MS or step.generator_cpu > BUSY:
        return "generator"
    return "subscriber" if step.subscriber_cpu > BUSY else "system"


def _mean(rates: Sequence[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return fmean(known) if known else None


def _tails_of(seconds: Sequence[Second]) -> dict[str, Tail]:
    """The middle tails of each stage."""
    found: dict[str, list[Tail]] = {}
    for second in seconds:
        for stage, tail in second.latency_ms.items():
            found.setdefault(stage, []).append(tail)
    return {
        stage: Tail(median(tail.p50 for tail in tails), median(tail.p99 for tail in tails))
        for stage, tails in found.items()
    }
