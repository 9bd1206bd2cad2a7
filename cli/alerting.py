"""The alarm service with all who act on what it says, assembled on one MQTT session."""

import asyncio
import math
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from alerts import mailroom
from alerts.actions import VALVE_UNANSWERED, ActionDesk, FollowedTime
from alerts.archive import Archive
from alerts.channels import Channel as PeopleChannel
from alerts.channels import open_channels
from alerts.engine import AlarmEngine
from alerts.gates import Change
from alerts.mailroom import Mailroom
from alerts.orders import Orders
from alerts.recorder import Told
from alerts.rules import RuleSet
from alerts.service import AlarmService
from alerts.surroundings import Nowhere, Surroundings
from alerts.tellingfile import TellingFile, read_telling
from alerts.transitions import Transition
from broker.codec import Publish
from broker.messages import (
    AlarmEvent,
    Announcement,
    Birth,
    ClockTick,
    OperatorReply,
    OperatorRequest,
    Reply,
    decode,
    encode,
)
from broker.session import Link, Session
from broker.topics import (
    Channel,
    alarm_filter,
    alarm_topic,
    clock_topic,
    device_filter,
    parse_alarm_topic,
    parse_device_topic,
    reply_topic,
    request_topic,
)
from city.cityfile import Actions, Address, City
from city.errors import CityEyeError, InputError, WireError
from city.readings import ReadingBatch
from city.settings import Settings
from cli.directory import ARCHIVE
from cli.districts import Ownership
from cli.surroundings import CitySurroundings

_log = structlog.get_logger(__name__)

_LATE_MS: Final = 2_000
"""So long messages may overtake one another on the wire."""
_LATE_FAST_MS: Final = 600_000
"""The same in simulated time where that goes as fast as possible."""
_ORDERS: Final = frozenset({"take-order", "close-order"})
_PRESENT_MS: Final = 600_000
"""A city without a clock topic whose newest reading is so old does not live by the wall's time."""
_REQUESTS_MAX: Final = 1_000
_SETTLE_S: Final = 1.0
"""So long after the start the broker may take to tell what is retained."""
_GLANCE_S: Final = 0.05

RulesOf = Callable[[], RuleSet]


class Alerting:
    """Alarms, actions, orders and messages to people, for one city or every city on a broker.

    As a consumer of ingest it is the alarm service, and the desk learns with it.
    """

    def __init__(
        self,
        settings: Settings,
        city: City | None,
        rules: RulesOf,
        surroundings: Surroundings,
        telling: TellingFile | None,
    ) -> None:
        self._settings = settings
        self._city = city
        self._own = Ownership.of(settings, city)
        self._rules = rules
        self._given = rules()
        """The rules of all times, as they were read last without a mistake."""
        self._day: date | None = None
        self._late_ms = 0
        zone = surroundings.zone
        self.archive = Archive(settings.data / ARCHIVE)
        self.time = FollowedTime()
        self._surroundings = surroundings
        self.service = AlarmService(self._given, self._engine, self.archive)
        self.orders = Orders(self.archive, zone)
        policy = city.alarms.actions if city else Actions()
        if settings.actions is not None:
            policy = msgspec.structs.replace(policy, mode=settings.actions)
        elif math.isinf(settings.simulated_speed) and not policy.off:
            policy = msgspec.structs.replace(policy, mode="dry-run")
        self.desk = ActionDesk(
            self.archive, self.service.rules.rules, surroundings, policy,
            orders=self.orders, time=self.time, raise_alarm=self._raise,
        )  # fmt: skip
        self.service.recorder.recorded.append(self.desk.offer)
        self._telling = telling
        self.mailroom = None
        if telling is not None:
            sites = {site.id: (site.name, site.name_zh) for site in city.sites} if city else {}
            name = city.city if city else ""
            self.mailroom = Mailroom(self.archive, telling.telling, zone, city=name, sites=sites)
            self.service.recorder.recorded.append(lambda _: self._wake_mailroom())
        self._work: asyncio.Queue[Coroutine[Any, Any, None]] = asyncio.Queue()
        """Bounded for requests; all else is of things of which there are few."""
        self._retained: set[str] = set()
        """The topics of alarms that the broker has shown us since the last look."""
        self._shown: set[str] = set()
        """The same of all messages, while that is wanted."""
        self._shown_wanted = True
        self._looking = False
        self._clock_heard = False
        self._session: Session | None = None

    @property
    def covered(self) -> int:
        """As the service says."""
        return self.service.covered

    def learn(self, address: Address, birth: Birth) -> None:
        """Take note of what a device is."""
        self.service.learn(address, birth)
        self.desk.learn(address, birth)

    def consume(self, batch: ReadingBatch) -> list[Announcement]:
        """Evaluate readings, by the rules of their day."""
        self._follow_law(batch)
        return list(self.service.consume(batch))

    def committed(self, number: int, *, replaying: bool) -> None:
        """What was consumed may be seen."""
        self.service.committed(number, replaying=replaying)

    def subscriptions(self) -> list[tuple[str, int]]:
        """What the session listens to."""
        name = self._city.city if self._city else "+"
        topics = [request_topic(name), clock_topic(name)]
        for district in self._own.districts or ("+",):
            topics.append(alarm_filter(name, district))
            topics.append(device_filter(Channel.REPLY, name, district))
        return [(topic, 1) for topic in topics]

    def receive(self, link: Link, messages: list[Publish]) -> None:
        """Take what comes on the session."""
        for message in messages:
            try:
                self._take(message)
            except (WireError, UnicodeDecodeError) as error:
                _log.warning("message not understood", why=str(error))
        link.acknowledge([message.mid for message in messages if message.mid])

    async def run(self, session: Session) -> None:
        """Work until cancelled."""
        self._session = session
        name = self._city.city if self._city else "all"
        channels = open_channels(self._telling, name, session.publish) if self._telling else {}
        try:
            await self._run_all(session, channels)
        finally:
            for channel in channels.values():
                await channel.close()

    async def _run_all(self, session: Session, channels: Mapping[str, PeopleChannel]) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.service.run(session.publish), name="alarms")
            tasks.create_task(self.desk.run(session.publish), name="actions")
            tasks.create_task(self.service.keep_time(self._clock), name="alarm time")
            tasks.create_task(self._answer_all(), name="requests")
            tasks.create_task(self._show_standing(), name="standing alarms")
            if self.mailroom is not None:
                telling = self.mailroom.run(channels, lambda: self.service.reached)
                tasks.create_task(telling, name="mailroom")

    def reload_soon(self) -> None:
        """Read the rule files again, as soon as possible; for a signal."""
        self._work.put_nowait(self._reload_by_signal())

    def caught_up(self) -> None:
        """All that was to be handed in again has been."""
        self.service.caught_up()

    async def flush(self, *, timeout_s: float) -> bool:
        """Wait until all is recorded, published and told; False if that takes too long."""
        done = await self.service.flush(timeout_s=timeout_s)
        if self.mailroom is not None:
            done = await self._sorted(timeout_s) and done
            done = await self.mailroom.flush(timeout_s=timeout_s) and done
        return done

    def cover(self) -> None:
        """Make a state durable soon."""
        self.service.cover()

    def figures(self) -> dict[str, float | int]:
        """The figures of alarm management that are numbers, for the store."""
        figures: dict[str, Any] = msgspec.to_builtins(self.service.engine.figures())
        priorities = figures.pop("priorities")
        numbers = {name: value for name, value in figures.items() if name != "worst"}
        return numbers | {f"share_{name}": float(value) for name, value in priorities.items()}

    def close(self) -> None:
        """Let go of the archive."""
        self.archive.close()

    def begin(self, newest: int, *, begins_ms: int | None) -> None:
        """Take up what an earlier run left, if it is of this time."""
        self.service.begin(newest, begins_ms=begins_ms, in_force=self._in_force)
        self.desk.use(self.service.rules.rules)

    def _engine(self, rules: RuleSet) -> AlarmEngine:
        return AlarmEngine(
            rules,
            self._surroundings,
            operators=self._settings.operators,
            reported=(VALVE_UNANSWERED,),
        )

    def _in_force(self, now: int) -> RuleSet:
        """The rules of the day of the instant `now`, which is the city's day from here on."""
        self._day = _day(now)
        return self._given.on(self._day)

    def _follow_law(self, batch: ReadingBatch) -> None:
        """Change to the rules in force when the city's day changes.

        The readings say when, so that after a crash it happens between the same two again.
        """
        now = max(self.service.engine.now, int(batch.ts[0]))
        if now <= 0 or _day(now) == self._day:
            return
        rules = self._in_force(now)
        if rules != self.service.rules:
            _log.info("other rules are in force from today", day=str(self._day))
            self.service.change(rules)
            self.desk.use(rules.rules)

    async def _sorted(self, timeout_s: float) -> bool:
        """Wait until the mailroom has looked at all that is recorded."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                self._wake_mailroom()
                while True:
                    if not await asyncio.to_thread(self.archive.after, mailroom.CURSOR, 1):
                        return True
                    await asyncio.sleep(_GLANCE_S)
        return False

    def _wake_mailroom(self) -> None:
        if self.mailroom is not None:
            self.mailroom.wake()

    def _take(self, message: Publish) -> None:
        topic = message.topic.decode()
        last = topic.rpartition("/")[2]
        if topic.endswith("/operator/request"):
            request = decode(OperatorRequest, message.payload)
            if self._work.qsize() >= _REQUESTS_MAX:
                _log.warning("too many requests at once; this one is not answered")
            elif not message.retain:
                self._work.put_nowait(self._answer(topic.split("/")[2], request))
        elif last == Channel.REPLY:
            address, _ = parse_device_topic(topic)
            self.desk.hear(address, decode(Reply, message.payload))
        elif last == "clock":
            self._learn_clock(decode(ClockTick, message.payload))
        else:
            self._see_alarm(topic, message)

    def _learn_clock(self, tick: ClockTick) -> None:
        self._clock_heard = True
        self.time.learn(tick)
        late_ms = _LATE_FAST_MS
        if tick.speed:
            late_ms = round(min(_LATE_FAST_MS, _LATE_MS * max(1.0, tick.speed)))
        if late_ms != self._late_ms:
            self._late_ms = late_ms
            self._work.put_nowait(self.service.allow_late(late_ms))

    def _see_alarm(self, topic: str, message: Publish) -> None:
        parse_alarm_topic(topic)
        if self._shown_wanted:
            self._shown.add(topic)
        if message.retain and message.payload:
            self._retained.add(topic)
            if not self._looking:
                self._looking = True
                self._work.put_nowait(self._remove_others())

    async def _remove_others(self) -> None:
        """Empty the topics of alarms that do not stand: they are of another run.

        What stands is known only once everything was handed in again.
        """
        await self.service.between()
        self._looking = False
        others = sorted(self._retained - self._standing().keys())
        self._retained = set()
        if others:
            _log.debug("alarms removed, they are of another run", topics=others)
        await asyncio.gather(*(self._publish(topic, b"", retain=True) for topic in others))

    async def _show_standing(self) -> None:
        """Publish the alarms that stand and that the broker has lost, as one without a disk does.

        What was not published before the end of an earlier run, the publisher publishes anyway.
        """
        await self.service.between()
        before = self._standing()
        await self.service.publisher.settled()
        await asyncio.sleep(_SETTLE_S)
        standing = self._standing()
        self._shown_wanted = False
        for topic in sorted(before.keys() - self._shown):
            if standing.get(topic) == before[topic]:
                await self._publish(topic, encode(before[topic]), retain=True)
        self._shown = set()

    def _standing(self) -> dict[str, AlarmEvent]:
        """The newest event of each alarm that is not normal, by its topic."""
        standing = self.service.standing()
        return {alarm_topic(one.address, one.event.rule): one.event for one in standing}

    async def _publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        if self._session is not None:
            await self._session.publish(topic, payload, retain=retain)

    async def _answer_all(self) -> None:
        while True:
            work = await self._work.get()
            try:
                await work
            except CityEyeError as error:
                _log.warning("request not carried out", why=str(error))

    async def _answer(self, city: str, request: OperatorRequest) -> None:
        ours = await self._ours(request)
        if ours is not None:
            reply = await self._carried_out(ours)
            await self._publish(reply_topic(city), encode(reply), retain=False)

    async def _ours(self, request: OperatorRequest) -> OperatorRequest | None:
        """What of a request is for the owner of these districts; None: another one answers."""
        if request.action == "reload" or not self._own.districts:
            return request
        if request.action not in _ORDERS:
            return self._own.part_of(request)
        known = {order.id for order in await asyncio.to_thread(self.orders.find)}
        targets = tuple(target for target in request.targets if target in known)
        return msgspec.structs.replace(request, targets=targets) if targets else None

    async def _carried_out(self, request: OperatorRequest) -> OperatorReply:
        ts = max(0, self.service.engine.now)
        if request.action in _ORDERS:
            return await asyncio.to_thread(self._orders_handled, request, ts)
        if request.action != "reload":
            return await self.service.request(request)
        try:
            count = await self._reload()
        except InputError as error:
            refused = f"refused, the rules stay as they are: {error}"
            return OperatorReply(id=request.id, ok=False, ts=ts, detail=refused)
        return OperatorReply(id=request.id, ok=True, ts=ts, detail=f"{count} rules are at work")

    def _orders_handled(self, request: OperatorRequest, ts: int) -> OperatorReply:
        reply = self.orders.handle(request, ts)
        self.desk.order_changed()
        return reply

    async def _reload_by_signal(self) -> None:
        try:
            count = await self._reload()
        except InputError as error:
            _log.error("the rules stay as they are: the new ones are wrong", why=str(error))
        else:
            _log.info("rules read again", rules=count)

    async def _reload(self) -> int:
        """Watch by what the rule files say now; returns how many rules that are."""
        rules = self._given = await asyncio.to_thread(self._rules)
        if self._day is not None:
            rules = rules.on(self._day)
        await self.service.reload(rules)
        self.desk.use(rules.rules)
        return len(rules.rules)

    def _clock(self) -> int | None:
        """The city's time for what is due without a reading: where time has the speed of the wall.

        Elsewhere the readings say what time it is, and where no clock was heard of, whether it is
        the wall's.
        """
        now = self.time.now_ms() - _LATE_MS
        present = self._clock_heard or abs(now - self.service.engine.now) < _PRESENT_MS
        return now if present and self.time.speed == 1.0 else None

    async def _raise(self, rule_id: str, address: Address, ts: int, value: float) -> None:
        """An alarm that no reading raises; returns when it is durable."""
        rule = VALVE_UNANSWERED
        happening = Change("raised" if value else "cleared", "H", ts)
        transition = Transition(
            rule=rule, address=address, change=happening, ts=ts, quantity=rule_id, value=value,
            limit=rule.limits[0].limit, unit=rule.unit,
        )  # fmt: skip
        await self.service.report(transition)
        durable = asyncio.Event()
        self.service.recorder.put(Told(durable.set))
        await durable.wait()


@asynccontextmanager
async def alerting(
    settings: Settings, city: City | None, rules: RulesOf
) -> AsyncIterator[Alerting]:
    """The alarm part, made but not working yet; SIGHUP has it read its rules again.

    Raises:
        InputError: The rules, the telling file or the gas network is wrong.
        ServiceError: The archive cannot be used.
    """
    telling = read_telling(Path(settings.telling)) if settings.telling else None
    surroundings: Surroundings = Nowhere()
    if city is not None:
        surroundings = CitySurroundings(city)
        await surroundings.prepare()
    working = await asyncio.to_thread(Alerting, settings, city, rules, surroundings, telling)
    loop = asyncio.get_running_loop()
    with suppress(NotImplementedError, RuntimeError):
        loop.add_signal_handler(signal.SIGHUP, working.reload_soon)
    try:
        yield working
    finally:
        with suppress(NotImplementedError, RuntimeError):
            loop.remove_signal_handler(signal.SIGHUP)
        working.close()


def _day(ts: int) -> date:
    return datetime.fromtimestamp(ts / 1000, UTC).date()
