from datetime import date

import pytest

from alerts.gates import Level
from alerts.rules import Leaf, Rule, RuleSet, Suppressor, load_packs, shipped_packs
from broker.messages import Severity
from city.kinds import DEVICE_KINDS, PLANT_KINDS, PlantKind
from city.quantities import QUANTITIES

Figure = tuple[str, str, str, str, float, str, str, str]

WHO = "WHO global air quality guidelines 2021"
# quantity or index, statistic, plant kind, level, limit, unit, standard, grade
FIGURES: list[Figure] = [
    # GB 3095-2026, Table 1, class 2, and the breakpoints of HJ 633-2026
    ("so2", "hour", "", "H", 500, "ug/m3", "GB 3095-2026", "A"),
    ("so2", "hour", "", "HH", 800, "ug/m3", "HJ 633-2026", "A"),
    ("no2", "hour", "", "H", 200, "ug/m3", "GB 3095-2026", "A"),
    ("no2", "hour", "", "HH", 1200, "ug/m3", "HJ 633-2026", "A"),
    ("co", "hour", "", "H", 10, "mg/m3", "GB 3095-2026", "A"),
    ("co", "hour", "", "HH", 60, "mg/m3", "HJ 633-2026", "A"),
    ("o3", "hour", "", "H", 200, "ug/m3", "GB 3095-2026", "A"),
    ("o3", "hour", "", "HH", 400, "ug/m3", "HJ 633-2026", "A"),
    ("pm25", "hour", "", "H", 115, "ug/m3", "HJ 633-2026", "A"),
    ("pm25", "hour", "", "HH", 150, "ug/m3", "HJ 633-2026", "A"),
    ("pm10", "hour", "", "H", 250, "ug/m3", "HJ 633-2026", "A"),
    ("pm10", "hour", "", "HH", 350, "ug/m3", "HJ 633-2026", "A"),
    ("o3", "hours-8", "", "H", 160, "ug/m3", "GB 3095-2026", "A"),
    ("o3", "mda8", "", "H", 160, "ug/m3", "GB 3095-2026", "A"),
    ("co", "hours-24", "", "H", 4, "mg/m3", "GB 3095-2026", "A"),
    ("so2", "hours-24", "", "H", 150, "ug/m3", "GB 3095-2026", "A"),
    ("so2", "hours-24", "", "H", 50, "ug/m3", "GB 3095-2026", "A"),
    ("no2", "hours-24", "", "H", 80, "ug/m3", "GB 3095-2026", "A"),
    ("no2", "hours-24", "", "H", 50, "ug/m3", "GB 3095-2026", "A"),
    ("pm10", "hours-24", "", "H", 120, "ug/m3", "GB 3095-2026", "A"),
    ("pm10", "hours-24", "", "H", 100, "ug/m3", "GB 3095-2026", "A"),
    ("pm25", "hours-24", "", "H", 60, "ug/m3", "GB 3095-2026", "A"),
    ("pm25", "hours-24", "", "H", 50, "ug/m3", "GB 3095-2026", "A"),
    ("aqi-2026", "index", "", "H", 150, "1", "HJ 633-2026", "A"),
    ("aqi-2026", "index", "", "HH", 200, "1", "HJ 633-2026", "A"),
    # GB 3095-2012, Table 1, class 2
    ("so2", "hour", "", "H", 500, "ug/m3", "GB 3095-2012", "B"),
    ("no2", "hour", "", "H", 200, "ug/m3", "GB 3095-2012", "B"),
    ("co", "hour", "", "H", 10, "mg/m3", "GB 3095-2012", "B"),
    ("o3", "hour", "", "H", 200, "ug/m3", "GB 3095-2012", "B"),
    ("o3", "hours-8", "", "H", 160, "ug/m3", "GB 3095-2012", "B"),
    ("so2", "hours-24", "", "H", 150, "ug/m3", "GB 3095-2012", "B"),
    ("no2", "hours-24", "", "H", 80, "ug/m3", "GB 3095-2012", "B"),
    ("co", "hours-24", "", "H", 4, "mg/m3", "GB 3095-2012", "B"),
    ("pm10", "hours-24", "", "H", 150, "ug/m3", "GB 3095-2012", "B"),
    ("pm25", "hours-24", "", "H", 75, "ug/m3", "GB 3095-2012", "B"),
    ("aqi-2012", "index", "", "H", 150, "1", "HJ 633-2012", "A"),
    ("aqi-2012", "index", "", "HH", 200, "1", "HJ 633-2012", "A"),
    # elsewhere
    ("pm25", "hours-24", "", "H", 15, "ug/m3", WHO, "B"),
    ("pm10", "hours-24", "", "H", 45, "ug/m3", WHO, "B"),
    ("no2", "hours-24", "", "H", 25, "ug/m3", WHO, "B"),
    ("so2", "hours-24", "", "H", 40, "ug/m3", WHO, "X"),
    ("co", "hours-24", "", "H", 4, "mg/m3", WHO, "B"),
    ("o3", "hours-8", "", "H", 100, "ug/m3", WHO, "B"),
    ("us-epa-2024", "index", "", "H", 150, "1", "EPA-454/B-24-002", "A"),
    ("us-epa-2024", "index", "", "HH", 200, "1", "EPA-454/B-24-002", "A"),
    # water
    ("river-class", "index", "", "H", 3, "1", "GB 3838-2002", "B"),
    ("river-class", "index", "", "HH", 5, "1", "GB 3838-2002", "B"),
    ("ammonia_n", "value", "", "H", 1, "mg/L", "Engineering default", "D"),
    # gas
    ("gas_pressure", "rate", "", "L", -80, "kPa/min", "Engineering default", "D"),
    ("ph", "hour", "", "L", 6, "pH", "GB 3838-2002", "B"),
    ("ph", "hour", "", "H", 9, "pH", "GB 3838-2002", "B"),
    ("dissolved_oxygen", "hour", "", "L", 5, "mg/L", "GB 3838-2002", "B"),
    ("dissolved_oxygen", "hour", "", "LL", 2, "mg/L", "GB 3838-2002", "B"),
    ("codmn", "hour", "", "H", 6, "mg/L", "GB 3838-2002", "B"),
    ("codmn", "hour", "", "HH", 15, "mg/L", "GB 3838-2002", "B"),
    ("ammonia_n", "hour", "", "H", 1, "mg/L", "GB 3838-2002", "B"),
    ("ammonia_n", "hour", "", "HH", 2, "mg/L", "GB 3838-2002", "B"),
    ("total_p", "hour", "", "H", 0.2, "mg/L", "GB 3838-2002", "B"),
    ("total_p", "hour", "", "HH", 0.4, "mg/L", "GB 3838-2002", "B"),
    ("gas_pressure", "value", "", "LL", 75, "kPa", "Engineering default", "D"),
    ("gas_pressure", "value", "", "L", 85, "kPa", "Engineering default", "D"),
    ("gas_pressure", "value", "", "H", 105, "kPa", "Engineering default", "D"),
    ("gas_pressure", "value", "", "HH", 110, "kPa", "Engineering default", "D"),
    ("methane", "value", "", "H", 25, "%LEL", "GB/T 50493-2019", "B"),
    ("methane", "value", "", "HH", 50, "%LEL", "GB/T 50493-2019", "B"),
    ("stack_pm_corrected", "hour", "coal-boiler", "H", 30, "mg/m3", "GB 13223-2011", "D"),
    ("stack_so2_corrected", "hour", "coal-boiler", "H", 100, "mg/m3", "GB 13223-2011", "B"),
    ("stack_nox_corrected", "hour", "coal-boiler", "H", 100, "mg/m3", "GB 13223-2011", "B"),
    ("stack_pm_corrected", "hour", "gas-turbine", "H", 5, "mg/m3", "GB 13223-2011", "D"),
    ("stack_so2_corrected", "hour", "gas-turbine", "H", 35, "mg/m3", "GB 13223-2011", "B"),
    ("stack_nox_corrected", "hour", "gas-turbine", "H", 50, "mg/m3", "GB 13223-2011", "B"),
    ("stack_pm_corrected", "hour", "ceramics-kiln", "H", 30, "mg/m3", "GB 25464-2010", "B"),
    ("stack_so2_corrected", "hour", "ceramics-kiln", "H", 50, "mg/m3", "GB 25464-2010", "B"),
    ("stack_nox_corrected", "hour", "ceramics-kiln", "H", 180, "mg/m3", "GB 25464-2010", "B"),
    ("stack_pm_corrected", "hour", "steel-sinter", "H", 50, "mg/m3", "GB 28662-2012", "D"),
    ("stack_so2_corrected", "hour", "steel-sinter", "H", 200, "mg/m3", "GB 28662-2012", "D"),
    ("stack_nox_corrected", "hour", "steel-sinter", "H", 300, "mg/m3", "GB 28662-2012", "D"),
    ("effluent_cod", "hour", "sewage-works", "H", 50, "mg/L", "GB 18918-2002", "B"),
    ("effluent_ammonia_n", "hour", "sewage-works", "H", 5, "mg/L", "GB 18918-2002", "B"),
    ("effluent_total_n", "hour", "sewage-works", "H", 15, "mg/L", "GB 18918-2002", "D"),
    ("effluent_total_p", "hour", "sewage-works", "H", 0.5, "mg/L", "GB 18918-2002", "B"),
    ("effluent_ph", "hour", "sewage-works", "L", 6, "pH", "GB 18918-2002", "D"),
    ("effluent_ph", "hour", "sewage-works", "H", 9, "pH", "GB 18918-2002", "D"),
    ("effluent_cod", "hour", "brewery", "H", 80, "mg/L", "GB 19821-2005", "B"),
    ("effluent_ammonia_n", "hour", "brewery", "H", 15, "mg/L", "GB 19821-2005", "B"),
    ("effluent_total_p", "hour", "brewery", "H", 3, "mg/L", "GB 19821-2005", "D"),
    ("effluent_ph", "hour", "brewery", "L", 6, "pH", "GB 19821-2005", "D"),
    ("effluent_ph", "hour", "brewery", "H", 9, "pH", "GB 19821-2005", "D"),
]
DETECTORS = {"data-quality", "falsification", "fleet-health"}
"""Packs of engineering defaults, tried on history and not held against a standard."""
RULES: RuleSet = load_packs(name for name in shipped_packs() if name not in DETECTORS)
DAY = date(2026, 6, 1)
AT_MOST: dict[Severity, float] = {"critical": 0.05, "high": 0.05, "medium": 0.25}
"""The part of all limits of the usual packs that may have such a severity."""


def shipped_figures() -> set[Figure]:
    """Every limit of the shipped packs as a row of the table above."""
    return {
        (rule.head.signal.name, rule.head.signal.stat, plant, limit.level, limit.limit, rule.unit,
         limit.standard, limit.grade)
        for rule in RULES.rules
        for plant in (rule.plant_kinds or {""})
        for limit in rule.limits
    }  # fmt: skip


def limits() -> list[tuple[Rule, Level]]:
    """Every limit of the shipped packs, by rule and level."""
    return [(rule, limit.level) for rule in RULES.rules for limit in rule.limits]


def test_the_packs_hold_these_figures_and_no_others() -> None:
    """Each shipped limit is one of the figures written down a second time here."""
    assert set(FIGURES) == shipped_figures()


@pytest.mark.parametrize(("name", "path"), shipped_packs().items(), ids=str)
def test_a_pack_is_named_like_its_file(name: str, path: object) -> None:
    """A pack is loaded by the name that it gives itself."""
    (pack,) = load_packs([name]).packs

    assert (name, str(path)) == (pack.id, pack.source)


@pytest.mark.parametrize(("rule", "level"), limits(), ids=lambda part: getattr(part, "id", part))
def test_a_limit_names_its_clause(rule: Rule, level: Level) -> None:
    """No shipped limit stands without the place in the standard that it comes from."""
    limit = rule.limit(level)

    assert "" not in {limit.standard.strip(), limit.clause.strip()}


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.id)
def test_an_unverified_figure_of_a_standard_says_so(rule: Rule) -> None:
    """A figure of grade D is shown as a default or as not verified, never as what a standard says."""
    unverified = [limit for limit in rule.limits if limit.grade == "D"]
    open_about_it = [
        limit
        for limit in unverified
        if "not verified" in limit.clause or limit.standard == "Engineering default"
    ]

    assert unverified == open_about_it


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.id)
def test_a_rule_says_in_both_languages_what_is_wrong(rule: Rule) -> None:
    """People in the control room read either language."""
    assert "" not in {rule.message, rule.message_zh}


@pytest.mark.parametrize("plant", PLANT_KINDS.values(), ids=lambda plant: plant.id)
def test_a_plant_is_held_against_its_own_standard(plant: PlantKind) -> None:
    """The limits of a kind of plant come from the standard that the kind names."""
    rules = [rule for rule in RULES.rules if plant.id in rule.plant_kinds]
    standards = {limit.standard for rule in rules for limit in rule.limits}

    assert {plant.standard} == standards


@pytest.mark.parametrize("quantity", ["pm25", "so2", "ph", "codmn", "gas_pressure", "methane"])
def test_every_device_that_measures_a_quantity_is_watched(quantity: str) -> None:
    """Limits of the environment hold for all kinds of device."""
    kinds = [kind.id for kind in DEVICE_KINDS.values() if quantity in kind.quantities]
    rules = [rule for rule in load_packs().rules if rule.head.signal.quantity == quantity]
    watched = [kind for kind in kinds if any(rule.applies(kind, None) for rule in rules)]

    assert kinds == watched


@pytest.mark.parametrize(
    "leaf", [leaf for rule in RULES.rules for leaf in rule.leaves], ids=lambda leaf: leaf.id
)
def test_a_rule_stands_in_the_canonical_unit(leaf: Leaf) -> None:
    """Events show the unit in which the quantity is sent and stored."""
    signal = leaf.signal
    unit = QUANTITIES[signal.quantity].unit if signal.quantity else "1"

    assert (f"{unit}/min" if signal.stat == "rate" else unit) == leaf.unit


@pytest.mark.parametrize(("severity", "at_most"), AT_MOST.items())
def test_few_limits_are_urgent(severity: Severity, at_most: float) -> None:
    """Most alarms need no hurry; where everything is urgent, nothing is."""
    severities = [limit.severity for rule in RULES.rules for limit in rule.limits]

    assert 0 < severities.count(severity) <= at_most * len(severities)


def test_a_stack_is_judged_by_its_hour() -> None:
    """HJ 212-2017, D.2.2: the 1-hour mean at reference oxygen above the limit is an alarm."""
    stacks = [rule for rule in RULES.rules if rule.id.startswith("stack-")]
    signals = {(rule.head.signal.stat, rule.head.signal.at_least) for rule in stacks}
    corrected = {rule.head.signal.quantity.endswith("_corrected") for rule in stacks}

    assert ({("hour", 0.75)}, {True}) == (signals, corrected)


def test_one_version_of_each_daily_limit_is_in_force() -> None:
    """The transition's limits and the final ones are never used on the same day."""
    rules = load_packs(["air-gb3095-2026"])
    daily, final = (
        [
            rule
            for rule in rules.on(day).rules
            if rule.head.signal.stat == "hours-24" and not rule.is_composite
        ]
        for day in (DAY, date(2031, 1, 1))
    )

    assert {"so2", "no2", "co", "pm10", "pm25"} == {rule.head.signal.quantity for rule in daily}
    assert (5, 5) == (len(daily), len(final))
    assert all(rule.id.endswith("-final") for rule in final if rule.id != "co-day")


@pytest.mark.parametrize("rule", load_packs(["air-gb3095-2026"]).rules, ids=lambda rule: rule.id)
def test_a_district_is_told_by_the_same_limit(rule: Rule) -> None:
    """What suppresses the alarms of devices has their limit, deadband and days in force."""
    for suppressor in rule.suppressed_by:
        district = RULES.rule(suppressor.rule)
        here, there = rule.limit("H"), district.head.limits[0]

        assert rule.head.signal == district.head.signal
        assert (here.limit, here.deadband) == (there.limit, there.deadband)
        assert (rule.valid_from, rule.valid_until) == (district.valid_from, district.valid_until)


def test_a_burst_closes_valves_and_silences_low_pressure() -> None:
    """It stays until a person resets it, and the section it cut off does not complain."""
    burst = RULES.rule("gas-burst")

    assert (True, ("close_valve", "repair_order")) == (burst.latched, burst.actions)
    assert (Suppressor("gas-burst", "section"),) == RULES.rule("gas-pressure").suppressed_by


def test_a_burst_is_set_within_the_range_of_line_break_valves() -> None:
    """They can be set from 34 to 830 kPa/min."""
    rates = {
        leaf.limits[0].limit for leaf in RULES.rule("gas-burst").leaves if leaf.unit == "kPa/min"
    }

    assert {True} == {34 <= -rate <= 830 for rate in rates}
