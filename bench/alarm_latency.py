"""From a sensor's publish to the alarm's event on its topic: python bench/alarm_latency.py.

1,500 air stations of four values and 500 methane detectors publish at QoS 1 over a real Mosquitto,
10,000 messages/s together; `cityeye ingest` (a process of its own, shipped rules, spool, archive,
snapshots, DuckDB) watches them. One detector after the other shows a methane value above its limit.
Measured by one clock, per alarm: from the publish of the first such reading to the arrival of the
alarm's event at a subscriber. Publisher and subscriber are this process.
"""

import argparse
import asyncio
import gc
import json
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import uvloop

from broker.choice import BrokerAddress
from broker.codec import Publish, connect, field, publish
from broker.messages import AlarmEvent, Telemetry, decode, encode
from broker.mosquitto import PrivateMosquitto, mosquitto_version
from broker.session import Link, Session
from broker.topics import Channel, alarm_filter, device_topic, parse_alarm_topic
from city.cityfile import Address, Device
from city.clock import wall_ms
from city.synthetic import synthetic_city
from sensors.device import birth_of

RULE: Final = "gas-methane"
CALM, HIGH = 3.0, 30.0
SLOT_S: Final = 0.005
START_S: Final = 60.0
QUIET_S: Final = 30.0


class Fleet:
    """All devices on one connection: who sends in each slot of time, and what."""

    def __init__(self, devices: Sequence[Device], rate: int, measured_s: float) -> None:
        self.sent_at_s: dict[Address, float] = {}
        """When the detectors that cross their limit first said so."""
        self.late_s = 0.0
        self.messages = 0
        self._devices = devices
        self._topics = [field(device_topic(one.address, Channel.TELEMETRY)) for one in devices]
        self._rate = rate
        self._random = np.random.default_rng(1)
        detectors = [n for n, one in enumerate(devices) if "methane" in one.kind.quantities]
        self._crossing = iter(detectors)
        self._high: set[int] = set()
        self._pending: set[int] = set()
        self._every_s = measured_s / len(detectors)

    async def run(self, writer: asyncio.StreamWriter, *, calm_s: float, total_s: float) -> None:
        """Send at the rate for so long; detectors cross their limits after the calm."""
        began_s, crossed = time.perf_counter(), 0
        while (elapsed_s := time.perf_counter() - began_s) < total_s:
            while elapsed_s > calm_s + crossed * self._every_s:
                self._cross()
                crossed += 1
            due = int(elapsed_s * self._rate)
            self.late_s = max(self.late_s, (due - self.messages) / self._rate)
            writer.write(b"".join([self._message(n) for n in range(self.messages, due)]))
            self.messages = due
            await writer.drain()
            await asyncio.sleep(SLOT_S)

    def _cross(self) -> None:
        number = next(self._crossing, None)
        if number is not None:
            self._pending.add(number)

    def _message(self, count: int) -> bytes:
        number = count % len(self._devices)
        device = self._devices[number]
        if number in self._pending:
            self._pending.discard(number)
            self._high.add(number)
            self.sent_at_s[device.address] = time.perf_counter()
        level = HIGH if number in self._high else CALM
        jitter = round(float(self._random.random()), 3)
        values = dict.fromkeys(device.kind.quantities, level + jitter)
        message = Telemetry(ts=wall_ms(), seq=count // len(self._devices), values=values)
        return publish(self._topics[number], encode(message), mid=count % 60_000 + 1)


class Listener:
    """Notes when each alarm's first event arrives."""

    def __init__(self) -> None:
        self.heard_at_s: dict[Address, float] = {}

    def receive(self, link: Link, messages: list[Publish]) -> None:
        """Take what comes on the alarm topics."""
        now_s = time.perf_counter()
        for message in messages:
            address, rule = parse_alarm_topic(message.topic.decode())
            if rule == RULE and message.payload and _is_raise(message.payload):
                self.heard_at_s.setdefault(address, now_s)
        link.acknowledge([message.mid for message in messages if message.mid])


def _is_raise(payload: bytes) -> bool:
    return decode(AlarmEvent, payload).event == "raised"


def devices(count: int, interval_s: float) -> list[Device]:
    """A quarter of them methane detectors, spread evenly among air stations of four values."""
    air = synthetic_city(
        count * 3 // 4, interval_s=interval_s, seed=1, kinds=("air-micro", "air-gas")
    )
    gas = synthetic_city(count // 4, interval_s=interval_s, seed=1, kinds=("gas-detector",))
    stations = list(air.devices())
    mixed: list[Device] = []
    for number, detector in enumerate(gas.devices()):
        mixed += [*stations[3 * number : 3 * number + 3], detector]
    return mixed


@contextmanager
def ingesting(port: int, folder: Path, store: str) -> Iterator[subprocess.Popen[str]]:
    """The real `cityeye ingest`."""
    command = shutil.which("cityeye", path=str(Path(sys.executable).parent)) or "cityeye"
    process = subprocess.Popen(
        [
            command, "ingest", "--every-city", "--json", "--log", "warning",
            "--broker", f"mqtt://127.0.0.1:{port}", "--data", str(folder / "ingest"),
            "--store", store,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


async def play(
    port: int, options: argparse.Namespace, ingest: int
) -> tuple[Fleet, Listener, float]:
    """Announce the devices, publish, and listen; also the processor time of ingest per message."""
    fleet_devices = devices(options.devices, options.devices / options.rate)
    listener = Listener()
    session = Session(
        BrokerAddress("127.0.0.1", port),
        client_id="bench-listener",
        subscriptions=[(alarm_filter("+"), 1)],
        receive=listener.receive,
        clean=True,
    )
    listening = asyncio.create_task(session.run(), name="listener")
    await session.ready(patience_s=START_S)
    for one in fleet_devices:
        birth = birth_of(one, one.position)
        await session.publish(device_topic(one.address, Channel.META), encode(birth), retain=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(connect("bench-fleet", keep_alive_s=0, clean=True))
    draining = asyncio.create_task(_drain(reader), name="acknowledgements")
    fleet = Fleet(fleet_devices, options.rate, options.seconds)
    gc.freeze()
    process = psutil.Process(ingest)
    before = process.cpu_times()
    await fleet.run(writer, calm_s=options.calm, total_s=options.calm + options.seconds + 1.0)
    after = process.cpu_times()
    deadline_s = time.monotonic() + QUIET_S
    while time.monotonic() < deadline_s:
        await asyncio.sleep(0.05)
        if len(listener.heard_at_s) >= len(fleet.sent_at_s):
            break
    spent_s = after.user + after.system - before.user - before.system
    for task in (draining, listening):
        task.cancel()
    writer.close()
    return fleet, listener, spent_s / fleet.messages * 1e6


async def _begun(spool: Path, ingest: subprocess.Popen[str]) -> None:
    """Return when ingest listens."""
    await asyncio.to_thread(_wait_for, spool, ingest)
    await asyncio.sleep(2.0)


def _wait_for(spool: Path, ingest: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + START_S
    while not spool.exists():
        if ingest.poll() is not None or time.monotonic() > deadline_s:
            raise SystemExit("cityeye ingest did not begin")
        time.sleep(0.1)


async def _drain(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


async def measure(options: argparse.Namespace, folder: Path) -> int:
    """Start the servers, play, and print what comes out."""
    async with PrivateMosquitto(folder / "mosquitto", window=20_000) as mosquitto:
        with ingesting(mosquitto.port, folder, options.store) as ingest:
            await _begun(folder / "ingest" / "spool.sqlite", ingest)
            fleet, listener, each_us = await play(mosquitto.port, options, ingest.pid)
            rss_mb = psutil.Process(ingest.pid).memory_info().rss / 1e6
            ingest.send_signal(signal.SIGTERM)
            output, _ = await asyncio.to_thread(ingest.communicate, timeout=120)
    return report(fleet, listener, each_us, rss_mb, json.loads(output))


def report(
    fleet: Fleet, listener: Listener, each_us: float, rss_mb: float, summary: dict[str, Any]
) -> int:
    """Print latencies and cost; 1 where an alarm is missing."""
    heard = [at for at in fleet.sent_at_s if at in listener.heard_at_s]
    delays = [1000 * (listener.heard_at_s[at] - fleet.sent_at_s[at]) for at in heard]
    p50, p95, p99 = np.percentile(delays, [50, 95, 99]) if delays else (0.0, 0.0, 0.0)
    print(f"{len(heard)} of {len(fleet.sent_at_s)} alarms, publish to event on its topic [ms]:")
    print(f"  p50 {p50:.1f}  p95 {p95:.1f}  p99 {p99:.1f}  max {max(delays, default=0.0):.1f}")
    print(f"{fleet.messages:,} messages, the latest {1000 * fleet.late_s:.0f} ms behind its time")
    print(f"ingest: {each_us:.1f} us of CPU per message, {rss_mb:.0f} MB resident")
    print(f"  arrival to acknowledgement and store [ms]: {summary['latency_ms']}")
    return 0 if len(heard) == len(fleet.sent_at_s) else 1


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usual = "influxd" if shutil.which("influxd") else "duckdb"
    parser.add_argument("--store", default=usual, help="where readings go, as for cityeye")
    parser.add_argument("--devices", type=int, default=2_000)
    parser.add_argument("--rate", type=int, default=10_000, help="messages per second")
    parser.add_argument("--calm", type=float, default=15.0, help="seconds before the first alarm")
    parser.add_argument("--seconds", type=float, default=25.0, help="seconds with alarms")
    options = parser.parse_args()
    if not mosquitto_version():
        print("the benchmark needs Mosquitto; 'make services' installs it")
        return 1
    load = psutil.getloadavg()[0]
    print(f"Python {platform.python_version()}, Mosquitto {mosquitto_version()}, load {load:.1f}")
    print(f"{options.devices:,} devices, {options.rate:,} messages/s, QoS 1\n")
    with tempfile.TemporaryDirectory(prefix="cityeye-bench-") as folder:
        return uvloop.run(measure(options, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
