import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.indices import BREAKPOINTS, CLASS_LIMITS
from city.quantities import QUANTITIES
from docker.grafana.boards import limits
from docker.grafana.boards.resolution import READINGS, RESOLUTIONS, VARIABLE
from docker.grafana.boards.shelf import BOARDS, FOLDER, files
from docker.grafana.trial.asking import fields_of, load, panels
from docker.grafana.trial.filling import ALL, Shown, UnknownVariable, filled

UIDS = {
    "cityeye-overview", "cityeye-air-station", "cityeye-river", "cityeye-gas-network",
    "cityeye-emissions", "cityeye-alarms", "cityeye-ingest", "cityeye-load",
}  # fmt: skip
PAGE = 24
DASHBOARDS = pytest.mark.parametrize("board", load(FOLDER), ids=lambda board: board["uid"])
HOUR = Shown(
    from_ms=0,
    to_ms=3_600_000,
    chosen={"site": ("a.b", "c"), "device": (ALL,), "city": ("x",)},
    all_values={"device": ".*"},
)


def test_the_files_are_what_the_code_makes() -> None:
    """Making the dashboards anew leaves the tree as it is."""
    found = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}

    assert files() == found


def test_the_identifiers_are_for_ever() -> None:
    """Links and bookmarks know the dashboards by these identifiers."""
    assert sorted(UIDS) == sorted(board.uid for board in BOARDS)


@DASHBOARDS
def test_panels_have_numbers_of_their_own(board: dict[str, Any]) -> None:
    """Within a dashboard no two panels share a number."""
    numbers = [panel["id"] for panel in board["panels"]]

    assert len(numbers) == len(set(numbers))


@DASHBOARDS
def test_panels_fit_the_page(board: dict[str, Any]) -> None:
    """No panel reaches beyond the page, and none lies on another."""
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= PAGE, panel["title"]
        taken |= cells


@DASHBOARDS
def test_every_query_is_influxql(board: dict[str, Any]) -> None:
    """Every query is written out, for the provisioned source, with a bound on its time."""
    for panel in panels(board):
        for target in panel["targets"]:
            assert target["rawQuery"]
            assert "cityeye-influxdb" == target["datasource"]["uid"]
            bounded = any(word in target["query"] for word in ("$timeFilter", "${__to}"))
            assert bounded or '"stations"' in target["query"]


@DASHBOARDS
def test_variables_have_a_value_for_all(board: dict[str, Any]) -> None:
    """All sites are not spelt out in a query, except where a hidden list is one kind of plant."""
    for variable in board.get("templating", {}).get("list", []):
        if variable.get("includeAll"):
            hidden = variable.get("hide", 0) == 2

            assert hidden == ("allValue" not in variable)


@DASHBOARDS
def test_dashboards_link_to_one_another(board: dict[str, Any]) -> None:
    """Every dashboard has the menu of all, which keeps time and choice."""
    (link,) = (link for link in board["links"] if link["type"] == "dashboards")

    assert (["cityeye"], True, True) == (link["tags"], link["keepTime"], link["includeVars"])
    assert "cityeye" in board["tags"]


@DASHBOARDS
def test_curves_of_readings_have_a_resolution(board: dict[str, Any]) -> None:
    """A curve, or a count over the time shown, reads from what the variable names, not raw."""
    names = {variable["name"] for variable in board["templating"].get("list", [])}
    raw = re.compile(r'FROM "(air|water|gas|emission)" WHERE .*\$timeFilter')
    queries = [target["query"] for panel in panels(board) for target in panel["targets"]]

    assert [] == [query for query in queries if raw.search(query)]
    assert ("resolution" in names) == any(READINGS in query for query in queries)


@DASHBOARDS
def test_long_times_come_with_their_resolution(board: dict[str, Any]) -> None:
    """Links to a week and a year choose means; the list of times offers no more than a day."""
    if not [one for one in board["templating"].get("list", []) if one["name"] == VARIABLE]:
        return
    links = [
        parse_qs(urlsplit(link["url"]).query) for link in board["links"] if link["type"] == "link"
    ]
    chosen = {link["from"][0]: link[f"var-{VARIABLE}"][0] for link in links}
    offered = {row["from"] for row in board["timepicker"]["quick_ranges"]}

    assert {one.since: one.sources for one in RESOLUTIONS} == chosen
    assert {"now-15m", "now-1h", "now-6h", "now-24h"} == offered


def test_a_resolution_is_carried_from_one_dashboard_to_the_next() -> None:
    """The values of the variable name all domains, so they are the same everywhere."""
    lists = [
        variable["query"]
        for board in load(FOLDER)
        for variable in board["templating"].get("list", [])
        if variable["name"] == VARIABLE
    ]

    assert (4, 1) == (len(lists), len(set(lists)))


def test_a_map_loads_nothing_from_elsewhere() -> None:
    """Beneath the stations lies a file of Grafana's own, and the view is fitted to the stations."""
    (found,) = (
        panel["options"]
        for board in load(FOLDER)
        for panel in board["panels"]
        if panel["type"] == "geomap"
    )

    assert "geojson" == found["basemap"]["type"]
    assert found["basemap"]["config"]["src"].startswith("public/")
    assert (False, "Devices") == (found["view"]["allLayers"], found["view"]["layer"])


def test_no_panel_has_more_queries_than_letters() -> None:
    """A panel's queries are called A to Z."""
    counts = [len(panel.queries) for board in BOARDS for row in board.rows for panel in row.panels]

    assert max(counts) <= 26


def test_every_quantity_has_a_unit() -> None:
    """A quantity that Grafana has no unit for shows its symbol."""
    units = {limits.unit_of(name) for name in QUANTITIES}

    assert "suffix: %LEL" in units
    assert "conμgm3" in units


def test_pressure_turns_red_below_and_above() -> None:
    """The thresholds of gas pressure are the limits of the rule pack."""
    steps = [(step.value, step.colour) for step in limits.steps_of("gas_pressure")]

    assert [
        (None, "red"), (75.0, "orange"), (85.0, "green"), (105.0, "orange"), (110.0, "red"),
    ] == steps  # fmt: skip


def test_a_permit_is_that_of_the_plant() -> None:
    """A limit for one kind of plant is not another's."""
    boiler = limits.limits_of("stack_so2_corrected", "coal-boiler")
    turbine = limits.limits_of("stack_so2_corrected", "gas-turbine")

    assert ([100.0], [35.0]) == ([row.limit for row in boiler], [row.limit for row in turbine])


@pytest.mark.parametrize("name", ["pm25", "pm10", "so2", "no2", "co", "o3"])
def test_an_air_level_begins_at_its_breakpoint(name: str) -> None:
    """The second level of every pollutant begins where its sub-index is 50."""
    table = BREAKPOINTS[2026]
    row = table.get(f"{name}_1h") or table[f"{name}_24h"]

    assert row.concentrations[1] == limits.aqi_steps(name)[1].value


@pytest.mark.parametrize("name", sorted(CLASS_LIMITS))
def test_a_river_class_has_its_colour(name: str) -> None:
    """There are six colours, the worst at the bad end."""
    steps = limits.class_steps(name)
    worst = steps[0] if CLASS_LIMITS[name].minimum else steps[-1]

    assert (6, limits.CLASS_COLOURS[-1]) == (len(steps), worst.colour)


def test_chosen_values_become_a_pattern() -> None:
    """Several values are alternatives, and what has a meaning in patterns is escaped."""
    assert r'"site" =~ /^(a\.b|c)$/' == filled('"site" =~ /^${site:regex}$/', HOUR)


@pytest.mark.parametrize(
    "form", ["$city", "${city}", "${city:regex}", "[[city]]", "[[city:regex]]"]
)
def test_all_forms_of_a_variable_are_known(form: str) -> None:
    """Grafana knows five ways to write a variable."""
    assert "x" == filled(form, HOUR)


def test_raw_is_taken_as_it_is() -> None:
    """In the format raw nothing is escaped."""
    assert "a.b" == filled("${site:raw}", HOUR)


def test_all_is_what_the_variable_says() -> None:
    """The value for all is taken as it is, unescaped."""
    assert "/^.*$/" == filled("/^$device$/", HOUR)


def test_macros_are_of_the_time_shown() -> None:
    """Time filter, interval and ends come from the dashboard's span."""
    text = filled("$timeFilter GROUP BY time($__interval) ${__to}", HOUR, least_s=10)

    assert "time >= 0ms and time <= 3600000ms GROUP BY time(10s) 3600000" == text


def test_what_nobody_defines_is_an_error() -> None:
    """A variable that the dashboard lacks would reach the server as it is written."""
    with pytest.raises(UnknownVariable, match="nowhere"):
        filled("$nowhere", HOUR)


@given(st.text(alphabet=st.characters(exclude_characters="$["), max_size=50))
def test_plain_text_stays(text: str) -> None:
    """What has no variable in it is not changed."""
    assert text == filled(text, HOUR)


def test_the_fields_of_a_query() -> None:
    """Names and aliases of what is selected outermost are its fields."""
    query = 'SELECT last("a") AS "x", "b", mean(/^c/) FROM (SELECT "y" FROM "m")'

    assert {"x", "b"} == fields_of(query)
