"""The engine: every sample of every device of a city, at its exact instant.

A sample is a pure function of the city file, the seed, the start, its instant and the commands
given so far. How time is cut into slices, and the city into shards, changes nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from broker.messages import TruthRecord
from city.cityfile import City, Device, Position
from city.documents import suggestion
from city.errors import InputError
from city.events import Parameter
from city.quantities import QUANTITIES, Domain
from sensors.events import FOR_EVER_MS, deaf_spans
from sensors.fields import Group
from sensors.sampler import Frame, Sampler
from sensors.truth import (
    AFTERMATH_MS,
    commanded_record,
    drawn_record,
    scripted_records,
    world_record,
)
from sensors.valves import OPEN_PERCENT
from sensors.world import World

__all__ = ["ORDERS", "CityEngine", "Frame", "Group", "Order"]

CALIBRATION_MS: Final = 600_000
"""How long a calibration takes that a command starts."""

_GOLDEN: Final = 0.6180339887498949
"""Multiples of it, modulo 1, are spread evenly however many there are."""
_PLASTIC: Final = 0.7548776662466927
"""Spreads the groups' phases against one another, as the golden ratio does one group's devices."""


class CityEngine:
    """All devices of a city, or of one shard of it. Not for use by two threads at once."""

    def __init__(
        self, city: City, *, seed: int, start_ms: int, shard: tuple[int, int] = (0, 1)
    ) -> None:
        """Prepare the world; with gas devices, this solves the network and takes seconds.

        `start_ms` is the instant from which the city's events count. `shard` is (number, of how
        many): shards divide every group evenly.

        Raises:
            InputError: The shard does not exist, the city names a gas network or junction that
                does not, or gives a rate for what is not drawn.
        """
        number, count = shard
        if not 0 <= number < count:
            raise InputError(f"shard {number} of {count} does not exist; count from 0")
        devices = list(city.devices())
        self._city = city
        self._start_ms = start_ms
        self._first_shard = number == 0
        self._deaf = deaf_spans(city, start_ms)
        self.world = World(city, seed=seed, start_ms=start_ms)
        self.groups = _groups(devices, shard)
        self._known = {device.name: device for device in devices}
        self._records: list[TruthRecord] = []
        self._ended: list[tuple[int, TruthRecord]] = []
        self._samplers = [
            Sampler(city, group, self.world.probe(group), seed=seed, start_ms=start_ms)
            for group in self.groups
        ]

    def frames(self, from_ms: int, until_ms: int, *, with_truth: bool = False) -> Iterator[Frame]:
        """All samples taken from `from_ms` to before `until_ms`, group by group.

        The longer the span, the larger the frames, up to some thousand samples each.
        """
        for sampler in self._samplers:
            yield from sampler.frames(from_ms, until_ms, with_truth=with_truth)

    def truths(self, from_ms: int, until_ms: int) -> list[TruthRecord]:
        """What begins to happen from `from_ms` to before `until_ms`, in order.

        Events of the city file, and commands, are told by the first shard, drawn events by the
        shard that has the device. A record without end whose end has come in that time is told
        with it, once more if it was told before: under one identifier the last one counts.
        """
        found = [
            drawn_record(spell, sampler.group)
            for sampler in self._samplers
            for spell in sampler.script.starting(from_ms, until_ms)
        ]
        ended = [record for told_ms, record in self._ended if from_ms <= told_ms < until_ms]
        if self._first_shard:
            found += [*scripted_records(self._city, self._start_ms), *self._records]
        inside = {record.id: record for record in found if from_ms <= record.start < until_ms}
        if self._first_shard:
            inside |= {record.id: record for record in ended}
        return sorted(inside.values(), key=lambda record: (record.start, record.id))

    def device_positions(self) -> dict[str, Position]:
        """Longitude and latitude of every device by name.

        Gas devices without a position of their own stand where their junction lies when the
        network's middle is the city's.
        """
        gas = self.world.gas
        return {
            device.name: gas.position(device)
            if gas is not None and group.kind.domain is Domain.GAS
            else device.position
            for group in self.groups
            for device in group.devices
        }

    def valve_position(self, device_name: str, ts_ms: int) -> float:
        """Where the valve `site/device` stands at `ts_ms` [% open].

        Raises:
            InputError: There is no such valve.
        """
        if self.world.gas is None:
            raise InputError(f"no valve {device_name!r}: this city has no gas devices")
        return self.world.gas.valves.position(device_name, ts_ms)

    def obey(self, order: str, device_name: str, args: Mapping[str, float], ts_ms: int) -> int:
        """Carry out one of `ORDERS` at a device and return when that is done [ms].

        Commands come in the order of their instants. Samples already taken keep what they showed.
        Shards agree only when each of them is told, whichever has the device.

        Raises:
            InputError: Order or device is unknown, an argument is missing, unknown or out of its
                bounds, or the device is not of a kind that can.
        """
        if order not in ORDERS:
            raise InputError(f"unknown command {order!r}; {suggestion(order, ORDERS)}")
        row = ORDERS[order]
        return row.act(self, device_name, row.checked(args), ts_ms)

    def hears(self, device_name: str, ts_ms: int) -> bool:
        """Whether a command that reaches the device at `ts_ms` is heard at all."""
        places = {device_name, device_name.partition("/")[0]}
        return not any(
            from_ms <= ts_ms < until_ms and target in places
            for target, from_ms, until_ms in self._deaf
        )

    def set_valve(self, device_name: str, position_percent: float, ts_ms: int) -> int:
        """Send the valve `site/device` to a position [% open] and return when it arrives [ms].

        Its truth record ends with the arrival; that of a valve that is not fully open ends when
        the valve is sent elsewhere.

        Raises:
            InputError: There is no such valve, or the position is not within 0 to 100.
        """
        if self.world.gas is None:
            raise InputError(f"no valve {device_name!r}: this city has no gas devices")
        arrives_ms = self.world.gas.set_valve(device_name, position_percent, ts_ms)
        stays = position_percent < OPEN_PERCENT
        self._end("valve", device_name, ts_ms)
        self._tell(
            "valve", device_name, ts_ms, FOR_EVER_MS if stays else arrives_ms,
            position_percent=position_percent,
        )  # fmt: skip
        self._forget()
        return arrives_ms

    def calibrate(self, device_name: str, ts_ms: int) -> int:
        """Start a calibration of the device's instruments and return when it ends [ms].

        Raises:
            InputError: There is no such device.
        """
        device = self._device(device_name)
        until_ms = ts_ms + CALIBRATION_MS
        for sampler in self._samplers:
            rows = [r for r, own in enumerate(sampler.group.devices) if own.name == device_name]
            sampler.script.command("calibration", rows, ts_ms, until_ms)
        self._records.append(commanded_record("calibration", [device], ts_ms, until_ms))
        self._forget()
        return until_ms

    def set_interval(self, device_name: str, interval_s: float, ts_ms: int) -> int:
        """Let the device measure every `interval_s` from `ts_ms` on; returns `ts_ms`.

        Raises:
            InputError: There is no such device, or the interval is not within 0.1 to 86400 s.
        """
        self._device(device_name)
        checked = ORDERS["set_interval"].checked({"interval_s": interval_s})
        for sampler in self._samplers:
            for row, device in enumerate(sampler.group.devices):
                if device.name == device_name:
                    sampler.retime(row, round(1000 * checked["interval_s"]), ts_ms)
        return ts_ms

    def stop_unit(self, target: str, ts_ms: int) -> int:
        """Stop the unit at the plant of `site` or `site/device`; returns when it stands [ms].

        From then on its monitors flag F. Its truth record begins with the command: that the load
        falls is labelled, too. A second stop, which changes nothing, has none.

        Raises:
            InputError: There is no plant.
        """
        site = target.partition("/")[0]
        stands_ms = self.world.stop_unit(site, ts_ms)
        for sampler in self._samplers:
            rows = _rows_at(sampler.group, site)
            span = (ts_ms, stands_ms)
            sampler.script.label(f"stopping/{site}", "stopping", rows, QUANTITIES, span)
            sampler.script.command("stopped", rows, stands_ms, FOR_EVER_MS)
        stopped = [device for device in self._known.values() if device.site.id == site]
        record = commanded_record("stopped", stopped, ts_ms, FOR_EVER_MS) if stopped else None
        known = [(old.kind, old.target) for old in self._records if old.start <= ts_ms]
        if record is not None and (record.kind, record.target) not in known:
            self._records.append(record)
        self._forget()
        return stands_ms

    def ventilate(self, device_name: str, ts_ms: int) -> int:
        """Run the fans at the site of a gas device; methane falls there. Returns their stop [ms].

        Raises:
            InputError: There is no such gas device.
        """
        device = self._device(device_name)
        if device.kind.domain is not Domain.GAS:
            raise InputError(f"{device_name!r} has no fans: it is no gas device")
        stops_ms = self.world.ventilate(device.site.id, ts_ms)
        self._tell("ventilate", device_name, ts_ms, stops_ms)
        self._forget()
        return stops_ms

    def _tell(
        self, kind: str, device_name: str, from_ms: int, until_ms: int, **params: float
    ) -> None:
        """Record what a command did to the world at a gas device's site, and label it there."""
        device = self._known[device_name]
        site = device.site.id
        measured = {
            name
            for own in self._known.values()
            if own.site.id == site
            for name in own.kind.quantities
        }
        record = world_record(kind, device, measured, from_ms, until_ms, params=params)
        self._records.append(record)
        span = (from_ms, min(until_ms + AFTERMATH_MS[Domain.GAS], FOR_EVER_MS))
        for sampler in self._samplers:
            rows = _rows_at(sampler.group, site)
            sampler.script.label(f"{kind}/{device_name}", kind, rows, record.quantities, span)

    def _end(self, kind: str, device_name: str, ts_ms: int) -> None:
        """End, at `ts_ms`, the records of that kind and device that have no end yet."""
        over = {record.id for _, record in self._ended}
        for record in self._records:
            mine = record.kind == kind and record.target == device_name and record.start < ts_ms
            if mine and record.end is None and record.id not in over:
                self._ended.append((ts_ms, msgspec.structs.replace(record, end=ts_ms)))

    def _device(self, name: str) -> Device:
        if name not in self._known:
            raise InputError(f"no device {name!r} in this city; {suggestion(name, self._known)}")
        return self._known[name]

    def _forget(self) -> None:
        for sampler in self._samplers:
            sampler.forget()


class Order(msgspec.Struct, frozen=True):
    """A command that a device obeys: its arguments, and what it does to the engine.

    `act` takes the engine, `site/device`, the arguments and the instant [ms]; it returns when the
    order is carried out [ms]. `done` is how a reply says so.
    """

    name: str
    parameters: tuple[Parameter, ...]
    act: Callable[[CityEngine, str, Mapping[str, float], int], int]
    done: str

    def checked(self, args: Mapping[str, object]) -> dict[str, float]:
        """The arguments as numbers.

        Raises:
            InputError: One is missing, unknown, no number or out of its bounds.
        """
        names = [parameter.name for parameter in self.parameters]
        if set(args) != set(names):
            found = ", ".join(sorted(args))[:200] or "none"
            raise InputError(
                f"{self.name} takes {', '.join(names) or 'no arguments'}; got: {found}"
            )
        numbers = {}
        for parameter in self.parameters:
            value = args[parameter.name]
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not parameter.low <= value <= parameter.high:  # type: ignore[operator]
                bounds = f"{parameter.low:g} to {parameter.high:g} {parameter.unit}"
                raise InputError(f"{self.name}: {parameter.name} is not within {bounds}")
            numbers[parameter.name] = float(value)  # type: ignore[arg-type]
        return numbers


_INTERVAL: Final = Parameter("interval_s", "s", 5.0, 0.1, 86400.0)
_ORDER_ROWS: Final = (
    Order("close_valve", (), lambda e, name, _, ts: e.set_valve(name, 0.0, ts), "closed"),
    Order("open_valve", (), lambda e, name, _, ts: e.set_valve(name, 100.0, ts), "opened"),
    Order("calibrate", (), lambda e, name, _, ts: e.calibrate(name, ts), "calibrated"),
    Order("set_interval", (_INTERVAL,),
          lambda e, name, args, ts: e.set_interval(name, args["interval_s"], ts), "interval set"),
    Order("stop_unit", (), lambda e, name, _, ts: e.stop_unit(name, ts), "stopped"),
    Order("ventilate", (), lambda e, name, _, ts: e.ventilate(name, ts), "ventilated"),
)  # fmt: skip
ORDERS: Final = {row.name: row for row in _ORDER_ROWS}


def _rows_at(group: Group, site: str) -> list[int]:
    """The rows of the group's devices at a site."""
    return [row for row, device in enumerate(group.devices) if device.site.id == site]


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
    turns = (np.arange(first, stop) * _GOLDEN + place * _PLASTIC) % 1.0
    return (turns * interval_ms).astype(np.int64)
