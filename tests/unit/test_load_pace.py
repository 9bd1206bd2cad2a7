"""The city's time by the wall's, whatever the phases and whatever is ordered."""

from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.choice import BrokerAddress
from load.pace import NEVER_MS, Pace
from load.plan import LoadPlan, Order, Phase

START_MS = 1_795_413_600_000
CITY_MS = 1_700_000_000_000

paces = st.one_of(st.just(0.0), st.floats(0.01, 20.0))
lengths_s = st.integers(1, 20_000).map(lambda tenths: tenths / 10)
phases = st.builds(
    Phase,
    name=st.just("phase"),
    for_s=lengths_s,
    pace=paces,
    to_pace=st.one_of(st.none(), paces),
)
orders = st.builds(
    Order,
    at_ms=st.integers(-10_000, 4_000_000).map(lambda since_ms: START_MS + since_ms),
    factor=paces,
)
courses = st.lists(phases, max_size=5)
many_orders = st.lists(orders, max_size=8)
instants = st.lists(st.integers(0, 5_000_000), min_size=1, max_size=20).map(
    lambda found: [START_MS + since_ms for since_ms in sorted(found)]
)


def pace(*parts: Phase, ramp_s: float = 10.0, ordered: Any = ()) -> Pace:
    """The pace of a test of these phases, as ordered."""
    plan = LoadPlan(
        run="test", broker=BrokerAddress("127.0.0.1", 1883), devices=10, interval_s=1.0,
        ramp_s=ramp_s, phases=parts, kinds=("air-station",), seed=1, city_start_ms=CITY_MS,
    )  # fmt: skip
    made = Pace(plan, START_MS)
    made.follow(ordered)
    return made


def wall(of: Pace, *city_ms: int) -> list[float]:
    """When the city's clock shows these instants after its beginning, after the test's."""
    shown = of.wall_ms(np.array([CITY_MS + one for one in city_ms], dtype=np.int64))
    return [one - START_MS for one in shown.tolist()]


def city(of: Pace, *wall_ms: int) -> list[float]:
    """What the city's clock shows at these instants after the beginning, after its own."""
    return [of.city_ms(START_MS + one) - CITY_MS for one in wall_ms]


def test_steady() -> None:
    """Without phases or orders the city's clock runs as the wall's does."""
    assert [0, 500, 90_000] == city(pace(), 0, 500, 90_000)


def test_before() -> None:
    """Before the test begins the city's clock stands."""
    assert [0.0] == city(pace(), -5_000)
    assert [0.0] == wall(pace(), -5_000)


def test_twice() -> None:
    """At pace 2 the city's clock shows two seconds for one."""
    assert [10_000, 12_000] == city(pace(Phase(name="fast", for_s=5, pace=2)), 10_000, 11_000)


def test_slope() -> None:
    """A pace that rises straight from 0 to 2 has shown the whole time at its end, half of it late."""
    rising = pace(Phase(name="rising", for_s=10, pace=0, to_pace=2), ramp_s=0.0)

    assert [0, 2_500, 10_000] == city(rising, 0, 5_000, 10_000)
    assert 1.0 == pytest.approx(rising.pace_at(START_MS + 5_000))
    assert [0.0, 5_000.0, 10_000.0] == pytest.approx(wall(rising, 0, 2_500, 10_000))


def test_after_the_end() -> None:
    """After the last phase the city's clock goes on at the pace that it had at the end."""
    ended = pace(Phase(name="rising", for_s=10, pace=0, to_pace=2), ramp_s=0.0)

    assert START_MS + 10_000 == ended.end_ms
    assert [14_000] == city(ended, 12_000)


def test_factor() -> None:
    """A factor multiplies the pace of the phase from its instant on, through later phases too."""
    followed = pace(
        Phase(name="one", for_s=10, pace=1),
        Phase(name="two", for_s=10, pace=3),
        ramp_s=0.0,
        ordered=[Order(at_ms=START_MS + 5_000, factor=2.0)],
    )

    assert [5_000, 15_000, 21_000] == city(followed, 5_000, 10_000, 11_000)


def test_pause() -> None:
    """While a factor is 0 the city's clock stands, and goes on where it stood."""
    paused = [Order(at_ms=START_MS + 1_000, factor=0.0), Order(at_ms=START_MS + 9_000, factor=1.0)]

    assert [1_000, 1_000, 1_000, 1_500] == city(pace(ordered=paused), 1_000, 5_000, 9_000, 9_500)


def test_due_at_the_pause() -> None:
    """What is due at the instant of a pause is due when it begins, whether its end is known or not."""
    begun = [Order(at_ms=START_MS + 1_000, factor=0.0)]
    ended = [*begun, Order(at_ms=START_MS + 9_000, factor=1.0)]

    assert [1_000.0] == wall(pace(ordered=begun), 1_000)
    assert [1_000.0, 9_001.0] == wall(pace(ordered=ended), 1_000, 1_001)


def test_never() -> None:
    """What lies behind a pause without an end is never due."""
    begun = pace(ordered=[Order(at_ms=START_MS + 1_000, factor=0.0)])

    assert [NEVER_MS] == begun.wall_ms(np.array([CITY_MS + 1_001])).tolist()
    assert NEVER_MS == np.rint(NEVER_MS).astype(np.int64)


def test_lowest_holds() -> None:
    """Of two factors for the same instant the lower one holds."""
    both = [Order(at_ms=START_MS, factor=one) for one in (3.0, 0.5, 2.0)]

    assert 0.5 == pace(ordered=both).pace_at(START_MS + 1)


def test_ordered_before() -> None:
    """Of what was ordered before the beginning the last holds."""
    early = [Order(at_ms=START_MS - 9_000, factor=0.0), Order(at_ms=START_MS - 5_000, factor=2.0)]

    assert [0.0, 2_000.0] == city(pace(ordered=early), -1_000, 1_000)


def test_turns() -> None:
    """The turns are the end of the ramp, those of the phases, and the end; a stop is the last."""
    run = pace(Phase(name="one", for_s=2.0), Phase(name="two", for_s=3.0))
    turns_ms = [run.turn_after(START_MS + at_ms) - START_MS for at_ms in (-5_000, 9_999, 10_000)]
    assert [10_000, 10_000, 12_000] == turns_ms
    assert inf == run.turn_after(START_MS + 15_000)

    run.follow([Order(at_ms=START_MS + 11_000, stop=True)])
    assert START_MS + 11_000 == run.turn_after(START_MS + 10_500)
    assert inf == run.turn_after(START_MS + 11_000)


def test_stop() -> None:
    """The first stop ends the test, and none makes it longer."""
    stops = [Order(at_ms=START_MS + at_ms, stop=True) for at_ms in (7_000, 5_000, 90_000)]

    assert START_MS + 5_000 == pace(ordered=stops).end_ms
    assert START_MS + 10_000 == pace(ordered=stops[2:]).end_ms


@settings(deadline=None)
@given(courses, many_orders, instants)
def test_monotone(parts: list[Phase], ordered: list[Order], at_ms: list[int]) -> None:
    """The city's clock never goes back, and no pace is negative."""
    made = pace(*parts, ordered=ordered)
    shown = [made.city_ms(one) for one in at_ms]

    assert sorted(shown) == shown
    assert all(made.pace_at(one) >= 0 for one in at_ms)


@settings(deadline=None)
@given(courses, many_orders, instants)
def test_due_in_order(parts: list[Phase], ordered: list[Order], city_ms: list[int]) -> None:
    """What is measured later is due later, and nothing before the test begins."""
    due = wall(pace(*parts, ordered=ordered), *[one - START_MS for one in city_ms])

    assert sorted(due) == due
    assert due[0] >= 0


@settings(deadline=None)
@given(courses, many_orders, instants)
def test_inverse(parts: list[Phase], ordered: list[Order], city_ms: list[int]) -> None:
    """At the instant at which something is due the city's clock shows its instant."""
    made = pace(*parts, ordered=ordered)
    since = [one - START_MS for one in city_ms]
    due = wall(made, *since)
    shown = [made.city_ms(START_MS + at) - CITY_MS for at in due if at < NEVER_MS - START_MS]

    assert since[: len(shown)] == pytest.approx(shown, abs=0.05)


@settings(deadline=None)
@given(courses, many_orders, instants)
def test_first(parts: list[Phase], ordered: list[Order], at_ms: list[int]) -> None:
    """What the city's clock shows at an instant was due by then."""
    made = pace(*parts, ordered=ordered)
    shown = [int(made.city_ms(one)) for one in at_ms]
    due = made.wall_ms(np.array(shown, dtype=np.int64))

    assert all(when <= one + 0.05 for when, one in zip(due.tolist(), at_ms, strict=True))


@settings(deadline=None)
@given(courses, many_orders, instants, st.randoms())
def test_any_order(parts: list[Phase], ordered: list[Order], at_ms: list[int], lots: Any) -> None:
    """Orders that come one by one, mixed up and twice, bend to the same bit as all at once."""
    once = pace(*parts, ordered=ordered)
    again = pace(*parts)
    mixed = ordered + ordered
    lots.shuffle(mixed)
    for order in mixed:
        again.follow([order])

    assert [once.city_ms(one) for one in at_ms] == [again.city_ms(one) for one in at_ms]
    wanted = np.array([one - START_MS + CITY_MS for one in at_ms], dtype=np.int64)
    assert once.wall_ms(wanted).tolist() == again.wall_ms(wanted).tolist()


@settings(deadline=None)
@given(courses, many_orders, orders, instants)
def test_past(parts: list[Phase], ordered: list[Order], late: Order, city_ms: list[int]) -> None:
    """An order leaves the stamp of everything that was due before its instant as it was."""
    made = pace(*parts, ordered=ordered)
    wanted = np.array([one - START_MS + CITY_MS for one in city_ms], dtype=np.int64)
    before = made.wall_ms(wanted)
    made.follow([late])
    past = before < late.at_ms - 0.001
    after = made.wall_ms(wanted)

    assert np.array_equal(np.rint(before[past]), np.rint(after[past]))
    assert np.all(after[~past] >= min(late.at_ms, START_MS) - 0.001)


@settings(deadline=None)
@given(courses, many_orders, st.integers(1, 400).map(lambda tens: 10 * tens))
def test_numbers(parts: list[Phase], ordered: list[Order], chunk_ms: int) -> None:
    """Taken in chunks of the wall, orders coming in between, every sampling instant comes once."""
    waiting = sorted(ordered, key=lambda order: order.at_ms)
    made = pace(*parts)
    taken: list[int] = []
    edges = list(range(START_MS, START_MS + 40 * chunk_ms, chunk_ms))
    for begins_ms, ends_ms in pairwise(edges):
        while waiting and waiting[0].at_ms < ends_ms:
            made.follow([waiting.pop(0)])
        shown = [int(made.city_ms(edge)) - CITY_MS for edge in (begins_ms, ends_ms)]
        taken += range(-(-shown[0] // 500), -(-shown[1] // 500))

    assert list(range(len(taken))) == taken


def test_hours_of_orders() -> None:
    """Orders that come each second for hours keep the city's time to a microsecond."""
    made = pace(Phase(name="hours", for_s=20_000, pace=1, to_pace=3), ramp_s=0.0)
    for second in range(0, 10_000, 2):
        begins_ms = START_MS + 1_000 * second
        made.follow([Order(at_ms=begins_ms, factor=0.0)])
        made.follow([Order(at_ms=begins_ms + 1_000, factor=2.0)])

    exact_ms = sum(
        2 * (1_000 * (1 + second / 10_000 + 0.5 / 10_000)) for second in range(1, 10_000, 2)
    )
    assert exact_ms == pytest.approx(city(made, 10_000_000)[0], abs=0.001)
