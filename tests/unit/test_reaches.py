"""The river's physics: dispersion and oxygen by known figures, the solver against exact solutions."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from city.cityfile import Reach
from sensors.oxygen import (
    critical_time_d,
    oxygen_deficit_mg_l,
    oxygen_saturation_bfg_mg_l,
    oxygen_saturation_mg_l,
    rate_at,
    reaeration_per_day,
    uptake,
)
from sensors.reaches import Channel, advect, disperse, dispersion_m2_s

UNIFORM = (Reach(to_km=40.0, velocity_m_s=0.4, depth_m=2.0, width_m=40.0, slope=0.0003),)
UNEVEN = (
    Reach(to_km=10.0, velocity_m_s=0.4, depth_m=2.0, width_m=40.0),
    Reach(to_km=20.0, velocity_m_s=0.6, depth_m=2.0, width_m=40.0),
    Reach(to_km=30.0, velocity_m_s=0.3, depth_m=2.0, width_m=40.0),
)
REACHES = st.lists(
    st.builds(
        Reach,
        to_km=st.floats(0.01, 50.0),
        velocity_m_s=st.floats(0.01, 5.0),
        depth_m=st.floats(0.1, 50.0),
        width_m=st.floats(1.0, 5000.0),
        slope=st.floats(1e-6, 0.1),
    ),
    min_size=1,
    max_size=4,
).map(lambda rows: tuple(sorted(rows, key=lambda row: row.to_km)))


def array(value: float) -> NDArray[np.float64]:
    """One value as an array."""
    return np.array([value])


class TestOxygen:
    """Formulas give the figures of their sources."""

    @pytest.mark.parametrize(
        ("celsius", "simple", "polynomial"),
        [(0, 14.81, 14.60), (10, 11.25, 11.28), (20, 9.07, 9.08), (30, 7.60, 7.59)],
    )
    def test_saturation(self, celsius: float, simple: float, polynomial: float) -> None:
        """Oxygen saturation has the tabulated values, by both formulas."""
        actual = (
            oxygen_saturation_mg_l(array(celsius)),
            oxygen_saturation_bfg_mg_l(array(celsius)),
        )

        assert (simple, polynomial) == pytest.approx([a[0] for a in actual], abs=0.005)

    def test_streeter_phelps(self) -> None:
        """A deficit after a day, the critical time and the deficit then have the known values."""
        critical_d = critical_time_d(20.0, 1.0, 0.25, 0.6)

        assert pytest.approx(3.8344, abs=5e-5) == oxygen_deficit_mg_l(20.0, 1.0, 0.25, 0.6, 1.0)
        assert pytest.approx(2.2940, abs=5e-5) == critical_d
        assert pytest.approx(4.6963, abs=5e-5) == oxygen_deficit_mg_l(
            20.0, 1.0, 0.25, 0.6, critical_d
        )

    def test_equal_rates(self) -> None:
        """Where uptake is as fast as reaeration, the limit of the formula holds."""
        expected = (0.4 * 20.0 * 2.0 + 1.0) * np.exp(-0.8)

        assert expected == pytest.approx(oxygen_deficit_mg_l(20.0, 1.0, 0.4, 0.4, 2.0), rel=1e-12)
        assert expected == pytest.approx(
            oxygen_deficit_mg_l(20.0, 1.0, 0.4, 0.4 + 1e-7, 2.0), rel=1e-6
        )
        assert pytest.approx(1 / 0.4 - 1.0 / 8.0) == critical_time_d(20.0, 1.0, 0.4, 0.4)

    def test_only_recovers(self) -> None:
        """A large deficit with little demand only shrinks."""
        assert critical_time_d(1.0, 5.0, 0.25, 0.6) == 0.0

    @given(st.floats(0.01, 1.0), st.floats(0.01, 5.0), st.floats(0.0, 5.0), st.floats(0.0, 5.0))
    def test_uptake_in_two_steps(self, k1: float, k2: float, first: float, second: float) -> None:
        """Two steps of the exact reaction make the same as one of their sum."""
        demand = np.exp(-k1 * first)
        steps = uptake(k1, k2, first) * np.exp(-k2 * second) + demand * uptake(k1, k2, second)

        assert float(uptake(k1, k2, first + second)) == pytest.approx(float(steps), abs=1e-9)

    def test_reaeration(self) -> None:
        """Melching and Flores' formula has the value of hand calculation."""
        actual = reaeration_per_day(array(0.4), array(0.0003), array(2.0), array(40.0))

        assert pytest.approx(1.818, abs=0.005) == actual[0]

    def test_temperature(self) -> None:
        """A rate is as given at 20 degC and theta times that one degree above."""
        actual = [float(rate_at(0.25, 1.047, 20.0)), float(rate_at(0.25, 1.047, 21.0))]

        assert [0.25, 0.26175] == pytest.approx(actual)


class TestDispersion:
    """How fast a pulse widens."""

    def test_deng(self) -> None:
        """Deng's formula agrees with its form in Strickler's coefficient."""
        v, depth, width, slope = 0.4, 2.0, 40.0, 0.0003
        strickler = v / (depth ** (2 / 3) * slope**0.5)
        shear = np.sqrt(9.81) / strickler / depth ** (1 / 6) * v
        epsilon = 0.145 + (width / depth) ** 1.38 * (v / shear) / 3520
        expected = 0.15 / (8 * epsilon) * (width / depth) ** (5 / 3) * (v / shear) ** 2
        actual = dispersion_m2_s(array(v), array(depth), array(width), array(slope))

        assert expected * depth * shear == pytest.approx(actual[0], rel=1e-9)
        assert pytest.approx(48.6, abs=0.5) == actual[0]

    def test_bounded(self) -> None:
        """No reach disperses more than any natural river does."""
        actual = dispersion_m2_s(array(3.0), array(1.0), array(5000.0), array(1e-5))

        assert actual[0] == 1500.0


class TestChannel:
    """The solver moves what it is given, and neither makes nor loses any."""

    @pytest.mark.parametrize("step_s", [10.0, 30.0, 60.0])
    def test_spill(self, step_s: float) -> None:
        """Two hours after an instantaneous spill the river has the exact solution, to 1 % of its peak."""
        channel = Channel(UNIFORM, step_s=step_s)
        carried = np.zeros((channel.cells, 1))
        source = channel.cells // 4
        carried[source, 0] = 1e6 / channel.volume_m3[0]
        rate_per_s = 2.0 / 86_400
        pace = channel.pace(1.0, 1)
        for _ in range(round(7200 / step_s)):
            advect(carried, pace)
            disperse(carried, pace)
            carried *= np.exp(-rate_per_s * step_s)
        x_m = (np.arange(channel.cells) - source) * channel.cell_m
        width_m2 = 4.0 * channel.dispersion_m2_s[0] * 7200.0
        expected = 1e6 / (80.0 * np.sqrt(np.pi * width_m2))
        expected *= np.exp(-((x_m - 0.4 * 7200.0) ** 2) / width_m2 - rate_per_s * 7200.0)

        assert np.abs(carried[:, 0] - expected).max() < 0.01 * expected.max()

    @settings(max_examples=60, deadline=None)
    @given(REACHES, st.floats(0.5, 3600.0), st.floats(1.0, 2.0), st.integers(0, 2**32 - 1))
    def test_stable(self, reaches: Sequence[Reach], step_s: float, speed: float, seed: int) -> None:
        """At any step, reaches and flow: no new extreme, nothing negative, no mass made or lost."""
        channel = Channel(reaches, step_s=step_s)
        carried = np.random.default_rng(seed).exponential(1.0, (channel.cells, 2)) ** 4
        pace = channel.pace(speed, 2)
        highest = carried.max()
        mass = channel.volume_m3 @ carried
        left = np.zeros(2)
        for _ in range(30):
            left += channel.leaving_m3 @ advect(carried, pace)
            disperse(carried, pace)
        stored = channel.volume_m3 @ carried

        assert carried.min() >= -1e-12 * highest
        assert carried.max() <= highest * (1 + 1e-9)
        assert mass == pytest.approx(stored + left, rel=1e-9)

    def test_flow_changes(self) -> None:
        """Where clean water joins, what is carried thins; where water is taken out, it does not."""
        channel = Channel(UNEVEN, step_s=30.0)
        carried = np.zeros((channel.cells, 1))
        pace = channel.pace(1.0, 1)
        left = np.zeros(1)
        for _ in range(12_000):
            carried[0, 0] += 32.0 * 30.0 / channel.volume_m3[0]
            left = channel.leaving_m3 @ advect(carried, pace)
            disperse(carried, pace)
        middle = channel.sections(np.array([5.0, 15.0, 25.0])).before

        assert [1.0, 2 / 3, 2 / 3] == pytest.approx(carried[middle, 0].tolist(), rel=1e-3)
        assert pytest.approx(32.0 * 30.0, rel=1e-3) == left[0]

    def test_even_water(self) -> None:
        """Water that is all alike stays so below what the head brings."""
        channel = Channel(UNIFORM, step_s=30.0)
        carried = np.full((channel.cells, 1), 7.0)
        pace = channel.pace(1.0, 1)
        advect(carried, pace)
        disperse(carried, pace)

        assert carried[2:, 0] == pytest.approx(np.full(channel.cells - 2, 7.0), rel=1e-12)

    def test_sections(self) -> None:
        """A place lies between the centres of its cells; beyond an end it is at the end."""
        sections = Channel(UNIFORM, step_s=30.0).sections(np.array([0.0, 0.05, 0.1, 99.0]))
        position = sections.before + sections.share

        assert [0.0, 0.0, 0.5, 399.0] == pytest.approx(position.tolist())
