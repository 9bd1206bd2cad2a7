"""The city file: districts, sites, devices and events of one simulated city.

A `City` is the content of one YAML file, checked as a whole: what is loaded is consistent, so
no other part checks identifiers, kinds or references again.
"""

from collections.abc import Iterator
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo

import msgspec
from msgspec.structs import replace

from city import citycheck
from city.documents import Document, suggestion
from city.errors import DocumentError
from city.events import EVENT_KINDS
from city.kinds import DEVICE_KINDS, PLANT_KINDS, DeviceKind, PlantKind
from city.quantities import Domain

IDENTIFIER: Final = citycheck.IDENTIFIER
IDENTIFIER_MAX: Final = 64
GENERATED: Final = "synthetic"
"""How the name of a generated city begins: `synthetic:2000`."""

Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=IDENTIFIER_MAX)]
Longitude = Annotated[float, msgspec.Meta(ge=-180, le=180)]
Latitude = Annotated[float, msgspec.Meta(ge=-90, le=90)]
Position = tuple[Longitude, Latitude]
Interval = Annotated[float, msgspec.Meta(ge=0.1, le=86400)]
SECONDS_MAX: Final = 3.2e9
"""No event lasts longer or begins later: a century."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=SECONDS_MAX)]
Span = Annotated[float, msgspec.Meta(gt=0, le=SECONDS_MAX)]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the city file; unknown keys are errors."""


class District(_Strict, frozen=True, kw_only=True):
    """A part of the city with its own supervision."""

    id: Identifier
    name: str = ""
    name_zh: str = ""


class Stack(_Strict, frozen=True, kw_only=True):
    """Where a plant's flue gas leaves; at the site's position unless it has its own."""

    height_m: Annotated[float, msgspec.Meta(gt=0, le=400)] = 60.0
    diameter_m: Annotated[float, msgspec.Meta(gt=0, le=20)] = 3.0
    position: Position | None = None


class Outfall(_Strict, frozen=True, kw_only=True):
    """Where a plant's wastewater enters the river."""

    river_km: Annotated[float, msgspec.Meta(ge=0)]


class Plant(_Strict, frozen=True, kw_only=True):
    """The enterprise at an emission site."""

    kind: str
    load: Annotated[float, msgspec.Meta(ge=0, le=1.2)] = 0.8
    stack: Stack | None = None
    """None: of no consequence for the air stations."""
    outfall: Outfall | None = None
    """None: into the sewer, of no consequence for the river stations."""


class Reach(_Strict, frozen=True, kw_only=True):
    """A stretch of river with one cross-section, down to `to_km` from the head."""

    to_km: Annotated[float, msgspec.Meta(gt=0)]
    velocity_m_s: Annotated[float, msgspec.Meta(gt=0, le=5)] = 0.4
    depth_m: Annotated[float, msgspec.Meta(gt=0, le=50)] = 2.0
    width_m: Annotated[float, msgspec.Meta(gt=0, le=5000)] = 40.0
    slope: Annotated[float, msgspec.Meta(gt=0, le=0.1)] = 0.0003


class River(_Strict, frozen=True, kw_only=True):
    """The river through the city, from its head; the last reach ends the river."""

    reaches: Annotated[tuple[Reach, ...], msgspec.Meta(min_length=1)] = (Reach(to_km=40.0),)

    @property
    def length_km(self) -> float:
        """Where the river leaves the city's concern."""
        return self.reaches[-1].to_km


class DeviceSpec(_Strict, frozen=True, kw_only=True):
    """One device as the city file gives it."""

    id: Identifier
    kind: str
    interval_s: Interval | None = None
    position: Position | None = None
    junction: str | None = None
    """Gas devices: the name of the junction in the network that the device sits on."""


class Site(_Strict, frozen=True, kw_only=True):
    """A place with devices of one domain."""

    id: Identifier
    district: Identifier
    domain: Domain
    name: str = ""
    name_zh: str = ""
    position: Position | None = None
    river_km: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Water sites: distance from the head of the river [km]."""
    plant: Plant | None = None
    devices: tuple[DeviceSpec, ...]


class Event(_Strict, frozen=True, kw_only=True):
    """Something that happens: what, where, when after the start, how long, how strongly."""

    id: Identifier
    kind: str
    target: str = ""
    """`site` or `site/device`; an event that happens to the whole city needs none."""
    at_s: Seconds
    for_s: Span
    quantity: str | None = None
    """For faults and frauds: the one quantity that is changed; default: all that can be."""
    params: dict[str, float] = {}
    note: str = ""

    def param(self, name: str) -> float:
        """The parameter's value, its kind's default where the file gives none."""
        parameter = EVENT_KINDS[self.kind].parameter(name)
        if parameter is None:
            raise KeyError(f"{self.kind} has no parameter {name!r}")
        return self.params.get(name, parameter.default)


class Gas(_Strict, frozen=True, kw_only=True):
    """The gas network under the city.

    The name of a pandapipes example network, or a file: from the working directory or, where it
    is not there, beside the city file.
    """

    network: str = "schutterwald"


class Actions(_Strict, frozen=True, kw_only=True):
    """What alarms may do to devices, and order of the repair crew."""

    mode: Literal["off", "dry-run", "armed"] | bool = "dry-run"
    """YAML reads a bare `off` as false. `dry-run`: only say what would have been sent."""
    rules: tuple[Identifier, ...] = ()
    """`armed`: the rules whose actions are taken; those of all others are a dry run."""
    most_per_hour: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 6
    """So often a rule may act in an hour; closing all valves of a section is one action."""

    @property
    def off(self) -> bool:
        """Whether nothing is done, said or ordered."""
        return self.mode is False or self.mode == "off"

    def armed(self, rule: str) -> bool:
        """Whether the actions of `rule` are really taken."""
        return self.mode == "armed" and rule in self.rules


class Alarms(_Strict, frozen=True, kw_only=True):
    """Which rules watch the city, packs by name and files by path, and what alarms may do."""

    packs: tuple[str, ...] | None = None
    files: tuple[str, ...] = ()
    actions: Actions = Actions()


class Address(msgspec.Struct, frozen=True, order=True):
    """Where a device stands in the topic tree."""

    city: str
    district: str
    domain: str
    site: str
    device: str

    def __str__(self) -> str:
        return f"{self.city}/{self.district}/{self.domain}/{self.site}/{self.device}"


class Device(msgspec.Struct, frozen=True):
    """One device with all that the file says about it in one place."""

    address: Address
    kind: DeviceKind
    interval_ms: int
    position: Position
    site: Site
    plant: PlantKind | None
    junction: str | None

    @property
    def name(self) -> str:
        """`site/device`, unique in the city."""
        return f"{self.address.site}/{self.address.device}"


class City(_Strict, frozen=True, kw_only=True):
    """One simulated city."""

    city: Identifier
    name: str = ""
    name_zh: str = ""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 1
    timezone: str = "Asia/Shanghai"
    start: datetime | None = None
    """Where simulated time begins when it does not follow the wall clock."""
    position: Position = (119.97, 31.82)
    extent_km: Annotated[float, msgspec.Meta(gt=0, le=500)] = 30.0
    """Sites and stacks lie within this distance of `position`, north, south, east and west."""
    districts: tuple[District, ...]
    sites: tuple[Site, ...]
    events: tuple[Event, ...] = ()
    rates: dict[str, float] = {}
    """Faults that are drawn: events per device and year, by kind; at most 10000."""
    river: River = River()
    gas: Gas = Gas()
    alarms: Alarms = Alarms()

    @property
    def zone(self) -> ZoneInfo:
        """The city's time zone."""
        return ZoneInfo(self.timezone)

    def devices(self) -> Iterator[Device]:
        """Every device, in the order of the file: that order decides each device's random lane."""
        for site in self.sites:
            for spec in site.devices:
                kind = DEVICE_KINDS[spec.kind]
                yield Device(
                    address=Address(self.city, site.district, site.domain, site.id, spec.id),
                    kind=kind,
                    interval_ms=round(1000 * (spec.interval_s or kind.interval_s)),
                    position=spec.position or site.position or self.position,
                    site=site,
                    plant=PLANT_KINDS[site.plant.kind] if site.plant else None,
                    junction=spec.junction,
                )


def load_city(name_or_path: str) -> City:
    """The city of that name among the shipped ones, a generated one, or the file at that path.

    `synthetic:2000` is a generated city of 2,000 devices; `synthetic:2500:air-micro,air-gas` has
    devices of those kinds only.

    Raises:
        InputError: There is no such city, or its file is wrong; the text says where and what is
            allowed.
    """
    shipped = shipped_cities()
    if name_or_path in shipped:
        return check_city(Document.read(shipped[name_or_path], shipped=True))
    if name_or_path.partition(":")[0] == GENERATED:
        from city.synthetic import named_city  # noqa: PLC0415 - it builds on this module

        return named_city(name_or_path)
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"} and not path.exists():
        names = suggestion(name_or_path, [*shipped, f"{GENERATED}:2000"])
        raise DocumentError(f"no city named {name_or_path!r}; {names}; or give a .yaml file")
    return read_city(path)


def shipped_cities() -> dict[str, Path]:
    """The cities that come with CityEye, by name."""
    folder = Path(str(files("city") / "cities"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_city(path: Path) -> City:
    """The city in the file at `path`, checked as a whole."""
    return check_city(Document.read(path))


def check_city(document: Document) -> City:
    """The city in `document`, checked as a whole."""
    city = document.convert(City)
    citycheck.check_content(document, city)
    return replace(city, gas=_found(document, city.gas))


def _found(document: Document, gas: Gas) -> Gas:
    """`gas` with the path of a network file that lies beside the city file only."""
    path = Path(gas.network)
    beside = Path(document.name).parent / path
    if path.suffix == ".json" and not path.exists() and beside.is_file():
        return replace(gas, network=str(beside))
    return gas
