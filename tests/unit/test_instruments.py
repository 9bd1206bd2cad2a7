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
from sensors.instruments import INSTRUMENTS, Instruments
from sensors.plants import corrected, reference_o2_percent

Shown = tuple[NDArray[np.float64], NDArray[np.uint8]]


def group_of(kind: str, devices: int = 12) -> Group:
    """A group of that kind of device, two to a site."""
    city = synthetic_city(devices, interval_s=1, seed=1, kinds=(kind,))
    (group,) = CityEngine(city, seed=1, start_ms=0).groups
    return group


def show(kind: str, truth: dict[str, float], noise: float = 0.0) -> Shown:
    """What the first device of that kind shows; absent quantities are truly 1."""
    group = group_of(kind)
    values = np.array([[truth.get(quantity, 1.0) for quantity in group.quantities]])
    rows = np.zeros(1, dtype=np.int64)
    return Instruments(group).show(values, np.full(values.shape, noise), rows)


def test_every_quantity() -> None:
    """Every quantity has an instrument whose range lies within the physical one."""
    assert QUANTITIES.keys() == INSTRUMENTS.keys()
    for row in INSTRUMENTS.values():
        quantity = QUANTITIES[row.quantity]
        assert quantity.low <= row.low < row.high <= quantity.high


@given(
    st.lists(st.floats(-1e4, 1e4), min_size=4, max_size=4),
    st.lists(st.floats(-4, 4), min_size=4, max_size=4),
)
def test_rounded_within_range(truth: list[float], noise: list[float]) -> None:
    """Whatever is true, what is shown lies in the range and has the quantity's decimals."""
    group = group_of("air-micro", 1)
    rows = np.zeros(1, dtype=np.int64)
    values, _ = Instruments(group).show(np.array([truth]), np.array([noise]), rows)

    for name, value in zip(group.quantities, values[0].tolist(), strict=True):
        assert round(value, QUANTITIES[name].decimals) == value
        assert INSTRUMENTS[name].low <= value <= INSTRUMENTS[name].high


def test_no_noise() -> None:
    """Without noise the truth is shown, rounded to the resolution."""
    values, flags = show("air-micro", {"pm25": 12.345, "pm10": 20.06, "temperature": -3.14})

    assert values[0, :3].tolist() == [12.3, 20.1, -3.1]
    assert not flags.any()


def test_noise_grows() -> None:
    """Noise has an absolute part and one that grows with the value."""
    values, _ = show("air-micro", {"pm25": 100.0}, noise=1.0)
    row = INSTRUMENTS["pm25"]

    assert values[0, 0] == pytest.approx(100.0 + row.absolute + row.relative * 100.0, abs=0.05)


def test_over_range() -> None:
    """A value above the range is shown at its end and flagged T."""
    values, flags = show("gas-node", {"gas_pressure": 400.0})

    assert values[0, 0] == 250.0
    assert flags[0].tolist() == [Flag.T, Flag.N]


def test_end_of_the_physical_range() -> None:
    """A value at the physical end is not over the range."""
    values, flags = show("air-micro", {"humidity": 100.0}, noise=3.0)

    assert values[0, 3] == 100.0
    assert flags[0, 3] == Flag.N


def test_below_range() -> None:
    """Less than nothing is shown as zero, without flag and without sign."""
    values, flags = show("gas-detector", {"methane": 0.0}, noise=-4.0)

    assert str(values[0, 0]) == "0.0"
    assert not flags.any()


@pytest.mark.parametrize(("truth", "noise"), [(359.9, 0.0), (359.0, 0.4), (1.0, -0.4)])
def test_north(truth: float, noise: float) -> None:
    """Wind directions turn through north and never show 360."""
    values, flags = show("air-station", {"wind_direction": truth}, noise=noise)

    assert values[0, 9] == 0.0
    assert not flags.any()


def test_correction_uses_what_was_measured() -> None:
    """An analyser corrects its own noisy readings, each with its plant's reference oxygen."""
    group = group_of("stack-cems", 60)
    rows = np.arange(60, dtype=np.int64)
    index = {name: column for column, name in enumerate(group.quantities)}
    truth = np.full((60, len(index)), 10.0)
    values, _ = Instruments(group).show(truth, np.full(truth.shape, 1.5), rows)
    raw, o2 = values[:, index["stack_so2"]], values[:, index["stack_o2"]]

    expected = corrected(raw, o2, reference_o2_percent(group))
    np.testing.assert_allclose(values[:, index["stack_so2_corrected"]], expected, atol=0.0501)


def test_corrected_inherits_the_flag() -> None:
    """A corrected value that comes from one over the range is flagged too."""
    _, flags = show("stack-cems", {"stack_so2": 9_000.0})
    index = {name: column for column, name in enumerate(group_of("stack-cems").quantities)}

    assert flags[0, index["stack_so2"]] == Flag.T
    assert flags[0, index["stack_so2_corrected"]] == Flag.T
    assert flags[0, index["stack_nox_corrected"]] == Flag.N
