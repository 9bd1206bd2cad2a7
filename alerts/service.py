"""The alarm service: readings, births and people's requests in, events out to whom they concern.

The engine depends on its inputs alone. Readings and births are in ingest's spool, all other inputs
are noted in the archive; together with the newest snapshot they give the same engine again after
the process has been killed at any instant. Nothing is seen outside before it is durable.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import structlog

from alerts.archive import Archive
from alerts.engine import AlarmEngine
from alerts.publisher import Publish, Publisher
from alerts.recorder import Events, Input, Recorder, State, Told
from alerts.rules import RuleSet
from alerts.state import pack, unpack
from alerts.transitions import Transition
from broker.messages import AlarmState, Announcement, Birth, OperatorReply, OperatorRequest
from city.cityfile import Address
from city.errors import InputError
from city.readings import ReadingBatch

_log = structlog.get_logger(__name__)

_TICK_S: Final = 0.5
_SNAPSHOT_EVERY_S: Final = 10.0
_COST_SHARE: Final = 50
"""A snapshot is made at most once in so many times what the last one took."""
_SHOWN_MAX: Final = 200
_REACHED_EVERY_MS: Final = 250
_NEVER: Final = 2**63

_WAITING: Final[tuple[AlarmState, ...]] = ("unacknowledged", "returned", "latched")

Engines = Callable[[RuleSet], AlarmEngine]
InForce = Callable[[int], RuleSet]
"""The rules in force at an instant [ms]."""


class _Advance(msgspec.Struct, frozen=True, tag="advance"):
    """The city's time went on without a reading."""

    now: int


class _Asked(msgspec.Struct, frozen=True, tag="asked"):
    """A person asked for something."""

    request: OperatorRequest
    ts: int


class _Late(msgspec.Struct, frozen=True, tag="late"):
    """Messages may lag behind one another by so much."""

    late_ms: int


class _Reported(msgspec.Struct, frozen=True, tag="reported"):
    """A part other than the engine found a condition."""

    transition: Transition


_InputBody = _Advance | _Asked | _Late | _Reported
_DECODER: Final = msgspec.msgpack.Decoder(_InputBody)


class Counts(msgspec.Struct, frozen=True):
    """Events since the start, and the alarms that are not normal now."""

    raised: int
    escalated: int
    eased: int
    cleared: int
    standing: int
    unacknowledged: int


class AlarmService:
    """Evaluates what ingest hands it, records what changes, and has it published.

    `learn`, `consume` and `committed` are called on the event loop's thread; they do not wait.
    `newest` holds the latest announcements for display, the newest last.
    """

    def __init__(
        self,
        rules: RuleSet,
        engines: Engines,
        archive: Archive,
        *,
        snapshot_every_s: float = _SNAPSHOT_EVERY_S,
    ) -> None:
        self.newest: deque[Announcement] = deque(maxlen=_SHOWN_MAX)
        self.rules = rules
        self.archive = archive
        self.recorder = Recorder(archive)
        self.publisher = Publisher(archive)
        self.recorder.recorded.append(lambda _: self.publisher.wake())
        self._engines = engines
        self._engine = engines(rules)
        self._snapshot_every_s = snapshot_every_s
        self._next_snapshot_s = 0.0
        self._events: Counter[str] = Counter()
        self._pending: list[Announcement] = []
        self._unstored: list[Announcement] = []
        self.reached = 0
        """An instant up to which all that has happened is recorded [ms]."""
        self._committed = 0
        self._open = False
        self._closed = asyncio.Event()
        self._closed.set()
        self._inputs: deque[tuple[int, bytes]] = deque()
        self._catching_up = False

    def use(self, rules: RuleSet) -> None:
        """Begin with other rules; before `begin`."""
        self.rules, self._engine = rules, self._engines(rules)

    def begin(
        self, newest: int, *, begins_ms: int | None = None, in_force: InForce | None = None
    ) -> None:
        """Take up what the archive holds; `newest` is the number of the spool's newest group.

        Where the city's time is about to begin before what the archive has reached, that was
        another run: its alarms are over, and only the numbers of their events go on. `in_force`
        says by which rules to watch at the instant at which this begins, where one is known. To be
        called once, before anything else, in any thread; other inputs than readings and births
        wait until `caught_up`.
        """
        found = self.archive.snapshot()
        state = None if found is None else unpack(found[1])
        another = state is not None and begins_ms is not None and state["now"] >= begins_ms
        now = begins_ms if state is None or another else state["now"]
        if in_force is not None and now is not None and now > 0:
            self.use(in_force(now))
        last = self.archive.rows("SELECT coalesce(max(id), 0) FROM inputs")[0][0]
        if state is None or another:
            if state is not None:
                self._engine.book.renumber(state["book"])
            self.archive.save(newest, pack(self._engine.capture()), inputs=last)
            self._committed = newest
        elif found is not None:
            self._engine.restore(state)
            self._committed = found[0]
            self._inputs.extend(self.archive.inputs())
        self.recorder.begin(self._committed, last)
        self._catching_up = True
        self._closed.clear()
        self._apply(self._committed)

    def caught_up(self) -> None:
        """All groups that the state did not cover were handed in again: other inputs may come."""
        if not self._catching_up:
            return
        self._apply(_NEVER)
        self._catching_up = False
        if not self._open:
            self._closed.set()

    @property
    def covered(self) -> int:
        """The number of the group up to which a snapshot is durable."""
        return self.recorder.covered

    @property
    def engine(self) -> AlarmEngine:
        """The engine as it is now; a reload of rules makes another."""
        return self._engine

    @property
    def trouble(self) -> str | None:
        """What keeps alarms from being recorded, if anything."""
        return self.recorder.trouble

    @property
    def counts(self) -> Counts:
        """What has happened so far."""
        events, states = self._events, self._engine.book.states()
        return Counts(
            raised=events["raised"],
            escalated=events["escalated"],
            eased=events["eased"],
            cleared=events["cleared"],
            standing=states.total(),
            unacknowledged=sum(states[state] for state in _WAITING),
        )

    def standing(self) -> list[Announcement]:
        """The newest event of every alarm that is not normal, in the order of being raised."""
        return self._engine.standing()

    def learn(self, address: Address, birth: Birth) -> None:
        """Take note of what a device is: it decides which rules watch it."""
        self._opened()
        self._made(self._engine.learn(address, birth))

    def consume(self, batch: ReadingBatch) -> Sequence[Announcement]:
        """Evaluate `batch`; return every event since the last batch, for the store."""
        self._opened()
        self._made(self._engine.evaluate(batch))
        unstored, self._unstored = self._unstored, []
        return unstored

    def committed(self, number: int, *, replaying: bool) -> None:
        """What was consumed is durable as group `number`: now it may be seen."""
        if not replaying:
            self.caught_up()
        self._committed = number
        self._record()
        self._open = False
        if replaying:
            self._apply(number)
            return
        self._closed.set()
        if time.monotonic() >= self._next_snapshot_s:
            self._snapshot()

    def cover(self) -> None:
        """Make a state durable soon: ingest cannot keep what is not covered much longer."""
        wanted = self.recorder.covered < self._committed and not self.recorder.saving
        if wanted and not self._open:
            self._snapshot()

    async def request(self, request: OperatorRequest) -> OperatorReply:
        """Do what a person asks for, if it can be done, and say what became of it.

        The answer comes when it is durable; where nothing can be recorded, nothing is done.
        """
        await self.between()
        ts = self._engine.now
        if self.trouble is not None:
            refused = f"not done, alarms cannot be recorded at the moment: {self.trouble}"
            return OperatorReply(id=request.id, ok=False, ts=max(ts, 0), detail=refused)
        try:
            announcements, changed = self._engine.obey(request, ts)
        except InputError as error:
            return OperatorReply(id=request.id, ok=False, ts=max(ts, 0), detail=str(error))
        self._note(_Asked(request, ts))
        self._made(announcements)
        self._record()
        await self._durable()
        detail = f"{len(changed)} changed"
        return OperatorReply(id=request.id, ok=True, ts=max(ts, 0), detail=detail, changed=changed)

    async def report(self, transition: Transition) -> None:
        """Take note of a condition that others than the engine watch."""
        await self.between()
        self._note(_Reported(transition))
        self._made(self._engine.report(transition))
        self._record()

    async def advance(self, now: int) -> None:
        """The city's time is `now`, though no reading says so."""
        await self.between()
        self._note(_Advance(now))
        self._made(self._engine.advance(now))
        self._record()

    async def allow_late(self, late_ms: int) -> None:
        """Let devices' messages lag behind those of others by so much."""
        await self.between()
        self._note(_Late(late_ms))
        self._engine.allow_late(late_ms)

    async def reload(self, rules: RuleSet) -> None:
        """Watch by other rules from now on; what the old and the new have in common goes on."""
        await self.between()
        self.change(rules)
        self._record()
        self._snapshot()
        await self._durable()

    def change(self, rules: RuleSet) -> None:
        """Watch by other rules from here on, between two readings."""
        engine = self._engines(rules)
        engine.restore(unpack(pack(self._engine.capture())))
        self._engine, self.rules = engine, rules
        self._made(engine.advance(engine.now + 1))

    async def run(self, publish: Publish) -> None:
        """Record and publish until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.recorder.run(), name="alarm recorder")
            tasks.create_task(self.publisher.run(publish), name="alarm publisher")

    async def keep_time(self, now_ms: Callable[[], int | None]) -> None:
        """Follow a clock until cancelled, for what is due though no reading comes.

        While nothing can be recorded it stands still: what is due then comes later, dated as due.
        """
        while True:
            await asyncio.sleep(_TICK_S)
            now = now_ms()
            if now is not None and now > self._engine.now and self.trouble is None:
                await self.advance(now)

    async def flush(self, *, timeout_s: float) -> bool:
        """Wait until everything is durable and published; False if that takes too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.between()
                self._record()
                self._snapshot()
                await self.recorder.settled()
                await self.publisher.settled()
                return True
        return False

    def _opened(self) -> None:
        self._open = True
        self._closed.clear()

    async def between(self) -> None:
        """Return when no group is under way, so that an input has its place in their order.

        While groups are handed in again the inputs between them are the noted ones.
        """
        while self._open or self._catching_up:
            await self._closed.wait()

    def _made(self, announcements: Sequence[Announcement]) -> None:
        for announcement in announcements:
            self._events[announcement.event.event] += 1
            self.newest.append(announcement)
        self._pending += announcements
        self._unstored += announcements

    def _record(self) -> None:
        if self._pending:
            self.recorder.put(Events(tuple(self._pending)))
            self._pending = []
        now = self._engine.now
        if now > self.reached + _REACHED_EVERY_MS:
            self.recorder.put(Told(lambda: self._reach(now)))

    def _reach(self, now: int) -> None:
        self.reached = max(self.reached, now)

    def _note(self, body: _InputBody) -> None:
        self.recorder.put(Input(self._committed, msgspec.msgpack.encode(body)))

    def _snapshot(self) -> None:
        """Capture the state as it is now; the rest happens in the recorder's thread.

        Not before everything that came before it has been handed in again after a restart.
        """
        if self._inputs:
            return
        began_s = time.monotonic()
        captured = self._engine.capture()
        self.recorder.put(State(self._committed, lambda: self._packed(captured, began_s)))
        self._next_snapshot_s = began_s + self._snapshot_every_s

    def _packed(self, captured: dict[str, Any], began_s: float) -> bytes:
        body = pack(captured)
        took_s = time.monotonic() - began_s
        wait_s = max(self._snapshot_every_s, _COST_SHARE * took_s)
        self._next_snapshot_s = began_s + wait_s
        return body

    async def _durable(self) -> None:
        done = asyncio.Event()
        self.recorder.put(Told(done.set))
        await done.wait()

    def _apply(self, number: int) -> None:
        """Give the engine again what it was given after group `number` and before the next."""
        while self._inputs and self._inputs[0][0] <= number:
            _, body = self._inputs.popleft()
            self._give(_DECODER.decode(body))
            self._record()

    def _give(self, body: _InputBody) -> None:
        engine = self._engine
        if isinstance(body, _Advance):
            self._made(engine.advance(body.now))
        elif isinstance(body, _Asked):
            with suppress(InputError):  # with the rules of today it may not be possible any more
                self._made(engine.obey(body.request, body.ts)[0])
        elif isinstance(body, _Reported):
            self._made(engine.report(body.transition))
        else:
            engine.allow_late(body.late_ms)
