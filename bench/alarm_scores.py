"""How well the shipped rules find what really happened: python bench/alarm_scores.py.

Runs `cityeye rules test` with all shipped packs over scenarios with a truth log and over a quiet day
of a large city, and writes the tables into docs/alarms.md between its two markers.
"""

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from alerts.rules import shipped_packs
from city.settings import Settings
from cli.backtest import SCORE_HEADINGS, Request, backtest, score_cells, shown_share

PAGE: Final = Path(__file__).parent.parent / "docs" / "alarms.md"
BEGIN: Final = "<!-- scores: written by bench/alarm_scores.py -->"
END: Final = "<!-- end of scores -->"
SCENARIOS: Final = (
    "sensor-faults", "falsified-stack", "ceramics-night-discharge", "gas-slow-leak", "gas-burst",
)  # fmt: skip
ELSEWHERE: Final = {"air-gb3095-2012", "air-who-2021", "air-us-epa-2024"}
"""Packs of other times and places: they judge the same air by other limits."""
QUIET: Final = "synthetic:2000"
_RULES_SHOWN: Final = 10


def tried(on: str) -> dict[str, Any]:
    """What `cityeye rules test` says of all shipped packs on `on`, in a process of its own."""
    words = [sys.executable, __file__, on]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    figures: dict[str, Any] = msgspec.json.decode(done.stdout)
    return figures


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table in Markdown: the first column to the left, the others to the right."""
    yield f"| {' | '.join(headings)} |"
    yield f"|---|{'---:|' * (len(headings) - 1)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def scenario(figures: dict[str, Any]) -> Iterator[str]:
    """The section of one scenario."""
    hours = figures["covered_s"] / 3600
    yield f"### {figures['on']}"
    yield ""
    yield f"{hours:g} h of the city {figures['city']}; alarms: {figures['alarms']}."
    yield ""
    scores = figures["scores"].items()
    yield from table(SCORE_HEADINGS, ([kind, *score_cells(row)] for kind, row in scores))
    yield ""
    yield from explanations(figures)
    limits = figures["limits"]
    yield (
        f"Alarms about limits on plain readings: {limits['right']} truly beyond the limit, "
        f"{limits['wrong']} not, {limits['unaffected']} of readings that no event affects."
    )
    if figures["false_alarms"]:
        yield ""
        yield f"Nothing explains: {counted(figures['false_alarms'])}."


def explanations(figures: dict[str, Any]) -> Iterator[str]:
    """Alarms of detectors that events of another kind explain."""
    for kind, row in figures["scores"].items():
        if row["explained_by"]:
            yield f"Rules for {kind} were also raised by: {counted(row['explained_by'])}."
            yield ""


def counted(counts: dict[str, int]) -> str:
    """Names with their counts, the largest first."""
    return ", ".join(f"{name} {count}" for name, count in list(counts.items())[:_RULES_SHOWN])


def quiet(figures: dict[str, Any]) -> Iterator[str]:
    """The section of the quiet day: what alarms cost when nothing happens."""
    rows = [
        ("alarms in the day", f"{figures['alarms']:,}"),
        ("per operator", f"{figures['alarms_per_operator_and_day']:,}"),
        ("most per operator in 10 minutes", f"{figures['most_per_operator_in_10_min']:,}"),
        ("10-minute slots in flood", shown_share(figures["flood_share"])),
        ("standing at the end", f"{figures['standing']:,}"),
        *((f"rule `{rule}`", f"{count:,}") for rule, count in figures["by_rule"].items()),
    ]
    yield f"### A quiet day of {figures['devices']:,} devices"
    yield ""
    yield (
        f"No event is injected; {figures['operators']} operators, one per district. "
        f"{figures['readings']:,} readings, {figures['readings_per_s']:,} readings/s through the "
        "rules on one core."
    )
    yield ""
    yield from table(("", "count"), rows)


def main() -> None:
    """Write the tables; with an argument, only try that one and print it as JSON."""
    if len(sys.argv) > 1:
        settings = Settings(rules=tuple(shipped_packs().keys() - ELSEWHERE))
        figures = backtest(Request(settings=settings, on=sys.argv[1]))
        sys.stdout.write(msgspec.json.encode(figures).decode())
        return
    lines: list[str] = []
    for name in (*SCENARIOS, QUIET):
        print(f"{name} ...")
        section = quiet if name == QUIET else scenario
        lines += [*section(tried(name)), ""]
        write(lines)
    print(f"written: {PAGE}")


def write(lines: Sequence[str]) -> None:
    """Put the lines between the markers of the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page = "\n".join([f"{before}{BEGIN}", "", *lines, f"{END}{after}"])
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
