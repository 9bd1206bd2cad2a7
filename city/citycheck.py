"""What must hold of a city file beyond its types; each failure names file, line and path.

The checks see the city's structures by their attributes only, so that the structures can ask for
them: `city.cityfile` stands above this module.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from city.documents import Document, suggestion
from city.events import EVENT_KINDS, Aim, EventKind, Layer
from city.kinds import DEVICE_KINDS, PLANT_KINDS
from city.quantities import Domain

if TYPE_CHECKING:
    from city.cityfile import City, Event, Position, Site

IDENTIFIER: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")

DRAWABLE: Final = frozenset(
    kind.id
    for kind in EVENT_KINDS.values()
    if kind.layer is Layer.INSTRUMENT and kind.slot != "ear"
)
"""The kinds of event that may be drawn at a rate: nobody decides on them, and readings show them."""

_KM_PER_DEGREE: Final = 111.32
_CHANGES: Final = {"o2-fake": "stack_o2"}
"""The one quantity that a kind of event changes without being told."""
_RATE_MAX: Final = 10_000.0
"""Events per device and year: more than one an hour."""

Path = tuple[str | int, ...]


def check_content(document: Document, city: "City") -> None:
    """Raise if anything in `city`, read from `document`, does not fit together.

    Raises:
        DocumentError: The first thing that does not.
    """
    check_identifier(document, ("city",), city.city)
    try:
        ZoneInfo(city.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        document.fail(("timezone",), f"unknown time zone {city.timezone!r}; use an IANA name")
    if city.start is not None and city.start.tzinfo is None:
        document.fail(("start",), "has no offset from UTC; write e.g. 2026-06-01T08:00:00+08:00")
    _check_river(document, city)
    districts = _unique(document, "districts", [district.id for district in city.districts])
    _unique(document, "sites", [site.id for site in city.sites])
    for index, site in enumerate(city.sites):
        _check_site(document, ("sites", index), site, districts)
        _check_places(document, ("sites", index), site, city)
    check_events(document, city.events, city)
    _check_rates(document, city)
    _check_actions(document, city)


def check_identifier(document: Document, path: Path, identifier: str) -> None:
    """Raise if `identifier` may not stand in a topic."""
    if not IDENTIFIER.fullmatch(identifier):
        allowed = "small letters, digits and inner hyphens"
        document.fail(path, f"identifier {identifier!r} is not allowed; use {allowed}")


def check_events(document: Document, events: "Sequence[Event]", city: "City") -> None:
    """Raise if one of `events`, the list at key `events` of `document`, cannot happen in `city`.

    Raises:
        DocumentError: An event's kind, target, quantity or parameter is wrong, or two contradict.
    """
    _unique(document, "events", [event.id for event in events])
    targets = _Targets(city)
    for index, event in enumerate(events):
        path = ("events", index)
        if event.kind not in EVENT_KINDS:
            problem = f"unknown event kind {event.kind!r}; {suggestion(event.kind, EVENT_KINDS)}"
            document.fail((*path, "kind"), problem)
        kind = EVENT_KINDS[event.kind]
        _check_target(document, path, event, targets)
        _check_quantity(document, path, event, targets.quantities(event.target))
        _check_parameters(document, path, event, kind)
    _check_contradictions(document, events)


class _Targets:
    """What the events of one city can be aimed at."""

    def __init__(self, city: "City") -> None:
        self.city = city.city
        self._domain = {site.id: site.domain for site in city.sites}
        self._measured: dict[str, set[str]] = {site.id: set() for site in city.sites}
        for device in city.devices():
            self._domain[device.name] = device.kind.domain
            self._measured[device.name] = set(device.kind.quantities)
            self._measured[device.site.id] |= self._measured[device.name]

    def of(self, kind: EventKind) -> list[str]:
        """The sites and devices that an event of `kind` can be aimed at."""
        return [name for name, domain in self._domain.items() if domain in kind.domains]

    def quantities(self, target: str) -> set[str]:
        """What is measured there."""
        return self._measured.get(target, set())


def _check_rates(document: Document, city: "City") -> None:
    for kind, rate in city.rates.items():
        if kind not in DRAWABLE:
            problem = f"{kind!r} is no instrument fault; {suggestion(kind, DRAWABLE)}"
            document.fail(("rates", kind), problem)
        if not 0.0 <= rate <= _RATE_MAX:
            allowed = f"allowed: 0 to {_RATE_MAX:g} per device and year"
            document.fail(("rates", kind), f"{rate:g} is out of bounds; {allowed}")


def _check_actions(document: Document, city: "City") -> None:
    """What alarms may do is said in full: a mode, and by name the rules that it arms."""
    path, actions = ("alarms", "actions"), city.alarms.actions
    if actions.mode is True:
        document.fail((*path, "mode"), "'on' is no mode; allowed: off, dry-run, armed")
    seen: set[str] = set()
    for index, rule in enumerate(actions.rules):
        check_identifier(document, (*path, "rules", index), rule)
        if rule in seen:
            document.fail((*path, "rules", index), f"rule {rule!r} stands twice")
        seen.add(rule)
    if actions.mode == "armed" and not actions.rules:
        problem = "is armed, but no rule is; name in `rules` those whose actions may be taken"
        document.fail((*path, "mode"), problem)


def _check_river(document: Document, city: "City") -> None:
    for index, (above, below) in enumerate(pairwise(city.river.reaches), start=1):
        if below.to_km <= above.to_km:
            problem = (
                f"a reach ends at km {below.to_km:g}, not below the one before, which ends at "
            )
            document.fail(("river", "reaches", index, "to_km"), f"{problem}km {above.to_km:g}")


def _check_site(document: Document, path: Path, site: "Site", known: set[str]) -> None:
    if site.district not in known:
        problem = f"unknown district {site.district!r}; {suggestion(site.district, known)}"
        document.fail((*path, "district"), problem)
    if site.plant and site.plant.kind not in PLANT_KINDS:
        problem = f"unknown plant kind {site.plant.kind!r}; "
        document.fail((*path, "plant", "kind"), problem + suggestion(site.plant.kind, PLANT_KINDS))
    if (site.plant is not None) != (site.domain is Domain.EMISSION):
        needs = "needs a plant" if site.plant is None else "has a plant"
        document.fail(path, f"a site of domain {site.domain.value!r} {needs}; "
                            "emission sites have one, others none")  # fmt: skip
    _check_devices(document, path, site)


def _check_devices(document: Document, path: Path, site: "Site") -> None:
    seen: set[str] = set()
    kinds = {name for name, kind in DEVICE_KINDS.items() if kind.domain is site.domain}
    for index, device in enumerate(site.devices):
        where = (*path, "devices", index)
        check_identifier(document, (*where, "id"), device.id)
        if device.id in seen:
            document.fail((*where, "id"), f"device {device.id!r} stands twice at site {site.id!r}")
        seen.add(device.id)
        if device.kind not in kinds:
            problem = f"unknown device kind {device.kind!r} for domain {site.domain.value!r}; "
            document.fail((*where, "kind"), problem + suggestion(device.kind, kinds))
        if device.junction is not None and site.domain is not Domain.GAS:
            document.fail((*where, "junction"), "only gas devices sit on a junction")


def _check_places(document: Document, path: Path, site: "Site", city: "City") -> None:
    """The site and all that belongs to it lie on the map, and on the river where there is one."""
    for part, position in _positions(site):
        off_km = _off_centre_km(position, city.position)
        if off_km > city.extent_km:
            allowed = f"allowed: {city.extent_km:g} km (extent_km)"
            document.fail(
                (*path, *part), f"lies {off_km:.1f} km off the city's position; {allowed}"
            )
    if site.river_km is not None and site.domain is not Domain.WATER:
        document.fail((*path, "river_km"), "only water sites lie on the river")
    outfall = site.plant.outfall if site.plant else None
    places: list[tuple[Path, float | None]] = [
        (("river_km",), site.river_km),
        (("plant", "outfall", "river_km"), outfall.river_km if outfall else None),
    ]
    for part, km in places:
        if km is not None and km > city.river.length_km:
            end = f"the river ends at km {city.river.length_km:g} (the last reach's to_km)"
            document.fail((*path, *part), f"km {km:g} lies beyond the river's end; {end}")


def _positions(site: "Site") -> "Iterator[tuple[Path, Position]]":
    if site.position:
        yield ("position",), site.position
    if site.plant and site.plant.stack and site.plant.stack.position:
        yield ("plant", "stack", "position"), site.plant.stack.position
    for index, device in enumerate(site.devices):
        if device.position:
            yield ("devices", index, "position"), device.position


def _off_centre_km(position: "Position", centre: "Position") -> float:
    """How far a place lies north, south, east or west of the centre, whichever is most."""
    east_deg = (position[0] - centre[0] + 180.0) % 360.0 - 180.0
    north_km = abs(position[1] - centre[1]) * _KM_PER_DEGREE
    east_km = abs(east_deg) * _KM_PER_DEGREE * math.cos(math.radians(centre[1]))
    return max(north_km, east_km)


def _check_target(document: Document, path: Path, event: "Event", targets: _Targets) -> None:
    kind = EVENT_KINDS[event.kind]
    if kind.aim is Aim.CITY:
        if event.target not in {"", targets.city}:
            problem = f"{kind.id} happens to the whole city; leave the target out, or write "
            document.fail((*path, "target"), f"{problem}{targets.city!r} (found {event.target!r})")
        return
    known = targets.of(kind)
    if event.target not in known:
        domains = " or ".join(sorted(domain.value for domain in kind.domains))
        domains = "" if kind.domains == frozenset(Domain) else f"{domains} "
        problem = f"no {domains}site or site/device {event.target!r}; "
        where = (*path, "target") if event.target else path
        document.fail(where, problem + suggestion(event.target, known))


def _check_quantity(document: Document, path: Path, event: "Event", measured: set[str]) -> None:
    kind = EVENT_KINDS[event.kind]
    touches = kind.touches or measured - set(kind.spares)
    if kind.touches and not measured & set(touches):
        problem = f"{event.target} does not measure {', '.join(kind.touches)}: nothing that "
        document.fail((*path, "target"), f"{problem}{event.kind} can change")
    if event.quantity is None:
        return
    if not kind.takes_quantity:
        document.fail((*path, "quantity"), f"an event of kind {event.kind!r} takes no quantity")
    if event.quantity not in measured:
        problem = f"{event.target} does not measure {event.quantity!r}; "
        document.fail((*path, "quantity"), problem + suggestion(event.quantity, measured))
    if not {event.quantity, event.quantity.removesuffix("_corrected")} & set(touches):
        problem = f"{event.kind} does not change {event.quantity!r}; "
        allowed = measured & set(touches)
        document.fail((*path, "quantity"), problem + suggestion(event.quantity, allowed))


def _check_parameters(document: Document, path: Path, event: "Event", kind: EventKind) -> None:
    for name, value in event.params.items():
        where = (*path, "params", name)
        row = kind.parameter(name)
        if row is None:
            names = [parameter.name for parameter in kind.parameters]
            known = suggestion(name, names) if names else "it has none"
            document.fail(where, f"{kind.id} has no parameter {name!r}; {known}")
        if not row.low <= value <= row.high:
            unit = "" if row.unit == "1" else f" {row.unit}"
            allowed = f"allowed: {row.low:g} to {row.high:g}{unit}"
            document.fail(where, f"{value:g}{unit} is out of bounds; {allowed}")


def _check_contradictions(document: Document, events: "Sequence[Event]") -> None:
    """No two events want the same thing of the same target and quantity at the same time."""
    slots: dict[tuple[str, str], list[int]] = {}
    for index, event in enumerate(events):
        kind = EVENT_KINDS[event.kind]
        site = "" if kind.aim is Aim.CITY else event.target.partition("/")[0]
        earlier = slots.setdefault((kind.slot, site), [])
        for other in earlier if kind.slot else ():
            if _contradict(event, events[other]):
                problem = f"contradicts event {events[other].id!r} ({events[other].kind}): "
                same = "same target, same quantity, same time; move one of them"
                document.fail(("events", index), problem + same)
        earlier.append(index)


def _contradict(one: "Event", other: "Event") -> bool:
    """Whether two events of one slot and site meet in time, target and quantity."""
    meet = one.at_s < other.at_s + other.for_s and other.at_s < one.at_s + one.for_s
    city = EVENT_KINDS[one.kind].aim is Aim.CITY
    whole_site = "/" not in one.target or "/" not in other.target
    quantities = {_CHANGES.get(event.kind, event.quantity) for event in (one, other)}
    same = len(quantities) == 1 or None in quantities
    return meet and same and (city or whole_site or one.target == other.target)


def _unique(document: Document, key: str, ids: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    for index, identifier in enumerate(ids):
        check_identifier(document, (key, index, "id"), identifier)
        if identifier in seen:
            document.fail((key, index, "id"), f"identifier {identifier!r} stands twice")
        seen.add(identifier)
    return seen
