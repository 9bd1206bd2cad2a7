"""Shelves: an alarm that a person, or its own chatter, has put aside for a time.

OPC UA Part 9, 5.8.17: a shelf is timed or for once, and neither outlasts the longest time. Chatter
is three raises of one alarm within a minute, after ISA-18.2 and EEMUA 191.
"""

from typing import Final

import msgspec

from broker.messages import OperatorRequest
from city.errors import InputError

LONGEST_MS: Final = 86_400_000
"""No shelf is longer: an alarm that nobody wants for days is put out of service, with a reason."""
CHATTER_RAISES: Final = 3
CHATTER_MS: Final = 60_000
FIRST_MS: Final = 600_000
"""The first automatic shelf; each that follows right after is twice as long."""
LAST_MS: Final = 4 * 3_600_000
"""No automatic shelf is longer."""


class Shelf(msgspec.Struct, frozen=True):
    """Until when [ms] an alarm is put aside; `once`: at most until its condition is gone."""

    until: int
    once: bool = False


class Chatter(msgspec.Struct):
    """What one alarm remembers of its raises: those of the last minute, and its last such shelf."""

    raises: list[int] = []
    shelf_ms: int = 0
    shelf_end: int = 0

    def count(self, ts: int) -> int:
        """How often the alarm was raised within the minute up to `ts`, which is a raise too."""
        self.raises = [raised for raised in self.raises if ts - raised < CHATTER_MS]
        self.raises.append(ts)
        return len(self.raises)

    def shelve(self, ts: int) -> Shelf:
        """The shelf for a chatter at `ts`.

        It is twice the last one when that ended not longer ago than the first would last.
        """
        right_after = self.shelf_ms > 0 and ts - self.shelf_end <= FIRST_MS
        self.shelf_ms = min(2 * self.shelf_ms, LAST_MS) if right_after else FIRST_MS
        self.shelf_end = ts + self.shelf_ms
        self.raises = []
        return Shelf(self.shelf_end)


def shelf_of(request: OperatorRequest, ts: int) -> Shelf:
    """The shelf that a person asks for at `ts`.

    Raises:
        InputError: It says neither how long nor once, or it is longer than a shelf may be.
    """
    if request.for_s is None and not request.once:
        raise InputError("shelve: how long is missing; give a time up to 24 h, or once")
    length_ms = LONGEST_MS if request.for_s is None else 1000 * request.for_s
    if not 1 <= length_ms <= LONGEST_MS:
        raise InputError(
            f"shelve: {request.for_s:g} s is not possible; a shelf lasts more than 0 s "
            f"and at most {LONGEST_MS // 1000} s (24 h); for longer, disable it"
        )
    return Shelf(ts + round(length_ms), request.once)
