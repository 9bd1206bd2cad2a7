"""What must hold of a city file beyond its types."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from city.cityfile import City, check_city
from city.documents import Document
from city.errors import DocumentError
from city.events import EVENT_KINDS, Layer
from city.kinds import DEVICE_KINDS
from sensors.events import touched_columns


def content(*events: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A town with an air station, two river stations, a gas site and a plant with two stacks."""
    return {
        "city": "yancheng",
        "position": [120.15, 33.4],
        "extent_km": 20,
        "districts": [{"id": "tinghu"}],
        "sites": [
            site("park", "air", {"aq-1": "air-station"}, position=[120.1, 33.4]),
            site("bridge", "water", {"wq-1": "water-sonde", "wq-2": "water-sonde"}, river_km=3),
            site("depot", "gas", {"gd-1": "gas-detector"}),
            site("works", "emission", {"st-1": "stack-cems", "st-2": "stack-cems"}, plant=works()),
        ],
        "river": {"reaches": [{"to_km": 4}, {"to_km": 10}]},
        "events": list(events),
        **more,
    }


def works(**more: Any) -> dict[str, Any]:
    """The plant of the town."""
    return {"kind": "coal-boiler", "stack": {"height_m": 60}, "outfall": {"river_km": 5}, **more}


def site(name: str, domain: str, devices: dict[str, str], **more: Any) -> dict[str, Any]:
    """A site of the town."""
    specs = [{"id": device, "kind": kind} for device, kind in devices.items()]
    return {"id": name, "district": "tinghu", "domain": domain, "devices": specs, **more}


def event(kind: str, target: str | None, **more: Any) -> dict[str, Any]:
    """An event from minute 1 to minute 2, named after its kind unless told otherwise."""
    aimed = {} if target is None else {"target": target}
    return {"id": kind, "kind": kind, "at_s": 60, "for_s": 60, **aimed, **more}


def check(raw: dict[str, Any]) -> City:
    """The city of that content."""
    return check_city(Document(yaml.safe_dump(raw, sort_keys=False), "city.yaml"))


def problem(raw: dict[str, Any]) -> str:
    """What is wrong with that content, without file and line."""
    with pytest.raises(DocumentError) as caught:
        check(raw)
    return str(caught.value).split(":", 2)[2].strip()


def test_right() -> None:
    """The town itself is right."""
    assert 10.0 == check(content()).river.length_km


@pytest.mark.parametrize(
    ("index", "changes", "says"),
    [
        (3, {"plant": works(outfall={"river_km": 10.5})},
         "sites[3].plant.outfall.river_km: km 10.5 lies beyond the river's end; the river ends at"),
        (1, {"river_km": 11}, "sites[1].river_km: km 11 lies beyond the river's end"),
        (0, {"river_km": 1}, "sites[0].river_km: only water sites lie on the river"),
        (3, {"plant": works(stack={"position": [120.15, 33.6]})},
         "sites[3].plant.stack.position: lies 22.3 km off the city's position; allowed: 20 km"),
        (0, {"position": [120.4, 33.4]}, "sites[0].position: lies 23.2 km off the city's position"),
        (0, {"devices": [{"id": "a", "kind": "air-gas", "position": [0, 0]}]},
         "sites[0].devices[0].position: lies"),
    ],
)  # fmt: skip
def test_place(index: int, changes: dict[str, Any], says: str) -> None:
    """What lies off the map or beyond the river is refused, with how far it is and may be."""
    raw = content()
    raw["sites"][index] |= changes

    assert problem(raw).startswith(says)


def test_date_line() -> None:
    """A city may lie across the date line."""
    raw = content(position=[179.99, 33.4])
    raw["sites"][0]["position"] = [-179.99, 33.4]

    assert check(raw).sites[0].position


def test_reaches_in_order() -> None:
    """Each reach ends below the one before."""
    raw = content(river={"reaches": [{"to_km": 20}, {"to_km": 20}]})

    assert problem(raw).startswith("river.reaches[1].to_km: a reach ends at km 20, not below")


@pytest.mark.parametrize("kind", ["gas-leak", "constant", "gibberish"])
def test_rates(kind: str) -> None:
    """Only instrument faults may be drawn at a rate."""
    says = f"rates.{kind}: '{kind}' is no instrument fault; "

    assert problem(content(rates={kind: 1.0})).startswith(says)
    assert {"drift": 2.0} == check(content(rates={"drift": 2})).rates


@pytest.mark.parametrize("rate", [-1.0, 10_001.0, float("inf"), float("nan")])
def test_rate_bounds(rate: float) -> None:
    """A rate beyond 0 to 10000 per device and year is refused with what was found."""
    says = f"rates.drift: {rate:g} is out of bounds; allowed: 0 to 10000 per device and year"

    assert says == problem(content(rates={"drift": rate}))


@pytest.mark.parametrize("key", ["at_s", "for_s"])
@pytest.mark.parametrize("value", [-1.0, 3.3e9, float("inf"), float("nan")])
def test_time_bounds(key: str, value: float) -> None:
    """An event begins within a century and lasts no longer than one."""
    says = problem(content(event("smog", None, **{key: value})))

    assert says.startswith(f"events[0].{key}: expected `float` ")
    assert says.endswith(f"(found {value!r})")


@pytest.mark.parametrize(
    ("kind", "device", "says"),
    [
        ("air-dilution", "outfall", "plant/device does not measure stack_o2, stack_pm"),
        ("o2-fake", "outfall", "plant/device does not measure stack_o2: nothing"),
        ("sample-swap", "stack-cems", "plant/device does not measure effluent_cod"),
        ("cap", "plant-meter", "plant/device does not measure stack_pm"),
    ],
)
def test_touches_nothing(kind: str, device: str, says: str) -> None:
    """A fraud that can change nothing where it is aimed is refused by what is not measured."""
    raw = content(event(kind, "plant/device"))
    raw["sites"].append(site("plant", "emission", {"device": device}, plant=works()))

    assert problem(raw).startswith(f"events[0].target: {says}")


def test_touches_other_quantity() -> None:
    """A fraud of a quantity that it never changes is refused; a corrected one is its raw one."""
    says = "events[0].quantity: cap does not change 'flue_flow'; allowed: stack_nox, stack_pm"

    assert problem(content(event("cap", "works", quantity="flue_flow"))).startswith(says)
    assert 1 == len(check(content(event("cap", "works", quantity="stack_so2_corrected"))).events)


def test_position_does_not_drift() -> None:
    """A fault of a measurement cannot be told to change a valve's position; a defect can."""
    raw = content(event("drift", "depot/v-1", quantity="valve_position"))
    raw["sites"][2]["devices"].append({"id": "v-1", "kind": "gas-valve"})
    says = "events[0].quantity: drift does not change 'valve_position'; allowed: gas_pressure"

    assert says == problem(raw)
    raw["events"][0]["kind"] = "fault"
    assert 1 == len(check(raw).events)


@pytest.mark.parametrize("device", ["stack-cems", "outfall", "plant-meter"])
@pytest.mark.parametrize(
    "kind", [kind.id for kind in EVENT_KINDS.values() if kind.layer is Layer.FRAUD]
)
def test_touches_as_simulated(kind: str, device: str) -> None:
    """What a fraud is said to change is what the simulator lets it change."""
    quantities = DEVICE_KINDS[device].quantities
    columns = touched_columns(kind, quantities, None)

    assert set(EVENT_KINDS[kind].touches) & set(quantities) == {quantities[i] for i in columns}


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (event("gas-leek", "depot"),
         "events[0].kind: unknown event kind 'gas-leek'; did you mean 'gas-leak'?"),
        (event("gas-leak", "depo"),
         "events[0].target: no gas site or site/device 'depo'; did you mean 'depot'?"),
        (event("gas-leak", "park"), "events[0].target: no gas site or site/device 'park'"),
        (event("gas-leak", "depot/aq-1"), "events[0].target: no gas site or site/device"),
        (event("drift", "nowhere"), "events[0].target: no site or site/device 'nowhere'"),
        (event("gas-leak", None), "events[0]: no gas site or site/device ''"),
        (event("smog", "park"),
         "events[0].target: smog happens to the whole city; leave the target out, or write 'yanch"),
        (event("cap", "park/aq-1"), "events[0].target: no emission site or site/device 'park/aq-1'"),
        (event("drift", "park/aq-1", quantity="pm52"),
         "events[0].quantity: park/aq-1 does not measure 'pm52'; did you mean 'pm25'?"),
        (event("drift", "park", quantity="ph"), "events[0].quantity: park does not measure 'ph'"),
        (event("silence", "park", quantity="pm25"),
         "events[0].quantity: an event of kind 'silence' takes no quantity"),
        (event("gas-leak", "depot", params={"hole": 3}),
         "events[0].params.hole: gas-leak has no parameter 'hole'; did you mean 'hole_mm'?"),
        (event("stuck", "park", params={"k": 3}),
         "events[0].params.k: stuck has no parameter 'k'; it has none"),
        (event("gas-leak", "depot", params={"hole_mm": 50}),
         "events[0].params.hole_mm: 50 mm is out of bounds; allowed: 1 to 49 mm"),
        (event("smog", None, params={"strength": 2}),
         "events[0].params.strength: 2 is out of bounds; allowed: 0.05 to 1"),
        (event("smog", None, params={"strength": float("nan")}),
         "events[0].params.strength: nan is out of bounds"),
    ],
)  # fmt: skip
def test_event(what: dict[str, Any], says: str) -> None:
    """An event that cannot happen is refused by what is wrong with it, with what is allowed."""
    assert problem(content(what)).startswith(says)


@pytest.mark.parametrize("target", [None, "yancheng"])
def test_city_wide(target: str | None) -> None:
    """An event of the whole city names it or nothing."""
    assert (target or "") == check(content(event("rain", target))).events[0].target


def test_parameter() -> None:
    """A parameter that the file does not give has its kind's default."""
    first, second = check(
        content(
            event("spill", "bridge", id="small", params={"mass_kg": 7}, at_s=500),
            event("spill", "bridge", id="usual"),
        )
    ).events

    assert (7.0, 400.0) == (first.param("mass_kg"), second.param("mass_kg"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (event("drift", "park/aq-1", quantity="co"), event("stuck", "park/aq-1", quantity="co")),
        (event("drift", "park/aq-1"), event("stuck", "park/aq-1", quantity="co")),
        (event("drift", "park"), event("stuck", "park/aq-1")),
        (event("smog", None), event("smog", "yancheng", id="again")),
        (event("cap", "works/st-1"), event("o2-fake", "works/st-1")),
        (event("gas-leak", "depot"), event("gas-burst", "depot")),
        (event("smog", None), event("wind", None)),
        (event("gas-leak", "depot"), event("gas-leak", "depot/gd-1", id="again", at_s=119)),
    ],
)
def test_contradiction(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two events that want different things of one target at one time contradict each other."""
    says = f"events[1]: contradicts event '{one['id']}' ({one['kind']})"

    assert problem(content(one, other)).startswith(says)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (event("drift", "park", quantity="co"), event("stuck", "park", quantity="o3")),
        (event("drift", "park", quantity="co"), event("noise", "park", quantity="co")),
        (event("drift", "bridge/wq-1"), event("stuck", "bridge/wq-2")),
        (event("drift", "park"), event("stuck", "park", at_s=120)),
        (event("constant", "works", quantity="stack_so2"), event("o2-fake", "works")),
        (event("smog", None), event("rain", None)),
        (event("cap", "works"), event("inspection", "works")),
    ],
)
def test_no_contradiction(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Events of other slots, quantities, devices or times go together."""
    assert 2 == len(check(content(one, other)).events)


@given(st.floats(0, 200), st.floats(1, 100))
def test_contradiction_in_time(at_s: float, for_s: float) -> None:
    """Two events contradict each other exactly when their times meet, whichever comes first."""
    other = event("stuck", "park", at_s=at_s, for_s=for_s)
    meet = at_s < 120 and at_s + for_s > 60
    for raw in (content(event("drift", "park"), other), content(other, event("drift", "park"))):
        if meet:
            assert "contradicts" in problem(raw)
        else:
            assert 2 == len(check(raw).events)


def actions(**given: Any) -> dict[str, Any]:
    """The town with these actions of alarms."""
    return content(alarms={"actions": given})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"mode": "armed"}, "alarms.actions.mode: is armed, but no rule is; name in `rules` those"),
        ({"mode": True}, "alarms.actions.mode: 'on' is no mode; allowed: off, dry-run, armed"),
        ({"mode": "live"}, "alarms.actions.mode: invalid enum value 'live'"),
        ({"mode": "armed", "rules": ["a", "b", "a"]}, "alarms.actions.rules[2]: rule 'a' stands twice"),
        ({"rules": ["Gas Burst"]}, "alarms.actions.rules[0]: identifier 'Gas Burst' is not allowed"),
        ({"most_per_hour": 0}, "alarms.actions.most_per_hour: expected `int` >= 1"),
        ({"arm": ["a"]}, "alarms.actions.arm: unknown key 'arm'"),
    ],
)  # fmt: skip
def test_wrong_actions(given: dict[str, Any], says: str) -> None:
    """What alarms may do is refused where it is not said clearly."""
    assert says in problem(actions(**given))


@pytest.mark.parametrize(
    ("given", "off", "armed"),
    [
        ({}, False, False),
        ({"mode": "off"}, True, False),
        ({"mode": False}, True, False),
        ({"rules": ["gas-burst"]}, False, False),
        ({"mode": "armed", "rules": ["gas-burst"]}, False, True),
    ],
)
def test_actions(given: dict[str, Any], off: bool, armed: bool) -> None:  # noqa: FBT001 - expected values
    """Only rules that the city arms by name act; a bare `off` is off, though YAML reads false."""
    allowed = check(actions(**given)).alarms.actions

    assert (off, armed, False) == (allowed.off, allowed.armed("gas-burst"), allowed.armed("other"))


def test_deafness_is_not_drawn() -> None:
    """Deafness takes no quantity, and cannot be drawn at a rate: no reading shows it."""
    says = "events[0].quantity: an event of kind 'deaf' takes no quantity"

    assert says in problem(content(event("deaf", "park/aq-1", quantity="pm25")))
    assert problem(content(rates={"deaf": 1.0})).startswith("rates.deaf: 'deaf' is no instrument")
    assert 2 == len(check(content(event("deaf", "works"), event("silence", "works"))).events)
