"""The embedded broker: amqtt in our own process, on loopback, for a start without any server.

amqtt 0.12 as it comes forgets what MQTT 3.1.1 asks a broker to remember; `_Broker` and `_Handler`
mend what CityEye leans on. What remains weaker than Mosquitto: nothing outlives the process, a
message that its subscriber does not acknowledge within 5 s is not delivered a second time, and
everything is delivered at the subscription's QoS.
"""

import asyncio
import errno
import logging
import math
from collections.abc import ItemsView, Iterator
from types import TracebackType
from typing import Any, Final, Self

import structlog
from amqtt.broker import Broker
from amqtt.errors import AMQTTError
from amqtt.errors import BrokerError as AmqttBrokerError
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.plugins.base import BaseAuthPlugin

from city.errors import BrokerError

LOOPBACK: Final = "127.0.0.1"
QUEUE_MAX: Final = 100_000
"""Messages that are kept for a session while its client is away."""

_SESSION_EXPIRY_S: Final = 3_600
_CONNECT_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.005
_STOP_TIMEOUT_S: Final = 15.0
_QUIET: Final = {"amqtt": logging.CRITICAL, "transitions": logging.WARNING}

_log = structlog.get_logger(__name__)


class EmbeddedBroker:
    """An MQTT 3.1.1 broker in this event loop, as an asynchronous context.

    `port` 0 means a free one; after the start it is the port in use. Only this machine reaches it,
    and nobody is asked for a password.
    """

    def __init__(self, port: int = 0) -> None:
        self.host = LOOPBACK
        self.port = port
        self._broker: Any = None
        self._levels: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        """Start listening.

        Raises:
            BrokerError: The port is in use or cannot be bound.
        """
        self._hush()
        broker = _Broker(_configuration(self.port))
        try:
            await broker.start()
        except AmqttBrokerError as error:
            self._speak()
            raise BrokerError(self._why_not(error)) from error
        self._broker = broker
        self.port = broker.listening_port()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection and stop listening."""
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await self._broker.shutdown()
        except TimeoutError:
            _log.warning("the embedded broker did not stop in time", seconds=_STOP_TIMEOUT_S)
        finally:
            self._broker = None
            self._speak()

    def _why_not(self, error: Exception) -> str:
        cause = error.__cause__
        where = f"{self.host}:{self.port}"
        if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
            return (
                f"port in use: another program listens on {where}; stop it, choose another port, "
                f"or use it with --broker mqtt://{where}"
            )
        return f"the embedded broker cannot listen on {where}: {cause or error}"

    def _hush(self) -> None:
        # amqtt reports a client that goes away as a warning, with the trace of each of its tasks.
        for name, level in _QUIET.items():
            logger = logging.getLogger(name)
            self._levels[name] = logger.level
            logger.setLevel(level)

    def _speak(self) -> None:
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)


def _configuration(port: int) -> dict[str, Any]:
    return {
        "listeners": {"default": {"type": "tcp", "bind": f"{LOOPBACK}:{port}"}},
        "session_expiry_interval": _SESSION_EXPIRY_S,
        "plugins": {f"{__name__}.{Welcome.__name__}": {}},
    }


class Welcome(BaseAuthPlugin):  # type: ignore[misc]  # amqtt is not typed
    """Lets every client in. amqtt's own anonymous plugin also makes it forget their sessions."""

    async def authenticate(self, *, session: Any) -> bool:  # noqa: ARG002 - amqtt's interface
        """Whether this client may connect."""
        return True


class _Snapshot(dict[str, Any]):
    """A dict that may change while it is walked: amqtt awaits between two subscriptions."""

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.keys()))

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]  # typeshed's is private
        """The items of this moment."""
        return dict(super().items()).items()


class _Handler(BrokerProtocolHandler):  # type: ignore[misc]  # amqtt is not typed
    """One connection: gone when it is silent for too long, and nothing unacknowledged is lost."""

    def handle_read_timeout(self) -> None:
        """End the connection of a client that let its keep-alive pass, so that its will is sent."""
        if self.reader is not None:
            self.reader.feed_eof()

    def _stop_waiters(self) -> None:
        session = self.session
        if session is not None and not session.clean_session:
            for message in session.inflight_out.values():
                session.retained_messages.put_nowait(message)
            session.inflight_out.clear()
        super()._stop_waiters()


class _Broker(Broker):  # type: ignore[misc]  # amqtt is not typed
    """amqtt's broker with the repairs that the module's docstring speaks of."""

    def __init__(self, configuration: dict[str, Any]) -> None:
        super().__init__(configuration)
        self._subscriptions = _Snapshot()
        self._open: dict[asyncio.StreamWriter, asyncio.Task[Any] | None] = {}

    def listening_port(self) -> int:
        """The port in use."""
        port: int = self._servers["default"].instance.sockets[0].getsockname()[1]
        return port

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """Serve one connection and close it, whatever it sent."""
        self._open[writer] = asyncio.current_task()
        try:
            await super().stream_connected(reader, writer, listener_name)
        finally:
            writer.close()
            del self._open[writer]

    async def shutdown(self) -> None:
        """Also end connections that never said who they are."""
        await super().shutdown()
        waiting = [task for task in self._open.values() if task is not None]
        for writer in list(self._open):
            writer.close()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _initialize_client_session(self, *arguments: Any) -> tuple[_Handler, Any]:
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                _, session = await super()._initialize_client_session(*arguments)
                await self._end_other_connection(session)
        except TimeoutError as error:
            raise AMQTTError("no CONNECT in time") from error
        session.keep_alive = math.ceil(1.5 * session.keep_alive)
        return _Handler(self.plugins_manager), session

    async def _end_other_connection(self, session: Any) -> None:
        """A client that connects twice continues its session on the new connection only."""
        if not session.transitions.is_connected():
            return
        handler = self._get_handler(session)
        await handler.handle_connection_closed()
        await handler.stop()
        while session.transitions.is_connected():  # noqa: ASYNC110 - amqtt has no event for it
            await asyncio.sleep(_POLL_S)

    async def _delete_session(self, client_id: str) -> None:
        """Also end the old connection of a client that comes back with a clean session."""
        _, handler = self._sessions.get(client_id, (None, None))
        if handler is not None:
            await self._stop_handler(handler)
        await super()._delete_session(client_id)

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Any
    ) -> None:
        """Send retained messages only to who subscribed; amqtt sends them to whoever connects."""
        subscribers = self._subscriptions.get(subscription[0], ())
        if any(subscriber.client_id == session.client_id for subscriber, _ in subscribers):
            await super()._publish_retained_messages_for_subscription(subscription, session)

    async def _publish_session_retained_messages(self, session: Any) -> None:
        """Send what was kept for the session, as the live messages that they are."""
        handler = self._get_handler(session)
        kept = [
            session.retained_messages.get_nowait() for _ in range(session.retained_messages.qsize())
        ]
        await asyncio.gather(
            *(handler.mqtt_publish(m.topic, m.data, m.qos, retain=False) for m in kept),
            return_exceptions=True,
        )

    async def _retain_broadcast_message(
        self, broadcast: dict[str, Any], qos: int, session: Any
    ) -> None:
        if session.retained_messages.qsize() < QUEUE_MAX:
            await super()._retain_broadcast_message(broadcast, qos, session)
        elif not session.attributes.get("cityeye.full"):
            session.attributes["cityeye.full"] = True
            _log.warning("messages are dropped", client=session.client_id, kept=QUEUE_MAX)
