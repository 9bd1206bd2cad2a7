import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.engine import AlarmEngine
from alerts.outbox import Dispatch, Outbox
from alerts.rules import RuleSet, pack_of
from alerts.service import AlarmService, Counts
from broker.messages import AlarmEvent, decode
from broker.topics import alarm_topic
from city.cityfile import Address
from city.documents import Document
from city.errors import BrokerError, TopicError
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
NODE = Address("city", "east", "gas", "main", "node-1")
TOPIC = alarm_topic(NODE, "pressure")
Feed = Callable[..., list[str]]


class Wire:
    """Takes what is published; fails as often as it is told to, and keeps what is retained."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self.retained: dict[str, bytes] = {}
        self.failures = 0
        self.silent = False

    async def __call__(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Publish as the service expects it."""
        await asyncio.sleep(0)
        if self.silent:
            await asyncio.Event().wait()
        if self.failures:
            self.failures -= 1
            raise BrokerError("the broker is away")
        self.messages.append((topic, payload, retain))
        if retain:
            self.retained[topic] = payload

    def said(self) -> list[str]:
        """Event and retain mark of each message; an empty payload is a removal."""
        events = (decode(AlarmEvent, body).event if body else "" for _, body, _ in self.messages)
        marks = (" retained" if retain else "" for _, _, retain in self.messages)
        return [event + mark for event, mark in zip(events, marks, strict=True)]


@pytest.fixture
def service() -> AlarmService:
    """A service with one rule, and little patience with a silent broker."""
    engine = AlarmEngine(RuleSet((pack_of(Document(RULES, "test.yaml")),)))
    return AlarmService(engine, keep=3, publish_timeout_s=0.05)


@pytest.fixture
def feed(service: AlarmService) -> Feed:
    """Consumes pressures of the node, one second after the other, and returns the events."""
    table = SeriesTable()
    table.index(NODE, "gas_pressure")
    seconds = iter(range(1_000_000))

    def consume(*values: float) -> list[str]:
        ts = np.array([1_000 * next(seconds) for _ in values], dtype=np.int64)
        nothing = np.zeros(len(values), dtype=np.int32)
        flag = nothing.astype(np.uint8)
        batch = ReadingBatch(table, nothing, ts, np.array(values, dtype=np.float64), flag)
        return [change.event.event for change in service.consume(batch)]

    return consume


@pytest.fixture
async def wire(service: AlarmService) -> AsyncIterator[Wire]:
    """What the running service publishes to."""
    wire = Wire()
    running = asyncio.create_task(service.run(wire), name="alarm service")
    yield wire
    running.cancel()
    await asyncio.wait([running], timeout=1)


async def test_a_standing_alarm_is_retained_and_removed_at_its_end(
    service: AlarmService, feed: Feed, wire: Wire
) -> None:
    """A life on its topic: changes retained, the end said once, then the topic emptied."""
    feed(106, 111, 107, 95)
    await service.flush(timeout_s=5)
    expected = [
        "raised retained",
        "escalated retained",
        "eased retained",
        "cleared",
        " retained",
    ]

    assert expected == wire.said()


async def test_an_alarm_is_published_on_its_own_topic(
    service: AlarmService, feed: Feed, wire: Wire
) -> None:
    """The topic carries device and rule."""
    feed(106)
    await service.flush(timeout_s=5)

    assert [TOPIC] == list(wire.retained)


@pytest.mark.parametrize("failures", [1, 2])
async def test_a_failed_publish_is_tried_again_in_order(
    service: AlarmService, feed: Feed, wire: Wire, failures: int
) -> None:
    """A broker that is away for a moment loses no event and mixes none up."""
    wire.failures = failures
    feed(106, 111)
    await service.flush(timeout_s=5)

    assert ["raised retained", "escalated retained"] == wire.said()


async def test_a_silent_broker_does_not_hold_the_alarms_for_ever(
    service: AlarmService, feed: Feed, wire: Wire
) -> None:
    """A publish that is not answered in time is tried again."""
    wire.silent = True
    feed(106)
    await service.flush(timeout_s=0.1)
    wire.silent = False

    assert await service.flush(timeout_s=5)


async def test_what_a_cancelled_run_has_not_published_the_next_one_does(
    service: AlarmService, feed: Feed
) -> None:
    """Alarms survive the loss of their publisher."""
    lost, found = Wire(), Wire()
    lost.silent = True
    feed(106, 111)
    first = asyncio.create_task(service.run(lost), name="first")
    await service.flush(timeout_s=0.02)
    first.cancel()
    await asyncio.wait([first], timeout=1)
    second = asyncio.create_task(service.run(found), name="second")
    await service.flush(timeout_s=5)
    second.cancel()
    await asyncio.wait([second], timeout=1)

    assert ["raised retained", "escalated retained"] == found.said()


async def test_flush_says_when_the_time_was_too_short(service: AlarmService, feed: Feed) -> None:
    """Without a publisher there is something left."""
    feed(106)

    assert not await service.flush(timeout_s=0.01)


def test_the_store_gets_every_event(feed: Feed) -> None:
    """Consume returns all changes in order, published or not."""
    assert ["raised", "escalated", "cleared"] == feed(106, 111, 95)


def test_events_and_standing_alarms_are_counted(service: AlarmService, feed: Feed) -> None:
    """The counts say what happened and what stands now."""
    feed(106, 111, 107, 95, 106)
    expected = Counts(raised=2, escalated=1, eased=1, cleared=1, standing=1)

    assert expected == service.counts


def test_the_newest_announcements_are_kept_for_display(service: AlarmService, feed: Feed) -> None:
    """Of four events, the last three remain."""
    feed(106, 111, 107, 95)
    kept = [announcement.event.event for announcement in service.newest]

    assert ["escalated", "eased", "cleared"] == kept


def test_a_retained_alarm_is_adopted_and_clears(service: AlarmService, feed: Feed) -> None:
    """After a restart, the alarm on its topic goes on and is not raised twice."""
    event = AlarmEvent(
        rule="pressure", event="raised", state="active", severity="medium", level="H",
        quantity="gas_pressure", value=106, limit=105, unit="kPa", ts=-5, raised=-5, standard="ST 1",
    )  # fmt: skip
    adopted = service.adopt(TOPIC, msgspec.json.encode(event))

    assert (adopted, feed(106, 95)) == (True, ["cleared"])


async def test_a_retained_alarm_without_a_rule_is_removed(
    service: AlarmService, wire: Wire
) -> None:
    """An alarm that nothing could clear any more does not stay on its topic."""
    event = AlarmEvent(
        rule="gone", event="raised", state="active", severity="medium", level="H",
        quantity="gas_pressure", value=106, limit=105, unit="kPa", ts=1, raised=1, standard="ST 1",
    )  # fmt: skip
    topic = alarm_topic(NODE, "gone")
    service.adopt(topic, msgspec.json.encode(event))
    await service.flush(timeout_s=5)

    assert {topic: b""} == wire.retained


def test_a_message_on_another_topic_is_not_adopted(service: AlarmService) -> None:
    """A topic that is not an alarm's is an error of whoever subscribed."""
    with pytest.raises(TopicError):
        service.adopt("cityeye/v1/city/clock", b"{}")


def item(topic: str, number: int) -> Dispatch:
    """A dispatch that can be told from others."""
    return Dispatch(topic, ((str(number).encode(), True),))


@given(st.lists(st.sampled_from("abcd"), max_size=60), st.integers(1, 5), st.integers(1, 3))
def test_an_overflowing_outbox_keeps_the_newest_of_each_topic(
    topics: list[str], bound: int, most: int
) -> None:
    """Whatever is dropped, every topic ends in its newest state."""
    outbox = Outbox(bound=bound)
    sent: dict[str, Dispatch] = {}
    for number, topic in enumerate(topics):
        outbox.put(item(topic, number))
    while outbox:
        sent |= {taken.topic: taken for taken in outbox.take(most)}

    assert {topic: item(topic, number) for number, topic in enumerate(topics)} == sent


@given(st.lists(st.sampled_from("abcd"), max_size=60), st.integers(1, 5))
def test_an_outbox_keeps_the_order_of_events(topics: list[str], bound: int) -> None:
    """What remains is published in the order in which it happened."""
    outbox, sent = Outbox(bound=bound), []
    for number, topic in enumerate(topics):
        outbox.put(item(topic, number))
    while outbox:
        sent += [int(taken.messages[0][0]) for taken in outbox.take(2)]

    assert sorted(sent) == sent


@given(st.lists(st.sampled_from("abcd"), max_size=200), st.integers(1, 9))
def test_an_outbox_is_bounded_and_counts_what_it_drops(topics: list[str], bound: int) -> None:
    """It holds its bound or twice its topics, and the rest is accounted for."""
    outbox = Outbox(bound=bound)
    for number, topic in enumerate(topics):
        outbox.put(item(topic, number))
    within = len(outbox) <= max(bound, 2 * len(set(topics)))

    assert (within, len(outbox) + outbox.superseded) == (True, len(topics))


def test_what_is_put_back_comes_first_again() -> None:
    """A dispatch that could not be published is not overtaken by a newer one of its topic."""
    outbox = Outbox()
    for number, topic in enumerate("aba"):
        outbox.put(item(topic, number))
    outbox.put_back(outbox.take(10))

    assert [item("a", 0), item("b", 1)] == outbox.take(10)
