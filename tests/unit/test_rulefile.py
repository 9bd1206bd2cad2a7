import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from alerts.rules import load_packs, pack_of, rule_set
from city.documents import Document
from city.errors import DocumentError

GUIDE = Path(__file__).parents[2] / "docs" / "rules.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)

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


SO2 = {"quantity": "so2", "unit": "ug/m3"}
HIGH = {"limit": 1, "severity": "low"}
LOW_PRESSURE = {"quantity": "gas_pressure", "unit": "kPa", "below": 40}


def refusal(text: str) -> str:
    """What is said of a file with this text."""
    with pytest.raises(DocumentError) as caught:
        pack_of(Document(text, "plant.yaml"))
    return str(caught.value)


def file_of(*rules: Mapping[str, Any]) -> str:
    """A rule file with these rules, each with an identifier unless it has one."""
    named = [{"id": f"r{index}"} | dict(rule) for index, rule in enumerate(rules)]
    content = {"pack": "p", "title": "t", "standard": "s", "rules": named}
    return yaml.safe_dump(content, sort_keys=False)


def signal(**rule: Any) -> dict[str, Any]:
    """A rule of one signal with a high limit; SO2 as it comes unless said otherwise."""
    return {**SO2, "high": HIGH, **rule}


def combined(**rule: Any) -> dict[str, Any]:
    """A rule that combines conditions."""
    return {"severity": "low", **rule}


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("clause: Table", "claus: Table", ["plant.yaml:12", "rules[0].claus", "'clause'"]),
        ("title: Rules", "titel: Rules", ["plant.yaml:2", "'titel'", "'title'"]),
        ("limit: 500", "limit: high", ["plant.yaml:13", "rules[0].high.limit", "'high'"]),
        ("limit: 500", "limit: true", ["rules[0].high.limit", "True"]),
        ("limit: 500", "limit: .nan", ["rules[0].high.limit", "nan", "0 to 5000"]),
        ("severity: medium", "severity: bad", ["rules[0].high.severity", "'bad'"]),
        ("severity: medium, ", "", ["rules[0].high", "severity"]),
        ("grade: B", "grade: Z", ["plant.yaml:4", "grade", "'Z'"]),
        ("standard: ST 1\n", "", ["standard"]),
        ("standard: ST 1", 'standard: ""', ["standard"]),
        ("id: so2-stack", "id: so2-air", ["plant.yaml:17", "rules[1].id", "stands twice"]),
        ("id: so2-air", "id: SO2 air", ["rules[0].id", "'SO2 air'", "small letters"]),
        ("pack: plant-rules", "pack: a_b", ["plant.yaml:1", "'a_b'", "small letters"]),
        ("quantity: so2\n", "quantity: so22\n", ["rules[0].quantity", "did you mean 'so2'"]),
        (
            "unit: ug/m3",
            "unit: mg/L",
            ["rules[0].unit", "mixes units", "'mg/L'", "ug/m3, mg/m3, g/m3"],
        ),
        ("[air-station]", "[air-sation]", ["rules[0].device_kinds", "mean 'air-station'"]),
        ("[air-station]", "[gas-node]", ["does not measure 'so2'", "air-gas, air-station"]),
        ("[air-station]", "[]", ["rules[0].device_kinds"]),
        ("[coal-boiler]", "[coal-boler]", ["rules[1].plant_kinds", "mean 'coal-boiler'"]),
        ("device_kinds: [air-station]", "plant_kinds: [brewery]", ["not measured at plants"]),
        ("limit: 800", "limit: 400", ["rules[0].high_high.limit", "above high (500)"]),
        ("limit: 800", "limit: 500", ["rules[0].high_high.limit", "above high (500)"]),
        ("limit: 0.001", "limit: 0.4", ["rules[1].high.limit", "above low (0.4)"]),
        ("limit: 800", "limit: 80000", ["can never be measured", "0 to 5000 ug/m3"]),
        ("deadband: 25", "deadband: -1", ["rules[0].high.deadband", "-1"]),
        ("deadband: 25", "deadband: 501", ["rules[0].high.deadband", "never clear", "0 to 500"]),
        ("deadband: 0.01", "deadband: 0.3", ["rules[1].high.deadband", "to low"]),
        ("on_delay_s: 1.5", "on_delay_s: 86401", ["rules[0].on_delay_s", "86400"]),
        ("on_delay_s: 1.5", "on_delay_s: .inf", ["rules[0].on_delay_s"]),
        ("off_delay_s: 10", "off_delay_s: -1", ["rules[0].off_delay_s", "-1"]),
        ("valid_until: 2030-12-31", "valid_until: 2026-02-28", ["valid_until", "before it begins"]),
        ("valid_until: 2030-12-31", "valid_until: soon", ["valid_until", "'soon'"]),
    ],
)
def test_an_error_says_where_what_and_what_is_allowed(old: str, new: str, parts: list[str]) -> None:
    """Every wrong entry is refused at load with its place and what would be right."""
    assert old in PACK
    error = refusal(PACK.replace(old, new, 1))
    missing = [part for part in ("plant.yaml", *parts) if part not in error]

    assert ([], error) == (missing, error)


SIGNALS: list[tuple[dict[str, Any], list[str]]] = [
    ({"quantity": None}, ["rules[0]", "says nothing to watch", "quantity, silence, index, all"]),
    ({"index": "aqi-2026"}, ["rules[0].index", "beside 'quantity'"]),
    ({"index": "aqi", "quantity": None}, ["rules[0].index", "aqi"]),
    ({"quantity": None, "index": "aqi-2026", "unit": None, "stat": "hour"},
     ["rules[0].stat", "does not go with 'index'"]),
    ({"quantity": None, "index": "river-class", "unit": "mg/L"},
     ["rules[0].unit", "mixes units", "allowed: 1"]),
    ({"quantity": None, "index": "river-class", "unit": None, "high": {**HIGH, "limit": 7}},
     ["rules[0].high.limit", "can never be measured", "1 to 6"]),
    ({"stat": "median"}, ["rules[0].stat", "'median'"]),
    ({"stat": "silence"}, ["rules[0].stat", "does not go with stat 'silence'"]),
    ({"unit": None}, ["rules[0]", "has no unit", "ug/m3, mg/m3, g/m3"]),
    ({"stat": "mean"}, ["rules[0]", "stat 'mean' needs window", "window: 1h"]),
    ({"stat": "rate", "unit": "ug/m3/min"}, ["rules[0]", "'rate' needs window"]),
    ({"window": "1h"}, ["rules[0].window", "does not go with stat 'value'", "mean"]),
    ({"stat": "mean", "window": "31d"}, []),
    ({"stat": "mean", "window": "32d"}, ["rules[0].window", "out of bounds", "31d"]),
    ({"stat": "mean", "window": "soon"}, ["rules[0].window", "'soon' is not a duration"]),
    ({"stat": "mean", "window": 90.5}, ["rules[0].window", "not whole seconds"]),
    ({"stat": "mean", "window": "1h", "step": "7m"}, ["rules[0].step", "does not divide"]),
    ({"stat": "mean", "window": "14h", "step": "7h"}, ["rules[0].step", "the day"]),
    ({"stat": "mean", "window": "31d", "step": "1m"}, ["rules[0].step", "more than 1500 parts"]),
    ({"stat": "mean", "window": "1h", "at_least": 1.2}, ["rules[0].at_least", "up to 1"]),
    ({"stat": "hour", "at_least": "2h"}, ["rules[0].at_least", "not a part of the hour"]),
    ({"stat": "mean", "window": "1h", "flags": "NT"}, ["rules[0].flags", "stat flagged, value"]),
    ({"stat": "flagged", "unit": None}, ["rules[0]", "'flagged' needs flags"]),
    ({"flags": "NX"}, ["rules[0].flags", "unknown flag 'X'", "NFMSDCTB"]),
    ({"stat": "share", "unit": "%", "window": "1h"}, ["rules[0]", "needs band"]),
    ({"stat": "share", "unit": "%", "window": "1h", "band": [5, 1]},
     ["rules[0].band", "reversed", "5 is above 1"]),
    ({"stat": "share", "unit": "%", "window": "1h", "band": [6000, 7000]},
     ["rules[0].band", "0 to 5000 ug/m3"]),
    ({"stat": "share", "unit": "ug/m3", "window": "1h", "band": [0, 1]},
     ["rules[0].unit", "allowed: 1, %"]),
    ({"stat": "stuck"}, ["rules[0].unit", "s, min, h"]),
    ({"stat": "rate", "window": "1m"}, ["rules[0].unit", "ug/m3/s, ug/m3/min"]),
    ({"stat": "rate", "window": "1m", "unit": "ug/m3/min", "high": {**HIGH, "limit": 6000}},
     ["rules[0].high.limit", "-5000 to 5000 ug/m3/min"]),
    ({"stat": "sd", "window": "1h", "high": {**HIGH, "limit": 2501}},
     ["rules[0].high.limit", "0 to 2500"]),
    ({"when": {"hours": "22-05"}}, ["rules[0].when.hours", "22:00-05:00"]),
    ({"when": {"days": ["sunday"]}}, ["rules[0].when.days", "sunday"]),
    ({"when": {"months": [13]}}, ["rules[0].when.months", "13"]),
    ({"stat": "hour", "when": {}}, ["rules[0].when", "stat value"]),
    ({"at": "air-gas"}, ["rules[0].at", "give device_kinds"]),
    ({"at": "air-gass"}, ["rules[0].at", "did you mean 'air-gas'"]),
    ({"at": "gas-node"}, ["rules[0].at", "does not measure 'so2'"]),
    ({"over": {"quantity": "no2"}, "minus": {"quantity": "no2"}}, ["rules[0].minus", "'over'"]),
    ({"over": {"quantity": "no22"}}, ["rules[0].over.quantity", "did you mean 'no2'"]),
    ({"over": {"quantity": "no2", "stat": "hour"}}, ["rules[0].over", "every hour"]),
    ({"over": {"quantity": "no2", "unit": "ug/m3"}}, ["rules[0].over.unit", "not needed"]),
    ({"over": {"quantity": "no2", "over": {"quantity": "o3"}}}, ["rules[0].over", "one comparison"]),
    ({"over": {"index": "aqi-2026"}}, ["rules[0].over", "has no quantity"]),
    ({"over": {"quantity": "no2", "stat": "stuck"}}, ["rules[0].over.stat", "not compared"]),
    ({"over": {"quantity": "no2"}}, ["rules[0].unit", "allowed: 1, %"]),
    ({"unit": "1", "over": {"quantity": "methane"}},
     ["rules[0].unit", "mixes units", "ug/m3 per %LEL"]),
    ({"over": {"quantity": "plant_load"}, "unit": "ug/m3 per %"},
     ["rules[0].over.quantity", "not measured by air-station, air-gas", "at:"]),
    ({"over": {"quantity": "plant_load", "at": "plant-meter"}, "unit": "ug/m3 per %"},
     ["rules[0].over.at", "does not stand at the sites"]),
    ({"minus": {"quantity": "co"}}, ["rules[0].minus", "mixes units", "ug/m3", "mg/m3"]),
    ({"minus": {"quantity": "temperature"}}, ["rules[0].minus", "mixes units", "degC"]),
    ({"stat": "mean", "window": "1h", "over": {"quantity": "no2", "stat": "mean", "window": "2h"}},
     ["rules[0].over", "every 600 s", "every 300 s"]),
    ({"severity": "low"}, ["rules[0].severity", "each limit has its own"]),
    ({"high": None}, ["rules[0]", "has no limit", "low_low, low, high, high_high"]),
    ({"high": {**HIGH, "limit": float("inf")}}, ["rules[0].high.limit", "inf"]),
    ({"high": {**HIGH, "deadband": float("inf")}}, ["rules[0].high.deadband", "never clear"]),
    ({"in_a_row": 0}, ["rules[0].in_a_row", "0"]),
    ({"realarm_s": 0}, ["rules[0].realarm_s", "0"]),
    ({"acknowledge": "never"}, ["rules[0].acknowledge", "'never'"]),
    ({"actions": ["open_valve"]}, ["rules[0].actions", "open_valve"]),
    ({"actions": ["ventilate", "ventilate"]}, ["rules[0].actions", "twice"]),
    ({"escalate": [{"after_s": 9, "to": "district"}, {"after_s": 9, "to": "city"}]},
     ["rules[0].escalate[1].after_s", "above the step before it (9)"]),
    ({"escalate": [{"after_s": 1, "to": "city"}, {"after_s": 2, "to": "district"}]},
     ["rules[0].escalate[1].to", "district, then city"]),
    ({"suppressed_by": [{"rule": "x", "within": "street"}]}, ["suppressed_by", "street"]),
    ({"valid_from": "2031-01-01", "valid_until": "2030-01-01"}, ["rules[0].valid_until", "before"]),
    ({"all": [{**LOW_PRESSURE}]}, ["rules[0].all", "beside 'quantity'"]),
]  # fmt: skip


@pytest.mark.parametrize(("change", "parts"), SIGNALS, ids=lambda part: str(part)[:60])
def test_a_signal_that_makes_no_sense_is_refused(change: dict[str, Any], parts: list[str]) -> None:
    """Each field goes with some statistics only, and each number must be possible."""
    rule = {key: part for key, part in signal(**change).items() if part is not None}
    if not parts:
        assert pack_of(Document(file_of(rule), "plant.yaml")).rules
        return
    error = refusal(file_of(rule))
    missing = [part for part in parts if part not in error]

    assert ([], error) == (missing, error)


DEEP: dict[str, Any] = LOW_PRESSURE
for _ in range(9):
    DEEP = {"all": [DEEP]}
COMBINATIONS: list[tuple[dict[str, Any], list[str]]] = [
    ({"all": [LOW_PRESSURE], "severity": None}, ["rules[0]", "no severity", "medium"]),
    ({"all": []}, ["rules[0].all", "is empty"]),
    ({"all": [LOW_PRESSURE], "any": [LOW_PRESSURE]}, ["rules[0].any", "beside 'all'"]),
    ({"all": [LOW_PRESSURE], "high": HIGH}, ["rules[0].high", "conditions in 'all'"]),
    ({"all": [LOW_PRESSURE], "in_a_row": 2}, ["rules[0].in_a_row"]),
    ({"all": [LOW_PRESSURE], "unit": "kPa"}, ["rules[0].unit", "does not go with 'all'"]),
    ({"not": LOW_PRESSURE}, ["rules[0].not", "must not hold", "before it"]),
    ({"all": [{"not": LOW_PRESSURE}, LOW_PRESSURE]}, ["rules[0].all", "must not hold"]),
    ({"all": [{**LOW_PRESSURE, "above": 1}]}, ["rules[0].all[0]", "above and below"]),
    ({"all": [{"quantity": "so2", "unit": "ug/m3"}]}, ["rules[0].all[0]", "neither"]),
    ({"all": [{**LOW_PRESSURE, "hold_s": 86401}]}, ["rules[0].all[0].hold_s", "86400"]),
    ({"all": [{**LOW_PRESSURE, "below": 1e6}]}, ["rules[0].all[0].below", "never be measured"]),
    ({"all": [{**LOW_PRESSURE, "deadband": 1e6}]}, ["rules[0].all[0].deadband", "never clear"]),
    ({"all": [{**LOW_PRESSURE, "unit": "degC"}]}, ["rules[0].all[0].unit", "mixes units"]),
    ({"any": [LOW_PRESSURE, {"all": [LOW_PRESSURE], "above": 1}]},
     ["rules[0].any[1].above", "'all'"]),
    ({"any": [LOW_PRESSURE, {"all": [LOW_PRESSURE], "hold_s": 60}]},
     ["rules[0].any[1].hold_s", "say it of the signals in it"]),
    ({"any": [LOW_PRESSURE, {"not": {**LOW_PRESSURE, "quantity": "gas_presure"}}]},
     ["rules[0].any[1].not.quantity", "did you mean 'gas_pressure'"]),
    ({"any": [LOW_PRESSURE, {"quantity": "methane", "unit": "%LEL", "above": 25}]},
     ["rules[0].any[1].quantity", "not measured by gas-node, gas-valve", "gas-detector"]),
    ({"any": [LOW_PRESSURE, {"quantity": "methane", "unit": "%LEL", "above": 25,
                             "at": "gas-detector"}]}, []),
    ({"count": {"at_least": 0, "within": "site", "of": LOW_PRESSURE}},
     ["rules[0].count.at_least", "0"]),
    ({"count": {"at_least": 2, "within": "device", "of": LOW_PRESSURE}},
     ["rules[0].count.within", "device"]),
    ({"count": {"at_least": 2, "within": "site",
                "of": {"count": {"at_least": 2, "within": "city", "of": LOW_PRESSURE}}}},
     ["rules[0].count.of.count", "within a count"]),
    ({"count": {"at_least": 2, "within": "site", "of": {**LOW_PRESSURE, "belw": 1}}},
     ["rules[0].count.of.belw", "did you mean 'below'"]),
    ({"all": [LOW_PRESSURE], "device_kinds": ["gas-detector"]},
     ["rules[0].device_kinds", "does not measure 'gas_pressure'"]),
    (DEEP, ["nested more than 8 deep"]),
]  # fmt: skip


@pytest.mark.parametrize(("change", "parts"), COMBINATIONS, ids=lambda part: str(part)[:60])
def test_a_combination_that_makes_no_sense_is_refused(
    change: dict[str, Any], parts: list[str]
) -> None:
    """Each condition is checked like a rule, with the path to it."""
    rule = {key: part for key, part in combined(**change).items() if part is not None}
    if not parts:
        assert pack_of(Document(file_of(rule), "plant.yaml")).rules
        return
    error = refusal(file_of(rule))
    missing = [part for part in parts if part not in error]

    assert ([], error) == (missing, error)


def test_a_rule_nested_in_itself_is_refused() -> None:
    """A YAML anchor can make a condition contain itself; that is told, not followed."""
    text = "pack: p\ntitle: t\nstandard: s\nrules:\n  - id: r\n    severity: low\n"
    text += "    all: &again\n      - all: *again\n"

    assert "nested too deeply, or in itself" in refusal(text)


@pytest.mark.parametrize("silent", [{"device_kinds": ["gas-nod"]}, {"device_kinds": ["gas-node"]}])
def test_any_kind_of_device_may_be_silent(silent: dict[str, Any]) -> None:
    """A rule of silence is about every kind that there is, but about no other."""
    rule = {"silence": {"intervals": 3}, "high": {"limit": 0, "severity": "low"}, **silent}
    if silent["device_kinds"] == ["gas-node"]:
        assert pack_of(Document(file_of(rule), "plant.yaml")).rules
    else:
        assert "did you mean 'gas-node'" in refusal(file_of(rule))


def test_a_suppressor_that_no_pack_has_is_refused() -> None:
    """A rule cannot wait for an alarm that will never come; a shipped pack's will do."""
    text = file_of(signal(suppressed_by=[{"rule": "gas-brust"}]))
    with pytest.raises(DocumentError) as caught:
        rule_set([Document(text, "own.yaml")])
    good = rule_set([Document(text.replace("gas-brust", "gas-burst"), "own.yaml")])

    assert "own.yaml:" in str(caught.value)
    assert "rules[0].suppressed_by[0].rule: no pack has a rule 'gas-brust'" in str(caught.value)
    assert "did you mean 'gas-burst'" in str(caught.value)
    assert 1 == len(good.rules)


def test_rules_that_suppress_each_other_are_refused_across_files(tmp_path: Path) -> None:
    """The circle is told with all of its rules, wherever they stand."""
    links = {"one": "two", "two": "three", "three": "one"}
    paths = []
    for name, other in links.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(file_of(signal(id=name, suppressed_by=[{"rule": other}])))
        paths.append(path)
    with pytest.raises(DocumentError) as caught:
        load_packs([], files=paths)

    assert "one is suppressed by two is suppressed by three is suppressed by one" in str(
        caught.value
    )
    assert "one.yaml:" in str(caught.value)


def test_a_rule_that_suppresses_itself_is_refused() -> None:
    """The smallest circle is one too."""
    document = Document(file_of(signal(suppressed_by=[{"rule": "r0"}])), "own.yaml")

    with pytest.raises(DocumentError, match="r0 is suppressed by r0"):
        rule_set([document])


def test_a_chain_of_suppression_is_fine() -> None:
    """Only circles are refused, not rules that two others suppress."""
    chain = [
        signal(),
        signal(suppressed_by=[{"rule": "r0"}]),
        signal(suppressed_by=[{"rule": "r0"}, {"rule": "r1"}]),
    ]

    assert 3 == len(rule_set([Document(file_of(*chain), "own.yaml")]).rules)


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split()[1])
def test_every_example_of_the_guide_is_a_rule_file(text: str) -> None:
    """What docs/rules.md shows can be copied."""
    assert rule_set([Document(text, "rules.md")]).rules


def test_the_guide_has_an_example_of_each_kind() -> None:
    """No kind of rule is left to guess."""
    sets = [rule_set([Document(text, "rules.md")]) for text in EXAMPLES]
    kinds = {rule.kind for rules in sets for rule in rules.rules}

    assert {
        "limit", "average", "rate", "range", "share", "silence", "stuck", "flags", "index",
        "comparison", "count", "composite",
    } == kinds  # fmt: skip


WORDS = st.sampled_from(
    ["so2", "gas_pressure", "ug/m3", "kPa", "mean", "1h", "all", "high", "x", -1, 0, 7.5, None]
)
KEYS = st.sampled_from(
    ["quantity", "unit", "stat", "window", "step", "at_least", "band", "flags", "when", "at",
     "over", "minus", "silence", "index", "all", "any", "not", "count", "severity", "high", "low",
     "above", "below", "escalate", "suppressed_by", "actions", "of", "within", "limit"]
)  # fmt: skip
TREES = st.recursive(
    WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)
)


def spots(content: Any) -> list[tuple[Any, Any]]:
    """Every container and key in it, below `content`."""
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    found = [(content, key) for key in keys]
    for key in keys:
        if isinstance(content[key], dict | list):
            found += spots(content[key])
    return found


@given(st.sampled_from(EXAMPLES), st.data())
def test_whatever_stands_in_a_rule_is_loaded_or_refused(text: str, data: st.DataObject) -> None:
    """Nothing put anywhere into a good file leads to another error than one that names it."""
    content = yaml.safe_load(text)
    container, key = data.draw(st.sampled_from(spots(content["rules"])))
    if isinstance(container, dict) and data.draw(st.booleans()):
        key = data.draw(KEYS)
    container[key] = data.draw(TREES)
    problem = ""
    try:
        rule_set([Document(yaml.safe_dump(content), "any.yaml")])
    except DocumentError as error:
        problem = str(error)

    assert problem.startswith("any.yaml") or not problem
