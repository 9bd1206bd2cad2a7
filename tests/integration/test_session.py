import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from broker.choice import BrokerAddress
from broker.codec import Publish
from broker.mosquitto import PrivateMosquitto, answers, free_port
from broker.session import Link, Session
from city.errors import BrokerError

Connect = Callable[..., Awaitable[Any]]
Until = Callable[..., Awaitable[None]]
Working = Callable[[Session], Any]


class Inbox:
    """Keeps what a session receives, and acknowledges it."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def receive(self, link: Link, messages: list[Publish]) -> None:
        """Called by the session."""
        self.payloads += [message.payload for message in messages]
        link.acknowledge([message.mid for message in messages])


@pytest.fixture
def working() -> Working:
    """Keeps a session alive as a context."""

    @contextlib.asynccontextmanager
    async def run(session: Session) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(session.run(), name="session")
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return run


def address_of(broker: PrivateMosquitto) -> BrokerAddress:
    """Where that broker listens."""
    return BrokerAddress(broker.host, broker.port)


async def test_exchange(broker: BrokerAddress, topic: str, working: Working, until: Until) -> None:
    """What one session publishes, another one receives."""
    inbox = Inbox()
    reader = Session(broker, client_id="r", subscriptions=[(topic, 1)], receive=inbox.receive)
    writer = Session(broker, client_id="w", clean=True)
    async with working(reader), working(writer):
        await reader.ready(patience_s=60)
        await writer.publish(topic, b"1")
        await until(lambda: inbox.payloads)

    assert [b"1"] == inbox.payloads


@pytest.mark.mosquitto
class TestRestart:
    """A broker that goes away and comes back."""

    async def test_subscriptions(
        self, mosquitto: PrivateMosquitto, topic: str, working: Working, until: Until,
        connect: Connect,
    ) -> None:  # fmt: skip
        """After a restart the session is connected again and hears what it subscribed to."""
        inbox = Inbox()
        session = Session(
            address_of(mosquitto), client_id="r", subscriptions=[(topic, 1)],
            receive=inbox.receive, clean=True,
        )  # fmt: skip
        async with working(session):
            await session.ready(patience_s=60)
            await mosquitto.stop()
            await mosquitto.start()
            await until(lambda: session.connections == 2)
            peer = await connect(mosquitto)
            await peer.publish(topic, b"after")
            await until(lambda: inbox.payloads)

        assert [b"after"] == inbox.payloads

    async def test_publish(
        self, mosquitto: PrivateMosquitto, topic: str, working: Working, connect: Connect
    ) -> None:
        """A publish during an outage returns when the broker is back and has acknowledged it."""
        session = Session(address_of(mosquitto), client_id="w", clean=True)
        async with working(session):
            await session.ready(patience_s=60)
            await mosquitto.stop()
            publishing = asyncio.create_task(session.publish(topic, b"kept", retain=True))
            await asyncio.wait([publishing], timeout=0.3)
            waited = not publishing.done()
            await mosquitto.start()
            async with asyncio.timeout(60):
                await publishing
        peer = await connect(mosquitto)
        await peer.subscribe(topic)

        assert waited
        assert [b"kept"] == await peer.got(1)


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[BrokerAddress]:
    """A Mosquitto that knows no user at all; the test is marked `mosquitto`."""
    port = free_port()
    (tmp_path / "passwords").touch(mode=0o600)
    user = "user root\n" if os.geteuid() == 0 else ""
    conf = tmp_path / "guarded.conf"
    conf.write_text(
        f"listener {port} 127.0.0.1\n{user}allow_anonymous false\n"
        f"password_file {tmp_path / 'passwords'}\n"
    )
    process = await asyncio.create_subprocess_exec(
        "mosquitto", "-c", conf, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(60):
            while not await answers("127.0.0.1", port):  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.02)
        yield BrokerAddress("127.0.0.1", port, username="nobody")
    finally:
        process.terminate()
        async with asyncio.timeout(60):
            await process.wait()


class TestRefused:
    """A broker that will not have us."""

    @pytest.mark.mosquitto
    async def test_credentials(self, guarded: BrokerAddress, working: Working) -> None:
        """Wrong credentials end the session at the first attempt, with the remedy."""
        session = Session(guarded, client_id="w", password="wrong")  # noqa: S106 - it is wrong
        async with working(session) as task:
            with pytest.raises(BrokerError, match="CITYEYE_BROKER_PASSWORD"):
                await session.ready(patience_s=60)
            await asyncio.wait([task], timeout=60)

            assert isinstance(task.exception(), BrokerError)
            assert 0 == session.connections

    async def test_nobody_there(self, working: Working) -> None:
        """Without a broker, patience ends with its address, the cause and what to do."""
        port = free_port()
        session = Session(BrokerAddress("127.0.0.1", port), client_id="w")
        async with working(session):
            with pytest.raises(BrokerError) as caught:
                await session.ready(patience_s=0.3)

        assert (
            f"broker mqtt://127.0.0.1:{port} cannot be reached for 0.3 s (Connection refused); "
            "start it, or give another one with --broker"
        ) == str(caught.value)


async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A broker that accepts a client and then never says anything again."""
    await reader.read(2)
    writer.write(b"\x20\x02\x00\x00")
    while await reader.read(1000):
        pass
    writer.close()


async def impatient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A broker that accepts a client and closes the connection at once."""
    await reader.read(2)
    writer.write(b"\x20\x02\x00\x00")
    writer.close()


async def serving(answer: Any) -> tuple[asyncio.Server, BrokerAddress]:
    """A server that answers so, and where it listens."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, BrokerAddress(*server.sockets[0].getsockname()[:2])


class TestDeadPeer:
    """A connection on which nobody is left."""

    async def test_silence(self, working: Working, until: Until) -> None:
        """A broker from which nothing is heard for one and a half keep-alives is left."""
        server, address = await serving(mute)
        session = Session(address, client_id="w", clean=True, keep_alive_s=1)
        began_s = time.monotonic()
        async with server, working(session):
            await session.ready(patience_s=60)
            await until(lambda: session.connections == 2)

        assert time.monotonic() - began_s > 1.4

    async def test_no_hurry(self, working: Working, until: Until) -> None:
        """A broker that accepts and hangs up is not called again without a pause, ever longer."""
        server, address = await serving(impatient)
        session = Session(address, client_id="w", clean=True)
        began_s = time.monotonic()
        async with server, working(session):
            await until(lambda: session.connections == 4)

        assert time.monotonic() - began_s > (0.2 + 0.4 + 0.8) / 2
