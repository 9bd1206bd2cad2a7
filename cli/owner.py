"""An owner of districts as a task on a worker of a cluster, and what it and the command say.

It is `cityeye ingest --districts …` in a thread of the worker, with a loop of its own. When its
worker dies, another attempt goes on with the same data directory and the same durable session.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVarTuple

import msgspec
import structlog
import uvloop
from distributed import secede

from city.errors import CityEyeError
from city.settings import SETTINGS, Settings, resolve
from cli.commands import take_in
from cli.ingesting import Ingesting
from cli.logs import start_logging
from cli.summary import Outcome
from ingest.ledger import Ledger
from load.post import Desk

_log = structlog.get_logger(__name__)

_Ts = TypeVarTuple("_Ts")
_TELL_EVERY_S: Final = 1.0
_SECRETS: Final = tuple(row.name for row in SETTINGS.values() if row.secret)


class Own(msgspec.Struct, tag=True, frozen=True):
    """Own these districts."""

    settings: Settings
    """With districts and data directory of this owner, without secrets."""
    began_ms: int
    """When the first attempt began."""
    origin: Ledger | None = None
    """The spool's ledger at that instant; None: this is the first attempt."""


class Finish(msgspec.Struct, tag=True, frozen=True):
    """Bring everything to its place, and end."""


class Told(msgspec.Struct, tag=True, frozen=True):
    """How an owner that works is doing."""

    worker: str
    """The address of its worker."""
    origin: Ledger
    ledger: Ledger
    """Since the first attempt began."""
    trouble: str | None


class Ended(msgspec.Struct, tag=True, frozen=True):
    """An owner has finished; `figures` are those of `cityeye ingest`."""

    figures: dict[str, Any]
    complete: bool


class Failed(msgspec.Struct, tag=True, frozen=True):
    """An owner cannot go on; `status` is the exit status that belongs to the reason."""

    why: str
    status: int


Order = Own | Finish
Word = Told | Ended | Failed
ORDERS: Final[msgspec.msgpack.Decoder[Order]] = msgspec.msgpack.Decoder(
    Order, dec_hook=lambda kind, value: kind(value)
)
WORDS: Final[msgspec.msgpack.Decoder[Word]] = msgspec.msgpack.Decoder(Word)


def encoded(message: Order | Word) -> bytes:
    """A letter's body."""
    return msgspec.msgpack.encode(message, enc_hook=_as_text)


def sendable(settings: Settings) -> Settings:
    """Settings as they may travel: without secrets, and with paths that mean the same elsewhere."""
    kept: dict[str, Any] = dict.fromkeys(_SECRETS)
    for field in msgspec.structs.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, Path):
            kept[field.name] = value.absolute()
    kept["city"] = _named_file(settings.city)
    kept["telling"] = settings.telling and str(Path(settings.telling).absolute())
    kept["rules"] = tuple(_named_file(name) for name in settings.rules)
    return msgspec.structs.replace(settings, **kept)


def own_districts(errand: str, number: int) -> None:
    """Own districts until told to finish, in a thread of a worker beside its pool."""
    secede()
    desk = Desk(errand, number)
    try:
        with asyncio.Runner(loop_factory=_ThreadLoop) as runner:
            runner.run(_own(desk))
    finally:
        desk.close()


class _ThreadLoop(uvloop.Loop):
    """A loop of a thread that signals do not reach; it says so as asyncio's own does."""

    def add_signal_handler(self, sig: int, callback: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """There are none."""
        raise NotImplementedError

    def remove_signal_handler(self, sig: int) -> bool:
        """There are none."""
        raise NotImplementedError


class _Asked:
    """The wish to stop as it comes by letter, or because nobody writes any more."""

    def __init__(self, desk: Desk) -> None:
        self.wanted = asyncio.Event()
        self._desk = desk
        self._running: Ingesting | None = None

    def working(self) -> None:
        """There is nothing to do: a start takes no longer than the patience."""

    def begun(self, running: Ingesting, origin: Ledger | None) -> None:
        """The owner works, going on with what an earlier attempt counted."""
        if origin is not None:
            running.service.started = origin
        self._running = running
        self._tell(running)

    async def listen(self) -> None:
        """Take letters in and write how it goes, until cancelled."""
        while not self._desk.alone:
            if any(isinstance(ORDERS.decode(body), Finish) for body in self._desk.read()):
                self.wanted.set()
            if self._running is not None:
                self._tell(self._running)
            await asyncio.sleep(_TELL_EVERY_S)
        _log.error("the command that gave these districts is gone; they are let go of in order")
        self.wanted.set()

    def _tell(self, running: Ingesting) -> None:
        service = running.service
        told = Told(self._desk.worker, service.started, service.ledger(), service.trouble)
        self._desk.write(encoded(told))


async def _own(desk: Desk) -> None:
    """From the question what to own to the last word."""
    word: Word | None = None
    try:
        word = await _owned(desk)
    except* ConnectionError:
        pass
    except* CityEyeError as errors:
        word = _failed(errors)
    if word is not None and not desk.alone:
        desk.write(encoded(word))


async def _owned(desk: Desk) -> Ended:
    order = ORDERS.decode(await desk.ask())
    while not isinstance(order, Own):
        order = ORDERS.decode(await desk.ask())
    start_logging(order.settings.log)
    asked = _Asked(desk)
    listening = asyncio.create_task(asked.listen(), name="letters")
    try:
        outcome = await _taking_in(order, asked)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    return Ended(outcome.figures, outcome.complete)


async def _taking_in(order: Own, asked: _Asked) -> Outcome:
    own = resolve({}, os.environ)
    secrets = {name: getattr(own, name) for name in _SECRETS}
    return await take_in(
        msgspec.structs.replace(order.settings, **secrets),
        asked,
        shown=False,
        began_ms=order.began_ms,
        begun=lambda running: asked.begun(running, order.origin),
    )


def _failed(errors: BaseExceptionGroup[CityEyeError]) -> Failed:
    """The first of the errors, however deep."""
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    status = first.exit_status if isinstance(first, CityEyeError) else 1
    return Failed(str(first), status)


def _named_file(name: str) -> str:
    return str(Path(name).absolute()) if Path(name).is_file() else name


def _as_text(value: Any) -> Any:
    """Paths travel as text."""
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} cannot be sent")
