"""The plants: what leaves their stacks and outfalls.

First version of the field: each kind of plant runs by its daily schedule, every plant at the load
that its city file gives; concentrations stay well below the permit unless treatment fails.
"""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import City
from city.kinds import PLANT_KINDS
from sensors.events import Episodes
from sensors.fields import HOUR_S, DailyProfile, Group, LocalPart, Series, Spread, local_hour
from sensors.randomness import Octave, Process

KNOT_S: Final = 30.0
USUAL_LOAD: Final = 0.8
"""The load at which the profiles below hold."""

O2_AIR: Final = 21.0
"""Oxygen in air as the correction formula has it [%]."""

O2_MAX: Final = 20.0
"""Above this a stack carries air: the correction is held here, or it would grow without bound [%]."""


class StackProfile(msgspec.Struct, frozen=True):
    """A stack at usual load: cleaned gas [mg/m3, dry, standard state, at the reference O2]."""

    pm: float
    so2: float
    nox: float
    o2_percent: float
    temperature_c: float
    pressure_kpa: float
    humidity_percent: float
    velocity_m_s: float
    area_m2: float


class EffluentProfile(msgspec.Struct, frozen=True):
    """An outfall at usual load: flow [L/s], pH, and concentrations [mg/L]."""

    flow: float
    ph: float
    cod: float
    ammonia_n: float
    total_p: float
    total_n: float


STACKS: Final = {
    "coal-boiler": StackProfile(6.0, 22.0, 34.0, 7.5, 52.0, -0.12, 10.0, 13.0, 12.0),
    "gas-turbine": StackProfile(1.5, 6.0, 24.0, 14.2, 96.0, 0.05, 8.0, 18.0, 20.0),
    "ceramics-kiln": StackProfile(14.0, 22.0, 95.0, 17.4, 85.0, -0.08, 7.0, 11.0, 5.0),
    "steel-sinter": StackProfile(18.0, 75.0, 150.0, 15.6, 118.0, -0.15, 9.0, 16.0, 28.0),
    "sewage-works": StackProfile(2.0, 10.0, 40.0, 6.0, 120.0, 0.02, 11.0, 8.0, 0.5),
    "brewery": StackProfile(3.0, 10.0, 45.0, 4.5, 110.0, -0.03, 14.0, 9.0, 1.2),
}
"""Typical of treated flue gas (engineering default), below half of the usual permit."""

EFFLUENTS: Final = {
    "coal-boiler": EffluentProfile(12.0, 7.8, 32.0, 2.5, 0.20, 9.0),
    "gas-turbine": EffluentProfile(6.0, 7.7, 28.0, 2.0, 0.20, 8.0),
    "ceramics-kiln": EffluentProfile(9.0, 7.6, 38.0, 3.0, 0.25, 9.0),
    "steel-sinter": EffluentProfile(25.0, 7.9, 40.0, 3.5, 0.25, 10.0),
    "sewage-works": EffluentProfile(480.0, 7.2, 22.0, 1.2, 0.22, 8.5),
    "brewery": EffluentProfile(28.0, 7.4, 34.0, 4.0, 0.90, 12.0),
}
"""Typical of treated wastewater (engineering default), below half of the usual permit."""

_STEADY: Final = (1.0,) * 24
_DAY: Final = (
    0.80, 0.78, 0.76, 0.76, 0.78, 0.85, 0.95, 1.05, 1.12, 1.15, 1.15, 1.12,
    1.10, 1.12, 1.14, 1.15, 1.15, 1.12, 1.10, 1.08, 1.02, 0.96, 0.90, 0.84,
)  # fmt: skip
_SHIFTS: Final = (
    0.55, 0.55, 0.55, 0.55, 0.55, 0.75, 1.15, 1.25, 1.28, 1.28, 1.28, 1.25,
    1.20, 1.25, 1.28, 1.28, 1.28, 1.25, 1.20, 1.20, 1.15, 0.95, 0.70, 0.55,
)  # fmt: skip
_HOUSEHOLDS: Final = (
    0.85, 0.70, 0.60, 0.55, 0.55, 0.65, 0.90, 1.15, 1.30, 1.28, 1.20, 1.15,
    1.15, 1.10, 1.00, 0.95, 0.95, 1.00, 1.10, 1.20, 1.28, 1.25, 1.15, 0.99,
)  # fmt: skip
SCHEDULES: Final = {
    "coal-boiler": _DAY,
    "gas-turbine": _SHIFTS,
    "ceramics-kiln": _STEADY,
    "steel-sinter": _STEADY,
    "sewage-works": _HOUSEHOLDS,
    "brewery": _SHIFTS,
}
"""Each kind's load by local hour, relative to its daily mean (engineering default)."""

_STACK_COLUMNS: Final = (
    "pm", "so2", "nox", "stack_o2", "flue_temperature", "flue_pressure", "flue_humidity",
    "flue_velocity",
)  # fmt: skip
_EFFLUENT_COLUMNS: Final = (
    "effluent_flow", "effluent_ph", "effluent_cod", "effluent_ammonia_n", "effluent_total_p",
    "effluent_total_n",
)  # fmt: skip
_KINDS: Final = tuple(PLANT_KINDS)

_VARIES: Final = np.array(
    [0.08, 0.08, 0.06, 0.012, 0.02, 0.05, 0.03, 0.03, 0.04, 0.008, 0.07, 0.10, 0.08, 0.06]
)
"""Relative standard deviation over time of each column (engineering default)."""

LOCAL: Final = {
    "pm": Spread(relative=0.06),
    "so2": Spread(relative=0.06),
    "nox": Spread(relative=0.05),
    "stack_o2": Spread(absolute=0.12),
    "flue_temperature": Spread(absolute=1.5),
    "flue_pressure": Spread(absolute=0.004),
    "flue_humidity": Spread(absolute=0.3),
    "flue_velocity": Spread(relative=0.03),
    "effluent_flow": Spread(relative=0.05),
    "effluent_ph": Spread(absolute=0.05),
    "effluent_cod": Spread(relative=0.06),
    "effluent_ammonia_n": Spread(relative=0.08),
    "effluent_total_p": Spread(relative=0.06),
    "effluent_total_n": Spread(relative=0.05),
}

_OCTAVES: Final = (
    Octave(8 * HOUR_S, 0.4),
    Octave(1.5 * HOUR_S, 0.35),
    Octave(600.0, 0.25),
)


def corrected(
    concentration: NDArray[np.float64],
    o2_percent: NDArray[np.float64],
    o2_ref_percent: NDArray[np.float64],
) -> NDArray[np.float64]:
    """A dry concentration [mg/m3] brought from the measured to the reference oxygen [%].

    C * (21 - O2_ref) / (21 - O2), HJ 212-2017 D.2; O2 is held below 20 %. Where `o2_ref_percent`
    is NaN the standard corrects nothing.
    """
    ratio = (O2_AIR - o2_ref_percent) / (O2_AIR - np.minimum(o2_percent, O2_MAX))
    return concentration * np.where(np.isnan(ratio), 1.0, ratio)


def dry_standard_flow_m3_s(
    velocity_m_s: NDArray[np.float64],
    area_m2: NDArray[np.float64],
    temperature_c: NDArray[np.float64],
    pressure_kpa: NDArray[np.float64],
    humidity_percent: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Flue-gas flow [m3/s], dry, at 0 degC and 101.325 kPa, from the state in the duct.

    Qs * 273/(273+ts) * (Ba+Ps)/101325 * (1-Xsw), HJ 212-2017 D.2, at sea level; `pressure_kpa` is
    gauge pressure.
    """
    wet = velocity_m_s * area_m2
    standard = wet * 273.0 / (273.0 + temperature_c) * (101.325 + pressure_kpa) / 101.325
    return standard * (1.0 - humidity_percent / 100.0)


def reference_o2_percent(group: Group) -> NDArray[np.float64]:
    """The reference oxygen of each device's plant [%], NaN where its standard has none."""
    refs = [device.plant.o2_ref if device.plant else None for device in group.devices]
    return np.array([np.nan if ref is None else ref for ref in refs])


class PlantsField:
    """The plants of one city."""

    def __init__(self, city: City, *, seed: int, start_ms: int) -> None:
        self._city = city
        self._seed = seed
        self._start_ms = start_ms
        self._zone = city.zone
        self._noise = Process(seed, "plants", _OCTAVES, count=len(_KINDS), columns=len(_VARIES))
        self._schedules = [DailyProfile(SCHEDULES[kind]) for kind in _KINDS]
        self._usual = np.array([[*_stack_row(kind), *_effluent_row(kind)] for kind in _KINDS])
        self._follows_load = np.array(
            [
                name in {"flue_velocity", "effluent_flow"}
                for name in (*_STACK_COLUMNS, *_EFFLUENT_COLUMNS)
            ]
        )
        self.series = Series(KNOT_S, self._knots)

    def probe(self, group: Group) -> "StackProbe | OutfallProbe":
        """The plants at the places of `group`."""
        episodes = Episodes(self._city, group, self._start_ms, group.quantities)
        if "stack_o2" in group.quantities:
            local = LocalPart(group, self._seed, _STACK_COLUMNS, LOCAL)
            return StackProbe(self.series, group, local, episodes)
        local = LocalPart(group, self._seed, group.quantities, LOCAL)
        return OutfallProbe(self.series, group, local, episodes)

    def _knots(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Every kind at usual load, shape (k, kinds, columns)."""
        hour = local_hour(ts, self._zone)
        knots = np.empty((len(ts), *self._usual.shape))
        for source, schedule in enumerate(self._schedules):
            noise = self._noise.at(np.full(len(ts), source, dtype=np.int64), ts)
            load = np.where(self._follows_load, schedule.at(hour)[:, None], 1.0)
            knots[:, source] = self._usual[source] * load * (1.0 + _VARIES * noise)
        return knots


class StackProbe:
    """The flue gas at the places of one group's analysers."""

    def __init__(self, series: Series, group: Group, local: LocalPart, episodes: Episodes) -> None:
        self._series = series
        self._local = local
        self._episodes = episodes
        self._quantities = group.quantities
        self._sources = _sources(group)
        self._load = _relative_load(group)
        self._o2_ref = reference_o2_percent(group)
        kinds = [_KINDS[source] for source in self._sources]
        self._area_m2 = np.array([STACKS[kind].area_m2 for kind in kinds])

    def truth(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The true values at devices `rows`, shape (m, q); `_corrected` follow from the others."""
        state = self._series.at(ts, self._sources[rows])[:, : len(_STACK_COLUMNS)].copy()
        load = self._load[rows]
        o2, velocity = _STACK_COLUMNS.index("stack_o2"), _STACK_COLUMNS.index("flue_velocity")
        state[:, o2] += 2.0 * (1.0 - load)
        state[:, velocity] *= load
        self._local.apply(state, rows, ts)
        np.clip(state[:, o2], 0.5, O2_MAX, out=state[:, o2])
        named = {name: state[:, index].copy() for index, name in enumerate(_STACK_COLUMNS)}
        values = self._raw(named, rows)
        self._episodes.apply(values, rows, ts)
        correct_columns(values, self._quantities, self._o2_ref[rows])
        return values

    def _raw(
        self, named: dict[str, NDArray[np.float64]], rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The columns of the group's quantities, before correction."""
        at_reference = corrected(np.ones(len(rows)), named["stack_o2"], self._o2_ref[rows])
        for gas in ("pm", "so2", "nox"):
            named[f"stack_{gas}"] = named[f"stack_{gas}_corrected"] = named[gas] / at_reference
        named["flue_flow"] = dry_standard_flow_m3_s(
            named["flue_velocity"],
            self._area_m2[rows],
            named["flue_temperature"],
            named["flue_pressure"],
            named["flue_humidity"],
        )
        return np.stack([named[quantity] for quantity in self._quantities], axis=1)


class OutfallProbe:
    """The wastewater at the places of one group's monitors."""

    def __init__(self, series: Series, group: Group, local: LocalPart, episodes: Episodes) -> None:
        self._series = series
        self._local = local
        self._episodes = episodes
        self._sources = _sources(group)
        self._load = _relative_load(group)
        first = len(_STACK_COLUMNS)
        self._columns = np.array(
            [first + _EFFLUENT_COLUMNS.index(name) for name in group.quantities], dtype=np.int64
        )
        self._flow = group.quantities.index("effluent_flow")

    def truth(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The true values at devices `rows`, shape (m, q)."""
        values = self._series.at(ts, self._sources[rows]).take(self._columns, axis=1)
        values[:, self._flow] *= self._load[rows]
        self._local.apply(values, rows, ts)
        self._episodes.apply(values, rows, ts)
        return values


def correct_columns(
    values: NDArray[np.float64], quantities: tuple[str, ...], o2_ref_percent: NDArray[np.float64]
) -> None:
    """Fill the `_corrected` columns of `values`, shape (m, q), from the raw ones, in place."""
    o2_percent = values[:, quantities.index("stack_o2")]
    for column, raw in corrected_columns(quantities):
        values[:, column] = corrected(values[:, raw], o2_percent, o2_ref_percent)


def corrected_columns(quantities: tuple[str, ...]) -> list[tuple[int, int]]:
    """The columns of the O2-corrected quantities, each with the column that it follows from."""
    return [
        (column, quantities.index(quantity.removesuffix("_corrected")))
        for column, quantity in enumerate(quantities)
        if quantity.endswith("_corrected")
    ]


def _sources(group: Group) -> NDArray[np.int64]:
    kinds = [device.plant.id if device.plant else _KINDS[0] for device in group.devices]
    return np.array([_KINDS.index(kind) for kind in kinds], dtype=np.int64)


def _relative_load(group: Group) -> NDArray[np.float64]:
    plants = [device.site.plant for device in group.devices]
    return np.array([plant.load / USUAL_LOAD if plant else 1.0 for plant in plants])


def _stack_row(kind: str) -> tuple[float, ...]:
    row = STACKS[kind]
    clean = (row.pm, row.so2, row.nox, row.o2_percent)
    return (*clean, row.temperature_c, row.pressure_kpa, row.humidity_percent, row.velocity_m_s)


def _effluent_row(kind: str) -> tuple[float, ...]:
    row = EFFLUENTS[kind]
    return (row.flow, row.ph, row.cod, row.ammonia_n, row.total_p, row.total_n)
