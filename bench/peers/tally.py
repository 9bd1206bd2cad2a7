"""The independent subscriber: what arrives from the fleets, counted by device and `seq`."""

import asyncio
from typing import Final, Self

import msgspec

from broker.choice import BrokerAddress
from broker.codec import Publish
from broker.session import Link, Session
from broker.topics import Channel, device_filter

PATIENCE_S: Final = 10.0
QUIET_S: Final = 5.0
LOOK_S: Final = 0.05


class Numbered(msgspec.Struct):
    """What is read of a message."""

    seq: int


class Tally:
    """Subscribed as an asynchronous context; counts every telemetry message."""

    def __init__(self, address: BrokerAddress) -> None:
        self.distinct = 0
        self.repeated = 0
        self._seen: dict[bytes, set[int]] = {}
        self._decode = msgspec.json.Decoder(Numbered).decode
        self._session = Session(
            address,
            client_id="peers-tally",
            clean=True,
            subscriptions=[(device_filter(Channel.TELEMETRY), 1)],
            receive=self.receive,
        )
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._session.run(), name="tally")
        await self._session.ready(patience_s=PATIENCE_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._session.disconnect()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def count(self) -> int:
        """Different messages so far."""
        return self.distinct

    def receive(self, link: Link, messages: list[Publish]) -> None:
        """Count and acknowledge; called by the session."""
        link.acknowledge([message.mid for message in messages])
        for message in messages:
            seen = self._seen.setdefault(message.topic, set())
            before = len(seen)
            seen.add(self._decode(message.payload).seq)
            if len(seen) > before:
                self.distinct += 1
            else:
                self.repeated += 1

    async def settled(self, expected: int) -> None:
        """Return when as many have arrived, or when nothing more has for a while."""
        loop = asyncio.get_running_loop()
        before, since_s = self.distinct, loop.time()
        while self.distinct < expected and loop.time() - since_s < QUIET_S:
            await asyncio.sleep(LOOK_S)
            if self.distinct > before:
                before, since_s = self.distinct, loop.time()
