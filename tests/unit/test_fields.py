"""What all fields share: courses over day and year, bounds, series, what is special of a place."""

from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from city.synthetic import synthetic_city
from sensors.engine import CityEngine, Group
from sensors.fields import (
    DailyProfile,
    LocalPart,
    Series,
    Spread,
    capped,
    local_hour,
    season,
)

START_MS = 1_780_272_000_000
DAY_MS = 86_400_000


def group_of(devices: int, shard: tuple[int, int] = (0, 1)) -> Group:
    """Micro stations, or a shard of them."""
    city = synthetic_city(devices, interval_s=10, seed=1, kinds=("air-micro",))
    (group,) = CityEngine(city, seed=1, start_ms=START_MS, shard=shard).groups
    return group


class TestCourses:
    """Days, years and bounds."""

    def test_local_hour(self) -> None:
        """Hours are local, summer time included."""
        winter, summer = 1_768_435_200_000, 1_784_073_600_000
        ts = np.array([winter, summer])

        assert local_hour(ts, ZoneInfo("Europe/Berlin")).tolist() == [1.0, 2.0]

    @given(st.lists(st.floats(0.1, 10), min_size=24, max_size=24))
    def test_profile_mean(self, hourly: list[float]) -> None:
        """A daily profile is 1 on the average of the day."""
        hours = np.arange(0, 24, 0.5)

        assert DailyProfile(hourly).at(hours).mean() == pytest.approx(1.0)

    def test_profile_is_closed(self) -> None:
        """A daily profile does not jump at midnight."""
        before, after = DailyProfile(range(1, 25)).at(np.array([23.999, 0.001]))

        assert before == pytest.approx(after, abs=0.01)

    def test_season(self) -> None:
        """The warmest time is late July."""
        days = np.arange(365, dtype=np.int64)
        newyear = 1_767_225_600_000

        assert 200 <= int(season(newyear + days * DAY_MS).argmax()) <= 210

    @given(st.floats(0, 1e6), st.floats(0.1, 1e3))
    def test_capped(self, value: float, cap: float) -> None:
        """A capped level never passes its cap, and keeps 98 % of what is below half of it."""
        actual = capped(np.array([value]), cap)[0]

        assert actual <= cap * (1 + 1e-12)
        assert value > cap / 2 or actual >= 0.98 * value


class TestSeries:
    """Knots and what lies between them."""

    @given(st.lists(st.integers(-(10**12), 10**13), min_size=1, max_size=20))
    def test_linear(self, instants: list[int]) -> None:
        """Between knots a series is linear, in any order of asking."""

        def knots(ts: NDArray[np.int64]) -> NDArray[np.float64]:
            return ts[:, None, None].astype(np.float64) * 3.0 / 1e6

        ts = np.array(instants, dtype=np.int64)

        expected = (3.0 * ts / 1e6).tolist()
        assert expected == pytest.approx(Series(60.0, knots).at(ts)[:, 0].tolist(), rel=1e-9)

    def test_sources(self) -> None:
        """Each instant can be asked of a source of its own."""

        def knots(ts: NDArray[np.int64]) -> NDArray[np.float64]:
            return np.broadcast_to(np.array([[1.0], [2.0], [3.0]]), (len(ts), 3, 1)).copy()

        ts = np.array([0, 10, 10**9], dtype=np.int64)
        sources = np.array([2, 0, 1], dtype=np.int64)

        assert Series(60.0, knots).at(ts, sources)[:, 0].tolist() == [3.0, 1.0, 2.0]


class TestLocalPart:
    """What is special of a place."""

    def test_spread(self) -> None:
        """Places differ by their spread, relative and absolute."""
        group = group_of(400)
        rows, names = np.arange(400, dtype=np.int64), ("one", "other", "same")
        spread = {"one": Spread(relative=0.1), "other": Spread(absolute=2.0)}
        values = np.full((400, 3), 50.0)
        LocalPart(group, 1, names, spread).apply(values, rows, np.full(400, START_MS))

        assert values[:, 0].std() == pytest.approx(5.0, rel=0.15)
        assert values[:, 1].std() == pytest.approx(2.0, rel=0.15)
        assert np.all(values[:, 2] == 50.0)

    def test_shard(self) -> None:
        """A shard's places are those of the whole."""
        whole, part = group_of(30), group_of(30, shard=(1, 3))
        parts = []
        for group in (whole, part):
            count = len(group.devices)
            values = np.full((count, 1), 50.0)
            local = LocalPart(group, 1, ("one",), {"one": Spread(relative=0.1)})
            local.apply(values, np.arange(count, dtype=np.int64), np.full(count, START_MS))
            parts.append(values[:, 0].tolist())

        assert parts[0][10:20] == parts[1]
