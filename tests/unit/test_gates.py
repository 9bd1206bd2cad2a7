import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.gates import (
    Bound,
    Change,
    Life,
    Watch,
    level_of,
    normal,
    quiet_band,
    standing,
    step,
)

Reading = tuple[int, float]
Event = tuple[int, str, str]

PRESSURE = Watch(
    (Bound("HH", 110, 1), Bound("LL", 75, 1), Bound("H", 105, 1), Bound("L", 85, 1)),
    on_delay_ms=0,
    off_delay_ms=0,
)
RANK = {"LL": -2, "L": -1, "H": 1, "HH": 2}


@st.composite
def watches(draw: st.DrawFn) -> Watch:
    """A watch with one to four bounds on a small grid of values."""
    chosen = draw(st.sets(st.sampled_from(["LL", "L", "H", "HH"]), min_size=1))
    levels = [level for level in RANK if level in chosen]
    limits = sorted(draw(st.sets(st.integers(2, 18), min_size=len(levels), max_size=len(levels))))
    bounds = {}
    for index, level in enumerate(levels):
        neighbour = index - 1 if RANK[level] > 0 else index + 1
        inside = 0 <= neighbour < len(limits)
        gap = abs(limits[index] - limits[neighbour]) if inside else 2
        bounds[level] = (float(limits[index]), float(draw(st.integers(0, gap))))
    ordered = [level for level in ("HH", "LL", "H", "L") if level in bounds]
    delays = st.sampled_from([0, 1, 3, 6])
    made = tuple(Bound(level, *bounds[level]) for level in ordered)
    return Watch(made, draw(delays), draw(delays))


@st.composite
def histories(draw: st.DrawFn) -> list[Reading]:
    """Readings in the order of their instants, on and around the grid of the limits."""
    steps = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)), max_size=40))
    ts, history = 0, []
    for wait, half in steps:
        ts += wait
        history.append((ts, half / 2))
    return history


def by_brute_force(watch: Watch, history: list[Reading]) -> list[Event]:
    """The events of a history by looking back from every reading over all that came before."""
    events: list[Event] = []
    gates: dict[str, bool] = {bound.level: False for bound in watch.bounds}
    rank, now = 0, 0
    for end in range(len(history)):
        opened = set()
        for bound in watch.bounds:
            sign = 1 if RANK[bound.level] > 0 else -1
            is_open = gates[bound.level]
            delay = watch.off_delay_ms if is_open else watch.on_delay_ms
            lasted = -1
            for ts, value in reversed(history[: end + 1]):
                back = sign * value <= sign * bound.limit - bound.deadband
                if not (back if is_open else sign * value > sign * bound.limit):
                    break
                lasted = history[end][0] - ts
            if lasted >= delay:
                gates[bound.level] = not is_open
                opened |= set() if is_open else {sign}
        for level in gates:
            gates[level] &= not opened or (RANK[level] > 0) == (1 in opened)
        now = max((RANK[level] for level in gates if gates[level]), key=abs, default=0)
        if now != rank:
            about = next(level for level in RANK if RANK[level] == (now or rank))
            deeper = "escalated" if abs(now) >= abs(rank) else "eased"
            event = "cleared" if now == 0 else "raised" if rank == 0 else deeper
            events.append((end, event, about))
        rank = now
    return events


def walk(watch: Watch, history: list[Reading]) -> tuple[Life, list[Event]]:
    """The last life, and the events with the number of the reading that caused them."""
    life = normal(watch)
    events: list[Event] = []
    for index, (ts, value) in enumerate(history):
        life, change = step(watch, life, ts, value)
        if change is not None:
            events.append((index, change.event, change.level))
    return life, events


@given(watches(), histories())
def test_every_history_gives_the_events_of_the_brute_force(
    watch: Watch, history: list[Reading]
) -> None:
    """Step by step gives the events that looking back over the whole history gives."""
    _, events = walk(watch, history)

    assert by_brute_force(watch, history) == events


@given(watches(), histories())
def test_the_same_reading_twice_changes_nothing_more(watch: Watch, history: list[Reading]) -> None:
    """Delivering every reading twice gives the same events."""
    _, once = walk(watch, history)
    _, twice = walk(watch, [reading for reading in history for _ in range(2)])

    assert once == [(index // 2, event, level) for index, event, level in twice]


@given(watches(), histories(), st.integers(0, 40))
def test_a_value_changes_a_life_exactly_when_it_lies_outside_the_quiet_band(
    watch: Watch, history: list[Reading], half: int
) -> None:
    """Without a running delay, the quiet band is the set of all values that change nothing."""
    life, _ = walk(watch, history)
    low, high = quiet_band(watch, life)
    runs = any(gate.contrary_since is not None for gate in life.gates)
    after, _ = step(watch, life, 10_000, half / 2)

    assert runs or (low <= half / 2 <= high) == (after is life)


@given(watches(), histories())
def test_the_quiet_band_is_empty_while_a_delay_runs(watch: Watch, history: list[Reading]) -> None:
    """Every reading matters to a running delay, so none may be passed over."""
    life, _ = walk(watch, history)
    runs = any(gate.contrary_since is not None for gate in life.gates)

    assert runs == (quiet_band(watch, life) == (math.inf, -math.inf))


@given(watches(), histories())
def test_the_instant_of_raising_is_kept_while_the_alarm_stands(
    watch: Watch, history: list[Reading]
) -> None:
    """A life has an instant of raising exactly when it has a level."""
    life, events = walk(watch, history)
    raisings = [history[index][0] for index, event, _ in events if event == "raised"]
    stands = level_of(watch, life) is not None

    assert (raisings[-1] if stands else None) == life.raised


@pytest.mark.parametrize(
    ("before", "value", "expected"),
    [
        (95.0, 105.0, []),
        (95.0, 105.1, [("raised", "H")]),
        (95.0, 112.0, [("raised", "HH")]),
        (95.0, 80.0, [("raised", "L")]),
        (107.0, 112.0, [("escalated", "HH")]),
        (112.0, 109.5, []),
        (112.0, 107.0, [("eased", "H")]),
        (107.0, 104.5, []),
        (107.0, 104.0, [("cleared", "H")]),
        (112.0, 95.0, [("cleared", "HH")]),
        (107.0, 80.0, [("escalated", "L")]),
    ],
)
def test_a_reading_moves_the_level(
    before: float, value: float, expected: list[tuple[str, str]]
) -> None:
    """The level follows the value, except within a deadband; on a limit it is kept."""
    life, _ = step(PRESSURE, normal(PRESSURE), 0, before)
    _, change = step(PRESSURE, life, 1, value)

    assert expected == ([] if change is None else [(change.event, change.level)])


def test_a_jump_to_the_other_side_while_the_off_delay_runs_is_one_event() -> None:
    """An alarm that jumps from high to low before it could clear is escalated, and stays one."""
    watch = Watch(PRESSURE.bounds, on_delay_ms=0, off_delay_ms=10)
    life, _ = step(watch, normal(watch), 5, 107.0)
    life, change = step(watch, life, 6, 80.0)

    assert Change("escalated", "L", raised=5) == change


def test_an_on_delay_starts_again_after_one_good_reading() -> None:
    """Only a crossing that lasts raises an alarm."""
    watch = Watch(PRESSURE.bounds, on_delay_ms=10, off_delay_ms=0)
    _, events = walk(watch, [(0, 107.0), (9, 104.0), (10, 107.0), (19, 107.0), (20, 107.0)])
    expected = [(4, "raised", "H")]

    assert expected == events


def test_a_deeper_limit_has_an_on_delay_of_its_own() -> None:
    """An escalation waits for the deeper crossing to last, not for the alarm."""
    watch = Watch(PRESSURE.bounds, on_delay_ms=10, off_delay_ms=0)
    _, events = walk(watch, [(0, 107.0), (6, 112.0), (10, 112.0), (15, 112.0), (16, 112.0)])
    expected = [(2, "raised", "H"), (4, "escalated", "HH")]

    assert expected == events


def test_a_number_that_is_none_crosses_nothing_and_releases_everything() -> None:
    """NaN says that there is no value any more, so that nothing can stand because of it."""
    after, change = step(PRESSURE, standing(PRESSURE, "H", 0), 1, math.nan)

    assert (True, "cleared") == (after.is_normal, change and change.event)
    assert (after, None) == step(PRESSURE, after, 2, math.nan)


def test_an_alarm_restored_at_a_level_that_is_gone_stands_at_the_next_one() -> None:
    """A rule that has lost its HH limit takes an alarm at HH over at H."""
    watch = Watch((Bound("H", 105, 1), Bound("L", 85, 1)))

    assert "H" == level_of(watch, standing(watch, "HH", 0))


def test_a_restored_alarm_is_as_if_it_had_been_raised_here() -> None:
    """Standing at a level is the life that raising to this level gives."""
    raised, _ = step(PRESSURE, normal(PRESSURE), 7, 112.0)

    assert raised == standing(PRESSURE, "HH", 7)
