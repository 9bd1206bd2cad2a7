from datetime import date, time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from alerts.rulefile import step_for
from alerts.rules import (
    Count,
    Every,
    Leaf,
    Not,
    Pack,
    Rule,
    RuleSet,
    Some,
    Step,
    Suppressor,
    load_packs,
    pack_of,
    read_rules,
    shipped_packs,
)  # fmt: skip
from alerts.signals import Shift, Signal
from city.documents import Document
from city.errors import DocumentError
from city.quantities import QUANTITIES, convertible_units, to_canonical

PACK = """\
pack: plant-rules
title: Rules of the plant
standard: ST 1
grade: B
valid_from: 2026-03-01
valid_until: 2030-12-31
rules:
  - id: so2-air
    quantity: so2
    unit: ug/m3
    device_kinds: [air-station]
    clause: Table 1
    high: {limit: 500, severity: medium, deadband: 25}
    high_high: {limit: 800, severity: high, standard: ST 2, clause: Table 9, grade: A}
    on_delay_s: 1.5
    off_delay_s: 10
  - id: so2-stack
    quantity: stack_so2_corrected
    unit: g/m3
    plant_kinds: [coal-boiler]
    low: {limit: 0.001, severity: low}
    high: {limit: 0.3, severity: high, deadband: 0.01}
"""


@pytest.fixture
def pack() -> Pack:
    """The pack as it stands above."""
    return pack_of(Document(PACK, "plant.yaml"))


def test_a_limit_takes_its_source_from_rule_and_pack(pack: Pack) -> None:
    """What a limit does not say of its source, its rule or its pack says."""
    limit = pack.rules[0].limit("H")
    expected = ("ST 1", "Table 1", "B")

    assert expected == (limit.standard, limit.clause, limit.grade)


def test_a_limit_may_have_a_source_of_its_own(pack: Pack) -> None:
    """A limit's own standard, clause and grade go before those of rule and pack."""
    limit = pack.rules[0].limit("HH")
    expected = ("ST 2", "Table 9", "A")

    assert expected == (limit.standard, limit.clause, limit.grade)


def test_limits_are_converted_once_at_load(pack: Pack) -> None:
    """A rule in g/m3 is held against readings in mg/m3, without the noise of the conversion."""
    rule = pack.rules[1]
    expected = ("mg/m3", 300.0, 10.0)

    assert expected == (rule.unit, rule.limit("H").limit, rule.limit("H").deadband)


def test_delays_become_milliseconds(pack: Pack) -> None:
    """The file speaks of seconds, readings of milliseconds."""
    watch = pack.rules[0].head.watch
    expected = (1_500, 10_000)

    assert expected == (watch.on_delay_ms, watch.off_delay_ms)


@pytest.mark.parametrize(
    ("device", "plant", "expected"),
    [
        ("air-station", None, [True, False]),
        ("air-gas", None, [False, False]),
        ("stack-cems", "coal-boiler", [False, True]),
        ("stack-cems", "gas-turbine", [False, False]),
        (None, None, [False, False]),
    ],
)
def test_kinds_select_rules(
    pack: Pack, device: str | None, plant: str | None, expected: list[bool]
) -> None:
    """A rule applies where both the kind of device and the kind of plant fit."""
    applying = [rule.applies(device, plant) for rule in pack.rules]

    assert expected == applying


@given(st.sampled_from(sorted(QUANTITIES)), st.data())
def test_a_limit_is_the_same_in_every_unit(name: str, data: st.DataObject) -> None:
    """Whatever unit a rule is written in, its limit is the same canonical value."""
    quantity = QUANTITIES[name]
    unit = data.draw(st.sampled_from(convertible_units(quantity.unit)))
    inside = data.draw(st.floats(0.1, 0.9)) * (quantity.high - quantity.low) + quantity.low
    given_limit = inside / to_canonical(1.0, unit, quantity)
    text = f"pack: p\ntitle: t\nstandard: s\nrules:\n  - id: r\n    quantity: {name}\n"
    text += f'    unit: "{unit}"\n    high: {{limit: {given_limit!r}, severity: low}}\n'
    limit = pack_of(Document(text, "units.yaml")).rules[0].limit("H")

    assert pytest.approx(inside, rel=1e-9, abs=1e-9) == limit.limit


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (date(2026, 2, 28), ["before it is in force (2026-03-01)"]),
        (date(2026, 3, 1), []),
        (date(2030, 12, 31), []),
        (date(2031, 1, 1), ["after its last day (2030-12-31)"]),
    ],
)
def test_a_pack_out_of_its_dates_is_used_and_said_so(
    pack: Pack, day: date, expected: list[str]
) -> None:
    """A simulated city may live in any year: its rules hold, with a remark."""
    remarks = [remark.partition(", ")[2] for remark in RuleSet((pack,)).remarks(day)]

    assert expected == remarks
    assert RuleSet((pack,)) == RuleSet((pack,)).on(day)


@pytest.mark.parametrize(
    ("day", "expected"),
    [(date(2030, 12, 31), {"pm25-day"}), (date(2031, 1, 1), {"pm25-day-final"})],
)
def test_a_version_of_a_law_holds_on_its_days(day: date, expected: set[str]) -> None:
    """Of the transition's limit and the final one, a day has one."""
    rules = load_packs(["air-gb3095-2026"])
    names = {rule.id for rule in rules.rules if rule.id in {"pm25-day", "pm25-day-final"}}
    kept = {rule.id for rule in rules.on(day).rules}

    assert expected == kept & names
    assert len(names) > len(expected)


def test_all_but_optional_packs_are_loaded_when_none_is_named() -> None:
    """Without a choice, everything that comes with CityEye watches but what asks to be named."""
    usual = {pack.id for pack in load_packs().packs}
    optional = {"air-gb3095-2012", "air-who-2021", "air-us-epa-2024"}
    optional |= {"data-quality", "falsification"}

    assert set(shipped_packs()) - optional == usual
    assert optional == {pack.id for pack in load_packs(optional).packs}


def test_packs_are_loaded_by_name_and_files_by_path(tmp_path: Path) -> None:
    """A city's own rules stand beside the shipped ones it chose."""
    path = tmp_path / "plant.yaml"
    path.write_text(PACK, encoding="utf-8")
    rules = load_packs(["gas-network"], files=[path])
    expected = ["gas-network", "plant-rules"]

    assert expected == [pack.id for pack in rules.packs]


def test_an_unknown_pack_is_refused_with_the_nearest_name() -> None:
    """A typing error in a pack's name is explained."""
    with pytest.raises(DocumentError, match="did you mean 'gas-network'"):
        load_packs(["gas-netwrk"])


def test_one_identifier_in_two_files_is_refused(tmp_path: Path) -> None:
    """Two rules of one name would share a topic."""
    paths = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    for path in paths:
        path.write_text(PACK, encoding="utf-8")

    with pytest.raises(
        DocumentError,
        match=r"two\.yaml:8: rules\[0\]\.id: rule 'so2-air' stands in .*one\.yaml too",
    ):
        load_packs([], files=paths)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    """A path that leads nowhere is said so."""
    with pytest.raises(DocumentError, match=r"none\.yaml: cannot be read"):
        read_rules(tmp_path / "none.yaml")


COMBINED = """\
pack: combined
title: Combined
standard: ST 3
rules:
  - id: burst
    any:
      - all:
          - {quantity: gas_pressure, stat: rate, window: 10s, unit: bar/s, below: -0.01, in_a_row: 3}
          - count:
              at_least: 2
              within: section
              of: {quantity: gas_pressure, unit: kPa, below: 40, deadband: 5, hold_s: 10}
      - not: {quantity: gas_pressure, unit: kPa, above: 5}
    severity: critical
    on_delay_s: 2
    off_delay_s: 3
    latch: true
    acknowledge: automatic
    realarm_s: 600
    escalate: [{after_s: 60, to: district}, {after_s: 90, to: city}]
    suppressed_by: [{rule: other, within: city}]
    actions: [close_valve, repair_order]
"""


@pytest.fixture
def burst() -> Rule:
    """The rule above."""
    return pack_of(Document(COMBINED, "combined.yaml")).rules[0]


def only(**rule: object) -> Rule:
    """The rule of a pack that has one, with a high limit unless limits are given."""
    entry = {"id": "r", "high": {"limit": 1, "severity": "low"}} | rule
    content = {"pack": "p", "title": "t", "standard": "s", "rules": [entry]}
    return pack_of(Document(yaml.safe_dump(content), "one.yaml")).rules[0]


def test_a_combination_is_a_tree_of_numbered_leaves(burst: Rule) -> None:
    """Conditions keep their order, and leaves are named by the rule and their number."""
    whole = burst.condition
    assert isinstance(whole, Some)
    both, negated = whole.of
    assert isinstance(both, Every)
    assert isinstance(negated, Not)
    assert isinstance(both.of[1], Count)

    assert (2, "section") == (both.of[1].at_least, both.of[1].within)
    assert ["burst#1", "burst#2", "burst#3"] == [leaf.id for leaf in burst.leaves]
    assert ("composite", burst.leaves[0]) == (burst.kind, burst.head)


def test_a_condition_is_a_leaf_with_one_limit(burst: Rule) -> None:
    """Below is a limit of level L and above one of level H, in the canonical unit."""
    found = [
        (leaf.limits[0].level, leaf.limits[0].limit, leaf.unit, leaf.watch.on_delay_ms,
         leaf.watch.in_a_row, leaf.limits[0].deadband)
        for leaf in burst.leaves
    ]  # fmt: skip

    assert [
        ("L", -60.0, "kPa/min", 0, 3, 0.0),
        ("L", 40.0, "kPa", 10_000, 1, 5.0),
        ("H", 5.0, "kPa", 0, 1, 0.0),
    ] == found


def test_a_combination_has_one_limit_for_severity_and_source(burst: Rule) -> None:
    """It is of level H and shows the number and unit of the head."""
    (limit,) = burst.limits
    found = (limit.level, limit.limit, limit.severity, limit.standard, burst.unit)

    assert ("L", -60.0, "critical", "ST 3", "kPa/min") == found


def test_what_becomes_of_a_rule_is_taken_over(burst: Rule) -> None:
    """Delays of the whole, latch, acknowledgement, escalation, suppression and actions."""
    assert (2_000, 3_000, 600_000) == (burst.on_delay_ms, burst.off_delay_ms, burst.realarm_ms)
    assert burst.latched
    assert burst.acknowledged_by_itself
    assert (Step(60_000, "district"), Step(90_000, "city")) == burst.escalation
    assert (Suppressor("other", "city"),) == burst.suppressed_by
    assert ("close_valve", "repair_order") == burst.actions


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"quantity": "so2", "unit": "ug/m3"}, Signal(quantity="so2")),
        ({"quantity": "so2", "unit": "ug/m3", "flags": "TNS"}, Signal(quantity="so2")),
        (
            {"quantity": "so2", "stat": "stuck", "unit": "min"},
            Signal(stat="stuck", quantity="so2"),
        ),
        (
            {"quantity": "so2", "unit": "ug/m3", "stat": "mean", "window": "1h"},
            Signal(stat="mean", quantity="so2", window_ms=3_600_000, step_ms=300_000),
        ),
        (
            {"quantity": "so2", "unit": "ug/m3", "stat": "hour", "at_least": "30m"},
            Signal(stat="hour", quantity="so2", at_least=0.5),
        ),
        (
            {"quantity": "so2", "unit": "%", "stat": "share", "band": [1, 2], "window": 60,
             "step": "20s"},
            Signal(stat="share", quantity="so2", band=(1, 2), window_ms=60_000, step_ms=20_000),
        ),
        (
            {"silence": {"intervals": 3, "at_least": "90s"}},
            Signal(stat="silence", intervals=3, window_ms=90_000),
        ),
        ({"index": "river-class"}, Signal(stat="index", index="river-class")),
        (
            {"quantity": "plant_power", "unit": "kW", "at": "plant-meter",
             "device_kinds": ["outfall"],
             "when": {"hours": "22:00-05:00", "days": ["sat"], "months": [1]}},
            Signal(quantity="plant_power", at="plant-meter",
                   when=Shift(begins=time(22), ends=time(5), days=frozenset({"sat"}),
                              months=frozenset({1}))),
        ),
    ],
)  # fmt: skip
def test_a_signal_is_what_the_file_says(given: dict[str, object], expected: Signal) -> None:
    """Durations, shares, flags and shifts become the fields of a signal."""
    assert expected == only(**given).head.signal


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"quantity": "gas_pressure", "unit": "MPa"}, ("limit", "kPa", 1000.0)),
        ({"quantity": "so2", "unit": "ug/m3", "when": {"days": ["sun"]}}, ("range", "ug/m3", 1)),
        ({"quantity": "so2", "unit": "ug/m3", "stat": "mda8"}, ("average", "ug/m3", 1)),
        (
            {"quantity": "so2", "unit": "mg/m3/h", "stat": "rate", "window": "1m"},
            ("rate", "ug/m3/min", 16.6666666667),
        ),
        ({"quantity": "so2", "unit": "h", "stat": "stuck"}, ("stuck", "s", 3600)),
        ({"quantity": "so2", "stat": "flagged", "flags": "D"}, ("flags", "1", 1)),
        (
            {"quantity": "so2", "unit": "%", "stat": "share", "window": "1h", "band": [0, 1]},
            ("share", "1", 0.01),
        ),
        ({"silence": {}, "unit": "min"}, ("silence", "s", 60)),
        ({"index": "aqi-2026"}, ("index", "1", 1)),
        (
            {"quantity": "pm25", "unit": "%", "over": {"quantity": "pm10"}},
            ("comparison", "1", 0.01),
        ),
        (
            {"quantity": "pm25", "unit": "mg/m3", "minus": {"quantity": "pm10"}},
            ("comparison", "ug/m3", 1000),
        ),
        (
            {"quantity": "stack_so2", "unit": "g/m3 per MW",
             "over": {"quantity": "plant_power", "at": "plant-meter"}},
            ("comparison", "mg/m3 per kW", 1),
        ),
    ],
)  # fmt: skip
def test_limits_of_every_kind_stand_in_one_unit(
    given: dict[str, object], expected: tuple[str, str, float]
) -> None:
    """A kind of rule has its unit, and limits in others are converted at load."""
    rule = only(**given)

    assert expected == (rule.kind, rule.unit, rule.limit("H").limit)


def test_a_rule_of_one_signal_keeps_its_delays_in_the_watch() -> None:
    """They are of the numbers, so the rule as a whole has none."""
    rule = only(quantity="so2", unit="ug/m3", on_delay_s=1, off_delay_s=2, in_a_row=4)
    assert isinstance(rule.condition, Leaf)
    watch = rule.condition.watch

    assert (1_000, 2_000, 4) == (watch.on_delay_ms, watch.off_delay_ms, watch.in_a_row)
    assert (0, 0) == (rule.on_delay_ms, rule.off_delay_ms)


@given(st.integers(1, 31 * 86_400))
def test_a_step_divides_window_and_day(window_s: int) -> None:
    """Whatever the window, its own step fits it, and panes of all windows meet at midnight."""
    step_s = step_for(window_s)

    assert (0, 0) == (window_s % step_s, 86_400 % step_s)


@pytest.mark.parametrize(
    ("window_s", "expected"), [(3_600, 300), (60, 5), (7_200, 600), (604_800, 43_200), (7, 1)]
)
def test_a_step_is_about_a_twelfth(window_s: int, expected: int) -> None:
    """The nearest that fits is taken, of two the longer."""
    assert expected == step_for(window_s)


def test_an_unknown_rule_is_refused_with_the_nearest_name() -> None:
    """A typing error in a rule's name is explained."""
    with pytest.raises(DocumentError, match="did you mean 'gas-burst'"):
        load_packs(["gas-network"]).rule("gas-brust")
