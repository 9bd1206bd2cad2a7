from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.engine import AlarmEngine
from alerts.rules import Leaf, RuleSet, load_packs
from alerts.scoring import dedicated_to
from broker.messages import Announcement, Birth, MeasuredQuantity
from city.cityfile import Address
from city.kinds import DEVICE_KINDS
from city.quantities import QUANTITIES
from city.readings import Flag, ReadingBatch, SeriesTable

PACKS: Final[RuleSet] = load_packs(["data-quality", "fleet-health"])
START_MS: Final = 1_780_272_000_000
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
INTERVAL_MS: Final = {kind.id: round(1000 * kind.interval_s) for kind in DEVICE_KINDS.values()}
NOISE: Final = {"pm25": 2.0, "pm10": 2.5, "temperature": 0.1, "humidity": 0.5}
"""Of a micro air station, as its quantity shows it [canonical unit] (engineering default)."""
LEVEL: Final = {"pm25": 30.0, "pm10": 60.0, "temperature": 20.0, "humidity": 60.0}
MICRO: Final = Address("city", "east", "air", "park", "micro-1")
STATION: Final = Address("city", "east", "air", "park", "station-1")
HOLD_MIN: Final = 120.0
"""Domain facts, section 6: stuck instruments hang for 2 to 72 hours."""
COARSE: Final = {"so2", "co", "o3"}
"""Domain facts, section 1.3: their rounded hourly data stand still most."""


class Bench:
    """An engine with both packs, devices that it knows, and the alarms it raised."""

    def __init__(self, kinds: Mapping[Address, str]) -> None:
        self._engine = AlarmEngine(PACKS)
        self._table = SeriesTable()
        self.raised: list[Announcement] = []
        self.shown: list[str] = []
        for address, kind in kinds.items():
            row = DEVICE_KINDS[kind]
            measured = {
                name: MeasuredQuantity(unit=QUANTITIES[name].unit, low=0, high=1)
                for name in row.quantities
            }
            birth = Birth(
                kind=kind, model="m", position=(0, 0), interval_s=row.interval_s,
                quantities=measured,
            )  # fmt: skip
            self._note(self._engine.learn(address, birth))

    def hear(
        self,
        address: Address,
        ts: np.ndarray[tuple[int], np.dtype[np.int64]],
        values: Mapping[str, np.ndarray[tuple[int], np.dtype[np.float64]]],
        flag: Flag = Flag.N,
    ) -> None:
        """Give it what a device shows at the instants `ts` [ms], shape (n,), by quantity."""
        count = len(values)
        series = [self._table.index(address, name) for name in values]
        batch = ReadingBatch(
            self._table,
            np.tile(np.array(series, dtype=np.int32), len(ts)),
            np.repeat(ts, count),
            np.stack(list(values.values()), axis=1).ravel(),
            np.full(len(ts) * count, flag, dtype=np.uint8),
        )
        self._note(self._engine.evaluate(batch))

    def advance(self, now: int) -> None:
        """Let time pass."""
        self._note(self._engine.advance(now))

    def rules(self) -> list[str]:
        """The rules that were raised and shown, in their order."""
        return self.shown

    def _note(self, announcements: Iterable[Announcement]) -> None:
        for one in announcements:
            if one.event.event == "raised":
                self.raised.append(one)
                if one.event.state != "suppressed":
                    self.shown.append(one.event.rule)


def instants(hours: float, *, kind: str = "air-micro", after_h: float = 0.0) -> np.ndarray:
    """The instants at which a device of that kind speaks for so long."""
    first = START_MS + round(after_h * HOUR_MS)
    return np.arange(first, first + round(hours * HOUR_MS), INTERVAL_MS[kind], dtype=np.int64)


def sound(ts: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """What a sound micro air station shows."""
    draw = np.random.default_rng(seed)
    return {
        name: np.round(level + NOISE[name] * draw.standard_normal(len(ts)), 1)
        for name, level in LEVEL.items()
    }


def raised_by(values: Mapping[str, np.ndarray], ts: np.ndarray) -> list[str]:
    """The rules that a micro air station raises which shows this."""
    bench = Bench({MICRO: "air-micro"})
    bench.hear(MICRO, ts, values)
    return bench.rules()


def stuck_leaves() -> list[Leaf]:
    """Every condition on equal values."""
    return [leaf for rule in PACKS.rules for leaf in rule.leaves if leaf.signal.stat == "stuck"]


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_sound_instrument_raises_nothing(seed: int) -> None:
    """Noise and resolution alone look like no fault."""
    ts = instants(6)

    assert [] == raised_by(sound(ts, seed), ts)


def test_a_value_that_hangs_for_an_hour_is_stuck() -> None:
    """It is told after the run and thirty more equal values."""
    ts = instants(3)
    values = sound(ts)
    values["pm10"][ts >= START_MS + HOUR_MS] = 61.3
    bench = Bench({MICRO: "air-micro"})
    bench.hear(MICRO, ts, values)

    assert ["stuck-air-micro"] == bench.rules()
    assert "pm10" == bench.raised[0].event.quantity
    assert 60 < (bench.raised[0].event.ts - START_MS) / MINUTE_MS - 60 < 64


def test_saturated_air_is_not_stuck() -> None:
    """Humidity stands at 100 % for a whole night of fog."""
    ts = instants(5)

    assert [] == raised_by(sound(ts) | {"humidity": np.full(len(ts), 100.0)}, ts)


def test_a_value_equal_before_and_after_maintenance_is_not_stuck() -> None:
    """What is flagged says nothing, so the run seems long, but it ends soon."""
    bench = Bench({MICRO: "air-micro"})
    before, during, after = instants(1), instants(2, after_h=1), instants(1, after_h=3)
    first, last = sound(before), sound(after, 1)
    last["pm25"][:10] = first["pm25"][-1]
    bench.hear(MICRO, before, first)
    bench.hear(MICRO, during, sound(during), Flag.M)
    bench.hear(MICRO, after, last)

    assert [] == bench.rules()


@pytest.mark.parametrize("leaf", stuck_leaves(), ids=lambda leaf: leaf.id)
def test_stuck_is_told_before_it_may_be_over(leaf: Leaf) -> None:
    """The run that counts is shorter than the shortest time for which instruments hang."""
    run_min = leaf.limits[0].limit / 60.0

    assert run_min + leaf.watch.in_a_row / 6.0 < HOLD_MIN


def test_coarse_quantities_need_longer_runs() -> None:
    """Ozone, carbon monoxide and sulphur dioxide stand still longest when all is well."""
    runs = {leaf.signal.quantity: leaf.limits[0].limit for leaf in stuck_leaves()}
    air = set(DEVICE_KINDS["air-station"].quantities)

    assert COARSE == {name for name in air if runs[name] > runs["pm25"]}


def test_spikes_of_one_hour_are_one_alarm() -> None:
    """Whoever must look at the sensor need not be told again and again."""
    ts = instants(4)
    values = sound(ts)
    values["pm25"][[800, 1100, 1400]] += 400.0

    assert ["spike-air-micro"] == raised_by(values, ts)


def test_five_times_the_noise_is_told() -> None:
    """A quarter of an hour of it is enough."""
    ts = instants(2)
    values = sound(ts)
    values["temperature"] = np.round(20.0 + 8.0 * (values["temperature"] - 20.0), 1)
    bench = Bench({MICRO: "air-micro"})
    bench.hear(MICRO, ts, values)

    assert ["noise-air-micro"] == bench.rules()
    assert bench.raised[0].event.ts <= START_MS + 20 * MINUTE_MS


def test_an_instrument_that_leaves_its_neighbour_has_drifted() -> None:
    """Eight hours of a difference that places do not explain."""
    bench = Bench({MICRO: "air-micro", STATION: "air-station"})
    ts = instants(10)
    there, here = sound(ts), sound(ts, 1)
    here["pm25"] += 20.0
    for first in range(0, len(ts), 10):
        part = slice(first, first + 10)
        bench.hear(STATION, ts[part], {name: values[part] for name, values in there.items()})
        bench.hear(MICRO, ts[part], {name: values[part] for name, values in here.items()})

    assert ["drift-air-micro"] == bench.rules()


def test_more_fine_particulates_than_all_is_told() -> None:
    """One of the two channels is wrong, whatever the other devices say."""
    ts = instants(4)

    assert ["fine-above-all"] == raised_by(sound(ts) | {"pm25": sound(ts, 1)["pm25"] + 50.0}, ts)


@pytest.mark.parametrize(
    ("flag", "hours", "expected"),
    [
        (Flag.D, 0.1, []),
        (Flag.D, 0.3, ["fault-air-micro"]),
        (Flag.B, 1.0, []),
        (Flag.B, 2.1, ["fault-air-micro"]),
        (Flag.C, 1.5, []),
        (Flag.C, 2.1, ["unfinished-air-micro"]),
        (Flag.M, 3.0, []),
        (Flag.F, 3.0, []),
    ],
)
def test_a_state_is_told_when_it_lasts(flag: Flag, hours: float, expected: list[str]) -> None:
    """A known state needs nobody; one that does not end does."""
    bench = Bench({MICRO: "air-micro"})
    ts = instants(hours)
    bench.hear(MICRO, ts, sound(ts), flag)

    assert expected == bench.rules()


def silent(count: int, districts: Sequence[str], per_site: int) -> list[str]:
    """The rules shown when so many of the devices fall silent, and one goes on."""
    places = [
        Address("city", districts[n % len(districts)], "air", f"s-{n // per_site}", f"m-{n}")
        for n in range(count)
    ]
    bench = Bench(dict.fromkeys([*places, MICRO], "air-micro"))
    ts = instants(0.01)
    for place in [*places, MICRO]:
        bench.hear(place, ts, sound(ts))
    later = instants(0.05, after_h=0.01)
    bench.hear(MICRO, later, sound(later))
    return bench.rules()


def test_a_device_is_silent_after_twelve_intervals() -> None:
    """The deadman knows the device's own interval."""
    assert ["device-silent"] == silent(1, ["east"], 1)


def test_a_silent_site_is_told_as_a_site() -> None:
    """Its other devices are not told one by one."""
    shown = silent(8, ["east"], 8)

    assert "site-silent" in shown
    assert shown.count("device-silent") <= 3


def test_a_silent_district_is_told_as_a_district() -> None:
    """Nor are its sites."""
    shown = silent(40, ["west"], 4)

    assert 1 == shown.count("district-silent")
    assert len(shown) <= 20


@pytest.mark.parametrize("kind", ["stuck", "spike", "noise", "drift", "fault", "silence"])
def test_rules_of_a_kind_are_scored_for_it(kind: str) -> None:
    """The table of detectors knows every kind of fault that the packs look for."""
    assert any(kind in dedicated_to(rule) for rule in PACKS.rules)


def test_a_calibration_in_time_is_no_event_to_find() -> None:
    """Known states that end in time are not looked for."""
    looked_for = {kind for rule in PACKS.rules for kind in dedicated_to(rule)}

    assert looked_for.isdisjoint({"calibration", "maintenance", "stopped"})


@pytest.mark.parametrize("family", ["fault", "unfinished"])
def test_every_kind_of_device_says_that_it_is_broken(family: str) -> None:
    """With all of its quantities."""
    watched = {
        next(iter(rule.device_kinds)): {leaf.signal.quantity for leaf in rule.leaves}
        for rule in PACKS.rules
        if rule.id.startswith(f"{family}-")
    }

    assert {kind.id: set(kind.quantities) for kind in DEVICE_KINDS.values()} == watched
