"""A durable MQTT session of a service: reconnects, keeps subscriptions, acknowledges by hand.

The session outlives its connections. Messages received on one `Link` can only be acknowledged on
that link: after a reconnect the broker delivers what was not acknowledged again.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Final, cast

import structlog

from broker import codec
from broker.choice import BrokerAddress
from broker.distrust import distrust
from city.backoff import Backoff
from city.errors import BrokerError, ProtocolError

_log = structlog.get_logger(__name__)

_CONNECT_TIMEOUT_S: Final = 10.0
_PUBLISH_WINDOW: Final = 1_000
_REMINDER_S: Final = 60.0
"""So often a broker that stays away is mentioned again."""
_REFUSED_FIRST_S: Final = 2.0
_REFUSED_CAP_S: Final = 300.0
"""A wrong password is mended by people: asking more often only burdens the broker."""
_STEADY_S: Final = 5.0
"""A link that lasted so long was no mistake: the next one is tried at once."""

Receive = Callable[["Link", list[codec.Publish]], None]


class Link(asyncio.Protocol):
    """One TCP connection of a session."""

    def __init__(self, session: "Session") -> None:
        self._session = session
        self._decoder = codec.Decoder()
        self._transport: asyncio.Transport | None = None
        self._heard_at_s = 0.0
        self._paused = False
        self._established = False
        loop = asyncio.get_running_loop()
        self.connack: asyncio.Future[codec.Connack] = loop.create_future()
        self.suback: asyncio.Future[codec.Suback] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._heard_at_s = asyncio.get_running_loop().time()

    def data_received(self, data: bytes) -> None:
        """Decode and hand on; called by the event loop."""
        self._heard_at_s = asyncio.get_running_loop().time()
        try:
            packets = self._decoder.feed(data)
        except ProtocolError as error:
            self.abort(f"the broker sent what is not MQTT 3.1.1: {error}")
            return
        messages = [packet for packet in packets if type(packet) is codec.Publish]
        if len(messages) < len(packets):
            for packet in packets:
                self._answered(packet)
        if messages:
            self._session.received(self, messages)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the loss; called by the event loop."""
        self._transport = None
        if not self.lost.done():
            self.lost.set_result(str(exc) if exc else "the broker closed the connection")
        gone = ConnectionResetError(self.lost.result())
        for answer in (self.connack, self.suback):
            if not answer.done():
                answer.set_exception(gone)
                answer.exception()  # nobody may be waiting for it

    @property
    def open(self) -> bool:
        """Whether bytes can still be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, data: bytes) -> None:
        """Send `data` if the link is open."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def acknowledge(self, mids: Iterable[int]) -> None:
        """Acknowledge messages of this link, in the order of their arrival (section 4.6)."""
        self.send(codec.pubacks(mids))

    def pause(self) -> None:
        """Stop reading: the network and then the broker hold back what comes next.

        While the link is being established it is read all the same: the broker may deliver
        messages before it answers our subscription.
        """
        if not self._paused:
            self._paused = True
            if self._established and self._transport is not None:
                self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused:
            self._paused = False
            if self._established and self._transport is not None:
                self._transport.resume_reading()

    def establish(self) -> None:
        """Take note that the broker has answered everything: from now on `pause` holds it back."""
        self._established = True
        if self._paused and self._transport is not None:
            self._transport.pause_reading()

    def abort(self, reason: str) -> None:
        """Drop the connection at once."""
        if not self.lost.done():
            self.lost.set_result(reason)
        if self._transport is not None:
            self._transport.abort()

    async def keep_alive(self, keep_alive_s: int) -> None:
        """Ping, and drop the link when nothing was heard for one and a half periods."""
        loop = asyncio.get_running_loop()
        while self.open:
            await asyncio.sleep(keep_alive_s / 2)
            if self._paused:
                self._heard_at_s = loop.time()
            elif loop.time() - self._heard_at_s > keep_alive_s * 1.5:
                self.abort(f"nothing heard for {keep_alive_s * 1.5:.0f} s")
            self.send(codec.PINGREQ)

    def _answered(self, packet: codec.Packet) -> None:
        if isinstance(packet, codec.Puback):
            self._session.published(packet.mid)
        elif isinstance(packet, codec.Connack) and not self.connack.done():
            self.connack.set_result(packet)
        elif isinstance(packet, codec.Suback) and not self.suback.done():
            self.suback.set_result(packet)


class Session:
    """A service's session with the broker; `run` keeps it alive until it is cancelled."""

    def __init__(
        self,
        address: BrokerAddress,
        *,
        client_id: str,
        subscriptions: Sequence[tuple[str, int]] = (),
        receive: Receive | None = None,
        clean: bool = False,
        keep_alive_s: int = 30,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address = address
        self.client_id = client_id
        self.connections = 0
        self._subscriptions = tuple(subscriptions)
        self._receive = receive
        self._keep_alive_s = keep_alive_s
        self._tls = tls
        self._hello = codec.connect(
            client_id,
            keep_alive_s=keep_alive_s,
            clean=clean,
            username=address.username,
            password=password.encode() if password is not None else None,
        )
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._trouble = "no attempt yet"
        self._said_at_s = 0.0
        self._fatal: BrokerError | None = None
        self._mid = 0
        self._window = asyncio.Semaphore(_PUBLISH_WINDOW)
        self._unacked: dict[int, tuple[bytes, asyncio.Future[None]]] = {}

    @property
    def trouble(self) -> str | None:
        """Why there is no connection; None while there is one."""
        return None if self._up.is_set() else self._trouble

    async def run(self) -> None:
        """Connect, and connect again whenever the link is lost.

        Raises:
            BrokerError: The broker refuses us in a way that waiting does not mend.
        """
        backoff = Backoff()
        refused = Backoff(first_s=_REFUSED_FIRST_S, cap_s=_REFUSED_CAP_S)
        while True:
            link = Link(self)
            try:
                await self._connect(link)
            except (OSError, TimeoutError) as error:
                self._dropped(link)
                untrusted = distrust(self.address, error)
                if untrusted is not None:
                    await self._refused(untrusted, refused)
                    continue
                self._say_trouble(_why(error))
                await asyncio.sleep(backoff.delay_s())
                continue
            except BrokerError as error:
                self._dropped(link)
                await self._refused(error, refused)
                continue
            self._say_up()
            refused.reset()
            up_since_s = asyncio.get_running_loop().time()
            await self._while_up(link)
            if asyncio.get_running_loop().time() - up_since_s > _STEADY_S:
                backoff.reset()
            else:
                await asyncio.sleep(backoff.delay_s())

    async def _refused(self, error: BrokerError, backoff: Backoff) -> None:
        """End at the first attempt; later, wait ever longer for people to mend it.

        A session that has worked outlives a change of passwords or certificates at the broker.
        """
        if not self.connections:
            self._fatal = error
            self._up.set()
            raise error
        self._say_trouble(str(error))
        await asyncio.sleep(backoff.delay_s())

    async def ready(self, *, patience_s: float) -> None:
        """Return once connected and subscribed.

        Raises:
            BrokerError: The broker refused, or did not answer within `patience_s`.
        """
        try:
            async with asyncio.timeout(patience_s):
                await self._up.wait()
        except TimeoutError:
            raise BrokerError(
                f"broker {self.address} cannot be reached for {patience_s:g} s "
                f"({self._trouble}); start it, or give another one with --broker"
            ) from None
        if self._fatal:
            raise self._fatal

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish at QoS 1 and return when the broker has acknowledged, however long that takes."""
        async with self._window:
            mid = self._next_mid()
            packet = codec.publish(codec.field(topic), payload, mid=mid, retain=retain)
            done = asyncio.get_running_loop().create_future()
            self._unacked[mid] = (packet, done)
            if self._up.is_set() and self._link is not None:
                self._link.send(packet)
            try:
                await done
            finally:
                self._unacked.pop(mid, None)

    def disconnect(self) -> None:
        """Say goodbye so that the broker does not publish our will; `run` is cancelled after."""
        if self._link is not None:
            self._link.send(codec.DISCONNECT)

    def received(self, link: Link, messages: list[codec.Publish]) -> None:
        """Called by a link with what arrived on it."""
        if self._receive is not None:
            self._receive(link, messages)

    def published(self, mid: int) -> None:
        """Called by a link when the broker acknowledged `mid`."""
        waiting = self._unacked.get(mid)
        if waiting is not None and not waiting[1].done():
            waiting[1].set_result(None)

    async def _connect(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await loop.create_connection(
                lambda: link, self.address.host, self.address.port, ssl=self._tls
            )
            link.send(self._hello)
            connack = await link.connack
            if connack.code == codec.ConnectCode.UNAVAILABLE:
                raise ConnectionRefusedError("the broker says that it is not available")
            if connack.code:
                raise BrokerError(_refusal(self.address, connack.code))
            self._link = link
            if self._subscriptions:
                link.send(codec.subscribe(self._next_mid(), self._subscriptions))
                suback = await link.suback
                if suback.refused:
                    raise BrokerError(
                        f"broker {self.address} refuses a subscription of {self.client_id}: "
                        "its access list must allow the service to read cityeye/v1/#"
                    )
        link.establish()
        for packet, done in list(self._unacked.values()):
            if not done.done():
                link.send(codec.as_repeated(packet))
        self.connections += 1
        self._up.set()

    async def _while_up(self, link: Link) -> None:
        pinging = asyncio.create_task(
            link.keep_alive(self._keep_alive_s), name=f"{self.client_id} keep-alive"
        )
        try:
            self._trouble = await asyncio.shield(link.lost)
        finally:
            pinging.cancel()
            self._up.clear()
            self._dropped(link)
        _log.warning("connection lost", broker=str(self.address), why=self._trouble)

    def _dropped(self, link: Link) -> None:
        link.abort("not connected")
        self._link = None

    def _say_trouble(self, trouble: str) -> None:
        now_s = asyncio.get_running_loop().time()
        if trouble != self._trouble or now_s > self._said_at_s + _REMINDER_S:
            self._said_at_s = now_s
            _log.warning("broker not reachable", broker=str(self.address), why=trouble)
        self._trouble = trouble

    def _say_up(self) -> None:
        if self.connections > 1:
            _log.info("connected again", broker=str(self.address), client=self.client_id)

    def _next_mid(self) -> int:
        while True:
            self._mid = self._mid % codec.MID_MAX + 1
            if self._mid not in self._unacked:
                return self._mid


def _why(error: OSError | TimeoutError) -> str:
    """Why a connection failed, without the numbers of the operating system."""
    return error.strerror or str(error) or "no answer in time"


_WHERE_LOGINS: Final = (
    "see CITYEYE_BROKER_CREDENTIALS (the file of `cityeye broker init`; the broker must have its "
    "passwords, so reload it) or CITYEYE_BROKER_PASSWORD"
)


def _refusal(address: BrokerAddress, code: int) -> str:
    """What a CONNACK's return code means for the user."""
    remedies: dict[int, str] = {
        codec.ConnectCode.BAD_PROTOCOL: "it does not speak MQTT 3.1.1",
        codec.ConnectCode.BAD_CLIENT_ID: "it does not like our client identifier",
        codec.ConnectCode.BAD_CREDENTIALS: f"user or password is wrong; {_WHERE_LOGINS}",
        codec.ConnectCode.NOT_AUTHORISED: f"we are not authorised; {_WHERE_LOGINS}",
    }
    why = remedies.get(code, f"return code {code}")
    return f"broker {address} refuses the connection: {why}"
