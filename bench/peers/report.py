"""The page that a comparison ends in."""

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version

import msgspec

from bench.peers.figures import machine
from bench.peers.ingestjob import IngestTrial
from bench.peers.loadjob import Trial
from bench.peers.tables import ingest_table, kill_table, load_table
from bench.peers.toolbox import ABSENT, PACKAGES, Toolbox
from broker.mosquitto import mosquitto_version
from ingest.influxd import influxd_version


class Results(msgspec.Struct):
    """Everything that was measured."""

    interval_s: float
    devices: int
    """That fed the services."""
    load: list[Trial] = []
    ingest: list[IngestTrial] = []
    empty_kb: dict[str, float] = {}
    """Resident memory of each tool with one device."""
    notes: list[str] = []


def page(results: Results, toolbox: Toolbox, command: str, minutes: float) -> str:
    """The results as Markdown."""
    return "\n\n".join(_parts(results, toolbox, command, minutes)) + "\n"


def versions(toolbox: Toolbox) -> str:
    """What was installed, in a line."""
    found = {package.name: toolbox.installed(package) for package in PACKAGES}
    peers = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    return (
        f"CityEye {version('cityeye')}, Mosquitto {mosquitto_version()}, "
        f"InfluxDB {influxd_version()}, Python {platform.python_version()}, {peers}"
    )


def absent(troubles: Mapping[str, str]) -> str:
    """Which tools are missing from the tables, and why."""
    missing = dict(ABSENT) | {
        name: f"could not be installed: {why}" for name, why in troubles.items()
    }
    return "\n".join(f"- {name}: {why}" for name, why in missing.items())


def _parts(results: Results, toolbox: Toolbox, command: str, minutes: float) -> Iterator[str]:
    yield (
        f"Machine: {machine()}. Versions: {versions(toolbox)}. Command: `{command}`, "
        f"{minutes:.0f} minutes. Numbers are medians with (least..greatest) of one-second samples "
        "of all rounds; ratios are medians by CityEye's median. Every trial has servers of its "
        "own, on 127.0.0.1; how each peer is set up, and why: `bench/peers/README.md`."
    )
    if results.load:
        yield (
            "**Load job.** Each device sends 4 values every "
            f"{results.interval_s:g} s at QoS 1; memory is that of the process less that of the "
            "same process with one device; an independent subscriber counts what arrives."
        )
        yield load_table(results.load, results.empty_kb, results.interval_s)
    if any(not trial.killed for trial in results.ingest):
        yield (
            f"**Ingest job.** {results.devices:,} CityEye devices feed the service; it stores in "
            "InfluxDB."
        )
        yield ingest_table(results.ingest)
    if any(trial.killed for trial in results.ingest):
        yield "**`kill -9` of the service at full load, started again after two seconds.**"
        yield kill_table(results.ingest)
    yield "Not compared:\n\n" + absent(toolbox.troubles)
    if results.notes:
        yield "\n".join(f"- {note}" for note in results.notes)
