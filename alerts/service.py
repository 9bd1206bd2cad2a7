"""The alarm service: readings and births in, announcements out to the store and to MQTT."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import msgspec
import structlog

from alerts.engine import AlarmEngine
from alerts.outbox import Dispatch, Outbox, dispatch, removal
from broker.messages import AlarmEvent, Announcement, Birth, decode
from broker.topics import parse_alarm_topic
from city.backoff import Backoff
from city.cityfile import Address
from city.errors import ServiceError
from city.readings import ReadingBatch

_log = structlog.get_logger(__name__)

_WINDOW: Final = 100
"""Topics that are published to at the same time."""
_IDLE_S: Final = 5.0
_TRANSIENT: Final = (ServiceError, TimeoutError, OSError)


class Publish(Protocol):
    """How a message reaches the broker."""

    def __call__(self, topic: str, payload: bytes, *, retain: bool) -> Awaitable[None]:
        """Publish one message and return when the broker has it."""


class Counts(msgspec.Struct, frozen=True):
    """Events since the start, and the alarms that stand now."""

    raised: int
    escalated: int
    eased: int
    cleared: int
    standing: int


class AlarmService:
    """Evaluates what ingest hands it, and publishes what changes.

    `learn`, `consume` and `adopt` are called on the event loop's thread; they do not wait. `newest`
    holds the latest announcements for display, the newest last.
    """

    def __init__(
        self, engine: AlarmEngine, *, keep: int = 200, publish_timeout_s: float = 10.0
    ) -> None:
        self.newest: deque[Announcement] = deque(maxlen=keep)
        self._engine = engine
        self._publish_timeout_s = publish_timeout_s
        self._outbox = Outbox()
        self._work = asyncio.Event()
        self._flushed = asyncio.Event()
        self._flushed.set()
        self._events: Counter[str] = Counter()
        self._in_trouble = False

    @property
    def counts(self) -> Counts:
        """What has happened so far."""
        events = self._events
        return Counts(
            raised=events["raised"],
            escalated=events["escalated"],
            eased=events["eased"],
            cleared=events["cleared"],
            standing=len(self.standing()),
        )

    @property
    def superseded(self) -> int:
        """Events that were not published because a newer one of their alarm had overtaken them."""
        return self._outbox.superseded

    def standing(self) -> list[Announcement]:
        """The newest event of every alarm that stands, in the order in which they were raised."""
        return self._engine.standing()

    def learn(self, address: Address, birth: Birth) -> None:
        """Take note of what a device is: it decides which rules watch it."""
        self._engine.learn(address, birth)

    def consume(self, batch: ReadingBatch) -> Sequence[Announcement]:
        """Evaluate `batch`; return every event for the store, and have them published."""
        changes = self._engine.evaluate(batch)
        for announcement in changes:
            self._events[announcement.event.event] += 1
            self.newest.append(announcement)
            self._post(dispatch(announcement))
        return changes

    def adopt(self, topic: str, payload: bytes) -> bool:
        """Take over an alarm that stands on its topic since before this service began.

        For messages that the broker marks as retained, those got on subscribing: others are echoes
        of our own. An alarm that is over or that no rule can clear is removed from its topic (False).

        Raises:
            WireError: Topic or payload are not those of an alarm.
        """
        address, rule = parse_alarm_topic(topic)
        if not payload:
            return False
        event = decode(AlarmEvent, payload)
        if event.rule == rule and self._engine.adopt(Announcement(address, event)):
            return True
        _log.warning("alarm removed, it is over or has no rule", topic=topic)
        self._post(removal(topic))
        return False

    async def run(self, publish: Publish) -> None:
        """Publish what comes, in order per alarm, until cancelled; nothing unpublished is lost.

        A publish that fails or takes longer than the timeout is tried again, so the broker may see
        a message twice.
        """
        backoff = Backoff(first_s=0.1, cap_s=5.0)
        while True:
            if not await self._round(publish):
                await asyncio.sleep(backoff.delay_s())
            elif self._outbox:
                backoff.reset()
            else:
                self._flushed.set()
                backoff.reset()
                await self._wait_for_work()

    async def flush(self, *, timeout_s: float) -> bool:
        """Wait until everything is published; False if that takes longer than `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._flushed.wait()
        return self._flushed.is_set()

    def _post(self, item: Dispatch) -> None:
        self._outbox.put(item)
        self._flushed.clear()
        self._work.set()

    async def _wait_for_work(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_IDLE_S):
                await self._work.wait()
        self._work.clear()

    async def _round(self, publish: Publish) -> bool:
        """Publish the oldest dispatches, one per topic at a time; False if some have to wait."""
        unsent = {item.topic: item for item in self._outbox.take(_WINDOW)}
        try:
            async with asyncio.TaskGroup() as group:
                for item in tuple(unsent.values()):
                    sending = self._send(publish, item, unsent)
                    group.create_task(sending, name=f"publish {item.topic}")
        finally:
            self._outbox.put_back(list(unsent.values()))
        return not unsent

    async def _send(self, publish: Publish, item: Dispatch, unsent: dict[str, Dispatch]) -> None:
        try:
            for payload, retain in item.messages:
                async with asyncio.timeout(self._publish_timeout_s):
                    await publish(item.topic, payload, retain=retain)
        except _TRANSIENT as error:
            self._say_trouble(str(error) or f"no answer in {self._publish_timeout_s:g} s")
        else:
            del unsent[item.topic]
            self._in_trouble = False

    def _say_trouble(self, trouble: str) -> None:
        say = _log.debug if self._in_trouble else _log.warning
        say("alarms cannot be published, trying again", waiting=len(self._outbox), trouble=trouble)
        self._in_trouble = True
