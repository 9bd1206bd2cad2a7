"""Letters between a command and its long-running tasks on Dask's scheduler, by its event topics.

The command has an `Office`, each task a `Desk`. Letters of one sender arrive in order: events
travel on one connection to the scheduler and on one from there. What the scheduler does not promise
is that a connection lasts, so letters are numbered, and a task that starts again says that it is
another attempt. A task hears of its command every few seconds; when it does not, it is alone.
"""

import asyncio
import contextlib
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Collection
from typing import Any, Final

import msgspec
import structlog
from distributed import Client, Worker, get_client, get_worker
from distributed.core import Status

from city.errors import ServiceError

_log = structlog.get_logger(__name__)

SIGN_EVERY_S: Final = 2.0
"""So often the command says that it is there."""
SILENCE_S: Final = 30.0
"""A task that has heard nothing for so long has lost its command."""
_ASK_EVERY_S: Final = 0.5
_WORKING: Final = frozenset({Status.running, Status.paused, Status.init})


class Letter(msgspec.Struct, frozen=True):
    """What a task wrote."""

    number: int
    """Which of the tasks."""
    attempt: str
    """Which life of the task."""
    place: int
    """Counted from 0 in each attempt."""
    body: bytes | None
    """None: it has begun, and asks what to do."""


class Office:
    """The command's end: letters of all tasks come in, to any of them letters go out."""

    def __init__(self, client: Client, name: str, tasks: int) -> None:
        """`client` is asynchronous and of the running loop; `name` is of this errand alone."""
        self.name = name
        self.attempts: dict[int, str] = {}
        """The newest attempt of each task."""
        self._client = client
        self._all = range(tasks)
        self._places: dict[int, int] = {}
        self._letters: asyncio.Queue[Letter] = asyncio.Queue()
        """As long as what tasks write before it is read; each writes about once per second."""
        self._outgoing: asyncio.Queue[tuple[list[str], dict[str, Any]]] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Begin to take letters in."""
        self._client.subscribe_topic(_upward(self.name), self._take)
        self._tasks = [
            asyncio.create_task(self._deliver(), name=f"letters of {self.name}"),
            asyncio.create_task(self._give_sign(), name=f"signs of {self.name}"),
        ]

    def write(self, body: bytes, *, to: Collection[int] | None = None) -> None:
        """Send a letter to some tasks, or to all; it returns at once."""
        topics = [_downward(self.name, number) for number in (self._all if to is None else to)]
        self._outgoing.put_nowait((topics, {"body": body}))

    async def letters(self) -> AsyncIterator[Letter]:
        """Letters of the newest attempts, as they come, without end; others are dropped."""
        while True:
            letter = await self._letters.get()
            if self._current(letter):
                yield letter

    async def close(self) -> None:
        """Let the tasks know that nobody listens any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        topics = [_downward(self.name, number) for number in self._all]
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            async with asyncio.timeout(SIGN_EVERY_S):
                await self._client.log_event(topics, {"end": True})
            self._client.unsubscribe_topic(_upward(self.name))

    def _take(self, event: tuple[float, dict[str, Any]]) -> None:
        said = event[1]
        letter = Letter(said["number"], said["attempt"], said["place"], said["body"])
        self._letters.put_nowait(letter)

    def _current(self, letter: Letter) -> bool:
        """Whether a letter is of the newest attempt, and the next of it."""
        if letter.body is None and letter.place == 0:
            self.attempts[letter.number] = letter.attempt
            self._places[letter.number] = -1
        if self.attempts.get(letter.number) != letter.attempt:
            _log.warning("a word of a lost worker is not counted", task=letter.number)
            return False
        missing = letter.place - self._places[letter.number] - 1
        self._places[letter.number] = letter.place
        if missing:
            _log.error("words were lost on the way", task=letter.number, words=missing)
        return True

    async def _deliver(self) -> None:
        while True:
            topics, message = await self._outgoing.get()
            await self._client.log_event(topics, message)

    async def _give_sign(self) -> None:
        topics = [_downward(self.name, number) for number in self._all]
        while True:
            self._outgoing.put_nowait((topics, {"sign": True}))
            await asyncio.sleep(SIGN_EVERY_S)


class Desk:
    """A task's end. Made in the task's thread; its calls are for the loop that runs there."""

    def __init__(self, name: str, number: int) -> None:
        """Raises ServiceError where the scheduler does not answer."""
        self.attempt = uuid.uuid4().hex[:12]
        self._number = number
        self._upward = _upward(name)
        self._downward = _downward(name, number)
        self._worker: Worker = get_worker()
        try:
            self._client: Client = get_client()
        except (OSError, TimeoutError) as error:
            raise ServiceError(f"{self._worker.address}: no scheduler: {error}") from error
        self._place = 0
        self._heard: deque[bytes] = deque()
        """Filled by the worker's thread, emptied by ours."""
        self._heard_at_s = time.monotonic()
        self._ended = False
        self._client.subscribe_topic(self._downward, self._take)

    @property
    def worker(self) -> str:
        """The address of the worker, for people."""
        return str(self._worker.address)

    @property
    def alone(self) -> bool:
        """Whether nobody waits for what we do any more, or another attempt does it."""
        silent = time.monotonic() - self._heard_at_s > SILENCE_S
        return self._ended or silent or self._worker.status not in _WORKING

    def write(self, body: bytes) -> None:
        """Send a letter; it returns at once.

        Raises:
            ConnectionError: Nobody reads it.
        """
        if self.alone:
            raise ConnectionError("the command that gave this task is gone")
        self._post(body)

    async def ask(self) -> bytes:
        """Say that we have begun; what we are to do.

        Raises:
            ConnectionError: Nobody answers.
        """
        while not self._heard:
            if self.alone:
                raise ConnectionError("the command that gave this task does not answer")
            self._post(None)
            for _ in range(10):
                await asyncio.sleep(_ASK_EVERY_S / 10)
                if self._heard:
                    break
        return self._heard.popleft()

    def read(self) -> list[bytes]:
        """Letters since the last call."""
        letters = []
        while self._heard:
            letters.append(self._heard.popleft())
        return letters

    def close(self) -> None:
        """Take no more letters in."""
        with contextlib.suppress(ValueError):
            self._client.unsubscribe_topic(self._downward)

    def _post(self, body: bytes | None) -> None:
        said = {
            "number": self._number, "attempt": self.attempt, "place": self._place, "body": body,
        }  # fmt: skip
        self._place += 1
        self._worker.log_event(self._upward, said)

    def _take(self, event: tuple[float, dict[str, Any]]) -> None:
        self._heard_at_s = time.monotonic()
        self._ended = self._ended or "end" in event[1]
        if "body" in event[1]:
            self._heard.append(event[1]["body"])


def _upward(name: str) -> str:
    return f"{name}/up"


def _downward(name: str, number: int) -> str:
    return f"{name}/down/{number}"
