"""What is measured from outside of a process, in the same way for every tool."""

import asyncio
import os
import platform
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import psutil

SAMPLE_S: Final = 1.0


class Sample(NamedTuple):
    """One second of a run."""

    per_s: float
    """Messages per second."""
    cpu_us: float | None
    """Processor time per message; None in a second without messages."""


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(pid: int) -> float:
    """Processor time of a process and its children so far."""
    total = 0.0
    for process in tree(pid):
        try:
            spent = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += spent.user + spent.system
    return total


def rss_kb(pid: int) -> float:
    """Resident memory of a process and its children."""
    total = 0
    for process in tree(pid):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1024


def descriptors(pid: int) -> int:
    """How many files and sockets a process has open (Linux).

    Since Linux 6.2 the folder's size is their number; reading the folder holds the process up.
    """
    folder = Path(f"/proc/{pid}/fd")
    return folder.stat().st_size or sum(1 for _ in folder.iterdir())


async def samples(
    count: Callable[[], Awaitable[int]], pid: int, seconds: int, ended: Callable[[], bool]
) -> list[Sample]:
    """One sample per second of what `count` counts and of what process `pid` spends."""
    taken: list[Sample] = []
    was, spent_s, at_s = await count(), cpu_s(pid), time.perf_counter()
    while len(taken) < seconds:
        await asyncio.sleep(SAMPLE_S)
        now, now_spent_s, now_s = await count(), cpu_s(pid), time.perf_counter()
        if ended():
            break
        more = now - was
        cpu_us = (now_spent_s - spent_s) / more * 1e6 if more else None
        taken.append(Sample(more / (now_s - at_s), cpu_us))
        was, spent_s, at_s = now, now_spent_s, now_s
    return taken


def spread(numbers: Sequence[float], digits: int = 0) -> str:
    """Median and range, or a dash."""
    if not numbers:
        return "–"
    middle, low, high = (
        f"{number:,.{digits}f}" for number in (median(numbers), min(numbers), max(numbers))
    )
    return middle if low == high else f"{middle} ({low}..{high})"


def costs(taken: Iterable[Sample]) -> list[float]:
    """Processor time per message of the samples that have one [us]."""
    return [sample.cpu_us for sample in taken if sample.cpu_us is not None]


def machine() -> str:
    """The machine, in a line."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory_gib = psutil.virtual_memory().total / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.system()} {platform.release()}"
