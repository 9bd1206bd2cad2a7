"""The gas grid: pressure and flow in the pipes, methane beside them, valves that travel.

What stands while nothing happens is the network's stationary state under the town's demand; what
leaks and valves change is the line pack's transient on top of it.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from city.cityfile import City, Device, Event, Position
from city.quantities import Domain
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
from sensors.linepack import Hole, LinePack
from sensors.network import DemandCurve, NetworkStates, solve_network
from sensors.randomness import Octave, Process
from sensors.transient import FADED_MS, Leak, Transient
from sensors.valves import Isolation, Valves
from sensors.weather import Weather

KNOT_S: Final = 60.0
GOLDEN: Final = 0.6180339887498949
"""Multiples of it, modulo 1, are spread evenly however many there are."""

LEAK_KINDS: Final = frozenset({"gas-leak", "gas-burst"})

_DEMAND: Final = (
    0.45, 0.40, 0.38, 0.38, 0.45, 0.75, 1.30, 1.55, 1.25, 1.00, 0.95, 1.20,
    1.30, 1.00, 0.85, 0.85, 1.00, 1.40, 1.75, 1.65, 1.35, 1.05, 0.80, 0.60,
)  # fmt: skip
"""A town's gas use by local hour: three meals and hot water (engineering default)."""

BASE_DEMAND: Final = 0.40
"""Meals and hot water, as a share of the network's own demand (engineering default)."""

HEATING_PER_KELVIN: Final = 0.045
HEATING_BELOW_C: Final = 16.0
"""Houses are heated when the mean of the past day is colder (engineering default)."""

_PAST_HOURS: Final = np.arange(0, 24, 3, dtype=np.int64) * 3_600_000

BACKGROUND_METHANE_LEL: Final = 0.2

ELSEWHERE_ON_SITE: Final = 0.6
"""Of the methane at a leak, what reaches the detectors at other junctions of its site."""

LOCAL: Final = {"methane": Spread(absolute=0.05)}


class GasField:
    """One city's gas network."""

    def __init__(
        self, city: City, *, seed: int, start_ms: int, weather: Weather | None = None
    ) -> None:
        """Solve the network and find every gas device's junction.

        Raises:
            InputError: The city names a network or a junction that does not exist, or one that
                cannot be solved.
        """
        self._city = city
        self.seed = seed
        self._weather = weather
        self.states = solve_network(city.gas.network)
        self.junctions = assign_junctions(city, self.states)
        self.valves = Valves(city)
        self._noise = Process(seed, "gas/demand", (Octave(6 * HOUR_S, 0.5), Octave(HOUR_S, 0.5)))
        self._climate = Series(HOUR_S, self._climate_knots)
        self.demand = Series(KNOT_S, self._knots)
        self.pressure = DemandCurve(self.states.levels, self.states.pressure_kpa)
        self.flow = DemandCurve(self.states.levels, self.states.flow_m3_h)
        places = {name: self.junctions[name] for name in self.valves.names}
        self._isolation = Isolation(self.states, places)
        self.pack = LinePack(self.states, np.unique(list(self.junctions.values())))
        edge = {int(pipe): number for number, pipe in enumerate(self.pack.edges)}
        self.transient = Transient(
            self.states,
            self.pack,
            demand=self.level,
            leaks=[self._leak(event, start_ms) for event in _leaks(city)],
            valves=self.valves,
            edges={name: edge[pipe] for name, pipe in self._isolation.pipes.items()},
        )

    def probe(self, group: Group) -> "GasProbe":
        """The gas grid at the places of `group`."""
        return GasProbe(self, group)

    def set_valve(self, name: str, position_percent: float, ts_ms: int) -> int:
        """Let a valve begin to travel at `ts_ms` and return when it arrives [ms].

        Raises:
            InputError: There is no such valve, or the position is not within 0 to 100.
        """
        arrives_ms = self.valves.turn(name, position_percent, ts_ms)
        self.transient.changed(ts_ms)
        return arrives_ms

    def isolating_valves(self, junction: str) -> tuple[str, ...]:
        """The valves that must all be closed to cut a junction off from the feed; () if none can.

        Raises:
            DocumentError: There is no such junction.
        """
        return self._isolation.valves(self._junction(junction))

    def affected_customers(self, junction: str) -> int:
        """How many customers lose their gas when the junction's isolating valves are closed.

        Raises:
            DocumentError: There is no such junction.
        """
        return self._isolation.customers(self._junction(junction))

    def level(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The town's demand at `ts` as a multiple of the network's own, shape (m,)."""
        return self.demand.at(ts)[:, 0]

    def position(self, device: Device) -> Position:
        """Where a gas device stands: as its file says, else at its junction."""
        if device.position != self._city.position:
            return device.position
        return self.states.position(self.junctions[device.name], self._city.position)

    def _junction(self, name: str) -> int:
        return self.states.junction(name, where=self._city.city)

    def _leak(self, event: Event, start_ms: int) -> Leak:
        """The hole that an event makes, at most as wide as the widest pipe there."""
        site = event.target.partition("/")[0]
        first = next(name for name in self.junctions if name == event.target or
                     name.startswith(f"{event.target}/"))  # fmt: skip
        junction, pipes = self.junctions[first], self.states.pipes
        here = (pipes.start == junction) | (pipes.end == junction)
        widest_mm = 1000.0 * float(pipes.diameter_m[here].max())
        hole = Hole(int(self.pack.section[junction]), min(event.param("hole_mm"), widest_mm))
        from_ms = start_ms + round(event.at_s * 1000)
        return Leak(site, junction, hole, from_ms, from_ms + round(event.for_s * 1000))

    def _knots(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The town's demand as a multiple of the network's own, shape (k, 1, 1)."""
        noise = self._noise.at(np.zeros(len(ts), dtype=np.int64), ts)[:, 0]
        daily = DailyProfile(_DEMAND).at(local_hour(ts, self._city.zone))
        level = self._climate.at(ts)[:, 0] * daily * (1.0 + 0.05 * noise)
        return level[:, None, None]

    def _climate_knots(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The day's mean demand, shape (k, 1, 1): by temperature if there is weather, else season.

        Houses follow the mean temperature of the past day.
        """
        if self._weather is None:
            seasonal: NDArray[np.float64] = 0.75 - 0.35 * season(ts)
            return seasonal[:, None, None]
        past = (ts[:, None] - _PAST_HOURS).ravel()
        temperature_c = self._weather.at(past).temperature_c.reshape(len(ts), -1).mean(axis=1)
        colder: NDArray[np.float64] = np.maximum(HEATING_BELOW_C - temperature_c, 0.0)
        return (BASE_DEMAND + HEATING_PER_KELVIN * colder)[:, None, None]


class GasProbe:
    """The gas grid at the places of one group's devices."""

    def __init__(self, field: GasField, group: Group) -> None:
        self._field = field
        self._quantities = group.quantities
        self._names = [device.name for device in group.devices]
        self._junctions = np.array([field.junctions[name] for name in self._names])
        self._sections = field.pack.section[self._junctions]
        self._local = LocalPart(group, field.seed, group.quantities, LOCAL)
        sites = [device.site.id for device in group.devices]
        self._reach = [self._reached(leak, sites) for leak in field.transient.leaks]

    def truth(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The true values at devices `rows`, shape (m, q)."""
        values = np.empty((len(rows), len(self._quantities)))
        level = self._field.level(ts)
        begun = self._field.transient.begun(int(ts.max()))
        for column, quantity in enumerate(self._quantities):
            values[:, column] = self._column(quantity, rows, ts, level, begun=begun)
        if "methane" in self._quantities:
            self._local.apply(values, rows, ts)
        return values

    def _column(
        self,
        quantity: str,
        rows: NDArray[np.int64],
        ts: NDArray[np.int64],
        level: NDArray[np.float64],
        *,
        begun: bool,
    ) -> NDArray[np.float64]:
        if quantity == "valve_position":
            return self._field.valves.positions(self._names, rows, ts)
        if quantity == "methane":
            return self._methane_lel(rows, ts)
        transient, pressure = self._field.transient, quantity == "gas_pressure"
        curve = self._field.pressure if pressure else self._field.flow
        values = curve.at(level, self._junctions[rows])
        if begun:
            deviation = transient.pressure_kpa if pressure else transient.flow_m3_h
            values = values + deviation(ts, self._sections[rows])
        return values if pressure else np.maximum(values, 0.0)

    def _methane_lel(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Background, and what the leaks of a detector's site add."""
        found = np.full(len(rows), BACKGROUND_METHANE_LEL)
        first, last = int(ts.min()), int(ts.max())
        for number, leak in enumerate(self._field.transient.leaks):
            if leak.from_ms <= last and first < leak.until_ms + FADED_MS:
                reach = self._reach[number][rows]
                part = np.flatnonzero(reach)
                if part.size:
                    air = self._field.transient.methane_lel(ts[part], number)
                    found[part] += reach[part] * air
        return found

    def _reached(self, leak: Leak, sites: list[str]) -> NDArray[np.float64]:
        """The share of a leak's methane that reaches each device, shape (n,)."""
        here = np.array([site == leak.site for site in sites], dtype=np.bool_)
        share = np.where(self._junctions == leak.junction, 1.0, ELSEWHERE_ON_SITE)
        return np.where(here, share, 0.0)


def _leaks(city: City) -> list[Event]:
    return [event for event in city.events if event.kind in LEAK_KINDS]


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
