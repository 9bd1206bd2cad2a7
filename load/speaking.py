"""How a device speaks: its payloads, births and will, by the format of its template."""

from functools import lru_cache
from typing import Protocol

import msgspec

from broker import codec
from broker.messages import ENCODER, Status, Telemetry, encode
from broker.topics import Channel, device_topic
from city.cityfile import Device, Position
from city.quantities import QUANTITIES
from load.placeholders import (
    Filled,
    Flags,
    Getter,
    begun,
    device_words,
    filled,
    getter,
    quantity_words,
    slots,
    term_words,
    time_words,
    value_getter,
)
from load.template import Said, Template
from sensors.device import birth_of

Birth = tuple[bytes, bytes, bool]
"""A topic as a `codec.field`, a payload, whether it is retained."""


class Voice(Protocol):
    """What a format makes of a device."""

    def will(self) -> codec.Will | None:
        """The last will for the next connection."""

    def births(self, now_ms: int) -> list[Birth]:
        """What is said after each connect."""

    def farewells(self, now_ms: int) -> list[Birth]:
        """What is said before leaving on purpose."""

    def payload(self, seq: int, ts_ms: int, values: dict[str, float], flags: Flags) -> bytes:
        """One message."""


class NativeVoice:
    """CityEye's own messages."""

    __slots__ = ("_device", "_position")

    def __init__(self, device: Device, position: Position) -> None:
        self._device = device
        self._position = position

    def will(self) -> codec.Will:
        """The device is lost."""
        topic = device_topic(self._device.address, Channel.STATUS)
        return codec.Will(topic, encode(Status(state="lost")))

    def births(self, now_ms: int) -> list[Birth]:
        """What it is, and that it is there."""
        address = self._device.address
        meta = codec.field(device_topic(address, Channel.META))
        status = codec.field(device_topic(address, Channel.STATUS))
        return [
            (meta, encode(birth_of(self._device, self._position)), True),
            (status, encode(Status(state="online", ts=now_ms)), True),
        ]

    def farewells(self, now_ms: int) -> list[Birth]:
        """That it leaves."""
        topic = codec.field(device_topic(self._device.address, Channel.STATUS))
        return [(topic, encode(Status(state="offline", ts=now_ms)), True)]

    def payload(self, seq: int, ts_ms: int, values: dict[str, float], flags: Flags) -> bytes:
        """One telemetry message."""
        return ENCODER.encode(Telemetry(ts_ms, seq, values, flags))  # type: ignore[arg-type]


class Identity(msgspec.Struct, frozen=True, gc=False):
    """Who speaks: a device in a load test."""

    device: Device
    position: Position
    run: str
    index: int

    def words(self, template: Template) -> dict[str, str]:
        """The fields of the device, with client identifier and topic by the template."""
        words = device_words(self.device, self.position, run=self.run, index=self.index)
        words["client_id"] = filled(template.client_id, words)
        words["topic"] = filled(template.topic, words)
        return words


class TextVoice:
    """Messages by a template's own texts.

    Thousands of these live in one process, so what only births and wills need is not kept.
    """

    __slots__ = ("_format", "_getters", "_identity", "_template")

    def __init__(self, template: Template, identity: Identity, words: dict[str, str]) -> None:
        self._template = template
        self._identity = identity
        json = template.format == "json"
        self._format, left = begun(template.payload, words, json=json)
        self._getters = tuple(
            self._records(words) if slot.name == "records" else getter(slot, json=json)
            for slot in left
        )

    def will(self) -> codec.Will | None:
        """The template's will."""
        said = self._template.will
        if said is None:
            return None
        words = self._identity.words(self._template)
        return codec.Will(filled(said.topic, words), _payload(said, words), said.retain)

    def births(self, now_ms: int) -> list[Birth]:
        """The template's births, some of them for every quantity."""
        if not self._template.birth:
            return []
        words = self._identity.words(self._template) | time_words(now_ms)
        said: list[Birth] = []
        for birth in self._template.birth:
            names = self._identity.device.kind.quantities if birth.each_quantity else ()
            said += (_said(birth, words | self._of(name)) for name in names)
            if not birth.each_quantity:
                said.append(_said(birth, words))
        return said

    def farewells(self, now_ms: int) -> list[Birth]:  # noqa: ARG002 - a will has no instant
        """What the template's will says."""
        will = self.will()
        return [] if will is None else [(codec.field(will.topic), will.payload, will.retain)]

    def payload(self, seq: int, ts_ms: int, values: dict[str, float], flags: Flags) -> bytes:
        """The template's payload."""
        return self._format % tuple([fill(seq, ts_ms, values, flags) for fill in self._getters])

    def _of(self, quantity: str) -> dict[str, str]:
        return quantity_words(QUANTITIES[quantity]) | term_words(self._template.terms, quantity)

    def _records(self, words: dict[str, str]) -> Getter:
        """What fills `${records}`; one for all devices of a kind where no device is named in it."""
        template = self._template
        own = {str(slot) for slot in slots(template.record)} & words.keys()
        return _recital(
            template.record,
            template.separator,
            self._identity.device.kind.quantities,
            tuple((name, words[name]) for name in sorted(own)),
            tuple((name, tuple(entries.items())) for name, entries in template.terms.items()),
            template.format == "json",
        )


class Recital:
    """The records of a message, one per value."""

    __slots__ = ("_formats", "_getters", "_only_value", "_separator")

    def __init__(
        self,
        record: str,
        separator: str,
        quantities: tuple[str, ...],
        words: dict[str, str],
        terms: dict[str, dict[str, str]],
        *,
        json: bool,
    ) -> None:
        self._separator = separator.encode()
        self._formats = {}
        for name in quantities:
            known = words | quantity_words(QUANTITIES[name]) | term_words(terms, name)
            self._formats[name], left = begun(record, known, json=json)
        self._getters = tuple(value_getter(slot) for slot in left)
        self._only_value = [slot.name for slot in left] == ["value"]

    def __call__(self, seq: int, ts_ms: int, values: dict[str, float], flags: Flags) -> Filled:
        """The records of these values, joined."""
        formats, getters = self._formats, self._getters
        if self._only_value:
            number = ENCODER.encode
            return self._separator.join(
                [formats[name] % number(value) for name, value in values.items()]
            )
        letters = flags or {}
        return self._separator.join(
            [
                formats[name]
                % tuple([fill(seq, ts_ms, value, letters.get(name, "N")) for fill in getters])
                for name, value in values.items()
            ]
        )


@lru_cache(maxsize=256)
def _recital(
    record: str,
    separator: str,
    quantities: tuple[str, ...],
    words: tuple[tuple[str, str], ...],
    terms: tuple[tuple[str, tuple[tuple[str, str], ...]], ...],
    json: bool,  # noqa: FBT001 - a cache's key
) -> Recital:
    entries = {name: dict(rows) for name, rows in terms}
    return Recital(record, separator, quantities, dict(words), entries, json=json)


def is_json(text: str) -> bool:
    """Whether a text besides the readings is meant as JSON."""
    return text.lstrip()[:1] in {"{", "["}


def _payload(said: Said, words: dict[str, str]) -> bytes:
    return filled(said.payload, words, json=is_json(said.payload)).encode()


def _said(said: Said, words: dict[str, str]) -> Birth:
    return codec.field(filled(said.topic, words)), _payload(said, words), said.retain
