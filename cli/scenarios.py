"""`cityeye scenarios`, and the scenario that other commands play."""

from city.cityfile import GENERATED, City, load_city
from city.errors import SettingError
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
    if settings.devices is None:
        city = load_city(settings.city)
    elif settings.scenario is None:
        city = load_city(f"{GENERATED}:{settings.devices}")
    else:
        raise SettingError(
            "--devices generates a city, which has not the scenario's places; give one of the two"
        )
    name = settings.scenario
    return city if name is None else with_scenario(city, load_scenario(name))
