"""What arrived of each device, by its numbers: what was repeated, came late, or is missing.

A device numbers its messages from 0 without a break, so its numbers alone tell what became of them.
"""

from bisect import bisect_right
from typing import Final

import msgspec

DEVICE_GAPS_MAX: Final = 256
"""So many gaps of one device are remembered."""

GAPS_MAX: Final = 200_000
"""And so many of all devices together, at about 130 bytes each."""


class Missing(msgspec.Struct, frozen=True):
    """What has not arrived of one device, below the highest number that has."""

    device: int
    count: int
    """How many messages, those in forgotten gaps included."""
    ranges: tuple[tuple[int, int], ...]
    """The remembered gaps as (first, last) numbers, ascending."""


class Tally:
    """Accounts of many devices, by their index; a device's numbers begin with 0.

    Gaps are remembered as ranges, up to a bound. Beyond it the oldest gap of a device is forgotten:
    what then arrives below it may be a repetition or late, and counts as `repeated` and as
    `unclear`, so that loss can be overstated by `unclear` at most, and never understated.
    """

    def __init__(
        self, devices: int, *, device_gaps_max: int = DEVICE_GAPS_MAX, gaps_max: int = GAPS_MAX
    ) -> None:
        self.received = 0
        """All messages."""
        self.repeated = 0
        """Of these, the ones whose number had arrived before."""
        self.out_of_order = 0
        """Of these, the ones that arrived for the first time, but after a later one."""
        self.unclear = 0
        """Of `repeated`, the ones that may have been late instead."""
        self._next = [0] * devices
        self._gaps: dict[int, list[list[int]]] = {}
        self._count = 0
        self._below: dict[int, int] = {}
        self._forgotten: dict[int, int] = {}
        self._device_gaps_max = device_gaps_max
        self._gaps_max = gaps_max

    @property
    def distinct(self) -> int:
        """How many different messages have arrived."""
        return self.received - self.repeated

    @property
    def missing(self) -> int:
        """How many are missing below the highest number of each device."""
        open_gaps = sum(stop - start for ranges in self._gaps.values() for start, stop in ranges)
        return open_gaps + sum(self._forgotten.values())

    def take(self, device: int, seq: int) -> bool:
        """Count a message, and say whether it is new: the hot path is a device's next number."""
        self.received += 1
        expected = self._next[device]
        if seq < expected:
            return self._earlier(device, seq)
        if seq > expected:
            self._open(device, expected, seq)
        self._next[device] = seq + 1
        return True

    def gaps(self, worst: int = 10) -> list[Missing]:
        """The devices of which most is missing, the worst first."""
        found = [self._missing(device) for device in self._gaps.keys() | self._forgotten.keys()]
        return sorted(found, key=lambda missing: (-missing.count, missing.device))[:worst]

    def _missing(self, device: int) -> Missing:
        ranges = self._gaps.get(device, [])
        count = sum(stop - start for start, stop in ranges) + self._forgotten.get(device, 0)
        return Missing(device, count, tuple((start, stop - 1) for start, stop in ranges))

    def _open(self, device: int, start: int, stop: int) -> None:
        """Remember a gap [start, stop) above all others of the device."""
        ranges = self._gaps.setdefault(device, [])
        ranges.append([start, stop])
        self._count += 1
        self._bound(device, ranges)

    def _bound(self, device: int, ranges: list[list[int]]) -> None:
        """Forget the device's oldest gap when there are too many."""
        if len(ranges) <= self._device_gaps_max and self._count <= self._gaps_max:
            return
        start, stop = ranges.pop(0)
        self._count -= 1
        self._below[device] = stop
        self._forgotten[device] = self._forgotten.get(device, 0) + stop - start
        if not ranges:
            del self._gaps[device]

    def _earlier(self, device: int, seq: int) -> bool:
        """Count a message below the highest number of its device; whether it is new."""
        ranges = self._gaps.get(device, [])
        place = bisect_right(ranges, seq, key=lambda gap: gap[0]) - 1
        if place >= 0 and seq < ranges[place][1]:
            self.out_of_order += 1
            self._close(device, ranges, place, seq)
            return True
        self.repeated += 1
        if seq < self._below.get(device, 0):
            self.unclear += 1
        return False

    def _close(self, device: int, ranges: list[list[int]], place: int, seq: int) -> None:
        """Take `seq` out of the gap at `place`."""
        start, stop = ranges[place]
        left = [part for part in ([start, seq], [seq + 1, stop]) if part[0] < part[1]]
        ranges[place : place + 1] = left
        self._count += len(left) - 1
        if ranges:
            self._bound(device, ranges)
        else:
            del self._gaps[device]
