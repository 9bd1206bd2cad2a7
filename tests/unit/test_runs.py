import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, time
from itertools import pairwise, product
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.runs import MarkOperator, StuckOperator
from alerts.signals import Arrived, Operator, Shift, Signal, Weekday
from city.readings import Flag

SERIES = 3
ZONE = ZoneInfo("Asia/Shanghai")
STUCK = Signal(stat="stuck", quantity="o3")
NIGHT = Shift(begins=time(22), ends=time(6, 30))
PRECISE = Shift(begins=time(8, 0, 10), ends=time(18))
MARKS = (
    Signal(stat="flagged", quantity="o3", flags="DB"),
    Signal(stat="flagged", quantity="o3", flags="M"),
    Signal(stat="value", quantity="o3", flags="NSTM"),
    Signal(stat="value", quantity="o3", when=NIGHT),
    Signal(stat="value", quantity="o3", when=PRECISE, flags="N"),
)
START_MS = 1_780_272_000_000

Row = tuple[int, int, float, Flag]
"""Series, ts [ms], value and flag."""
Number = tuple[int, int, int, float | None]
"""Position of the reading that completed it, output, ts [ms], and value; None for NaN."""


def a_stuck(
    series: Sequence[int] = range(SERIES), signals: Sequence[Signal] = (STUCK,)
) -> Operator:
    """The runs of the series; the outputs are the series' tenfold."""
    operator = StuckOperator()
    for index in series:
        for signal in signals:
            operator.include(index, signal, 10 * index, 60_000)
    return operator


def a_mark(series: Sequence[int] = range(SERIES), signals: Sequence[Signal] = MARKS) -> Operator:
    """All marks of all series; the output says both."""
    operator = MarkOperator(ZONE)
    for index in series:
        for signal in signals:
            operator.include(index, signal, 10 * index + MARKS.index(signal), 60_000)
    return operator


OPERATORS = pytest.mark.parametrize("make", [a_stuck, a_mark])


def arrived(rows: Sequence[Row]) -> Arrived:
    """Rows as a batch."""
    series, ts, value, flag = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Arrived(
        np.arange(len(rows)),
        np.array(series, dtype=np.int64),
        np.array(ts, dtype=np.int64),
        np.array(value, dtype=np.float64),
        np.array(flag, dtype=np.uint8),
    )


def taken(operator: Operator, rows: Sequence[Row], offset: int = 0) -> list[Number]:
    """What the operator makes of the rows, the first of which is at `offset`."""
    made = operator.take(arrived(rows))
    columns = (made.row + offset, made.series, made.ts, made.value)
    numbers = zip(*(column.tolist() for column in columns), strict=True)
    return [(*where, None if math.isnan(value) else value) for *where, value in numbers]


@st.composite
def streams(draw: st.DrawFn) -> list[Row]:
    """Stretches of readings of some series, often equal; the last series is not watched."""
    waits = st.sampled_from([0, 1, 30_000, 60_000, 60_000, 61_000, 5 * 3_600_000])
    courses = st.lists(st.sampled_from([0.0, -0.0, 1.5, 2.0]), min_size=1, max_size=3)
    flags = st.lists(st.sampled_from([*Flag, *[Flag.N] * 8]), min_size=1, max_size=4)
    some = st.sets(st.integers(0, SERIES), min_size=1)
    stretch = st.tuples(some, waits, st.integers(1, 6), courses, flags)
    now: defaultdict[int, int] = defaultdict(lambda: START_MS)
    rows = []
    for among, wait, count, course, marks in draw(st.lists(stretch, max_size=6)):
        for number, series in product(range(count), sorted(among)):
            now[series] += wait
            turn = number + series
            row = (series, now[series], course[turn % len(course)], marks[turn % len(marks)])
            rows.append(row)
    return rows


cuts = st.lists(st.integers(0, 80), max_size=3).map(sorted)


def pieces(rows: Sequence[Row], at: Sequence[int]) -> Iterator[tuple[int, Sequence[Row]]]:
    """The rows cut into batches, with the position of the first of each."""
    for begin, end in pairwise([0, *at, max([len(rows), *at])]):
        yield begin, rows[begin:end]


def stuck_reference(rows: Sequence[Row]) -> list[Number]:
    """The definition, one reading after the other."""
    runs: dict[int, tuple[float, int, int]] = {}
    numbers: list[Number] = []
    for row, (series, ts, value, _) in enumerate(rows):
        before, since, last = runs.get(series, (math.nan, ts, ts))
        same = value == before
        runs[series] = (value, since if same else ts, ts)
        if series < SERIES and same and ts - since > 60_000:
            numbers.append((row, 10 * series, ts, (ts - since) / 1000))
        elif series < SERIES and not same and last - since > 60_000:
            numbers.append((row, 10 * series, ts, 0.0))
    return numbers


def mark_reference(rows: Sequence[Row]) -> list[Number]:
    """The definition, one reading after the other."""
    on: dict[int, bool] = defaultdict(bool)
    numbers: list[Number] = []
    for row, (series, ts, value, flag) in enumerate(rows):
        for number, signal in enumerate(MARKS if series < SERIES else ()):
            out, counts = 10 * series + number, flag.name in signal.flags
            inside = signal.when is None or signal.when.holds(ts, ZONE)
            if signal.stat == "flagged":
                if counts or on[out]:
                    numbers.append((row, out, ts, float(counts)))
                on[out] = counts
            elif inside and counts:
                numbers.append((row, out, ts, value))
                on[out] = True
            elif not inside and on[out]:
                numbers.append((row, out, ts, None))
                on[out] = False
    return numbers


@settings(deadline=None, max_examples=60)
@given(streams())
def test_runs_of_equal_values_are_measured(rows: list[Row]) -> None:
    """Each number is the time since the first of a run of equal values, or 0 at its end."""
    assert stuck_reference(rows) == taken(a_stuck(), rows)


@settings(deadline=None, max_examples=60)
@given(streams())
def test_marks_follow_flags_and_shifts(rows: list[Row]) -> None:
    """Flagged readings are counted as such, and values where flag and shift say so."""
    assert sorted(mark_reference(rows), key=repr) == sorted(taken(a_mark(), rows), key=repr)


@OPERATORS
@settings(deadline=None, max_examples=60)
@given(rows=streams(), at=cuts)
def test_batches_do_not_matter(
    make: Callable[[], Operator], rows: list[Row], at: list[int]
) -> None:
    """However the readings are cut into batches, the numbers are the same to the last bit."""
    operator = make()

    parts = [taken(operator, piece, begin) for begin, piece in pieces(rows, at)]
    assert taken(make(), rows) == [number for part in parts for number in part]


@settings(deadline=None, max_examples=60)
@given(streams(), cuts)
def test_a_restart_does_not_matter_to_runs(rows: list[Row], at: list[int]) -> None:
    """An operator that takes up a captured state goes on as the old one would have."""
    operator, made = a_stuck(), []
    for begin, piece in pieces(rows, at):
        state = operator.capture()
        taken(operator, rows)
        operator = a_stuck(range(SERIES)[::-1])
        operator.restore(state)
        made += taken(operator, piece, begin)

    assert taken(a_stuck(), rows) == made


@settings(deadline=None, max_examples=60)
@given(streams(), cuts)
def test_a_restart_does_not_matter_to_marks(rows: list[Row], at: list[int]) -> None:
    """The same for marks, with the signals included in another order too."""
    operator, made = a_mark(), []
    for begin, piece in pieces(rows, at):
        state = operator.capture()
        taken(operator, rows)
        operator = a_mark(range(SERIES)[::-1], MARKS[::-1])
        operator.restore(state)
        made += taken(operator, piece, begin)

    assert taken(a_mark(), rows) == made


@settings(deadline=None, max_examples=60)
@given(streams(), st.integers(0, 80))
def test_a_restart_with_other_series_keeps_those_that_stay(rows: list[Row], cut: int) -> None:
    """Of a captured state only what is still included matters; new series begin anew."""
    before, operator = a_mark([0, 1]), a_mark([2, 1], MARKS[1:])
    taken(before, rows[:cut])

    operator.restore(before.capture())
    made = taken(operator, rows[cut:], cut)
    expected = [each for each in taken(a_mark([1], MARKS[1:]), rows) if each[0] >= cut]
    assert expected == [each for each in made if each[1] < 20]
    fresh = taken(a_mark([2], MARKS[1:]), rows[cut:], cut)
    assert fresh == [each for each in made if each[1] >= 20]


def readings(*values: float, flag: Flag = Flag.N, start: int = 0) -> list[Row]:
    """Readings of series 0, half a minute apart."""
    instants = [START_MS + 30_000 * (start + each) for each in range(len(values))]
    return [(0, ts, value, flag) for ts, value in zip(instants, values, strict=True)]


def test_a_run_is_told_when_it_is_longer_than_a_minute() -> None:
    """A run of exactly a minute is none yet; its end is told once."""
    made = taken(a_stuck(), readings(1, 1, 1, 1, 1, 2, 3))

    assert [(3, 90.0), (4, 120.0), (5, 0.0)] == [(row, value) for row, _, _, value in made]


def test_short_runs_are_not_told() -> None:
    """Where no run was longer than a minute there is nothing to end."""
    assert [] == taken(a_stuck(), readings(1, 1, 1, 2, 2, 2, 3))


def test_a_flag_is_told_as_long_as_it_stands_and_once_when_gone() -> None:
    """Normal readings are told only after one that was flagged."""
    rows = [
        *readings(1, 1),
        *readings(1, 1, flag=Flag.D, start=2),
        *readings(1, flag=Flag.B, start=4),
        *readings(1, 1, start=5),
    ]

    made = taken(a_mark([0], MARKS[:1]), rows)
    assert [(2, 1.0), (3, 1.0), (4, 1.0), (5, 0.0)] == [(row, value) for row, _, _, value in made]


@pytest.mark.parametrize("flag", [Flag.N, Flag.D])
def test_the_end_of_a_shift_is_told_by_any_reading(flag: Flag) -> None:
    """The first reading after the shift says that there is no value, whatever its flag."""
    instants = [datetime(2026, 6, 1, hour, minute, tzinfo=ZONE) for hour, minute in
                ((21, 59), (22, 0), (23, 0))] + [datetime(2026, 6, 2, 6, 30, tzinfo=ZONE)] * 2  # fmt: skip
    flags = [Flag.N, Flag.N, Flag.N, flag, flag]
    rows = [
        (0, round(instant.timestamp() * 1000), 4.0, flag)
        for instant, flag in zip(instants, flags, strict=True)
    ]

    made = taken(a_mark([0], [MARKS[3]]), rows)
    assert [(1, 4.0), (2, 4.0), (3, None)] == [(row, value) for row, _, _, value in made]


def test_a_shift_can_end_within_a_minute() -> None:
    """A shift that begins at ten seconds past does so."""
    begins = round(datetime(2026, 6, 1, 8, 0, 10, tzinfo=ZONE).timestamp() * 1000)
    rows = [(0, begins + late, 4.0, Flag.N) for late in (-1, 0)]

    assert [1] == [number[0] for number in taken(a_mark([0], [MARKS[4]]), rows)]


def test_days_of_a_shift_are_local() -> None:
    """A shift on Sundays begins and ends at local midnight."""
    sunday: frozenset[Weekday] = frozenset({"sun"})
    signal = Signal(stat="value", quantity="o3", when=Shift(days=sunday))
    operator = MarkOperator(ZONE)
    operator.include(0, signal, 0, 60_000)
    saturday = datetime(2026, 6, 6, 15, 59, tzinfo=UTC).timestamp()
    rows = [(0, round(1000 * (saturday + late)), 4.0, Flag.N) for late in (0, 60, 86_400 + 60)]

    assert [(1, 4.0), (2, None)] == [(row, value) for row, _, _, value in taken(operator, rows)]


def test_a_signal_that_is_included_later_knows_nothing_of_before() -> None:
    """A reading that was flagged before the signal was asked for is not told as gone."""
    operator = a_mark([0], MARKS[1:2])
    taken(operator, readings(1, flag=Flag.D))

    operator.include(0, MARKS[0], 0, 60_000)
    assert [] == taken(operator, readings(1, start=1))


def test_a_series_is_told_only_the_signals_that_it_has() -> None:
    """A flag that counts for another series is not told, nor remembered over a restart."""
    before = a_mark([0], MARKS[:1])
    before.include(1, MARKS[1], 11, 60_000)
    assert [] == taken(before, [(1, *readings(1, flag=Flag.D)[0][1:])])

    operator = a_mark([0, 1], MARKS[:2])
    operator.restore(before.capture())
    assert [] == taken(operator, [(1, *readings(1, start=1)[0][1:])])


def test_an_excluded_signal_is_made_no_more() -> None:
    """Excluding one signal leaves the others of its series alone."""
    operator = a_mark([0], MARKS[:3])

    operator.exclude(0, MARKS[0])
    operator.exclude(0, MARKS[0])
    operator.exclude(99, MARKS[0])
    assert {(0, 1), (0, 2)} == {each[:2] for each in taken(operator, readings(1, flag=Flag.M))}


def test_a_series_that_returns_begins_anew() -> None:
    """Nothing is left of a series once its last signal was excluded."""
    operator = a_stuck([0])
    taken(operator, readings(1, 1, 1, 1))
    operator.exclude(0, STUCK)

    assert [] == taken(operator, readings(1, start=4))
    operator.include(0, STUCK, 0, 60_000)
    assert [] == taken(operator, readings(1, 1, start=5))


def test_series_far_beyond_those_included_are_passed_over() -> None:
    """A batch may hold series that no operator has heard of."""
    rows = [(10_000, *row[1:]) for row in readings(1, 1, 1, 1)]

    assert [] == taken(a_stuck(), rows)
    assert [] == taken(a_mark(), rows)


def test_many_series_make_room() -> None:
    """Series beyond the first capacity keep what those before them hold."""
    operator = a_stuck([0])
    taken(operator, readings(1, 1, 1))
    for index in range(1, 500):
        operator.include(index, STUCK, 10 * index, 60_000)

    assert [(0, 0, START_MS + 90_000, 90.0)] == taken(operator, readings(1, start=3))
