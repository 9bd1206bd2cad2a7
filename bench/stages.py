"""Where ingest's time goes: the processor time of each stage, per message of four values.

    .venv/bin/python bench/stages.py

One process, no network: 10,000 devices, groups of 600 messages as they come at 30,000 a second.
Medians of the rounds, with their range.
"""

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from alerts.engine import AlarmEngine
from alerts.rules import load_packs
from broker import codec
from broker.topics import Channel, device_topic
from city.clock import wall_ms
from city.synthetic import synthetic_city
from ingest.intake import Intake, Taken
from ingest.lineprotocol import encode
from ingest.spool import Group, Spool

DEVICES = 10_000
GROUP = 600
ROUNDS = 5


def wire(seq: int, now_ms: int) -> list[bytes]:
    """One message of every device, in chunks as the network would bring a group."""
    city = synthetic_city(DEVICES, interval_s=1.0, seed=1, kinds=("air-micro", "air-gas"))
    packets = []
    for number, device in enumerate(city.devices()):
        values = dict.fromkeys(device.kind.quantities, 5.0 + number % 17 / 10)
        payload = json.dumps({"ts": now_ms + seq, "seq": seq, "values": values}).encode()
        topic = codec.field(device_topic(device.address, Channel.TELEMETRY))
        packets.append(codec.publish(topic, payload, mid=number % 60_000 + 1))
    edges = [*range(0, len(packets), GROUP), len(packets)]
    return [b"".join(packets[start:stop]) for start, stop in pairwise(edges)]


class Stages:
    """The stages of ingest, fed one after the other."""

    def __init__(self, folder: Path) -> None:
        self.decoder = codec.Decoder()
        self.intake = Intake()
        self.engine = AlarmEngine(load_packs())
        self.spool = Spool(folder / "spool.sqlite")
        self.spent: dict[str, float] = {}

    def round(self, chunks: list[bytes]) -> dict[str, float]:
        """Processor time of each stage for one round [us per message]."""
        self.spent = {}
        for chunk in chunks:
            packets = self._timed("MQTT decoding", self.decoder.feed, chunk)
            taken: Taken = self._timed("intake", self.intake.take, [packets])
            self._timed("alarms", self.engine.evaluate, taken.batch)
            number = self._timed("spool, append", self.spool.append, Group(taken.messages))
            self._timed("acknowledgements", codec.pubacks, [packet.mid for packet in packets])
            self._timed("line protocol", encode, taken.points)
            self._timed("spool, settle", self._settle, number, len(taken.messages))
        return {stage: spent / DEVICES * 1e6 for stage, spent in self.spent.items()}

    def _settle(self, number: int, written: int) -> None:
        self.spool.settle(number, written=written)

    def _timed(self, stage: str, work: Callable[..., Any], *inputs: Any) -> Any:
        began = time.process_time()
        result = work(*inputs)
        self.spent[stage] = self.spent.get(stage, 0.0) + time.process_time() - began
        return result


def rounds(stages: Stages) -> Iterator[dict[str, float]]:
    """Rounds after one that introduces the devices."""
    now_ms = wall_ms()
    for seq in range(ROUNDS + 1):
        spent = stages.round(wire(seq, now_ms))
        if seq:
            yield spent


def main() -> int:
    """Measure and print the table."""
    print(f"Python {platform.python_version()}, msgspec {version('msgspec')}, "
          f"numpy {version('numpy')}; {DEVICES:,} devices, groups of {GROUP}")  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="cityeye-bench-") as folder:
        results = list(rounds(Stages(Path(folder))))
    for stage in results[0]:
        samples = [result[stage] for result in results]
        print(f"{stage:<18} {median(samples):5.2f} us  ({min(samples):.2f}..{max(samples):.2f})")
    totals = [sum(result.values()) for result in results]
    print(f"{'together':<18} {median(totals):5.2f} us  ({min(totals):.2f}..{max(totals):.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
