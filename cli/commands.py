"""`run`, `sim` and `ingest`: the commands that work until they are told to stop."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, date, datetime
from typing import Final, Protocol
from zoneinfo import ZoneInfo

import structlog

from broker.choice import BrokerAddress, RunningBroker, parse_broker, running_broker
from broker.messages import TruthRecord
from city.cityfile import City, load_city
from city.clock import wall_ms
from city.errors import SettingError
from city.settings import Settings
from cli.directory import announced, reserved
from cli.districts import Ownership
from cli.ingesting import Ingesting, ingesting, rules_of
from cli.live import View
from cli.scenarios import playing
from cli.simulating import Simulating, simulating
from cli.stopping import Stop
from cli.summary import Outcome, acted, ingested, simulated
from sensors.truth import scripted_records

_log = structlog.get_logger(__name__)

_ALLOCATIONS_PER_COLLECTION: Final = 50_000


async def run(settings: Settings) -> Outcome:
    """The whole chain in one process."""
    stop = Stop()
    city = playing(settings)
    if settings.districts:
        raise SettingError(
            "districts: `cityeye run` takes in the whole city; divide it among `cityeye ingest`"
        )
    rules = rules_of(settings, city)
    truth = settings.truth or settings.data / "truth.jsonl"
    begins_ms = settings.start_ms(city.start, wall_ms())
    with reserved(settings.data):
        async with (
            _broker(settings, city) as broker,
            ingesting(settings, broker, city, begins_ms=begins_ms) as ingest,
            simulating(settings, broker, city, truth=truth) as sim,
        ):
            for remark in rules.remarks(_day(sim)):
                _log.warning(remark)
            view = View(_title(city), broker.name, simulating=sim, ingesting=ingest, zone=city.zone)
            with announced(settings.data, broker.announced, city.timezone, city=city.city):
                async with _working(view, stop):
                    acknowledged = await sim.play(settings, stop.wanted)
                    done = await ingest.finish(settings, expected=sim.fleet.acknowledged)
            figures = {"broker": broker.name} | {"store": ingest.service.store_name}
            figures |= simulated(sim, settings) | ingested(ingest)
            figures |= await asyncio.to_thread(acted, ingest, begins_ms, _causes(sim))
            ledger = ingest.service.ledger()
            complete = acknowledged and done and ledger.balanced and not ledger.pending
            complete = complete and not sim.fleet.dropped and not _unwatched(ingest)
    return Outcome(figures, complete, closing=closing(complete=complete))


async def sim(settings: Settings) -> Outcome:
    """The simulated sensors alone; only a broker of our own needs the data directory."""
    stop = Stop()
    city = playing(settings)
    chosen = None if settings.broker is None else parse_broker(settings.broker)
    own = not isinstance(chosen, BrokerAddress)
    with reserved(settings.data) if own else nullcontext():
        async with (
            _broker(settings, city) as broker,
            simulating(settings, broker, city, truth=settings.truth) as simulation,
        ):
            view = View(_title(city), broker.name, simulating=simulation, zone=city.zone)
            announcing = announced(settings.data, broker.announced, city.timezone, city=city.city)
            with announcing if own else nullcontext():
                async with _working(view, stop):
                    complete = await simulation.play(settings, stop.wanted)
                    complete = complete and not simulation.fleet.dropped
            figures = {"broker": broker.name} | simulated(simulation, settings)
    return Outcome(figures, complete, closing=closing(complete=complete))


async def ingest(settings: Settings, *, every_city: bool) -> Outcome:
    """Ingest and alarms alone."""
    return await take_in(settings, Stop(), every_city=every_city)


class Stopping(Protocol):
    """Who says when a command's work ends."""

    @property
    def wanted(self) -> asyncio.Event:
        """Set when it shall."""

    def working(self) -> None:
        """From now on there is something to bring to its end."""


async def take_in(
    settings: Settings,
    stop: Stopping,
    *,
    every_city: bool = False,
    shown: bool = True,
    began_ms: int | None = None,
    begun: Callable[[Ingesting], None] = lambda _: None,
) -> Outcome:
    """Ingest and alarms alone, until it is time to stop; in any thread whose loop this is.

    `shown` says whether people look at this process; `begun` is called once all is assembled. Where this goes on with what an earlier process did,
    `began_ms` says when that began.
    """
    city = None if every_city else load_city(settings.city)
    own = Ownership.of(settings, city)
    rules_of(settings, city)
    began_ms = wall_ms() if began_ms is None else began_ms
    with reserved(settings.data):
        async with (
            _broker(settings, city) as broker,
            ingesting(settings, broker, city) as running,
        ):
            begun(running)
            zone = city.timezone if city else "UTC"
            view = View("CityEye ingest", broker.name, ingesting=running, zone=ZoneInfo(zone))
            named = city.city if city else ""
            with announced(settings.data, broker.announced, zone, city=named):
                async with _working(view if shown else None, stop):
                    await _until(stop.wanted, settings.duration_s)
                    done = await running.finish(settings)
            figures = {"broker": broker.name} | {"store": running.service.store_name}
            figures |= {"worker": own.worker} if own.districts else {}
            figures |= {"devices": running.service.intake.devices} | ingested(running)
            figures |= await asyncio.to_thread(acted, running, began_ms)
            complete = done and running.service.ledger().balanced and not _unwatched(running)
    return Outcome(figures, complete, closing=closing(complete=complete))


def _unwatched(ingest: Ingesting) -> bool:
    """Whether readings were stored that the alarms have not seen; says so."""
    failures = ingest.service.consumer_failures
    if failures:
        _log.error("alarms did not look at everything; see the log above", failures=failures)
    return failures > 0


async def _until(stop: asyncio.Event, limit_s: float | None) -> None:
    """Wait for `stop`, or for the end of the duration on the wall clock."""
    try:
        async with asyncio.timeout(limit_s):
            await stop.wait()
    except TimeoutError:
        pass


@asynccontextmanager
async def _broker(settings: Settings, city: City | None) -> AsyncIterator[RunningBroker]:
    """The broker, named to people."""
    if settings.secure and city is None:
        raise SettingError("--secure: a guarded broker is that of one city; leave --every-city out")
    async with running_broker(
        settings.broker,
        data_dir=settings.data,
        port=settings.broker_port,
        window=settings.window,
        guard=city if settings.secure else None,
    ) as broker:
        _log.info("broker", name=broker.name, window=broker.window or "as that broker grants")
        yield broker


def closing(*, complete: bool) -> str:
    """The last line for people."""
    if complete:
        return "Every message is accounted for."
    return "Not every message is accounted for: the log above says what is missing."


def _causes(sim: Simulating) -> tuple[TruthRecord, ...]:
    """The scripted events of the world that have begun."""
    now_ms = sim.clock.start_ms + sim.fleet.simulated_ms
    records = scripted_records(sim.city, sim.clock.start_ms)
    return tuple(one for one in records if one.layer == "world" and one.start <= now_ms)


def _title(city: City) -> str:
    names = " ".join(name for name in (city.name, city.name_zh) if name)
    return f"CityEye: {names or city.city}"


def _day(simulating: Simulating) -> date:
    return datetime.fromtimestamp(simulating.clock.start_ms / 1000, UTC).date()


@asynccontextmanager
async def _working(view: View | None, stop: Stopping) -> AsyncIterator[None]:
    """Shows the view, if any; the garbage collector spares what was made so far, and comes seldom."""
    stop.working()
    showing = [asyncio.create_task(view.run(), name="view")] if view else []
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS_PER_COLLECTION, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()
        for task in showing:
            task.cancel()
        await asyncio.gather(*showing, return_exceptions=True)
