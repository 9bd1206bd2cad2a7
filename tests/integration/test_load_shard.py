import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec.structs import replace

from broker.certificates import Signed, new_ca, new_client, new_server
from broker.choice import BrokerAddress
from broker.guarded import GuardedMosquitto
from broker.mosquitto import PrivateMosquitto, find_mosquitto, free_port
from load.faults import FaultLots
from load.figures import Delta, merged
from load.payloads import Template
from load.plan import Faults, LoadPlan, Order, Part, Phase, Resume
from load.shard import play_shard
from load.storm import ALARMING

Until = Callable[..., Awaitable[None]]

pytestmark = pytest.mark.mosquitto

Reading = tuple[str, int, int, str]
"""Topic, number, instant and values."""


class Ear:
    """A line of a test: it keeps what is told, and orders what the test wants."""

    def __init__(self) -> None:
        self.told: list[Delta] = []
        self.orders: list[Order] = []

    def tell(self, delta: Delta) -> None:
        """Keep it."""
        self.told.append(delta)

    def heard(self) -> Sequence[Order]:
        """What was ordered since the last call."""
        orders, self.orders = self.orders, []
        return orders

    def count(self, name: str) -> int:
        """The sum of a count."""
        return sum(delta.counts.get(name, 0) for delta in self.told)

    def reasons(self) -> Counter[str]:
        """The sum of the reasons."""
        total: Counter[str] = Counter()
        for delta in self.told:
            total.update(delta.reasons)
        return total

    @property
    def last(self) -> Delta:
        """The latest word."""
        return self.told[-1]


class Listener:
    """All that the broker delivers on a filter."""

    def __init__(self, peer: Any) -> None:
        self._peer = peer

    def readings(self) -> list[Reading]:
        """The readings that can be read, in the order of arrival."""
        found = []
        for message in self._peer.messages:
            with contextlib.suppress(ValueError):
                body = json.loads(message.payload)
                if "seq" in body:
                    values = json.dumps(body["values"])
                    found.append((message.topic.decode(), body["seq"], body["ts"], values))
        return found

    def sizes(self) -> list[int]:
        """How long the payloads on topics of telemetry are."""
        return [len(m.payload) for m in self._peer.messages if m.topic.endswith(b"/telemetry")]

    def states(self) -> Counter[str]:
        """What devices said of their state."""
        said = [m.payload for m in self._peer.messages if m.topic.endswith(b"/status")]
        return Counter(json.loads(payload)["state"] for payload in said)

    async def settled(self) -> None:
        """Return once the broker has delivered what it had."""
        await self._peer.ping()


@pytest.fixture
def listen(connect: Any) -> Callable[..., Awaitable[Listener]]:
    """Subscribes to everything."""

    async def subscribed(mosquitto: PrivateMosquitto, **options: Any) -> Listener:
        peer = await connect(mosquitto, **options)
        await peer.subscribe("cityeye/#")
        return Listener(peer)

    return subscribed


@pytest.fixture
def plan(mosquitto: PrivateMosquitto) -> LoadPlan:
    """Twenty devices, ten messages a second each, for two seconds."""
    return LoadPlan(
        run="t", broker=BrokerAddress(mosquitto.host, mosquitto.port), devices=20, interval_s=0.1,
        ramp_s=0.5, phases=(Phase(name="steady", for_s=1.5),), kinds=("air-micro", "air-gas"),
        seed=3, city_start_ms=1_795_413_600_000, drain_s=20.0,
    )  # fmt: skip


def soon_ms() -> int:
    """An instant at which shards are ready."""
    return time.time_ns() // 1_000_000 + 700


@contextlib.asynccontextmanager
async def playing(plan: LoadPlan, part: Part) -> AsyncIterator[tuple[Ear, asyncio.Task[None]]]:
    """A shard that plays; it is waited for."""
    ear = Ear()
    task = asyncio.create_task(play_shard(plan, part, ear), name="shard")
    try:
        yield ear, task
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def play(plan: LoadPlan, part: Part | None = None) -> Ear:
    """What a shard says that plays to its end."""
    async with playing(plan, part or Part(0, 1, soon_ms())) as (ear, _):
        pass
    return ear


class TestCourse:
    """A shard from its beginning to its end."""

    async def test_everything_arrives(
        self, mosquitto: PrivateMosquitto, plan: LoadPlan, listen: Any
    ) -> None:
        """All devices connect, every message that is due arrives once, and the figures say so."""
        listener = await listen(mosquitto)
        ear = await play(plan)
        await listener.settled()

        readings = listener.readings()
        assert 20 == ear.count("connects") == len({topic for topic, *_ in readings})
        assert len(set(readings)) == len(readings) == ear.count("due") == ear.count("sent")
        assert len(readings) == ear.count("acked") == ear.last.confirmed
        assert 4 * len(readings) == ear.count("readings")
        assert sum(listener.sizes()) == ear.count("bytes")

    async def test_no_devices(self, plan: LoadPlan) -> None:
        """Of few devices a shard may have none: it lasts as long as the others."""
        plan = replace(plan, devices=1)
        ears = await asyncio.gather(*[play(plan, Part(n, 2, soon_ms())) for n in range(2)])

        assert [0, 1] == sorted(ear.count("connects") for ear in ears)
        assert all(ear.last.last for ear in ears)

    async def test_numbers(self, mosquitto: PrivateMosquitto, plan: LoadPlan, listen: Any) -> None:
        """Each device counts from 0 without a gap, in the rhythm of its interval."""
        listener = await listen(mosquitto)
        await play(plan)
        await listener.settled()

        for device in {topic for topic, *_ in listener.readings()}:
            seqs = [(seq, ts) for topic, seq, ts, _ in listener.readings() if topic == device]
            assert [(n, seqs[0][1] + 100 * n) for n in range(len(seqs))] == seqs

    async def test_first_word(self, plan: LoadPlan) -> None:
        """The first word comes before anybody connects, the last one says that it is the last."""
        ear = await play(plan, Part(0, 1, soon_ms()))

        first = ear.told[0]
        assert (0, {}) == (first.connected, first.counts)
        assert [False] * (len(ear.told) - 1) + [True] == [delta.last for delta in ear.told]

    async def test_complete(self, plan: LoadPlan) -> None:
        """In the end everything is complete."""
        start_ms = soon_ms()
        ear = await play(plan, Part(0, 1, start_ms))

        assert start_ms + 2_000 == ear.last.complete_ms
        assert 0 == ear.last.waiting
        assert sorted(d.complete_ms for d in ear.told) == [d.complete_ms for d in ear.told]

    async def test_delays(self, plan: LoadPlan) -> None:
        """Every message has its lateness and its acknowledgement, every device its connect."""
        ear = await play(plan)

        counts = {
            stage: merged(d.delays[stage] for d in ear.told if stage in d.delays).get_total_count()
            for stage in ("lateness", "ack", "connect")
        }
        assert {
            "lateness": ear.count("due"), "ack": ear.count("acked"), "connect": 20,
        } == counts  # fmt: skip

    async def test_goodbye(self, mosquitto: PrivateMosquitto, plan: LoadPlan, listen: Any) -> None:
        """Devices say that they come and that they go, and nobody is lost."""
        listener = await listen(mosquitto)
        await play(plan)
        await listener.settled()

        assert Counter(online=20, offline=20) == listener.states()

    async def test_unacknowledged_kind(
        self, mosquitto: PrivateMosquitto, plan: LoadPlan, listen: Any
    ) -> None:
        """At QoS 0 what was handed to the network counts as confirmed."""
        listener = await listen(mosquitto)
        ear = await play(replace(plan, qos=0))
        await listener.settled()

        assert len(set(listener.readings())) == ear.last.confirmed == ear.count("due")
        assert 0 == ear.count("acked")


class TestSameReadings:
    """The readings do not depend on who plays the devices."""

    async def test_two_shards(
        self, mosquitto: PrivateMosquitto, plan: LoadPlan, listen: Any
    ) -> None:
        """Two shards send what one sends, apart from when the test begins."""
        heard = []
        for shards in (1, 2):
            listener = await listen(mosquitto)
            start_ms = soon_ms()
            parts = [Part(number, shards, start_ms) for number in range(shards)]
            await asyncio.gather(*[play(plan, part) for part in parts])
            await listener.settled()
            heard.append({(t, seq, ts - start_ms, v) for t, seq, ts, v in listener.readings()})

        assert heard[0] == heard[1]
        assert 20 * 15 < len(heard[0])

    async def test_resumed(
        self, mosquitto: PrivateMosquitto, plan: LoadPlan, listen: Any, until: Until
    ) -> None:
        """A shard that dies goes on elsewhere: the same messages, no gap, and sums that fit."""
        plan = replace(plan, phases=(Phase(name="steady", for_s=3.0),))
        listener = await listen(mosquitto)
        part = Part(0, 1, soon_ms())
        with contextlib.suppress(ConnectionError):
            async with playing(plan, part) as (ear, _):
                await until(lambda: ear.last.confirmed > 50 if ear.told else False)
                word = ear.last
                ear.tell = _gone  # type: ignore[method-assign]
        resumed = await play(plan, replace(part, resume=Resume(word.complete_ms)))
        await listener.settled()
        got = {(t, s, ts - part.start_ms, v) for t, s, ts, v in listener.readings()}
        again = await listen(mosquitto)
        start_ms = soon_ms()
        await play(plan, Part(0, 1, start_ms))
        await again.settled()

        expected = {(t, s, ts - start_ms, v) for t, s, ts, v in again.readings()}
        assert expected == got
        assert len(got) == word.confirmed + resumed.last.confirmed


def _gone(delta: Delta) -> None:
    raise ConnectionError(f"nobody hears {delta.kind}")


class TestFaults:
    """What is wrong with messages on purpose."""

    async def test_counted(self, mosquitto: PrivateMosquitto, plan: LoadPlan, listen: Any) -> None:
        """Each fault is counted as often as it is seen."""
        faults = Faults(
            missing=0.1, repeated=0.1, late=0.1, reordered=0.1, malformed=0.1, oversized=0.1,
            late_s=0.3, oversized_bytes=70_000,
        )  # fmt: skip
        listener = await listen(mosquitto)
        ear = await play(replace(plan, faults=faults))
        await listener.settled()

        readings, sizes = listener.readings(), listener.sizes()
        small = [r for r in readings if r in set(readings)]
        assert ear.count("oversized") == sizes.count(70_000) > 0
        assert ear.count("repeats") == len(small) - len(set(small)) > 0
        assert ear.count("malformed") == len(sizes) - len(readings) > 0
        assert ear.count("due") - ear.count("missing") + ear.count("repeats") == len(sizes)
        assert ear.count("sent") == ear.count("acked") == len(sizes)
        assert len(set(readings)) - ear.count("oversized") == ear.last.confirmed

    async def test_as_drawn(self, mosquitto: PrivateMosquitto, plan: LoadPlan, listen: Any) -> None:
        """A device's own reordering is what is drawn for it: a pair arrives the wrong way round."""
        faults = Faults(reordered=0.2)
        listener = await listen(mosquitto)
        ear = await play(replace(plan, faults=faults))
        await listener.settled()

        wrong, highest = 0, Counter[str]()
        for topic, seq, *_ in listener.readings():
            wrong += seq < highest[topic]
            highest[topic] = max(highest[topic], seq)
        assert wrong <= ear.count("reordered") <= wrong + 20
        assert ear.count("due") == len(listener.readings()) == ear.last.confirmed
        assert FaultLots(faults, plan.seed).faults.any


class TestOrders:
    """What people order while a test runs."""

    async def test_pause(self, mosquitto: PrivateMosquitto, plan: LoadPlan, listen: Any) -> None:
        """While it is paused nothing is due, and then it goes on where it was."""
        listener = await listen(mosquitto)
        start_ms = soon_ms()
        async with playing(plan, Part(0, 1, start_ms)) as (ear, _):
            ear.orders = [
                Order(at_ms=start_ms + 1_000, factor=0.0), Order(at_ms=start_ms + 1_500, factor=1.0)
            ]  # fmt: skip
        await listener.settled()

        instants = [ts - start_ms for _, _, ts, _ in listener.readings()]
        assert not [at for at in instants if 1_001 < at < 1_500]
        assert [at for at in instants if at > 1_500]
        assert ear.count("due") == len(set(listener.readings())) == ear.last.confirmed

    async def test_factor(self, mosquitto: PrivateMosquitto, plan: LoadPlan, listen: Any) -> None:
        """Twice the pace means twice the messages."""
        listener = await listen(mosquitto)
        start_ms = soon_ms()
        async with playing(plan, Part(0, 1, start_ms)) as (ear, _):
            ear.orders = [Order(at_ms=start_ms + 1_000, factor=2.0)]
        await listener.settled()

        late = [ts for _, _, ts, _ in listener.readings() if ts > start_ms + 1_000]
        assert 400 == pytest.approx(len(late), abs=20)

    async def test_stop(self, plan: LoadPlan) -> None:
        """A stop ends the test at its instant, in good order."""
        start_ms = soon_ms()
        async with playing(plan, Part(0, 1, start_ms)) as (ear, _):
            ear.orders = [Order(at_ms=start_ms + 1_000, stop=True)]

        assert (True, start_ms + 1_000, 0) == (
            ear.last.last, ear.last.complete_ms, ear.last.waiting,
        )  # fmt: skip

    async def test_drop(self, mosquitto: PrivateMosquitto, plan: LoadPlan, listen: Any) -> None:
        """Connections that are cut come back, and nothing is lost."""
        listener = await listen(mosquitto)
        start_ms = soon_ms()
        async with playing(plan, Part(0, 1, start_ms)) as (ear, _):
            ear.orders = [Order(at_ms=start_ms + 1_000, drop=1.0)]
        await listener.settled()

        assert (40, 20) == (ear.count("connects"), ear.count("disconnects"))
        assert len(set(listener.readings())) == ear.count("due") == ear.last.confirmed
        assert Counter() == ear.reasons()

    async def test_cancelled(
        self, mosquitto: PrivateMosquitto, plan: LoadPlan, listen: Any, until: Until
    ) -> None:
        """Ctrl-C ends it as a stop does."""
        listener = await listen(mosquitto)
        with contextlib.suppress(asyncio.CancelledError):
            async with playing(plan, Part(0, 1, soon_ms())) as (ear, task):
                await until(lambda: ear.told and ear.last.confirmed)
                task.cancel()
        await listener.settled()

        assert (True, 0) == (ear.last.last, ear.last.waiting)
        assert len(set(listener.readings())) == ear.count("acked")
        assert listener.states()["offline"] == ear.count("connects")


async def test_alarms(mosquitto: PrivateMosquitto, plan: LoadPlan, listen: Any) -> None:
    """In a phase of alarms the share of the devices shows what crosses every limit."""
    phases = (Phase(name="calm", for_s=0.5), Phase(name="storm", for_s=1.0, alarms=0.5))
    listener = await listen(mosquitto)
    start_ms = soon_ms()
    await play(replace(plan, phases=phases), Part(0, 1, start_ms))
    await listener.settled()

    showing = {
        (topic, ts >= start_ms + 1_000)
        for topic, _, ts, values in listener.readings()
        if all(ALARMING[name] == value for name, value in json.loads(values).items())
    }
    assert {True} == {inside for _, inside in showing}
    assert 0 < len(showing) < 20


class TestBroker:
    """A broker that is not as one wishes."""

    async def test_refused(self, plan: LoadPlan, tmp_path: Path) -> None:
        """A broker that refuses devices is asked ever more seldom, and each time is counted."""
        port = free_port()
        lines = (f"listener {port} 127.0.0.1", "allow_anonymous false")
        async with running_mosquitto(tmp_path, lines):
            ear = await play(replace(plan, broker=BrokerAddress("127.0.0.1", port), drain_s=1.0))

        assert {"refused: not authorised"} >= set(ear.reasons()) - {"Connection refused"}
        assert 20 <= ear.reasons()["refused: not authorised"] <= 20 * 4
        assert (0, 0) == (ear.count("connects"), ear.count("sent"))
        assert ear.count("due") == ear.last.waiting

    async def test_killed(
        self, mosquitto: PrivateMosquitto, plan: LoadPlan, listen: Any, until: Until
    ) -> None:
        """A broker that dies and returns loses nothing: devices keep what is not acknowledged."""
        plan = replace(plan, phases=(Phase(name="steady", for_s=3.0),))
        async with playing(plan, Part(0, 1, soon_ms())) as (ear, _):
            await until(lambda: ear.told and ear.last.connected == 20)
            assert mosquitto.pid
            os.kill(mosquitto.pid, signal.SIGKILL)
            await mosquitto.stop()
            await mosquitto.start()
            listener = await listen(mosquitto)
            await until(lambda: ear.last.last, deadline_s=60)
        await listener.settled()

        assert 20 == ear.count("disconnects")
        assert ear.count("due") == ear.count("acked") == ear.last.confirmed
        assert 0 == ear.count("dropped")
        for device in {topic for topic, *_ in listener.readings()}:
            seqs = {seq for topic, seq, *_ in listener.readings() if topic == device}
            assert len(seqs) == max(seqs) - min(seqs) + 1

    async def test_backlog(self, plan: LoadPlan) -> None:
        """Devices that never connect keep so many messages, and count what is pushed out."""
        nobody = BrokerAddress("127.0.0.1", 1)
        ear = await play(replace(plan, broker=nobody, backlog_max=5, drain_s=0.2))

        assert 20 * 5 == ear.last.waiting
        assert ear.count("due") - 20 * 5 == ear.count("dropped")
        assert {"Connection refused"} == set(ear.reasons())
        assert 0 == ear.last.confirmed


class TestIdentities:
    """As whom devices connect, from where, and how they prove it."""

    async def test_logins(self, plan: LoadPlan, tmp_path: Path) -> None:
        """With a login each and TLS, every device may send under its own topic."""
        async with GuardedMosquitto(tmp_path / "guarded", plan.city()) as guarded:
            address = BrokerAddress(guarded.host, guarded.tls_port, tls=True)
            secure = replace(
                plan, broker=address, credentials=guarded.credentials_path, ca=guarded.ca_path
            )
            ear = await play(secure)

        assert (20, 0) == (ear.count("connects"), ear.count("disconnects"))
        assert ear.count("due") == ear.count("acked")

    async def test_certificates(self, plan: LoadPlan, tmp_path: Path) -> None:
        """Each device shows its own certificate; who has none does not connect, and that is said."""
        plan = replace(plan, devices=4, ramp_s=0.1)
        now = datetime.now(UTC)
        ca = new_ca("t", now)
        folder = tmp_path / "clients"
        folder.mkdir()
        write_signed(tmp_path / "server", new_server(ca, ["127.0.0.1"], now))
        write_signed(tmp_path / "ca", ca)
        for device in [*plan.city().devices()][:3]:
            name = f"{device.address.site}.{device.address.device}"
            write_signed(folder / name, new_client(ca, name, now))
        port = free_port()
        lines = (
            f"listener {port} 127.0.0.1", "allow_anonymous true", "require_certificate true",
            f"cafile {tmp_path}/ca.crt", f"certfile {tmp_path}/server.crt",
            f"keyfile {tmp_path}/server.key", "log_type none", "user root" * (os.geteuid() == 0),
        )  # fmt: skip
        async with running_mosquitto(tmp_path, lines):
            address = BrokerAddress("127.0.0.1", port, tls=True)
            ca_path = tmp_path / "ca.crt"
            shown = replace(plan, broker=address, ca=ca_path, certificates=folder, drain_s=0.1)
            ear = await play(shown)

        assert 3 == ear.count("connects")
        assert any("cannot be read" in reason for reason in ear.reasons())

    async def test_sources(
        self, mosquitto: PrivateMosquitto, plan: LoadPlan, listen: Any, until: Until
    ) -> None:
        """Connections come from the given addresses in turn."""
        await listen(mosquitto)
        spread = replace(plan, sources=("127.0.0.2", "127.0.0.3"))
        async with playing(spread, Part(0, 1, soon_ms())) as (ear, _):
            await until(lambda: ear.told and ear.last.connected == 20)
            peers = Counter(
                connection.laddr.ip
                for connection in psutil.Process().net_connections("tcp4")
                if connection.raddr[1:] == (mosquitto.port,)
            )

        assert (10, 10) == (peers["127.0.0.2"], peers["127.0.0.3"])


@contextlib.asynccontextmanager
async def running_mosquitto(folder: Path, lines: Sequence[str]) -> AsyncIterator[None]:
    """A Mosquitto with that configuration."""
    program, configuration = find_mosquitto(), folder / "own.conf"
    assert program
    configuration.write_text("\n".join(lines) + "\n")
    process = await asyncio.create_subprocess_exec(
        program, "-c", str(configuration), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


def write_signed(path: Path, signed: Signed) -> None:
    """Write a certificate and its key."""
    path.with_name(f"{path.name}.crt").write_bytes(signed.certificate_pem)
    path.with_name(f"{path.name}.key").write_bytes(signed.key_pem)


async def test_template(mosquitto: PrivateMosquitto, plan: LoadPlan, connect: Any) -> None:
    """Devices speak as a template has them: topics, payloads and identities are its own."""
    template = Template(
        name="plain", topic="plant/${site}/${device}", payload='{"n":${seq},"t":${ts_ms}}',
        client_id="x-${run}-${site}-${device}",
    )  # fmt: skip
    peer = await connect(mosquitto)
    await peer.subscribe("plant/#")
    ear = await play(replace(plan, template=template))
    await peer.ping()

    arrived = {(m.topic, json.loads(m.payload)["n"]) for m in peer.messages}
    assert len(arrived) == len(peer.messages) == ear.count("acked") == ear.last.confirmed
    assert 20 == len({topic for topic, _ in arrived})
