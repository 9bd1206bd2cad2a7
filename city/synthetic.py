"""Generated cities of any size, for load tests and benchmarks.

Some plants have a stack and some an outfall, so that plumes reach air stations and pulses run down
the river; they are as few as one valley has, however many devices watch them.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Final

from city.cityfile import (
    GENERATED,
    City,
    DeviceSpec,
    District,
    Outfall,
    Plant,
    Position,
    Reach,
    River,
    Site,
    Stack,
)
from city.documents import suggestion
from city.errors import InputError
from city.kinds import DEVICE_KINDS, PLANT_KINDS
from city.quantities import Domain

FOUR_QUANTITY_KINDS: Final = tuple(
    kind.id
    for kind in DEVICE_KINDS.values()
    if len(kind.quantities) == 4  # noqa: PLR2004 - its name
)
"""The kinds whose messages carry four values, the size that rates are stated for."""

DEVICES_PER_SITE: Final = 10
DISTRICTS: Final = 6
CENTRE: Final[Position] = (119.97, 31.82)
RADIUS_KM: Final = 15.0
RIVER_KM: Final = 60.0
STACKS_MAX: Final = 24
OUTFALLS_MAX: Final = 8
RIVER: Final = River(
    reaches=(
        Reach(to_km=20.0, velocity_m_s=0.6, depth_m=3.0, width_m=80.0, slope=0.0004),
        Reach(to_km=45.0, velocity_m_s=0.5, depth_m=3.5, width_m=90.0, slope=0.0003),
        Reach(to_km=65.0, velocity_m_s=0.4, depth_m=4.0, width_m=100.0, slope=0.0002),
    )
)
"""A river large enough for a city's sewage works."""

_STACK: Final = Stack(height_m=80.0, diameter_m=2.5)
_BURNING: Final = tuple(name for name, kind in PLANT_KINDS.items() if kind.o2_ref is not None)
_DRAINING: Final = tuple(name for name in PLANT_KINDS if name not in _BURNING)
_GOLDEN_ANGLE: Final = math.pi * (3.0 - math.sqrt(5.0))
_KM_PER_DEGREE: Final = 111.32


def named_city(name: str) -> City:
    """The city called `synthetic:DEVICES`, or `synthetic:DEVICES:KIND,KIND` for some kinds only.

    Raises:
        InputError: The name says no number, or a kind is unknown.
    """
    _, size, kinds = [*name.split(":", 2), "", ""][:3]
    if not size.isascii() or not size.isdigit():
        raise InputError(f"city {name!r} says no size; write {GENERATED}:2000 for 2,000 devices")
    chosen = tuple(kinds.split(",")) if kinds else tuple(DEVICE_KINDS)
    return synthetic_city(int(size), interval_s=None, seed=1, kinds=chosen)


def synthetic_city(
    devices: int,
    *,
    interval_s: float | None,
    seed: int,
    kinds: Sequence[str] = tuple(DEVICE_KINDS),
) -> City:
    """A city of so many devices, which take turns among `kinds`, with one interval or their kind's.

    Sites hold up to ten devices of one kind and lie evenly in a circle; nothing happens in it.

    Raises:
        InputError: The number or the interval is impossible, or a kind is unknown.
    """
    if devices < 1:
        raise InputError(f"a city needs at least 1 device, not {devices}")
    if interval_s is not None and not 0.1 <= interval_s <= 86400:  # noqa: PLR2004 - the bounds of a city file's intervals
        raise InputError(f"interval {interval_s} s is not within 0.1 to 86400")
    if not kinds:
        raise InputError("name at least one kind of device")
    for kind in kinds:
        if kind not in DEVICE_KINDS:
            raise InputError(f"unknown device kind {kind!r}; {suggestion(kind, DEVICE_KINDS)}")
    return City(
        city="synthetic",
        name="Synthetic City",
        name_zh="合成城",
        seed=seed,
        position=CENTRE,
        river=RIVER,
        districts=tuple(_districts()),
        sites=tuple(_sites(devices, interval_s, kinds)),
    )


def _districts() -> Iterator[District]:
    for number in range(1, DISTRICTS + 1):
        yield District(id=f"d{number}", name=f"District {number}", name_zh=f"第{number}区")


def _sites(devices: int, interval_s: float | None, kinds: Sequence[str]) -> Iterator[Site]:
    """Sites of `kinds` in turn until there are `devices`; kinds share them as evenly as it goes."""
    sizes = list(_sizes(devices, len(kinds)))
    for number, (kind, size) in enumerate(zip(cycle(kinds), sizes, strict=False)):
        domain = DEVICE_KINDS[kind].domain
        specs = (DeviceSpec(id=f"{n:02d}", kind=kind, interval_s=interval_s) for n in range(size))
        round_, rounds = number // len(kinds), -(-len(sizes) // len(kinds))
        yield Site(
            id=f"{kind}-{number:05d}",
            district=f"d{number % DISTRICTS + 1}",
            domain=domain,
            position=None if domain is Domain.GAS else _place(number, len(sizes)),
            river_km=RIVER_KM * number / len(sizes) if domain is Domain.WATER else None,
            plant=_plant(kind, round_, rounds) if domain is Domain.EMISSION else None,
            devices=tuple(specs),
        )


def _plant(device_kind: str, number: int, count: int) -> Plant:
    """Plant `number` of `count` that devices of a kind watch; a few have a stack or an outfall."""
    if device_kind == "outfall":
        near = number % -(-count // OUTFALLS_MAX) == 0
        river_km = round(RIVER_KM * (number + 0.5) / count, 2)
        outfall = Outfall(river_km=river_km) if near else None
        return Plant(kind=_DRAINING[number % len(_DRAINING)], outfall=outfall)
    tall = device_kind == "stack-cems" and number % -(-count // STACKS_MAX) == 0
    return Plant(kind=_BURNING[number % len(_BURNING)], stack=_STACK if tall else None)


def _sizes(devices: int, kinds: int) -> Iterator[int]:
    """The number of devices of each site: ten, or fewer where a kind's share is less."""
    size = max(1, min(DEVICES_PER_SITE, devices // kinds))
    yield from islice(cycle((size,)), devices // size)
    if devices % size:
        yield devices % size


def _place(number: int, total: int) -> Position:
    """The place of site `number` of `total` on a sunflower's spiral around the centre."""
    centre_longitude, centre_latitude = CENTRE
    distance_km = RADIUS_KM * math.sqrt((number + 0.5) / total)
    east_km = distance_km * math.cos(number * _GOLDEN_ANGLE)
    north_km = distance_km * math.sin(number * _GOLDEN_ANGLE)
    degree_km = _KM_PER_DEGREE * math.cos(math.radians(centre_latitude))
    return (
        round(centre_longitude + east_km / degree_km, 5),
        round(centre_latitude + north_km / _KM_PER_DEGREE, 5),
    )
