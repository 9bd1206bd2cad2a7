"""Scenarios: named stories that play in any city that has the places they need.

A scenario file has events like a city file's. Played in a city, they take the place of the city's
own, so that what is seen is the story and nothing else; faults drawn at a rate are left out too.
"""

from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec.structs import replace

from city.citycheck import check_events, check_identifier
from city.cityfile import City, Event, Identifier, Span
from city.documents import Document, suggestion
from city.errors import DocumentError


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One scenario file."""

    scenario: Identifier
    sentence: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    city: str = "lanting"
    """The city it was written for."""
    start: datetime | None = None
    """Where simulated time begins; default: where it does in the city."""
    for_s: Span
    """After so long all has been seen."""
    events: Annotated[tuple[Event, ...], msgspec.Meta(min_length=1)]


class Story(msgspec.Struct, frozen=True, eq=False):
    """A scenario and the document it was read from, which errors name."""

    scenario: Scenario
    document: Document


def load_scenario(name_or_path: str) -> Story:
    """The scenario of that name among the shipped ones, or the file at that path.

    Raises:
        DocumentError: There is none, or its file is wrong; the text says where and what is allowed.
    """
    shipped = shipped_scenarios()
    path = shipped.get(name_or_path, Path(name_or_path))
    if path.suffix not in {".yaml", ".yml"} and not path.exists():
        names = suggestion(name_or_path, shipped)
        raise DocumentError(f"no scenario named {name_or_path!r}; {names}; or give a .yaml file")
    return scenario_of(Document.read(path))


def scenario_of(document: Document) -> Story:
    """The scenario in `document`; its events are checked when it is laid over a city."""
    scenario = document.convert(Scenario)
    check_identifier(document, ("scenario",), scenario.scenario)
    if scenario.start is not None and scenario.start.tzinfo is None:
        document.fail(("start",), "has no offset from UTC; write e.g. 2026-06-01T08:00:00+08:00")
    return Story(scenario, document)


def shipped_scenarios() -> dict[str, Path]:
    """The scenarios that come with CityEye, by name."""
    folder = Path(str(files("city") / "cities" / "scenarios"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def with_scenario(city: City, story: Story) -> City:
    """`city` with the scenario's events, and its start if it has one.

    Raises:
        DocumentError: The city lacks what an event aims at, or an event is wrong.
    """
    scenario = story.scenario
    check_events(story.document, scenario.events, city)
    return replace(city, events=scenario.events, rates={}, start=scenario.start or city.start)
