"""The air: limits kept, statistics of Beijing, plumes downwind and nowhere else, events."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from city.cityfile import City, DeviceSpec, Event, Position, Site
from city.kinds import DEVICE_KINDS
from city.quantities import Domain
from sensors.air import AirField, AirProbe
from sensors.background import BACKGROUND, Background
from sensors.downwind import REACH_M, SPECIES, Emitted, Plumes, metres
from sensors.fields import Group
from sensors.plume import URBAN, dilution_s_m3, wind_at_height_m_s
from sensors.plumerise import Gas, rise_m
from sensors.weather import Weather

START_MS = 1_780_272_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
CENTRE: Position = (119.97, 31.82)
HOURLY_LIMITS = {"pm25": 115, "pm10": 250, "so2": 500, "no2": 200, "co": 10, "o3": 200}
WEST_WIND = Event(
    id="wind", kind="wind", target="", at_s=0, for_s=86400 * 3,
    params={"speed_m_s": 4.0, "from_deg": 270.0},
)  # fmt: skip


class Chimney(msgspec.Struct, frozen=True):
    """A stack at the city's middle."""

    position: Position = CENTRE
    height_m: float = 60.0
    diameter_m: float = 3.0


class Smoke(msgspec.Struct, frozen=True, eq=False):
    """What chimneys emit."""

    pm_g_s: NDArray[np.float64]
    so2_g_s: NDArray[np.float64]
    nox_g_s: NDArray[np.float64]
    temperature_c: NDArray[np.float64]
    velocity_m_s: NDArray[np.float64]


class Chimneys:
    """Stacks that burn from an instant on, until they are put out."""

    def __init__(
        self, *stacks: Chimney, lit_ms: int = START_MS - DAY_MS, g_s: float = 10.0
    ) -> None:
        self.stacks = stacks
        self.lit_ms = lit_ms
        self.out_ms = 2**60
        self.g_s = g_s

    def emissions(self, ts: NDArray[np.int64]) -> Smoke:
        """`g_s` of PM, twice of SO2, four times of NOx from every stack while it burns."""
        lit = (ts >= self.lit_ms) & (ts <= self.out_ms)
        burning = np.repeat(lit[:, None] * 1.0, len(self.stacks), axis=1)
        ones = np.ones_like(burning)
        grams = self.g_s * burning
        return Smoke(grams, 2 * grams, 4 * grams, 90.0 * ones, 12.0 * ones)


def town(*places_km: tuple[float, float], events: tuple[Event, ...] = ()) -> City:
    """A city with an air station so far east and north of its middle."""
    sites = tuple(
        Site(
            id=f"air-{number}",
            district="centre",
            domain=Domain.AIR,
            position=(
                CENTRE[0] + east / (111.32 * float(np.cos(np.radians(CENTRE[1])))),
                CENTRE[1] + north / 111.32,
            ),
            devices=(DeviceSpec(id="station-1", kind="air-station"),),
        )
        for number, (east, north) in enumerate(places_km)
    )
    return City(city="town", districts=(), sites=sites, events=events)


def probe(
    city: City, plants: Chimneys | None = None, *, first: int = 0, stop: int | None = None
) -> AirProbe:
    """The city's stations, or some of them."""
    return field(city, plants).probe(group(city, first, stop))


def field(city: City, plants: Chimneys | None = None) -> AirField:
    """The air of `city`."""
    weather = Weather(city, seed=1, start_ms=START_MS)
    return AirField(city, seed=1, start_ms=START_MS, weather=weather, plants=plants)


def group(city: City, first: int = 0, stop: int | None = None) -> Group:
    """The city's stations, or some of them."""
    devices = tuple(city.devices())[first:stop]
    phases = np.zeros(len(devices), dtype=np.int64)
    return Group(DEVICE_KINDS["air-station"], 5000, devices, first, phases)


def values(stations: AirProbe, quantity: str, ts: NDArray[np.int64], row: int = 0) -> list[float]:
    """A quantity at one station."""
    column = DEVICE_KINDS["air-station"].quantities.index(quantity)
    return [float(value) for value in stations.truth(np.full(len(ts), row), ts)[:, column]]


def added(city: City, plants: Chimneys, ts: NDArray[np.int64], row: int = 0) -> NDArray[np.float64]:
    """The SO2 that plumes bring to one station."""
    here, spared = (values(probe(city, source), "so2", ts, row) for source in (plants, None))
    difference: NDArray[np.float64] = np.array(here) - np.array(spared)
    return difference


class TestBackground:
    """Where nothing happens."""

    @pytest.mark.parametrize("quantity", sorted(HOURLY_LIMITS))
    def test_limits(self, quantity: str) -> None:
        """The air keeps the hourly limits all the year, with a twentieth to spare."""
        ts = START_MS + np.arange(0, 365 * DAY_MS, 31 * HOUR_MS)

        assert max(values(probe(town((0, 0))), quantity, ts)) < 0.95 * HOURLY_LIMITS[quantity]

    @pytest.mark.parametrize("row", BACKGROUND, ids=lambda row: row.name)
    def test_shares(self, row: object) -> None:
        """What pollutants share and what the wind brings leaves room for their own."""
        shared, still = (float(getattr(row, name)) for name in ("shared", "still"))

        assert shared**2 + still**2 < 1

    def test_coarse(self) -> None:
        """There is never less PM10 than PM2.5."""
        ts = START_MS + np.arange(0, 365 * DAY_MS, 31 * HOUR_MS)
        stations = probe(town((0, 0)))

        assert np.all(np.array(values(stations, "pm10", ts)) >= values(stations, "pm25", ts))

    def test_year(self) -> None:
        """Ozone has its year in summer, sulphur dioxide in winter."""
        ts = START_MS + np.arange(0, 365 * DAY_MS, HOUR_MS)
        city = town((0, 0))
        weather = Weather(city, seed=1, start_ms=START_MS).at(ts)
        levels = dict(
            zip(
                [row.name for row in BACKGROUND],
                Background(1, city.zone).at(ts, weather),
                strict=True,
            )
        )
        summer = slice(0, 60 * 24)
        winter = slice(180 * 24, 240 * 24)

        assert levels["o3"][summer].mean() > 2 * levels["o3"][winter].mean()
        assert levels["so2"][winter].mean() > 2 * levels["so2"][summer].mean()

    def test_ozone_by_day(self) -> None:
        """Ozone is more than twice as high at 15 h as at 7 h."""
        days = START_MS + DAY_MS * np.arange(30)
        stations = probe(town((0, 0)))
        morning = values(stations, "o3", days - HOUR_MS)
        afternoon = values(stations, "o3", days + 7 * HOUR_MS)

        assert np.mean(afternoon) > 2 * np.mean(morning)

    def test_near_and_far(self) -> None:
        """Stations agree mostly, and those far apart less than neighbours."""
        ts = START_MS + np.arange(0, 365 * DAY_MS, 31 * HOUR_MS)
        stations = probe(town((0, 0), (0.1, 0), (14, 14)))
        here, near, far = (values(stations, "no2", ts, row) for row in range(3))

        assert np.corrcoef(here, near)[0, 1] > np.corrcoef(here, far)[0, 1] > 0.7


class TestIndependence:
    """How the field is asked changes nothing."""

    @settings(max_examples=6, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**8)), min_size=1, max_size=6))
    def test_asking(self, asked: list[tuple[int, int]]) -> None:
        """Readings asked together or one by one, in any order, are equal bit for bit."""
        city = town((1, 0), (2, 0), (3, 1), (-2, 0))
        rows = np.array([row for row, _ in asked])
        ts = START_MS + np.array([after for _, after in asked])
        together = probe(city, Chimneys(Chimney())).truth(rows, ts)
        stations = probe(city, Chimneys(Chimney()))

        for index in reversed(range(len(asked))):
            alone = stations.truth(rows[index : index + 1], ts[index : index + 1])
            assert together[index].tolist() == alone[0].tolist()

    def test_sharding(self) -> None:
        """A shard's stations have the values that they have in the whole city."""
        city = town((1, 0), (2, 0), (3, 0.2), (4, 0), events=(WEST_WIND,))
        chimneys = Chimneys(Chimney(), Chimney(height_m=100.0))
        ts = START_MS + np.arange(0, 6 * HOUR_MS, 97_000)

        for row in (2, 3):
            whole = probe(city, chimneys).truth(np.full(len(ts), row), ts)
            shard = probe(city, chimneys, first=2).truth(np.full(len(ts), row - 2), ts)
            assert whole.tolist() == shard.tolist()


class TestPlumes:
    """What stacks add."""

    TS = START_MS + np.arange(6 * HOUR_MS, 20 * HOUR_MS, 600_000)

    def test_downwind(self) -> None:
        """In a west wind a station in the east has the plume, one in the west or north nothing."""
        city = town((2, 0), (-2, 0), (0, 2), events=(WEST_WIND,))
        east, west, north = (added(city, Chimneys(Chimney()), self.TS, row) for row in range(3))

        assert east.max() > 5.0
        assert west.tolist() == north.tolist() == [0.0] * len(self.TS)

    def test_formula(self) -> None:
        """What arrives is emission times dilution at the risen height, in the wind of the stack."""
        city = town((2, 0), events=(WEST_WIND,))
        at = self.TS // 60_000 * 60_000
        state = Weather(city, seed=1, start_ms=START_MS).at(at)
        shape = np.ones(len(at))
        wind = wind_at_height_m_s(4.0 * shape, 60.0 * shape, state.stability, URBAN)
        gas = Gas(90.0 * shape, 12.0 * shape, 3.0 * shape)
        x_m = 2000.0 * shape
        rise = rise_m(x_m, gas, wind_m_s=wind, air_c=state.temperature_c, stability=state.stability)
        dilution = dilution_s_m3(
            x_m, 0 * x_m, 0 * x_m,
            height_m=60.0 + rise, wind_m_s=wind, stability=state.stability, terrain=URBAN,
        )  # fmt: skip

        np.testing.assert_allclose(
            added(city, Chimneys(Chimney()), at), 20e6 * dilution, rtol=1e-6, atol=1e-6
        )

    def test_delay(self) -> None:
        """Smoke reaches a station after the time that the wind needs, and not before."""
        city = town((5, 0), events=(WEST_WIND,))
        lit_ms = START_MS + 6 * HOUR_MS
        ts = lit_ms + 60_000 * np.arange(60)
        arrived = added(city, Chimneys(Chimney(), lit_ms=lit_ms), ts)
        first = int(np.flatnonzero(arrived > 0.01)[0])
        fastest_s, slowest_s = 5000 / (4.0 * 6**0.30), 5000 / 4.0

        assert fastest_s / 60 - 2 <= first <= slowest_s / 60 + 2
        assert arrived[-1] > 0.1

    def test_shares(self) -> None:
        """Of a stack's NOx 0.75 arrives as NO2, of its dust 0.9 as PM10 and 0.6 as PM2.5."""
        city = town((2, 0), events=(WEST_WIND,))
        brought = {
            quantity: np.array(values(probe(city, Chimneys(Chimney())), quantity, self.TS))
            - np.array(values(probe(city), quantity, self.TS))
            for quantity in ("pm25", "pm10", "so2", "no2", "co", "o3")
        }

        np.testing.assert_allclose(brought["no2"], 1.5 * brought["so2"], atol=1e-9)
        np.testing.assert_allclose(brought["pm10"], 0.45 * brought["so2"], atol=1e-9)
        np.testing.assert_allclose(brought["pm25"], 0.30 * brought["so2"], atol=1e-9)
        assert not np.any(brought["co"])
        assert not np.any(brought["o3"])

    def test_sum(self) -> None:
        """Two equal stacks in one place bring twice what one brings."""
        city = town((2, 0), events=(WEST_WIND,))
        one = added(city, Chimneys(Chimney()), self.TS)

        np.testing.assert_allclose(
            added(city, Chimneys(Chimney(), Chimney()), self.TS), 2 * one, atol=1e-9
        )

    def test_calm(self) -> None:
        """In a breath of wind a plume is that of 1 m/s."""
        winds = [
            msgspec.structs.replace(WEST_WIND, params={"speed_m_s": speed, "from_deg": 270.0})
            for speed in (0.2, 1.0)
        ]
        ts = START_MS + np.arange(12 * HOUR_MS, 20 * HOUR_MS, 600_000)
        breath, floor = (
            added(town((2, 0), events=(wind,)), Chimneys(Chimney()), ts) for wind in winds
        )

        np.testing.assert_allclose(breath, floor, rtol=1e-9)

    def test_reach(self) -> None:
        """From 10 km to 12 km a plume fades, beyond there is nothing and it costs nothing."""
        city = town((9.9, 0), (11, 0), (12.1, 0), events=(WEST_WIND,))
        near, fading, beyond = (added(city, Chimneys(Chimney()), self.TS, row) for row in range(3))

        assert near.max() > fading.max() > 0
        assert beyond.tolist() == [0.0] * len(self.TS)

    def test_reached(self) -> None:
        """Only places within reach of a stack are computed."""
        city = town((0, 0))
        places_m = np.array([[0.0, REACH_M + 1], [0.0, REACH_M - 1], [500.0, 0.0]])
        weather = Weather(city, seed=1, start_ms=START_MS)
        chimneys = Chimneys(Chimney())
        plumes = Plumes(chimneys, Emitted(chimneys), weather, places_m, origin=CENTRE)

        assert [1, 2] == plumes.reached.tolist()
        assert (1, 3, len(SPECIES)) == plumes.at(np.array([START_MS])).shape

    def test_command(self) -> None:
        """A stack that is put out changes nothing that was before, and is gone later."""
        city = town((0.2, 0), (5, 0), events=(WEST_WIND,))
        chimneys = Chimneys(Chimney(height_m=10.0))
        air = field(city, chimneys)
        stations = air.probe(group(city))
        out_ms = START_MS + 12 * HOUR_MS + 90_000
        ts = out_ms + 60_000 * np.arange(-60, 61)
        before = [values(stations, "so2", ts, row) for row in range(2)]
        chimneys.out_ms = out_ms
        air.forget()
        after = [values(stations, "so2", ts, row) for row in range(2)]

        for row in range(2):
            assert before[row][:61] == after[row][:61]
            assert before[row][-1] > after[row][-1]


class TestEvents:
    """Weather that the air feels."""

    def test_smog(self) -> None:
        """Smog takes particulates over their limits at every station, and lowers ozone."""
        smog = Event(id="smog", kind="smog", target="", at_s=0, for_s=86400)
        places = ((0, 0), (9, 9))
        ts = START_MS + np.arange(4 * HOUR_MS, 24 * HOUR_MS, HOUR_MS)
        struck, spared = probe(town(*places, events=(smog,))), probe(town(*places))

        for row in range(2):
            assert min(values(struck, "pm25", ts, row)) > 115
            assert min(values(struck, "pm10", ts, row)) > 250
            assert np.all(np.less(values(struck, "o3", ts, row), values(spared, "o3", ts, row)))

    def test_rain(self) -> None:
        """Rain washes particulates out."""
        rain = Event(id="rain", kind="rain", target="", at_s=0, for_s=86400)
        ts = START_MS + np.arange(4 * HOUR_MS, 24 * HOUR_MS, HOUR_MS)
        struck, spared = probe(town((0, 0), events=(rain,))), probe(town((0, 0)))

        for quantity in ("pm25", "pm10"):
            assert np.all(
                np.array(values(struck, quantity, ts))
                < 0.8 * np.array(values(spared, quantity, ts))
            )

    def test_wind(self) -> None:
        """Stations feel the wind of the city, with a little of their own."""
        stations = probe(town((0, 0), events=(WEST_WIND,)))
        ts = START_MS + np.arange(4 * HOUR_MS, 24 * HOUR_MS, HOUR_MS)

        assert np.mean(values(stations, "wind_speed", ts)) == pytest.approx(4.0, abs=0.5)
        assert np.mean(values(stations, "wind_direction", ts)) == pytest.approx(270, abs=10)


def test_metres() -> None:
    """A hundredth of a degree north is 1,113 m."""
    actual = metres([(CENTRE[0], CENTRE[1] + 0.01)], CENTRE)

    assert actual[0].tolist() == pytest.approx([0.0, 1113.2])
