"""What is true in the city: physics against known figures, calm backgrounds, strong events."""

from collections.abc import Iterator
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pandapipes
import pandapipes.networks
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from city.cityfile import EVENT_KINDS, City, DeviceSpec, load_city
from city.errors import DocumentError
from city.kinds import PLANT_KINDS
from city.quantities import QUANTITIES, Domain
from sensors.air import relative_humidity_percent, wind_from_deg
from sensors.engine import CityEngine
from sensors.events import COURSES
from sensors.fields import DailyProfile, capped, local_hour, season
from sensors.gas import GasField
from sensors.network import DEMAND_LEVELS, solve_network
from sensors.plants import EFFLUENTS, SCHEDULES, STACKS, corrected, dry_standard_flow_m3_s
from sensors.river import oxygen_saturation_mg_l

START_MS = 1_780_272_000_000
DAY_MS = 86_400_000

HOURLY_LIMITS = {"pm25": 115, "pm10": 250, "so2": 500, "no2": 200, "co": 10, "o3": 200}
CLASS_III = {"codmn": 6.0, "ammonia_n": 1.0, "total_p": 0.2}
STACK_PERMITS = {
    "coal-boiler": (30, 100, 100),
    "gas-turbine": (5, 35, 50),
    "ceramics-kiln": (30, 50, 180),
    "steel-sinter": (50, 200, 300),
}
EFFLUENT_PERMITS: dict[str, dict[str, float]] = {
    "sewage-works": {"effluent_cod": 50, "effluent_ammonia_n": 5, "effluent_total_p": 0.5, "effluent_total_n": 15},
    "brewery": {"effluent_cod": 80, "effluent_ammonia_n": 15, "effluent_total_p": 3},
    "coal-boiler": {"effluent_cod": 100, "effluent_ammonia_n": 15},
}  # fmt: skip

Extremes = dict[tuple[str, str], tuple[float, float]]


@pytest.fixture(scope="module")
def town() -> City:
    """The default city."""
    return load_city("lanting")


@pytest.fixture(scope="module")
def calm(town: City) -> Extremes:
    """The lowest and highest value by plant kind and quantity in a year without events."""
    city = msgspec.structs.replace(town, events=())
    engine = CityEngine(city, seed=3, start_ms=START_MS)
    found: Extremes = {}
    for number in range(0, 365 * 24, 29):
        for key, values in _shown(engine, START_MS + number * DAY_MS // 24):
            low, high = found.get(key, (np.inf, -np.inf))
            found[key] = (min(low, values.min()), max(high, values.max()))
    return found


def _shown(engine: CityEngine, at_ms: int) -> Iterator[tuple[tuple[str, str], NDArray[np.float64]]]:
    for frame in engine.frames(at_ms, at_ms + 10_000):
        plants = [frame.group.devices[row].plant for row in frame.rows]
        kinds = np.array([plant.id if plant else "" for plant in plants])
        for kind in np.unique(kinds):
            for column, quantity in enumerate(frame.group.quantities):
                yield (str(kind), quantity), frame.values[kinds == kind, column]


def shown(
    engine: CityEngine, name: str, quantity: str, from_s: float, until_s: float
) -> list[float]:
    """What a device shows in that time after the start."""
    return [
        float(frame.values[index, frame.group.quantities.index(quantity)])
        for frame in engine.frames(START_MS + int(from_s * 1e3), START_MS + int(until_s * 1e3))
        for index, row in enumerate(frame.rows)
        if frame.group.devices[row].name == name
    ]


class TestPhysics:
    """Formulas give the figures of their sources."""

    @pytest.mark.parametrize(("celsius", "mg_l"), [(0, 14.81), (10, 11.25), (20, 9.07), (30, 7.60)])
    def test_oxygen_saturation(self, celsius: float, mg_l: float) -> None:
        """Oxygen saturation has the tabulated values."""
        assert mg_l == pytest.approx(oxygen_saturation_mg_l(np.array([celsius]))[0], abs=0.005)

    @pytest.mark.parametrize(
        ("raw", "o2", "o2_ref", "expected"),
        [
            (18.5, 7.9, 6, 21.183),
            (34.0, 7.9, 6, 38.931),
            (3.2, 7.9, 6, 3.664),
            (20, 17.5, 18, 17.143),
            (20, 19.5, 18, 40.0),
        ],
    )
    def test_corrected(self, raw: float, o2: float, o2_ref: float, expected: float) -> None:
        """The correction for oxygen has the values of hand calculation."""
        actual = corrected(np.array([raw]), np.array([o2]), np.array([o2_ref]))

        assert expected == pytest.approx(actual[0], abs=0.0005)

    def test_corrected_in_air(self) -> None:
        """The correction stays finite when the stack carries nothing but air."""
        actual = corrected(np.array([20.0]), np.array([21.0]), np.array([6.0]))

        assert actual[0] == pytest.approx(300.0)

    def test_corrected_without_reference(self) -> None:
        """A standard without reference oxygen corrects nothing."""
        actual = corrected(np.array([20.0]), np.array([9.0]), np.array([np.nan]))

        assert actual[0] == 20.0

    def test_dry_flow(self) -> None:
        """Gas of 273 degC that is a tenth water has 45 % of its flow when dry and cold."""
        one = np.ones(1)
        actual = dry_standard_flow_m3_s(10 * one, 2 * one, 273 * one, 0 * one, 10 * one)

        assert actual[0] == pytest.approx(9.0)

    @given(st.floats(-40, 55))
    def test_saturated_air(self, celsius: float) -> None:
        """Air at its dew point is saturated."""
        at = np.array([celsius])

        assert relative_humidity_percent(at, at)[0] == pytest.approx(100.0)

    def test_humidity(self) -> None:
        """At 20 degC and a dew point of 9.3 degC the humidity is about 50 %."""
        actual = relative_humidity_percent(np.array([20.0]), np.array([9.3]))

        assert actual[0] == pytest.approx(50.0, abs=0.5)

    @pytest.mark.parametrize(
        ("east", "north", "bearing"), [(0, -1, 0), (-1, 0, 90), (0, 1, 180), (1, 0, 270)]
    )
    def test_wind_direction(self, east: float, north: float, bearing: float) -> None:
        """A wind has the bearing that it blows from."""
        assert bearing == pytest.approx(wind_from_deg(np.array([east]), np.array([north]))[0])


class TestCourses:
    """Days, years and bounds."""

    def test_local_hour(self) -> None:
        """Hours are local, summer time included."""
        winter, summer = 1_768_435_200_000, 1_784_073_600_000
        ts = np.array([winter, summer])

        assert local_hour(ts, ZoneInfo("Europe/Berlin")).tolist() == [1.0, 2.0]

    @pytest.mark.parametrize("kind", sorted(SCHEDULES))
    def test_profile_mean(self, kind: str) -> None:
        """A daily profile is 1 on the average of the day."""
        hours = np.arange(0, 24, 0.5)

        assert DailyProfile(SCHEDULES[kind]).at(hours).mean() == pytest.approx(1.0)

    def test_profile_is_closed(self) -> None:
        """A daily profile does not jump at midnight."""
        before, after = DailyProfile(range(1, 25)).at(np.array([23.999, 0.001]))

        assert before == pytest.approx(after, abs=0.01)

    def test_season(self) -> None:
        """The warmest time is late July."""
        days = np.arange(365, dtype=np.int64)
        newyear = 1_767_225_600_000

        assert 200 <= int(season(newyear + days * DAY_MS).argmax()) <= 210

    @given(st.floats(0, 1e6), st.floats(0.1, 1e3))
    def test_capped(self, value: float, cap: float) -> None:
        """A capped level never passes its cap, and keeps 98 % of what is below half of it."""
        actual = capped(np.array([value]), cap)[0]

        assert actual <= cap * (1 + 1e-12)
        assert value > cap / 2 or actual >= 0.98 * value


class TestBackground:
    """Where nothing happens, nothing exceeds a limit."""

    @pytest.mark.parametrize("quantity", sorted(HOURLY_LIMITS))
    def test_air(self, calm: Extremes, quantity: str) -> None:
        """The air keeps the hourly limits."""
        assert calm["", quantity][1] < 0.95 * HOURLY_LIMITS[quantity]

    @pytest.mark.parametrize("quantity", sorted(CLASS_III))
    def test_river(self, calm: Extremes, quantity: str) -> None:
        """The river keeps class III."""
        assert calm["", quantity][1] < 0.9 * CLASS_III[quantity]

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

    @pytest.mark.parametrize("kind", sorted(STACK_PERMITS))
    def test_stacks(self, calm: Extremes, kind: str) -> None:
        """Stacks keep their permits with a quarter to spare."""
        for gas, permit in zip(("pm", "so2", "nox"), STACK_PERMITS[kind], strict=True):
            assert calm[kind, f"stack_{gas}_corrected"][1] < 0.75 * permit

    @pytest.mark.parametrize("kind", sorted(EFFLUENT_PERMITS))
    def test_outfalls(self, calm: Extremes, kind: str) -> None:
        """Outfalls keep their permits with a tenth to spare."""
        for quantity, permit in EFFLUENT_PERMITS[kind].items():
            assert calm[kind, quantity][1] < 0.9 * permit

    def test_ozone_by_day(self, town: City) -> None:
        """Ozone is more than twice as high at 15 h as at 7 h."""
        city = msgspec.structs.replace(town, events=())
        engine = CityEngine(city, seed=1, start_ms=START_MS)
        name = "air-bell-gate/station-1"
        morning, afternoon = (
            [
                shown(engine, name, "o3", day * 86_400 + s, day * 86_400 + s + 5)[0]
                for day in range(10)
            ]
            for s in (-3600, 7 * 3600)
        )

        assert np.mean(afternoon) > 2 * np.mean(morning)


class TestEvents:
    """What happens is seen where it happens, rises, and goes away."""

    def test_every_kind(self) -> None:
        """Every kind of event has a course, and acts only on quantities of its domain."""
        assert EVENT_KINDS.keys() == COURSES.keys()
        for kind, course in COURSES.items():
            for effect in course.effects:
                assert EVENT_KINDS[kind].domain is QUANTITIES[effect.quantity].domain

    @pytest.mark.parametrize(
        ("name", "quantity", "limit", "at_s", "gone_s"),
        [
            ("gas-market-street/detector-1", "methane", 50, 15, 60),
            ("plant-blue-glaze/stack-1", "stack_so2_corrected", 100, 45, 110),
            ("plant-blue-glaze/stack-1", "stack_nox_corrected", 360, 45, 110),
            ("plant-blue-glaze/stack-1", "stack_pm_corrected", 60, 45, 110),
            ("river-mill-weir/station-1", "ammonia_n", 2, 100, 240),
            ("river-mill-weir/station-1", "codmn", 10, 100, 240),
            ("air-kiln-hill/station-1", "pm25", 115, 185, 480),
            ("air-kiln-hill/station-1", "pm10", 250, 185, 480),
            ("plant-clear-water/outfall-1", "effluent_cod", 100, 235, 420),
            ("plant-clear-water/outfall-1", "effluent_ammonia_n", 10, 235, 420),
        ],
    )
    def test_rise_and_decay(
        self, town: City, name: str, quantity: str, limit: float, at_s: float, gone_s: float
    ) -> None:
        """An event exceeds the limit while it lasts, and leaves nothing behind."""
        struck = CityEngine(town, seed=1, start_ms=START_MS)
        spared = CityEngine(msgspec.structs.replace(town, events=()), seed=1, start_ms=START_MS)

        assert min(shown(struck, name, quantity, at_s, at_s + 10)) > limit
        after = (gone_s, gone_s + 10)
        assert shown(spared, name, quantity, *after) == pytest.approx(
            shown(struck, name, quantity, *after), rel=0.05, abs=0.5
        )

    def test_oxygen_falls(self, town: City) -> None:
        """A spill takes the river's oxygen below class III."""
        engine = CityEngine(town, seed=1, start_ms=START_MS)

        assert max(shown(engine, "river-mill-weir/station-1", "dissolved_oxygen", 100, 110)) < 5.0

    def test_smooth(self, town: City) -> None:
        """A leak does not appear at once but within seconds."""
        engine = CityEngine(town, seed=1, start_ms=START_MS)
        seen = shown(engine, "gas-market-street/detector-1", "methane", 8, 22)

        assert seen[0] < 60.0
        assert sorted(seen[:4]) == seen[:4]

    def test_elsewhere(self, town: City) -> None:
        """An event at one site is not seen at another."""
        struck = CityEngine(town, seed=1, start_ms=START_MS)
        spared = CityEngine(msgspec.structs.replace(town, events=()), seed=1, start_ms=START_MS)
        span = ("gas-temple-lane/detector-1", "methane", 0, 60)

        assert shown(spared, *span) == shown(struck, *span)


class TestGas:
    """The network and the devices on it."""

    def test_solved_states(self) -> None:
        """Pressures are those of pandapipes, in kPa."""
        net = pandapipes.networks.schutterwald_gas()
        pandapipes.pipeflow(net, use_numba=False)
        expected = 100.0 * net.res_junction["p_bar"].to_numpy()
        level = DEMAND_LEVELS.index(1.0)

        np.testing.assert_allclose(
            solve_network("schutterwald").pressure_kpa[level], expected, rtol=1e-9
        )

    def test_flow(self) -> None:
        """What passes the inlet is the demand of the whole town."""
        net = pandapipes.networks.schutterwald_gas()
        inlet = int(net.ext_grid["junction"].iloc[0])
        density = float(net.fluid.get_density(273.15))
        town_m3_h = 3600.0 * net.sink["mdot_kg_per_s"].sum() / density
        states = solve_network("schutterwald")

        actual = states.flow_m3_h[DEMAND_LEVELS.index(1.0), inlet]
        assert town_m3_h == pytest.approx(actual, rel=0.01)

    def test_more_demand(self) -> None:
        """The more is drawn, the lower is every pressure."""
        pressure_kpa = solve_network("schutterwald").pressure_kpa

        assert np.all(np.diff(pressure_kpa, axis=0) <= 1e-9)

    def test_junctions(self, town: City) -> None:
        """Devices sit on the junctions that the city names."""
        field = GasField(town, seed=1, start_ms=START_MS)
        junction = field.junctions["gas-market-street/node-1"]

        assert field.states.names[junction] == "K1290"

    def test_spread(self, town: City) -> None:
        """Sites without junctions are spread over the network, their devices together."""
        city = _with_gas_devices(town, junction=None)
        junctions = GasField(city, seed=1, start_ms=START_MS).junctions
        sites = {name.partition("/")[0] for name in junctions}

        assert len(set(junctions.values())) == len(sites)

    def test_unknown_junction(self, town: City) -> None:
        """An unknown junction is refused with near names."""
        with pytest.raises(DocumentError, match=r"gas-market-street/.*'K103'.*near names: .*K1030"):
            GasField(_with_gas_devices(town, junction="K103"), seed=1, start_ms=START_MS)

    def test_unknown_network(self) -> None:
        """An unknown network is refused with the known ones."""
        with pytest.raises(DocumentError, match="did you mean 'schutterwald'"):
            solve_network("schuterwald")


def _with_gas_devices(city: City, *, junction: str | None) -> City:
    """The city with every gas device on that junction."""

    def moved(device: DeviceSpec) -> DeviceSpec:
        return msgspec.structs.replace(device, junction=junction)

    sites = tuple(
        msgspec.structs.replace(site, devices=tuple(moved(device) for device in site.devices))
        if site.domain is Domain.GAS
        else site
        for site in city.sites
    )
    return msgspec.structs.replace(city, sites=sites)


def test_every_plant_has_profiles() -> None:
    """Every kind of plant has a stack, an outfall and a schedule."""
    assert PLANT_KINDS.keys() == STACKS.keys() == EFFLUENTS.keys() == SCHEDULES.keys()
