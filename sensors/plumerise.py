"""How far hot or fast flue gas rises above its stack before the wind bends it over.

The equations of Briggs as ISC3 has them: buoyant or carried by momentum, in stable air or not, and
gradual on the way to the final rise. Stack-tip downwash and buildings are left out. Arrays of one
call broadcast against each other.

References:
    [1] EPA-454/B-95-003b, User's Guide for the Industrial Source Complex (ISC3) Dispersion
        Models, volume II, section 1.1.4, 1995.
"""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

GRAVITY_M_S2: Final = 9.80616
KELVIN: Final = 273.15
_STABLE_FROM: Final = 4
_GRADIENT_K_M: Final = np.array([np.nan, np.nan, np.nan, np.nan, 0.020, 0.035])
"""Growth of potential temperature with height in the classes E and F (ISC3 default)."""

_LARGE_M4_S3: Final = 55.0
_STILL_M_S: Final = 1e-3


class Gas(msgspec.Struct, frozen=True, eq=False):
    """Flue gas at the mouth of its stack: temperature [degC], velocity [m/s], diameter [m]."""

    temperature_c: NDArray[np.float64]
    velocity_m_s: NDArray[np.float64]
    diameter_m: NDArray[np.float64]


class Rise(msgspec.Struct, frozen=True, eq=False):
    """The final rise [m], and how far downwind [m] the plume has reached it."""

    final_m: NDArray[np.float64]
    reached_m: NDArray[np.float64]
    buoyant: NDArray[np.bool_]
    """Whether warmth decides, not momentum."""


def buoyancy_flux_m4_s3(gas: Gas, air_c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Buoyancy flux Fb [m4/s3] into air of `air_c` [degC], Eq. 1-8; 0 for gas that is no warmer."""
    stack_k = gas.temperature_c + KELVIN
    excess_k = np.maximum(gas.temperature_c - air_c, 0.0)
    flux: NDArray[np.float64] = (
        GRAVITY_M_S2 * gas.velocity_m_s * gas.diameter_m**2 * excess_k / (4.0 * stack_k)
    )
    return flux


def momentum_flux_m4_s2(gas: Gas, air_c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Momentum flux Fm [m4/s2] into air of `air_c` [degC], Eq. 1-9."""
    ratio = (air_c + KELVIN) / (4.0 * (gas.temperature_c + KELVIN))
    flux: NDArray[np.float64] = gas.velocity_m_s**2 * gas.diameter_m**2 * ratio
    return flux


def final_rise(
    gas: Gas,
    *,
    wind_m_s: NDArray[np.float64],
    air_c: NDArray[np.float64],
    stability: NDArray[np.int64],
) -> Rise:
    """The final rise of `gas`, shape of the arguments broadcast together.

    Args:
        gas: The flue gas; where it stands still nothing rises.
        wind_m_s: Wind at the stack's mouth [m/s], above 0.
        air_c: Temperature of the air there [degC].
        stability: Pasquill class, 0 for A to 5 for F.
    """
    buoyancy = buoyancy_flux_m4_s3(gas, air_c)
    momentum = momentum_flux_m4_s2(gas, air_c)
    neutral = _neutral_rise(gas, buoyancy, wind_m_s, air_c)
    stable = _stable_rise(gas, buoyancy, momentum, wind_m_s, air_c, stability)
    calm = stability >= _STABLE_FROM
    moving = gas.velocity_m_s > _STILL_M_S
    return Rise(
        np.where(moving, np.where(calm, stable.final_m, neutral.final_m), 0.0),
        np.where(calm, stable.reached_m, neutral.reached_m),
        np.where(calm, stable.buoyant, neutral.buoyant),
    )


def _neutral_rise(
    gas: Gas,
    buoyancy: NDArray[np.float64],
    wind_m_s: NDArray[np.float64],
    air_c: NDArray[np.float64],
) -> Rise:
    stack_k = gas.temperature_c + KELVIN
    velocity = np.maximum(gas.velocity_m_s, _STILL_M_S)
    small = buoyancy < _LARGE_M4_S3
    crossover_k = stack_k * np.where(
        small,
        0.0297 * np.cbrt(velocity / gas.diameter_m),  # Eq. 1-10
        0.00575 * np.cbrt(velocity**2 / gas.diameter_m),  # Eq. 1-11
    )
    buoyant = gas.temperature_c - air_c >= crossover_k
    warm_m = (
        np.where(small, 21.425 * buoyancy**0.75, 38.71 * buoyancy**0.6) / wind_m_s
    )  # Eq. 1-13, 1-15
    warm_x_m = np.where(small, 49.0 * buoyancy**0.625, 119.0 * buoyancy**0.4)  # Eq. 1-12, 1-14
    fast_m = 3.0 * gas.diameter_m * velocity / wind_m_s  # Eq. 1-16
    # Section 1.1.4.10, where nothing but momentum lifts
    cold_x_m = 4.0 * gas.diameter_m * (velocity + 3.0 * wind_m_s) ** 2 / (velocity * wind_m_s)
    fast_x_m = np.where(buoyancy > 0.0, warm_x_m, cold_x_m)
    return Rise(np.where(buoyant, warm_m, fast_m), np.where(buoyant, warm_x_m, fast_x_m), buoyant)


def _stable_rise(
    gas: Gas,
    buoyancy: NDArray[np.float64],
    momentum: NDArray[np.float64],
    wind_m_s: NDArray[np.float64],
    air_c: NDArray[np.float64],
    stability: NDArray[np.int64],
) -> Rise:
    air_k = air_c + KELVIN
    root = _stability_root_1_s(air_k, stability)
    crossover_k = 0.019582 * (gas.temperature_c + KELVIN) * gas.velocity_m_s * root  # Eq. 1-18
    buoyant = gas.temperature_c - air_c >= crossover_k
    warm_m = 2.6 * np.cbrt(buoyancy / (wind_m_s * root**2))  # Eq. 1-20
    fast_m = np.minimum(
        1.5 * np.cbrt(momentum / (wind_m_s * root)),  # Eq. 1-21
        3.0 * gas.diameter_m * gas.velocity_m_s / wind_m_s,
    )
    reached_m = np.where(buoyant, 2.0715, 0.5 * np.pi) * wind_m_s / root  # Eq. 1-19, 1.1.4.10
    return Rise(np.where(buoyant, warm_m, fast_m), reached_m, buoyant)


def _stability_root_1_s(
    air_k: NDArray[np.float64], stability: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The root of the stability parameter s [1/s], Eq. 1-17; where air is not stable, as in E."""
    gradient_k_m = _GRADIENT_K_M[np.maximum(stability, _STABLE_FROM)]
    root: NDArray[np.float64] = np.sqrt(GRAVITY_M_S2 * gradient_k_m / air_k)
    return root


def rise_m(
    x_m: NDArray[np.float64],
    gas: Gas,
    *,
    wind_m_s: NDArray[np.float64],
    air_c: NDArray[np.float64],
    stability: NDArray[np.int64],
) -> NDArray[np.float64]:
    """The rise [m] at `x_m` > 0 downwind: gradual first, then final. Arguments: `final_rise`."""
    final = final_rise(gas, wind_m_s=wind_m_s, air_c=air_c, stability=stability)
    buoyancy = buoyancy_flux_m4_s3(gas, air_c)
    warm_m = 1.60 * np.cbrt(buoyancy * x_m**2 / wind_m_s**3)  # Eq. 1-22
    fast_m = _momentum_rise_m(x_m, gas, final, wind_m_s, air_c, stability)
    gradual_m = np.where(final.buoyant, warm_m, fast_m)
    return np.where(x_m < final.reached_m, np.minimum(gradual_m, final.final_m), final.final_m)


def _momentum_rise_m(
    x_m: NDArray[np.float64],
    gas: Gas,
    final: Rise,
    wind_m_s: NDArray[np.float64],
    air_c: NDArray[np.float64],
    stability: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Gradual rise by momentum [m], section 1.1.4.10; a sine in stable air."""
    velocity = np.maximum(gas.velocity_m_s, _STILL_M_S)
    x = np.minimum(x_m, final.reached_m)
    entrained = 1.0 / 3.0 + wind_m_s / velocity
    scale = 3.0 * momentum_flux_m4_s2(gas, air_c) / (entrained * wind_m_s) ** 2
    root = _stability_root_1_s(air_c + KELVIN, stability)
    stable = np.sin(np.minimum(x * root / wind_m_s, 0.5 * np.pi)) * wind_m_s / root
    rise: NDArray[np.float64] = np.cbrt(scale * np.where(stability >= _STABLE_FROM, stable, x))
    return rise
