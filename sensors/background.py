"""The regional background of the air: what the wind brings to the whole city alike.

Every pollutant is log-normal around its course over the day and the year. Its noise is made of
stagnation that all share, of the wind's stillness, and of a part of its own. Shapes are those of
the Beijing multi-site data of 2013 to 2017 (urban stations), levels those of 2025.
"""

from typing import Final
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray

from sensors.fields import HOUR_S, DailyProfile, YearlyProfile, local_hour
from sensors.randomness import Octave, Process
from sensors.weather import WeatherState

_FINE_DAY: Final = (
    93.0, 92.1, 90.4, 88.0, 85.2, 81.9, 79.6, 78.2, 79.0, 79.7, 80.0, 80.3,
    79.6, 79.2, 78.4, 77.1, 76.7, 77.9, 80.7, 85.5, 90.2, 93.1, 93.6, 93.6,
)  # fmt: skip
_TRAFFIC_DAY: Final = (
    67.1, 65.3, 63.3, 62.1, 60.8, 58.7, 58.7, 60.1, 61.7, 59.8, 56.6, 52.9,
    49.1, 45.3, 42.6, 41.9, 42.6, 46.1, 52.2, 59.0, 64.4, 67.6, 69.1, 68.7,
)  # fmt: skip
_OZONE_DAY: Final = (
    39.0, 35.4, 31.6, 28.9, 27.8, 25.6, 24.3, 22.9, 24.9, 32.5, 44.2, 57.9,
    72.6, 86.7, 97.2, 102.0, 102.5, 98.6, 90.2, 78.8, 66.9, 55.9, 47.8, 42.6,
)  # fmt: skip
_FINE_YEAR: Final = (99.1, 90.2, 97.6, 74.7, 65.5, 73.2, 74.6, 56.3, 64.6, 96.1, 100.7, 114.0)
_COARSE_YEAR: Final = (21.3, 16.8, 44.1, 47.0, 47.5, 18.6, 13.9, 19.5, 21.2, 23.2, 26.2, 23.1)
_NO2_YEAR: Final = (68.0, 55.8, 66.7, 52.9, 48.5, 46.3, 42.4, 43.3, 54.3, 68.3, 67.6, 73.9)
_OZONE_YEAR: Final = (25.8, 39.1, 48.9, 68.1, 90.4, 93.8, 94.1, 87.8, 53.0, 27.5, 18.0, 19.1)
_SO2_YEAR: Final = (34.0, 30.5, 30.6, 15.5, 15.5, 8.9, 6.1, 5.0, 7.0, 9.5, 16.2, 27.9)
_CO_YEAR: Final = (19.8, 14.5, 13.9, 8.8, 8.5, 10.7, 9.4, 8.8, 9.9, 12.2, 17.9, 23.8)


class Pollutant(msgspec.Struct, frozen=True, kw_only=True):
    """The background of one pollutant, in its canonical unit.

    `spread` is the standard deviation of the logarithm, `shared` and `still` the correlations of
    that with the stagnation of the air over days and with the stillness of the wind now. `cap`
    bounds the background: at most three quarters of the hourly limit of GB 3095-2026 class 2 (of
    the concentration at AQI 150 for the sum of particulates). `day_left` is the power of the
    daily course that wind does not bring by itself. `smog` is what full smog adds, `washed` how
    strongly rain takes it out [h/mm].
    """

    name: str
    mean: float
    spread: float
    shared: float
    still: float
    cap: float
    day: tuple[float, ...]
    year: tuple[float, ...]
    day_left: float
    smog: float = 0.0
    washed: float = 0.0


BACKGROUND: Final = (
    Pollutant(name="pm25", mean=29.0, spread=0.80, shared=0.90, still=0.28, cap=86.0,
              day=_FINE_DAY, day_left=1.0, year=_FINE_YEAR, smog=170.0, washed=0.10),
    Pollutant(name="coarse", mean=12.5, spread=1.00, shared=0.15, still=-0.20, cap=70.0,
              day=_FINE_DAY, day_left=1.0, year=_COARSE_YEAR, smog=150.0, washed=0.15),
    Pollutant(name="so2", mean=7.0, spread=0.65, shared=0.55, still=0.20, cap=100.0,
              day=_FINE_DAY, day_left=1.0, year=_SO2_YEAR, smog=30.0, washed=0.05),
    Pollutant(name="no2", mean=22.0, spread=0.55, shared=0.70, still=0.42, cap=120.0,
              day=_TRAFFIC_DAY, day_left=0.75, year=_NO2_YEAR, smog=60.0, washed=0.01),
    Pollutant(name="co", mean=0.55, spread=0.55, shared=0.85, still=0.30, cap=5.0,
              day=_FINE_DAY, day_left=1.0, year=_CO_YEAR, smog=1.2),
    Pollutant(name="o3", mean=50.0, spread=0.60, shared=0.08, still=-0.34, cap=150.0,
              day=_OZONE_DAY, day_left=1.05, year=_OZONE_YEAR),
)  # fmt: skip
"""Levels of 2025; shapes, correlations and signs from the Beijing tables; `coarse` is what PM10 has
beyond PM2.5, its year that of the difference. Effects of smog and rain are engineering defaults."""

TITRATED: Final = 0.75
"""How far what is special to NO2 shows, reversed, in ozone: NO eats it."""

OZONE_LOST: Final = 0.4
"""The share of ozone that full smog takes: less sun, more NO (engineering default)."""

_SYNOPTIC: Final = (
    Octave(1.5 * HOUR_S, 0.03),
    Octave(4 * HOUR_S, 0.06),
    Octave(8 * HOUR_S, 0.14),
    Octave(16 * HOUR_S, 0.23),
    Octave(48 * HOUR_S, 0.54),
)
"""Fitted to the autocorrelation of PM2.5: no return after a day."""

_OWN: Final = (
    Octave(1.5 * HOUR_S, 0.12),
    Octave(4 * HOUR_S, 0.22),
    Octave(8 * HOUR_S, 0.21),
    Octave(16 * HOUR_S, 0.12),
    Octave(72 * HOUR_S, 0.33),
)
_NAMES: Final = tuple(row.name for row in BACKGROUND)
_OZONE: Final = _NAMES.index("o3")
_OXIDES: Final = _NAMES.index("no2")
_DAYS: Final = tuple(DailyProfile(row.day) for row in BACKGROUND)
_YEARS: Final = tuple(YearlyProfile(row.year) for row in BACKGROUND)


class Background:
    """The background over time: a pure function of the instant and the weather."""

    def __init__(self, seed: int, zone: ZoneInfo) -> None:
        self._zone = zone
        self._stagnation = Process(seed, "air/stagnation", _SYNOPTIC)
        self._own = Process(seed, "air/pollutants", _OWN, columns=len(BACKGROUND))

    def at(self, ts: NDArray[np.int64], weather: WeatherState) -> list[NDArray[np.float64]]:
        """Each pollutant of `BACKGROUND` at `ts`, shape (m,), before its cap and before smog."""
        hour = local_hour(ts, self._zone)
        columns = [
            row.mean
            * day.at(hour) ** row.day_left
            * year.at(ts)
            * np.exp(row.spread * noise - 0.5 * row.spread**2)
            / (1.0 + row.washed * weather.rain_mm_h)
            for row, day, year, noise in zip(
                BACKGROUND, _DAYS, _YEARS, self._noise(ts, weather), strict=True
            )
        ]
        columns[_OZONE] *= 1.0 - OZONE_LOST * weather.lid
        return columns

    def _noise(self, ts: NDArray[np.int64], weather: WeatherState) -> list[NDArray[np.float64]]:
        """About standard normal noise, correlated as the pollutants are."""
        rows = np.zeros_like(ts)
        stagnation = np.ascontiguousarray(self._stagnation.at(rows, ts)[:, 0])
        own = np.ascontiguousarray(self._own.at(rows, ts).T)
        own[_OZONE] = np.sqrt(1.0 - TITRATED**2) * own[_OZONE] - TITRATED * own[_OXIDES]
        still = stillness(np.hypot(weather.wind_east_m_s, weather.wind_north_m_s))
        return [
            row.shared * stagnation
            + row.still * still
            + np.sqrt(1.0 - row.shared**2 - row.still**2) * alone
            for row, alone in zip(BACKGROUND, own, strict=True)
        ]


def stillness(wind_m_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """How still the wind is, about standard normal over a year: -2 in a gale, 2 in a calm."""
    logarithm = np.log((wind_m_s + 0.5) / 2.3) / 0.45
    return -np.clip(logarithm, -2.0, 2.0)
