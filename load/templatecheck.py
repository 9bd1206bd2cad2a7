"""What is wrong with a template, found by trying it on devices of every kind.

A payload that is no JSON, a number that is not found again, two devices of one name: all of that
shows here, before anything connects.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Final

import msgspec
from msgspec.structs import replace

from broker import codec
from city.cityfile import Device
from city.documents import suggestion
from city.errors import InputError, ProtocolError
from city.kinds import DEVICE_KINDS
from city.quantities import QUANTITIES
from city.synthetic import DEVICES_PER_SITE, synthetic_city
from load.payloads import Reader, Speaker, Template
from load.placeholders import (
    BIRTH,
    BIRTH_OF_QUANTITY,
    IDENTITY,
    LOGIN,
    PAYLOAD,
    RECORD,
    WILL,
    Of,
    misplaced,
)
from load.speaking import is_json
from load.template import Said

EXAMPLE_TS_MS: Final = 1_795_413_600_250
EXAMPLE_SEQ: Final = 1_873
_SPARKPLUG_LEVELS: Final = 4

Path_ = tuple[str | int, ...]
Problem = tuple[Path_, str]
"""Where in a template something is wrong, and what."""


def problems(template: Template) -> Iterator[Problem]:
    """What is wrong; what comes later may follow from what came first."""
    for stage in (_wrong_parts, _wrong_fields, _wrong_names, _wrong_payloads, _wrong_reading):
        yield from stage(template)


@cache
def _sample() -> tuple[Device, ...]:
    """Devices of two sites of every kind."""
    city = synthetic_city(
        2 * DEVICES_PER_SITE * len(DEVICE_KINDS), interval_s=None, seed=1, kinds=tuple(DEVICE_KINDS)
    )
    return tuple(city.devices())


def _kinds() -> tuple[Device, ...]:
    """One device of every kind."""
    return tuple({device.kind.id: device for device in _sample()}.values())


def speakers(template: Template, devices: Iterable[Device]) -> Iterator[tuple[Device, Speaker]]:
    """Each device with the speaker that the template makes of it."""
    for index, device in enumerate(devices):
        yield device, Speaker(template, device, device.position, run="example", index=index)


def values_of(device: Device) -> dict[str, float]:
    """A value of every quantity, in the middle of its range."""
    rows = (QUANTITIES[name] for name in device.kind.quantities)
    return {row.id: round((row.low + row.high) / 2, row.decimals) for row in rows}


def _wrong_parts(template: Template) -> Iterator[Problem]:
    """Parts that the format does not have, or must have."""
    if template.format == "native":
        yield (
            ("format",),
            "'native' is CityEye's own and needs no file; allowed: json, sparkplug, text",
        )
    if template.format == "sparkplug":
        for name in ("payload", "record", "birth", "will", "read"):
            if getattr(template, name):
                yield (name,), "Sparkplug fixes this itself; remove it"
    elif not template.payload:
        yield ("payload",), "a template needs a payload"
    if template.format == "text" and template.read is not None:
        yield ("read",), "only JSON can be read back; set `format: json` or remove it"
    for name in ("seq", "ts", "device"):
        pointer = getattr(template.read, name, None)
        if pointer is not None and not pointer.startswith("/"):
            yield ("read", name), f"{pointer!r} is no JSON pointer; write /{pointer}"
    for name, entries in template.terms.items():
        yield from _wrong_entries(name, entries)


def _wrong_entries(term: str, entries: Mapping[str, str]) -> Iterator[Problem]:
    for quantity in entries:
        if quantity not in QUANTITIES and quantity != "*":
            known = suggestion(quantity, [*QUANTITIES, "*"])
            yield ("terms", term, quantity), f"unknown quantity {quantity!r}; {known}"
    left = [quantity for quantity in QUANTITIES if quantity not in entries]
    if left and "*" not in entries:
        yield (
            ("terms", term),
            f"no entry for {left[0]!r}, and none for '*', which is for all others",
        )


def _wrong_fields(template: Template) -> Iterator[Problem]:
    """Fields that there are not, or not there."""
    for path, text, allowed in _texts(template):
        problem = misplaced(text, allowed, template.terms)
        if problem:
            yield path, problem


def _texts(template: Template) -> Iterator[tuple[Path_, str, tuple[Of, ...]]]:
    """Every text of a template: where it stands, and which fields it may have."""
    yield ("client_id",), template.client_id, IDENTITY
    yield ("topic",), template.topic, LOGIN
    yield ("username",), template.username or "", LOGIN
    yield ("payload",), template.payload, PAYLOAD
    yield ("record",), template.record, RECORD
    for path, said in _besides(template):
        allowed = BIRTH_OF_QUANTITY if said.each_quantity else BIRTH
        allowed = WILL if path == ("will",) else allowed
        yield (*path, "topic"), said.topic, allowed
        yield (*path, "payload"), said.payload, allowed


def _besides(template: Template) -> Iterator[tuple[Path_, Said]]:
    for number, said in enumerate(template.birth):
        yield ("birth", number), said
    if template.will is not None:
        yield ("will",), template.will


def _wrong_names(template: Template) -> Iterator[Problem]:
    """Topics that no broker takes, and clients that would push one another out."""
    if template.format == "sparkplug" and not _is_sparkplug(template.topic):
        yield ("topic",), f"{template.topic!r} is not of the form spBv1.0/GROUP/NDATA/NODE"
    seen: dict[str, str] = {}
    for device in _sample():
        try:
            ((_, speaker),) = speakers(template, (device,))
            topics = list(_topics(speaker))
            codec.connect(speaker.client_id, keep_alive_s=1, clean=True, username=speaker.username)
        except ProtocolError as error:
            yield _longest(template), f"longer than MQTT allows: {error}"
            return
        yield from ((path, problem) for path, topic in topics for problem in _wrong_topic(topic))
        other = seen.setdefault(speaker.client_id, device.name)
        if other != device.name:
            problem = (
                f"{speaker.client_id!r} is that of {other} and of {device.name}, and the broker "
                "drops the one when the other connects; use ${site} and ${device}"
            )
            yield ("client_id",), problem


def _is_sparkplug(topic: str) -> bool:
    levels = topic.split("/")
    return len(levels) == _SPARKPLUG_LEVELS and levels[::2] == ["spBv1.0", "NDATA"]


def _longest(template: Template) -> Path_:
    """The longest of the texts that become strings of MQTT."""
    texts = [(len(text), path) for path, text, _ in _texts(template)]
    return max(entry for entry in texts if entry[1][-1] not in {"payload", "record"})[1]


def _topics(speaker: Speaker) -> Iterator[tuple[Path_, str]]:
    yield ("topic",), speaker.topic[2:].decode()
    will = speaker.will
    if will is not None:
        codec.field(will.payload)
        yield ("will", "topic"), codec.field(will.topic)[2:].decode()
    for topic in sorted({topic for topic, _, _ in speaker.births(EXAMPLE_TS_MS)}):
        yield ("birth",), topic[2:].decode()


def _wrong_topic(topic: str) -> Iterator[str]:
    """Why a broker would not take that topic (MQTT 3.1.1, section 4.7)."""
    if not topic:
        yield "an empty topic"
    for character, name in (("+", "the wildcard +"), ("#", "the wildcard #"), ("\0", "a null")):
        if character in topic:
            yield f"topic {topic[:200]!r} holds {name}; a message is published to one topic"


def _wrong_payloads(template: Template) -> Iterator[Problem]:
    """Payloads that should be JSON and are not, with all values, one, and none."""
    for device, speaker in speakers(template, _kinds()):
        everything = values_of(device)
        if template.format == "json":
            for count in (len(everything), 1, 0):
                values = dict(islice(everything.items(), count))
                payload = speaker.payload(
                    EXAMPLE_SEQ, EXAMPLE_TS_MS, values, dict.fromkeys(values, "D")
                )
                yield from _wrong_json(
                    ("payload",), payload, f"{device.kind.id} with {count} values"
                )
        yield from _wrong_besides(template, device)


def _wrong_besides(template: Template, device: Device) -> Iterator[Problem]:
    """Births and wills that look like JSON and are none."""
    for path, said in _besides(template):
        if is_json(said.payload):
            alone = replace(template, birth=(said,), will=None)
            ((_, speaker),) = speakers(alone, (device,))
            for _, payload, _ in speaker.births(EXAMPLE_TS_MS):
                yield from _wrong_json((*path, "payload"), payload, device.kind.id)


def _wrong_json(path: Path_, payload: bytes, where: str) -> Iterator[Problem]:
    try:
        msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = (
            f"gives no JSON for {where}: {error}; it was {_shown(payload)!r}; texts stand in quotes, "
            "numbers and objects do not, and `format: text` takes what is no JSON"
        )
        yield path, problem


def _shown(raw: bytes) -> str:
    return raw[:200].decode(errors="replace")


def _wrong_reading(template: Template) -> Iterator[Problem]:
    """Messages that `read` does not find again, or does not tell apart."""
    try:
        reader = Reader(template)
    except InputError:
        return
    seen: dict[bytes, str] = {}
    for device, speaker in speakers(template, _sample()):
        payload = speaker.payload(EXAMPLE_SEQ, EXAMPLE_TS_MS, values_of(device), None)
        found = reader.read(speaker.topic[2:], payload)
        if found is None:
            yield ("read",), f"finds no whole number or no device in {_shown(payload)}"
            return
        key, *counted = found
        yield from _wrong_count(*counted)
        other = seen.setdefault(key, device.name)
        if other != device.name:
            problem = (
                f"{other} and {device.name} are both {_shown(key)!r}; put ${{site}} and ${{device}} "
                "into the topic, or into the payload and point `device` there"
            )
            yield ("read",), problem


def _wrong_count(seq: int, ts_ms: int) -> Iterator[Problem]:
    if seq != EXAMPLE_SEQ:
        yield ("read", "seq"), f"points to {seq} where the message has number {EXAMPLE_SEQ}"
    if ts_ms not in {0, EXAMPLE_TS_MS}:
        problem = f"gives {ts_ms} where the message is of {EXAMPLE_TS_MS} ms; ts_unit: ms, s or iso"
        yield ("read", "ts"), problem
