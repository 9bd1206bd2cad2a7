"""The whole chain on this machine: devices, Mosquitto, ingest with alarms and spool, InfluxDB.

    make bench                                  10,000 devices at 10,000 to 40,000 messages/s
    make bench ARGS='--rates 30000 --seconds 60'

Every part is a process of its own: the fleet (this script), Mosquitto, `cityeye ingest`, InfluxDB.
The rates go up until the chain breaks, and the knee is named. Per rate it prints what was sent,
received and stored per second (median and range of one-second samples), the processor time that
each process spent per message received, how long messages took from arrival at ingest to
acknowledgement and to the store, and at the end the ledger.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import uvloop

from broker.choice import BrokerAddress
from broker.mosquitto import PrivateMosquitto, mosquitto_version
from broker.session import Session
from city.clock import Clock, wall_ms
from city.synthetic import synthetic_city
from cli.logs import start_logging
from ingest.influxd import PrivateInfluxd, influxd_version
from sensors.engine import CityEngine
from sensors.fleet import Fleet
from sensors.timekeeper import Timekeeper

WINDOW = 20_000
WARM_UP_S = 4.0
QUIET_S = 60.0
HELD = 0.97
"""A rate is held when the median second received so much of it."""


async def play_fleet(port: int, devices: int, rate: float, seconds: float) -> None:
    """The fleet's process: so many devices of four values at so many messages/s together."""
    interval_s = devices / rate
    city = synthetic_city(devices, interval_s=interval_s, seed=1, kinds=("air-micro", "air-gas"))
    address = BrokerAddress("127.0.0.1", port)
    session = Session(address, client_id="bench-clock", clean=True)
    ticking = [asyncio.create_task(session.run())]
    await session.ready(patience_s=10)
    start_ms = wall_ms()
    engine = CityEngine(city, seed=1, start_ms=start_ms)
    clock = Clock(start_ms)
    keeper = Timekeeper(session, clock, city=city.city, seed=1)
    await keeper.announce()
    ticking.append(asyncio.create_task(keeper.run()))
    fleet = Fleet(engine, clock, address)
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
    await fleet.run(until_ms=start_ms + round(seconds * 1000))
    waiting = fleet.waiting
    done = await fleet.leave()
    print(
        json.dumps(
            {
                "online": fleet.connects,
                "sent": fleet.messages,
                "acknowledged": fleet.acknowledged,
                "dropped": fleet.dropped,
                "waiting_at_end": waiting,
                "late_ms_max": round(fleet.late_ms_max, 1),
                "done": done,
            }
        )
    )
    for task in ticking:
        task.cancel()


class Ledger:
    """Reads the ledger that the ingest's process keeps in its spool."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool

    def read(self) -> tuple[int, int]:
        """Messages received and written so far."""
        with sqlite3.connect(f"file:{self._spool}?mode=ro", uri=True) as database:
            counts = dict(database.execute("SELECT fate, sum(count) FROM ledger GROUP BY fate"))
        return counts.get("received", 0), counts.get("written", 0)


def cpu_s(processes: dict[str, psutil.Process]) -> dict[str, float]:
    """Processor time of each process so far."""
    times = {name: process.cpu_times() for name, process in processes.items()}
    return {name: spent.user + spent.system for name, spent in times.items()}


def spread(samples: list[float]) -> str:
    """Median and range."""
    return f"{median(samples):,.0f} ({min(samples):,.0f}..{max(samples):,.0f})"


def step(
    rate: int, options: argparse.Namespace, port: int, ledger: Ledger, processes: dict[str, Any]
) -> dict[str, Any]:
    """One rate: start a fleet, let it settle, sample every second."""
    total_s = WARM_UP_S + options.devices / 5_000 + options.seconds + 1
    arguments = ["fleet", str(port), str(options.devices), str(rate), str(total_s)]
    fleet = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True
    )
    running = processes | {"fleet": psutil.Process(fleet.pid)}
    before = ledger.read()[0]
    while ledger.read()[0] == before:
        time.sleep(0.1)
    time.sleep(WARM_UP_S + options.devices / 5_000)
    received, written, costs = [], [], []
    was, spent, at_s = ledger.read(), cpu_s(running), time.perf_counter()
    first, first_spent = was, spent
    for _ in range(options.seconds):
        time.sleep(1.0)
        now, now_s = ledger.read(), time.perf_counter()
        received.append((now[0] - was[0]) / (now_s - at_s))
        written.append((now[1] - was[1]) / (now_s - at_s))
        used = cpu_s(running)
        if now[0] > was[0]:
            costs.append((used["ingest"] - spent["ingest"]) / (now[0] - was[0]) * 1e6)
        was, spent, at_s = now, used, now_s
    count = max(1, was[0] - first[0])
    behind = was[0] - was[1]
    end: dict[str, Any] = json.loads(fleet.communicate(timeout=QUIET_S)[0])
    _drain(ledger)
    each = {name: (spent[name] - first_spent[name]) / count * 1e6 for name in running}
    print(
        f"{rate:>7,}  received/s {spread(received):<28} written/s {spread(written):<28}\n"
        f"         us of CPU per message: "
        + ", ".join(f"{name} {us:.1f}" for name, us in each.items())
        + f"; ingest by the second {median(costs):.1f} ({min(costs):.1f}..{max(costs):.1f})\n"
        f"         fleet: sent {end['sent']:,}, acknowledged {end['acknowledged']:,}, dropped "
        f"{end['dropped']:,}, waiting at the end {end['waiting_at_end']:,}, latest send "
        f"{end['late_ms_max']:.0f} ms late; not yet written at the end {behind:,}"
    )
    return end | {
        "rate": rate,
        "received_per_s": median(received),
        "ingest_us": each["ingest"],
        "together_us": sum(each.values()),
    }


def knee(steps: list[dict[str, Any]]) -> str:
    """Where the chain breaks: the highest rate that it held, the first that it did not, and why."""
    held = [one for one in steps if one["received_per_s"] >= HELD * one["rate"]]
    broken = [one for one in steps if one not in held]
    if not broken:
        return f"knee: above {max(one['rate'] for one in held):,}/s, the highest rate offered"
    first = min(broken, key=lambda one: one["rate"])
    busy = first["received_per_s"] * first["together_us"] / 1e6
    most = max(one["received_per_s"] for one in steps)
    return (
        f"knee: {most:,.0f} messages/s at most; offered {first['rate']:,}/s, "
        f"{first['received_per_s']:,.0f}/s were received, with {busy:.2f} of {os.cpu_count()} "
        f"cores spent on {first['together_us']:.0f} us per message"
        + (f"; {max(one['rate'] for one in held):,}/s were held" if held else "")
    )


def _drain(ledger: Ledger) -> None:
    """Wait until what was received is written and nothing more arrives."""
    deadline_s = time.monotonic() + QUIET_S
    was = (-1, -1)
    while time.monotonic() < deadline_s:
        now = ledger.read()
        if now[0] == now[1] and now == was:
            return
        was = now
        time.sleep(0.5)


@contextmanager
def ingesting(broker_port: int, store_port: int, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The real `cityeye ingest`, which prints its summary when it is told to stop."""
    command = shutil.which("cityeye", path=str(Path(sys.executable).parent)) or "cityeye"
    process = subprocess.Popen(
        [
            command, "ingest", "--every-city", "--json", "--log", "warning",
            "--broker", f"mqtt://127.0.0.1:{broker_port}",
            "--store", f"influx1://127.0.0.1:{store_port}/cityeye",
            "--data", str(folder / "ingest"),
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


async def measure(options: argparse.Namespace, folder: Path) -> int:
    """Start the servers, go through the rates, print what comes out."""
    async with (
        PrivateMosquitto(folder / "mosquitto", window=WINDOW) as mosquitto,
        PrivateInfluxd(folder / "influxd") as influxd,
    ):
        return await asyncio.to_thread(_through_rates, options, folder, mosquitto, influxd)


def _through_rates(
    options: argparse.Namespace, folder: Path, mosquitto: PrivateMosquitto, influxd: PrivateInfluxd
) -> int:
    with ingesting(mosquitto.port, influxd.port, folder) as ingest:
        spool = folder / "ingest" / "spool.sqlite"
        while not spool.exists():
            if ingest.poll() is not None:
                raise SystemExit("cityeye ingest ended before it began")
            time.sleep(0.1)
        time.sleep(1.0)
        processes = {
            "ingest": psutil.Process(ingest.pid),
            "mosquitto": _child("mosquitto"),
            "influxd": _child("influxd"),
        }
        steps = [
            step(rate, options, mosquitto.port, Ledger(spool), processes) for rate in options.rates
        ]
        rss_mb = processes["ingest"].memory_info().rss / 1e6
        ingest.send_signal(signal.SIGTERM)
        summary = json.loads(ingest.communicate(timeout=QUIET_S)[0])
    print(f"\n{knee(steps)}")
    ledger = summary["ledger"]
    sent = sum(one["acknowledged"] for one in steps)
    lost = sent - ledger["written"] - ledger["refused"]
    print(f"\nlatency since arrival at ingest [ms]: {summary['latency_ms']}")
    print(f"ingest resident at the end: {rss_mb:.0f} MB, {summary['devices']:,} devices")
    print(f"ledger: {ledger}")
    print(f"acknowledged to devices {sent:,}, received {ledger['received']:,}, lost {lost:,}")
    return 1 if lost > 0 or ledger["pending"] else 0


def _child(name: str) -> psutil.Process:
    """The server of that name that we have started."""
    return next(p for p in psutil.Process().children(recursive=True) if p.name() == name)


def _machine() -> str:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":")[1].strip()
            break
    return f"{model}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"


def main() -> int:
    """Run the benchmark, or one of its processes."""
    if sys.argv[1:2] == ["fleet"]:
        start_logging("info")
        port, devices, rate, seconds = sys.argv[2:6]
        uvloop.run(play_fleet(int(port), int(devices), float(rate), float(seconds)))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=15, help="samples per rate")
    parser.add_argument(
        "--rates",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[10_000, 20_000, 30_000, 40_000],
        help="messages per second, separated by commas",
    )
    options = parser.parse_args()
    if not mosquitto_version() or not influxd_version():
        print("the benchmark needs Mosquitto and InfluxDB 1.x; 'make services' installs them")
        return 1
    print(f"machine: {_machine()}, Python {platform.python_version()}")
    print(
        f"versions: CityEye {version('cityeye')}, Mosquitto {mosquitto_version()}, "
        f"InfluxDB {influxd_version()}, uvloop {version('uvloop')}, msgspec {version('msgspec')}"
    )
    print(f"job: {options.devices:,} devices, 4 values each, QoS 1, window {WINDOW:,}, spool on\n")
    with tempfile.TemporaryDirectory(prefix="cityeye-bench-") as folder:
        return asyncio.run(measure(options, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
