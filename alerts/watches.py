"""Which leaves watch each series, the life of each watch, and what numbers would change it."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from alerts.gates import Life, normal, quiet_band
from alerts.rules import Leaf

_FIRST_CAPACITY: Final = 1024


class _Alike(msgspec.Struct, frozen=True):
    """Leaves that watch the same series, and the band of values that change nothing in any."""

    leaves: tuple[Leaf, ...]
    names: frozenset[str]
    low: float
    high: float


class Watches:
    """The state of every watch, by series number.

    `low` and `high` are the band of values that change nothing, the intersection over the watches
    of a series. A life that is normal takes no memory.
    """

    def __init__(self) -> None:
        self.low = np.empty(0)
        self.high = np.empty(0)
        self._leaves: list[tuple[Leaf, ...]] = []
        self._alike: dict[tuple[str, ...], _Alike] = {}
        self._lives: dict[tuple[int, str], Life] = {}

    def __contains__(self, series: int) -> bool:
        return bool(self.leaves(series))

    def reserve(self, count: int) -> None:
        """Make room for `count` series; those that nothing watches are quiet."""
        if count > len(self.low):
            more = max(count, 2 * len(self.low), _FIRST_CAPACITY) - len(self.low)
            self._leaves += more * [()]
            self.low = np.concatenate((self.low, np.full(more, -np.inf)))
            self.high = np.concatenate((self.high, np.full(more, np.inf)))

    def bind(self, series: int, leaves: tuple[Leaf, ...]) -> list[Leaf]:
        """Let these leaves watch a series; returns those whose open watch is ended by that."""
        alike = self._shared(leaves)
        kept, before = alike.names, self.leaves(series)
        gone = [leaf for leaf in before if leaf.id not in kept]
        lives = ((leaf, self._lives.pop((series, leaf.id), None)) for leaf in gone)
        ended = [leaf for leaf, life in lives if life is not None and life.open]
        if leaves:
            self.reserve(series + 1)
            self._leaves[series] = alike.leaves
        elif series < len(self._leaves):
            self._leaves[series] = ()
        if series >= len(self.low):
            return ended
        if before and self._lives:
            self._set_band(series)
        else:
            self.low[series], self.high[series] = alike.low, alike.high
        return ended

    def leaves(self, series: int) -> tuple[Leaf, ...]:
        """The leaves that watch a series."""
        return self._leaves[series] if series < len(self._leaves) else ()

    def life(self, series: int, leaf: Leaf) -> Life:
        """The life of one watch."""
        return self._lives.get((series, leaf.id)) or normal(leaf.watch)

    def set_life(self, series: int, leaf: Leaf, life: Life) -> None:
        """Remember the life of one watch and what would change it."""
        if life.is_normal:
            self._lives.pop((series, leaf.id), None)
        else:
            self._lives[series, leaf.id] = life
        self._set_band(series)

    def noisy(
        self, series: NDArray[np.int64], value: NDArray[np.float64]
    ) -> NDArray[np.int64] | None:
        """The positions of the numbers of all series of which one leaves its band; None: none."""
        quiet = (value >= self.low.take(series)) & (value <= self.high.take(series))
        if quiet.all():
            return None
        return np.flatnonzero(np.isin(series, series[~quiet]))

    def capture(self) -> list[Any]:
        """Every life that is not normal: series number, leaf, life."""
        return [[series, leaf, life] for (series, leaf), life in self._lives.items()]

    def restore(self, state: list[Any]) -> None:
        """Take up the lives of watches that are still what they were."""
        for series, leaf_id, content in state:
            life = msgspec.convert(content, Life)
            for leaf in self.leaves(series):
                if leaf.id == leaf_id and len(life.gates) == len(leaf.watch.bounds):
                    self.set_life(series, leaf, life)

    def open(self) -> Iterator[tuple[int, str]]:
        """Series number and leaf of every watch that stands."""
        return (key for key, life in self._lives.items() if life.open)

    def _shared(self, leaves: tuple[Leaf, ...]) -> _Alike:
        """The same leaves as one object for all series that they watch."""
        names = tuple([leaf.id for leaf in leaves])
        alike = self._alike.get(names)
        if alike is None or alike.leaves != leaves:
            bands = [quiet_band(leaf.watch, normal(leaf.watch)) for leaf in leaves]
            low = max((low for low, _ in bands), default=-np.inf)
            high = min((high for _, high in bands), default=np.inf)
            alike = self._alike[names] = _Alike(leaves, frozenset(names), low, high)
        return alike

    def _set_band(self, series: int) -> None:
        low, high = -np.inf, np.inf
        for leaf in self._leaves[series]:
            its_low, its_high = quiet_band(leaf.watch, self.life(series, leaf))
            low, high = max(low, its_low), min(high, its_high)
        self.low[series], self.high[series] = low, high
