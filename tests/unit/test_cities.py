"""The cities that come with CityEye."""

import re
from itertools import pairwise

import pytest

from city.cityfile import City, load_city, shipped_cities
from city.quantities import Domain
from sensors.engine import CityEngine

CHINESE = re.compile(r"[\u4e00-\u9fff]")


@pytest.fixture(scope="module")
def town() -> City:
    """The default city."""
    return load_city("lanting")


@pytest.mark.parametrize("name", sorted(shipped_cities()))
def test_named_as_its_file(name: str) -> None:
    """A shipped city loads and is named as its file."""
    assert name == load_city(name).city


def test_default_is_complete(town: City) -> None:
    """The default city has 60 devices in four domains and three districts."""
    devices = list(town.devices())

    assert len(devices) == 60
    assert {device.kind.domain for device in devices} == set(Domain)
    assert len({device.address.district for device in devices}) == 3


def test_names(town: City) -> None:
    """Everything in the default city has an English and a Chinese name."""
    names = [(named.name, named.name_zh) for named in town.districts]
    names += [(named.name, named.name_zh) for named in town.sites]

    for english, chinese in [(town.name, town.name_zh), *names]:
        assert english.isascii()
        assert CHINESE.search(chinese)


def test_first_minute(town: City) -> None:
    """Within a minute methane passes its alarm limit and is back below it for the off-delay."""
    assert town.start is not None
    start_ms = int(town.start.timestamp() * 1000)
    engine = CityEngine(town, seed=town.seed, start_ms=start_ms)
    seen = [
        (ts - start_ms, value)
        for frame in engine.frames(start_ms, start_ms + 60_000)
        if frame.group.kind.id == "gas-detector"
        for row, ts, value in zip(frame.rows, frame.ts, frame.values[:, 0].tolist(), strict=True)
        if frame.group.devices[row].name == "gas-market-street/detector-1"
    ]

    assert max(value for after_ms, value in seen if after_ms < 8_000) < 5.0
    assert max(value for after_ms, value in seen if after_ms < 30_000) > 25.0
    assert max(value for after_ms, value in seen if after_ms > 47_000) < 22.5


def test_linked(town: City) -> None:
    """The default city's plants have stacks near air stations and outfalls between river ones."""
    stacks = {site.id for site in town.sites if site.plant and site.plant.stack}
    outfalls_km = [s.plant.outfall.river_km for s in town.sites if s.plant and s.plant.outfall]
    stations_km = sorted(site.river_km for site in town.sites if site.river_km is not None)

    assert 5 == len(stacks)
    assert stations_km[0] < min(outfalls_km)
    assert max(outfalls_km) < stations_km[-1] < town.river.length_km


def test_every_kind_of_world_event(town: City) -> None:
    """The default city shows leaks, a burst, spills, failures, weather, faults and a fraud."""
    kinds = {event.kind for event in town.events}

    assert {"gas-leak", "gas-burst", "spill", "treatment-failure", "smog", "rain"} <= kinds
    assert {"spike", "stuck", "constant", "inspection"} <= kinds


def test_always_something(town: City) -> None:
    """In the first forty minutes an event begins at least every four minutes."""
    begins_s = sorted(event.at_s for event in town.events)
    pauses_s = [later - one for one, later in pairwise(begins_s)]

    assert begins_s[-1] > 2_000
    assert max(pauses_s) <= 240
