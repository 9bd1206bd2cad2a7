"""A fleet of paho-mqtt clients in one thread, driven by one selector.

As paho's documentation describes "external event loop support": `loop_read`, `loop_write` and
`loop_misc` are called when the socket is ready, and the callbacks on sockets say what to watch.
"""

import gc
import selectors
import time
from typing import Any, Final

from paho.mqtt.client import Client, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion

from bench.peers.devices import DRAIN_S, HOST, Device, Figures, Job, Turns, payload

BURST_MAX: Final = 200
"""So many messages are sent at most before the sockets are looked at again."""

MISC_S: Final = 1.0
READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE


class PahoDevice:
    """One client, and which of its messages wait for an acknowledgement."""

    def __init__(self, device: Device, fleet: "PahoFleet") -> None:
        self.device = device
        self.waiting: dict[int, float] = {}
        self._fleet = fleet
        self.client = client = Client(
            CallbackAPIVersion.VERSION2, client_id=device.client_id, protocol=MQTTv311
        )
        client.on_publish = self._acknowledged
        client.on_socket_open = self._opened
        client.on_socket_close = self._closed
        client.on_socket_register_write = self._writes
        client.on_socket_unregister_write = self._written

    def send(self, seq: int) -> None:
        """Publish at QoS 1."""
        sent_s = time.perf_counter()
        info = self.client.publish(self.device.topic, payload(self.device, seq), qos=1)
        self.waiting[info.mid] = sent_s
        self._fleet.figures.sent += 1

    def _acknowledged(self, _client: Any, _data: Any, mid: int, *_: Any) -> None:
        sent_s = self.waiting.pop(mid, None)
        if sent_s is not None:
            self._fleet.figures.confirmed(sent_s)

    def _opened(self, _client: Any, _data: Any, sock: Any) -> None:
        self._fleet.selector.register(sock, READ, self.client)

    def _closed(self, _client: Any, _data: Any, sock: Any) -> None:
        self._fleet.selector.unregister(sock)

    def _writes(self, _client: Any, _data: Any, sock: Any) -> None:
        self._fleet.selector.modify(sock, READ | WRITE, self.client)

    def _written(self, _client: Any, _data: Any, sock: Any) -> None:
        self._fleet.selector.modify(sock, READ, self.client)


class PahoFleet:
    """All clients, and the one loop that serves them."""

    def __init__(self, job: Job) -> None:
        self.figures = Figures()
        self.selector = selectors.DefaultSelector()
        self.devices = [PahoDevice(device, self) for device in job.devices()]
        self._job = job
        self._misc_at_s = 0.0

    def run(self) -> None:
        """Connect, send until told to stop, wait for what is on its way."""
        self.figures.stop_on_signal()
        for device in self.devices:
            device.client.connect(HOST, self._job.port, keepalive=60)
            self._serve(0.0)
        gc.freeze()
        turns = Turns(len(self.devices), self._job.interval_s, time.perf_counter())
        while not self.figures.stopped:
            self._serve(min(turns.wait_s(time.perf_counter()), MISC_S))
            for _ in range(BURST_MAX):
                if turns.wait_s(time.perf_counter()):
                    break
                number, seq = turns.take()
                self.devices[number].send(seq)
        self._leave()

    def _serve(self, timeout_s: float) -> None:
        for key, ready in self.selector.select(timeout_s):
            if ready & READ:
                key.data.loop_read()
            if ready & WRITE:
                key.data.loop_write()
        if time.perf_counter() - self._misc_at_s > MISC_S:
            self._misc_at_s = time.perf_counter()
            for device in self.devices:
                device.client.loop_misc()

    def _leave(self) -> None:
        until_s = time.perf_counter() + DRAIN_S
        while time.perf_counter() < until_s and any(device.waiting for device in self.devices):
            self._serve(0.1)
        for device in self.devices:
            device.client.disconnect()


if __name__ == "__main__":
    fleet = PahoFleet(Job.given())
    fleet.run()
    fleet.figures.tell()
