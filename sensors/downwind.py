"""What the stacks add to the air at places downwind of them.

Every stack's plume is steady and straight in the city's wind of the moment; what arrives is what
the stack emitted while the air travelled. Calm air counts as a wind of 1 m/s from where the
remaining breath comes, as regulatory models have it: both dilution and travel stop growing there.
Plumes hold as stated up to 10 km; from there to 12 km they fade into the background. Closer
than 100 m the spread of Briggs is continued to nothing, which leaves nothing at the ground.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import Position
from sensors.plume import URBAN, Terrain, dilution_s_m3, sigma_y_m, wind_at_height_m_s
from sensors.plumerise import Gas, rise_m
from sensors.weather import Weather, WeatherState

KNOT_S: Final = 60.0
"""Distance of the instants at which plumes are computed, and the shortest travel that is told
apart: emission reaches the nearest place a knot later, so a command changes nothing before it."""

VALID_M: Final = 10_000.0
REACH_M: Final = 12_000.0
CALM_M_S: Final = 1.0
SPECIES: Final = ("pm", "so2", "nox")

_KNOT_MS: Final = round(KNOT_S * 1000)
_LOOKBACK_KNOTS: Final = round(REACH_M / CALM_M_S / KNOT_S) + 2
_WIDTHS_SEEN: Final = 5.0
"""Beyond so many sigma across the wind less than 4e-6 of the middle is left."""

_PAIRS_AT_ONCE: Final = 4096
_TABLES_KEPT: Final = 4
_UG_PER_G: Final = 1e6
_M_PER_DEGREE: Final = 111_320.0


class StackSite(Protocol):
    """Where a stack stands, and what it looks like."""

    @property
    def position(self) -> Position:
        """Longitude and latitude."""

    @property
    def height_m(self) -> float:
        """Height of the mouth above the ground [m]."""

    @property
    def diameter_m(self) -> float:
        """Inner diameter of the mouth [m]."""


class Emissions(Protocol):
    """What leaves the stacks at k instants; every array has the shape (k, stacks)."""

    @property
    def pm_g_s(self) -> NDArray[np.float64]:
        """Particulate matter [g/s]."""

    @property
    def so2_g_s(self) -> NDArray[np.float64]:
        """Sulphur dioxide [g/s]."""

    @property
    def nox_g_s(self) -> NDArray[np.float64]:
        """Nitrogen oxides [g/s as NO2]."""

    @property
    def temperature_c(self) -> NDArray[np.float64]:
        """Temperature of the gas [degC]."""

    @property
    def velocity_m_s(self) -> NDArray[np.float64]:
        """Velocity of the gas [m/s]."""


class Stacks(Protocol):
    """The stacks of a city; `sensors.plants.PlantsField` is one."""

    @property
    def stacks(self) -> Sequence[StackSite]:
        """Every stack whose place is known."""

    def emissions(self, ts: NDArray[np.int64]) -> Emissions:
        """What leaves them at `ts` [ms since the epoch], shape (k,)."""


class _Paths(msgspec.Struct, frozen=True, eq=False):
    """The pairs of stack and place that a plume can join, ordered by stack; shape (pairs,)."""

    stack: NDArray[np.int64]
    place: NDArray[np.int64]
    east_m: NDArray[np.float64]
    north_m: NDArray[np.float64]


class Emitted:
    """Emissions at whole knots, computed once for all who look back at them."""

    def __init__(self, stacks: Stacks) -> None:
        self._stacks = stacks
        self._kept: dict[tuple[int, int], NDArray[np.float64]] = {}

    def forget(self) -> None:
        """Ask anew: a command changed a plant."""
        self._kept.clear()

    def table(self, first: int, last: int) -> NDArray[np.float64]:
        """Emissions from knot `first` to `last`, shape (knots, stacks, 5).

        The columns are the species [g/s], temperature [degC] and velocity [m/s].
        """
        found = self._kept.get((first, last))
        if found is None:
            ts = np.arange(first, last + 1, dtype=np.int64) * _KNOT_MS
            now = self._stacks.emissions(ts)
            rows = (now.pm_g_s, now.so2_g_s, now.nox_g_s, now.temperature_c, now.velocity_m_s)
            found = np.stack(rows, axis=2)
            while len(self._kept) >= _TABLES_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[first, last] = found
        return found


class Plumes:
    """The plumes of all stacks at a number of places."""

    def __init__(
        self,
        stacks: Stacks,
        emitted: Emitted,
        weather: Weather,
        places_m: NDArray[np.float64],
        *,
        origin: Position,
        terrain: Terrain = URBAN,
    ) -> None:
        """`places_m`, shape (places, 2), lie so far east and north of `origin`, see `metres`."""
        self._emitted = emitted
        self._weather = weather
        self._terrain = terrain
        self._count = len(places_m)
        sites = stacks.stacks
        self._height_m = np.array([site.height_m for site in sites])
        self._diameter_m = np.array([site.diameter_m for site in sites])
        self._paths = _paths(metres([site.position for site in sites], origin), places_m)

    @property
    def reached(self) -> NDArray[np.int64]:
        """The places that some plume can reach, ascending."""
        return np.unique(self._paths.place)

    def at(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """What the plumes add at ascending `ts`, shape (k, places, species) [ug/m3]."""
        weather = self._weather.at(ts)
        first = int(ts[0]) // _KNOT_MS - _LOOKBACK_KNOTS
        table = self._emitted.table(first, int(ts[-1]) // _KNOT_MS)
        total = np.zeros((len(ts) * self._count, len(SPECIES)))
        for start in range(0, len(self._paths.stack), _PAIRS_AT_ONCE):
            self._add(total, slice(start, start + _PAIRS_AT_ONCE), ts, weather, table, first)
        return total.reshape(len(ts), self._count, len(SPECIES))

    def _add(
        self,
        total: NDArray[np.float64],
        part: slice,
        ts: NDArray[np.int64],
        weather: WeatherState,
        table: NDArray[np.float64],
        first: int,
    ) -> None:
        """Add what some of the paths bring, stack after stack at every place."""
        instant, path, x_m, y_m = self._downwind(part, weather)
        stack = self._paths.stack[part][path]
        stability = weather.stability[instant]
        wind10_m_s = np.maximum(
            np.hypot(weather.wind_east_m_s, weather.wind_north_m_s)[instant], CALM_M_S
        )
        height_m = self._height_m[stack]
        wind_m_s = wind_at_height_m_s(wind10_m_s, height_m, stability, self._terrain)
        emitted = _looked_up(table, ts[instant] / _KNOT_MS - first, x_m / wind_m_s, stack)
        gas = Gas(
            np.ascontiguousarray(emitted[:, 3]),
            np.ascontiguousarray(emitted[:, 4]),
            self._diameter_m[stack],
        )
        air_c = weather.temperature_c[instant]
        rise = rise_m(x_m, gas, wind_m_s=wind_m_s, air_c=air_c, stability=stability)
        dilution = dilution_s_m3(
            x_m, y_m, np.zeros_like(x_m), height_m=height_m + rise, wind_m_s=wind_m_s,
            stability=stability, terrain=self._terrain,
        )  # fmt: skip
        dilution *= _UG_PER_G * _faded(np.hypot(x_m, y_m))
        target = instant * self._count + self._paths.place[part][path]
        for species in range(len(SPECIES)):
            np.add.at(total[:, species], target, dilution * emitted[:, species])

    def _downwind(
        self, part: slice, weather: WeatherState
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Which paths lie in a plume at which instants, and how far downwind and across [m]."""
        to_east, to_north = _direction(weather)
        east_m, north_m = self._paths.east_m[part], self._paths.north_m[part]
        x_m = to_east[:, None] * east_m + to_north[:, None] * north_m
        y_m = to_east[:, None] * north_m - to_north[:, None] * east_m
        widest = self._terrain.spread_y[weather.stability, 0][:, None]
        instant, path = np.nonzero((x_m > 0.0) & (np.abs(y_m) < _WIDTHS_SEEN * widest * x_m))
        x_m, y_m = x_m[instant, path], y_m[instant, path]
        width_m = _WIDTHS_SEEN * sigma_y_m(x_m, weather.stability[instant], self._terrain)
        inside = np.flatnonzero(np.abs(y_m) < width_m)
        return instant[inside], path[inside], x_m[inside], y_m[inside]


def metres(positions: Sequence[Position], origin: Position) -> NDArray[np.float64]:
    """Where positions lie east and north of `origin` [m], shape (n, 2); for cities, not lands."""
    degrees = np.array(positions, dtype=np.float64).reshape(-1, 2) - np.array(origin)
    east_m = _M_PER_DEGREE * float(np.cos(np.radians(origin[1])))
    away_m: NDArray[np.float64] = degrees * np.array([east_m, _M_PER_DEGREE])
    return away_m


def _paths(stacks_m: NDArray[np.float64], places_m: NDArray[np.float64]) -> _Paths:
    away_m = places_m[None, :, :] - stacks_m[:, None, :]
    stack, place = np.nonzero(np.hypot(away_m[..., 0], away_m[..., 1]) < REACH_M)
    return _Paths(stack, place, away_m[stack, place, 0], away_m[stack, place, 1])


def _direction(weather: WeatherState) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the air moves to, as a unit vector; eastwards when it does not move at all."""
    bearing = np.arctan2(weather.wind_north_m_s, weather.wind_east_m_s)
    return np.cos(bearing), np.sin(bearing)


def _looked_up(
    table: NDArray[np.float64],
    now: NDArray[np.float64],
    travel_s: NDArray[np.float64],
    stack: NDArray[np.int64],
) -> NDArray[np.float64]:
    """What left each `stack` while `travel_s` passed, linear between knots; shape (m, 5).

    `now` counts knots from the beginning of `table`.
    """
    at = now - np.maximum(travel_s / KNOT_S, 1.0)
    knot = np.floor(at).astype(np.int64)
    share = (at - knot)[:, None]
    before: NDArray[np.float64] = table[knot, stack]
    return before + share * (table[knot + 1, stack] - before)


def _faded(distance_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of a plume that still stands out from the background."""
    return np.clip((REACH_M - distance_m) / (REACH_M - VALID_M), 0.0, 1.0)
