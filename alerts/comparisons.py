"""Two signals compared: the quotient or the difference of their numbers of one instant.

Both sides are derived numbers, maybe of two devices; whichever comes second completes the result.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from alerts.hours import NEVER, Slots
from alerts.signals import NOTHING, Derived, derived

HELD: Final = 8
"""So many numbers of either side wait for the other's."""

_LEFT, _RIGHT = 0, 1


class CompareOperator:
    """Quotients and differences, one per link.

    A number is combined with the newest of the other side's held numbers that is of the same
    instant. A quotient by 0 is NaN, and so is what is made of NaN.
    """

    def __init__(self) -> None:
        held = np.full((2, HELD), NEVER, dtype=np.int64)
        self._links = Slots(
            {"ts": held, "value": np.full((2, HELD), np.nan)},
            {"sides": np.zeros(2, dtype=np.int64), "quotient": np.array(False),
             "out": np.array(0, dtype=np.int64)},
        )  # fmt: skip
        self._of: dict[int, tuple[int, int, bool]] = {}
        self._ends: _Ends | None = None

    def link(self, left: int, right: int, out: int, quotient: bool) -> None:  # noqa: FBT001 - which of the two it is
        """Compare the numbers `left` with `right`, as `out`; a link of the same `out` is replaced."""
        if self._of.get(out) == (left, right, quotient):
            return
        self.unlink(out)
        self._of[out] = (left, right, quotient)
        slot = self._links.add(out)
        self._links["sides"][slot] = left, right
        self._links["quotient"][slot] = quotient
        self._links["out"][slot] = out
        self._ends = None

    def unlink(self, out: int) -> None:
        """Make `out` no more, if it is made."""
        self._of.pop(out, None)
        self._links.remove(out)
        self._ends = None

    def take(self, numbers: Derived) -> Derived:
        """What the numbers complete, at the rows of those that came second."""
        if not self._of or not len(numbers):
            return NOTHING
        at, link, side = self._arrivals(numbers)
        nth = _rank(link)
        made = []
        for one in range(int(nth.max(initial=-1)) + 1):
            mine = nth == one
            made.append(self._enter(numbers, at[mine], link[mine], side[mine]))
        some = [each for each in made if len(each)]
        if not some:
            return NOTHING
        columns = zip(*map(msgspec.structs.astuple, some), strict=True)
        row, out, ts, value = (np.concatenate(column) for column in columns)
        order = np.lexsort((out, row))
        return derived(row[order], out[order], ts[order], value[order])

    def capture(self) -> Mapping[str, Any]:
        """A copy of the state, by output."""
        return self._links.capture()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a captured state; the links are there already."""
        self._links.restore(state)

    def _arrivals(
        self, numbers: Derived
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Every number with every link that it is a side of: place, link, side; by link and place."""
        if self._ends is None:
            self._ends = _ends(self._links, self._of)
        ends = self._ends
        begin = np.searchsorted(ends.series, numbers.series, side="left")
        count = np.searchsorted(ends.series, numbers.series, side="right") - begin
        at = np.repeat(np.arange(len(numbers)), count)
        within = np.arange(len(at)) - np.repeat(np.cumsum(count) - count, count)
        end = np.repeat(begin, count) + within
        link, side = ends.link[end], ends.side[end]
        order = np.argsort(link, kind="stable")
        return at[order], link[order], side[order]

    def _enter(
        self,
        numbers: Derived,
        at: NDArray[np.int64],
        link: NDArray[np.int64],
        side: NDArray[np.int64],
    ) -> Derived:
        """Hold a number of each of these links, no two of them equal, and combine it."""
        held_ts, held = self._links["ts"], self._links["value"]
        ts, value = numbers.ts[at], numbers.value[at]
        same = held_ts[link, 1 - side] == ts[:, np.newaxis]
        hit, newest = same.any(axis=1), same.argmax(axis=1)
        for column, new in ((held_ts, ts), (held, value)):
            column[link, side, 1:] = column[link, side, :-1]
            column[link, side, 0] = new
        other = held[link, 1 - side, newest][hit]
        own, left = value[hit], side[hit] == _LEFT
        made = _combined(
            np.where(left, own, other),
            np.where(left, other, own),
            self._links["quotient"][link[hit]],
        )
        return Derived(numbers.row[at[hit]], self._links["out"][link[hit]], ts[hit], made)


class _Ends(msgspec.Struct, frozen=True):
    """Both ends of all links, ordered by series."""

    series: NDArray[np.int64]
    link: NDArray[np.int64]
    side: NDArray[np.int64]


def _ends(links: Slots, of: Mapping[int, tuple[int, int, bool]]) -> _Ends:
    slot = links.find(np.array(sorted(of), dtype=np.int64))
    series = links["sides"][slot].ravel()
    order = np.argsort(series, kind="stable")
    side = np.tile(np.array([_LEFT, _RIGHT], dtype=np.int64), len(slot))
    return _Ends(series[order], np.repeat(slot, 2)[order], side[order])


def _rank(link: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each number among those of its link; `link` ascends."""
    index = np.arange(len(link))
    first = np.ones(len(link), dtype=np.bool_)
    first[1:] = link[1:] != link[:-1]
    return index - np.maximum.accumulate(np.where(first, index, 0))


def _combined(
    left: NDArray[np.float64], right: NDArray[np.float64], quotient: NDArray[np.bool_]
) -> NDArray[np.float64]:
    divided = np.full(len(left), np.nan)
    np.divide(left, right, out=divided, where=right != 0)
    return np.where(quotient, divided, left - right)
