"""What an earlier run left behind, when a run begins in its directory or on its broker.

Simulated time may begin again before the instants that an earlier run reached. What belongs to a
time that has not come yet is of another run: its alarms can never clear, its messages are no
repeats of those to come.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final

import structlog

from alerts.service import AlarmService
from broker.codec import Publish
from broker.messages import AlarmEvent, Telemetry, decode
from broker.session import Link
from city.errors import WireError
from ingest.intake import Intake
from ingest.spool import Message

_log = structlog.get_logger(__name__)

_QUEUE_MAX: Final = 100_000


class Adoption:
    """Takes over the alarms that stand; removes from their topics those of a later time."""

    def __init__(self, alarms: AlarmService, begins_ms: int | None) -> None:
        self._alarms = alarms
        self._begins_ms = begins_ms
        self._stale: asyncio.Queue[str] = asyncio.Queue(_QUEUE_MAX)

    def receive(self, link: Link, messages: list[Publish]) -> None:
        """Take retained alarm messages; others are echoes of our own."""
        for message in messages:
            if message.retain and message.payload:
                try:
                    self._take(message.topic.decode(), message.payload)
                except (WireError, UnicodeDecodeError) as error:
                    _log.warning("not an alarm of ours", why=str(error))
        link.acknowledge([message.mid for message in messages if message.mid])

    async def run(self, publish: Callable[..., Awaitable[None]]) -> None:
        """Empty the topics of alarms that are not taken over, until cancelled."""
        while True:
            topic = await self._stale.get()
            _log.debug("alarm removed, it is of a later time", topic=topic)
            await publish(topic, b"", retain=True)

    def _take(self, topic: str, payload: bytes) -> None:
        if not is_later(decode(AlarmEvent, payload).ts, self._begins_ms):
            self._alarms.adopt(topic, payload)
            return
        with suppress(asyncio.QueueFull):  # what is left is seen again at the next start
            self._stale.put_nowait(topic)


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
