"""What ingest hands its batches to: the alarm engine, or whatever else wants every reading."""

from collections.abc import Sequence
from typing import Protocol

from broker.messages import Announcement, Birth
from city.cityfile import Address
from city.readings import ReadingBatch


class Consumer(Protocol):
    """Sees every birth document and every valid reading, in the order of arrival.

    Per group of messages: `learn` for its births, `consume` for its readings if it has any, then,
    when the group is durable, `committed` with its number. What a consumer makes of a group before
    `committed` must not be seen outside: after a crash the group may come again, in another shape.

    A consumer that keeps state of its own says by `covered` up to which group that state is durable;
    the spool keeps all later groups, and after a restart they are handed in again, before anything
    new, by the same calls, with `replaying` true; what `consume` returns is not stored again.
    """

    @property
    def covered(self) -> int | None:
        """The number of the last group that need not be handed in again; None: none ever need."""

    def learn(self, address: Address, birth: Birth) -> None:
        """Take note of what a device is; called again when its birth document changes."""

    def consume(self, batch: ReadingBatch) -> Sequence[Announcement]:
        """Evaluate `batch` and return what it changed; ingest stores that with the readings."""

    def committed(self, number: int, *, replaying: bool) -> None:
        """All that was learned and consumed since the last call is durable as group `number`."""
