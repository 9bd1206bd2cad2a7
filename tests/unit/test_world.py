"""The world as a whole: which fields a city has, and that nothing alarms while nothing happens."""

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from city.cityfile import City, Outfall, load_city
from city.errors import InputError
from city.quantities import Domain
from city.readings import Flag
from city.synthetic import synthetic_city
from sensors.engine import CityEngine
from sensors.permits import PERMITS
from sensors.world import AIRED_SHARE, VENTILATION_MS, World

START_MS = 1_780_272_000_000
HOUR_MS = 3_600_000
HOURLY_LIMITS = {"pm25": 115, "pm10": 250, "so2": 500, "no2": 200, "co": 10, "o3": 200}
CLASS_III = {"codmn": 6.0, "ammonia_n": 1.0, "total_p": 0.2}

Extremes = dict[tuple[str, str], tuple[float, float]]


@pytest.fixture(scope="module")
def town() -> City:
    """The default city."""
    return load_city("lanting")


@pytest.fixture(scope="module")
def calm(town: City) -> Extremes:
    """The lowest and highest value by plant kind and quantity in a month without events."""
    city = msgspec.structs.replace(town, events=(), rates={})
    engine = CityEngine(city, seed=3, start_ms=START_MS)
    found: Extremes = {}
    for hour in range(0, 30 * 24, 53):
        for key, values in _good(engine, START_MS + hour * HOUR_MS):
            low, high = found.get(key, (np.inf, -np.inf))
            found[key] = (min(low, values.min()), max(high, values.max()))
    return found


def _good(engine: CityEngine, at_ms: int) -> Iterator[tuple[tuple[str, str], NDArray[np.float64]]]:
    """The values without a flag by plant kind and quantity."""
    for frame in engine.frames(at_ms, at_ms + 10_000):
        plants = [frame.group.devices[row].plant for row in frame.rows]
        kinds = np.array([plant.id if plant else "" for plant in plants])
        for kind in np.unique(kinds):
            for column, quantity in enumerate(frame.group.quantities):
                chosen = (kinds == kind) & (frame.flags[:, column] == Flag.N)
                if chosen.any():
                    yield (str(kind), quantity), frame.values[chosen, column]


class TestFields:
    """What a city's devices need is there, and no more."""

    @pytest.mark.parametrize(
        ("kind", "domain"),
        [("air-micro", Domain.AIR), ("water-sonde", Domain.WATER), ("outfall", Domain.EMISSION)],
    )
    def test_alone(self, kind: str, domain: Domain) -> None:
        """A city of one kind of device has one field."""
        city = synthetic_city(3, interval_s=10, seed=1, kinds=(kind,))
        world = World(city, seed=1, start_ms=START_MS)

        assert callable(world.field(domain).probe)
        assert world.gas is None
        for other in set(Domain) - {domain}:
            with pytest.raises(InputError, match=f"no {other.value} devices"):
                world.field(other)

    def test_plants_without_devices(self) -> None:
        """Plants that discharge into the river are there for the river stations' sake."""
        city = synthetic_city(20, interval_s=10, seed=1, kinds=("water-sonde", "outfall"))
        sites = tuple(
            msgspec.structs.replace(
                site,
                devices=(),
                plant=msgspec.structs.replace(site.plant, outfall=Outfall(river_km=1.0)),
            )
            if site.plant
            else site
            for site in city.sites
        )
        world = World(msgspec.structs.replace(city, sites=sites), seed=1, start_ms=START_MS)

        assert world.plants is not None


class TestFans:
    """What ventilation does to methane."""

    def test_course(self, town: City) -> None:
        """Methane falls within minutes, stays low, and comes back when the fans stop."""
        engine = CityEngine(town, seed=1, start_ms=START_MS)
        group = next(g for g in engine.groups if g.kind.id == "gas-detector")
        probe = engine.world.probe(group)
        rows = np.zeros(4, dtype=np.int64)
        ts = START_MS + np.array([0, 300_000, VENTILATION_MS - 1, VENTILATION_MS + 300_000])
        still = probe.truth(rows, ts)[:, 0].copy()
        engine.world.ventilate(group.devices[0].site.id, START_MS)
        left = probe.truth(rows, ts)[:, 0] / still

        assert left.tolist() == pytest.approx([1.0, AIRED_SHARE, AIRED_SHARE, 1.0], abs=1e-3)


class TestCalm:
    """Where nothing happens, nothing exceeds a limit."""

    @pytest.mark.parametrize("quantity", sorted(HOURLY_LIMITS))
    def test_air(self, calm: Extremes, quantity: str) -> None:
        """The air keeps the hourly limits."""
        assert calm["", quantity][1] < 0.95 * HOURLY_LIMITS[quantity]

    @pytest.mark.parametrize("quantity", sorted(CLASS_III))
    def test_river(self, calm: Extremes, quantity: str) -> None:
        """The river keeps class III."""
        assert calm["", quantity][1] < 0.95 * CLASS_III[quantity]

    def test_oxygen(self, calm: Extremes) -> None:
        """The river has the oxygen and acidity of class III."""
        assert calm["", "dissolved_oxygen"][0] > 5.5
        assert calm["", "ph"][0] > 6.5
        assert calm["", "ph"][1] < 8.5

    def test_gas(self, calm: Extremes) -> None:
        """Gas stays in the pipes, at 85 to 105 % of its nominal 100 kPa."""
        assert calm["", "methane"][1] < 5.0
        assert calm["", "gas_pressure"][0] > 85.0
        assert calm["", "gas_pressure"][1] < 105.0

    def test_permits(self, calm: Extremes) -> None:
        """Stacks and outfalls keep their permits."""
        held = {key: row.high for key, row in PERMITS.items() if key in calm}

        assert len(held) > 15
        assert not {key for key, limit in held.items() if calm[key][1] > 0.95 * limit}
