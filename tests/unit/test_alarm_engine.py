from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.engine import AlarmEngine
from alerts.gates import normal, step
from alerts.rules import RuleSet, pack_of
from broker.messages import AlarmEvent, Announcement, Birth, MeasuredQuantity
from city.cityfile import Address
from city.documents import Document
from city.readings import Flag, ReadingBatch, SeriesTable

RULES = """
pack: test
title: Rules of the test
standard: ST 1
rules:
  - id: pressure
    quantity: gas_pressure
    unit: kPa
    clause: "4.2"
    low: {limit: 85, severity: medium, deadband: 1, grade: D}
    high: {limit: 105, severity: medium, deadband: 1}
    high_high: {limit: 110, severity: critical, deadband: 2, standard: ST 2}
    message: Pressure is off
  - id: slow
    quantity: gas_pressure
    unit: kPa
    high: {limit: 100, severity: low, deadband: 2}
    on_delay_s: 0.003
    off_delay_s: 0.002
  - id: valves-only
    quantity: gas_pressure
    unit: kPa
    device_kinds: [gas-valve]
    low: {limit: 95, severity: low}
  - id: boilers-only
    quantity: stack_so2_corrected
    unit: mg/m3
    plant_kinds: [coal-boiler]
    high: {limit: 100, severity: high, deadband: 5}
"""
NODE = Address("city", "east", "gas", "main", "node-1")
STACK = Address("city", "east", "emission", "plant", "stack-1")
Row = tuple[int, int, float, Flag]
Batcher = Callable[..., ReadingBatch]


def birth(kind: str, plant: str | None = None) -> Birth:
    """A birth document of which only the kinds matter."""
    quantities = {"gas_pressure": MeasuredQuantity(unit="kPa", low=0, high=200)}
    return Birth(
        kind=kind, model="m", position=(0, 0), interval_s=2, quantities=quantities, plant=plant
    )


def rule_set(*rules: str) -> RuleSet:
    """The rules of those identifiers, all when none is named."""
    pack = pack_of(Document(RULES, "test.yaml"))
    kept = tuple(rule for rule in pack.rules if not rules or rule.id in rules)
    return RuleSet((type(pack)(id="test", title="", title_zh="", valid_from=None,
                    valid_until=None, note="", source="", rules=kept),))  # fmt: skip


def batch_of(table: SeriesTable, rows: Sequence[Row]) -> ReadingBatch:
    """Rows of series, ts, value and flag as a batch."""
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    return ReadingBatch(
        table,
        np.array(columns[0], dtype=np.int32),
        np.array(columns[1], dtype=np.int64),
        np.array(columns[2], dtype=np.float64),
        np.array(columns[3], dtype=np.uint8),
    )


@pytest.fixture
def table() -> SeriesTable:
    """A table that knows the pressure of the node."""
    table = SeriesTable()
    table.index(NODE, "gas_pressure")
    return table


@pytest.fixture
def pressures(table: SeriesTable) -> Batcher:
    """Batches of the node's pressure from pairs of instant and value."""

    def make(*pairs: tuple[int, float], flag: Flag = Flag.N) -> ReadingBatch:
        return batch_of(table, [(0, ts, value, flag) for ts, value in pairs])

    return make


@pytest.fixture
def engine() -> AlarmEngine:
    """An engine with the one plain rule on pressure."""
    return AlarmEngine(rule_set("pressure"))


def names(changes: Sequence[Announcement]) -> list[tuple[str, str]]:
    """Event and level of each change."""
    return [(change.event.event, change.event.level) for change in changes]


VALUES = [80.0, 84.0, 85.5, 90.0, 97.0, 99.0, 101.0, 104.5, 106.0, 108.5, 111.0]
LATENESS = [0, 0, 0, 0, 1, 2, 9]


@st.composite
def arrivals(draw: st.DrawFn) -> list[Row]:
    """Readings of four series as they arrive: some flagged, some late, some of one instant."""
    flags = st.sampled_from([*Flag, *[Flag.N] * 8])
    parts = (st.integers(0, 3), st.sampled_from(LATENESS), st.sampled_from(VALUES), flags)
    drawn = draw(st.lists(st.tuples(*parts), max_size=40))
    return [
        (series, at - late, value, flag) for at, (series, late, value, flag) in enumerate(drawn)
    ]


def one_by_one(rules: RuleSet, rows: Sequence[Row]) -> list[tuple[str, str, str, int, float, int]]:
    """What the lives of all watches say when readings are followed singly."""
    lives = {(series, rule.id): normal(rule.watch) for series in range(4) for rule in rules.rules}
    last: dict[int, int] = {}
    said = []
    for series, ts, value, flag in rows:
        if flag.name not in "NST" or ts < last.get(series, ts):
            continue
        last[series] = ts
        for rule in rules.rules:
            key = (series, rule.id)
            lives[key], change = step(rule.watch, lives[key], ts, value)
            if change is not None:
                device = f"node-{series}"
                said.append(
                    (device, rule.id, f"{change.event} {change.level}", ts, value, change.raised)
                )
    return said


@given(arrivals(), st.lists(st.integers(0, 40), max_size=5))
def test_batches_of_any_size_say_what_single_readings_say(rows: list[Row], cuts: list[int]) -> None:
    """Events, their order and their values depend neither on batching nor on array shortcuts."""
    rules = rule_set("pressure", "slow")
    engine, table = AlarmEngine(rules), SeriesTable()
    for series in range(4):
        table.index(Address("city", "east", "gas", "main", f"node-{series}"), "gas_pressure")
    bounds = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    parts = [batch_of(table, rows[start:stop]) for start, stop in pairwise(bounds)]
    changes = [change for part in parts for change in engine.evaluate(part)]
    said = [
        (c.address.device, e.rule, f"{e.event} {e.level}", e.ts, e.value, e.raised)
        for c, e in ((change, change.event) for change in changes)
    ]

    assert one_by_one(rules, rows) == said


@given(arrivals())
def test_what_stands_is_what_was_raised_and_not_cleared(rows: list[Row]) -> None:
    """Standing alarms are the last events of those that did not end with a clearance."""
    engine, table = AlarmEngine(rule_set("pressure", "slow")), SeriesTable()
    for series in range(4):
        table.index(Address("city", "east", "gas", "main", f"node-{series}"), "gas_pressure")
    changes = engine.evaluate(batch_of(table, rows))
    newest = {(change.address, change.event.rule): change for change in changes}
    expected = {key: last for key, last in newest.items() if last.event.state == "active"}

    assert expected == {(alarm.address, alarm.event.rule): alarm for alarm in engine.standing()}


def test_an_event_carries_the_limit_and_its_source(engine: AlarmEngine, pressures: Batcher) -> None:
    """A person sees value, limit, unit, standard, clause and grade in the event itself."""
    (change,) = engine.evaluate(pressures((1, 95.0), (2, 84.0)))
    expected = AlarmEvent(
        rule="pressure", event="raised", state="active", severity="medium", level="L",
        quantity="gas_pressure", value=84.0, limit=85.0, unit="kPa", ts=2, raised=2,
        standard="ST 1", clause="4.2", grade="D", message="Pressure is off",
    )  # fmt: skip

    assert Announcement(NODE, expected) == change


def test_an_alarm_lives_through_one_batch(engine: AlarmEngine, pressures: Batcher) -> None:
    """Raised, escalated, eased and cleared within a batch are four events."""
    changes = engine.evaluate(pressures((1, 106.0), (2, 111.0), (3, 107.0), (4, 104.0)))
    expected = [("raised", "H"), ("escalated", "HH"), ("eased", "H"), ("cleared", "H")]

    assert expected == names(changes)


def test_a_cleared_event_says_when_the_alarm_was_raised(
    engine: AlarmEngine, pressures: Batcher
) -> None:
    """The end of an alarm names the instant of its beginning."""
    *_, last = engine.evaluate(pressures((1, 106.0), (4, 104.0)))

    assert (4, 1) == (last.event.ts, last.event.raised)


@pytest.mark.parametrize("flag", [Flag.F, Flag.M, Flag.C, Flag.B, Flag.D])
def test_a_value_that_is_not_of_the_medium_raises_nothing(
    engine: AlarmEngine, pressures: Batcher, flag: Flag
) -> None:
    """Stopped, maintenance, calibration, communication and fault values raise no limit alarm."""
    changes = engine.evaluate(pressures((1, 200.0), flag=flag))

    assert [] == changes


@pytest.mark.parametrize("flag", [Flag.F, Flag.M, Flag.C, Flag.B, Flag.D])
def test_a_value_that_is_not_of_the_medium_clears_nothing(
    engine: AlarmEngine, pressures: Batcher, flag: Flag
) -> None:
    """An instrument in calibration does not end the alarm."""
    raised = engine.evaluate(pressures((1, 106.0)))
    engine.evaluate(pressures((2, 95.0), flag=flag))

    assert raised == engine.standing()


@pytest.mark.parametrize("flag", [Flag.N, Flag.S, Flag.T])
def test_a_value_over_range_or_set_by_hand_counts(
    engine: AlarmEngine, pressures: Batcher, flag: Flag
) -> None:
    """Over range is as high as the instrument can see, so it raises."""
    changes = engine.evaluate(pressures((1, 200.0), flag=flag))

    assert [("raised", "HH")] == names(changes)


def test_a_late_reading_does_not_clear(engine: AlarmEngine, pressures: Batcher) -> None:
    """A reading older than the last of its series does not move the alarm backwards."""
    raised = engine.evaluate(pressures((10, 106.0)))
    engine.evaluate(pressures((9, 95.0)))

    assert raised == engine.standing()


def test_a_late_reading_does_not_raise(engine: AlarmEngine, pressures: Batcher) -> None:
    """Nor does a backlog raise alarms for what is over, even when batches were out of order."""
    engine.evaluate(pressures((10, 95.0), (8, 95.0)))
    changes = engine.evaluate(pressures((9, 106.0)))

    assert [] == changes


def test_an_alarm_stands_while_others_report(engine: AlarmEngine, table: SeriesTable) -> None:
    """A sensor that falls silent in alarm does not recover."""
    other = table.index(Address("city", "east", "gas", "main", "node-2"), "gas_pressure")
    raised = engine.evaluate(batch_of(table, [(0, 1, 106.0, Flag.N)]))
    engine.evaluate(batch_of(table, [(other, 10**9, 95.0, Flag.N)]))

    assert raised == engine.standing()


def test_before_its_birth_a_device_has_the_rules_of_every_kind(pressures: Batcher) -> None:
    """A rule for valves waits until the device is known to be one."""
    changes = AlarmEngine(rule_set("pressure", "valves-only")).evaluate(pressures((1, 80.0)))

    assert ["pressure"] == [change.event.rule for change in changes]


def test_a_birth_adds_the_rules_of_its_kind(pressures: Batcher) -> None:
    """What is learned later holds from the next reading."""
    engine = AlarmEngine(rule_set("pressure", "valves-only"))
    engine.evaluate(pressures((1, 80.0)))
    engine.learn(NODE, birth("gas-valve"))
    changes = engine.evaluate(pressures((2, 80.0)))

    assert ["valves-only"] == [change.event.rule for change in changes]


@pytest.mark.parametrize(("plant", "expected"), [("coal-boiler", 1), ("gas-turbine", 0)])
def test_a_rule_for_a_kind_of_plant_watches_no_other(
    table: SeriesTable, plant: str, expected: int
) -> None:
    """The limit of a boiler does not hold for a turbine."""
    engine = AlarmEngine(rule_set())
    engine.learn(STACK, birth("stack-cems", plant))
    stack = table.index(STACK, "stack_so2_corrected")
    changes = engine.evaluate(batch_of(table, [(stack, 1, 150.0, Flag.N)]))

    assert expected == len(changes)


def test_an_alarm_ends_when_its_rule_is_not_for_the_device_any_more(pressures: Batcher) -> None:
    """A device that becomes another kind keeps no alarm that nothing could clear."""
    engine = AlarmEngine(rule_set("valves-only"))
    engine.learn(NODE, birth("gas-valve"))
    engine.evaluate(pressures((5, 80.0)))
    engine.learn(NODE, birth("gas-node"))
    changes = engine.evaluate(pressures())

    assert ([("cleared", "L")], []) == (names(changes), engine.standing())


def test_an_adopted_alarm_clears_and_is_not_raised_again(pressures: Batcher) -> None:
    """After a restart an alarm goes on where it stood."""
    raised = AlarmEngine(rule_set("pressure")).evaluate(pressures((1, 106.0)))
    engine = AlarmEngine(rule_set("pressure"))
    engine.adopt(raised[0])
    changes = engine.evaluate(pressures((2, 106.0), (3, 104.0)))

    assert [("cleared", "H")] == names(changes)


def test_an_alarm_is_adopted_before_the_birth_that_its_rule_needs(pressures: Batcher) -> None:
    """The order of retained births and alarms does not matter."""
    before = AlarmEngine(rule_set("valves-only"))
    before.learn(NODE, birth("gas-valve"))
    raised = before.evaluate(pressures((1, 80.0)))
    engine = AlarmEngine(rule_set("valves-only"))
    engine.adopt(raised[0])
    engine.learn(NODE, birth("gas-valve"))

    assert [("cleared", "L")] == names(engine.evaluate(pressures((2, 80.0), (3, 96.0))))


def test_an_alarm_is_adopted_after_the_first_reading(
    engine: AlarmEngine, pressures: Batcher
) -> None:
    """An alarm that is only kept up by its deadband stands on."""
    (raised,) = AlarmEngine(rule_set("pressure")).evaluate(pressures((1, 106.0)))
    engine.evaluate(pressures((2, 104.5)))
    engine.adopt(raised)
    changes = engine.evaluate(pressures((3, 104.5), (4, 104.0)))

    assert [("cleared", "H", 4)] == [(*names([c])[0], c.event.ts) for c in changes]


def test_a_reading_older_than_an_adopted_alarm_does_not_clear_it(
    engine: AlarmEngine, pressures: Batcher
) -> None:
    """A backlog from before the restart says nothing about the alarm."""
    (raised,) = AlarmEngine(rule_set("pressure")).evaluate(pressures((10, 106.0)))
    engine.adopt(raised)
    engine.evaluate(pressures((9, 95.0)))

    assert [raised] == engine.standing()


def test_adopting_does_not_overwrite_what_the_engine_knows(
    engine: AlarmEngine, pressures: Batcher
) -> None:
    """An old message about a known alarm changes nothing."""
    raised, escalated = engine.evaluate(pressures((1, 106.0), (2, 111.0)))

    assert (True, [escalated]) == (engine.adopt(raised), engine.standing())


def test_an_alarm_that_has_ended_here_is_not_adopted(
    engine: AlarmEngine, pressures: Batcher
) -> None:
    """A retained message that outlived its alarm while the broker was away brings nothing back."""
    raised, _ = engine.evaluate(pressures((1, 106.0), (2, 104.0)))

    assert (False, []) == (engine.adopt(raised), engine.standing())


def test_an_alarm_without_a_rule_is_not_adopted(pressures: Batcher) -> None:
    """What nothing can ever clear is not taken over."""
    (raised,) = AlarmEngine(rule_set("pressure")).evaluate(pressures((1, 106.0)))
    engine = AlarmEngine(rule_set("slow"))

    assert (False, []) == (engine.adopt(raised), engine.standing())


def test_every_series_is_watched_when_the_table_grows(engine: AlarmEngine) -> None:
    """Series that appear between batches are followed from their first reading."""
    table = SeriesTable()
    changes = []
    for size in (1, 1_500, 5_000):
        for number in range(len(table), size):
            table.index(Address("city", "east", "gas", "main", f"n{number}"), "gas_pressure")
        changes += engine.evaluate(batch_of(table, [(size - 1, 1, 106.0, Flag.N)]))

    assert ["n0", "n1499", "n4999"] == [change.address.device for change in changes]


def test_a_second_series_table_is_refused(engine: AlarmEngine, pressures: Batcher) -> None:
    """Indices of another table would mean other series."""
    engine.evaluate(pressures((1, 95.0)))

    with pytest.raises(ValueError, match="one series table"):
        engine.evaluate(batch_of(SeriesTable(), []))
