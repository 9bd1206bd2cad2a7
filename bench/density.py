"""What a device and a message of a load test cost as the fleet grows, in one process.

    .venv/bin/python bench/density.py                       100 to 19,000 devices, 1 message/s each
    .venv/bin/python bench/density.py --plot density.svg    the same as a picture

Every size is a fresh process that plays one shard against a fresh Mosquitto: first all devices
connect as fast as they may (10,000/s), then they send for some seconds. Memory is that of the
process after connecting and sending, minus that before it had a city, per device; processor time
is that of whole seconds after all have connected, per message sent, user and system time together;
Mosquitto's is beside it. Medians over the seconds, with their range.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

import msgspec
import psutil
import uvloop

from broker.choice import BrokerAddress
from broker.mosquitto import PrivateMosquitto, mosquitto_version
from load.figures import Delta, merged
from load.plan import LoadPlan, Order, Part, Phase
from load.shard import play_shard

SIZES = (100, 300, 1_000, 3_000, 10_000, 19_000)
CONNECTS_PER_S = 10_000
SETTLING_S = 3.0
SETTLED_PER_S = 2_000
"""So many devices more need a second more until all have connected and sent what they kept."""


class Row(msgspec.Struct, frozen=True):
    """What one size of fleet costs."""

    devices: int
    connects_per_s: float
    """In the second with most of them; a small fleet connects in less than a second."""
    kb_per_device: float
    rate: float
    us_per_message: tuple[float, float, float]
    """Median, lowest and highest second."""
    broker_us_per_message: float
    lateness_ms: tuple[float, float]
    """p50 and p99 of the seconds measured."""
    ack_ms: tuple[float, float]
    lost: int
    """Messages due and not acknowledged in the end."""


class Figures:
    """A shard's line: keeps its words, with the broker's processor time beside each."""

    def __init__(self, broker: psutil.Process) -> None:
        self.words: list[tuple[Delta, float]] = []
        self._broker = broker

    def tell(self, delta: Delta) -> None:
        """Keep it."""
        times = self._broker.cpu_times()
        self.words.append((delta, times.user + times.system))

    def heard(self) -> Sequence[Order]:
        """Nobody orders anything."""
        return ()


async def play(devices: int, seconds: float, interval_s: float) -> Row:
    """Play one fleet; this is a process of its own."""
    with tempfile.TemporaryDirectory(prefix="cityeye-density-") as folder:
        async with PrivateMosquitto(Path(folder) / "mosquitto") as broker:
            settling_s = SETTLING_S + devices / SETTLED_PER_S
            figures = Figures(psutil.Process(broker.pid))
            plan = LoadPlan(
                run="density",
                broker=BrokerAddress(broker.host, broker.port),
                devices=devices,
                interval_s=interval_s,
                ramp_s=devices / CONNECTS_PER_S,
                phases=(Phase(name="steady", for_s=settling_s + seconds),),
                kinds=("air-micro", "air-gas"),
                seed=1,
                city_start_ms=1_795_413_600_000,
            )
            start_ms = time.time_ns() // 1_000_000 + 500 + devices // 10
            steady_ms = start_ms + round(1000 * (plan.ramp_s + settling_s))
            await play_shard(plan, Part(0, 1, start_ms), figures)
            return _row(plan, figures.words, steady_ms)


def _row(plan: LoadPlan, words: list[tuple[Delta, float]], steady_ms: int) -> Row:
    steady = [
        place
        for place, (delta, _) in enumerate(words)
        if delta.at_ms > steady_ms and delta.counts.get("due") and not delta.last
    ][1:]
    costs = [words[place][0].cpu_s / words[place][0].counts["sent"] * 1e6 for place in steady]
    sent = sum(words[place][0].counts["sent"] for place in steady)
    first, last = steady[0], steady[-1]
    seconds = (words[last][0].at_ms - words[first - 1][0].at_ms) / 1000
    end = words[last][0]
    counts = {name: sum(d.counts.get(name, 0) for d, _ in words) for name in ("due", "acked")}
    return Row(
        devices=plan.devices,
        connects_per_s=max(delta.counts.get("connects", 0) for delta, _ in words),
        kb_per_device=(end.rss_bytes - end.empty_rss_bytes) / 1024 / plan.devices,
        rate=sent / seconds,
        us_per_message=(median(costs), min(costs), max(costs)),
        broker_us_per_message=(words[last][1] - words[first - 1][1]) / sent * 1e6,
        lateness_ms=_percentiles(words, steady, "lateness"),
        ack_ms=_percentiles(words, steady, "ack"),
        lost=counts["due"] - counts["acked"],
    )


def _percentiles(
    words: list[tuple[Delta, float]], places: list[int], stage: str
) -> tuple[float, float]:
    total = merged(words[place][0].delays[stage] for place in places)
    p50, p99 = (total.get_value_at_percentile(share) / 1000 for share in (50, 99))
    return p50, p99


def shown(row: Row) -> str:
    """A row of the table."""
    middle, low, high = row.us_per_message
    return (
        f"{row.devices:>7,} {row.connects_per_s:>11,.0f} {row.kb_per_device:>10.1f} "
        f"{row.rate:>9,.0f} {middle:>8.1f} ({low:.1f}..{high:.1f})".ljust(64)
        + f"{row.broker_us_per_message:>9.1f} "
        f"{row.lateness_ms[0]:>6.1f} {row.lateness_ms[1]:>6.1f} "
        f"{row.ack_ms[0]:>6.1f} {row.ack_ms[1]:>6.1f} {row.lost:>5}"
    )


HEAD = (
    "devices  connects/s  KB/device     msg/s  CPU us/msg (range)".ljust(64)
    + "Mosquitto  late p50/p99   ack p50/p99  lost\n"
)


def draw(rows: Sequence[Row], path: Path) -> None:
    """The costs over the size of the fleet, as a picture."""
    import matplotlib as mpl  # noqa: PLC0415 - only where a picture is wanted

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of what draws

    sizes = [row.devices for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(sizes, [row.us_per_message[0] for row in rows], "o-", label="generator")
    left.fill_between(
        sizes,
        [row.us_per_message[1] for row in rows],
        [row.us_per_message[2] for row in rows],
        alpha=0.2,
    )
    left.plot(sizes, [row.broker_us_per_message for row in rows], "s--", label="Mosquitto")
    left.set(xscale="log", xlabel="devices", ylabel="CPU per message [us]", ylim=(0, None))
    left.legend()
    right.plot(sizes, [row.kb_per_device for row in rows], "o-")
    right.set(xscale="log", xlabel="devices", ylabel="memory per device [KB]", ylim=(0, None))
    for axes in (left, right):
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(path)


def _machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    return f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def main() -> int:
    """Run the benchmark, or one of its processes."""
    if sys.argv[1:2] == ["fleet"]:
        devices, seconds, interval_s = sys.argv[2:5]
        row = uvloop.run(play(int(devices), float(seconds), float(interval_s)))
        print(msgspec.json.encode(row).decode())
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes", type=lambda text: [int(part) for part in text.split(",")], default=list(SIZES)
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="measured per size")
    parser.add_argument("--interval", type=float, default=1.0, help="of each device [s]")
    parser.add_argument("--plot", type=Path, help="a picture: .svg or .png")
    options = parser.parse_args()
    if not mosquitto_version():
        print("the benchmark needs Mosquitto; 'make services' installs it")
        return 1
    print(f"machine: {_machine()}, Python {platform.python_version()}")
    print(
        f"versions: CityEye {version('cityeye')}, Mosquitto {mosquitto_version()}, "
        f"uvloop {version('uvloop')}, msgspec {version('msgspec')}"
    )
    print(f"job: 4 values each, QoS 1, a message every {options.interval:g} s\n\n{HEAD}", end="")
    rows = []
    for devices in options.sizes:
        arguments = ["fleet", str(devices), str(options.seconds), str(options.interval)]
        told = subprocess.run(
            [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True
        )
        rows.append(msgspec.json.decode(told.stdout.splitlines()[-1], type=Row))
        print(shown(rows[-1]), flush=True)
    if options.plot:
        draw(rows, options.plot)
    return 1 if any(row.lost for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
