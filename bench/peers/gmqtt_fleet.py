"""A fleet of gmqtt clients on uvloop, as in the example of gmqtt's README."""

import asyncio
import gc
import time
from typing import Final

import uvloop
from gmqtt import Client  # type: ignore[import-not-found,unused-ignore]
from gmqtt.mqtt.constants import MQTTv311  # type: ignore[import-not-found,unused-ignore]
from gmqtt.storage import PersistentStorage  # type: ignore[import-not-found,unused-ignore]

from bench.peers.devices import DRAIN_S, HOST, Device, Figures, Job, Turns, payload

CONNECTING_MAX: Final = 100
BURST_MAX: Final = 200
"""So many messages are sent at most before the loop has its turn again."""


class Waiting(PersistentStorage):  # type: ignore[misc,unused-ignore]
    """gmqtt's store of unacknowledged messages, which also notes how long they waited."""

    def __init__(self, figures: Figures) -> None:
        super().__init__()
        self._figures = figures
        self._sent_s: dict[int, float] = {}

    def push_message(self, mid: int, raw_package: bytes) -> None:
        """A message was sent."""
        self._sent_s[mid] = time.perf_counter()
        super().push_message(mid, raw_package)

    def remove_message_by_mid(self, mid: int) -> None:
        """A message was acknowledged."""
        super().remove_message_by_mid(mid)
        sent_s = self._sent_s.pop(mid, None)
        if sent_s is not None:
            self._figures.confirmed(sent_s)


class GmqttFleet:
    """All clients, and the one task that sends for them."""

    def __init__(self, job: Job) -> None:
        self.figures = Figures()
        self._job = job
        self._connecting = asyncio.Semaphore(CONNECTING_MAX)

    async def run(self) -> None:
        """Connect, send until told to stop, wait for what is on its way."""
        self.figures.stop_on_signal()
        devices = self._job.devices()
        clients = await asyncio.gather(*[self._connected(device) for device in devices])
        gc.freeze()
        turns = Turns(len(devices), self._job.interval_s, time.perf_counter())
        while not self.figures.stopped:
            await asyncio.sleep(min(1.0, turns.wait_s(time.perf_counter())))
            for _ in range(BURST_MAX):
                if turns.wait_s(time.perf_counter()):
                    break
                number, seq = turns.take()
                device = devices[number]
                clients[number].publish(device.topic, payload(device, seq), qos=1)
                self.figures.sent += 1
        await self._leave(clients)

    async def _connected(self, device: Device) -> Client:
        client = Client(device.client_id, persistent_storage=Waiting(self.figures))
        async with self._connecting:
            await client.connect(HOST, self._job.port, version=MQTTv311)
        return client

    async def _leave(self, clients: list[Client]) -> None:
        until_s = time.perf_counter() + DRAIN_S
        while (  # noqa: ASYNC110 - the counts are gmqtt's, without an event
            time.perf_counter() < until_s and self.figures.acknowledged < self.figures.sent
        ):
            await asyncio.sleep(0.05)
        await asyncio.gather(*[client.disconnect() for client in clients])


async def main() -> None:
    """Play the fleet of the command line."""
    fleet = GmqttFleet(Job.given())
    gc.set_threshold(50_000, 10, 10)
    await fleet.run()
    fleet.figures.tell()


if __name__ == "__main__":
    uvloop.run(main())
