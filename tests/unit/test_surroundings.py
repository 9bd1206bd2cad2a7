"""What the alarm part knows of places and connections."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cli.surroundings
from alerts.surroundings import Section
from city.cityfile import IDENTIFIER, Address, City, load_city
from cli.surroundings import ID_MAX, CitySurroundings, section_id
from sensors.network import NetworkStates, solve_network

NAMES = st.from_regex(r"[a-z0-9]{1,40}/[a-z0-9]{1,40}", fullmatch=True)


@pytest.fixture(scope="module")
def town() -> City:
    """The default city."""
    return load_city("lanting")


@pytest.fixture(scope="module")
def around(town: City) -> CitySurroundings:
    """What surrounds its devices."""
    return CitySurroundings(town)


def at(town: City, name: str) -> Address:
    """The address of `site/device`."""
    return next(device.address for device in town.devices() if device.name == name)


def found(around: CitySurroundings, address: Address) -> Section:
    """The section of a gas device."""
    section = around.section(address)
    assert section is not None
    return section


def test_own_valve(town: City, around: CitySurroundings) -> None:
    """A valve that alone feeds what lies behind it is its section's only one."""
    valve = at(town, "gas-foundry-road/valve-1")
    section = found(around, valve)

    assert ("gas-foundry-road-valve-1", (valve,), 24) == (
        section.id, section.valves, section.customers,
    )  # fmt: skip
    site = {d.address for d in town.devices() if d.site.id == "gas-foundry-road"}
    assert site == section.members


def test_same_section(town: City, around: CitySurroundings) -> None:
    """Devices that the same valves cut off lie in one and the same section."""
    depot = found(around, at(town, "gas-depot-square/node-1"))
    harbour = found(around, at(town, "gas-harbour-row/node-1"))

    assert depot == harbour
    assert (at(town, "gas-temple-lane/valve-1"),) == depot.valves
    assert {
        at(town, "gas-harbour-row/node-1"),
        at(town, "gas-depot-square/node-1"),
    } <= depot.members


def test_not_cut_off(town: City, around: CitySurroundings) -> None:
    """What no valve can cut off has a section of its site without valves, which nobody loses."""
    section = found(around, at(town, "gas-foundry-road/node-1"))

    assert ("feed-gas-foundry-road", (), 0) == (section.id, section.valves, section.customers)
    assert {"gas-foundry-road"} == {address.site for address in section.members}


def test_no_section(town: City, around: CitySurroundings) -> None:
    """Only the city's gas devices lie in a section."""
    stranger = Address("lanting", "old-town", "gas", "nowhere", "valve-1")

    assert around.section(at(town, "air-bell-gate/station-1")) is None
    assert around.section(stranger) is None
    assert (False, None) == (around.device(stranger), around.position(stranger))


def test_upstream(town: City, around: CitySurroundings) -> None:
    """Stations and outfalls that the river passed before a station, the next first."""
    weir = around.upstream(at(town, "river-mill-weir/sonde-1"))

    assert ("plant-east-power", "plant-north-heat", "river-old-bridge", "river-spring-ford") == weir
    assert () == around.upstream(at(town, "river-spring-ford/station-1"))
    assert () == around.upstream(at(town, "gas-harbour-row/node-1"))


def test_position(town: City, around: CitySurroundings) -> None:
    """A gas device stands at its junction, every other one where the file says."""
    gas = around.position(at(town, "gas-harbour-row/node-1"))

    assert gas is not None
    assert gas != town.position
    assert (119.962, 31.828) == around.position(at(town, "air-bell-gate/micro-1"))


def test_zone(around: CitySurroundings) -> None:
    """Calendars are those of the city."""
    assert "Asia/Shanghai" == str(around.zone)


async def test_no_network(town: City, monkeypatch: pytest.MonkeyPatch) -> None:
    """A city without gas costs no solution of a network."""

    def solve(name: str) -> NetworkStates:
        raise AssertionError(name)

    monkeypatch.setattr(cli.surroundings, "solve_network", solve)
    dry = tuple(site for site in town.sites if site.domain != "gas")
    around = CitySurroundings(msgspec.structs.replace(town, sites=dry))
    await around.prepare()

    assert around.device(at(town, "air-bell-gate/station-1"))


async def test_prepared(town: City, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was prepared is not looked for again."""
    solved: list[str] = []

    def solve(name: str) -> NetworkStates:
        solved.append(name)
        return solve_network(name)

    monkeypatch.setattr(cli.surroundings, "solve_network", solve)
    around = CitySurroundings(town)
    await around.prepare()
    found(around, at(town, "gas-foundry-road/valve-1"))

    assert [town.gas.network] == solved


@given(st.lists(NAMES, min_size=1, max_size=5, unique=True))
def test_identifier(valves: list[str]) -> None:
    """However many valves a section has, its name may stand in a topic and knows no order."""
    name = section_id(valves)

    assert IDENTIFIER.fullmatch(name)
    assert len(name) <= ID_MAX
    assert name == section_id(valves[::-1])


def test_long_names_differ() -> None:
    """Sections whose readable parts are the same have names of their own."""
    long = [f"a-site-with-a-long-name-{number}/valve-1" for number in range(5)]

    assert section_id(long) != section_id(long[:4])
