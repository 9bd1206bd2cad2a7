"""The steady Gaussian plume of a point source over flat ground.

Spread by Briggs, rural and urban; wind by a power law. Stability is counted from 0 for Pasquill A
to 5 for F. Arrays of one call broadcast against each other.

Valid from 100 m to 10 km downwind, for averages of ten minutes to an hour, in a wind of at least
1 m/s. The formulas go to nothing smoothly below 100 m; callers decide what holds beyond 10 km and
in calm air.

References:
    [1] F. A. Gifford, "Turbulent diffusion-typing schemes: a review", Nuclear Safety 17, 1976
        (the interpolation formulas of Briggs, 1973).
    [2] EPA-454/B-95-003b, User's Guide for the Industrial Source Complex (ISC3) Dispersion
        Models, volume II, 1995.
"""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

WIND_HEIGHT_M: Final = 10.0


class Terrain(msgspec.Struct, frozen=True, eq=False):
    """What lies under the plume, as rows for the classes A to F.

    `spread_y` and `spread_z` hold a, b, c of sigma = a x (1 + b x)^c, shape (6, 3);
    `wind_exponent`, shape (6,), holds p of u(z) = u(10 m) (z / 10 m)^p.
    """

    spread_y: NDArray[np.float64]
    spread_z: NDArray[np.float64]
    wind_exponent: NDArray[np.float64]


RURAL: Final = Terrain(
    np.array([[a, 0.0001, -0.5] for a in (0.22, 0.16, 0.11, 0.08, 0.06, 0.04)]),
    np.array(
        [
            [0.20, 0.0, 0.0],
            [0.12, 0.0, 0.0],
            [0.08, 0.0002, -0.5],
            [0.06, 0.0015, -0.5],
            [0.03, 0.0003, -1.0],
            [0.016, 0.0003, -1.0],
        ]
    ),
    np.array([0.07, 0.07, 0.10, 0.15, 0.35, 0.55]),
)
URBAN: Final = Terrain(
    np.array([[a, 0.0004, -0.5] for a in (0.32, 0.32, 0.22, 0.16, 0.11, 0.11)]),
    np.array(
        [
            [0.24, 0.001, 0.5],
            [0.24, 0.001, 0.5],
            [0.20, 0.0, 0.0],
            [0.14, 0.0003, -0.5],
            [0.08, 0.0015, -0.5],
            [0.08, 0.0015, -0.5],
        ]
    ),
    np.array([0.15, 0.15, 0.20, 0.25, 0.30, 0.30]),
)


def sigma_y_m(
    x_m: NDArray[np.float64], stability: NDArray[np.int64], terrain: Terrain
) -> NDArray[np.float64]:
    """Spread of the plume across the wind [m] at `x_m` > 0 downwind, table 2 of [1]."""
    return _briggs(x_m, terrain.spread_y[stability])


def sigma_z_m(
    x_m: NDArray[np.float64], stability: NDArray[np.int64], terrain: Terrain
) -> NDArray[np.float64]:
    """Spread of the plume upwards [m] at `x_m` > 0 downwind, table 2 of [1]."""
    return _briggs(x_m, terrain.spread_z[stability])


def _briggs(x_m: NDArray[np.float64], row: NDArray[np.float64]) -> NDArray[np.float64]:
    spread: NDArray[np.float64] = row[..., 0] * x_m * (1.0 + row[..., 1] * x_m) ** row[..., 2]
    return spread


def wind_at_height_m_s(
    wind_m_s: NDArray[np.float64],
    height_m: NDArray[np.float64],
    stability: NDArray[np.int64],
    terrain: Terrain,
) -> NDArray[np.float64]:
    """The wind [m/s] at `height_m` [m] from that at 10 m, Eq. 1-6 of [2].

    Below 10 m it is that at 10 m.
    """
    ratio = np.maximum(height_m, WIND_HEIGHT_M) / WIND_HEIGHT_M
    wind: NDArray[np.float64] = wind_m_s * ratio ** terrain.wind_exponent[stability]
    return wind


def dilution_s_m3(
    x_m: NDArray[np.float64],
    y_m: NDArray[np.float64],
    z_m: NDArray[np.float64],
    *,
    height_m: NDArray[np.float64],
    wind_m_s: NDArray[np.float64],
    stability: NDArray[np.int64],
    terrain: Terrain,
) -> NDArray[np.float64]:
    """Concentration per emission [(g/m3) / (g/s)] of a plume that the ground reflects wholly.

    Args:
        x_m: Distance downwind of the source [m]; at or upwind of it there is nothing.
        y_m: Distance across the wind [m].
        z_m: Height of the receptor above the ground [m].
        height_m: Effective height of the source, with plume rise [m].
        wind_m_s: Wind at the source's height [m/s], above 0.
        stability: Pasquill class, 0 for A to 5 for F.
        terrain: `URBAN` or `RURAL`.

    Assumes a steady emission, uniform wind, flat ground, no deposition, decay or lid.
    """
    downwind = x_m > 0.0
    x = np.where(downwind, x_m, 1.0)
    spread_y = sigma_y_m(x, stability, terrain)
    spread_z = sigma_z_m(x, stability, terrain)
    across = np.exp(-0.5 * (y_m / spread_y) ** 2)
    above = np.exp(-0.5 * ((z_m - height_m) / spread_z) ** 2)
    mirrored = np.exp(-0.5 * ((z_m + height_m) / spread_z) ** 2)
    # Eq. 1-1 of [2], its vertical term without a lid
    share = across * (above + mirrored) / (2.0 * np.pi * wind_m_s * spread_y * spread_z)
    return np.where(downwind, share, 0.0)
