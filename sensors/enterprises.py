"""What each kind of plant burns, draws and discharges, as rows of data (engineering defaults).

Raw values are what enters the last stage of treatment; what leaves it is `raw * (1 - efficiency)`,
at or below half of the usual permit when everything works.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

USUAL_LOAD: Final = 0.8
"""The share of the rated load at which the rows below hold."""


class Firing(msgspec.Struct, frozen=True):
    """A stack at usual load.

    `*_raw` [mg/m3, dry, standard state, at `basis_o2`] enter the dust filter, desulphurisation and
    denitrification of the efficiencies `*_efficiency`. `turndown` is the relative growth of the
    excess air from full load to none. `area_m2` counts where the city file gives no stack.
    """

    basis_o2: float
    pm_raw: float
    pm_efficiency: float
    so2_raw: float
    so2_efficiency: float
    nox_raw: float
    nox_efficiency: float
    o2_percent: float
    turndown: float
    temperature_c: float
    pressure_kpa: float
    humidity_percent: float
    velocity_m_s: float
    area_m2: float


class Sewer(msgspec.Struct, frozen=True):
    """An outfall at usual load: flow, pH and raw concentrations before the biological stage.

    `per_mm_h` is the relative growth of the flow by rain that runs into the sewer [h/mm].
    """

    flow_l_s: float
    ph: float
    cod_raw: float
    cod_efficiency: float
    ammonia_n_raw: float
    ammonia_n_efficiency: float
    total_p_raw: float
    total_p_efficiency: float
    total_n_raw: float
    total_n_efficiency: float
    per_mm_h: float


class Supply(msgspec.Struct, frozen=True):
    """Electricity at usual load: draw [kW], the part that never stops, the part for treatment."""

    power_kw: float
    standing: float
    treatment: float


FIRINGS: Final = {
    "coal-boiler": Firing(6.0, 240, 0.975, 1100, 0.980, 280, 0.88, 7.5, 0.60, 52, -0.12, 10.0, 13, 12),
    "gas-turbine": Firing(15.0, 1.5, 0.0, 6.0, 0.0, 150, 0.84, 14.2, 0.40, 96, 0.05, 8.0, 18, 20),
    "ceramics-kiln": Firing(18.0, 350, 0.960, 440, 0.950, 450, 0.79, 17.4, 0.10, 85, -0.08, 7.0, 11, 5),
    "steel-sinter": Firing(16.0, 600, 0.970, 900, 0.917, 500, 0.70, 15.6, 0.25, 118, -0.15, 9.0, 16, 28),
    "sewage-works": Firing(6.0, 2.0, 0.0, 120, 0.917, 40, 0.0, 6.0, 0.50, 120, 0.02, 11.0, 8, 0.5),
    "brewery": Firing(4.5, 3.0, 0.0, 10, 0.0, 45, 0.0, 4.5, 0.50, 110, -0.03, 14.0, 9, 1.2),
}  # fmt: skip
SEWERS: Final = {
    "coal-boiler": Sewer(12, 7.8, 110, 0.710, 12, 0.790, 0.8, 0.750, 20, 0.550, 0.010),
    "gas-turbine": Sewer(6, 7.7, 80, 0.650, 8, 0.750, 0.6, 0.667, 16, 0.500, 0.010),
    "ceramics-kiln": Sewer(9, 7.6, 150, 0.747, 12, 0.750, 0.8, 0.690, 18, 0.500, 0.010),
    "steel-sinter": Sewer(25, 7.9, 300, 0.867, 40, 0.912, 1.0, 0.750, 60, 0.833, 0.010),
    "sewage-works": Sewer(480, 7.2, 300, 0.927, 30, 0.960, 5.0, 0.956, 42, 0.800, 0.050),
    "brewery": Sewer(28, 7.4, 900, 0.962, 40, 0.900, 9.0, 0.900, 60, 0.800, 0.005),
}
SUPPLIES: Final = {
    "coal-boiler": Supply(2400, 0.15, 0.25),
    "gas-turbine": Supply(900, 0.20, 0.08),
    "ceramics-kiln": Supply(1800, 0.15, 0.12),
    "steel-sinter": Supply(9500, 0.10, 0.18),
    "sewage-works": Supply(650, 0.25, 0.55),
    "brewery": Supply(1100, 0.25, 0.10),
}


def arrays(rows: Mapping[str, Any], kinds: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """The fields of a table's rows by name, one number per plant; `kinds` are the plants' kinds."""
    chosen = [msgspec.structs.asdict(rows[kind]) for kind in kinds]
    names = [field.name for field in msgspec.structs.fields(next(iter(rows.values())))]
    return {name: np.array([float(row[name]) for row in chosen]) for name in names}
