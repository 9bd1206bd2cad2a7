"""What time it is in a city, by what its devices say: no single wrong clock moves it."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LEAP_MS: Final = 60_000
"""A device alone moves the city's time on by no more at once (engineering default)."""
_NEVER: Final = int(np.iinfo(np.int64).min)
_QUORUM: Final = 4
"""One device in so many, and two at least, must be ahead before the city's time leaps."""


class CityTime:
    """The newest instant of measurement that can be believed.

    A reading that is ahead by more than `LEAP_MS` moves the time only once a quarter of the devices
    heard so far, two at least, are ahead as well: then to where that many have come.
    """

    def __init__(self) -> None:
        self.now = _NEVER
        self._known = np.zeros(0, dtype=np.bool_)
        self._ahead: dict[int, int] = {}

    def hear(self, device: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The city's time after each reading, of these devices by number, in their order."""
        before = int(self._known.sum())
        firsts = self._meet(device)
        if self.now == _NEVER:
            self.now = int(ts[0])
        leaps = ts > self.now + LEAP_MS
        if leaps.any() or self._ahead:
            looked_at = leaps | np.isin(device, [*self._ahead, *device[leaps].tolist()])
            reached = self._judged(device, ts, looked_at, before, firsts)
        else:
            reached = np.maximum.accumulate(np.maximum(ts, self.now))
        self.now = int(reached[-1])
        return reached

    def advance(self, now: int) -> None:
        """Let it be `now` if it is not later already."""
        self.now = max(self.now, now)

    def capture(self) -> dict[str, Any]:
        """The time, who is known, and who is ahead."""
        return {
            "now": self.now,
            "known": np.flatnonzero(self._known),
            "ahead": [[device, ts] for device, ts in self._ahead.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.now = int(state["now"])
        self._meet(np.asarray(state["known"], dtype=np.int64))
        self._ahead = dict(state["ahead"])

    def _meet(self, device: NDArray[np.int64]) -> NDArray[np.int64]:
        """Take note of devices; returns where each that is new is met first, ascending."""
        count = int(device.max(initial=-1)) + 1
        if count > len(self._known):
            more = max(count, 2 * len(self._known)) - len(self._known)
            self._known = np.concatenate((self._known, np.zeros(more, dtype=np.bool_)))
        new = np.flatnonzero(~self._known.take(device))
        if not len(new):
            return new
        _, first = np.unique(device[new], return_index=True)
        self._known[device] = True
        return np.sort(new[first])

    def _judged(
        self,
        device: NDArray[np.int64],
        ts: NDArray[np.int64],
        looked_at: NDArray[np.bool_],
        known: int,
        firsts: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """The same where some are ahead; `known` devices were before, at `firsts` others come."""
        plain = np.maximum.accumulate(np.maximum(np.where(looked_at, self.now, ts), self.now))
        places = np.flatnonzero(looked_at)
        met = known + np.searchsorted(firsts, places, side="right")
        leapt = np.full(len(ts), _NEVER, dtype=np.int64)
        now = self.now
        for place, count in zip(places.tolist(), met.tolist(), strict=True):
            now = max(now, int(plain[place]))
            one, instant = int(device[place]), int(ts[place])
            if count == 1 or instant <= now + LEAP_MS:
                now = max(now, instant)
                self._ahead.pop(one, None)
            else:
                self._ahead[one] = instant
                now = self._leap(now, max(2, count // _QUORUM))
            leapt[place] = now
        return np.maximum.accumulate(np.maximum(plain, leapt))

    def _leap(self, now: int, quorum: int) -> int:
        """The time, moved to where enough devices have come."""
        if len(self._ahead) < quorum:
            return now
        now = max(now, sorted(self._ahead.values())[-quorum])
        self._ahead = {one: ts for one, ts in self._ahead.items() if ts > now + LEAP_MS}
        return now
