"""How fast the operators over readings are: python bench/alarm_operators.py.

80,000 series, read in a random order, one core, in batches of 2,400 and of 20,000 readings. Windows
are warm before the clock starts. Each operator works at the interval at which it is used: rates at
2 s, the others at one minute, where every reading of a window with a step of a minute closes a
pane, and one in five of a window with a step of five minutes.
"""

import argparse
import platform
from collections.abc import Callable, Iterator
from datetime import time
from pathlib import Path
from time import process_time
from zoneinfo import ZoneInfo

import numpy as np

from alerts.panes import PaneOperator
from alerts.rates import RateOperator
from alerts.runs import MarkOperator, StuckOperator
from alerts.signals import Arrived, Operator, Shift, Signal, Stat
from city.readings import Flag

SERIES = 80_000
BATCHES = (2_400, 20_000)
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
START_MS = 1_780_272_000_000
INTERVALS = 10
FAULTY = 0.001
STATS: tuple[Stat, ...] = ("mean", "sd", "min", "max", "range")
ZONE = ZoneInfo("Asia/Shanghai")

Make = Callable[[], Operator]


def jobs() -> Iterator[tuple[str, Make, tuple[Signal, ...], int, int]]:
    """Name, operator, signals of every series, interval [ms] and intervals before the clock."""
    every = tuple(windowed(stat, 5) for stat in STATS)
    rate = Signal(stat="rate", quantity="gas_pressure", window_ms=MINUTE_MS)
    short = Signal(stat="rate", quantity="gas_pressure", window_ms=10_000)
    stuck = Signal(stat="stuck", quantity="pm25")
    flagged = Signal(stat="flagged", quantity="pm25", flags="DB")
    shift = Signal(stat="value", quantity="pm25", when=Shift(begins=time(6), ends=time(22)))
    yield "mean, 1 h by 5 min", five_minutes, every[:1], MINUTE_MS, 60
    yield "mean, sd, min, max, range, 1 h by 5 min", five_minutes, every, MINUTE_MS, 60
    yield "mean, 1 h by 1 min", one_minute, (windowed("mean", 1),), MINUTE_MS, 60
    yield "rate, 60 s", lambda: RateOperator(MINUTE_MS), (rate,), 2_000, 30
    yield "rate, 10 s", lambda: RateOperator(10_000), (short,), 2_000, 30
    yield "stuck", StuckOperator, (stuck,), MINUTE_MS, 2
    yield "flagged", lambda: MarkOperator(ZONE), (flagged,), MINUTE_MS, 2
    yield "value in a shift", lambda: MarkOperator(ZONE), (shift,), MINUTE_MS, 2


def windowed(stat: Stat, step_minutes: int) -> Signal:
    """A statistic over the last hour."""
    step_ms = step_minutes * MINUTE_MS
    return Signal(stat=stat, quantity="pm25", window_ms=HOUR_MS, step_ms=step_ms)


def five_minutes() -> Operator:
    """An hour in panes of five minutes."""
    return PaneOperator(HOUR_MS, 5 * MINUTE_MS)


def one_minute() -> Operator:
    """An hour in panes of one minute."""
    return PaneOperator(HOUR_MS, MINUTE_MS)


def batches(size: int, interval_ms: int, rounds: range) -> Iterator[Arrived]:
    """Every series once per round, evenly over the interval."""
    order = np.random.default_rng(1).permutation(SERIES)
    random = np.random.default_rng(rounds.stop)
    for start in range(rounds.start * SERIES, rounds.stop * SERIES, size):
        turn = np.arange(start, min(start + size, rounds.stop * SERIES))
        ts = START_MS + turn * interval_ms // SERIES
        value = np.round(random.normal(35.0, 5.0, len(turn)), 1)
        flag = np.where(random.random(len(turn)) < FAULTY, Flag.D, Flag.N).astype(np.uint8)
        yield Arrived(np.arange(len(turn)), order[turn % SERIES], ts, value, flag)


def speed(make: Make, signals: tuple[Signal, ...], interval_ms: int, warm: int, size: int) -> str:
    """Million readings/s of CPU time in all, in the slowest and fastest interval; and numbers."""
    operator = make()
    for number, signal in enumerate(signals):
        for series in range(SERIES):
            operator.include(series, signal, number * SERIES + series, interval_ms)
    for batch in batches(20_000, interval_ms, range(warm)):
        operator.take(batch)
    spent_s, numbers = [], 0
    for measured in range(warm, warm + INTERVALS):
        work = list(batches(size, interval_ms, range(measured, measured + 1)))
        started = process_time()
        numbers += sum(len(operator.take(batch)) for batch in work)
        spent_s.append(process_time() - started)
    slowest, fastest = (SERIES / end(spent_s) / 1e6 for end in (max, min))
    overall = SERIES * INTERVALS / sum(spent_s) / 1e6
    return f"{overall:>9.2f}{slowest:>9.2f}{fastest:>9.2f}{numbers:>11,}"


def main() -> None:
    """Print machine, versions and rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="operators whose name has this in it")
    only = parser.parse_args().only
    print(f"{processor()}, {platform.system()} {platform.release()}, one core")
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {SERIES:,} series")
    heads = f"{'batch':>7}{'overall':>9}{'slowest':>9}{'fastest':>9}{'numbers':>11}"
    print(f"{'million readings/s':<41}{heads}")
    for name, make, signals, interval_ms, warm in jobs():
        for size in BATCHES if only in name else ():
            print(f"{name:<41}{size:>7,}{speed(make, signals, interval_ms, warm, size)}")


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


if __name__ == "__main__":
    main()
