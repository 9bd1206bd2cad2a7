"""`cityeye ingest` on a cluster: the districts of a city divided among long-running owners.

Dask runs an owner again elsewhere when its worker dies. It finds its spool, its archive and its
broker session where the dead one left them, so that nothing is lost and no alarm raised twice.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError
from typing import Any, Final

import msgspec
import structlog
from distributed import Client, KilledWorker

from broker.choice import BrokerAddress, parse_broker
from city.backoff import Backoff
from city.cityfile import City, load_city
from city.clock import wall_ms
from city.errors import ServiceError, SettingError
from city.settings import Settings
from cli.commands import closing
from cli.ingesting import rules_of
from cli.owner import WORDS, Ended, Failed, Finish, Own, Told, encoded, own_districts, sendable
from cli.stopping import Stop
from cli.summary import Outcome
from ingest.ledger import Ledger
from load.cluster import connected, workers_of
from load.post import Letter, Office

_log = structlog.get_logger(__name__)

_LINE_EVERY_S: Final = 10.0
_GRACE_S: Final = 30.0
"""An owner may take so much longer to end than it has to drain."""
_OF_ONE_OWNER: Final = frozenset({"duckdb", "influxd"})
_COUNTED: Final = ("received", "written", "duplicate", "quarantined", "refused", "pending")


async def run_ingest_cluster(
    settings: Settings, *, scheduler: str | None, local: int | None, share: int | None
) -> Outcome:
    """Ingest and alarms of one city, its districts shared among `share` owners on a cluster.

    Without `share` there is an owner for each worker, as far as there are districts.

    Raises:
        SettingError: The city cannot be divided so, broker or store are not for several owners, or
            the data directory holds another division.
        ServiceError: The cluster, or a service that an owner needs at its start, is not there.
    """
    stop = Stop()
    city = load_city(settings.city)
    rules_of(settings, city)
    _check(settings)
    workers = local or share or 1
    async with connected(
        scheduler, local, workers=workers, patience_s=settings.patience_s
    ) as client:
        places = await workers_of(client)
        known = len({device.site.district for device in city.devices()})
        shares = divided(city, share or min(len(places), known), settings.districts)
        _check_division(settings, shares)
        owners = Owners(client, settings, city.city, shares)
        try:
            stop.working()
            owners.start(places)
            await owners.work(stop.wanted, settings.duration_s)
            await owners.finish(settings.drain_s * 2 + settings.patience_s + _GRACE_S)
        finally:
            await owners.close()
    return owners.outcome()


def divided(city: City, owners: int, only: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """The districts of a city, or `only` these, in shares of about as many devices each.

    Raises:
        SettingError: There are fewer districts than owners.
    """
    known = [one.id for one in city.districts if not only or one.id in only]
    if not 1 <= owners <= len(known):
        raise SettingError(
            f"--share: {city.city} has {len(known)} districts to share, and a district has one "
            f"owner; give 1 to {len(known)}, not {owners}"
        )
    devices = Counter(device.site.district for device in city.devices())
    shares: list[list[str]] = [[] for _ in range(owners)]
    for district in sorted(known, key=lambda name: -devices[name]):
        least = min(shares, key=lambda own: (sum(devices[name] for name in own), len(own)))
        least.append(district)
    return sorted((tuple(sorted(own, key=known.index)) for own in shares), key=_by(known))


def _by(known: Sequence[str]) -> Any:
    return lambda own: known.index(own[0])


def _check(settings: Settings) -> None:
    """Refuse what several owners on several machines cannot share.

    Raises:
        SettingError: The broker or the store is of one process.
    """
    if settings.broker is None or not isinstance(parse_broker(settings.broker), BrokerAddress):
        raise SettingError(
            "--broker: owners on a cluster need a broker that all of them reach; give "
            "mqtt://HOST[:PORT] or mqtts://HOST[:PORT]"
        )
    word = settings.store.partition(":")[0]
    if word in _OF_ONE_OWNER:
        raise SettingError(
            f"--store: {word} is of one process, which writes alone; several owners share an "
            "InfluxDB: give influx1://HOST:PORT/DATABASE or influx2://HOST:PORT/ORG/BUCKET"
        )


def _check_division(settings: Settings, shares: Sequence[tuple[str, ...]]) -> None:
    """Refuse a data directory whose spools and alarms belong to another division of the city.

    Raises:
        SettingError: It does; as far as it can be seen from here.
    """
    ours = {".".join(own) for own in shares}
    found = sorted(path.parent.name for path in settings.data.glob("*/spool.sqlite"))
    others = [name for name in found if name not in ours]
    if others:
        raise SettingError(
            f"--share: {settings.data} belongs to another division, with {', '.join(others)}; give "
            "the same --share and districts as before, or another --data"
        )


class Owners:
    """The owners of a city's districts, seen from the command."""

    def __init__(
        self, client: Client, settings: Settings, city: str, shares: Sequence[tuple[str, ...]]
    ) -> None:
        self._client = client
        self._settings = settings
        self._city = city
        name = f"cityeye-ingest-{city}-{wall_ms()}"
        self._office = Office(client, name, len(shares))
        self._owners = [_Owner(number, districts) for number, districts in enumerate(shares)]
        self._stopping = False
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._running: list[asyncio.Task[None]] = []
        """One for each owner."""

    def start(self, places: Sequence[str]) -> None:
        """Start every owner, in turn on these workers."""
        self._office.open()
        self._tasks.append(asyncio.create_task(self._hear(), name="words of owners"))
        pinned = _offered(self._client)
        for owner in self._owners:
            place = places[owner.number % len(places)]
            running = self._run(owner, place, pinned=owner.name in pinned)
            self._running.append(asyncio.create_task(running, name=f"owner {owner.name}"))

    async def work(self, stop: asyncio.Event, limit_s: float | None) -> None:
        """Say now and then how it goes, until it is time to stop: so long after all work.

        Raises:
            ServiceError: An owner could not begin to work.
        """
        reporting = asyncio.create_task(self._report(), name="report")
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await self._first([owner.works for owner in self._owners], stopped)
            async with asyncio.timeout(limit_s):
                await self._first([stop])
        except TimeoutError:
            pass
        finally:
            reporting.cancel()
            stopped.cancel()

    async def finish(self, patience_s: float) -> None:
        """Have every owner bring everything to its place, and end."""
        self._stopping = True
        self._office.write(encoded(Finish()))
        try:
            async with asyncio.timeout(patience_s):
                await self._first([owner.over for owner in self._owners])
                await asyncio.wait(self._running)
        except TimeoutError:
            late = [owner.name for owner in self._owners if not owner.over.is_set()]
            _log.error("owners did not end; what they have is in their spools", owners=late)

    async def close(self) -> None:
        """Let go of whatever still runs: it ends in order by itself."""
        for task in (*self._running, *self._tasks):
            task.cancel()
        await asyncio.gather(*self._running, *self._tasks, return_exceptions=True)
        await self._office.close()
        if self._failed.done():
            self._failed.exception()

    def outcome(self) -> Outcome:
        """The sums, and what each owner counted."""
        ledgers = [owner.ledger for owner in self._owners]
        total = Ledger(
            **{name: sum(getattr(one, name) for one in ledgers) for name in _COUNTED},
            reasons=dict(sum((Counter(one.reasons) for one in ledgers), Counter())),
        )
        complete = all(owner.complete for owner in self._owners) and total.balanced
        figures = {
            "broker": self._settings.broker,
            "store": self._settings.store,
            "city": self._city,
            "alarms": _sum_of(owner.alarms for owner in self._owners),
            "ledger": msgspec.to_builtins(total),
            "restarts": sum(owner.restarts for owner in self._owners),
            "owners": {owner.name: owner.figures() for owner in self._owners},
        }
        return _Shared(figures, complete, closing=closing(complete=complete))

    async def _first(self, events: Iterable[asyncio.Event], *other: asyncio.Future[Any]) -> None:
        """Wait for all of these, or for something other; the failure of an owner is raised."""
        waits = (event.wait() for event in events)
        everything: asyncio.Future[Any] = asyncio.gather(*waits)
        try:
            await asyncio.wait(
                [everything, self._failed, *other], return_when=asyncio.FIRST_COMPLETED
            )
            if self._failed.done():
                self._failed.result()
        finally:
            everything.cancel()
            await asyncio.gather(everything, return_exceptions=True)

    async def _hear(self) -> None:
        async for letter in self._office.letters():
            owner = self._owners[letter.number]
            if letter.body is None:
                self._answer(owner, letter)
                continue
            said = WORDS.decode(letter.body)
            if isinstance(said, Told):
                owner.hear(said)
            elif isinstance(said, Ended):
                owner.end(said)
            else:
                owner.failure = said

    def _answer(self, owner: "_Owner", letter: Letter) -> None:
        """Say what to own, and to one that begins again, since when."""
        owner.begin(letter.attempt)
        settings = msgspec.structs.replace(
            sendable(self._settings), data=self._settings.data.absolute() / owner.name,
            districts=owner.districts, for_=None,
        )  # fmt: skip
        if settings.broker_credentials is not None:
            settings = msgspec.structs.replace(settings, broker_seat=f"owner-{owner.number + 1}")
        to = [owner.number]
        self._office.write(encoded(Own(settings, owner.began_ms, owner.origin)), to=to)
        if self._stopping:
            self._office.write(encoded(Finish()), to=to)

    async def _run(self, owner: "_Owner", place: str, *, pinned: bool) -> None:
        """Have it run until it is over: Dask runs it again where a worker dies, we where that gives up."""
        backoff = Backoff()
        generation = 0
        where: dict[str, Any] = {"workers": [place], "allow_other_workers": True}
        if pinned:
            where = {"resources": {owner.name: 1}}
        while not owner.over.is_set():
            generation += 1
            key = f"{self._office.name}-{owner.name}-{generation}"
            task = self._client.submit(
                own_districts, self._office.name, owner.number, key=key, pure=False, **where
            )
            if await self._over(owner, task):
                return
            await asyncio.sleep(backoff.delay_s())
            where = where if pinned else {}

    async def _over(self, owner: "_Owner", task: Any) -> bool:
        """Wait for a task's end; False where another one shall go on."""
        try:
            await task
        except KilledWorker as error:
            _log.error("districts lost worker after worker", owner=owner.name, why=str(error))
            return False
        except CancelledError as error:
            self._fail(ServiceError(
                f"the scheduler is lost ({error}); the owners end in order, start the command again"
            ))  # fmt: skip
            return True
        except Exception as error:  # noqa: BLE001 - whatever a task raised on its worker
            owner.failure = Failed(f"{type(error).__name__}: {error}", 1)
        await asyncio.sleep(0)
        failure, owner.failure = owner.failure, None
        if failure is None:
            return owner.over.is_set()
        if owner.works.is_set() and failure.status == 1:
            _log.error("an owner stopped and is started again", owner=owner.name, why=failure.why)
            return False
        wrong = SettingError if failure.status != 1 else ServiceError
        self._fail(wrong(f"owner {owner.name}: {failure.why}"))
        return True

    def _fail(self, error: Exception) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    async def _report(self) -> None:
        """A line now and then."""
        while True:
            await asyncio.sleep(_LINE_EVERY_S)
            ledgers = [owner.ledger for owner in self._owners]
            sums = {name: sum(getattr(one, name) for one in ledgers) for name in _COUNTED}
            troubles = {owner.name: owner.trouble for owner in self._owners if owner.trouble}
            _log.info("ingest", owners=len(self._owners), **sums, **troubles)


class _Owner:
    """What the command knows of an owner, whatever attempt it is in."""

    def __init__(self, number: int, districts: tuple[str, ...]) -> None:
        self.number = number
        self.districts = districts
        self.name = ".".join(districts)
        self.began_ms = wall_ms()
        self.origin: Ledger | None = None
        self.ledger = Ledger()
        self.alarms: dict[str, int] = {}
        self.complete = False
        self.restarts = 0
        self.trouble: str | None = None
        self.failure: Failed | None = None
        self.works = asyncio.Event()
        self.over = asyncio.Event()
        self._worker = ""
        self._attempt: str | None = None

    def begin(self, attempt: str) -> None:
        """An attempt begins; it may ask several times."""
        if self._attempt not in {None, attempt}:
            self.restarts += 1
            _log.warning("districts lost their worker and run again", owner=self.name)
        self._attempt = attempt

    def hear(self, told: Told) -> None:
        """Take what it says of itself."""
        if told.worker != self._worker:
            _log.info("an owner works", owner=self.name, worker=told.worker)
        self._worker = told.worker
        self.origin = told.origin
        self.ledger = told.ledger
        self.trouble = told.trouble
        self.works.set()

    def end(self, ended: Ended) -> None:
        """Take its summary."""
        self.ledger = msgspec.convert(ended.figures["ledger"], Ledger)
        alarms = ended.figures["alarms"]
        self.alarms = {name: alarms[name] for name in ("standing", "unacknowledged")}
        self.complete = ended.complete
        self.over.set()

    def figures(self) -> dict[str, Any]:
        """For the summary."""
        return {
            "districts": list(self.districts),
            "worker": self._worker,
            "restarts": self.restarts,
            "alarms": self.alarms,
            "ledger": msgspec.to_builtins(self.ledger),
        }


class _Shared(Outcome):
    """The summary of several owners: for people one line each."""

    def show(self, *, as_json: bool) -> int:
        """Print the summary on standard output and return the exit status."""
        if as_json:
            return super().show(as_json=True)
        rows = {name: value for name, value in self.figures.items() if name != "owners"}
        for name, one in self.figures["owners"].items():
            counts = ", ".join(f"{one['ledger'][count]:,} {count}" for count in _COUNTED)
            rows[f"owner {name}"] = f"{counts}; {one['restarts']} restarts; at {one['worker']}"
        return Outcome(rows, self.complete, self.closing).show(as_json=False)


def _sum_of(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter({"standing": 0, "unacknowledged": 0})
    for one in counts:
        total.update(one)
    return dict(total)


def _offered(client: Client) -> set[str]:
    """The resources that workers say they have: an owner of that name is pinned to them."""
    workers = client.scheduler_info()["workers"].values()
    return {name for worker in workers for name in worker.get("resources", {})}
