"""What is still to be published about alarms: in order, bounded, and never losing where they stand."""

from collections import deque

import msgspec

from broker.messages import Announcement, encode
from broker.topics import alarm_topic


class Dispatch(msgspec.Struct, frozen=True):
    """What one change means for its alarm's topic: payloads in order, each retained or not."""

    topic: str
    messages: tuple[tuple[bytes, bool], ...]


def dispatch(announcement: Announcement) -> Dispatch:
    """The event, retained while the alarm stands; at its end the event, then the topic emptied."""
    topic = alarm_topic(announcement.address, announcement.event.rule)
    payload = encode(announcement.event)
    if announcement.event.state == "active":
        return Dispatch(topic, ((payload, True),))
    return Dispatch(topic, ((payload, False), (b"", True)))


def removal(topic: str) -> Dispatch:
    """Empties the topic of an alarm that nobody watches any more."""
    return Dispatch(topic, ((b"", True),))


class Outbox:
    """Dispatches in the order of their events.

    Up to `bound` every event is kept. Beyond it, a dispatch that a newer one of the same topic has
    overtaken is dropped and counted: each topic still gets its newest state, and what remains is
    at most one dispatch per alarm, or twice that between two such clearances.
    """

    def __init__(self, *, bound: int = 10_000) -> None:
        self.superseded = 0
        self._bound = bound
        self._limit = bound
        self._queue: deque[Dispatch] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, item: Dispatch) -> None:
        """Append `item`."""
        self._queue.append(item)
        if len(self._queue) > self._limit:
            self._drop_overtaken()

    def take(self, most: int) -> list[Dispatch]:
        """Remove and return the oldest dispatches, at most `most` and no two of one topic."""
        taken: dict[str, Dispatch] = {}
        while self._queue and len(taken) < most and self._queue[0].topic not in taken:
            item = self._queue.popleft()
            taken[item.topic] = item
        return list(taken.values())

    def put_back(self, items: list[Dispatch]) -> None:
        """Set what was taken but not published before everything else again."""
        self._queue.extendleft(reversed(items))

    def _drop_overtaken(self) -> None:
        newest: dict[str, Dispatch] = {}
        for item in self._queue:
            newest.pop(item.topic, None)
            newest[item.topic] = item
        self.superseded += len(self._queue) - len(newest)
        self._queue = deque(newest.values())
        self._limit = max(self._bound, 2 * len(newest))
