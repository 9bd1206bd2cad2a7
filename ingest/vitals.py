"""How the service itself is doing: rates, delays, spool, memory and processor, for the store."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import psutil
from hdrh.histogram import HdrHistogram

from ingest.ledger import Ledger

HOUR_US: Final = 3_600_000_000
"""No delay is counted as longer."""

_PERCENTILES: Final = (("p50", 50.0), ("p99", 99.0), ("max", 100.0))
_RATES: Final = ("received", "written", "duplicate", "quarantined", "refused")
_SPOOL_FILES: Final = ("", "-wal")


class Resources(msgspec.Struct, frozen=True):
    """What the process uses of the machine."""

    memory_bytes: int
    cpu_s: float
    spool_bytes: int


def resources(spool: Path) -> Resources:
    """What this process and the spool at that path use now; reads files, so not on the loop."""
    process = psutil.Process()
    used = process.cpu_times()
    files = (spool.with_name(spool.name + ending) for ending in _SPOOL_FILES)
    size = sum(file.stat().st_size for file in files if file.exists())
    return Resources(process.memory_info().rss, used.user + used.system, size)


class Vitals:
    """Delays and counts between one look and the next; the first look has no rates.

    Not safe from several threads.
    """

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._delays = {"accepted": _histogram(), "stored": _histogram()}
        self._before: tuple[float, Ledger, Resources] | None = None

    def accepted(self, delay_us: int, count: int) -> None:
        """So many messages were acknowledged so long after their arrival [us]."""
        self._delays["accepted"].record_value(delay_us, count)

    def stored(self, delay_us: int, count: int) -> None:
        """So many messages were in the store so long after their arrival [us]."""
        self._delays["stored"].record_value(delay_us, count)

    def figures(self, ledger: Ledger, used: Resources) -> dict[str, float | int]:
        """What happened since the last look: rates [1/s], delays [ms], and what is used now."""
        now_s = self._now_s()
        figures: dict[str, float | int] = {
            "memory_bytes": used.memory_bytes,
            "spool_bytes": used.spool_bytes,
            "pending": ledger.pending,
        }
        if self._before is not None and now_s > self._before[0]:
            then_s, earlier, had = self._before
            span_s = now_s - then_s
            figures["cpu_share"] = (used.cpu_s - had.cpu_s) / span_s
            for name in _RATES:
                grown = getattr(ledger, name) - getattr(earlier, name)
                figures[f"{name}_per_s"] = grown / span_s
        self._before = (now_s, ledger, used)
        return figures | self._percentiles()

    def _percentiles(self) -> dict[str, float]:
        """The delays since the last look; none of what did not happen."""
        found = {}
        for name, histogram in self._delays.items():
            if histogram.get_total_count():
                for label, percentile in _PERCENTILES:
                    delay_us = histogram.get_value_at_percentile(percentile)
                    found[f"{name}_{label}_ms"] = delay_us / 1000
            histogram.reset()
        return found


def _histogram() -> HdrHistogram:
    return HdrHistogram(1, HOUR_US, 2)
