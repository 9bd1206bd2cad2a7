"""`cityeye scenarios`, and the scenario that other commands play."""

from typing import Annotated

import typer

from city.cityfile import City, load_city
from city.scenarios import load_scenario, shipped_scenarios, with_scenario
from cli.summary import Outcome

ScenarioOption = Annotated[
    str | None,
    typer.Option(
        "--scenario",
        metavar="NAME|FILE",
        envvar="CITYEYE_SCENARIO",
        show_envvar=False,
        help="A scenario in place of the city's own events; see `cityeye scenarios`.",
    ),
]


def scenarios() -> Outcome:
    """The shipped scenarios, one line each."""
    stories = [load_scenario(name).scenario for name in shipped_scenarios()]
    return Outcome({story.scenario: story.sentence for story in stories}, complete=True)


def playing(city_name: str, scenario_name: str | None) -> City:
    """The city of that name, with the scenario of that name laid over it.

    Raises:
        InputError: There is no such city or scenario, or the city lacks what the scenario needs.
    """
    city = load_city(city_name)
    return city if scenario_name is None else with_scenario(city, load_scenario(scenario_name))
