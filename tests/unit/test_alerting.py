import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from alerts.rules import RuleSet, pack_of
from alerts.surroundings import Nowhere
from broker.codec import Publish
from broker.messages import ClockTick, OperatorReply, OperatorRequest, decode, encode
from broker.session import Link, Session
from broker.topics import alarm_topic, clock_topic, reply_topic, request_topic
from city.cityfile import Address
from city.documents import Document
from city.errors import DocumentError
from city.readings import ReadingBatch, SeriesTable
from city.settings import resolve
from cli.alerting import Alerting

RULES = """
pack: law
title: A law of two versions
standard: ST 1
rules:
  - id: old
    quantity: gas_pressure
    unit: kPa
    low: {limit: 85, severity: high}
    valid_until: 2030-12-31
  - id: new
    quantity: gas_pressure
    unit: kPa
    low: {limit: 95, severity: high}
    valid_from: 2031-01-01
"""
NODE = Address("weir", "east", "gas", "main", "node-1")
OLD = alarm_topic(NODE, "old")
LAST_DAY = round(datetime(2030, 12, 31, 23, 59, tzinfo=UTC).timestamp()) * 1000
FIRST_DAY = round(datetime(2031, 1, 1, tzinfo=UTC).timestamp()) * 1000
Until = Callable[..., Awaitable[None]]


class Wire:
    """A session and its link, which keep what is published and what is retained."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self.retained: dict[str, bytes] = {}
        self.acknowledged: list[int] = []

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Take a message."""
        await asyncio.sleep(0)
        self.messages.append((topic, payload, retain))
        if retain:
            self.retained[topic] = payload

    def acknowledge(self, mids: list[int]) -> None:
        """Take note."""
        self.acknowledged += mids


class Files:
    """The rule files, which somebody may be in the middle of editing."""

    def __init__(self) -> None:
        self.text = RULES

    def __call__(self) -> RuleSet:
        """Read them."""
        return RuleSet((pack_of(Document(self.text, "rules.yaml")),))


@pytest.fixture
def files() -> Files:
    """The rule files."""
    return Files()


@pytest.fixture
def wire() -> Wire:
    """A session."""
    return Wire()


def made(folder: Path, files: Files) -> Alerting:
    """The alarm part of every city, begun on what the folder holds."""
    settings = resolve({"data": str(folder)}, {}, None)
    return Alerting(settings, None, files, Nowhere(), None)


@pytest.fixture
def alerting(tmp_path: Path, files: Files) -> Iterator[Alerting]:
    """The alarm part."""
    alerting = made(tmp_path, files)
    alerting.begin(0, begins_ms=None)
    yield alerting
    alerting.close()


@asynccontextmanager
async def working(alerting: Alerting, wire: Wire) -> AsyncIterator[None]:
    """While it works on a session."""
    running = asyncio.create_task(alerting.run(cast("Session", wire)), name="alerting")
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running], timeout=60)


def measured(ts: int, pressure: float) -> ReadingBatch:
    """One reading."""
    table = SeriesTable()
    nothing = np.array([table.index(NODE, "gas_pressure")], dtype=np.int32)
    when, value = np.array([ts], dtype=np.int64), np.array([pressure])
    return ReadingBatch(table, nothing, when, value, nothing.astype(np.uint8))


def give(alerting: Alerting, number: int, ts: int, pressure: float) -> list[tuple[str, str]]:
    """A group of one reading; rule and event of what it changes."""
    found = alerting.consume(measured(ts, pressure))
    alerting.committed(number, replaying=False)
    return [(one.event.rule, one.event.event) for one in found]


def hear(
    alerting: Alerting, wire: Wire, topic: str, payload: bytes, *, retain: bool = False
) -> None:
    """A message comes on the session."""
    message = Publish(topic.encode(), payload, 1, retain, False, 7)
    alerting.receive(cast("Link", wire), [message])


def test_law_changes_with_the_day_of_the_readings(alerting: Alerting) -> None:
    """The first reading of a new day is held against that day's law, at no other moment."""
    found = [
        give(alerting, 1, LAST_DAY, 90.0),
        give(alerting, 2, LAST_DAY + 1000, 80.0),
        give(alerting, 3, FIRST_DAY, 90.0),
    ]

    assert [] == found[0]
    assert [("old", "raised")] == found[1]
    assert {("old", "cleared"), ("new", "raised")} == set(found[2])


def test_law_does_not_read_files(alerting: Alerting, files: Files) -> None:
    """At midnight the rules that were accepted count, whatever somebody is writing just then."""
    give(alerting, 1, LAST_DAY, 90.0)
    files.text = "rules: ["

    assert [("new", "raised")] == give(alerting, 2, FIRST_DAY, 90.0)


async def test_restart_goes_on_by_the_same_law(
    alerting: Alerting, files: Files, wire: Wire, tmp_path: Path
) -> None:
    """After a restart the rules of the day that was reached count, before anything is heard."""
    async with working(alerting, wire):
        give(alerting, 1, LAST_DAY, 80.0)
        assert await alerting.flush(timeout_s=60)
    alerting.close()
    again = made(tmp_path, files)
    again.begin(1, begins_ms=None)
    rules = [rule.id for rule in again.service.rules.rules]
    again.close()

    assert ["old"] == rules


async def test_stale_topic_is_emptied(alerting: Alerting, wire: Wire, until: Until) -> None:
    """An alarm that the broker holds and that does not stand is of another run."""
    async with working(alerting, wire):
        alerting.caught_up()
        hear(alerting, wire, OLD, b"{}", retain=True)
        await until(lambda: wire.messages)

    assert ([(OLD, b"", True)], [7]) == (wire.messages, wire.acknowledged)


async def test_topic_waits_for_the_replay(alerting: Alerting, wire: Wire) -> None:
    """What is handed in again may say that an alarm stands: until then no topic is emptied."""
    async with working(alerting, wire):
        hear(alerting, wire, OLD, b"{}", retain=True)
        for _ in range(20):
            await asyncio.sleep(0)
        alerting.consume(measured(LAST_DAY, 80.0))
        alerting.committed(1, replaying=True)
        alerting.caught_up()
        assert await alerting.flush(timeout_s=60)

    assert b"" not in [payload for _, payload, _ in wire.messages]


async def test_standing_alarm_the_broker_lost(
    alerting: Alerting, files: Files, wire: Wire, tmp_path: Path, until: Until
) -> None:
    """A broker that forgets what it retained gets the standing alarms again, by the same number."""
    async with working(alerting, wire):
        give(alerting, 1, LAST_DAY, 80.0)
        assert await alerting.flush(timeout_s=60)
    alerting.close()
    again, forgetful = made(tmp_path, files), Wire()
    again.begin(1, begins_ms=None)
    again.caught_up()
    async with working(again, forgetful):
        await until(lambda: forgetful.messages)
    again.close()

    assert wire.messages == forgetful.messages


async def test_request(alerting: Alerting, wire: Wire, until: Until) -> None:
    """A request is answered on the city's reply topic, a retained one is nobody's."""
    asked = OperatorRequest(id="q", action="acknowledge", by="lin", targets=("main/node-1/old",))
    async with working(alerting, wire):
        give(alerting, 1, LAST_DAY, 80.0)
        hear(alerting, wire, request_topic("weir"), encode(asked), retain=True)
        hear(alerting, wire, request_topic("weir"), encode(asked))
        await until(lambda: any(topic == reply_topic("weir") for topic, _, _ in wire.messages))
    replies = [decode(OperatorReply, body) for to, body, _ in wire.messages if "/reply" in to]

    assert [("q", True, ("main/node-1/old",))] == [(r.id, r.ok, r.changed) for r in replies]


async def test_bad_rules(alerting: Alerting, files: Files, wire: Wire, until: Until) -> None:
    """Bad rules are refused with the place of the mistake, and the old ones stay."""
    asked = OperatorRequest(id="q", action="reload", by="lin")
    before = alerting.service.rules
    files.text = RULES.replace("limit: 85", "limit: eighty")
    async with working(alerting, wire):
        alerting.caught_up()
        hear(alerting, wire, request_topic("weir"), encode(asked))
        await until(lambda: wire.messages)
    reply = decode(OperatorReply, wire.messages[0][1])

    assert (False, before) == (reply.ok, alerting.service.rules)
    assert "refused, the rules stay as they are: rules.yaml:9: " in reply.detail


def test_not_understood(alerting: Alerting, wire: Wire) -> None:
    """What is no message of ours is acknowledged and passed over."""
    hear(alerting, wire, request_topic("weir"), b"{")
    hear(alerting, wire, clock_topic("weir"), b"rain")

    assert [7, 7] == wire.acknowledged


async def test_time_of_an_old_city(
    alerting: Alerting, wire: Wire, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A city that announces no clock and whose readings are old is not moved by the wall's time."""
    now_ms, asked = alerting.time.now_ms, [0]

    def counted() -> int:
        asked[0] += 1
        return now_ms()

    monkeypatch.setattr(alerting.time, "now_ms", counted)
    async with working(alerting, wire):
        give(alerting, 1, LAST_DAY, 90.0)
        await until(lambda: asked[0] > 1)

    assert LAST_DAY == alerting.service.engine.now


async def test_time_of_a_city_with_a_clock(alerting: Alerting, wire: Wire, until: Until) -> None:
    """At the speed of the wall, the city's time goes on though no reading comes."""
    now = round(datetime.now(UTC).timestamp() * 1000)
    tick = ClockTick(ts=LAST_DAY + 10_000, speed=1.0, seed=1, wall=now)
    async with working(alerting, wire):
        give(alerting, 1, LAST_DAY, 90.0)
        hear(alerting, wire, clock_topic("weir"), encode(tick))
        await until(lambda: alerting.service.engine.now > LAST_DAY + 5_000)

    assert alerting.service.engine.now < LAST_DAY + 60_000


def test_wrong_rules_at_start(tmp_path: Path, files: Files) -> None:
    """Rules that are wrong at the start are an error, not a service without rules."""
    files.text = "rules: ["
    with pytest.raises(DocumentError):
        made(tmp_path, files)
