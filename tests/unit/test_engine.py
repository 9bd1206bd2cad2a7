"""Samples are pure functions of city, seed and instant, however time and city are cut."""

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from city.cityfile import City, load_city
from city.errors import InputError
from city.quantities import QUANTITIES
from city.synthetic import synthetic_city
from sensors.engine import CityEngine, Frame

START_MS = 1_780_272_000_000
VALVE = "gas-market-street/valve-1"
Sample = tuple[str, int, bytes, bytes]


@pytest.fixture(scope="module")
def town() -> City:
    """The default city: every kind of device, with events from second 8 on."""
    return load_city("lanting")


@pytest.fixture
def engine(town: City) -> CityEngine:
    """A fresh engine of the town."""
    return CityEngine(town, seed=1, start_ms=START_MS)


def samples(frames: Iterable[Frame]) -> set[Sample]:
    """Every sample, with its values and flags bit for bit."""
    return {
        (frame.group.devices[row].name, ts, values.tobytes(), flags.tobytes())
        for frame in frames
        for row, ts, values, flags in zip(
            frame.rows.tolist(), frame.ts.tolist(), frame.values, frame.flags, strict=True
        )
    }


def shown(
    engine: CityEngine, name: str, quantity: str, from_s: float, until_s: float
) -> list[float]:
    """What the device shows of the quantity in that time after the start."""
    return [
        value
        for frame in engine.frames(
            START_MS + round(from_s * 1000), START_MS + round(until_s * 1000)
        )
        if quantity in frame.group.quantities
        for row, value in zip(
            frame.rows,
            frame.values[:, frame.group.quantities.index(quantity)].tolist(),
            strict=True,
        )
        if frame.group.devices[row].name == name
    ]


class TestSlices:
    """However time is cut, the samples are the same."""

    def test_slices(self, engine: CityEngine, town: City) -> None:
        """A minute at once is the same, bit for bit, as 600 slices of 100 ms."""
        whole = samples(engine.frames(START_MS, START_MS + 60_000))
        other = CityEngine(town, seed=1, start_ms=START_MS)
        starts = range(START_MS, START_MS + 60_000, 100)

        assert whole == samples(f for at in starts for f in other.frames(at, at + 100))

    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.integers(0, 30_000), min_size=1, max_size=8))
    def test_any_cut(self, cuts: list[int]) -> None:
        """However a span is cut, no sample is lost, repeated or changed."""
        city = synthetic_city(40, interval_s=2.5, seed=3, kinds=("air-micro", "stack-cems"))
        engine = CityEngine(city, seed=3, start_ms=START_MS)
        edges = sorted({0, *cuts, 30_000})
        pieces = [
            sample
            for low, high in pairwise(edges)
            for sample in samples(engine.frames(START_MS + low, START_MS + high))
        ]

        assert len(pieces) == 40 * 12
        assert samples(engine.frames(START_MS, START_MS + 30_000)) == set(pieces)

    def test_any_order(self, engine: CityEngine, town: City) -> None:
        """A span asked for late, after others, is the same as asked for first."""
        for at in (90_000, 30_000, 500_000):
            list(engine.frames(START_MS + at, START_MS + at + 5_000))
        fresh = CityEngine(town, seed=1, start_ms=START_MS)

        expected = samples(fresh.frames(START_MS + 60_000, START_MS + 70_000))
        assert expected == samples(engine.frames(START_MS + 60_000, START_MS + 70_000))

    def test_tiles(self) -> None:
        """Groups of more devices than a tile holds are cut as cleanly."""
        city = synthetic_city(9_000, interval_s=1, seed=1, kinds=("air-micro",))
        engine = CityEngine(city, seed=1, start_ms=START_MS)
        slices = [
            samples(engine.frames(START_MS + at, START_MS + at + 70)) for at in range(0, 980, 70)
        ]

        assert samples(engine.frames(START_MS, START_MS + 980)) == set().union(*slices)

    def test_empty(self, engine: CityEngine) -> None:
        """An empty span has no frames."""
        assert list(engine.frames(START_MS, START_MS)) == []


class TestReproducibility:
    """However the city is cut, the samples are the same."""

    def test_shards(self, engine: CityEngine, town: City) -> None:
        """Three shards together are the whole, bit for bit, and share no device."""
        span = (START_MS, START_MS + 30_000)
        parts = [
            samples(CityEngine(town, seed=1, start_ms=START_MS, shard=(number, 3)).frames(*span))
            for number in range(3)
        ]

        whole = samples(engine.frames(*span))
        assert whole == set().union(*parts)
        assert len(whole) == sum(len(part) for part in parts)

    def test_shards_across_blocks(self) -> None:
        """Shards that begin inside a block of lanes draw what the whole draws."""
        city = synthetic_city(3_000, interval_s=1, seed=1, kinds=("air-gas", "outfall"))
        span = (START_MS, START_MS + 2_000)
        parts = [
            samples(CityEngine(city, seed=1, start_ms=START_MS, shard=(number, 3)).frames(*span))
            for number in range(3)
        ]

        whole = CityEngine(city, seed=1, start_ms=START_MS)
        assert samples(whole.frames(*span)) == set().union(*parts)

    def test_same_seed(self, engine: CityEngine, town: City) -> None:
        """The same seed gives the same samples."""
        other = CityEngine(town, seed=1, start_ms=START_MS)
        span = (START_MS, START_MS + 20_000)

        assert samples(engine.frames(*span)) == samples(other.frames(*span))

    def test_other_seed(self, engine: CityEngine, town: City) -> None:
        """Another seed gives the same instants with other values."""
        other = CityEngine(town, seed=2, start_ms=START_MS)
        one, two = (samples(e.frames(START_MS, START_MS + 20_000)) for e in (engine, other))

        assert {sample[:2] for sample in one} == {sample[:2] for sample in two}
        assert one != two

    def test_shard_bounds(self, town: City) -> None:
        """A shard that does not exist is refused."""
        with pytest.raises(InputError, match="shard 3 of 3 does not exist"):
            CityEngine(town, seed=1, start_ms=START_MS, shard=(3, 3))


class TestInstants:
    """When devices measure."""

    def test_phases(self, engine: CityEngine) -> None:
        """Every sample stands at a whole number of intervals plus its device's phase."""
        for frame in engine.frames(START_MS, START_MS + 20_000):
            phase = frame.group.phase_ms[frame.rows]

            assert np.array_equal(phase, frame.ts % frame.group.interval_ms)

    @pytest.mark.parametrize("shard", [(0, 1), (1, 4)])
    def test_even_spread(self, shard: tuple[int, int]) -> None:
        """Phases leave no gap above four times the even one, in a shard as in the whole."""
        city = synthetic_city(2_000, interval_s=10, seed=1, kinds=("air-micro",))
        (group,) = CityEngine(city, seed=1, start_ms=START_MS, shard=shard).groups
        gaps = np.diff(np.sort(group.phase_ms))

        assert gaps.max() <= 4 * 10_000 / len(group.devices)

    def test_sorted(self, engine: CityEngine) -> None:
        """A frame's samples stand in the order of their instants."""
        for frame in engine.frames(START_MS, START_MS + 10_000):
            assert np.all(np.diff(frame.ts) >= 0)

    def test_read_only(self, engine: CityEngine) -> None:
        """A frame cannot be changed by who receives it."""
        frame = next(engine.frames(START_MS, START_MS + 10_000))

        with pytest.raises(ValueError, match="read-only"):
            frame.values[0, 0] = 1.0


class TestValues:
    """What frames hold."""

    def test_rounded_and_in_range(self, engine: CityEngine) -> None:
        """Values are finite, within the physical range, and have their quantity's decimals."""
        for frame in engine.frames(START_MS, START_MS + 120_000):
            for column, name in enumerate(frame.group.quantities):
                quantity, values = QUANTITIES[name], frame.values[:, column]

                assert np.array_equal(np.round(values, quantity.decimals), values)
                assert np.all((values >= quantity.low) & (values <= quantity.high))

    def test_positions(self, engine: CityEngine, town: City) -> None:
        """Every device has a place, gas devices within two kilometres of the city's middle."""
        positions = engine.device_positions()
        longitude, latitude = positions[VALVE]

        assert {device.name for device in town.devices()} == positions.keys()
        assert abs(latitude - town.position[1]) < 0.018
        assert 0 < abs(longitude - town.position[0]) < 0.021


class TestValves:
    """What a command changes."""

    def test_travel(self, engine: CityEngine) -> None:
        """A closing valve passes the middle at half of its travel and then stays closed."""
        arrives_ms = engine.set_valve(VALVE, 0.0, START_MS + 1_000)

        assert arrives_ms == START_MS + 2_800
        assert engine.valve_position(VALVE, START_MS + 1_000) == 100.0
        assert engine.valve_position(VALVE, START_MS + 1_900) == 50.0
        assert engine.valve_position(VALVE, START_MS + 60_000) == 0.0

    def test_shown(self, engine: CityEngine) -> None:
        """The valve's own samples show the command, also those computed before it came."""
        before = shown(engine, VALVE, "valve_position", 0, 20)
        engine.set_valve(VALVE, 0.0, START_MS + 10_000)

        assert before == [100.0] * 10
        assert shown(engine, VALVE, "valve_position", 0, 10) == [100.0] * 5
        assert shown(engine, VALVE, "valve_position", 12, 20) == [0.0] * 4

    def test_turned_back(self, engine: CityEngine) -> None:
        """A valve that is opened while it closes turns where it is."""
        engine.set_valve(VALVE, 0.0, START_MS)
        arrives_ms = engine.set_valve(VALVE, 100.0, START_MS + 900)

        assert arrives_ms == START_MS + 1_800
        assert engine.valve_position(VALVE, START_MS + 1_350) == 75.0

    def test_closing_ends_the_leak(self, engine: CityEngine) -> None:
        """Methane falls as soon as the leaking site's valve is closed."""
        detector = "gas-market-street/detector-1"
        open_lel = shown(engine, detector, "methane", 20, 26)
        engine.set_valve(VALVE, 0.0, START_MS + 12_000)

        assert min(open_lel) > 50.0
        assert max(shown(engine, detector, "methane", 22, 26)) < 25.0

    @pytest.mark.parametrize(
        "act",
        [
            lambda engine: engine.set_valve("gas-market-street/valve-9", 0.0, START_MS),
            lambda engine: engine.valve_position("gas-market-street/valve-9", START_MS),
        ],
    )
    def test_unknown(self, engine: CityEngine, act: Callable[[CityEngine], object]) -> None:
        """An unknown valve is refused with the name that was probably meant."""
        with pytest.raises(InputError, match="did you mean 'gas-market-street/valve-1'"):
            act(engine)

    def test_impossible_position(self, engine: CityEngine) -> None:
        """A position outside 0 to 100 is refused."""
        with pytest.raises(InputError, match="not within 0 to 100"):
            engine.set_valve(VALVE, 101.0, START_MS)

    def test_city_without_gas(self) -> None:
        """In a city without gas devices every valve is unknown."""
        city = synthetic_city(4, interval_s=1, seed=1, kinds=("air-micro",))
        engine = CityEngine(city, seed=1, start_ms=START_MS)

        with pytest.raises(InputError, match="no gas devices"):
            engine.set_valve(VALVE, 0.0, START_MS)
