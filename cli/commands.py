"""`run`, `sim` and `ingest`: the commands that work until they are told to stop."""

import asyncio
import gc
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from typing import Final

import structlog

from broker.choice import RunningBroker, running_broker
from city.cityfile import City, load_city
from city.settings import Settings, duration_s
from cli.ingesting import ingesting, rules_of
from cli.live import View
from cli.simulating import Simulating, simulating
from cli.summary import Outcome, ingested, simulated

_log = structlog.get_logger(__name__)

RUN_FILE: Final = "run.json"
"""In the data directory, while a command runs: where its broker is."""


async def run(settings: Settings) -> Outcome:
    """The whole chain in one process."""
    city = load_city(settings.city)
    rules = rules_of(settings, city)
    stop = _stop_on_signals()
    async with (
        _broker(settings) as broker,
        ingesting(settings, broker, rules, city=city.city) as ingest,
        simulating(settings, broker, city) as sim,
    ):
        for remark in rules.remarks(_day(sim)):
            _log.warning(remark)
        view = View(_title(city), simulating=sim, ingesting=ingest, zone=city.zone)
        async with _working(view):
            acknowledged = await sim.play(settings, stop)
            done = await ingest.finish(settings, expected=sim.fleet.acknowledged)
        figures = {"broker": broker.name, "store": ingest.service.store_name}
        figures |= simulated(sim, settings) | ingested(ingest)
        ledger = ingest.service.ledger()
        complete = acknowledged and done and ledger.balanced and not ledger.pending
    return Outcome(figures, complete)


async def sim(settings: Settings) -> Outcome:
    """The simulated sensors alone."""
    city = load_city(settings.city)
    stop = _stop_on_signals()
    async with (
        _broker(settings) as broker,
        simulating(settings, broker, city) as simulation,
    ):
        view = View(_title(city), simulating=simulation, zone=city.zone)
        async with _working(view):
            complete = await simulation.play(settings, stop)
        figures = {"broker": broker.name, **simulated(simulation, settings)}
    return Outcome(figures, complete)


async def ingest(settings: Settings, *, every_city: bool) -> Outcome:
    """Ingest and alarms alone."""
    city = None if every_city else load_city(settings.city)
    rules = rules_of(settings, city)
    stop = _stop_on_signals()
    async with (
        _broker(settings) as broker,
        ingesting(settings, broker, rules, city=city.city if city else None) as running,
    ):
        view = View("CityEye ingest", ingesting=running)
        async with _working(view):
            await _until(stop, settings)
            done = await running.finish(settings)
        figures = {"broker": broker.name, "store": running.service.store_name}
        figures |= {"devices": running.service.intake.devices} | ingested(running)
        complete = done and running.service.ledger().balanced
    return Outcome(figures, complete)


async def _until(stop: asyncio.Event, settings: Settings) -> None:
    """Wait for `stop`, or for the end of the duration on the wall clock."""
    limit_s = None if settings.for_ is None else duration_s(str(settings.for_), "for")
    try:
        async with asyncio.timeout(limit_s):
            await stop.wait()
    except TimeoutError:
        pass


@asynccontextmanager
async def _broker(settings: Settings) -> AsyncIterator[RunningBroker]:
    """The broker, announced to people and, in the data directory, to other commands."""
    async with running_broker(
        settings.broker,
        data_dir=settings.data,
        port=settings.broker_port,
        window=settings.window,
    ) as broker:
        window = broker.window or "not known to us"
        _log.info("broker", name=broker.name, address=str(broker.address), window=window)
        run_file = settings.data / RUN_FILE
        settings.data.mkdir(parents=True, exist_ok=True)
        run_file.write_text(json.dumps({"broker": str(broker.address), "pid": os.getpid()}))
        try:
            yield broker
        finally:
            run_file.unlink(missing_ok=True)


def _title(city: City) -> str:
    names = " ".join(name for name in (city.name, city.name_zh) if name)
    return f"CityEye: {names or city.city}"


def _day(simulating: Simulating) -> date:
    return datetime.fromtimestamp(simulating.clock.start_ms / 1000, UTC).date()


@asynccontextmanager
async def _working(view: View) -> AsyncIterator[None]:
    """Shows the view; what was made so far is spared by the garbage collector."""
    showing = asyncio.create_task(view.run(), name="view")
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


def _stop_on_signals() -> asyncio.Event:
    """An event that Ctrl-C and SIGTERM set; a second Ctrl-C ends at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stopping() -> None:
        if stop.is_set():
            os._exit(1)
        _log.info("stopping; once more to stop at once")
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping)
    return stop
