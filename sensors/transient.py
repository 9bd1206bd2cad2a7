"""What leaks and valves do to the network over time, on top of its stationary states.

Time is cut at every change (a hole opens or is mended, a valve is commanded). From a change on,
the line pack is integrated by fixed steps, short at first, as far as somebody asks and no farther:
who plays live is not held up by what is still to come. Tables of steps are kept for a while and are
computed again from checkpoints. Until the first change, and once everything is as it was, nothing
is computed. A change never alters what was true before it.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from sensors.linepack import ATMOSPHERE_KPA, Calm, Hole, LinePack, orifice_kg_s
from sensors.network import DemandCurve, GasProperties, NetworkStates
from sensors.valves import CLOSED_PERCENT, OPEN_PERCENT, Turn, Valves

LEL_SHARE: Final = 0.05
"""Of methane in air, by volume."""

NATURAL_VENTILATION_M3_S: Final = 0.3
ENTRAINMENT: Final = 4.3
"""Air that a jet draws in, by the root of its flow: a 10 mm hole at 100 kPa gives 58 %LEL."""

AIR_CHANGE_S: Final = 5.0
"""Time constant with which the air around a leak follows it."""

FADED_MS: Final = 120_000
"""So long after a leak is mended nothing can be smelt of it."""

_PHASES: Final = (
    (0, 0, 1_000),
    (120_000, 120, 5_000),
    (1_800_000, 456, 60_000),
    (21_600_000, 786, 300_000),
)
"""From when after a change [ms], from which step on, and how far apart steps are [ms]."""

_STEPS: Final = 64
_TABLES_KEPT: Final = 12
_SEGMENTS_KEPT: Final = 512
_FORGOTTEN_KPA: Final = 1e-3


class Leak(msgspec.Struct, frozen=True):
    """A hole, where it is and how long it stays."""

    site: str
    junction: int
    hole: Hole
    from_ms: int
    until_ms: int


class State(msgspec.Struct, frozen=True, eq=False):
    """Deviations of the sections [kPa], and the air at each leak [%LEL]."""

    deviation_kpa: NDArray[np.float64]
    methane_lel: NDArray[np.float64]

    @property
    def negligible(self) -> bool:
        """Whether nobody could tell it from the calm state."""
        size = np.abs(self.deviation_kpa).max(initial=0.0) + self.methane_lel.max(initial=0.0)
        return float(size) < _FORGOTTEN_KPA


def methane_lel(loss_kg_s: NDArray[np.float64], gas: GasProperties) -> NDArray[np.float64]:
    """Methane where gas escapes, once the air around has settled [%LEL].

    Args:
        loss_kg_s: what escapes [kg/s].
        gas: the gas, taken as methane.

    A well-mixed space (valve chamber, cabinet, trench) with natural ventilation and the air that
    the jet itself draws in, which grows with the root of the flow as in a free jet. Engineering
    default; good for telling a seep from a torn pipe, not for dispersion.
    """
    gas_m3_s = loss_kg_s / gas.normal_density_kg_m3
    air_m3_s = NATURAL_VENTILATION_M3_S + ENTRAINMENT * np.sqrt(gas_m3_s)
    found: NDArray[np.float64] = 100.0 * gas_m3_s / (gas_m3_s + air_m3_s) / LEL_SHARE
    return found


class Transient:
    """Deviations of pressure and flow of one network, and methane at its leaks."""

    def __init__(
        self,
        states: NetworkStates,
        pack: LinePack,
        *,
        demand: Callable[[NDArray[np.int64]], NDArray[np.float64]],
        leaks: Sequence[Leak],
        valves: Valves,
        edges: Mapping[str, int],
    ) -> None:
        """`demand` is the level at given instants; `edges` says which edge each valve closes."""
        self._pack = pack
        self._demand = demand
        self.leaks = tuple(leaks)
        self._holes = np.array([leak.hole.diameter_mm for leak in leaks])
        self._leak_sections = np.array([leak.hole.section for leak in leaks], dtype=np.int64)
        self._valves = valves
        self._edges = edges
        self._pressure = DemandCurve(states.levels, states.pressure_kpa[:, pack.junctions])
        self._flow = DemandCurve(states.levels, states.pipe_flow_kg_s[:, pack.edges])
        self._segments: list[_Segment] = []
        self._tables: dict[tuple[_Segment, int], _Table] = {}
        self._instants: list[int] = []
        self.changed()

    def changed(self, ts_ms: int | None = None) -> None:
        """A valve was commanded at `ts_ms`: what follows is computed anew."""
        own = {edge for leak in self.leaks for edge in (leak.from_ms, leak.until_ms)}
        self._instants = sorted(own | self._valves.instants())
        if ts_ms is not None:
            kept = [segment for segment in self._segments if segment.start_ms < ts_ms]
            self._segments = kept[-_SEGMENTS_KEPT:]
            self._tables = {key: table for key, table in self._tables.items() if key[0] in kept}

    def begun(self, ts_ms: int) -> bool:
        """Whether anything has happened to the network by `ts_ms`."""
        return bool(self._instants) and self._instants[0] <= ts_ms

    def pressure_kpa(
        self, ts: NDArray[np.int64], sections: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """How far the pressure of `sections` deviates at `ts`, shape (m,)."""
        return self._at(ts, sections)

    def flow_m3_h(self, ts: NDArray[np.int64], sections: NDArray[np.int64]) -> NDArray[np.float64]:
        """How far what passes `sections` deviates at `ts`, shape (m,)."""
        return self._at(ts, sections + self._pack.sections)

    def methane_lel(self, ts: NDArray[np.int64], leak: int) -> NDArray[np.float64]:
        """Methane in the air at `leak`, shape (m,)."""
        return self._at(ts, np.full(len(ts), 2 * self._pack.sections + leak))

    def _at(self, ts: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        found = np.zeros(len(ts))
        self._cover(int(ts.max()))
        starts = np.array([segment.start_ms for segment in self._segments], dtype=np.int64)
        place = np.searchsorted(starts, ts, side="right") - 1
        for number in np.unique(place[place >= 0]).tolist():
            part = np.flatnonzero(place == number)
            found[part] = self._within(self._segments[number], ts[part], columns[part])
        return found

    def _within(
        self, segment: "_Segment", ts: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The columns at instants of one segment, linear between its steps."""
        step, share = _steps(ts - segment.start_ms)
        found = np.zeros(len(ts))
        for number in np.unique(step // _STEPS).tolist():
            part = np.flatnonzero(step // _STEPS == number)
            row, column = step[part] - number * _STEPS, columns[part]
            rows = self._rows(segment, number, int(row.max()) + 1)
            if rows is not None:
                before = rows[row, column]
                found[part] = before + share[part] * (rows[row + 1, column] - before)
        return found

    def _cover(self, until_ms: int) -> None:
        """Begin a segment at every change up to `until_ms`."""
        first = 0
        if self._segments:
            first = bisect_right(self._instants, self._segments[-1].start_ms)
        for instant in self._instants[first : bisect_right(self._instants, until_ms)]:
            self._segments.append(self._segment(instant))

    def _segment(self, start_ms: int) -> "_Segment":
        open_ = np.array(
            [leak.from_ms <= start_ms < leak.until_ms for leak in self.leaks], np.bool_
        )
        motions = self._valves.motions(start_ms)
        turns = tuple((self._edges[name], turn) for name, turn in motions.items())
        segment = _Segment(start_ms, open_, turns)
        state = self._state(self._segments[-1], start_ms) if self._segments else None
        if state is None and not segment.calm(start_ms):
            state = State(np.zeros(self._pack.sections), np.zeros(len(self.leaks)))
        segment.checkpoints.append(state)
        return segment

    def _state(self, segment: "_Segment", ts_ms: int) -> State | None:
        """The state at an instant of a segment, or None where there is nothing to tell."""
        step, share = _steps(np.array([ts_ms - segment.start_ms]))
        number, row = divmod(int(step[0]), _STEPS)
        rows = self._rows(segment, number, row + 1)
        if rows is None:
            return None
        values = rows[row] + share[0] * (rows[row + 1] - rows[row])
        count = self._pack.sections
        return State(values[:count], values[2 * count :])

    def _rows(self, segment: "_Segment", number: int, last: int) -> NDArray[np.float64] | None:
        """The steps of block `number` of a segment, of which those up to `last` are known.

        Shape (steps + 1, columns); None where all are zero.
        """
        while len(segment.checkpoints) <= number:
            before = len(segment.checkpoints) - 1
            if self._rows(segment, before, _STEPS) is None:
                segment.checkpoints.append(None)
        state = segment.checkpoints[number]
        if state is None:
            return None
        table = self._tables.get((segment, number))
        if table is None:
            table = self._new_table(segment, number, state)
        while table.last < last:
            self._extend(segment, number, table)
        return table.rows

    def _new_table(self, segment: "_Segment", number: int, state: State) -> "_Table":
        """A new table of a block, whose first row is its checkpoint."""
        while len(self._tables) >= _TABLES_KEPT:
            self._tables.pop(next(iter(self._tables)))
        at_ms = segment.start_ms + _after_ms(number * _STEPS)
        opening = segment.opening(at_ms, len(self._pack.edges))
        table = _Table(state, self._row(state, self._calm(at_ms), opening))
        self._tables[segment, number] = table
        return table

    def _extend(self, segment: "_Segment", number: int, table: "_Table") -> None:
        """Compute one more row of a block; the last one gives the next checkpoint."""
        step = number * _STEPS + table.last
        at_ms = segment.start_ms + _after_ms(step + 1)
        calm, opening = self._calm(at_ms), segment.opening(at_ms, len(self._pack.edges))
        step_s = (_after_ms(step + 1) - _after_ms(step)) / 1000.0
        state = self._step(segment, step_s, table.state, calm, opening)
        table.add(state, self._row(state, calm, opening))
        if table.last == _STEPS and len(segment.checkpoints) == number + 1:
            fades = segment.calm(at_ms) and state.negligible
            segment.checkpoints.append(None if fades else state)

    def _step(
        self,
        segment: "_Segment",
        step_s: float,
        state: State,
        calm: Calm,
        opening: NDArray[np.float64],
    ) -> State:
        """The state `step_s` later, when the network's calm state and its valves are these."""
        holes = tuple(
            leak.hole for leak, open_ in zip(self.leaks, segment.open, strict=True) if open_
        )
        deviation = self._pack.step(state.deviation_kpa, step_s, calm, opening, holes)
        inside = (calm.pressure_kpa + deviation)[self._leak_sections]
        loss = np.where(segment.open, orifice_kg_s(inside, self._holes, self._pack.gas), 0.0)
        settled = methane_lel(loss, self._pack.gas)
        fading = math.exp(-step_s / AIR_CHANGE_S)
        return State(deviation, settled + (state.methane_lel - settled) * fading)

    def _row(self, state: State, calm: Calm, opening: NDArray[np.float64]) -> NDArray[np.float64]:
        """All columns at a step."""
        flow = self._pack.flows_kg_s(state.deviation_kpa, calm, opening)
        through = self._pack.through_kg_s(flow) - self._pack.through_kg_s(calm.flow_kg_s)
        through *= 3600.0 / self._pack.gas.normal_density_kg_m3
        return np.concatenate([state.deviation_kpa, through, state.methane_lel])

    def _calm(self, at_ms: int) -> Calm:
        """The stationary state under the demand at an instant."""
        level = float(self._demand(np.array([at_ms], dtype=np.int64))[0])
        return Calm(
            self._pressure.all_at(level) + ATMOSPHERE_KPA,
            self._pack.demand_kg_s * level,
            self._flow.all_at(level),
        )


class _Table:
    """The rows of a block of steps, shape (steps + 1, columns), as far as they are computed."""

    def __init__(self, state: State, row: NDArray[np.float64]) -> None:
        self.rows = np.zeros((_STEPS + 1, len(row)))
        self.rows[0] = row
        self.last = 0
        self.state = state
        """That of the last row."""

    def add(self, state: State, row: NDArray[np.float64]) -> None:
        """Take the next row."""
        self.last += 1
        self.rows[self.last] = row
        self.state = state


class _Segment:
    """The time from one change to the next."""

    def __init__(
        self, start_ms: int, open_: NDArray[np.bool_], turns: tuple[tuple[int, Turn], ...]
    ) -> None:
        """`turns` are the valves' edges and what each valve does."""
        self.start_ms = start_ms
        self.open = open_
        self._turns = turns
        self.checkpoints: list[State | None] = []
        """The states at the beginning of every block of steps; None: nothing deviates."""

    def calm(self, at_ms: int) -> bool:
        """Whether from `at_ms` on no hole and no valve disturbs the network."""
        here = (turn.position(at_ms) for _, turn in self._turns)
        there = (turn.to_percent for _, turn in self._turns)
        valves = all(percent == OPEN_PERCENT for percent in (*here, *there))
        return valves and not self.open.any()

    def opening(self, at_ms: int, edges: int) -> NDArray[np.float64]:
        """The share of its flow that each edge's valve lets pass: that of its open position."""
        found = np.ones(edges)
        for edge, turn in self._turns:
            share = (turn.position(at_ms) - CLOSED_PERCENT) / (OPEN_PERCENT - CLOSED_PERCENT)
            found[edge] = min(found[edge], max(share, 0.0))
        return found


def _steps(after_ms: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The last step before times after a change, and how far beyond it they are [0, 1)."""
    froms, firsts, lengths = (np.array(column) for column in zip(*_PHASES, strict=True))
    phase = np.searchsorted(froms, after_ms, side="right") - 1
    beyond, length = after_ms - froms[phase], lengths[phase]
    whole = beyond // length
    return firsts[phase] + whole, (beyond - whole * length) / length


def _after_ms(step: int) -> int:
    """How long after the change a step is."""
    begin_ms, first, length_ms = next(row for row in reversed(_PHASES) if row[1] <= step)
    return begin_ms + (step - first) * length_ms
