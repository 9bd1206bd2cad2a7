"""The gas grid: pressure and flow in the pipes, methane beside them, valves that travel.

First version of the field: the network's stationary states, interpolated by the town's demand.
Leaks let methane out and dent the pressure a little; closing a site's valve ends its leak.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from city.cityfile import City, Device, Position
from city.documents import suggestion
from city.errors import InputError
from city.quantities import Domain
from sensors.events import Episodes
from sensors.fields import (
    HOUR_S,
    DailyProfile,
    Group,
    LocalPart,
    Series,
    Spread,
    local_hour,
    season,
)
from sensors.network import NetworkStates, solve_network
from sensors.randomness import Octave, Process

KNOT_S: Final = 60.0
GOLDEN: Final = 0.6180339887498949
"""Multiples of it, modulo 1, are spread evenly however many there are."""

VALVE_TRAVEL_S: Final = 1.8
"""From open to closed, at constant speed (engineering default of a spring-return valve)."""

OPEN_PERCENT: Final = 100.0
CLOSED_PERCENT: Final = 2.0
"""A valve below this position lets nothing pass that matters."""

_TURNS_KEPT: Final = 64

_DEMAND: Final = (
    0.45, 0.40, 0.38, 0.38, 0.45, 0.75, 1.30, 1.55, 1.25, 1.00, 0.95, 1.20,
    1.30, 1.00, 0.85, 0.85, 1.00, 1.40, 1.75, 1.65, 1.35, 1.05, 0.80, 0.60,
)  # fmt: skip
"""A town's gas use by local hour: three meals and hot water (engineering default)."""

BACKGROUND_METHANE_LEL: Final = 0.2

LOCAL: Final = {
    "gas_pressure": Spread(absolute=0.10),
    "gas_flow": Spread(relative=0.04),
    "methane": Spread(absolute=0.05),
}


class GasField:
    """One city's gas network."""

    def __init__(self, city: City, *, seed: int, start_ms: int) -> None:
        """Solve the network and find every gas device's junction.

        Raises:
            DocumentError: The city names a network or a junction that does not exist.
        """
        self._city = city
        self._seed = seed
        self._start_ms = start_ms
        self._zone = city.zone
        self.states = solve_network(city.gas.network)
        self.junctions = assign_junctions(city, self.states)
        self.valves = Valves(city)
        self._noise = Process(seed, "gas/demand", (Octave(6 * HOUR_S, 0.5), Octave(HOUR_S, 0.5)))
        self.demand = Series(KNOT_S, self._knots)
        self._probes: list[GasProbe] = []

    def probe(self, group: Group) -> "GasProbe":
        """The gas grid at the places of `group`."""
        episodes = Episodes(self._city, group, self._start_ms, group.quantities)
        probe = GasProbe(
            self, group, episodes, LocalPart(group, self._seed, group.quantities, LOCAL)
        )
        self._probes.append(probe)
        return probe

    def set_valve(self, name: str, position_percent: float, ts_ms: int) -> int:
        """Let a valve begin to travel and return when it arrives; closed, it ends its site's leak.

        Raises:
            InputError: There is no such valve.
        """
        arrives_ms = self.valves.turn(name, position_percent, ts_ms)
        if position_percent <= CLOSED_PERCENT:
            site = name.partition("/")[0]
            for probe in self._probes:
                probe.episodes.stop(site, "gas-leak", arrives_ms)
        return arrives_ms

    def position(self, device: Device) -> Position:
        """Where a gas device stands: as its file says, else at its junction."""
        if device.position != self._city.position:
            return device.position
        return self.states.position(self.junctions[device.name], self._city.position)

    def _knots(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The town's demand as a multiple of the network's own, shape (k, 1, 1)."""
        noise = self._noise.at(np.zeros(len(ts), dtype=np.int64), ts)[:, 0]
        daily = DailyProfile(_DEMAND).at(local_hour(ts, self._zone))
        level = (0.75 - 0.35 * season(ts)) * daily * (1.0 + 0.05 * noise)
        return level[:, None, None]


class GasProbe:
    """The gas grid at the places of one group's devices."""

    def __init__(self, field: GasField, group: Group, episodes: Episodes, local: LocalPart) -> None:
        junctions = np.array([field.junctions[device.name] for device in group.devices])
        self.episodes = episodes
        self._local = local
        self._field = field
        self._levels = field.states.levels
        self._pressure_kpa = field.states.pressure_kpa[:, junctions]
        self._flow_m3_h = field.states.flow_m3_h[:, junctions]
        self._names = [device.name for device in group.devices]
        self._quantities = group.quantities

    def truth(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The true values at devices `rows`, shape (m, q)."""
        columns = [self._column(quantity, rows, ts) for quantity in self._quantities]
        values = np.stack(columns, axis=1)
        self._local.apply(values, rows, ts)
        self.episodes.apply(values, rows, ts)
        return values

    def _column(
        self, quantity: str, rows: NDArray[np.int64], ts: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        if quantity == "methane":
            return np.full(len(rows), BACKGROUND_METHANE_LEL)
        if quantity == "valve_position":
            return self._field.valves.positions(self._names, rows, ts)
        table = self._pressure_kpa if quantity == "gas_pressure" else self._flow_m3_h
        return self._interpolated(table, rows, ts)

    def _interpolated(
        self, table: NDArray[np.float64], rows: NDArray[np.int64], ts: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The state between the two solved levels around the demand at `ts`, shape (m,)."""
        demand = np.clip(self._field.demand.at(ts)[:, 0], self._levels[0], self._levels[-1])
        below = np.searchsorted(self._levels, demand, side="right") - 1
        below = np.minimum(below, len(self._levels) - 2)
        low, high = self._levels[below], self._levels[below + 1]
        share = (demand - low) / (high - low)
        before: NDArray[np.float64] = table[below, rows]
        return before + share * (table[below + 1, rows] - before)


class Valves:
    """Where every valve of the city stands, and how it got there; open until commanded."""

    def __init__(self, city: City) -> None:
        self._names = frozenset(
            device.name for device in city.devices() if "valve_position" in device.kind.quantities
        )
        self._turns: dict[str, list[tuple[float, float]]] = {}

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
        past = [turn for turn in self._turns.get(name, []) if turn[0] < ts_ms]
        path = [*past, (float(ts_ms), here), (float(arrives_ms), position_percent)]
        self._turns[name] = path[-_TURNS_KEPT:]
        return arrives_ms

    def position(self, name: str, ts_ms: int) -> float:
        """Where valve `name` stands at `ts_ms` [% open].

        Raises:
            InputError: There is no such valve.
        """
        self._check(name)
        turns = self._turns.get(name)
        if turns is None:
            return OPEN_PERCENT
        times, positions = zip(*turns, strict=True)
        return float(np.interp(float(ts_ms), times, positions))

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

    def _check(self, name: str) -> None:
        if name not in self._names:
            raise InputError(f"no valve {name!r} in this city; {suggestion(name, self._names)}")


def assign_junctions(city: City, states: NetworkStates) -> dict[str, int]:
    """The junction of every gas device by device name.

    Devices without a junction sit where the first of their site that names one sits; sites where
    none does are spread evenly over the network.

    Raises:
        DocumentError: A device names a junction that the network lacks.
    """
    found: dict[str, int] = {}
    sites = [site for site in city.sites if site.domain is Domain.GAS]
    index = {name: junction for junction, name in enumerate(states.names)}
    for number, site in enumerate(sites):
        own = {
            spec.id: index[spec.junction]
            if spec.junction in index
            else states.junction(spec.junction, where=f"{city.city}: {site.id}/{spec.id}")
            for spec in site.devices
            if spec.junction is not None
        }
        spread = int((number + 0.5) * GOLDEN % 1.0 * len(states.names))
        anchor = next(iter(own.values()), spread)
        for spec in site.devices:
            found[f"{site.id}/{spec.id}"] = own.get(spec.id, anchor)
    return found
