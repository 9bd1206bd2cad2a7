"""Alarms on their topics, on every broker."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from alerts.engine import AlarmEngine
from alerts.rules import load_packs
from alerts.service import AlarmService
from broker.choice import BrokerAddress
from broker.messages import AlarmEvent, decode
from broker.session import Session
from broker.topics import alarm_filter, alarm_topic
from city.cityfile import Address
from city.readings import ReadingBatch, SeriesTable

Connect = Callable[..., Awaitable[Any]]
NODE = Address("city", "east", "gas", "main", "node-1")
TOPIC = alarm_topic(NODE, "gas-pressure")


@pytest.fixture
async def publish(broker: BrokerAddress) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """How a service publishes to the broker."""
    session = Session(broker, client_id="alarms", clean=True)
    running = asyncio.create_task(session.run(), name="session")
    await session.ready(patience_s=10)
    yield session.publish
    running.cancel()
    await asyncio.wait([running], timeout=5)


def alarms() -> AlarmService:
    """A service with the shipped rules of the gas network."""
    return AlarmService(AlarmEngine(load_packs(["gas-network"])))


def pressures(*pairs: tuple[int, float]) -> ReadingBatch:
    """Pressures of the node at instants in seconds."""
    table = SeriesTable()
    table.index(NODE, "gas_pressure")
    seconds, values = zip(*pairs, strict=True)
    zeros = np.zeros(len(pairs), dtype=np.int32)
    ts = 1_000 * np.array(seconds, dtype=np.int64)
    return ReadingBatch(table, zeros, ts, np.array(values), zeros.astype(np.uint8))


async def publish_all(service: AlarmService, publish: Callable[..., Awaitable[None]]) -> None:
    """Run the service until everything is published."""
    running = asyncio.create_task(service.run(publish), name="alarms")
    assert await service.flush(timeout_s=10)
    running.cancel()
    await asyncio.wait([running], timeout=5)


async def test_a_standing_alarm_awaits_who_subscribes_later(
    broker: BrokerAddress, connect: Connect, publish: Callable[..., Awaitable[None]]
) -> None:
    """The alarm is retained in its newest state."""
    service = alarms()
    service.consume(pressures((1, 84.0), (2, 74.0)))
    await publish_all(service, publish)
    reader = await connect(broker)
    await reader.subscribe(alarm_filter())
    (payload,) = await reader.got(1)

    assert service.standing()[0].event == decode(AlarmEvent, payload)


async def test_an_alarm_that_is_over_leaves_nothing_on_its_topic(
    broker: BrokerAddress, connect: Connect, publish: Callable[..., Awaitable[None]]
) -> None:
    """Who subscribes after the end sees no alarm: the marker is the first message."""
    service = alarms()
    service.consume(pressures((1, 84.0), (2, 95.0), (12, 95.0)))
    await publish_all(service, publish)
    reader = await connect(broker)
    await reader.subscribe(alarm_filter())
    await publish(f"{TOPIC}-marker", b"marker")

    assert [b"marker"] == await reader.got(1)


async def test_a_new_service_takes_over_what_stands_on_the_topics(
    broker: BrokerAddress, connect: Connect, publish: Callable[..., Awaitable[None]]
) -> None:
    """After a restart the alarm clears in its time and is not raised again."""
    before = alarms()
    before.consume(pressures((1, 84.0)))
    await publish_all(before, publish)
    reader = await connect(broker)
    await reader.subscribe(alarm_filter())
    await reader.got(1)
    after = alarms()
    after.adopt(reader.messages[0].topic.decode(), reader.messages[0].payload)
    changes = after.consume(pressures((2, 84.0), (3, 95.0), (13, 95.0)))

    assert ["cleared"] == [change.event.event for change in changes]
