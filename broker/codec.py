"""MQTT 3.1.1 packets to bytes and back, without any I/O.

The fleet and the ingest's receiver share this codec: the client's side of the protocol at QoS 0
and 1, as in the OASIS standard "MQTT Version 3.1.1"; section numbers below are its sections.
Topics stay bytes: whoever needs text decodes once and keeps it.
"""

# ruff: noqa: PLR2004 - the sizes and heads of packets are the protocol's own numbers

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final, TypeAlias

import msgspec

from city.errors import ProtocolError

PACKET_MAX: Final = 1024 * 1024
"""Largest packet that is taken in whole [bytes]; of a larger PUBLISH only the beginning is kept."""

_BEGINNING: Final = 2 + 65_535 + 2 + 65_537
"""So much of a PUBLISH that is too large is kept: any topic, and a payload above every bound."""

MID_MAX: Final = 65_535

PINGREQ: Final = b"\xc0\x00"
DISCONNECT: Final = b"\xe0\x00"

_PUBLISH: Final = 3
_MORE: Final = 0x80
_VARINT_MAX: Final = 4
_SUBACK_FAILURE: Final = 0x80


class ConnectCode(IntEnum):
    """The return codes of CONNACK, table 3.1."""

    ACCEPTED = 0
    BAD_PROTOCOL = 1
    BAD_CLIENT_ID = 2
    UNAVAILABLE = 3
    BAD_CREDENTIALS = 4
    NOT_AUTHORISED = 5


class Publish(msgspec.Struct, frozen=True, gc=False):
    """An application message; `mid` is 0 at QoS 0."""

    topic: bytes
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    mid: int


class Connack(msgspec.Struct, frozen=True, gc=False):
    """The broker's answer to CONNECT."""

    session_present: bool
    code: int


class Puback(msgspec.Struct, frozen=True, gc=False):
    """The broker has taken responsibility for our message `mid`."""

    mid: int


class Suback(msgspec.Struct, frozen=True, gc=False):
    """The broker's answer to SUBSCRIBE: the granted QoS per filter, 128 for a refusal."""

    mid: int
    granted: tuple[int, ...]

    @property
    def refused(self) -> bool:
        """Whether the broker refused at least one filter."""
        return _SUBACK_FAILURE in self.granted


class Unsuback(msgspec.Struct, frozen=True, gc=False):
    """The broker's answer to UNSUBSCRIBE."""

    mid: int


class Pingresp(msgspec.Struct, frozen=True, gc=False):
    """The broker is alive."""


Packet: TypeAlias = Publish | Connack | Puback | Suback | Unsuback | Pingresp


class Decoder:
    """Turns a stream of bytes, cut anywhere, into packets."""

    __slots__ = ("_held", "_held_size", "_needed", "_packet_max", "_skipped")

    def __init__(self, *, packet_max: int = PACKET_MAX) -> None:
        self._packet_max = packet_max
        self._held: list[bytes] = []
        self._held_size = 0
        self._needed = 2
        self._skipped = 0

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that `data` completes, in order.

        Raises:
            ProtocolError: The bytes are not MQTT; the stream cannot be read any further.
        """
        if self._skipped or self._held:
            data = self._continued(data)
        packets: list[Packet] = []
        position, end = 0, len(data)
        while end - position >= 2:
            body = position + 2
            size = data[position + 1]
            if size & _MORE:
                size, body = _varint(data, position + 1, end)
                if body == 0:
                    break
                if size > self._packet_max:
                    if not self._beginning(data, position, body, size, packets):
                        break
                    position = min(body + size, end)
                    continue
            stop = body + size
            if stop > end:
                break
            head = data[position]
            if head >> 4 == _PUBLISH:
                packets.append(_publish(data, head, body, stop))
            else:
                packets.append(_other(data, head, body, stop))
            position = stop
        if position < end:
            rest = data[position:]
            self._held.append(rest)
            self._held_size = len(rest)
            self._needed = self._size_if_known(rest)
        return packets

    def _continued(self, data: bytes) -> bytes:
        """What can be decoded, now that `data` follows what was skipped or held; maybe nothing."""
        if self._skipped:
            skipped = min(self._skipped, len(data))
            self._skipped -= skipped
            return data[skipped:]
        self._held.append(data)
        self._held_size += len(data)
        if self._held_size < self._needed:
            return b""
        whole = b"".join(self._held)
        self._held.clear()
        return whole

    def _beginning(
        self, data: bytes, position: int, body: int, size: int, packets: list[Packet]
    ) -> bool:
        """Add the beginning of a PUBLISH that is too large, if it is there; skip the rest."""
        if data[position] >> 4 != _PUBLISH:
            raise ProtocolError(f"packet of {size} bytes, at most {self._packet_max}")
        kept = body + min(size, _BEGINNING)
        if kept > len(data):
            return False
        packets.append(_publish(data, data[position], body, kept))
        self._skipped = max(0, body + size - len(data))
        return True

    def _size_if_known(self, rest: bytes) -> int:
        """How many bytes of the packet at the start of `rest` are needed, if its size is known."""
        if len(rest) < 2:
            return len(rest) + 1
        size, body = _varint(rest, 1, len(rest))
        if not body:
            return len(rest) + 1
        return body + (size if size <= self._packet_max else min(size, _BEGINNING))


def _varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    """The remaining length at `start` (section 2.2.3) and where it ends; 0 if it is cut off."""
    value = 0
    for count in range(_VARINT_MAX):
        position = start + count
        if position >= end:
            return 0, 0
        byte = data[position]
        value |= (byte & 0x7F) << (7 * count)
        if not byte & _MORE:
            return value, position + 1
    raise ProtocolError("remaining length of more than four bytes")


def _publish(data: bytes, head: int, body: int, stop: int) -> Publish:
    """Section 3.3."""
    qos = head >> 1 & 3
    topic_end = body + 2 + (data[body] << 8 | data[body + 1]) if stop - body >= 2 else stop + 1
    start = topic_end + 2 if qos else topic_end
    if start > stop:
        raise ProtocolError("PUBLISH shorter than its topic")
    if not qos:
        return Publish(data[body + 2 : topic_end], data[start:stop], 0, head & 1 == 1, False, 0)
    if qos != 1:
        raise ProtocolError(f"PUBLISH with QoS {qos}, which nobody asked for")
    mid = data[topic_end] << 8 | data[topic_end + 1]
    if not mid:
        raise ProtocolError("PUBLISH with packet identifier 0")
    return Publish(
        data[body + 2 : topic_end], data[start:stop], 1, head & 1 == 1, head & 8 == 8, mid
    )  # fmt: skip


def _other(data: bytes, head: int, body: int, stop: int) -> Packet:
    """Everything that a broker sends besides PUBLISH."""
    kind, size = head, stop - body
    if kind == 0x40 and size == 2:  # section 3.4
        return Puback(data[body] << 8 | data[body + 1])
    if kind == 0x20 and size == 2:  # section 3.2
        return Connack(data[body] & 1 == 1, data[body + 1])
    if kind == 0x90 and size >= 3:  # section 3.9
        return Suback(data[body] << 8 | data[body + 1], tuple(data[body + 2 : stop]))
    if kind == 0xB0 and size == 2:  # section 3.11
        return Unsuback(data[body] << 8 | data[body + 1])
    if kind == 0xD0 and size == 0:  # section 3.13
        return Pingresp()
    raise ProtocolError(f"packet 0x{head:02x} of {size} bytes does not belong to a client")


def field(value: str | bytes) -> bytes:
    """A length-prefixed string, section 1.5.3.

    Raises:
        ProtocolError: It has more than 65,535 bytes.
    """
    raw = value.encode() if isinstance(value, str) else value
    if len(raw) > MID_MAX:
        raise ProtocolError(f"string of {len(raw)} bytes, at most {MID_MAX}")
    return struct.pack("!H", len(raw)) + raw


def _length(size: int) -> bytes:
    """The remaining length, section 2.2.3."""
    if size < _MORE:
        return bytes((size,))
    if size < _MORE * _MORE:
        return bytes((size & 0x7F | _MORE, size >> 7))
    out = bytearray()
    while True:
        size, low = size >> 7, size & 0x7F
        if not size:
            out.append(low)
            return bytes(out)
        out.append(low | _MORE)


def publish(
    topic: bytes, payload: bytes, *, mid: int = 0, retain: bool = False, dup: bool = False
) -> bytes:
    """PUBLISH at QoS 1, or at QoS 0 when `mid` is 0; `topic` is already a `field`."""
    if mid:
        head = 0x32 | retain | dup << 3
        size = _length(len(topic) + 2 + len(payload))
        return b"%c%b%b%c%c%b" % (head, size, topic, mid >> 8, mid & 0xFF, payload)
    return b"%c%b%b%b" % (0x30 | retain, _length(len(topic) + len(payload)), topic, payload)


def as_repeated(packet: bytes) -> bytes:
    """The same PUBLISH, marked as sent before (section 3.3.1.1)."""
    return bytes((packet[0] | 8,)) + packet[1:]


def puback(mid: int) -> bytes:
    """PUBACK, section 3.4."""
    return b"\x40\x02%c%c" % (mid >> 8, mid & 0xFF)


def pubacks(mids: Iterable[int]) -> bytes:
    """One PUBACK per identifier, in that order."""
    return b"".join([b"\x40\x02%c%c" % (mid >> 8, mid & 0xFF) for mid in mids])


class Will(msgspec.Struct, frozen=True):
    """The message that the broker publishes when the client is lost, at QoS 1."""

    topic: str
    payload: bytes
    retain: bool = True


def connect(
    client_id: str,
    *,
    keep_alive_s: int,
    clean: bool,
    will: Will | None = None,
    username: str | None = None,
    password: bytes | None = None,
) -> bytes:
    """CONNECT, section 3.1."""
    flags = 0x02 if clean else 0
    parts = [field(client_id)]
    if will is not None:
        flags |= 0x04 | 0x08 | (0x20 if will.retain else 0)
        parts += [field(will.topic), field(will.payload)]
    if username is not None:
        flags |= 0x80
        parts.append(field(username))
        if password is not None:
            flags |= 0x40
            parts.append(field(password))
    body = b"\x00\x04MQTT\x04%c%b%b" % (flags, struct.pack("!H", keep_alive_s), b"".join(parts))
    return b"\x10" + _length(len(body)) + body


def subscribe(mid: int, filters: Sequence[tuple[str, int]]) -> bytes:
    """SUBSCRIBE to (filter, QoS) pairs, section 3.8."""
    body = struct.pack("!H", mid) + b"".join(field(f) + bytes((qos,)) for f, qos in filters)
    return b"\x82" + _length(len(body)) + body
