import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alerts.indices import (
    BREAKPOINTS,
    CLASS_LIMITS,
    INDEX_ROWS,
    MOLAR_VOLUME_L,
    SEGMENTS,
    Breakpoints,
    Edition,
    aqi_daily,
    aqi_hourly,
    iaqi,
    nowcast,
    river_class,
    rounded,
    us_epa_2024,
)
from alerts.signals import Index
from city.quantities import QUANTITIES

CLEAN = {"pm25": 10.0, "pm10": 20.0, "so2": 10.0, "no2": 20.0, "co": 0.5, "o3": 50.0}
HOURS = st.lists(st.none() | st.floats(0, 900), min_size=12, max_size=12)


def of(**concentrations: float) -> dict[str, NDArray[np.float64]]:
    """Concentrations of one device."""
    return {name: np.array([float(value)]) for name, value in concentrations.items()}


def hourly(edition: Edition, **changed: float) -> float:
    """The real-time AQI of clean air, but for what is changed."""
    index: Index = "aqi-2026" if edition == 2026 else "aqi-2012"
    names = {row.name: row.quantity for row in INDEX_ROWS[index].indicators}
    clean = {name: CLEAN[quantity] for name, quantity in names.items()}
    return float(aqi_hourly(edition, of(**clean | changed)).value[0])


def by_formula(concentration: float, table: Breakpoints) -> float:
    """The sub-index by eq. 1 of HJ 633, in plain arithmetic on a rounded concentration."""
    levels = (0, 50, 100, 150, 200, 300, 400, 500)
    for low, high, first, last in zip(
        table.concentrations, table.concentrations[1:], levels, levels[1:], strict=False
    ):
        if concentration <= high:
            exact = (last - first) * (concentration - low) / (high - low) + first
            return math.ceil(round(exact, 9))
    return table.beyond


@pytest.mark.parametrize(
    ("pm25", "of_2012", "of_2026"),
    [
        (10, 15, 15), (35, 50, 50), (45, 63, 70), (60, 82, 100), (61, 83, 101), (75, 100, 114),
        (80, 107, 119), (115, 150, 150), (160, 210, 210), (600, 500, 500),
    ],
)  # fmt: skip
def test_pm25_vectors(pm25: float, of_2012: float, of_2026: float) -> None:
    """The sub-index of PM2.5 is that of the vectors for both editions of HJ 633."""
    got = [
        iaqi(np.array([float(pm25)]), BREAKPOINTS[edition]["pm25_24h"])[0]
        for edition in (2012, 2026)
    ]

    assert [of_2012, of_2026] == got


@pytest.mark.parametrize(
    ("pm25", "index"),
    [(9, 50), (12, 56), (35.4, 100), (35.9, 102), (55.5, 151), (100, 182), (225.5, 301),
     (325.4, 500), (400, 649)],
)  # fmt: skip
def test_us_epa_vectors(pm25: float, index: float) -> None:
    """The US EPA index of PM2.5 is that of the vectors, also above the table."""
    got = us_epa_2024(of(pm25_nowcast=pm25)).value[0]

    assert index == got


@given(st.floats(0, 3000), st.sampled_from((2012, 2026)), st.data())
def test_iaqi_is_the_formula(concentration: float, edition: Edition, data: st.DataObject) -> None:
    """A sub-index is eq. 1 of HJ 633, rounded up, for every table."""
    table = BREAKPOINTS[edition][data.draw(st.sampled_from(sorted(BREAKPOINTS[edition])))]
    exact = rounded(np.array([concentration]), table.decimals)

    assert by_formula(float(exact[0]), table) == pytest.approx(
        iaqi(np.array([concentration]), table)[0], nan_ok=True
    )


@pytest.mark.parametrize(
    ("value", "decimals", "result"),
    [(2.5, 0, 2), (3.5, 0, 4), (2.51, 0, 3), (0.25, 1, 0.2), (0.35, 1, 0.4)],
)
def test_a_half_goes_to_the_even_neighbour(value: float, decimals: int, result: float) -> None:
    """Concentrations are rounded as GB/T 8170 says."""
    got = rounded(np.array([value]), decimals)[0]

    assert result == got


def test_a_concentration_is_rounded_before_it_is_indexed() -> None:
    """A PM2.5 of 60.4 is 60 and so 100; 60.6 is 61 and so 101."""
    got = [hourly(2026, pm25_1h=60.4), hourly(2026, pm25_1h=60.6)]

    assert [100, 101] == got


def test_one_bad_hour_of_particles_counts_in_2026_only() -> None:
    """The 2026 real-time index takes the hour, that of 2012 the mean over 24 hours."""
    got = hourly(2026, pm25_1h=160), hourly(2012, pm25_24h=35)

    assert (210, 50) == got


def test_overflow_of_2026() -> None:
    """In 2026 an SO2 above 800 is 200, an 8-hour ozone above 800 is 300."""
    daily = {"pm25_24h": 1, "pm10_24h": 1, "so2_24h": 1, "no2_24h": 1, "co_24h": 1}
    got = hourly(2026, so2_1h=801), aqi_daily(2026, of(**daily, o3_8h=801)).value[0]

    assert (200, 300) == got


def test_overflow_of_2012() -> None:
    """In 2012 the 24-hour SO2 stands for an hour above 800, the 1-hour ozone for 8 hours above."""
    got = hourly(2012, so2_1h=801, so2_24h=1600), hourly(2012, o3_8h=801, o3_1h=1000)

    assert (300, 400) == got


def test_the_24_hour_so2_counts_only_on_overflow() -> None:
    """Up to 800 the SO2 of the hour is what counts in 2012."""
    got = aqi_hourly(2012, of(so2_1h=800, so2_24h=1600)).parts["so2_24h"]

    assert np.isnan(got).all()


@pytest.mark.parametrize("edition", [2012, 2026])
def test_an_incomplete_aqi_is_published_above_100_only(edition: Edition) -> None:
    """Without ozone an AQI of 100 is not available, one of 101 is."""
    bare = {"o3_1h": math.nan, "o3_8h": math.nan}
    got = [hourly(edition, so2_1h=500, **bare), hourly(edition, so2_1h=503, **bare)]

    assert math.isnan(got[0])
    assert 101 == got[1]


def test_missing_pollutants_may_be_left_out() -> None:
    """A key that is not there is a missing concentration."""
    got = aqi_hourly(2026, of(pm25_1h=115)).value[0]

    assert 150 == got


def test_equal_main_pollutants_are_all_named() -> None:
    """Those that make the index are all main pollutants."""
    full = {"pm25_1h": 60, "pm10_1h": 120, "so2_1h": 1, "no2_1h": 1, "co_1h": 1, "o3_1h": 1}
    named = aqi_hourly(2026, of(**full)).primary()

    assert {"pm25_1h", "pm10_1h"} == {name for name, it in named.items() if it[0]}


def test_good_air_has_no_main_pollutant() -> None:
    """Up to 50 none is named."""
    clean = {"pm25_1h": 35, "pm10_1h": 1, "so2_1h": 1, "no2_1h": 1, "co_1h": 1, "o3_1h": 1}
    named = aqi_hourly(2026, of(**clean)).primary()

    assert not any(it[0] for it in named.values())


def test_carbon_monoxide_is_in_milligrams() -> None:
    """10 mg/m3 of CO over an hour is an AQI of 100."""
    got = hourly(2026, co_1h=10)

    assert 100 == got


def test_the_2012_day_takes_both_ozones() -> None:
    """The daily AQI of 2012 is also that of the largest hour of ozone, that of 2026 is not."""
    day = of(pm25_24h=1, pm10_24h=1, so2_24h=1, no2_24h=1, co_24h=1, o3_8h=100, o3_1h=300)
    got = aqi_daily(2012, day).value[0], aqi_daily(2026, day).value[0]

    assert (150, 50) == got


def ug_of_ppb(ppb: float, molar_mass: float) -> float:
    """A concentration in ug/m3 at 298.15 K and 1013.25 hPa."""
    return ppb * molar_mass / MOLAR_VOLUME_L


def test_molar_volume() -> None:
    """A mole of gas takes 24.465 L at 298.15 K and 1013.25 hPa."""
    assert pytest.approx(24.4654, abs=1e-4) == MOLAR_VOLUME_L


@pytest.mark.parametrize(
    ("name", "concentration", "index"),
    [
        ("o3_8h", ug_of_ppb(70.01, 47.997), 100),
        ("o3_8h", ug_of_ppb(70.99, 47.997), 100),
        ("o3_8h", ug_of_ppb(71.01, 47.997), 101),
        ("no2_1h", ug_of_ppb(100.9, 46.005), 100),
        ("so2_1h", ug_of_ppb(76.1, 64.058), 101),
        ("co_8h", ug_of_ppb(9.41, 28.010), 100),
        ("pm10_nowcast", 154.9, 100),
    ],
)
def test_us_epa_units_and_truncation(name: str, concentration: float, index: float) -> None:
    """Gases are converted to ppb or ppm and truncated, particles truncated."""
    got = us_epa_2024(of(**{name: concentration})).value[0]

    assert index == got


def test_us_epa_ozone_beyond_its_8_hour_table() -> None:
    """Above 0.200 ppm the 1-hour ozone counts alone; below 0.125 ppm it does not count at all."""
    beyond = of(o3_8h=ug_of_ppb(250, 47.997), o3_1h=ug_of_ppb(405, 47.997))
    below = of(o3_1h=ug_of_ppb(124, 47.997))
    got = us_epa_2024(beyond).value[0], us_epa_2024(below).value[0]

    assert 301 == got[0]
    assert math.isnan(got[1])


@pytest.mark.parametrize(
    ("hour_ppb", "day_ppb", "index"),
    [(304, 700, 200), (310, 100, 200), (310, 305, 201), (310, math.nan, 200)],
)
def test_us_epa_so2_above_200_is_of_the_day(hour_ppb: float, day_ppb: float, index: float) -> None:
    """From 305 ppb the 24-hour mean of SO2 counts, and 200 at least."""
    hour, day = (ug_of_ppb(ppb + 0.1, 64.058) for ppb in (hour_ppb, day_ppb))
    got = us_epa_2024(of(so2_1h=hour, so2_24h=day)).value[0]

    assert index == got


def by_definition(hours: list[float | None]) -> float:
    """The NowCast in plain arithmetic."""
    if sum(hour is not None for hour in hours[:3]) < 2:
        return math.nan
    valid = [(age, hour) for age, hour in enumerate(hours) if hour is not None]
    highest, lowest = max(hour for _, hour in valid), min(hour for _, hour in valid)
    weight = max(0.5, 1 - (highest - lowest) / highest) if highest else 1.0
    total = sum(weight**age * hour for age, hour in valid)
    return total / sum(weight**age for age, _ in valid)


@given(st.lists(HOURS, min_size=1, max_size=5))
def test_nowcast_is_its_definition(devices: list[list[float | None]]) -> None:
    """NowCast is the weighted mean of the document, NaN without two of the last three hours."""
    hours = np.array([[math.nan if h is None else h for h in device] for device in devices])

    assert [by_definition(device) for device in devices] == pytest.approx(
        nowcast(hours).tolist(), rel=1e-6, abs=1e-9, nan_ok=True
    )


@pytest.mark.parametrize(
    ("factors", "worst"),
    [
        ({"dissolved_oxygen": 7.5}, 1), ({"dissolved_oxygen": 7.49}, 2), ({"dissolved_oxygen": 2}, 5),
        ({"dissolved_oxygen": 1.9}, 6), ({"codmn": 2}, 1), ({"codmn": 2.1}, 2), ({"codmn": 15.1}, 6),
        ({"ammonia_n": 1.0}, 3), ({"total_p": 0.3}, 4), ({"ph": 6}, 1), ({"ph": 9.01}, 6),
        ({"ph": 7, "codmn": 5, "total_p": 0.35}, 5), ({"ph": math.nan}, math.nan),
    ],
)  # fmt: skip
def test_river_class_is_of_the_worst_factor(factors: dict[str, float], worst: float) -> None:
    """A limit belongs to its class; the worst factor makes the class of the river."""
    got = river_class(of(**factors)).value[0]

    assert worst == pytest.approx(got, nan_ok=True)


@pytest.mark.parametrize(
    "row", [*SEGMENTS.values(), *CLASS_LIMITS.values(), *BREAKPOINTS[2026].values()]
)
def test_every_table_says_where_it_is_from(row: Any) -> None:
    """A table names its standard, its table and its grade of evidence."""
    assert row.standard
    assert row.table
    assert row.grade in "ABCDX"


def test_indices_are_made_from_quantities_of_the_city() -> None:
    """Every indicator is of a known quantity."""
    named = {indicator.quantity for row in INDEX_ROWS.values() for indicator in row.indicators}

    assert set() == named - set(QUANTITIES)
