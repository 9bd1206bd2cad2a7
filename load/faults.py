"""What is wrong with which message: drawn by (seed, device, seq) alone."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from broker.messages import PAYLOAD_MAX
from load.lots import lots
from load.plan import FAULTS, Faults

NONE: Final = 0
MISSING, REPEATED, LATE, REORDERED, MALFORMED, OVERSIZED = range(1, len(FAULTS) + 1)
"""The lots, in the order of `load.plan.FAULTS`."""

COUNTED: Final = dict(
    zip(
        range(1, len(FAULTS) + 1),
        ("missing", "repeats", "late", "reordered", "malformed", "oversized"),
        strict=True,
    )
)
"""As what of `load.figures.COUNTS` each fault is counted."""


class FaultLots:
    """Draws the faults of messages."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self.faults = faults
        self._seed = seed
        self._edges = np.cumsum([getattr(faults, name) for name in FAULTS])

    def draw(self, devices: NDArray[np.int64], seqs: NDArray[np.int64]) -> NDArray[np.int64]:
        """The lot of each message, shape (n,); `devices` are indices in the whole city."""
        drawn = np.searchsorted(self._edges, lots(self._seed, "faults", devices, seqs), "right")
        drawn += 1
        drawn[drawn > len(FAULTS)] = NONE
        return drawn

    @property
    def unreadable(self) -> tuple[int, ...]:
        """The lots of messages that are not sent, or that no subscriber reads."""
        if self.faults.oversized_bytes > PAYLOAD_MAX:
            return MISSING, MALFORMED, OVERSIZED
        return MISSING, MALFORMED


def spoilt(payload: bytes, lot: int, faults: Faults) -> bytes:
    """The payload of a message with that lot."""
    if lot == MALFORMED:
        return payload[: len(payload) // 2]
    if lot == OVERSIZED:
        return payload.ljust(faults.oversized_bytes)
    return payload
