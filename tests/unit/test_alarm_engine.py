from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.engine import AlarmEngine
from alerts.gates import normal, step
from alerts.rules import RuleSet, pack_of
from alerts.state import pack, unpack
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
    on_delay_s: 90
    off_delay_s: 60
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
STEP_MS = 30_000
"""Slow enough that nothing chatters."""
OF_LEVEL = {"raised", "escalated", "eased", "cleared"}


@st.composite
def arrivals(draw: st.DrawFn) -> list[Row]:
    """Readings of four series as they arrive: some flagged, some late, some of one instant."""
    flags = st.sampled_from([*Flag, *[Flag.N] * 8])
    parts = (st.integers(0, 3), st.sampled_from(LATENESS), st.sampled_from(VALUES), flags)
    drawn = draw(st.lists(st.tuples(*parts), max_size=40))
    return [
        (series, STEP_MS * (at - late), value, flag)
        for at, (series, late, value, flag) in enumerate(drawn)
    ]


def one_by_one(rules: RuleSet, rows: Sequence[Row]) -> list[tuple[str, str, str, int, float, int]]:
    """What the lives of all watches say when readings are followed singly."""
    lives = {
        (series, rule.id): normal(rule.head.watch) for series in range(4) for rule in rules.rules
    }
    last: dict[int, int] = {}
    said = []
    for series, ts, value, flag in rows:
        if flag.name not in "NST" or ts < last.get(series, ts):
            continue
        last[series] = ts
        for rule in rules.rules:
            key = (series, rule.id)
            lives[key], change = step(rule.head.watch, lives[key], ts, value)
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
        if e.event in OF_LEVEL
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
    expected = {key: last for key, last in newest.items() if last.event.state != "normal"}

    assert expected == {(alarm.address, alarm.event.rule): alarm for alarm in engine.standing()}


def test_an_event_carries_the_limit_and_its_source(engine: AlarmEngine, pressures: Batcher) -> None:
    """A person sees value, limit, unit, standard, clause and grade in the event itself."""
    (change,) = engine.evaluate(pressures((1, 95.0), (2, 84.0)))
    expected = AlarmEvent(
        rule="pressure", event="raised", state="unacknowledged", number=1, cause="main", first_out=True, severity="medium", level="L",
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
    """A sensor that falls silent in alarm does not recover: its alarm stands, marked stale."""
    other = table.index(Address("city", "east", "gas", "main", "node-2"), "gas_pressure")
    engine.evaluate(batch_of(table, [(0, 1, 106.0, Flag.N)]))
    rows = [(other, ts, 95.0, Flag.N) for ts in range(1, 600_000, 30_000)]
    engine.evaluate(batch_of(table, rows))
    (alarm,) = engine.standing()

    assert ("stale", True, True) == (alarm.event.event, alarm.event.active, alarm.event.stale)


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
    changes = engine.learn(NODE, birth("gas-node"))

    assert ([("cleared", "L")], []) == (names(changes), engine.standing())


MANY_RULES = """
pack: many
title: A rule of every kind that the engine combines
standard: ST 1
rules:
  - {id: limit, quantity: gas_pressure, unit: kPa, on_delay_s: 2, high: {limit: 100, severity: high, deadband: 2}}
  - {id: in-a-row, quantity: gas_pressure, unit: kPa, in_a_row: 3, low: {limit: 95, severity: low}}
  - {id: mean, quantity: gas_pressure, unit: kPa, stat: mean, window: 10s, step: 5s, high: {limit: 98, severity: low}}
  - {id: rate, quantity: gas_pressure, unit: kPa/min, stat: rate, window: 4s, low: {limit: -200, severity: low}}
  - {id: flagged, quantity: gas_pressure, unit: "1", stat: flagged, flags: D, high: {limit: 0.5, severity: low}}
  - {id: silent, silence: {intervals: 3, at_least: 6s}, unit: s, high: {limit: 0, severity: low}, suppressed_by: [{rule: two-silent, within: site}]}
  - id: two-silent
    severity: medium
    count: {at_least: 2, within: site, of: {silence: {intervals: 3, at_least: 6s}, unit: s, above: 0}}
  - id: both
    severity: medium
    off_delay_s: 3
    all:
      - {quantity: gas_pressure, unit: kPa, above: 96}
      - {not: {quantity: gas_flow, unit: m3/h, above: 5}}
  - {id: ratio, quantity: gas_pressure, unit: kPa, stat: mean, window: 10s, step: 5s, minus: {quantity: gas_pressure, stat: mean, window: 20s, step: 5s}, high: {limit: 2, severity: low}}
"""


def many_rules() -> RuleSet:
    """The rules of every kind."""
    return RuleSet((pack_of(Document(MANY_RULES, "many.yaml")),))


@st.composite
def lively(draw: st.DrawFn) -> list[Row]:
    """Readings of three devices, pressure and flow, over some minutes, with gaps and flags."""
    rows: list[Row] = []
    ts = 1_000_000_000_000
    for _ in range(draw(st.integers(1, 40))):
        ts += draw(st.sampled_from([500, 1_000, 2_000, 2_000, 7_000, 30_000]))
        device = draw(st.integers(0, 2))
        flag = draw(st.sampled_from([*[Flag.N] * 6, Flag.D]))
        pressure = draw(st.sampled_from([80.0, 94.0, 97.0, 99.0, 103.0]))
        rows.append((2 * device, ts, pressure, flag))
        rows.append((2 * device + 1, ts, draw(st.sampled_from([0.0, 10.0])), Flag.N))
    return rows


def lively_table() -> SeriesTable:
    """Pressure and flow of three devices."""
    table = SeriesTable()
    for device in range(3):
        address = Address("city", "east", "gas", "main", f"node-{device}")
        table.index(address, "gas_pressure")
        table.index(address, "gas_flow")
    return table


def fed(rows: Sequence[Row], cuts: Sequence[int], *, anew: bool) -> list[Announcement]:
    """What is said when the rows come in parts; `anew`: every part to an engine restored."""
    table, engine = lively_table(), AlarmEngine(many_rules())
    for series in range(0, len(table), 2):
        engine.learn(table[series].address, birth("gas-node"))
    bounds = sorted({0, len(rows), *(2 * min(cut, len(rows) // 2) for cut in cuts)})
    said = []
    for start, stop in pairwise(bounds):
        said += engine.evaluate(batch_of(table, rows[start:stop]))
        if anew:
            state = unpack(pack(engine.capture()))
            engine, table = AlarmEngine(many_rules()), lively_table()
            engine.restore(state)
    return said


@settings(max_examples=30, deadline=None)
@given(lively(), st.lists(st.integers(0, 40), max_size=4))
def test_what_is_said_does_not_depend_on_batches(rows: list[Row], cuts: list[int]) -> None:
    """Rules of every kind say the same, whatever the batches."""
    assert fed(rows, [], anew=False) == fed(rows, cuts, anew=False)


@settings(max_examples=30, deadline=None)
@given(lively(), st.lists(st.integers(0, 40), max_size=4))
def test_a_restored_engine_goes_on_as_if_nothing_had_been(rows: list[Row], cuts: list[int]) -> None:
    """Windows, delays, silences and lives survive being captured and restored at any instant."""
    assert fed(rows, cuts, anew=False) == fed(rows, cuts, anew=True)


def test_every_kind_of_rule_is_raised_in_the_lively_city() -> None:
    """The properties above are not about engines that never say anything."""
    seen: set[str] = set()

    @settings(max_examples=60, deadline=None)
    @given(lively())
    def look(rows: list[Row]) -> None:
        seen.update(change.event.rule for change in fed(rows, [], anew=False))

    look()

    assert {rule.id for rule in many_rules().rules} == seen


def test_a_restored_alarm_stands_though_its_limit_has_moved(pressures: Batcher) -> None:
    """With other limits an alarm stays raised until a reading says otherwise."""
    before = AlarmEngine(rule_set("pressure"))
    before.evaluate(pressures((1, 106.0)))
    moved = Document(RULES.replace("limit: 105", "limit: 104"), "test.yaml")
    engine = AlarmEngine(RuleSet((pack_of(moved),)))
    engine.restore(before.capture())

    assert [("cleared", "H")] == names(engine.evaluate(pressures((2, 102.0))))


def test_every_series_is_watched_when_the_table_grows(engine: AlarmEngine) -> None:
    """Series that appear between batches are followed from their first reading."""
    table = SeriesTable()
    changes = []
    for size in (1, 1_500, 5_000):
        for number in range(len(table), size):
            table.index(Address("city", "east", "gas", "main", f"n{number}"), "gas_pressure")
        changes += engine.evaluate(batch_of(table, [(size - 1, 1, 106.0, Flag.N)]))

    assert ["n0", "n1499", "n4999"] == [change.address.device for change in changes]


def test_another_series_table_is_of_the_same_series(
    engine: AlarmEngine, pressures: Batcher
) -> None:
    """Series are known by device and quantity, not by their place in a table."""
    engine.evaluate(pressures((1, 106.0)))
    other = SeriesTable()
    other.index(STACK, "stack_so2")
    place = other.index(NODE, "gas_pressure")
    changes = engine.evaluate(batch_of(other, [(place, 2, 104.0, Flag.N)]))

    assert [("cleared", "H")] == names(changes)
