"""What devices say and where, and how a subscriber reads it back, by the template of a load test."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from broker import codec
from broker.messages import PAYLOAD_MAX
from city.cityfile import Device, Position
from city.errors import InputError
from load.placeholders import Slot, filled, pieces
from load.speaking import Birth, Identity, NativeVoice, TextVoice, Voice
from load.template import NATIVE, ReadBack, Said, Template

__all__ = ["NATIVE", "ReadBack", "Reader", "Said", "Speaker", "Template"]

Found = tuple[bytes, int, int]
"""The key of a message's device, its number, and its instant [ms], 0 when that is unknown."""

_UNREADABLE: Final = (
    ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip
"""How a message fails that is not of the template."""

_FREE: Final = frozenset({"name", "name_zh", "model"})
"""Fields that people word: they may hold slashes."""


class Speaker:
    """How one device speaks; made once per device.

    Sparkplug counts messages per connection, so its speaker is asked for its will before each
    connect, for its births after it, and for payloads in the order of their numbers.
    """

    __slots__ = ("_voice", "client_id", "topic", "username")

    def __init__(
        self, template: Template, device: Device, position: Position, *, run: str, index: int = 0
    ) -> None:
        """`run` is the name of the load test, `index` the device's number in it.

        Raises:
            ProtocolError: The topic has more than 65,535 bytes.
        """
        identity = Identity(device, position, run, index)
        words = identity.words(template)
        self.client_id = words["client_id"]
        self.username = filled(template.username, words) if template.username else None
        self.topic = codec.field(words["topic"])
        self._voice = _voice(template, identity, words)

    @property
    def will(self) -> codec.Will | None:
        """The last will of the next connection."""
        return self._voice.will()

    def births(self, now_ms: int) -> list[Birth]:
        """What is said after each connect: topic field, payload, whether it is retained."""
        return self._voice.births(now_ms)

    def farewells(self, now_ms: int) -> list[Birth]:
        """What is said before leaving on purpose, after which the broker drops the will."""
        return self._voice.farewells(now_ms)

    def payload(
        self, seq: int, ts_ms: int, values: dict[str, float], flags: dict[str, str] | None
    ) -> bytes:
        """Message `seq` of what was due at `ts_ms` [ms since the epoch]."""
        return self._voice.payload(seq, ts_ms, values, flags)


def _voice(template: Template, identity: Identity, words: dict[str, str]) -> Voice:
    if template.format == "native":
        return NativeVoice(identity.device, identity.position)
    if template.format == "sparkplug":
        from load.sparkplug import EdgeNode  # noqa: PLC0415 - protobuf is only loaded when used

        return EdgeNode(identity.device, words["topic"])
    return TextVoice(template, identity, words)


class Reader:
    """Finds in messages of a template what a subscriber counts by."""

    def __init__(self, template: Template) -> None:
        """Prepare to read.

        Raises:
            InputError: The template does not say how it is read back.
        """
        self.filters = filters(template)
        self._find = _finder(template)
        self._device = template.read.device if template.read else None

    def read(self, topic: bytes, payload: bytes) -> Found | None:
        """A message's device by its `key_of`, number, and instant [ms; 0: unknown].

        None when it cannot be read: not of this template, cut off, or larger than any device's.
        """
        if len(payload) > PAYLOAD_MAX:
            return None
        try:
            return self._find(topic, payload)
        except _UNREADABLE:
            return None

    def key_of(self, speaker: Speaker) -> bytes:
        """By what `read` names the device of a speaker.

        Raises:
            LookupError: Its messages do not name it where the template says.
        """
        if self._device is None:
            return speaker.topic[2:]
        found = self.read(b"", speaker.payload(0, 0, {}, None))
        if found is None:
            raise LookupError(f"no text at {self._device} in the messages of {speaker.client_id}")
        return found[0]


class Pointer:
    """A JSON pointer (RFC 6901), with `*` for the only member of an object and `#` for its name."""

    def __init__(self, text: str) -> None:
        self.steps = tuple(
            step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:]
        )

    def of(self, content: Any) -> Any:
        """What it points to.

        Raises:
            LookupError: There is nothing of that name.
            TypeError: What is there has no members.
            ValueError: The content has several members where one is meant, or a list no such index.
        """
        for step in self.steps:
            if isinstance(content, list):
                content = content[int(step)]
            elif step in {"*", "#"} and step not in content:
                ((name, member),) = content.items()
                content = name if step == "#" else member
            else:
                content = content[step]
        return content


class _Native(msgspec.Struct, gc=False):
    """What is decoded of CityEye's own telemetry."""

    ts: int
    seq: int


def filters(template: Template) -> tuple[str, ...]:
    """What a subscriber subscribes to: fields become `+`, or `#` where one may hold slashes."""
    levels: list[str] = []
    level, free = "", False
    for piece in (*pieces(template.topic), "/"):
        if isinstance(piece, Slot):
            level, free = "+", free or piece.name in _FREE
            continue
        first, *others = piece.split("/")
        level = "+" if level == "+" else level + first
        for other in others:
            if free:
                return ("/".join([*levels, "#"]),)
            levels.append(level)
            level = other
    return ("/".join(levels),)


def _finder(template: Template) -> Callable[[bytes, bytes], Found]:
    """What finds device, number and instant by topic and payload."""
    if template.format == "native":
        return _native
    if template.format == "sparkplug":
        from load.sparkplug import counted  # noqa: PLC0415 - protobuf is only loaded when used

        return lambda topic, payload: (topic, *counted(payload))
    if template.read is None:
        raise InputError(
            f"template {template.name!r} does not say how it is read back, so what arrives cannot "
            "be counted; add `read: {seq: /…}` to it with the JSON pointer of the number, or test "
            "without subscribers"
        )
    return _pointed(template.read)


_decode_native: Final = msgspec.json.Decoder(_Native).decode


def _native(topic: bytes, payload: bytes) -> Found:
    message = _decode_native(payload)
    return topic, message.seq, message.ts


def _pointed(read: ReadBack) -> Callable[[bytes, bytes], Found]:
    seq_at = Pointer(read.seq)
    ts_at = Pointer(read.ts) if read.ts else None
    device_at = Pointer(read.device) if read.device else None
    to_ms = _TO_MS[read.ts_unit]

    def find(topic: bytes, payload: bytes) -> Found:
        content = msgspec.json.decode(payload)
        seq = seq_at.of(content)
        if type(seq) is not int:
            raise TypeError(f"{read.seq} is no whole number")
        key = device_at.of(content).encode() if device_at else topic
        return key, seq, to_ms(ts_at.of(content)) if ts_at else 0

    return find


def _of_ms(ts: Any) -> int:
    return int(ts)


def _of_seconds(ts: Any) -> int:
    at_ms: int = round(ts * 1000)
    return at_ms


def _of_iso(ts: Any) -> int:
    return round(datetime.fromisoformat(ts).timestamp() * 1000)


_TO_MS: Final[Mapping[str, Callable[[Any], int]]] = {
    "ms": _of_ms, "s": _of_seconds, "iso": _of_iso,
}  # fmt: skip
