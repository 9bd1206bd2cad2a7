"""What leaves a plant, as arrays: flue gas, wastewater, mass flows; and what its devices see of it."""

from collections.abc import Callable
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import Position
from sensors.fields import Group
from sensors.fluegas import correct_columns, reference_o2_percent

_Told = TypeVar("_Told")
Source = Callable[[NDArray[np.int64], NDArray[np.int64]], _Told]
"""Tells something of plants at instants, both of shape (m,)."""


class StackPlace(msgspec.Struct, frozen=True):
    """A stack that the air knows of."""

    site: str
    position: Position
    height_m: float
    diameter_m: float


class OutfallPlace(msgspec.Struct, frozen=True):
    """An outfall that the river knows of."""

    site: str
    river_km: float


class StackEmissions(msgspec.Struct, frozen=True, eq=False):
    """What the stacks emit, arrays (k, stacks): mass flows [g/s], gas at the mouth [degC, m/s]."""

    pm_g_s: NDArray[np.float64]
    so2_g_s: NDArray[np.float64]
    nox_g_s: NDArray[np.float64]
    temperature_c: NDArray[np.float64]
    velocity_m_s: NDArray[np.float64]


class OutfallLoads(msgspec.Struct, frozen=True, eq=False):
    """What the river receives, arrays (k, outfalls): flow [m3/s] and mass flows [g/s]."""

    flow_m3_s: NDArray[np.float64]
    cod_g_s: NDArray[np.float64]
    ammonia_n_g_s: NDArray[np.float64]
    total_p_g_s: NDArray[np.float64]
    total_n_g_s: NDArray[np.float64]


class FlueGas(msgspec.Struct, frozen=True, eq=False):
    """Flue gas in the stack, arrays (m,).

    Concentrations [mg/m3] and oxygen [%] in dry gas at standard state, as measured (uncorrected);
    `flow_m3_s` is dry and at standard state.
    """

    pm: NDArray[np.float64]
    so2: NDArray[np.float64]
    nox: NDArray[np.float64]
    o2_percent: NDArray[np.float64]
    temperature_c: NDArray[np.float64]
    pressure_kpa: NDArray[np.float64]
    humidity_percent: NDArray[np.float64]
    velocity_m_s: NDArray[np.float64]
    flow_m3_s: NDArray[np.float64]


class Effluent(msgspec.Struct, frozen=True, eq=False):
    """Wastewater at the end of the treatment, arrays (m,), and what goes past it.

    Concentrations [mg/L] by substance, treated and raw; `flow_l_s` is all of it, `treated` the
    share that passes the treatment and the monitor.
    """

    flow_l_s: NDArray[np.float64]
    treated: NDArray[np.float64]
    ph: NDArray[np.float64]
    clean: dict[str, NDArray[np.float64]]
    raw: dict[str, NDArray[np.float64]]


class Operation(msgspec.Struct, frozen=True, eq=False):
    """How a plant is run, arrays (m,): load [% of rated] and electricity [kW]."""

    load_percent: NDArray[np.float64]
    power_kw: NDArray[np.float64]


class StackProbe:
    """The flue gas at the analysers of one group."""

    def __init__(self, source: Source[FlueGas], plants: NDArray[np.int64], group: Group) -> None:
        self._source = source
        self._plants = plants
        self._quantities = group.quantities
        self._o2_ref = reference_o2_percent(group)

    def truth(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The true values at devices `rows`, shape (m, q); `_corrected` follow from the others."""
        gas = self._source(self._plants[rows], ts)
        named = {
            "stack_pm": gas.pm,
            "stack_so2": gas.so2,
            "stack_nox": gas.nox,
            "stack_o2": gas.o2_percent,
            "flue_temperature": gas.temperature_c,
            "flue_pressure": gas.pressure_kpa,
            "flue_humidity": gas.humidity_percent,
            "flue_velocity": gas.velocity_m_s,
            "flue_flow": gas.flow_m3_s,
        }
        values = np.empty((len(ts), len(self._quantities)))
        for column, quantity in enumerate(self._quantities):
            if quantity in named:
                values[:, column] = named[quantity]
        correct_columns(values, self._quantities, self._o2_ref[rows])
        return values


class OutfallProbe:
    """The wastewater at the monitors of one group: what goes past them they do not see."""

    def __init__(self, source: Source[Effluent], plants: NDArray[np.int64], group: Group) -> None:
        self._source = source
        self._plants = plants
        self._quantities = group.quantities

    def truth(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The true values at devices `rows`, shape (m, q)."""
        water = self._source(self._plants[rows], ts)
        named = {f"effluent_{name}": column for name, column in water.clean.items()}
        named["effluent_flow"] = water.flow_l_s * water.treated
        named["effluent_ph"] = water.ph
        return np.stack([named[quantity] for quantity in self._quantities], axis=1)


class MeterProbe:
    """Production and electricity at the meters of one group."""

    def __init__(self, source: Source[Operation], plants: NDArray[np.int64], group: Group) -> None:
        self._source = source
        self._plants = plants
        self._quantities = group.quantities

    def truth(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The true values at devices `rows`, shape (m, q)."""
        seen = self._source(self._plants[rows], ts)
        named = {"plant_load": seen.load_percent, "plant_power": seen.power_kw}
        return np.stack([named[quantity] for quantity in self._quantities], axis=1)
