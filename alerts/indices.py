"""Indices of air and river quality: from concentrations to one number that people know.

All functions are pure and take arrays of length m, one element per device, keyed by the name of the
indicator, `so2_1h` or `o3_8h`. NaN is a missing concentration, and so is a key that is not given.
Concentrations are in the canonical unit of their quantity: ug/m3 at 298.15 K and 1013.25 hPa
(particles at actual conditions), CO in mg/m3, river quantities in mg/L.

References:
    [1] HJ 633-2012, sections 4.2 and 5.1, Table 1.
    [2] HJ 633-2026, section 4.2 (eq. 1 and 2), section 5.3.1, Table 1.
    [3] EPA-454/B-24-002, May 2024, Table 6 and footnotes; NowCast: p. 16.
    [4] GB 3838-2002, Table 1.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from alerts.signals import Index, Stat

Concentrations = Mapping[str, NDArray[np.float64]]
Edition = Literal[2012, 2026]
Grade = Literal["A", "B", "C", "D", "X"]

_GUARD: Final = 9
"""Decimals that are kept before rounding to whole steps, so that 50.000000000001 is 50."""


class Indexed(msgspec.Struct, frozen=True):
    """An index of m devices and what it is made of; NaN where there is none."""

    value: NDArray[np.float64]
    parts: dict[str, NDArray[np.float64]]
    """By indicator: its sub-index, of which the index is the largest."""

    def primary(self) -> dict[str, NDArray[np.bool_]]:
        """Whether an indicator is a main pollutant: it makes the index, and that is above 50.

        Several that are equal are all main pollutants [1], [2].
        """
        named = self.value > _GOOD
        return {name: named & (part == self.value) for name, part in self.parts.items()}


class Indicator(msgspec.Struct, frozen=True):
    """A concentration that an index is made from: which statistic of which quantity."""

    name: str
    quantity: str
    stat: Stat | Literal["max-hour", "nowcast"]


class Breakpoints(msgspec.Struct, frozen=True):
    """The concentrations at which a sub-index is 0, 50, 100, 150, 200, 300, 400, 500."""

    concentrations: tuple[float, ...]
    decimals: int
    beyond: float
    """The sub-index above the last concentration; NaN: it is not computed."""
    standard: str
    table: str
    grade: Grade


class Segments(msgspec.Struct, frozen=True):
    """Spans of concentration [first, last] and the spans of the index that they map to."""

    spans: tuple[tuple[float, float], ...]
    index: tuple[tuple[float, float], ...]
    decimals: int
    """The concentration is truncated to so many."""
    factor: float
    """From the canonical unit to that of the spans."""
    standard: str = "EPA-454/B-24-002"
    table: str = "Table 6"
    grade: Grade = "A"


class ClassLimits(msgspec.Struct, frozen=True):
    """The limits of classes I to V; a minimum must be reached, a maximum not exceeded."""

    limits: tuple[float, ...]
    minimum: bool = False
    standard: str = "GB 3838-2002"
    table: str = "Table 1"
    grade: Grade = "B"


IAQI: Final = (0.0, 50.0, 100.0, 150.0, 200.0, 300.0, 400.0, 500.0)
_GOOD: Final = 50.0
_PUBLISHED_ABOVE: Final = 100.0
"""With a pollutant missing, an AQI is published only above this [2, section 5.3.1] (A)."""


def _hj(
    edition: Edition, *concentrations: float, decimals: int = 0, beyond: float = IAQI[-1]
) -> Breakpoints:
    return Breakpoints(concentrations, decimals, beyond, f"HJ 633-{edition}", "Table 1", "A")


def _of_edition(edition: Edition) -> dict[str, Breakpoints]:
    """The breakpoints that both editions share, and what either says beyond the last one."""
    so2_beyond, o3_beyond = (np.nan, np.nan) if edition == 2012 else (200.0, 300.0)  # noqa: PLR2004 - a year
    return {
        "so2_24h": _hj(edition, 0, 50, 150, 475, 800, 1600, 2100, 2620),
        "so2_1h": _hj(edition, 0, 150, 500, 650, 800, beyond=so2_beyond),
        "no2_24h": _hj(edition, 0, 40, 80, 180, 280, 565, 750, 940),
        "no2_1h": _hj(edition, 0, 100, 200, 700, 1200, 2340, 3090, 3840),
        "co_24h": _hj(edition, 0, 2, 4, 14, 24, 36, 48, 60, decimals=1),
        "co_1h": _hj(edition, 0, 5, 10, 35, 60, 90, 120, 150, decimals=1),
        "o3_1h": _hj(edition, 0, 160, 200, 300, 400, 800, 1000, 1200),
        "o3_8h": _hj(edition, 0, 100, 160, 215, 265, 800, beyond=o3_beyond),
    }


BREAKPOINTS: Final[dict[Edition, dict[str, Breakpoints]]] = {
    2012: _of_edition(2012)
    | {
        "pm10_24h": _hj(2012, 0, 50, 150, 250, 350, 420, 500, 600),
        "pm25_24h": _hj(2012, 0, 35, 75, 115, 150, 250, 350, 500),
    },
    2026: _of_edition(2026)
    | {
        "pm10_24h": _hj(2026, 0, 50, 120, 250, 350, 420, 500, 600),
        "pm25_24h": _hj(2026, 0, 35, 60, 115, 150, 250, 350, 500),
    },
}

MOLAR_VOLUME_L: Final = 8.314462618 * 298.15 / 101.325
"""Of an ideal gas at 298.15 K and 1013.25 hPa [L/mol]."""
_PPB: Final = {name: MOLAR_VOLUME_L / mass for name, mass in
               (("o3", 47.997), ("so2", 64.058), ("no2", 46.005), ("co", 28.010))}  # fmt: skip
"""ppb per ug/m3, or ppm per mg/m3, by molar mass [g/mol]."""

_EPA_INDEX: Final = ((0, 50), (51, 100), (101, 150), (151, 200), (201, 300), (301, 500))
_PM25: Final = ((0, 9.0), (9.1, 35.4), (35.5, 55.4), (55.5, 125.4), (125.5, 225.4), (225.5, 325.4))
_PM10: Final = ((0, 54), (55, 154), (155, 254), (255, 354), (355, 424), (425, 604))
_O3_8H: Final = ((0, 0.054), (0.055, 0.070), (0.071, 0.085), (0.086, 0.105), (0.106, 0.200))
_O3_1H: Final = ((0.125, 0.164), (0.165, 0.204), (0.205, 0.404), (0.405, 0.604))
_CO_8H: Final = ((0, 4.4), (4.5, 9.4), (9.5, 12.4), (12.5, 15.4), (15.5, 30.4), (30.5, 50.4))
_SO2: Final = ((0, 35), (36, 75), (76, 185), (186, 304), (305, 604), (605, 1004))
_NO2: Final = ((0, 53), (54, 100), (101, 360), (361, 649), (650, 1249), (1250, 2049))
SEGMENTS: Final = {
    "pm25_nowcast": Segments(_PM25, _EPA_INDEX, 1, 1.0),
    "pm10_nowcast": Segments(_PM10, _EPA_INDEX, 0, 1.0),
    "o3_8h": Segments(_O3_8H, _EPA_INDEX[:5], 3, _PPB["o3"] / 1000),
    "o3_1h": Segments(_O3_1H, _EPA_INDEX[2:], 3, _PPB["o3"] / 1000),
    "co_8h": Segments(_CO_8H, _EPA_INDEX, 1, _PPB["co"]),
    "so2_1h": Segments(_SO2, _EPA_INDEX, 0, _PPB["so2"]),
    "so2_24h": Segments(_SO2, _EPA_INDEX, 0, _PPB["so2"]),
    "no2_1h": Segments(_NO2, _EPA_INDEX, 0, _PPB["no2"]),
}
_O3_8H_TOP: Final = 300.0
_SO2_1H_TOP: Final = 200.0

CLASS_LIMITS: Final = {
    "dissolved_oxygen": ClassLimits((7.5, 6, 5, 3, 2), minimum=True),
    "codmn": ClassLimits((2, 4, 6, 10, 15)),
    "ammonia_n": ClassLimits((0.15, 0.5, 1.0, 1.5, 2.0)),
    "total_p": ClassLimits((0.02, 0.1, 0.2, 0.3, 0.4)),
}
PH_RANGE: Final = (6.0, 9.0)
"""Of every class alike [4] (B)."""
WORSE_THAN_V: Final = 6.0


def rounded(concentration: NDArray[np.float64], decimals: int) -> NDArray[np.float64]:
    """A concentration rounded as GB/T 8170 says: a half goes to the even neighbour."""
    scale = 10.0**decimals
    whole: NDArray[np.float64] = np.rint(np.round(concentration * scale, 6)) / scale
    return whole


def iaqi(concentration: NDArray[np.float64], breakpoints: Breakpoints) -> NDArray[np.float64]:
    """The sub-index of HJ 633, eq. 1 of [2], rounded up; at most 500 (the cap's wording: D).

    The rounding of the concentration is that of [2], section 4.2.2; it is used for both editions.
    """
    levels = IAQI[: len(breakpoints.concentrations)]
    exact = rounded(concentration, breakpoints.decimals)
    within = np.interp(exact, breakpoints.concentrations, levels)
    over = exact > breakpoints.concentrations[-1]
    return np.where(over, breakpoints.beyond, np.ceil(np.round(within, _GUARD)))


def aqi_hourly(edition: Edition, concentrations: Concentrations) -> Indexed:
    """The real-time AQI of HJ 633.

    2026: the 1-hour means of all six, those of particles on the daily breakpoints. 2012: the 1-hour
    means of the gases, the 8-hour mean of ozone and the 24-hour means of particles; above 800 ug/m3
    the 24-hour mean of SO2 stands for its 1-hour mean.
    """
    rows = _HOURLY_2026 if edition == 2026 else _HOURLY_2012  # noqa: PLR2004 - a year
    parts = _iaqi_parts(edition, rows, concentrations)
    if "so2_24h" in parts:
        overflow = _of(concentrations, "so2_1h") > BREAKPOINTS[edition]["so2_1h"].concentrations[-1]
        parts["so2_24h"] = np.where(overflow, parts["so2_24h"], np.nan)
    return _published(rows, parts)


def aqi_daily(edition: Edition, concentrations: Concentrations) -> Indexed:
    """The AQI of a day of HJ 633: daily means, and the largest 8-hour mean of ozone.

    2012 also takes the largest 1-hour mean of ozone, `o3_1h`.
    """
    rows = _DAILY_2026 if edition == 2026 else _DAILY_2012  # noqa: PLR2004 - a year
    return _published(rows, _iaqi_parts(edition, rows, concentrations))


def us_epa_2024(concentrations: Concentrations) -> Indexed:
    """The AQI of the US EPA [3] from what is there: particles by NowCast.

    Ozone above the table of its 8-hour mean is indexed by its 1-hour mean alone. From a 1-hour SO2
    of 305 ppb the 24-hour mean counts, and the index is 200 where that is below 305 ppb (D).
    """
    parts = {row.name: _epa(_of(concentrations, row.name), SEGMENTS[row.name]) for row in _US_EPA}
    parts["o3_8h"] = np.where(parts["o3_8h"] > _O3_8H_TOP, np.nan, parts["o3_8h"])
    high = parts["so2_1h"] > _SO2_1H_TOP
    parts["so2_1h"] = np.where(high, _SO2_1H_TOP, parts["so2_1h"])
    daily = parts["so2_24h"]
    parts["so2_24h"] = np.where(high & (daily > _SO2_1H_TOP), daily, np.nan)
    return Indexed(_largest(parts), parts)


def nowcast(hours: NDArray[np.float64]) -> NDArray[np.float64]:
    """The NowCast of particles [3, p. 16] in the unit of `hours`.

    `hours` is of shape (m, 12), hourly means, the newest first, NaN where there is none. NaN comes
    of fewer than two of the last three.
    """
    valid = ~np.isnan(hours)
    highest = np.where(valid, hours, -np.inf).max(axis=1, initial=-np.inf)
    lowest = np.where(valid, hours, np.inf).min(axis=1, initial=np.inf)
    defined = (valid[:, :3].sum(axis=1) >= 2) & (highest > 0)  # noqa: PLR2004 - two of the last three hours
    ratio = np.divide(lowest, highest, out=np.ones(len(hours)), where=defined)
    factor = np.clip(ratio, 0.5, 1.0)
    weight, total, weights = np.ones(len(hours)), np.zeros(len(hours)), np.zeros(len(hours))
    for hour in range(hours.shape[1]):
        total += np.where(valid[:, hour], weight * hours[:, hour], 0.0)
        weights += np.where(valid[:, hour], weight, 0.0)
        weight *= factor
    mean = np.divide(total, weights, out=np.zeros(len(hours)), where=weights > 0)
    return np.where(valid[:, :3].sum(axis=1) >= 2, mean, np.nan)  # noqa: PLR2004 - as above


def river_class(concentrations: Concentrations) -> Indexed:
    """The class of river water by its single worst factor [4]: 1 to 5, and 6 for worse than V.

    Only the factors that are there count: one that is missing could only make it worse. The
    alternative of class I for oxygen, 90 % saturation, is left out: it needs more than the
    concentration.
    """
    parts = {name: _class(_of(concentrations, name), row) for name, row in CLASS_LIMITS.items()}
    ph = _of(concentrations, "ph")
    outside = (ph < PH_RANGE[0]) | (ph > PH_RANGE[1])
    parts["ph"] = np.where(np.isnan(ph), np.nan, np.where(outside, WORSE_THAN_V, 1.0))
    return Indexed(_largest(parts), parts)


def _class(concentration: NDArray[np.float64], row: ClassLimits) -> NDArray[np.float64]:
    limits, sign = np.array(row.limits), -1.0 if row.minimum else 1.0
    worse = (sign * concentration[:, np.newaxis] > sign * limits).sum(axis=1)
    return np.where(np.isnan(concentration), np.nan, worse + 1.0)


def _epa(concentration: NDArray[np.float64], table: Segments) -> NDArray[np.float64]:
    """The sub-index of [3]; above the table along its last segment, below it NaN."""
    scale = 10.0**table.decimals
    steps = np.floor(np.round(np.maximum(concentration, 0) * table.factor * scale, 6))
    low, high = np.rint(np.array(table.spans).T * scale)
    first, last = np.array(table.index, dtype=np.float64).T
    at = np.clip(np.searchsorted(low, steps, side="right") - 1, 0, None)
    slope = (last[at] - first[at]) / (high[at] - low[at])
    index = np.floor(np.round(slope * (steps - low[at]) + first[at], _GUARD) + 0.5)
    return np.where(steps < low[0], np.nan, index)


def _iaqi_parts(
    edition: Edition, rows: tuple[Indicator, ...], concentrations: Concentrations
) -> dict[str, NDArray[np.float64]]:
    tables = BREAKPOINTS[edition]
    daily = {name: f"{name.removesuffix('_1h')}_24h" for name in ("pm25_1h", "pm10_1h")}
    return {
        row.name: iaqi(_of(concentrations, row.name), tables[daily.get(row.name, row.name)])
        for row in rows
    }


def _published(rows: tuple[Indicator, ...], parts: dict[str, NDArray[np.float64]]) -> Indexed:
    """The AQI where every pollutant has a sub-index; above 100 also where some have none.

    That is section 5.3.1 of [2] (A); for the edition of 2012 it is used by analogy (D).
    """
    value = _largest(parts)
    complete = np.ones(len(value), dtype=np.bool_)
    for quantity in {row.quantity for row in rows}:
        of = [~np.isnan(parts[row.name]) for row in rows if row.quantity == quantity]
        complete &= np.logical_or.reduce(of)
    return Indexed(np.where(complete | (value > _PUBLISHED_ABOVE), value, np.nan), parts)


def _largest(parts: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    largest: NDArray[np.float64] = np.fmax.reduce(list(parts.values()))
    return largest


def _of(concentrations: Concentrations, name: str) -> NDArray[np.float64]:
    found = concentrations.get(name)
    if found is None:
        return np.full_like(next(iter(concentrations.values())), np.nan)
    return found


_GASES_1H: Final = tuple(Indicator(f"{gas}_1h", gas, "hour") for gas in ("so2", "no2", "co", "o3"))
_HOURLY_2026: Final = (
    Indicator("pm25_1h", "pm25", "hour"),
    Indicator("pm10_1h", "pm10", "hour"),
    *_GASES_1H,
)
_HOURLY_2012: Final = (
    Indicator("pm25_24h", "pm25", "hours-24"),
    Indicator("pm10_24h", "pm10", "hours-24"),
    *_GASES_1H,
    Indicator("so2_24h", "so2", "hours-24"),
    Indicator("o3_8h", "o3", "hours-8"),
)
_DAILY_2026: Final = (
    *(Indicator(f"{name}_24h", name, "day") for name in ("pm25", "pm10", "so2", "no2", "co")),
    Indicator("o3_8h", "o3", "mda8"),
)
_DAILY_2012: Final = (*_DAILY_2026, Indicator("o3_1h", "o3", "max-hour"))
_US_EPA: Final = (
    Indicator("pm25_nowcast", "pm25", "nowcast"),
    Indicator("pm10_nowcast", "pm10", "nowcast"),
    Indicator("so2_1h", "so2", "hour"),
    Indicator("so2_24h", "so2", "hours-24"),
    Indicator("no2_1h", "no2", "hour"),
    Indicator("co_8h", "co", "hours-8"),
    Indicator("o3_8h", "o3", "hours-8"),
    Indicator("o3_1h", "o3", "hour"),
)
_RIVER: Final = tuple(
    Indicator(name, name, "hour")
    for name in ("ph", "dissolved_oxygen", "codmn", "ammonia_n", "total_p")
)


class IndexRow(msgspec.Struct, frozen=True):
    """An index: what it is made from, and how."""

    indicators: tuple[Indicator, ...]
    of: Callable[[Concentrations], Indexed]
    daily: bool = False


INDEX_ROWS: Final[dict[Index, IndexRow]] = {
    "aqi-2012": IndexRow(_HOURLY_2012, lambda means: aqi_hourly(2012, means)),
    "aqi-2026": IndexRow(_HOURLY_2026, lambda means: aqi_hourly(2026, means)),
    "aqi-day-2012": IndexRow(_DAILY_2012, lambda means: aqi_daily(2012, means), daily=True),
    "aqi-day-2026": IndexRow(_DAILY_2026, lambda means: aqi_daily(2026, means), daily=True),
    "us-epa-2024": IndexRow(_US_EPA, us_epa_2024),
    "river-class": IndexRow(_RIVER, river_class),
}
