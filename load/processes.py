"""The parts of a test as processes of this machine, at the other end of a pipe.

Each part is `python -m load.processes`: its job and its orders are lines of JSON on standard input,
its words lines of JSON on standard output. A part whose input ends has lost its conductor, and ends.
"""

import asyncio
import logging
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from functools import cache
from typing import Any, Final, NoReturn

import msgspec
import structlog
import uvloop

from city.clock import wall_ms
from city.errors import CityEyeError, ServiceError
from load.figures import Delta, PartKind
from load.line import said_for
from load.plan import LoadPlan, Order, Part, Resume

_log = structlog.get_logger(__name__)

_PREPARE_TIMEOUT_S: Final = 300.0
_END_TIMEOUT_S: Final = 20.0
_LINE_MAX: Final = 64 * 1024 * 1024
_LEAD_MS: Final = 300
"""The test begins so long after the last part was prepared."""
_ATTEMPTS_MAX: Final = 5
"""So often a shard is started; whatever ends it every time is no accident."""


class Login(msgspec.Struct, frozen=True):
    """How a store is reached: an address, and what proves who we are."""

    address: str
    token: str | None = None
    user: str | None = None
    password: str | None = None


class Job(msgspec.Struct, tag=True, frozen=True):
    """What a process is to do."""

    kind: PartKind
    plan: LoadPlan
    number: int
    of: int
    store: Login | None = None
    resume: Resume | None = None


class Begin(msgspec.Struct, tag=True, frozen=True):
    """All parts are prepared; the test begins at that instant."""

    start_ms: int


class Ordered(msgspec.Struct, tag=True, frozen=True):
    """An order of the conductor."""

    order: Order


class Prepared(msgspec.Struct, tag=True, frozen=True):
    """The process can begin."""


class Word(msgspec.Struct, tag=True, frozen=True):
    """A word of the part."""

    delta: Delta


class Logged(msgspec.Struct, tag=True, frozen=True):
    """A line for the log of the conductor, whose live view stays in one piece by that."""

    level: str
    event: str
    facts: dict[str, str]


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The part cannot go on; `status` is the exit status that belongs to the reason."""

    why: str
    status: int


_DOWN: Final[msgspec.json.Decoder[Job | Begin | Ordered]] = msgspec.json.Decoder(
    Job | Begin | Ordered, dec_hook=lambda kind, value: kind(value)
)
_UP: Final[msgspec.json.Decoder[Prepared | Word | Logged | Failed]] = msgspec.json.Decoder(
    Prepared | Word | Logged | Failed
)
_encode: Final = msgspec.json.Encoder(enc_hook=str).encode
"""Paths are text on the way."""


class PartError(ServiceError):
    """A part ended before its time; the text says which and why."""

    def __init__(self, message: str, *, status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = status


class Processes:
    """Runs the parts of one test; `close` ends whatever still runs.

    A shard that dies is started again and goes on where all was acknowledged.
    """

    def __init__(self, *, store: Login | None = None) -> None:
        self._store = store
        self._running: list[_Seat] = []
        self._words: asyncio.Queue[Delta | None] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._orders: list[Order] = []
        self._start_ms = 0

    async def start(self, plan: LoadPlan, *, shards: int, subscribers: int) -> int:
        """Start every part, wait until all are prepared, and begin; the instant at which [ms].

        Raises:
            PartError: A part could not prepare itself.
        """
        wanted: list[Job] = [Job("shard", plan, number, shards) for number in range(shards)]
        wanted += [Job("subscriber", plan, number, subscribers) for number in range(subscribers)]
        if self._store is not None:
            wanted.append(Job("store", plan, 0, 1, self._store))
        for job in wanted:
            self._running.append(_Seat(job, await _Child.begin(job)))
        try:
            async with asyncio.timeout(_PREPARE_TIMEOUT_S):
                for seat in self._running:
                    await seat.child.prepared()
        except TimeoutError as error:
            raise PartError(
                f"not every part was prepared within {_PREPARE_TIMEOUT_S:.0f} s; is the machine "
                "busy? ask for fewer --devices or --processes"
            ) from error
        self._start_ms = wall_ms() + _LEAD_MS
        for seat in self._running:
            seat.child.send(Begin(self._start_ms))
            self._tasks.append(asyncio.create_task(self._hear(seat), name=seat.child.name))
        return self._start_ms

    async def words(self) -> AsyncIterator[Delta]:
        """Every word of every part, until all have said their last, or failed."""
        talking = len(self._running)
        while talking:
            word = await self._words.get()
            if word is None:
                talking -= 1
            else:
                yield word

    def order(self, order: Order) -> None:
        """Tell every part."""
        self._orders.append(order)
        for seat in self._running:
            seat.child.send(Ordered(order))

    async def close(self) -> None:
        """End every process: those that do not by themselves are killed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(seat.child.end() for seat in self._running))

    async def _hear(self, seat: "_Seat") -> None:
        try:
            while not await self._heard_out(seat):
                await self._again(seat)
        except PartError as failure:
            warning = f"{failure}; its part of the figures ends there"
            self._words.put_nowait(said_for(seat.word, warning, failed=True))
        self._words.put_nowait(None)

    async def _heard_out(self, seat: "_Seat") -> bool:
        """Take the words of a process until it ends; whether it has said its last."""
        while (word := await seat.child.word()) is not None:
            seat.word = word
            seat.complete_ms = max(seat.complete_ms, word.complete_ms)
            self._words.put_nowait(word)
            if word.last:
                return True
        return False

    async def _again(self, seat: "_Seat") -> None:
        """Another process for a shard that died, and a word that says so.

        Raises:
            PartError: It is no shard, or died too often.
        """
        seat.attempts += 1
        why = f"{seat.child.name} died in the middle of the test"
        again = seat.job.kind == "shard" and seat.attempts < _ATTEMPTS_MAX
        if not again:
            raise PartError(why)
        warning = f"{why} and was started again; it sends anew what was not acknowledged"
        self._words.put_nowait(said_for(seat.word, warning))
        resume = Resume(max(seat.complete_ms, self._start_ms), tuple(self._orders))
        seat.child = await _Child.begin(msgspec.structs.replace(seat.job, resume=resume))
        await seat.child.prepared()
        seat.child.send(Begin(self._start_ms))
        for order in self._orders[len(resume.orders) :]:
            seat.child.send(Ordered(order))


class _Seat:
    """A part of the test, and the process that plays it now."""

    def __init__(self, job: Job, child: "_Child") -> None:
        self.job = job
        self.child = child
        self.attempts = 1
        self.word = Delta(kind=job.kind, part=job.number, at_ms=0)
        """The last one that was heard."""
        self.complete_ms = 0


class _Child:
    """One process, seen from the conductor."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process

    @classmethod
    async def begin(cls, job: Job) -> "_Child":
        """A process that prepares itself; signals of the terminal do not reach it."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __spec__.name,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_LINE_MAX,
        )
        child = cls(f"{job.kind} {job.number + 1} of {job.of}", process)
        child.send(job)
        return child

    def send(self, message: Job | Begin | Ordered) -> None:
        """Write one line."""
        writer = self._process.stdin
        if writer is not None and not writer.is_closing():
            writer.write(_encode(message) + b"\n")

    async def prepared(self) -> None:
        """Return when the process says that it can begin."""
        if not isinstance(await self._said(), Prepared):
            raise PartError(f"{self.name} ended before the test began; its log says why")

    async def word(self) -> Delta | None:
        """The next word; None at the end of its output."""
        said = await self._said()
        return said.delta if isinstance(said, Word) else None

    async def end(self) -> None:
        """Wait a while for its end after its input has ended, then kill it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _said(self) -> Prepared | Word | None:
        while (line := await self._line()).endswith(b"\n"):
            said = _UP.decode(line)
            if isinstance(said, Failed):
                raise PartError(f"{self.name}: {said.why}", status=said.status)
            if not isinstance(said, Logged):
                return said
            level = logging.getLevelNamesMapping()[said.level.upper()]
            _log.log(level, said.event, part=self.name, **said.facts)
        return None

    async def _line(self) -> bytes:
        """One line; what a process that dies leaves unfinished has no end."""
        reader = self._process.stdout
        return b"" if reader is None else await reader.readline()


class _Line:
    """The line of a part, seen from its process."""

    def __init__(self) -> None:
        self.job: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        self._begin: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._orders: deque[Order] = deque()

    def tell(self, delta: Delta) -> None:
        """Write one line; the conductor reads all the time."""
        _write(Word(delta))

    def heard(self) -> Sequence[Order]:
        """Orders since the last call."""
        heard = list(self._orders)
        self._orders.clear()
        return heard

    async def begin(self) -> int:
        """Say that the part is prepared; the instant at which the test begins [ms]."""
        _write(Prepared())
        return await self._begin

    async def listen(self) -> None:
        """Take what comes in, until it ends."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_LINE_MAX)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            said = _DOWN.decode(line)
            if isinstance(said, Job):
                self.job.set_result(said)
            elif isinstance(said, Begin):
                self._begin.set_result(said.start_ms)
            else:
                self._orders.append(said.order)


def _write(message: Prepared | Word | Logged | Failed) -> None:
    data = _encode(message) + b"\n"
    while data:
        data = data[os.write(_upward(), data) :]


@cache
def _upward() -> int:
    """Where words go; what anything else prints goes to standard error from now on."""
    words = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return words


def _log_upward() -> None:
    """Let the conductor log what is logged here."""

    def hand_on(_: object, level: str, event: structlog.typing.EventDict) -> NoReturn:
        what = str(event.pop("event"))
        _write(Logged(level, what, {name: str(value) for name, value in event.items()}))
        raise structlog.DropEvent

    structlog.configure(
        processors=[hand_on],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )


async def _work() -> None:
    """One part, from its job to its last word, or to the end of its input."""
    line = _Line()
    listening = asyncio.create_task(line.listen(), name="orders")
    either: list[asyncio.Future[Any]] = [listening, line.job]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not line.job.done():
        return
    job = line.job.result()
    playing = asyncio.create_task(_play(job, line), name=job.kind)
    await asyncio.wait([listening, playing], return_when=asyncio.FIRST_COMPLETED)
    if not playing.done():
        playing.cancel()
    try:
        await playing
    except asyncio.CancelledError:
        return
    finally:
        listening.cancel()


async def _play(job: Job, line: _Line) -> None:
    """The work of a kind of part; what others need is imported by others."""
    part = Part(job.number, job.of, 0, job.resume)
    if job.kind == "shard":
        from load.shard import play_shard  # noqa: PLC0415 - for that reason

        await play_shard(job.plan, part, line)
    elif job.kind == "subscriber":
        from load.subscriber import watch_messages  # noqa: PLC0415 - the same

        await watch_messages(job.plan, part, line)
    elif job.store is not None:
        from load.storewatch import watch_store  # noqa: PLC0415 - the same

        store = job.store
        await watch_store(
            job.plan, part, line,
            store=store.address, token=store.token, user=store.user, password=store.password,
        )  # fmt: skip


def main() -> None:
    """The process of a part."""
    _upward()
    _log_upward()
    try:
        uvloop.run(_work())
    except* ConnectionError:
        sys.exit(1)  # the conductor is gone, and with it whoever would read why
    except* CityEyeError as errors:
        first = errors.exceptions[0]
        status = first.exit_status if isinstance(first, CityEyeError) else 1
        _write(Failed(str(first), status))
        sys.exit(1)


if __name__ == "__main__":
    main()
