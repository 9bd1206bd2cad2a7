"""Shut-off valves: how they travel, and what they cut off.

A valve sits in the pipe that feeds its device's junction; closed, it cuts off that junction and
all that is fed through it.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import City
from city.documents import suggestion
from city.errors import InputError
from sensors.network import OWN_DEMAND, NetworkStates, parts

VALVE_TRAVEL_S: Final = 1.8
"""From open to closed, at constant speed (engineering default of a spring-return valve)."""

OPEN_PERCENT: Final = 100.0
CLOSED_PERCENT: Final = 2.0
"""A valve at or below this position lets nothing pass that matters."""


class Turn(msgspec.Struct, frozen=True):
    """A valve's travel from one position [% open] to another, and its rest there."""

    from_ms: int
    from_percent: float
    arrives_ms: int
    to_percent: float

    def position(self, ts_ms: int) -> float:
        """Where the valve stands at `ts_ms`, which is not before the travel [% open]."""
        if ts_ms >= self.arrives_ms:
            return self.to_percent
        share = (ts_ms - self.from_ms) / (self.arrives_ms - self.from_ms)
        return self.from_percent + share * (self.to_percent - self.from_percent)


class Valves:
    """Where every valve of the city stands, and how it got there; open until commanded."""

    def __init__(self, city: City) -> None:
        self.names = tuple(
            device.name for device in city.devices() if "valve_position" in device.kind.quantities
        )
        self._turns: dict[str, list[Turn]] = {}

    def turn(self, name: str, position_percent: float, ts_ms: int) -> int:
        """Send valve `name` to a position at `ts_ms` and return the instant of its arrival.

        A valve's commands come in the order of their instants; one that comes while the valve
        travels takes over from where it is.

        Raises:
            InputError: There is no such valve, or the position is not within 0 to 100.
        """
        self._check(name)
        if not 0.0 <= position_percent <= OPEN_PERCENT:
            raise InputError(f"valve {name}: position {position_percent} % is not within 0 to 100")
        here = self.position(name, ts_ms)
        arrives_ms = ts_ms + round(abs(position_percent - here) * 10.0 * VALVE_TRAVEL_S)
        past = [turn for turn in self._turns.get(name, []) if turn.from_ms < ts_ms]
        self._turns[name] = [*past, Turn(ts_ms, here, arrives_ms, position_percent)]
        return arrives_ms

    def position(self, name: str, ts_ms: int) -> float:
        """Where valve `name` stands at `ts_ms` [% open].

        Raises:
            InputError: There is no such valve.
        """
        self._check(name)
        turn = self._latest(name, ts_ms)
        return OPEN_PERCENT if turn is None else turn.position(ts_ms)

    def positions(
        self, names: Sequence[str], rows: NDArray[np.int64], ts: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Where the valves `rows` of `names` stand at `ts` [% open]."""
        found = np.full(len(rows), OPEN_PERCENT)
        if self._turns:
            turned = np.array([name in self._turns for name in names], dtype=np.bool_)
            for sample in np.flatnonzero(turned[rows]).tolist():
                found[sample] = self.position(names[rows[sample]], int(ts[sample]))
        return found

    def motions(self, ts_ms: int) -> dict[str, Turn]:
        """What every valve that was turned does from `ts_ms` on, if no command follows."""
        latest = {name: self._latest(name, ts_ms) for name in self._turns}
        return {name: turn for name, turn in latest.items() if turn is not None}

    def instants(self) -> set[int]:
        """When commands came."""
        return {turn.from_ms for turns in self._turns.values() for turn in turns}

    def _latest(self, name: str, ts_ms: int) -> Turn | None:
        past = (turn for turn in reversed(self._turns.get(name, [])) if turn.from_ms <= ts_ms)
        return next(past, None)

    def _check(self, name: str) -> None:
        if name not in self.names:
            raise InputError(f"no valve {name!r} in this city; {suggestion(name, self.names)}")


class Isolation:
    """Which valves cut which part of a network off."""

    def __init__(self, states: NetworkStates, junctions: Mapping[str, int]) -> None:
        """`junctions` says where each valve's device sits."""
        self._states = states
        self.pipes = {name: _feeding_pipe(states, place) for name, place in junctions.items()}

    def valves(self, junction: int) -> tuple[str, ...]:
        """The valves that together cut `junction` off from every feed; none if they cannot.

        No one of them could stay open.
        """
        part = self._parts(self.pipes.values())
        feeds = list(self._states.feeds)
        own = part == part[junction]
        if own[feeds].any():
            return ()
        start, end = self._states.pipes.start, self._states.pipes.end
        fed = self._fed(own)
        sides = {name: (int(start[pipe]), int(end[pipe])) for name, pipe in self.pipes.items()}
        return tuple(
            name
            for name, (one, other) in sides.items()
            if (own[one] and fed[other]) or (own[other] and fed[one])
        )

    def customers(self, junction: int) -> int:
        """How many customers lose their supply when `junction` is cut off."""
        return int(self._states.customers[self.cut_off(junction)].sum())

    def cut_off(self, junction: int) -> NDArray[np.bool_]:
        """The junctions that lose their supply when `junction` is cut off, shape (j,)."""
        closed = self.valves(junction)
        if not closed:
            return np.zeros(len(self._states.names), dtype=np.bool_)
        part = self._parts([self.pipes[name] for name in closed])
        return ~np.isin(part, part[list(self._states.feeds)])

    def _fed(self, without: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The junctions that gas reaches from a feed without passing the part `without`."""
        pipes = self._states.pipes
        touching = without[pipes.start] | without[pipes.end]
        part = self._parts(np.flatnonzero(touching).tolist())
        return np.isin(part, part[list(self._states.feeds)])

    def _parts(self, closed: Collection[int]) -> NDArray[np.int64]:
        """The part of the network that each junction belongs to when these pipes are closed."""
        pipes = self._states.pipes
        works = np.ones(len(pipes.start), dtype=np.bool_)
        works[list(closed)] = False
        return parts(pipes.start[works], pipes.end[works], len(self._states.names))


def _feeding_pipe(states: NetworkStates, junction: int) -> int:
    """The pipe that brings most gas to a junction; at a feed, the one that takes most away."""
    level = int(np.argmin(np.abs(states.levels - OWN_DEMAND)))
    flow, pipes = states.pipe_flow_kg_s[level], states.pipes
    inflow = np.full(len(flow), -np.inf)
    inflow[pipes.start == junction] = -flow[pipes.start == junction]
    inflow[pipes.end == junction] = flow[pipes.end == junction]
    here = np.isfinite(inflow)
    return int(np.argmax(inflow if inflow.max() > 0.0 else np.where(here, -inflow, -np.inf)))
