"""Fires and fans: what load and excess air make of the oxygen, the draught and the state of the gas.

Rows are those of `sensors.enterprises.Firing`, one number per plant and name, shape (m,).
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sensors.enterprises import USUAL_LOAD
from sensors.fluegas import O2_AIR_PERCENT, excess_air, oxygen_percent

GASES: Final = ("pm", "so2", "nox")
"""What a stack's treatment cleans."""

IDLE_LOAD: Final = 0.15
"""Fans do not go below what this load needs; at lower load they blow more and more air."""

_EXCESS_MIN: Final = 1.02
_AIR_HUMIDITY_PERCENT: Final = 1.5
_COLDER_AT_REST: Final = 0.1

Row = Mapping[str, NDArray[np.float64]]


def fire(
    load: NDArray[np.float64], varies: NDArray[np.float64], row: Row
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Oxygen [%] and draught (flow of dry gas relative to that at usual load), shapes (m,).

    Excess air grows linearly as the load falls, times `varies`. Valid for loads of 0 to 1.2.
    """
    usual = excess_air(row["o2_percent"])
    excess = usual * (1.0 + row["turndown"] * (USUAL_LOAD - load)) * varies
    excess = np.maximum(excess, _EXCESS_MIN)
    fanned = np.maximum(load, IDLE_LOAD)
    return oxygen_percent(excess, load / fanned), excess * fanned / (usual * USUAL_LOAD)


def in_duct(
    load: NDArray[np.float64],
    o2_percent: NDArray[np.float64],
    draught: NDArray[np.float64],
    ambient_c: NDArray[np.float64],
    cooling: NDArray[np.float64],
    vary: Row,
    row: Row,
) -> dict[str, NDArray[np.float64]]:
    """Temperature, gauge pressure, humidity and velocity of the gas by name, shapes (m,).

    `cooling` is the share left of the heat above `ambient_c` after a stop. Water comes from the
    fire and thins with its gas; velocity follows the draught and the gas law, pressure the square
    of the draught.
    """
    warm = 1.0 - _COLDER_AT_REST * (1.0 - load / USUAL_LOAD)
    temperature_c = row["temperature_c"] * warm * vary["temperature"]
    temperature_c = ambient_c + (temperature_c - ambient_c) * cooling
    fired = (O2_AIR_PERCENT - o2_percent) / (O2_AIR_PERCENT - row["o2_percent"])
    water = (row["humidity_percent"] - _AIR_HUMIDITY_PERCENT) * fired * vary["humidity"]
    expanded = (273.0 + temperature_c) / (273.0 + row["temperature_c"])
    return {
        "temperature_c": temperature_c,
        "pressure_kpa": row["pressure_kpa"] * draught * draught,
        "humidity_percent": _AIR_HUMIDITY_PERCENT + water,
        "velocity_m_s": row["velocity_m_s"] * draught * expanded * vary["velocity"],
    }
