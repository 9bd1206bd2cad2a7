"""What ingest hands its batches to: the alarm engine, or whatever else wants every reading."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import msgspec
import structlog

from broker.messages import Announcement, Birth
from city.cityfile import Address
from city.readings import ReadingBatch
from ingest.spool import Spool

_log = structlog.get_logger(__name__)


class Consumer(Protocol):
    """Sees every new birth document and every valid reading, in the order of arrival.

    Per group of messages: `learn` for its births, `consume` for its readings if it has any, then,
    when the group is durable, `committed` with its number. What a consumer makes of a group before
    `committed` must not be seen outside: after a crash the group may come again, in another shape.

    A consumer that keeps state of its own says by `covered` up to which group that state is durable;
    the spool keeps all later groups, and after a restart they are handed in again, before anything
    new, by the same calls, with `replaying` true; what `consume` returns is not stored again.
    """

    @property
    def covered(self) -> int | None:
        """The number of the last group that need not be handed in again; None: none ever need."""

    def learn(self, address: Address, birth: Birth) -> None:
        """Take note of what a device is; called again when its birth document changes."""

    def consume(self, batch: ReadingBatch) -> Sequence[Announcement]:
        """Evaluate `batch` and return what it changed; ingest stores that with the readings."""

    def committed(self, number: int, *, replaying: bool) -> None:
        """All that was learned and consumed since the last call is durable as group `number`."""


@runtime_checkable
class Coverer(Protocol):
    """A consumer that can be asked to make its state durable at once."""

    def cover(self) -> None:
        """Make the state durable as soon as possible; called again and again until it is.

        Groups after `covered` are gone for lack of room: only that state has what they changed.
        """


class Handed(msgspec.Struct, frozen=True):
    """A group as it is handed in again."""

    number: int
    births: Sequence[tuple[Address, Birth]]
    batch: ReadingBatch


class _Served:
    """One consumer, and what is known of it."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.covered: int | None = None
        """What it said last."""
        self.released: int | None = None
        """While it says this, nothing is held for it."""

    def needs(self) -> int | None:
        """After which group the spool must hold for it, None if it need not."""
        self.covered = self.consumer.covered
        return None if self.covered == self.released else self.covered


class Consumers:
    """All consumers of a service, and the spool that holds for them what they do not cover.

    The promise to the sensors does not hang on a consumer: one that raises is logged and counted,
    and what it was given is stored without it.
    """

    def __init__(self, consumers: Iterable[Consumer], spool: Spool) -> None:
        self.failures = 0
        self.journaled = False
        """Whether any of them may need to be handed groups again."""
        self._served = [_Served(consumer) for consumer in consumers]
        self._spool = spool
        self._warned = False

    def begin(self) -> int | None:
        """Hold what they do not cover; return after which group that is, None if nothing is.

        A spool that does not reach as far as they cover, because somebody has removed the one they
        knew, goes on with later numbers.
        """
        held = self._hold()
        self.journaled = held is not None
        for served in self._served:
            self._spool.skip(served.covered or 0)
        if held and self._spool.lost_hold:
            _log.warning("the spool no longer has all that is to be handed in again", after=held)
        return held

    def hand_again(self, group: Handed) -> None:
        """Give `group` to those that do not cover it; for one that raises nothing is held then."""
        for served in self._served:
            if served.covered is not None and group.number > served.covered:
                before = self.failures
                self._give(served.consumer, group.births, group.batch)
                with self._tolerated():
                    served.consumer.committed(group.number, replaying=True)
                if self.failures > before:
                    served.released = served.covered

    def release(self) -> None:
        """Hold nothing for any of them until they cover more than now."""
        for served in self._served:
            served.released = served.covered

    def take(
        self, births: Sequence[tuple[Address, Birth]], batch: ReadingBatch
    ) -> list[Announcement]:
        """What they make of the births and readings of a group that is not durable yet."""
        announcements: list[Announcement] = []
        for served in self._served:
            announcements += self._give(served.consumer, births, batch)
        return announcements

    def commit(self, number: int) -> None:
        """All that they took is durable as group `number`."""
        for served in self._served:
            with self._tolerated():
                served.consumer.committed(number, replaying=False)
        if self.journaled:
            self._hold()
            self._mend()

    def _give(
        self, consumer: Consumer, births: Sequence[tuple[Address, Birth]], batch: ReadingBatch
    ) -> Sequence[Announcement]:
        for address, birth in births:
            with self._tolerated():
                consumer.learn(address, birth)
        announcements: Sequence[Announcement] = ()
        if len(batch):
            with self._tolerated():
                announcements = consumer.consume(batch)
        return announcements

    def _hold(self) -> int | None:
        """Have the spool hold what any of them does not cover; after which group that is."""
        needs: list[int] = []
        for served in self._served:
            with self._tolerated():
                need = served.needs()
                needs += [] if need is None else [need]
        held = min(needs, default=None)
        self._spool.hold(held)
        return held

    def _mend(self) -> None:
        """Where the journal has lost groups, ask for the state that makes them needless."""
        if not self._spool.lost_hold:
            self._warned = False
            return
        say = _log.debug if self._warned else _log.warning
        self._warned = True
        say("the spool had no room for groups that are not covered; a crash now would lose them")
        for served in self._served:
            if isinstance(served.consumer, Coverer):
                with self._tolerated():
                    served.consumer.cover()

    @contextmanager
    def _tolerated(self) -> Iterator[None]:
        try:
            yield
        except Exception:  # noqa: BLE001 - ingest goes on, whatever a consumer raises
            self.failures += 1
            _log.exception("a consumer failed; what it was given is stored without it")
