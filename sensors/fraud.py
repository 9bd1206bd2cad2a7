"""Fraud: what somebody makes an emission monitor show.

Air that leaks into a stack's sample and tubes that hang in clean water change what reaches the
sensor; constants, caps, factors and false oxygen change what it says. Concentrations corrected for
oxygen follow from what is shown: diluted samples look the same after correction, as they should.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sensors.events import Spells, Tile
from sensors.fields import Group
from sensors.fluegas import O2_AIR_PERCENT, O2_FORMULA_PERCENT, reference_o2_percent
from sensors.permits import PERMITS

AMBIENT_C: Final = 15.0
"""Air that leaks in has about this temperature."""
AMBIENT_HUMIDITY_PERCENT: Final = 1.5
"""And about this share of water by volume."""

CLEAN_WATER: Final = {
    "effluent_cod": 1.0,
    "effluent_ammonia_n": 0.02,
    "effluent_total_p": 0.004,
    "effluent_total_n": 0.15,
}
"""Concentrations in clean water as multiples of its COD (engineering default)."""

_AIR: Final = {
    "stack_pm": 0.0,
    "stack_so2": 0.0,
    "stack_nox": 0.0,
    "stack_o2": O2_AIR_PERCENT,
    "flue_temperature": AMBIENT_C,
    "flue_humidity": AMBIENT_HUMIDITY_PERCENT,
}
"""What an analyser would show of ambient air alone."""


class Frauds:
    """What frauds do to the monitors of one group."""

    def __init__(self, group: Group) -> None:
        self._air = np.array([_AIR.get(name, 0.0) for name in group.quantities])
        self._clean = np.array([CLEAN_WATER.get(name, 0.0) for name in group.quantities])
        self._limits, self._at_reference = _limits(group)
        self._o2 = group.quantities.index("stack_o2") if "stack_o2" in group.quantities else None
        self._o2_ref = reference_o2_percent(group)

    def taint(self, answer: NDArray[np.float64], tile: Tile, spells: Mapping[str, Spells]) -> None:
        """Let the sensor see another sample: `answer`, shape (m, q), changes in place.

        With the share f of air C becomes C*(1-f) and O2 becomes O2*(1-f) + 20.9*f.
        """
        if "air-dilution" in spells:
            own = spells["air-dilution"]
            samples, spell, columns = tile.cells(own)
            share = own.params[spell, 0]
            answer[samples, columns] *= 1.0 - share
            answer[samples, columns] += share * self._air[columns]
        if "sample-swap" in spells:
            own = spells["sample-swap"]
            samples, spell, columns = tile.cells(own)
            answer[samples, columns] = own.params[spell, 0] * self._clean[columns]

    def falsify(
        self,
        values: NDArray[np.float64],
        noise: NDArray[np.float64],
        tile: Tile,
        spells: Mapping[str, Spells],
    ) -> None:
        """Change what the instrument says: `values`, shape (m, q), in place.

        Oxygen first: limits are held by the corrected values that follow from the oxygen shown.
        """
        if "o2-fake" in spells:
            own = spells["o2-fake"]
            samples, spell, columns = tile.cells(own)
            values[samples, columns] = own.params[spell, 0] + 0.03 * noise[samples, columns]
        if "scale" in spells:
            own = spells["scale"]
            samples, spell, columns = tile.cells(own)
            values[samples, columns] *= own.params[spell, 0]
        if "cap" in spells:
            own = spells["cap"]
            samples, spell, columns = tile.cells(own)
            top = own.params[spell, 0] * self._limit(values, tile, samples, columns)
            values[samples, columns] = np.fmin(values[samples, columns], top)
        if "constant" in spells:
            own = spells["constant"]
            samples, spell, columns = tile.cells(own)
            level = own.params[spell, 0] * self._limit(values, tile, samples, columns)
            level *= 1.0 + own.params[spell, 1] * noise[samples, columns]
            shown = values[samples, columns]
            values[samples, columns] = np.where(np.isnan(level), shown, level)

    def _limit(
        self,
        values: NDArray[np.float64],
        tile: Tile,
        samples: NDArray[np.int64],
        columns: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """The limits as raw values at the oxygen shown, shape (c,); NaN where there is none."""
        rows = tile.rows[samples]
        limit = self._limits[rows, columns]
        if self._o2 is None:
            return limit
        ref = self._o2_ref[rows]
        o2 = np.minimum(values[samples, self._o2], O2_AIR_PERCENT)
        diluted = (O2_FORMULA_PERCENT - o2) / (O2_FORMULA_PERCENT - ref)
        corrects = self._at_reference[columns] & ~np.isnan(ref)
        return limit * np.where(corrects, diluted, 1.0)


def _limits(group: Group) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Every device's limits, shape (n, q), NaN for none, and which hold for corrected values."""
    limits = np.full((len(group.devices), len(group.quantities)), np.nan)
    at_reference = np.zeros(len(group.quantities), dtype=np.bool_)
    for column, name in enumerate(group.quantities):
        at_reference[column] = f"{name}_corrected" in group.quantities
        limited = f"{name}_corrected" if at_reference[column] else name
        for row, device in enumerate(group.devices):
            permit = PERMITS.get((device.plant.id, limited)) if device.plant else None
            limits[row, column] = permit.high if permit else np.nan
    return limits, at_reference
