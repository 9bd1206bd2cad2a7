"""The ingest service: receiver -> intake -> consumers -> spool -> acknowledgement -> store."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import structlog
from hdrh.histogram import HdrHistogram

from broker.session import Session
from broker.topics import Channel, clock_topic, device_filter
from city.backoff import Backoff
from city.clock import wall_ms
from city.errors import SpoolError
from ingest.consumer import Consumer, Consumers, Handed
from ingest.downsampling import Downsampling
from ingest.intake import Intake
from ingest.ledger import Ledger
from ingest.points import EVERYTHING, alarm_point, figures_point, ledger_point, station_point
from ingest.receiver import Arrivals, Receiver
from ingest.spool import Group, Journaled, Spool
from ingest.store import Point, Store
from ingest.vitals import HOUR_US, Vitals, resources
from ingest.writer import Writer

_log = structlog.get_logger(__name__)

_QUIET_S: Final = 0.3
_LINGER_S: Final = 2.0
_POLL_S: Final = 0.02
_OFFERED_MAX: Final = 10_000
_LEDGER_EVERY_S: Final = 10.0
_REPLAYED_MAX: Final = 2_000
"""So many messages are read back from the spool at once to be handed in again."""

T = TypeVar("T")


def subscriptions(city: str = "+", districts: Sequence[str] = ()) -> list[tuple[str, int]]:
    """What an ingest service listens to: the clock first, then what devices say.

    Without `districts` it is the devices of all of them.
    """
    channels = (Channel.META, Channel.STATUS, Channel.TELEMETRY)
    of_devices = [
        device_filter(channel, city, district)
        for district in districts or ("+",)
        for channel in channels
    ]
    return [(topic_filter, 1) for topic_filter in (clock_topic(city), *of_devices)]


class IngestService:
    """Takes every message in exactly once, as far as anybody can tell from the store.

    What a message becomes is durable before it is acknowledged. `run` works until it is
    cancelled; `drain` first lets it finish what has arrived.
    """

    def __init__(
        self,
        *,
        spool: Spool,
        store: Store,
        consumers: Sequence[Consumer] = (),
        downsampling: Downsampling | None = None,
        intake: Intake | None = None,
        receiver: Receiver | None = None,
        figures: Callable[[], Awaitable[Sequence[Point]]] | None = None,
        worker: str = EVERYTHING,
    ) -> None:
        """`figures` are more points to store with the ledger, now and then; `worker` is in all.

        `downsampling` works on the series table of `intake`, and has begun.
        """
        self.receiver = receiver or Receiver()
        self.intake = intake or Intake()
        self.started = spool.ledger()
        self.accepted_us = HdrHistogram(1, HOUR_US, 2)
        """Arrival to acknowledgement, per message."""
        self.stored_us = HdrHistogram(1, HOUR_US, 2)
        """Arrival to the store's answer, per message."""
        self.vitals = Vitals()
        self.holding: str | None = None
        """Why messages are not acknowledged at the moment, if so."""
        self._session: Session | None = None
        self._figures = figures
        self._worker = worker
        self._spool = spool
        self._store = store
        self._downsampling = downsampling
        served = [*consumers, downsampling] if downsampling else consumers
        self._consumers = Consumers(served, spool)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self.writer = Writer(
            store, spool, in_spool_thread=self._in_spool_thread, revive=self.intake.revive
        )
        self.writer.on_written = self._written
        self._offered: deque[tuple[int, float, int]] = deque()
        self._busy = False

    async def run(self, session: Session) -> None:
        """Receive and write until cancelled; `session` must hand its messages to our receiver."""
        self._session = session
        await self._in_spool_thread(self._remember)
        await self._replay()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(session.run(), name="ingest session")
            tasks.create_task(self._take_in(), name="ingest intake")
            tasks.create_task(self.writer.run(), name="ingest writer")
            tasks.create_task(self._report(), name="ingest ledger")

    async def drain(self, *, expected: Callable[[], int] | None = None) -> None:
        """Return when all that has arrived is in the store.

        With `expected`, also wait until at least that many messages, repeats not counted, were
        received since the start. Without it, wait until nothing has arrived for a moment, or, where devices never
        pause, take no more after a while: the broker keeps the rest for the next start.
        """
        stop_at_s = time.monotonic() + _LINGER_S
        while True:
            await asyncio.sleep(_POLL_S)
            if expected is None and time.monotonic() > stop_at_s:
                self.receiver.stop()
            quiet = time.monotonic() - self.receiver.heard_at_s > _QUIET_S
            ledger = self.ledger()
            new = ledger.received - ledger.duplicate
            here = new >= expected() if expected else quiet
            if here and not self._busy and not self.receiver.waiting and not self.ledger().pending:
                await self.writer.drained()
                return

    def ledger(self) -> Ledger:
        """The ledger since this service was started."""
        return self._spool.ledger().since(self.started)

    @property
    def trouble(self) -> str | None:
        """What keeps messages from coming in or going out at the moment, if anything."""
        lost = self._session.trouble if self._session else None
        return self.holding or self.writer.trouble or (lost and f"no broker: {lost}")

    @property
    def consumer_failures(self) -> int:
        """How often a consumer failed at what it was given."""
        return self._consumers.failures

    @property
    def store_name(self) -> str:
        """The store as a person would name it."""
        return self._store.name

    async def close(self) -> None:
        """Release spool and thread."""
        if self._downsampling:
            await asyncio.to_thread(self._downsampling.close)
        await self._in_spool_thread(self._spool.close)
        self._thread.shutdown()

    def _remember(self) -> None:
        self.intake.remember(self._spool.recent())

    async def _replay(self) -> None:
        """Hand the consumers again what they have not made durable, without stopping the loop."""
        after = self._consumers.begin()
        if after is None:
            return
        began_s, count = time.monotonic(), 0
        journal = self._spool.journal(after)
        try:
            while groups := await self._in_spool_thread(lambda: self._read_back(journal)):
                for group in groups:
                    self._consumers.hand_again(group)
                    await asyncio.sleep(0)
                count += len(groups)
        except Exception:  # noqa: BLE001 - what is new is taken in, whatever became of the old
            _log.exception("the spool's journal cannot be handed in again to its end")
            self._consumers.release()
        if count:
            took_s = round(time.monotonic() - began_s, 1)
            _log.info("handed in again what was not covered", groups=count, took_s=took_s)

    def _read_back(self, journal: Iterator[Journaled]) -> list[Handed]:
        """The next groups of the journal: at least one if there is any, else up to the bound."""
        groups: list[Handed] = []
        count = 0
        for number, documents, messages in journal:
            births, batch = self.intake.births(documents), self.intake.readings(messages)
            groups.append(Handed(number, births, batch))
            count += len(messages)
            if count >= _REPLAYED_MAX:
                break
        return groups

    async def _take_in(self) -> None:
        while True:
            arrivals = await self.receiver.group()
            self._busy = True
            try:
                await self._accept(arrivals)
            finally:
                self._busy = False

    async def _accept(self, arrivals: Arrivals) -> None:
        taken = self.intake.take(arrivals.messages())
        announcements = self._consumers.take(taken.births, taken.batch)
        own = [alarm_point(announcement) for announcement in announcements]
        own += [station_point(*born, ts=wall_ms()) for born in taken.births]
        own += self._downsampling.take_rows() if self._downsampling else []
        births = taken.documents if self._consumers.journaled else ()
        group = Group(taken.messages, own, taken.duplicates, taken.dead, births)
        number = self._spool.newest
        if group.received or own or births:
            number = await self._append(group)
            if taken.points or own or births:
                self._note_offered(number, arrivals.since_s, len(taken.points))
                self.writer.offer(number, taken.points + own, len(taken.points))
        self._consumers.commit(number)
        arrivals.acknowledge()
        delay_us = self._record(self.accepted_us, arrivals.since_s, arrivals.count)
        self.vitals.accepted(delay_us, arrivals.count)

    async def _append(self, group: Group) -> int:
        """Append, waiting for room as long as it takes: until then nothing is acknowledged."""
        backoff = Backoff(cap_s=5.0)
        while True:
            try:
                number = await self._in_spool_thread(lambda: self._spool.append(group))
            except SpoolError as error:
                if self.holding is None:
                    _log.error("not acknowledging: the spool takes no more", why=str(error))
                self.holding = str(error)
                await asyncio.sleep(backoff.delay_s())
                continue
            if self.holding is not None:
                _log.info("acknowledging again: the spool has room")
                self.holding = None
            return number

    def _note_offered(self, number: int, since_s: float, count: int) -> None:
        """Remember since when a group is on its way; past a bound, together with older ones."""
        if len(self._offered) >= _OFFERED_MAX:
            _, since_s, before = self._offered.pop()
            count += before
        self._offered.append((number, since_s, count))

    def _written(self, number: int) -> None:
        while self._offered and self._offered[0][0] <= number:
            _, since_s, count = self._offered.popleft()
            self.vitals.stored(self._record(self.stored_us, since_s, count), count)

    @staticmethod
    def _record(histogram: HdrHistogram, since_s: float, count: int) -> int:
        """Count every message of a group with the delay of its oldest [us]: an upper bound."""
        delay_us = min(HOUR_US, max(1, int((time.monotonic() - since_s) * 1e6)))
        histogram.record_value(delay_us, count)
        return delay_us

    async def _report(self) -> None:
        """Store the ledger now and then, beside the readings that it counts."""
        while True:
            await asyncio.sleep(_LEDGER_EVERY_S)
            if self.holding is None:
                points = await self._own_figures()
                if self._figures is not None:
                    points += await self._figures()
                number = await self._append(Group([], points))
                self.writer.offer(number, points, 0)

    async def _own_figures(self) -> list[Point]:
        """The ledger, and how the service is doing."""
        used = await self._in_spool_thread(lambda: resources(self._spool.path))
        ledger, ts = self._spool.ledger(), wall_ms()
        vitals = self.vitals.figures(ledger, used)
        parts = {"ingest": vitals}
        if self._downsampling:
            parts["downsampling"] = self._downsampling.figures()
        worker = self._worker
        own = [figures_point(part, found, ts=ts, worker=worker) for part, found in parts.items()]
        return [ledger_point(ledger, ts=ts, worker=worker), *own]

    async def _in_spool_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
