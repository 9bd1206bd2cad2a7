"""A device of a load test: an MQTT client that costs as little as a thousand of them allow.

Beyond what `sensors.device.VirtualDevice` does, it is told what to send and when that was due, so
that delays count from there; it knows faults, and QoS 0; it makes what it rarely needs when it
needs it.
"""

import asyncio
import time
from collections import Counter, deque
from typing import Final, Protocol, cast

from broker import codec
from city.errors import ProtocolError
from load.faults import MALFORMED, NONE, OVERSIZED
from load.payloads import Speaker
from load.speaking import Birth
from sensors.device import Connection

CONTROL: Final = -1
"""The lot of what is no reading: births and farewells."""

_READING_MIDS: Final = 60_000
"""Readings use the packet identifiers up to here, everything else those above."""
_FORGOTTEN: Final = frozenset({CONTROL, MALFORMED, OVERSIZED})
"""What is not sent again: births are said anew; what is spoilt may be what broke the connection."""
_CONNACK: Final = 0x20
_PUBACK: Final = 0x40
_ANSWER_SIZE: Final = 4
_TWO: Final = b"\x02"
"""The remaining length of a CONNACK and a PUBACK."""
_PINGRESP: Final = b"\xd0\x00"
_ONLINE: Final = Connection.ONLINE

Held = tuple[bytes, int, int]
"""A packet or payload, when it was due [ms on the wall], and its lot."""


class Home(Protocol):
    """What a device needs of its fleet: limits, counters, and somebody who listens."""

    qos: int
    window: int
    """Messages in flight per device."""
    backlog_max: int
    """Messages that a device keeps until they can be sent."""
    at_s: float
    """The event loop's time, to within a tick."""
    sent: int
    payload_bytes: int
    acked: int
    reasons: Counter[str]
    """Why connections were refused or lost."""
    acks_us: list[int]
    """Delays from when a message was due to its acknowledgement."""

    def came(self, device: "LoadDevice") -> None:
        """Called when a device is online."""

    def lost(self, device: "LoadDevice", reason: str, *, online: bool) -> None:
        """Called when a connection is gone; `online`: the broker had accepted it.

        There is no reason where we dropped it ourselves.
        """

    def refused(self, device: "LoadDevice", code: int) -> None:
        """Called when the broker refuses a device."""

    def settled(self, due_ms: int, lot: int) -> None:
        """Called when a message of an uncommon lot needs no more care."""

    def pushed_out(self, due_ms: int, lot: int) -> None:
        """Called when a full backlog loses a message."""


class LoadDevice(asyncio.Protocol):
    """A device on the wire."""

    __slots__ = (
        "_control_mid", "_decoder", "_home", "_mid", "_online", "_stuffed", "_transport",
        "backlog", "began_s", "failures", "heard_at_s", "number", "sent_at_s", "speaker", "state", "unacked",
    )  # fmt: skip

    def __init__(self, number: int, speaker: Speaker, home: Home) -> None:
        self.number = number
        """Among the shard's devices."""
        self.speaker = speaker
        self.state = Connection.ASLEEP
        self.began_s = 0.0
        """When its connection was begun, on the monotonic clock."""
        self.failures = 0
        """How often in a row it could not connect, or lost its connection."""
        self.heard_at_s = 0.0
        self.sent_at_s = 0.0
        self.unacked: dict[int, Held] = {}
        self.backlog: deque[Held] | None = None
        self._home = home
        self._transport: asyncio.Transport | None = None
        self._decoder: codec.Decoder | None = None
        self._online = False
        self._stuffed = False
        self._mid = 0
        self._control_mid = _READING_MIDS

    @property
    def waiting(self) -> int:
        """Messages that the broker has not acknowledged; at QoS 0, that are not sent."""
        return len(self.unacked) + (len(self.backlog) if self.backlog else 0)

    @property
    def connected(self) -> bool:
        """Whether there is a connection, usable or not."""
        return self._transport is not None

    @property
    def oldest_ms(self) -> int | None:
        """When the first message that still waits was due; those of uncommon lots left out."""
        for due_ms, lot in ((due_ms, lot) for _, due_ms, lot in self.unacked.values()):
            if lot == NONE:
                return due_ms
        for _, due_ms, lot in self.backlog or ():
            if lot == NONE:
                return due_ms
        return None

    def hand(self, payload: bytes, due_ms: int, lot: int) -> None:
        """Publish a message, or keep it until that is possible."""
        if (
            self.state is _ONLINE
            and not self.backlog
            and len(self.unacked) < self._home.window
            and not self._stuffed
        ):
            self._publish(payload, due_ms, lot)
            return
        if self.backlog is None:
            self.backlog = deque()
        elif len(self.backlog) >= self._home.backlog_max:
            _, oldest_ms, its_lot = self.backlog.popleft()
            self._home.pushed_out(oldest_ms, its_lot)
        self.backlog.append((payload, due_ms, lot))

    def say(self, words: list[Birth]) -> None:
        """Publish what is no reading, at QoS 1."""
        packets = []
        for topic, payload, retain in words:
            self._control_mid += 1
            if self._control_mid >= codec.MID_MAX:
                self._control_mid = _READING_MIDS + 1
            packet = codec.publish(topic, payload, mid=self._control_mid, retain=retain)
            self.unacked[self._control_mid] = (packet, 0, CONTROL)
            packets.append(packet)
        self.write(b"".join(packets))

    def part(self) -> None:
        """Disconnect, so that the broker does not publish the last will."""
        self.state = Connection.GONE
        if self._transport is not None:
            self._transport.write(codec.DISCONNECT)
            self._transport.close()

    def write(self, data: bytes) -> None:
        """Put bytes on the wire."""
        if self._transport is not None and data:
            self.sent_at_s = self._home.at_s
            self._transport.write(data)

    def abort(self) -> None:
        """Drop the connection without a word, as a power cut does."""
        transport, self._transport = self._transport, None
        if transport is not None:
            self.state = Connection.CONNECTING
            transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._stuffed = False

    def pause_writing(self) -> None:
        """Keep what comes: the network takes no more; called by the event loop."""
        self._stuffed = True

    def resume_writing(self) -> None:
        """Send what was kept; called by the event loop."""
        self._stuffed = False
        self._send_backlog()

    def data_received(self, data: bytes) -> None:
        """Decode and act; called by the event loop."""
        self.heard_at_s = self._home.at_s
        if self._decoder is None:
            size = len(data)
            if size == _ANSWER_SIZE and data[0] == _PUBACK:
                self._acknowledged(data[2] << 8 | data[3], time.time_ns() // 1000)
                return
            if data[1::_ANSWER_SIZE] == _TWO * (size // _ANSWER_SIZE) and not size % _ANSWER_SIZE:
                self._read_answers(data)
                return
            if data == _PINGRESP:
                return
        self._read(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fall asleep; called by the event loop."""
        online, cut = self._online, self._transport is None
        self._transport = None
        self._decoder = None
        self._online = False
        self._forget(_FORGOTTEN)
        if self.state is not Connection.GONE:
            self.state = Connection.ASLEEP
            reason = "" if cut else str(exc) if exc else "the broker closed the connection"
            self._home.lost(self, reason, online=online)

    def _forget(self, lots: frozenset[int]) -> None:
        for mid, (_, due_ms, lot) in list(self.unacked.items()):
            if lot in lots:
                del self.unacked[mid]
                self._home.settled(due_ms, lot)

    def _read_answers(self, data: bytes) -> None:
        """Packets of four bytes each: CONNACK, PUBACK; they leave nothing to be remembered."""
        now_us = time.time_ns() // 1000
        for place in range(0, len(data), _ANSWER_SIZE):
            if data[place] == _PUBACK:
                self._acknowledged(data[place + 2] << 8 | data[place + 3], now_us)
            elif data[place] == _CONNACK:
                self._answered_hello(data[place + 3])

    def _read(self, data: bytes) -> None:
        """Whatever a broker may say, cut anywhere."""
        if self._decoder is None:
            self._decoder = codec.Decoder()
        try:
            packets = self._decoder.feed(data)
        except ProtocolError as error:
            self._home.reasons[f"the broker sent what is not MQTT 3.1.1: {error}"] += 1
            self.abort()
            return
        now_us = time.time_ns() // 1000
        for packet in packets:
            if type(packet) is codec.Puback:
                self._acknowledged(packet.mid, now_us)
            elif type(packet) is codec.Connack:
                self._answered_hello(packet.code)
            elif type(packet) is codec.Publish and packet.mid:
                self.write(codec.puback(packet.mid))

    def _answered_hello(self, code: int) -> None:
        if code:
            self._home.refused(self, code)
            self.abort()
            return
        self.state = _ONLINE
        self._online = True
        again = [codec.as_repeated(packet) for packet, _, _ in self.unacked.values()]
        self._home.came(self)
        self.write(b"".join(again))
        self._home.sent += len(again)
        self._send_backlog()

    def _acknowledged(self, mid: int, now_us: int) -> None:
        held = self.unacked.pop(mid, None)
        if held is None:
            return
        _, due_ms, lot = held
        if lot != CONTROL:
            home = self._home
            home.acked += 1
            home.acks_us.append(now_us - due_ms * 1000)
            if lot:
                home.settled(due_ms, lot)
        if self.backlog:
            self._send_backlog()
        elif not self.unacked:
            self.unacked.clear()  # an emptied dictionary keeps its table, 160 bytes

    def _send_backlog(self) -> None:
        while (
            self.backlog
            and self.state is _ONLINE
            and not self._stuffed
            and len(self.unacked) < self._home.window
        ):
            self._publish(*self.backlog.popleft())
        if not self.backlog:
            self.backlog = None

    def _publish(self, payload: bytes, due_ms: int, lot: int) -> None:
        home = self._home
        if home.qos:
            self._mid = mid = self._mid % _READING_MIDS + 1
            packet = codec.publish(self.speaker.topic, payload, mid=mid)
            self.unacked[mid] = (packet, due_ms, lot)
        else:
            packet = codec.publish(self.speaker.topic, payload)
            if lot:
                home.settled(due_ms, lot)
        home.sent += 1
        home.payload_bytes += len(payload)
        self.sent_at_s = home.at_s
        self._transport.write(packet)  # type: ignore[union-attr]  # whoever is online has one
