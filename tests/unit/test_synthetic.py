"""Generated cities: as many devices as asked for, and as valid as any city file."""

from collections import Counter

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from city.cityfile import check_city, load_city
from city.documents import Document
from city.errors import InputError
from city.kinds import DEVICE_KINDS
from city.quantities import Domain
from city.synthetic import FOUR_QUANTITY_KINDS, OUTFALLS_MAX, STACKS_MAX, synthetic_city


@settings(deadline=None)
@given(st.integers(1, 700), st.integers(1, len(DEVICE_KINDS)))
def test_size(devices: int, kinds: int) -> None:
    """A city has as many devices as asked for, all with different names."""
    city = synthetic_city(devices, interval_s=1, seed=1, kinds=tuple(DEVICE_KINDS)[:kinds])

    assert devices == len({device.name for device in city.devices()})


def test_valid() -> None:
    """A generated city passes the checks of a city file unchanged."""
    city = synthetic_city(333, interval_s=2.5, seed=4)
    text = yaml.safe_dump(msgspec.to_builtins(city, str_keys=True))

    assert city == check_city(Document(text, "synthetic.yaml"))


def test_mixed() -> None:
    """All domains and six districts have their part."""
    devices = list(synthetic_city(1_000, interval_s=1, seed=1).devices())

    assert {device.kind.domain for device in devices} == set(Domain)
    assert len({device.address.district for device in devices}) == 6


def test_even() -> None:
    """Kinds share the devices evenly, to one site."""
    counts = Counter(
        device.kind.id for device in synthetic_city(1_234, interval_s=1, seed=1).devices()
    )

    assert counts.keys() == DEVICE_KINDS.keys()
    assert max(counts.values()) - min(counts.values()) <= 10


def test_four_quantities() -> None:
    """The kinds for load tests measure four quantities each."""
    city = synthetic_city(100, interval_s=1, seed=1, kinds=FOUR_QUANTITY_KINDS)

    assert {len(device.kind.quantities) for device in city.devices()} == {4}


def test_interval() -> None:
    """Every device has the interval asked for."""
    city = synthetic_city(50, interval_s=0.5, seed=1)

    assert {device.interval_ms for device in city.devices()} == {500}


def test_usual_interval() -> None:
    """Without an interval every device has its kind's."""
    devices = list(synthetic_city(50, interval_s=None, seed=1).devices())

    assert all(device.interval_ms == device.kind.interval_s * 1000 for device in devices)


@pytest.mark.parametrize("devices", [100, 2_000, 20_000])
def test_plants(devices: int) -> None:
    """A few plants have a stack, a few an outfall, spread over the city and along the river."""
    city = synthetic_city(devices, interval_s=60, seed=1)
    plants = [site.plant for site in city.sites if site.plant]
    places_km = [plant.outfall.river_km for plant in plants if plant.outfall]

    assert 1 <= sum(plant.stack is not None for plant in plants) <= STACKS_MAX
    assert 1 <= len(places_km) <= OUTFALLS_MAX
    assert sorted(places_km) == places_km
    assert max(places_km) < city.river.length_km


def test_stations_below() -> None:
    """River stations lie above and below the outfalls."""
    city = synthetic_city(2_000, interval_s=60, seed=1)
    stations_km = [site.river_km for site in city.sites if site.river_km is not None]
    outfalls_km = [s.plant.outfall.river_km for s in city.sites if s.plant and s.plant.outfall]

    assert min(stations_km) < min(outfalls_km)
    assert max(stations_km) > max(outfalls_km)


def test_named() -> None:
    """A generated city has a name that says its size, and may say its kinds."""
    city = load_city("synthetic:2500:air-micro,air-gas")

    assert Counter({"air-micro": 1_250, "air-gas": 1_250}) == Counter(
        device.kind.id for device in city.devices()
    )


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("synthetic:", "'synthetic:' says no size; write synthetic:2000"),
        ("synthetic:many", "says no size"),
        ("synthetic:0", "at least 1 device"),
        ("synthetic:9:air-mikro", "did you mean 'air-micro'"),
    ],
)
def test_misnamed(name: str, problem: str) -> None:
    """A name that says no size or an unknown kind is refused."""
    with pytest.raises(InputError, match=problem):
        load_city(name)


def test_large() -> None:
    """A hundred thousand devices fit into one city."""
    city = synthetic_city(100_000, interval_s=60, seed=1)

    assert sum(1 for _ in city.devices()) == 100_000


@pytest.mark.parametrize(
    ("devices", "interval_s", "kinds", "problem"),
    [
        (0, 1.0, ("air-micro",), "at least 1 device, not 0"),
        (1, 0.01, ("air-micro",), "not within 0.1 to 86400"),
        (1, float("nan"), ("air-micro",), "not within 0.1 to 86400"),
        (1, 1.0, (), "at least one kind"),
        (1, 1.0, ("air-mikro",), "did you mean 'air-micro'"),
    ],
)
def test_refused(devices: int, interval_s: float, kinds: tuple[str, ...], problem: str) -> None:
    """Impossible cities are refused with the reason."""
    with pytest.raises(InputError, match=problem):
        synthetic_city(devices, interval_s=interval_s, seed=1, kinds=kinds)
