"""Brokers for the tests: started on free ports of loopback, stopped with each test.

`CITYEYE_TEST_BROKER=mqtt://HOST[:PORT]` runs the tests that take `broker` against that one too.
`CITYEYE_REQUIRE_SERVERS=1` makes a server that is not installed a failure instead of a skip.
"""

import asyncio
import os
import shutil
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from broker import codec
from broker.choice import BrokerAddress, parse_broker
from broker.embedded import EmbeddedBroker
from broker.mosquitto import PrivateMosquitto, find_mosquitto

PROGRAMS: Mapping[str, tuple[str, Callable[[], object]]] = {
    "chromium": ("Chromium (chromium)", lambda: shutil.which("chromium")),
    "mosquitto": ("Mosquitto (mosquitto)", find_mosquitto),
    "influxd": ("InfluxDB 1.x (influxd)", lambda: shutil.which("influxd")),
    "victoria": ("VictoriaMetrics (victoria-metrics)", lambda: shutil.which("victoria-metrics")),
}
GIVEN_BROKER = os.environ.get("CITYEYE_TEST_BROKER")
WAITING_TESTS = 1
"""Beside one test for each core; most tests of whole programs wait more than they compute."""
DEADLINE_S = 60.0

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the command starts 200 times and compiles once


settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")  # how long an example takes says nothing on a busy machine


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """How many tests `-n auto` runs at once; PYTEST_XDIST_AUTO_NUM_WORKERS has precedence."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return (os.cpu_count() or 1) + WAITING_TESTS


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose server is not installed, or fail it where servers are required."""
    for marker, (name, find) in PROGRAMS.items():
        if item.get_closest_marker(marker) is None or find():
            continue
        if os.environ.get("CITYEYE_REQUIRE_SERVERS") == "1":
            pytest.fail(f"{name} is not installed, and CITYEYE_REQUIRE_SERVERS=1 asks for it")
        pytest.skip(f"{name} is not installed")


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Unit tests run on asyncio's own loop, all others on uvloop, which production uses."""
    if "unit" in item.path.parts:
        return {"asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def mosquitto(tmp_path: Path) -> AsyncIterator[PrivateMosquitto]:
    """A private Mosquitto; the test is marked `mosquitto`."""
    async with PrivateMosquitto(tmp_path / "mosquitto") as broker:
        yield broker


@pytest.fixture
async def embedded_broker() -> AsyncIterator[EmbeddedBroker]:
    """An embedded broker in the loop of the test."""
    async with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(
    params=[
        pytest.param("mosquitto", marks=pytest.mark.mosquitto),
        "embedded",
        *([GIVEN_BROKER] if GIVEN_BROKER else []),
    ]
)
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BrokerAddress]:
    """The address of each kind of broker in turn."""
    if request.param == "mosquitto":
        async with PrivateMosquitto(tmp_path / "mosquitto") as private:
            yield BrokerAddress(private.host, private.port)
    elif request.param == "embedded":
        async with EmbeddedBroker() as embedded:
            yield BrokerAddress(embedded.host, embedded.port)
    else:
        address = parse_broker(request.param)
        assert isinstance(address, BrokerAddress)
        yield address


@pytest.fixture
def topic() -> str:
    """A topic that no other test uses."""
    return f"test/{uuid.uuid4().hex}"


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Wait until a condition holds; fail when it does not before the deadline."""

    async def wait(condition: Callable[[], object], *, deadline_s: float = DEADLINE_S) -> None:
        async with asyncio.timeout(deadline_s):
            while not condition():  # noqa: ASYNC110 - a test polls from outside
                await asyncio.sleep(0.01)

    return wait


class Peer(asyncio.Protocol):
    """An MQTT client that does nothing by itself except to acknowledge, if it is told to."""

    def __init__(self, *, acknowledge: bool) -> None:
        self.acknowledge = acknowledge
        self.packets: list[codec.Packet] = []
        self.closed = False
        self._decoder = codec.Decoder()
        self._arrived = asyncio.Event()
        self._mid = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """Keep the packets, and acknowledge."""
        for packet in self._decoder.feed(data):
            self.packets.append(packet)
            if isinstance(packet, codec.Publish) and packet.qos and self.acknowledge:
                self.transport.write(codec.puback(packet.mid))
        self._arrived.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's interface
        """Take note."""
        self.closed = True
        self._arrived.set()

    @property
    def messages(self) -> list[codec.Publish]:
        """The application messages so far."""
        return [packet for packet in self.packets if isinstance(packet, codec.Publish)]

    @property
    def payloads(self) -> list[bytes]:
        """Their payloads."""
        return [message.payload for message in self.messages]

    async def wait(self, condition: Callable[["Peer"], object]) -> None:
        """Return once `condition` holds of this peer."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition(self):
                self._arrived.clear()
                await self._arrived.wait()

    async def got(self, count: int) -> list[bytes]:
        """The payloads, once there are `count`."""
        await self.wait(lambda peer: len(peer.messages) >= count)
        return self.payloads

    async def subscribe(self, pattern: str, qos: int = 1) -> tuple[int, ...]:
        """Subscribe, and return what was granted."""
        mid = self._next_mid()
        self.transport.write(codec.subscribe(mid, [(pattern, qos)]))
        answer: codec.Suback = await self._answer(codec.Suback, mid)
        return answer.granted

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish at QoS 1, and return once it is acknowledged."""
        mid = self._next_mid()
        self.transport.write(codec.publish(codec.field(topic), payload, mid=mid, retain=retain))
        await self._answer(codec.Puback, mid)

    async def ping(self) -> None:
        """Ping, and return once the broker has answered: what it had for us before has come."""
        before = self._pings()
        self.transport.write(codec.PINGREQ)
        await self.wait(lambda peer: peer._pings() > before or peer.closed)

    def _pings(self) -> int:
        return sum(isinstance(packet, codec.Pingresp) for packet in self.packets)

    async def leave(self) -> None:
        """Say goodbye, and return once the broker has closed the connection."""
        self.transport.write(codec.DISCONNECT)
        await self.wait(lambda peer: peer.closed)

    async def vanish(self) -> None:
        """Drop the connection without a word."""
        self.transport.abort()
        await self.wait(lambda peer: peer.closed)

    async def _answer(self, kind: type[Any], mid: int) -> Any:
        def answers() -> list[Any]:
            return [p for p in self.packets if isinstance(p, kind) and p.mid == mid]

        await self.wait(lambda _: answers())
        return answers()[0]

    def _next_mid(self) -> int:
        self._mid += 1
        return self._mid


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Awaitable[Peer]]]:
    """Connects peers by the project's own codec; they are dropped at the end of the test."""
    peers: list[Peer] = []

    async def open_peer(
        address: BrokerAddress | PrivateMosquitto | EmbeddedBroker,
        client_id: str = "",
        *,
        acknowledge: bool = True,
        keep_alive_s: int = 60,
        clean: bool = True,
        will: codec.Will | None = None,
        username: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> Peer:
        loop = asyncio.get_running_loop()
        peer = Peer(acknowledge=acknowledge)
        peers.append(peer)
        await loop.create_connection(lambda: peer, address.host, address.port, ssl=tls)
        name = client_id or uuid.uuid4().hex
        secret = None if password is None else password.encode()
        hello = codec.connect(
            name, keep_alive_s=keep_alive_s, clean=clean, will=will,
            username=username, password=secret,
        )  # fmt: skip
        peer.transport.write(hello)
        await peer.wait(lambda p: p.packets or p.closed)
        assert isinstance(peer.packets[0], codec.Connack)
        return peer

    yield open_peer
    for peer in peers:
        peer.transport.abort()
    for peer in peers:
        await peer.wait(lambda p: p.closed)
