"""Storms: phases in which a share of the devices is in alarm, or loses its connection."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from city.quantities import QUANTITIES
from load.lots import lots
from load.plan import LoadPlan, Phase

_SHOWN: Final = 0.95
"""A device in alarm shows this much of the way from the lowest to the highest value."""

ALARMING: Final = {
    name: round(row.low + _SHOWN * (row.high - row.low), row.decimals)
    for name, row in QUANTITIES.items()
}
"""What a device in alarm shows, by quantity, in its canonical unit."""


def beginnings(plan: LoadPlan, start_ms: int) -> list[tuple[int, Phase]]:
    """When each phase begins, on the wall."""
    begun, at_ms = [], start_ms + round(plan.ramp_s * 1000)
    for phase in plan.phases:
        begun.append((at_ms, phase))
        at_ms += round(phase.for_s * 1000)
    return begun


class AlarmStorms:
    """The phases of a plan with alarms."""

    def __init__(self, plan: LoadPlan, start_ms: int) -> None:
        self._seed = plan.seed
        self._spans = [
            (at_ms, at_ms + round(phase.for_s * 1000), phase.alarms)
            for at_ms, phase in beginnings(plan, start_ms)
            if phase.alarms > 0
        ]

    def __bool__(self) -> bool:
        return bool(self._spans)

    def touch(
        self,
        due_ms: NDArray[np.int64],
        index: NDArray[np.int64],
        values: list[dict[str, float]],
        flags: list[dict[str, str] | None],
    ) -> None:
        """Let the samples of devices in alarm show it, in place; lists and arrays of n, in order."""
        for from_ms, until_ms, share in self._spans:
            if due_ms[-1] < from_ms or due_ms[0] >= until_ms:
                continue
            inside = (due_ms >= from_ms) & (due_ms < until_ms)
            inside &= lots(self._seed, "alarms", index, 0) < share
            for place in np.flatnonzero(inside).tolist():
                values[place] = {name: ALARMING[name] for name in values[place]}
                flags[place] = None


class Cuts:
    """Which connections are cut when."""

    def __init__(self, plan: LoadPlan, start_ms: int) -> None:
        self._seed = plan.seed
        self._coming = [
            (at_ms, phase.drop) for at_ms, phase in beginnings(plan, start_ms) if phase.drop > 0
        ]

    def order(self, at_ms: int, share: float) -> None:
        """Cut that share then."""
        self._coming.append((at_ms, share))
        self._coming.sort()

    def skip(self, now_ms: int) -> None:
        """Forget what lies before that instant."""
        self._coming = [cut for cut in self._coming if cut[0] > now_ms]

    def due(self, now_ms: int) -> bool:
        """Whether connections are to be cut now."""
        return bool(self._coming) and self._coming[0][0] <= now_ms

    def take(self, index: NDArray[np.int64], now_ms: int) -> NDArray[np.int64]:
        """Places in `index` (of devices in the whole city) whose connection is to be cut now."""
        cut = np.zeros(len(index), dtype=np.bool_)
        while self._coming and self._coming[0][0] <= now_ms:
            at_ms, share = self._coming.pop(0)
            cut |= lots(self._seed, "drop", index, at_ms) < share
        return np.flatnonzero(cut)
