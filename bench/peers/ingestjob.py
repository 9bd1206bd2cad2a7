"""The ingest job: the same CityEye fleet feeds each service, which stores in the same InfluxDB.

Every trial has a Mosquitto and an InfluxDB of its own. What is stored is what InfluxDB counts; a
message is lost that the broker acknowledged to a device and that no query finds.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from bench.peers.figures import Sample, descriptors, rss_kb, samples
from bench.peers.fleets import Order, cityeye_fleet, cityeye_report
from bench.peers.services import DATABASE, CityEyeIngest, NodeRed, Service, stopped
from bench.peers.toolbox import ROOT, Toolbox
from broker.mosquitto import PrivateMosquitto
from ingest.influxd import PrivateInfluxd

WINDOW: Final = 20_000
WARM_UP_S: Final = 4.0
CONNECTS_PER_S: Final = 5_000
START_S: Final = 60.0
FLEET_START_S: Final = 4.0
"""`cityeye load` takes so long until its first device connects."""
DOWN_S: Final = 2.0
"""So long a killed service stays away."""
QUIET_S: Final = 5.0
"""Nothing more was stored for so long: nothing more comes."""
DRAIN_S: Final = 60.0
AFTER_KILL_S: Final = 12.0
"""So long devices go on sending after a service was killed: it comes back at full load."""
END_S: Final = 120.0
ROWS: Final = 'SELECT count("seq") FROM /^(air|water|gas|emission)$/'

MakeService = Callable[[int, int, Path], Service]


class IngestTrial(msgspec.Struct, kw_only=True):
    """One run of one service."""

    service: str
    rate: int
    killed: bool = False
    samples: list[Sample] = []
    """Of messages stored."""
    received_per_s: float | None = None
    rss_mb: float | None = None
    acknowledged: int = 0
    stored: int = 0
    drained_s: float | None = None
    """From the fleet's end until the last message was stored."""
    trouble: str | None = None

    @property
    def lost(self) -> int:
        """Messages that the broker acknowledged to a device and that are not in the store."""
        return max(0, self.acknowledged - self.stored)


class Counts:
    """What an InfluxDB 1.x server says of its database."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def create(self) -> None:
        """Make the database."""
        await self._ask("POST", "/query", {"q": f"CREATE DATABASE {DATABASE}"})

    async def written(self) -> int:
        """Points written so far, repeated ones too; costs next to nothing."""
        told = await self._ask("GET", "/debug/vars", {})
        return sum(
            int(part["values"].get("pointsWrittenOK", 0))
            for name, part in told.items()
            if name.startswith("httpd")
        )

    async def rows(self) -> int:
        """Different messages in the store."""
        told = await self._ask("GET", "/query", {"db": DATABASE, "q": ROWS})
        series = told["results"][0].get("series", [])
        return sum(int(one["values"][0][1]) for one in series)

    async def _ask(self, method: str, path: str, params: dict[str, str]) -> dict[str, Any]:
        async with aiohttp.request(method, self._url + path, params=params) as answer:
            answer.raise_for_status()
            told: dict[str, Any] = await answer.json(content_type=None)
            return told


def services(toolbox: Toolbox) -> tuple[MakeService, ...]:
    """The services, CityEye first."""

    def node_red(broker_port: int, store_port: int, folder: Path) -> Service:
        return NodeRed(broker_port, store_port, folder, toolbox)

    return (CityEyeIngest, node_red)


class IngestJob:
    """Runs trials.

    Args:
        toolbox: Where the peers are installed.
        folder: For the servers' files.
        devices: How many devices feed the services.
        seconds: Samples per trial.
    """

    def __init__(self, toolbox: Toolbox, folder: Path, *, devices: int, seconds: int) -> None:
        self._toolbox = toolbox
        self._folder = folder
        self._devices = devices
        self._seconds = seconds
        self._number = 0

    async def trial(self, make: MakeService, rate: int, *, kill: bool = False) -> IngestTrial:
        """Feed one service at a rate [messages/s]; with `kill` it dies in the middle, by SIGKILL."""
        self._number += 1
        folder = self._folder / f"ingest-{self._number}"
        async with (
            PrivateMosquitto(folder / "mosquitto", window=WINDOW) as broker,
            PrivateInfluxd(folder / "influxd") as store,
        ):
            service = make(broker.port, store.port, folder)
            trial = IngestTrial(service=service.title, rate=rate, killed=kill)
            if service.trouble is not None:
                trial.trouble = f"could not be installed: {service.trouble}"
                return trial
            counts = Counts(store.url)
            await counts.create()
            await self._feed(broker, service, counts, trial)
        return trial

    async def _feed(
        self, broker: PrivateMosquitto, service: Service, counts: Counts, trial: IngestTrial
    ) -> None:
        process = await _subscribed(broker, service)
        fleet = None
        try:
            fleet = await self._fleet(broker.port, trial)
            await asyncio.sleep(FLEET_START_S + WARM_UP_S + self._devices / CONNECTS_PER_S)
            if trial.killed:
                process = await self._killed(broker, process, service)
            else:
                await self._measure(process, service, counts, trial)
            async with asyncio.timeout(END_S):
                printed, _ = await fleet.communicate()
            trial.acknowledged = cityeye_report(printed.decode())["acknowledged"] or 0
            await _drained(counts, trial)
            trial.stored = await counts.rows()
        finally:
            if fleet is not None and fleet.returncode is None:
                fleet.kill()
                await fleet.wait()
            await stopped(process)

    async def _fleet(self, port: int, trial: IngestTrial) -> asyncio.subprocess.Process:
        rest_s = AFTER_KILL_S if trial.killed else self._seconds + 1
        seconds = FLEET_START_S + WARM_UP_S + self._devices / CONNECTS_PER_S + rest_s
        interval_s = self._devices / trial.rate
        order = Order(self._devices, interval_s, port, self._folder / "roster.json", seconds)
        return await asyncio.create_subprocess_exec(
            *cityeye_fleet(order, self._toolbox),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, cwd=ROOT,
        )  # fmt: skip

    async def _measure(
        self,
        process: asyncio.subprocess.Process,
        service: Service,
        counts: Counts,
        trial: IngestTrial,
    ) -> None:
        before, before_s = await service.received(), time.perf_counter()
        trial.samples = await samples(
            counts.written, process.pid, self._seconds, lambda: process.returncode is not None
        )
        after, after_s = await service.received(), time.perf_counter()
        trial.rss_mb = rss_kb(process.pid) / 1024
        if before is not None and after is not None:
            trial.received_per_s = (after - before) / (after_s - before_s)

    async def _killed(
        self, broker: PrivateMosquitto, process: asyncio.subprocess.Process, service: Service
    ) -> asyncio.subprocess.Process:
        """The service's next process, after the first one died at full load."""
        process.kill()
        await process.wait()
        await asyncio.sleep(DOWN_S)
        return await _subscribed(broker, service)


async def _subscribed(broker: PrivateMosquitto, service: Service) -> asyncio.subprocess.Process:
    """A service's process, once it has connected to the broker and had time to subscribe."""
    before = descriptors(broker.pid or 0)
    process = await service.start()
    until_s = time.monotonic() + START_S
    while descriptors(broker.pid or 0) <= before:
        if process.returncode is not None or time.monotonic() > until_s:
            print(f"{service.title} does not come up", file=sys.stderr)
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)
    return process


async def _drained(counts: Counts, trial: IngestTrial) -> None:
    """Return when nothing more is stored."""
    began_s = last_s = time.monotonic()
    before = -1
    while last_s - began_s < DRAIN_S and time.monotonic() - last_s < QUIET_S:
        now = await counts.written()
        if now != before:
            before, last_s = now, time.monotonic()
        await asyncio.sleep(0.5)
    trial.drained_s = last_s - began_s
