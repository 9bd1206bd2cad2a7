"""The search for the limit, against simulated systems whose limit is known."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from city.errors import SettingError
from load.knee import Bounds, Knee, Limit, Search, Second, Tail, bounds_of

RATE = 1_000.0
"""The rate of the simulated tests at factor 1."""
SEARCH = Search(settle_s=3.0, judged_s=6.0, recover_s=8.0)
STEP_S = SEARCH.settle_s + SEARCH.judged_s


@dataclass
class System:
    """A queue that is served at a capacity, and a generator in front of it; one second per turn."""

    capacity: float
    noise: float = 0.0
    drops: bool = False
    """What is above the capacity is acknowledged, and never arrives."""
    gaps_known: bool = False
    cliff: float = 1.0
    """The share of the capacity that is left once the queue is longer than half a second."""
    generator: float = float("inf")
    """What the generator can send per second."""
    answer_ms: float = 5.0
    late_orders: int = 1
    """So many seconds pass until an order is in force."""
    queue: float = 0.0
    unsent: float = 0.0
    lost: float = 0.0
    at_s: float = 0.0
    collapsed: bool = False
    lots: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def second(self, factor: float) -> Second:
        """What happens in a second at this factor."""
        self.at_s += 1.0
        wanted = factor * RATE
        sent = min(self.unsent + wanted, self.generator)
        self.unsent += wanted - sent
        able = self._noisy(self.capacity * (self.cliff if self.collapsed else 1.0))
        taken, delay_ms = self._dropping(sent, able) if self.drops else self._queueing(sent, able)
        late_ms = 1_000 * self.unsent / min(self.generator, 1e9) + 1.0
        return Second(
            at_s=self.at_s, factor=factor, wanted=wanted, sent=sent, acked=taken,
            received=sent if not self.drops else min(sent, able),
            waiting=round(self.queue + self.unsent), lost=round(self.lost),
            missed=round(self.lost) if self.gaps_known else None,
            latency_ms={"ack": Tail(delay_ms / 2, delay_ms + late_ms)}, lateness_p99_ms=late_ms,
            generator_cpu=min(1.0, sent / self.generator),
        )  # fmt: skip

    def _queueing(self, sent: float, able: float) -> tuple[float, float]:
        taken = min(self.queue + sent, able)
        self.queue += sent - taken
        delay_ms = 1_000 * self.queue / able + self._noisy(self.answer_ms)
        if self.cliff < 1:
            self.collapsed = self.queue > (1.0 if self.collapsed else able / 2)
        return taken, delay_ms

    def _dropping(self, sent: float, able: float) -> tuple[float, float]:
        self.lost += max(0.0, sent - able)
        return sent, self._noisy(self.answer_ms)

    def _noisy(self, value: float) -> float:
        return value * (1 + self.noise * self.lots.uniform(-1, 1))


@dataclass
class Run:
    """A search that is over: what it found, and the factor of each second."""

    limit: Limit
    factors: list[float]
    knee: Knee


def searched(system: System, *, bounds: Bounds | None = None, seconds: int = 5_000) -> Run:
    """Search for the limit of a system; orders are in force some seconds after they are given."""
    knee = Knee(bounds, SEARCH)
    factors = [1.0]
    coming = [1.0] * system.late_orders
    while not knee.finished and len(factors) < seconds:
        coming.append(knee.factor)
        factors.append(coming.pop(0))
        knee.feed(system.second(factors[-1]))
    return Run(knee.result(), factors, knee)


def longest_above(factors: list[float], capacity: float) -> int:
    """For how many seconds on end more than the capacity was asked."""
    longest = lasting = 0
    for factor in factors:
        lasting = lasting + 1 if factor * RATE > capacity * 1.05 else 0
        longest = max(longest, lasting)
    return longest


def quiet(**changes: Any) -> Second:
    """A second in which all went well."""
    fine = Second(at_s=0.0, factor=1.0, wanted=RATE, sent=RATE, acked=RATE)
    return msgspec.structs.replace(fine, **changes)


capacities = st.floats(50.0, 200_000.0)


@settings(max_examples=50, deadline=None)
@given(capacities)
def test_finds(capacity: float) -> None:
    """The rate found is the capacity of the system, within the resolution."""
    found = searched(System(capacity)).limit

    assert found.rate is not None
    assert found.broken_rate is not None
    assert capacity * 0.92 <= found.rate <= capacity * 1.04
    assert found.broken_rate <= found.rate * 1.0501
    assert ("system", False) == (found.bottleneck, found.at_least)


@settings(max_examples=50, deadline=None)
@given(capacities, st.floats(0.0, 0.1), st.integers(0, 1_000), st.integers(0, 2))
def test_noise(capacity: float, noise: float, seed: int, late_orders: int) -> None:
    """A capacity that varies by up to a tenth is found within that and the resolution."""
    system = System(capacity, noise, lots=np.random.default_rng(seed), late_orders=late_orders)
    found = searched(system).limit

    assert found.rate is not None
    assert capacity * (0.92 - noise) <= found.rate <= capacity * (1.04 + noise)


@settings(max_examples=50, deadline=None)
@given(capacities, st.floats(0.2, 1.0))
def test_never_long(capacity: float, cliff: float) -> None:
    """More than the system can take is never asked for longer than a step."""
    run = searched(System(capacity, cliff=cliff))

    assert run.knee.finished
    assert longest_above(run.factors, capacity) <= STEP_S + 3


@settings(max_examples=50, deadline=None)
@given(st.floats(2_000.0, 50_000.0), st.floats(0.35, 0.9))
def test_cliff(capacity: float, cliff: float) -> None:
    """A system that collapses when it is overloaded is let recover, and its limit found."""
    found = searched(System(capacity, cliff=cliff)).limit

    assert found.rate is not None
    assert capacity * 0.9 <= found.rate <= capacity * 1.04


@settings(max_examples=30, deadline=None)
@given(capacities)
def test_drops_silently(capacity: float) -> None:
    """A system that acknowledges and drops is found out by what is received."""
    found = searched(System(capacity, drops=True)).limit

    assert found.rate is not None
    assert capacity * 0.92 <= found.rate <= capacity * 1.04


@settings(max_examples=30, deadline=None)
@given(capacities)
def test_gaps(capacity: float) -> None:
    """Where lost messages are known, the highest rate held is one at which none was lost."""
    found = searched(System(capacity, drops=True, gaps_known=True)).limit

    assert found.rate is not None
    assert capacity * 0.92 <= found.rate <= capacity + 0.1  # a message in the ten seconds of a step
    assert "messages lost" in found.broken_by[0]


def test_gaps_end_at_once() -> None:
    """A loss that is known ends the step in its second."""
    run = searched(System(1_700.0, drops=True, gaps_known=True))
    broken = [step for step in run.limit.steps if step.broken]

    assert all(step.emergency for step in broken)
    assert longest_above(run.factors, 1_700.0) <= 3


@settings(max_examples=30, deadline=None)
@given(st.floats(1_500.0, 50_000.0))
def test_generator(able: float) -> None:
    """Where the generator gives out first, what it reached is said to be a lower bound."""
    found = searched(System(1e9, generator=able)).limit

    assert found.rate is not None
    assert found.rate <= able * 1.04
    assert ("generator", True) == (found.bottleneck, found.at_least)
    assert found.sentence().startswith("at least ")


def test_subscriber() -> None:
    """A subscriber that is busy all the time makes the limit a lower bound, too."""
    knee = Knee(search=SEARCH)
    for at_s in range(30):
        knee.feed(quiet(at_s=at_s, factor=knee.factor, received=500.0, subscriber_cpu=0.99))

    assert ("subscriber", True) == (knee.result().bottleneck, knee.result().at_least)


def test_holds_nothing() -> None:
    """A system that does not answer is given up, soon and at ever lower rates."""
    run = searched(System(0.001))

    assert run.limit.rate is None
    assert run.limit.sentence().startswith("no rate was held; ")
    assert sorted(run.factors, reverse=True) == run.factors
    assert len(run.factors) < 300


def test_begins_above() -> None:
    """A limit below the first rate is found, too."""
    found = searched(System(130.0)).limit

    assert found.rate == pytest.approx(130.0, rel=0.08)


def test_climb() -> None:
    """The load rises by a quarter from step to step, each held as long as was said."""
    run = searched(System(2_100.0))
    climbed = [step.factor for step in run.limit.steps[:4]]
    lengths = [step.held_s for step in run.limit.steps[:3]]

    assert [1.25**number for number in range(4)] == pytest.approx(climbed)
    assert [STEP_S] * 3 == lengths


def test_backs_off_at_once() -> None:
    """A latency five times its bound ends a step in the same second, below what was held."""
    knee = Knee(search=SEARCH)
    at_s = 0.0
    while knee.factor == 1.0:
        knee.feed(quiet(at_s=at_s))
        at_s += 1.0
    ordered = knee.feed(quiet(at_s=at_s, factor=1.25, latency_ms={"ack": Tail(100.0, 5_001.0)}))

    assert 0.9 == ordered
    assert knee.result().steps[-1].emergency


def test_hiccup() -> None:
    """One slow second in a step, short of an emergency, breaks nothing."""
    knee = Knee(search=SEARCH)
    orders = [
        knee.feed(quiet(at_s=at_s, latency_ms={"ack": Tail(5.0, 3_000.0 if at_s == 6 else 9.0)}))
        for at_s in range(10)
    ]

    assert [None] * 9 + [1.25] == orders


def test_slow() -> None:
    """A step whose latency is above the bound all along is broken at its end."""
    knee = Knee(search=SEARCH)
    slow = {"ack": Tail(5.0, 1_200.0)}
    orders = [knee.feed(quiet(at_s=at_s, latency_ms=slow)) for at_s in range(10)]

    assert [None] * 9 + [0.5] == orders
    assert ("ack p99 1,200 ms > 1,000 ms",) == knee.result().steps[0].broken


def test_backlog() -> None:
    """A backlog that grows through a step breaks it, though the rates look well."""
    knee = Knee(search=SEARCH)
    for at_s in range(10):
        knee.feed(quiet(at_s=at_s, waiting=200 * at_s))

    assert ("the backlog grew by 200/s",) == knee.result().steps[0].broken


def test_settling() -> None:
    """What happens before an order is in force is not held against the new rate."""
    knee = Knee(search=SEARCH)
    for at_s in range(10):
        knee.feed(quiet(at_s=at_s))
    old = quiet(at_s=10.0, factor=1.0, latency_ms={"ack": Tail(5.0, 60_000.0)})

    assert knee.feed(old) is None
    assert 1 == len(knee.result().steps)


def test_pause() -> None:
    """A pause is not judged, and the step begins anew after it."""
    knee = Knee(search=SEARCH)
    resting = range(5, 30)
    orders = {
        at_s: knee.feed(quiet(at_s=at_s, factor=0.0 if at_s in resting else 1.0))
        for at_s in range(40)
    }

    assert {39: 1.25} == {at_s: order for at_s, order in orders.items() if order is not None}


def test_no_acknowledgements() -> None:
    """At QoS 0 nothing is acknowledged, and nothing is made of that."""
    knee = Knee(search=SEARCH)
    orders = [knee.feed(quiet(at_s=at_s, acked=None)) for at_s in range(10)]

    assert 1.25 == orders[-1]


def test_on_its_way() -> None:
    """What was acknowledged a moment ago and has not arrived yet is no loss."""
    knee = Knee(search=SEARCH)
    orders = [knee.feed(quiet(at_s=at_s, lost=300 * (at_s % 4))) for at_s in range(10)]

    assert 1.25 == orders[-1]


def test_never_recovers() -> None:
    """A system that never becomes calm again ends the search, at ever lower loads."""
    knee = Knee(search=SEARCH)
    asked = []
    for at_s in range(500):
        slow = {"ack": Tail(5.0, 60_000.0 if at_s > 10 else 5.0)}
        asked.append(knee.factor)
        knee.feed(quiet(at_s=at_s, factor=knee.factor, latency_ms=slow))

    assert knee.finished
    assert "did not recover" in knee.result().sentence()
    assert min(asked) < 0.1


def test_ended_early() -> None:
    """A search that is ended early says what was held so far, as a lower bound."""
    knee = Knee(search=SEARCH)
    for at_s in range(10):
        knee.feed(quiet(at_s=at_s))

    assert ("at least 1,000 messages/s were held; nothing was broken (Ctrl-C)") == knee.result(
        "Ctrl-C"
    ).sentence()


def test_silent_after_the_end() -> None:
    """Once the search is over, nothing more is ordered."""
    run = searched(System(1_500.0))

    assert run.knee.finished
    assert run.knee.feed(quiet(at_s=1e6)) is None
    assert run.knee.state == run.limit.sentence()


def test_json() -> None:
    """What was found goes through JSON unchanged."""
    found = searched(System(1_500.0)).limit

    assert found == msgspec.json.decode(msgspec.json.encode(found), type=Limit)


def test_figures() -> None:
    """As plain data the finding has its sentence beside its figures."""
    found = searched(System(1_500.0)).limit

    assert (found.sentence(), found.rate) == (found.figures()["sentence"], found.figures()["rate"])


def test_disconnects() -> None:
    """A step tells how many connections were lost while it was judged."""
    knee = Knee(search=SEARCH)
    for at_s in range(10):
        knee.feed(quiet(at_s=at_s, disconnects=100 + at_s))

    assert 6 == knee.result().steps[0].disconnects


def test_bounds() -> None:
    """Bounds are said by stage; a bare duration is for the acknowledgement."""
    said = bounds_of(["500ms", "subscriber=2s", "lost=0.1%"])

    assert {"ack": 500.0, "subscriber": 2_000.0} == said.latency_ms
    assert 0.001 == said.lost_share


def test_default_bounds() -> None:
    """Without other latencies the acknowledgement has its bound, and nothing may be lost."""
    assert {"ack": 1_000.0} == bounds_of(["lost=0"]).latency_ms
    assert Bounds() == bounds_of([])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("akc=1s", r"'akc' cannot be bound; did you mean 'ack'\? allowed: ack, alarm, lost"),
        ("ack=soon", "'soon' is not a duration"),
        ("", "'' is not a duration"),
        ("lost=much", "lost=much is no share"),
        ("lost=-1%", "lost=-1% is no share"),
        ("lost=nan", "lost=nan is no share"),
        ("lost=100%", "lost=100% is no share"),
    ],
)
def test_wrong_bounds(text: str, said: str) -> None:
    """A bound that is none is named, with what is allowed."""
    with pytest.raises(SettingError, match=said):
        bounds_of([text])
