"""Weather: the sun's place, the stability table, spells, and independence of the asking."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from city.cityfile import City, Event
from sensors.weather import (
    Weather,
    WeatherState,
    pasquill_class,
    relative_humidity_percent,
    sun_elevation_deg,
    wind_from_deg,
)

START_MS = 1_780_272_000_000
HOUR_MS = 3_600_000
CLASSES = "ABCDEF"


def weather(*events: Event, seed: int = 1) -> Weather:
    """The weather of a city where only `events` happen."""
    city = City(city="town", districts=(), sites=(), events=events)
    return Weather(city, seed=seed, start_ms=START_MS)


def event(kind: str, **params: float) -> Event:
    """An event from two hours after the start that lasts a day."""
    return Event(id="one", kind=kind, target="town", at_s=7200, for_s=86400, params=params)


def year() -> NDArray[np.int64]:
    """Every seventh minute of a year."""
    return START_MS + np.arange(0, 365 * 24 * HOUR_MS, 7 * 60_000)


def arrays(state: WeatherState) -> dict[str, NDArray[np.float64]]:
    """Every array by its name."""
    return {name: getattr(state, name) for name in state.__struct_fields__}


class TestFormulas:
    """Formulas give the figures of their sources."""

    @given(st.floats(-40, 55))
    def test_saturated_air(self, celsius: float) -> None:
        """Air at its dew point is saturated."""
        at = np.array([celsius])

        assert relative_humidity_percent(at, at)[0] == pytest.approx(100.0)

    def test_humidity(self) -> None:
        """At 20 degC and a dew point of 9.3 degC the humidity is about 50 %."""
        actual = relative_humidity_percent(np.array([20.0]), np.array([9.3]))

        assert actual[0] == pytest.approx(50.0, abs=0.5)

    @pytest.mark.parametrize(
        ("east", "north", "bearing"), [(0, -1, 0), (-1, 0, 90), (0, 1, 180), (1, 0, 270)]
    )
    def test_wind_direction(self, east: float, north: float, bearing: float) -> None:
        """A wind has the bearing that it blows from."""
        assert bearing == pytest.approx(wind_from_deg(np.array([east]), np.array([north]))[0])

    @pytest.mark.parametrize(
        ("noon_ms", "elevation"),
        [
            (1_782_014_460_000, 90 - 31.82 + 23.44),
            (1_797_825_600_000, 90 - 31.82 - 23.44),
            (1_773_979_680_000, 90 - 31.82),
        ],
    )
    def test_sun_at_noon(self, noon_ms: int, elevation: float) -> None:
        """At noon of solstices and equinox the sun stands where declination puts it."""
        actual = sun_elevation_deg(np.array([noon_ms]), 119.97, 31.82)

        assert elevation == pytest.approx(actual[0], abs=0.5)

    def test_sun_at_midnight(self) -> None:
        """In the night the sun is below the horizon."""
        assert sun_elevation_deg(np.array([1_782_057_600_000]), 119.97, 31.82)[0] < -30


class TestStability:
    """The table of Pasquill."""

    @pytest.mark.parametrize(
        ("wind", "sun", "cloud", "expected"),
        [
            (1.5, 70, 0.0, "A"),
            (1.5, 50, 0.0, "A"),
            (1.5, 20, 0.0, "B"),
            (2.5, 50, 0.2, "B"),
            (4.0, 70, 0.0, "B"),
            (4.0, 20, 0.0, "C"),
            (5.5, 50, 0.0, "C"),
            (7.0, 70, 0.0, "C"),
            (7.0, 20, 0.0, "D"),
            (4.0, 50, 0.7, "C"),
            (2.5, -20, 0.7, "E"),
            (2.5, -20, 0.1, "F"),
            (4.0, -20, 0.7, "D"),
            (4.0, -20, 0.1, "E"),
            (7.0, -20, 0.1, "D"),
            (1.0, 5, 0.1, "F"),
            (1.0, 70, 1.0, "D"),
            (1.0, -20, 1.0, "D"),
        ],
    )
    def test_table(self, wind: float, sun: float, cloud: float, expected: str) -> None:
        """Wind, sun and cloud decide the class."""
        actual = pasquill_class(np.array([wind]), np.array([sun]), np.array([cloud]))[0]

        assert expected == CLASSES[actual]

    def test_by_day_and_night(self) -> None:
        """Unstable air needs sun, stable air the night."""
        state = weather().at(year())

        assert state.sun_elevation_deg[state.stability < 3].min() > 0
        assert state.sun_elevation_deg[state.stability > 3].max() <= 10


class TestYear:
    """What an eventless year is like."""

    def test_bounds(self) -> None:
        """Every figure stays within what the lower Yangtze plain knows."""
        state = weather().at(year())
        bounds = {
            "temperature_c": (-15, 42),
            "humidity_percent": (15, 100),
            "pressure_kpa": (98, 106),
            "cloud": (0, 1),
            "rain_mm_h": (0, 0),
            "lid": (0, 0),
        }

        for name, (low, high) in bounds.items():
            assert low <= arrays(state)[name].min(), name
            assert arrays(state)[name].max() <= high, name

    def test_wind(self) -> None:
        """The wind has a mean of about 1.9 m/s and more at 15 h than at 3 h."""
        ts = year()
        state = weather().at(ts)
        speed = np.hypot(state.wind_east_m_s, state.wind_north_m_s)
        hour = (ts // HOUR_MS + 8) % 24

        assert speed.mean() == pytest.approx(1.9, abs=0.3)
        assert speed[hour == 15].mean() > 1.4 * speed[hour == 3].mean()

    def test_correlated(self) -> None:
        """Wind an hour later is alike, half a day later it is not."""
        ts = START_MS + np.arange(0, 365 * 24 * HOUR_MS, HOUR_MS)
        east = weather().at(ts).wind_east_m_s

        assert np.corrcoef(east[1:], east[:-1])[0, 1] > 0.7
        assert np.corrcoef(east[12:], east[:-12])[0, 1] < 0.5

    def test_seeds(self) -> None:
        """Another seed is other weather."""
        ts = year()[:10]

        assert not np.array_equal(
            weather(seed=1).at(ts).temperature_c, weather(seed=2).at(ts).temperature_c
        )

    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.integers(0, 10**10), min_size=1, max_size=12))
    def test_asking(self, after_ms: list[int]) -> None:
        """Instants asked together or one by one, in any order, have the same weather."""
        here = weather(event("smog"), event("wind"))
        ts = START_MS + np.array(after_ms, dtype=np.int64)
        together = arrays(here.at(ts))

        for index in range(len(ts)):
            alone = arrays(here.at(ts[index : index + 1]))
            assert {name: row[index] for name, row in together.items()} == {
                name: row[0] for name, row in alone.items()
            }


class TestSpells:
    """Events that make weather."""

    def test_wind(self) -> None:
        """A wind event holds speed and direction once it has set in."""
        ts = START_MS + np.arange(3 * HOUR_MS, 26 * HOUR_MS, HOUR_MS)
        state = weather(event("wind", speed_m_s=4.0, from_deg=315.0)).at(ts)

        assert np.hypot(state.wind_east_m_s, state.wind_north_m_s) == pytest.approx(4.0)
        assert wind_from_deg(state.wind_east_m_s, state.wind_north_m_s) == pytest.approx(315.0)

    def test_rain(self) -> None:
        """Rain falls at its rate under a covered sky, the air humid."""
        state = weather(event("rain", rate_mm_h=8.0)).at(np.array([START_MS + 8 * HOUR_MS]))

        assert state.rain_mm_h[0] == pytest.approx(8.0)
        assert state.cloud[0] > 0.94
        assert state.humidity_percent[0] > 90
        assert state.stability[0] == 3

    def test_smog(self) -> None:
        """Smog stills the wind and closes the lid."""
        ts = START_MS + np.arange(6 * HOUR_MS, 26 * HOUR_MS, HOUR_MS)
        spared, struck = weather().at(ts), weather(event("smog")).at(ts)

        assert struck.lid == pytest.approx(1.0)
        np.testing.assert_allclose(struck.wind_east_m_s, 0.3 * spared.wind_east_m_s)

    @pytest.mark.parametrize("kind", ["rain", "smog", "wind"])
    def test_before_and_after(self, kind: str) -> None:
        """Before and long after a spell the weather is as it would have been."""
        ts = START_MS + HOUR_MS * np.array([0, 1, 2, 40, 100])
        spared, struck = arrays(weather().at(ts)), arrays(weather(event(kind)).at(ts))

        for name, values in spared.items():
            assert values.tolist() == struck[name].tolist(), name

    @pytest.mark.parametrize("kind", ["rain", "smog", "wind"])
    def test_gentle(self, kind: str) -> None:
        """No spell sets in at a blow."""
        ts = START_MS + np.arange(0, 40 * HOUR_MS, 10_000)
        before, after = arrays(weather().at(ts)), arrays(weather(event(kind)).at(ts))

        for name in ("wind_east_m_s", "temperature_c", "rain_mm_h", "lid"):
            change = after[name] - before[name]
            assert np.abs(np.diff(change)).max() < 0.05 * max(1.0, np.abs(change).max()), name
