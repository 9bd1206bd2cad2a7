"""What a command says at its end: a table for people, one JSON object for programs."""

import json
import sys
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from city.settings import Settings
from cli.ingesting import Ingesting
from cli.simulating import Simulating


class Outcome(msgspec.Struct):
    """The summary of one run, in the order in which it is shown."""

    figures: dict[str, Any]
    complete: bool
    """Whether nothing is missing or left over."""

    def show(self, *, as_json: bool) -> int:
        """Print the summary on standard output and return the exit status."""
        if as_json:
            sys.stdout.write(json.dumps(self.figures) + "\n")
            sys.stdout.flush()
        else:
            Console().print(self._table())
        return 0 if self.complete else 1

    def _table(self) -> Table:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column(style="bold")
        for name, value in self.figures.items():
            if isinstance(value, dict):
                shown = "  ".join(f"{key} {_shown(number)}" for key, number in value.items())
            else:
                shown = _shown(value)
            table.add_row(name.replace("_", " "), shown)
        return table


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(number)}" for key, number in value.items()) or "none"
    return str(value)


def simulated(simulating: Simulating, settings: Settings) -> dict[str, Any]:
    """The figures of the simulated city."""
    fleet = simulating.fleet
    return {
        "city": simulating.city.city,
        "seed": simulating.seed,
        "speed": settings.speed,
        "simulated_s": round((simulating.clock.now_ms() - simulating.clock.start_ms) / 1000, 1),
        "devices": len(fleet.devices),
        "messages": fleet.messages,
        "readings": fleet.readings,
        "acknowledged": fleet.acknowledged,
        "dropped": fleet.dropped,
    }


def ingested(ingesting: Ingesting) -> dict[str, Any]:
    """The figures of ingest and alarms."""
    service = ingesting.service
    counts = ingesting.alarms.counts
    return {
        "stored": service.writer.values_written,
        "alarms": {
            "raised": counts.raised,
            "escalated": counts.escalated,
            "cleared": counts.cleared,
            "standing": counts.standing,
        },
        "ledger": msgspec.to_builtins(service.ledger()),
        "latency_ms": {
            "acknowledged_p50": service.accepted_us.get_value_at_percentile(50) / 1000,
            "acknowledged_p99": service.accepted_us.get_value_at_percentile(99) / 1000,
            "stored_p50": service.stored_us.get_value_at_percentile(50) / 1000,
            "stored_p99": service.stored_us.get_value_at_percentile(99) / 1000,
        },
    }
