"""The book of alarms: who did what when and why, covers, timers, patterns, changed rules."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from alerts.book import AlarmBook
from alerts.gates import Change, Level, Watch
from alerts.rules import Leaf, Limit, Rule, Step, Suppressor
from alerts.signals import Signal
from alerts.surroundings import Nowhere, Section, Surroundings
from alerts.transitions import Transition
from broker.messages import (
    AlarmEvent,
    Announcement,
    OperatorAction,
    OperatorRequest,
    decode,
    encode,
)
from city.cityfile import Address
from city.errors import InputError

MINUTE = 60_000
START = 1_780_272_000_000
METER = Address("lanting", "east", "gas", "street-1", "meter-1")
FAR = Address("lanting", "west", "gas", "street-9", "meter-9")
NAME = "street-1/meter-1/low"


class OneSection(Nowhere):
    """All gas devices of the east lie in one section."""

    def section(self, address: Address) -> Section | None:
        """The section of the east."""
        if address.district != "east":
            return None
        return Section("section-7", valves=(), customers=5, members=frozenset())


def a_rule(name: str = "low", **more: Any) -> Rule:
    """A rule on the pressure with two limits."""
    limits = (
        Limit(level="LL", limit=1.0, deadband=0.1, severity="critical", standard="s", clause="c",
              grade="A"),
        Limit(level="L", limit=2.0, deadband=0.1, severity="high", standard="s", clause="c",
              grade="A"),
    )  # fmt: skip
    leaf = Leaf(
        id=name, signal=Signal(quantity="pressure"), unit="kPa", limits=limits, watch=Watch(limits)
    )
    settings = {"kind": "limit", "unit": "kPa", "limits": limits} | more
    return Rule(id=name, pack="test", condition=leaf, **settings)


def a_book(*rules: Rule, surroundings: Surroundings | None = None) -> AlarmBook:
    """A book of these rules."""
    return AlarmBook(rules, surroundings or Nowhere())


def a_change(
    event: str,
    rule: Rule,
    ts: int = START,
    *,
    address: Address = METER,
    level: Level = "L",
    value: float = 1.5,
) -> Transition:
    """A transition of that rule."""
    change = Change(event, level, ts)  # type: ignore[arg-type]
    limit = rule.limit(level).limit
    return Transition(rule, address, change, ts, "pressure", value, limit, "kPa")


def ask(action: OperatorAction, *targets: str, **more: Any) -> OperatorRequest:
    """A request of Lin, with a reason."""
    return OperatorRequest(
        **({"id": "1", "action": action, "by": "lin", "why": "seen", "targets": targets} | more)
    )


def story(announcements: Sequence[Announcement]) -> list[tuple[str, str]]:
    """Event and state of each."""
    return [(one.event.event, one.event.state) for one in announcements]


def test_an_event_says_all_of_what_was_found() -> None:
    """A raise carries value, limit, severity, standard and the cause, as event number 1."""
    rule = a_rule()
    (raised,) = a_book(rule).change(a_change("raised", rule))
    expected = AlarmEvent(
        rule="low", event="raised", state="unacknowledged", severity="high", level="L",
        quantity="pressure", value=1.5, limit=2.0, unit="kPa", ts=START, raised=START, number=1,
        cause="street-1", first_out=True, standard="s", clause="c",
    )  # fmt: skip

    assert Announcement(METER, expected) == raised


@pytest.mark.parametrize(
    ("prepare", "action", "event"),
    [
        ([], "acknowledge", "acknowledged"),
        ([], "comment", "commented"),
        ([], "shelve", "shelved"),
        (["shelve"], "unshelve", "unshelved"),
        ([], "disable", "out-of-service"),
        (["disable"], "enable", "in-service"),
    ],
)
def test_what_a_person_does_has_who_when_and_why(
    prepare: list[OperatorAction], action: OperatorAction, event: str
) -> None:
    """Each event that a person causes names the person, the instant and the reason."""
    rule = a_rule()
    book = a_book(rule)
    book.change(a_change("raised", rule))
    for before in prepare:
        book.obey(ask(before, NAME, for_s=60), START + 1)
    said, changed = book.obey(ask(action, NAME, for_s=60, why="known leak"), START + 2)
    first = said[0].event

    assert (event, "lin", START + 2, "known leak") == (first.event, first.by, first.ts, first.why)
    assert (NAME,) == changed


def test_a_reset_names_who_did_it() -> None:
    """A latched alarm is acknowledged and then reset, by somebody."""
    rule = a_rule(latched=True)
    book = a_book(rule)
    book.change(a_change("raised", rule))
    book.change(a_change("cleared", rule, START + 1))
    book.obey(ask("acknowledge", NAME), START + 2)
    (reset,), _ = book.obey(ask("reset", NAME, why="walked the line"), START + 3)

    assert ("normal", "lin", "walked the line") == (
        reset.event.state,
        reset.event.by,
        reset.event.why,
    )


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (ask("acknowledge", NAME, by=" "), "name of who asks"),
        (ask("shelve", NAME, for_s=60, why=""), "reason is missing"),
        (ask("disable", NAME, why=" "), "reason is missing"),
        (ask("shelve", NAME), "how long is missing"),
        (ask("shelve", NAME, for_s=86_401), "at most 86400 s"),
        (ask("shelve", NAME, for_s=0), "more than 0 s"),
        (ask("shelve", NAME, for_s=math.nan), "more than 0 s"),
        (ask("acknowledge"), "no alarm is named"),
        (ask("acknowledge", *["*/*/*"] * 21), "at most 20"),
        (ask("acknowledge", *[NAME] * 1_001), "at most 1000"),
        (ask("acknowledge", "low"), "names no alarm"),
        (ask("acknowledge", "a/b/[!x]"), "names no alarm"),
        (ask("acknowledge", "street-1/meter-1/high"), "the rule is not known"),
        (ask("acknowledge", "street-1/meter-2/low"), "the device is not known"),
        (ask("acknowledge", "other/*/*"), "no alarm fits other/*/*"),
        (ask("acknowledge", NAME, "street-1/meter-2/low"), "the device is not known"),
        (ask("unshelve", NAME), "not shelved"),
        (ask("enable", NAME), "nothing to enable"),
        (ask("reset", NAME), "its condition is gone"),
        (ask("reload"), "not something that is done to an alarm"),
    ],
)
def test_a_request_that_cannot_be_done_changes_nothing(
    request_: OperatorRequest, complaint: str
) -> None:
    """It is refused with what is wrong, and the book is as it was."""
    rule = a_rule()
    book = a_book(rule)
    book.change(a_change("raised", rule))
    before = book.capture()
    with pytest.raises(InputError, match=complaint.replace("*", r"\*")):
        book.obey(request_, START + 1)

    assert before == book.capture()


def test_there_is_nothing_to_acknowledge_twice() -> None:
    """The second acknowledgement is refused."""
    rule = a_rule()
    book = a_book(rule)
    book.change(a_change("raised", rule))
    book.obey(ask("acknowledge", NAME), START)
    with pytest.raises(InputError, match="needs no acknowledgement"):
        book.obey(ask("acknowledge", NAME), START)


def test_a_pattern_changes_those_that_can_be_changed() -> None:
    """Of all alarms of a site, those that wait are acknowledged."""
    low, high = a_rule(), a_rule("high")
    book = a_book(low, high)
    for rule, address in ((low, METER), (high, METER), (low, FAR)):
        book.change(a_change("raised", rule, address=address))
    book.obey(ask("acknowledge", NAME), START)
    _, changed = book.obey(ask("acknowledge", "street-*/*/*"), START)

    assert ("street-1/meter-1/high", "street-9/meter-9/low") == changed


def test_an_alarm_that_never_was_can_be_put_out_of_service() -> None:
    """An instrument goes to repair before it alarms; what it then finds is not told."""
    rule = a_rule()
    book = a_book(rule)
    book.hear(METER, START)
    said, _ = book.obey(ask("disable", NAME), START)
    silence = book.change(a_change("raised", rule, START + 1))

    assert [("out-of-service", "out-of-service")] == story(said)
    assert [] == silence
    assert not said[0].event.active


def test_a_suppressed_alarm_appears_when_its_cause_is_reset() -> None:
    """The trip of a section suppresses what stands and what comes, until a person resets it."""
    trip = a_rule("trip", latched=True)
    low = a_rule(suppressed_by=(Suppressor("trip", "section"),))
    book = a_book(trip, low, surroundings=OneSection())
    neighbour = Address("lanting", "east", "gas", "street-2", "meter-2")
    book.change(a_change("raised", low))
    tripped = book.change(a_change("raised", trip, START + 1, address=neighbour))
    book.change(a_change("cleared", trip, START + 2, address=neighbour))
    book.obey(ask("acknowledge", "*/*/trip"), START + 3)
    lifted, _ = book.obey(ask("reset", "*/*/trip"), START + 4)

    assert [("raised", "unacknowledged"), ("suppressed", "suppressed")] == story(tripped)
    assert "street-2/meter-2/trip" == tripped[1].event.by
    assert [
        ("reset", "normal"),
        ("unsuppressed", "unacknowledged"),
        ("raised", "unacknowledged"),
    ] == story(lifted)


def test_a_trip_suppresses_nothing_outside_its_section() -> None:
    """The alarm of another section, or of none that is known, is raised as ever."""
    trip = a_rule("trip")
    low = a_rule(suppressed_by=(Suppressor("trip", "section"),))
    book = a_book(trip, low, surroundings=OneSection())
    book.change(a_change("raised", trip))

    assert [("raised", "unacknowledged")] == story(
        book.change(a_change("raised", low, address=FAR))
    )


def test_an_instrument_under_repair_suppresses_nothing() -> None:
    """When the suppressing alarm is put out of service, those that it hid appear."""
    trip, low = a_rule("trip"), a_rule(suppressed_by=(Suppressor("trip", "device"),))
    book = a_book(trip, low)
    book.change(a_change("raised", trip))
    hidden = book.change(a_change("raised", low))
    said, _ = book.obey(ask("disable", "street-1/meter-1/trip"), START + 1)

    assert [("suppressed", "suppressed")] == story(hidden)
    assert [("out-of-service",) * 2, ("unsuppressed", "unacknowledged"), ("raised", "unacknowledged")] == story(said)  # fmt: skip


def test_a_shelf_outlives_a_suppression() -> None:
    """A suppressed alarm that a person shelved stays shelved when the suppression is lifted."""
    trip, low = a_rule("trip"), a_rule(suppressed_by=(Suppressor("trip", "device"),))
    book = a_book(trip, low)
    book.change(a_change("raised", trip))
    book.change(a_change("raised", low))
    book.obey(ask("shelve", NAME, for_s=600), START)
    lifted = book.change(a_change("cleared", trip, START + 1))

    assert [("cleared", "returned"), ("unsuppressed", "shelved")] == story(lifted)


def test_the_end_of_a_shelf_is_announced_at_its_instant() -> None:
    """However late the book is advanced, the alarm appears at the instant that the shelf ends."""
    rule = a_rule()
    book = a_book(rule)
    book.change(a_change("raised", rule))
    book.obey(ask("shelve", NAME, for_s=600), START)
    due = book.due
    said = book.advance(START + 60 * MINUTE)

    assert START + 10 * MINUTE == due
    assert [("unshelved", "unacknowledged"), ("raised", "unacknowledged")] == story(said)
    assert {due} == {one.event.ts for one in said}
    assert "cityeye" == said[0].event.by


def test_nobody_listening_takes_an_alarm_upwards() -> None:
    """Unacknowledged for the times of the rule, it is told to the district and then to the city."""
    rule = a_rule(escalation=(Step(10 * MINUTE, "district"), Step(30 * MINUTE, "city")))
    book = a_book(rule)
    book.change(a_change("raised", rule))
    said = book.advance(START + 60 * MINUTE)

    assert [
        (START + 10 * MINUTE, "promoted", "district", "high"),
        (START + 30 * MINUTE, "promoted", "city", "high"),
    ] == [(e.ts, e.event, e.supervision, e.severity) for e in (one.event for one in said)]


def test_a_repeated_alarm_waits_again() -> None:
    """Re-alarm brings back what was acknowledged and forgotten, every time it is due."""
    rule = a_rule(realarm_ms=60 * MINUTE)
    book = a_book(rule)
    book.change(a_change("raised", rule))
    book.obey(ask("acknowledge", NAME), START + 1)
    said = book.advance(START + 120 * MINUTE)

    assert [("repeated", "unacknowledged")] * 2 == story(said)


def test_silence_keeps_an_alarm() -> None:
    """A device that falls silent in alarm does not recover; its alarm is stale until it speaks."""
    rule, deadman = a_rule(), a_rule("silent", kind="silence")
    book = a_book(rule, deadman)
    book.change(a_change("raised", rule))
    book.change(a_change("raised", deadman))
    hushed = book.hush(METER, START + 1)
    heard = book.hear(METER, START + 2)

    assert [("stale", "unacknowledged")] == story(hushed)
    assert hushed[0].event.stale
    assert hushed[0].event.active
    assert [("heard", "unacknowledged")] == story(heard)
    assert not heard[0].event.stale


def test_an_alarm_that_is_not_watched_any_more_ends() -> None:
    """It ends with an event that empties its topic, whatever covered it."""
    rule = a_rule()
    book = a_book(rule)
    book.change(a_change("raised", rule))
    book.obey(ask("disable", NAME), START)
    ended = book.forget((METER, "low"), START + 1)

    assert [("cleared", "normal")] == story(ended)
    assert [] == book.standing()


def test_a_signal_without_a_value_clears_with_the_last_number() -> None:
    """What is not a number cannot go over the wire; the event keeps the number found before."""
    rule = a_rule()
    book = a_book(rule)
    book.change(a_change("raised", rule))
    (cleared,) = book.change(a_change("cleared", rule, START + 1, value=math.nan))

    assert cleared.event == decode(AlarmEvent, encode(cleared.event))
    assert 1.5 == cleared.event.value


def test_numbers_go_on_after_an_alarm_was_normal() -> None:
    """An event of an alarm is named for ever by its number."""
    rule = a_rule(acknowledged_by_itself=True)
    book = a_book(rule)
    said = [
        one
        for ts in range(0, 10 * MINUTE, 2 * MINUTE)
        for event in ("raised", "cleared")
        for one in book.change(a_change(event, rule, START + ts + len(event)))
    ]

    assert list(range(1, 11)) == [one.event.number for one in said]


def test_standing_is_in_the_order_of_raises() -> None:
    """The console shows the oldest first."""
    low, high = a_rule(), a_rule("high")
    book = a_book(low, high)
    book.change(a_change("raised", low, START + 5))
    book.change(a_change("raised", high, START))

    assert ["high", "low"] == [one.event.rule for one in book.standing()]


def test_an_alarm_whose_rule_is_gone_ends_after_a_restart() -> None:
    """A rule was taken out of its file: its alarm ends at the next advance, others stay."""
    low, high = a_rule(), a_rule("high")
    book = a_book(low, high)
    book.change(a_change("raised", low))
    book.change(a_change("raised", high))
    after = a_book(high)
    after.restore(book.capture())
    due = after.due
    ended = after.advance(START + 1)

    assert START == due
    assert [("low", "cleared", "normal")] == [
        (one.event.rule, one.event.event, one.event.state) for one in ended
    ]
    assert ["high"] == [one.event.rule for one in after.standing()]
    assert 2**62 == after.due


def test_a_suppression_that_the_rules_have_no_longer_is_lifted() -> None:
    """After a change of rules, what was suppressed by design appears at the next advance."""
    trip, low = a_rule("trip"), a_rule(suppressed_by=(Suppressor("trip", "device"),))
    book = a_book(trip, low)
    book.change(a_change("raised", trip))
    book.change(a_change("raised", low))
    after = a_book(trip, a_rule())
    after.restore(book.capture())

    assert [("unsuppressed", "unacknowledged"), ("raised", "unacknowledged")] == story(
        after.advance(START + 1)
    )
