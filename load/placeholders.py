"""The fields of templates: which there are, where they may stand, and how they become bytes.

A field is written `${name}`, a dollar sign `$$`, as in Python's `string.Template`: JSON's own
braces stay as they are. What a device is, is filled in once; only what changes from message to
message is left to be done for each.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Final, Literal, TypeAlias

import msgspec

from broker.messages import ENCODER
from city.cityfile import Device, Position
from city.documents import suggestion
from city.quantities import QUANTITIES, Quantity

Of = Literal["device", "client", "topic", "place", "time", "count", "message", "quantity", "value"]
Flags: TypeAlias = dict[str, str] | None
Filled: TypeAlias = int | bytes
Getter: TypeAlias = Callable[[int, int, dict[str, float], Flags], Filled]
"""What fills a field: of the message's number, instant [ms], values, flags."""
ValueGetter: TypeAlias = Callable[[int, int, float, str], Filled]
"""The same in a record: of the number, instant [ms], one value, its flag."""

_FIELD: Final = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>[^{}$]*)\}|(?P<lone>))")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Field(msgspec.Struct, frozen=True):
    """One row of the table of fields."""

    name: str
    of: Of
    sentence: str
    example: str

    @property
    def stem(self) -> str:
        """The name without what stands after its colon."""
        return self.name.partition(":")[0]


FIELDS: Final = (
    Field("city", "device", "The city.", "synthetic"),
    Field("district", "device", "The district.", "d1"),
    Field("domain", "device", "`air`, `water`, `gas` or `emission`.", "air"),
    Field("site", "device", "The site, unique in the city.", "air-micro-00000"),
    Field("device", "device", "The device, unique at its site.", "00"),
    Field("kind", "device", "The kind of device.", "air-micro"),
    Field("model", "device", "Its model.", "CE-AQ4"),
    Field("name", "device", "The site's name, or the kind's where it has none.", "Micro air station"),
    Field("name_zh", "device", "The same in Chinese.", "微型空气站"),
    Field("lon", "place", "Longitude [degrees].", "119.97"),
    Field("lat", "place", "Latitude [degrees].", "31.82"),
    Field("interval_s", "device", "How often it measures [s].", "5"),
    Field("run", "device", "The name of the load test.", "trial"),
    Field("index", "device", "The device's number in the load test, from 0.", "0"),
    Field("client_id", "client", "Its MQTT client identifier.", "cityeye.trial.air-micro-00000.00"),
    Field("topic", "topic", "The topic of its readings.", "sensors/air-micro-00000/00"),
    Field("ts_ms", "time", "The instant of measurement [ms since 1970, UTC].", "1795413600250"),
    Field("ts_s", "time", "The same in seconds.", "1795413600.250"),
    Field("ts_iso", "time", "The same by ISO 8601.", "2026-11-23T06:00:00.250Z"),
    Field("seq", "count", "The number of the message, per device, from 0.", "1873"),
    Field("seq_mod_256", "count", "The same from 0 to 255, and 0 again.", "81"),
    Field("values", "message", "All values: a JSON object.", '{"pm25":12.4,"pm10":31.0}'),
    Field("flags", "message", "Flags of values that are not normal: a JSON object.", '{"pm10":"D"}'),
    Field("value:QUANTITY", "message", "One value; `null`, or nothing in a text, without it.", "12.4"),
    Field("records", "message", "The template's `record` for every value.", ""),
    Field("quantity", "quantity", "The quantity.", "pm25"),
    Field("quantity_name", "quantity", "Its name.", "PM2.5"),
    Field("quantity_name_zh", "quantity", "Its name in Chinese.", "细颗粒物"),
    Field("unit", "quantity", "Its unit.", "ug/m3"),
    Field("decimals", "quantity", "Digits after the point.", "1"),
    Field("low", "quantity", "The least value that is possible.", "0"),
    Field("high", "quantity", "The greatest.", "2000"),
    Field("term:NAME", "quantity", "The quantity's entry in the template's own `terms`.", ""),
    Field("value", "value", "The value of a record.", "12.4"),
    Field("flag", "value", "Its flag, `N` when it is normal.", "N"),
)  # fmt: skip

IDENTITY: Final[tuple[Of, ...]] = ("device",)
LOGIN: Final[tuple[Of, ...]] = ("device", "client")
WILL: Final[tuple[Of, ...]] = (*LOGIN, "topic", "place")
BIRTH: Final[tuple[Of, ...]] = (*WILL, "time")
BIRTH_OF_QUANTITY: Final[tuple[Of, ...]] = (*BIRTH, "quantity")
PAYLOAD: Final[tuple[Of, ...]] = (*BIRTH, "count", "message")
RECORD: Final[tuple[Of, ...]] = (*BIRTH, "count", "quantity", "value")
"""Which fields may stand where."""


class Slot(msgspec.Struct, frozen=True):
    """A field in a text: `${name}` or `${name:argument}`."""

    name: str
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.name}:{self.argument}" if self.argument else self.name


@cache
def pieces(text: str) -> tuple[str | Slot, ...]:
    """`text` as constants and slots.

    Raises:
        ValueError: A dollar sign belongs to no field.
    """
    found: list[str | Slot] = []
    end = 0
    for match in _FIELD.finditer(text):
        found.append(text[end : match.start()])
        end = match.end()
        if match["lone"] is not None:
            raise ValueError(f"a lone $ before {text[end : end + 20]!r}; write $$ or ${{field}}")
        name, _, argument = (match["name"] or "").partition(":")
        found.append("$" if match["dollar"] else Slot(name.strip(), argument.strip()))
    return (*found, text[end:])


def slots(text: str) -> Iterator[Slot]:
    """The slots of a text, in order."""
    return (piece for piece in pieces(text) if isinstance(piece, Slot))


def misplaced(text: str, allowed: Sequence[Of], terms: Mapping[str, object]) -> str | None:
    """What is wrong with the fields of `text` where only those of `allowed` may stand."""
    try:
        found = list(slots(text))
    except ValueError as error:
        return str(error)
    rows = {(row.stem, ":" in row.name): row for row in FIELDS}
    names = [row.name for row in FIELDS if row.of in allowed]
    for slot in found:
        row = rows.get((slot.name, bool(slot.argument)))
        if row is None:
            return f"unknown field ${{{slot}}}; {suggestion(str(slot), names)}"
        if row.of not in allowed:
            return f"field ${{{slot}}} cannot stand here; allowed: {', '.join(sorted(names))}"
        if slot.name == "value" and slot.argument and slot.argument not in QUANTITIES:
            known = suggestion(slot.argument, QUANTITIES)
            return f"unknown quantity in ${{{slot}}}; {known}"
        if slot.name == "term" and slot.argument not in terms:
            known = suggestion(slot.argument, terms) if terms else "there are no `terms`"
            return f"unknown term in ${{{slot}}}; {known}"
    return None


def device_words(device: Device, position: Position, *, run: str, index: int) -> dict[str, str]:
    """The fields of a device."""
    address, kind, site = device.address, device.kind, device.site
    return {
        "city": address.city,
        "district": address.district,
        "domain": str(address.domain),
        "site": address.site,
        "device": address.device,
        "kind": kind.id,
        "model": kind.model,
        "name": site.name or kind.name_en,
        "name_zh": site.name_zh or kind.name_zh,
        "lon": repr(position[0]),
        "lat": repr(position[1]),
        "interval_s": f"{device.interval_ms / 1000:g}",
        "run": run,
        "index": str(index),
    }


def quantity_words(quantity: Quantity) -> dict[str, str]:
    """The fields of a quantity."""
    return {
        "quantity": quantity.id,
        "quantity_name": quantity.name_en,
        "quantity_name_zh": quantity.name_zh,
        "unit": quantity.unit,
        "decimals": str(quantity.decimals),
        "low": f"{quantity.low:g}",
        "high": f"{quantity.high:g}",
    }


def time_words(now_ms: int) -> dict[str, str]:
    """The fields of an instant."""
    return {
        "ts_ms": str(now_ms),
        "ts_s": _seconds(0, now_ms).decode(),
        "ts_iso": _iso(0, now_ms).decode(),
    }


def term_words(terms: Mapping[str, Mapping[str, str]], quantity: str) -> dict[str, str]:
    """The template's own words for a quantity, as `term:NAME`."""
    return {
        f"term:{name}": entries.get(quantity, entries.get("*", ""))
        for name, entries in terms.items()
    }


def escaped(text: str) -> str:
    """`text` as it stands between the quotes of a JSON string."""
    return ENCODER.encode(text)[1:-1].decode()


def filled(text: str, words: Mapping[str, str], *, json: bool = False) -> str:
    """`text` with its fields filled in; terms are JSON already."""
    return "".join(
        piece if isinstance(piece, str) else _word(piece, words, json=json)
        for piece in pieces(text)
    )


def _word(slot: Slot, words: Mapping[str, str], *, json: bool) -> str:
    word = words[str(slot)]
    return escaped(word) if json and slot.name != "term" else word


def begun(text: str, words: Mapping[str, str], *, json: bool) -> tuple[bytes, tuple[Slot, ...]]:
    """`text` with the fields of `words` filled in: a format for `%`, and the slots that are left."""
    parts: list[str] = []
    left: list[Slot] = []
    for piece in pieces(text):
        if isinstance(piece, str):
            parts.append(piece.replace("%", "%%"))
        elif str(piece) in words:
            parts.append(_word(piece, words, json=json).replace("%", "%%"))
        else:
            parts.append("%d" if piece.name in {"seq", "seq_mod_256", "ts_ms"} else "%b")
            left.append(piece)
    return "".join(parts).encode(), tuple(left)


def getter(slot: Slot, *, json: bool) -> Getter:
    """What fills a slot of a payload, except `records`."""
    if slot.name == "value":
        return partial(_one, slot.argument, b"null" if json else b"")
    return _GETTERS[slot.name]


def value_getter(slot: Slot) -> ValueGetter:
    """What fills a slot of a record."""
    return _VALUE_GETTERS[slot.name]


def _number(seq: int, ts_ms: int, *_: object) -> int:  # noqa: ARG001 - fillers share one signature
    return seq


def _byte(seq: int, ts_ms: int, *_: object) -> int:  # noqa: ARG001 - the same
    return seq & 0xFF


def _instant(seq: int, ts_ms: int, *_: object) -> int:  # noqa: ARG001 - the same
    return ts_ms


def _seconds(seq: int, ts_ms: int, *_: object) -> bytes:  # noqa: ARG001 - the same
    return b"%d.%03d" % divmod(ts_ms, 1000)


def _iso(seq: int, ts_ms: int, *_: object) -> bytes:  # noqa: ARG001 - the same
    at = _EPOCH + timedelta(milliseconds=ts_ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()


def _values(seq: int, ts_ms: int, values: dict[str, float], flags: Flags) -> bytes:  # noqa: ARG001 - the same
    return ENCODER.encode(values)


def _flags(seq: int, ts_ms: int, values: dict[str, float], flags: Flags) -> bytes:  # noqa: ARG001 - the same
    return ENCODER.encode(flags or {})


def _one(
    name: str,
    absent: bytes,
    seq: int,  # noqa: ARG001 - the same
    ts_ms: int,  # noqa: ARG001 - the same
    values: dict[str, float],
    flags: Flags,  # noqa: ARG001 - the same
) -> bytes:
    value = values.get(name)
    return absent if value is None else ENCODER.encode(value)


def _value(seq: int, ts_ms: int, value: float, flag: str) -> bytes:  # noqa: ARG001 - the same
    return ENCODER.encode(value)


def _flag(seq: int, ts_ms: int, value: float, flag: str) -> bytes:  # noqa: ARG001 - the same
    return flag.encode()


_ANYWHERE: Final[Mapping[str, Callable[..., Filled]]] = {
    "seq": _number, "seq_mod_256": _byte, "ts_ms": _instant, "ts_s": _seconds, "ts_iso": _iso,
}  # fmt: skip
_GETTERS: Final[Mapping[str, Getter]] = {**_ANYWHERE, "values": _values, "flags": _flags}
_VALUE_GETTERS: Final[Mapping[str, ValueGetter]] = {**_ANYWHERE, "value": _value, "flag": _flag}
