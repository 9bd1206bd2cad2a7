"""What the alarm service has to make durable, one after the other, before anybody sees it."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from alerts.archive import Archive
from broker.messages import Announcement
from city.backoff import Backoff
from city.errors import ArchiveError

_log = structlog.get_logger(__name__)

_IDLE_S: Final = 5.0


class Events(msgspec.Struct, frozen=True):
    """What has become of alarms."""

    announcements: tuple[Announcement, ...]


class Input(msgspec.Struct, frozen=True):
    """What the engine was given other than readings, after group `after`."""

    after: int
    body: bytes


class State(msgspec.Struct, frozen=True):
    """The engine's state after group `covered`; it is made into bytes in the recorder's thread."""

    covered: int
    body: Callable[[], bytes]


class Told(msgspec.Struct, frozen=True):
    """Something to do when all before it is durable."""

    act: Callable[[], None]


Entry = Events | Input | State | Told


class Recorder:
    """Makes entries durable in their order; `recorded` is told what is, on the event loop's thread.

    An archive that takes nothing, on a full disk say, is tried again: until it does, nothing later
    is seen outside either. States that a newer one has overtaken are passed over.
    """

    def __init__(self, archive: Archive) -> None:
        self.recorded: list[Callable[[Sequence[Announcement]], None]] = []
        self.covered = 0
        """The group up to which a state is durable."""
        self.trouble: str | None = None
        self._archive = archive
        self._queue: deque[Entry] = deque()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._inputs = 0
        self._current: Entry | None = None
        """What is being made durable, the first of the queue."""

    @property
    def saving(self) -> bool:
        """Whether a state waits to be made durable."""
        return any(isinstance(entry, State) for entry in self._queue)

    def put(self, entry: Entry) -> None:
        """Append an entry."""
        if isinstance(entry, State):
            self._forget_states()
        self._queue.append(entry)
        self._idle.clear()
        self._work.set()

    def begin(self, covered: int, inputs: int) -> None:
        """Go on where the archive stands: the group and the number of the input that it covers."""
        self.covered, self._inputs = covered, inputs

    async def run(self) -> None:
        """Work until cancelled."""
        backoff = Backoff(first_s=0.1, cap_s=5.0)
        while True:
            if not self._queue:
                self._idle.set()
                await self._wait()
                continue
            self._current = self._queue[0]
            try:
                await self._record(self._current)
            except ArchiveError as error:
                if self.trouble is None:
                    _log.error("alarms are held back: they cannot be recorded", why=str(error))
                self.trouble = str(error)
                await asyncio.sleep(backoff.delay_s())
            else:
                self._queue.popleft()
                if self.trouble is not None:
                    _log.info("alarms are recorded again")
                self.trouble = None
                backoff.reset()

    async def settled(self) -> None:
        """Return when all that was put is durable."""
        await self._idle.wait()

    def _forget_states(self) -> None:
        """Let go of the states that a newer one overtakes; they are large."""
        if self.saving:
            kept = (e for e in self._queue if e is self._current or not isinstance(e, State))
            self._queue = deque(kept)

    async def _record(self, entry: Entry) -> None:
        if isinstance(entry, Events):
            await asyncio.to_thread(self._archive.record, entry.announcements)
            for tell in self.recorded:
                tell(entry.announcements)
        elif isinstance(entry, Input):
            self._inputs = await asyncio.to_thread(self._archive.note, entry.after, entry.body)
        elif isinstance(entry, Told):
            entry.act()
        else:
            inputs = self._inputs
            await asyncio.to_thread(
                lambda: self._archive.save(entry.covered, entry.body(), inputs=inputs)
            )
            self.covered = entry.covered

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_IDLE_S):
                await self._work.wait()
        except TimeoutError:
            pass
        self._work.clear()
