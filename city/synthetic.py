"""Generated cities of any size, for load tests and benchmarks."""

import math
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Final

from city.cityfile import City, DeviceSpec, District, Plant, Position, Site
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

_GOLDEN_ANGLE: Final = math.pi * (3.0 - math.sqrt(5.0))
_KM_PER_DEGREE: Final = 111.32


def synthetic_city(
    devices: int,
    *,
    interval_s: float,
    seed: int,
    kinds: Sequence[str] = tuple(DEVICE_KINDS),
) -> City:
    """A city of so many devices, which take turns among `kinds`, all with one interval.

    Sites hold up to ten devices of one kind and lie evenly in a circle; nothing happens in it.

    Raises:
        InputError: The number or the interval is impossible, or a kind is unknown.
    """
    if devices < 1:
        raise InputError(f"a city needs at least 1 device, not {devices}")
    if not 0.1 <= interval_s <= 86400:  # noqa: PLR2004 - the bounds of a city file's intervals
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
        districts=tuple(_districts()),
        sites=tuple(_sites(devices, interval_s, kinds)),
    )


def _districts() -> Iterator[District]:
    for number in range(1, DISTRICTS + 1):
        yield District(id=f"d{number}", name=f"District {number}", name_zh=f"第{number}区")


def _sites(devices: int, interval_s: float, kinds: Sequence[str]) -> Iterator[Site]:
    """Sites of `kinds` in turn until there are `devices`; kinds share them as evenly as it goes."""
    total = sum(1 for _ in _sizes(devices, len(kinds)))
    plants = cycle(PLANT_KINDS)
    for number, (kind, size) in enumerate(
        zip(cycle(kinds), _sizes(devices, len(kinds)), strict=False)
    ):
        domain = DEVICE_KINDS[kind].domain
        specs = (DeviceSpec(id=f"{n:02d}", kind=kind, interval_s=interval_s) for n in range(size))
        yield Site(
            id=f"{kind}-{number:05d}",
            district=f"d{number % DISTRICTS + 1}",
            domain=domain,
            position=None if domain is Domain.GAS else _place(number, total),
            river_km=RIVER_KM * number / total if domain is Domain.WATER else None,
            plant=Plant(kind=next(plants), load=0.8) if domain is Domain.EMISSION else None,
            devices=tuple(specs),
        )


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
