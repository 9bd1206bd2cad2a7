import pytest

from alerts.gates import Level
from alerts.rules import Rule, RuleSet, load_packs, shipped_packs
from city.kinds import DEVICE_KINDS, PLANT_KINDS, PlantKind
from city.quantities import QUANTITIES

Figure = tuple[str, str, str, float, str, str, str]

# quantity, plant kind, level, limit, unit, standard, grade
FIGURES: list[Figure] = [
    ("so2", "", "H", 500, "ug/m3", "GB 3095-2026", "A"),
    ("so2", "", "HH", 800, "ug/m3", "HJ 633-2026", "A"),
    ("no2", "", "H", 200, "ug/m3", "GB 3095-2026", "A"),
    ("no2", "", "HH", 1200, "ug/m3", "HJ 633-2026", "A"),
    ("co", "", "H", 10, "mg/m3", "GB 3095-2026", "A"),
    ("co", "", "HH", 60, "mg/m3", "HJ 633-2026", "A"),
    ("o3", "", "H", 200, "ug/m3", "GB 3095-2026", "A"),
    ("o3", "", "HH", 400, "ug/m3", "HJ 633-2026", "A"),
    ("pm25", "", "H", 115, "ug/m3", "HJ 633-2026", "A"),
    ("pm25", "", "HH", 150, "ug/m3", "HJ 633-2026", "A"),
    ("pm10", "", "H", 250, "ug/m3", "HJ 633-2026", "A"),
    ("pm10", "", "HH", 350, "ug/m3", "HJ 633-2026", "A"),
    ("ph", "", "L", 6, "pH", "GB 3838-2002", "B"),
    ("ph", "", "H", 9, "pH", "GB 3838-2002", "B"),
    ("dissolved_oxygen", "", "L", 5, "mg/L", "GB 3838-2002", "B"),
    ("dissolved_oxygen", "", "LL", 2, "mg/L", "GB 3838-2002", "B"),
    ("codmn", "", "H", 6, "mg/L", "GB 3838-2002", "B"),
    ("codmn", "", "HH", 15, "mg/L", "GB 3838-2002", "B"),
    ("ammonia_n", "", "H", 1, "mg/L", "GB 3838-2002", "B"),
    ("ammonia_n", "", "HH", 2, "mg/L", "GB 3838-2002", "B"),
    ("total_p", "", "H", 0.2, "mg/L", "GB 3838-2002", "B"),
    ("total_p", "", "HH", 0.4, "mg/L", "GB 3838-2002", "B"),
    ("gas_pressure", "", "LL", 75, "kPa", "Engineering default", "D"),
    ("gas_pressure", "", "L", 85, "kPa", "Engineering default", "D"),
    ("gas_pressure", "", "H", 105, "kPa", "Engineering default", "D"),
    ("gas_pressure", "", "HH", 110, "kPa", "Engineering default", "D"),
    ("methane", "", "H", 25, "%LEL", "GB/T 50493-2019", "B"),
    ("methane", "", "HH", 50, "%LEL", "GB/T 50493-2019", "B"),
    ("stack_pm_corrected", "coal-boiler", "H", 30, "mg/m3", "GB 13223-2011", "D"),
    ("stack_so2_corrected", "coal-boiler", "H", 100, "mg/m3", "GB 13223-2011", "B"),
    ("stack_nox_corrected", "coal-boiler", "H", 100, "mg/m3", "GB 13223-2011", "B"),
    ("stack_pm_corrected", "gas-turbine", "H", 5, "mg/m3", "GB 13223-2011", "D"),
    ("stack_so2_corrected", "gas-turbine", "H", 35, "mg/m3", "GB 13223-2011", "B"),
    ("stack_nox_corrected", "gas-turbine", "H", 50, "mg/m3", "GB 13223-2011", "B"),
    ("stack_pm_corrected", "ceramics-kiln", "H", 30, "mg/m3", "GB 25464-2010", "B"),
    ("stack_so2_corrected", "ceramics-kiln", "H", 50, "mg/m3", "GB 25464-2010", "B"),
    ("stack_nox_corrected", "ceramics-kiln", "H", 180, "mg/m3", "GB 25464-2010", "B"),
    ("stack_pm_corrected", "steel-sinter", "H", 50, "mg/m3", "GB 28662-2012", "D"),
    ("stack_so2_corrected", "steel-sinter", "H", 200, "mg/m3", "GB 28662-2012", "D"),
    ("stack_nox_corrected", "steel-sinter", "H", 300, "mg/m3", "GB 28662-2012", "D"),
    ("effluent_cod", "sewage-works", "H", 50, "mg/L", "GB 18918-2002", "B"),
    ("effluent_ammonia_n", "sewage-works", "H", 5, "mg/L", "GB 18918-2002", "B"),
    ("effluent_total_n", "sewage-works", "H", 15, "mg/L", "GB 18918-2002", "D"),
    ("effluent_total_p", "sewage-works", "H", 0.5, "mg/L", "GB 18918-2002", "B"),
    ("effluent_ph", "sewage-works", "L", 6, "pH", "GB 18918-2002", "D"),
    ("effluent_ph", "sewage-works", "H", 9, "pH", "GB 18918-2002", "D"),
    ("effluent_cod", "brewery", "H", 80, "mg/L", "GB 19821-2005", "B"),
    ("effluent_ammonia_n", "brewery", "H", 15, "mg/L", "GB 19821-2005", "B"),
    ("effluent_total_p", "brewery", "H", 3, "mg/L", "GB 19821-2005", "D"),
    ("effluent_ph", "brewery", "L", 6, "pH", "GB 19821-2005", "D"),
    ("effluent_ph", "brewery", "H", 9, "pH", "GB 19821-2005", "D"),
]
RULES: RuleSet = load_packs()


def shipped_figures() -> set[Figure]:
    """Every limit of the shipped packs as a row of the table above."""
    return {
        (rule.quantity, plant, limit.level, limit.limit, rule.unit, limit.standard, limit.grade)
        for rule in RULES.rules
        for plant in (rule.plant_kinds or {""})
        for limit in rule.limits
    }


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


@pytest.mark.parametrize(
    "quantity",
    ["pm25", "so2", "ph", "codmn", "gas_pressure", "methane"],
)
def test_every_device_that_measures_a_quantity_is_watched(quantity: str) -> None:
    """Limits of the environment hold for all kinds of device."""
    kinds = [kind.id for kind in DEVICE_KINDS.values() if quantity in kind.quantities]
    rules = [rule for rule in RULES.rules if rule.quantity == quantity]
    watched = [kind for kind in kinds if any(rule.applies(kind, None) for rule in rules)]

    assert kinds == watched


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.id)
def test_a_rule_stands_in_the_canonical_unit(rule: Rule) -> None:
    """Events show the unit in which the quantity is sent and stored."""
    assert QUANTITIES[rule.quantity].unit == rule.unit
