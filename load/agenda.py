"""What is due when: the city's samples as messages, in the order of their instants on the wall."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from load.joining import Joined
from load.pace import Pace
from load.plan import LoadPlan
from load.storm import AlarmStorms
from sensors.engine import CityEngine
from sensors.fleet import said
from sensors.sampler import Frame

AHEAD_MS: Final = (20.0, 100.0)
"""So much of the wall's time is asked of the engine at once, at least and at most."""

_AT_ONCE: Final = 500
"""Samples that are asked for at once, within these bounds: asking holds up what is due."""

_CATCH_UP: Final = 5
"""So many times as much where the engine is behind the wall."""
_NEVER_MS: Final = 2**62

Values = dict[str, float]
Flags = dict[str, str] | None


class Due(msgspec.Struct, frozen=True, eq=False):
    """Samples in the order in which they are due, lists of n.

    `due_ms` is their instant on the wall; `devices` count the shard's, group by group.
    """

    due_ms: list[int]
    devices: list[int]
    seqs: list[int]
    values: list[Values]
    flags: list[Flags]


class _Chunk(msgspec.Struct, eq=False):
    """Samples of a span of city time in the order in which they are taken, n of them.

    What is handed out message by message is in lists, which are quicker to cut than arrays.
    """

    city_ms: NDArray[np.int64]
    due_ms: list[int]
    devices: list[int]
    seqs: list[int]
    values: list[Values]
    flags: list[Flags]
    taken: int = 0


class _Known(msgspec.Struct, frozen=True, eq=False):
    """The samples of a frame with their devices and numbers, arrays and lists of n."""

    city_ms: NDArray[np.int64]
    devices: NDArray[np.int64]
    seqs: NDArray[np.int64]
    values: list[Values]
    flags: list[Flags]


class Agenda:
    """Asks the engine a little ahead, and hands out what has become due."""

    def __init__(
        self,
        plan: LoadPlan,
        engine: CityEngine,
        pace: Pace,
        joined: Sequence[Joined],
        *,
        start_ms: int,
        since_ms: int,
    ) -> None:
        """What was due up to `since_ms`, an instant on the wall, is left out."""
        self._engine = engine
        self._pace = pace
        sizes = [len(group.devices) for group in engine.groups]
        firsts = list(accumulate(sizes, initial=0))[: len(sizes)]
        self._places = {
            id(group): (own, first)
            for group, own, first in zip(engine.groups, joined, firsts, strict=True)
        }
        self._storms = AlarmStorms(plan, start_ms)
        none = np.empty(0, dtype=np.int64)  # of few devices, a shard may have none
        self._index = np.concatenate([none, *(own.index for own in joined)])
        self._since_ms = since_ms
        per_ms = sum(sizes) / plan.interval_s / 1000
        self._ahead_ms = min(max(_AT_ONCE / max(per_ms, 1e-9), AHEAD_MS[0]), AHEAD_MS[1])
        self._asked_ms = max(plan.city_start_ms, int(pace.city_ms(since_ms)) - 1)
        self._chunk = self._ask(self._asked_ms)

    def bent(self) -> None:
        """The pace was bent: what is ahead becomes due at other instants."""
        self._chunk.due_ms = self._on_wall(self._chunk.city_ms).tolist()

    def next_ms(self) -> int | None:
        """When the next sample is due; None while that is not known."""
        chunk = self._chunk
        return chunk.due_ms[chunk.taken] if chunk.taken < len(chunk.due_ms) else None

    def take(self, now_ms: int, most: int) -> Due | None:
        """The next samples that were due up to that instant, at most so many; None: no more."""
        while self._chunk.taken == len(self._chunk.due_ms):
            if not self._ask_ahead(now_ms):
                return None
        chunk, first = self._chunk, self._chunk.taken
        if chunk.due_ms[first] > now_ms:
            return None
        stop = min(bisect_right(chunk.due_ms, now_ms, first), first + most)
        chunk.taken = stop
        due = Due(
            chunk.due_ms[first:stop],
            chunk.devices[first:stop],
            chunk.seqs[first:stop],
            chunk.values[first:stop],
            chunk.flags[first:stop],
        )
        if self._storms:
            index = self._index[due.devices]
            self._storms.touch(np.array(due.due_ms), index, due.values, due.flags)
        return due

    def _ask_ahead(self, now_ms: int) -> bool:
        """Ask the engine for more, if it is time to; whether it was."""
        here_ms = self._pace.city_ms(now_ms)
        ahead_ms = self._pace.pace_at(now_ms) * self._ahead_ms
        if self._asked_ms > here_ms + ahead_ms / 2:
            return False
        until_ms = min(
            here_ms + ahead_ms, self._asked_ms + _CATCH_UP * max(ahead_ms, self._ahead_ms)
        )
        self._chunk = self._ask(int(until_ms) + 1)
        return True

    def _ask(self, until_ms: int) -> _Chunk:
        """All samples from what was asked before to before `until_ms`, on the city's clock."""
        frames = [self._known(f) for f in self._engine.frames(self._asked_ms, until_ms)]
        self._asked_ms = until_ms
        if not frames:
            return _Chunk(np.empty(0, dtype=np.int64), [], [], [], [], [])
        city_ms = np.concatenate([frame.city_ms for frame in frames])
        devices = np.concatenate([frame.devices for frame in frames])
        seqs = np.concatenate([frame.seqs for frame in frames])
        due_ms = self._on_wall(city_ms)
        wanted = np.flatnonzero((seqs >= 0) & (due_ms > self._since_ms))
        order = wanted[np.argsort(city_ms[wanted], kind="stable")]
        values = [one for frame in frames for one in frame.values]
        flags = [one for frame in frames for one in frame.flags]
        places = order.tolist()
        return _Chunk(
            city_ms[order],
            due_ms[order].tolist(),
            devices[order].tolist(),
            seqs[order].tolist(),
            [values[place] for place in places],
            [flags[place] for place in places],
        )

    def _known(self, frame: Frame) -> _Known:
        own, first = self._places[id(frame.group)]
        values, flags = said(frame)
        return _Known(
            frame.ts, frame.rows + first, own.seqs(frame.rows, frame.ts), values, flags
        )  # fmt: skip

    def _on_wall(self, city_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """When those are due, shape (n,); never, when the test ends before."""
        due_ms = np.rint(self._pace.wall_ms(city_ms)).astype(np.int64)
        due_ms[due_ms >= self._pace.end_ms] = _NEVER_MS
        return due_ms
