from itertools import pairwise

import pytest
from amqtt.adapters import BufferReader
from amqtt.mqtt.connack import ConnackPacket
from amqtt.mqtt.connect import ConnectPacket
from amqtt.mqtt.publish import PublishPacket
from amqtt.mqtt.suback import SubackPacket
from amqtt.mqtt.subscribe import SubscribePacket
from amqtt.mqtt.unsuback import UnsubackPacket
from hypothesis import example, given
from hypothesis import strategies as st

from broker import codec
from broker.codec import (
    MID_MAX,
    Connack,
    Decoder,
    Packet,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Unsuback,
    Will,
)
from broker.messages import PAYLOAD_MAX
from city.errors import ProtocolError

PINGRESP = b"\xd0\x00"

mids = st.integers(1, MID_MAX)
topics = st.binary(min_size=1, max_size=300)
words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
publishes = st.one_of(
    st.builds(
        Publish,
        topic=topics,
        payload=st.binary(max_size=400),
        qos=st.just(0),
        retain=st.booleans(),
        dup=st.just(value=False),
        mid=st.just(0),
    ),
    st.builds(
        Publish,
        topic=topics,
        payload=st.binary(max_size=400),
        qos=st.just(1),
        retain=st.booleans(),
        dup=st.booleans(),
        mid=mids,
    ),
)
answers = st.one_of(
    st.builds(Puback, mids),
    st.builds(Connack, st.booleans(), st.integers(0, 5)),
    st.builds(Suback, mids, st.lists(st.sampled_from([0, 1, 2, 128]), min_size=1).map(tuple)),
    st.builds(Unsuback, mids),
    st.just(Pingresp()),
)
packets = st.lists(publishes | answers, max_size=8)


def encoded(packet: Packet) -> bytes:
    """`packet` as a broker sends it: by our encoder where we have one, else by amqtt's."""
    match packet:
        case Publish():
            field = codec.field(packet.topic)
            return codec.publish(
                field, packet.payload, mid=packet.mid, retain=packet.retain, dup=packet.dup
            )
        case Puback():
            return codec.puback(packet.mid)
        case Connack():
            raw = ConnackPacket.build(int(packet.session_present), packet.code).to_bytes()
        case Suback():
            raw = SubackPacket.build(packet.mid, list(packet.granted)).to_bytes()
        case Unsuback():
            raw = UnsubackPacket.build(packet.mid).to_bytes()
        case Pingresp():
            raw = PINGRESP
    return bytes(raw)


def fed(stream: bytes, cuts: list[int]) -> list[Packet]:
    """What a decoder makes of `stream` when it arrives in pieces."""
    decoder = Decoder(packet_max=1 << 22)
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    pieces = [stream[a:b] for a, b in pairwise(edges)]
    return [packet for piece in pieces for packet in decoder.feed(piece)]


@given(packets)
def test_round_trip(sent: list[Packet]) -> None:
    """Packets come out as they went in, in their order."""
    assert sent == Decoder().feed(b"".join(map(encoded, sent)))


@given(packets, st.lists(st.integers(0, 10_000), max_size=12))
def test_cut_anywhere(sent: list[Packet], cuts: list[int]) -> None:
    """It does not matter where the stream is cut."""
    assert sent == fed(b"".join(map(encoded, sent)), cuts)


@given(packets)
def test_byte_by_byte(sent: list[Packet]) -> None:
    """A stream that arrives byte by byte gives the same packets."""
    stream = b"".join(map(encoded, sent))

    assert sent == fed(stream, list(range(len(stream))))


@given(packets, st.data())
def test_as_soon_as_whole(sent: list[Packet], data: st.DataObject) -> None:
    """A packet is there with its last byte: nothing waits for the next one."""
    stream = b"".join(map(encoded, sent))
    at = data.draw(st.integers(0, len(stream)))
    sizes = [len(encoded(packet)) for packet in sent]
    whole = sum(1 for n in range(len(sent)) if sum(sizes[: n + 1]) <= at)

    assert sent[:whole] == Decoder().feed(stream[:at])


@pytest.mark.parametrize("size", [0, 120, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_sizes(size: int) -> None:
    """Payloads around each step of the remaining length arrive whole, in one piece or in many."""
    sent = Publish(b"t", bytes(size), 1, retain=False, dup=False, mid=7)
    stream = encoded(sent) + PINGRESP

    assert [sent, Pingresp()] == fed(stream, [])
    assert [sent, Pingresp()] == fed(stream, list(range(6)) + list(range(0, len(stream), 65_536)))


@given(st.binary(max_size=64))
@example(b"\x30\x02\x00\x00")
@example(b"\x32\xff\xff\xff\x7f")
def test_any_bytes(stream: bytes) -> None:
    """Any bytes are packets or a ProtocolError, and nothing else."""
    try:
        decoded = Decoder().feed(stream)
    except ProtocolError:
        return
    assert all(isinstance(packet, Packet) for packet in decoded)


@given(packets.filter(bool), st.data(), st.lists(st.integers(0, 10_000), max_size=4))
def test_damaged(sent: list[Packet], data: st.DataObject, cuts: list[int]) -> None:
    """A damaged stream is packets or a ProtocolError, and nothing else, however it is cut."""
    stream = bytearray(b"".join(map(encoded, sent)))
    for _ in range(data.draw(st.integers(1, 3))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))

    try:
        decoded = fed(bytes(stream), cuts)
    except ProtocolError:
        return
    assert all(isinstance(packet, Packet) for packet in decoded)


@given(st.binary(max_size=64), st.lists(st.integers(0, 64), max_size=4))
def test_cut_makes_no_difference(stream: bytes, cuts: list[int]) -> None:
    """Whether bytes are refused does not depend on where they were cut."""

    def verdict(cuts: list[int]) -> list[Packet] | str:
        try:
            return fed(stream, cuts)
        except ProtocolError as error:
            return str(error)

    assert verdict([]) == verdict(cuts)


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        (b"\x30\xff\xff\xff\xff\x01", "remaining length of more than four bytes"),
        (b"\x30\xff\xff\xff\xff", "remaining length of more than four bytes"),
        (b"\x90\xff\xff\xff\x7f", "packet of 268435455 bytes, at most"),
        (b"\x30\x00", "PUBLISH shorter than its topic"),
        (b"\x30\x01\x00", "PUBLISH shorter than its topic"),
        (b"\x30\x03\x00\x02t", "PUBLISH shorter than its topic"),
        (b"\x32\x03\x00\x01t", "PUBLISH shorter than its topic"),
        (b"\x32\x04\x00\x01t\x00", "PUBLISH shorter than its topic"),
        (b"\x32\x05\x00\x01t\x00\x00", "PUBLISH with packet identifier 0"),
        (b"\x34\x05\x00\x01t\x00\x01", "PUBLISH with QoS 2"),
        (b"\x36\x05\x00\x01t\x00\x01", "PUBLISH with QoS 3"),
        (b"\x20\x01\x00", "packet 0x20 of 1 bytes"),
        (b"\x20\x03\x00\x00\x00", "packet 0x20 of 3 bytes"),
        (b"\x21\x02\x00\x00", "packet 0x21"),
        (b"\x40\x00", "packet 0x40 of 0 bytes"),
        (b"\x40\x03\x00\x01\x00", "packet 0x40 of 3 bytes"),
        (b"\x42\x02\x00\x01", "packet 0x42"),
        (b"\x90\x02\x00\x01", "packet 0x90 of 2 bytes"),
        (b"\xb0\x01\x00", "packet 0xb0 of 1 bytes"),
        (b"\xd0\x01\x00", "packet 0xd0 of 1 bytes"),
        (b"\x00\x00", "packet 0x00"),
        (b"\xf0\x00", "packet 0xf0"),
        (b"\x10\x00", "packet 0x10"),
        (b"\x50\x02\x00\x01", "packet 0x50"),
        (b"\x62\x02\x00\x01", "packet 0x62"),
        (b"\x70\x02\x00\x01", "packet 0x70"),
        (b"\x82\x02\x00\x01", "packet 0x82"),
        (b"\xa2\x02\x00\x01", "packet 0xa2"),
        (b"\xc0\x00", "packet 0xc0"),
        (b"\xe0\x00", "packet 0xe0"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(100), "packet 0x48"),
    ],
)
def test_malformed(stream: bytes, says: str) -> None:
    """What a broker must not send is refused, and the text says what it was."""
    with pytest.raises(ProtocolError) as caught:
        Decoder().feed(stream)

    assert says in str(caught.value)


@pytest.mark.parametrize("cuts", [[], [3], list(range(0, 300_000, 7_001))])
def test_packet_max(cuts: list[int]) -> None:
    """Of a PUBLISH that is too large the beginning is kept, and the stream goes on after it."""
    large = codec.publish(codec.field("t"), bytes(290_000), mid=9)
    stream = PINGRESP + large + codec.puback(7)
    decoder, edges = Decoder(packet_max=200_000), sorted({0, *cuts, len(stream)})
    pieces = [stream[a:b] for a, b in pairwise(edges) if a < len(stream)]
    ping, kept, ack = (packet for piece in pieces for packet in decoder.feed(piece))

    assert (Pingresp(), Puback(7)) == (ping, ack)
    assert isinstance(kept, Publish)
    assert (b"t", 9) == (kept.topic, kept.mid)
    assert PAYLOAD_MAX < len(kept.payload) < 290_000


def test_field_max() -> None:
    """A string of more than 65,535 bytes cannot be sent."""
    assert MID_MAX + 2 == len(codec.field("x" * MID_MAX))
    with pytest.raises(ProtocolError, match="string of 65537 bytes, at most 65535"):
        codec.field("x" * MID_MAX + "é")


@given(publishes.filter(lambda message: message.qos == 1))
def test_repeated(message: Publish) -> None:
    """A repeated message differs in its mark and in nothing else."""
    (again,) = Decoder().feed(codec.as_repeated(encoded(message)))

    assert isinstance(again, Publish)
    assert again.dup
    assert (message.topic, message.payload, message.retain, message.mid) == (
        again.topic,
        again.payload,
        again.retain,
        again.mid,
    )


@given(st.lists(mids))
def test_pubacks(acknowledged: list[int]) -> None:
    """Acknowledgements sent together are the same as those sent one by one."""
    assert b"".join(map(codec.puback, acknowledged)) == codec.pubacks(acknowledged)


@given(
    client_id=words,
    keep_alive_s=st.integers(0, 65_535),
    clean=st.booleans(),
    will=st.none() | st.builds(Will, words, st.binary(max_size=50), st.booleans()),
    username=st.none() | words,
    password=st.none() | words,
)
async def test_connect(
    client_id: str,
    keep_alive_s: int,
    will: Will | None,
    username: str | None,
    password: str | None,
    *,
    clean: bool,
) -> None:
    """Another implementation reads our CONNECT as we meant it."""
    raw = codec.connect(
        client_id,
        keep_alive_s=keep_alive_s,
        clean=clean,
        will=will,
        username=username,
        password=password.encode() if password is not None else None,
    )

    read = await ConnectPacket.from_stream(BufferReader(raw))

    assert ("MQTT", 4, client_id) == (read.proto_name, read.proto_level, read.client_id)
    assert (keep_alive_s, clean) == (read.keep_alive, read.clean_session_flag)
    assert username == read.username
    assert (password if username is not None else None) == read.password
    assert (will is not None) == read.will_flag
    if will is not None:
        assert (will.topic, will.payload) == (read.will_topic, read.will_message)
        assert (1, will.retain) == (read.will_qos, read.will_retain_flag)


@given(mids, st.lists(st.tuples(words, st.integers(0, 1)), min_size=1, max_size=8))
async def test_subscribe(mid: int, filters: list[tuple[str, int]]) -> None:
    """Another implementation reads our SUBSCRIBE as we meant it."""
    read = await SubscribePacket.from_stream(BufferReader(codec.subscribe(mid, filters)))

    assert (mid, filters) == (read.variable_header.packet_id, read.payload.topics)


@given(words.filter(lambda topic: not set(topic) & {"+", "#"}), st.binary(max_size=200), mids)
async def test_publish(topic: str, payload: bytes, mid: int) -> None:
    """Another implementation reads our PUBLISH as we meant it."""
    raw = codec.publish(codec.field(topic), payload, mid=mid, retain=True)

    read = await PublishPacket.from_stream(BufferReader(raw))

    assert (topic, payload, mid) == (read.topic_name, read.data, read.packet_id)
    assert (1, True, False) == (read.qos, read.retain_flag, read.dup_flag)


@pytest.mark.parametrize(("granted", "refused"), [((0, 1), False), ((1, 128), True)])
def test_refused(granted: tuple[int, ...], *, refused: bool) -> None:
    """A subscription is refused when one of its filters is."""
    assert refused is Suback(1, granted).refused
