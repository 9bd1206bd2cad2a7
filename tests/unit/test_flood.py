"""Floods: causes, the first of each, chatter that is shelved, and the figures."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.book import AlarmBook
from alerts.figures import AlarmFigures, Tally
from alerts.gates import Change, Watch
from alerts.rules import Leaf, Limit, Rule
from alerts.shelving import Chatter
from alerts.signals import Signal
from alerts.surroundings import Nowhere, Section
from alerts.transitions import Transition
from broker.messages import AlarmEvent, Announcement, OperatorRequest
from city.cityfile import Address

SECOND = 1_000
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
START = 1_780_272_000_000


class Gridded(Nowhere):
    """Every gas device lies in section 7."""

    def section(self, address: Address) -> Section | None:  # noqa: ARG002 - of the protocol
        """Always the same."""
        return Section("section-7", valves=(), customers=5, members=frozenset())


def a_rule(name: str = "high") -> Rule:
    """A rule on the pressure."""
    limits = (
        Limit(level="H", limit=10.0, deadband=1.0, severity="low", standard="", clause="",
              grade="A"),
    )  # fmt: skip
    leaf = Leaf(
        id=name, signal=Signal(quantity="pressure"), unit="kPa", limits=limits, watch=Watch(limits)
    )
    return Rule(id=name, pack="test", kind="limit", condition=leaf, limits=limits, unit="kPa")


RULE = a_rule()


def place(site: str, device: str = "one", domain: str = "air") -> Address:
    """A device in the east."""
    return Address("lanting", "east", domain, site, device)


def happen(book: AlarmBook, event: str, address: Address, ts: int) -> list[Announcement]:
    """The condition comes or goes."""
    change = Change(event, "H", ts)  # type: ignore[arg-type]
    return book.change(Transition(RULE, address, change, ts, "pressure", 12.0, 10.0, "kPa"))


def raised(book: AlarmBook, address: Address, ts: int) -> AlarmEvent:
    """The event of a raise."""
    return happen(book, "raised", address, ts)[0].event


def chatter(book: AlarmBook, address: Address, ts: int) -> list[Announcement]:
    """Three raises within a minute, and what the book says."""
    return [
        said
        for offset in range(0, 30 * SECOND, 10 * SECOND)
        for event in ("raised", "cleared")
        for said in happen(book, event, address, ts + offset + len(event))
    ]


@pytest.mark.parametrize(
    ("domain", "cause"), [("gas", "section-7"), ("air", "site-a"), ("emission", "site-a")]
)
def test_the_cause_is_the_section_for_gas_and_the_site_else(domain: str, cause: str) -> None:
    """Alarms are grouped by what they have in common."""
    book = AlarmBook([RULE], Gridded())

    assert cause == raised(book, place("site-a", domain=domain), START).cause


def test_one_rule_at_three_sites_within_ten_minutes_is_one_cause() -> None:
    """The third site says that the district has it, and that it is not the first."""
    book = AlarmBook([RULE], Nowhere())
    events = [
        raised(book, place(site), START + minute * MINUTE)
        for site, minute in (("a", 0), ("b", 4), ("c", 10))
    ]

    assert ["a", "b", "high@east"] == [event.cause for event in events]
    assert [True, True, False] == [event.first_out for event in events]


def test_three_sites_in_more_than_ten_minutes_are_three_causes() -> None:
    """What is long ago has nothing to do with it."""
    book = AlarmBook([RULE], Nowhere())
    events = [
        raised(book, place(site), START + minute * MINUTE)
        for site, minute in (("a", 0), ("b", 6), ("c", 11))
    ]

    assert ["a", "b", "c"] == [event.cause for event in events]


def test_the_first_alarm_of_a_cause_is_first_out() -> None:
    """The next one is not, until all of that cause are gone."""
    book = AlarmBook([RULE], Nowhere())
    first = raised(book, place("a", "one"), START)
    second = raised(book, place("a", "two"), START + 1)
    for device in ("one", "two"):
        happen(book, "cleared", place("a", device), START + 2)
    late = raised(book, place("a", "three"), START + 3)
    book.obey(OperatorRequest(id="1", action="acknowledge", by="lin", targets=("a/*/*",)), START)
    happen(book, "cleared", place("a", "three"), START + 4)
    fresh = raised(book, place("a", "four"), START + 5)

    assert [True, False, False, True] == [e.first_out for e in (first, second, late, fresh)]


def test_chatter_is_shelved_and_announced() -> None:
    """The third raise within a minute shelves the alarm for ten minutes, and says why."""
    book = AlarmBook([RULE], Nowhere())
    *_, shelved = (one.event for one in chatter(book, place("a"), START))

    assert ("shelved", "shelved", "cityeye", "chattering: 3 times in a minute") == (
        shelved.event,
        shelved.state,
        shelved.by,
        shelved.why,
    )
    assert shelved.ts + 10 * MINUTE == shelved.until


def test_three_raises_in_more_than_a_minute_are_no_chatter() -> None:
    """Two in a minute are not enough."""
    book = AlarmBook([RULE], Nowhere())
    said = [
        one.event.event
        for ts in (0, 30 * SECOND, 60 * SECOND)
        for event in ("raised", "cleared")
        for one in happen(book, event, place("a"), START + ts)
    ]

    assert ["raised", "cleared"] * 3 == said


def test_chatter_right_after_a_shelf_is_shelved_twice_as_long() -> None:
    """10, 20, 40, 80, 160 minutes and then four hours; after a rest ten minutes again."""
    memory = Chatter()
    lengths, ts = [], START
    for _ in range(7):
        until = memory.shelve(ts).until
        lengths.append((until - ts) // MINUTE)
        ts = until + 10 * MINUTE
    rested = memory.shelve(ts + 1).until

    assert [10, 20, 40, 80, 160, 240, 240] == lengths
    assert ts + 1 + 10 * MINUTE == rested


def test_the_figures_count_alarms_by_what_people_see() -> None:
    """Standing, waiting, shelved, out of service, and standing for more than a day."""
    book = AlarmBook([RULE], Nowhere(), operators=2)
    for number in range(5):
        happen(book, "raised", place(f"site-{number}"), START + number * HOUR)
    asks: list[dict[str, Any]] = [
        {"action": "acknowledge", "targets": ("site-0/*/*",)},
        {"action": "shelve", "targets": ("site-1/*/*",), "for_s": 86_400.0},
        {"action": "disable", "targets": ("site-2/*/*",)},
    ]
    for fields in asks:
        book.obey(OperatorRequest(id="1", by="lin", why="known", **fields), START + 5 * HOUR)
    figures = book.figures(START + DAY + 4 * HOUR)

    assert (3, 2, 1, 0, 1) == (
        figures.standing,
        figures.unacknowledged,
        figures.shelved,
        figures.suppressed,
        figures.out_of_service,
    )
    assert 2 == figures.long_standing
    assert {"low": 1.0} == figures.priorities
    assert figures.operator_day == pytest.approx(5 / 2 / (28 / 24))


def test_a_slot_with_more_than_ten_alarms_is_a_flood() -> None:
    """Eleven alarms in one of three slots: a third of the time."""
    tally = Tally(operators=1)
    start = START - START % (10 * MINUTE)
    tally.begin(start)
    for _ in range(10):
        tally.annunciate("low", start)
        tally.annunciate("low", start + 10 * MINUTE)
    tally.annunciate("high", start + 10 * MINUTE)
    figures = tally.figures([], start + 25 * MINUTE)

    assert pytest.approx(1 / 3) == figures.flood_share
    assert {"high": 1 / 21, "low": 20 / 21} == figures.priorities


def test_worst_sources_are_those_that_told_most() -> None:
    """At most ten, the worst first."""
    book = AlarmBook([RULE], Nowhere())
    for number in range(12):
        for time in range(1 + number // 11):
            for event in ("raised", "cleared"):
                happen(book, event, place(f"site-{number:02}"), START + time * HOUR)
    worst = book.figures(START + DAY).worst

    assert ("site-11/one/high", 2) == worst[0]
    assert 10 == len(worst)


def test_chattering_is_counted() -> None:
    """Automatic shelves so far."""
    book = AlarmBook([RULE], Nowhere())
    chatter(book, place("a"), START)
    chatter(book, place("b"), START)

    assert 2 == book.figures(START + HOUR).chattering


@given(st.lists(st.integers(0, 3 * HOUR), min_size=1, max_size=60))
def test_the_window_agrees_with_counting_by_hand(offsets: list[int]) -> None:
    """Ten minutes are sixty bins of ten seconds, and the peak is the fullest so far."""
    tally, peak, seen = Tally(operators=1), 0, list[int]()
    for offset in offsets:
        tally.annunciate("low", START + offset)
        seen.append((START + offset) // (10 * SECOND))
        last = seen[-1]
        peak = max(peak, sum(last - 60 < place <= last for place in seen))
    now = START + max(offsets)
    last = now // (10 * SECOND)
    figures = tally.figures([], now)

    assert sum(last - 60 < place <= last for place in seen) == figures.operator_10min
    assert peak == figures.operator_10min_peak


@given(st.lists(st.integers(0, 40 * DAY), max_size=300))
def test_memory_does_not_grow_with_the_run(offsets: list[int]) -> None:
    """However long and out of order, what is remembered has a bound."""
    tally = Tally(operators=1)
    for offset in offsets:
        tally.annunciate("low", START + offset)
    state = tally.capture()

    assert len(state["bins"]) <= 120
    assert len(state["slots"]) <= 144


def test_the_figures_go_on_after_a_restart() -> None:
    """A captured tally, through bytes, gives the same figures."""
    tally, after = Tally(operators=1), Tally(operators=1)
    tally.begin(START)
    for offset in range(0, DAY, HOUR):
        tally.annunciate("medium", START + offset)
    after.restore(json.loads(json.dumps(tally.capture())))
    figures: AlarmFigures = after.figures([], START + DAY)

    assert tally.figures([], START + DAY) == figures
