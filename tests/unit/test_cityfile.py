from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from city.cityfile import City, check_city, load_city, shipped_cities
from city.documents import Document
from city.errors import DocumentError


def content() -> dict[str, Any]:
    """A small city with one site of each domain."""
    return {
        "city": "yancheng",
        "position": [120.15, 33.4],
        "districts": [{"id": "tinghu"}, {"id": "yandu"}],
        "sites": [
            site("park", "air", [{"id": "aq-1", "kind": "air-station"}], position=[120.1, 33.4]),
            site("bridge", "water", [{"id": "wq-1", "kind": "water-sonde", "interval_s": 0.5}]),
            site("depot", "gas", [{"id": "gd-1", "kind": "gas-detector", "junction": "J7"}]),
            site("works", "emission", [{"id": "st-1", "kind": "stack-cems"}]),
        ],
        "events": [event("leak", "gas-leak", "depot"), event("slip", "drift", "park/aq-1")],
    }


def site(name: str, domain: str, devices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A site of the small city."""
    plant = {"plant": {"kind": "coal-boiler"}} if domain == "emission" else {}
    return {"id": name, "district": "tinghu", "domain": domain, "devices": devices, **plant, **more}


def event(name: str, kind: str, target: str) -> dict[str, Any]:
    """An event in the small city."""
    return {"id": name, "kind": kind, "target": target, "at_s": 30, "for_s": 60}


def check(raw: dict[str, Any]) -> City:
    """The city of that content."""
    return check_city(Document(yaml.safe_dump(raw, sort_keys=False), "city.yaml"))


def problem(raw: dict[str, Any]) -> str:
    """What is wrong with that content, without file and line."""
    with pytest.raises(DocumentError) as caught:
        check(raw)
    name, line, text = str(caught.value).split(":", 2)
    assert "city.yaml" == name
    assert int(line) >= 1
    return text.strip()


def changed(path: str, value: Any) -> dict[str, Any]:
    """The small city with another value at a path such as `sites.0.id`."""
    raw: Any = content()
    *steps, last = path.split(".")
    node = raw
    for step in steps:
        node = node[int(step)] if isinstance(node, list) else node[step]
    node[int(last) if isinstance(node, list) else last] = value
    assert isinstance(raw, dict)
    return raw


def test_devices() -> None:
    """Every device stands once, in the order of the file, with all that is said about it."""
    devices = list(check(content()).devices())

    assert [
        "yancheng/tinghu/air/park/aq-1",
        "yancheng/tinghu/water/bridge/wq-1",
        "yancheng/tinghu/gas/depot/gd-1",
        "yancheng/tinghu/emission/works/st-1",
    ] == [str(device.address) for device in devices]
    assert [5_000, 500, 2_000, 5_000] == [device.interval_ms for device in devices]


def test_inherited() -> None:
    """A device without a position stands where its site stands, and that where the city does."""
    city = check(changed("sites.0.devices.0.position", [120.2, 33.5]))
    own, *others = [device.position for device in city.devices()]

    assert ((120.2, 33.5), city.position) == (own, others[0])
    assert (120.1, 33.4) == next(check(content()).devices()).position


def test_plant() -> None:
    """A device at an emission site knows its plant; others have none."""
    plants = [device.plant for device in check(content()).devices()]

    assert [None, None, None] == plants[:3]
    assert plants[3]
    assert "coal-boiler" == plants[3].id


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("city", "Yancheng", "city: identifier 'Yancheng' is not allowed; use small letters"),
        ("sites.0.id", "-park", "sites[0].id: identifier '-park' is not allowed"),
        ("sites.0.id", "", "sites[0].id: expected `str` of length >= 1"),
        ("sites.0.id", "p" * 65, "sites[0].id: expected `str` of length <= 64"),
        ("sites.0.devices.0.id", "AQ", "sites[0].devices[0].id: identifier 'AQ' is not allowed"),
        ("districts.1.id", "tinghu", "districts[1].id: identifier 'tinghu' stands twice"),
        ("sites.1.id", "park", "sites[1].id: identifier 'park' stands twice"),
        ("events.1.id", "leak", "events[1].id: identifier 'leak' stands twice"),
        (
            "sites.0.devices",
            [{"id": "a", "kind": "air-gas"}, {"id": "a", "kind": "air-gas"}],
            "sites[0].devices[1].id: device 'a' stands twice at site 'park'",
        ),
        (
            "sites.0.district",
            "tingu",
            "sites[0].district: unknown district 'tingu'; did you mean 'tinghu'?",
        ),
        ("sites.0.domain", "soil", "sites[0].domain: invalid enum value 'soil'"),
        (
            "sites.0.devices.0.kind",
            "air-sation",
            "sites[0].devices[0].kind: unknown device kind 'air-sation' for domain 'air'; did you",
        ),
        (
            "sites.0.devices.0.kind",
            "water-sonde",
            "sites[0].devices[0].kind: unknown device kind 'water-sonde' for domain 'air'",
        ),
        (
            "sites.3.plant.kind",
            "coal-boyler",
            "sites[3].plant.kind: unknown plant kind 'coal-boyler'; did you mean 'coal-boiler'?",
        ),
        ("sites.0.plant", {"kind": "brewery"}, "sites[0]: a site of domain 'air' has a plant"),
        ("sites.3.plant", None, "sites[3]: a site of domain 'emission' needs a plant"),
        (
            "sites.0.devices.0.junction",
            "J1",
            "sites[0].devices[0].junction: only gas devices sit on a junction",
        ),
        ("events.0.at_s", -1, "events[0].at_s: expected `float` >= 0.0 (found -1)"),
        ("events.0.for_s", 0, "events[0].for_s: expected `float` > 0.0 (found 0)"),
        ("events.0.strength", 1, "events[0].strength: unknown key 'strength'; allowed: at_s"),
        (
            "sites.3.plant.stack",
            {"height_m": -5},
            "sites[3].plant.stack.height_m: expected `float`",
        ),
        ("river", {"reaches": []}, "river.reaches: expected `array` of length >= 1"),
        ("sites.0.position", [181, 0], "sites[0].position[0]: expected `float` <= 180.0"),
        ("sites.0.position", [0, float("nan")], "sites[0].position[1]: expected `float` >= -90.0"),
        ("sites.0.devices.0.interval_s", 0.01, "sites[0].devices[0].interval_s: expected `float`"),
        ("seed", -1, "seed: expected `int` >= 0 (found -1)"),
        ("seed", 2**63, "seed: expected `int`"),
        ("seed", True, "seed: expected `int`, got `bool` (found True)"),
        ("start", datetime(2026, 6, 1, 8), "start: has no offset from UTC; write e.g. 2026-"),  # noqa: DTZ001 - the naive time is the subject
        ("start", "tomorrow", "start: invalid RFC3339 encoded datetime (found 'tomorrow')"),
        ("timezone", "Asia/Shangai", "timezone: unknown time zone 'Asia/Shangai'; use an IANA"),
        ("timezone", "Asia", "timezone: unknown time zone 'Asia'"),
        ("timezone", "../etc/passwd", "timezone: unknown time zone '../etc/passwd'"),
        ("sites.0.river", 3, "sites[0].river: unknown key 'river'; did you mean 'river_km'?"),
        ("gas", {"netwrk": "x"}, "gas.netwrk: unknown key 'netwrk'; did you mean 'network'?"),
    ],
)
def test_wrong(path: str, value: object, says: str) -> None:
    """Each thing that can be wrong is named by its path, with what is allowed."""
    assert problem(changed(path, value)).startswith(says)


def test_start_with_offset() -> None:
    """A start with an offset from UTC is an instant."""
    text = yaml.safe_dump(content()) + "start: 2026-06-01T08:00:00+08:00\n"
    city = check_city(Document(text, "city.yaml"))

    assert datetime(2026, 6, 1, 0, 0, tzinfo=UTC) == city.start


def test_largest_seed() -> None:
    """Every seed of 63 bits is allowed."""
    assert 2**63 - 1 == check(changed("seed", 2**63 - 1)).seed


def test_generated() -> None:
    """A city can be generated by its name."""
    city = load_city("synthetic:70")

    assert ("synthetic", 70) == (city.city, sum(1 for _ in city.devices()))


def test_unknown_city() -> None:
    """A name that is no shipped city is refused, with the names that are."""
    with pytest.raises(DocumentError, match="no city named 'atlantis'"):
        load_city("atlantis")


def test_file(tmp_path: Path) -> None:
    """A city can be given by the path of its file."""
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content()), encoding="utf-8")

    assert "yancheng" == load_city(str(file)).city


@pytest.mark.parametrize("name", shipped_cities())
def test_shipped(name: str) -> None:
    """Every city that is shipped is right, and bears the name of its file."""
    assert name == load_city(name).city


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text("ab-1", max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=3), inner),
    max_leaves=4,
)


@given(
    st.sampled_from(
        ["city", "sites", "sites.0", "sites.2.devices.0", "sites.3.plant", "districts.0.id",
         "events.0", "events.0.at_s", "gas", "alarms", "seed", "timezone", "position"]
    ),
    junk,
)  # fmt: skip
def test_any_value(path: str, value: object) -> None:
    """Whatever stands at a path, the city is right or a DocumentError says what is not."""
    try:
        city = check(changed(path, value))
    except DocumentError as error:
        assert str(error).startswith("city.yaml")  # noqa: PT017 - both outcomes are right
    else:
        assert list(city.devices())


def test_network_beside(tmp_path: Path) -> None:
    """A network file that is not in the working directory is looked for beside the city file."""
    (tmp_path / "net.json").write_text("{}")
    path = tmp_path / "city.yaml"
    for name, expected in (("net.json", str(tmp_path / "net.json")), ("no.json", "no.json")):
        path.write_text(yaml.safe_dump(content() | {"gas": {"network": name}}))

        assert expected == load_city(str(path)).gas.network
