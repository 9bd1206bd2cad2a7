"""From a burst's reading to the valve's reply: the shipped alarm service on a real Mosquitto.

    python bench/burst_latency.py                      40 bursts, alone and beside 10,000 messages/s
    python bench/burst_latency.py --rates 0,20000

This script plays gas sites: each a sensor and a valve on a branch of the network of its own, one
reading a second from either. One site after the other bursts: its pressure falls by 25 kPa a second.
`cityeye ingest` (spool, InfluxDB 1.x or, without one, DuckDB, shipped rules; a process of its own)
sees it, decides, and commands the valve, which here takes no time to close and answers at once.

Measured by one clock, per burst, from the publish of the reading at whose instant the alarm was
raised: to the alarm's event on its topic, to the command at the valve, to the valve's reply on its
topic. Other telemetry is that of `bench/chain.py`: 10,000 devices of four values, in a process of
its own.
"""

import argparse
import asyncio
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from broker.choice import BrokerAddress
from broker.codec import Publish
from broker.messages import AlarmEvent, Command, Reply, Status, Telemetry, decode, encode
from broker.mosquitto import PrivateMosquitto, mosquitto_version
from broker.session import Link, Session
from broker.topics import (
    Channel,
    alarm_filter,
    device_filter,
    device_topic,
    parse_alarm_topic,
    parse_device_topic,
)
from city.cityfile import Address, City, Device, load_city
from city.clock import Clock, wall_ms
from ingest.influxd import PrivateInfluxd, influxd_version
from sensors.device import birth_of
from sensors.network import solve_network
from sensors.timekeeper import Timekeeper
from sensors.valves import Isolation

NETWORK: Final = "schutterwald"
CALM_KPA: Final = 98.0
FALL_KPA_S: Final = 25.0
CALM_S: Final = 20.0
"""So long pressures stand still first: a rate needs readings to compare with."""
APART_S: Final = 0.77
PATIENCE_S: Final = 15.0
LOAD_DEVICES: Final = 10_000
LOAD_WARM_UP_S: Final = 12.0


def gas_city(sites: int) -> dict[str, Any]:
    """A city file of so many sites, each on a branch that its own valve alone cuts off."""
    places = [
        {
            "id": f"gas-{number:03d}", "district": "d1", "domain": "gas",
            "devices": [
                {"id": "valve-1", "kind": "gas-valve", "junction": junction, "interval_s": 1.0},
                {"id": "node-1", "kind": "gas-node", "junction": junction, "interval_s": 1.0},
            ],
        }
        for number, junction in enumerate(_branches(sites))
    ]  # fmt: skip
    return {
        "city": "synthetic",  # as that of the other telemetry
        "districts": [{"id": f"d{number}"} for number in range(1, 7)],
        "gas": {"network": NETWORK},
        "sites": places,
        "alarms": {
            "packs": ["gas-network"],
            "actions": {"mode": "armed", "rules": ["gas-burst"], "most_per_hour": 1000},
        },
    }


def _branches(count: int) -> list[str]:
    """Junctions that are fed through one pipe each and have customers, none behind another."""
    states = solve_network(NETWORK)
    found: list[str] = []
    taken = np.zeros(len(states.names), dtype=np.bool_)
    for junction in np.random.default_rng(1).permutation(len(states.names)).tolist():
        valve = Isolation(states, {"valve": junction})
        lost = valve.cut_off(junction)
        if lost[junction] and not (lost & taken).any() and states.customers[lost].any():
            taken |= lost
            found.append(states.names[junction])
        if len(found) == count:
            return found
    raise SystemExit(f"the network has only {len(found)} such branches; ask for fewer --bursts")


class Town:
    """The gas sites: what they publish, and when what came back."""

    def __init__(self, city: City, address: BrokerAddress) -> None:
        self.devices = {device.address: device for device in city.devices()}
        self.sites = sorted({address.site for address in self.devices})
        self.published: dict[tuple[str, int], float] = {}
        self.alarmed: dict[str, tuple[int, float]] = {}
        self.commanded: dict[str, float] = {}
        self.replied: dict[str, float] = {}
        self.session = Session(
            address, client_id="bench-gas", clean=True, receive=self._receive,
            subscriptions=[(device_filter(Channel.COMMAND, city.city), 1),
                           (device_filter(Channel.REPLY, city.city), 1),
                           (alarm_filter(city.city), 1)],
        )  # fmt: skip
        self._answers: set[asyncio.Task[None]] = set()

    async def introduce(self) -> None:
        """Publish every device's birth and status."""
        for address, device in self.devices.items():
            birth = encode(birth_of(device, device.position))
            await self.session.publish(device_topic(address, Channel.META), birth, retain=True)
            online = encode(Status(state="online"))
            await self.session.publish(device_topic(address, Channel.STATUS), online, retain=True)

    async def play(self) -> None:
        """Publish everyone's readings once a second until every site's burst is over."""
        began_s = time.monotonic()
        last_s = CALM_S + APART_S * len(self.sites) + PATIENCE_S
        async with asyncio.TaskGroup() as tasks:
            for number, (address, device) in enumerate(self.devices.items()):
                bursts_s = CALM_S + APART_S * self.sites.index(address.site)
                phase_s = number / len(self.devices)
                tasks.create_task(
                    self._measure(address, device, began_s + phase_s, bursts_s, last_s)
                )

    async def _measure(
        self, address: Address, device: Device, began_s: float, bursts_s: float, last_s: float
    ) -> None:
        for seq in range(round(last_s)):
            await asyncio.sleep(max(0.0, began_s + seq - time.monotonic()))
            fallen = FALL_KPA_S * max(0.0, seq - bursts_s)
            values = dict.fromkeys(device.kind.quantities, 10.0)
            values["gas_pressure"] = max(CALM_KPA - fallen, 0.5)
            ts = wall_ms()
            reading = encode(Telemetry(ts=ts, seq=seq, values=values))
            self.published.setdefault((address.site, ts), time.monotonic())
            await self.session.publish(device_topic(address, Channel.TELEMETRY), reading)
            if address.site in self.replied and len(self.replied) == len(self.sites):
                return

    def _receive(self, link: Link, messages: list[Publish]) -> None:
        now_s = time.monotonic()
        for message in messages:
            topic = message.topic.decode()
            if topic.endswith("/command"):
                address, _ = parse_device_topic(topic)
                self._obey(address, decode(Command, message.payload), now_s)
            elif topic.endswith("/reply"):
                self.replied.setdefault(parse_device_topic(topic)[0].site, now_s)
            elif message.payload:
                self._alarm(topic, decode(AlarmEvent, message.payload), now_s)
            link.acknowledge([message.mid])

    def _obey(self, address: Address, command: Command, now_s: float) -> None:
        self.commanded.setdefault(address.site, now_s)
        reply = encode(Reply(id=command.id, ok=True, ts=wall_ms(), detail="closed"))
        answer = self.session.publish(device_topic(address, Channel.REPLY), reply)
        task = asyncio.ensure_future(answer)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    def _alarm(self, topic: str, event: AlarmEvent, now_s: float) -> None:
        address, rule = parse_alarm_topic(topic)
        if rule == "gas-burst" and event.event == "raised":
            self.alarmed.setdefault(address.site, (event.ts, now_s))

    def spans_ms(self) -> dict[str, list[float]]:
        """Per burst how long it took from the reading to each of what followed [ms]."""
        found: dict[str, list[float]] = defaultdict(list)
        for site, (ts, alarm_s) in self.alarmed.items():
            from_s = self.published.get((site, ts))
            if from_s is None or site not in self.replied:
                continue
            ends = alarm_s, self.commanded[site], self.replied[site]
            for name, end_s in zip(("alarm", "command", "reply"), ends, strict=True):
                found[name].append(1000 * (end_s - from_s))
        return found


async def measure(rate: int, bursts: int, folder: Path) -> bool:
    """One round: servers, service, load, bursts; whether every burst was answered."""
    city_file = await asyncio.to_thread(_written, gas_city(bursts), folder / "city.yaml")
    city = load_city(str(city_file))
    async with (
        PrivateMosquitto(folder / "mosquitto", window=20_000) as mosquitto,
        _store(folder) as store,
    ):
        town = Town(city, BrokerAddress("127.0.0.1", mosquitto.port))
        keeper = Timekeeper(town.session, Clock(wall_ms()), city=city.city, seed=1)
        running = [asyncio.create_task(town.session.run())]
        await town.session.ready(patience_s=10)
        await keeper.announce()
        await town.introduce()
        with ingesting(city_file, mosquitto.port, store, folder) as ingest:
            seconds = LOAD_WARM_UP_S + CALM_S + APART_S * bursts + PATIENCE_S
            with loading(rate, mosquitto.port, seconds):
                if rate:
                    await asyncio.sleep(LOAD_WARM_UP_S)
                await town.play()
            ingest.send_signal(signal.SIGTERM)
            summary = json.loads((await asyncio.to_thread(ingest.communicate, timeout=90))[0])
        for task in running:
            task.cancel()
    return report(rate, bursts, town.spans_ms(), summary)


@asynccontextmanager
async def _store(folder: Path) -> AsyncIterator[str]:
    """A store for the readings."""
    if not influxd_version():
        yield "duckdb"
        return
    async with PrivateInfluxd(folder / "influxd") as influxd:
        yield f"influx1://127.0.0.1:{influxd.port}/cityeye"


def _written(city: dict[str, Any], path: Path) -> Path:
    path.parent.mkdir()
    path.write_text(json.dumps(city), encoding="utf-8")
    return path


def report(rate: int, bursts: int, spans: dict[str, list[float]], summary: dict[str, Any]) -> bool:
    """Print a round's figures."""
    count = len(spans["reply"])
    print(f"\nother telemetry {rate:,} messages/s; {count} of {bursts} bursts answered")
    for name, values in spans.items():
        p50, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
        print(
            f"  reading to {name:<8} p50 {p50:6.1f}  p90 {p90:6.1f}  p99 {p99:6.1f}  "
            f"most {max(values):6.1f} ms"
        )
    ledger = summary["ledger"]
    print(f"  received {ledger['received']:,}, pending {ledger['pending']:,}, "
          f"orders {summary['orders']}, actions {summary['actions']}")  # fmt: skip
    return count == bursts


@contextmanager
def ingesting(city: Path, port: int, store: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The shipped `cityeye ingest`, ready to receive."""
    command = shutil.which("cityeye", path=str(Path(sys.executable).parent)) or "cityeye"
    words = ["ingest", "--json", "--log", "warning", "--city", str(city)]
    words += ["--broker", f"mqtt://127.0.0.1:{port}", "--data", str(folder / "data")]
    words += ["--store", store]
    process = subprocess.Popen([command, *words], stdout=subprocess.PIPE, text=True)
    try:
        while not (folder / "data" / "alarms.sqlite").exists():
            if process.poll() is not None:
                raise SystemExit("cityeye ingest ended before it began")
            time.sleep(0.1)
        time.sleep(3.0)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextmanager
def loading(rate: int, port: int, seconds: float) -> Iterator[None]:
    """The fleet of `bench/chain.py`, where a rate is asked for."""
    if not rate:
        yield
        return
    chain = str(Path(__file__).with_name("chain.py"))
    words = ["fleet", str(port), str(LOAD_DEVICES), str(rate), str(seconds)]
    with subprocess.Popen([sys.executable, chain, *words], stdout=subprocess.DEVNULL) as fleet:
        try:
            yield
        finally:
            fleet.kill()


async def rounds(rates: Sequence[int], bursts: int) -> bool:
    """All rounds; whether every burst was answered."""
    complete = True
    with tempfile.TemporaryDirectory(prefix="cityeye-bench-") as folder:
        for number, rate in enumerate(rates):
            complete = await measure(rate, bursts, Path(folder) / str(number)) and complete
    return complete


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bursts", type=int, default=40)
    parser.add_argument(
        "--rates",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[0, 10_000],
        help="messages per second of other telemetry, separated by commas",
    )
    options = parser.parse_args()
    if not mosquitto_version():
        print("the benchmark needs Mosquitto; 'make services' installs it")
        return 1
    print(
        f"machine: {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"Mosquitto {mosquitto_version()}, InfluxDB {influxd_version() or 'none: DuckDB'}; "
        f"load before {os.getloadavg()[0]:.1f}"
    )
    return 0 if uvloop.run(rounds(options.rates, options.bursts)) else 1


if __name__ == "__main__":
    sys.exit(main())
