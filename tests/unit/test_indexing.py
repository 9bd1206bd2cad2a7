import math
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.hours import HourOperator
from alerts.indexing import INDEX_QUANTITIES, IndexOperator
from alerts.indices import INDEX_ROWS, nowcast
from alerts.signals import Arrived, Index, Signal
from city.quantities import QUANTITIES
from city.readings import Flag

MINUTE = 60_000
HOUR = 60 * MINUTE
START = 1_793_404_800_000
"""2026-10-31 00:00 UTC."""
ZONE = ZoneInfo("America/New_York")
INTERVAL = 20 * MINUTE
INDICES: tuple[Index, ...] = tuple(INDEX_ROWS)
DEVICES = 3
Reading = tuple[int, int, float]
Said = tuple[int, int, int, float]


def signal(index: Index, at_least: float = 0.75) -> Signal:
    """A signal of that index."""
    return Signal(stat="index", index=index, at_least=at_least)


def arrived(readings: list[Reading], first: int = 0) -> Arrived:
    """Readings as an operator gets them."""
    return Arrived(
        np.arange(first, first + len(readings), dtype=np.int64),
        np.array([series for series, _, _ in readings], dtype=np.int64),
        np.array([ts for _, ts, _ in readings], dtype=np.int64),
        np.array([value for _, _, value in readings], dtype=np.float64),
        np.full(len(readings), Flag.N, dtype=np.uint8),
    )


class Pair:
    """An index and the hours that it is made from, for some devices.

    Series 10 times the device and on are the quantities of the index, output the device's number.
    """

    def __init__(self, index: Index, devices: int = DEVICES, step: int = 1) -> None:
        self.hours = HourOperator(ZONE)
        self.indices = IndexOperator(index, ZONE, self.hours)
        for device in range(devices)[::step]:
            for nth, quantity in list(enumerate(INDEX_QUANTITIES[index]))[::step]:
                self.indices.name(10 * device + nth, quantity)
                self.indices.include(10 * device + nth, signal(index), device, INTERVAL)

    def told(self, readings: list[Reading], first: int = 0) -> list[Said]:
        """What it says, as rows, outputs, instants and values."""
        batch = arrived(readings, first)
        self.hours.take(batch)
        got = self.indices.take(batch)
        columns = (got.row.tolist(), got.series.tolist(), got.ts.tolist(), got.value.tolist())
        return list(zip(*columns, strict=True))

    def again(self, index: Index) -> "Pair":
        """The same after a restart, with everything included in another order."""
        other = Pair(index, step=-1)
        other.hours.restore(self.hours.capture())
        other.indices.restore(self.indices.capture())
        return other


@st.composite
def histories(draw: st.DrawFn) -> list[Reading]:
    """Messages of three devices, some of them without some quantities, with gaps."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spells = st.tuples(
        st.integers(1, 80),
        st.sampled_from((20, 20, 29, 61)),
        st.sampled_from((0, 50, 400, 1600, 9000)),
        st.sampled_from((0.0, 0.1, 0.5)),
        st.sampled_from((5, 150, 900)),
    )
    readings = []
    for device in range(DEVICES):
        ts = START + draw(st.integers(0, 60)) * MINUTE
        for count, step, gap, missing, highest in draw(st.lists(spells, max_size=3)):
            for _ in range(count):
                ts += step * MINUTE
                for nth in range(6):
                    if random.random() >= missing:
                        value = round(float(random.random()) * highest, 2)
                        readings.append((10 * device + nth, ts, value))
            ts += gap * MINUTE
    return sorted(readings, key=lambda reading: reading[1])


def hour_of(ts: int) -> int:
    """The clock hour of an instant, its end included."""
    return -(-ts // HOUR) - 1


class Device:
    """One device, followed reading by reading."""

    def __init__(self, index: Index) -> None:
        self.row = INDEX_ROWS[index]
        self.names = INDEX_QUANTITIES[index]
        self.open: dict[int, list[tuple[int, float]]] = {}
        self.before: dict[int, int] = {}
        self.covered: dict[int, int] = {}
        self.means: dict[tuple[int, int], float] = {}
        self.since: int | None = None
        self.seen: int | None = None
        self.standing = False

    def take(self, nth: int, ts: int, value: float) -> list[tuple[int, float]]:
        """Hours and their indices that a reading completes."""
        said = []
        if self.since is not None and ts > self.since + 10 * MINUTE:
            said += self.settle()
        hour, closes = hour_of(ts), False
        begin = max(self.before.get(nth, -(10**15)), ts - 3 * INTERVAL // 2)
        if nth in self.open and hour_of(self.open[nth][0][0]) < hour:
            closes = True
            self.close(nth, begin, hour)
        self.covered[nth] = self.covered.get(nth, 0) + ts - max(begin, hour * HOUR)
        self.open.setdefault(nth, []).append((ts, value))
        self.before[nth] = ts
        if closes and self.since is None and (self.seen is None or hour - 1 > self.seen):
            self.since = ts
        if closes and self.since is not None and not self.awaits():
            said += self.settle()
        return said

    def close(self, nth: int, begin: int, later: int) -> None:
        """End the hour of one series."""
        readings = self.open.pop(nth)
        hour = hour_of(readings[0][0])
        covered = self.covered.pop(nth) + max(0, (hour + 1) * HOUR - begin)
        if covered >= 45 * MINUTE and hour > later - 1 - 25:
            self.means[nth, hour] = round(sum(value for _, value in readings) / len(readings), 6)

    def awaits(self) -> bool:
        """Whether a series that was heard within a day has yet to close."""
        upto = hour_of(self.since or 0) - 1
        return any(upto - 25 < hour_of(readings[0][0]) <= upto for readings in self.open.values())

    def settle(self) -> list[tuple[int, float]]:
        """The indices of all hours that are over."""
        upto = hour_of(self.since or 0) - 1
        first = min([hour for _, hour in self.means] + [upto])
        begin = first if self.seen is None else self.seen + 1
        said = []
        for hour in range(max(begin, upto - 51), upto + 1):
            value = self.value(hour)
            if value is None:
                continue
            if self.standing or not math.isnan(value):
                said.append((hour, value))
            self.standing = not math.isnan(value)
        self.since, self.seen = None, upto
        return said

    def value(self, hour: int) -> float | None:
        """The index of one hour; None where none is due."""
        day, end_s = 0, (hour + 1) * 3600
        date = datetime.fromtimestamp(end_s - 1, ZONE).date()
        while datetime.fromtimestamp(end_s - 1 - 3600 * day, ZONE).date() == date:
            day += 1
        if datetime.fromtimestamp(end_s, ZONE).date() == date:
            if self.row.daily:
                return None
            day = 0
        made = {
            one.name: np.array([self.stat(one.stat, self.names.index(one.quantity), hour, day)])
            for one in self.row.indicators
        }
        return float(self.row.of(made).value[0])

    def stat(self, stat: str, nth: int, hour: int, day: int) -> float:
        """One statistic of the hourly means of one series."""
        last = [self.means.get((nth, hour - back), math.nan) for back in range(25)]

        def mean(hours: list[float], least: int) -> float:
            valid = [each for each in hours if not math.isnan(each)]
            return round(sum(valid) / len(valid), 6) if len(valid) >= least else math.nan

        if stat == "nowcast":
            return float(nowcast(np.array([last[:12]]))[0])
        if stat == "mda8":
            eights = [mean(last[at : at + 8], 6) for at in range(day - 7)]
            valid = [each for each in eights if not math.isnan(each)]
            enough = len(valid) >= 14 or max(valid, default=0) > 100
            return max(valid) if enough else math.nan
        if stat == "max-hour":
            largest = max([each for each in last[:day] if not math.isnan(each)], default=math.nan)
            return largest if not math.isnan(mean(last[:day], 20)) else math.nan
        width, least = {"hour": (1, 1), "hours-8": (8, 6), "hours-24": (24, 20), "day": (day, 20)}[
            stat
        ]
        return mean(last[:width], least)


def by_brute_force(index: Index, readings: list[Reading]) -> list[Said]:
    """What is to be said, device by device and reading by reading."""
    devices = [Device(index) for _ in range(DEVICES)]
    known = len(INDEX_QUANTITIES[index])
    said = []
    for row, (series, ts, value) in enumerate(readings):
        device, nth = divmod(series, 10)
        if nth < known:
            made = devices[device].take(nth, ts, value)
            said += [(row, device, (hour + 1) * HOUR, index) for hour, index in made]
    return said


@settings(max_examples=25, deadline=None)
@given(histories(), st.sampled_from(INDICES))
def test_indices_are_those_of_a_brute_force_search(readings: list[Reading], index: Index) -> None:
    """Every hour and day has the index of its means, at the row that completed it."""
    expected = by_brute_force(index, readings)
    got = Pair(index).told(readings)

    assert [each[:3] for each in expected] == [each[:3] for each in got]
    assert [each[3] for each in expected] == pytest.approx(
        [each[3] for each in got], abs=1e-9, nan_ok=True
    )


@settings(max_examples=25, deadline=None)
@given(histories(), st.sampled_from(INDICES), st.lists(st.integers(0, 1500), max_size=4))
def test_batches_and_restarts_do_not_matter(
    readings: list[Reading], index: Index, cuts: list[int]
) -> None:
    """Exactly the same is said however the readings are split, also within a message."""
    whole = Pair(index).told(readings)
    edges = [0, *sorted(min(cut, len(readings)) for cut in cuts), len(readings)]
    parts, pair = [], Pair(index)
    for begin, end in pairwise(edges):
        parts.extend(pair.told(readings[begin:end], begin))
        pair = pair.again(index)

    assert repr(whole) == repr(parts)


def messages(hours: int, *values: float, begin: int = START) -> list[Reading]:
    """A message of device 0 every 20 minutes from `begin` on, the last one at the end."""
    return [
        (nth, begin + ts * INTERVAL, value)
        for ts in range(3 * hours + 1)
        for nth, value in enumerate(values)
    ]


AIR = (60.0, 10.0, 10.0, 20.0, 0.5, 50.0)
"""PM2.5, PM10, SO2, NO2, CO, O3."""


def test_the_last_mean_of_a_message_completes_the_index() -> None:
    """The index of an hour is at the row of the sixth pollutant of the first later message."""
    history = [*messages(1, *AIR), *((nth, START + HOUR + 1, 1.0) for nth in range(6))]
    got = Pair("aqi-2026").told(history)

    assert [(len(history) - 1, 0, START + HOUR, 100.0)] == got[-1:]


def test_an_incomplete_message_is_completed_by_a_later_one() -> None:
    """Where a pollutant is missing in the message, its next reading completes the index."""
    late = START + HOUR + 1
    history = [*messages(1, *AIR), *((nth, late, 1.0) for nth in range(5)), (5, late + MINUTE, 1.0)]
    got = Pair("aqi-2026").told(history)

    assert [(len(history) - 1, 0, START + HOUR, 100.0)] == got[-1:]


def test_a_missing_pollutant_is_not_waited_for_for_long() -> None:
    """Ten minutes later the index is that of the others."""
    late = START + HOUR + 1
    history = [*messages(1, 160.0, *AIR[1:]), *((nth, late, 1.0) for nth in range(5))]
    pair = Pair("aqi-2026")
    first = pair.told([*history, (0, late + 10 * MINUTE, 1.0)])
    then = pair.told([(0, late + 10 * MINUTE + 1, 1.0)])

    assert [] == first
    assert [(0, 0, START + HOUR, 210.0)] == then


def test_a_pollutant_that_died_delays_nothing_after_a_day() -> None:
    """A series that was heard last more than a day ago is not waited for."""
    history = [*messages(1, *AIR), *messages(30, 160.0, *AIR[1:5], begin=START + HOUR + INTERVAL)]
    got = Pair("aqi-2026").told(history)
    row, _, ts, _ = got[-1]

    assert 4 == history[row][0]
    assert START + 31 * HOUR == ts


def test_an_incomplete_aqi_is_told_above_100_only() -> None:
    """A micro station with particles only has an AQI when the air is bad."""
    clean, bad = messages(2, *AIR[:2]), messages(2, 160.0, 10.0)

    assert [] == Pair("aqi-2026").told(clean)
    assert 210.0 == Pair("aqi-2026").told(bad)[-1][3]


def test_silence_ends_an_index() -> None:
    """After a gap the index is NaN once."""
    history = [*messages(1, *AIR), *messages(0, *AIR, begin=START + 20 * HOUR)]
    got = Pair("aqi-2026").told(history)

    assert [(START + HOUR, "100.0"), (START + 2 * HOUR, "nan")] == [
        (ts, str(value)) for _, _, ts, value in got[-2:]
    ]


def test_the_parts_of_the_last_index() -> None:
    """The sub-indices of the last index are kept, also through a restart."""
    pair = Pair("aqi-2026", devices=1)
    pair.told([*messages(2, *AIR)])
    parts = pair.again("aqi-2026").indices.last_parts(0)

    assert {
        "pm25_1h": 100,
        "pm10_1h": 10,
        "so2_1h": 4,
        "no2_1h": 10,
        "co_1h": 5,
        "o3_1h": 16,
    } == parts
    assert {} == pair.indices.last_parts(5)


def test_river_class_by_the_hour() -> None:
    """A river station has the class of its worst factor of the hour."""
    got = Pair("river-class").told(messages(2, 7.0, 8.0, 1.0, 1.2, 0.05))

    assert {4.0} == {value for _, _, _, value in got}


def test_an_excluded_device_is_silent() -> None:
    """Without any of its series a device has no index, and its hours are not followed."""
    pair = Pair("aqi-2026", devices=1)
    for nth in range(6):
        pair.indices.exclude(nth, signal("aqi-2026"))
    pair.indices.exclude(0, signal("aqi-2026"))
    got = pair.told(messages(2, *AIR))

    assert [] == got
    assert 0 == len(pair.hours.closed.row)


def test_two_signals_of_one_index() -> None:
    """Two rules may ask for different shares of an hour."""
    pair = Pair("river-class", devices=1)
    for nth in range(5):
        pair.indices.include(nth, signal("river-class", 0.25), 7, INTERVAL)
    got = pair.told([(0, START + INTERVAL, 7.0), (0, START + 3 * HOUR, 7.0)])

    assert [7, 7] == [out for _, out, _, _ in got]


def test_index_quantities_are_of_one_domain() -> None:
    """An index is made from quantities of air or of water."""
    domains = {
        index: {QUANTITIES[quantity].domain for quantity in quantities}
        for index, quantities in INDEX_QUANTITIES.items()
    }

    assert {1} == {len(each) for each in domains.values()}
