import msgspec
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import AlarmEvent, Announcement, Birth, RepairOrder
from city.cityfile import Address
from ingest.ledger import Ledger
from ingest.points import alarm_point, figures_point, ledger_point, order_point, station_point
from ingest.store import Point, PointKey

T0 = 1_795_413_600_000
ADDRESS = Address("lanting", "east", "gas", "main", "node-1")
EVENT = AlarmEvent(
    rule="pressure",
    event="raised",
    state="unacknowledged",
    severity="high",
    level="HH",
    quantity="gas_pressure",
    value=111.0,
    limit=110.0,
    unit="kPa",
    ts=T0,
    raised=T0 - 1000,
    standard="ST 1",
    clause="4.2",
)
ANNOUNCEMENTS = st.builds(Announcement, st.just(ADDRESS), st.from_type(AlarmEvent))
LEDGERS = st.builds(Ledger, received=st.integers(0, 2**53), pending=st.integers(0, 2**53))


def field_names(point: Point) -> list[str]:
    """The names of all fields of a point."""
    return [*point.values, *point.counts, *point.texts]


def test_an_alarm_event_as_a_point() -> None:
    """An alarm event is a row of `alarms`: device, rule and event as tags, the rest as fields."""
    tags = {
        "city": "lanting",
        "device": "node-1",
        "district": "east",
        "domain": "gas",
        "event": "raised",
        "rule": "pressure",
        "site": "main",
    }
    texts = {
        "state": "unacknowledged",
        "severity": "high",
        "level": "HH",
        "quantity": "gas_pressure",
        "unit": "kPa",
        "supervision": "site",
        "standard": "ST 1",
        "clause": "4.2",
    }
    counts = {"raised": T0 - 1000, "number": 0, "active": 1, "stale": 0, "first_out": 0}
    key = PointKey("alarms", tuple(tags.items()))
    expected = Point(key, T0, {"value": 111.0, "limit": 110.0}, counts, texts)

    assert expected == alarm_point(Announcement(ADDRESS, EVENT))


def test_an_empty_text_is_left_out() -> None:
    """An alarm of a rule without a clause has no such field."""
    event = msgspec.structs.replace(EVENT, clause="")

    assert "clause" not in alarm_point(Announcement(ADDRESS, event)).texts


def test_the_ledger_as_a_point() -> None:
    """The ledger is a row of `cityeye` with one integer per fate."""
    ledger = Ledger(received=15, written=1, duplicate=2, quarantined=3, refused=4, pending=5)
    counts = {
        "received": 15,
        "written": 1,
        "duplicate": 2,
        "quarantined": 3,
        "refused": 4,
        "pending": 5,
    }
    key = PointKey("cityeye", (("part", "ledger"), ("worker", "all")))
    expected = Point(key, T0, {}, counts, {})

    assert expected == ledger_point(ledger, ts=T0)


@given(st.one_of(ANNOUNCEMENTS.map(alarm_point), LEDGERS.map(lambda x: ledger_point(x, ts=T0))))
def test_every_point_keeps_the_rules_of_a_store(point: Point) -> None:
    """Tags are sorted by name, and a name stands in one kind of field only."""
    names = field_names(point)

    assert sorted(point.key.tags) == list(point.key.tags)
    assert len(set(names)) == len(names) > 0


def test_figures_as_a_point() -> None:
    """A part's figures are fields of `cityeye`, whole numbers as such."""
    point = figures_point("alarms", {"standing": 3, "flood_share": 0.5}, ts=T0)

    assert ({"standing": 3}, {"flood_share": 0.5}) == (point.counts, point.values)


def test_workers_do_not_overwrite_one_another() -> None:
    """Figures of the same instant by several workers are of different series."""
    workers = {figures_point("ingest", {"x": 1}, ts=T0, worker=name).key for name in ("a", "b.c")}

    assert 2 == len(workers)


def test_a_station_as_a_point() -> None:
    """A birth document is a row of `stations`: kind and plant as tags, the place as fields."""
    birth = Birth(
        kind="stack-cems", model="M", position=(119.9, 31.8), interval_s=5.0, quantities={},
        name="North", name_zh="北", plant="coal-boiler",
    )  # fmt: skip
    tags = (
        ("city", "lanting"), ("device", "node-1"), ("district", "east"), ("domain", "gas"),
        ("kind", "stack-cems"), ("plant", "coal-boiler"), ("site", "main"),
    )  # fmt: skip
    values = {"lon": 119.9, "lat": 31.8, "interval_s": 5.0}
    texts = {"model": "M", "name": "North", "name_zh": "北"}

    assert Point(PointKey("stations", tags), T0, values, {}, texts) == station_point(
        ADDRESS, birth, ts=T0
    )


def test_a_kind_that_is_no_name_is_no_tag() -> None:
    """What a device calls itself cannot make a line that the store refuses."""
    birth = Birth(kind="a\nb", model="", position=(0.0, 0.0), interval_s=5.0, quantities={})

    assert "kind" not in dict(station_point(ADDRESS, birth, ts=T0).key.tags)


def test_an_order_as_a_point() -> None:
    """A repair order is a row of `orders` at the instant of its change."""
    order = RepairOrder(
        id="R-1", state="open", ts=T0, opened=T0, priority="high", rule="pressure",
        alarm="main/node-1/pressure", title="Mend it", customers=7, position=(1.0, 2.0),
    )  # fmt: skip
    tags = (
        ("city", "lanting"), ("device", "node-1"), ("order", "R-1"), ("rule", "pressure"),
        ("site", "main"),
    )  # fmt: skip
    texts = {"state": "open", "priority": "high", "title": "Mend it"}
    expected = Point(
        PointKey("orders", tags),
        T0,
        {"lon": 1.0, "lat": 2.0},
        {"opened": T0, "customers": 7},
        texts,
    )

    assert expected == order_point(order, city="lanting")
