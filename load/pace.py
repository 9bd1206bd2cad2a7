"""How the city's time runs while a test runs: a straight line between bends.

The wall and the city's clock are both in milliseconds. Between two bends the pace is constant;
phases with a sloping pace are divided into short pieces, so that every process computes the same.
"""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from load.plan import LoadPlan, Order

PIECE_MS: Final = 200
"""A sloping pace is constant for so long."""


class Bend(msgspec.Struct, frozen=True):
    """From `wall_ms` on, where the city's clock shows `city_ms`, it runs at `pace`."""

    wall_ms: float
    city_ms: float
    pace: float


class Pace:
    """The city's time by the wall's, and back."""

    def __init__(self, plan: LoadPlan, start_ms: int) -> None:
        """`start_ms` is the instant on the wall at which the ramp begins; it runs at pace 1."""
        self._plan = plan
        self._start_ms = start_ms
        self._factors: list[tuple[int, float]] = []
        self._stop_ms: int | None = None
        self._bends: list[Bend] = []
        self._draw()

    @property
    def end_ms(self) -> int:
        """The instant on the wall at which the last phase ends."""
        planned = self._start_ms + round(self._plan.duration_s * 1000)
        return planned if self._stop_ms is None else min(planned, self._stop_ms)

    def follow(self, orders: Iterable[Order]) -> None:
        """Bend as ordered; what lies before an order's instant stays as it was."""
        for order in orders:
            if order.factor is not None:
                self._factors.append((order.at_ms, order.factor))
            if order.stop:
                self._stop_ms = min(order.at_ms, self._stop_ms or order.at_ms)
        self._factors.sort()
        self._draw()

    def pace_at(self, wall_ms: float) -> float:
        """City seconds per second at that instant."""
        return self._bends[self._index(wall_ms)].pace

    def city_ms(self, wall_ms: float) -> float:
        """What the city's clock shows at an instant on the wall."""
        bend = self._bends[self._index(wall_ms)]
        return bend.city_ms + (wall_ms - bend.wall_ms) * bend.pace

    def wall_ms(self, city_ms: NDArray[np.int64]) -> NDArray[np.float64]:
        """When the city's clock shows these instants, shape (n,); not for instants of no pace."""
        starts = np.array([bend.city_ms for bend in self._bends])
        index = np.maximum(np.searchsorted(starts, city_ms, side="right") - 1, 0)
        walls = np.array([bend.wall_ms for bend in self._bends])[index]
        paces = np.array([bend.pace for bend in self._bends])[index]
        after = (city_ms - starts[index]) / np.where(paces > 0, paces, np.inf)
        shown: NDArray[np.float64] = walls + after
        return shown

    def _index(self, wall_ms: float) -> int:
        return max(0, bisect_right(self._bends, wall_ms, key=lambda bend: bend.wall_ms) - 1)

    def _draw(self) -> None:
        """All bends, anew."""
        planned = sorted({*self._planned(), *(at_ms for at_ms, _ in self._factors)})
        self._bends = []
        city_ms, wall_ms, pace = float(self._plan.city_start_ms), float(self._start_ms), 1.0
        for at_ms in planned:
            city_ms += (at_ms - wall_ms) * pace
            wall_ms, pace = float(at_ms), self._wanted(at_ms)
            self._bends.append(Bend(wall_ms, city_ms, pace))

    def _planned(self) -> Iterable[int]:
        """Where the phases bend, on the wall."""
        yield self._start_ms
        at_ms = self._start_ms + round(self._plan.ramp_s * 1000)
        for phase in self._plan.phases:
            length_ms = round(phase.for_s * 1000)
            sloping = phase.to_pace is not None and phase.to_pace != phase.pace
            yield from range(at_ms, at_ms + length_ms, PIECE_MS if sloping else length_ms)
            at_ms += length_ms

    def _wanted(self, at_ms: int) -> float:
        """The pace from that instant on: the phase's, in the middle of its piece, as ordered."""
        factor = 1.0
        for since_ms, ordered in self._factors:
            if since_ms <= at_ms:
                factor = ordered
        return factor * self._of_phase(at_ms)

    def _of_phase(self, at_ms: int) -> float:
        begins_ms = self._start_ms + round(self._plan.ramp_s * 1000)
        if at_ms < begins_ms:
            return 1.0
        pace = 1.0
        for phase in self._plan.phases:
            length_ms = round(phase.for_s * 1000)
            last = phase.pace if phase.to_pace is None else phase.to_pace
            if at_ms < begins_ms + length_ms:
                along = (at_ms + PIECE_MS / 2 - begins_ms) / length_ms
                return phase.pace + (last - phase.pace) * min(1.0, along)
            begins_ms += length_ms
            pace = last
        return pace
