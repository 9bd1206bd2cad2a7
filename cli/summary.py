"""What a command says at its end: a table for people, one JSON object for programs."""

import json
import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from broker.messages import TruthRecord
from city.settings import Settings
from cli.ingesting import Ingesting
from cli.simulating import Simulating
from cli.timeline import actions, timeline, told


class Outcome(msgspec.Struct):
    """The summary of one run, in the order in which it is shown."""

    figures: dict[str, Any]
    complete: bool
    """Whether nothing is missing or left over."""
    closing: str = ""
    """The last line for people."""

    def show(self, *, as_json: bool) -> int:
        """Print the summary on standard output and return the exit status."""
        if as_json:
            sys.stdout.write(json.dumps(self.figures) + "\n")
            sys.stdout.flush()
        else:
            console = Console(highlight=False, soft_wrap=True)
            console.print(self._table())
            if self.closing:
                console.print(self.closing, style="green" if self.complete else "bold red")
        return 0 if self.complete else 1

    def _table(self) -> Table:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in self.figures.items():
            words = _WORDS.get(name, name.replace("_", " "))
            table.add_row(words, Text(_SENTENCES.get(name, _shown)(value)))
        return table


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{_shown(number)} {key}" for key, number in value.items()) or "none"
    return str(value)


def _ledger(value: dict[str, Any]) -> str:
    """The equation that the ledger is, and the reasons of what was not stored."""
    fates = {key: n for key, n in value.items() if key not in {"received", "reasons"}}
    sum_ = " + ".join(f"{n:,} {key}" for key, n in fates.items())
    reasons = "".join(f"; {key} {n:,}" for key, n in value["reasons"].items())
    return f"{value['received']:,} received = {sum_}{reasons}"


def _latency(value: dict[str, float]) -> str:
    """Two percentiles per step, at most."""
    steps = sorted({key.rpartition("_")[0] for key in value})
    return "; ".join(
        f"{step} p50 {value[f'{step}_p50']:.0f}, p99 {value[f'{step}_p99']:.0f}" for step in steps
    )


def _alarm_figures(value: dict[str, Any]) -> str:
    """The figures of alarm management that people ask for first."""
    worst = ", ".join(f"{name} {count}" for name, count in value["worst"][:3])
    return (
        f"{value['annunciated']} told, {value['operator_day']:g} per operator and day, "
        f"{value['operator_10min_peak']:g} in the worst 10 minutes, {value['flood_share']:.0%} of "
        f"the time in flood, {value['chattering']} shelved for chattering"
        + (f"; worst: {worst}" if worst else "")
    )


_WORDS: Final = {"simulated_s": "simulated", "late_ms_max": "sent late", "latency_ms": "latency"}
"""What a figure is called for people, where its name for programs is no word."""

_SENTENCES: Final[dict[str, Callable[[Any], str]]] = {
    "seed": str,
    "simulated_s": lambda value: f"{value:,.1f} s",
    "late_ms_max": lambda value: f"by {value:,.0f} ms at most",
    "ledger": _ledger,
    "latency_ms": lambda value: f"{_latency(value)} ms after arrival",
    "alarm_figures": _alarm_figures,
    "timeline": told,
}
"""How a figure is said, where it is more than a number or a word."""


def acted(
    ingesting: Ingesting, since_ms: int, truths: tuple[TruthRecord, ...] = ()
) -> dict[str, Any]:
    """What alarms did since an instant, and how it came to that; reads the archive."""
    alarms = ingesting.alarms
    orders = [order for order in alarms.orders.find() if order.opened >= since_ms]
    return {
        "actions": actions(alarms, since_ms),
        "orders": len(orders),
        "timeline": timeline(alarms, since_ms, truths),
    }


def simulated(simulating: Simulating, settings: Settings) -> dict[str, Any]:
    """The figures of the simulated city."""
    fleet = simulating.fleet
    return {
        "city": simulating.city.city,
        "seed": simulating.seed,
        "speed": settings.speed,
        "simulated_s": round(fleet.simulated_ms / 1000, 1),
        "devices": len(fleet.devices),
        "messages": fleet.messages,
        "readings": fleet.readings,
        "acknowledged": fleet.acknowledged,
        "dropped": fleet.dropped,
        "held_back": fleet.held_back,
        "refused_connects": {str(code): count for code, count in fleet.refusals.items()},
        "late_ms_max": round(fleet.late_ms_max, 1),
    }


def ingested(ingesting: Ingesting) -> dict[str, Any]:
    """The figures of ingest and alarms."""
    service = ingesting.service
    counts = ingesting.alarms.service.counts
    return {
        "stored": service.writer.values_written,
        "alarms": {
            "raised": counts.raised,
            "escalated": counts.escalated,
            "eased": counts.eased,
            "cleared": counts.cleared,
            "standing": counts.standing,
            "unacknowledged": counts.unacknowledged,
        },
        "alarm_figures": msgspec.to_builtins(ingesting.alarms.service.engine.figures()),
        "ledger": msgspec.to_builtins(service.ledger()),
        "latency_ms": {
            "acknowledged_p50": service.accepted_us.get_value_at_percentile(50) / 1000,
            "acknowledged_p99": service.accepted_us.get_value_at_percentile(99) / 1000,
            "stored_p50": service.stored_us.get_value_at_percentile(50) / 1000,
            "stored_p99": service.stored_us.get_value_at_percentile(99) / 1000,
        },
    }
