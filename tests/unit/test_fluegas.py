"""The arithmetic of a stack's continuous monitoring gives the figures of its sources."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sensors.fluegas import (
    O2_AIR_PERCENT,
    corrected,
    corrected_columns,
    dry_standard_flow_m3_s,
    emission_g_s,
    excess_air,
    oxygen_percent,
    uncorrected,
)

FOLD_TEST = [
    (18.5, 7.9, 6, 21.183),
    (34.0, 7.9, 6, 38.931),
    (3.2, 7.9, 6, 3.664),
    (20, 17.5, 18, 17.143),
    (20, 19.5, 18, 40.0),
]


def one(value: float) -> NDArray[np.float64]:
    """An array of that one value."""
    return np.array([value])


@pytest.mark.parametrize(("raw", "o2", "o2_ref", "expected"), FOLD_TEST)
def test_correction(raw: float, o2: float, o2_ref: float, expected: float) -> None:
    """The correction for oxygen has the values of hand calculation."""
    actual = corrected(one(raw), one(o2), one(o2_ref))

    assert expected == pytest.approx(actual[0], abs=0.0005)


@pytest.mark.parametrize(
    ("diluted_by", "raw", "o2", "expected"), [(0.0, 100.0, 8.0, 115.4), (0.5, 50.0, 14.45, 114.5)]
)
def test_dilution(diluted_by: float, raw: float, o2: float, expected: float) -> None:
    """Half of ambient air in the sample halves the reading and hardly moves the corrected one."""
    shown_mg_m3 = 100.0 * (1.0 - diluted_by)
    shown_o2_percent = 8.0 * (1.0 - diluted_by) + O2_AIR_PERCENT * diluted_by

    assert (raw, o2) == pytest.approx((shown_mg_m3, shown_o2_percent))
    actual = corrected(one(shown_mg_m3), one(shown_o2_percent), one(6.0))
    assert expected == pytest.approx(actual[0], abs=0.05)


@pytest.mark.parametrize("o2", [20.5, 20.9, 21.0, 25.0])
def test_correction_is_held_in_air(o2: float) -> None:
    """The correction stays thirtyfold when the stack carries nothing but air."""
    actual = corrected(one(20.0), one(o2), one(6.0))

    assert actual[0] == pytest.approx(600.0)


def test_without_reference() -> None:
    """A standard without reference oxygen corrects nothing."""
    actual = corrected(one(20.0), one(9.0), one(np.nan))

    assert actual[0] == 20.0


@given(st.floats(0, 5000), st.floats(0, 20.5), st.floats(3, 18))
def test_there_and_back(mg_m3: float, o2: float, o2_ref: float) -> None:
    """What is diluted to the oxygen there is comes back by the correction."""
    there = uncorrected(one(mg_m3), one(o2), one(o2_ref))

    assert mg_m3 == pytest.approx(corrected(there, one(o2), one(o2_ref))[0], abs=1e-9)


@given(st.floats(0, 20.0))
def test_excess_air(o2: float) -> None:
    """A fire with the excess air of an oxygen content shows that content."""
    assert o2 == pytest.approx(oxygen_percent(excess_air(one(o2)), one(1.0))[0], abs=1e-9)


def test_no_fire() -> None:
    """Fans alone blow air."""
    assert oxygen_percent(one(1.5), one(0.0))[0] == O2_AIR_PERCENT


def test_dry_flow() -> None:
    """Gas of 273 degC that is a tenth water has 45 % of its flow when dry and cold."""
    actual = dry_standard_flow_m3_s(
        one(10.0), one(2.0), one(273.0), one(0.0), one(10.0), one(101.325)
    )

    assert actual[0] == pytest.approx(9.0)


def test_dry_flow_in_thin_air() -> None:
    """The barometer and the gauge pressure in the duct add up."""
    actual = dry_standard_flow_m3_s(
        one(10.0), one(2.0), one(0.0), one(-0.325), one(0.0), one(81.385)
    )

    assert actual[0] == pytest.approx(16.0)


def test_emission() -> None:
    """Twenty cubic metres a second at 50 mg/m3 carry a gram a second."""
    assert emission_g_s(one(50.0), one(20.0))[0] == pytest.approx(1.0)


def test_columns() -> None:
    """Every corrected quantity is found with its raw one."""
    names = ("stack_pm", "stack_o2", "stack_pm_corrected")

    assert corrected_columns(names) == [(2, 0)]
