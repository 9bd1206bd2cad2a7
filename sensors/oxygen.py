"""Oxygen in running water: how much it can hold, how fast it is used and comes back.

References:
    [1] H. W. Streeter, E. B. Phelps, "A study of the pollution and natural purification of the
        Ohio River", US Public Health Service Bulletin 146, 1925.
    [2] C. S. Melching, H. E. Flores, "Reaeration equations derived from U.S. Geological Survey
        database", J. Environ. Eng. 125(5), 1999.
    [3] QSim, the water quality model of the German Federal Institute of Hydrology (BfG).
    [4] HJ 2.3-2018, Technical guidelines for environmental impact assessment: surface water.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_EQUAL: Final = 1e-9
"""Rates that differ by less count as equal, where the general form is undefined."""


def oxygen_saturation_mg_l(temperature_c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Dissolved oxygen at saturation [mg/L] in fresh water of `temperature_c` [degC], any shape.

    At sea level, 0 to 40 degC. The simple form of [4]; within 0.03 mg/L of the polynomial below
    for 10 to 30 degC and 0.21 mg/L above it at 0 degC.
    """
    return 468.0 / (31.6 + temperature_c)  # Eq. of [4]


def oxygen_saturation_bfg_mg_l(temperature_c: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same [mg/L] by the polynomial of [3], for `temperature_c` [degC] of 0 to 30."""
    t = temperature_c
    value: NDArray[np.float64] = 14.603 + t * (-0.40215 + t * (0.007687 - 0.0000693 * t))  # [3]
    return value


def rate_at(
    rate_20_per_day: NDArray[np.float64] | float, theta: float, temperature_c: float
) -> NDArray[np.float64]:
    """A rate constant [1/d], given at 20 degC, at `temperature_c` [degC]: k20 * theta^(T - 20)."""
    return np.asarray(rate_20_per_day * theta ** (temperature_c - 20.0))


def reaeration_per_day(
    velocity_m_s: NDArray[np.float64],
    slope: NDArray[np.float64],
    depth_m: NDArray[np.float64],
    width_m: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The reaeration rate k2 at 20 degC [1/d] of reaches; all arrays have one shape.

    `slope` is that of the water's surface [m/m]. For pool-and-riffle and channel-controlled
    streams of more than 0.556 m3/s; theta is 1.024.
    """
    supplied = (velocity_m_s * slope) ** 0.333
    return 142.0 * supplied * depth_m**-0.66 * width_m**-0.243  # Eq. of [2], as in [3]


def uptake(
    k1_per_day: NDArray[np.float64] | float,
    k2_per_day: NDArray[np.float64] | float,
    time_d: NDArray[np.float64] | float,
) -> NDArray[np.float64]:
    """The deficit that one unit of demand has left after `time_d` [d]: dimensionless.

    k1 / (k2 - k1) * (exp(-k1 t) - exp(-k2 t)), written so that k1 = k2 is no exception. Arguments
    broadcast; rates [1/d] are not negative.
    """
    x = np.asarray((np.asarray(k2_per_day) - k1_per_day) * time_d, dtype=np.float64)
    equal = np.abs(x) < _EQUAL
    mean = np.where(equal, 1.0, -np.expm1(-x) / np.where(equal, 1.0, x))
    value: NDArray[np.float64] = k1_per_day * time_d * np.exp(-k1_per_day * time_d) * mean
    return value


def oxygen_deficit_mg_l(
    demand_mg_l: float, deficit_mg_l: float, k1_per_day: float, k2_per_day: float, time_d: float
) -> float:
    """The deficit [mg/L] of water after `time_d` [d] of flow, Streeter and Phelps.

    It began with an ultimate demand (BOD) of `demand_mg_l` and a deficit of `deficit_mg_l`
    [mg/L]; `k1_per_day` uses oxygen, `k2_per_day` brings it [1/d]. Steady plug flow in a uniform
    reach; nothing holds the deficit below saturation.
    """
    used = demand_mg_l * float(uptake(k1_per_day, k2_per_day, time_d))
    return used + deficit_mg_l * float(np.exp(-k2_per_day * time_d))  # Eq. of [1]


def critical_time_d(
    demand_mg_l: float, deficit_mg_l: float, k1_per_day: float, k2_per_day: float
) -> float:
    """When the deficit of that water is greatest [d]; 0 if it only shrinks. Arguments as above."""
    difference = k2_per_day - k1_per_day
    if abs(difference) < _EQUAL:
        return max(1.0 / k1_per_day - deficit_mg_l / (k1_per_day * demand_mg_l), 0.0)
    share = 1.0 - deficit_mg_l * difference / (demand_mg_l * k1_per_day)
    ratio = k2_per_day / k1_per_day * share
    return max(float(np.log(ratio)) / difference, 0.0) if ratio > 0.0 else 0.0
