"""Ingest and alarms, assembled on a broker and a store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import structlog

from alerts.rules import RuleSet, load_packs, shipped_packs
from broker.acl import Role
from broker.choice import RunningBroker
from broker.codec import Publish
from broker.session import Link
from city.backoff import Backoff
from city.cityfile import City
from city.clock import wall_ms
from city.errors import StoreUnavailable
from city.settings import Settings
from cli.access import Access
from cli.alerting import Alerting, alerting
from cli.districts import Ownership
from cli.earlier import FreshIntake
from ingest.downsampling import Downsampling
from ingest.intake import Intake
from ingest.points import figures_point, order_point
from ingest.service import IngestService, subscriptions
from ingest.spool import Spool
from ingest.store import Point, Store
from ingest.storeurl import open_store

_log = structlog.get_logger(__name__)


class Ingesting(msgspec.Struct, frozen=True):
    """What runs while ingest runs."""

    service: IngestService
    alarms: Alerting
    store: Store

    async def finish(self, settings: Settings, *, expected: int | None = None) -> bool:
        """Let what has arrived reach the store and the alarm topics; whether all did in time."""
        wanted = None if expected is None else (lambda: expected)
        try:
            async with asyncio.timeout(settings.drain_s):
                await self.service.drain(expected=wanted)
        except TimeoutError:
            _log.error(
                "not everything is in the store yet; the spool keeps it for the next start",
                pending=self.service.ledger().pending,
                why=self.service.trouble or "it takes too long",
            )
            await self.alarms.flush(timeout_s=settings.drain_s)
            return False
        flushed = await self.alarms.flush(timeout_s=settings.drain_s)
        if self.service.trouble:
            _log.error("the last messages may still be at the broker", why=self.service.trouble)
        return flushed and not self.service.trouble


@asynccontextmanager
async def ingesting(
    settings: Settings,
    broker: RunningBroker,
    city: City | None,
    *,
    begins_ms: int | None = None,
) -> AsyncIterator[Ingesting]:
    """Ingest and alarms for one city, or for every city on the broker.

    Alarms go on as an earlier run left them. Where it is known when the city's time begins, what is
    of a later time is forgotten, alarms and messages: it belongs to another run.

    With `districts` in the settings it is these districts alone.

    Raises:
        SettingError: The city has no such district.
        InputError: The rules, the telling file or the gas network is wrong.
        StoreError: The store cannot be used, or not be reached within the patience.
        BrokerError: The same for the broker.
        SpoolError: The spool cannot be opened.
        ArchiveError: The same for the archive of alarms.
    """
    access = Access.to(settings, broker)
    own = Ownership.of(settings, city)
    async with (
        alerting(settings, city, lambda: rules_of(settings, city)) as alarms,
        _stored(settings) as (spool, store),
    ):
        await asyncio.to_thread(alarms.begin, spool.newest, begins_ms=begins_ms)
        intake = FreshIntake(devices_max=settings.devices_max, begins_ms=begins_ms)
        service = IngestService(
            spool=spool,
            store=store,
            consumers=[alarms],
            downsampling=await asyncio.to_thread(
                _downsampling, settings, intake, spool.newest, begins_ms
            ),
            intake=intake,
            figures=lambda: _figures(alarms, city.city if city else "all", own.worker),
            worker=own.worker,
        )

        def receive(link: Link, messages: list[Publish]) -> None:
            alarms.caught_up()  # the session begins when everything was handed in again
            service.receiver.receive(link, messages)

        who = city.city if city else "all"
        session = access.session(
            Role.INGEST,
            own.client_id("ingest", who),
            subscriptions=subscriptions(city.city if city else "+", own.districts),
            receive=receive,
        )
        alarm_session = access.session(
            Role.ALARMS,
            own.client_id("alarms", who),
            subscriptions=alarms.subscriptions(),
            receive=alarms.receive,
            clean=True,
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(alarm_session.run(), name="alarm session")]
                await alarm_session.ready(patience_s=settings.patience_s)
                running.append(tasks.create_task(alarms.run(alarm_session), name="alerting"))
                running.append(tasks.create_task(service.run(session), name="ingest"))
                await session.ready(patience_s=settings.patience_s)
                alarms.caught_up()
                yield Ingesting(service, alarms, store)
                session.disconnect()
                alarm_session.disconnect()
                for task in running:
                    task.cancel()
        finally:
            await service.close()


async def _figures(alarms: Alerting, city: str, worker: str) -> list[Point]:
    """What the alarm part has to say of itself: its figures, and the repair orders."""
    found = await asyncio.to_thread(alarms.orders.find)
    orders = [order_point(order, city=city) for order in found]
    return [figures_point("alarms", alarms.figures(), ts=wall_ms(), worker=worker), *orders]


@asynccontextmanager
async def _stored(settings: Settings) -> AsyncIterator[tuple[Spool, Store]]:
    """Spool and store, open; whoever uses the spool closes it."""
    spool = await asyncio.to_thread(_open_spool, settings)
    try:
        store = open_store(
            settings.store,
            data_dir=settings.data,
            token=settings.store_token,
            user=settings.store_user,
            password=settings.store_password,
            retention_days=settings.retention_days,
            rollup_bucket=settings.rollup_bucket,
        )
        await _opened(store, settings.patience_s)
    except BaseException:
        spool.close()
        raise
    _log.info("store", name=store.name)
    try:
        yield spool, store
    finally:
        await store.close()


def rules_of(settings: Settings, city: City | None) -> RuleSet:
    """The rules that watch: those given in the settings, else those that the city names.

    Raises:
        DocumentError: A rule file is wrong or missing.
    """
    given = settings.rules
    if not given and city is not None:
        files = [Path(name) for name in city.alarms.files]
        return load_packs(city.alarms.packs, files=files)
    if not given:
        return load_packs()
    shipped = shipped_packs()
    names = [name for name in given if name in shipped or not Path(name).suffix]
    return load_packs(names, files=[Path(name) for name in given if name not in names])


def _downsampling(
    settings: Settings, intake: Intake, newest: int, begins_ms: int | None
) -> Downsampling | None:
    if not settings.downsamples:
        return None
    downsampling = Downsampling(intake.series, settings.data / "intervals")
    downsampling.begin(newest, begins_ms=begins_ms)
    return downsampling


def _open_spool(settings: Settings) -> Spool:
    return Spool(
        settings.data / "spool.sqlite",
        max_bytes=settings.spool_max_mb * 1_000_000,
        tail_messages=2 * settings.window,
    )


async def _opened(store: Store, patience_s: float) -> None:
    """Open the store, waiting for a server that is still starting."""
    backoff = Backoff(cap_s=2.0)
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + patience_s
    while True:
        try:
            await store.open()
        except StoreUnavailable as error:
            if loop.time() >= deadline_s:
                raise StoreUnavailable(
                    f"{error}; gave up after {patience_s:.0f} s: start it, or give another --store"
                ) from error
            await asyncio.sleep(min(backoff.delay_s(), max(0.0, deadline_s - loop.time())))
        else:
            return
