import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import choice, mosquitto
from broker.choice import BrokerAddress, OwnBroker, parse_broker, running_broker, tls_context
from broker.codec import PINGREQ, Connack, Pingresp, Will
from broker.embedded import EmbeddedBroker
from broker.mosquitto import PrivateMosquitto, answers, configuration, free_port
from city.errors import BrokerError, SettingError

Connect = Callable[..., Awaitable[Any]]
Until = Callable[[Callable[[], object]], Awaitable[None]]


class TestEveryBroker:
    """What CityEye needs from a broker, whichever it is."""

    async def test_exact(self, broker: BrokerAddress, connect: Connect, topic: str) -> None:
        """A message reaches a subscriber unchanged, at QoS 1."""
        reader, writer = await connect(broker), await connect(broker)
        await reader.subscribe(topic)

        await writer.publish(topic, b"\x00\xff{}")

        assert [b"\x00\xff{}"] == await reader.got(1)
        assert (topic.encode(), 1, False) == (
            reader.messages[0].topic,
            reader.messages[0].qos,
            reader.messages[0].retain,
        )

    async def test_plus(self, broker: BrokerAddress, connect: Connect, topic: str) -> None:
        """A + stands for exactly one level."""
        reader, writer = await connect(broker), await connect(broker)
        await reader.subscribe(f"{topic}/+/status")

        for levels in ("status", "a/b/status", "a/meta", "a/status"):
            await writer.publish(f"{topic}/{levels}", levels.encode())

        assert [b"a/status"] == await reader.got(1)

    async def test_retained(self, broker: BrokerAddress, connect: Connect, topic: str) -> None:
        """A retained message waits for who subscribes later, marked as retained."""
        writer = await connect(broker)
        await writer.publish(f"{topic}/status", b"online", retain=True)

        reader = await connect(broker)
        await reader.subscribe(f"{topic}/+")

        assert [b"online"] == await reader.got(1)
        assert reader.messages[0].retain
        await writer.publish(f"{topic}/status", b"", retain=True)

    async def test_retained_is_asked_for(
        self, broker: BrokerAddress, connect: Connect, topic: str
    ) -> None:
        """A client that subscribed to nothing gets no retained message, whoever else did."""
        writer = await connect(broker)
        await writer.subscribe(f"{topic}/#")
        await writer.publish(f"{topic}/status", b"online", retain=True)

        silent = await connect(broker)
        silent.transport.write(PINGREQ)
        await silent.wait(lambda peer: Pingresp() in peer.packets)

        assert [] == silent.messages
        await writer.publish(f"{topic}/status", b"", retain=True)

    async def test_cleared(self, broker: BrokerAddress, connect: Connect, topic: str) -> None:
        """An empty retained message removes the one before."""
        writer = await connect(broker)
        await writer.publish(topic, b"raised", retain=True)
        await writer.publish(topic, b"", retain=True)

        reader = await connect(broker)
        await reader.subscribe(topic)
        await writer.publish(topic, b"end")

        assert [b"end"] == await reader.got(1)

    async def test_will(self, broker: BrokerAddress, connect: Connect, topic: str) -> None:
        """The will of a client that vanishes is published and retained."""
        reader = await connect(broker)
        await reader.subscribe(f"{topic}/status")
        device = await connect(broker, will=Will(f"{topic}/status", b"lost"))

        await device.vanish()

        assert [b"lost"] == await reader.got(1)
        later = await connect(broker)
        await later.subscribe(f"{topic}/status")
        assert [b"lost"] == await later.got(1)
        await reader.publish(f"{topic}/status", b"", retain=True)

    async def test_no_will(self, broker: BrokerAddress, connect: Connect, topic: str) -> None:
        """The will of a client that says goodbye is not published."""
        reader = await connect(broker)
        await reader.subscribe(f"{topic}/#")
        device = await connect(broker, keep_alive_s=0, will=Will(f"{topic}/status", b"lost"))

        await device.leave()
        await reader.publish(f"{topic}/end", b"end")

        assert [b"end"] == await reader.got(1)

    async def test_away(self, broker: BrokerAddress, connect: Connect, topic: str) -> None:
        """A session gets what was published while its client was away."""
        reader, writer = await connect(broker, topic, clean=False), await connect(broker)
        await reader.subscribe(topic)
        await reader.vanish()

        for number in range(20):
            await writer.publish(topic, b"%d" % number)
        back = await connect(broker, topic, clean=False)

        assert [b"%d" % number for number in range(20)] == await back.got(20)
        assert Connack(session_present=True, code=0) == back.packets[0]

    async def test_unacknowledged(
        self, broker: BrokerAddress, connect: Connect, topic: str
    ) -> None:
        """What a client did not acknowledge is delivered again when it comes back."""
        reader = await connect(broker, topic, clean=False, acknowledge=False)
        await reader.subscribe(topic)
        writer = await connect(broker)
        for number in range(5):
            await writer.publish(topic, b"%d" % number)
        await reader.got(5)

        await reader.vanish()
        back = await connect(broker, topic, clean=False)

        assert [b"0", b"1", b"2", b"3", b"4"] == await back.got(5)

    async def test_acknowledged(self, broker: BrokerAddress, connect: Connect, topic: str) -> None:
        """What a client acknowledged is not delivered again."""
        reader, writer = await connect(broker, topic, clean=False), await connect(broker)
        await reader.subscribe(topic)
        await writer.publish(topic, b"once")
        await reader.got(1)
        await reader.leave()

        back = await connect(broker, topic, clean=False)
        await writer.publish(topic, b"next")

        assert [b"next"] == await back.got(1)

    @pytest.mark.parametrize("clean", [True, False])
    async def test_twice(
        self, broker: BrokerAddress, connect: Connect, topic: str, *, clean: bool
    ) -> None:
        """A client that connects a second time loses its first connection and stays reachable."""
        first = await connect(broker, topic, clean=clean)
        second = await connect(broker, topic, clean=clean)
        await first.wait(lambda peer: peer.closed)

        await second.subscribe(topic)
        await second.publish(topic, b"here")

        assert [b"here"] == await second.got(1)

    async def test_order(self, broker: BrokerAddress, connect: Connect, topic: str) -> None:
        """Messages of one sender arrive in the order in which they were sent."""
        reader, writer = await connect(broker), await connect(broker)
        await reader.subscribe(topic)

        await asyncio.gather(*(writer.publish(topic, b"%d" % number) for number in range(300)))

        assert [b"%d" % number for number in range(300)] == await reader.got(300)

    async def test_many(self, broker: BrokerAddress, connect: Connect, topic: str) -> None:
        """Sixty devices that all connect, subscribe and publish at once are all served."""
        reader = await connect(broker)
        await reader.subscribe(f"{topic}/+/telemetry")

        async def device(number: int) -> None:
            peer = await connect(broker)
            await peer.subscribe(f"{topic}/{number}/command")
            await peer.publish(f"{topic}/{number}/telemetry", b"%d" % number)

        await asyncio.gather(*(device(number) for number in range(60)))

        assert {b"%d" % number for number in range(60)} == set(await reader.got(60))

    async def test_aiomqtt(self, broker: BrokerAddress, topic: str) -> None:
        """A client of another make is served as well."""
        async with (
            aiomqtt.Client(broker.host, broker.port) as client,
            asyncio.timeout(60),
        ):
            await client.subscribe(f"{topic}/+/telemetry", qos=1)
            await client.publish(f"{topic}/a/telemetry", b"12.4", qos=1)
            message = await anext(aiter(client.messages))

        assert b"12.4" == message.payload


class TestEmbedded:
    """The embedded broker alone."""

    async def test_port_in_use(self, embedded_broker: EmbeddedBroker) -> None:
        """A port in use is named, with what to do."""
        with pytest.raises(BrokerError, match="port in use") as caught:
            await EmbeddedBroker(embedded_broker.port).__aenter__()

        assert f"127.0.0.1:{embedded_broker.port}" in str(caught.value)

    async def test_closes_cleanly(self, connect: Connect, until: Until) -> None:
        """It stops with clients still connected, and leaves no task behind."""
        before = asyncio.all_tasks()
        async with EmbeddedBroker() as broker:
            peers = [await connect(broker) for _ in range(60)]
            _, mute = await asyncio.open_connection(broker.host, broker.port)

        await until(lambda: all(peer.closed for peer in peers))
        mute.close()
        await until(lambda: asyncio.all_tasks() <= before)

    async def test_silence(
        self, embedded_broker: EmbeddedBroker, connect: Connect, topic: str
    ) -> None:
        """A client that lets its keep-alive pass is lost: its will is published."""
        reader = await connect(embedded_broker)
        await reader.subscribe(topic)

        await connect(embedded_broker, keep_alive_s=1, will=Will(topic, b"lost", retain=False))

        assert [b"lost"] == await reader.got(1)

    async def test_only_loopback(self, embedded_broker: EmbeddedBroker) -> None:
        """It listens on the loopback address and nowhere else."""
        sockets = embedded_broker._broker._servers["default"].instance.sockets

        assert [("127.0.0.1", embedded_broker.port)] == [s.getsockname() for s in sockets]

    async def test_bound(
        self, connect: Connect, topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It keeps a bounded number of messages for a client that is away: the oldest."""
        monkeypatch.setattr("broker.embedded.QUEUE_MAX", 3)
        async with EmbeddedBroker() as broker:
            reader, writer = await connect(broker, topic, clean=False), await connect(broker)
            await reader.subscribe(topic)
            await reader.leave()
            for number in range(6):
                await writer.publish(topic, b"%d" % number)
            back = await connect(broker, topic, clean=False)
            await back.got(3)
            await writer.publish(topic, b"live")

            assert [b"0", b"1", b"2", b"live"] == await back.got(4)


@pytest.mark.mosquitto
class TestMosquitto:
    """A private Mosquitto."""

    async def test_port_in_use(self, mosquitto: PrivateMosquitto, tmp_path: Path) -> None:
        """A port in use is named, with what to do, even if another broker answers there."""
        second = PrivateMosquitto(tmp_path / "second", port=mosquitto.port)

        with pytest.raises(BrokerError, match="port in use") as caught:
            await second.start()

        assert f"--broker mqtt://127.0.0.1:{mosquitto.port}" in str(caught.value)

    async def test_port_of_a_stranger(self, tmp_path: Path) -> None:
        """A port on which something else than a broker listens is in use as well."""
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            second = PrivateMosquitto(tmp_path, port=stranger.getsockname()[1])

            with pytest.raises(BrokerError, match="port in use"):
                await second.start()

    async def test_stops(self, tmp_path: Path) -> None:
        """Its process is gone and its port is free when the context ends."""
        async with PrivateMosquitto(tmp_path) as broker:
            pid = broker.pid
            assert pid

        assert not is_running(pid)
        assert not await answers(broker.host, broker.port)

    async def test_remembers(self, tmp_path: Path, connect: Connect, topic: str) -> None:
        """Sessions, queues and retained messages outlive a stop, and the port stays the same."""
        broker = PrivateMosquitto(tmp_path)
        async with broker:
            port = broker.port
            reader, writer = await connect(broker, topic, clean=False), await connect(broker)
            await reader.subscribe(topic)
            await reader.leave()
            await writer.publish(topic, b"kept", retain=True)

        async with broker:
            back = await connect(broker, topic, clean=False)
            assert (port, [b"kept"]) == (broker.port, await back.got(1))

    async def test_window(self, tmp_path: Path, connect: Connect, topic: str) -> None:
        """It sends as many messages unacknowledged as the window says, and then waits."""
        async with PrivateMosquitto(tmp_path, window=50) as broker:
            reader, writer = await connect(broker, acknowledge=False), await connect(broker)
            await reader.subscribe(topic)
            for number in range(60):
                await writer.publish(topic, b"%d" % number)
            await reader.got(50)
            reader.transport.write(PINGREQ)
            await reader.wait(lambda peer: Pingresp() in peer.packets)

            assert 50 == len(reader.messages)

    async def test_too_large(
        self, mosquitto: PrivateMosquitto, connect: Connect, topic: str
    ) -> None:
        """A packet above the limit closes its sender's connection instead of being dropped."""
        writer = await connect(mosquitto)
        publishing = asyncio.create_task(writer.publish(topic, bytes(2 * 1024**2)))
        await writer.wait(lambda peer: peer.closed)
        acknowledged = publishing.done()
        publishing.cancel()

        assert not acknowledged

    async def test_folder(self, tmp_path: Path) -> None:
        """A folder that cannot be written is named."""
        file = tmp_path / "file"
        file.touch()

        with pytest.raises(BrokerError, match="cannot be written") as caught:
            await PrivateMosquitto(file / "below").start()

        assert str(file) in str(caught.value)

    async def test_bad_configuration(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """When it ends at once, the error has its status and the tail of its log."""
        monkeypatch.setattr(mosquitto, "_CONFIGURATION", "no_such_option true\n")

        with pytest.raises(BrokerError, match=r"ended with status \d") as caught:
            await PrivateMosquitto(tmp_path).start()

        assert "no_such_option" in str(caught.value)

    async def test_dies_with_us(self, tmp_path: Path, until: Until) -> None:
        """It ends when we are killed without a chance to stop it."""
        parent = await asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, "-c", PARENT, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert parent.stdout
        pid = int(await asyncio.to_thread(parent.stdout.readline))
        assert is_running(pid)

        parent.kill()
        await asyncio.to_thread(parent.communicate)

        await until(lambda: not is_running(pid))

    async def test_kills(self, tmp_path: Path) -> None:
        """A Mosquitto that ignores SIGTERM is killed after the grace."""
        broker = PrivateMosquitto(tmp_path, grace_s=1.0)
        await broker.start()
        assert broker.pid
        pid = broker.pid
        os.kill(pid, signal.SIGSTOP)

        began_s = time.monotonic()
        await broker.stop()

        assert not is_running(pid)
        assert time.monotonic() - began_s >= 1.0


class TestFinding:
    """With and without a Mosquitto on the machine."""

    async def test_not_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without Mosquitto the error says how to get it and what to use instead."""
        hide_mosquitto(monkeypatch)

        with pytest.raises(BrokerError, match=r"apt-get install mosquitto.*--broker embedded"):
            await PrivateMosquitto(tmp_path).start()

    def test_no_version(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without Mosquitto there is no version."""
        hide_mosquitto(monkeypatch)

        assert mosquitto.mosquitto_version() is None

    def test_configuration(self, tmp_path: Path) -> None:
        """The configuration listens on loopback only and states its window."""
        lines = configuration(tmp_path, port=18830, window=123).splitlines()

        assert {"listener 18830 127.0.0.1", "max_inflight_messages 123"} <= set(lines)

    async def test_nobody_answers(self) -> None:
        """Where nobody listens nobody answers."""
        assert not await answers("127.0.0.1", free_port())

    async def test_no_broker_answers(self) -> None:
        """A server that is no broker does not count as an answer."""

        async def web(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(web, "127.0.0.1", 0) as server:
            assert not await answers("127.0.0.1", server.sockets[0].getsockname()[1])


class TestRunning:
    """Which broker is started."""

    @pytest.mark.mosquitto
    async def test_mosquitto(self, tmp_path: Path) -> None:
        """By default Mosquitto is started where it is installed, and says who it is."""
        async with running_broker(None, data_dir=tmp_path, window=77) as running:
            answered = await answers(running.address.host, running.address.port)

        port = running.address.port
        version = mosquitto.mosquitto_version()
        assert (True, 77, False) == (answered, running.window, running.embedded)
        assert f"Mosquitto {version}, private, 127.0.0.1:{port}" == running.name

    async def test_embedded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """By default the embedded broker is started where Mosquitto is not installed."""
        hide_mosquitto(monkeypatch)

        async with running_broker(None, data_dir=tmp_path) as running:
            answered = await answers(running.address.host, running.address.port)

        assert (True, None, True) == (answered, running.window, running.embedded)
        assert running.name.startswith("amqtt 0.12.")

    async def test_given(self, tmp_path: Path) -> None:
        """A given broker is neither started nor contacted."""
        async with running_broker("mqtts://broker.example", data_dir=tmp_path) as running:
            pass

        assert BrokerAddress("broker.example", 8883, tls=True) == running.address
        assert ("mqtts://broker.example:8883", None, False) == (
            running.name,
            running.window,
            running.embedded,
        )


class TestParsing:
    """What `--broker` takes."""

    @pytest.mark.parametrize("name", list(OwnBroker))
    def test_own(self, name: OwnBroker) -> None:
        """A name means a broker that is started here."""
        assert name is parse_broker(name.value)

    @pytest.mark.parametrize(
        ("spec", "address"),
        [
            ("mqtt://broker.example", BrokerAddress("broker.example", 1883)),
            ("mqtts://broker.example", BrokerAddress("broker.example", 8883, tls=True)),
            ("mqtt://10.0.0.7:18830/", BrokerAddress("10.0.0.7", 18830)),
            ("mqtt://[::1]:1884", BrokerAddress("::1", 1884)),
            ("mqtt://ing%40est@h", BrokerAddress("h", 1883, username="ing@est")),
        ],
    )
    def test_address(self, spec: str, address: BrokerAddress) -> None:
        """An address has a scheme and a host; port and user may be there."""
        assert address == parse_broker(spec)

    @given(port=st.integers(1, 65535), tls=st.booleans(), host=st.sampled_from(["h", "::1", "a.b"]))
    def test_round_trip(self, port: int, host: str, *, tls: bool) -> None:
        """What an address prints is what it is parsed from."""
        address = BrokerAddress(host, port, tls=tls)

        assert address == parse_broker(str(address))

    @pytest.mark.parametrize(
        ("spec", "says"),
        [
            ("mosqitto", "did you mean 'mosquitto'"),
            ("redis", "allowed: embedded, mosquitto, mqtt://"),
            ("", "allowed: embedded"),
            ("mqqt://h", "unknown scheme 'mqqt'; did you mean 'mqtt'"),
            ("http://h", "unknown scheme 'http'; allowed"),
            ("mqtt://", "no host"),
            ("mqtt://h:0", "port 0"),
            ("mqtt://h:99999", "not an address"),
            ("mqtt://h:abc", "not an address"),
            ("mqtt://[::1", "not an address"),
            ("mqtt://h/topic", "nothing may follow the port"),
            ("mqtt://h?x=1", "nothing may follow the port"),
        ],
    )
    def test_wrong(self, spec: str, says: str) -> None:
        """Anything else is refused with what is allowed."""
        with pytest.raises(SettingError) as caught:
            parse_broker(spec)

        assert says in str(caught.value)

    def test_password(self) -> None:
        """A password in the address is refused, not shown, and sent to where it belongs."""
        with pytest.raises(SettingError, match="CITYEYE_BROKER_PASSWORD_FILE") as caught:
            parse_broker("mqtt://u:hunter2@h")

        assert "hunter2" not in str(caught.value)


class TestTls:
    """The verification of a broker's certificate."""

    def test_plain(self) -> None:
        """Without TLS nothing is verified."""
        assert tls_context(BrokerAddress("h", 1883)) is None

    def test_verified(self) -> None:
        """With TLS the certificate and the host name are verified."""
        context = tls_context(BrokerAddress("h", 8883, tls=True))

        assert context
        assert (ssl.CERT_REQUIRED, True) == (context.verify_mode, context.check_hostname)

    def test_missing_file(self, tmp_path: Path) -> None:
        """A file that is not there is named."""
        with pytest.raises(SettingError, match=r"ca\.pem: cannot be read: No such file"):
            tls_context(BrokerAddress("h", 8883, tls=True), tmp_path / "ca.pem")

    def test_no_certificate(self, tmp_path: Path) -> None:
        """A file without a certificate is named."""
        file = tmp_path / "ca.pem"
        file.write_text("hello", encoding="utf-8")

        with pytest.raises(SettingError, match=r"ca\.pem: holds no PEM certificate"):
            tls_context(BrokerAddress("h", 8883, tls=True), file)


PARENT = """
import asyncio, sys
from pathlib import Path
from broker.mosquitto import PrivateMosquitto

async def main():
    async with PrivateMosquitto(Path(sys.argv[1])) as broker:
        print(broker.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def is_running(pid: int) -> bool:
    """Whether that process runs; a zombie that nobody has waited for does not."""
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        return state not in {"Z", "X"}
    return False


def hide_mosquitto(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this machine look as if Mosquitto were not installed."""
    monkeypatch.setattr(mosquitto, "find_mosquitto", lambda: None)
    monkeypatch.setattr(choice, "mosquitto_version", lambda: None)
