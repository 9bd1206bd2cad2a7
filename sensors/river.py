"""The river through the city: temperature, oxygen and what the water carries.

Two parts that add up, for the river is linear. The background comes in at the head: daily and
yearly courses with autocorrelated noise that the whole river shares, levels that grow slowly
downstream, diluted and stirred up by rain; it keeps class III of GB 3838-2002. What outfalls and
spills put in moves down the stream and takes oxygen on its way. Each place has a small part of its
own.

Valid where a discharge has mixed over the section; close below it the mean of the section is
shown. A discharge adds what it carries, not its own water, which must be small beside the river's.
"""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import City
from city.quantities import Domain
from sensors.discharges import (
    AMMONIA_N,
    BOD,
    COD,
    CODMN_OF_COD,
    DEFICIT,
    SALT,
    TOTAL_N,
    TOTAL_P,
    Dischargers,
    Discharges,
)
from sensors.fields import HOUR_S, Group, LocalPart, Series, Spread, capped, local_hour, season
from sensors.oxygen import oxygen_saturation_mg_l
from sensors.randomness import Octave, Process
from sensors.reaches import Channel
from sensors.stream import STEP_MS, Balance, Stream, Water
from sensors.weather import Weather

LENGTH_KM: Final = 80.0
"""Beyond this distance from the head the background grows no further."""

PLACES_PER_KM: Final = 40
"""Stations are placed to the nearest 25 m."""


class Substance(msgspec.Struct, frozen=True):
    """What the water carries at the head of the river, in its canonical unit.

    `spread` is the standard deviation of the logarithm, `per_km` the relative growth downstream,
    `cap` a bound that the background never reaches at the head, `runoff` what rain brings.
    """

    quantity: str
    mean: float
    spread: float
    per_km: float
    cap: float
    runoff: float


SUBSTANCES: Final = (
    Substance("conductivity", 420.0, 0.08, 0.0015, 700.0, 60.0),
    Substance("turbidity", 16.0, 0.35, 0.002, 60.0, 16.0),
    Substance("codmn", 3.0, 0.14, 0.003, 4.0, 4.0),
    Substance("ammonia_n", 0.32, 0.25, 0.003, 0.6, 0.3),
    Substance("total_p", 0.080, 0.18, 0.003, 0.13, 0.12),
    Substance("total_n", 1.9, 0.12, 0.002, 3.0, 2.2),
)
"""Class II to III of GB 3838-2002; levels and growth are engineering defaults."""

NTU_PER_RUNOFF: Final = 25.0
"""Mud stirred up per mm/h that runs off the ground (engineering default)."""

SHOWN: Final = (
    ("conductivity", SALT, 1.0),
    ("codmn", COD, CODMN_OF_COD),
    ("ammonia_n", AMMONIA_N, 1.0),
    ("total_p", TOTAL_P, 1.0),
    ("total_n", TOTAL_N, 1.0),
    ("turbidity", BOD, 0.7),
    ("dissolved_oxygen", DEFICIT, -1.0),
)
"""What a quantity shows of what is carried; 0.7 NTU per mg/L of demand makes 200 of raw sewage."""

LOCAL: Final = {
    "water_temperature": Spread(absolute=0.25),
    "ph": Spread(absolute=0.05),
    "dissolved_oxygen": Spread(absolute=0.10),
    "conductivity": Spread(relative=0.02),
    "turbidity": Spread(relative=0.06),
    "codmn": Spread(relative=0.03),
    "ammonia_n": Spread(relative=0.05),
    "total_p": Spread(relative=0.04),
    "total_n": Spread(relative=0.03),
}

_OCTAVES: Final = (
    Octave(36 * HOUR_S, 0.5),
    Octave(8 * HOUR_S, 0.35),
    Octave(HOUR_S, 0.15),
)
_COLUMNS: Final = (
    "water_temperature",
    "ph",
    "dissolved_oxygen",
    *(substance.quantity for substance in SUBSTANCES),
)
_TURBIDITY: Final = _COLUMNS.index("turbidity")
_FIRST_SUBSTANCE: Final = _COLUMNS.index(SUBSTANCES[0].quantity)
_RUNOFF: Final = np.array([row.runoff for row in SUBSTANCES])


class RiverField:
    """The water of one river."""

    def __init__(
        self,
        city: City,
        *,
        seed: int,
        start_ms: int,
        weather: Weather,
        plants: Dischargers | None,
    ) -> None:
        self._seed = seed
        self._zone = city.zone
        self._noise = Process(seed, "river", _OCTAVES, columns=len(_COLUMNS))
        channel = Channel(city.river.reaches, step_s=STEP_MS / 1000.0)
        self._stream = Stream(
            channel,
            Discharges(city, plants, start_ms=start_ms),
            weather,
            lambda ts: self._background(ts)[:, 0],
            start_ms=start_ms,
        )
        sites = [site.river_km or 0.0 for site in city.sites if site.domain is Domain.WATER]
        self._places = np.unique(_place(np.array(sites)))
        self._sections = channel.sections(self._places / PLACES_PER_KM)
        self._growth = downstream_growth(self._places / PLACES_PER_KM, _COLUMNS)
        self.series = Series(STEP_MS / 1000.0, self._knots)

    def probe(self, group: Group) -> "RiverProbe":
        """The river at the places of `group`."""
        places = _place(np.array([device.site.river_km or 0.0 for device in group.devices]))
        return RiverProbe(self, group, np.searchsorted(self._places, places), seed=self._seed)

    def balance(self, ts_ms: int) -> Balance:
        """What was put in, left, decayed and is in the river by `ts_ms`, to the half hour before."""
        return self._stream.balance(ts_ms)

    def forget(self, after_ms: int) -> None:
        """Compute anew what comes after `after_ms`: a plant was commanded then."""
        self._stream.forget(after_ms)
        self.series = Series(STEP_MS / 1000.0, self._knots)

    def _knots(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The river at its places, shape (k, places, columns)."""
        # A step's discharge is shown from its end on: nothing is seen before it happens.
        water = self._stream.at(ts - STEP_MS)
        values = self._background(ts)[:, None, :] * self._growth
        _rain(values, water)
        self._add_carried(values, water)
        return values

    def _background(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """What comes in at the head in dry weather, shape (k, columns)."""
        noise = self._noise.at(np.zeros(len(ts), dtype=np.int64), ts)
        day = np.cos(2.0 * np.pi * (local_hour(ts, self._zone) - 16.0) / 24.0)
        temperature_c = 16.5 + 9.5 * season(ts) + 0.8 * day + 0.8 * noise[:, 0]
        ph = 7.6 + 0.12 * day + 0.10 * noise[:, 1]
        # Water plants make oxygen by day and use it by night.
        share = 0.90 + 0.04 * day + 0.02 * noise[:, 2]
        columns = [temperature_c, ph, share * oxygen_saturation_mg_l(temperature_c)]
        for index, row in enumerate(SUBSTANCES, start=_FIRST_SUBSTANCE):
            level = row.mean * np.exp(row.spread * noise[:, index])
            columns.append(capped(level, row.cap))
        return np.stack(columns, axis=1)

    def _add_carried(self, values: NDArray[np.float64], water: Water) -> None:
        if not water.carried.any():
            return
        sections, diluted = self._sections, 1.0 / water.area_factor[:, None]
        for quantity, row, factor in SHOWN:
            before = water.carried[:, sections.before, row]
            after = water.carried[:, sections.after, row]
            there = before + (after - before) * sections.share
            values[:, :, _COLUMNS.index(quantity)] += factor * diluted * there


class RiverProbe:
    """The river at the places of one group's devices."""

    def __init__(
        self, field: RiverField, group: Group, places: NDArray[np.int64], *, seed: int
    ) -> None:
        self._field = field
        self._places = places
        names = group.quantities
        self._columns = np.array([_COLUMNS.index(name) for name in names], dtype=np.int64)
        self._all = names == _COLUMNS
        self._local = LocalPart(group, seed, names, LOCAL)

    def truth(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The true values at devices `rows`, shape (m, q)."""
        values = self._field.series.at(ts, self._places[rows])
        if not self._all:
            values = values.take(self._columns, axis=1)
        self._local.apply(values, rows, ts)
        np.maximum(values, 0.0, out=values)
        return values


def downstream_growth(
    river_km: NDArray[np.float64], quantities: tuple[str, ...]
) -> NDArray[np.float64]:
    """The factor that turns levels at the head into those at `river_km`, shape (n, q)."""
    per_km = {substance.quantity: substance.per_km for substance in SUBSTANCES}
    rates = np.array([per_km.get(quantity, 0.0) for quantity in quantities])
    growth: NDArray[np.float64] = 1.0 + np.clip(river_km, 0.0, LENGTH_KM)[:, None] * rates
    return growth


def _rain(values: NDArray[np.float64], water: Water) -> None:
    """Mix rain into the background `values`, shape (k, places, columns), in place."""
    if not water.runoff_mm_h.any():
        return
    flow = water.flow_factor[:, None, None]
    substances = values[:, :, _FIRST_SUBSTANCE:]
    substances += (flow - 1.0) * _RUNOFF
    substances /= flow
    values[:, :, _TURBIDITY] += NTU_PER_RUNOFF * water.runoff_mm_h[:, :1]


def _place(river_km: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(river_km * PLACES_PER_KM).astype(np.int64)
