"""How the city's time runs while a test runs: a course of legs, each with an even or sloping pace.

The wall and the city's clock are both in milliseconds. On a leg the pace is a straight line over
time, so the city's clock is a parabola there: both directions are computed exactly, and alike in
every process. Inside, both clocks count from the beginning of the test, which keeps a day of
orders exact to less than a microsecond.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from math import inf
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from load.plan import LoadPlan, Order

NEVER_MS: Final = 2.0**62
"""Later than any instant, and still a whole number of milliseconds."""

_FIRST_ROOM: Final = 64


class Leg(msgspec.Struct, frozen=True):
    """What the plan wants from `from_ms` after the beginning on: a pace and its rise per ms."""

    from_ms: int
    pace: float
    slope: float = 0.0

    def at(self, since_ms: float) -> float:
        """The pace at an instant on this leg."""
        return max(0.0, self.pace + self.slope * (since_ms - self.from_ms))


class Pace:
    """The city's time by the wall's, and back.

    Before the beginning the city's clock stands; after the end it goes on at the last pace. An
    order costs what it changes: what lies before its instant is kept. Of two factors for the same
    instant the lower one holds, so that orders may come in whichever order, and more than once.
    """

    def __init__(self, plan: LoadPlan, start_ms: int) -> None:
        """`start_ms` is the instant on the wall at which the ramp begins; it runs at pace 1."""
        self._start_ms = start_ms
        self._city_start_ms = plan.city_start_ms
        self._legs = tuple(_legs(plan))
        self._leg_begins = [leg.from_ms for leg in self._legs]
        self._factors: list[tuple[int, float]] = []
        self._stop_ms: int | None = None
        self._count = 0
        self._walls, self._cities, self._paces, self._slopes = np.full((4, _FIRST_ROOM), inf)
        self._draw(0)

    @property
    def end_ms(self) -> int:
        """The instant on the wall at which the last phase ends, or at which a stop was ordered."""
        planned = self._start_ms + self._legs[-1].from_ms
        return planned if self._stop_ms is None else min(planned, self._stop_ms)

    def turn_after(self, wall_ms: int) -> float:
        """The next instant on the wall at which a phase begins or the last one ends; else infinity."""
        place = bisect_right(self._leg_begins, max(0, wall_ms - self._start_ms))
        if wall_ms >= self.end_ms or place == len(self._leg_begins):
            return inf
        return min(self._start_ms + self._leg_begins[place], self.end_ms)

    def follow(self, orders: Iterable[Order]) -> None:
        """Bend as ordered; what lies before an order's instant stays as it was."""
        changed_ms: int | None = None
        for order in orders:
            if order.factor is not None:
                since_ms = order.at_ms - self._start_ms
                if self._noted(since_ms, order.factor):
                    changed_ms = since_ms if changed_ms is None else min(changed_ms, since_ms)
            if order.stop:
                earlier_ms = order.at_ms if self._stop_ms is None else self._stop_ms
                self._stop_ms = min(order.at_ms, earlier_ms)
        if changed_ms is not None:
            self._draw(max(0, changed_ms))

    def pace_at(self, wall_ms: float) -> float:
        """City seconds per second at that instant."""
        since_ms = max(0.0, wall_ms - self._start_ms)
        index = self._index(since_ms)
        along_ms = since_ms - float(self._walls[index])
        return max(0.0, float(self._paces[index]) + float(self._slopes[index]) * along_ms)

    def city_ms(self, wall_ms: float) -> float:
        """What the city's clock shows at an instant on the wall."""
        since_ms = max(0.0, wall_ms - self._start_ms)
        return self._city_start_ms + self._shown(self._index(since_ms), since_ms)

    def wall_ms(self, city_ms: NDArray[np.int64]) -> NDArray[np.float64]:
        """When the city's clock first shows these instants, shape (n,).

        `NEVER_MS` for instants that it never shows, as far as is ordered: those after a pause that
        has no end.
        """
        wanted = (city_ms - self._city_start_ms).astype(np.float64)
        cities = self._cities[: self._count]
        index = np.maximum(np.searchsorted(cities, wanted, side="left") - 1, 0)
        walls, paces = self._walls[index], self._paces[index]
        ahead = np.maximum(wanted - cities[index], 0.0)
        along = _along_ms(ahead, paces, self._slopes[index])
        due: NDArray[np.float64] = np.minimum(walls + along, self._walls[index + 1])
        return np.minimum(self._start_ms + due, NEVER_MS)

    def _noted(self, since_ms: int, factor: float) -> bool:
        """Keep a factor; whether it is a new one."""
        row = (since_ms, -factor)
        place = bisect_left(self._factors, row)
        if self._factors[place : place + 1] == [row]:
            return False
        self._factors.insert(place, row)
        return True

    def _shown(self, index: int, since_ms: float) -> float:
        """The city's clock since the beginning, on one stretch, never beyond its end."""
        along_ms = since_ms - float(self._walls[index])
        pace, slope = float(self._paces[index]), float(self._slopes[index])
        shown = float(self._cities[index]) + along_ms * (pace + slope * along_ms / 2)
        return min(max(shown, float(self._cities[index])), float(self._cities[index + 1]))

    def _index(self, since_ms: float) -> int:
        return max(0, int(np.searchsorted(self._walls[: self._count], since_ms, "right")) - 1)

    def _draw(self, from_ms: int) -> None:
        """Every stretch from an instant on, anew; those that begin before it are kept."""
        self._count = int(np.searchsorted(self._walls[: self._count], from_ms, "left"))
        begins = {at_ms for at_ms in self._leg_begins if at_ms >= from_ms}
        place = bisect_right(self._factors, (from_ms, -inf))
        begins.update(at_ms for at_ms, _ in self._factors[place:])
        if self._count + len(begins) >= len(self._walls):
            self._make_room(2 * (self._count + len(begins)))
        for at_ms in sorted(begins):
            self._begin(at_ms)
        self._walls[self._count] = self._cities[self._count] = inf

    def _begin(self, at_ms: int) -> None:
        """Add the stretch that begins at an instant; the one before it ends there."""
        last = self._count - 1
        self._cities[self._count] = inf
        city_ms = self._shown(last, at_ms) if last >= 0 else 0.0
        leg = self._legs[bisect_right(self._leg_begins, at_ms) - 1]
        factor = self._factor(at_ms)
        self._walls[self._count] = at_ms
        self._cities[self._count] = city_ms
        self._paces[self._count] = factor * leg.at(at_ms)
        self._slopes[self._count] = factor * leg.slope
        self._count += 1

    def _factor(self, at_ms: int) -> float:
        """What is ordered at that instant: the last row, and so the lowest of one instant."""
        place = bisect_right(self._factors, (at_ms, inf))
        return -self._factors[place - 1][1] if place else 1.0

    def _make_room(self, room: int) -> None:
        """Longer arrays, with what they hold."""
        kept = self._count
        made = np.full((4, room), inf)
        old = (self._walls, self._cities, self._paces, self._slopes)
        made[:, :kept] = [row[:kept] for row in old]
        self._walls, self._cities, self._paces, self._slopes = made


def _legs(plan: LoadPlan) -> Iterator[Leg]:
    """The ramp, the phases, and what comes after them."""
    yield Leg(0, 1.0)
    begins_s, pace = plan.ramp_s, 1.0
    for phase in plan.phases:
        begins_ms, ends_ms = round(begins_s * 1000), round((begins_s + phase.for_s) * 1000)
        pace = phase.pace if phase.to_pace is None else phase.to_pace
        if ends_ms > begins_ms:
            yield Leg(begins_ms, phase.pace, (pace - phase.pace) / (ends_ms - begins_ms))
        begins_s += phase.for_s
    yield Leg(round(begins_s * 1000), pace)


def _along_ms(
    ahead_ms: NDArray[np.float64], paces: NDArray[np.float64], slopes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How long the city's clock needs for a way, at paces that rise by slopes per millisecond.

    The root of `pace t + slope t² / 2 = way` in the form that loses no digits at small slopes;
    infinity where it stands.
    """
    final = np.sqrt(np.maximum(paces**2 + 2 * slopes * ahead_ms, 0.0))
    divisor = paces + final
    never = np.where(ahead_ms > 0, inf, 0.0)
    return np.divide(2 * ahead_ms, divisor, out=never, where=divisor > 0)
