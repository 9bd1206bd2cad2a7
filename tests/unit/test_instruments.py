"""What a sensor makes of the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from city.quantities import QUANTITIES
from city.readings import Flag
from city.synthetic import synthetic_city
from sensors.engine import CityEngine, Group
from sensors.fluegas import corrected, reference_o2_percent
from sensors.instruments import DAY_MS, INSTRUMENTS, Calibrations, Instruments, Response

Shown = tuple[NDArray[np.float64], NDArray[np.uint8]]
FIRST = np.zeros(1, dtype=np.int64)


def group_of(kind: str, devices: int = 12, interval_s: float = 1.0) -> Group:
    """A group of that kind of device."""
    city = synthetic_city(devices, interval_s=interval_s, seed=1, kinds=(kind,))
    (group,) = CityEngine(city, seed=1, start_ms=0).groups
    return group


def show(kind: str, truth: dict[str, float], noise: float = 0.0) -> Shown:
    """What the first device of that kind shows; absent quantities are truly 1."""
    group = group_of(kind)
    instruments = Instruments(group)
    answer = np.array([[truth.get(quantity, 1.0) for quantity in group.quantities]])
    values = instruments.sense(answer, np.full(answer.shape, noise))
    flags = np.zeros(values.shape, dtype=np.uint8)
    instruments.show(values, flags, FIRST)
    return values, flags


class TestReadings:
    """Noise, resolution and range."""

    def test_every_quantity(self) -> None:
        """Every quantity has an instrument whose range lies within the physical one."""
        assert QUANTITIES.keys() == INSTRUMENTS.keys()
        for row in INSTRUMENTS.values():
            quantity = QUANTITIES[row.quantity]
            assert quantity.low <= row.low < row.high <= quantity.high

    @given(
        st.lists(st.floats(-1e4, 1e4), min_size=4, max_size=4),
        st.lists(st.floats(-4, 4), min_size=4, max_size=4),
    )
    def test_rounded_within_range(self, truth: list[float], noise: list[float]) -> None:
        """Whatever is true, what is shown lies in the range and has the quantity's decimals."""
        group = group_of("air-micro", 1)
        instruments = Instruments(group)
        values = instruments.sense(np.array([truth]), np.array([noise]))
        instruments.show(values, np.zeros(values.shape, dtype=np.uint8), FIRST)

        for name, value in zip(group.quantities, values[0].tolist(), strict=True):
            assert round(value, QUANTITIES[name].decimals) == value
            assert INSTRUMENTS[name].low <= value <= INSTRUMENTS[name].high

    def test_no_noise(self) -> None:
        """Without noise the truth is shown, rounded to the resolution."""
        values, flags = show("air-micro", {"pm25": 12.345, "pm10": 20.06, "temperature": -3.14})

        assert values[0, :3].tolist() == [12.3, 20.1, -3.1]
        assert not flags.any()

    def test_noise_grows(self) -> None:
        """Noise has an absolute part and one that grows with the value."""
        values, _ = show("air-micro", {"pm25": 100.0}, noise=1.0)
        row = INSTRUMENTS["pm25"]

        assert values[0, 0] == pytest.approx(100 + row.absolute + row.relative * 100, abs=0.05)

    def test_over_range(self) -> None:
        """A value above the range is shown at its end and flagged T."""
        values, flags = show("gas-node", {"gas_pressure": 400.0})

        assert values[0, 0] == 250.0
        assert flags[0].tolist() == [Flag.T, Flag.N]

    def test_end_of_the_physical_range(self) -> None:
        """A value at the physical end is not over the range."""
        values, flags = show("air-micro", {"humidity": 100.0}, noise=3.0)

        assert values[0, 3] == 100.0
        assert flags[0, 3] == Flag.N

    def test_below_range(self) -> None:
        """A value below the range is shown at its lower end, without a flag and never as -0."""
        values, flags = show("air-micro", {"pm25": 0.01}, noise=-4.0)

        assert str(values[0, 0]) == "0.0"
        assert flags[0, 0] == Flag.N

    def test_wind_turns(self) -> None:
        """A direction past north goes on from 0, and 360 is shown as 0."""
        values, _ = show("air-station", {"wind_direction": 359.9})

        assert values[0, -1] == 0.0

    def test_corrected_from_shown(self) -> None:
        """The corrected value follows from the shown raw value and oxygen, not from the truth."""
        group = group_of("stack-cems")
        values, _ = show("stack-cems", {"stack_so2": 20.04, "stack_o2": 17.502})
        ref = reference_o2_percent(group)[:1]
        expected = corrected(np.array([20.0]), np.array([17.5]), ref)[0]

        index = group.quantities.index("stack_so2_corrected")
        assert expected == pytest.approx(values[0, index], abs=0.05)

    def test_flag_is_inherited(self) -> None:
        """A corrected value whose raw value is over the range is flagged with it."""
        group = group_of("stack-cems")
        _, flags = show("stack-cems", {"stack_so2": 5000.0, "stack_o2": 10.0})

        for name in ("stack_so2", "stack_so2_corrected"):
            assert flags[0, group.quantities.index(name)] == Flag.T
        assert flags[0, group.quantities.index("stack_nox_corrected")] == Flag.N


class TestResponse:
    """How late sensors answer."""

    @given(st.floats(-5, 5), st.integers(500, 120_000), st.integers(0, 10_000_000))
    def test_linear(self, slope: float, interval_ms: int, at_ms: int) -> None:
        """A truth that is linear in time is shown as it was one time constant ago."""
        names = ("pm25", "temperature", "wind_speed")

        def truth(_: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
            return np.repeat(100.0 + slope * ts[:, None] / 1000.0, 3, axis=1)

        answer = Response(names, interval_ms).of(truth, FIRST, np.array([at_ms]))
        lag_s = np.array([INSTRUMENTS[name].lag_s for name in names])

        expected = 100.0 + slope * (at_ms / 1000.0 - lag_s)
        assert expected.tolist() == pytest.approx(answer[0].tolist(), abs=1e-6)

    def test_step(self) -> None:
        """A step is wholly shown after two time constants, and some of it at once."""

        def truth(_: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
            return np.where(ts >= 0, 50.0, 0.0)[:, None]

        response = Response(("methane",), 1_000)
        ts = np.array([-1, 0, 4_000, 8_000])
        answer = response.of(truth, np.zeros(4, dtype=np.int64), ts)

        assert answer[:, 0].tolist() == [0.0, 25.0, 25.0, 50.0]

    def test_prompt(self) -> None:
        """Pressure gauges and valves answer at once: the field is asked once."""
        asked = []

        def truth(_: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
            asked.append(ts.tolist())
            return np.ones((len(ts), 2))

        Response(("gas_pressure", "valve_position"), 2_000).of(truth, FIRST, np.array([5]))

        assert asked == [[5]]

    @pytest.mark.parametrize("interval_ms", [100, 2_000, 60_000, 3_600_000])
    def test_shared_age(self, interval_ms: int) -> None:
        """The age lies between two and four times the longest lag, whatever the interval."""
        response = Response(("pm25",), interval_ms)

        assert 120_000 <= response.age_ms <= 240_000


class TestCalibrations:
    """The saw-tooth of daily calibration."""

    def test_by_night(self) -> None:
        """Every device is calibrated between 0 and 5 h local time, each at a time of its own."""
        group = group_of("air-gas", 50)
        calibrations = Calibrations(group, seed=1, utc_offset_ms=8 * 3_600_000)
        rows = np.arange(50, dtype=np.int64)
        age_ms = calibrations.age_ms(rows, np.full(50, DAY_MS - 8 * 3_600_000))
        ended_h = 24.0 - age_ms / 3_600_000

        assert len(set(ended_h.tolist())) == 50
        assert ended_h.min() >= 0.33
        assert ended_h.max() <= 5.0

    def test_saw_tooth(self) -> None:
        """Drift is nothing after a calibration and grows evenly until the next."""
        group = group_of("stack-cems", 1)
        calibrations = Calibrations(group, seed=1)
        (end_ms,) = -calibrations.age_ms(FIRST, np.zeros(1, dtype=np.int64)) % DAY_MS
        ages = np.array([0, DAY_MS // 4, DAY_MS // 2, DAY_MS - 1])
        values = np.full((4, len(group.quantities)), 100.0)
        rows = np.zeros(4, dtype=np.int64)
        calibrations.drift(values, rows, end_ms + ages, ages)
        drift = values[:, group.quantities.index("stack_so2")] - 100.0

        assert drift[0] == 0.0
        assert drift[2] == pytest.approx(2.0 * drift[1])
        assert drift[3] == pytest.approx(4.0 * drift[1], rel=1e-6)

    def test_within_the_standard(self) -> None:
        """In a day no analyser drifts by more than 2.5 % of its full scale (HJ 75-2017)."""
        group = group_of("stack-cems", 200)
        calibrations = Calibrations(group, seed=1)
        rows = np.arange(200, dtype=np.int64)
        full = np.array([float(INSTRUMENTS[name].high) for name in group.quantities])
        values = np.repeat(full[None, :], 200, axis=0)
        ages = np.full(200, DAY_MS)
        calibrations.drift(values, rows, calibrations.age_ms(rows, ages) + ages, ages)

        assert np.abs(values / full - 1.0).max() < 0.025

    def test_what_is_not_calibrated(self) -> None:
        """Temperatures, flows and dust do not drift by themselves."""
        group = group_of("stack-cems", 1)
        values = np.full((1, len(group.quantities)), 100.0)
        age_ms = np.array([DAY_MS])
        Calibrations(group, seed=1).drift(values, FIRST, np.array([5 * DAY_MS]), age_ms)
        moved = {
            name for name, value in zip(group.quantities, values[0], strict=True) if value != 100
        }

        assert moved == {"stack_so2", "stack_nox", "stack_o2"}

    def test_gas(self) -> None:
        """A calibration is zero gas, then span gas, then the sample, all flagged C."""
        group = group_of("air-gas", 1)
        instruments = Instruments(group)
        answer = np.full((3, 4), 20.0)
        flags = np.zeros((3, 4), dtype=np.uint8)
        columns = np.array([[True, False, False, False]])
        passed = np.array([0.1, 0.5, 0.9])
        instruments.feed_gas(answer, flags, np.arange(3), passed, columns)

        assert answer[:, 0].tolist() == [0.0, 0.8 * 1300, 20.0]
        assert flags[:, 0].tolist() == [Flag.C] * 3
        assert np.all(answer[:, 1:] == 20.0)
        assert not flags[:, 1:].any()
