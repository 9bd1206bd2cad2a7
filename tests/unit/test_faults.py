"""What faults do to what devices say."""

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from city.cityfile import Event
from city.errors import InputError
from city.readings import Flag
from city.synthetic import synthetic_city
from sensors.engine import CityEngine
from sensors.instruments import INSTRUMENTS
from sensors.sampler import Frame, Sampler

START_MS = 1_780_272_000_000
"""08:00 local time: no daily calibration for 16 hours."""
NAME = "air-gas-00000/00"


class Steady:
    """A field in which `so2` grows by 1 per 100 s from 100 on, and all else is 50."""

    def truth(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The true values."""
        values = np.full((len(rows), 4), 50.0)
        values[:, 0] = 100.0 + (ts - START_MS) / 100_000.0
        return values


def sampler(*events: Event, devices: int = 2, rates: dict[str, float] | None = None) -> Sampler:
    """Gas analysers at one site, sampled every 10 s, to which this happens."""
    city = synthetic_city(devices, interval_s=10, seed=1, kinds=("air-gas",))
    (group,) = CityEngine(city, seed=1, start_ms=START_MS).groups
    city = msgspec.structs.replace(city, events=events, rates=rates or {})
    return Sampler(city, group, Steady(), seed=1, start_ms=START_MS)


def event(kind: str, at_s: float = 1000, for_s: float = 1000, **more: object) -> Event:
    """An event at the first device."""
    content = {"id": "e", "kind": kind, "target": NAME, "at_s": at_s, "for_s": for_s} | more
    return msgspec.convert(content, Event)


def seen(
    sampler: Sampler, from_s: float, until_s: float, *, row: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.int64]]:
    """Values, flags and instants [ms after the start] of one device, in that time."""
    frames = list(frames_of(sampler, from_s, until_s))
    chosen = [frame.rows == row for frame in frames]
    return (
        np.concatenate([f.values[mine] for f, mine in zip(frames, chosen, strict=True)]),
        np.concatenate([f.flags[mine] for f, mine in zip(frames, chosen, strict=True)]),
        np.concatenate([f.ts[mine] for f, mine in zip(frames, chosen, strict=True)]) - START_MS,
    )


def frames_of(sampler: Sampler, from_s: float, until_s: float) -> list[Frame]:
    """All frames of that time."""
    span = (START_MS + round(from_s * 1000), START_MS + round(until_s * 1000))
    return list(sampler.frames(*span, with_truth=False))


class TestValues:
    """Faults of the measurement."""

    def test_drift(self) -> None:
        """Zero drifts by its share of full scale per day, and is right again afterwards."""
        drift = event("drift", 0, 43_200, quantity="no2", params={"zero_pct_fs_per_day": 50.0})
        struck, spared = sampler(drift), sampler()
        late, fair = (seen(s, 43_000, 43_200)[0][:, 1].mean() for s in (struck, spared))
        full = INSTRUMENTS["no2"].high

        assert late - fair == pytest.approx(0.5 * full * 0.4988, rel=0.02)
        assert seen(struck, 43_300, 43_400)[0][0, 1] == seen(spared, 43_300, 43_400)[0][0, 1]

    def test_stuck(self) -> None:
        """A hung value is that of the beginning for as long as it hangs."""
        values, flags, _ = seen(sampler(event("stuck", quantity="so2")), 1000, 2000)
        lag_s = INSTRUMENTS["so2"].lag_s

        assert np.all(values[:, 0] == values[0, 0])
        assert values[0, 0] == pytest.approx(100 + (1000 - lag_s) / 100, abs=0.051)
        assert len(set(values[:, 1].tolist())) > 10
        assert not flags.any()

    def test_spikes(self) -> None:
        """Spikes have their size and come at their rate, up and down."""
        spike = event("spike", 0, 40_000, params={"size_pct_fs": 40.0, "per_hour": 60.0},
                      quantity="co")  # fmt: skip
        values = seen(sampler(spike), 0, 40_000)[0][:, 2]
        struck = np.abs(values - 50.0) > 5.0
        full = INSTRUMENTS["co"].high

        assert struck.sum() / (40_000 / 3600) == pytest.approx(60, rel=0.15)
        assert values[struck].max() == pytest.approx(min(50 + 0.4 * full, full), abs=2)
        assert values[struck].min() == pytest.approx(50 - 0.4 * full, abs=2)

    def test_noise(self) -> None:
        """Noise grows by its factor, the mean stays."""
        values, _, _ = seen(sampler(event("noise", params={"factor": 8.0})), 0, 2000)
        quiet, loud = values[:100, 3], values[100:, 3]

        assert loud.std() / quiet.std() == pytest.approx(8.0, rel=0.3)
        assert loud.mean() == pytest.approx(50.0, abs=3.0)

    def test_one_device(self) -> None:
        """An event at one device changes nothing at its neighbour."""
        struck, spared = sampler(event("noise")), sampler()

        assert np.array_equal(seen(struck, 0, 3000, row=1)[0], seen(spared, 0, 3000, row=1)[0])

    def test_whole_site(self) -> None:
        """An event at a site changes every device there."""
        _, flags, _ = seen(sampler(event("fault", target="air-gas-00000")), 1000, 2000, row=1)

        assert np.all(flags == Flag.D)


class TestStates:
    """Faults that the device knows of."""

    @pytest.mark.parametrize(
        ("kind", "flag"),
        [
            ("stopped", Flag.F),
            ("maintenance", Flag.M),
            ("fault", Flag.D),
            ("comm-loss", Flag.B),
            ("calibration", Flag.C),
        ],
    )
    def test_flags(self, kind: str, flag: Flag) -> None:
        """Every state has its flag, exactly while it lasts."""
        _, flags, ts = seen(sampler(event(kind)), 0, 3000)
        lasts = (ts >= 1_000_000) & (ts < 2_000_000)

        assert np.all(flags[lasts] == flag)
        assert not flags[~lasts].any()

    def test_one_quantity(self) -> None:
        """A state can concern one quantity alone."""
        _, flags, _ = seen(sampler(event("fault", quantity="o3")), 1000, 2000)

        assert np.all(flags == [Flag.N, Flag.N, Flag.N, Flag.D])

    def test_broken(self) -> None:
        """A broken instrument shows the end of its range."""
        values, _, _ = seen(sampler(event("fault")), 1000, 2000)

        assert not values.any()

    def test_calibration(self) -> None:
        """A calibration shows zero gas and span gas."""
        values, _, _ = seen(sampler(event("calibration")), 1000, 2000)
        high = INSTRUMENTS["so2"].high

        assert values[:39, 0].max() < 5.0
        assert values[41:79, 0].mean() == pytest.approx(0.8 * high, rel=0.02)
        assert values[81:, 0].max() < 130.0

    def test_calibration_sets_right(self) -> None:
        """After a calibration a drifting instrument begins anew."""
        drift = event("drift", 0, 43_200, id="d", quantity="no2",
                      params={"zero_pct_fs_per_day": 50.0})  # fmt: skip
        values, _, _ = seen(sampler(drift, event("calibration", 20_000, 600)), 19_900, 20_700)

        assert values[:10, 1].mean() > 150.0
        assert values[-8:, 1].mean() < 60.0


class TestSending:
    """What is said when, and whether at all."""

    def test_silence(self) -> None:
        """A dead device says nothing, its neighbour goes on."""
        dead = sampler(event("silence"))

        assert len(seen(dead, 1000, 2000)[2]) == 0
        assert len(seen(dead, 1000, 2000, row=1)[2]) == 100
        assert len(seen(dead, 0, 3000)[2]) == 200

    def test_clock(self) -> None:
        """A wrong clock stamps its messages wrong, but sends them in time."""
        (frame, *_) = frames_of(sampler(event("clock-skew", params={"skew_s": 90.0})), 1000, 1010)
        mine = frame.rows == 0

        assert frame.sent_ms is not None
        assert (frame.ts - frame.sent_ms)[mine].tolist() == [90_000]
        assert (frame.ts - frame.sent_ms)[~mine].tolist() == [0]

    def test_late(self) -> None:
        """Messages of a lost line come after the loss, in order, with their own instants."""
        (frame,) = frames_of(sampler(event("comm-loss"), devices=1), 1000, 2000)

        assert frame.sent_ms is not None
        assert np.all(np.diff(frame.ts) == 10_000)
        assert frame.sent_ms[0] >= START_MS + 2_000_000
        assert frame.sent_ms[-1] <= START_MS + 2_050_000
        assert np.all(np.diff(frame.sent_ms) > 0)

    def test_plain(self) -> None:
        """Where nothing is wrong, no instants of sending are kept."""
        assert all(frame.sent_ms is None for frame in frames_of(sampler(), 0, 100))


class TestDrawn:
    """Events that are drawn."""

    def test_rate(self) -> None:
        """As many events are drawn as the rate says."""
        own = sampler(devices=10, rates={"stuck": 200.0})
        days = 40
        found = own.script.starting(START_MS, START_MS + days * 86_400_000)

        # At most one a day: 200 a year are drawn as 365 * (1 - exp(-200/365)).
        assert len(found) == pytest.approx(10 * days * 0.4217, rel=0.15)

    def test_hold(self) -> None:
        """What is drawn is done."""
        own = sampler(devices=1, rates={"silence": 1000.0})
        (first, *_) = own.script.starting(START_MS, START_MS + 5 * 86_400_000)
        from_s, until_s = ((at - START_MS) / 1000 for at in (first.from_ms, first.until_ms))

        assert not frames_of(own, from_s, until_s)

    def test_shards(self) -> None:
        """A shard draws for its devices what the whole draws."""
        city = synthetic_city(30, interval_s=10, seed=1, kinds=("air-gas",))
        city = msgspec.structs.replace(city, rates={"stuck": 300.0, "drift": 300.0})
        span = (START_MS, START_MS + 3 * 86_400_000)
        whole = CityEngine(city, seed=1, start_ms=START_MS).truths(*span)
        parts = [CityEngine(city, seed=1, start_ms=START_MS, shard=(n, 3)) for n in range(3)]

        assert len(whole) > 50
        assert {r.id for r in whole} == {r.id for part in parts for r in part.truths(*span)}

    def test_not_drawn(self) -> None:
        """A rate for what is not drawn is refused."""
        with pytest.raises(InputError, match=r"rates: 'smog' cannot be drawn"):
            sampler(rates={"smog": 1.0})
