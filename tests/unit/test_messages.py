from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import (
    PAYLOAD_MAX,
    AlarmEvent,
    Birth,
    ClockTick,
    Command,
    MeasuredQuantity,
    Reply,
    Status,
    Telemetry,
    decode,
    encode,
)
from city.errors import PayloadError

MESSAGES = (Telemetry, Status, Birth, Command, Reply, ClockTick, AlarmEvent)

finite = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
instants = st.integers(-(2**53), 2**53)
telemetries = st.builds(
    Telemetry,
    ts=instants,
    seq=st.integers(0, 2**53),
    values=st.dictionaries(words, finite, max_size=12),
    flags=st.none() | st.dictionaries(words, st.sampled_from("FMSDCTB"), max_size=4),
    pos=st.none() | st.tuples(finite, finite),
)
births = st.builds(
    Birth,
    kind=words,
    model=words,
    position=st.tuples(finite, finite),
    interval_s=finite,
    quantities=st.dictionaries(
        words, st.builds(MeasuredQuantity, unit=words, low=finite, high=finite), max_size=4
    ),
    name=words,
    name_zh=words,
    plant=st.none() | words,
    commands=st.lists(words, max_size=3).map(tuple),
)
commands = st.builds(
    Command,
    id=words,
    name=words,
    ts=instants,
    by=words,
    args=st.dictionaries(words, st.none() | st.booleans() | instants | finite | words, max_size=4),
    expires=st.none() | instants,
)


@given(telemetries)
def test_telemetry_round_trip(message: Telemetry) -> None:
    """Telemetry comes out as it went in, to the last bit of every value."""
    assert message == decode(Telemetry, encode(message))


@given(births)
def test_birth_round_trip(message: Birth) -> None:
    """A birth document comes out as it went in."""
    assert message == decode(Birth, encode(message))


@given(commands)
def test_command_round_trip(message: Command) -> None:
    """A command comes out as it went in, arguments of any kind included."""
    assert message == decode(Command, encode(message))


def test_bytes() -> None:
    """Telemetry looks on the wire as published; what is normal or absent takes no room."""
    with_flag = Telemetry(1795413600000, 1873, {"pm25": 12.4, "no2": 31.0}, {"no2": "D"})

    assert (
        b'{"ts":1795413600000,"seq":1873,"values":{"pm25":12.4,"no2":31.0},"flags":{"no2":"D"}}'
    ) == encode(with_flag)
    assert b'{"ts":1,"seq":0,"values":{}}' == encode(Telemetry(1, 0, {}))


def reading(value: str) -> bytes:
    """A telemetry payload with that text for a value."""
    return b'{"ts":1,"seq":1,"values":{"pm25":%s}}' % value.encode()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not-json"),
        (b"12.4", "wrong-shape"),
        (b"pm25=12.4", "not-json"),
        (b'{"ts":1,"seq":1,"values":{}', "not-json"),
        (b'{"ts":1,"seq":1,"values":{}} {}', "not-json"),
        (b'{"info', "not-json"),
        (b"\xff\xfe", "not-json"),
        (b'{"ts":1,"seq":1,"values":{"\xff":1}}', "not-json"),
        (reading("NaN"), "not-finite"),
        (reading("Infinity"), "not-finite"),
        (reading("-Infinity"), "not-finite"),
        (reading("nan"), "not-finite"),
        (reading("1e999"), "not-finite"),
        (reading('"12.4"'), "wrong-shape"),
        (reading("null"), "wrong-shape"),
        (reading("true"), "wrong-shape"),
        (reading("[12.4]"), "wrong-shape"),
        (b"[]", "wrong-shape"),
        (b'{"seq":1,"values":{}}', "wrong-shape"),
        (b'{"ts":1,"values":{}}', "wrong-shape"),
        (b'{"ts":1,"seq":1}', "wrong-shape"),
        (b'{"ts":1,"seq":1,"values":{},"unit":"mg"}', "wrong-shape"),
        (b'{"ts":1.5,"seq":1,"values":{}}', "wrong-shape"),
        (b'{"ts":"2026-06-01","seq":1,"values":{}}', "wrong-shape"),
        (b'{"ts":99999999999999999999,"seq":1,"values":{}}', "wrong-shape"),
        (b'{"ts":1,"seq":-1,"values":{}}', "wrong-shape"),
        (b'{"ts":1,"seq":1,"values":{},"flags":{"pm25":"N"}}', "wrong-shape"),
        (b'{"ts":1,"seq":1,"values":{},"flags":{"pm25":"d"}}', "wrong-shape"),
        (b'{"ts":1,"seq":1,"values":{},"pos":[120.0]}', "wrong-shape"),
        (b"[" * 60_000, "wrong-shape"),
    ],
)
def test_bad_telemetry(payload: bytes, reason: str) -> None:
    """Each class of bad payload has its reason in the ledger."""
    with pytest.raises(PayloadError) as caught:
        decode(Telemetry, payload)

    assert reason == caught.value.reason


def test_size() -> None:
    """A payload of the largest size is decoded; one byte more is not even looked at."""
    largest = encode(Telemetry(1, 0, {})).ljust(PAYLOAD_MAX)

    assert Telemetry(1, 0, {}) == decode(Telemetry, largest)
    with pytest.raises(PayloadError, match="too-large: 65537 bytes, at most 65536"):
        decode(Telemetry, largest + b" ")


def test_where() -> None:
    """The detail of a refusal names the place in the message."""
    with pytest.raises(PayloadError) as caught:
        decode(Telemetry, b'{"ts":1,"seq":-1,"values":{}}')

    assert "$.seq" in caught.value.detail


def test_deep() -> None:
    """Arguments that are nested too deeply are refused, not fatal."""
    args = b'{"a":' * 5_000 + b"1" + b"}" * 5_000

    with pytest.raises(PayloadError, match="not-json"):
        decode(Command, b'{"id":"1","name":"n","ts":1,"by":"x","args":%s}' % args)


@given(st.binary(max_size=200), st.sampled_from(MESSAGES))
def test_any_bytes(payload: bytes, kind: type[msgspec.Struct]) -> None:
    """Any bytes decode to the message or to a PayloadError, and nothing else."""
    try:
        message: Any = decode(kind, payload)
    except PayloadError:
        return
    assert isinstance(message, kind)


@given(telemetries, st.data())
def test_mutated(message: Telemetry, data: st.DataObject) -> None:
    """A damaged payload decodes to some telemetry or to a PayloadError, and nothing else."""
    payload = bytearray(encode(message))
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))

    try:
        damaged: Any = decode(Telemetry, bytes(payload))
    except PayloadError:
        return
    assert isinstance(damaged, Telemetry)


@pytest.mark.parametrize("kind", MESSAGES)
def test_unknown_key(kind: type[msgspec.Struct]) -> None:
    """No message takes a key that it does not know."""
    with pytest.raises(PayloadError) as caught:
        decode(kind, b'{"surprise":1}')

    assert "wrong-shape" == caught.value.reason
