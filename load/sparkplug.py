"""Sparkplug B: every device an edge node of its own (Eclipse Sparkplug 3.0.0, section numbers below).

The payload's schema (section 6.4) is built from the rows below; alias 1 is always the metric `seq`,
the number that a subscriber counts by: the payload's own `seq` only counts to 255.
"""

from collections.abc import Container, Iterable
from functools import cache
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, text_format

from broker import codec
from city.cityfile import Device
from city.kinds import DEVICE_KINDS, DeviceKind
from city.quantities import QUANTITIES

_PACKAGE: Final = "org.eclipse.tahu.protobuf"
_SEQ_ALIAS: Final = 1
_FIRST_ALIAS: Final = 2

INT32, INT64, DOUBLE, BOOLEAN, STRING = 3, 4, 10, 11, 12
"""Data types, section 6.4.16."""
BAD: Final = 0
"""The quality of a value that is not normal, section 6.4.14."""

_NUMBER, _LONG, _FLOAT, _DOUBLE, _BOOL, _STRING, _BYTES, _MESSAGE = 13, 4, 2, 1, 8, 9, 12, 11
"""Types of protobuf: uint32, uint64, float, double, bool, string, bytes, message."""

_SCHEMA: Final = {
    "PropertyValue": (
        ("type", 1, _NUMBER, ""), ("is_null", 2, _BOOL, ""), ("int_value", 3, _NUMBER, "value"),
        ("long_value", 4, _LONG, "value"), ("float_value", 5, _FLOAT, "value"),
        ("double_value", 6, _DOUBLE, "value"), ("boolean_value", 7, _BOOL, "value"),
        ("string_value", 8, _STRING, "value"),
    ),
    "PropertySet": (("keys", 1, _STRING, "*"), ("values", 2, "PropertyValue", "*")),
    "Metric": (
        ("name", 1, _STRING, ""), ("alias", 2, _LONG, ""), ("timestamp", 3, _LONG, ""),
        ("datatype", 4, _NUMBER, ""), ("is_historical", 5, _BOOL, ""),
        ("is_transient", 6, _BOOL, ""), ("is_null", 7, _BOOL, ""),
        ("properties", 9, "PropertySet", ""), ("int_value", 10, _NUMBER, "value"),
        ("long_value", 11, _LONG, "value"), ("float_value", 12, _FLOAT, "value"),
        ("double_value", 13, _DOUBLE, "value"), ("boolean_value", 14, _BOOL, "value"),
        ("string_value", 15, _STRING, "value"), ("bytes_value", 16, _BYTES, "value"),
    ),
    "Payload": (
        ("timestamp", 1, _LONG, ""), ("metrics", 2, "Metric", "*"), ("seq", 3, _LONG, ""),
        ("uuid", 4, _STRING, ""), ("body", 5, _BYTES, ""),
    ),
}  # fmt: skip
"""Messages: fields by name, number, type, and `*` for a list or the name of their alternative."""


def _payload_class() -> Any:
    """The class of Sparkplug's payload; a pool of its own keeps other schemas out of the way."""
    file = descriptor_pb2.FileDescriptorProto(
        name="sparkplug_b.proto", package=_PACKAGE, syntax="proto2"
    )
    for name, fields in _SCHEMA.items():
        kind = file.message_type.add(name=name)
        if any(part == "value" for *_, part in fields):
            kind.oneof_decl.add(name="value")
        for field, number, of, part in fields:
            added = kind.field.add(name=field, number=number, label=3 if part == "*" else 1)
            if isinstance(of, str):
                added.type = _MESSAGE  # type: ignore[assignment]
                added.type_name = f".{_PACKAGE}.{of}"
            else:
                added.type = of  # type: ignore[assignment]
            if part == "value":
                added.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Payload"))


Payload: Final = _payload_class()


class EdgeNode:
    """A device as an edge node: NBIRTH, NDATA, and NDEATH as its will."""

    __slots__ = ("_bd_seq", "_birth_topic", "_born", "_death_topic", "_first", "_kind")

    def __init__(self, device: Device, topic: str) -> None:
        """`topic` is that of its NDATA."""
        self._kind = device.kind
        self._birth_topic = codec.field(topic.replace("/NDATA/", "/NBIRTH/"))
        self._death_topic = topic.replace("/NDATA/", "/NDEATH/")
        self._bd_seq = 0
        self._born = False
        self._first: int | None = None

    def will(self) -> codec.Will:
        """NDEATH with the `bdSeq` of the next NBIRTH (5.4), another one for every connection."""
        if self._born:
            self._bd_seq = (self._bd_seq + 1) & 0xFF
            self._born = False
            self._first = None
        return codec.Will(self._death_topic, self._death(), retain=False)

    def births(self, now_ms: int) -> list[tuple[bytes, bytes, bool]]:
        """NBIRTH (6.4.19): number 0, and every metric with its alias."""
        if self._born:
            self._first = None
        self._born = True
        birth = Payload(timestamp=now_ms, seq=0)
        _add_bd_seq(birth, self._bd_seq)
        birth.metrics.add(name="Node Control/Rebirth", datatype=BOOLEAN, boolean_value=False)
        birth.metrics.add(name="seq", alias=_SEQ_ALIAS, datatype=INT64, long_value=0)
        for alias, name in enumerate(self._kind.quantities, _FIRST_ALIAS):
            metric = birth.metrics.add(name=name, alias=alias, datatype=DOUBLE, is_null=True)
            metric.properties.keys.append("engUnit")
            metric.properties.values.add(type=STRING, string_value=QUANTITIES[name].unit)
        for metric in birth.metrics:
            metric.timestamp = now_ms
        return [(self._birth_topic, birth.SerializeToString(), False)]

    def farewells(self, now_ms: int) -> list[tuple[bytes, bytes, bool]]:  # noqa: ARG002 - a will has no instant
        """NDEATH, which an edge node publishes before it disconnects (5.4)."""
        return [(codec.field(self._death_topic), self._death(), False)]

    def _death(self) -> bytes:
        death = Payload()
        _add_bd_seq(death, self._bd_seq)
        raw: bytes = death.SerializeToString()
        return raw

    def payload(
        self, seq: int, ts_ms: int, values: dict[str, float], flags: dict[str, str] | None
    ) -> bytes:
        """NDATA (6.4.21): by aliases alone; its number is 1 after a birth."""
        if self._first is None:
            self._first = seq
        kind = self._kind
        if flags or tuple(values) != kind.quantities:
            data = _data(kind, values, flags or {})
            count, *metrics = data.metrics
        else:
            data, count, metrics = _prototype(kind.id)
        data.timestamp = count.timestamp = ts_ms
        data.seq = (seq - self._first + 1) & 0xFF
        count.long_value = seq
        for metric, value in zip(metrics, values.values(), strict=True):
            metric.timestamp = ts_ms
            metric.double_value = value
        raw: bytes = data.SerializeToString()
        return raw


def _add_bd_seq(payload: Any, number: int) -> None:
    payload.metrics.add(name="bdSeq", datatype=INT64, long_value=number)


@cache
def _prototype(kind_id: str) -> tuple[Any, Any, list[Any]]:
    """The message of a kind of device that has all values, and its metrics, to be written over."""
    kind = DEVICE_KINDS[kind_id]
    data = _data(kind, kind.quantities, {})
    count, *metrics = data.metrics
    return data, count, metrics


def _data(kind: DeviceKind, names: Iterable[str], flags: Container[str]) -> Any:
    """A message of the metric `seq` and these quantities, without numbers."""
    data = Payload()
    data.metrics.add(alias=_SEQ_ALIAS)
    aliases = {name: alias for alias, name in enumerate(kind.quantities, _FIRST_ALIAS)}
    for name in names:
        metric = data.metrics.add(alias=aliases[name])
        if name in flags:
            metric.properties.keys.append("Quality")
            metric.properties.values.add(type=INT32, int_value=BAD)
    return data


def as_text(payload: bytes) -> str:
    """A payload on one line, for people."""
    data = Payload()
    data.ParseFromString(payload)
    return text_format.MessageToString(data, as_one_line=True)


def counted(payload: bytes) -> tuple[int, int]:
    """The number and instant [ms] of an NDATA message.

    Raises:
        ValueError: It is none, or is cut off.
    """
    data = Payload()
    try:
        data.ParseFromString(payload)
    except message.DecodeError as error:
        raise ValueError(str(error)) from error
    if not data.HasField("seq"):
        raise ValueError("a payload without seq")
    for metric in data.metrics:
        if metric.alias == _SEQ_ALIAS and metric.HasField("long_value"):
            return metric.long_value, data.timestamp
    raise ValueError("no metric with the alias of seq")
