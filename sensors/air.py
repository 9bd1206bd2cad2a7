"""The air over the city: a regional background, and the plumes of the city's stacks on top.

A gradient over the city and a small part of each station's own set places apart. The background
stays below the limits: what exceeds them is an event or a plume.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from city.cityfile import City
from sensors.background import BACKGROUND, Background
from sensors.downwind import KNOT_S, SPECIES, Emitted, Plumes, Stacks, metres
from sensors.fields import HOUR_S, Group, LocalPart, Series, Spread
from sensors.randomness import Octave, Process
from sensors.weather import Weather, wind_from_deg

LOCAL: Final = {
    "pm25": Spread(relative=0.19),
    "coarse": Spread(relative=0.45),
    "so2": Spread(relative=0.25),
    "no2": Spread(relative=0.20),
    "co": Spread(relative=0.19),
    "o3": Spread(relative=0.22),
    "temperature": Spread(absolute=0.4),
    "humidity": Spread(absolute=1.5),
    "wind_east": Spread(absolute=0.25),
    "wind_north": Spread(absolute=0.25),
}
"""What a place adds to its city: pairs of stations correlate as in the Beijing tables."""

SLOPE_PER_KM: Final = 0.006
"""Standard deviation of the background's relative slope across the city."""

PLUME_SHARES: Final = {
    "pm25": ("pm", 0.6),
    "pm10": ("pm", 0.9),
    "so2": ("so2", 1.0),
    "no2": ("nox", 0.75),
}
"""What of a stack's emission counts as a pollutant: NO2 by the ambient ratio of 0.75 of tier 2 of
EPA's Guideline on Air Quality Models (40 CFR 51, appendix W, 2005); PM behind filters is mostly
fine (engineering default)."""

_SLOPING: Final = (Octave(12 * HOUR_S, 1.0),)
_WEATHER_COLUMNS: Final = ("temperature", "humidity", "wind_east", "wind_north")
_NAMES: Final = tuple(row.name for row in BACKGROUND)
_COLUMNS: Final = (*_NAMES, *_WEATHER_COLUMNS, "slope_east", "slope_north", "lid")
_MADE_OF: Final = {
    "pm10": ("pm25", "coarse"),
    "wind_speed": ("wind_east", "wind_north"),
    "wind_direction": ("wind_east", "wind_north"),
}
_NO_SMOG: Final = 1e-9


class AirField:
    """Pollutants, temperature, humidity and wind over one city."""

    def __init__(
        self,
        city: City,
        *,
        seed: int,
        start_ms: int,  # noqa: ARG002 - every field counts events from it; here weather and plants do
        weather: Weather,
        plants: Stacks | None,
    ) -> None:
        self._city = city
        self._seed = seed
        self._weather = weather
        self._plants = plants
        self._emitted = Emitted(plants) if plants is not None and plants.stacks else None
        self._background = Background(seed, city.zone)
        self._slopes = Process(seed, "air/slopes", _SLOPING, columns=2)
        self._series = Series(KNOT_S, self._knots)
        self._probes: list[AirProbe] = []

    def probe(self, group: Group) -> "AirProbe":
        """The air at the places of `group`."""
        places_m = metres([device.position for device in group.devices], self._city.position)
        plumes = None
        if self._plants is not None and self._emitted is not None:
            plumes = GroupPlumes(
                self._plants, self._emitted, self._weather, places_m, self._city, group.quantities
            )
        probe = AirProbe(self._series, group, places_m, plumes, seed=self._seed)
        self._probes.append(probe)
        return probe

    def forget(self) -> None:
        """Ask the plants anew: a command changed one. Values before the command stay."""
        if self._emitted is not None:
            self._emitted.forget()
        for probe in self._probes:
            probe.forget()

    def _knots(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        weather = self._weather.at(ts)
        slopes = SLOPE_PER_KM / 1000.0 * self._slopes.at(np.zeros_like(ts), ts)
        columns = (
            *self._background.at(ts, weather),
            weather.temperature_c,
            weather.humidity_percent,
            weather.wind_east_m_s,
            weather.wind_north_m_s,
            slopes[:, 0],
            slopes[:, 1],
            weather.lid,
        )
        return np.stack(columns, axis=1)[:, None, :]


class GroupPlumes:
    """The plumes at those of a group's devices that they can reach; the others cost nothing."""

    def __init__(
        self,
        stacks: Stacks,
        emitted: Emitted,
        weather: Weather,
        places_m: NDArray[np.float64],
        city: City,
        quantities: tuple[str, ...],
    ) -> None:
        places, place = np.unique(places_m, axis=0, return_inverse=True)
        everywhere = Plumes(stacks, emitted, weather, places, origin=city.position)
        reached = everywhere.reached
        source = np.full(len(places), -1, dtype=np.int64)
        source[reached] = np.arange(len(reached))
        self._source = source[place.reshape(-1)]
        plumes = Plumes(stacks, emitted, weather, places[reached], origin=city.position)
        self.series = Series(KNOT_S, plumes.at)
        self.adds = tuple(
            (column, SPECIES.index(species), share)
            for column, quantity in enumerate(quantities)
            if quantity in PLUME_SHARES
            for species, share in (PLUME_SHARES[quantity],)
        )
        self.idle = not self.adds or not len(reached)

    def add(
        self, values: NDArray[np.float64], rows: NDArray[np.int64], ts: NDArray[np.int64]
    ) -> None:
        """Add to `values`, shape (m, q), what the plumes bring to devices `rows` at `ts`."""
        sources = self._source.take(rows)
        part = np.flatnonzero(sources >= 0)
        if part.size:
            brought = self.series.at(ts[part], sources[part])
            for column, species, share in self.adds:
                values[part, column] += share * brought[:, species]


class AirProbe:
    """The air at the places of one group's devices."""

    def __init__(
        self,
        series: Series,
        group: Group,
        places_m: NDArray[np.float64],
        plumes: GroupPlumes | None,
        *,
        seed: int,
    ) -> None:
        self._series = series
        self._quantities = group.quantities
        self._places_m = places_m
        self._plumes = None if plumes is None or plumes.idle else plumes
        wanted = {part for name in group.quantities for part in _MADE_OF.get(name, (name,))}
        names = [name for name in _COLUMNS if name in wanted]
        self._index = {name: column for column, name in enumerate(names)}
        shared = [*names, "slope_east", "slope_north", "lid"]
        self._columns = np.array([_COLUMNS.index(name) for name in shared], dtype=np.int64)
        rows = [row for row in BACKGROUND if row.name in wanted]
        self._pollutants = len(rows)
        self._caps = np.array([row.cap for row in rows])
        self._smog = np.array([row.smog for row in rows])
        self._local = LocalPart(group, seed, names, LOCAL)

    def truth(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The true values at devices `rows`, shape (m, q)."""
        shared = self._series.at(ts).take(self._columns, axis=1)
        values = np.ascontiguousarray(shared[:, :-3])
        self._local.apply(values, rows, ts)
        if self._pollutants:
            here_m = self._places_m.take(rows, axis=0)
            slope = shared[:, -3] * here_m[:, 0] + shared[:, -2] * here_m[:, 1]
            self._limit(values, slope, shared[:, -1])
        truth = np.stack([self._quantity(values, name) for name in self._quantities], axis=1)
        if self._plumes is not None:
            self._plumes.add(truth, rows, ts)
        return truth

    def forget(self) -> None:
        """Compute plumes anew."""
        if self._plumes is not None:
            self._plumes.series.forget()

    def _limit(
        self,
        values: NDArray[np.float64],
        slope: NDArray[np.float64],
        lid: NDArray[np.float64],
    ) -> None:
        """Tilt the pollutants' background over the city, cap it, and add smog; in place."""
        pollutants = values[:, : self._pollutants]
        pollutants *= (1.0 + slope)[:, None]
        np.maximum(pollutants, 0.0, out=pollutants)
        pollutants /= np.sqrt(1.0 + np.square(pollutants / self._caps))
        if lid.max() > _NO_SMOG:
            pollutants += lid[:, None] * self._smog

    def _quantity(self, values: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        parts = [values[:, self._index[part]] for part in _MADE_OF.get(name, (name,))]
        if name == "pm10":
            return parts[0] + parts[1]
        if name == "wind_speed":
            return np.sqrt(parts[0] * parts[0] + parts[1] * parts[1])
        if name == "wind_direction":
            return wind_from_deg(parts[0], parts[1])
        return np.minimum(parts[0], 100.0) if name == "humidity" else parts[0]
