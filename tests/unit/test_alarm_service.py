import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alerts.archive import Archive
from alerts.engine import AlarmEngine
from alerts.rules import RuleSet, pack_of
from alerts.service import AlarmService, Counts
from broker.messages import AlarmEvent, Announcement, Birth, MeasuredQuantity, OperatorRequest
from broker.messages import decode as decoded
from broker.topics import alarm_topic
from city.cityfile import Address
from city.documents import Document
from city.errors import ArchiveError, BrokerError
from city.readings import ReadingBatch, SeriesTable

RULES = """
pack: test
title: Rules of the test
standard: ST 1
rules:
  - id: pressure
    quantity: gas_pressure
    unit: kPa
    high: {limit: 105, severity: medium, deadband: 1}
    high_high: {limit: 110, severity: critical, deadband: 1}
"""
SLOW_RULES = """
pack: slow
title: Rules with delays
standard: ST 1
rules:
  - id: pressure
    quantity: gas_pressure
    unit: kPa
    high: {limit: 105, severity: medium, deadband: 1}
    on_delay_s: 20
    off_delay_s: 20
    realarm_s: 100
    escalate: [{after_s: 50, to: district}]
  - id: held
    all: [{quantity: gas_pressure, unit: kPa, above: 106}]
    severity: high
    on_delay_s: 25
  - id: silent
    silence: {intervals: 5, at_least: 60s}
    high: {limit: 0, severity: low}
"""
NODE = Address("city", "east", "gas", "main", "node-1")
TOPIC = alarm_topic(NODE, "pressure")
BIRTH = Birth(
    kind="gas-node", model="m", position=(0, 0), interval_s=10,
    quantities={"gas_pressure": MeasuredQuantity(unit="kPa", low=0, high=200)},
)  # fmt: skip
ACK = OperatorRequest(id="1", action="acknowledge", by="lin", targets=("main/*/*",))
SHELVE = OperatorRequest(
    id="2", action="shelve", by="lin", targets=("main/*/pressure",), why="works", for_s=60
)
Until = Callable[..., Awaitable[None]]


def rules(text: str = RULES) -> RuleSet:
    """The rules in a text."""
    return RuleSet((pack_of(Document(text, "test.yaml")),))


def service_on(archive: Archive, text: str = RULES, snapshot_every_s: float = 1e9) -> AlarmService:
    """A service on that archive; by itself it snapshots after its first group only."""
    return AlarmService(rules(text), AlarmEngine, archive, snapshot_every_s=snapshot_every_s)


class Wire:
    """Takes what is published; fails as often as it is told to, and keeps what is retained."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self.retained: dict[str, bytes] = {}
        self.failures = 0

    async def __call__(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Publish as the service expects it."""
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise BrokerError("the broker is away")
        self.messages.append((topic, payload, retain))
        if retain:
            self.retained[topic] = payload

    def said(self) -> list[str]:
        """Event and retain mark of each message; an empty payload is a removal."""
        events = (decoded(AlarmEvent, body).event if body else "" for _, body, _ in self.messages)
        marks = (" retained" if retain else "" for _, _, retain in self.messages)
        return [event + mark for event, mark in zip(events, marks, strict=True)]


class Spool:
    """Groups of pressures with numbers, as ingest keeps them and hands them in again."""

    def __init__(self) -> None:
        self.groups: list[tuple[int, ...]] = []
        self._table = SeriesTable()
        self._table.index(NODE, "gas_pressure")

    @property
    def now_s(self) -> int:
        """The instant of the newest reading."""
        return max((start + 10 * count for start, count, *_ in self.groups), default=0)

    def give(self, service: AlarmService, *values: int, ts_s: int | None = None) -> list[str]:
        """A new group, ten seconds from reading to reading; its events."""
        start = self.now_s if ts_s is None else ts_s
        self.groups.append((start, len(values), *values))
        return self._hand(service, len(self.groups), replaying=False)

    def again(self, service: AlarmService) -> None:
        """Hand in what the service does not cover."""
        for number in range(service.covered + 1, len(self.groups) + 1):
            self._hand(service, number, replaying=True)
        service.caught_up()

    def batch(self, start_s: int, values: Sequence[int]) -> ReadingBatch:
        """Readings of the node."""
        ts = np.array([1000 * (start_s + 10 * (n + 1)) for n in range(len(values))], dtype=np.int64)
        nothing = np.zeros(len(values), dtype=np.int32)
        value = np.array(values, dtype=np.float64)
        return ReadingBatch(self._table, nothing, ts, value, nothing.astype(np.uint8))

    def _hand(self, service: AlarmService, number: int, *, replaying: bool) -> list[str]:
        start, _, *values = self.groups[number - 1]
        if number == 1:
            service.learn(NODE, BIRTH)
        found = service.consume(self.batch(start, values))
        service.committed(number, replaying=replaying)
        return [one.event.event for one in found]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """An archive."""
    archive = Archive(tmp_path / "alarms.sqlite")
    yield archive
    archive.close()


@pytest.fixture
def service(archive: Archive) -> AlarmService:
    """A service with one rule."""
    return service_on(archive)


@pytest.fixture
def spool() -> Spool:
    """An empty spool."""
    return Spool()


@pytest.fixture
async def wire(service: AlarmService) -> AsyncIterator[Wire]:
    """What the running service publishes to."""
    wire = Wire()
    running = asyncio.create_task(service.run(wire), name="alarm service")
    yield wire
    await stopped(running)


async def stopped(task: asyncio.Task[None]) -> None:
    """End a task."""
    task.cancel()
    await asyncio.wait([task], timeout=60)


async def test_life_on_its_topic(service: AlarmService, spool: Spool, wire: Wire) -> None:
    """Changes are retained, the end is said once it is acknowledged, then the topic is emptied."""
    spool.give(service, 106, 111, 107, 95)
    await service.request(ACK)
    await service.flush(timeout_s=60)
    expected = ["raised", "escalated", "eased", "cleared"]

    assert [f"{one} retained" for one in expected] == wire.said()[:4]
    assert ["acknowledged", " retained"] == wire.said()[4:]
    assert {TOPIC: b""} == wire.retained


@pytest.mark.parametrize("failures", [1, 2])
async def test_failed_publish(
    service: AlarmService, spool: Spool, wire: Wire, failures: int
) -> None:
    """A broker that is away for a moment loses no event and mixes none up."""
    wire.failures = failures
    spool.give(service, 106, 111)
    await service.flush(timeout_s=60)

    assert ["raised retained", "escalated retained"] == wire.said()


async def test_flush_too_short(service: AlarmService, spool: Spool) -> None:
    """Where nothing works there is something left."""
    spool.give(service, 106)

    assert not await service.flush(timeout_s=0.01)


def test_store_gets_every_event(service: AlarmService, spool: Spool) -> None:
    """Consume returns all changes in order."""
    assert ["raised", "escalated", "cleared"] == spool.give(service, 106, 111, 95)


async def test_store_gets_what_people_do(service: AlarmService, spool: Spool, wire: Wire) -> None:
    """What happened without readings goes to the store with the next ones."""
    spool.give(service, 106)
    await service.request(ACK)

    assert ([], ["acknowledged"]) == (wire.messages[9:], spool.give(service, 106))


def test_counts(service: AlarmService, spool: Spool) -> None:
    """The counts say what happened and what stands now."""
    spool.give(service, 106, 111, 107, 95, 106)
    expected = Counts(raised=2, escalated=1, eased=1, cleared=1, standing=1, unacknowledged=1)

    assert expected == service.counts


async def test_nothing_before_it_is_durable(
    service: AlarmService, archive: Archive, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the archive is full, nothing is published, nobody is answered, and it is said why."""
    record, wire = archive.record, Wire()

    def full(*_: object) -> int:
        raise ArchiveError("disk is full")

    monkeypatch.setattr(archive, "record", full)
    running = asyncio.create_task(service.run(wire), name="alarm service")
    spool.give(service, 106)
    flushed = await service.flush(timeout_s=0.3)
    reply = await service.request(ACK)
    seen = (flushed, service.trouble, wire.said(), reply.ok, reply.detail)
    monkeypatch.setattr(archive, "record", record)
    flushed = await service.flush(timeout_s=60)
    await stopped(running)
    refused = "not done, alarms cannot be recorded at the moment: disk is full"

    assert (False, "disk is full", [], False, refused) == seen
    assert (True, ["raised retained"]) == (flushed, wire.said())


async def test_not_before_the_group_is_durable(
    service: AlarmService, archive: Archive, spool: Spool, wire: Wire
) -> None:
    """What a group changes is seen when ingest has committed it, not before."""
    service.consume(spool.batch(0, [106]))
    await asyncio.sleep(0)
    await service.recorder.settled()
    before = (archive.history(), wire.said())
    service.committed(1, replaying=False)
    await service.flush(timeout_s=60)

    assert (([], []), ["raised retained"]) == (before, wire.said())


async def test_request_waits_for_the_group(service: AlarmService, spool: Spool, wire: Wire) -> None:
    """A request that comes while a group is under way has its turn after it."""
    service.consume(spool.batch(0, [106]))
    asking = asyncio.create_task(service.request(ACK))
    await asyncio.wait([asking], timeout=0.05)
    early = asking.done()
    service.committed(1, replaying=False)
    async with asyncio.timeout(60):
        reply = await asking
    await service.flush(timeout_s=60)

    assert (False, True, ("main/node-1/pressure",)) == (early, reply.ok, reply.changed)
    assert ["raised retained", "acknowledged retained"] == wire.said()


async def test_request_refused(service: AlarmService, wire: Wire) -> None:
    """What cannot be done is answered with the reason."""
    reply = await service.request(ACK)

    assert (False, []) == (reply.ok, wire.messages)
    assert "no alarm fits main/*/*" in reply.detail


async def test_request_waits_for_the_replay(archive: Archive, spool: Spool) -> None:
    """After a restart people are answered once everything was handed in again, in its place."""
    first = service_on(archive)
    first.begin(0)
    spool.give(first, 106)
    again = service_on(archive)
    again.begin(1)
    running = asyncio.create_task(again.run(Wire()), name="alarm service")
    asking = asyncio.create_task(again.request(ACK))
    await asyncio.wait([asking], timeout=0.05)
    early = asking.done()
    spool.again(again)
    async with asyncio.timeout(60):
        reply = await asking
    await stopped(running)

    assert (False, True) == (early, reply.ok)


async def test_earlier_run(archive: Archive, spool: Spool) -> None:
    """Where time begins before what the archive has reached, only the numbers go on."""
    first, wire = service_on(archive), Wire()
    first.begin(0)
    running = asyncio.create_task(first.run(wire), name="first")
    spool.give(first, 106)
    await first.flush(timeout_s=60)
    await stopped(running)
    second = service_on(archive)
    second.begin(1, begins_ms=0)
    second.caught_up()
    standing = second.standing()
    running = asyncio.create_task(second.run(wire), name="second")
    spool.give(second, 106, ts_s=0)
    await second.flush(timeout_s=60)
    await stopped(running)

    assert ([], [1, 2]) == (standing, [one.event.number for one in archive.history()][::-1])


async def test_changed_rules(service: AlarmService, spool: Spool, wire: Wire) -> None:
    """A limit that is changed while the service works counts from then on."""
    spool.give(service, 104)
    await service.reload(rules(RULES.replace("limit: 105", "limit: 103")))

    assert ([], ["raised"]) == (wire.messages, spool.give(service, 104))


async def test_rule_taken_away(service: AlarmService, spool: Spool, wire: Wire) -> None:
    """An alarm of a rule that is there no more is over."""
    spool.give(service, 106)
    await service.reload(rules(RULES.replace("id: pressure", "id: other")))
    await service.flush(timeout_s=60)

    assert {TOPIC: b""} == wire.retained


class Killed:
    """A service that is killed now and then, and does what it is told."""

    def __init__(self, path: Path, *, kill: bool, snapshot_every_s: float) -> None:
        self.spool = Spool()
        self.wire = Wire()
        self._path = path
        self._kill = kill
        self._every_s = snapshot_every_s

    async def play(self, steps: Sequence[tuple[str, int]]) -> list[Announcement]:
        """Carry the steps out; the audit trail in the end."""
        await self._begin()
        for step, value in steps:
            await self._do(step, value)
        await self._service.flush(timeout_s=60)
        found = self._archive.history()
        await self._end()
        return found

    async def _do(self, step: str, value: int) -> None:
        service = self._service
        if step == "readings":
            self.spool.give(service, *([value] * (value % 4 + 1)))
        elif step == "kill" and self._kill:
            await self._end()
            await self._begin()
        elif step == "advance":
            await service.advance(1000 * self.spool.now_s + 1000 * value)
            await service.recorder.settled()
        elif step == "late":
            await service.allow_late(1000 * value)
            await service.recorder.settled()
        elif step in {"ack", "shelve"}:
            await service.request(ACK if step == "ack" else SHELVE)

    async def _begin(self) -> None:
        self._archive = Archive(self._path)
        self._service = service_on(self._archive, SLOW_RULES, self._every_s)
        self._service.begin(len(self.spool.groups))
        self.spool.again(self._service)
        self._running = asyncio.create_task(self._service.run(self.wire), name="service")

    async def _end(self) -> None:
        await stopped(self._running)
        with suppress(ArchiveError):
            self._archive.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("readings"), st.sampled_from([100, 101, 102, 103, 107, 108, 109, 110])),
        st.tuples(st.sampled_from(["kill", "ack", "shelve"]), st.just(0)),
        st.tuples(st.just("advance"), st.integers(1, 90)),
        st.tuples(st.just("late"), st.sampled_from([0, 20, 200])),
    ),
    min_size=4,
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS, st.sampled_from([0.0, 1e9]))
def test_killed_at_any_step(steps: list[tuple[str, int]], snapshot_every_s: float) -> None:
    """Killed between any two inputs, it says the same in the end, with the same numbers."""
    with tempfile.TemporaryDirectory() as folder:
        calm = Killed(Path(folder) / "calm", kill=False, snapshot_every_s=snapshot_every_s)
        killed = Killed(Path(folder) / "killed", kill=True, snapshot_every_s=snapshot_every_s)
        expected = asyncio.run(calm.play(steps))

        assert expected == asyncio.run(killed.play(steps))
        assert set(calm.wire.messages) == set(killed.wire.messages)
        assert calm.wire.retained == killed.wire.retained
