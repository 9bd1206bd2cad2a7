"""The river through the city: temperature, oxygen and what the water carries.

First version of the field: daily and yearly courses, autocorrelated noise that the whole river
shares, levels that grow slowly downstream, and a small part of each place's own. The background
keeps class III of GB 3838-2002.
"""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import City
from sensors.events import Episodes
from sensors.fields import HOUR_S, Group, LocalPart, Series, Spread, capped, local_hour, season
from sensors.randomness import Octave, Process

KNOT_S: Final = 60.0
LENGTH_KM: Final = 80.0
"""Beyond this distance from the head the levels grow no further."""


class Substance(msgspec.Struct, frozen=True):
    """What the water carries at the head of the river, in its canonical unit.

    `spread` is the standard deviation of the logarithm, `per_km` the relative growth downstream,
    `cap` a bound that the background never reaches at the head.
    """

    quantity: str
    mean: float
    spread: float
    per_km: float
    cap: float


SUBSTANCES: Final = (
    Substance("conductivity", 420.0, 0.08, 0.0015, 700.0),
    Substance("turbidity", 16.0, 0.35, 0.002, 60.0),
    Substance("codmn", 3.0, 0.14, 0.003, 4.0),
    Substance("ammonia_n", 0.32, 0.25, 0.003, 0.6),
    Substance("total_p", 0.080, 0.18, 0.003, 0.13),
    Substance("total_n", 1.9, 0.12, 0.002, 3.0),
)
"""Class II to III of GB 3838-2002; levels and growth are engineering defaults."""

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


def oxygen_saturation_mg_l(temperature_c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Dissolved oxygen at saturation [mg/L] in fresh water of `temperature_c` [degC], at sea level.

    468 / (31.6 + T), as HJ 2.3 uses it; within 0.03 mg/L of the polynomial of the German Federal
    Institute of Hydrology for 10 to 30 degC.
    """
    return 468.0 / (31.6 + temperature_c)


class RiverField:
    """The water of one river."""

    def __init__(self, city: City, *, seed: int, start_ms: int) -> None:
        self._city = city
        self._seed = seed
        self._start_ms = start_ms
        self._zone = city.zone
        self._noise = Process(seed, "river", _OCTAVES, columns=len(_COLUMNS))
        self.series = Series(KNOT_S, self._knots)

    def probe(self, group: Group) -> "RiverProbe":
        """The river at the places of `group`."""
        return RiverProbe(self.series, self._city, group, seed=self._seed, start_ms=self._start_ms)

    def _knots(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        noise = self._noise.at(np.zeros(len(ts), dtype=np.int64), ts)
        day = np.cos(2.0 * np.pi * (local_hour(ts, self._zone) - 16.0) / 24.0)
        temperature_c = 16.5 + 9.5 * season(ts) + 0.8 * day + 0.8 * noise[:, 0]
        ph = 7.6 + 0.12 * day + 0.10 * noise[:, 1]
        # Water plants make oxygen by day and use it by night.
        share = 0.90 + 0.04 * day + 0.02 * noise[:, 2]
        columns = [temperature_c, ph, share * oxygen_saturation_mg_l(temperature_c)]
        for index, row in enumerate(SUBSTANCES, start=3):
            level = row.mean * np.exp(row.spread * noise[:, index])
            columns.append(capped(level, row.cap))
        return np.stack(columns, axis=1)[:, None, :]


class RiverProbe:
    """The river at the places of one group's devices."""

    def __init__(
        self, series: Series, city: City, group: Group, *, seed: int, start_ms: int
    ) -> None:
        self._series = series
        names = group.quantities
        self._columns = np.array([_COLUMNS.index(name) for name in names], dtype=np.int64)
        self._growth = downstream_growth(
            np.array([device.site.river_km or 0.0 for device in group.devices]), names
        )
        self._local = LocalPart(group, seed, names, LOCAL)
        self._episodes = Episodes(city, group, start_ms, names)

    def truth(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The true values at devices `rows`, shape (m, q)."""
        values = self._series.at(ts).take(self._columns, axis=1)
        values *= self._growth.take(rows, axis=0)
        self._local.apply(values, rows, ts)
        self._episodes.apply(values, rows, ts)
        return values


def downstream_growth(
    river_km: NDArray[np.float64], quantities: tuple[str, ...]
) -> NDArray[np.float64]:
    """The factor that turns levels at the head into those at `river_km`, shape (n, q)."""
    per_km = {substance.quantity: substance.per_km for substance in SUBSTANCES}
    rates = np.array([per_km.get(quantity, 0.0) for quantity in quantities])
    growth: NDArray[np.float64] = 1.0 + np.clip(river_km, 0.0, LENGTH_KM)[:, None] * rates
    return growth
