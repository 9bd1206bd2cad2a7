"""The river: calm without events, pulses that travel, mass that adds up, the same bits always."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from city.cityfile import City, DeviceSpec, District, Event, Reach, River, Site
from city.quantities import Domain
from sensors import stream
from sensors.discharges import BOD, COD, DEFICIT, SALT, Dischargers, Discharges
from sensors.fields import Group
from sensors.oxygen import oxygen_deficit_mg_l
from sensors.reaches import Channel
from sensors.river import RiverField
from sensors.stream import STEP_MS, Stream
from sensors.weather import Weather

START_MS = 1_780_272_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
PLACES_KM = (0.5, 6.0, 11.0, 16.5, 22.0)
QUANTITIES = (
    "water_temperature", "ph", "dissolved_oxygen", "conductivity", "turbidity", "codmn",
    "ammonia_n", "total_p", "total_n",
)  # fmt: skip
CLASS_III = {"codmn": 6.0, "ammonia_n": 1.0, "total_p": 0.2}
SPILL = Event(
    id="spill", kind="spill", target="river-1", at_s=3600, for_s=600, params={"mass_kg": 1000.0}
)
RAIN = Event(id="rain", kind="rain", target="town", at_s=0, for_s=7200, params={"rate_mm_h": 8.0})


UNIFORM = Reach(to_km=30.0, velocity_m_s=0.4, depth_m=2.0, width_m=40.0, slope=0.0003)


class Place(msgspec.Struct, frozen=True):
    """Where a plant's wastewater enters the river."""

    river_km: float


class Loads(msgspec.Struct, frozen=True):
    """What outfalls discharge."""

    flow_m3_s: NDArray[np.float64]
    cod_g_s: NDArray[np.float64]
    ammonia_n_g_s: NDArray[np.float64]
    total_p_g_s: NDArray[np.float64]
    total_n_g_s: NDArray[np.float64]


class Plants:
    """Plants that discharge by the hour, until they are told to stop."""

    def __init__(self, *river_km: float, cod_mg_l: float = 22.0, varies: float = 0.5) -> None:
        self.outfalls: Sequence[Place] = [Place(km) for km in river_km]
        self.stopped_ms = 2**62
        self._cod_mg_l = cod_mg_l
        self._varies = varies

    def loads(self, ts: NDArray[np.int64]) -> Loads:
        """A sewage works at each outfall."""
        course = 1.0 + self._varies * np.sin(2.0 * np.pi * ts / DAY_MS)
        flow = np.where(ts < self.stopped_ms, 0.48 * course, 0.0)[:, None]
        flow = np.repeat(flow, len(self.outfalls), axis=1)
        return Loads(flow, self._cod_mg_l * flow, 1.2 * flow, 0.22 * flow, 8.5 * flow)


def town(*events: Event) -> City:
    """A city of five river stations and nothing else."""
    sites = [
        Site(
            id=f"river-{number}",
            district="old",
            domain=Domain.WATER,
            river_km=km,
            devices=(DeviceSpec(id="station", kind="water-station"),),
        )
        for number, km in enumerate(PLACES_KM)
    ]
    reaches = (
        Reach(to_km=8.0, velocity_m_s=0.55, depth_m=1.6, width_m=38.0, slope=0.0005),
        Reach(to_km=18.0, velocity_m_s=0.42, depth_m=2.0, width_m=40.0, slope=0.0003),
        Reach(to_km=30.0, velocity_m_s=0.30, depth_m=2.5, width_m=45.0, slope=0.0002),
    )
    return City(
        city="town",
        districts=(District(id="old"),),
        sites=tuple(sites),
        events=events,
        river=River(reaches=reaches),
    )


def river(
    *events: Event, plants: Dischargers | None = None, start_ms: int = START_MS
) -> RiverField:
    """The field of that city."""
    city = town(*events)
    weather = Weather(city, seed=1, start_ms=start_ms)
    return RiverField(city, seed=1, start_ms=start_ms, weather=weather, plants=plants)


def seen(field: RiverField, ts: Sequence[int]) -> NDArray[np.float64]:
    """What is true at every station at `ts`, shape (k, stations, quantities)."""
    devices = tuple(town().devices())
    phase_ms = np.zeros(len(devices), dtype=np.int64)
    group = Group(
        kind=devices[0].kind, interval_ms=10_000, devices=devices, first=0, phase_ms=phase_ms
    )
    rows = np.tile(np.arange(len(devices)), len(ts))
    values = field.probe(group).truth(rows, np.repeat(np.array(ts, dtype=np.int64), len(devices)))
    return values.reshape(len(ts), len(devices), -1)


def column(values: NDArray[np.float64], quantity: str) -> NDArray[np.float64]:
    """One quantity of it."""
    chosen: NDArray[np.float64] = values[..., QUANTITIES.index(quantity)]
    return chosen


def effect(
    field: RiverField, calm: RiverField, quantity: str, ts: Sequence[int]
) -> NDArray[np.float64]:
    """How much more of a quantity there is than in a calm river, shape (k, stations)."""
    return column(seen(field, ts), quantity) - column(seen(calm, ts), quantity)


def hours(first: float, last: float, count: int) -> list[int]:
    """Instants evenly between hours after the start."""
    return [START_MS + round(hour * HOUR_MS) for hour in np.linspace(first, last, count)]


def steady(plants: Dischargers | None, *events: Event) -> Stream:
    """A uniform river of 20 degC."""
    city = town(*events)
    return Stream(
        Channel((UNIFORM,), step_s=STEP_MS / 1000),
        Discharges(city, plants, start_ms=START_MS),
        Weather(city, seed=1, start_ms=START_MS),
        lambda ts: np.full(len(ts), 20.0),
        start_ms=START_MS,
    )


@pytest.fixture(scope="module")
def year() -> NDArray[np.float64]:
    """Hours of a year without events or outfalls."""
    starts = [START_MS + hour * HOUR_MS for hour in range(0, 365 * 24, 149)]
    parts = [seen(river(start_ms=start_ms), [start_ms, start_ms + HOUR_MS]) for start_ms in starts]
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def pulse() -> NDArray[np.float64]:
    """The rise of ammonia after a spill at the second station, every 6 minutes for a day."""
    return effect(river(SPILL), river(), "ammonia_n", hours(0, 24, 241))


@pytest.fixture(scope="module")
def share() -> NDArray[np.float64]:
    """Values in rain relative to those in dry weather, every half hour for two days."""
    ts = hours(0, 48, 97)
    return seen(river(RAIN), ts) / seen(river(), ts)


@pytest.fixture(scope="module")
def straight() -> NDArray[np.float64]:
    """A day hour by hour, in one go."""
    return seen(river(SPILL, RAIN, plants=Plants(4.0)), hours(0, 24, 25))


class TestBackground:
    """Where nothing happens, nothing exceeds a limit."""

    @pytest.mark.parametrize("quantity", sorted(CLASS_III))
    def test_class_iii(self, year: NDArray[np.float64], quantity: str) -> None:
        """The river keeps class III."""
        assert column(year, quantity).max() < 0.95 * CLASS_III[quantity]

    def test_oxygen_and_acidity(self, year: NDArray[np.float64]) -> None:
        """The river has the oxygen and acidity of class III."""
        assert column(year, "dissolved_oxygen").min() > 5.5
        assert column(year, "ph").min() > 6.5
        assert column(year, "ph").max() < 8.5

    def test_outfalls_kept_to_permit(self) -> None:
        """The river keeps class III below outfalls that keep their permits."""
        values = seen(river(plants=Plants(4.0, 9.0)), hours(0, 48, 97))

        assert column(values, "dissolved_oxygen").min() > 5.5
        for quantity, limit in CLASS_III.items():
            assert column(values, quantity).max() < limit

    def test_in_steady_state(self) -> None:
        """A steady outfall shows from the start what it shows two days later."""
        field, calm = river(plants=Plants(4.0, varies=0.0)), river()
        extra = effect(field, calm, "conductivity", hours(0, 48, 2))

        assert extra[1, 1:] == pytest.approx(extra[0, 1:], rel=0.06)
        assert np.abs(extra[:, 0]).max() < 1e-6


class TestSpill:
    """What is spilled travels down the river."""

    def test_later_and_weaker(self, pulse: NDArray[np.float64]) -> None:
        """Each station below sees the pulse later and weaker than the one above."""
        peaks, times = pulse[:, 1:].max(axis=0), pulse[:, 1:].argmax(axis=0)

        assert sorted(peaks, reverse=True) == peaks.tolist()
        assert sorted(times) == times.tolist()
        assert peaks[1] < 0.5 * peaks[0]

    def test_travel_time(self, pulse: NDArray[np.float64]) -> None:
        """The peak comes 5 km below when water that flows with the river does, to 5 %."""
        passed_h = 2.0 / 0.55 / 3.6 + 3.0 / 0.42 / 3.6
        expected_h = 1.0 + 300 / 3600 + passed_h

        assert expected_h == pytest.approx(pulse[:, 2].argmax() / 10, rel=0.05)

    def test_upstream(self, pulse: NDArray[np.float64]) -> None:
        """Five kilometres above nothing is seen."""
        assert np.abs(pulse[:, 0]).max() < 1e-6

    def test_not_before(self, pulse: NDArray[np.float64]) -> None:
        """Nothing is seen before it happens."""
        assert np.abs(pulse[:11]).max() == 0.0

    def test_exceeds(self) -> None:
        """At its place a spill exceeds class V, and the oxygen falls by more than 1 mg/L."""
        during = hours(1.1, 1.2, 4)
        values = seen(river(SPILL), during)[:, 1]

        assert column(values, "ammonia_n").max() > 2.0
        assert column(values, "codmn").max() > 10.0
        assert effect(river(SPILL), river(), "dissolved_oxygen", during)[:, 1].min() < -1.0
        assert effect(river(SPILL), river(), "conductivity", during)[:, 1].max() > 20.0

    def test_twice_the_mass(self, pulse: NDArray[np.float64]) -> None:
        """Twice the mass makes twice the rise."""
        double = msgspec.structs.replace(SPILL, params={"mass_kg": 2000.0})
        actual = effect(river(double), river(), "ammonia_n", hours(0, 24, 241))

        assert 2.0 * pulse == pytest.approx(actual, abs=1e-9)

    def test_never_negative(self) -> None:
        """A spill that would use more oxygen than there is leaves none, not less."""
        huge = msgspec.structs.replace(SPILL, params={"mass_kg": 1e6})

        assert column(seen(river(huge), hours(1, 12, 56)), "dissolved_oxygen").min() == 0.0


class TestBalance:
    """What is put in leaves, decays or is still there."""

    @pytest.mark.parametrize("rain", [(), (RAIN,)])
    def test_closes(self, rain: tuple[Event, ...]) -> None:
        """Outfalls of 21 g/s of COD and a spill of 1 t: the balance after two days is closed."""
        balance = river(SPILL, *rain, plants=Plants(4.0, 9.0)).balance(START_MS + 2 * DAY_MS)
        accounted = balance.left + balance.decayed + balance.stored

        assert balance.put_in[:DEFICIT] == pytest.approx(accounted[:DEFICIT], rel=1e-3)
        assert balance.decayed[COD] > 0.05 * balance.put_in[COD]
        assert balance.decayed[SALT] == 0.0

    def test_put_in(self) -> None:
        """What the balance says was spilled is what the city file says."""
        with_spill = river(SPILL, plants=Plants(4.0)).balance(START_MS + DAY_MS)
        without = river(plants=Plants(4.0)).balance(START_MS + DAY_MS)

        assert pytest.approx(1e6, rel=1e-6) == with_spill.put_in[COD] - without.put_in[COD]

    def test_decay(self) -> None:
        """What has not left decays by its rate: a second way to the same figure."""
        flow = steady(None, SPILL)
        balance = flow.balance(START_MS + 7 * HOUR_MS)
        age_d = (7 * HOUR_MS // (64 * STEP_MS) * 64 * STEP_MS - 1.083 * HOUR_MS) / DAY_MS

        assert 1e6 * np.exp(-0.20 * age_d) == pytest.approx(balance.stored[COD], rel=2e-3)


class TestDischarges:
    """What comes with the oxygen demand of what is discharged."""

    def test_spill(self) -> None:
        """A spill puts in the mass of the city file, as raw sewage, while it lasts."""
        ts = START_MS + np.arange(0, 2 * HOUR_MS, STEP_MS)
        masses_g = Discharges(town(SPILL), None, start_ms=START_MS).masses_g(ts, STEP_MS)[:, 0]
        at_work = ts[masses_g[:, COD] > 0.0] - START_MS

        assert [1e6, 0.7e6] == pytest.approx(masses_g[:, [COD, BOD]].sum(axis=0).tolist())
        assert (HOUR_MS, HOUR_MS + 600_000 - STEP_MS) == (at_work[0], at_work[-1])

    def test_raw(self) -> None:
        """Raw wastewater lacks oxygen and demands more of it per COD than treated does."""
        raw, treated = (
            Discharges(town(), Plants(4.0, cod_mg_l=cod), start_ms=START_MS).masses_g(
                np.array([START_MS]), STEP_MS
            )[0, 0]
            for cod in (400.0, 40.0)
        )

        assert treated[DEFICIT] == 0.0
        assert [0.0725, 0.70] == pytest.approx([raw[DEFICIT] / raw[COD], raw[BOD] / raw[COD]])
        assert treated[BOD] / treated[COD] == pytest.approx(0.28)


class TestOxygenSag:
    """Below an outfall the oxygen falls and comes back as Streeter and Phelps have it."""

    @pytest.mark.parametrize("river_km", [10.0, 20.0, 28.0])
    def test_streeter_phelps(self, river_km: float) -> None:
        """The deficit below a steady outfall agrees with plug flow within 2 %."""
        water = steady(Plants(2.0, cod_mg_l=60.0, varies=0.0)).at(np.array([START_MS]))
        channel = Channel((UNIFORM,), step_s=STEP_MS / 1000)
        cell = int(channel.sections(np.array([river_km])).before[0])
        travel_d = ((cell + 0.5) * 0.1 - 2.0) * 1000 / 0.4 / 86_400
        k2 = float(channel.reaeration_per_day[0])
        demand = 0.48 * 60.0 * 0.28 / 32.0
        nitrogen = 0.48 * 1.2 / 32.0
        expected = oxygen_deficit_mg_l(demand, 0.0, 0.25, k2, travel_d)
        expected += 4.57 * oxygen_deficit_mg_l(nitrogen, 0.0, 0.10, k2, travel_d)

        assert expected == pytest.approx(water.carried[0, cell, DEFICIT], rel=0.02)
        assert demand * np.exp(-0.25 * travel_d) == pytest.approx(
            water.carried[0, cell, BOD], rel=0.01
        )


class TestRain:
    """Rain swells the river."""

    def test_dilutes(self, share: NDArray[np.float64]) -> None:
        """Conductivity falls by more than a fifth and is back two days later."""
        assert column(share, "conductivity").min() < 0.8
        assert column(share, "conductivity")[-1] == pytest.approx(np.ones(5), abs=0.02)

    def test_stirs_up(self, share: NDArray[np.float64]) -> None:
        """Turbidity rises severalfold, and peaks before the water is most diluted."""
        turbidity = column(share, "turbidity")

        assert turbidity.max() > 3.0
        assert turbidity[:, 0].argmax() < column(share, "conductivity")[:, 0].argmin()

    def test_thins_a_spill(self) -> None:
        """In a flood a spill passes sooner and thinner."""
        ts = hours(0, 12, 121)
        late = msgspec.structs.replace(SPILL, at_s=2.5 * 3600)
        dry = effect(river(late), river(), "ammonia_n", ts)[:, 2]
        wet = effect(river(late, RAIN), river(RAIN), "ammonia_n", ts)[:, 2]

        assert wet.max() < dry.max()
        assert wet.argmax() < dry.argmax()


class TestSameBits:
    """Values depend on when and where, never on what was asked before."""

    @settings(max_examples=5, deadline=None)
    @given(data=st.data())
    def test_any_order(self, straight: NDArray[np.float64], data: Any) -> None:
        """Instants in any order, with few checkpoints, have the bits of going straight."""
        order = data.draw(st.permutations(range(25)))[:6]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stream, "CHECKPOINTS_MAX", 8)
            field = river(SPILL, RAIN, plants=Plants(4.0))
            for hour in order:
                actual = seen(field, [START_MS + hour * HOUR_MS])[0]

                assert straight[hour].tobytes() == actual.tobytes()

    def test_before_the_start(self) -> None:
        """The river has values long before the start: those of its steady state."""
        values = seen(river(plants=Plants(4.0)), [START_MS - 30 * DAY_MS, START_MS - DAY_MS])

        assert np.isfinite(values).all()

    def test_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """However long the run, no more than a given number of states are kept."""
        monkeypatch.setattr(stream, "CHECKPOINTS_MAX", 16)
        flow = steady(None)
        counts = set()
        for day in range(0, 45, 5):
            flow.at(np.array([START_MS + day * DAY_MS]))
            counts.add(len(flow._checkpoints))

        assert max(counts) <= 16
        assert min(counts) >= 4

    def test_command(self) -> None:
        """A plant that is stopped changes what comes after, nothing before, in any order."""
        plants, told = Plants(4.0), Plants(4.0)
        field = river(plants=plants)
        stop_ms = START_MS + 10 * HOUR_MS + 12_345
        ts = [stop_ms - 20_000, stop_ms, stop_ms + 6 * HOUR_MS]
        before = seen(field, ts)
        plants.stopped_ms = told.stopped_ms = stop_ms
        field.forget(stop_ms)
        after = seen(field, ts)

        assert before[:2].tobytes() == after[:2].tobytes()
        assert column(after, "conductivity")[2, 1] < column(before, "conductivity")[2, 1] - 3.0
        assert seen(river(plants=told), ts).tobytes() == after.tobytes()
