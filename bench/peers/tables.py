"""The results as Markdown, each with its ratio to CityEye's median."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Final

from bench.peers.figures import costs, spread
from bench.peers.ingestjob import IngestTrial
from bench.peers.loadjob import Trial

LOAD_COLUMNS: Final = (
    "tool", "devices", "connected", "connects/s", "messages/s (of those wanted)",
    "CPU us/message", "ratio", "KB/device", "ratio", "publish to ack p50 / p99 [ms]",
    "acknowledged", "lost",
)  # fmt: skip

INGEST_COLUMNS: Final = (
    "service", "wanted/s", "received/s", "stored/s", "CPU us/message", "ratio", "resident MB",
    "stored after the end [s]", "acknowledged to devices", "lost",
)  # fmt: skip

KILL_COLUMNS: Final = (
    "service", "at messages/s", "acknowledged to devices", "stored", "lost", "lost share",
)  # fmt: skip


def load_table(trials: Sequence[Trial], empty_kb: Mapping[str, float], interval_s: float) -> str:
    """A row per tool and number of devices; CityEye is the first tool of each number."""
    return table(LOAD_COLUMNS, _load_rows(trials, empty_kb, interval_s))


def ingest_table(trials: Sequence[IngestTrial]) -> str:
    """A row per service and rate, for trials in which nobody was killed."""
    return table(INGEST_COLUMNS, _ingest_rows([one for one in trials if not one.killed]))


def kill_table(trials: Sequence[IngestTrial]) -> str:
    """A row per service: what was lost when it was killed at full load."""
    return table(KILL_COLUMNS, _kill_rows([one for one in trials if one.killed]))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; what would end a cell is escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def ratio(numbers: Sequence[float], reference: Sequence[float]) -> str:
    """How many times the reference's median, or a dash."""
    if not numbers or not reference or not median(reference):
        return "–"
    return f"{median(numbers) / median(reference):.1f}"


def _load_rows(
    trials: Sequence[Trial], empty_kb: Mapping[str, float], interval_s: float
) -> Iterator[list[str]]:
    for devices in dict.fromkeys(trial.devices for trial in trials):
        here = [trial for trial in trials if trial.devices == devices]
        names = sorted({trial.tool for trial in here}, key=[trial.tool for trial in trials].index)
        first_costs: list[float] = []
        first_kb: list[float] = []
        for name in names:
            mine = [trial for trial in here if trial.tool == name]
            spent = _costs(mine)
            memory = _per_device_kb(mine, empty_kb.get(name, 0.0))
            if name == names[0]:
                first_costs, first_kb = spent, memory
            yield [
                name, f"{devices:,}", *_of_load(mine, devices / interval_s),
                spread(spent, 1), ratio(spent, first_costs),
                spread(memory, 1), ratio(memory, first_kb), *_word(mine),
            ]  # fmt: skip


def _of_load(mine: Sequence[Trial], wanted_per_s: float) -> list[str]:
    """Connections and rate; instead of them, why there are none."""
    ran = [trial for trial in mine if trial.connected]
    if not ran:
        return [mine[0].trouble or "no connection", "–", "–"]
    rates = [sample.per_s for trial in ran for sample in trial.samples]
    share = f", {median(rates) / wanted_per_s:.0%}" if rates else ""
    return [
        spread([trial.connected for trial in ran]),
        spread([trial.connects_per_s for trial in ran if trial.connects_per_s]),
        f"{spread(rates)}{share}",
    ]


def _word(mine: Sequence[Trial]) -> list[str]:
    """What the tool itself says, and what became of it."""
    told = [trial for trial in mine if trial.acknowledged is not None]
    if not told:
        return ["–", mine[0].trouble or "–", "–"]
    p50 = [trial.ack_ms["p50"] for trial in told if "p50" in trial.ack_ms]
    p99 = [trial.ack_ms["p99"] for trial in told if "p99" in trial.ack_ms]
    times = f"{spread(p50, 1)} / {spread(p99, 1)}" if p50 and p99 else "–"
    acknowledged = sum(trial.acknowledged or 0 for trial in told)
    return [times, f"{acknowledged:,}", f"{sum(trial.lost or 0 for trial in told):,}"]


def _costs(trials: Iterable[Trial | IngestTrial]) -> list[float]:
    return [cost for trial in trials for cost in costs(trial.samples)]


def _per_device_kb(trials: Iterable[Trial], empty_kb: float) -> list[float]:
    """Resident memory per device, without that of the same process with one device."""
    return [
        (trial.rss_kb - empty_kb) / (trial.connected - 1)
        for trial in trials
        if trial.rss_kb is not None and trial.connected > 1
    ]


def _ingest_rows(trials: Sequence[IngestTrial]) -> Iterator[list[str]]:
    for rate in dict.fromkeys(trial.rate for trial in trials):
        here = [trial for trial in trials if trial.rate == rate]
        names = sorted({one.service for one in here}, key=[one.service for one in trials].index)
        reference = _costs(trial for trial in here if trial.service == names[0])
        for name in names:
            mine = [trial for trial in here if trial.service == name]
            trouble = next((trial.trouble for trial in mine if trial.trouble), None)
            spent = _costs(mine)
            stored = [sample.per_s for trial in mine for sample in trial.samples]
            yield [
                name, f"{rate:,}",
                trouble or spread([one.received_per_s for one in mine if one.received_per_s]),
                spread(stored), spread(spent, 1), ratio(spent, reference),
                spread([one.rss_mb for one in mine if one.rss_mb]),
                spread([one.drained_s for one in mine if one.drained_s is not None], 1),
                f"{sum(one.acknowledged for one in mine):,}",
                f"{sum(one.lost for one in mine):,}",
            ]  # fmt: skip


def _kill_rows(trials: Sequence[IngestTrial]) -> Iterator[list[str]]:
    for name in dict.fromkeys(trial.service for trial in trials):
        mine = [trial for trial in trials if trial.service == name]
        acknowledged = sum(trial.acknowledged for trial in mine)
        lost = sum(trial.lost for trial in mine)
        yield [
            name, f"{mine[0].rate:,}",
            mine[0].trouble or spread([trial.acknowledged for trial in mine]),
            spread([trial.stored for trial in mine]),
            spread([trial.lost for trial in mine]),
            f"{lost / acknowledged:.3%}" if acknowledged else "–",
        ]  # fmt: skip
