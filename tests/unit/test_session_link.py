import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from broker import codec
from broker.choice import BrokerAddress
from broker.session import Session, _refusal
from city.errors import BrokerError

ACCEPTED = b"\x20\x02\x00\x00"
DEADLINE_S = 60.0


class Peer:
    """A broker that answers with given bytes and keeps what it hears."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.heard: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.writers.append(writer)
        writer.write(self.answers.pop(0) if self.answers else ACCEPTED)
        self.heard.append(b"")
        while data := await reader.read(1000):
            self.heard[-1] += data
        writer.close()


@pytest.fixture
def talking() -> Callable[..., Any]:
    """Runs a session with a peer as a context."""

    @contextlib.asynccontextmanager
    async def run(peer: Peer, **options: Any) -> AsyncIterator[Session]:
        server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
        address = BrokerAddress(*server.sockets[0].getsockname()[:2])
        session = Session(address, client_id="test", **options)
        task = asyncio.create_task(session.run(), name="session")
        async with server:
            yield session
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for writer in peer.writers:
                writer.close()

    return run


async def test_repeated(talking: Any, until: Any) -> None:
    """What was not acknowledged is sent on the next connection, marked as sent before."""
    peer = Peer()
    async with talking(peer) as session:
        await session.ready(patience_s=DEADLINE_S)
        publishing = asyncio.create_task(session.publish("t", b"x"))
        packet = codec.publish(codec.field("t"), b"x", mid=1)
        await until(lambda: packet in peer.heard[0])
        peer.writers[0].transport.abort()
        await until(lambda: len(peer.heard) == 2 and codec.as_repeated(packet) in peer.heard[1])
        peer.writers[1].write(codec.puback(1))
        await asyncio.wait_for(publishing, DEADLINE_S)

    assert 2 == session.connections


async def test_refused_subscription(talking: Any) -> None:
    """A subscription that the broker refuses is an error that names the access list."""
    peer = Peer(ACCEPTED + b"\x90\x03\x00\x01\x80")
    async with talking(peer, subscriptions=[("t", 1)]) as session:
        with pytest.raises(BrokerError, match="access list must allow"):
            await session.ready(patience_s=DEADLINE_S)


async def test_unavailable(talking: Any, until: Any) -> None:
    """A broker that says it is not available yet is asked again."""
    peer = Peer(b"\x20\x02\x00\x03")
    async with talking(peer) as session:
        await session.ready(patience_s=DEADLINE_S)
        await until(lambda: session.connections)

    assert 2 == len(peer.heard)


async def test_not_mqtt(talking: Any) -> None:
    """A port on which something else answers is said to be one."""
    peer = Peer(*[b"\xf0\x00"] * 20)
    async with talking(peer) as session:
        with pytest.raises(BrokerError, match=r"the broker sent what is not MQTT 3.1.1"):
            await session.ready(patience_s=1.0)


async def test_password_stays_here(talking: Any) -> None:
    """The password shows neither in the address nor in an error."""
    peer = Peer(b"\x20\x02\x00\x04")
    async with talking(peer, password="s3cret") as session:  # noqa: S106 - the test's own
        with pytest.raises(BrokerError) as caught:
            await session.ready(patience_s=DEADLINE_S)

    assert "s3cret" not in f"{caught.value} {session.address}"


@pytest.mark.parametrize("code", [1, 2, 4, 5, 77])
def test_remedies(code: int) -> None:
    """Every refusal names the broker and a reason."""
    text = _refusal(BrokerAddress("broker.example", 1883), code)

    assert text.startswith("broker mqtt://broker.example:1883 refuses the connection: ")
