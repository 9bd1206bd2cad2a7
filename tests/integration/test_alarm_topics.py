"""Alarms on their topics, on every broker."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alerts.archive import Archive
from alerts.engine import AlarmEngine
from alerts.rules import load_packs
from alerts.service import AlarmService
from broker.choice import BrokerAddress
from broker.messages import AlarmEvent, OperatorRequest, decode
from broker.session import Session
from broker.topics import alarm_filter, alarm_topic
from city.cityfile import Address
from city.readings import ReadingBatch, SeriesTable

Connect = Callable[..., Awaitable[Any]]
Publish = Callable[..., Awaitable[None]]
NODE = Address("city", "east", "gas", "main", "node-1")
TOPIC = alarm_topic(NODE, "gas-pressure")


@pytest.fixture
async def publish(broker: BrokerAddress) -> AsyncIterator[Publish]:
    """How a service publishes to the broker."""
    session = Session(broker, client_id="alarms", clean=True)
    running = asyncio.create_task(session.run(), name="session")
    await session.ready(patience_s=60)
    yield session.publish
    running.cancel()
    await asyncio.wait([running], timeout=60)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """An archive."""
    archive = Archive(tmp_path / "alarms.sqlite")
    yield archive
    archive.close()


def alarms(archive: Archive) -> AlarmService:
    """A service with the shipped rules of the gas network, as it begins on an archive."""
    service = AlarmService(load_packs(["gas-network"]), AlarmEngine, archive)
    service.begin(0)
    service.caught_up()
    return service


def give(service: AlarmService, *pairs: tuple[int, float]) -> list[str]:
    """Pressures of the node at instants in seconds; the events of them."""
    table = SeriesTable()
    table.index(NODE, "gas_pressure")
    seconds, values = zip(*pairs, strict=True)
    zeros = np.zeros(len(pairs), dtype=np.int32)
    ts = 1_000 * np.array(seconds, dtype=np.int64)
    batch = ReadingBatch(table, zeros, ts, np.array(values), zeros.astype(np.uint8))
    events: list[str] = [
        one.event.event for one in service.consume(batch) if one.event.rule == "gas-pressure"
    ]
    service.committed(1, replaying=False)
    return events


async def publish_all(service: AlarmService, publish: Publish, *requests: OperatorRequest) -> None:
    """Run the service until everything that is asked for is done and published."""
    running = asyncio.create_task(service.run(publish), name="alarms")
    for request in requests:
        assert (await service.request(request)).ok
    assert await service.flush(timeout_s=60)
    running.cancel()
    await asyncio.wait([running], timeout=60)


async def test_a_standing_alarm_awaits_who_subscribes_later(
    broker: BrokerAddress, connect: Connect, publish: Publish, archive: Archive
) -> None:
    """The alarm is retained in its newest state."""
    service = alarms(archive)
    give(service, (1, 84.0), (2, 74.0))
    await publish_all(service, publish)
    reader = await connect(broker)
    await reader.subscribe(TOPIC)
    (payload,) = await reader.got(1)

    assert ("escalated", "LL") == (
        decode(AlarmEvent, payload).event,
        decode(AlarmEvent, payload).level,
    )
    assert decode(AlarmEvent, payload) in [one.event for one in service.standing()]


async def test_an_alarm_that_is_over_leaves_nothing_on_its_topic(
    broker: BrokerAddress, connect: Connect, publish: Publish, archive: Archive
) -> None:
    """Who subscribes after the end sees no alarm: the marker is the first message."""
    service = alarms(archive)
    give(service, (1, 84.0), (2, 95.0), (12, 95.0), (600, 95.0))
    request = OperatorRequest(id="1", action="acknowledge", by="lin", targets=("main/*/*",))
    await publish_all(service, publish, request)
    reader = await connect(broker)
    await reader.subscribe(alarm_filter())
    await publish(f"{TOPIC}-marker", b"marker", retain=False)

    assert [b"marker"] == await reader.got(1)


async def test_a_new_service_goes_on_with_what_stands(publish: Publish, archive: Archive) -> None:
    """After a restart the alarm clears in its time and is not raised again."""
    before = alarms(archive)
    first = give(before, (1, 84.0))
    await publish_all(before, publish)
    after = alarms(archive)

    assert ["raised"] == first
    assert ["cleared"] == give(after, (2, 84.0), (3, 95.0), (600, 95.0))
