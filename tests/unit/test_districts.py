"""Which districts a process owns, and what follows from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import OperatorRequest
from city.cityfile import load_city
from city.errors import SettingError
from city.settings import Settings, resolve
from cli.districts import Ownership
from ingest.service import subscriptions

CITY = load_city("lanting")
NAMES = tuple(district.id for district in CITY.districts)
SITES = {site.id: site.district for site in CITY.sites}


def owner(*districts: str) -> Ownership:
    """The owner of these districts of the shipped city."""
    return Ownership.of(Settings(districts=districts), CITY)


def asked(*targets: str) -> OperatorRequest:
    """A request to acknowledge."""
    return OperatorRequest(id="1", action="acknowledge", by="lin", targets=targets)


def test_everything_by_default() -> None:
    """Without a word a process owns every district, of one city or of all."""
    assert Ownership() == Ownership.of(Settings(), CITY) == Ownership.of(Settings(), None)
    assert ("all", "cityeye-ingest-lanting") == (
        Ownership().worker,
        Ownership().client_id("ingest", "lanting"),
    )


@pytest.mark.parametrize("given", ["millside,old-town", " old-town , millside,", "old-town,millside,millside"])  # fmt: skip
def test_one_name_for_the_same_districts(given: str) -> None:
    """However they are written, the same districts are the same worker and the same session."""
    found = Ownership.of(resolve({"districts": given}, {}), CITY)

    assert ("old-town.millside", "cityeye-alarms-lanting.old-town.millside") == (
        found.worker,
        found.client_id("alarms", "lanting"),
    )


def test_unknown() -> None:
    """A district that the city lacks is named, with those that it has."""
    with pytest.raises(SettingError, match="no district 'milside'; did you mean 'millside'"):
        owner("milside")


def test_of_no_city() -> None:
    """Districts without a city are refused."""
    with pytest.raises(SettingError, match="--every-city"):
        Ownership.of(Settings(districts=("millside",)), None)


def test_subscriptions() -> None:
    """An owner listens to the clock and to three channels of each of its districts."""
    found = [topic for topic, _ in subscriptions("lanting", ("old-town", "millside"))]

    assert 7 == len(found)
    assert "cityeye/v1/lanting/millside/+/+/+/telemetry" in found
    assert not [topic for topic in found if topic.startswith("cityeye/v1/lanting/+")]


@given(st.sampled_from([*sorted(SITES), "nowhere"]))
def test_one_answers(site: str) -> None:
    """Of owners that divide a city exactly one answers for a site, known or not."""
    answers = [name for name in NAMES if owner(name).part_of(asked(f"{site}/d/r")) is not None]

    assert [SITES.get(site, NAMES[0])] == answers


def test_each_does_its_part() -> None:
    """A request for sites of several owners is carried out by each for its own."""
    targets = [f"{next(s for s, d in SITES.items() if d == name)}/d/r" for name in NAMES]
    parts = [owner(name).part_of(asked(*targets)) for name in NAMES]

    assert [(target,) for target in targets] == [part.targets for part in parts if part]


def test_a_pattern_is_for_all_whom_it_may_concern() -> None:
    """A star is everybody's; nothing at all is refused by one alone."""
    assert all(owner(name).part_of(asked("*/*/*")) for name in NAMES)
    assert [True, False, False] == [owner(name).part_of(asked()) is not None for name in NAMES]
