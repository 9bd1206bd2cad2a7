"""The shards of a test as long-running tasks on Dask's workers; all other parts run nearby.

Each shard is a task that leaves its worker's pool of threads and runs a loop of its own. A shard
whose worker is lost is run again by the scheduler on another one, beside that one's own shard: it
asks what to do, and goes on where all was acknowledged when its last word arrived.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
from distributed import Client, Future, KilledWorker, secede

from city.errors import CityEyeError, SettingError
from city.settings import resolve
from load.cluster import workers_of
from load.crew import Crew
from load.figures import Delta
from load.line import said_for
from load.plan import LoadPlan, Order, Part, Resume
from load.post import Desk, Letter, Office
from load.processes import Begin, Failed, Job, Ordered, PartError, Prepared, Word
from load.shard import play_shard

_PREPARE_S: Final = 300.0
_END_S: Final = 10.0
_LISTEN_S: Final = 0.02
_FROM_ENVIRONMENT: Final = ""
"""A password that each worker has itself."""

_Down = Job | Begin | Ordered
_Up = Prepared | Word | Failed
_DOWN: Final[msgspec.msgpack.Decoder[_Down]] = msgspec.msgpack.Decoder(
    _Down, dec_hook=lambda kind, value: kind(value)
)
_UP: Final[msgspec.msgpack.Decoder[_Up]] = msgspec.msgpack.Decoder(_Up)
_encode: Final = msgspec.msgpack.Encoder(enc_hook=str).encode
"""Paths travel as text."""


class Workers:
    """Runs one test: its shards on the workers of a cluster, everything else on `near`.

    `close` ends whatever still runs.
    """

    def __init__(self, client: Client, near: Crew) -> None:
        self._client = client
        self._near = near
        self._office: Office | None = None
        self._shards: list[_Shard] = []
        self._orders: list[Order] = []
        self._start_ms = 0
        self._words: asyncio.Queue[Delta | None] = asyncio.Queue()
        """None: everything nearby, or one shard, has said its last, or failed."""
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, plan: LoadPlan, *, shards: int, subscribers: int) -> int:
        """Prepare the shards, then what is nearby, and begin; the instant at which [ms].

        The broker's password does not travel: a worker has it from its own environment.

        Raises:
            PartError: A part could not prepare itself.
        """
        sent = _sendable(plan)
        places = await workers_of(self._client)
        office = self._office = Office(self._client, f"cityeye-load-{plan.run}", shards)
        office.open()
        for number in range(shards):
            job = Job("shard", sent, number, shards)
            task = _submitted(self._client, office.name, number, places[number % len(places)])
            self._shards.append(_Shard(job, task))
            self._shards[-1].watch = self._run(self._watch(self._shards[-1]), f"shard {number}")
        self._run(self._hear(office), "words of workers")
        await self._all_prepared()
        self._start_ms = await self._near.start(plan, shards=0, subscribers=subscribers)
        self._all_well()
        office.write(_encode(Begin(self._start_ms)))
        self._run(self._hear_nearby(), "words from nearby")
        return self._start_ms

    async def words(self) -> AsyncIterator[Delta]:
        """Every word of every part, until all have said their last, or failed."""
        talking = 1 + len(self._shards)
        while talking:
            word = await self._words.get()
            if word is None:
                talking -= 1
            else:
                yield word

    def order(self, order: Order) -> None:
        """Tell every part."""
        self._orders.append(order)
        self._near.order(order)
        if self._office is not None:
            self._office.write(_encode(Ordered(order)))

    async def close(self) -> None:
        """End every part: a shard that still runs hears that nobody listens."""
        ended = [shard.watch for shard in self._shards if shard.watch and shard.ended.is_set()]
        if ended:
            await asyncio.wait(ended, timeout=_END_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._office is not None:
            await self._office.close()
        for shard in self._shards:
            shard.task.release()
        await self._near.close()

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        self._tasks.append(asyncio.create_task(work, name=name))
        return self._tasks[-1]

    async def _all_prepared(self) -> None:
        """Wait for every shard, or for the first that fails.

        Raises:
            PartError: One cannot prepare itself.
        """
        try:
            async with asyncio.timeout(_PREPARE_S):
                for shard in self._shards:
                    await shard.prepared.wait()
                    self._all_well()
        except TimeoutError as error:
            raise PartError(
                f"not every shard was prepared within {_PREPARE_S:.0f} s; are the workers busy?"
            ) from error

    def _all_well(self) -> None:
        """Raise what a shard failed of before the test began."""
        for shard in self._shards:
            if shard.failure is not None:
                raise shard.failure

    async def _hear_nearby(self) -> None:
        async for word in self._near.words():
            self._words.put_nowait(word)
        self._words.put_nowait(None)

    async def _hear(self, office: Office) -> None:
        async for letter in office.letters():
            shard = self._shards[letter.number]
            if letter.body is None:
                self._answer(office, shard, letter)
                continue
            said = _UP.decode(letter.body)
            if isinstance(said, Failed):
                self._fail(shard, PartError(f"{shard.name}: {said.why}", status=said.status))
            elif isinstance(said, Word):
                self._take(shard, said.delta)
            else:
                shard.prepared.set()
                if self._start_ms:
                    office.write(_encode(Begin(self._start_ms)), to=[letter.number])

    def _answer(self, office: Office, shard: "_Shard", letter: Letter) -> None:
        """Give a shard that has begun its job; one that has begun again, where it goes on."""
        job = shard.job
        if shard.attempt not in {None, letter.attempt} and self._start_ms:
            warning = f"{shard.name} lost its worker and runs again on another one"
            self._words.put_nowait(said_for(shard.word, warning))
        shard.attempt = letter.attempt
        if self._start_ms:
            resume = Resume(max(shard.complete_ms, self._start_ms), tuple(self._orders))
            job = msgspec.structs.replace(job, resume=resume)
        office.write(_encode(job), to=[job.number])

    def _take(self, shard: "_Shard", delta: Delta) -> None:
        shard.word = delta
        shard.complete_ms = max(shard.complete_ms, delta.complete_ms)
        self._words.put_nowait(delta)
        if delta.last and not shard.ended.is_set():
            shard.ended.set()
            self._words.put_nowait(None)

    async def _watch(self, shard: "_Shard") -> None:
        """Wait for the task's end; one without a last word is a failure."""
        try:
            await shard.task
            async with asyncio.timeout(_END_S):
                await shard.ended.wait()
        except KilledWorker as error:
            why = f"{shard.name} lost worker after worker; their logs may say why: {error}"
        except CancelledError as error:
            why = f"{shard.name}: the scheduler is lost: {error}"
        except TimeoutError:
            why = f"{shard.name} ended in the middle of the test"
        except Exception as error:  # noqa: BLE001 - whatever a task raised on its worker
            why = f"{shard.name}: {type(error).__name__}: {error}"
        else:
            return
        self._fail(shard, PartError(why))

    def _fail(self, shard: "_Shard", failure: PartError) -> None:
        """Tell whoever waits that the shard does not go on."""
        shard.prepared.set()
        if shard.failure is None and not shard.ended.is_set():
            warning = f"{failure}; its part of the figures ends there"
            self._words.put_nowait(said_for(shard.word, warning, failed=True))
            self._words.put_nowait(None)
            shard.failure = failure


class _Shard:
    """A shard, and the task that plays it."""

    def __init__(self, job: Job, task: Future) -> None:
        self.job = job
        self.task = task
        self.name = f"{job.kind} {job.number + 1} of {job.of}"
        self.watch: asyncio.Task[None] | None = None
        """Ends with the task."""
        self.attempt: str | None = None
        self.word = Delta(kind=job.kind, part=job.number, at_ms=0)
        """The last one that was heard."""
        self.complete_ms = 0
        self.failure: PartError | None = None
        self.prepared = asyncio.Event()
        self.ended = asyncio.Event()


def _sendable(plan: LoadPlan) -> LoadPlan:
    """The plan without its password, and with paths that mean the same in another directory."""
    given = ((name, getattr(plan, name)) for name in plan.__struct_fields__)
    changes: dict[str, Any] = {
        name: value.absolute() for name, value in given if isinstance(value, Path)
    }
    if plan.password is not None:
        changes["password"] = _FROM_ENVIRONMENT
    return msgspec.structs.replace(plan, **changes)


def _submitted(client: Client, errand: str, number: int, worker: str) -> Future:
    """A shard's task on that worker, or on another one once that is lost."""
    return client.submit(
        run_shard, errand, number, key=f"{errand}-shard-{number}", pure=False, workers=[worker],
        allow_other_workers=True,
    )  # fmt: skip


def run_shard(errand: str, number: int) -> None:
    """A shard, in a thread of a worker beside its pool."""
    secede()
    desk = Desk(errand, number)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_play(desk))
    finally:
        desk.close()


async def _play(desk: Desk) -> None:
    """From the question what to do to the last word, or until nobody listens."""
    try:
        while not isinstance(job := _DOWN.decode(await desk.ask()), Job):
            pass
        line = _Line(desk)
        part = Part(job.number, job.of, 0, job.resume)
        await play_shard(_with_password(job.plan, desk.worker), part, line)
    except* ConnectionError:
        pass
    except* CityEyeError as errors:
        first = errors.exceptions[0]
        status = first.exit_status if isinstance(first, CityEyeError) else 1
        desk.write(_encode(Failed(str(first), status)))


def _with_password(plan: LoadPlan, worker: str) -> LoadPlan:
    if plan.password != _FROM_ENVIRONMENT:
        return plan
    password = resolve({}, os.environ).broker_password
    if password is None:
        raise SettingError(
            f"the worker {worker} has no CITYEYE_BROKER_PASSWORD in its environment; passwords do "
            "not travel, so give it, or CITYEYE_BROKER_PASSWORD_FILE, to every `dask worker`"
        )
    return msgspec.structs.replace(plan, password=password)


class _Line:
    """The line of a shard that runs on a worker."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._orders: deque[Order] = deque()
        self._start_ms: int | None = None

    def tell(self, delta: Delta) -> None:
        """Hand a word to the conductor."""
        named = msgspec.structs.replace(delta, attempt=self._desk.attempt)
        self._desk.write(_encode(Word(named)))

    def heard(self) -> Sequence[Order]:
        """Orders since the last call."""
        self._read()
        heard = list(self._orders)
        self._orders.clear()
        return heard

    async def begin(self) -> int:
        """Say that the shard is prepared; the instant at which the test begins [ms]."""
        self._desk.write(_encode(Prepared()))
        while self._start_ms is None:
            if self._desk.alone:
                raise ConnectionError("the conductor is gone")
            await asyncio.sleep(_LISTEN_S)
            self._read()
        return self._start_ms

    def _read(self) -> None:
        for body in self._desk.read():
            said = _DOWN.decode(body)
            if isinstance(said, Ordered):
                self._orders.append(said.order)
            elif isinstance(said, Begin):
                self._start_ms = said.start_ms
