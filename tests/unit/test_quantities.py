import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from city.kinds import DEVICE_KINDS, DeviceKind
from city.quantities import (
    QUANTITIES,
    UNITS,
    Domain,
    Quantity,
    convertible_units,
    quantities_of,
    to_canonical,
)

ROWS = list(QUANTITIES.values())
IDS = [row.id for row in ROWS]
REQUIRED = {
    Domain.AIR: "pm25 pm10 so2 no2 co o3 temperature humidity wind_speed wind_direction",
    Domain.WATER: "water_temperature ph dissolved_oxygen conductivity turbidity codmn ammonia_n "
    "total_p total_n",
    Domain.GAS: "gas_pressure gas_flow methane valve_position",
    Domain.EMISSION: "stack_pm stack_so2 stack_nox stack_o2 flue_temperature flue_pressure "
    "flue_humidity flue_velocity flue_flow effluent_flow effluent_ph effluent_cod "
    "effluent_ammonia_n effluent_total_p effluent_total_n",
}


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_names(row: Quantity) -> None:
    """Every quantity has an English name, a Chinese name and an identifier for the wire."""
    assert re.fullmatch(r"[a-z][a-z0-9_]*", row.id)
    assert row.name_en
    assert row.name_zh


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_unit(row: Quantity) -> None:
    """Every quantity is in a unit of the table of units."""
    assert row.unit in UNITS


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_range(row: Quantity) -> None:
    """Every range has an inside, and a resolution that shows it."""
    assert row.low < row.high
    assert 10**-row.decimals < row.high - row.low


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_code(row: Quantity) -> None:
    """An HJ 212 code is a medium and five digits; gas network and plant operation have none."""
    uncoded = row.domain is Domain.GAS or row.id.startswith("plant_")
    shape = "" if uncoded else r"[aw]\d{5}(-Zs)?"

    assert re.fullmatch(shape, row.hj212)


def test_codes_are_unique() -> None:
    """Within a medium of a domain a code stands for one quantity."""
    codes = [(row.domain, row.hj212) for row in ROWS if row.hj212]

    assert len(set(codes)) == len(codes)


def test_folded_codes() -> None:
    """An O2-corrected quantity has the code, the unit and the range check of its plain one."""
    corrected = [row for row in ROWS if row.id.endswith("_corrected")]

    assert [row.hj212 for row in corrected] == [
        QUANTITIES[row.id.removesuffix("_corrected")].hj212 + "-Zs" for row in corrected
    ]
    assert all(row.high >= QUANTITIES[row.id.removesuffix("_corrected")].high for row in corrected)


@pytest.mark.parametrize("domain", Domain)
def test_domains(domain: Domain) -> None:
    """Each domain has the quantities that its sensors must measure."""
    assert set(REQUIRED[domain].split()) <= {row.id for row in quantities_of(domain)}


def test_no_quantity_twice() -> None:
    """Every row of the table belongs to one domain and none is lost."""
    assert IDS == [row.id for domain in Domain for row in quantities_of(domain)]


@pytest.mark.parametrize("kind", DEVICE_KINDS.values(), ids=list(DEVICE_KINDS))
def test_kinds(kind: DeviceKind) -> None:
    """Every kind of device measures known quantities of its own domain, each once."""
    assert {kind.domain} == {QUANTITIES[name].domain for name in kind.quantities}
    assert len(set(kind.quantities)) == len(kind.quantities)


@pytest.mark.parametrize(
    ("value", "unit", "quantity", "expected"),
    [
        (0.035, "mg/m3", "pm25", 35.0),
        (1.2, "mS/cm", "conductivity", 1200.0),
        (0.4, "MPa", "gas_pressure", 400.0),
        (1.0, "bar", "gas_pressure", 100.0),
        (3.6, "m3/h", "effluent_flow", 1.0),
        (250.0, "ug/L", "ammonia_n", 0.25),
    ],
)
def test_conversion(value: float, unit: str, quantity: str, expected: float) -> None:
    """A value in another unit becomes the same amount in the canonical one."""
    assert pytest.approx(expected, rel=1e-12) == to_canonical(value, unit, QUANTITIES[quantity])


@given(st.sampled_from(ROWS), st.floats(-1e6, 1e6))
def test_canonical_is_exact(row: Quantity, value: float) -> None:
    """A value that is in the canonical unit already keeps its last bit."""
    assert value == to_canonical(value, row.unit, row)


@given(st.sampled_from(ROWS), st.floats(1e-6, 1e6), st.data())
def test_conversion_is_linear(row: Quantity, value: float, data: st.DataObject) -> None:
    """Twice the value in any unit is twice the value in the canonical unit."""
    unit = data.draw(st.sampled_from(convertible_units(row.unit)))

    assert pytest.approx(2 * to_canonical(value, unit, row)) == to_canonical(2 * value, unit, row)


def test_wrong_unit() -> None:
    """A unit of another dimension is refused, with the units that are allowed."""
    with pytest.raises(ValueError, match=r"'mg/L' does not fit pm25; allowed: ug/m3, mg/m3, g/m3"):
        to_canonical(1.0, "mg/L", QUANTITIES["pm25"])
