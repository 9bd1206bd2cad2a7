"""`cityeye check`: cities with their gas network, scenarios, rule files."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from city.errors import DocumentError
from cli.check import check


def town(junction: str = "K1030", **more: Any) -> dict[str, Any]:
    """A town with one gas device on a junction."""
    device = {"id": "gd-1", "kind": "gas-detector", "junction": junction}
    depot = {"id": "depot", "district": "tinghu", "domain": "gas", "devices": [device]}
    return {"city": "yancheng", "districts": [{"id": "tinghu"}], "sites": [depot], **more}


def tale(**changes: Any) -> dict[str, Any]:
    """A scenario of one leak in the default city."""
    leak = {"id": "a", "kind": "gas-leak", "target": "gas-market-street", "at_s": 1, "for_s": 2}
    return {"scenario": "mine", "sentence": "It leaks", "for_s": 60, "events": [leak], **changes}


def written(folder: Path, content: dict[str, Any]) -> str:
    """The path of a file of that content."""
    path = folder / "file.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


def problem(folder: Path, content: dict[str, Any]) -> str:
    """What is wrong with a file of that content, without the file's name."""
    path = written(folder, content)
    with pytest.raises(DocumentError) as caught:
        check([path])
    assert 2 == caught.value.exit_status
    return str(caught.value).removeprefix(path)


def test_junction(tmp_path: Path) -> None:
    """An unknown junction is told at its line and path, with near names; a known one is good."""
    says = problem(tmp_path, town("K9999"))

    path = "sites[0].devices[0].junction"
    assert says.startswith(f":11: {path}: no junction 'K9999' in the gas network; near names: K")
    path = written(tmp_path, town())
    assert 1 == check([path]).figures[path]["gas"]


def test_network(tmp_path: Path) -> None:
    """A network that cannot be loaded is told at its key."""
    says = problem(tmp_path, town(gas={"network": "nowhere.json"}))

    assert says.startswith(":13: gas.network: no file 'nowhere.json'")


def test_no_gas(tmp_path: Path) -> None:
    """A city without gas devices needs no network."""
    path = written(tmp_path, town(gas={"network": "nowhere.json"}) | {"sites": []})

    assert "yancheng" == check([path]).figures[path]["city"]


def test_scenario(tmp_path: Path) -> None:
    """Scenarios are checked by name and by path."""
    path = written(tmp_path, tale())
    figures = check(["gas-burst", path]).figures

    assert {"scenario": "gas-burst", "city": "lanting", "events": 1} == figures["gas-burst"]
    assert {"scenario": "mine", "city": "lanting", "events": 1} == figures[path]


def test_scenario_in_other_city(tmp_path: Path) -> None:
    """A scenario is laid over the city that it names, which must exist."""
    assert "events[0].target: no gas site" in problem(tmp_path, tale(city="synthetic:40"))
    assert ": city: no city named 'lantin'; did you mean" in problem(tmp_path, tale(city="lantin"))


def test_neither(tmp_path: Path) -> None:
    """A file that is none of the three is refused by the keys that would tell."""
    assert "is not a city file (key 'city'), scenario (key" in problem(tmp_path, {"x": 1})
