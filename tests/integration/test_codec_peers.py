import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from broker import codec
from broker.choice import BrokerAddress
from broker.codec import Connack, Pingresp, Publish, Will
from broker.embedded import EmbeddedBroker

Connect = Callable[..., Awaitable[Any]]
Until = Callable[[Callable[[], object]], Awaitable[None]]


class Paho:
    """A client of another make, that runs in its own thread."""

    def __init__(self) -> None:
        self.messages: list[paho.MQTTMessage] = []
        self.subscribed = False
        self.published: list[int] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=uuid.uuid4().hex)
        self.client.on_message = lambda _client, _data, message: self.messages.append(message)
        self.client.on_subscribe = self._on_subscribe
        self.client.on_publish = lambda _client, _data, mid, *_: self.published.append(mid)

    def _on_subscribe(self, *_: object) -> None:
        self.subscribed = True

    def start(self, address: BrokerAddress) -> None:
        """Connect and run."""
        self.client.connect(address.host, address.port)
        self.client.loop_start()

    def stop(self) -> None:
        """Say goodbye and end the thread."""
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
async def other(broker: BrokerAddress, topic: str, until: Until) -> AsyncIterator[Paho]:
    """A paho client that is subscribed to everything below the test's topic."""
    peer = Paho()
    await asyncio.to_thread(peer.start, broker)
    await until(peer.client.is_connected)
    peer.client.subscribe(f"{topic}/#", qos=1)
    await until(lambda: peer.subscribed)
    yield peer
    await asyncio.to_thread(peer.stop)


async def test_connect(broker: BrokerAddress, connect: Connect) -> None:
    """A broker accepts our CONNECT, and its CONNACK is understood."""
    peer = await connect(broker)

    assert [Connack(session_present=False, code=0)] == peer.packets


async def test_session_present(broker: BrokerAddress, connect: Connect, topic: str) -> None:
    """A broker says whether it remembers the session."""
    first = await connect(broker, topic, clean=False)
    await first.leave()

    back = await connect(broker, topic, clean=False)

    assert Connack(session_present=True, code=0) == back.packets[0]


async def test_subscribe(broker: BrokerAddress, connect: Connect, topic: str) -> None:
    """A broker grants the QoS that was asked for."""
    peer = await connect(broker)

    assert ((1,), (0,)) == (
        await peer.subscribe(f"{topic}/a", qos=1),
        await peer.subscribe(f"{topic}/b", qos=0),
    )


async def test_refused(embedded_broker: EmbeddedBroker, connect: Connect) -> None:
    """A filter that a broker does not take is refused."""
    peer = await connect(embedded_broker)

    assert (128,) == await peer.subscribe("a#")


@pytest.mark.parametrize("mid", [0, 7])
async def test_we_send(
    broker: BrokerAddress, connect: Connect, topic: str, other: Paho, until: Until, mid: int
) -> None:
    """What we publish, at QoS 0 or 1, reaches another client unchanged."""
    peer = await connect(broker)
    field = codec.field(f"{topic}/温度")

    peer.transport.write(codec.publish(field, b"\x00\xffpayload", mid=mid))
    await until(lambda: other.messages)

    (message,) = other.messages
    assert (f"{topic}/温度", b"\x00\xffpayload") == (message.topic, message.payload)


@pytest.mark.parametrize("qos", [0, 1])
async def test_we_receive(
    broker: BrokerAddress, connect: Connect, topic: str, other: Paho, qos: int
) -> None:
    """What another client publishes, at QoS 0 or 1, reaches us unchanged."""
    peer = await connect(broker)
    await peer.subscribe(f"{topic}/+", qos=qos)

    other.client.publish(f"{topic}/湿度", b"\x00\xffpayload", qos=qos)
    await peer.got(1)

    (message,) = peer.messages
    assert (f"{topic}/湿度".encode(), b"\x00\xffpayload") == (message.topic, message.payload)
    assert (qos, qos > 0) == (message.qos, message.mid > 0)


async def test_large(broker: BrokerAddress, connect: Connect, topic: str, other: Paho) -> None:
    """A message of many TCP segments arrives whole."""
    peer = await connect(broker)
    await peer.subscribe(topic)
    payload = bytes(range(256)) * 2_000

    other.client.publish(topic, payload, qos=1)

    assert [payload] == await peer.got(1)


async def test_retained(
    broker: BrokerAddress, connect: Connect, topic: str, other: Paho, until: Until
) -> None:
    """A message that another client had retained is marked as retained."""
    sent = other.client.publish(f"{topic}/meta", b"birth", qos=1, retain=True)
    await until(sent.is_published)

    peer = await connect(broker)
    await peer.subscribe(f"{topic}/meta")
    await peer.got(1)

    assert (b"birth", True) == (peer.messages[0].payload, peer.messages[0].retain)
    await peer.publish(f"{topic}/meta", b"", retain=True)


async def test_will(
    broker: BrokerAddress, connect: Connect, topic: str, other: Paho, until: Until
) -> None:
    """Another client sees our will when we vanish."""
    device = await connect(broker, will=Will(f"{topic}/status", b"lost", retain=False))

    await device.vanish()
    await until(lambda: other.messages)

    assert (f"{topic}/status", b"lost") == (other.messages[0].topic, other.messages[0].payload)


async def test_disconnect(
    broker: BrokerAddress, connect: Connect, topic: str, other: Paho, until: Until
) -> None:
    """Another client does not see our will when we say goodbye."""
    device = await connect(broker, will=Will(f"{topic}/status", b"lost", retain=False))

    await device.leave()
    other.client.publish(f"{topic}/end", b"end", qos=1)
    await until(lambda: other.messages)

    assert [b"end"] == [message.payload for message in other.messages]


async def test_ping(broker: BrokerAddress, connect: Connect) -> None:
    """A broker answers our PINGREQ."""
    peer = await connect(broker)

    peer.transport.write(codec.PINGREQ)
    await peer.wait(lambda p: Pingresp() in p.packets)

    assert not peer.closed


async def test_repeated(broker: BrokerAddress, connect: Connect, topic: str) -> None:
    """A broker takes a message that is marked as sent before, and acknowledges it."""
    peer = await connect(broker)
    await peer.subscribe(topic)

    packet = codec.publish(codec.field(topic), b"again", mid=900)
    peer.transport.write(codec.as_repeated(packet))
    await peer.wait(lambda p: codec.Puback(900) in p.packets)

    assert [b"again"] == await peer.got(1)


@pytest.mark.mosquitto
async def test_redelivery_is_marked(mosquitto: Any, connect: Connect, topic: str) -> None:
    """Mosquitto marks what it delivers a second time, and we see the mark."""
    reader = await connect(mosquitto, topic, clean=False, acknowledge=False)
    await reader.subscribe(topic)
    await reader.publish(topic, b"once")
    await reader.got(1)
    await reader.vanish()

    back = await connect(mosquitto, topic, clean=False)
    await back.got(1)

    assert [Publish(topic.encode(), b"once", 1, retain=False, dup=True, mid=1)] == back.messages


@pytest.mark.mosquitto
async def test_acknowledged_together(mosquitto: Any, connect: Connect, topic: str) -> None:
    """Many acknowledgements in one write are all understood."""
    reader = await connect(mosquitto, topic, clean=False, acknowledge=False)
    await reader.subscribe(topic)
    for number in range(50):
        await reader.publish(topic, b"%d" % number)
    await reader.got(50)

    reader.transport.write(codec.pubacks(message.mid for message in reader.messages))
    await reader.leave()
    back = await connect(mosquitto, topic, clean=False)
    await back.publish(topic, b"end")

    assert [b"end"] == await back.got(1)
