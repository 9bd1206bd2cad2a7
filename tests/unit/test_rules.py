from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.rules import Pack, load_packs, pack_of, read_rules, shipped_packs
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


@pytest.fixture
def changed() -> Callable[[str, str], str]:
    """The error that replacing one part of the pack by another leads to."""

    def error_of(old: str, new: str) -> str:
        assert old in PACK
        with pytest.raises(DocumentError) as caught:
            pack_of(Document(PACK.replace(old, new, 1), "plant.yaml"))
        return str(caught.value)

    return error_of


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
    watch = pack.rules[0].watch
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
        ("unit: ug/m3", "unit: mg/L", ["rules[0].unit", "'mg/L'", "ug/m3, mg/m3, g/m3"]),
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
def test_an_error_says_where_what_and_what_is_allowed(
    changed: Callable[[str, str], str], old: str, new: str, parts: list[str]
) -> None:
    """Every wrong entry is refused at load with its place and what would be right."""
    error = changed(old, new)
    missing = [part for part in ("plant.yaml", *parts) if part not in error]

    assert ([], error) == (missing, error)


def test_a_rule_without_limits_is_refused() -> None:
    """A rule that can never say anything is a mistake."""
    lines = [line for line in PACK.splitlines() if "high" not in line and "low:" not in line]

    with pytest.raises(DocumentError, match=r"rules\[0\]: rule 'so2-air' has no limit; give one"):
        pack_of(Document("\n".join(lines), "plant.yaml"))


def test_a_pack_without_rules_is_refused() -> None:
    """An empty rule file is a mistake."""
    with pytest.raises(DocumentError, match="rules"):
        pack_of(Document(PACK[: PACK.index("rules:")] + "rules: []", "plant.yaml"))


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
def test_a_pack_out_of_its_dates_is_used_and_said_so(day: date, expected: list[str]) -> None:
    """A simulated city may live in any year: its rules hold, with a remark."""
    rules = load_packs(["air-gb3095-2026"])
    remarks = [remark.partition(", ")[2] for remark in rules.remarks(day)]

    assert expected == remarks


def test_all_shipped_packs_are_loaded_when_none_is_named() -> None:
    """Without a choice, everything that comes with CityEye watches."""
    assert tuple(shipped_packs()) == tuple(pack.id for pack in load_packs().packs)


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

    with pytest.raises(DocumentError, match=r"two\.yaml: rule 'so2-air' stands in .*one\.yaml too"):
        load_packs([], files=paths)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    """A path that leads nowhere is said so."""
    with pytest.raises(DocumentError, match=r"none\.yaml: cannot be read"):
        read_rules(tmp_path / "none.yaml")
