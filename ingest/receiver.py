"""What arrives from the broker, held until it is taken as a group."""

import asyncio
import time
from collections.abc import Iterable
from typing import Final

import msgspec

from broker.codec import Publish
from broker.session import Link

_LARGE: Final = 1_000
"""From so many messages on, a group is worth its commit: there is no point in waiting."""


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
    """Reads in gulps: what the network holds is one group, and groups keep a distance.

    A link that has delivered is held back until its messages were taken and the distance has
    passed; meanwhile the network, and then the broker, keep what comes next. So one read brings
    many messages, and no more than a read per link is ever waiting here. After a large group the
    next one may follow at once.
    """

    def __init__(self, *, distance_s: float = 0.02) -> None:
        self._distance_s = distance_s
        self._not_before_s = 0.0
        self._parts: list[tuple[Link, list[Publish]]] = []
        self._count = 0
        self._since_s = 0.0
        self._held: set[Link] = set()
        self._stopped = False
        self._any = asyncio.Event()
        self.heard_at_s = time.monotonic()

    def receive(self, link: Link, messages: list[Publish]) -> None:
        """Take over what a link decoded, and hold the link back."""
        if not self._parts:
            self._since_s = time.monotonic()
            self._any.set()
        self._parts.append((link, messages))
        self._count += len(messages)
        self._held.add(link)
        link.pause()

    def stop(self) -> None:
        """Let the broker keep what has not arrived; what has arrived can still be taken."""
        self._stopped = True

    @property
    def waiting(self) -> int:
        """How many messages have arrived and are not taken."""
        return self._count

    async def group(self) -> Arrivals:
        """What has arrived, as soon as the distance has passed and there is something."""
        await asyncio.sleep(max(0.0, self._not_before_s - time.monotonic()))
        if not self._parts and not self._stopped:
            for link in self._held:
                link.resume()
            self._held.clear()
        await self._any.wait()
        arrivals = Arrivals(self._parts, self._count, self._since_s)
        self._parts, self._count = [], 0
        self._any.clear()
        now_s = self.heard_at_s = time.monotonic()
        self._not_before_s = now_s if arrivals.count >= _LARGE else now_s + self._distance_s
        return arrivals
