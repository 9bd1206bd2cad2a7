"""The world: every field of one city, in the order in which one acts on the next."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from city.cityfile import City
from city.errors import InputError
from city.quantities import Domain
from sensors.air import AirField
from sensors.fields import Field, Group, Probe
from sensors.gas import GasField
from sensors.plants import PlantsField
from sensors.river import RiverField
from sensors.weather import Weather

VENTILATION_MS: Final = 1_800_000
"""A fan that is told to ventilate runs for half an hour (engineering default)."""

AIRED_SHARE: Final = 0.05
"""Of the methane that stands without a fan, what is left with it."""

_AIRING_MS: Final = 30_000.0
"""Time constant with which a fan clears a site, and gas comes back after it."""


class World:
    """Weather, plants, air, river and gas of one city; only what its devices need."""

    def __init__(self, city: City, *, seed: int, start_ms: int) -> None:
        """Build the fields; with gas devices, this solves the network and takes seconds.

        Raises:
            InputError: The city names a gas network or junction that does not exist.
        """
        needs = {site.domain for site in city.sites if site.devices}
        self.weather = Weather(city, seed=seed, start_ms=start_ms)
        self.plants: PlantsField | None = None
        self.air: AirField | None = None
        self.river: RiverField | None = None
        self.gas: GasField | None = None
        self._fields: dict[Domain, Field] = {}
        self._fans: dict[str, list[int]] = {}
        if Domain.EMISSION in needs or (needs & {Domain.AIR, Domain.WATER} and _reaches_out(city)):
            self.plants = PlantsField(city, seed=seed, start_ms=start_ms, weather=self.weather)
            self._fields[Domain.EMISSION] = self.plants
        if Domain.AIR in needs:
            self._fields[Domain.AIR] = self.air = AirField(
                city, seed=seed, start_ms=start_ms, weather=self.weather, plants=self.plants
            )
        if Domain.WATER in needs:
            self._fields[Domain.WATER] = self.river = RiverField(
                city, seed=seed, start_ms=start_ms, weather=self.weather, plants=self.plants
            )
        if Domain.GAS in needs:
            self.gas = GasField(city, seed=seed, start_ms=start_ms, weather=self.weather)
            self._fields[Domain.GAS] = self.gas

    def field(self, domain: Domain) -> Field:
        """The field of that domain.

        Raises:
            InputError: The city has no devices that need it.
        """
        found = self._fields.get(domain)
        if found is None:
            raise InputError(f"this city has no {domain.value} devices")
        return found

    def probe(self, group: Group) -> Probe:
        """The field of the group's domain at its places."""
        probe = self.field(group.kind.domain).probe(group)
        return _Aired(probe, group, self._fans) if "methane" in group.quantities else probe

    def stop_unit(self, site: str, ts_ms: int) -> int:
        """Stop the unit of a plant; air and river feel it. Returns when it stands [ms].

        Raises:
            InputError: There is no such plant.
        """
        if self.plants is None:
            raise InputError(f"no plant at {site!r}: this city has none")
        stands_ms = self.plants.stop_unit(site, ts_ms)
        if self.air is not None:
            self.air.forget()
        if self.river is not None:
            self.river.forget(ts_ms)
        return stands_ms

    def ventilate(self, site: str, ts_ms: int) -> int:
        """Let the fans of a gas site run from `ts_ms` on and return when they stop [ms]."""
        self._fans.setdefault(site, []).append(ts_ms)
        return ts_ms + VENTILATION_MS


class _Aired:
    """A probe of methane, less what fans blow away."""

    def __init__(self, probe: Probe, group: Group, fans: dict[str, list[int]]) -> None:
        self._probe = probe
        self._fans = fans
        self._sites = np.array([device.site.id for device in group.devices])
        self._column = group.quantities.index("methane")

    def truth(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The true values at devices `rows`, shape (m, q)."""
        values = self._probe.truth(rows, ts)
        for site, starts in self._fans.items():
            part = np.flatnonzero(self._sites[rows] == site)
            for start_ms in starts if part.size else ():
                values[part, self._column] *= _left(ts[part] - start_ms)
        return values


def _left(since_ms: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of methane that a fan leaves so long after its start, 1 before, shape (m,)."""
    running = np.clip(since_ms, 0, VENTILATION_MS)
    removed = (1.0 - AIRED_SHARE) * -np.expm1(-running / _AIRING_MS)
    stopped = np.maximum(since_ms - VENTILATION_MS, 0)
    left: NDArray[np.float64] = 1.0 - removed * np.exp(-stopped / _AIRING_MS)
    return left


def _reaches_out(city: City) -> bool:
    """Whether any plant has a stack or an outfall that the air or the river knows of."""
    return any(site.plant and (site.plant.stack or site.plant.outfall) for site in city.sites)
