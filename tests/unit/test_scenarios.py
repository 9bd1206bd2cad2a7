"""Scenarios: named stories that play in any city that has the places."""

from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from city.cityfile import City, load_city
from city.documents import Document
from city.errors import DocumentError
from city.events import EVENT_KINDS, Aim, Layer
from city.scenarios import Story, load_scenario, scenario_of, shipped_scenarios, with_scenario

NAMES = {
    "ceramics-night-discharge",
    "falsified-stack",
    "gas-burst",
    "gas-burst-deaf-valve",
    "gas-slow-leak",
    "river-spill",
    "sensor-faults",
    "smog-episode",
}


@pytest.fixture(scope="module")
def town() -> City:
    """The default city."""
    return load_city("lanting")


def story(**changes: Any) -> Story:
    """A scenario of one event in the default city."""
    leak = {"id": "a", "kind": "gas-leak", "target": "gas-market-street", "at_s": 1, "for_s": 2}
    raw = {"scenario": "mine", "sentence": "It leaks", "for_s": 60, "events": [leak], **changes}
    return scenario_of(Document(yaml.safe_dump(raw), "mine.yaml"))


def test_shipped() -> None:
    """Eight scenarios are shipped."""
    assert NAMES == set(shipped_scenarios())


@pytest.mark.parametrize("name", sorted(NAMES))
def test_plays(name: str) -> None:
    """A shipped scenario is named as its file, plays in its city, and ends before its time does."""
    scenario = load_scenario(name).scenario
    city = with_scenario(load_city(scenario.city), load_scenario(name))

    assert name == scenario.scenario
    assert scenario.events == city.events
    assert scenario.for_s >= max(event.at_s + event.for_s for event in city.events)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_sentence(name: str) -> None:
    """A scenario says in one line of a terminal what happens, each of its events says why."""
    scenario = load_scenario(name).scenario

    assert len(scenario.sentence) <= 54
    assert all(event.note for event in scenario.events)


def test_every_fraud_and_fault() -> None:
    """Every way in which a stack is falsified or an instrument fails is in some scenario."""
    shown = {event.kind for name in NAMES for event in load_scenario(name).scenario.events}
    wanted = {kind.id for kind in EVENT_KINDS.values() if kind.layer is not Layer.WORLD}

    assert wanted - {"sample-swap", "stopped"} <= shown


def test_takes_the_place(town: City) -> None:
    """A scenario's events take the place of the city's own; nothing else changes but the start."""
    plain = with_scenario(town, story())
    moved = with_scenario(town, story(start=datetime(2026, 1, 1, tzinfo=UTC)))

    assert ["a"] == [event.id for event in plain.events]
    assert (town.start, town.sites) == (plain.start, plain.sites)
    assert datetime(2026, 1, 1, tzinfo=UTC) == moved.start


def test_other_city() -> None:
    """A city without the places is refused, by the line of the scenario that needs them."""
    with pytest.raises(DocumentError, match=r"mine.yaml:\d+: events\[0\].target: no gas site"):
        with_scenario(load_city("synthetic:40"), story())


def test_every_city() -> None:
    """A scenario of the whole city's weather plays in every city."""
    smog = load_scenario("smog-episode")

    assert all(EVENT_KINDS[event.kind].aim is Aim.CITY for event in smog.scenario.events)
    assert 2 == len(with_scenario(load_city("synthetic:40"), smog).events)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"events": []}, "events: expected `array` of length >= 1"),
        ({"scenario": "My"}, "scenario: identifier 'My' is not allowed"),
        ({"sentnce": "x"}, "sentnce: unknown key 'sentnce'; did you mean 'sentence'?"),
        ({"start": datetime(2026, 6, 1)}, "start: has no offset from UTC"),  # noqa: DTZ001 - the naive time is the subject
        ({"for_s": 0}, "for_s: expected `float` > 0.0"),
        ({"for_s": 1e12}, "for_s: expected `float` <= 3200000000.0 (found 1000000000000.0)"),
    ],
)
def test_wrong(changes: dict[str, Any], says: str) -> None:
    """A scenario file that is wrong is refused by path."""
    with pytest.raises(DocumentError) as caught:
        story(**changes)

    assert says in str(caught.value)


def test_unknown() -> None:
    """A name that no scenario has is refused with the nearest one."""
    with pytest.raises(DocumentError, match="'gas-brust'; did you mean 'gas-burst'"):
        load_scenario("gas-brust")
