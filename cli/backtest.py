"""`cityeye rules test`: rules over stored or simulated history, as fast as they go, with scores.

The engine is the one that watches live and gets the same readings in the same order, so it raises
the same alarms.
"""

import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from alerts.engine import AlarmEngine
from alerts.figures import AlarmFigures
from alerts.rules import RuleSet
from alerts.scoring import Alarm, Alarms, Scoring, judged
from alerts.surroundings import Nowhere
from broker.messages import Announcement, Severity
from city.cityfile import GENERATED, City, load_city, shipped_cities
from city.clock import wall_ms
from city.documents import Document
from city.errors import StoreError
from city.readings import ReadingBatch
from city.settings import Settings, resolve
from cli import options
from cli.histories import Arrivals, History, Simulated, stored
from cli.ingesting import rules_of
from cli.logs import CONSOLE, start_logging
from cli.scenarios import lasting_s, playing
from cli.summary import Outcome
from cli.surroundings import CitySurroundings

_log = structlog.get_logger(__name__)

READINGS_PER_BATCH: Final = 20_000
BATCH_MS: Final = 10_000
"""Shorter than a silence: devices that speak again within a batch are looked at one by one."""
LATE_MS: Final = 2_000
"""How far messages of one device may lag behind those of others, as in a live run at speed 1."""
DAY_MS: Final = 86_400_000
TARGET_SHARES: Final[dict[Severity, float]] = {"low": 0.80, "medium": 0.15, "high": 0.05}
"""Of the alarms by priority (ISA-18.2); critical ones count as high."""

_PIPE_WIDTH: Final = 160
SCORE_HEADINGS: Final = (
    "kind", "events", "found", "recall", "alarms", "right", "false", "precision", "found after",
)  # fmt: skip


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to try on what; `city` is None where nobody named one."""

    settings: Settings
    on: str
    city: str | None = None
    events: Path | None = None


def command(
    on: Annotated[
        str,
        typer.Option(
            "--on",
            metavar="DATA|SCENARIO",
            help="A directory or file of readings; or a scenario or city, which is simulated.",
        ),
    ],
    rules: Annotated[
        list[str] | None,
        typer.Argument(metavar="PACK|FILE...", help="Default: the rules that the city names."),
    ] = None,
    city: options.City = None,
    for_: options.For = None,
    seed: options.Seed = None,
    start: options.Start = None,
    events: Annotated[
        Path | None,
        typer.Option("--events", metavar="FILE", help="Write every alarm event (JSON lines)."),
    ] = None,
    log: options.Log = None,
    config: options.Config = None,
    json: options.Json = False,  # noqa: FBT002 - an option of the command line
) -> None:
    """Run rules over history: what they raise, how much of it is right, and what they miss.

    Readings come from what `cityeye generate` wrote (Parquet, line protocol), from the DuckDB store
    of a run, or are simulated. Where a truth log is at hand, every kind of event has its precision,
    recall and time to detection. What stored devices are is known from the city file; --city names
    it where the data are not of a shipped city.

    Example: cityeye rules test gas-network --on gas-burst
    """
    given = {"rules": rules or None, "city": city, "for": for_, "seed": seed, "start": start}
    settings = resolve({**given, "log": log}, os.environ, config)
    start_logging(settings.log)
    request = Request(settings=settings, on=on, city=city, events=events)
    sys.exit(show(backtest(request), as_json=json))


def backtest(request: Request) -> dict[str, Any]:
    """Run the rules, and say what became of it, as plain data.

    Raises:
        InputError: Rules, data, scenario or city are wrong or missing.
        StoreError: A store cannot be read, or the events cannot be written.
    """
    began_s = time.perf_counter()
    history = history_of(request)
    rules = rules_of(request.settings, history.city)
    if history.city is None:
        _log.warning("no city file: rules for some kinds of device watch nothing; give --city")
    start_ms, stop_ms = _span(request.settings, history)
    rules = rules.on(datetime.fromtimestamp(start_ms / 1000, UTC).date())
    run = _Run(rules, history)
    with _written(request.events) as write, _progress() as advance:
        write(run.learn())
        for until_ms, arrived in history.slices():
            end_ms = round(min(until_ms, stop_ms))
            write(run.take(arrived.part(arrived.at < end_ms), end_ms))
            advance((end_ms - start_ms) / (stop_ms - start_ms))
            if end_ms >= stop_ms:
                break
    ended_ms = max(end_ms, start_ms + 1)
    figures = {
        "on": request.on,
        "city": history.city.city if history.city else None,
        "packs": [pack.id for pack in rules.packs],
        "rules": len(rules.rules),
        "covered_s": (ended_ms - start_ms) / 1000,
        "devices": len(history.addresses()),
        "operators": _operators(history),
        "readings": run.readings,
        "took_s": round(time.perf_counter() - began_s, 2),
        "engine_s": round(run.engine_s, 3),
        "readings_per_s": round(run.readings / run.engine_s) if run.readings else 0,
    }
    figures |= burden(list(run.alarms), run.figures(), ended_ms - start_ms)
    figures |= {"not_shown": run.alarms.hidden}
    return figures | _judgement(rules, history, run.alarms, start_ms, ended_ms)


def history_of(request: Request) -> History:
    """The readings that `--on` names: what is at that path, else a scenario, else a city.

    Raises:
        InputError: There is nothing of that name, or what is there holds no readings.
        StoreError: A store cannot be opened.
    """
    path = Path(request.on)
    is_yaml = path.suffix in {".yaml", ".yml"}
    if path.exists() and not is_yaml:
        found = stored(path)
        found.city = _city_of(found, request.city)
        return found
    is_city = request.on in shipped_cities() or request.on.partition(":")[0] == GENERATED
    if is_city or (is_yaml and "scenario" not in (Document.read(path).content or {})):
        given = {"city": request.on, "scenario": None}
    else:
        given = {"city": request.settings.city, "scenario": request.on}
    settings = msgspec.structs.replace(request.settings, speed="max", **given)
    city = playing(settings)
    start_ms = settings.start_ms(city.start, wall_ms())
    own_ms = round(1000 * (lasting_s(settings) or DAY_MS / 1000))
    seed = city.seed if settings.seed is None else settings.seed
    stop_ms = start_ms + (settings.duration_ms or own_ms)
    return Simulated(city, seed=seed, start_ms=start_ms, stop_ms=stop_ms)


def burden(alarms: Sequence[Alarm], figures: AlarmFigures, span_ms: int) -> dict[str, Any]:
    """How much the alarms of a time ask of people; less than a day counts as one.

    `figures` are those that a live engine shows of itself.
    """
    days = max(1.0, span_ms / DAY_MS)
    shares = {name: figures.priorities.get(name, 0.0) for name in TARGET_SHARES}
    shares["high"] += figures.priorities.get("critical", 0.0)
    return {
        "alarms": len(alarms),
        "alarms_per_day": round(len(alarms) / days, 1),
        "alarms_per_operator_and_day": round(figures.operator_day, 1),
        "most_per_operator_in_10_min": round(figures.operator_10min_peak, 1),
        "flood_share": round(figures.flood_share, 4),
        "chattering": figures.chattering,
        "standing": figures.standing,
        "standing_over_a_day": figures.long_standing,
        "by_rule": dict(Counter(alarm.rule for alarm in alarms).most_common()),
        "by_severity": dict(Counter(alarm.severity for alarm in alarms).most_common()),
        "priorities": {
            name: {"share": round(shares[name], 3), "target": target}
            for name, target in TARGET_SHARES.items()
        },
        "worst": dict(figures.worst),
    }


class _Run:
    """An engine, what it has been given, and what it said."""

    def __init__(self, rules: RuleSet, history: History) -> None:
        city = history.city
        surroundings = CitySurroundings(city) if city else Nowhere()
        operators = _operators(history)
        self.alarms = Alarms()
        self.readings = 0
        self.engine_s = 0.0
        self._history = history
        self._engine = AlarmEngine(rules, surroundings, operators=operators, late_ms=LATE_MS)

    def figures(self) -> AlarmFigures:
        """What a live engine would show of itself now."""
        return self._engine.figures()

    def learn(self) -> list[Announcement]:
        """Let every device introduce itself."""
        births = list(self._history.births())
        return self._said(lambda: _each(self._engine.learn(*birth) for birth in births))

    def take(self, arrived: Arrivals, until_ms: int) -> list[Announcement]:
        """Readings in the order of arrival, all before `until_ms`."""
        self.readings += len(arrived)
        batches = list(_batches(self._history, arrived))
        found = self._said(lambda: _each(self._engine.evaluate(batch) for batch in batches))
        return found + self._said(lambda: self._engine.advance(until_ms))

    def _said(self, work: Callable[[], list[Announcement]]) -> list[Announcement]:
        began_s = time.perf_counter()
        announcements = work()
        self.engine_s += time.perf_counter() - began_s
        self.alarms.add(announcements)
        return announcements


def _each(parts: Iterator[list[Announcement]]) -> list[Announcement]:
    return [announcement for part in parts for announcement in part]


def _batches(history: History, arrived: Arrivals) -> Iterator[ReadingBatch]:
    """The readings in batches of a size that suits the engine, in number and in time."""
    stops = np.append(np.flatnonzero(np.diff(arrived.at // BATCH_MS)) + 1, len(arrived))
    start = 0
    for stop in stops.tolist():
        for first in range(start, stop, READINGS_PER_BATCH):
            part = arrived.part(slice(first, min(first + READINGS_PER_BATCH, stop)))
            yield ReadingBatch(history.table, part.series, part.ts, part.value, part.flag)
        start = stop


def _judgement(
    rules: RuleSet, history: History, alarms: Alarms, start_ms: int, stop_ms: int
) -> dict[str, Any]:
    """Scores, false alarms and limits that were truly exceeded; None where the truth is unknown."""
    if history.records is None:
        return {"scores": None, "false_alarms": None, "limits": None}
    begun = [record for record in history.records if record.start < stop_ms]
    told = [record for record in begun if record.end is None or record.end > start_ms]
    scoring = Scoring(rules, told)
    true_values = history.true_values(alarms)
    limits = None if true_values is None else judged(rules, alarms, true_values)
    return {
        "scores": {score.kind: score.figures() for score in scoring.scores(alarms)},
        "false_alarms": scoring.unexplained(alarms),
        "limits": limits and msgspec.to_builtins(limits),
    }


def _span(settings: Settings, history: History) -> tuple[int, float]:
    start_ms, stop_ms = history.span_ms
    known_ms = math.inf if stop_ms is None else stop_ms
    asked_ms = settings.duration_ms
    return start_ms, known_ms if asked_ms is None else min(known_ms, start_ms + asked_ms)


def _operators(history: History) -> int:
    """One in each district."""
    if history.city is not None:
        return len(history.city.districts)
    return max(1, len({address.district for address in history.addresses()}))


def _city_of(history: History, name: str | None) -> City | None:
    """The city of that name, or the shipped one that the data are of."""
    if name is not None:
        return load_city(name)
    names = {address.city for address in history.addresses()}
    shipped = [name for name in names if name in shipped_cities()]
    return load_city(shipped[0]) if len(names) == len(shipped) == 1 else None


@contextmanager
def _written(path: Path | None) -> Iterator[Callable[[list[Announcement]], None]]:
    """Writes announcements to a file of JSON lines, or nowhere."""
    if path is None:
        yield lambda _: None
        return
    try:
        with path.open("wb") as file:
            yield lambda found: file.writelines(_line(announcement) for announcement in found)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error


def _line(announcement: Announcement) -> bytes:
    address = msgspec.structs.asdict(announcement.address)
    return msgspec.json.encode(address | msgspec.to_builtins(announcement.event)) + b"\n"


@contextmanager
def _progress() -> Iterator[Callable[[float], None]]:
    """A bar on a terminal, nothing in a pipe; the call moves it to a share of the work."""
    columns = (TextColumn("trying rules"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    hidden = not CONSOLE.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=CONSOLE, disable=hidden) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda share: progress.update(task, completed=share)


def show(figures: dict[str, Any], *, as_json: bool) -> int:
    """Print the report on standard output and return the exit status."""
    if as_json:
        return Outcome(figures, complete=True).show(as_json=True)
    plain = {k: v for k, v in figures.items() if not isinstance(v, dict) and v is not None}
    plain["packs"] = ", ".join(figures["packs"])
    limits = figures["limits"]
    if limits:
        plain["limit alarms"] = (
            f"{limits['right']} truly beyond the limit, {limits['wrong']} not, "
            f"{limits['unaffected']} of readings that no event affects"
        )
    Outcome(plain, complete=True).show(as_json=False)
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)
    for title, table in _tables(figures):
        console.print()
        console.print(title, style="bold")
        console.print(table)
    if figures["scores"] is None:
        console.print("\nno truth log beside the data: nothing is scored", style="dim")
    return 0


def _tables(figures: dict[str, Any]) -> Iterator[tuple[str, Table]]:
    yield "alarms by rule", _counts(figures["by_rule"])
    yield "alarms by priority", _priorities(figures["priorities"])
    yield "worst", _counts(figures["worst"])
    if figures["scores"]:
        yield "scores by kind of event", _scores(figures["scores"])
    if figures["false_alarms"]:
        yield "alarms of detectors that nothing explains", _counts(figures["false_alarms"])


def _counts(counts: dict[str, int]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, count in counts.items() or {"none": 0}.items():
        table.add_row(f"{count:,}", name)
    return table


def _priorities(shares: dict[str, dict[str, float | None]]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, row in shares.items():
        table.add_row(name, shown_share(row["share"]), f"target {shown_share(row['target'])}")
    return table


def _scores(scores: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in SCORE_HEADINGS:
        table.add_column(heading, no_wrap=True)
    for kind, row in scores.items():
        table.add_row(kind, *score_cells(row))
    return table


def score_cells(row: dict[str, Any]) -> list[str]:
    """A score as the cells of a table under `SCORE_HEADINGS`, without its kind."""
    recall = shown_share(row["recall"]) if row["rules"] else "no rule"
    cells = [f"{row['events']:,}", f"{row['hit']:,}", recall]
    cells += [f"{row[name]:,}" for name in ("alarms", "right", "unexplained")]
    delays_s = row["detection_s_median"], row["detection_s_max"]
    shown = " to ".join(dict.fromkeys(_shown_span(s) for s in delays_s if s is not None))
    return [*cells, shown_share(row["precision"]), shown or "-"]


def _shown_span(seconds: float) -> str:
    if seconds < 100:  # noqa: PLR2004 - from here on minutes read better
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"  # noqa: PLR2004 - and hours


def shown_share(share: float | None) -> str:
    """A share as people read it."""
    return "-" if share is None else f"{100 * share:.0f} %"
