"""What plants may discharge, as rows: the figures that frauds keep their values below.

Stack limits are for dry gas at standard state and reference oxygen [mg/m3], outfall limits for
daily means [mg/L, pH]. `grade` is the evidence: A the official text, B a page that states it, D
not verified.
"""

from typing import Final

import msgspec


class Permit(msgspec.Struct, frozen=True):
    """The limit of one quantity at one kind of plant."""

    plant: str
    quantity: str
    high: float
    standard: str
    grade: str
    low: float | None = None


_ROWS: Final = (
    Permit("coal-boiler", "stack_pm_corrected", 30, "GB 13223-2011", "D"),
    Permit("coal-boiler", "stack_so2_corrected", 100, "GB 13223-2011", "B"),
    Permit("coal-boiler", "stack_nox_corrected", 100, "GB 13223-2011", "B"),
    Permit("gas-turbine", "stack_pm_corrected", 5, "GB 13223-2011", "D"),
    Permit("gas-turbine", "stack_so2_corrected", 35, "GB 13223-2011", "B"),
    Permit("gas-turbine", "stack_nox_corrected", 50, "GB 13223-2011", "B"),
    Permit("ceramics-kiln", "stack_pm_corrected", 30, "GB 25464-2010", "B"),
    Permit("ceramics-kiln", "stack_so2_corrected", 50, "GB 25464-2010", "B"),
    Permit("ceramics-kiln", "stack_nox_corrected", 180, "GB 25464-2010", "B"),
    Permit("steel-sinter", "stack_pm_corrected", 50, "GB 28662-2012", "D"),
    Permit("steel-sinter", "stack_so2_corrected", 200, "GB 28662-2012", "D"),
    Permit("steel-sinter", "stack_nox_corrected", 300, "GB 28662-2012", "D"),
    Permit("sewage-works", "effluent_cod", 50, "GB 18918-2002", "B"),
    Permit("sewage-works", "effluent_ammonia_n", 5, "GB 18918-2002", "B"),
    Permit("sewage-works", "effluent_total_n", 15, "GB 18918-2002", "D"),
    Permit("sewage-works", "effluent_total_p", 0.5, "GB 18918-2002", "B"),
    Permit("sewage-works", "effluent_ph", 9, "GB 18918-2002", "D", low=6),
    Permit("brewery", "effluent_cod", 80, "GB 19821-2005", "B"),
    Permit("brewery", "effluent_ammonia_n", 15, "GB 19821-2005", "B"),
    Permit("brewery", "effluent_total_p", 3, "GB 19821-2005", "D"),
    Permit("brewery", "effluent_ph", 9, "GB 19821-2005", "D", low=6),
)
PERMITS: Final = {(row.plant, row.quantity): row for row in _ROWS}
"""The limits by kind of plant and quantity; what has no row has no limit."""
