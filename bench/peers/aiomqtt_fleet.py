"""A fleet of aiomqtt clients on uvloop: a task per device, as aiomqtt's documentation shows."""

import asyncio
import contextlib
import gc
import time
from typing import Final

import aiomqtt
import uvloop

from bench.peers.devices import HOST, Device, Figures, Job, payload

CONNECTING_MAX: Final = 100
PATIENCE_S: Final = 60.0
"""aiomqtt's own ten seconds are too few for answers while it is saturated."""


class AiomqttFleet:
    """All devices as tasks of one loop."""

    def __init__(self, job: Job) -> None:
        self.figures = Figures()
        self._job = job
        self._connecting = asyncio.Semaphore(CONNECTING_MAX)

    async def run(self) -> None:
        """Connect, send until told to stop, wait for what is on its way."""
        loop = asyncio.get_running_loop()
        self.figures.stop_on_signal()
        devices = self._job.devices()
        gap_s = self._job.interval_s / len(devices)
        began_s = loop.time()
        async with asyncio.TaskGroup() as tasks:
            for number, device in enumerate(devices):
                tasks.create_task(self._play(device, began_s + number * gap_s))

    async def _play(self, device: Device, due_s: float) -> None:
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            async with self._connecting:
                client = aiomqtt.Client(
                    HOST, self._job.port, identifier=device.client_id, timeout=PATIENCE_S
                )
                await stack.enter_async_context(client)
            interval_s = self._job.interval_s
            due_s += max(0.0, (loop.time() - due_s) // interval_s + 1) * interval_s
            seq = 0
            while not await self._stopped_before(due_s):
                await self._publish(client, device, seq)
                seq, due_s = seq + 1, due_s + interval_s

    async def _publish(self, client: aiomqtt.Client, device: Device, seq: int) -> None:
        """Send a message; one that is not acknowledged in time is counted as sent alone."""
        self.figures.sent += 1
        sent_s = time.perf_counter()
        with contextlib.suppress(aiomqtt.MqttError):
            await client.publish(device.topic, payload(device, seq), qos=1)
            self.figures.confirmed(sent_s)

    async def _stopped_before(self, due_s: float) -> bool:
        await asyncio.sleep(max(0.0, due_s - asyncio.get_running_loop().time()))
        return self.figures.stopped


async def main() -> None:
    """Play the fleet of the command line."""
    fleet = AiomqttFleet(Job.given())
    gc.set_threshold(50_000, 10, 10)
    await fleet.run()
    fleet.figures.tell()


if __name__ == "__main__":
    uvloop.run(main())
