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
    """Within a minute methane passes both of its limits and is back below them."""
    assert town.start is not None
    start_ms = int(town.start.timestamp() * 1000)
    engine = CityEngine(town, seed=town.seed, start_ms=start_ms)
    seen = [
        value
        for frame in engine.frames(start_ms, start_ms + 60_000)
        if frame.group.kind.id == "gas-detector"
        for row, value in zip(frame.rows, frame.values[:, 0].tolist(), strict=True)
        if frame.group.devices[row].name == "gas-market-street/detector-1"
    ]

    assert seen[0] < 5.0
    assert max(seen) > 50.0
    assert max(seen[20:]) < 20.0


def test_always_something(town: City) -> None:
    """In the first forty minutes an event begins at least every four minutes."""
    begins_s = sorted(event.at_s for event in town.events)
    pauses_s = [later - one for one, later in pairwise(begins_s)]

    assert begins_s[-1] > 2_000
    assert max(pauses_s) <= 240
