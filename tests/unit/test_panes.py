import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.panes import PaneOperator
from alerts.signals import Arrived, Signal, Stat

STEP_MS = 60_000
PANES = 4
WINDOW_MS = PANES * STEP_MS
INTERVAL_MS = 60_000
BAND = (10.0, 20.0)
SERIES = 3

Row = tuple[int, int, float]
"""Series, ts [ms] and value."""
Number = tuple[int, int, int, float | None]
"""Position of the reading that completed it, output, ts [ms], and value; None for NaN."""


def over_window(stat: Stat, at_least: float = 0.75) -> Signal:
    """A statistic over the window of the test."""
    band = BAND if stat == "share" else None
    return Signal(
        stat=stat, quantity="pm25", window_ms=WINDOW_MS, step_ms=STEP_MS, band=band,
        at_least=at_least,
    )  # fmt: skip


SIGNALS = (
    over_window("mean"), over_window("sd"), over_window("min"), over_window("max"),
    over_window("range"), over_window("share"), over_window("mean", 0.4), over_window("share", 0.1),
)  # fmt: skip


def an_operator(
    signals: Sequence[Signal] = SIGNALS, series: Sequence[int] = range(SERIES)
) -> PaneOperator:
    """All signals of all series; the output says both."""
    operator = PaneOperator(WINDOW_MS, STEP_MS)
    for index in series:
        for signal in signals:
            operator.include(index, signal, 10 * index + SIGNALS.index(signal), INTERVAL_MS)
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


def taken(operator: PaneOperator, rows: Sequence[Row], offset: int = 0) -> list[Number]:
    """What the operator makes of the rows, the first of which is at `offset`."""
    made = operator.take(arrived(rows))
    columns = (made.row + offset, made.series, made.ts, made.value)
    numbers = zip(*(column.tolist() for column in columns), strict=True)
    return [(*where, None if math.isnan(value) else value) for *where, value in numbers]


@st.composite
def streams(draw: st.DrawFn) -> list[Row]:
    """Stretches of readings of some series, regular or not; the last series is not watched."""
    waits = st.sampled_from([0, 1, 20_000, 45_000, 60_000, 60_000, 61_000, 200_000, 400_000, 10**9])
    values = st.sampled_from([0.0, 9.5, 10.0, 12.25, 20.0, 20.5, 1000.0])
    some = st.sets(st.integers(0, SERIES), min_size=1)
    stretch = st.tuples(some, waits, st.integers(1, 10), st.lists(values, min_size=1, max_size=5))
    now: defaultdict[int, int] = defaultdict(lambda: 7 * STEP_MS)
    rows = []
    for among, wait, count, course in draw(st.lists(stretch, max_size=6)):
        for number, series in product(range(count), sorted(among)):
            now[series] += wait
            rows.append((series, now[series], course[(number + series) % len(course)]))
    return rows


cuts = st.lists(st.integers(0, 120), max_size=3).map(sorted)


def pieces(rows: Sequence[Row], at: Sequence[int]) -> Iterator[tuple[int, Sequence[Row]]]:
    """The rows cut into batches, with the position of the first of each."""
    for begin, end in pairwise([0, *at, max([len(rows), *at])]):
        yield begin, rows[begin:end]


STATISTICS: dict[str, Any] = {
    "mean": statistics.fmean,
    "sd": statistics.pstdev,
    "min": min,
    "max": max,
    "range": lambda values: max(values) - min(values),
    "share": lambda values: sum(BAND[0] <= each <= BAND[1] for each in values) / len(values),
}


def reference(rows: Sequence[Row]) -> list[Number]:
    """The definition, with every window made from all readings."""
    past: defaultdict[int, list[tuple[int, float, int]]] = defaultdict(list)
    live: set[int] = set()
    numbers: list[Number] = []
    for row, (series, ts, value) in enumerate(rows):
        readings = past[series]
        if series == SERIES:
            continue
        covers = min(ts - readings[-1][0], 90_000) if readings else 0
        newest = readings[-1][0] // STEP_MS if readings else ts // STEP_MS
        for pane in range(newest, min(ts // STEP_MS, newest + 2 * PANES)):
            window = [each for each in readings if -PANES < each[0] // STEP_MS - pane <= 0]
            for number, signal in enumerate(SIGNALS):
                out, end = 10 * series + number, (pane + 1) * STEP_MS
                covered = sum(each[2] for each in window)
                if window and covered >= signal.at_least * WINDOW_MS:
                    made = STATISTICS[signal.stat]([each[1] for each in window])
                    numbers.append((row, out, end, made))
                    live.add(out)
                elif out in live:
                    numbers.append((row, out, end, None))
                    live.remove(out)
        readings.append((ts, value, covers))
    return numbers


@settings(deadline=None, max_examples=30)
@given(streams())
def test_numbers_are_those_of_all_readings_in_the_window(rows: list[Row]) -> None:
    """Each number is the statistic of the readings in the panes of its window."""
    made = sorted(taken(an_operator(), rows), key=lambda number: number[:3])

    expected = sorted(reference(rows), key=lambda number: number[:3])
    assert [number[:3] for number in expected] == [number[:3] for number in made]
    for wanted, found in zip(expected, made, strict=True):
        assert wanted[3] == (None if found[3] is None else pytest.approx(found[3], abs=1e-4))


@settings(deadline=None, max_examples=30)
@given(streams(), cuts)
def test_batches_do_not_matter(rows: list[Row], at: list[int]) -> None:
    """However the readings are cut into batches, the numbers are the same to the last bit."""
    operator = an_operator()

    parts = [taken(operator, piece, begin) for begin, piece in pieces(rows, at)]
    assert taken(an_operator(), rows) == [number for part in parts for number in part]


@settings(deadline=None, max_examples=30)
@given(streams(), cuts)
def test_a_restart_does_not_matter(rows: list[Row], at: list[int]) -> None:
    """An operator that takes up a captured state goes on as the old one would have."""
    operator, made = an_operator(), []
    for begin, piece in pieces(rows, at):
        state = operator.capture()
        taken(operator, rows)
        operator = an_operator(SIGNALS[::-1], range(SERIES)[::-1])
        operator.restore(state)
        made += taken(operator, piece, begin)

    assert taken(an_operator(), rows) == made


@settings(deadline=None, max_examples=30)
@given(streams(), st.integers(0, 120))
def test_a_restart_with_other_series_keeps_those_that_stay(rows: list[Row], cut: int) -> None:
    """Of a captured state only the series that are still included matter; new ones begin anew."""
    before, operator = an_operator(series=[0, 1]), an_operator(series=[2, 1])
    taken(before, rows[:cut])

    operator.restore(before.capture())
    made = taken(operator, rows[cut:], cut)
    expected = taken(an_operator(series=[1]), rows)
    assert [each for each in expected if each[0] >= cut] == [each for each in made if each[1] < 20]
    fresh = taken(an_operator(series=[2]), rows[cut:], cut)
    assert fresh == [number for number in made if number[1] >= 20]


def regular(count: int, *, series: int = 0, value: float = 15.0, start: int = 0) -> list[Row]:
    """A reading in the middle of each of `count` panes."""
    return [(series, (start + each) * STEP_MS + 30_000, value) for each in range(count)]


def test_a_number_comes_with_the_reading_after_its_window() -> None:
    """The number of a window is of its end, and stands at the row of the reading that came next."""
    made = taken(an_operator([over_window("mean")]), regular(5))

    assert [(4, 0, 4 * STEP_MS, 15.0)] == made


def test_a_window_that_is_not_covered_gives_nan_once() -> None:
    """After a gap the signal has no value, which is said once."""
    operator = an_operator([over_window("max")])

    taken(operator, regular(5))
    after = taken(operator, regular(3, start=105))
    values = [(0, 3, 5 * STEP_MS, 15.0), (0, 3, 6 * STEP_MS, 15.0)]
    assert [*values, (0, 3, 7 * STEP_MS, None)] == after


def test_a_reading_covers_one_and_a_half_intervals() -> None:
    """Of a device that measures every five minutes, a reading covers its five minutes."""
    operator = PaneOperator(WINDOW_MS, STEP_MS)
    operator.include(0, over_window("mean"), 5, 300_000)

    made = taken(operator, [(0, 0, 1.0), (0, 300_000, 2.0), (0, 600_000, 3.0)])
    assert [(2, 5, 6 * STEP_MS, 2.0)] == made[:1]


def test_a_long_gap_costs_no_more_than_the_window() -> None:
    """A gap of a thousand years is over once the readings before it have left the window."""
    operator = an_operator()
    taken(operator, regular(5))

    after = taken(operator, [(0, 1000 * 365 * 86_400_000, 1.0)])
    assert (5 + PANES) * STEP_MS >= max(number[2] for number in after)


def test_sd_of_large_values_is_precise() -> None:
    """The spread of values that hardly differ is not lost in their size."""
    operator = an_operator([over_window("sd")])
    rows = [(0, row[1], 1e9 + each % 2) for each, row in enumerate(regular(5))]

    assert [(4, 1, 4 * STEP_MS, 0.5)] == taken(operator, rows)


def test_sd_of_equal_values_is_0() -> None:
    """Once all values of the window are equal the spread is exactly 0, whatever came before."""
    operator = an_operator([over_window("sd")])

    taken(operator, [(0, 0, 1e9 / 3.0), *regular(6, value=0.1)[1:]])
    assert [(0, 1, 6 * STEP_MS, 0.0)] == taken(operator, regular(1, value=0.1, start=6))


def test_an_excluded_signal_is_made_no_more() -> None:
    """Excluding one signal leaves the others of its series alone."""
    operator = an_operator([over_window("min"), over_window("max")])
    taken(operator, regular(5))

    operator.exclude(0, over_window("min"))
    assert [(0, 3, 5 * STEP_MS, 15.0)] == taken(operator, regular(1, start=5))


def test_a_series_that_returns_begins_anew() -> None:
    """Nothing is left of a series once its last signal was excluded."""
    operator = an_operator([over_window("min")])
    taken(operator, regular(6))
    for index in range(SERIES):
        operator.exclude(index, over_window("min"))

    operator.include(7, over_window("min"), 1, INTERVAL_MS)
    assert [(4, 1, 10 * STEP_MS, 3.0)] == taken(operator, regular(5, series=7, value=3.0, start=6))


def test_a_new_share_waits_for_a_whole_window() -> None:
    """A band that is asked for later is not judged by readings that were not compared with it."""
    operator = an_operator([over_window("mean")])
    taken(operator, regular(6))

    operator.include(0, over_window("share"), 5, INTERVAL_MS)
    made = [each for each in taken(operator, regular(6, start=6)) if each[1] == 5]
    assert [(4, 5, 10 * STEP_MS, 1.0), (5, 5, 11 * STEP_MS, 1.0)] == made


def test_a_share_that_is_new_after_a_restart_waits_too() -> None:
    """A share that the captured state did not have is not judged by the readings before it."""
    before, operator = an_operator([over_window("mean")]), an_operator([over_window("share")])
    taken(before, regular(6))

    operator.restore(before.capture())
    assert [(4, 5, 10 * STEP_MS, 1.0)] == taken(operator, regular(5, start=6))


def test_many_series_make_room() -> None:
    """Series beyond the first capacity keep what those before them hold."""
    operator = an_operator([over_window("mean")], series=[0])
    taken(operator, regular(4))
    for index in range(1, 500):
        operator.include(index, over_window("mean"), 10 * index, INTERVAL_MS)

    assert [(0, 0, 4 * STEP_MS, 15.0)] == taken(operator, regular(1, start=4))


def test_a_step_that_does_not_divide_the_window_is_refused() -> None:
    """Windows are made of whole panes."""
    with pytest.raises(ValueError, match="does not divide"):
        PaneOperator(100_000, 60_000)
