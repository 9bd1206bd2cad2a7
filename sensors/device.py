"""One virtual device: a real MQTT client with its own connection, identity and memory.

The states of its connection: asleep -> connecting -> online -> asleep, and so on until it says
goodbye. What it measures while it is not online waits in its backlog with the instant of
measurement; what was sent and not acknowledged is sent again first.
"""

import asyncio
from collections import deque
from enum import Enum, auto
from typing import Final, Protocol, cast

from msgspec.structs import replace

from broker import codec
from broker.messages import Birth, MeasuredQuantity, Reply, Status, Telemetry, encode
from broker.topics import Channel, device_topic
from city.cityfile import Device, Position
from city.errors import ProtocolError
from city.quantities import QUANTITIES

_TELEMETRY_MIDS: Final = 60_000
"""Telemetry uses the packet identifiers up to here, everything else those above."""

_RETAIN: Final = 0x01
"""The bit in a PUBLISH packet's first byte."""


class Connection(Enum):
    """What a device's connection is doing."""

    ASLEEP = auto()
    CONNECTING = auto()
    ONLINE = auto()
    GONE = auto()


class Home(Protocol):
    """What a device needs of its fleet."""

    window: int
    """Messages in flight per device."""
    backlog_max: int
    """Messages that a device keeps while it is not online."""
    acknowledged: int
    """Telemetry messages that the broker has acknowledged."""
    dropped: int
    """Telemetry messages that a full backlog pushed out."""
    online: int
    """Devices that are online."""
    at_s: float
    """The event loop's time, to within a slot: asking it for every message costs too much."""

    def now_ms(self) -> int:
        """The simulated instant."""

    def lost(self, device: "VirtualDevice", reason: str) -> None:
        """Called when a device's connection is gone."""

    def refused(self, device: "VirtualDevice", code: int) -> None:
        """Called when the broker refuses a device."""

    def commanded(self, device: "VirtualDevice", payload: bytes) -> None:
        """Called when a command arrives."""


def birth_of(device: Device, position: Position) -> Birth:
    """The document by which a device that stands at `position` introduces itself."""
    return Birth(
        kind=device.kind.id,
        model=device.kind.model,
        position=position,
        interval_s=device.interval_ms / 1000,
        quantities={
            name: MeasuredQuantity(unit=q.unit, low=q.low, high=q.high)
            for name in device.kind.quantities
            for q in (QUANTITIES[name],)
        },
        name=device.site.name,
        name_zh=device.site.name_zh,
        plant=device.plant.id if device.plant else None,
        commands=device.kind.commands,
    )


class VirtualDevice(asyncio.Protocol):
    """A device on the wire."""

    __slots__ = (
        "_backlog", "_command_topic", "_control_mid", "_decoder", "_home", "_mid", "_seq",
        "_telemetry_topic", "_transport", "_unacked", "answered", "device", "heard_at_s",
        "position", "sent_at_s", "state",
    )  # fmt: skip

    def __init__(self, device: Device, position: Position, home: Home) -> None:
        self.device = device
        self.position = position
        self.state = Connection.ASLEEP
        self.heard_at_s = 0.0
        self.sent_at_s = 0.0
        self.answered: deque[str] = deque(maxlen=32)
        self._home = home
        self._transport: asyncio.Transport | None = None
        self._decoder: codec.Decoder | None = None
        self._telemetry_topic = codec.field(device_topic(device.address, Channel.TELEMETRY))
        self._seq = 0
        self._mid = 0
        self._control_mid = _TELEMETRY_MIDS
        self._unacked: dict[int, bytes] = {}
        self._backlog: deque[bytes] = deque()

    @property
    def client_id(self) -> str:
        """The identity of this device at the broker."""
        address = self.device.address
        return f"cityeye.{address.city}.{address.site}.{address.device}"

    @property
    def waiting(self) -> int:
        """Messages that the broker has not acknowledged."""
        return len(self._unacked) + len(self._backlog)

    @property
    def connected(self) -> bool:
        """Whether there is a connection, usable or not."""
        return self._transport is not None

    def hello(self, *, keep_alive_s: int, username: str | None, password: bytes | None) -> bytes:
        """The CONNECT packet, with the last will."""
        will = codec.Will(
            device_topic(self.device.address, Channel.STATUS), encode(Status(state="lost"))
        )
        return codec.connect(
            self.client_id,
            keep_alive_s=keep_alive_s,
            clean=False,
            will=will,
            username=username,
            password=password,
        )

    def measure(self, ts: int, values: dict[str, float], flags: dict[str, str] | None) -> None:
        """Publish one sample, or keep it until that is possible."""
        telemetry = Telemetry(ts, self._seq, values, flags)  # type: ignore[arg-type]
        self._seq += 1
        payload = encode(telemetry)
        if (
            self.state is Connection.ONLINE
            and len(self._unacked) < self._home.window
            and not self._backlog
        ):
            self._send_telemetry(payload)
        else:
            if len(self._backlog) >= self._home.backlog_max:
                self._backlog.popleft()
                self._home.dropped += 1
            self._backlog.append(payload)

    def say(self, channel: Channel, payload: bytes, *, retain: bool = False) -> None:
        """Publish something that is no telemetry; kept until it is acknowledged."""
        self._control_mid += 1
        if self._control_mid >= codec.MID_MAX:
            self._control_mid = _TELEMETRY_MIDS + 1
        topic = codec.field(device_topic(self.device.address, channel))
        packet = codec.publish(topic, payload, mid=self._control_mid, retain=retain)
        self._unacked[self._control_mid] = packet
        if self.state is Connection.ONLINE:
            self.write(packet)

    def retime(self, interval_s: float) -> None:
        """Say in a new birth document that we measure at another interval now."""
        self.device = replace(self.device, interval_ms=round(1000 * interval_s))
        self.say(Channel.META, encode(birth_of(self.device, self.position)), retain=True)

    def reply(self, reply: Reply) -> None:
        """Answer a command."""
        self.say(Channel.REPLY, encode(reply))

    def goodbye(self) -> None:
        """Say that we leave on purpose; `part` follows once that is acknowledged."""
        self.say(
            Channel.STATUS, encode(Status(state="offline", ts=self._home.now_ms())), retain=True
        )

    def part(self) -> None:
        """Disconnect, so that the broker does not publish the last will."""
        if self.state is Connection.ONLINE:
            self._home.online -= 1
        self.state = Connection.GONE
        if self._transport is not None:
            self._transport.write(codec.DISCONNECT)
            self._transport.close()

    def write(self, data: bytes) -> None:
        """Put bytes on the wire."""
        if self._transport is not None:
            self.sent_at_s = self._home.at_s
            self._transport.write(data)

    def ping(self) -> None:
        """Ask the broker for a sign of life."""
        self.write(codec.PINGREQ)

    def abort(self) -> None:
        """Drop the connection without a word, as a power cut does."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._decoder = codec.Decoder()

    def data_received(self, data: bytes) -> None:
        """Decode and act; called by the event loop."""
        self.heard_at_s = self._home.at_s
        decoder = self._decoder
        if decoder is None:
            return
        try:
            packets = decoder.feed(data)
        except ProtocolError:
            self.abort()
            return
        for packet in packets:
            if type(packet) is codec.Puback:
                self._acknowledged(packet.mid)
            elif type(packet) is codec.Connack:
                self._answered_hello(packet)
            elif type(packet) is codec.Publish:
                if packet.mid:
                    self.write(codec.puback(packet.mid))
                self._home.commanded(self, packet.payload)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fall asleep; called by the event loop."""
        self._transport = None
        self._decoder = None
        if self.state is Connection.ONLINE:
            self._home.online -= 1
        if self.state is not Connection.GONE:
            self.state = Connection.ASLEEP
            self._home.lost(self, str(exc) if exc else "the broker closed the connection")

    def _answered_hello(self, packet: codec.Connack) -> None:
        if packet.code:
            self._home.refused(self, packet.code)
            return
        self.state = Connection.ONLINE
        self._home.online += 1
        address = self.device.address
        self.write(codec.subscribe(codec.MID_MAX, [(device_topic(address, Channel.COMMAND), 1)]))
        # what is retained is said anew: an older birth or state must not come after it
        self._unacked = {mid: sent for mid, sent in self._unacked.items() if not sent[0] & _RETAIN}
        repeated = list(self._unacked.values())
        self.say(Channel.META, encode(birth_of(self.device, self.position)), retain=True)
        online = Status(state="online", ts=self._home.now_ms())
        self.say(Channel.STATUS, encode(online), retain=True)
        for sent_before in repeated:
            self.write(codec.as_repeated(sent_before))
        self._send_backlog()

    def _acknowledged(self, mid: int) -> None:
        if self._unacked.pop(mid, None) is None:
            return
        if mid <= _TELEMETRY_MIDS:
            self._home.acknowledged += 1
        if self._backlog:
            self._send_backlog()

    def _send_backlog(self) -> None:
        while self._backlog and len(self._unacked) < self._home.window:
            self._send_telemetry(self._backlog.popleft())

    def _send_telemetry(self, payload: bytes) -> None:
        mid = self._mid % _TELEMETRY_MIDS + 1
        self._mid = mid
        packet = codec.publish(self._telemetry_topic, payload, mid=mid)
        self._unacked[mid] = packet
        self.write(packet)
