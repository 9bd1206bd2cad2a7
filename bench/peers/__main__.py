"""CityEye against other tools, in the same run, on the same servers, with the same devices.

    make bench-peers                          both jobs, within a quarter of an hour
    make bench-peers ARGS='--quick'           a small run that shows that everything works
    make bench-peers ARGS='--out FILE'        the page into a file too

The first run installs the peers below `.bench-peers/`. See `bench/peers/README.md`.
"""

import argparse
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import uvloop

from bench.peers.fleets import TOOLS
from bench.peers.ingestjob import IngestJob, services
from bench.peers.loadjob import LoadJob
from bench.peers.report import Results, page
from bench.peers.toolbox import FOLDER, Toolbox
from broker.mosquitto import mosquitto_version
from ingest.influxd import influxd_version

T = TypeVar("T")

QUICK: Final = {
    "sizes": [200], "rates": [1_000], "kill_rate": 1_000, "devices": 500, "rounds": 1, "seconds": 3,
}  # fmt: skip


class Block(NamedTuple):
    """All tools once at one size or rate."""

    name: str
    play: Callable[[bool], Awaitable[None]]
    """Backwards or not: the order alternates from round to round."""


class Comparison:
    """Goes through the blocks, round after round, as long as there is time."""

    def __init__(self, options: argparse.Namespace, toolbox: Toolbox, folder: Path) -> None:
        self.results = Results(options.interval, options.devices)
        self._options = options
        self._toolbox = toolbox
        self._load = LoadJob(toolbox, folder, interval_s=options.interval, seconds=options.seconds)
        self._ingest = IngestJob(toolbox, folder, devices=options.devices, seconds=options.seconds)
        self._began_s = time.monotonic()

    async def run(self) -> None:
        """The first round in full, and of the others what still fits."""
        took_s: dict[str, float] = {}
        for number in range(self._options.rounds):
            for block in self._blocks():
                began_s = time.monotonic()
                left_s = self._options.minutes * 60 - (began_s - self._began_s)
                if number and took_s[block.name] > left_s:
                    note = f"round {number + 1} of {block.name} was left out: no time"
                    self.results.notes.append(note)
                    continue
                print(f"round {number + 1}: {block.name}", file=sys.stderr)
                await block.play(number % 2 == 1)
                took_s[block.name] = time.monotonic() - began_s

    @property
    def minutes(self) -> float:
        """How long it has taken so far."""
        return (time.monotonic() - self._began_s) / 60

    def _blocks(self) -> list[Block]:
        options = self._options
        blocks = []
        if options.only != "ingest":
            blocks += [
                Block(f"load, {size:,} devices", self._playing(size)) for size in options.sizes
            ]
        if options.only != "load":
            blocks += [
                Block(f"ingest, {rate:,}/s", self._feeding(rate, kill=False))
                for rate in options.rates
            ]
            kill = self._feeding(options.kill_rate, kill=True)
            blocks.append(Block(f"kill -9, {options.kill_rate:,}/s", kill))
        return blocks

    def _playing(self, size: int) -> Callable[[bool], Awaitable[None]]:
        async def play(backwards: bool) -> None:  # noqa: FBT001 - a block's interface
            for tool in _ordered(TOOLS, backwards=backwards):
                trial = await self._load.trial(tool, size)
                if trial.connected and tool.title not in self.results.empty_kb:
                    self.results.empty_kb[tool.title] = await self._load.empty_kb(tool)
                self.results.load.append(trial)

        return play

    def _feeding(self, rate: int, *, kill: bool) -> Callable[[bool], Awaitable[None]]:
        async def play(backwards: bool) -> None:  # noqa: FBT001 - a block's interface
            for make in _ordered(services(self._toolbox), backwards=backwards):
                self.results.ingest.append(await self._ingest.trial(make, rate, kill=kill))

        return play


def _ordered(things: Sequence[T], *, backwards: bool) -> list[T]:
    return list(reversed(things)) if backwards else list(things)


def options_of(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line; `--quick` replaces the sizes."""
    parser = argparse.ArgumentParser(prog="bench-peers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small run")
    parser.add_argument("--only", choices=("load", "ingest"), help="one of the jobs")
    parser.add_argument(
        "--sizes",
        type=_numbers,
        default=[1_000, 5_000, 19_000],
        help="devices, separated by commas",
    )
    parser.add_argument("--interval", type=float, default=1.0, help="of each device [s]")
    parser.add_argument(
        "--rates",
        type=_numbers,
        default=[10_000, 20_000, 40_000],
        help="messages/s, separated by commas",
    )
    parser.add_argument("--kill-rate", type=int, default=20_000, help="messages/s at kill -9")
    parser.add_argument("--devices", type=int, default=10_000, help="that feed the services")
    parser.add_argument("--seconds", type=int, default=5, help="samples per trial")
    parser.add_argument("--rounds", type=int, default=3, help="at most; see --minutes")
    parser.add_argument("--minutes", type=float, default=14.0, help="repeat while time is left")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where peers are installed")
    parser.add_argument("--out", type=Path, help="write the page there too")
    options = parser.parse_args(arguments)
    if options.quick:
        for name, value in QUICK.items():
            setattr(options, name, value)
    return options


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> int:
    """Install the peers, compare, print the page."""
    options = options_of(sys.argv[1:])
    if not mosquitto_version() or not influxd_version():
        print("this needs Mosquitto and InfluxDB 1.x; 'make services' installs them")
        return 1
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    toolbox = Toolbox(options.folder)
    toolbox.install()
    with tempfile.TemporaryDirectory(prefix="cityeye-peers-") as folder:
        comparison = Comparison(options, toolbox, Path(folder))
        uvloop.run(comparison.run())
    command = shlex.join(["python", "-m", "bench.peers", *sys.argv[1:]])
    text = page(comparison.results, toolbox, command, comparison.minutes)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
