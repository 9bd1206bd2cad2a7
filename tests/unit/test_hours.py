import math
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.hours import HourOperator
from alerts.signals import Arrived, Signal, Stat
from city.readings import Flag

MINUTE = 60_000
HOUR = 60 * MINUTE
START = 1_793_404_800_000
"""2026-10-31 00:00 UTC."""
STATS: tuple[Stat, ...] = ("hour", "hours-8", "hours-24", "day", "mda8")
ZONES = ("Asia/Shanghai", "America/New_York", "Asia/Kolkata", "UTC")
INTERVAL = 20 * MINUTE
Reading = tuple[int, int, float]
Said = tuple[int, int, int, float]


def signal(stat: Stat, at_least: float = 0.75) -> Signal:
    """A signal of ozone."""
    return Signal(stat=stat, quantity="o3", at_least=at_least)


def arrived(readings: list[Reading], first: int = 0) -> Arrived:
    """Readings as an operator gets them."""
    return Arrived(
        np.arange(first, first + len(readings), dtype=np.int64),
        np.array([series for series, _, _ in readings], dtype=np.int64),
        np.array([ts for _, ts, _ in readings], dtype=np.int64),
        np.array([value for _, _, value in readings], dtype=np.float64),
        np.full(len(readings), Flag.N, dtype=np.uint8),
    )


def watching(
    zone: str, series: int = 3, interval_ms: int = INTERVAL, step: int = 1
) -> HourOperator:
    """An operator of all statistics; the outputs of a series are 10 times its number and on."""
    operator = HourOperator(ZoneInfo(zone))
    for nth in range(series)[::step]:
        for out, stat in list(enumerate(STATS))[::step]:
            operator.include(nth, signal(stat), 10 * nth + out, interval_ms)
    return operator


def told(operator: HourOperator, readings: list[Reading], first: int = 0) -> list[Said]:
    """What it says, as rows, outputs, instants and values."""
    got = operator.take(arrived(readings, first))
    columns = (got.row.tolist(), got.series.tolist(), got.ts.tolist(), got.value.tolist())
    return list(zip(*columns, strict=True))


@st.composite
def histories(draw: st.DrawFn) -> list[Reading]:
    """Spells of regular readings of three series, with gaps from minutes to weeks."""
    readings = []
    spells = st.tuples(
        st.integers(1, 90),
        st.sampled_from((11, 20, 20, 29, 61)),
        st.sampled_from((0, 50, 400, 1600, 9000)),
    )
    for series in range(3):
        ts = START + draw(st.integers(0, 60)) * MINUTE
        for count, step, gap in draw(st.lists(spells, max_size=4)):
            for nth in range(count):
                ts += step * MINUTE
                readings.append((series, ts, (nth * 37 + count) % 251 / 10 + 90))
            ts += gap * MINUTE
    return sorted(readings, key=lambda reading: reading[1])


class Reference:
    """The same numbers from whole histories, one hour after the other."""

    def __init__(self, zone: str, readings: list[tuple[int, int, float]]) -> None:
        self.zone = ZoneInfo(zone)
        offset = datetime.fromtimestamp(START / 1000, self.zone).utcoffset()
        self.phase = int(offset.total_seconds() * 1000) % HOUR if offset else 0
        self.readings = readings

    def hour_end(self, ts: int) -> int:
        """The end of the clock hour that an instant lies in."""
        return -((-ts - self.phase) // HOUR) * HOUR - self.phase

    def hour(self, end: int, known: int) -> float | None:
        """The mean of the hour until `end`, from the first `known` readings."""
        values, covered, before = [], 0, -(10**15)
        for _, ts, value in self.readings[:known]:
            begin = max(before, ts - 3 * INTERVAL // 2, end - HOUR)
            covered += max(0, min(ts, end) - begin)
            before = ts
            if end - HOUR < ts <= end:
                values.append(value)
        return sum(values) / len(values) if values and covered >= 45 * MINUTE else None

    def day(self, end: int) -> int:
        """How many hours the local day has that ends at `end`, else 0."""
        date = datetime.fromtimestamp(end / 1000 - 1, self.zone).date()
        if datetime.fromtimestamp(end / 1000, self.zone).date() == date:
            return 0
        hours = 0
        while datetime.fromtimestamp((end - hours * HOUR) / 1000 - 1, self.zone).date() == date:
            hours += 1
        return hours

    def said(self) -> Iterator[Said]:
        """Row, which of the statistics, instant, value."""
        standing = [False] * len(STATS)
        means: dict[int, float | None] = {}
        for known, (one, other) in enumerate(pairwise(self.readings), start=2):
            first, last = self.hour_end(one[1]), self.hour_end(other[1])
            for end in range(first, last, HOUR):
                means[end] = self.hour(end, known) if end == first else None
                for out, value in enumerate(self.stats(means, end)):
                    if value is None:
                        continue
                    if standing[out] or not math.isnan(value):
                        yield other[0], out, end, value
                    standing[out] = not math.isnan(value)

    def stats(self, means: dict[int, float | None], end: int) -> list[float | None]:
        """All statistics of the hours until `end`; None where there is none to tell."""

        def mean(hours: list[float | None], least: int) -> float:
            valid = [each for each in hours if each is not None]
            return sum(valid) / len(valid) if len(valid) >= least else math.nan

        day_hours = self.day(end)
        last = [means.get(end - back * HOUR) for back in range(25)]
        told: list[float | None] = [mean(last[:1], 1), mean(last[:8], 6), mean(last[:24], 20)]
        if not day_hours:
            return [*told, None, None]
        day = last[:day_hours]
        eights = [mean(day[at : at + 8], 6) for at in range(day_hours - 7)]
        valid = [each for each in eights if not math.isnan(each)]
        enough = len(valid) >= 14 or max(valid, default=0) > 100
        return [*told, mean(day, 20), max(valid) if enough else math.nan]


@settings(max_examples=25, deadline=None)
@given(histories(), st.sampled_from(ZONES))
def test_hours_and_days_are_those_of_a_brute_force_search(
    readings: list[Reading], zone: str
) -> None:
    """Every mean is that of the readings of its hours, where enough of them are valid."""
    expected: list[Said] = []
    for series in range(3):
        own = [(row, ts, value) for row, (its, ts, value) in enumerate(readings) if its == series]
        expected.extend(
            (row, 10 * series + out, ts, value)
            for row, out, ts, value in Reference(zone, own).said()
        )
    got = sorted(told(watching(zone), readings), key=lambda each: (each[0], each[2], each[1]))
    expected.sort(key=lambda each: (each[0], each[2], each[1]))

    assert [each[:3] for each in expected] == [each[:3] for each in got]
    assert [each[3] for each in expected] == pytest.approx(
        [each[3] for each in got], abs=1e-5, nan_ok=True
    )


@settings(max_examples=25, deadline=None)
@given(histories(), st.lists(st.integers(0, 400), max_size=4))
def test_batches_and_restarts_do_not_matter(readings: list[Reading], cuts: list[int]) -> None:
    """Exactly the same is said however the readings are split, with a restart at every split."""
    whole = told(watching(ZONES[0]), readings)
    edges = [0, *sorted(min(cut, len(readings)) for cut in cuts), len(readings)]
    parts, operator = [], watching(ZONES[0])
    for begin, end in pairwise(edges):
        parts.extend(told(operator, readings[begin:end], begin))
        state, operator = operator.capture(), watching(ZONES[0], step=-1)
        operator.restore(state)

    assert repr(whole) == repr(parts)


def regular(hours: float, value: float = 1.0, series: int = 0, begin: int = START) -> list[Reading]:
    """A reading every 20 minutes, the last at the end."""
    count = int(hours * 3)
    return [(series, begin + nth * INTERVAL, value) for nth in range(1, count + 1)]


def test_an_hour_is_told_by_the_first_later_reading() -> None:
    """The reading at the end belongs to the hour; the next one completes it."""
    readings = [*regular(1, 2.0), (0, START + HOUR + 1, 9.0)]
    got = told(watching("UTC"), readings)

    assert [(3, 0, START + HOUR, 2.0)] == got


def test_the_mean_of_equal_values_is_that_value() -> None:
    """No limit is crossed by rounding: the mean of many 0.1 is 0.1."""
    got = told(watching("UTC"), regular(25, 0.1))

    assert {0.1} == {value for _, _, _, value in got}


@pytest.mark.parametrize(("minutes", "count"), [(45, 1), (44, 0)])
def test_an_hour_needs_45_minutes(minutes: int, count: int) -> None:
    """Readings must cover three quarters of an hour."""
    readings = [(0, START + minute * MINUTE, 1.0) for minute in range(1, minutes + 1)]
    got = told(watching("UTC", interval_ms=MINUTE), [*readings, (0, START + 3 * HOUR, 1.0)])

    assert count == sum(ts == START + HOUR for _, _, ts, _ in got)


def test_the_reading_after_covers_the_end_of_the_hour() -> None:
    """An instrument that reads at half past covers every hour."""
    readings = [(0, START + nth * HOUR + HOUR // 2, 5.0) for nth in range(4)]
    got = told(watching("UTC", interval_ms=HOUR), readings)

    assert [START + HOUR, START + 2 * HOUR, START + 3 * HOUR] == [ts for _, _, ts, _ in got]


def test_silence_is_told_once() -> None:
    """After a gap the hour is NaN once, and nothing more is said."""
    readings = [*regular(1), (0, START + 100 * HOUR, 1.0)]
    got = told(watching("UTC"), readings)

    assert [(3, START + HOUR, "1.0"), (3, START + 2 * HOUR, "nan")] == [
        (row, ts, str(value)) for row, _, ts, value in got
    ]


def test_flagged_readings_do_not_count() -> None:
    """A value of a faulty instrument is neither in the mean nor does it cover."""
    batch = arrived([*regular(1), (0, START + 2 * HOUR, 1.0)])
    batch.flag[:] = Flag.D
    got = watching("UTC").take(batch)

    assert 0 == len(got)


def test_a_day_ends_at_local_midnight() -> None:
    """The daily mean is told at the midnight of the zone."""
    got = told(watching("Asia/Shanghai"), regular(42))

    assert [START + 40 * HOUR] == [ts for _, out, ts, _ in got if out == STATS.index("day")]


def test_mda8_is_of_windows_within_the_day() -> None:
    """The largest 8-hour mean does not take the evening before."""
    readings = [*regular(24, 80.0), *regular(25, 10.0, begin=START + 24 * HOUR)]
    got = [value for _, out, _, value in told(watching("UTC"), readings) if out == 4]

    assert [80.0, 10.0] == got


@pytest.mark.parametrize(("hours", "expected"), [(19, [50.0]), (18, [])])
def test_mda8_needs_14_means(hours: int, expected: list[float]) -> None:
    """Readings until 19 h make 14 valid 8-hour means, until 18 h only 13."""
    readings = [*regular(hours, 50.0), (0, START + 40 * HOUR, 1.0)]
    got = [each for _, out, _, each in told(watching("UTC"), readings) if out == 4]

    assert expected == got


@pytest.mark.parametrize(("value", "expected"), [(101.0, [101.0]), (100.0, [])])
def test_mda8_of_half_a_day(value: float, expected: list[float]) -> None:
    """Of fewer than 14 valid means the largest counts only if it exceeds the lowest limit."""
    readings = [*regular(12, value), (0, START + 40 * HOUR, 1.0)]
    got = [each for _, out, _, each in told(watching("UTC"), readings) if out == 4]

    assert expected == got


def test_the_share_that_must_be_covered_is_the_signal_s() -> None:
    """One series can be held to two shares at once."""
    operator = HourOperator(ZoneInfo("UTC"))
    operator.include(0, signal("hour", 0.25), 1, MINUTE)
    operator.include(0, signal("hour", 0.75), 2, MINUTE)
    half = [(0, START + minute * MINUTE, 1.0) for minute in range(1, 31)]
    got = told(operator, [*half, (0, START + 2 * HOUR, 1.0)])

    assert [1] == [out for _, out, _, _ in got]


def test_an_excluded_series_is_silent() -> None:
    """Nothing is told of what is excluded, the rest goes on."""
    operator = watching("UTC", series=1)
    operator.exclude(0, signal("hour"))
    operator.exclude(7, signal("hour"))
    got = told(operator, regular(9))

    assert {1} == {out for _, out, _, _ in got}


def test_a_series_that_comes_back_begins_anew() -> None:
    """What was known of an excluded series is forgotten."""
    operator = watching("UTC", series=1)
    told(operator, regular(1))
    for stat in STATS:
        operator.exclude(0, signal(stat))
    operator.include(0, signal("hour"), 5, INTERVAL)
    got = told(operator, [(0, START + 90 * MINUTE, 1.0)])

    assert [] == got


def test_the_interval_can_change() -> None:
    """Including again sets the longest time that a reading covers."""
    operator = watching("UTC", series=1, interval_ms=MINUTE)
    for out, stat in enumerate(STATS):
        operator.include(0, signal(stat), out, INTERVAL)
    got = told(operator, [*regular(1), (0, START + HOUR + 1, 1.0)])

    assert 1 == len(got)


def test_many_series_close_at_once() -> None:
    """Thousands of series grow the state and all close their hour."""
    operator = HourOperator(ZoneInfo("UTC"))
    for series in range(3000):
        operator.include(series, signal("hour"), series, INTERVAL)
    for nth in range(1, 4):
        operator.take(arrived([(s, START + nth * INTERVAL, float(s)) for s in range(3000)]))
    got = operator.take(arrived([(s, START + HOUR + 1, 0.0) for s in range(3000)]))

    assert [float(s) for s in range(3000)] == got.value.tolist()


def test_closed_hours_are_told_to_followers() -> None:
    """A series that is only followed closes its hours too."""
    operator = HourOperator(ZoneInfo("UTC"))
    operator.follow(0)
    operator.retime(0, INTERVAL)
    got = operator.take(arrived([*regular(1, 2.5), (0, START + HOUR + 1, 1.0)]))

    assert 0 == len(got)
    assert [2_500_000] == operator.closed.micro.tolist()
    assert [HOUR] == operator.closed.covered_ms.tolist()
