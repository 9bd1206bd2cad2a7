"""The truth: what really happens in the city, for whoever scores detectors; never in telemetry.

Every event, scripted, drawn or commanded, has one record. Which readings it affects is known from
what is connected: a plant and the river below its outfall, a gas site, a whole city.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from broker.messages import TruthRecord
from city.cityfile import City, Device, Event, Site
from city.errors import StoreError
from city.events import EVENT_KINDS, Aim, EventKind, Layer
from city.kinds import DEVICE_KINDS
from city.quantities import Domain
from sensors.events import (
    FOR_EVER_MS,
    STACK_GASES,
    WATER_LOADS,
    Spell,
    Spells,
    Tile,
    as_arrays,
    touched_columns,
)
from sensors.fields import Group
from sensors.fluegas import corrected_columns

EVERYWHERE: Final = "*"

_AIR: Final = ("pm25", "pm10", "so2", "no2", "co", "o3")
_RIVER: Final = (
    "dissolved_oxygen", "conductivity", "turbidity", "codmn", "ammonia_n", "total_p", "total_n",
)  # fmt: skip
_STACK: Final = (*STACK_GASES, *(f"{gas}_corrected" for gas in STACK_GASES))
_GAS: Final = ("methane", "gas_pressure", "gas_flow")
_PLUME: Final = ("so2", "no2", "pm25", "pm10")
AFFECTS: Final = {
    "smog": (*_AIR, "wind_speed"),
    "rain": ("pm25", "pm10", "humidity", *_RIVER, "effluent_flow"),
    "wind": (*_AIR, "wind_speed", "wind_direction"),
    "spill": _RIVER,
    "treatment-failure": (*_STACK, *WATER_LOADS, *_RIVER, *_PLUME, "plant_power"),
    "secret-discharge": (*_STACK, "effluent_flow", *_RIVER, *_PLUME, "plant_power"),
    "inspection": (),
    "gas-leak": _GAS,
    "gas-burst": _GAS,
}
"""The quantities that an event of the world changes, where it is felt."""


class CommandedKind(msgspec.Struct, frozen=True):
    """What a command does to the world that no event of a city file does.

    `quantities` change at the devices of the commanded one's site.
    """

    quantities: tuple[str, ...]
    expected: str


COMMANDED: Final = {
    "valve": CommandedKind((*_GAS, "valve_position"), "pressure and flow change at the valve"),
    "ventilate": CommandedKind(("methane",), "methane falls while the fans of the site run"),
}
"""Kinds of record that only commands cause; the others are those of `city.events`."""

AFTERMATH_MS: Final = {
    Domain.AIR: 6 * 3_600_000,
    Domain.WATER: 24 * 3_600_000,
    Domain.GAS: 3_600_000,
    Domain.EMISSION: 1_800_000,
}
"""So long after its end an event of the world may still be felt (engineering default)."""


_NAMED_BYTES: Final = 32_768
"""So much of a record may be names of places; a message holds twice that."""

_LAYERS: Final[Mapping[Layer, Literal["world", "instrument", "fraud"]]] = {
    Layer.WORLD: "world",
    Layer.INSTRUMENT: "instrument",
    Layer.FRAUD: "fraud",
}


def scripted_records(city: City, start_ms: int) -> Iterator[TruthRecord]:
    """The record of every event of the city file, but for frauds that falsify nothing there."""
    for event in city.events:
        kind = EVENT_KINDS[event.kind]
        quantities = _quantities(city, event)
        if kind.layer is Layer.FRAUD and not quantities:
            continue
        from_ms = start_ms + round(event.at_s * 1000)
        yield TruthRecord(
            id=event.id,
            kind=kind.id,
            layer=_LAYERS[kind.layer],
            cause="scripted",
            start=from_ms,
            end=from_ms + round(event.for_s * 1000),
            target=event.target or city.city,
            devices=_told(reach(city, event)),
            quantities=quantities,
            expected=kind.expected,
            params={row.name: event.param(row.name) for row in kind.parameters},
            note=event.note,
        )


def drawn_record(spell: Spell, group: Group) -> TruthRecord:
    """The record of a drawn event at one device of `group`."""
    kind, name = EVENT_KINDS[spell.kind], group.devices[spell.row].name
    columns = _with_corrected(group.quantities, spell.columns)
    names = [row.name for row in kind.parameters]
    return TruthRecord(
        id=spell.event,
        kind=kind.id,
        layer=_LAYERS[kind.layer],
        cause="drawn",
        start=spell.from_ms,
        end=spell.until_ms,
        target=name,
        devices=(name,),
        quantities=tuple(group.quantities[column] for column in columns),
        expected=kind.expected,
        params=dict(zip(names, spell.params, strict=True)),
    )


def commanded_record(
    kind_id: str, devices: Sequence[Device], from_ms: int, until_ms: int
) -> TruthRecord:
    """The record of what a command did to devices of one site."""
    kind = EVENT_KINDS[kind_id]
    names = tuple(device.name for device in devices)
    return TruthRecord(
        id=f"{kind_id}-{from_ms}-{names[0].replace('/', '-')}",
        kind=kind_id,
        layer=_LAYERS[kind.layer],
        cause="commanded",
        start=from_ms,
        end=until_ms if until_ms < FOR_EVER_MS else None,
        target=names[0],
        devices=names,
        quantities=_changed(kind_id, devices, None),
        expected=kind.expected,
    )


def world_record(
    kind_id: str,
    device: Device,
    measured: Collection[str],
    from_ms: int,
    until_ms: int,
    *,
    params: Mapping[str, float],
) -> TruthRecord:
    """The record of what a command to `device` did to the world at its site.

    `kind_id` is one of `COMMANDED`, `measured` all that the site's devices measure.
    """
    kind = COMMANDED[kind_id]
    return TruthRecord(
        id=f"{kind_id}-{from_ms}-{device.name.replace('/', '-')}",
        kind=kind_id,
        layer="world",
        cause="commanded",
        start=from_ms,
        end=until_ms if until_ms < FOR_EVER_MS else None,
        target=device.name,
        devices=(f"{device.site.id}/*",),
        quantities=tuple(name for name in kind.quantities if name in measured),
        expected=kind.expected,
        params=dict(params),
    )


def reach(city: City, event: Event) -> tuple[str, ...]:
    """Where the event is felt, as a record says it: `site/device`, `site/*` or `*`.

    What leaves a stack is felt at all air sites: the wind decides at which of them, and when. A
    burst lowers the pressure of the whole network, but its methane stays at its own site.
    """
    kind = EVENT_KINDS[event.kind]
    site_id = event.target.partition("/")[0]
    if kind.aim is Aim.CITY:
        return (EVERYWHERE,)
    if kind.aim is Aim.DEVICE:
        return (event.target if "/" in event.target else f"{site_id}/*",)
    places = [f"{site_id}/*"]
    from_km = _enters_river_km(city, event)
    if from_km is not None:
        places += [
            f"{site.id}/*"
            for site in city.sites
            if site.domain is Domain.WATER and (site.river_km or 0.0) >= from_km
        ]
    if _enters_air(city, event):
        places += [f"{site.id}/*" for site in city.sites if site.domain is Domain.AIR]
    if event.kind == "gas-burst":
        places += _without_methane(city, site_id)
    return tuple(dict.fromkeys(places))


def felt_at(places: Collection[str], device: Device) -> bool:
    """Whether the device is among the places of a record."""
    return any(place in places for place in (EVERYWHERE, f"{device.site.id}/*", device.name))


def world_spells(city: City, group: Group, start_ms: int) -> dict[str, Spells]:
    """When and where events of the world may be felt by the group, with their aftermath."""
    spells = []
    for event in city.events:
        columns = _columns(group.quantities, _changes(city, event))
        if not columns:
            continue
        places = frozenset(reach(city, event))
        from_ms = start_ms + round(event.at_s * 1000)
        until_ms = from_ms + round(event.for_s * 1000) + AFTERMATH_MS[group.kind.domain]
        spells += [
            Spell(event.id, event.kind, row, from_ms, until_ms, columns, ())
            for row, device in enumerate(group.devices)
            if felt_at(places, device)
        ]
    return as_arrays(spells, len(group.quantities))


def affected(
    tile: Tile, quantities: tuple[str, ...], spells: Mapping[str, Spells]
) -> NDArray[np.bool_]:
    """Which readings of the tile lie in any of the spells, shape (m, q)."""
    mask = np.zeros((len(tile.rows), len(quantities)), dtype=np.bool_)
    for own in spells.values():
        samples, _, columns = tile.cells(own)
        mask[samples, columns] = True
    follows = corrected_columns(quantities)
    for column, raw in follows:
        mask[:, column] |= mask[:, raw] | mask[:, quantities.index("stack_o2")]
    return mask


class Comparison(msgspec.Struct, frozen=True):
    """What a device showed at one instant of its own clock, and what was true."""

    device: str
    ts: int
    true: dict[str, float]
    shown: dict[str, float]


class TruthLog:
    """A file of JSON lines: records, and comparisons of true and shown values."""

    def __init__(self, path: Path, *, append: bool = False) -> None:
        """Begin the file anew, or go on with what it holds.

        Raises:
            StoreError: It cannot be written.
        """
        self.path = path
        self.records = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab" if append else "wb")
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, lines: Iterable[TruthRecord | Comparison]) -> None:
        """Append the lines.

        Raises:
            StoreError: The file cannot be written.
        """
        try:
            for line in lines:
                self._file.write(msgspec.json.encode(line) + b"\n")
                self.records += 1
            self._file.flush()
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Close the file.

        Raises:
            StoreError: What was left to write cannot be written.
        """
        try:
            self._file.close()
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror}") from error


def _enters_river_km(city: City, event: Event) -> float | None:
    """Where what the event sets free enters the river [km]; None where nothing does."""
    site = _site(city, event)
    if site is None or event.kind == "inspection":
        return None
    if site.domain is Domain.WATER:
        return site.river_km or 0.0
    if _aimed_outlet(city, event) is _STACK:
        return None
    return site.plant.outfall.river_km if site.plant and site.plant.outfall else None


def _enters_air(city: City, event: Event) -> bool:
    """Whether the event changes what a stack gives the air."""
    site = _site(city, event)
    if site is None or not site.plant or not site.plant.stack or event.kind == "inspection":
        return False
    return _aimed_outlet(city, event) is not WATER_LOADS


def _told(places: tuple[str, ...]) -> tuple[str, ...]:
    """The places as a record names them: everywhere when naming them all would make it too large.

    Comparisons keep to the places themselves.
    """
    return places if sum(len(place) + 3 for place in places) <= _NAMED_BYTES else (EVERYWHERE,)


def _site(city: City, event: Event) -> Site | None:
    target = event.target.partition("/")[0]
    return next((site for site in city.sites if site.id == target), None)


def _aimed_outlet(city: City, event: Event) -> tuple[str, ...] | None:
    """What the one outlet is measured by that the event is aimed at; None for a whole plant."""
    if "/" not in event.target:
        return None
    measured = next((d.kind.quantities for d in city.devices() if d.name == event.target), ())
    return next((own for own in (_STACK, WATER_LOADS) if set(own) & set(measured)), None)


def _without_methane(city: City, site_id: str) -> list[str]:
    """The gas devices at other sites than this one that measure no methane, as places."""
    places: list[str] = []
    for site in city.sites:
        if site.domain is Domain.GAS and site.id != site_id:
            kinds = {spec.id: DEVICE_KINDS[spec.kind].quantities for spec in site.devices}
            names = [f"{site.id}/{name}" for name, own in kinds.items() if "methane" not in own]
            places += names if len(names) < len(kinds) else [f"{site.id}/*"]
    return places


def _changes(city: City, event: Event) -> tuple[str, ...]:
    """What an event of the world may change: at one outlet of a plant, not the other's."""
    names = AFFECTS.get(event.kind, ())
    aimed = _aimed_outlet(city, event) if names else None
    if aimed is None:
        return names
    outfall = {*WATER_LOADS, "effluent_flow", *_RIVER}
    other = {*_STACK, *_PLUME} if aimed is WATER_LOADS else outfall
    return tuple(name for name in names if name not in other)


def _quantities(city: City, event: Event) -> tuple[str, ...]:
    """What the event changes of what is measured where it is felt."""
    kind: EventKind = EVENT_KINDS[event.kind]
    places = frozenset(reach(city, event))
    felt = [device for device in city.devices() if felt_at(places, device)]
    if kind.layer is not Layer.WORLD:
        return _changed(kind.id, felt, event.quantity)
    measured = {name for device in felt for name in device.kind.quantities}
    return tuple(name for name in _changes(city, event) if name in measured)


def _changed(kind_id: str, devices: Sequence[Device], quantity: str | None) -> tuple[str, ...]:
    """The quantities that a fault or fraud changes at the devices, those that follow included."""
    found: dict[str, None] = {}
    for names in dict.fromkeys(device.kind.quantities for device in devices):
        columns = touched_columns(kind_id, names, quantity)
        found |= dict.fromkeys(names[column] for column in _with_corrected(names, columns))
    return tuple(found)


def _with_corrected(quantities: tuple[str, ...], columns: Sequence[int]) -> tuple[int, ...]:
    follows = {
        column
        for column, raw in corrected_columns(quantities)
        if raw in columns or quantities.index("stack_o2") in columns
    }
    return tuple(sorted({*columns, *follows}))


def _columns(quantities: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    return tuple(column for column, name in enumerate(quantities) if name in names)
