"""How fast the alarm engine is on plain limits: python bench/alarm_engine.py.

80,000 series with one four-limit rule each, read in a random order, one core. The loads: no reading
crosses a limit, in large and in small batches; one in a hundred does; and all alarms stand while
readings stay above their limits. Then the shipped packs on 2,000 devices of four values, or of as
many as --devices says: what it costs to meet them, and their readings. The peer is the plainest program for the same job: a Python loop that compares each
reading with its limits and keeps no state.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alerts.engine import AlarmEngine
from alerts.rules import RuleSet, load_packs, pack_of
from alerts.state import pack
from city.cityfile import Address
from city.documents import Document
from city.readings import ReadingBatch, SeriesTable
from city.synthetic import FOUR_QUANTITY_KINDS, synthetic_city
from sensors.device import birth_of

SERIES = 80_000
READINGS = 1_000_000
LARGE, SMALL = 20_000, 800
ROUNDS = 5
PACK = """
pack: bench
title: One rule with four limits
standard: none
rules:
  - id: pressure
    quantity: gas_pressure
    unit: kPa
    low_low: {limit: 75, severity: critical, deadband: 1}
    low: {limit: 85, severity: high, deadband: 1}
    high: {limit: 105, severity: high, deadband: 1}
    high_high: {limit: 110, severity: critical, deadband: 1}
"""


def series_table() -> SeriesTable:
    """A table with `SERIES` series of as many devices."""
    table = SeriesTable()
    for number in range(SERIES):
        address = Address("city", f"d{number % 10}", "gas", f"s{number // 10}", f"n{number}")
        table.index(address, "gas_pressure")
    return table


def batches(
    table: SeriesTable, *, size: int = LARGE, level: float = 95.0, crossing: float = 0.0
) -> list[ReadingBatch]:
    """Readings about `level`, the given share of them above the H limit, all series in turn."""
    random = np.random.default_rng(1)
    order = random.permutation(SERIES).astype(np.int32)
    made = []
    for start in range(0, READINGS, size):
        value = level + random.uniform(-2, 2, size)
        value[random.random(size) < crossing] = 107.0
        turn = np.arange(start, start + size)
        ts = 1_000 * (turn // SERIES)
        flag = np.zeros(size, dtype=np.uint8)
        made.append(ReadingBatch(table, order[turn % SERIES], ts, value, flag))
    return made


def engine_pass(work: list[ReadingBatch]) -> tuple[float, int]:
    """CPU seconds that a new engine needs for `work` after all series are known, and its events."""
    engine = AlarmEngine(RuleSet((pack_of(Document(PACK, "bench")),)))
    warm = SERIES // len(work[0])
    for batch in work[:warm]:
        engine.evaluate(batch)
    started = time.process_time()
    events = sum(len(engine.evaluate(batch)) for batch in work[warm:])
    return time.process_time() - started, events


def loop_pass(work: list[ReadingBatch]) -> tuple[float, int]:
    """The same for the peer."""
    limits = [(75.0, 85.0, 105.0, 110.0)] * SERIES
    started = time.process_time()
    crossed = 0
    for batch in work[SERIES // len(work[0]) :]:
        for series, value in zip(batch.series.tolist(), batch.value.tolist(), strict=True):
            low_low, low, high, high_high = limits[series]
            if value > high or value < low or value > high_high or value < low_low:
                crossed += 1
    return time.process_time() - started, crossed


def shipped(devices: int) -> None:
    """Print what the shipped packs cost on a synthetic city."""
    city = synthetic_city(devices, interval_s=5.0, seed=1, kinds=FOUR_QUANTITY_KINDS)
    table, engine = SeriesTable(), AlarmEngine(load_packs())
    for device in city.devices():
        for quantity in device.kind.quantities:
            table.index(device.address, quantity)
        engine.learn(device.address, birth_of(device, device.position))
    count, random = len(table), np.random.default_rng(1)
    series, flag = np.arange(count, dtype=np.int32), np.zeros(count, dtype=np.uint8)

    def batch(turn: int) -> ReadingBatch:
        ts = np.full(count, 1_795_413_600_000 + 5_000 * turn, dtype=np.int64)
        return ReadingBatch(table, series, ts, random.uniform(5.0, 6.0, count), flag)

    started = time.process_time()
    engine.evaluate(batch(0))
    bound = time.process_time()
    turns = [batch(turn) for turn in range(1, 40)]
    read = time.process_time()
    events = sum(len(engine.evaluate(turn)) for turn in turns)
    ended = time.process_time()
    state = engine.capture()
    captured = time.process_time()
    size = len(pack(state))
    packed = time.process_time()
    rate = count * len(turns) / (ended - read)
    print(f"shipped packs, {devices:,} devices, {count:,} series:")
    print(f"  met in {bound - started:.2f} s, then {rate / 1e6:.2f} million readings/s, ", end="")
    print(f"{events} events; captured in {1000 * (captured - ended):.0f} ms, ", end="")
    print(f"packed in {1000 * (packed - captured):.0f} ms to {size / 1e6:.1f} MB")


def report(name: str, job: Callable[[], tuple[float, int]]) -> float:
    """Print one line about `job`, repeated; return its median rate [readings/s]."""
    runs = [job() for _ in range(ROUNDS)]
    rates = sorted((READINGS - SERIES) / seconds for seconds, _ in runs)
    median = statistics.median(rates)
    spread = f"{rates[0] / 1e6:.2f} to {rates[-1] / 1e6:.2f}"
    print(f"{name:<44}{median / 1e6:>8.2f}   {spread:<18}{runs[0][1]:>8}")
    return median


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def main() -> None:
    """Print machine, versions and rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=2_000, help="with the shipped packs")
    options = parser.parse_args()
    print(f"{processor()}, {platform.system()} {platform.release()}")
    print(f"Python {platform.python_version()}, numpy {np.__version__}")
    print(
        f"{SERIES:,} series, {ROUNDS} rounds of {READINGS - SERIES:,} readings, CPU time, one core"
    )
    print(f"{'million readings/s':<44}{'median':>8}   {'lowest to highest':<18}{'events':>8}")
    table = series_table()
    quiet = batches(table)
    engine = report(f"nothing crosses, batches of {LARGE:,}", lambda: engine_pass(quiet))
    small = batches(table, size=SMALL)
    report(f"nothing crosses, batches of {SMALL:,}", lambda: engine_pass(small))
    some = batches(table, crossing=0.01)
    report("1 % of the readings cross", lambda: engine_pass(some))
    above = batches(table, level=107.0)
    report("every alarm stands", lambda: engine_pass(above))
    loop = report("plain Python loop, nothing crosses", lambda: loop_pass(quiet))
    print(f"engine to plain loop: {engine / loop:.1f} to 1")
    shipped(options.devices)


if __name__ == "__main__":
    main()
