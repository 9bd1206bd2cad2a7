"""`cityeye generate`: days of simulated time, as fast as possible, into files or a store."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast, get_args

import msgspec
import numpy as np
import structlog
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from city.cityfile import City
from city.clock import wall_ms
from city.documents import suggestion
from city.errors import SettingError
from city.settings import Settings, resolve, seconds_in
from cli import options
from cli.logs import CONSOLE, start_logging
from cli.outputs import (
    TRUTH,
    TRUTH_OF_READINGS,
    UNFINISHED,
    LineFiles,
    StoreOutput,
    check_folder,
    line_name,
    remove,
)
from cli.scenarios import lasting_s, playing
from cli.summary import Outcome
from ingest.storeurl import open_store
from sensors.engine import CityEngine, Frame
from sensors.parquet import ParquetDays, file_name
from sensors.truth import TruthLog

_log = structlog.get_logger(__name__)

Format = Literal["parquet", "line", "store"]

DAY_S: Final = 86_400.0
INTERVAL_MIN_S: Final = 0.1
SLICE_MS: Final = 3_600_000
"""What is simulated at once; memory holds no more."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to generate, and where to."""

    settings: Settings
    out: Path
    format: Format = "parquet"
    truth: bool = False
    """Whether to write the true value beside the shown one, for every reading that differs."""
    interval: str | None = None


def command(
    city: options.City = None,
    scenario: options.Scenario = None,
    devices: options.Devices = None,
    interval: Annotated[
        str | None,
        typer.Option(
            "--interval", metavar="DURATION", help="One interval for all devices, e.g. 60s."
        ),
    ] = None,
    for_: options.For = None,
    seed: options.Seed = None,
    start: options.Start = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the files go.")] = Path(
        "cityeye-generated"
    ),
    format_: Annotated[
        str, typer.Option("--format", metavar="parquet|line|store", help="What to write.")
    ] = "parquet",
    truth: Annotated[  # noqa: FBT002 - an option of the command line
        bool,
        typer.Option("--truth", help="Also write true beside shown values, where they differ."),
    ] = False,
    store: options.Store = None,
    data: options.Data = None,
    log: options.Log = None,
    config: options.Config = None,
    json: options.Json = False,  # noqa: FBT002 - an option of the command line
) -> None:
    """Simulate days as fast as possible into Parquet, line protocol or a store.

    Parquet has one file per domain and day, line protocol (gzip) one per day; truth.jsonl says
    what happened, whatever the format. Without --for, a scenario is simulated for its own time
    (its for_s), anything else for one day. A directory with files of another run is refused. Ctrl-C
    ends the work after the hour at hand: what is written until then is whole.

    Example: cityeye generate --scenario river-spill --for 1d --out spill
    """
    given = {
        "scenario": scenario,
        "devices": devices,
        "city": city,
        "for": for_,
        "seed": seed,
        "start": start,
        "store": store,
    }
    settings = resolve({**given, "data": data, "log": log}, os.environ, config)
    start_logging(settings.log)
    request = Request(
        settings=settings, out=out, format=_format(format_), truth=truth, interval=interval,
    )  # fmt: skip
    sys.exit(generate(request).show(as_json=json))


def generate(request: Request) -> Outcome:
    """Simulate, and write what the devices measure.

    Raises:
        InputError: City, scenario, store or one of the settings is wrong.
        StoreError: A file or the store cannot be written.
    """
    city = _city(request)
    start_ms, stop_ms = _span(request.settings, city)
    fresh = _day_names(request.format, city, start_ms, stop_ms)
    truths = {TRUTH, TRUTH_OF_READINGS} if request.truth else {TRUTH}
    check_folder(request.out, fresh | truths)
    seed = city.seed if request.settings.seed is None else request.settings.seed
    engine = CityEngine(city, seed=seed, start_ms=start_ms)
    counted = Counted()
    done_ms = start_ms
    began_s = time.perf_counter()
    with (
        _stoppable() as stop,
        _output(request, engine) as output,
        TruthLog(request.out / TRUTH) as events,
        _readings(request) as readings,
        _progress() as advance,
    ):
        remove(request.out, fresh)
        for day, from_ms, until_ms in slices(start_ms, stop_ms, city.zone):
            events.write(engine.truths(from_ms, until_ms))
            frames = engine.frames(from_ms, until_ms, with_truth=request.truth)
            output.add(counted.through(_compared(frames, readings)))
            done_ms = until_ms
            if day or stop.wanted:
                output.end_day(day or _date(from_ms, city.zone).isoformat())
            advance((until_ms - start_ms) / (stop_ms - start_ms))
            if stop.wanted:
                break
        store = {"store": output.name} if isinstance(output, StoreOutput) else {}
    took_s = time.perf_counter() - began_s
    figures: dict[str, Any] = {
        "city": city.city,
        "scenario": request.settings.scenario,
        "seed": seed,
    }
    figures |= {
        "simulated_s": (done_ms - start_ms) / 1000,
        "interrupted": done_ms < stop_ms,
        "devices": sum(len(group.devices) for group in engine.groups),
        "messages": counted.messages,
        "readings": counted.readings,
        "events": events.records,
        "took_s": round(took_s, 2),
        "readings_per_s": round(counted.readings / took_s),
        "out": str(request.out),
        "files": len(output.files),
    }
    figures |= store
    return Outcome(figures, complete=True)


def slices(start_ms: int, stop_ms: int, zone: tzinfo) -> Iterator[tuple[str | None, int, int]]:
    """The hours from start to stop, cut at midnight in `zone`; with the last of a day, its date."""
    from_ms = start_ms
    while from_ms < stop_ms:
        today = _date(from_ms, zone)
        midnight = datetime(today.year, today.month, today.day, tzinfo=zone) + timedelta(days=1)
        day_ends_ms = min(round(midnight.timestamp() * 1000), stop_ms)
        until_ms = min(from_ms - from_ms % SLICE_MS + SLICE_MS, day_ends_ms)
        yield today.isoformat() if until_ms == day_ends_ms else None, from_ms, until_ms
        from_ms = until_ms


def _date(instant_ms: int, zone: tzinfo) -> date:
    return datetime.fromtimestamp(instant_ms / 1000, zone).date()


class Wish:
    """Whether somebody wants the work to end."""

    def __init__(self) -> None:
        self.wanted = False

    def signalled(self, _number: int, _frame: object) -> None:
        """The first signal ends the work after its slice, the second at once."""
        if self.wanted:
            CONSOLE.show_cursor()
            os._exit(1)
        self.wanted = True
        _log.info("stopping after this hour of the city; Ctrl-C again stops at once")


@contextmanager
def _stoppable() -> Iterator[Wish]:
    """What Ctrl-C and SIGTERM wish for while this lasts."""
    wish = Wish()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, wish.signalled) for number in numbers]
    try:
        yield wish
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _compared(frames: Iterator[Frame], readings: TruthLog | None) -> Iterator[Frame]:
    """The same frames; what is true of them is written to `readings`."""
    for frame in frames:
        if readings and frame.truth is not None:
            readings.write(frame.comparisons())
        yield frame


class Counted:
    """Counts what passes."""

    def __init__(self) -> None:
        self.messages = 0
        self.readings = 0

    def through(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """The same frames, once they are counted."""
        for frame in frames:
            self.messages += len(frame.rows)
            self.readings += frame.values.size - int(np.isnan(frame.values).sum())
            yield frame


def _city(request: Request) -> City:
    """The city to simulate: generated if its size or interval is asked for."""
    interval_s = None if request.interval is None else seconds_in(request.interval, "interval")
    city = playing(request.settings)
    return city if interval_s is None else with_interval(city, interval_s)


def with_interval(city: City, interval_s: float) -> City:
    """`city` with one interval for all its devices [s].

    Raises:
        SettingError: No device could have it.
    """
    if not INTERVAL_MIN_S <= interval_s <= DAY_S:
        allowed = f"allowed: {INTERVAL_MIN_S} s to {DAY_S:g} s"
        raise SettingError(f"--interval: {interval_s:g} s is out of bounds; {allowed}")
    change = msgspec.structs.replace
    sites = tuple(
        change(site, devices=tuple(change(d, interval_s=interval_s) for d in site.devices))
        for site in city.sites
    )
    return change(city, sites=sites)


def _span(settings: Settings, city: City) -> tuple[int, int]:
    """From when to when is simulated [ms]; the city's own start decides unless told otherwise."""
    start_ms = msgspec.structs.replace(settings, speed="max").start_ms(city.start, wall_ms())
    own_ms = round((lasting_s(settings) or DAY_S) * 1000)
    return start_ms, start_ms + (settings.duration_ms or own_ms)


def _day_names(format_: Format, city: City, start_ms: int, stop_ms: int) -> set[str]:
    """What the files of the days from start to stop are called."""
    days = [day for day, _, _ in slices(start_ms, stop_ms, city.zone) if day]
    match format_:
        case "parquet":
            domains = {site.domain for site in city.sites}
            return {file_name(domain, day) for domain in domains for day in days}
        case "line":
            return {line_name(day) for day in days} | {UNFINISHED}
        case "store":
            return set()


def _format(name: str) -> Format:
    allowed = get_args(Format)
    if name not in allowed:
        raise SettingError(f"--format: {name!r} is not allowed; {suggestion(name, allowed)}")
    return cast("Format", name)


def _output(request: Request, engine: CityEngine) -> ParquetDays | LineFiles | StoreOutput:
    match request.format:
        case "parquet":
            return ParquetDays(request.out, engine.groups)
        case "line":
            return LineFiles(request.out, engine.groups)
        case "store":
            settings = request.settings
            store = open_store(
                settings.store,
                data_dir=settings.data,
                token=settings.store_token,
                user=settings.store_user,
                password=settings.store_password,
            )
            return StoreOutput(store, engine.groups)


@contextmanager
def _readings(request: Request) -> Iterator[TruthLog | None]:
    """The file of true and shown values, if it is asked for."""
    if not request.truth:
        yield None
        return
    with TruthLog(request.out / TRUTH_OF_READINGS) as log:
        yield log


@contextmanager
def _progress() -> Iterator[Callable[[float], None]]:
    """A bar on a terminal, nothing in a pipe; the call moves it to a share of the work."""
    columns = (TextColumn("simulating"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    hidden = not CONSOLE.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=CONSOLE, disable=hidden) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda share: progress.update(task, completed=share)
