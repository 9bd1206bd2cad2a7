"""The engine: every sample of every device of a city, at its exact instant.

A sample is a pure function of the city file, the seed, the start, its instant and the commands
given so far. How time is cut into slices, and the city into shards, changes nothing.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import City, Device, Position
from city.errors import InputError
from city.quantities import Domain
from sensors.air import AirField
from sensors.fields import Field, Group, Probe
from sensors.gas import GOLDEN, GasField
from sensors.instruments import Instruments
from sensors.plants import PlantsField
from sensors.randomness import Lanes
from sensors.river import RiverField

__all__ = ["CityEngine", "Frame", "Group"]

TILE_ROWS: Final = 4096
"""Samples computed at once: enough to hide what a call costs, few enough for the cache."""

_TILES_KEPT: Final = 2
_PLASTIC: Final = 0.7548776662466927
"""Spreads the groups' phases against one another, as `GOLDEN` does the devices of one."""


class Frame(msgspec.Struct, frozen=True, eq=False):
    """Samples of one group, in the order of their instants; the arrays are read-only.

    `rows` (indices into `group.devices`) and `ts` (milliseconds since the epoch, UTC) have the
    shape (m,); `values` (canonical units, rounded, NaN where there is no value) and `flags`
    (`city.readings.Flag`) have the shape (m, q).
    """

    group: Group
    rows: NDArray[np.int64]
    ts: NDArray[np.int64]
    values: NDArray[np.float64]
    flags: NDArray[np.uint8]


class CityEngine:
    """All devices of a city, or of one shard of it. Not for use by two threads at once."""

    def __init__(
        self, city: City, *, seed: int, start_ms: int, shard: tuple[int, int] = (0, 1)
    ) -> None:
        """Prepare the fields; with gas devices, this solves the network and takes seconds.

        `start_ms` is the instant from which the city's events count. `shard` is (number, of how
        many): shards divide every group evenly.

        Raises:
            InputError: The shard does not exist, or the city names a gas network or junction that
                does not.
        """
        number, count = shard
        if not 0 <= number < count:
            raise InputError(f"shard {number} of {count} does not exist; count from 0")
        devices = list(city.devices())
        self._fields = _fields(city, devices, seed=seed, start_ms=start_ms)
        self._position = city.position
        self.groups = _groups(devices, shard)
        self._samplers = [
            _Sampler(group, self._fields[group.kind.domain].probe(group), seed)
            for group in self.groups
        ]

    def frames(self, from_ms: int, until_ms: int) -> Iterator[Frame]:
        """All samples with `from_ms <= ts < until_ms`, group by group, in small frames."""
        for sampler in self._samplers:
            yield from sampler.frames(from_ms, until_ms)

    def valve_position(self, device_name: str, ts_ms: int) -> float:
        """Where the valve `site/device` stands at `ts_ms` [% open].

        Raises:
            InputError: There is no such valve.
        """
        return self._gas(device_name).valves.position(device_name, ts_ms)

    def set_valve(self, device_name: str, position_percent: float, ts_ms: int) -> int:
        """Command the valve `site/device` to a position [% open] and return when it arrives [ms].

        It travels at constant speed. Samples already taken keep what they showed. Shards agree
        only when each of them is told, whichever has the valve.

        Raises:
            InputError: There is no such valve, or the position is not within 0 to 100.
        """
        arrives_ms = self._gas(device_name).set_valve(device_name, position_percent, ts_ms)
        for sampler in self._samplers:
            if sampler.group.kind.domain is Domain.GAS:
                sampler.forget()
        return arrives_ms

    def device_positions(self) -> dict[str, Position]:
        """Longitude and latitude of every device by name.

        Gas devices without a position of their own stand where their junction lies when the
        network's middle is the city's.
        """
        gas = self._fields.get(Domain.GAS)
        return {
            device.name: gas.position(device)
            if isinstance(gas, GasField) and group.kind.domain is Domain.GAS
            else device.position
            for group in self.groups
            for device in group.devices
        }

    def _gas(self, device_name: str) -> GasField:
        gas = self._fields.get(Domain.GAS)
        if not isinstance(gas, GasField):
            raise InputError(f"no valve {device_name!r}: this city has no gas devices")
        return gas


class _Sampler:
    """One group: its field, its instruments, and when each device measures."""

    def __init__(self, group: Group, probe: Probe, seed: int) -> None:
        self.group = group
        self._probe = probe
        self._instruments = Instruments(group)
        self._noise = Lanes(
            seed,
            f"instruments/{group.stream}",
            first=group.first,
            count=len(group.devices),
            columns=len(group.quantities),
        )
        self._order = np.argsort(group.phase_ms, kind="stable")
        self._phases = group.phase_ms[self._order]
        self._drawn: tuple[int, NDArray[np.float64]] | None = None
        self._tiles: dict[tuple[int, int], Frame] = {}

    def frames(self, from_ms: int, until_ms: int) -> Iterator[Frame]:
        """The group's samples with `from_ms <= ts < until_ms`."""
        interval_ms = self.group.interval_ms
        for number in range(from_ms // interval_ms, (until_ms - 1) // interval_ms + 1):
            bounds = (from_ms - number * interval_ms, until_ms - number * interval_ms)
            first, stop = np.searchsorted(self._phases, bounds).tolist()
            for start in range(first - first % TILE_ROWS, stop, TILE_ROWS):
                tile = self._tile(number, start)
                yield _cut(tile, max(first - start, 0), stop - start)

    def forget(self) -> None:
        """Compute samples anew: the world was changed."""
        self._tiles.clear()

    def _tile(self, number: int, start: int) -> Frame:
        found = self._tiles.get((number, start))
        if found is None:
            found = self._sample(number, start)
            while len(self._tiles) >= _TILES_KEPT:
                self._tiles.pop(next(iter(self._tiles)))
            self._tiles[number, start] = found
        return found

    def _sample(self, number: int, start: int) -> Frame:
        """Sample `number` of the devices from `start` on, in the order of their phases."""
        rows = self._order[start : start + TILE_ROWS]
        ts = number * self.group.interval_ms + self._phases[start : start + TILE_ROWS]
        truth = self._probe.truth(rows, ts)
        noise = self._draw(number).take(rows, axis=0)
        values, flags = self._instruments.show(truth, noise, rows)
        for array in (rows, ts, values, flags):
            array.flags.writeable = False
        return Frame(self.group, rows, ts, values, flags)

    def _draw(self, number: int) -> NDArray[np.float64]:
        if self._drawn is None or self._drawn[0] != number:
            self._drawn = (number, self._noise.draw(number))
        return self._drawn[1]


def _cut(tile: Frame, first: int, stop: int) -> Frame:
    if first == 0 and stop >= len(tile.rows):
        return tile
    part = slice(first, stop)
    return Frame(tile.group, tile.rows[part], tile.ts[part], tile.values[part], tile.flags[part])


def _fields(city: City, devices: list[Device], *, seed: int, start_ms: int) -> dict[Domain, Field]:
    """The fields of the domains that the city's devices belong to."""
    kinds: dict[Domain, type[AirField | RiverField | GasField | PlantsField]] = {
        Domain.AIR: AirField,
        Domain.WATER: RiverField,
        Domain.GAS: GasField,
        Domain.EMISSION: PlantsField,
    }
    present = {device.kind.domain for device in devices}
    return {
        domain: kind(city, seed=seed, start_ms=start_ms)
        for domain, kind in kinds.items()
        if domain in present
    }


def _groups(devices: list[Device], shard: tuple[int, int]) -> tuple[Group, ...]:
    """The shard's part of every group that it has a part of."""
    number, count = shard
    members: dict[tuple[str, int], list[Device]] = {}
    for device in devices:
        members.setdefault((device.kind.id, device.interval_ms), []).append(device)
    groups = []
    for place, ((_, interval_ms), whole) in enumerate(members.items()):
        first, stop = (len(whole) * edge // count for edge in (number, number + 1))
        if first < stop:
            group = Group(
                kind=whole[first].kind,
                interval_ms=interval_ms,
                devices=tuple(whole[first:stop]),
                first=first,
                phase_ms=_phases(place, first, stop, interval_ms=interval_ms),
            )
            groups.append(group)
    return tuple(groups)


def _phases(place: int, first: int, stop: int, *, interval_ms: int) -> NDArray[np.int64]:
    """Phases in [0, interval) of the devices `first` to `stop` of the city's group `place`."""
    turns = (np.arange(first, stop) * GOLDEN + place * _PLASTIC) % 1.0
    return (turns * interval_ms).astype(np.int64)
