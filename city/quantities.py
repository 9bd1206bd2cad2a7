"""The quantities that sensors measure, each in its one canonical unit.

One row per quantity. `low` and `high` are the physical range in the canonical unit: a reading
outside it cannot be true of the medium. `hj212` is the factor code of HJ 212-2017 Appendix B
(`a05024` and `w01003` come from HJ 524-2009 and HJ 525-2009); `-Zs` marks the O2-corrected
("folded") value that HJ 212 sends under the same code with a `Zs` prefix.
"""

from enum import StrEnum
from typing import Final

import msgspec


class Domain(StrEnum):
    """The part of the environment that a sensor watches; also the store's measurement."""

    AIR = "air"
    WATER = "water"
    GAS = "gas"
    EMISSION = "emission"


class Quantity(msgspec.Struct, frozen=True):
    """One thing that is measured, in one unit."""

    id: str
    domain: Domain
    name_en: str
    name_zh: str
    unit: str
    hj212: str
    decimals: int
    low: float
    high: float


class Unit(msgspec.Struct, frozen=True):
    """A unit and how it turns into the base unit of its dimension: `base = value * factor`."""

    symbol: str
    dimension: str
    factor: float


_UNITS: Final = (
    Unit("ug/m3", "mass concentration in gas", 1e-6),
    Unit("mg/m3", "mass concentration in gas", 1e-3),
    Unit("g/m3", "mass concentration in gas", 1.0),
    Unit("ug/L", "mass concentration in water", 1e-3),
    Unit("mg/L", "mass concentration in water", 1.0),
    Unit("degC", "temperature", 1.0),
    Unit("%", "share", 1.0),
    Unit("%LEL", "share of the lower explosive limit", 1.0),
    Unit("m/s", "speed", 1.0),
    Unit("deg", "angle", 1.0),
    Unit("pH", "acidity", 1.0),
    Unit("uS/cm", "conductivity", 1.0),
    Unit("mS/cm", "conductivity", 1000.0),
    Unit("NTU", "turbidity", 1.0),
    Unit("Pa", "pressure", 1.0),
    Unit("kPa", "pressure", 1e3),
    Unit("MPa", "pressure", 1e6),
    Unit("bar", "pressure", 1e5),
    Unit("m3/h", "flow", 1.0 / 3600.0),
    Unit("m3/s", "flow", 1.0),
    Unit("L/s", "flow", 1e-3),
    Unit("kW", "power", 1.0),
    Unit("MW", "power", 1e3),
)
UNITS: Final = {unit.symbol: unit for unit in _UNITS}

_ROWS: Final = (
    # air
    ("pm25", Domain.AIR, "PM2.5", "细颗粒物", "ug/m3", "a34004", 1, 0, 2000),
    ("pm10", Domain.AIR, "PM10", "可吸入颗粒物", "ug/m3", "a34002", 1, 0, 5000),
    ("so2", Domain.AIR, "Sulphur dioxide", "二氧化硫", "ug/m3", "a21026", 1, 0, 5000),
    ("no2", Domain.AIR, "Nitrogen dioxide", "二氧化氮", "ug/m3", "a21004", 1, 0, 5000),
    ("co", Domain.AIR, "Carbon monoxide", "一氧化碳", "mg/m3", "a21005", 2, 0, 200),
    ("o3", Domain.AIR, "Ozone", "臭氧", "ug/m3", "a05024", 1, 0, 2000),
    ("temperature", Domain.AIR, "Air temperature", "气温", "degC", "a01001", 1, -60, 60),
    ("humidity", Domain.AIR, "Relative humidity", "相对湿度", "%", "a01002", 1, 0, 100),
    ("wind_speed", Domain.AIR, "Wind speed", "风速", "m/s", "a01007", 1, 0, 75),
    ("wind_direction", Domain.AIR, "Wind direction", "风向", "deg", "a01008", 0, 0, 360),
    # surface water
    ("water_temperature", Domain.WATER, "Water temperature", "水温", "degC", "w01010", 1, -1, 45),
    ("ph", Domain.WATER, "pH", "pH值", "pH", "w01001", 2, 0, 14),
    ("dissolved_oxygen", Domain.WATER, "Dissolved oxygen", "溶解氧", "mg/L", "w01009", 2, 0, 25),
    ("conductivity", Domain.WATER, "Conductivity", "电导率", "uS/cm", "w01014", 0, 0, 60000),
    ("turbidity", Domain.WATER, "Turbidity", "浑浊度", "NTU", "w01003", 1, 0, 10000),
    ("codmn", Domain.WATER, "Permanganate index", "高锰酸盐指数", "mg/L", "w01019", 2, 0, 200),
    ("ammonia_n", Domain.WATER, "Ammonia nitrogen", "氨氮", "mg/L", "w21003", 3, 0, 300),
    ("total_p", Domain.WATER, "Total phosphorus", "总磷", "mg/L", "w21011", 3, 0, 100),
    ("total_n", Domain.WATER, "Total nitrogen", "总氮", "mg/L", "w21001", 2, 0, 300),
    # gas network (HJ 212 has no codes for it); pressure is gauge pressure, flow at 0 °C, 101.325 kPa
    ("gas_pressure", Domain.GAS, "Gas pressure", "燃气压力", "kPa", "", 2, -101.325, 10000),
    ("gas_flow", Domain.GAS, "Gas flow", "燃气流量", "m3/h", "", 2, -100000, 100000),
    ("methane", Domain.GAS, "Methane", "甲烷", "%LEL", "", 1, 0, 2000),
    ("valve_position", Domain.GAS, "Valve position (100 open)", "阀位", "%", "", 1, 0, 100),
    # stack (flue gas); `_corrected` is dry, at standard state and at the reference O2
    ("stack_pm", Domain.EMISSION, "Particulates", "颗粒物", "mg/m3", "a34013", 1, 0, 20000),
    ("stack_so2", Domain.EMISSION, "SO2", "二氧化硫", "mg/m3", "a21026", 1, 0, 20000),
    ("stack_nox", Domain.EMISSION, "NOx as NO2", "氮氧化物", "mg/m3", "a21002", 1, 0, 20000),
    ("stack_pm_corrected", Domain.EMISSION, "Particulates, O2-corrected", "颗粒物折算", "mg/m3", "a34013-Zs", 1, 0, 50000),
    ("stack_so2_corrected", Domain.EMISSION, "SO2, O2-corrected", "二氧化硫折算", "mg/m3", "a21026-Zs", 1, 0, 50000),
    ("stack_nox_corrected", Domain.EMISSION, "NOx, O2-corrected", "氮氧化物折算", "mg/m3", "a21002-Zs", 1, 0, 50000),
    ("stack_o2", Domain.EMISSION, "Oxygen", "氧气含量", "%", "a19001", 2, 0, 21),
    ("flue_temperature", Domain.EMISSION, "Flue-gas temperature", "烟气温度", "degC", "a01012", 1, -40, 1500),
    ("flue_pressure", Domain.EMISSION, "Flue-gas gauge pressure", "烟气压力", "kPa", "a01013", 3, -50, 50),
    ("flue_humidity", Domain.EMISSION, "Flue-gas humidity", "烟气湿度", "%", "a01014", 1, 0, 100),
    ("flue_velocity", Domain.EMISSION, "Flue-gas velocity", "烟气流速", "m/s", "a01011", 2, 0, 80),
    ("flue_flow", Domain.EMISSION, "Flue-gas flow", "废气流量", "m3/s", "a00000", 2, 0, 5000),
    # wastewater
    ("effluent_flow", Domain.EMISSION, "Wastewater flow", "污水流量", "L/s", "w00000", 2, 0, 100000),
    ("effluent_ph", Domain.EMISSION, "Wastewater pH", "污水pH值", "pH", "w01001", 2, 0, 14),
    ("effluent_cod", Domain.EMISSION, "Chemical oxygen demand", "化学需氧量", "mg/L", "w01018", 1, 0, 20000),
    ("effluent_ammonia_n", Domain.EMISSION, "Wastewater ammonia nitrogen", "污水氨氮", "mg/L", "w21003", 2, 0, 2000),
    ("effluent_total_p", Domain.EMISSION, "Wastewater total phosphorus", "污水总磷", "mg/L", "w21011", 2, 0, 500),
    ("effluent_total_n", Domain.EMISSION, "Wastewater total nitrogen", "污水总氮", "mg/L", "w21001", 2, 0, 2000),
    # plant operation: auxiliary signals, for which HJ 212-2017 has no codes; load is a share of the rated
    ("plant_load", Domain.EMISSION, "Production load", "生产负荷", "%", "", 1, 0, 150),
    ("plant_power", Domain.EMISSION, "Electric power", "用电功率", "kW", "", 1, 0, 500000),
)  # fmt: skip

QUANTITIES: Final = {row[0]: Quantity(*row) for row in _ROWS}


def quantities_of(domain: Domain) -> tuple[Quantity, ...]:
    """The quantities of `domain`, in the order of the table."""
    return tuple(quantity for quantity in QUANTITIES.values() if quantity.domain is domain)


def convertible_units(unit: str) -> tuple[str, ...]:
    """The symbols of all units that turn into `unit`, itself included."""
    dimension = UNITS[unit].dimension
    return tuple(other.symbol for other in UNITS.values() if other.dimension == dimension)


def to_canonical(value: float, unit: str, quantity: Quantity) -> float:
    """`value` in `unit`, expressed in the canonical unit of `quantity`.

    Raises:
        ValueError: The unit is unknown or of another dimension; the text names the allowed ones.
    """
    allowed = convertible_units(quantity.unit)
    if unit not in allowed:
        raise ValueError(f"unit {unit!r} does not fit {quantity.id}; allowed: {', '.join(allowed)}")
    if unit == quantity.unit:
        return value
    return value * (UNITS[unit].factor / UNITS[quantity.unit].factor)
