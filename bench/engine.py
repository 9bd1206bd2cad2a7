"""Cost of the engine: whole intervals of cities of several sizes, and short slices as it runs live.

    python bench/engine.py [--repeats N]

Prints the machine, the versions, and medians over the repeats with the range in brackets.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from city.synthetic import FOUR_QUANTITY_KINDS, synthetic_city
from sensors.engine import CityEngine

START_MS = 1_780_272_000_000
SIZES = (100, 1_000, 10_000, 20_000, 100_000)
SLICE_MS = 50


def main() -> None:
    """Run and print every measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5, help="runs per figure (default 5)")
    repeats = parser.parse_args().repeats
    print(f"{_cpu()}, {platform.system()} {platform.machine()}, one thread")
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {repeats} runs each\n")
    print("Whole intervals of 60 s, all kinds of device")
    for size in SIZES:
        _whole_intervals(size, repeats)
    print(f"\nSlices of {SLICE_MS} ms, interval 1 s, four values per message")
    for size in (1_000, 10_000, 100_000):
        _slices(size, repeats)


def _whole_intervals(size: int, repeats: int) -> None:
    engine = CityEngine(synthetic_city(size, interval_s=60, seed=1), seed=1, start_ms=START_MS)
    span_ms = 60_000 * max(1, min(200, 1_000_000 // size // 4))
    readings, spread = _timed(repeats, span_ms, lambda a, b: _count_readings(engine, a, b))
    rates = [readings / seconds / 1e6 for seconds in spread]
    cost_ns = statistics.median(seconds / readings * 1e9 for seconds in spread)
    print(f"  {size:>7,} devices  {_median(rates)} million readings/s  {cost_ns:5.0f} ns/reading")


def _slices(size: int, repeats: int) -> None:
    city = synthetic_city(size, interval_s=1, seed=1, kinds=FOUR_QUANTITY_KINDS)
    engine = CityEngine(city, seed=1, start_ms=START_MS)
    worst: list[float] = []

    def run(from_ms: int, until_ms: int) -> int:
        messages = 0
        for at_ms in range(from_ms, until_ms, SLICE_MS):
            began_s = time.perf_counter()
            messages += sum(len(frame.rows) for frame in engine.frames(at_ms, at_ms + SLICE_MS))
            worst.append(time.perf_counter() - began_s)
        return messages

    messages, spread = _timed(repeats, 5_000, run)
    costs = [seconds / messages * 1e6 for seconds in spread]
    slowest_ms = statistics.quantiles(worst, n=100)[98] * 1e3
    print(f"  {size:>7,} devices  {_median(costs)} us/message  p99 of a slice {slowest_ms:.2f} ms")


def _count_readings(engine: CityEngine, from_ms: int, until_ms: int) -> int:
    return sum(frame.values.size for frame in engine.frames(from_ms, until_ms))


def _timed(repeats: int, span_ms: int, run: Callable[[int, int], int]) -> tuple[int, list[float]]:
    """What one run counted, and the seconds of each run, every run over time not seen before."""
    run(START_MS - span_ms, START_MS)
    spread = []
    counted = 0
    for number in range(repeats):
        from_ms = START_MS + number * span_ms
        began_s = time.perf_counter()
        counted = run(from_ms, from_ms + span_ms)
        spread.append(time.perf_counter() - began_s)
    return counted, spread


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):6.2f} [{min(values):.2f} to {max(values):.2f}]"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


if __name__ == "__main__":
    main()
