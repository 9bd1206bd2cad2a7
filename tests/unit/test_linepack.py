"""Gas stored in pipes: holes, friction, mass, and how fast pressure falls."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sensors.linepack import (
    ATMOSPHERE_KPA,
    CRITICAL_RATIO,
    Calm,
    Hole,
    LinePack,
    PipeLaw,
    fall_kpa_s,
    orifice_kg_s,
)
from sensors.network import DemandCurve, GasProperties, NetworkStates, Pipes, solve_network

GAS = GasProperties()

SECTIONS = [
    (300, 10, 400, 10, 0.059, -0.717),
    (300, 10, 400, 50, 1.474, -17.9),
    (300, 10, 400, 100, 5.896, -71.7),
    (300, 10, 400, 300, 53.06, -645),
    (300, 5, 200, 10, 0.035, -0.861),
    (300, 5, 200, 50, 0.886, -21.5),
    (300, 5, 200, 100, 3.544, -86.1),
    (300, 5, 200, 300, 31.89, -775),
    (200, 3, 200, 10, 0.035, -3.23),
    (200, 3, 200, 50, 0.886, -80.8),
    (200, 3, 200, 100, 3.544, -323),
    (200, 3, 200, 200, 14.18, -1292),
    (500, 20, 1600, 10, 0.200, -0.438),
    (500, 20, 1600, 50, 5.002, -10.9),
    (500, 20, 1600, 100, 20.01, -43.8),
    (500, 20, 1600, 500, 500.2, -1094),
]
"""Diameter [mm], length [km], gauge pressure [kPa], hole [mm]: loss [kg/s], fall [kPa/min]."""


def closed_pipe(diameter_mm: float, length_km: float, pressure_kpa: float) -> NetworkStates:
    """A pipe of two halves that nothing feeds and nobody draws from."""
    ones, none = np.ones(2), np.zeros(2)
    return NetworkStates(
        names=("a", "b"),
        east_m=none,
        north_m=none,
        levels=ones,
        pressure_kpa=np.full((2, 2), pressure_kpa),
        flow_m3_h=np.zeros((2, 2)),
        pipe_flow_kg_s=np.zeros((2, 1)),
        pipes=Pipes(
            start=np.array([0]),
            end=np.array([1]),
            length_m=np.array([1000.0 * length_km]),
            diameter_m=np.array([diameter_mm / 1000.0]),
            roughness_m=np.array([1e-4]),
        ),
        demand_kg_s=none,
        customers=np.zeros(2, dtype=np.int64),
        feeds=(),
        gas=GAS,
    )


def still(pressure_kpa: float) -> Calm:
    """That pipe at rest."""
    inside = np.full(2, pressure_kpa + ATMOSPHERE_KPA)
    return Calm(inside, np.zeros(2), np.zeros(1))


@pytest.fixture(scope="module")
def town() -> tuple[NetworkStates, LinePack, Calm]:
    """The town's network at its own demand."""
    states = solve_network("schutterwald")
    pack = LinePack(states, np.array([states.names.index("K1052")]))
    pressure = DemandCurve(states.levels, states.pressure_kpa).all_at(1.0)
    flow = DemandCurve(states.levels, states.pipe_flow_kg_s).all_at(1.0)
    calm = Calm(pressure[pack.junctions] + ATMOSPHERE_KPA, pack.demand_kg_s, flow[pack.edges])
    return states, pack, calm


def opened(pack: LinePack) -> NDArray[np.float64]:
    """All valves open."""
    return np.ones(len(pack.edges))


class TestHoles:
    """What escapes, and what that does to the pressure."""

    @pytest.mark.parametrize(
        ("diameter_mm", "length_km", "gauge_kpa", "hole_mm", "loss", "fall"), SECTIONS
    )
    def test_table(
        self,
        diameter_mm: float,
        length_km: float,
        gauge_kpa: float,
        hole_mm: float,
        loss: float,
        fall: float,
    ) -> None:
        """Loss and rate of fall of the tabulated sections are those of the table."""
        inside = np.array([gauge_kpa + ATMOSPHERE_KPA])
        loss_kg_s = float(orifice_kg_s(inside, hole_mm, GAS)[0])
        volume_m3 = math.pi / 4 * (diameter_mm / 1000) ** 2 * 1000 * length_km

        assert loss == pytest.approx(loss_kg_s, rel=1e-3, abs=5e-4)
        assert fall == pytest.approx(60 * fall_kpa_s(loss_kg_s, volume_m3, GAS), rel=1e-2)

    @pytest.mark.parametrize(
        ("diameter_mm", "length_km", "gauge_kpa", "hole_mm", "loss", "fall"),
        [row for row in SECTIONS if row[3] <= 100],
    )
    def test_section_falls(
        self,
        diameter_mm: float,
        length_km: float,
        gauge_kpa: float,
        hole_mm: float,
        loss: float,
        fall: float,
    ) -> None:
        """A section of the model falls at the tabulated rate in its first second."""
        pack = LinePack(closed_pipe(diameter_mm, length_km, gauge_kpa), np.array([0, 1]))
        after = pack.step(np.zeros(2), 1.0, still(gauge_kpa), np.ones(1), (Hole(0, hole_mm),))

        assert loss == pytest.approx(-pack.excess_kg(after), rel=0.1)
        assert fall == pytest.approx(60 * after.mean(), rel=0.1)

    @given(st.floats(1.0, 500.0))
    def test_no_pressure_no_loss(self, hole_mm: float) -> None:
        """Without pressure nothing escapes."""
        assert orifice_kg_s(np.array([ATMOSPHERE_KPA]), hole_mm, GAS)[0] == 0.0

    def test_choking(self) -> None:
        """The flow chokes where the ratio of pressures is 0.546, without a jump."""
        limit = ATMOSPHERE_KPA / CRITICAL_RATIO
        below, above = orifice_kg_s(np.array([limit * (1 - 1e-9), limit * (1 + 1e-9)]), 10.0, GAS)

        assert round(CRITICAL_RATIO, 3) == 0.546
        assert below == pytest.approx(above, rel=1e-8)

    @given(st.floats(101.4, 2000.0), st.floats(1.001, 2.0))
    def test_more_pressure_more_loss(self, pressure_kpa: float, factor: float) -> None:
        """The more pressure, the more escapes."""
        less, more = orifice_kg_s(np.array([pressure_kpa, factor * pressure_kpa]), 10.0, GAS)

        assert less < more


class TestPipes:
    """The law of friction."""

    @given(st.floats(-5.0, 5.0))
    def test_round_trip(self, flow_kg_s: float) -> None:
        """The flow that a drop drives loses just that drop."""
        law = PipeLaw(closed_pipe(100, 1, 100).pipes, GAS)
        found, _ = law.flow_kg_s(law.drop_kpa2(np.array([flow_kg_s])))

        assert flow_kg_s == pytest.approx(found[0], rel=1e-9, abs=1e-12)

    def test_pandapipes(self, town: tuple[NetworkStates, LinePack, Calm]) -> None:
        """In the town's busy pipes the drop is that of pandapipes to 6 %; heights are the rest."""
        states, pack, calm = town
        start, end = states.pipes.start[pack.edges], states.pipes.end[pack.edges]
        inside = states.pressure_kpa[states.levels == 1.0][0] + ATMOSPHERE_KPA
        solved = inside[start] ** 2 - inside[end] ** 2
        busy = np.abs(solved) > 10.0

        assert busy.sum() > 15
        np.testing.assert_allclose(
            pack.law.drop_kpa2(calm.flow_kg_s)[busy], solved[busy], rtol=0.06
        )


class TestLinePack:
    """Sections that store gas and pass it on."""

    def test_calm(self, town: tuple[NetworkStates, LinePack, Calm]) -> None:
        """Without a disturbance nothing deviates."""
        _, pack, calm = town
        after = pack.step(np.zeros(pack.sections), 60.0, calm, opened(pack), ())

        assert np.abs(after).max() < 1e-9

    def test_volume(self, town: tuple[NetworkStates, LinePack, Calm]) -> None:
        """The sections hold what the pipes hold."""
        states, pack, _ = town
        pipes = states.pipes
        expected = (math.pi / 4 * pipes.diameter_m**2 * pipes.length_m).sum()

        assert expected == pytest.approx(pack.volume_m3.sum())

    @settings(max_examples=20, deadline=None)
    @given(st.floats(5.0, 100.0), st.floats(0.5, 60.0))
    def test_mass(self, hole_mm: float, step_s: float) -> None:
        """What a closed pipe loses has gone through its hole, for any step."""
        pack = LinePack(closed_pipe(300, 1, 400), np.array([0, 1]))
        calm = still(400.0)
        after = pack.step(np.zeros(2), step_s, calm, np.ones(1), (Hole(0, hole_mm),))
        inside = (calm.pressure_kpa + after)[:1]
        escaped_kg = step_s * float(orifice_kg_s(inside, hole_mm, GAS)[0])

        assert escaped_kg == pytest.approx(-pack.excess_kg(after), rel=1e-4)

    def test_nearer_ones_more(self, town: tuple[NetworkStates, LinePack, Calm]) -> None:
        """Pressure falls most at the hole and less along the way to the feed."""
        states, pack, calm = town
        hole = int(pack.section[states.names.index("K1052")])
        state = np.zeros(pack.sections)
        for _ in range(10):
            state = pack.step(state, 1.0, calm, opened(pack), (Hole(hole, 50.0),))
        near, far, feed = (
            state[pack.section[states.names.index(name)]] for name in ("K1053", "K1232", "K1289")
        )

        assert state[hole] < near < far < feed
        assert state[hole] < -20.0
        assert feed == pytest.approx(0.0, abs=0.01)

    def test_recovers(self, town: tuple[NetworkStates, LinePack, Calm]) -> None:
        """Once the hole is closed the network returns to its stationary state."""
        states, pack, calm = town
        hole = int(pack.section[states.names.index("K1052")])
        state = pack.step(np.zeros(pack.sections), 5.0, calm, opened(pack), (Hole(hole, 20.0),))
        for _ in range(60):
            state = pack.step(state, 60.0, calm, opened(pack), ())

        assert np.abs(state).max() < 1e-4

    def test_feed_gives_out(self, town: tuple[NetworkStates, LinePack, Calm]) -> None:
        """The feed keeps its pressure up to its regulator's flow, and not beyond."""
        states, pack, calm = town
        trunk = int(pack.section[states.names.index("K1290")])
        feed = pack.section[list(states.feeds)]
        small = big = np.zeros(pack.sections)
        for _ in range(30):
            small = pack.step(small, 10.0, calm, opened(pack), (Hole(trunk, 15.0),))
            big = pack.step(big, 10.0, calm, opened(pack), (Hole(trunk, 100.0),))

        assert small[feed][0] > -0.01
        assert big[feed][0] < -50.0
