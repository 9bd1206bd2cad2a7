"""`cityeye check`: validate city files, scenarios and rule files before they are used."""

from collections import Counter
from pathlib import Path
from typing import Any

from alerts.rules import rule_set, shipped_packs
from city.cityfile import City, check_city, load_city, shipped_cities
from city.documents import Document, suggestion
from city.errors import DocumentError, InputError
from city.quantities import Domain
from city.scenarios import scenario_of, shipped_scenarios, with_scenario
from cli.summary import Outcome
from sensors.network import solve_network


def check(names: list[str]) -> Outcome:
    """Check every file; what is in the good ones.

    Raises:
        DocumentError: The first problem of each bad file, all of them in one text.
    """
    figures: dict[str, Any] = {}
    documents: dict[str, Document] = {}
    problems = []
    for name in names:
        try:
            documents[name] = _document(name)
        except DocumentError as error:
            problems.append(str(error))
    known = [rule for document in documents.values() for rule in _rule_names(document)]
    for name, document in documents.items():
        try:
            figures[name] = _content(document, known)
        except DocumentError as error:
            problems.append(str(error))
    if problems:
        raise DocumentError("\n         ".join(problems))
    return Outcome(figures, complete=True)


def _document(name: str) -> Document:
    known = shipped_cities() | shipped_scenarios() | shipped_packs()
    path = known.get(name, Path(name))
    if not path.suffix and not path.exists():
        raise DocumentError(
            f"no file, city, scenario or rule pack {name!r}; {suggestion(name, known)}"
        )
    return Document.read(path)


def _rule_names(document: Document) -> list[str]:
    """The rules of a file, which those of another may name; nothing of it is checked yet."""
    content = document.content
    rules = content.get("rules") if isinstance(content, dict) else None
    entries = rules if isinstance(rules, list) else []
    names = (entry.get("id") for entry in entries if isinstance(entry, dict))
    return [name for name in names if isinstance(name, str)]


def _content(document: Document, known: list[str]) -> dict[str, Any]:
    content = document.content
    if isinstance(content, dict) and "scenario" in content:
        return _scenario(document)
    if isinstance(content, dict) and "city" in content:
        city = check_city(document)
        _check_network(document, city)
        domains = Counter(device.kind.domain.value for device in city.devices())
        sites, events = len(city.sites), len(city.events)
        return {"city": city.city, "sites": sites, **domains, "events": events}
    if isinstance(content, dict) and "pack" in content:
        (pack,) = rule_set([document], known=known).packs
        limits = sum(len(rule.limits) for rule in pack.rules)
        return {"pack": pack.id, "rules": len(pack.rules), "limits": limits}
    kinds = "a city file (key 'city'), scenario (key 'scenario') or rule file (key 'pack')"
    return document.fail((), f"is not {kinds}")


def _scenario(document: Document) -> dict[str, Any]:
    """What is in a scenario that plays in the city it names."""
    story = scenario_of(document)
    scenario = story.scenario
    try:
        city = load_city(scenario.city)
    except InputError as error:
        document.fail(("city",), str(error))
    with_scenario(city, story)
    return {"scenario": scenario.scenario, "city": city.city, "events": len(scenario.events)}


def _check_network(document: Document, city: City) -> None:
    """Raise if the gas devices' network cannot be solved or lacks a junction of theirs."""
    if not any(site.domain is Domain.GAS and site.devices for site in city.sites):
        return
    try:
        states = solve_network(city.gas.network)
    except InputError as error:
        document.fail(("gas", "network"), str(error).removeprefix("gas.network: "))
    for number, site in enumerate(city.sites):
        for index, spec in enumerate(site.devices):
            if spec.junction is not None:
                place = document.place(("sites", number, "devices", index, "junction"))
                states.junction(spec.junction, where=place.removesuffix(": "))
