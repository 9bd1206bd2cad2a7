"""The line between a part of a test and its conductor: words one way, orders the other."""

from collections.abc import Sequence
from typing import Protocol, cast

import msgspec

from city.clock import wall_ms
from load.figures import Delta
from load.plan import Order, Part


class Line(Protocol):
    """What a part is given to speak through; both calls return at once."""

    def tell(self, delta: Delta) -> None:
        """Hand a word to the conductor; order is kept.

        Raises:
            ConnectionError: The conductor is gone; the part ends.
        """

    def heard(self) -> Sequence[Order]:
        """Orders since the last call."""


class Opening(Line, Protocol):
    """A line before the test begins."""

    async def begin(self) -> int:
        """Say that the part is prepared; the instant at which the test begins [ms]."""


async def begun(part: Part, line: Line) -> Part:
    """The part with the instant of the beginning, once the part is prepared.

    A part whose instant is 0 asks for it on its line, which is an `Opening` then.
    """
    if part.start_ms:
        return part
    return msgspec.structs.replace(part, start_ms=await cast("Opening", line).begin())


def said_for(word: Delta, warning: str, *, failed: bool = False) -> Delta:
    """A word in place of a part that died after `word`; what it had counted since is not known.

    Where nobody goes on, what a subscriber had not read can no longer be told from what was lost.
    """
    unread = {"unread_possible": 1} if failed and word.kind == "subscriber" else {}
    return msgspec.structs.replace(
        word, at_ms=wall_ms(), counts=unread, delays={}, reasons={}, connected=0, cpu_s=0.0,
        warnings=(warning,), last=False, failed=failed,
    )  # fmt: skip
