"""A load test from its options to its report: broker, parts, live view, files."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec
import structlog
from rich.console import Console

from broker.acl import Role
from broker.choice import BrokerAddress, RunningBroker, running_broker
from broker.mosquitto import answers
from broker.session import Session
from broker.topics import load_topic
from city.backoff import Backoff
from city.errors import BrokerError, CityEyeError, ServiceError, SettingError
from city.settings import Settings
from cli.access import Access
from cli.loadplan import Wanted, against, interval_of, plan_of
from cli.logs import CONSOLE
from cli.stopping import Stop
from ingest.store import Store
from ingest.storeurl import open_store
from load.cluster import connected, workers_of
from load.comparison import compare, shown
from load.comparisonpage import comparison_page
from load.conductor import Conductor
from load.crew import Crew
from load.descriptors import make_room
from load.keys import Keys, Remote
from load.knee import Knee, bounds_of
from load.livefigures import LiveTeller
from load.liveview import LiveView
from load.page import page
from load.phases import course_of, phases_of
from load.plan import LoadPlan, Phase
from load.processes import Login, Processes
from load.report import Report, read_report, report_of, write_text
from load.templates import template_of
from load.verdict import table, verdict
from load.workers import Workers

_log = structlog.get_logger(__name__)

SEARCH_S: Final = 1_800.0
"""How long a search for the limit may take where --for does not say."""

_PROBE_S: Final = 5.0
REPORT: Final = "report.json"
PAGE: Final = "report.html"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A test as it was asked for."""

    settings: Settings
    wanted: Wanted
    payload: str = "native"
    profile: str = "steady"
    find_limit: bool = False
    bounds: tuple[str, ...] = ()
    processes: int = 1
    scheduler: str | None = None
    local_cluster: int | None = None
    watch_store: bool = False
    out: Path | None = None
    dry_run: bool = False


class Tested(msgspec.Struct, frozen=True):
    """What a test ends with."""

    report: Report | None
    folder: Path
    trouble: str = ""
    """Why the report could not be written."""

    def show(self, *, as_json: bool) -> int:
        """Print the report on standard output and return the exit status."""
        if self.report is None:
            return 0
        if as_json:
            sys.stdout.write(msgspec.json.encode(self.report.figures()).decode() + "\n")
            sys.stdout.flush()
        else:
            console = Console(highlight=False, soft_wrap=True)
            console.print(table(self.report))
            console.print(verdict(self.report), style="green" if self.report.fulfilled else "red")
            if not self.trouble:
                console.print(f"the report: {self.folder / PAGE}")
        if self.trouble:
            _log.error(self.trouble)
        return 0 if self.report.fulfilled and not self.trouble else 1


async def load(request: Request) -> Tested:
    """Play the test, write its report, and sum it up.

    Raises:
        InputError: An option, the template, the profile or the descriptors do not allow it.
        ServiceError: Broker, store, cluster or a part of the test is not there.
    """
    stop = Stop()
    plan = plan_of(
        request.wanted,
        request.settings,
        template=template_of(request.payload),
        phases=_phases(request),
    )
    knee = Knee(bounds_of(request.bounds)) if request.find_limit else None
    if request.dry_run:
        sys.stdout.write(course_of(plan) + "\n")
        return Tested(None, Path())
    if request.scheduler is None:
        make_room(plan.devices, request.local_cluster or request.processes, plan.sources)
    async with AsyncExitStack() as stack:
        home = stack.enter_context(TemporaryDirectory(prefix="cityeye-load-"))
        broker = await stack.enter_async_context(_broker(request, plan, Path(home)))
        plan = against(plan, broker)
        await _reached(broker.address, request.settings.patience_s)
        crew, shards = await stack.enter_async_context(_crew(request))
        conductor = Conductor(plan, crew, knee=knee)
        await stack.enter_async_context(_watched(request, conductor, broker))
        keys = stack.enter_context(Keys(conductor.wish))

        def leave() -> None:
            keys.restore()
            shutil.rmtree(home, ignore_errors=True)  # it may hold the keys of a guarded broker

        stop.working(at_once=leave)
        course = await conductor.run(shards=shards, subscribers=plan.subscribers, stop=stop.wanted)
    found = None if knee is None else knee.result("the test ended before the search").figures()
    report = report_of(
        plan, course, started_ms=conductor.started_ms, broker=broker.name, knee=found
    )
    folder = request.out or request.settings.data / "load" / plan.run
    try:
        await asyncio.to_thread(write_report, report, folder)
    except ServiceError as error:
        return Tested(report, folder, trouble=str(error))
    return Tested(report, folder)


def write_report(report: Report, folder: Path) -> None:
    """The report for programs and for people.

    Raises:
        ServiceError: The files cannot be written.
    """
    write_text(folder / REPORT, report.encode())
    write_text(folder / PAGE, page(report))


def compare_reports(first: Path, second: Path, *, html: Path | None, as_json: bool) -> int:
    """Show two tests side by side; the exit status.

    Raises:
        DocumentError: One of them is no report.
        ServiceError: The page cannot be written.
    """
    a, b = (read_report(path / REPORT if path.is_dir() else path) for path in (first, second))
    both = compare(a, b)
    if html is not None:
        write_text(html, comparison_page(a, b))
    if as_json:
        sys.stdout.write(both.encode().decode() + "\n")
    else:
        Console(highlight=False, soft_wrap=True).print(shown(both))
    return 0


def _phases(request: Request) -> tuple[Phase, ...]:
    """The phases of the profile; a search holds one rate until it orders another."""
    for_s = request.settings.duration_s
    if request.bounds and not request.find_limit:
        raise SettingError("--bound: only a search for the limit has bounds; add --find-limit")
    if request.find_limit:
        if request.profile != "steady":
            raise SettingError("--find-limit makes its own course; leave --profile out")
        return (Phase(name="search", for_s=for_s or SEARCH_S),)
    return phases_of(
        request.profile, rate=request.wanted.devices / interval_of(request.wanted), for_s=for_s
    )


@asynccontextmanager
async def _broker(request: Request, plan: LoadPlan, home: Path) -> AsyncIterator[RunningBroker]:
    """The broker that is tested; one of our own is fresh, and gone afterwards."""
    settings = request.settings
    guard = plan.city() if settings.secure else None
    async with running_broker(
        settings.broker,
        data_dir=home,
        port=settings.broker_port,
        window=settings.window,
        guard=guard,
    ) as broker:
        if broker.embedded:
            _log.warning(
                "the broker under test is the embedded one, in the conductor's own process",
                remedy="install Mosquitto, or give another with --broker",
            )
        yield broker


async def _reached(address: BrokerAddress, patience_s: float) -> None:
    """Return when the broker answers; over TLS the devices find out.

    Raises:
        BrokerError: It does not answer within the patience.
    """
    backoff = Backoff(cap_s=2.0)
    deadline_s = asyncio.get_running_loop().time() + patience_s
    while not address.tls and not await answers(address.host, address.port, timeout_s=_PROBE_S):
        if asyncio.get_running_loop().time() >= deadline_s:
            raise BrokerError(
                f"no broker answers at {address} within {patience_s:g} s; start it, or give another "
                "one with --broker"
            )
        await asyncio.sleep(backoff.delay_s())


@asynccontextmanager
async def _crew(request: Request) -> AsyncIterator[tuple[Crew, int]]:
    """Who plays the parts, and in how many shards."""
    near = Processes(store=_watched_store(request.settings) if request.watch_store else None)
    async with AsyncExitStack() as stack:
        crew: Crew = near
        shards = request.processes
        if request.scheduler is not None or request.local_cluster is not None:
            opening = connected(
                request.scheduler,
                request.local_cluster,
                workers=request.processes,
                patience_s=request.settings.patience_s,
            )
            client = await stack.enter_async_context(opening)
            shards = max(request.processes, len(await workers_of(client)))
            crew = Workers(client, near)
        stack.push_async_callback(crew.close)
        yield crew, shards


def _watched_store(settings: Settings) -> Login:
    return Login(settings.store, settings.store_token, settings.store_user, settings.store_password)


@asynccontextmanager
async def _watched(
    request: Request, conductor: Conductor, broker: RunningBroker
) -> AsyncIterator[None]:
    """The live view; figures to MQTT and the store; wishes from afar.

    None of it is part of the test: a broker that does not let us do it is a line in the log.
    """
    settings, plan = request.settings, conductor.plan
    access = Access.to(settings, broker)
    session = access.session(
        Role.SIM,
        f"cityeye-load-{plan.run}",
        subscriptions=[(load_topic(conductor.city, plan.run, "control"), 1)],
        receive=Remote(conductor.wish).receive,
        clean=True,
    )
    store = _store(settings) if request.watch_store else None
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(_quietly(session), name="control"),
            tasks.create_task(_tell(conductor, session, store), name="live figures"),
        ]
        with LiveView(CONSOLE) as view:
            conductor.onlookers.append(lambda course: view.update(course, plan, conductor.search))
            yield
        session.disconnect()
        for task in running:
            task.cancel()


async def _quietly(session: Session) -> None:
    try:
        await session.run()
    except CityEyeError as error:
        _log.warning("no live figures and no control over MQTT", why=str(error))


async def _tell(conductor: Conductor, session: Session, store: Store | None) -> None:
    course = await conductor.begun()
    teller = LiveTeller(course, city=conductor.city, publish=session.publish, store=store)
    try:
        await teller.run()
    finally:
        await teller.close()


def _store(settings: Settings) -> Store:
    return open_store(
        settings.store,
        data_dir=settings.data,
        token=settings.store_token,
        user=settings.store_user,
        password=settings.store_password,
    )
