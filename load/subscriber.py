"""A subscriber that verifies: what arrived of each device, how late, what is missing or repeated.

Its session is durable while the test runs, so that a lost connection loses nothing by itself, and
is removed at the end. What the broker has not delivered when the end has been waited for is no
loss in the broker: it is said as what it is.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from statistics import median
from typing import Final

import msgspec
import structlog

from broker.acl import Role, role_of
from broker.choice import tls_context
from broker.credentials import Login, read_credentials
from broker.session import Receive, Session
from broker.topics import Channel, alarm_filter, device_filter, device_topic
from city.clock import wall_ms
from city.errors import BrokerError, SettingError
from load.desk import Desk, Drops
from load.figures import BUSY, Delays
from load.line import Line, begun
from load.pace import Pace
from load.payloads import Reader, Speaker, Template
from load.plan import LoadPlan, Part
from load.teller import WORD_S, Teller

_log = structlog.get_logger(__name__)

DROPPED_TOPIC: Final = "$SYS/broker/publish/messages/dropped"
"""Where Mosquitto tells how many messages it has dropped since its start, for all its clients."""

_PATIENCE_S: Final = 15.0
_LEAVE_S: Final = 3.0
_TICK_S: Final = 0.05
_QUIET_S: Final = 2.0
"""So long nothing arrives when all has arrived."""
_LONG_QUIET_S: Final = 17.0
"""The same while numbers are missing: devices that lost their connection wait 15 s at most."""
_SLOW_S: Final = 1.0
_SLOW_WORDS: Final = 3
_SAMPLE: Final = 500
_WORST: Final = 3


class Slowness:
    """Whether a subscriber is slower than the load: it is busy, and its delay only grows."""

    def __init__(self) -> None:
        self._before_s = _SLOW_S
        self._words = 0
        self._said = False

    def look(self, delay_s: float, busy: float) -> bool:
        """Take the median delay of the last second and the share of a core; True once."""
        grows = delay_s > self._before_s and busy > BUSY
        self._words = self._words + 1 if grows else 0
        self._before_s = max(delay_s, _SLOW_S)
        if self._said or self._words < _SLOW_WORDS:
            return False
        self._said = True
        return True


class Watch:
    """One subscriber's part of the test, from its first word to its last."""

    def __init__(self, plan: LoadPlan, teller: Teller, desk: Desk, *, name: str) -> None:
        self.drops = Drops()
        self._plan = plan
        self._name = name
        self._teller = teller
        self._desk = desk
        self._slowness = Slowness()
        self._away = False
        self._losses = 0
        self._quiet_since_s = 0.0
        self._received = 0
        self._rate = 0.0
        self._unread = 0

    async def run(self, part: Part, line: Line, session: Session) -> None:
        """Watch until all has arrived, or the end has been waited for."""
        pace = Pace(self._plan, part.start_ms)
        connections = session.connections
        self._tell()
        try:
            while not self._over(pace.end_ms):
                await asyncio.sleep(_TICK_S)
                if orders := line.heard():
                    pace.follow(orders)
                self._look_at(session, before=connections)
                connections = session.connections
                if self._teller.is_due(pace):
                    self._tell()
        finally:
            self._conclude()
            self._tell(last=True)

    def _over(self, end_ms: int) -> bool:
        now_s, after_s = time.monotonic(), (wall_ms() - end_ms) / 1_000
        if after_s < 0:
            self._quiet_since_s = now_s
            return False
        if after_s >= self._plan.drain_s:
            self._say_unread(after_s)
            return True
        silent_s = now_s - max(self._quiet_since_s, self._desk.heard_at_s)
        return not self._away and silent_s > self._patience_s()

    def _patience_s(self) -> float:
        """How long a silence has to be to be the end."""
        waiting = self._losses or self._missed
        return _LONG_QUIET_S if waiting else _QUIET_S

    @property
    def _missed(self) -> bool:
        """Whether numbers are missing that no fault of the plan has taken."""
        faults = self._plan.faults
        expected = faults.missing or faults.malformed or faults.oversized
        return not expected and self._desk.tally.missing > 0

    def _look_at(self, session: Session, *, before: int) -> None:
        """Say every loss of the connection once, with its time."""
        trouble = session.trouble
        if trouble is None and session.connections == before:
            self._away = False
            return
        self._quiet_since_s = time.monotonic()
        if not self._away:
            self._losses += 1
            self._teller.warn(
                f"{self._name} lost its connection at {datetime.now(UTC):%H:%M:%S} UTC"
                f"{f' ({trouble})' if trouble else ''}; the broker keeps what comes meanwhile only "
                "as far as its queue reaches"
            )
        self._away = trouble is not None

    def _say_unread(self, after_s: float) -> None:
        """Say what may lie unread at the broker when the end has been waited for."""
        if self._away:
            still = f"{self._name} had no connection"
        elif time.monotonic() - self._desk.heard_at_s < WORD_S:
            still = (
                f"{self._name} is slower than the load: it was still receiving {self._rate:.0f} "
                "messages/s"
            )
        else:
            return
        self._unread = 1
        self._teller.warn(
            f"{still} {after_s:.0f} s after the end; what it has not read is not counted as lost"
        )

    def _conclude(self) -> None:
        """What can be said only at the end."""
        if self.drops.total:
            self._teller.warn(
                f"the broker says that it dropped {self.drops.total} messages during the test, for "
                "all its clients together; queues for subscribers may be too short "
                "(Mosquitto: max_queued_messages)"
            )
        if self._missed:
            self._teller.warn(
                f"{self._name} misses {self._desk.tally.missing} messages between others of their "
                f"devices, most of {'; '.join(self._desk.worst(_WORST))}"
            )
        if unclear := self._desk.tally.unclear:
            self._teller.warn(
                f"{self._name} cannot tell {unclear} repeated messages from late ones, there are "
                "too many gaps; loss is overstated by that number at most"
            )

    def _tell(self, *, last: bool = False) -> None:
        """Say a word, and in it once that the subscriber falls behind."""
        sample = self._teller.delays.of("subscriber")
        sample = sample[:: max(1, len(sample) // _SAMPLE)]
        totals = self._desk.counts()
        if sample and self._slowness.look(median(sample) / 1e6, self._teller.busy):
            self._teller.warn(
                f"{self._name} is slower than the load: its delay grows while its process uses "
                f"{100 * self._teller.busy:.0f} % of a core; use more subscribers"
            )
        own = {"broker_dropped": self.drops.total, "unread_possible": self._unread}
        self._teller.tell(totals | own, last=last)
        self._rate = (totals["received"] - self._received) / self._teller.span_s
        self._received = totals["received"]


async def watch_messages(plan: LoadPlan, part: Part, line: Line) -> None:
    """Subscribe, verify what arrives until the test is over, and leave nothing at the broker.

    Subscribers share the load by district: each takes whole ones, in turn. It subscribes before its
    first word.

    Raises:
        BrokerError: The broker cannot be reached, or refuses us.
        SettingError: The load cannot be shared so, or credentials or certificates cannot be used.
    """
    filters = filters_of(plan, part)
    name = f"subscriber {part.number}"
    teller = Teller("subscriber", part.number, line)
    desk = await asyncio.to_thread(_desk, plan, teller.delays)
    watch = Watch(plan, teller, desk, name=name)
    door = _Door(plan, part)
    await door.forget()
    try:
        async with door.entered(filters, desk.receive) as session:
            if part.number or plan.credentials is not None:  # our access list shows it to nobody
                await watch.run(await begun(part, line), line, session)
            else:
                async with door.aside([DROPPED_TOPIC], watch.drops.receive):
                    await watch.run(await begun(part, line), line, session)
    finally:
        await door.left()


def filters_of(plan: LoadPlan, part: Part) -> list[str]:
    """What a subscriber subscribes to: its share of the districts; the first one alarms too.

    Raises:
        SettingError: There are more subscribers than districts, or the template's topics cannot be
            divided by district.
    """
    city = plan.city()
    districts = [district.id for district in city.districts]
    if part.of > len(districts):
        raise SettingError(
            f"--subscribers {part.of}: they share the load by district, and the city has "
            f"{len(districts)}; use {len(districts)} at most"
        )
    own = districts[part.number :: part.of]
    if plan.template.format == "native":
        filters = [device_filter(Channel.TELEMETRY, city.city, one) for one in own]
        return filters if part.number else [*filters, alarm_filter(city.city)]
    if part.of == 1:
        return list(Reader(plan.template).filters)
    shares = {one: _filters_in(plan.template, one) for one in districts}
    if len(set(shares.values())) < len(districts):
        raise SettingError(
            f"--subscribers {part.of}: they share the load by district, and the topics of template "
            f"{plan.template.name!r} have no level `${{district}}` to tell it by; use one subscriber"
        )
    return [pattern for one in own for pattern in shares[one]]


def _filters_in(template: Template, district: str) -> tuple[str, ...]:
    """What matches a template's messages of one district, if its topics tell them apart."""
    topic = template.topic.replace("${district}", district)
    return Reader(msgspec.structs.replace(template, topic=topic)).filters


def _desk(plan: LoadPlan, delays: Delays) -> Desk:
    """A desk that knows every device of the test."""
    devices = enumerate(plan.city().devices())
    if plan.template.format == "native":
        topics = ((index, device_topic(one.address, Channel.TELEMETRY)) for index, one in devices)
        return Desk({topic.encode(): index for index, topic in topics}, delays)
    reader = Reader(plan.template)
    speakers = (
        (index, Speaker(plan.template, one, one.position, run=plan.run, index=index))
        for index, one in devices
    )
    return Desk({reader.key_of(one): index for index, one in speakers}, delays, reader=reader)


class _Door:
    """The way of one subscriber into the broker: its login, and the name of its session."""

    def __init__(self, plan: LoadPlan, part: Part) -> None:
        login = login_of(plan, part)
        self._address = msgspec.structs.replace(plan.broker, username=login.user)
        self._password = login.password
        self._tls = tls_context(plan.broker, plan.ca, certificate=plan.certificate, key=plan.key)
        self._name = f"cityeye-load-{plan.run}-subscriber-{part.number}"

    @asynccontextmanager
    async def entered(self, filters: Sequence[str], receive: Receive) -> AsyncIterator[Session]:
        """The durable session, subscribed.

        Raises:
            BrokerError: The broker cannot be reached, or refuses us.
        """
        session = self._session(self._name, filters, receive, clean=False)
        async with _running(session):
            await session.ready(patience_s=_PATIENCE_S)
            yield session

    @asynccontextmanager
    async def aside(self, filters: Sequence[str], receive: Receive) -> AsyncIterator[None]:
        """A passing session for what a broker need not grant: a refusal is no trouble."""
        async with _running(self._session(f"{self._name}-aside", filters, receive, clean=True)):
            yield

    async def forget(self) -> None:
        """Remove the session, by entering without one.

        Raises:
            BrokerError: The broker cannot be reached, or refuses us.
        """
        await self._passed(_PATIENCE_S)

    async def left(self) -> None:
        """Remove the session if the broker is there."""
        try:
            await self._passed(_LEAVE_S)
        except BrokerError as error:
            _log.warning("a subscriber's session stays", session=self._name, why=str(error))

    async def _passed(self, patience_s: float) -> None:
        session = self._session(self._name, (), None, clean=True)
        async with _running(session):
            await session.ready(patience_s=patience_s)

    def _session(
        self, name: str, filters: Sequence[str], receive: Receive | None, *, clean: bool
    ) -> Session:
        return Session(
            self._address,
            client_id=name,
            subscriptions=[(pattern, 1) for pattern in filters],
            receive=receive,
            clean=clean,
            password=self._password,
            tls=self._tls,
        )


@asynccontextmanager
async def _running(session: Session) -> AsyncIterator[None]:
    """The session, alive while the context lasts."""
    task = asyncio.create_task(session.run(), name=f"session {session.client_id}")
    try:
        yield
    finally:
        session.disconnect()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def login_of(plan: LoadPlan, part: Part) -> Login:
    """As whom a subscriber enters: a viewer, who may read telemetry and alarms.

    With TLS our Mosquitto takes the user's name for the client's, so that each needs its own.
    """
    if plan.credentials is None:
        return Login(plan.broker.username, plan.password)
    known = read_credentials(plan.credentials)
    users = sorted(user for user in known.roles if role_of(user) is Role.VIEWER)
    if not users:
        return known.of_role(Role.VIEWER)
    if plan.broker.tls and part.of > len(users):
        raise SettingError(
            f"--subscribers {part.of}: over TLS each needs a viewer's login of its own, and "
            f"{plan.credentials} has {len(users)}; run `cityeye broker init --seat NAME` for each "
            "further one, or use fewer"
        )
    user = users[part.number % len(users)]
    return Login(user, known.roles[user])
