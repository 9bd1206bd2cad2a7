"""Devices that have fallen silent: nothing heard for longer than their own interval explains.

Time is what the devices of the city say it is (see `citytime`). So a city whose broker is away is
not full of silent devices, and a replay finds the same.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from alerts.signals import NOTHING, Derived, derived

_NEVER: Final = np.iinfo(np.int64).min
_FAR: Final = np.iinfo(np.int64).max
_FIRST_CAPACITY: Final = 256


class SilenceOperator:
    """Seconds of silence per device: the length at which it counts, then 0 when it is over.

    A device is silent once the city's time passes the newest instant heard from it by more than
    so many of its own intervals, at least `least_ms`, and by `late_ms` more, which allows for
    messages that overtake one another; the silence is dated without that allowance.
    """

    def __init__(self, intervals: float, least_ms: int, *, late_ms: int = 0) -> None:
        self.late_ms = late_ms
        self._intervals = intervals
        self._least_ms = least_ms
        self._count = 0
        self._out = np.empty(0, dtype=np.int64)
        self._limit_ms = np.empty(0, dtype=np.int64)
        self._last = np.empty(0, dtype=np.int64)
        self._silent = np.empty(0, dtype=np.bool_)
        self._now = int(_NEVER)
        self._next_due = int(_NEVER)

    def include(self, device: int, out: int, interval_ms: int) -> None:
        """Watch a device, by its number, as `out`; again: with another interval."""
        if device >= len(self._out):
            self._grow(max(device + 1, 2 * len(self._out), _FIRST_CAPACITY))
        self._count = max(self._count, device + 1)
        self._out[device] = out
        self._limit_ms[device] = max(self._least_ms, round(self._intervals * interval_ms))
        self._next_due = int(_NEVER)

    def exclude(self, device: int) -> None:
        """Watch a device no more."""
        if device < len(self._out):
            self._out[device] = -1
            self._last[device], self._silent[device] = _NEVER, False

    def take(
        self,
        row: NDArray[np.int64],
        device: NDArray[np.int64],
        ts: NDArray[np.int64],
        reached: NDArray[np.int64],
    ) -> Derived:
        """Hear the devices, in the order of the rows; `reached` is the city's time after each."""
        if not len(row):
            return NOTHING
        if int(device.max()) >= len(self._out):
            self._grow(max(int(device.max()) + 1, 2 * len(self._out), _FIRST_CAPACITY))
        self._now = int(reached[-1])
        calm = self._now - self.late_ms <= self._next_due and not self._silent.take(device).any()
        if calm and not (self._last.take(device) == _NEVER).any():
            np.maximum.at(self._last, device, ts)
            return NOTHING
        return self._followed(row, device, ts, reached - self.late_ms)

    def advance(self, now: int) -> Derived:
        """Let the city's time be `now` if it is not later already."""
        self._now = max(self._now, now)
        if self._now - self.late_ms <= self._next_due:
            return NOTHING
        nobody = np.empty(0, dtype=np.int64)
        reached = np.array([self._now - self.late_ms], dtype=np.int64)
        return self._followed(np.zeros(1, dtype=np.int64), nobody, nobody, reached)

    def is_silent(self, device: int) -> bool:
        """Whether nothing is heard from the device any more."""
        return device < len(self._silent) and bool(self._silent[device])

    def capture(self) -> Mapping[str, Any]:
        """When each device was last heard, by its number, and who is silent."""
        return {
            "now": self._now,
            "last": self._last[: self._count].copy(),
            "silent": self._silent[: self._count].copy(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        last = np.asarray(state["last"], dtype=np.int64)
        if len(last) > len(self._out):
            self._grow(len(last))
        self._count = max(self._count, len(last))
        known = self._out[: len(last)] >= 0
        self._last[: len(last)] = np.where(known, last, _NEVER)
        self._silent[: len(last)] = known & np.asarray(state["silent"], dtype=np.bool_)
        self._now, self._next_due = int(state["now"]), int(_NEVER)

    def _followed(
        self,
        row: NDArray[np.int64],
        device: NDArray[np.int64],
        ts: NDArray[np.int64],
        reached: NDArray[np.int64],
    ) -> Derived:
        """The same where somebody is silent or may be; `reached` is the city's time at each row."""
        found: list[tuple[int, int, int, float]] = []
        waiting = (self._last > _NEVER) & ~self._silent & (self._out >= 0)
        overdue = waiting & (self._last < reached[-1] - self._limit_ms)
        suspects = overdue | self._silent
        fresh = self._last.take(device) == _NEVER
        fresh &= ts < reached[-1] - self._limit_ms.take(device)
        suspects[device[fresh]] = self._out[device[fresh]] >= 0
        here = suspects.take(device) if len(device) else np.empty(0, dtype=np.bool_)
        np.maximum.at(self._last, device[~here], ts[~here])
        rows_of: dict[int, list[int]] = {}
        for position in np.flatnonzero(here).tolist():
            rows_of.setdefault(int(device[position]), []).append(position)
        for suspect in np.flatnonzero(suspects).tolist():
            found += self._trace(suspect, rows_of.get(suspect, []), row, ts, reached)
        self._next_due = self._earliest()
        if not found:
            return NOTHING
        columns = np.array([entry[:3] for entry in found], dtype=np.int64)
        values = np.array([entry[3] for entry in found])
        return derived(columns[:, 0], columns[:, 1], columns[:, 2], values)

    def _trace(
        self,
        device: int,
        own: list[int],
        row: NDArray[np.int64],
        ts: NDArray[np.int64],
        reached: NDArray[np.int64],
    ) -> list[tuple[int, int, int, float]]:
        """Row, output, instant and seconds of each change at one device."""
        found: list[tuple[int, int, int, float]] = []
        out, limit_ms = int(self._out[device]), int(self._limit_ms[device])
        last, silent = int(self._last[device]), bool(self._silent[device])
        for position in (*own, len(reached)):
            due = last + limit_ms
            passed = int(np.searchsorted(reached, due, side="right"))
            if not silent and last > _NEVER and passed < position:
                found.append((int(row[passed]), out, due, limit_ms / 1000))
                silent = True
            if position < len(reached):
                last = max(last, int(ts[position]))
                if silent:
                    found.append((int(row[position]), out, last, 0.0))
                    silent = False
        self._last[device], self._silent[device] = last, silent
        return found

    def _earliest(self) -> int:
        """A time up to which nobody more falls silent: last heard only ever grows."""
        waiting = (self._last > _NEVER) & ~self._silent & (self._out >= 0)
        if not waiting.any():
            return int(_FAR) if not (self._out >= 0).any() else int(_NEVER)
        return int((self._last[waiting] + self._limit_ms[waiting]).min())

    def _grow(self, capacity: int) -> None:
        more = capacity - len(self._out)
        self._out = np.concatenate((self._out, np.full(more, -1)))
        self._limit_ms = np.concatenate((self._limit_ms, np.zeros(more, dtype=np.int64)))
        self._last = np.concatenate((self._last, np.full(more, _NEVER)))
        self._silent = np.concatenate((self._silent, np.zeros(more, dtype=np.bool_)))
