"""From the spool to the store: in order, and again until it is there.

A good point is never lost because of a bad neighbour: a refused batch is halved until the bad
points stand alone.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol, TypeVar

import msgspec
import structlog

from city.backoff import Backoff
from city.errors import SpoolError, StoreError, StoreRefused, StoreTooLarge, StoreUnavailable
from ingest.ledger import DeadLetter, Fate
from ingest.spool import Message, Spool
from ingest.store import Point, Store

_log = structlog.get_logger(__name__)

_WRITE_MAX: Final = 10_000
_WRITE_MIN: Final = 100
"""A store that calls so few points too many means one of them; batches need not shrink further."""
_HELD_MAX: Final = 100_000
_REVIVED_MAX: Final = 2_000
"""So many messages are read back from the spool at once: decoding them holds the loop up."""
_WORTH_A_WRITE: Final = 2_000
"""With fewer points than that waiting, small groups are collected into one write."""

T = TypeVar("T")


class InSpoolThread(Protocol):
    """Runs one piece of work in the thread that owns the spool."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]:
        """Return what `work` returns."""


class Held(msgspec.Struct):
    """A group that is in the spool and not yet in the store, with its points still in memory."""

    number: int
    points: list[Point]
    messages: int
    """The first so many points came as messages, the rest are our own."""


class Writer:
    """Writes groups to the store in the order of their numbers.

    Groups that are offered while the store keeps up are written from memory, several in one write
    if they are small; when it falls behind by more than a bound, they are read back from the spool.
    """

    def __init__(
        self,
        store: Store,
        spool: Spool,
        *,
        in_spool_thread: InSpoolThread,
        revive: Callable[[Iterable[Message]], list[Point]],
        write_max: int = _WRITE_MAX,
        held_max: int = _HELD_MAX,
        distance_s: float = 0.05,
    ) -> None:
        self.messages_written = 0
        self.values_written = 0
        """Readings in the messages written; what the store refused counts as well."""
        self.points_refused = 0
        self.on_written: Callable[[int], None] | None = None
        self.trouble: str | None = None
        """What the store last complained about, while it is not taking points."""
        self._store = store
        self._spool = spool
        self._in_spool_thread = in_spool_thread
        self._revive = revive
        self._write_max = write_max
        self._held: deque[Held] = deque()
        self._held_points = 0
        self._held_max = held_max
        self._distance_s = distance_s
        self._warned = False
        self._newest = spool.newest
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._wake.set()

    def offer(self, number: int, points: list[Point], messages: int) -> None:
        """Take note of group `number`, which is in the spool now."""
        follows = not self._held or self._held[-1].number == number - 1
        if follows and self._held_points < self._held_max:
            self._held.append(Held(number, points, messages))
            self._held_points += len(points)
        self._newest = max(self._newest, number)
        self._idle.clear()
        self._wake.set()

    async def run(self) -> None:
        """Write until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            began_s = loop.time()
            groups = await self._next()
            if groups:
                await self._write_groups(groups)
                early_s = began_s + self._distance_s - loop.time()
                if early_s > 0 and self._held_points < _WORTH_A_WRITE:
                    await asyncio.sleep(early_s)
            else:
                self._wake.clear()
                self._idle.set()

    async def drained(self) -> None:
        """Return when everything that was offered is in the store or refused."""
        await self._idle.wait()

    async def _next(self) -> list[Held]:
        """The next groups in order: from memory if they are there, else from the spool."""
        settled = self._spool.settled
        while self._held and self._held[0].number <= settled:
            self._held_points -= len(self._held.popleft().points)
        if self._held and self._held[0].number == settled + 1:
            return self._from_memory()
        if settled >= self._newest:
            return []
        most = min(self._write_max, _REVIVED_MAX)
        spooled = await self._in_spool_thread(lambda: self._spool.after(settled, most))
        groups = []
        for number, messages, own in spooled:
            points = self._revive(messages)
            groups.append(Held(number, points + own, len(points)))
        return groups

    def _from_memory(self) -> list[Held]:
        groups: list[Held] = []
        count = 0
        for held in self._held:
            if groups and (count + len(held.points) > self._write_max):
                break
            groups.append(held)
            count += len(held.points)
        return groups

    async def _write_groups(self, groups: list[Held]) -> None:
        points = [point for group in groups for point in group.points]
        refused = await self._write(points) if points else {}
        letters = await self._letters(groups, refused)
        messages = sum(group.messages for group in groups)
        await self._settle(groups[-1].number, messages - len(letters), letters)
        self.messages_written += messages - len(letters)
        self.values_written += sum(
            len(point.values) for group in groups for point in group.points[: group.messages]
        )
        if self.on_written is not None:
            self.on_written(groups[-1].number)

    async def _write(self, points: list[Point]) -> dict[int, str]:
        """Write `points` whatever it takes; the positions that were refused, and why."""
        backoff = Backoff()
        while True:
            try:
                await self._store.write(points)
            except (StoreRefused, StoreTooLarge) as error:
                if len(points) == 1:
                    return {0: str(error)}
                half = len(points) // 2
                if isinstance(error, StoreTooLarge):
                    self._write_max = min(self._write_max, max(half, _WRITE_MIN))
                first = await self._write(points[:half])
                second = await self._write(points[half:])
                return first | {half + position: why for position, why in second.items()}
            except StoreError as error:
                # away, or it does not let us in any more: both may pass, and the spool keeps all
                await self._wait(error, backoff)
            else:
                self._recovered()
                return {}

    async def _wait(self, error: StoreError, backoff: Backoff) -> None:
        if self.trouble is None:
            _log.warning(
                "store does not take points; the spool holds them",
                store=self._store.name,
                why=str(error),
            )
        self.trouble = str(error)
        delay_s = backoff.delay_s()
        if isinstance(error, StoreUnavailable) and error.retry_after_s is not None:
            delay_s = max(delay_s, min(error.retry_after_s, 300.0))
        await asyncio.sleep(delay_s)

    def _recovered(self) -> None:
        if self.trouble is not None:
            _log.info("store takes points again", store=self._store.name)
            self.trouble = None

    async def _letters(self, groups: list[Held], refused: dict[int, str]) -> list[DeadLetter]:
        """The dead letters of the refused positions; our own points have no ledger entry."""
        letters: list[DeadLetter] = []
        start = 0
        for group in groups:
            stop = start + len(group.points)
            places = {at - start: why for at, why in refused.items() if start <= at < stop}
            start = stop
            if places:
                letters += await self._letters_of(group, places)
        return letters

    async def _letters_of(self, group: Held, places: dict[int, str]) -> list[DeadLetter]:
        before = group.number - 1
        spooled = await self._in_spool_thread(lambda: self._spool.after(before, 1))
        messages = spooled[0][1]
        self.points_refused += len(places)
        for why in sorted(set(places.values())):
            say = _log.debug if self._warned else _log.warning
            self._warned = True
            say("the store refuses a point", store=self._store.name, why=why)
        return [
            DeadLetter(Fate.REFUSED, "store", why, *messages[place])
            for place, why in places.items()
            if place < group.messages
        ]

    async def _settle(self, number: int, written: int, letters: list[DeadLetter]) -> None:
        backoff = Backoff()
        while True:
            try:
                await self._in_spool_thread(
                    lambda: self._spool.settle(number, written=written, refused=letters)
                )
            except SpoolError as error:
                _log.error("the spool cannot take note of what is stored", why=str(error))
                await asyncio.sleep(backoff.delay_s())
            else:
                return
