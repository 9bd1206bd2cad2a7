"""The plants: schedules, treatment, what leaves stacks and outfalls, and what analysers see of it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from types import SimpleNamespace
from typing import Any, cast
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from city.cityfile import City, DeviceSpec, District, Event, Outfall, Plant, Site, Stack
from city.errors import InputError
from city.kinds import DEVICE_KINDS, PLANT_KINDS
from city.quantities import QUANTITIES, Domain
from sensors.enterprises import FIRINGS, SEWERS, SUPPLIES
from sensors.fields import Group
from sensors.permits import PERMITS
from sensors.plants import PlantsField
from sensors.schedules import SCHEDULES, course, unwatched
from sensors.weather import Weather

MONDAY = datetime(2026, 6, 1, tzinfo=ZoneInfo("Asia/Shanghai"))
START_MS = int(MONDAY.timestamp() * 1000)
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
KILN = "plant-ceramics-kiln"
WORKS = "plant-sewage-works"


class Sky:
    """Weather that never changes."""

    def __init__(self, rain_mm_h: float) -> None:
        self._rain_mm_h = rain_mm_h

    def at(self, ts: NDArray[np.int64]) -> SimpleNamespace:
        """The weather at `ts`."""
        one = np.ones(len(ts))
        return SimpleNamespace(
            pressure_kpa=101.325 * one, temperature_c=20.0 * one, rain_mm_h=self._rain_mm_h * one
        )


def site(kind: str, diameter_m: float = 3.0) -> Site:
    """A plant with every device that a plant can have."""
    return Site(
        id=f"plant-{kind}",
        district="d",
        domain=Domain.EMISSION,
        plant=Plant(
            kind=kind,
            load=0.8,
            stack=Stack(height_m=60, diameter_m=diameter_m, position=(120.0, 31.8)),
            outfall=Outfall(river_km=5.0),
        ),
        devices=(
            DeviceSpec(id="stack-1", kind="stack-cems"),
            DeviceSpec(id="outfall-1", kind="outfall"),
            DeviceSpec(id="meter-1", kind="plant-meter"),
        ),
    )


def town(*events: Event, sites: Sequence[Site] | None = None) -> City:
    """A town of one plant of every kind."""
    every = tuple(site(kind) for kind in PLANT_KINDS) if sites is None else tuple(sites)
    return City(city="town", districts=(District(id="d"),), sites=every, events=events)


def field(*events: Event, seed: int = 1, rain_mm_h: float = 0.0) -> PlantsField:
    """The plants of a town, under an even sky."""
    weather = cast("Any", Sky(rain_mm_h))
    return PlantsField(town(*events), seed=seed, start_ms=START_MS, weather=weather)


def event(kind: str, target: str, at_s: float = 600, for_s: float = 7200, **params: float) -> Event:
    """An event at a plant."""
    return Event(id="e", kind=kind, target=target, at_s=at_s, for_s=for_s, params=params)


def group(kind: str) -> Group:
    """The town's devices of a kind."""
    devices = tuple(device for device in town().devices() if device.kind.id == kind)
    return Group(
        kind=DEVICE_KINDS[kind],
        interval_ms=5000,
        devices=devices,
        first=0,
        phase_ms=np.zeros(len(devices), dtype=np.int64),
    )


def seen(
    plants: PlantsField, device: str, at_s: Sequence[float] | NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """What is true at `site/device` at those seconds after the start, by quantity."""
    kinds = {"stack-1": "stack-cems", "outfall-1": "outfall", "meter-1": "plant-meter"}
    devices = group(kinds[device.partition("/")[2]])
    row = [one.name for one in devices.devices].index(device)
    ts = START_MS + np.rint(np.asarray(at_s) * 1000).astype(np.int64)
    values = plants.probe(devices).truth(np.full(len(ts), row, dtype=np.int64), ts)
    return dict(zip(devices.quantities, values.T, strict=True))


class TestTables:
    """Facts about plants stand in complete tables."""

    def test_every_kind(self) -> None:
        """Every kind of plant has a schedule, a firing, a sewer and a supply."""
        assert (
            PLANT_KINDS.keys()
            == SCHEDULES.keys()
            == FIRINGS.keys()
            == SEWERS.keys()
            == SUPPLIES.keys()
        )

    def test_basis(self) -> None:
        """Concentrations of a firing stand at the reference oxygen of its standard."""
        refs = {name: kind.o2_ref for name, kind in PLANT_KINDS.items() if kind.o2_ref}

        assert refs == {name: FIRINGS[name].basis_o2 for name in refs}

    def test_permits_are_those_of_the_rules(self) -> None:
        """Permits have the figures, standards and grades of the rule pack."""
        path = files("alerts") / "packs" / "emission-permits.yaml"
        pack = yaml.safe_load(path.read_text(encoding="utf-8"))
        rules = {
            (plant, rule["quantity"]): (
                rule.get("low", {}).get("limit"),
                rule["high"]["limit"],
                rule["standard"],
                rule["high"].get("grade", rule.get("grade", pack["grade"])),
            )
            for rule in pack["rules"]
            for plant in rule["plant_kinds"]
        }

        assert rules == {
            key: (row.low, row.high, row.standard, row.grade) for key, row in PERMITS.items()
        }

    def test_meters(self) -> None:
        """Production and electricity are quantities of emission without HJ 212 codes."""
        rows = [QUANTITIES[name] for name in DEVICE_KINDS["plant-meter"].quantities]

        assert [(Domain.EMISSION, "")] * 2 == [(row.domain, row.hj212) for row in rows]


class TestSchedules:
    """Plants work by hour, shift, weekday and four-week cycle."""

    @pytest.mark.parametrize("kind", sorted(SCHEDULES))
    def test_working_day(self, kind: str) -> None:
        """A working day has the mean load 1, whatever the lag."""
        tuesday = course(SCHEDULES[kind])[2 * 144 : 3 * 144]

        assert tuesday.mean() == pytest.approx(1.0, abs=0.02)

    def test_shifts(self) -> None:
        """The brewery works more than twice as hard at noon as at 3 h."""
        tuesday = course(SCHEDULES["brewery"])[144:288]

        assert tuesday[12 * 6] > 2.0 * tuesday[3 * 6]

    def test_lag(self) -> None:
        """A plant follows its orders later and more gently."""
        schedule = SCHEDULES["brewery"]
        ordered = np.repeat(np.array(schedule.hours), 6)
        jump = np.abs(np.diff(ordered / ordered.mean())).max()

        assert np.abs(np.diff(course(schedule))).max() < 0.6 * jump

    def test_weekend(self) -> None:
        """The brewery's Sunday is less than half of its Friday."""
        week = course(SCHEDULES["brewery"])[:1008].reshape(7, 144).mean(axis=1)

        assert week[6] < 0.5 * week[4]

    def test_maintenance(self) -> None:
        """One weekend in four the sinter plant is maintained."""
        weeks = course(SCHEDULES["steel-sinter"]).reshape(4, 7, 144).mean(axis=2)

        assert [1.0, 1.0, 1.0, 0.5] == pytest.approx(weeks[:, 6].tolist(), abs=0.01)

    def test_own_lag(self) -> None:
        """Two plants of a kind neither turn up at the same minute nor rest on the same weekend."""
        twins = [site("brewery"), msgspec.structs.replace(site("brewery"), id="plant-other")]
        weather = cast("Any", Sky(0.0))
        plants = PlantsField(town(sites=twins), seed=1, start_ms=START_MS, weather=weather)
        ts = START_MS + np.arange(0, 28 * DAY_MS, 3 * HOUR_MS)
        one, other = (
            plants.operation(np.full(len(ts), number), ts).load_percent for number in (0, 1)
        )

        assert np.abs(one - other).max() > 15.0

    @pytest.mark.parametrize(
        ("hours", "expected"),
        [(3, True), (12, False), (21.9, False), (22.1, True), (24 * 5 + 12, True)],
    )
    def test_unwatched(self, *, hours: float, expected: bool) -> None:
        """Offices are empty at night, local time, and on Saturdays."""
        ts = np.array([START_MS + int(hours * HOUR_MS)])

        assert unwatched(ts, ZoneInfo("Asia/Shanghai")).tolist() == [expected]


class TestBackground:
    """Where nothing happens, everything keeps its permit."""

    @pytest.mark.parametrize("seed", [1, 2])
    @pytest.mark.parametrize("kind", sorted({plant for plant, _ in PERMITS}))
    def test_permits(self, kind: str, seed: int) -> None:
        """For five weeks stacks keep a quarter below their permits, outfalls a tenth."""
        plants = field(seed=seed)
        at_s = np.arange(0, 35 * 86400, 14_009.0)
        shown = {
            device: seen(plants, f"plant-{kind}/{device}", at_s)
            for device in ("stack-1", "outfall-1")
        }
        for (plant, quantity), permit in PERMITS.items():
            if plant == kind:
                device, spare = ("stack-1", 0.75) if "stack" in quantity else ("outfall-1", 0.9)
                values = shown[device][quantity]
                assert values.max() < spare * permit.high or quantity == "effluent_ph"
                assert permit.low is None or permit.low < values.min() <= values.max() < permit.high

    @pytest.mark.parametrize("kind", sorted(FIRINGS))
    def test_physical(self, kind: str) -> None:
        """Flue gas stays within what is possible."""
        gas = seen(field(), f"plant-{kind}/stack-1", np.arange(0, 28 * 86400, 14_009.0))

        for quantity, values in gas.items():
            assert QUANTITIES[quantity].low <= values.min()
            assert values.max() <= QUANTITIES[quantity].high
        assert gas["stack_o2"].max() < 20.0
        assert gas["stack_pm"].min() > 0.0

    def test_oxygen_against_load(self) -> None:
        """Excess air and oxygen rise where the load falls."""
        at_s = np.arange(0, 7 * 86400, 5003.0)
        load = seen(field(), "plant-gas-turbine/meter-1", at_s)["plant_load"]
        o2 = seen(field(), "plant-gas-turbine/stack-1", at_s)["stack_o2"]

        assert np.corrcoef(load, o2)[0, 1] < -0.8

    def test_electricity_follows_production(self) -> None:
        """Electricity tells the production."""
        meter = seen(field(), f"{KILN}/meter-1", np.arange(0, 7 * 86400, 5003.0))

        assert np.corrcoef(meter["plant_load"], meter["plant_power"])[0, 1] > 0.95

    def test_rain(self) -> None:
        """Rain swells the sewage works' flow and thins what it carries; the mass stays."""
        dry, wet = (
            seen(field(rain_mm_h=rain), f"{WORKS}/outfall-1", [3600.0]) for rain in (0.0, 10.0)
        )

        assert wet["effluent_flow"] == pytest.approx(1.5 * dry["effluent_flow"])
        assert wet["effluent_cod"] == pytest.approx(dry["effluent_cod"] / 1.5)


class TestConsistency:
    """All who ask are told the same."""

    def test_emission_is_what_the_analyser_shows(self) -> None:
        """True emission is the analyser's concentration times its dry standard flow."""
        plants = field(event("treatment-failure", KILN))
        at_s = np.arange(0, 10_000, 37.0)
        ts = START_MS + (at_s * 1000).astype(np.int64)
        emitted = plants.emissions(ts)
        for number, place in enumerate(plants.stacks):
            gas = seen(plants, f"{place.site}/stack-1", at_s)
            for name in ("pm", "so2", "nox"):
                expected = gas[f"stack_{name}"] * gas["flue_flow"] / 1000.0
                assert expected == pytest.approx(getattr(emitted, f"{name}_g_s")[:, number])
            assert np.array_equal(gas["flue_velocity"], emitted.velocity_m_s[:, number])
            assert np.array_equal(gas["flue_temperature"], emitted.temperature_c[:, number])

    def test_load_is_what_the_monitor_shows(self) -> None:
        """Without secrets the river receives what the monitor shows."""
        plants = field()
        given = plants.loads(START_MS + np.arange(5) * HOUR_MS)
        for number, place in enumerate(plants.outfalls):
            water = seen(plants, f"{place.site}/outfall-1", np.linspace(0.0, 14_400.0, 5))
            assert water["effluent_flow"] == pytest.approx(1000.0 * given.flow_m3_s[:, number])
            grams = water["effluent_flow"] * water["effluent_total_n"] / 1000.0
            assert grams == pytest.approx(given.total_n_g_s[:, number])

    def test_nowhere(self) -> None:
        """A plant without stack and outfall is of no consequence for air and river."""
        plain = Site(
            id="p", district="d", domain=Domain.EMISSION, plant=Plant(kind="brewery"), devices=()
        )
        weather = cast("Any", Sky(0.0))
        plants = PlantsField(town(sites=[plain]), seed=1, start_ms=START_MS, weather=weather)
        ts = np.array([START_MS])

        assert (1, 0) == plants.emissions(ts).pm_g_s.shape == plants.loads(ts).cod_g_s.shape

    def test_weather(self) -> None:
        """Rain of the city's own weather reaches the sewage works within two hours."""
        rain = Event(
            id="r", kind="rain", target="town", at_s=0, for_s=7200, params={"rate_mm_h": 20}
        )
        dry, wet = (
            PlantsField(
                town(*events),
                seed=1,
                start_ms=START_MS,
                weather=Weather(town(*events), seed=1, start_ms=START_MS),
            ).loads(np.array([START_MS + 2 * HOUR_MS]))
            for events in ((), (rain,))
        )
        number = [place.site for place in field().outfalls].index(WORKS)

        assert wet.flow_m3_s[0, number] > 1.3 * dry.flow_m3_s[0, number]

    def test_no_plants(self) -> None:
        """A city without plants emits nothing."""
        weather = cast("Any", Sky(0.0))
        plants = PlantsField(town(sites=[]), seed=1, start_ms=START_MS, weather=weather)

        assert plants.emissions(np.array([START_MS])).pm_g_s.shape == (1, 0)

    def test_no_instants(self) -> None:
        """No instants give no rows."""
        assert field().emissions(np.zeros(0, dtype=np.int64)).pm_g_s.shape == (0, 6)

    def test_place(self) -> None:
        """A stack stands at its own position, else at its site's."""
        assert field().stacks[0].position == (120.0, 31.8)

    def test_diameter(self) -> None:
        """The cross-section of the stack sizes the plant."""
        weather = cast("Any", Sky(0.0))
        small, large = (
            PlantsField(
                town(sites=[site("coal-boiler", width)]), seed=1, start_ms=0, weather=weather
            ).emissions(np.array([START_MS]))
            for width in (2.0, 4.0)
        )

        assert large.nox_g_s == pytest.approx(4.0 * small.nox_g_s)

    @settings(deadline=None, max_examples=10)
    @given(st.lists(st.integers(-DAY_MS, 40 * DAY_MS), min_size=1, max_size=10))
    def test_any_order(self, offsets: list[int]) -> None:
        """An instant has one value, whatever else is asked, bit for bit."""
        ts = START_MS + np.array(offsets, dtype=np.int64)
        together = field(event("treatment-failure", KILN)).emissions(ts)
        alone = field(event("treatment-failure", KILN))
        for number in reversed(range(len(ts))):
            single = alone.emissions(ts[number : number + 1])
            assert single.pm_g_s[0].tolist() == together.pm_g_s[number].tolist()
            assert single.temperature_c[0].tolist() == together.temperature_c[number].tolist()

    def test_seed(self) -> None:
        """Another seed gives other plants."""
        ts = np.array([START_MS])

        assert (field(seed=1).emissions(ts).pm_g_s != field(seed=2).emissions(ts).pm_g_s).all()


class TestFailure:
    """Treatment that fails lets the raw gas and water through."""

    @pytest.mark.parametrize(
        ("kind", "quantity", "times"),
        [
            ("ceramics-kiln", "stack_pm_corrected", 5.0),
            ("ceramics-kiln", "stack_so2_corrected", 5.0),
            ("ceramics-kiln", "stack_nox_corrected", 1.8),
            ("coal-boiler", "stack_so2_corrected", 5.0),
            ("gas-turbine", "stack_nox_corrected", 2.0),
            ("steel-sinter", "stack_pm_corrected", 5.0),
            ("sewage-works", "effluent_cod", 3.0),
            ("sewage-works", "effluent_ammonia_n", 3.0),
            ("brewery", "effluent_cod", 5.0),
        ],
    )
    def test_permit(self, kind: str, quantity: str, times: float) -> None:
        """A failure takes a plant to a multiple of its permit."""
        plants = field(event("treatment-failure", f"plant-{kind}"))
        device = "stack-1" if quantity.startswith("stack") else "outfall-1"
        (value,) = seen(plants, f"plant-{kind}/{device}", [7500.0])[quantity]

        assert value > times * PERMITS[kind, quantity].high

    def test_efficiency(self) -> None:
        """What is left of the efficiency cleans what is raw."""
        row = FIRINGS["ceramics-kiln"]
        struck = field(event("treatment-failure", KILN, efficiency_lost=0.5))
        after, before = (
            seen(one, f"{KILN}/stack-1", [7700.0])["stack_pm"] for one in (struck, field())
        )

        expected = (1.0 - 0.5 * row.pm_efficiency) / (1.0 - row.pm_efficiency)
        assert expected == pytest.approx(float(after[0] / before[0]), rel=1e-6)

    def test_smooth(self) -> None:
        """A failure rises and decays without a jump."""
        plants = field(event("treatment-failure", KILN, for_s=1800))
        pm = seen(plants, f"{KILN}/stack-1", np.arange(500.0, 4000.0))["stack_pm"]

        assert np.abs(np.diff(pm)).max() < 0.03 * pm.max()
        assert pm[-1] < 0.1 * pm.max()

    def test_short(self) -> None:
        """A failure of half a minute is seen, and gone two minutes later."""
        plants = field(event("treatment-failure", f"{KILN}/stack-1", at_s=20, for_s=30))
        during, after = seen(plants, f"{KILN}/stack-1", [48.0, 180.0])["stack_so2_corrected"]

        assert during > 4 * PERMITS["ceramics-kiln", "stack_so2_corrected"].high
        assert after < PERMITS["ceramics-kiln", "stack_so2_corrected"].high

    @pytest.mark.parametrize(
        ("target", "gas", "water"),
        [(KILN, True, True), (f"{KILN}/stack-1", True, False), (f"{KILN}/outfall-1", False, True)],
    )
    def test_device(self, *, target: str, gas: bool, water: bool) -> None:
        """A device names the unit before it, a site all of its units."""
        struck, spared = field(event("treatment-failure", target)), field()

        for device, expected in (("stack-1", gas), ("outfall-1", water)):
            one, other = (seen(plants, f"{KILN}/{device}", [5000.0]) for plants in (struck, spared))
            assert expected == any(not np.array_equal(one[name], other[name]) for name in one)

    def test_elsewhere(self) -> None:
        """A failure at one plant is nothing to the others."""
        struck, spared = field(event("treatment-failure", KILN)), field()
        one, other = (seen(plants, f"{WORKS}/outfall-1", [5000.0]) for plants in (struck, spared))

        assert one == other

    @given(st.floats(0.05, 1.0), st.floats(0, 20_000))
    @settings(deadline=None, max_examples=20)
    def test_between(self, lost: float, at_s: float) -> None:
        """Whatever is lost, what leaves the stack lies between cleaned and raw."""
        row = FIRINGS["ceramics-kiln"]
        struck = field(event("treatment-failure", KILN, efficiency_lost=lost))
        after, before = (
            seen(one, f"{KILN}/stack-1", [at_s])["stack_pm"] for one in (struck, field())
        )

        assert before[0] <= after[0] <= before[0] / (1.0 - row.pm_efficiency) * (1 + 1e-9)


class TestSecrets:
    """What a plant lets go past its treatment."""

    def test_outfall(self) -> None:
        """The monitor misses flow and sees clean water; the river gets the raw share."""
        row = SEWERS["sewage-works"]
        secret = field(event("secret-discharge", f"{WORKS}/outfall-1", bypassed=0.3))
        honest = field()
        shown, usual = (seen(plants, f"{WORKS}/outfall-1", [5000.0]) for plants in (secret, honest))
        ts = np.array([START_MS + 5_000_000])
        number = [place.site for place in secret.outfalls].index(WORKS)
        given, clean = (plants.loads(ts).cod_g_s[0, number] for plants in (secret, honest))

        assert shown["effluent_cod"] == pytest.approx(usual["effluent_cod"])
        assert shown["effluent_flow"] == pytest.approx(0.7 * usual["effluent_flow"])
        assert given == pytest.approx(clean * (0.7 + 0.3 / (1.0 - row.cod_efficiency)))
        assert secret.loads(ts).flow_m3_s == pytest.approx(honest.loads(ts).flow_m3_s)

    def test_stack(self) -> None:
        """At a stack the treatment is switched down, and the analyser is told the truth."""
        row = FIRINGS["ceramics-kiln"]
        secret = field(event("secret-discharge", f"{KILN}/stack-1", bypassed=0.4))
        shown, usual = (
            seen(plants, f"{KILN}/stack-1", [5000.0])["stack_so2"] for plants in (secret, field())
        )

        expected = (1.0 - 0.6 * row.so2_efficiency) / (1.0 - row.so2_efficiency)
        assert expected == pytest.approx(float(shown[0] / usual[0]))

    def test_electricity(self) -> None:
        """Treatment that stands still draws no electricity, while production goes on."""
        secret = field(event("secret-discharge", WORKS, bypassed=1.0))
        shown, usual = (seen(plants, f"{WORKS}/meter-1", [5000.0]) for plants in (secret, field()))

        assert shown["plant_load"] == usual["plant_load"]
        assert shown["plant_power"][0] < 0.6 * usual["plant_power"][0]

    def test_days(self) -> None:
        """A discharge that goes on for days is made at night and on weekends only."""
        secret = field(event("secret-discharge", f"{KILN}/stack-1", at_s=0, for_s=6 * 86400))
        at_s = np.array([12.0, 26.0, 36.0, 132.0]) * 3600.0
        shown, usual = (
            seen(plants, f"{KILN}/stack-1", at_s)["stack_pm"] for plants in (secret, field())
        )

        assert [False, True, False, True] == (shown > 2.0 * usual).tolist()

    def test_inspection(self) -> None:
        """Nothing passes the treatment while inspectors are there."""
        secret = event("secret-discharge", KILN)
        visit = msgspec.structs.replace(event("inspection", KILN, at_s=3600, for_s=1800), id="v")
        shown, usual = (
            seen(plants, f"{KILN}/stack-1", [3500.0, 5000.0, 6000.0])["stack_pm"]
            for plants in (field(secret, visit), field())
        )

        assert [True, False, True] == (shown > 1.01 * usual).tolist()


class TestStop:
    """A unit that is told to stop stops."""

    def test_before(self) -> None:
        """A stop changes nothing before it."""
        plants, other = field(), field()
        plants.stop_unit(KILN, START_MS + HOUR_MS)
        at_s = np.arange(0.0, 3600.0, 7.0)
        one, two = (seen(each, f"{KILN}/stack-1", at_s) for each in (plants, other))

        assert all(np.array_equal(one[name], two[name]) for name in one)

    def test_stand(self) -> None:
        """A unit that stands burns nothing, blows air, cools down and exceeds nothing."""
        plants = field()
        stands_s = (plants.stop_unit(KILN, START_MS) - START_MS) / 1000
        gas = seen(plants, f"{KILN}/stack-1", [0.0, stands_s, 6 * stands_s])

        assert stands_s == SCHEDULES["ceramics-kiln"].stop_s
        assert gas["stack_o2"][1] == pytest.approx(20.9)
        assert gas["flue_temperature"][2] == pytest.approx(20.0, abs=0.5)
        assert gas["flue_flow"][1] < 0.5 * gas["flue_flow"][0]
        for name in ("pm", "so2", "nox"):
            assert gas[f"stack_{name}_corrected"][1] < gas[f"stack_{name}_corrected"][0]
        assert seen(plants, f"{KILN}/meter-1", [stands_s])["plant_load"][0] == 0.0

    def test_again(self) -> None:
        """A second stop changes nothing; the unit stands when it was to stand."""
        plants = field()
        first = plants.stop_unit(WORKS, START_MS)

        assert first == plants.stop_unit(WORKS, START_MS + HOUR_MS)

    def test_unknown(self) -> None:
        """A site without a plant is refused with near names."""
        with pytest.raises(InputError, match=r"no plant at 'plant-brewry'.*plant-brewery"):
            field().stop_unit("plant-brewry", START_MS)


def test_start_is_a_monday() -> None:
    """The tests' start is midnight of a Monday in the town."""
    assert datetime.fromtimestamp(START_MS / 1000, UTC) == MONDAY
    assert MONDAY.weekday() == 0
