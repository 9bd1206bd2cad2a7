"""`cityeye scenarios`, and the scenario that other commands play."""

from city.cityfile import GENERATED, City, load_city
from city.scenarios import load_scenario, shipped_scenarios, with_scenario
from city.settings import Settings
from cli.summary import Outcome


def scenarios() -> Outcome:
    """The shipped scenarios, one line each."""
    stories = [load_scenario(name).scenario for name in shipped_scenarios()]
    return Outcome({story.scenario: story.sentence for story in stories}, complete=True)


def playing(settings: Settings) -> City:
    """The city that the settings name, or one of so many devices, with the scenario laid over it.

    Raises:
        InputError: There is no such city or scenario, or the city lacks what the scenario needs.
    """
    devices, name = settings.devices, settings.scenario
    city = load_city(settings.city if devices is None else f"{GENERATED}:{devices}")
    return city if name is None else with_scenario(city, load_scenario(name))


def lasting_s(settings: Settings) -> float | None:
    """After so long all of the scenario has been seen [s]; None where none is played.

    Raises:
        DocumentError: There is no such scenario, or its file is wrong.
    """
    name = settings.scenario
    return None if name is None else load_scenario(name).scenario.for_s
