"""The weather over the city: one series that air, river and gas share.

Wind, temperature, dew point, pressure and cloud are a seasonal and a daily course with
autocorrelated noise; the sun stands where date and place put it; the Pasquill class follows from
wind, sun and cloud. It rains when an event says so and at no other time. What differs from place
to place is the probe's.
"""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import City, Event
from sensors.fields import HOUR_S, YEAR_MS, local_hour, season
from sensors.randomness import Octave, Process

PREVAILING_M_S: Final = (-0.8, 0.5)
"""Mean wind, towards east and north: from the east-south-east, as in the lower Yangtze plain."""

WIND_SPREAD_M_S: Final = 1.25
OVERCAST: Final = 0.94
"""Cloud from which the sky counts as wholly covered (7.5 of 8 parts)."""

BROKEN: Final = 0.5
"""Cloud that weakens the sun by day and holds warmth by night (4 of 8 parts)."""

STRONG_SUN_DEG: Final = 60.0
MODERATE_SUN_DEG: Final = 35.0
NIGHT_SUN_DEG: Final = 10.0
"""Pasquill's night lasts from an hour before sunset to an hour after sunrise."""

_GUSTY: Final = (
    Octave(1 * HOUR_S, 0.24),
    Octave(4 * HOUR_S, 0.26),
    Octave(8 * HOUR_S, 0.20),
    Octave(72 * HOUR_S, 0.30),
)
_SYNOPTIC: Final = (Octave(48 * HOUR_S, 0.55), Octave(18 * HOUR_S, 0.35), Octave(4 * HOUR_S, 0.10))

_WIND_LIMITS_M_S: Final = np.array([2.0, 3.0, 5.0, 6.0])
_DAY: Final = np.array([[0, 0, 1], [0, 1, 2], [1, 1, 2], [2, 2, 3], [2, 3, 3]])
"""By wind, then strong, moderate, slight sun; of two classes the more unstable."""

_NIGHT: Final = np.array([[4, 5], [4, 5], [3, 4], [3, 3], [3, 3]])
"""By wind, then cloud of at least 4/8, of at most 3/8. Below 2 m/s as from 2 to 3 m/s."""

_DAY_COLUMNS: Final = _DAY.shape[1]
_NEUTRAL: Final = 3


class WeatherState(msgspec.Struct, frozen=True, eq=False):
    """The weather at m instants; every array has the shape (m,).

    The wind is that 10 m above the ground, in components of where the air moves to. `stability`
    counts the Pasquill classes, 0 for A to 5 for F. `lid` is 0 in normal air and 1 in full smog.
    """

    wind_east_m_s: NDArray[np.float64]
    wind_north_m_s: NDArray[np.float64]
    temperature_c: NDArray[np.float64]
    humidity_percent: NDArray[np.float64]
    pressure_kpa: NDArray[np.float64]
    cloud: NDArray[np.float64]
    sun_elevation_deg: NDArray[np.float64]
    rain_mm_h: NDArray[np.float64]
    stability: NDArray[np.int64]
    lid: NDArray[np.float64]


class Spell(msgspec.Struct, frozen=True):
    """How fast a kind of weather sets in and goes [s], at most these shares of its duration."""

    rise_s: float
    decay_s: float
    rise_share: float = 1 / 8
    decay_share: float = 1 / 4


SPELLS: Final = {
    "smog": Spell(7200.0, 10800.0),
    "rain": Spell(600.0, 900.0),
    "wind": Spell(600.0, 600.0),
}
"""The events of the city file that make weather (engineering default)."""


class Weather:
    """The weather of one city: a pure function of the instant."""

    def __init__(self, city: City, *, seed: int, start_ms: int) -> None:
        self._zone = city.zone
        self._position = city.position
        self._start_ms = start_ms
        self._events = [event for event in city.events if event.kind in SPELLS]
        self._wind = Process(seed, "weather/wind", _GUSTY, columns=2)
        self._synoptic = Process(seed, "weather/synoptic", _SYNOPTIC, columns=4)

    def at(self, ts: NDArray[np.int64]) -> WeatherState:
        """The weather at `ts` [ms since the epoch], shape (m,)."""
        rain_mm_h = self._strength("rain", "rate_mm_h", ts)
        lid = self._strength("smog", "strength", ts)
        day = np.cos(2.0 * np.pi * (local_hour(ts, self._zone) - 15.0) / 24.0)
        noise = np.ascontiguousarray(self._synoptic.at(np.zeros_like(ts), ts).T)
        east_m_s, north_m_s = self._winds(ts, day, lid)
        wet = -np.expm1(-rain_mm_h / 2.0)
        cloud = 0.5 + 0.5 * np.tanh(1.1 * noise[2])
        cloud = cloud + wet * (1.0 - cloud)
        mean_c = 16.5 + 12.0 * season(ts) + 2.6 * noise[0]
        temperature_c = mean_c + (6.0 - 3.0 * cloud) * day - 1.5 * wet
        dew_point_c = mean_c - 6.0 + 2.0 * noise[1] + 2.5 * lid
        dew_point_c = dew_point_c + wet * np.maximum(temperature_c - 0.6 - dew_point_c, 0.0)
        sun_deg = sun_elevation_deg(ts, *self._position)
        return WeatherState(
            wind_east_m_s=east_m_s,
            wind_north_m_s=north_m_s,
            temperature_c=temperature_c,
            humidity_percent=relative_humidity_percent(temperature_c, dew_point_c),
            pressure_kpa=101.6 - 1.0 * season(ts) + 0.55 * noise[3],
            cloud=cloud,
            sun_elevation_deg=sun_deg,
            rain_mm_h=rain_mm_h,
            stability=pasquill_class(np.hypot(east_m_s, north_m_s), sun_deg, cloud),
            lid=lid,
        )

    def _winds(
        self, ts: NDArray[np.int64], day: NDArray[np.float64], lid: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The wind's components: strongest at 15 h, stilled by smog, held by `wind` events."""
        noise = np.ascontiguousarray(self._wind.at(np.zeros_like(ts), ts).T)
        scale = (1.0 + 0.3 * day) * (1.0 - 0.7 * np.minimum(lid, 1.0))
        east_m_s = (PREVAILING_M_S[0] + WIND_SPREAD_M_S * noise[0]) * scale
        north_m_s = (PREVAILING_M_S[1] + WIND_SPREAD_M_S * noise[1]) * scale
        for event in self._events:
            if event.kind == "wind":
                held = self._course(event, ts)
                speed, bearing = event.param("speed_m_s"), np.radians(event.param("from_deg"))
                east_m_s = east_m_s + held * (-speed * np.sin(bearing) - east_m_s)
                north_m_s = north_m_s + held * (-speed * np.cos(bearing) - north_m_s)
        return east_m_s, north_m_s

    def _strength(self, kind: str, parameter: str, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The strongest event of `kind` at each instant, 0 where there is none."""
        strength = np.zeros(len(ts))
        for event in self._events:
            if event.kind == kind:
                strength = np.maximum(strength, event.param(parameter) * self._course(event, ts))
        return strength

    def _course(self, event: Event, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """How far the event has set in, 0 to 1, without jump or kink."""
        spell = SPELLS[event.kind]
        from_ms = self._start_ms + event.at_s * 1000.0
        until_ms = from_ms + event.for_s * 1000.0
        rise_ms = 1000.0 * min(spell.rise_s, event.for_s * spell.rise_share)
        decay_ms = 1000.0 * min(spell.decay_s, event.for_s * spell.decay_share)
        risen = np.clip((ts - from_ms) / rise_ms, 0.0, 1.0)
        gone = np.clip((ts - until_ms) / decay_ms, 0.0, 1.0)
        return _smooth(risen) * (1.0 - _smooth(gone))


def _smooth(share: NDArray[np.float64]) -> NDArray[np.float64]:
    return share * share * (3.0 - 2.0 * share)


def pasquill_class(
    wind_m_s: NDArray[np.float64],
    sun_elevation_deg: NDArray[np.float64],
    cloud: NDArray[np.float64],
) -> NDArray[np.int64]:
    """The Pasquill stability class, 0 for A (very unstable) to 5 for F (stable), shape (m,).

    Args:
        wind_m_s: Wind speed 10 m above the ground [m/s], shape (m,).
        sun_elevation_deg: Elevation of the sun [deg], shape (m,). Above 60 it is strong, above 35
            moderate, above 10 slight; below is night. Cloud of more than half takes one step.
        cloud: Share of the sky that is covered, 0 to 1, shape (m,). Overcast is D at any hour.

    The table is that of Pasquill with the sun by Turner [1]; where it names two classes the more
    unstable one is taken.

    References:
        [1] D. B. Turner, Workbook of Atmospheric Dispersion Estimates, EPA AP-26, 1970.
    """
    row = np.searchsorted(_WIND_LIMITS_M_S, wind_m_s, side="right")
    weak = (sun_elevation_deg <= STRONG_SUN_DEG) + (sun_elevation_deg <= MODERATE_SUN_DEG) * 1
    weak = np.minimum(weak + (cloud > BROKEN), _DAY_COLUMNS - 1)
    night = _NIGHT[row, np.where(cloud >= BROKEN, 0, 1)]
    chosen = np.where(sun_elevation_deg > NIGHT_SUN_DEG, _DAY[row, weak], night)
    return np.where(cloud >= OVERCAST, _NEUTRAL, chosen).astype(np.int64)


def sun_elevation_deg(
    ts: NDArray[np.int64], longitude_deg: float, latitude_deg: float
) -> NDArray[np.float64]:
    """Elevation of the sun's centre above the horizon [deg], without refraction, shape (m,).

    Args:
        ts: Instants [ms since the epoch, UTC], shape (m,).
        longitude_deg: Longitude of the place [deg], east positive.
        latitude_deg: Latitude of the place [deg], north positive.

    Declination and equation of time by the series of Spencer [1]; good to half a degree.

    References:
        [1] J. W. Spencer, "Fourier series representation of the position of the sun", Search 2
            (5), 1971.
    """
    year = 2.0 * np.pi * ((ts / YEAR_MS) % 1.0)
    declination = (  # Eq. 1 of [1]
        0.006918 - 0.399912 * np.cos(year) + 0.070257 * np.sin(year)
        - 0.006758 * np.cos(2 * year) + 0.000907 * np.sin(2 * year)
        - 0.002697 * np.cos(3 * year) + 0.00148 * np.sin(3 * year)
    )  # fmt: skip
    equation_min = 229.18 * (
        0.000075 + 0.001868 * np.cos(year) - 0.032077 * np.sin(year)
        - 0.014615 * np.cos(2 * year) - 0.040849 * np.sin(2 * year)
    )  # fmt: skip
    solar_min = (ts % 86_400_000) / 60_000.0 + 4.0 * longitude_deg + equation_min
    hour_angle = np.radians(solar_min / 4.0 - 180.0)
    latitude = np.radians(latitude_deg)
    sine = np.sin(latitude) * np.sin(declination)
    sine = sine + np.cos(latitude) * np.cos(declination) * np.cos(hour_angle)
    elevation: NDArray[np.float64] = np.degrees(np.arcsin(np.clip(sine, -1.0, 1.0)))
    return elevation


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
