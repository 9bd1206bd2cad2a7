"""Alarm events on their topics: in order per alarm, from the archive, each once as far as possible."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from itertools import takewhile
from typing import Final, Protocol

import msgspec
import structlog

from alerts.archive import Archive
from broker.messages import Announcement, encode
from broker.topics import alarm_topic
from city.backoff import Backoff
from city.errors import ArchiveError, ServiceError

_log = structlog.get_logger(__name__)

CURSOR: Final = "mqtt"
_WINDOW: Final = 500
"""Events that are read at once; those of different alarms are published at the same time."""
_IDLE_S: Final = 5.0
_TRANSIENT: Final = (ServiceError, TimeoutError, OSError)


class Publish(Protocol):
    """How a message reaches the broker."""

    def __call__(self, topic: str, payload: bytes, *, retain: bool) -> Awaitable[None]:
        """Publish one message and return when the broker has it."""


class Dispatch(msgspec.Struct, frozen=True):
    """What one event means for its alarm's topic: payloads in order, each retained or not."""

    topic: str
    messages: tuple[tuple[bytes, bool], ...]


def dispatch(announcement: Announcement) -> Dispatch:
    """The event, retained until the alarm is normal; then the event, and the topic emptied."""
    topic = alarm_topic(announcement.address, announcement.event.rule)
    payload = encode(announcement.event)
    if announcement.event.state != "normal":
        return Dispatch(topic, ((payload, True),))
    return Dispatch(topic, ((payload, False), (b"", True)))


class Publisher:
    """Publishes what the archive holds past its cursor, and moves the cursor.

    An event of which the end of the process hides whether the broker has it is published again.
    """

    def __init__(self, archive: Archive, *, timeout_s: float = 10.0) -> None:
        self.published = 0
        self._archive = archive
        self._timeout_s = timeout_s
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._in_trouble = False
        self._sent: set[int] = set()
        """The places of what the broker has and the cursor has not passed."""

    def wake(self) -> None:
        """There is something to publish."""
        self._idle.clear()
        self._work.set()

    async def run(self, publish: Publish) -> None:
        """Publish what comes, until cancelled; what fails or takes too long is tried again."""
        backoff = Backoff(first_s=0.1, cap_s=5.0)
        while True:
            try:
                rows = await asyncio.to_thread(self._archive.after, CURSOR, _WINDOW)
                done = not rows or await self._round(publish, rows)
            except ArchiveError as error:
                self._say_trouble(str(error))
                rows, done = [], False
            if not done:
                await asyncio.sleep(backoff.delay_s())
                continue
            backoff.reset()
            if not rows:
                if not self._work.is_set():  # else there may be something that we did not read
                    self._idle.set()
                await self._wait()

    async def settled(self) -> None:
        """Return when all that was recorded before the last `wake` is published."""
        await self._idle.wait()

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_IDLE_S):
                await self._work.wait()
        self._work.clear()

    async def _round(self, publish: Publish, rows: list[tuple[int, Announcement]]) -> bool:
        """Publish these events, one of each topic at a time; False if some have to wait."""
        by_topic: dict[str, list[tuple[int, Dispatch]]] = {}
        for place, announcement in rows:
            if place not in self._sent:
                item = dispatch(announcement)
                by_topic.setdefault(item.topic, []).append((place, item))
        try:
            async with asyncio.TaskGroup() as group:
                for topic, items in by_topic.items():
                    group.create_task(self._send(publish, items), name=f"publish {topic}")
        finally:
            left = await self._settle([place for place, _ in rows])
        return not left

    async def _settle(self, places: list[int]) -> list[int]:
        """Move the cursor up to the first of `places` that the broker does not have."""
        passed = list(takewhile(self._sent.__contains__, places))
        if passed:
            await asyncio.to_thread(self._archive.settle, CURSOR, passed[-1])
            self._sent.difference_update(passed)
        return places[len(passed) :]

    async def _send(self, publish: Publish, items: list[tuple[int, Dispatch]]) -> None:
        try:
            for place, item in items:
                for payload, retain in item.messages:
                    async with asyncio.timeout(self._timeout_s):
                        await publish(item.topic, payload, retain=retain)
                self._sent.add(place)
                self.published += 1
        except _TRANSIENT as error:
            self._say_trouble(str(error) or f"no answer in {self._timeout_s:g} s")
        else:
            self._in_trouble = False

    def _say_trouble(self, trouble: str) -> None:
        say = _log.debug if self._in_trouble else _log.warning
        say("alarms cannot be published, trying again", trouble=trouble)
        self._in_trouble = True
