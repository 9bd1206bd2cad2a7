import asyncio
from typing import Any

import msgspec
import pytest

from broker.choice import BrokerAddress
from broker.codec import Publish
from broker.loadmessages import LoadFigures
from broker.mosquitto import PrivateMosquitto
from broker.session import Link, Session
from broker.topics import load_topic
from ingest.influx1 import Influx1Store
from ingest.influxd import PrivateInfluxd
from load.course import Course
from load.figures import Delta, histogram_of
from load.livefigures import LiveTeller
from load.plan import LoadPlan, Phase

START_MS = 1_795_413_600_000


def course_at(broker: BrokerAddress) -> Course:
    """Five seconds of a course."""
    plan = LoadPlan(
        run="trial", broker=broker, devices=10, interval_s=1.0, ramp_s=0.0, kinds=("air",), seed=1,
        phases=(Phase(name="steady", for_s=20),), city_start_ms=0,
    )  # fmt: skip
    course = Course(plan, START_MS)
    for at_s in range(1, 6):
        course.add(Delta(
            kind="shard", part=0, at_ms=START_MS + at_s * 1000, connected=10,
            counts={"due": 10, "sent": 10, "acked": 10},
            delays={"ack": histogram_of([2_000] * 10).encode()},
        ))  # fmt: skip
    return course


@pytest.mark.mosquitto
@pytest.mark.influxd
async def test_live_figures_reach_a_subscriber_and_the_store(
    mosquitto: PrivateMosquitto, influxd: PrivateInfluxd
) -> None:
    """The figures that a subscriber gets are those that the dashboard reads from the store."""
    address = BrokerAddress(mosquitto.host, mosquitto.port)
    got: asyncio.Queue[LoadFigures] = asyncio.Queue()

    def receive(link: Link, messages: list[Publish]) -> None:
        for one in messages:
            got.put_nowait(msgspec.json.decode(one.payload, type=LoadFigures))
        link.acknowledge(one.mid for one in messages)

    topic = load_topic("haven", "trial", "figures")
    watching = Session(address, client_id="w", subscriptions=[(topic, 1)], receive=receive)
    telling = Session(address, client_id="t", clean=True)
    tasks = [asyncio.create_task(one.run()) for one in (watching, telling)]
    for one in (watching, telling):
        await one.ready(patience_s=30)
    course = course_at(address)
    teller = LiveTeller(
        course, city="haven", publish=telling.publish, store=Influx1Store(influxd.url, "load")
    )
    await teller.tell()
    async with asyncio.timeout(30):
        figures = await got.get()
    await teller.close()
    stored = await rows(influxd)
    for task in tasks:
        task.cancel()

    assert [] == course.warnings
    assert (figures.sent, figures.rate) == (stored["sent"], stored["rate"])


async def rows(influxd: PrivateInfluxd) -> dict[str, Any]:
    """The one point of the load test in the store."""
    store = Influx1Store(influxd.url, "load")
    await store.open()
    [point] = await store.read("cityeye", START_MS, START_MS + 60_000)
    await store.close()
    return {**point.counts, **point.values}
