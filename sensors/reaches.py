"""The channel of a river: reaches cut into cells, and how what the water carries moves in them.

dC/dt = -v dC/dx + D d2C/dx2 - k C, in finite volumes of one length. Advection is Lax and Wendroff's
second-order flux under van Leer's limiter, dispersion explicit and central, reaction exact. The
cells are made long enough for the time step (Courant number below 0.9 in the highest flood,
D dt/dx2 below 0.4), so the scheme is stable, conserves mass and never makes a value negative,
whatever the step and the reaches.

References:
    [1] Z.-Q. Deng, V. P. Singh, L. Bengtsson, "Longitudinal dispersion coefficient in straight
        rivers", J. Hydraul. Eng. 127(11), 2001; as in QSim of the German Federal Institute of
        Hydrology.
    [2] B. van Leer, "Towards the ultimate conservative difference scheme. II", J. Comput. Phys.
        14, 1974.
    [3] H. B. Fischer et al., "Mixing in Inland and Coastal Waters", 1979.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import Reach
from sensors.oxygen import reaeration_per_day

CELL_M: Final = 100.0
CELLS_MAX: Final = 2000
COURANT_MAX: Final = 0.9
FOURIER_MAX: Final = 0.4
FLOOD_MAX: Final = 6.0
"""The highest flow, relative to dry weather, that the cells are made for."""

DISPERSION_MAX_M2_S: Final = 1500.0
"""The greatest value measured in a natural river, the Missouri [3]."""

VELOCITY_EXPONENT: Final = 0.4
"""v ~ Q^0.4 and so A ~ Q^0.6: Manning's formula in a wide channel."""

_GRAVITY_M_S2: Final = 9.81
_TINY: Final = 1e-300
"""Keeps 0 / 0 away where the water is all alike."""


def dispersion_m2_s(
    velocity_m_s: NDArray[np.float64],
    depth_m: NDArray[np.float64],
    width_m: NDArray[np.float64],
    slope: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The coefficient of longitudinal dispersion [m2/s] of reaches; all arrays have one shape.

    `slope` [m/m]; the shear velocity is sqrt(g T S), which is that of [1]'s Strickler form. For
    natural rivers wider than ten times their depth; cut at the greatest value measured. At fixed
    width it changes with depth^(1/6) only, so that of dry weather serves in floods too.
    """
    shear_m_s = np.sqrt(_GRAVITY_M_S2 * depth_m * slope)
    aspect, speed = width_m / depth_m, velocity_m_s / shear_m_s
    transverse = 0.145 + aspect**1.38 * speed / 3520.0
    shape = 0.15 / (8.0 * transverse) * aspect ** (5.0 / 3.0) * speed**2
    return np.minimum(shape * depth_m * shear_m_s, DISPERSION_MAX_M2_S)  # Eq. of [1]


class Sections(msgspec.Struct, frozen=True, eq=False):
    """Places on the channel: each lies between two cells' centres; arrays of shape (n,)."""

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    share: NDArray[np.float64]
    """How far towards `after`, 0 to 1."""


class Pace(msgspec.Struct, frozen=True, eq=False):
    """How fast things go for a while: what a step needs, worked out once.

    The arrays have the shape (cells, carried), for numpy is twice as fast where nothing is
    broadcast; those between neighbours have one cell less.
    """

    courant: NDArray[np.float64]
    """The share of a cell's length that the water moves in a step."""
    body: NDArray[np.float64]
    """1 - courant of the inner cells."""
    passed: NDArray[np.float64]
    """What of a share that leaves a cell is a share of the next."""
    from_below: NDArray[np.float64]
    from_above: NDArray[np.float64]
    """What dispersion brings a cell of the difference to its neighbour."""


class Channel:
    """The cells of a river. Concentrations [g/m3] are those of the dry-weather section.

    In a flood the true ones are lower by the growth of the section: mass per length is what is
    carried on. Where a reach has more flow than the one above, clean water joins; where it has
    less, water is taken out with what it carries.
    """

    def __init__(self, reaches: Sequence[Reach], *, step_s: float) -> None:
        """`step_s` is the time step that the cells are to be stable for."""
        ends_m = np.array([reach.to_km for reach in reaches]) * 1000.0
        figures = [(r.velocity_m_s, r.depth_m, r.width_m, r.slope) for r in reaches]
        velocity, depth, width, slope = np.array(figures).T
        spread = dispersion_m2_s(velocity, depth, width, slope)
        longest_m = max(
            CELL_M,
            ends_m[-1] / CELLS_MAX,
            velocity.max() * FLOOD_MAX**VELOCITY_EXPONENT * step_s / COURANT_MAX,
            float(np.sqrt(spread.max() * step_s / FOURIER_MAX)),
        )
        self.step_s = step_s
        self.cells = max(int(ends_m[-1] / longest_m), 1)
        self.cell_m = max(float(ends_m[-1]) / self.cells, longest_m)
        middle_m = (np.arange(self.cells) + 0.5) * self.cell_m
        chosen = np.minimum(np.searchsorted(ends_m, middle_m, side="right"), len(ends_m) - 1)
        self.velocity_m_s: NDArray[np.float64] = velocity[chosen]
        self.area_m2: NDArray[np.float64] = (depth * width)[chosen]
        self.dispersion_m2_s: NDArray[np.float64] = spread[chosen]
        self.reaeration_per_day = reaeration_per_day(velocity, slope, depth, width)[chosen]
        self.volume_m3 = self.area_m2 * self.cell_m
        self.flow_m3_s = self.velocity_m_s * self.area_m2
        self.passed_m3_s = np.minimum(self.flow_m3_s[:-1], self.flow_m3_s[1:])
        self._couple()

    def _couple(self) -> None:
        """What neighbouring cells exchange, in shares of the cell that gives or takes."""
        passed = self.passed_m3_s / self.flow_m3_s[:-1]
        self._gain = passed * self.volume_m3[:-1] / self.volume_m3[1:]
        self.leaving_m3 = self.volume_m3 * np.append(1.0 - passed, 1.0)
        """Of what moves out of a cell, the volume that leaves the river."""
        mixing = self.dispersion_m2_s * self.area_m2
        # The poorer mixer decides, which keeps both sides within the stable Fourier number.
        exchange = np.minimum(mixing[:-1], mixing[1:]) * self.step_s / self.cell_m**2
        self._from_below = exchange / self.area_m2[:-1]
        self._from_above = exchange / self.area_m2[1:]

    def sections(self, river_km: NDArray[np.float64]) -> Sections:
        """The places at `river_km` [km] from the head; beyond an end, the end."""
        position = np.clip(river_km * 1000.0 / self.cell_m - 0.5, 0.0, self.cells - 1.0)
        before = position.astype(np.int64)
        after = np.minimum(before + 1, self.cells - 1)
        return Sections(before, after, position - before)

    def pace(self, speed: float, carried: int) -> Pace:
        """The pace at `speed` times the velocity of dry weather, for so many things carried."""

        def each(cells: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.repeat(cells[:, None], carried, axis=1)

        courant = self.velocity_m_s * (speed * self.step_s / self.cell_m)
        return Pace(
            courant=each(courant),
            body=each(1.0 - courant[1:-1]),
            passed=each(self._gain),
            from_below=each(self._from_below),
            from_above=each(self._from_above),
        )


def advect(carried: NDArray[np.float64], pace: Pace) -> NDArray[np.float64]:
    """Move `carried` [g/m3], shape (cells, carried), one step downstream, in place.

    Returns what moved out of each cell, of the same unit and shape; `Channel.leaving_m3` of it
    left the river.
    """
    rise = carried[1:] - carried[:-1]
    before, after = rise[:-1], rise[1:]
    total = before + after
    slope = before * after
    np.maximum(slope, 0.0, out=slope)
    slope *= pace.body
    moved = carried.copy()
    # Half of van Leer's slope [2], its sign that of the sum.
    slope /= np.abs(total) + _TINY
    np.copysign(slope, total, out=slope)
    moved[1:-1] += slope
    moved *= pace.courant
    carried -= moved
    np.multiply(moved[:-1], pace.passed, out=rise)
    carried[1:] += rise
    return moved


def disperse(carried: NDArray[np.float64], pace: Pace) -> None:
    """Mix `carried` [g/m3], shape (cells, carried), between cells for one step, in place."""
    rise = carried[1:] - carried[:-1]
    gained = rise * pace.from_below
    rise *= pace.from_above
    carried[:-1] += gained
    carried[1:] -= rise
