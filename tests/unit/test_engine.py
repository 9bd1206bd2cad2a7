"""Samples are pure functions of city, seed, instant and commands, however time and city are cut."""

from collections.abc import Callable, Iterable
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from city.cityfile import City, Event, load_city
from city.errors import InputError
from city.kinds import DEVICE_KINDS
from city.quantities import QUANTITIES
from city.readings import Flag
from city.synthetic import synthetic_city
from sensors.engine import ORDERS, CityEngine, Frame

START_MS = 1_780_272_000_000
DAY_MS = 86_400_000
VALVE = "gas-market-street/valve-1"
STACK = "plant-blue-glaze/stack-1"
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


def troubled(devices: int, *, interval_s: float = 20.0) -> City:
    """A generated city of air and emission devices with drawn and scripted events of all sorts."""
    kinds = ("air-gas", "stack-cems", "outfall")
    city = synthetic_city(devices, interval_s=interval_s, seed=1, kinds=kinds)
    sites = {site.devices[0].kind: site.id for site in reversed(city.sites)}
    events = [
        ("stuck", "air-gas"), ("spike", "air-gas"), ("clock-skew", "stack-cems"),
        ("comm-loss", "air-gas"), ("scale", "stack-cems"), ("inspection", "stack-cems"),
        ("air-dilution", "stack-cems"), ("sample-swap", "outfall"), ("calibration", "outfall"),
        ("silence", "outfall"),
    ]  # fmt: skip
    scripted = tuple(
        Event(id=f"e{n}", kind=kind, target=sites[where], at_s=40.0 + 97.0 * n, for_s=211.0)
        for n, (kind, where) in enumerate(events)
    )
    rates = dict.fromkeys(("drift", "noise", "fault", "silence", "constant"), 500.0)
    return msgspec.structs.replace(city, events=scripted, rates=rates)


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


def labelled(engine: CityEngine, name: str, quantity: str, at_ms: int) -> set[tuple[bool, int]]:
    """Whether true values stand beside the device's readings of the next 10 s; their flags."""
    found = set()
    for frame in engine.frames(at_ms, at_ms + 10_000, with_truth=True):
        if quantity in frame.group.quantities and frame.truth is not None:
            column = frame.group.quantities.index(quantity)
            for index, row in enumerate(frame.rows.tolist()):
                if frame.group.devices[row].name == name:
                    known = bool(np.isfinite(frame.truth[index, column]))
                    found.add((known, int(frame.flags[index, column])))
    return found


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

    def test_large_frames(self) -> None:
        """A long span of few devices comes in few frames, the same as slice by slice."""
        engine = CityEngine(troubled(9), seed=1, start_ms=START_MS)
        hour = list(engine.frames(START_MS, START_MS + 3_600_000))
        other = CityEngine(troubled(9), seed=1, start_ms=START_MS)
        starts = range(START_MS, START_MS + 3_600_000, 7_000)
        stop_ms = START_MS + 3_600_000
        slices = [f for at in starts for f in other.frames(at, min(at + 7_000, stop_ms))]

        assert len(hour) <= 12
        assert samples(hour) == samples(slices)
        assert sum(len(f.rows) for f in hour) == sum(len(f.rows) for f in slices)

    @settings(max_examples=10, deadline=None)
    @given(st.lists(st.integers(0, 1_200), min_size=1, max_size=5))
    def test_any_cut_with_events(self, cuts: list[int]) -> None:
        """Events of instruments and frauds, too, are the same however time is cut."""
        city = troubled(30)
        engine = CityEngine(city, seed=3, start_ms=START_MS)
        fresh = CityEngine(city, seed=3, start_ms=START_MS)
        edges = [START_MS + 1000 * at for at in sorted({0, *cuts, 1_200})]
        pieces = [samples(engine.frames(low, high)) for low, high in pairwise(edges)]

        assert samples(fresh.frames(edges[0], edges[-1])) == set().union(*pieces)

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

    def test_shards_with_events(self) -> None:
        """Shards see the same events, scripted, drawn and commanded, as the whole."""
        city = troubled(300)
        whole, *parts = (
            CityEngine(city, seed=1, start_ms=START_MS, shard=shard)
            for shard in ((0, 1), (0, 3), (1, 3), (2, 3))
        )
        span = (START_MS + DAY_MS, START_MS + DAY_MS + 120_000)
        device = city.sites[0].devices[0]
        for engine in (whole, *parts):
            name = f"{city.sites[0].id}/{device.id}"
            engine.obey("calibrate", name, {}, span[0] + 10_000)
            engine.obey("set_interval", name, {"interval_s": 3.0}, span[0] + 50_000)

        expected = samples(whole.frames(*span))
        assert expected == set().union(*(samples(part.frames(*span)) for part in parts))

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


class TestOrders:
    """Commands change the world, from their instant on."""

    def test_every_command(self) -> None:
        """Every command that a kind of device names is one that the engine obeys."""
        named = {command for kind in DEVICE_KINDS.values() for command in kind.commands}

        assert named <= ORDERS.keys()

    def test_calibrate(self, engine: CityEngine) -> None:
        """A calibration takes ten minutes of flag C, and is told as truth."""
        at_ms = START_MS + 7_200_000
        ends_ms = engine.obey("calibrate", STACK, {}, at_ms)
        flags = [
            (ts, int(frame.flags[index, frame.group.quantities.index("stack_so2_corrected")]))
            for frame in engine.frames(at_ms - 60_000, at_ms + 660_000)
            if "stack_so2" in frame.group.quantities
            for index, (row, ts) in enumerate(zip(frame.rows, frame.ts.tolist(), strict=True))
            if frame.group.devices[row].name == STACK
        ]

        assert ends_ms == at_ms + 600_000
        assert {ts for ts, flag in flags if flag == Flag.C} == {
            ts for ts, _ in flags if at_ms <= ts < ends_ms
        }
        (record,) = engine.truths(at_ms, at_ms + 1)
        assert (record.kind, record.cause) == ("calibration", "commanded")

    def test_set_interval(self, engine: CityEngine, town: City) -> None:
        """The device measures at its new interval, every other as before."""
        at_ms = START_MS + 20_000
        before = samples(engine.frames(START_MS, START_MS + 60_000))
        engine.obey("set_interval", STACK, {"interval_s": 0.5}, at_ms)
        after = samples(engine.frames(START_MS, START_MS + 60_000))
        mine = sorted(ts for name, ts, *_ in after if name == STACK and ts >= at_ms)

        assert len(mine) == 80
        assert set(np.diff(mine).tolist()) == {500}
        assert {s for s in before if s[0] != STACK or s[1] < at_ms} == {
            s for s in after if s[0] != STACK or s[1] < at_ms
        }
        assert {device.name for device in town.devices()} == {name for name, *_ in after}

    def test_interval_twice(self, engine: CityEngine) -> None:
        """A second interval takes the place of the first."""
        engine.set_interval(STACK, 0.5, START_MS + 10_000)
        engine.set_interval(STACK, 10.0, START_MS + 20_000)
        frames = engine.frames(START_MS + 20_000, START_MS + 60_000)
        mine = sorted(ts for name, ts, *_ in samples(frames) if name == STACK)

        assert len(mine) == 4
        assert set(np.diff(mine).tolist()) == {10_000}

    def test_stop_unit(self, engine: CityEngine) -> None:
        """A stopped plant's monitors flag F once it stands, others do not."""
        stands_ms = engine.obey("stop_unit", STACK, {}, START_MS + 60_000)
        flagged = {
            frame.group.devices[row].site.id
            for frame in engine.frames(stands_ms, stands_ms + 10_000)
            for row, flags in zip(frame.rows, frame.flags, strict=True)
            if np.all(flags == Flag.F)
        }

        assert stands_ms > START_MS + 60_000
        assert flagged == {"plant-blue-glaze"}

    def test_stop_told(self, engine: CityEngine) -> None:
        """The truth of a stop begins with the command, and a second stop tells nothing."""
        at_ms = START_MS + 60_000
        stands_ms = engine.obey("stop_unit", STACK, {}, at_ms)
        engine.obey("stop_unit", STACK, {}, at_ms + 5_000)
        told = [r for r in engine.truths(at_ms, stands_ms + 1) if r.cause == "commanded"]

        assert [(r.kind, r.start, r.end) for r in told] == [("stopped", at_ms, None)]
        assert STACK in told[0].devices
        assert "stack_so2" in told[0].quantities
        assert {f for f, _ in labelled(engine, STACK, "stack_so2", at_ms)} == {True}
        assert Flag.F not in {flag for _, flag in labelled(engine, STACK, "stack_so2", at_ms)}

    def test_valve_told(self, engine: CityEngine) -> None:
        """A closed valve has a truth record without end; one that is opened, up to its arrival.

        When it is opened, the record of its closing comes again with its end.
        """
        at_ms = START_MS + 10_000
        engine.obey("close_valve", VALVE, {}, at_ms)
        opened_ms = at_ms + 60_000
        arrives_ms = engine.obey("open_valve", VALVE, {}, opened_ms)
        first, then = engine.truths(at_ms, opened_ms), engine.truths(opened_ms, arrives_ms)
        told = [record for record in (*first, *then) if record.cause == "commanded"]

        assert [(r.kind, r.start, r.end, r.params["position_percent"]) for r in told] == [
            ("valve", at_ms, None, 0.0), ("valve", at_ms, opened_ms, 0.0),
            ("valve", opened_ms, arrives_ms, 100.0),
        ]  # fmt: skip
        assert told[0].id == told[1].id
        assert then == [r for r in engine.truths(at_ms, arrives_ms) if r.cause == "commanded"]
        assert told[0].target == VALVE
        assert told[0].devices == ("gas-market-street/*",)
        assert {"gas_pressure", "valve_position"} <= set(told[0].quantities)
        assert {f for f, _ in labelled(engine, VALVE, "gas_pressure", at_ms)} == {True}
        later_ms = opened_ms + 2 * 3_600_000
        assert {f for f, _ in labelled(engine, VALVE, "valve_position", later_ms)} == {False}

    def test_deaf(self, town: City) -> None:
        """A deaf device, or site, hears no command for its time; its readings are as ever."""
        events = tuple(
            Event(id=f"deaf-{number}", kind="deaf", target=target, at_s=100, for_s=50)
            for number, target in enumerate((VALVE, "gas-temple-lane"))
        )
        engine = CityEngine(msgspec.structs.replace(town, events=events), seed=1, start_ms=START_MS)
        told = engine.truths(START_MS, START_MS + 200_000)

        assert [True, False, False, True] == [
            engine.hears(VALVE, START_MS + 1000 * at_s) for at_s in (99, 100, 149, 150)
        ]
        assert not engine.hears("gas-temple-lane/valve-1", START_MS + 120_000)
        assert engine.hears("gas-harbour-row/valve-1", START_MS + 120_000)
        assert [("deaf", ()), ("deaf", ())] == [(r.kind, r.quantities) for r in told]
        assert {f for f, _ in labelled(engine, VALVE, "gas_pressure", START_MS + 110_000)} == {
            False
        }

    def test_ventilate_told(self, engine: CityEngine) -> None:
        """The truth of fans lasts from the command to their stop, and is of methane."""
        detector, at_ms = "gas-market-street/detector-1", START_MS + 10_000
        stops_ms = engine.obey("ventilate", detector, {}, at_ms)
        (record,) = [r for r in engine.truths(at_ms, at_ms + 1) if r.cause == "commanded"]

        assert (record.kind, record.layer, record.end) == ("ventilate", "world", stops_ms)
        assert record.quantities == ("methane",)
        assert {f for f, _ in labelled(engine, detector, "methane", at_ms)} == {True}

    def test_ventilate(self, town: City) -> None:
        """Fans take most of the methane away within minutes."""
        leak = Event(id="l", kind="gas-leak", target="gas-market-street", at_s=0, for_s=7200,
                     params={"hole_mm": 10.0})  # fmt: skip
        engine = CityEngine(
            msgspec.structs.replace(town, events=(leak,)), seed=1, start_ms=START_MS
        )
        detector = "gas-market-street/detector-1"
        still = shown(engine, detector, "methane", 3_600, 3_620)
        engine.obey("ventilate", detector, {}, START_MS + 3_000_000)

        assert max(shown(engine, detector, "methane", 3_600, 3_620)) < 0.2 * min(still)

    def test_past(self, engine: CityEngine) -> None:
        """No command changes what was before it."""
        at_ms = START_MS + 300_000
        before = samples(engine.frames(at_ms - 30_000, at_ms))
        engine.obey("close_valve", VALVE, {}, at_ms)
        engine.obey("stop_unit", STACK, {}, at_ms)
        engine.obey("ventilate", VALVE, {}, at_ms)
        engine.obey("calibrate", STACK, {}, at_ms)

        assert before == samples(engine.frames(at_ms - 30_000, at_ms))

    @pytest.mark.parametrize(
        ("order", "device", "args", "problem"),
        [
            ("close_valv", VALVE, {}, "did you mean 'close_valve'"),
            ("close_valve", VALVE, {"speed": 1.0}, "takes no arguments; got: speed"),
            ("set_interval", VALVE, {}, "takes interval_s; got: none"),
            ("set_interval", VALVE, {"interval_s": 0.0}, "not within 0.1 to 86400 s"),
            ("set_interval", VALVE, {"interval_s": float("nan")}, "not within"),
            ("set_interval", VALVE, {"interval_s": "5"}, "not within"),
            ("calibrate", "gas-market-street/valve-9", {}, "no device"),
            ("ventilate", STACK, {}, "has no fans"),
            ("stop_unit", VALVE, {}, "no plant at 'gas-market-street'"),
        ],
    )
    def test_refused(
        self, engine: CityEngine, order: str, device: str, args: dict[str, float], problem: str
    ) -> None:
        """What cannot be done is refused with the reason."""
        with pytest.raises(InputError, match=problem):
            engine.obey(order, device, args, START_MS)


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
        for frame in engine.frames(START_MS, START_MS + 150_000):
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
