import asyncio
import contextlib
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.choice import BrokerAddress
from broker.credentials import read_credentials
from broker.guarded import GuardedMosquitto
from broker.messages import AlarmEvent, Telemetry, encode
from broker.mosquitto import PrivateMosquitto, answers, configuration, free_port
from broker.topics import Channel, alarm_topic, device_topic
from city.clock import wall_ms
from city.errors import BrokerError
from load.figures import Delta, merged
from load.payloads import ReadBack, Speaker, Template
from load.plan import Faults, LoadPlan, Order, Part, Phase
from load.subscriber import DROPPED_TOPIC, watch_messages

pytestmark = pytest.mark.mosquitto

Connect = Callable[..., Awaitable[Any]]
Until = Callable[..., Awaitable[None]]
GAPS_EXPECTED = Faults(missing=0.1)


class Ears:
    """The conductor's end of a line: keeps the words, and gives orders."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.orders: list[Order] = []

    def tell(self, delta: Delta) -> None:
        """Keep a word."""
        self.deltas.append(delta)

    def heard(self) -> Sequence[Order]:
        """Orders since the last call."""
        heard, self.orders = self.orders, []
        return heard

    @property
    def counts(self) -> Counter[str]:
        """All counts so far."""
        total: Counter[str] = Counter()
        for delta in self.deltas:
            total.update(delta.counts)
        return total

    @property
    def warnings(self) -> list[str]:
        """All warnings so far."""
        return [text for delta in self.deltas for text in delta.warnings]

    def delay_ms(self, stage: str) -> tuple[int, float]:
        """How many delays of a stage were told, and the longest."""
        told = merged(delta.delays[stage] for delta in self.deltas if stage in delta.delays)
        return told.get_total_count(), told.get_max_value() / 1000


def plan_of(broker: PrivateMosquitto | BrokerAddress, **changes: Any) -> LoadPlan:
    """A plan of twelve devices that would take an hour: tests end it by an order."""
    plan = LoadPlan(
        run=uuid.uuid4().hex, broker=BrokerAddress(broker.host, broker.port), devices=12,
        interval_s=1.0, ramp_s=0.1, phases=(Phase(name="steady", for_s=3600.0),),
        kinds=("air-micro",), seed=1, city_start_ms=1795413600000, drain_s=10.0,
    )  # fmt: skip
    return msgspec.structs.replace(plan, **changes)


def topics_of(plan: LoadPlan) -> list[str]:
    """The telemetry topics of all devices."""
    return [device_topic(one.address, Channel.TELEMETRY) for one in plan.city().devices()]


def message(seq: int, *, ago_ms: int = 0) -> bytes:
    """A reading that was due so long ago."""
    return encode(Telemetry(wall_ms() - ago_ms, seq, {"pm25": 12.4, "no2": 31.0}))


@contextlib.asynccontextmanager
async def watching(plan: LoadPlan, number: int = 0, of: int = 1) -> AsyncIterator[Ears]:
    """A subscriber at work; it is told to stop at the end, and has said its last word then."""
    ears = Ears()
    part = Part(number, of, wall_ms())
    task = asyncio.create_task(watch_messages(plan, part, ears), name="subscriber")
    try:
        async with asyncio.timeout(30):
            while not ears.deltas and not task.done():  # noqa: ASYNC110 - polled from outside
                await asyncio.sleep(0.01)
        yield ears
        ears.orders.append(Order(at_ms=wall_ms(), stop=True))
        async with asyncio.timeout(60):
            await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_counts(mosquitto: PrivateMosquitto, connect: Connect) -> None:
    """Repeated, missing, reordered, cut-off, oversized, foreign and retained messages count exactly."""
    plan = plan_of(mosquitto, faults=GAPS_EXPECTED)
    one, other, *_ = topics_of(plan)
    peer = await connect(mosquitto)
    await peer.publish(other, message(77), retain=True)
    async with watching(plan) as ears:
        for seq in (0, 1, 1, 4, 3, 3, 5):
            await peer.publish(one, message(seq))
        await peer.publish(one, message(6)[:20])
        await peer.publish(one, message(6).ljust(300_000))
        await peer.publish(other, message(2))
        await peer.publish(one.replace("/air/", "/gas/"), message(0))

    expected = {
        "received": 11, "distinct": 6, "repeated": 2, "out_of_order": 1, "unreadable": 2,
        "strange": 1,
    }  # fmt: skip
    assert expected == ears.counts
    assert ears.deltas[-1].last
    assert not ears.warnings


async def test_unexplained_gaps(mosquitto: PrivateMosquitto, connect: Connect) -> None:
    """Numbers that are missing without a fault of the plan are waited for, and said by device."""
    plan = plan_of(mosquitto, drain_s=2.5)
    one, other, *_ = topics_of(plan)
    peer = await connect(mosquitto)
    async with watching(plan) as ears:
        for seq in (0, 2, 6):
            await peer.publish(one, message(seq))
        await peer.publish(other, message(1))

    [warning] = ears.warnings
    assert warning.startswith("subscriber 0 misses 5 messages between others of their devices")
    assert warning.endswith(f"most of {one}: 4 (1, 3-5); {other}: 1 (0)")


async def test_delays(mosquitto: PrivateMosquitto, connect: Connect) -> None:
    """Delays count from the instant at which a message was due, and only for its first copy."""
    plan = plan_of(mosquitto)
    topic = topics_of(plan)[0]
    peer = await connect(mosquitto)
    async with watching(plan) as ears:
        began_s = time.monotonic()
        for seq, ago_ms in ((0, 0), (1, 30_000), (1, 100_000)):
            await peer.publish(topic, message(seq, ago_ms=ago_ms))
        took_ms = 1000 * (time.monotonic() - began_s)
    count, longest_ms = ears.delay_ms("subscriber")

    assert 2 == count
    assert 29_900 < longest_ms < 30_100 + took_ms


async def test_districts_add_up(mosquitto: PrivateMosquitto, connect: Connect) -> None:
    """Several subscribers, each with whole districts, together count every message once."""
    plan = plan_of(mosquitto, devices=60)
    topics = topics_of(plan)
    peer = await connect(mosquitto)
    async with watching(plan, 0, 3) as a, watching(plan, 1, 3) as b, watching(plan, 2, 3) as c:
        for topic in topics:
            await peer.publish(topic, message(0))
    counts = [ears.counts["distinct"] for ears in (a, b, c)]

    assert [20, 20, 20] == counts
    assert len(topics) == sum(ears.counts["received"] for ears in (a, b, c))


def event(happening: str, *, ago_ms: int = 0, number: int = 1) -> bytes:
    """An alarm event of so long ago."""
    ts = wall_ms() - ago_ms
    fields: Mapping[str, Any] = {
        "rule": "pm25-high", "event": happening, "state": "unacknowledged", "severity": "high",
        "level": "H", "quantity": "pm25", "value": 150.0, "limit": 75.0, "unit": "ug/m3",
        "ts": ts, "raised": ts, "number": number,
    }  # fmt: skip
    return encode(msgspec.convert(fields, AlarmEvent))


async def test_alarms(mosquitto: PrivateMosquitto, connect: Connect) -> None:
    """Alarm events are counted, and the delay of those that were raised within the last minute."""
    plan = plan_of(mosquitto)
    topics = [alarm_topic(one.address, "pm25-high") for one in plan.city().devices()]
    peer = await connect(mosquitto)
    async with watching(plan) as ears:
        await peer.publish(topics[0], event("raised", ago_ms=2_000), retain=True)
        await peer.publish(topics[0], event("cleared", number=2), retain=True)
        await peer.publish(topics[0], b"", retain=True)
        await peer.publish(topics[1], event("raised", ago_ms=90_000), retain=True)
    count, longest_ms = ears.delay_ms("alarm")

    assert {"alarms": 3} == ears.counts
    assert 1 == count
    assert 1_900 < longest_ms < 60_100


async def test_broker_restart(mosquitto: PrivateMosquitto, connect: Connect, until: Until) -> None:
    """A broker that goes away and comes back is said with the time, and counting goes on."""
    plan = plan_of(mosquitto, drain_s=4.0)
    topic = topics_of(plan)[0]
    async with watching(plan) as ears:
        before = await connect(mosquitto)
        await before.publish(topic, message(0))
        await until(lambda: ears.counts["distinct"] == 1)
        await mosquitto.stop()
        await until(lambda: ears.warnings)
        await mosquitto.start()
        after = await connect(mosquitto)
        await after.publish(topic, message(1))
        await until(lambda: ears.counts["distinct"] == 2, deadline_s=30)

    [warning] = ears.warnings
    assert "subscriber 0 lost its connection at " in warning
    assert {"received": 2, "distinct": 2} == ears.counts


async def test_slower_than_the_load(mosquitto: PrivateMosquitto, connect: Connect) -> None:
    """A subscriber that still receives when the end has been waited for says so, as no loss."""
    plan = plan_of(mosquitto, drain_s=1.0)
    topic = topics_of(plan)[0]
    peer = await connect(mosquitto)

    async def publish() -> None:
        for seq in range(1_000_000):
            await peer.publish(topic, message(seq))

    async with watching(plan) as ears:
        publishing = asyncio.create_task(publish(), name="publisher")
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)

    [warning] = ears.warnings
    assert "subscriber 0 is slower than the load: it was still receiving " in warning
    assert "what it has not read is not counted as lost" in warning
    assert 1 == ears.counts["unread_possible"]


async def test_nothing_stays(mosquitto: PrivateMosquitto, connect: Connect) -> None:
    """When it has ended, the broker knows its session no more."""
    plan = plan_of(mosquitto)
    async with watching(plan):
        pass
    peer = await connect(mosquitto, f"cityeye-load-{plan.run}-subscriber-0", clean=False)

    assert not peer.packets[0].session_present


async def test_earlier_run(mosquitto: PrivateMosquitto, connect: Connect) -> None:
    """What waits for a session that an earlier run of that name has left does not count."""
    plan = plan_of(mosquitto)
    topic = topics_of(plan)[0]
    left = await connect(mosquitto, f"cityeye-load-{plan.run}-subscriber-0", clean=False)
    await left.subscribe(topic)
    await left.leave()
    peer = await connect(mosquitto)
    await peer.publish(topic, message(5))
    async with watching(plan) as ears:
        await peer.publish(topic, message(0))

    assert {"received": 1, "distinct": 1} == ears.counts


async def test_cancelled(mosquitto: PrivateMosquitto, connect: Connect, until: Until) -> None:
    """A subscriber that is cancelled says its last word with what it has counted."""
    plan = plan_of(mosquitto)
    ears = Ears()
    task = asyncio.create_task(watch_messages(plan, Part(0, 1, wall_ms()), ears), name="subscriber")
    await until(lambda: ears.deltas)
    peer = await connect(mosquitto)
    await peer.publish(topics_of(plan)[0], message(0))
    await until(lambda: ears.counts)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert ears.deltas[-1].last
    assert {"received": 1, "distinct": 1} == ears.counts


@pytest.fixture
async def forgetful(tmp_path: Path) -> AsyncIterator[BrokerAddress]:
    """A Mosquitto that keeps one message for a client that does not acknowledge, and tells figures."""
    port = free_port()
    text = configuration(tmp_path, port=port, window=1, queue_messages=1)
    (tmp_path / "own.conf").write_text(text.replace("sys_interval 0", "sys_interval 1"))
    process = await asyncio.create_subprocess_exec(
        "mosquitto", "-c", tmp_path / "own.conf", stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(10):
            while not await answers("127.0.0.1", port):  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.02)
        yield BrokerAddress("127.0.0.1", port)
    finally:
        process.terminate()
        async with asyncio.timeout(10):
            await process.wait()


async def test_broker_drops(forgetful: BrokerAddress, connect: Connect, until: Until) -> None:
    """What the broker says that it dropped during the test is told apart from what is lost."""
    plan = plan_of(forgetful)
    idle = await connect(forgetful, "idle", acknowledge=False)
    await idle.subscribe("other/#")
    peer = await connect(forgetful)
    await peer.subscribe(DROPPED_TOPIC)
    await peer.wait(lambda p: p.messages)
    async with watching(plan) as ears:
        for number in range(20):
            await peer.publish("other/1", b"%d" % number)
        await until(lambda: ears.counts["broker_dropped"] >= 18, deadline_s=20)

    [warning] = ears.warnings
    assert "the broker says that it dropped 18 messages during the test" in warning
    assert {"broker_dropped": 18} == ears.counts


async def test_guarded_broker(tmp_path: Path, connect: Connect) -> None:
    """At a broker that knows its users, with TLS, it reads as a viewer, and alarms too."""
    city = plan_of(BrokerAddress("", 0)).city()
    device = next(iter(city.devices())).address
    async with GuardedMosquitto(tmp_path / "guarded", city) as guarded:
        address = BrokerAddress(guarded.host, guarded.tls_port, tls=True)
        plan = plan_of(address, credentials=guarded.credentials_path, ca=guarded.ca_path)
        plan = msgspec.structs.replace(plan, broker=address)
        known = read_credentials(guarded.credentials_path)
        sender = await connect(
            guarded, username=str(device), password=known.of_device(device).password
        )
        alarms = await connect(guarded, username="alarms", password=known.roles["alarms"])
        async with watching(plan) as ears:
            await sender.publish(device_topic(device, Channel.TELEMETRY), message(0))
            await alarms.publish(alarm_topic(device, "pm25-high"), event("raised"))

    assert {"received": 1, "distinct": 1, "alarms": 1} == ears.counts
    assert not ears.warnings


async def test_nobody_there(mosquitto: PrivateMosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that cannot be reached ends the part before its first word, with what to do."""
    monkeypatch.setattr("load.subscriber._PATIENCE_S", 0.3)
    plan = plan_of(mosquitto)
    await mosquitto.stop()
    ears = Ears()
    with pytest.raises(BrokerError, match="cannot be reached"):
        await watch_messages(plan, Part(0, 1, wall_ms()), ears)

    assert not ears.deltas


async def test_stranger(mosquitto: PrivateMosquitto, connect: Connect) -> None:
    """Messages of a template are verified by what the template says of its number and instant."""
    template = Template(
        name="own", topic="plant/${district}/${site}/${device}",
        payload='{"n":${seq},"at":${ts_ms}}', read=ReadBack(seq="/n", ts="/at"),
    )  # fmt: skip
    plan = plan_of(mosquitto, template=template, faults=GAPS_EXPECTED)
    device = next(iter(plan.city().devices()))
    speaker = Speaker(template, device, device.position, run=plan.run)
    peer = await connect(mosquitto)
    async with watching(plan, 0, 6) as ears:
        for seq in (0, 2, 2):
            payload = speaker.payload(seq, wall_ms(), {"pm25": 1.0}, None)
            await peer.publish(speaker.topic[2:].decode(), payload)
        await peer.publish("plant/d1/nobody/00", b'{"n":1,"at":1}')
        await peer.publish("plant/d1/nobody/00", b"{")

    expected = {"received": 5, "distinct": 2, "repeated": 1, "strange": 1, "unreadable": 1}
    assert expected == ears.counts
    assert 2 == ears.delay_ms("subscriber")[0]
