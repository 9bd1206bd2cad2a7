"""Instruments: what a sensor makes of the truth at its place.

An instrument adds noise, rounds to its resolution (the decimals of its quantity) and ends at its
range. A value above the range is shown at its end with flag T; one below is shown at the lower
end, as real instruments show zero for less than they can detect.
"""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.quantities import QUANTITIES
from city.readings import Flag
from sensors.fields import Group
from sensors.plants import correct_columns, corrected_columns, reference_o2_percent

DEFAULT: Final = "engineering default"
FULL_TURN_DEG: Final = 360.0


class Instrument(msgspec.Struct, frozen=True):
    """How one quantity is measured.

    The noise of a reading has the standard deviation `absolute + relative * |value|`, in the
    quantity's unit. Where `high` is the end of the physical range, nothing lies over the range.
    """

    quantity: str
    absolute: float
    relative: float
    low: float
    high: float
    source: str = DEFAULT


_ROWS: Final = (
    Instrument("pm25", 0.8, 0.02, 0, 1000, "usual beta gauge: 0 to 1000 ug/m3"),
    Instrument("pm10", 1.2, 0.02, 0, 2000),
    Instrument("so2", 0.6, 0.01, 0, 1300, "usual analyser: 0 to 500 ppb"),
    Instrument("no2", 0.6, 0.01, 0, 950, "usual analyser: 0 to 500 ppb"),
    Instrument("co", 0.02, 0.01, 0, 60, "usual analyser: 0 to 50 ppm"),
    Instrument("o3", 0.8, 0.01, 0, 1000, "usual analyser: 0 to 500 ppb"),
    Instrument("temperature", 0.1, 0.0, -40, 60),
    Instrument("humidity", 0.5, 0.0, 0, 100),
    Instrument("wind_speed", 0.1, 0.02, 0, 60),
    Instrument("wind_direction", 3.0, 0.0, 0, 360),
    Instrument("water_temperature", 0.05, 0.0, -1, 45),
    Instrument("ph", 0.015, 0.0, 0, 14),
    Instrument("dissolved_oxygen", 0.03, 0.0, 0, 20),
    Instrument("conductivity", 1.0, 0.003, 0, 5000),
    Instrument("turbidity", 0.2, 0.01, 0, 1000),
    Instrument("codmn", 0.05, 0.01, 0, 20),
    Instrument("ammonia_n", 0.008, 0.01, 0, 10),
    Instrument("total_p", 0.002, 0.01, 0, 2),
    Instrument("total_n", 0.03, 0.01, 0, 20),
    Instrument("gas_pressure", 0.05, 0.0, -100, 250),
    Instrument("gas_flow", 0.05, 0.005, 0, 2500),
    Instrument("methane", 0.1, 0.01, 0, 100, "usual catalytic bead: 0 to 100 %LEL"),
    Instrument("valve_position", 0.0, 0.0, 0, 100),
    Instrument("stack_pm", 0.15, 0.01, 0, 500),
    Instrument("stack_so2", 0.3, 0.01, 0, 1500),
    Instrument("stack_nox", 0.3, 0.01, 0, 1500),
    Instrument("stack_o2", 0.02, 0.0, 0, 21),
    Instrument("stack_pm_corrected", 0.0, 0.0, 0, 50000),
    Instrument("stack_so2_corrected", 0.0, 0.0, 0, 50000),
    Instrument("stack_nox_corrected", 0.0, 0.0, 0, 50000),
    Instrument("flue_temperature", 0.2, 0.0, 0, 400),
    Instrument("flue_pressure", 0.002, 0.0, -5, 5),
    Instrument("flue_humidity", 0.1, 0.0, 0, 40),
    Instrument("flue_velocity", 0.05, 0.005, 0, 40),
    Instrument("flue_flow", 0.0, 0.005, 0, 5000),
    Instrument("effluent_flow", 0.05, 0.01, 0, 5000),
    Instrument("effluent_ph", 0.02, 0.0, 0, 14),
    Instrument("effluent_cod", 0.4, 0.01, 0, 1000),
    Instrument("effluent_ammonia_n", 0.03, 0.01, 0, 100),
    Instrument("effluent_total_p", 0.005, 0.01, 0, 20),
    Instrument("effluent_total_n", 0.1, 0.01, 0, 200),
)
INSTRUMENTS: Final = {row.quantity: row for row in _ROWS}


class Instruments:
    """The instruments of one group of devices."""

    def __init__(self, group: Group) -> None:
        rows = [INSTRUMENTS[quantity] for quantity in group.quantities]
        physical = [QUANTITIES[quantity] for quantity in group.quantities]
        self._quantities = group.quantities
        self._absolute = np.array([row.absolute for row in rows])
        self._relative = np.array([row.relative for row in rows])
        self._low = np.array([float(row.low) for row in rows])
        self._high = np.array([float(row.high) for row in rows])
        self._scale = np.array([10.0**quantity.decimals for quantity in physical])
        ends = [quantity.high <= row.high for row, quantity in zip(rows, physical, strict=True)]
        self._top = np.where(ends, np.inf, self._high)
        self._wind = [i for i, name in enumerate(group.quantities) if name == "wind_direction"]
        self._corrections = corrected_columns(group.quantities)
        self._o2_ref = reference_o2_percent(group) if self._corrections else None

    def show(
        self,
        truth: NDArray[np.float64],
        noise: NDArray[np.float64],
        rows: NDArray[np.int64],
    ) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """What devices `rows` show of `truth` with standard normal `noise`: values and flags.

        All arrays but `rows`, shape (m,), have the shape (m, q); the values are finite, within
        the ranges and rounded.
        """
        values = np.abs(truth)
        values *= self._relative
        values += self._absolute
        values *= noise
        values += truth
        for column in self._wind:
            values[:, column] %= FULL_TURN_DEG
        values, flags = self._limit(values)
        if self._o2_ref is not None:
            values, flags = self._correct(values, flags, self._o2_ref[rows])
        return values, flags

    def _correct(
        self,
        values: NDArray[np.float64],
        flags: NDArray[np.uint8],
        o2_ref_percent: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """An analyser corrects what it has measured itself, clipped and rounded, not the truth."""
        correct_columns(values, self._quantities, o2_ref_percent)
        values, over = self._limit(values)
        flags = np.maximum(flags, over)
        for column, raw in self._corrections:
            flags[:, column] = np.maximum(flags[:, column], flags[:, raw])
        return values, flags

    def _limit(self, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        over = values > self._top
        flags = np.zeros(values.shape, dtype=np.uint8)
        if over.any():
            flags[over] = Flag.T
        values = np.clip(values, self._low, self._high)
        values *= self._scale
        np.rint(values, out=values)
        values /= self._scale
        for column in self._wind:
            values[values[:, column] >= FULL_TURN_DEG, column] = 0.0
        # Adding zero turns a rounded -0.0 into 0.0.
        values += 0.0
        return values, flags
