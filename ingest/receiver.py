"""What arrives from the broker, held until it is taken as a group."""

import asyncio
import time
from collections.abc import Iterable
from typing import Final

import msgspec

from broker.codec import Publish
from broker.session import Link

_FULL_GROUPS_MAX: Final = 4


class Arrivals(msgspec.Struct):
    """Messages in the order of their arrival, by the link that they came on."""

    parts: list[tuple[Link, list[Publish]]]
    count: int
    since_s: float
    """When the oldest of them arrived, on the monotonic clock."""

    def messages(self) -> Iterable[list[Publish]]:
        """The messages, in chunks."""
        return (messages for _, messages in self.parts)

    def acknowledge(self) -> None:
        """Acknowledge every message on the link that it came on, in the order of arrival."""
        for link, messages in self.parts:
            link.acknowledge([message.mid for message in messages if message.mid])


class Receiver:
    """Collects arrivals; a group is closed when it is full or when its oldest message waited.

    When four groups' worth is waiting, the link is held back: the network and then the broker
    keep what comes next.
    """

    def __init__(
        self, *, group_max: int = 5_000, group_bytes: int = 16 << 20, group_s: float = 0.01
    ) -> None:
        self._group_max = group_max
        self._group_bytes = group_bytes
        self._group_s = group_s
        self._parts: list[tuple[Link, list[Publish]]] = []
        self._count = 0
        self._bytes = 0
        self._since_s = 0.0
        self._stopped = False
        self._newest: Link | None = None
        self._any = asyncio.Event()
        self._full = asyncio.Event()
        self.heard_at_s = time.monotonic()

    def receive(self, link: Link, messages: list[Publish]) -> None:
        """Take over what a link decoded; holds the link back when too much is waiting."""
        if not self._parts:
            self._since_s = time.monotonic()
            self._any.set()
        self._parts.append((link, messages))
        self._newest = link
        self._count += len(messages)
        self._bytes += sum([len(message.payload) for message in messages])
        full = max(self._count / self._group_max, self._bytes / self._group_bytes)
        if full >= 1:
            self._full.set()
        if full >= _FULL_GROUPS_MAX or self._stopped:
            link.pause()

    def stop(self) -> None:
        """Let the broker keep what has not arrived; what has arrived can still be taken."""
        self._stopped = True
        if self._newest is not None:
            self._newest.pause()

    @property
    def waiting(self) -> int:
        """How many messages have arrived and are not taken."""
        return self._count

    async def group(self) -> Arrivals:
        """Everything that has arrived, once there is enough of it or it is old enough."""
        await self._any.wait()
        left_s = self._group_s - (time.monotonic() - self._since_s)
        if left_s > 0 and not self._full.is_set():
            try:
                async with asyncio.timeout(left_s):
                    await self._full.wait()
            except TimeoutError:
                pass
        arrivals = Arrivals(self._parts, self._count, self._since_s)
        self._parts, self._count, self._bytes = [], 0, 0
        self._any.clear()
        self._full.clear()
        if not self._stopped:
            for link, _ in arrivals.parts:
                link.resume()
        self.heard_at_s = time.monotonic()
        return arrivals
