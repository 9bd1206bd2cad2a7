"""The life of an alarm is one table: complete, and safe where safety asks for it."""

from typing import get_args

import pytest

from alerts.life import COLUMNS, LIFE, OWN, UNREAD, Input, Move, Refusal, move, refusal
from broker.messages import AlarmHappening, AlarmState

INPUTS: tuple[Input, ...] = get_args(Input)
STATES: tuple[AlarmState, ...] = get_args(AlarmState)
BY_PEOPLE = {"acknowledge", "comment", "reset", "shelve", "unshelve", "disable", "enable"}


def test_every_state_has_an_entry_for_every_input() -> None:
    """What happens in whatever state, the table says what becomes of it."""
    expected = {(state, happens) for state in STATES for happens in INPUTS}

    assert expected == set(LIFE)


def test_the_columns_are_the_states() -> None:
    """The table has a column for each state, once."""
    assert sorted(STATES) == sorted(COLUMNS)


def test_only_people_are_refused() -> None:
    """A condition, a timer or another alarm is never refused, so nothing of them is lost."""
    refused = {happens for (_, happens), cell in LIFE.items() if isinstance(cell, Refusal)}

    assert refused < BY_PEOPLE


def test_every_happening_can_happen() -> None:
    """Every event that the wire knows is somewhere in the table."""
    events = {cell.event for cell in LIFE.values() if isinstance(cell, Move)} - {None}

    assert set(get_args(AlarmHappening)) == events


def test_what_people_do_is_always_told() -> None:
    """Whatever a person does and may do is an event: the audit trail misses nothing."""
    done = [LIFE[state, happens] for state in STATES for happens in INPUTS if happens in BY_PEOPLE]

    assert all(cell.event for cell in done if isinstance(cell, Move))


def test_the_condition_is_not_told_under_a_cover() -> None:
    """While an alarm is shelved, suppressed or out of service, its condition is followed quietly."""
    of_condition = [happens for happens in INPUTS if happens.startswith(("raise", "e", "clear"))]
    quiet = {
        LIFE[state, happens]
        for state in STATES
        for happens in of_condition
        if state not in OWN and happens not in {"end", "enable"}
    }

    assert {Move()} == quiet


@pytest.mark.parametrize("state", ["unacknowledged", "acknowledged"])
def test_no_reset_while_the_condition_holds(state: AlarmState) -> None:
    """A reset is refused while the condition holds, with what must be so first."""
    reason = refusal(state, "reset")

    assert reason is not None
    assert "condition is gone" in reason


def test_a_latch_is_acknowledged_before_it_is_reset() -> None:
    """OPC UA Part 9, 5.8.5: what still requires acknowledgement cannot be reset."""
    reason = refusal("latched", "reset")

    assert reason is not None
    assert "acknowledge it first" in reason


def test_only_a_reset_or_the_end_of_its_watch_makes_a_latched_alarm_normal() -> None:
    """No clearing, no time and no lifted cover lets a latch go."""
    ways = {
        happens
        for (state, happens), cell in LIFE.items()
        if state in {"latched", "latched-acknowledged"}
        and isinstance(cell, Move)
        and cell.to == "normal"
    }

    assert {"reset", "end"} == ways


def test_what_waits_for_an_acknowledgement_takes_one() -> None:
    """Exactly the states that ask for an acknowledgement accept it."""
    accepting = {state for state in STATES if refusal(state, "acknowledge") is None}

    assert accepting == UNREAD


def test_a_cleared_alarm_that_nobody_has_seen_stays() -> None:
    """Unacknowledged and cleared is returned, not normal."""
    assert Move("returned", "cleared") == move("unacknowledged", "clear")
