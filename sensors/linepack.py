"""Line pack: the gas stored in pipes, which a leak drains and the rest of the network refills.

The network is lumped into sections: every junction, with half the volume of each of its pipes; a
consumer's dead-end connection belongs to the section that it hangs on. Deviations from the
stationary state are integrated, so that with nothing wrong nothing deviates. Gas is isothermal.

References:
    [1] B. E. Poling et al., The Properties of Gases and Liquids; isentropic nozzle flow in any
        textbook of gas dynamics.
    [2] pandapipes, hydraulic model: friction 64/Re plus Nikuradse's rough limit.
"""

import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu

from sensors.network import GasProperties, NetworkStates, Pipes, summed, throughput

ATMOSPHERE_KPA: Final = 101.325
DISCHARGE: Final = 0.85
GAMMA: Final = 1.30
CRITICAL_RATIO: Final = (2.0 / (GAMMA + 1.0)) ** (GAMMA / (GAMMA - 1.0))
"""Below this ratio of outer to inner pressure the flow through a hole is choked (0.546)."""

GAS_CONSTANT: Final = 8.314462618
SUPPLY_KPA: Final = 5.0
"""Below this gauge pressure customers' regulators starve, in proportion (engineering default)."""

FEED_RESERVE: Final = 1.5
"""A feed's regulator can pass so many times what the highest solved demand asks of it."""

FEED_DROOP_KG_S_KPA: Final = 50.0
"""What a feed's regulator adds per kPa that its outlet is too low."""

_ITERATIONS: Final = 40
_FREE_TURNS: Final = 4
"""Iterations that are never damped; later ones are if they do not get on."""

_PRECISION_KPA: Final = 3e-5
_LITTLE_KPA: Final = 0.05
"""Below this gauge pressure a hole's loss is taken as linear: its slope has no bound there."""

_LEAST_KPA: Final = 50.0
"""No solution is as low as this (absolute): consumers and holes stop at the atmosphere's."""


def orifice_kg_s(
    pressure_kpa: NDArray[np.float64], hole_mm: float | NDArray[np.float64], gas: GasProperties
) -> NDArray[np.float64]:
    """What escapes into the atmosphere through a sharp round hole.

    Args:
        pressure_kpa: inside the pipe, absolute [kPa], shape (n,).
        hole_mm: diameter [mm], one or shape (n,).
        gas: the gas, taken as ideal with an isentropic exponent of 1.30.

    Isentropic flow with a discharge coefficient of 0.85; valid for holes not wider than the pipe.
    """
    inside = np.maximum(pressure_kpa, ATMOSPHERE_KPA)
    ratio = np.maximum(ATMOSPHERE_KPA / inside, CRITICAL_RATIO)
    area_m2 = math.pi / 4.0 * (np.asarray(hole_mm) / 1000.0) ** 2
    specific = gas.molar_mass_kg_mol / (GAS_CONSTANT * gas.temperature_k)
    # Eq. of Saint-Venant and Wantzel [1]; at the critical ratio it is the choked flow
    drive = ratio ** (2.0 / GAMMA) - ratio ** ((GAMMA + 1.0) / GAMMA)
    speed = np.sqrt(2.0 * GAMMA / (GAMMA - 1.0) * specific * np.maximum(drive, 0.0))
    found: NDArray[np.float64] = DISCHARGE * area_m2 * 1000.0 * inside * speed
    return found


def fall_kpa_s(loss_kg_s: float, volume_m3: float, gas: GasProperties) -> float:
    """How fast pressure falls [kPa/s] in a volume [m3] that loses so much [kg/s]; isothermal."""
    return -loss_kg_s / (volume_m3 * _capacity_kg_m3_kpa(gas))  # dp/dt = -m Z R T / (V M)


def _capacity_kg_m3_kpa(gas: GasProperties) -> float:
    """The mass that a cubic metre takes up per kPa."""
    molar = gas.compressibility * GAS_CONSTANT * gas.temperature_k
    return 1000.0 * gas.molar_mass_kg_mol / molar


class PipeLaw:
    """Flow from the difference of squared pressures: `drop = a m + b m |m|`, per pipe.

    Darcy's friction factor is 64/Re plus Nikuradse's for rough pipes [2], for which the law is
    exact, laminar or turbulent; inertia and height are left out.
    """

    def __init__(self, pipes: Pipes, gas: GasProperties) -> None:
        area_m2 = math.pi / 4.0 * pipes.diameter_m**2
        state = gas.compressibility * GAS_CONSTANT * gas.temperature_k / gas.molar_mass_kg_mol
        rough = (-2.0 * np.log10(pipes.roughness_m / (3.71 * pipes.diameter_m))) ** -2.0
        scale = pipes.length_m / pipes.diameter_m * state / area_m2**2 / 1e6  # in kPa2 s2/kg2
        self._linear = scale * 64.0 * gas.viscosity_pa_s * area_m2 / pipes.diameter_m
        self._square = scale * rough

    def drop_kpa2(self, flow_kg_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """What squared pressure loses from start to end [kPa2]."""
        found: NDArray[np.float64] = flow_kg_s * (self._linear + self._square * np.abs(flow_kg_s))
        return found

    def flow_kg_s(
        self, drop_kpa2: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The flow from start to end, and its derivative by the drop [kg/s/kPa2]."""
        root = np.sqrt(self._linear**2 + 4.0 * self._square * np.abs(drop_kpa2))
        return 2.0 * drop_kpa2 / (self._linear + root), 1.0 / root


class Hole(msgspec.Struct, frozen=True):
    """A hole in the wall of a section."""

    section: int
    diameter_mm: float


class Calm(msgspec.Struct, frozen=True, eq=False):
    """The stationary state that is deviated from, at one demand.

    `pressure_kpa` (absolute) and `demand_kg_s` of the sections, `flow_kg_s` of the edges.
    """

    pressure_kpa: NDArray[np.float64]
    demand_kg_s: NDArray[np.float64]
    flow_kg_s: NDArray[np.float64]


class LinePack:
    """A network of sections that store gas.

    `section`, shape (j,), is the section of every junction; `junctions`, shape (s,), that of
    every section where its pressure is measured; `edges`, shape (e,), are the pipes between
    sections.
    """

    def __init__(self, states: NetworkStates, keep: NDArray[np.int64]) -> None:
        """Lump `states`; junctions `keep` become sections even where they are dead ends."""
        pipes, count = states.pipes, len(states.names)
        self.section, self.junctions = _lumped(pipes, count, [*keep.tolist(), *states.feeds])
        start, end = self.section[pipes.start], self.section[pipes.end]
        self.edges = np.flatnonzero(start != end)
        self._start, self._end = start[self.edges], end[self.edges]
        self.gas = states.gas
        self.law = PipeLaw(_chosen(pipes, self.edges), states.gas)
        size = len(self.junctions)
        half_m3 = math.pi / 8.0 * pipes.diameter_m**2 * pipes.length_m
        self.volume_m3 = summed(start, half_m3, size) + summed(end, half_m3, size)
        self.demand_kg_s = summed(self.section, states.demand_kg_s, size)
        self._feeds = self.section[np.array(states.feeds, dtype=np.int64)]
        most = states.pipe_flow_kg_s[-1][self.edges]
        self._feed_most_kg_s = FEED_RESERVE * self._fed(most, self.demand_kg_s * states.levels[-1])
        self._matrix = _Pattern(self._start, self._end, size)

    @property
    def sections(self) -> int:
        """How many there are."""
        return len(self.junctions)

    def excess_kg(self, deviation_kpa: NDArray[np.float64]) -> float:
        """How much more gas there is than in the calm state."""
        return float((deviation_kpa * self.volume_m3).sum() * _capacity_kg_m3_kpa(self.gas))

    def flows_kg_s(
        self, deviation_kpa: NDArray[np.float64], calm: Calm, opening: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What flows from start to end of every edge, shape (e,)."""
        return self._flows(calm.pressure_kpa + deviation_kpa, calm, opening)[0]

    def through_kg_s(self, flow_kg_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """What passes each section when the edges' flows are these."""
        return throughput(self._start, self._end, flow_kg_s, self.sections)

    def step(
        self,
        deviation_kpa: NDArray[np.float64],
        step_s: float,
        calm: Calm,
        opening: NDArray[np.float64],
        holes: tuple[Hole, ...],
    ) -> NDArray[np.float64]:
        """The deviation from `calm` [kPa], shape (s,), after `step_s` [s]; stable for any step.

        `opening`, shape (e,), is the share of its flow that a valve in the edge lets pass.
        Implicit Euler, by damped Newton iteration to 3e-5 kPa.
        """
        stored = self.volume_m3 * _capacity_kg_m3_kpa(self.gas) / step_s
        now = deviation_kpa
        last = math.inf
        for turn in range(_ITERATIONS):
            gain, slope, conduct = self._gains(calm, now, opening, holes)
            rest = gain - stored * (now - deviation_kpa)
            change = self._matrix.solve(stored - slope, *conduct, rest)
            size = float(np.abs(change).max())
            damp = 0.5 if turn >= _FREE_TURNS and size >= 0.5 * last else 1.0
            floor = _LEAST_KPA - calm.pressure_kpa
            now, last = np.maximum(now + damp * change, floor), size
            if size < _PRECISION_KPA:
                break
        return now

    def _gains(
        self,
        calm: Calm,
        deviation_kpa: NDArray[np.float64],
        opening: NDArray[np.float64],
        holes: tuple[Hole, ...],
    ) -> tuple[
        NDArray[np.float64], NDArray[np.float64], tuple[NDArray[np.float64], NDArray[np.float64]]
    ]:
        """What each section gains [kg/s], its own part of the slope, and the edges' conductances."""
        pressure = calm.pressure_kpa + deviation_kpa
        flow, per_drop = self._flows(pressure, calm, opening)
        more = flow - calm.flow_kg_s
        gain = summed(self._end, more, self.sections) - summed(self._start, more, self.sections)
        slope = np.zeros(self.sections)
        self._add_demand(gain, slope, calm, pressure)
        self._add_feeds(gain, slope, calm, deviation_kpa)
        self._add_holes(gain, slope, pressure, holes)
        conduct = (per_drop * 2.0 * pressure[self._start], per_drop * 2.0 * pressure[self._end])
        return gain, slope, conduct

    def _flows(
        self, pressure_kpa: NDArray[np.float64], calm: Calm, opening: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The edges' flows and derivatives; with the calm pressures and open valves the calm ones.

        What heights add to a drop is the same in both states.
        """
        square, calm_square = pressure_kpa**2, calm.pressure_kpa**2
        drop = self.law.drop_kpa2(calm.flow_kg_s)
        drop += square[self._start] - calm_square[self._start]
        drop -= square[self._end] - calm_square[self._end]
        flow, per_drop = self.law.flow_kg_s(drop)
        return opening * flow, opening * per_drop

    def _add_demand(
        self,
        gain: NDArray[np.float64],
        slope: NDArray[np.float64],
        calm: Calm,
        pressure_kpa: NDArray[np.float64],
    ) -> None:
        """Customers whose pressure is too low draw less."""
        enough = np.minimum(SUPPLY_KPA, 0.5 * (calm.pressure_kpa - ATMOSPHERE_KPA))
        share = (pressure_kpa - ATMOSPHERE_KPA) / enough
        starved = share < 1.0
        gain += np.where(starved, calm.demand_kg_s * (1.0 - share), 0.0)
        slope -= np.where(starved, calm.demand_kg_s / enough, 0.0)

    def _fed(
        self, flow_kg_s: NDArray[np.float64], demand_kg_s: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What the feeds pass in a stationary state [kg/s]."""
        start, end = summed(self._start, flow_kg_s, self.sections), self._end
        out = start - summed(end, flow_kg_s, self.sections) + demand_kg_s
        found: NDArray[np.float64] = out[self._feeds]
        return found

    def _add_feeds(
        self,
        gain: NDArray[np.float64],
        slope: NDArray[np.float64],
        calm: Calm,
        deviation_kpa: NDArray[np.float64],
    ) -> None:
        """Regulators keep their set pressure until they are wide open, and pass nothing back."""
        usual = self._fed(calm.flow_kg_s, calm.demand_kg_s)
        asked = usual - FEED_DROOP_KG_S_KPA * deviation_kpa[self._feeds]
        most = np.maximum(self._feed_most_kg_s, usual)
        gain[self._feeds] += np.clip(asked, 0.0, most) - usual
        slope[self._feeds] -= np.where((asked >= 0.0) & (asked <= most), FEED_DROOP_KG_S_KPA, 0.0)

    def _add_holes(
        self,
        gain: NDArray[np.float64],
        slope: NDArray[np.float64],
        pressure_kpa: NDArray[np.float64],
        holes: tuple[Hole, ...],
    ) -> None:
        """Holes lose gas, in proportion to what little pressure is left at the end."""
        for hole in holes:
            over = float(pressure_kpa[hole.section]) - ATMOSPHERE_KPA
            inside = np.array([ATMOSPHERE_KPA + max(over, _LITTLE_KPA)])
            loss = float(orifice_kg_s(inside, hole.diameter_mm, self.gas)[0])
            per_kpa = loss / max(over, _LITTLE_KPA)
            gain[hole.section] -= per_kpa * over
            slope[hole.section] -= per_kpa


class _Pattern:
    """The sparse matrix of the sections, whose places never change."""

    def __init__(self, start: NDArray[np.int64], end: NDArray[np.int64], size: int) -> None:
        own = np.arange(size)
        rows = np.concatenate([own, start, end, end, start])
        columns = np.concatenate([own, start, end, start, end])
        places, self._slot = np.unique(columns * size + rows, return_inverse=True)
        self._rows = (places % size).astype(np.int32)
        self._first = np.searchsorted(places // size, np.arange(size + 1)).astype(np.int32)
        self._size = size

    def solve(
        self,
        own: NDArray[np.float64],
        by_start: NDArray[np.float64],
        by_end: NDArray[np.float64],
        right: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """The solution x of `own x + sum of (by_start x_start - by_end x_end) = right`."""
        parts = np.concatenate([own, by_start, by_end, -by_start, -by_end])
        data = summed(self._slot, parts, len(self._rows))
        matrix = csc_matrix((data, self._rows, self._first), shape=(self._size, self._size))
        found: NDArray[np.float64] = splu(matrix, permc_spec="MMD_AT_PLUS_A").solve(right)
        return found


def _lumped(
    pipes: Pipes, count: int, keep: list[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every junction's section, and the junction of every section: dead ends join a neighbour."""
    degree = np.bincount(np.concatenate([pipes.start, pipes.end]), minlength=count)
    dead_end = degree == 1
    dead_end[keep] = False
    home = np.arange(count)
    for here, there in ((pipes.start, pipes.end), (pipes.end, pipes.start)):
        joins = dead_end[here] & ~dead_end[there]
        home[here[joins]] = there[joins]
    junctions = np.flatnonzero(home == np.arange(count))
    number = np.zeros(count, dtype=np.int64)
    number[junctions] = np.arange(len(junctions))
    return number[home], junctions


def _chosen(pipes: Pipes, rows: NDArray[np.int64]) -> Pipes:
    return Pipes(
        start=pipes.start[rows],
        end=pipes.end[rows],
        length_m=pipes.length_m[rows],
        diameter_m=pipes.diameter_m[rows],
        roughness_m=pipes.roughness_m[rows],
    )
