"""The kinds of device and of plant that a city file may name, as rows of data."""

from typing import Final

import msgspec

from city.quantities import Domain

_ANY: Final = ("calibrate", "set_interval")
_VALVE: Final = ("close_valve", "open_valve", *_ANY)
_PLANT: Final = ("stop_unit", *_ANY)


class DeviceKind(msgspec.Struct, frozen=True):
    """A model of sensor: what it measures, how often, and which commands it obeys."""

    id: str
    domain: Domain
    name_en: str
    name_zh: str
    model: str
    quantities: tuple[str, ...]
    interval_s: float
    commands: tuple[str, ...] = _ANY


class PlantKind(msgspec.Struct, frozen=True):
    """A kind of enterprise: what leaves its stack or outfall when nothing is wrong.

    `o2_ref` is the reference oxygen [%] of its standard; concentrations in mg/m3 at that O2.
    """

    id: str
    name_en: str
    name_zh: str
    standard: str
    o2_ref: float | None = None


_STACK: Final = (
    "stack_pm", "stack_so2", "stack_nox", "stack_o2",
    "stack_pm_corrected", "stack_so2_corrected", "stack_nox_corrected",
    "flue_temperature", "flue_pressure", "flue_humidity", "flue_velocity", "flue_flow",
)  # fmt: skip
_AIR: Final = ("pm25", "pm10", "so2", "no2", "co", "o3")
_WEATHER: Final = ("temperature", "humidity", "wind_speed", "wind_direction")
_FIVE: Final = ("water_temperature", "ph", "dissolved_oxygen", "conductivity", "turbidity")

_DEVICE_ROWS: Final = (
    DeviceKind("air-station", Domain.AIR, "Air quality station", "空气质量监测站",
               "CE-AQ10", (*_AIR, *_WEATHER), 5.0),
    DeviceKind("air-micro", Domain.AIR, "Micro air station", "微型空气站",
               "CE-AQ4", ("pm25", "pm10", "temperature", "humidity"), 5.0),
    DeviceKind("air-gas", Domain.AIR, "Gas analyser", "气态污染物分析仪",
               "CE-AG4", ("so2", "no2", "co", "o3"), 5.0),
    DeviceKind("water-station", Domain.WATER, "River station", "地表水自动站",
               "CE-WQ9", (*_FIVE, "codmn", "ammonia_n", "total_p", "total_n"), 10.0),
    DeviceKind("water-sonde", Domain.WATER, "Five-parameter sonde", "五参数水质仪",
               "CE-WQ5", _FIVE, 10.0),
    DeviceKind("gas-node", Domain.GAS, "Gas pressure and flow", "燃气压力流量计",
               "CE-GP2", ("gas_pressure", "gas_flow"), 2.0),
    DeviceKind("gas-valve", Domain.GAS, "Remote shut-off valve", "燃气紧急切断阀",
               "CE-GV2", ("gas_pressure", "valve_position"), 2.0, _VALVE),
    DeviceKind("gas-detector", Domain.GAS, "Methane detector", "可燃气体探测器",
               "CE-GD1", ("methane",), 2.0, ("ventilate", *_ANY)),
    DeviceKind("stack-cems", Domain.EMISSION, "Stack analyser (CEMS)", "烟气连续监测系统",
               "CE-ST12", _STACK, 5.0, _PLANT),
    DeviceKind("outfall", Domain.EMISSION, "Outfall monitor", "污水排放监测仪",
               "CE-OF6", ("effluent_flow", "effluent_ph", "effluent_cod", "effluent_ammonia_n",
                          "effluent_total_p", "effluent_total_n"), 5.0, _PLANT),
    DeviceKind("plant-meter", Domain.EMISSION, "Production and power meter", "生产用电工况监测仪",
               "CE-PM2", ("plant_load", "plant_power"), 5.0, _PLANT),
)  # fmt: skip
DEVICE_KINDS: Final = {row.id: row for row in _DEVICE_ROWS}

_PLANT_ROWS: Final = (
    PlantKind("coal-boiler", "Coal boiler", "燃煤锅炉", "GB 13223-2011", 6.0),
    PlantKind("gas-turbine", "Gas turbine", "燃气轮机", "GB 13223-2011", 15.0),
    PlantKind("ceramics-kiln", "Ceramics kiln", "陶瓷窑", "GB 25464-2010", 18.0),
    PlantKind("steel-sinter", "Sinter plant", "烧结机", "GB 28662-2012", 16.0),
    PlantKind("sewage-works", "Sewage works", "城镇污水处理厂", "GB 18918-2002"),
    PlantKind("brewery", "Brewery", "啤酒厂", "GB 19821-2005"),
)
PLANT_KINDS: Final = {row.id: row for row in _PLANT_ROWS}
