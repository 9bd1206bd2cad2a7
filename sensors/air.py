"""The air over the city: pollutants and weather.

First version of the field: daily courses and autocorrelated noise that the city shares, and a
small part of each station's own. Shapes are those of the Beijing multi-site data of 2013 to 2017
(urban stations); levels are scaled to those of 2025, by 0.35 for PM2.5.
"""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import City
from sensors.events import Episodes
from sensors.fields import (
    HOUR_S,
    DailyProfile,
    Group,
    LocalPart,
    Series,
    Spread,
    capped,
    local_hour,
    season,
)
from sensors.randomness import Octave, Process

KNOT_S: Final = 60.0

_FINE: Final = (
    93.0, 92.1, 90.4, 88.0, 85.2, 81.9, 79.6, 78.2, 79.0, 79.7, 80.0, 80.3,
    79.6, 79.2, 78.4, 77.1, 76.7, 77.9, 80.7, 85.5, 90.2, 93.1, 93.6, 93.6,
)  # fmt: skip
_TRAFFIC: Final = (
    67.1, 65.3, 63.3, 62.1, 60.8, 58.7, 58.7, 60.1, 61.7, 59.8, 56.6, 52.9,
    49.1, 45.3, 42.6, 41.9, 42.6, 46.1, 52.2, 59.0, 64.4, 67.6, 69.1, 68.7,
)  # fmt: skip
_OZONE: Final = (
    39.0, 35.4, 31.6, 28.9, 27.8, 25.6, 24.3, 22.9, 24.9, 32.5, 44.2, 57.9,
    72.6, 86.7, 97.2, 102.0, 102.5, 98.6, 90.2, 78.8, 66.9, 55.9, 47.8, 42.6,
)  # fmt: skip


class Pollutant(msgspec.Struct, frozen=True):
    """The background of one pollutant, in its canonical unit.

    `spread` is the standard deviation of the logarithm, `shared` the correlation of that with the
    stagnation of the air, `cap` a bound that the background never reaches: at most three quarters
    of the hourly limit of GB 3095-2026 class 2 (PM: of the concentration at AQI 150).
    """

    quantity: str
    mean: float
    spread: float
    shared: float
    cap: float
    hourly: tuple[float, ...]


POLLUTANTS: Final = (
    Pollutant("pm25", 28.0, 0.55, 0.95, 80.0, _FINE),
    Pollutant("pm10", 48.0, 0.50, 0.90, 150.0, _FINE),
    Pollutant("so2", 7.0, 0.45, 0.60, 350.0, _FINE),
    Pollutant("no2", 22.0, 0.40, 0.75, 140.0, _TRAFFIC),
    Pollutant("co", 0.55, 0.35, 0.85, 7.0, _FINE),
    Pollutant("o3", 58.0, 0.30, -0.30, 145.0, _OZONE),
)
"""Levels of 2025; shapes, correlations and signs from the Beijing tables."""

LOCAL: Final = {
    "pm25": Spread(relative=0.06),
    "pm10": Spread(relative=0.08),
    "so2": Spread(relative=0.10),
    "no2": Spread(relative=0.10),
    "co": Spread(relative=0.08),
    "o3": Spread(relative=0.05),
    "temperature": Spread(absolute=0.4),
    "humidity": Spread(absolute=1.5),
    "wind_east": Spread(absolute=0.25),
    "wind_north": Spread(absolute=0.25),
}
"""What a place adds to its city (engineering default)."""

_SLOW: Final = (
    Octave(48 * HOUR_S, 0.40),
    Octave(18 * HOUR_S, 0.30),
    Octave(6 * HOUR_S, 0.20),
    Octave(1.5 * HOUR_S, 0.10),
)
_GUSTY: Final = (Octave(12 * HOUR_S, 0.6), Octave(2 * HOUR_S, 0.25), Octave(600.0, 0.15))
_COLUMNS: Final = (
    *(pollutant.quantity for pollutant in POLLUTANTS),
    "temperature",
    "humidity",
    "wind_east",
    "wind_north",
)


def relative_humidity_percent(
    temperature_c: NDArray[np.float64], dew_point_c: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Relative humidity [%] from air temperature and dew point [degC].

    Ratio of Magnus saturation pressures over water, valid from -45 to 60 degC [1].

    References:
        [1] WMO No. 8, Guide to Instruments and Methods of Observation, annex 4.B.
    """
    exponent = 17.62 * dew_point_c / (243.12 + dew_point_c)
    exponent -= 17.62 * temperature_c / (243.12 + temperature_c)
    ratio: NDArray[np.float64] = 100.0 * np.exp(exponent)
    return np.clip(ratio, 0.0, 100.0)


def wind_from_deg(
    east_m_s: NDArray[np.float64], north_m_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The direction [deg, clockwise from north] from which a wind of these components blows."""
    bearing: NDArray[np.float64] = np.degrees(np.arctan2(-east_m_s, -north_m_s)) % 360.0
    return bearing


class AirField:
    """Pollutants, temperature, humidity and wind over one city."""

    def __init__(self, city: City, *, seed: int, start_ms: int) -> None:
        self._city = city
        self._seed = seed
        self._start_ms = start_ms
        self._zone = city.zone
        self._stagnation = Process(seed, "air/stagnation", _SLOW)
        self._own = Process(seed, "air/pollutants", _SLOW, columns=len(POLLUTANTS))
        self._weather = Process(seed, "air/weather", _SLOW, columns=2)
        self._wind = Process(seed, "air/wind", _GUSTY, columns=2)
        self.series = Series(KNOT_S, self._knots)

    def probe(self, group: Group) -> "AirProbe":
        """The air at the places of `group`."""
        return AirProbe(self.series, self._city, group, seed=self._seed, start_ms=self._start_ms)

    def _knots(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        rows = np.zeros(len(ts), dtype=np.int64)
        hour = local_hour(ts, self._zone)
        columns = (*self._pollutants(rows, ts, hour), *self._climate(rows, ts, hour))
        return np.stack(columns, axis=1)[:, None, :]

    def _pollutants(
        self, rows: NDArray[np.int64], ts: NDArray[np.int64], hour: NDArray[np.float64]
    ) -> list[NDArray[np.float64]]:
        """The background of each pollutant: log-normal around its daily course, below its cap."""
        shared = self._stagnation.at(rows, ts)[:, 0]
        own = self._own.at(rows, ts)
        columns = []
        for index, row in enumerate(POLLUTANTS):
            noise = row.shared * shared + np.sqrt(1.0 - row.shared**2) * own[:, index]
            level = row.mean * DailyProfile(row.hourly).at(hour)
            level = level * np.exp(row.spread * noise - 0.5 * row.spread**2)
            columns.append(capped(level, row.cap))
        return columns

    def _climate(
        self, rows: NDArray[np.int64], ts: NDArray[np.int64], hour: NDArray[np.float64]
    ) -> list[NDArray[np.float64]]:
        """Temperature [degC], humidity [%] and the wind's components [m/s]."""
        weather = self._weather.at(rows, ts)
        day = np.cos(2.0 * np.pi * (hour - 15.0) / 24.0)
        mean_c = 16.5 + 12.0 * season(ts) + 2.0 * weather[:, 0]
        temperature_c = mean_c + 4.5 * day
        dew_point_c = mean_c - 6.0 + 2.0 * weather[:, 1]
        wind = (np.array([-1.6, 0.9]) + 1.1 * self._wind.at(rows, ts)) * (1.0 + 0.3 * day)[:, None]
        humidity = relative_humidity_percent(temperature_c, dew_point_c)
        return [temperature_c, humidity, wind[:, 0], wind[:, 1]]


class AirProbe:
    """The air at the places of one group's devices."""

    def __init__(
        self, series: Series, city: City, group: Group, *, seed: int, start_ms: int
    ) -> None:
        self._series = series
        wanted = set(group.quantities)
        if wanted & {"wind_speed", "wind_direction"}:
            wanted |= {"wind_east", "wind_north"}
        names = [name for name in _COLUMNS if name in wanted]
        self._columns = np.array([_COLUMNS.index(name) for name in names], dtype=np.int64)
        self._index = {name: names.index(name) for name in names}
        self._quantities = group.quantities
        self._local = LocalPart(group, seed, names, LOCAL)
        self._episodes = Episodes(city, group, start_ms, group.quantities)

    def truth(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The true values at devices `rows`, shape (m, q)."""
        values = self._series.at(ts).take(self._columns, axis=1)
        self._local.apply(values, rows, ts)
        if "wind_east" in self._index:
            values = self._with_wind(values)
        self._episodes.apply(values, rows, ts)
        return values

    def _with_wind(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        east = values[:, self._index["wind_east"]].copy()
        north = values[:, self._index["wind_north"]].copy()
        derived = {
            "wind_speed": np.sqrt(east * east + north * north),
            "wind_direction": wind_from_deg(east, north),
        }
        columns = [
            derived[name] if name in derived else values[:, self._index[name]]
            for name in self._quantities
        ]
        return np.stack(columns, axis=1)
