"""What the alarm part knows of the city's places and connections, from the city file."""

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import tzinfo
from threading import Lock
from typing import Final

from alerts.surroundings import Section
from city.cityfile import Address, City, Device, Position
from city.quantities import Domain
from sensors.gas import assign_junctions
from sensors.network import NetworkStates, solve_network
from sensors.valves import Isolation, Valves

ID_MAX: Final = 64
_HASHED: Final = 8
"""Hexadecimal digits that stand for the names that an identifier has no room for."""


class CitySurroundings:
    """The surroundings of one city's devices; safe from any thread.

    What takes long, the solution of the gas network first of all, is done at the first question
    that needs it, or before by `prepare`.
    """

    def __init__(self, city: City) -> None:
        self._city = city
        self._devices = {device.address: device for device in city.devices()}
        self._grid: _Grid | None = None
        self._lock = Lock()

    async def prepare(self) -> None:
        """Find every gas device's section, in a thread; afterwards no question takes long.

        Raises:
            InputError: The gas network cannot be solved, or lacks a junction that a device names.
        """
        await asyncio.to_thread(self._find_all)

    @property
    def zone(self) -> tzinfo:
        """The city's time zone."""
        return self._city.zone

    def device(self, address: Address) -> bool:
        """Whether the city has such a device."""
        return address in self._devices

    def position(self, address: Address) -> Position | None:
        """Where a device stands; a gas device that the file does not place, at its junction."""
        device = self._devices.get(address)
        if device is None:
            return None
        if address.domain != Domain.GAS or device.position != self._city.position:
            return device.position
        with self._lock:
            return self._solved().position(device)

    def section(self, address: Address) -> Section | None:
        """The section that a gas device lies in.

        Its members are the devices that its valves cut off and all others of their sites; where no
        valves can cut the device off, the devices of its own site.
        """
        device = self._devices.get(address)
        if device is None or address.domain != Domain.GAS:
            return None
        with self._lock:
            return self._solved().section(device)

    def upstream(self, address: Address) -> Sequence[str]:
        """The water and emission sites that the river passes before a water device's, next first."""
        device = self._devices.get(address)
        if device is None or device.site.river_km is None:
            return ()
        here = device.site.river_km
        passed = [(km, name) for km, name in _on_the_river(self._city) if km <= here]
        return tuple(name for _, name in reversed(passed) if name != address.site)

    def _solved(self) -> "_Grid":
        if self._grid is None:
            self._grid = _Grid(self._city, solve_network(self._city.gas.network))
        return self._grid

    def _find_all(self) -> None:
        for address in self._devices:
            self.section(address)


class _Grid:
    """The gas network with the devices that sit on it, and the sections found so far."""

    def __init__(self, city: City, states: NetworkStates) -> None:
        self._states = states
        self._centre = city.position
        self._junctions = assign_junctions(city, states)
        self._gas = [device for device in city.devices() if device.address.domain == Domain.GAS]
        named = set(Valves(city).names)
        self._valves = {own.name: own.address for own in self._gas if own.name in named}
        places = {name: self._junctions[name] for name in self._valves}
        self._isolation = Isolation(states, places)
        self._found: dict[tuple[int, str], Section] = {}

    def position(self, device: Device) -> Position:
        """Where the device's junction lies."""
        return self._states.position(self._junctions[device.name], self._centre)

    def section(self, device: Device) -> Section:
        """The device's section."""
        junction = self._junctions[device.name]
        key = junction, device.site.id
        if key not in self._found:
            self._found[key] = self._section(junction, device.site.id)
        return self._found[key]

    def _section(self, junction: int, site: str) -> Section:
        names = self._isolation.valves(junction)
        sites = {site}
        if names:
            lost = self._isolation.cut_off(junction)
            sites = {own.site.id for own in self._gas if lost[self._junctions[own.name]]}
        return Section(
            id=section_id(names) if names else section_id((f"feed/{site}",)),
            valves=tuple(self._valves[name] for name in names),
            customers=self._isolation.customers(junction),
            members=frozenset(own.address for own in self._gas if own.site.id in sites),
        )


def section_id(valves: Sequence[str]) -> str:
    """An identifier for what valves `site/device` cut off, whatever their order; readable.

    Names that make it too long give way to a hash of all of them.
    """
    whole = "-".join(name.replace("/", "-") for name in sorted(valves))
    if len(whole) <= ID_MAX:
        return whole
    digest = hashlib.sha256("\n".join(sorted(valves)).encode()).hexdigest()[:_HASHED]
    return f"{whole[: ID_MAX - _HASHED - 1].rstrip('-')}-{digest}"


def _on_the_river(city: City) -> list[tuple[float, str]]:
    """Where [km from the head] which water and emission sites lie or discharge, from the head."""
    found = []
    for site in city.sites:
        outfall = site.plant.outfall if site.plant else None
        km = outfall.river_km if outfall else site.river_km
        if km is not None:
            found.append((km, site.id))
    return sorted(found)
