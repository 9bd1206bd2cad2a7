"""The arithmetic of a stack's continuous monitoring: correction for oxygen, dry standard flow.

Concentrations are masses per volume of dry gas at 0 degC and 101.325 kPa, oxygen is in dry gas.
Formulas are those of HJ 212-2017, appendix D.2 [1], which agree with HJ 75-2017 and HJ 76-2017.

References:
    [1] HJ 212-2017, Data transmission standard for online monitoring systems of pollutants.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from sensors.fields import Group

O2_FORMULA_PERCENT: Final = 21.0
"""Oxygen in air as the correction formula has it."""

O2_AIR_PERCENT: Final = 20.9
"""Oxygen in dry air as an analyser shows it."""

O2_HELD_PERCENT: Final = 20.5
"""Above this a stack carries air: the correction is held here, or noise would grow a hundredfold."""

STANDARD_PRESSURE_KPA: Final = 101.325
_CORRECTED: Final = "_corrected"


def corrected(
    concentration: NDArray[np.float64],
    o2_percent: NDArray[np.float64],
    o2_ref_percent: NDArray[np.float64],
) -> NDArray[np.float64]:
    """A dry concentration [mg/m3] brought from the measured to the reference oxygen [%].

    Shapes (m,). Oxygen is held at 20.5 % from there on, where a stack carries air and no standard
    means its values. Where `o2_ref_percent` is NaN the standard corrects nothing.
    """
    held = np.minimum(o2_percent, O2_HELD_PERCENT)
    ratio = (O2_FORMULA_PERCENT - o2_ref_percent) / (O2_FORMULA_PERCENT - held)  # Eq. D.2 of [1]
    return concentration * np.where(np.isnan(ratio), 1.0, ratio)


def uncorrected(
    concentration: NDArray[np.float64],
    o2_percent: NDArray[np.float64],
    o2_ref_percent: NDArray[np.float64],
) -> NDArray[np.float64]:
    """A dry concentration [mg/m3] at reference oxygen, diluted to the oxygen [%] that there is.

    Shapes (m,); the inverse of `corrected` where that is not held.
    """
    share = (O2_FORMULA_PERCENT - o2_percent) / (O2_FORMULA_PERCENT - o2_ref_percent)
    return concentration * share


def oxygen_percent(
    excess_air: NDArray[np.float64], burning: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Oxygen [%] in dry flue gas of a fire with `excess_air` times the air that it needs.

    Shapes (m,). `burning` is the share of the fire for which the fans blow, 1 in operation and
    0 when they blow air alone. Holds where dry gas has the volume of its air: coal within 0.3 %
    oxygen, natural gas within 1 %.
    """
    return O2_AIR_PERCENT * (1.0 - burning / excess_air)


def excess_air(o2_percent: NDArray[np.float64]) -> NDArray[np.float64]:
    """The excess air of a fire whose dry flue gas has `o2_percent` below 20.9 [%], shape (m,)."""
    return O2_AIR_PERCENT / (O2_AIR_PERCENT - o2_percent)


def dry_standard_flow_m3_s(
    velocity_m_s: NDArray[np.float64],
    area_m2: NDArray[np.float64],
    temperature_c: NDArray[np.float64],
    pressure_kpa: NDArray[np.float64],
    humidity_percent: NDArray[np.float64],
    barometer_kpa: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Flue-gas flow [m3/s], dry, at 0 degC and 101.325 kPa, from the state in the duct.

    Shapes (m,); `pressure_kpa` is gauge pressure over `barometer_kpa`, `humidity_percent` the
    volume share of water.
    """
    wet = velocity_m_s * area_m2
    standard = wet * 273.0 / (273.0 + temperature_c)  # Eq. D.2 of [1]
    standard *= (barometer_kpa + pressure_kpa) / STANDARD_PRESSURE_KPA
    return standard * (1.0 - humidity_percent / 100.0)


def emission_g_s(
    concentration: NDArray[np.float64], flow_m3_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The mass [g/s] that a dry standard flow [m3/s] carries at a concentration [mg/m3]."""
    return concentration * flow_m3_s / 1000.0


def reference_o2_percent(group: Group) -> NDArray[np.float64]:
    """The reference oxygen of each device's plant [%], NaN where its standard has none."""
    refs = [device.plant.o2_ref if device.plant else None for device in group.devices]
    return np.array([np.nan if ref is None else ref for ref in refs])


def corrected_columns(quantities: tuple[str, ...]) -> list[tuple[int, int]]:
    """The columns of the O2-corrected quantities, each with the column that it follows from."""
    return [
        (column, quantities.index(quantity.removesuffix(_CORRECTED)))
        for column, quantity in enumerate(quantities)
        if quantity.endswith(_CORRECTED)
    ]


def correct_columns(
    values: NDArray[np.float64], quantities: tuple[str, ...], o2_ref_percent: NDArray[np.float64]
) -> None:
    """Fill the `_corrected` columns of `values`, shape (m, q), from the raw ones, in place."""
    o2_percent = values[:, quantities.index("stack_o2")]
    for column, raw in corrected_columns(quantities):
        values[:, column] = corrected(values[:, raw], o2_percent, o2_ref_percent)
