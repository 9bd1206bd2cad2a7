import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.rates import RateOperator
from alerts.signals import Arrived, Signal

WINDOW_MS = 10_000
INTERVAL_MS = 2_000
RATE = Signal(stat="rate", quantity="gas_pressure", window_ms=WINDOW_MS)
ELSEWHERE = Signal(stat="rate", quantity="gas_pressure", window_ms=WINDOW_MS, at="gas-node")
SERIES = 3

Row = tuple[int, int, float]
"""Series, ts [ms] and value."""
Number = tuple[int, int, int, float]
"""Position of the reading that completed it, output, ts [ms], and value."""


def an_operator(
    series: Sequence[int] = range(SERIES), interval_ms: int = INTERVAL_MS
) -> RateOperator:
    """The rates of the series; the outputs are the series' tenfold."""
    operator = RateOperator(WINDOW_MS)
    for index in series:
        operator.include(index, RATE, 10 * index, interval_ms)
    return operator


def arrived(rows: Sequence[Row]) -> Arrived:
    """Rows as a batch."""
    series, ts, value = zip(*rows, strict=True) if rows else ((), (), ())
    return Arrived(
        np.arange(len(rows)),
        np.array(series, dtype=np.int64),
        np.array(ts, dtype=np.int64),
        np.array(value, dtype=np.float64),
        np.zeros(len(rows), dtype=np.uint8),
    )


def taken(operator: RateOperator, rows: Sequence[Row], offset: int = 0) -> list[Number]:
    """What the operator makes of the rows, the first of which is at `offset`."""
    made = operator.take(arrived(rows))
    columns = (made.row + offset, made.series, made.ts, made.value)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@st.composite
def streams(draw: st.DrawFn) -> list[Row]:
    """Stretches of readings of some series, as fast as said or not; the last is not watched."""
    waits = st.sampled_from([0, 1, 700, 1_499, 1_500, 2_000, 2_000, 3_000, 7_000, 14_000, 40_000])
    values = st.sampled_from([0.0, 90.25, 100.0, 101.5])
    some = st.sets(st.integers(0, SERIES), min_size=1)
    stretch = st.tuples(some, waits, st.integers(1, 20), st.lists(values, min_size=1, max_size=5))
    now: defaultdict[int, int] = defaultdict(int)
    rows = []
    for among, wait, count, course in draw(st.lists(stretch, max_size=6)):
        for number, series in product(range(count), sorted(among)):
            now[series] += wait
            rows.append((series, now[series], course[(number + series) % len(course)]))
    return rows


cuts = st.lists(st.integers(0, 200), max_size=3).map(sorted)


def pieces(rows: Sequence[Row], at: Sequence[int]) -> Iterator[tuple[int, Sequence[Row]]]:
    """The rows cut into batches, with the position of the first of each."""
    for begin, end in pairwise([0, *at, max([len(rows), *at])]):
        yield begin, rows[begin:end]


def reference(rows: Sequence[Row], spacing_ms: int = 1_500) -> list[Number]:
    """The definition, with all readings that are far enough apart kept for ever."""
    kept: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
    numbers = []
    for row, (series, ts, value) in enumerate(rows):
        past = kept[series]
        if series == SERIES:
            continue
        if not past or ts - past[-1][0] >= spacing_ms:
            past.append((ts, value))
        then, old = min(past[::-1], key=lambda each: abs(each[0] - (ts - WINDOW_MS)))
        age = ts - then
        if 0.75 * WINDOW_MS <= age <= 1.5 * WINDOW_MS:
            numbers.append((row, 10 * series, ts, (value - old) / (age / 60_000)))
    return numbers


@settings(deadline=None, max_examples=60)
@given(streams())
def test_a_rate_is_that_since_the_reading_nearest_to_a_window_ago(rows: list[Row]) -> None:
    """Each rate is the difference to the nearest old reading, over the time since that one."""
    assert reference(rows) == taken(an_operator(), rows)


@settings(deadline=None, max_examples=60)
@given(streams(), cuts)
def test_batches_do_not_matter(rows: list[Row], at: list[int]) -> None:
    """However the readings are cut into batches, the numbers are the same to the last bit."""
    operator = an_operator()

    parts = [taken(operator, piece, begin) for begin, piece in pieces(rows, at)]
    assert taken(an_operator(), rows) == [number for part in parts for number in part]


@settings(deadline=None, max_examples=60)
@given(streams(), cuts)
def test_a_restart_does_not_matter(rows: list[Row], at: list[int]) -> None:
    """An operator that takes up a captured state goes on as the old one would have."""
    operator, made = an_operator(), []
    for begin, piece in pieces(rows, at):
        state = operator.capture()
        taken(operator, rows)
        operator = an_operator(range(SERIES)[::-1])
        operator.restore(state)
        made += taken(operator, piece, begin)

    assert taken(an_operator(), rows) == made


@settings(deadline=None, max_examples=60)
@given(streams(), st.integers(0, 200))
def test_a_restart_with_other_series_keeps_those_that_stay(rows: list[Row], cut: int) -> None:
    """Of a captured state only the series that are still included matter; new ones begin anew."""
    before, operator = an_operator([0, 1]), an_operator([2, 1])
    taken(before, rows[:cut])

    operator.restore(before.capture())
    made = taken(operator, rows[cut:], cut)
    expected = [each for each in taken(an_operator([1]), rows) if each[0] >= cut]
    assert expected == [each for each in made if each[1] == 10]
    fresh = taken(an_operator([2]), rows[cut:], cut)
    assert fresh == [each for each in made if each[1] == 20]


def regular(
    count: int, *, every_ms: int = INTERVAL_MS, start: int = 0, slope: float = 0.5
) -> list[Row]:
    """Readings of series 0 that rise by `slope` per minute."""
    instants = [(start + each) * every_ms for each in range(count)]
    return [(0, ts, slope * ts / 60_000) for ts in instants]


def test_a_rate_comes_with_every_reading_once_three_quarters_of_a_window_are_known() -> None:
    """The first rate is that over 8 of 10 s, with readings every 2 s."""
    made = taken(an_operator(), regular(40))

    assert list(range(4, 40)) == [number[0] for number in made]
    assert all(math.isclose(0.5, number[3]) for number in made)


def test_no_rate_is_taken_over_a_gap() -> None:
    """When the newest old reading is more than one and a half windows away there is no rate."""
    operator = an_operator()
    taken(operator, regular(40))

    assert not taken(operator, regular(4, start=100))


@pytest.mark.parametrize("every_ms", [10, 700, 2_000, 9_000, 14_000])
def test_rates_come_at_any_real_interval(every_ms: int) -> None:
    """Devices faster or slower than they said they are have rates too."""
    operator = an_operator()
    rows = regular(100_000 // every_ms + 3, every_ms=every_ms)

    made = [
        each for row in range(0, len(rows), 100) for each in taken(operator, rows[row : row + 100])
    ]
    assert made
    assert all(math.isclose(0.5, number[3]) for number in made)


def test_very_short_intervals_keep_a_bounded_ring() -> None:
    """Of a device with a thousand readings a second no more than 256 are kept."""
    operator = an_operator([0], interval_ms=1)
    rows = [(0, ts, 0.5 * ts / 60_000) for ts in range(0, 40_000, 20)]

    made = taken(operator, rows)
    assert math.isclose(0.5, made[-1][3])
    assert 256 >= len(operator.capture()["ts"])


@pytest.mark.parametrize("interval_ms", [500, 2_000, 5_000])
def test_another_interval_keeps_what_is_known(interval_ms: int) -> None:
    """A device that is born again with another interval goes on having a rate."""
    operator = an_operator([0])
    taken(operator, regular(31))

    operator.include(0, RATE, 7, interval_ms)
    made = taken(operator, regular(2, start=31))
    assert [7, 7] == [number[1] for number in made]
    assert all(math.isclose(0.5, number[3]) for number in made)


def test_a_series_can_be_two_signals() -> None:
    """Where the rate of a series is asked for twice, one reading completes two numbers."""
    operator = an_operator([0])
    operator.include(0, ELSEWHERE, 5, INTERVAL_MS)

    made = taken(operator, regular(5))
    assert {(4, 0), (4, 5)} == {number[:2] for number in made}


def test_an_excluded_series_has_no_rate_and_leaves_its_room() -> None:
    """What was excluded begins anew when it returns, in the room that it left."""
    operator = an_operator()
    taken(operator, regular(31))
    for series in range(SERIES):
        operator.exclude(series, RATE)
    operator.exclude(0, RATE)

    assert not taken(operator, regular(5, start=31))
    operator.include(0, RATE, 4, INTERVAL_MS)
    assert not taken(operator, regular(4, start=36))
    assert {4} == {number[1] for number in taken(operator, regular(20, start=40))}


def test_many_series_make_room() -> None:
    """Series beyond the first capacity keep what those before them hold."""
    operator = an_operator([0])
    taken(operator, regular(30))
    for index in range(1, 500):
        operator.include(index, RATE, 10 * index, INTERVAL_MS)

    assert [(0, 0)] == [number[:2] for number in taken(operator, regular(1, start=30))]
