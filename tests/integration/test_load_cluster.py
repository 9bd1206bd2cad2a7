"""A load test on a Dask cluster of two workers, one of which is killed, against a real Mosquitto."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from distributed import Client
from hdrh.histogram import HdrHistogram
from paho.mqtt.client import Client as Paho
from paho.mqtt.enums import CallbackAPIVersion

from broker.choice import BrokerAddress
from broker.mosquitto import PrivateMosquitto
from city.clock import wall_ms
from city.errors import ServiceError, SettingError
from load.cluster import check_workers, connected
from load.figures import Delta, merged
from load.plan import LoadPlan, Order, Part, Phase
from load.shard import play_shard
from load.workers import Workers

DEADLINE_S = 100.0
DEVICES = 200

pytestmark = [pytest.mark.mosquitto, pytest.mark.timeout(400)]


class Nobody:
    """A crew without parts: the test itself subscribes."""

    async def start(self, plan: LoadPlan, *, shards: int, subscribers: int) -> int:
        """There is nobody to wait for."""
        assert (0, plan.subscribers) == (shards, subscribers)
        return wall_ms()

    async def words(self) -> AsyncIterator[Delta]:
        """Nobody says anything."""
        nothing: tuple[Delta, ...] = ()
        for word in nothing:
            yield word

    def order(self, order: Order) -> None:
        """Nobody listens."""

    async def close(self) -> None:
        """Nobody leaves."""


class Alone:
    """The line of a shard that nobody controls."""

    def __init__(self) -> None:
        self.words: list[Delta] = []

    def tell(self, delta: Delta) -> None:
        """Keep it."""
        self.words.append(delta)

    def heard(self) -> Sequence[Order]:
        """There are no orders."""
        return ()


class Listener:
    """What devices published: how often each reading came."""

    def __init__(self) -> None:
        self.messages: Counter[tuple[str, int, str]] = Counter()

    @asynccontextmanager
    async def on(self, broker: PrivateMosquitto) -> AsyncIterator[None]:
        """Listen."""
        subscribed = asyncio.Event()
        loop = asyncio.get_running_loop()
        client = Paho(CallbackAPIVersion.VERSION2)

        def begun(*_: object) -> None:
            loop.call_soon_threadsafe(subscribed.set)

        client.on_subscribe = begun
        client.on_message = lambda _client, _data, message: self._take(
            message.topic, bytes(message.payload)
        )
        client.connect(broker.host, broker.port)
        client.subscribe("cityeye/v1/+/+/+/+/+/telemetry", 1)
        client.loop_start()
        try:
            async with asyncio.timeout(DEADLINE_S):
                await subscribed.wait()
            yield
        finally:
            client.disconnect()
            await asyncio.to_thread(client.loop_stop)

    def _take(self, topic: str, payload: bytes) -> None:
        said = json.loads(payload)
        self.messages[topic, said["seq"], json.dumps(said["values"], sort_keys=True)] += 1


def plan_of(run: str, broker: PrivateMosquitto) -> LoadPlan:
    """A short test of 200 messages per second."""
    return LoadPlan(
        run=run, broker=BrokerAddress(broker.host, broker.port), devices=DEVICES, interval_s=1.0,
        ramp_s=2.0, phases=(Phase(name="steady", for_s=6.0),), kinds=("air-micro", "air-gas"),
        seed=7, city_start_ms=1_795_413_600_000,
    )  # fmt: skip


@pytest.fixture
async def cluster() -> AsyncIterator[Client]:
    """A client of a cluster of two worker processes."""
    async with connected(None, 2, workers=2, patience_s=DEADLINE_S) as client:
        yield client


def counts_of(words: Sequence[Delta]) -> Counter[str]:
    """The sums of what was counted."""
    counts = Counter[str]()
    for word in words:
        counts.update(word.counts)
    return counts


def acks_of(words: Sequence[Delta]) -> HdrHistogram:
    """The sum of the histograms of acknowledgement."""
    return merged(word.delays["ack"] for word in words if "ack" in word.delays)


def confirmed(words: Sequence[Delta]) -> int:
    """How many different messages all attempts together say to be acknowledged."""
    newest = {(word.part, word.attempt): word.confirmed for word in words}
    return sum(newest.values())


async def played(crew: Workers, plan: LoadPlan) -> list[Delta]:
    """All words of a test of two shards that nobody disturbs."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            await crew.start(plan, shards=2, subscribers=plan.subscribers)
            return [word async for word in crew.words()]
    finally:
        await crew.close()


async def killed_midway(client: Client, plan: LoadPlan) -> list[Delta]:
    """All words of a test of two shards; one of their workers is killed once both have sent some."""
    crew = Workers(client, Nobody())
    processes = list((await client.run(os.getpid)).values())
    words: list[Delta] = []
    try:
        await crew.start(plan, shards=2, subscribers=plan.subscribers)
        async for word in crew.words():
            words.append(word)
            acked = Counter[int]()
            for one in words:
                acked[one.part] += one.counts.get("acked", 0)
            if processes and min(acked[0], acked[1]) > DEVICES:
                os.kill(processes[0], signal.SIGKILL)
                processes.clear()
    finally:
        await crew.close()
    return words


async def test_worker_killed(cluster: Client, mosquitto: PrivateMosquitto) -> None:
    """Though a worker is killed, the readings are those of one process; figures add up; none is lost."""
    apart, together = Listener(), Listener()
    async with asyncio.timeout(3 * DEADLINE_S):
        async with apart.on(mosquitto):
            words = await killed_midway(cluster, plan_of("apart", mosquitto))
        async with together.on(mosquitto):
            one = plan_of("together", mosquitto)
            await play_shard(one, Part(0, 1, wall_ms() + 5_000), Alone())
    parts = [[word for word in words if word.part == number] for number in (0, 1)]
    acks, apart_acks = acks_of(words), [acks_of(own) for own in parts]
    for own in apart_acks[1:]:
        apart_acks[0].add(own)

    assert set(together.messages) == set(apart.messages)
    assert DEVICES * 6 <= len(together.messages)
    assert len(apart.messages) == confirmed(words)
    assert counts_of(words) == counts_of(parts[0]) + counts_of(parts[1])
    assert acks.encode() == apart_acks[0].encode()
    assert counts_of(words)["acked"] == acks.get_total_count()
    assert any("lost its worker" in said for word in words for said in word.warnings)
    assert {0, 1} == {word.part for word in words if word.last}


async def test_orders(cluster: Client, mosquitto: PrivateMosquitto) -> None:
    """An order reaches the shards wherever they run: a test that is stopped ends early."""
    crew = Workers(cluster, Nobody())
    plan = plan_of("stopped", mosquitto)
    try:
        async with asyncio.timeout(DEADLINE_S):
            start_ms = await crew.start(plan, shards=2, subscribers=plan.subscribers)
            crew.order(Order(at_ms=start_ms + 3_000, stop=True))
            words = [word async for word in crew.words()]
    finally:
        await crew.close()

    assert 0 < confirmed(words) < DEVICES * 4
    assert {0, 1} == {word.part for word in words if word.last}


async def test_broker_gone(cluster: Client) -> None:
    """What a shard cannot do is said by the name of the shard."""
    crew = Workers(cluster, Nobody())
    plan = LoadPlan(
        run="nowhere", broker=BrokerAddress("no-such-host.invalid", 1883), devices=10,
        interval_s=1.0, ramp_s=0.0, phases=(Phase(name="steady", for_s=1.0),),
        kinds=("air-micro",), seed=7, city_start_ms=0,
    )  # fmt: skip
    with pytest.raises(ServiceError, match=r"shard . of 2: .*no-such-host"):
        await played(crew, plan)


async def test_same_everywhere(cluster: Client) -> None:
    """Workers that run what we run are welcome."""
    await check_workers(cluster)

    assert 2 == len(await cluster.nthreads())


async def test_too_few_workers(cluster: Client) -> None:
    """Where a running scheduler has fewer workers than wanted, patience ends with the numbers."""
    address = cluster.scheduler.address
    with pytest.raises(ServiceError, match="has 2 workers, 3 are wanted"):
        async with connected(address, None, workers=3, patience_s=5.0):
            pass
    async with connected(address, None, workers=2, patience_s=DEADLINE_S) as client:
        workers = await client.nthreads()

    assert 2 == len(workers)


async def test_no_scheduler() -> None:
    """A scheduler that is not there is told of with the commands that start one."""
    with pytest.raises(ServiceError, match="dask scheduler"):
        async with connected("tcp://127.0.0.1:9", None, workers=1, patience_s=1.0):
            pass


@pytest.mark.parametrize(
    ("scheduler", "local"), [(None, None), ("tcp://127.0.0.1:8786", 2), (None, 0)]
)
async def test_which_cluster(scheduler: str | None, local: int | None) -> None:
    """A cluster is either a scheduler's address or a number of local workers."""
    with pytest.raises(SettingError):
        async with connected(scheduler, local, workers=1, patience_s=1.0):
            pass
