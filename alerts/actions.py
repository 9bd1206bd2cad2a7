"""What alarms do: commands to devices, followed until they are answered, and orders to repair.

An action is taken when an alarm of a rule that lists it is raised or escalates, where the city arms
the rule; elsewhere it is only said what would have been sent. Nothing is ever opened or started
again: that is for a person on site. What is due is in the archive before it is sent, so that a
crash forgets nothing, and a command that is sent again has its old identifier.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import structlog
from msgspec.structs import replace

from alerts.archive import Archive
from alerts.deeds import CLOSE_VALVE, COMMANDS, Deed, Deeds, Step
from alerts.gates import Watch
from alerts.orders import Orders
from alerts.planner import Planner, SimulatedTime, so_far, speed_of
from alerts.rules import Leaf, Limit, Rule
from alerts.signals import Signal
from alerts.surroundings import Surroundings
from broker.messages import ActionEvent, Announcement, Birth, ClockTick, Command, Reply, encode
from broker.topics import Channel, device_topic
from city.backoff import Backoff
from city.cityfile import Actions, Address
from city.clock import wall_ms
from city.errors import ArchiveError, ServiceError

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")

CURSOR: Final = "actions"

_BATCH: Final = 500
_TOLD_AT_ONCE: Final = 100
_ATTEMPTS: Final = 2
_EARLY_MAX: Final = 1_000
_IDLE_S: Final = 2.0
_PUBLISH_TIMEOUT_S: Final = 10.0
_TRANSIENT: Final = (ServiceError, TimeoutError, OSError)

_UNANSWERED_LIMIT: Final = Limit(
    level="H",
    limit=0.5,
    deadband=0.0,
    severity="critical",
    standard="Engineering default",
    clause="",
    grade="D",
)
VALVE_UNANSWERED: Final = Rule(
    id="valve-unanswered",
    pack="actions",
    kind="limit",
    condition=Leaf(
        id="valve-unanswered",
        signal=Signal(),
        unit="1",
        limits=(_UNANSWERED_LIMIT,),
        watch=Watch((_UNANSWERED_LIMIT,)),
    ),
    limits=(_UNANSWERED_LIMIT,),
    unit="1",
    latched=True,
    message="A valve does not obey: close it on site",
    message_zh="阀门未执行关闭指令，须到现场手动关闭",
)
"""The alarm of a valve that was told to close and refused or did not answer. It looks at no reading:
its number, 1 while a command stands so and 0 once the valve has answered well, comes from here."""


class Publish(Protocol):
    """How a message reaches the broker."""

    def __call__(self, topic: str, payload: bytes, *, retain: bool) -> Awaitable[None]:
        """Publish one message at QoS 1 and return when the broker has it."""


class RaiseAlarm(Protocol):
    """How an alarm that no reading raises comes to the book."""

    def __call__(
        self, rule_id: str, address: Address, ts: int, value: float, /
    ) -> Coroutine[Any, Any, None]:
        """The number of that rule at the device is `value` from `ts` on; may be said twice.

        Returns when that is durable.
        """


class FollowedTime:
    """The time of a city that announces it on its clock topic; the wall's until it does."""

    def __init__(self, wall: Callable[[], int] = wall_ms) -> None:
        self._wall = wall
        self._tick: ClockTick | None = None

    def learn(self, tick: ClockTick) -> None:
        """Take note of the newest announcement."""
        self._tick = tick

    @property
    def speed(self) -> float:
        """Simulated seconds per wall second."""
        return 1.0 if self._tick is None else self._tick.speed or math.inf

    def now_ms(self) -> int:
        """The simulated instant [ms]; that of the announcement where time has no speed."""
        tick = self._tick
        if tick is None:
            return self._wall()
        return tick.ts + round(max(0, self._wall() - tick.wall) * tick.speed)


class _Errand:
    """A deed on its way: whoever answers one of its attempts ends it.

    That an attempt was refused counts only while no later one is on its way.
    """

    def __init__(self, deed: Deed) -> None:
        self.deed = deed
        self.answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        attempts = (replace(deed, attempt=number) for number in range(1, _ATTEMPTS + 1))
        self.keys = [(deed.target, attempt.command_id) for attempt in attempts]

    def take(self, reply: Reply) -> None:
        """Be ended by the reply, if it counts."""
        counts = reply.ok or reply.id == self.deed.command_id
        if counts and not self.answer.done():
            self.answer.set_result(reply)


class ActionDesk:
    """Takes the actions of alarms.

    `learn` and `hear` are for the event loop's thread, all else is safe from any.
    """

    def __init__(
        self,
        archive: Archive,
        rules: Iterable[Rule],
        surroundings: Surroundings,
        policy: Actions,
        *,
        orders: Orders,
        time: SimulatedTime,
        raise_alarm: RaiseAlarm,
        patience_s: float = 5.0,
    ) -> None:
        """`patience_s` is how long, by the wall, a reply may take beyond the device's own time."""
        self._archive = archive
        self._orders = orders
        self._deeds = Deeds(archive)
        self._planner = Planner(
            rules, surroundings, policy, deeds=self._deeds, orders=orders, time=time
        )
        self._time = time
        self._raise_alarm = raise_alarm
        self._patience_s = patience_s
        self._disobedient: set[Address] = set()
        self._judging = asyncio.Lock()
        self._errands: dict[tuple[Address, str], _Errand] = {}
        self._early: deque[tuple[Address, Reply]] | None = deque(maxlen=_EARLY_MAX)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._wake = asyncio.Event()
        self._news = asyncio.Event()

    def use(self, rules: Iterable[Rule]) -> None:
        """Take the actions of these rules from now on."""
        self._planner.use(rules)

    def learn(self, address: Address, birth: Birth) -> None:
        """Take note of which commands a device knows."""
        self._planner.learn(address, birth)

    def offer(self, announcements: Sequence[Announcement]) -> None:
        """Look at once at events that the archive has just recorded, if any of them may act."""
        if any(self._planner.acts(announcement) for announcement in announcements):
            self._set(self._wake)

    def hear(self, address: Address, reply: Reply) -> None:
        """Take a device's reply to whomever."""
        if self._early is None:
            self._take(address, reply)
        else:
            self._early.append((address, reply))

    def order_changed(self) -> None:
        """Publish at once what an operator has made of an order."""
        self._set(self._news)

    def steps(self) -> list[ActionEvent]:
        """Every step of every action that the archive knows, oldest first."""
        return self._deeds.steps()

    async def run(self, publish: Publish) -> None:
        """Act on what the archive records, until cancelled; first on what was left undone."""
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for deed in await _durably(self._left_undone):
                self._begin(tasks, publish, deed)
            early, self._early = self._early or (), None
            for address, reply in early:
                self._take(address, reply)
            tasks.create_task(self._tell(publish), name="actions told")
            while True:
                self._wake.clear()
                due = await _durably(self._decide)
                self._news.set()
                for deed in due:
                    self._begin(tasks, publish, deed)
                if not due:
                    await _woken(self._wake)

    def _set(self, event: asyncio.Event) -> None:
        """Wake who waits for `event`; before there is a loop, nobody does."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(event.set)

    def _left_undone(self) -> list[Deed]:
        """What was under way when the service ended; what may not be sent any more is not.

        What was sent once is waited for all the same, and then known as unanswered.
        """
        self._disobedient = self._deeds.disobedient()
        left = []
        for deed in self._deeds.underway():
            if self._planner.may_still(deed):
                left.append(deed)
            elif deed.state == "due" and deed.attempt == 1:
                self._write(deed, "withheld", self._time.now_ms(), "overtaken by a restart")
            else:
                left.append(replace(deed, state="sent", attempt=_ATTEMPTS))
        return left

    def _decide(self) -> list[Deed]:
        """Look at the events up to the first that something is to be sent for, and return that.

        An event's deeds, its order and the cursor's move are one transaction.
        """
        while events := self._archive.after(CURSOR, _BATCH):
            for place, announcement in events:
                if self._planner.acts(announcement):
                    with self._orders.turn:
                        due, changes = self._planner.plan(announcement)
                        self._archive.settle(CURSOR, place, changes)
                    if due:
                        return due
            self._archive.settle(CURSOR, events[-1][0])
        return []

    def _begin(self, tasks: asyncio.TaskGroup, publish: Publish, deed: Deed) -> None:
        errand = _Errand(deed)
        self._errands |= dict.fromkeys(errand.keys, errand)
        tasks.create_task(self._see_through(publish, errand), name=f"action {deed.id}")

    async def _see_through(self, publish: Publish, errand: _Errand) -> None:
        """Send a command until it is answered, twice at most, and keep what became of it.

        One that stays unanswered is answered late, if ever.
        """
        try:
            while not await self._tried(publish, errand):
                if errand.deed.attempt >= _ATTEMPTS:
                    await self._keep(errand, "unanswered", f"no reply to {_ATTEMPTS} commands")
                    break
                again = replace(errand.deed, attempt=errand.deed.attempt + 1, state="due")
                await _durably(partial(self._archive.change, [self._deeds.kept(again)]))
                errand.deed = again
            reply = await errand.answer
            step: Step = "done" if reply.ok else "refused"
            await self._keep(errand, step, reply.detail, ts=reply.ts)
        finally:
            for key in errand.keys:
                self._errands.pop(key, None)

    async def _tried(self, publish: Publish, errand: _Errand) -> bool:
        """Send the present attempt if it is due; whether a reply comes in its time."""
        kind = COMMANDS[errand.deed.action]
        if errand.deed.state == "due":
            sent_ms = await self._send(publish, errand.deed)
            step: Step = "sent" if errand.deed.attempt == 1 else "retried"
            attempt = f"attempt {errand.deed.attempt} of {_ATTEMPTS}"
            await self._keep(errand, step, attempt, ts=sent_ms)
        wait_s = kind.travel_s / speed_of(self._time) + self._patience_s
        await asyncio.wait([errand.answer], timeout=wait_s)
        return errand.answer.done()

    async def _send(self, publish: Publish, deed: Deed) -> int:
        """Publish the command's present attempt until the broker has it; its instant [ms]."""
        topic, backoff = device_topic(deed.target, Channel.COMMAND), Backoff(first_s=0.1, cap_s=2.0)
        while True:
            command = self._command(deed)
            try:
                async with asyncio.timeout(_PUBLISH_TIMEOUT_S):
                    await publish(topic, encode(command), retain=False)
            except _TRANSIENT as error:
                trouble = str(error) or "no answer from the broker"
                _log.warning("command not sent, trying again", to=deed.target_name, trouble=trouble)
                await asyncio.sleep(backoff.delay_s())
            else:
                return command.ts

    def _command(self, deed: Deed) -> Command:
        """The command of the present attempt; good until we stop waiting for it."""
        now_ms, speed = self._time.now_ms(), speed_of(self._time)
        wait_s = COMMANDS[deed.action].travel_s + self._patience_s * speed
        return Command(
            id=deed.command_id,
            name=deed.action,
            ts=now_ms,
            by=f"alerts/{deed.rule}",
            expires=None if math.isinf(speed) else now_ms + round(1000 * wait_s),
        )

    async def _keep(
        self, errand: _Errand, step: Step, detail: str, *, ts: int | None = None
    ) -> None:
        """Make a step durable, with the order that it changes; then tell of it.

        The higher alarm is durable first: until it is, the deed stands as it stood, so that a crash
        in between lets it come again.
        """
        deed, now_ms = errand.deed, self._time.now_ms() if ts is None else ts
        if deed.action == CLOSE_VALVE and step in {"unanswered", "refused", "done"}:
            await self._judge(deed.target, now_ms, obeys=step == "done")
        await _durably(partial(self._write, deed, step, now_ms, detail))
        errand.deed = replace(deed, state=step)
        self._news.set()

    def _write(self, deed: Deed, step: Step, ts: int, detail: str) -> None:
        with self._orders.turn:
            changes = self._deeds.step(deed, step, ts, detail)
            if deed.action == CLOSE_VALVE:
                alarm, what = (deed.place, deed.rule, deed.raised), so_far(step, detail)
                changes += self._orders.valve(alarm, deed.target_name, what, ts)
            self._archive.change(changes)

    async def _judge(self, valve: Address, ts: int, *, obeys: bool) -> None:
        """Raise the higher alarm of a valve, or end it, unless it stands so; durable on return."""
        async with self._judging:
            if obeys is (valve in self._disobedient):
                await self._raise_alarm(VALVE_UNANSWERED.id, valve, ts, 0.0 if obeys else 1.0)
                self._disobedient ^= {valve}

    def _take(self, address: Address, reply: Reply) -> None:
        """Give a reply to the errand that waits for it; an earlier run's only ends the alarm."""
        errand = self._errands.get((address, reply.id))
        if errand is not None:
            errand.take(reply)
        elif reply.ok and self._tasks is not None:
            judged = self._judge(address, reply.ts, obeys=True)
            self._tasks.create_task(judged, name=f"{address} obeys")

    async def _tell(self, publish: Publish) -> None:
        """Publish the steps of actions and the states of orders, in order, until cancelled."""
        backoff = Backoff(first_s=0.1, cap_s=5.0)
        while True:
            self._news.clear()
            try:
                while await self._tell_some(publish):
                    backoff.reset()
            except _TRANSIENT as error:
                trouble = str(error) or "no answer from the broker"
                _log.warning("actions not told, trying again", trouble=trouble)
                await asyncio.sleep(backoff.delay_s())
            else:
                await _woken(self._news)

    async def _tell_some(self, publish: Publish) -> bool:
        """Publish what is oldest of what is untold; whether there was anything."""
        steps = await asyncio.to_thread(self._deeds.untold, _TOLD_AT_ONCE)
        for step in steps:
            await _said(publish, step.topic, step.payload, retain=False)
        if steps:
            await asyncio.to_thread(self._deeds.told, steps[-1].place)
        orders = await asyncio.to_thread(self._orders.untold, _TOLD_AT_ONCE)
        for order in orders:
            for payload, retain in order.messages:
                await _said(publish, order.topic, payload, retain=retain)
        if orders:
            await asyncio.to_thread(self._orders.told, orders[-1].place)
        return bool(steps or orders)


async def _said(publish: Publish, topic: str, payload: bytes, *, retain: bool) -> None:
    async with asyncio.timeout(_PUBLISH_TIMEOUT_S):
        await publish(topic, payload, retain=retain)


async def _durably(work: Callable[[], _T]) -> _T:
    """What `work` on the archive returns, in a thread; tried again until the disk takes it."""
    backoff = Backoff(first_s=0.1, cap_s=5.0)
    while True:
        try:
            return await asyncio.to_thread(work)
        except ArchiveError as error:
            _log.warning("the archive of actions does not work, trying again", trouble=str(error))
            await asyncio.sleep(backoff.delay_s())


async def _woken(event: asyncio.Event) -> None:
    """Return when `event` is set, or after a while."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_IDLE_S):
            await event.wait()
