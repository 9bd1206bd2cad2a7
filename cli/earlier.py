"""What an earlier run left behind, when a run begins in its directory.

Simulated time may begin again before the instants that an earlier run reached. What belongs to a
time that has not come yet is of another run: its messages are no repeats of those to come.
"""

from collections.abc import Iterable

from broker.messages import Telemetry, decode
from ingest.intake import Intake
from ingest.spool import Message


class FreshIntake(Intake):
    """An intake that remembers no messages of a time that has not come yet."""

    def __init__(self, *, devices_max: int, begins_ms: int | None) -> None:
        super().__init__(devices_max=devices_max)
        self._begins_ms = begins_ms

    def remember(self, messages: Iterable[Message]) -> None:
        """Recognise `messages` as repeats should they be delivered again."""
        super().remember(
            (topic, payload)
            for topic, payload in messages
            if not is_later(decode(Telemetry, payload).ts, self._begins_ms)
        )


def is_later(ts: int, begins_ms: int | None) -> bool:
    """Whether `ts` does not lie before the beginning, where that is known."""
    return begins_ms is not None and ts >= begins_ms
