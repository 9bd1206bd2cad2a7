"""`cityeye rules`: list, show, explain and check."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from alerts.rules import load_packs, pack_of, shipped_packs
from city.cityfile import load_city
from city.documents import Document
from city.errors import DocumentError
from cli.rulebook import rules_app
from cli.rulesentences import Explanation

RULES = load_packs(shipped_packs())
LANTING = load_city("lanting")
OWN = """\
pack: own
title: Own
standard: Permit 7
grade: D
rules:
  - id: night
    quantity: effluent_flow
    unit: L/s
    plant_kinds: [brewery]
    when: {hours: "22:00-05:00", days: [sat, sun], months: [6, 7]}
    high: {limit: 20, severity: medium, deadband: 2, clause: "3.1"}
    on_delay_s: 90
    off_delay_s: 3600
    in_a_row: 3
    realarm_s: 7200
    suppressed_by: [{rule: mixed, within: site}]
    actions: [stop_unit]
    message: Flow at night
    message_zh: 夜间排水
  - id: mixed
    all:
      - {quantity: stack_o2, unit: "%", stat: sd, window: 2h, below: 0.02, deadband: 0.01, hold_s: 60}
      - {quantity: plant_load, unit: "%", stat: range, window: 2h, at: plant-meter, above: 10}
      - not: {quantity: stack_o2, stat: flagged, flags: FMC, above: 0.5}
    severity: low
    on_delay_s: 600
    acknowledge: automatic
    valid_from: 2026-01-01
  - id: ratio
    quantity: pm25
    stat: mean
    window: 1h
    over: {quantity: pm10, stat: mean, window: 1h}
    unit: "1"
    high: {limit: 1.1, severity: low}
  - id: silent
    silence: {intervals: 3, at_least: 90s}
    high: {limit: 0, severity: low}
  - id: many
    count: {at_least: 4, within: district, of: {silence: {}, above: 0}}
    severity: medium
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    """The path of the rules above."""
    path = tmp_path / "own.yaml"
    path.write_text(OWN, encoding="utf-8")
    return str(path)


def said(*arguments: str) -> Result:
    """What the command says, which must go well."""
    result = CliRunner().invoke(rules_app, arguments, catch_exceptions=False)
    assert 0 == result.exit_code
    return result


def explained(name: str, path: str, **more: Any) -> str:
    """The sentences about one rule of a file."""
    rules = load_packs([], files=[Path(path)])
    return "\n".join(Explanation(rules.rule(name), rules, LANTING, **more).lines())


def test_all_shipped_rules_are_listed() -> None:
    """Without a name, the list is of every shipped pack, the optional ones too."""
    listed = json.loads(said("list", "--json").stdout)["rules"]

    assert [rule.id for rule in RULES.rules] == [row["id"] for row in listed]


def test_a_list_is_of_the_packs_and_files_named(own: str) -> None:
    """Packs by name and files by path, a rule a line when nobody looks at a terminal."""
    lines = said("list", "gas-network", own).stdout.splitlines()
    names = [line.split()[0] for line in lines]

    assert ["rule", "gas-burst", "gas-pressure", "gas-methane", "night", "mixed", "ratio",
            "silent", "many"] == names  # fmt: skip
    assert "L 85, H 105, LL 75, HH 110 kPa" in lines[2]
    assert lines[3].split() == ["gas-methane", "limit", "methane", "H", "25,", "HH", "50", "%LEL",
                                "high,", "critical", "GB/T", "50493-2019"]  # fmt: skip


def test_a_rule_is_shown_as_a_rule_file_of_its_own() -> None:
    """What `show` prints loads, and says the same."""
    shown = pack_of(Document(said("show", "gas-burst").stdout, "shown.yaml"))

    assert load_packs(["gas-network"]).rule("gas-burst") == shown.rules[0]
    assert 1 == len(shown.rules)


def test_a_rule_is_shown_as_json(own: str) -> None:
    """The same content as in YAML, with dates as text."""
    shown = json.loads(said("show", "mixed", "--rules", own, "--json").stdout)
    plain = yaml.safe_load(said("show", "mixed", "--rules", own).stdout)

    assert "2026-01-01" == shown["rules"][0]["valid_from"]
    assert shown == json.loads(json.dumps(plain, default=str))


@pytest.mark.parametrize("name", [rule.id for rule in RULES.rules])
def test_every_shipped_rule_is_explained(name: str) -> None:
    """Each has its source and grade in words, and whether somebody must act."""
    text = "\n".join(Explanation(RULES.rule(name), RULES, LANTING).lines())
    limit = RULES.rule(name).limits[0]

    assert f"By {limit.standard}" in text
    assert f"grade {limit.grade}: " in text
    assert "acknowledge" in text


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("night", ("Watches every device that measures Wastewater flow (effluent_flow): outfall; at "
                  "plants of kind brewery.")),
        ("night", ("Looks at Wastewater flow (effluent_flow) (from 22:00 to 05:00 on sat, sun in "
                  "months 6, 7), in L/s.")),
        ("night", ("H: raised with severity medium above 20 L/s, 3 times in a row for 90 s; cleared "
                  "at 18 L/s or less for 1 h. By Permit 7, 3.1 (grade D: general knowledge or a "
                  "default, not verified).")),
        ("night", "Told again every 2 h while it stands."),
        ("night", "Suppressed while mixed stands at the same site."),
        ("night", "Actions: stop_unit; a dry run, for the city lanting does not arm them."),
        ("mixed", "Raised with severity low while this holds, and that for 10 min:"),
        ("mixed", ("    - the standard deviation of Oxygen (stack_o2) over 2 h (every 10 min, with "
                  "75 % of the window covered) below 0.02 % for 1 min (until 0.03 %)")),
        ("mixed", ", taken at a plant-meter of the same site above 10 %"),
        ("mixed", "    - not:\n      - whether Oxygen (stack_o2) carries one of the flags C, F, M"),
        ("mixed", "In force from 2026-01-01."),
        ("mixed", "Needs nobody's acknowledgement."),
        ("mixed", "Suppresses night at the same site."),
        ("ratio", "divided by the mean of PM10 (pm10) over 1 h"),
        ("ratio", "above 1.1; cleared at 1.1 or less."),
        ("silent", "Watches every device."),
        ("silent", "from 3 of the device's own intervals and 90 s on"),
        ("many", "at 4 or more devices in the same district:"),
    ],
)  # fmt: skip
def test_sentences_say_what_the_rule_does(own: str, name: str, sentence: str) -> None:
    """Devices, statistics, limits with their deadbands and delays, life, suppression, actions."""
    text = explained(name, own)

    assert sentence in text, text


def test_names_are_told_in_chinese(own: str) -> None:
    """The names of what is measured, of devices and plants, and the message."""
    text = explained("night", own, zh=True)

    assert ["夜间排水", "污水流量", "污水排放监测仪", "啤酒厂"] == [
        word for word in ("夜间排水", "污水流量", "污水排放监测仪", "啤酒厂") if word in text
    ]


def test_the_city_arms_what_closes_valves() -> None:
    """The default city arms the rule of bursts, and the explanation says so."""
    sentences = json.loads(said("explain", "gas-burst", "--json").stdout)["sentences"]

    assert "Actions: close_valve, repair_order; the city lanting arms them." == sentences[-1]


def test_good_rule_files_are_counted(own: str) -> None:
    """`rules check` says what is in each file."""
    assert {"pack": "own", "rules": 5, "limits": 5} == json.loads(
        said("check", own, "--json").stdout
    )[own]


def test_a_wrong_rule_file_ends_with_status_two(tmp_path: Path) -> None:
    """The error is one that ends the command with exit status 2, with line and path."""
    path = tmp_path / "bad.yaml"
    path.write_text(OWN.replace("rule: mixed", "rule: mixt"), encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        said("check", str(path))

    assert 2 == caught.value.exit_status
    assert f"{path}:16: rules[0].suppressed_by[0].rule: no pack has a rule 'mixt'" in str(
        caught.value
    )


def test_files_that_are_checked_together_may_name_each_other(tmp_path: Path) -> None:
    """A suppressing rule may stand in another of the files."""
    other = tmp_path / "other.yaml"
    text = "pack: other\ntitle: o\nstandard: s\nrules:\n  - id: far\n    silence: {}\n"
    other.write_text(f"{text}    high: {{limit: 0, severity: low}}\n", encoding="utf-8")
    path = tmp_path / "own.yaml"
    path.write_text(OWN.replace("rule: mixed", "rule: far"), encoding="utf-8")

    assert {str(path), str(other)} == set(
        json.loads(said("check", str(path), str(other), "--json").stdout)
    )


@pytest.mark.parametrize("arguments", [("list", "gas-netwrk"), ("show", "gas-brust")])
def test_a_typing_error_is_explained(arguments: tuple[str, str]) -> None:
    """Unknown packs and rules are refused with the nearest name."""
    with pytest.raises(DocumentError, match="did you mean 'gas-"):
        said(*arguments)
