"""The load job: every tool plays the same devices against a Mosquitto of its own.

What is compared is measured from outside, in the same way for all: connections at the broker,
messages at an independent subscriber, processor time and memory by the operating system. Only
how many messages were acknowledged, and how fast, is the tool's own word.
"""

import asyncio
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.peers.devices import write_roster
from bench.peers.figures import Sample, descriptors, rss_kb, samples
from bench.peers.fleets import Order, Tool, read_report, roster
from bench.peers.tally import Tally
from bench.peers.toolbox import ROOT, Toolbox
from broker.choice import BrokerAddress
from broker.mosquitto import PrivateMosquitto

WARM_UP_S: Final = 2.0
CONNECT_TIMEOUT_S: Final = 30.0
STALLED_S: Final = 10.0
"""No further connection for so long: it has as many as it gets."""
LOOK_S: Final = 0.002
FIRST_MESSAGE_S: Final = 30.0
END_S: Final = 60.0
LOG: Final = "fleet.log"
SPARE_DESCRIPTORS: Final = 200


class Trial(msgspec.Struct, kw_only=True):
    """One run of one tool."""

    tool: str
    devices: int
    connected: int = 0
    connects_per_s: float | None = None
    samples: list[Sample] = []
    rss_kb: float | None = None
    sent: int | None = None
    acknowledged: int | None = None
    ack_ms: dict[str, float] = {}
    received: int = 0
    repeated: int = 0
    trouble: str | None = None

    @property
    def lost(self) -> int | None:
        """Messages that the broker acknowledged and the subscriber never got."""
        return None if self.acknowledged is None else max(0, self.acknowledged - self.received)


class LoadJob:
    """Runs trials.

    Args:
        toolbox: Where the peers are installed.
        folder: For the brokers' files.
        interval_s: How often each device sends.
        seconds: Samples per trial.
    """

    def __init__(self, toolbox: Toolbox, folder: Path, *, interval_s: float, seconds: int) -> None:
        self._toolbox = toolbox
        self._folder = folder
        self._interval_s = interval_s
        self._seconds = seconds
        self._number = 0

    async def empty_kb(self, tool: Tool) -> float:
        """Resident memory of a tool's process that plays a single device."""
        return (await self.trial(tool, 1)).rss_kb or 0.0

    async def trial(self, tool: Tool, devices: int) -> Trial:
        """Play so many devices with a tool, if it can hold them."""
        trial = Trial(tool=tool.title, devices=devices, trouble=self._why_not(tool, devices))
        if trial.trouble is None:
            self._number += 1
            folder = self._folder / f"load-{self._number}"
            async with PrivateMosquitto(folder) as broker:
                await self._against(broker, tool, trial)
        return trial

    def _why_not(self, tool: Tool, devices: int) -> str | None:
        trouble = self._toolbox.troubles.get(tool.package or "")
        if trouble is not None:
            return f"could not be installed: {trouble}"
        limit = descriptor_limit()
        if devices * tool.descriptors + SPARE_DESCRIPTORS > limit:
            needs = f"{tool.descriptors} descriptors a device"
            return f"needs {needs}; the limit is {limit:,} a process"
        return None

    async def _against(self, broker: PrivateMosquitto, tool: Tool, trial: Trial) -> None:
        names = broker.data_dir / "roster.json"
        write_roster(names, roster(trial.devices, self._interval_s))
        seconds = WARM_UP_S + self._seconds + trial.devices / 5_000 + 3
        order = Order(trial.devices, self._interval_s, broker.port, names, seconds)
        async with Tally(BrokerAddress(broker.host, broker.port)) as tally:
            before = descriptors(broker.pid or 0)
            process = await self._started(tool, order)
            try:
                await connecting(process, trial, lambda: descriptors(broker.pid or 0) - before)
                await self._measure(process, tally, trial)
                printed = await ended(process, tool)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            _told(trial, read_report(tool, printed), order.roster.with_name(LOG))
            await tally.settled(trial.acknowledged or 0)
        trial.received, trial.repeated = tally.distinct, tally.repeated

    async def _started(self, tool: Tool, order: Order) -> asyncio.subprocess.Process:
        log = order.roster.with_name(LOG)
        with log.open("wb") as errors:
            return await asyncio.create_subprocess_exec(
                *tool.command(order, self._toolbox),
                stdout=asyncio.subprocess.PIPE, stderr=errors, cwd=ROOT,
                env={**self._toolbox.environment, **tool.settings(order)},
            )  # fmt: skip

    async def _measure(
        self, process: asyncio.subprocess.Process, tally: Tally, trial: Trial
    ) -> None:
        """Sample once messages flow; memory is read at the end, when it has settled."""
        until_s = time.monotonic() + FIRST_MESSAGE_S
        while (  # noqa: ASYNC110 - the process is watched from outside
            not tally.distinct and process.returncode is None and time.monotonic() < until_s
        ):
            await asyncio.sleep(0.05)
        await asyncio.sleep(WARM_UP_S)
        trial.samples = await samples(
            tally.count, process.pid, self._seconds, lambda: process.returncode is not None
        )
        if process.returncode is None:
            trial.rss_kb = rss_kb(process.pid)


async def connecting(process: asyncio.subprocess.Process, trial: Trial, connections: Any) -> None:
    """Watch how many connections the broker has until all are there, or no more come."""
    began_s = last_s = time.perf_counter()
    before_s, first_s = began_s, 0.0
    while trial.connected < trial.devices and process.returncode is None:
        looked_s = time.perf_counter()
        now = min(connections(), trial.devices)
        at_s = time.perf_counter()
        if now > trial.connected:
            first_s, last_s = first_s or before_s, at_s
            trial.connected = now
        if at_s - began_s > CONNECT_TIMEOUT_S or (first_s and at_s - last_s > STALLED_S):
            break
        before_s = at_s
        await asyncio.sleep(max(LOOK_S, 4 * (at_s - looked_s)))
    if first_s and last_s > first_s and trial.connected > 1:
        trial.connects_per_s = trial.connected / (last_s - first_s)


async def ended(process: asyncio.subprocess.Process, tool: Tool) -> str:
    """What a fleet printed, once it has ended as it does."""
    if tool.stop is not None and process.returncode is None:
        process.send_signal(tool.stop)
    try:
        async with asyncio.timeout(END_S):
            printed, _ = await process.communicate()
    except TimeoutError:
        return ""
    return printed.decode(errors="replace")


def descriptor_limit() -> int:
    """How many files and sockets a process may have open."""
    import resource  # noqa: PLC0415 - not on every system, and only asked for here

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _told(trial: Trial, report: dict[str, Any], log: Path) -> None:
    if not report:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        trial.trouble = f"ended without a report: {said[-1][:200] if said else 'no word'}"
    trial.sent = report.get("sent")
    trial.acknowledged = report.get("acknowledged")
    trial.ack_ms = report.get("ack_ms") or {}
