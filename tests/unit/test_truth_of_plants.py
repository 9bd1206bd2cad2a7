"""What a record of a plant's event names is what the plant's devices show otherwise."""

from functools import cache

import numpy as np
import pytest

from city.cityfile import City, DeviceSpec, District, Event, Outfall, Plant, Site, Stack
from city.quantities import Domain
from sensors.engine import CityEngine

START_MS = 1_780_272_000_000
SPAN_MS = 7_200_000
DEVICES = {"stack-1": "stack-cems", "outfall-1": "outfall", "meter-1": "plant-meter"}
NOTHING = Event(id="none", kind="wind", at_s=1e9, for_s=1.0)


def town(event: Event) -> City:
    """A works with stack, outfall and meter, where one thing happens."""
    devices = tuple(DeviceSpec(id=name, kind=kind) for name, kind in DEVICES.items())
    plant = Plant(kind="coal-boiler", stack=Stack(), outfall=Outfall(river_km=5.0))
    works = Site(id="works", district="north", domain=Domain.EMISSION, plant=plant, devices=devices)
    return City(city="town", districts=(District(id="north"),), sites=(works,), events=(event,))


@cache
def shown(kind: str, target: str) -> dict[str, tuple[float, ...]]:
    """What the works' devices show over two hours, by quantity."""
    event = Event(id="it", kind=kind, target=target, at_s=600, for_s=3600) if kind else NOTHING
    engine = CityEngine(town(event), seed=3, start_ms=START_MS)
    found: dict[str, list[float]] = {}
    for frame in engine.frames(START_MS, START_MS + SPAN_MS):
        for column, name in enumerate(frame.group.quantities):
            found.setdefault(name, []).extend(frame.values[:, column].tolist())
    return {name: tuple(values) for name, values in found.items()}


def told(kind: str, target: str) -> set[str]:
    """The quantities that the event's record names."""
    event = Event(id="it", kind=kind, target=target, at_s=600, for_s=3600)
    engine = CityEngine(town(event), seed=3, start_ms=START_MS)
    [record] = engine.truths(START_MS, START_MS + SPAN_MS)
    return set(record.quantities)


@pytest.mark.parametrize("target", ["works", "works/stack-1", "works/outfall-1"])
@pytest.mark.parametrize("kind", ["treatment-failure", "secret-discharge"])
def test_all_that_changes(kind: str, target: str) -> None:
    """No quantity of the plant changes by its event that the record does not name."""
    struck, usual = shown(kind, target), shown("", "")
    changed = {name for name in usual if not np.array_equal(struck[name], usual[name])}

    assert "plant_power" in changed
    assert changed <= told(kind, target)


@pytest.mark.parametrize(
    ("target", "named"), [("works", True), ("works/outfall-1", True), ("works/stack-1", False)]
)
def test_flow_past_the_monitor(target: str, *, named: bool) -> None:
    """What goes past the outfall's monitor is missing from its flow; a stack's is of no matter."""
    names = told("secret-discharge", target)

    assert named == ("effluent_flow" in names)
    assert not {"effluent_cod", "effluent_ammonia_n"} & names
