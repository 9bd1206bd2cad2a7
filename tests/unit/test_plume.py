"""Plumes and their rise: the figures of their sources, mass that is conserved, order and bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sensors.plume import (
    RURAL,
    URBAN,
    Terrain,
    dilution_s_m3,
    sigma_y_m,
    sigma_z_m,
    wind_at_height_m_s,
)
from sensors.plumerise import KELVIN, Gas, buoyancy_flux_m4_s3, final_rise, rise_m

TERRAINS = {"urban": URBAN, "rural": RURAL}
D = 3


def one(value: float) -> NDArray[np.float64]:
    """A single figure as an array."""
    return np.array([value])


def kind(stability: int) -> NDArray[np.int64]:
    """A single class as an array."""
    return np.array([stability])


def gas(stack_k: float, velocity_m_s: float, diameter_m: float) -> Gas:
    """Flue gas of that temperature in kelvin."""
    return Gas(one(stack_k - KELVIN), one(velocity_m_s), one(diameter_m))


class TestSpread:
    """Briggs' formulas and the concentrations that they give."""

    @pytest.mark.parametrize(
        ("terrain", "x_m", "sigma_y", "sigma_z", "ug_m3"),
        [
            ("urban", 500, 73.03, 65.28, 51.631),
            ("urban", 1000, 135.22, 122.79, 34.399),
            ("urban", 3000, 323.62, 304.70, 7.647),
            ("rural", 500, 39.04, 22.68, 0.054),
            ("rural", 1000, 76.28, 37.95, 8.536),
            ("rural", 3000, 210.49, 76.75, 21.079),
        ],
    )
    def test_vectors(
        self, terrain: str, x_m: float, sigma_y: float, sigma_z: float, ug_m3: float
    ) -> None:
        """10 g/s from 100 m in a wind of 4 m/s and class D give the tabulated figures."""
        over = TERRAINS[terrain]
        dilution = dilution_s_m3(
            one(x_m), one(0), one(0),
            height_m=one(100), wind_m_s=one(4), stability=kind(D), terrain=over,
        )  # fmt: skip

        assert sigma_y == pytest.approx(sigma_y_m(one(x_m), kind(D), over)[0], abs=0.005)
        assert sigma_z == pytest.approx(sigma_z_m(one(x_m), kind(D), over)[0], abs=0.005)
        assert ug_m3 == pytest.approx(10 * 1e6 * dilution[0], abs=0.0005)

    @pytest.mark.parametrize("terrain", sorted(TERRAINS))
    @pytest.mark.parametrize("stability", range(6))
    @pytest.mark.parametrize("x_m", [100.0, 1000.0, 10_000.0])
    def test_mass(self, terrain: str, stability: int, x_m: float) -> None:
        """Through any plane across the wind passes what is emitted, to 1 %."""
        over = TERRAINS[terrain]
        wide = 6.0 * sigma_y_m(one(x_m), kind(stability), over)[0]
        high = 80.0 + 6.0 * sigma_z_m(one(x_m), kind(stability), over)[0]
        y_m, z_m = np.linspace(-wide, wide, 401), np.linspace(0.0, high, 801)
        dilution = dilution_s_m3(
            one(x_m), y_m[:, None], z_m[None, :],
            height_m=one(80), wind_m_s=one(3), stability=kind(stability), terrain=over,
        )  # fmt: skip
        flow = 3.0 * np.trapezoid(np.trapezoid(dilution, z_m, axis=1), y_m)

        assert flow == pytest.approx(1.0, rel=0.01)

    @given(st.floats(-1e4, 0.0), st.floats(-1e3, 1e3), st.integers(0, 5))
    def test_upwind(self, x_m: float, y_m: float, stability: int) -> None:
        """At the source and upwind of it there is nothing."""
        dilution = dilution_s_m3(
            one(x_m), one(y_m), one(0),
            height_m=one(50), wind_m_s=one(2), stability=kind(stability), terrain=URBAN,
        )  # fmt: skip

        assert dilution.tolist() == [0.0]

    @given(st.floats(1.0, 12_000.0), st.floats(0.0, 2000.0), st.integers(0, 5))
    def test_middle(self, x_m: float, y_m: float, stability: int) -> None:
        """Nowhere across the wind is there more than in the middle, and both sides are alike."""
        left, middle, right = dilution_s_m3(
            np.full(3, x_m), np.array([-y_m, 0, y_m]), np.zeros(3),
            height_m=np.full(3, 50.0), wind_m_s=np.full(3, 2.0),
            stability=np.full(3, stability), terrain=URBAN,
        ).tolist()  # fmt: skip

        assert left == right <= middle

    @pytest.mark.parametrize("terrain", [URBAN, RURAL])
    def test_order(self, terrain: Terrain) -> None:
        """The more stable the air, the narrower the plume."""
        classes, x_m = np.arange(6), np.full(6, 1000.0)

        assert np.all(np.diff(sigma_y_m(x_m, classes, terrain)) <= 0)
        assert np.all(np.diff(sigma_z_m(x_m, classes, terrain)) <= 0)

    def test_wind_profile(self) -> None:
        """At 100 m over a city the wind is 1.78 times that at 10 m in class D, below 10 m equal."""
        wind = wind_at_height_m_s(np.full(2, 2.0), np.array([100.0, 5.0]), np.full(2, D), URBAN)

        assert wind.tolist() == pytest.approx([2.0 * 10**0.25, 2.0])


class TestRise:
    """Plume rise by ISC3."""

    @pytest.mark.parametrize(
        ("diameter", "velocity", "stack_k", "flux", "x_m", "rise"),
        [(3, 15, 325, 32.59, 432.36, 58.44), (6, 20, 400, 472.17, 1396.96, 311.39)],
    )
    def test_vectors(
        self,
        diameter: float,
        velocity: float,
        stack_k: float,
        flux: float,
        x_m: float,
        rise: float,
    ) -> None:
        """Buoyancy, distance and height of the final rise have the tabulated figures."""
        smoke, air_c = gas(stack_k, velocity, diameter), one(293 - KELVIN)
        final = final_rise(smoke, wind_m_s=one(5), air_c=air_c, stability=kind(D))

        assert flux == pytest.approx(buoyancy_flux_m4_s3(smoke, air_c)[0], abs=0.005)
        assert x_m == pytest.approx(final.reached_m[0], abs=0.005)
        assert rise == pytest.approx(final.final_m[0], abs=0.005)

    def test_stable(self) -> None:
        """In class E the final rise is 2.6 (Fb / u s)^(1/3)."""
        smoke, air_k = gas(400, 20, 3), 293.0
        flux = buoyancy_flux_m4_s3(smoke, one(air_k - KELVIN))[0]
        s = 9.80616 * 0.020 / air_k
        final = final_rise(smoke, wind_m_s=one(4), air_c=one(air_k - KELVIN), stability=kind(4))

        assert 2.6 * (flux / (4 * s)) ** (1 / 3) == pytest.approx(final.final_m[0])
        assert 2.0715 * 4 / s**0.5 == pytest.approx(final.reached_m[0])

    def test_cold(self) -> None:
        """Gas as cold as the air rises by its momentum, three diameters times v/u."""
        final = final_rise(
            gas(293, 15, 2), wind_m_s=one(5), air_c=one(293 - KELVIN), stability=kind(D)
        )

        assert not final.buoyant[0]
        assert 18.0 == pytest.approx(final.final_m[0])

    @pytest.mark.parametrize("stability", range(6))
    def test_still(self, stability: int) -> None:
        """Gas that stands still does not rise."""
        final = final_rise(
            gas(400, 0, 3), wind_m_s=one(3), air_c=one(20), stability=kind(stability)
        )

        assert final.final_m.tolist() == [0.0]

    def test_gradual(self) -> None:
        """Before its final height a warm plume climbs as 1.60 (Fb x^2 / u^3)^(1/3)."""
        smoke, air_c = gas(325, 15, 3), one(293 - KELVIN)
        flux = buoyancy_flux_m4_s3(smoke, air_c)[0]
        rise = rise_m(one(200), smoke, wind_m_s=one(5), air_c=air_c, stability=kind(D))

        assert 1.6 * (flux * 200**2 / 5**3) ** (1 / 3) == pytest.approx(rise[0])

    @given(
        st.floats(273, 600), st.floats(0, 40), st.floats(0.3, 10), st.floats(1, 20),
        st.integers(0, 5),
    )  # fmt: skip
    def test_climbs(
        self, stack_k: float, velocity: float, diameter: float, wind: float, stability: int
    ) -> None:
        """A plume never sinks on its way, and ends at its final rise."""
        x_m = np.geomspace(1.0, 1e5, 60)
        smoke = Gas(*(np.full(60, value) for value in (stack_k - KELVIN, velocity, diameter)))
        surroundings = {"wind_m_s": np.full(60, wind), "air_c": np.full(60, 20.0)}
        rise = rise_m(x_m, smoke, **surroundings, stability=np.full(60, stability))
        final = final_rise(smoke, **surroundings, stability=np.full(60, stability))

        assert np.all(np.diff(rise) >= -1e-9)
        assert rise[-1] == pytest.approx(final.final_m[-1])
