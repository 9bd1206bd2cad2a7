"""What ingest hands its batches to: the alarm engine, or whatever else wants every reading."""

from collections.abc import Sequence
from typing import Protocol

from broker.messages import Announcement, Birth
from city.cityfile import Address
from city.readings import ReadingBatch


class Consumer(Protocol):
    """Sees every birth document and every valid reading, in the order of arrival."""

    def learn(self, address: Address, birth: Birth) -> None:
        """Take note of what a device is; called again when its birth document changes."""

    def consume(self, batch: ReadingBatch) -> Sequence[Announcement]:
        """Evaluate `batch` and return what it changed; ingest stores that with the readings."""
