"""The ledger: what became of every message, so that nothing can go missing unnoticed."""

from enum import StrEnum

import msgspec


class Fate(StrEnum):
    """How a message ends; each one ends in exactly one way."""

    WRITTEN = "written"
    """In the store."""
    DUPLICATE = "duplicate"
    """Delivered before; the first delivery is counted by its own fate."""
    QUARANTINED = "quarantined"
    """Not decodable or not believable; kept in the dead letter."""
    REFUSED = "refused"
    """Refused by a stated policy or by the store itself; kept in the dead letter."""


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of messages: `received` is the sum of the fates and of what is still `pending`."""

    received: int = 0
    written: int = 0
    duplicate: int = 0
    quarantined: int = 0
    refused: int = 0
    pending: int = 0
    reasons: dict[str, int] = {}
    """Messages by `fate:reason`, for the fates that have reasons."""

    @property
    def balanced(self) -> bool:
        """Whether every received message is accounted for."""
        fates = self.written + self.duplicate + self.quarantined + self.refused
        return self.received == fates + self.pending

    def since(self, start: "Ledger") -> "Ledger":
        """What happened after `start`; what was pending then counts as received since."""
        reasons = {key: n - start.reasons.get(key, 0) for key, n in self.reasons.items()}
        return Ledger(
            received=self.received - start.received + start.pending,
            written=self.written - start.written,
            duplicate=self.duplicate - start.duplicate,
            quarantined=self.quarantined - start.quarantined,
            refused=self.refused - start.refused,
            pending=self.pending,
            reasons={key: n for key, n in reasons.items() if n},
        )


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that will not be stored, with the reason and what arrived."""

    fate: Fate
    reason: str
    detail: str
    topic: bytes
    payload: bytes
