import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import codec
from city.cityfile import load_city
from load.device import LoadDevice
from load.faults import LATE, MALFORMED, NONE
from load.payloads import NATIVE, Speaker
from sensors.device import Connection

SPEC = next(d for d in load_city("lanting").devices() if d.kind.id == "gas-valve")
ACCEPTED = b"\x20\x02\x00\x00"


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.aborted = False

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written += data

    def abort(self) -> None:
        """Take note."""
        self.aborted = True

    close = abort

    def published(self) -> list[codec.Publish]:
        """The messages among what was written."""
        found: list[codec.Publish] = []
        rest = self.written
        while rest:
            size, start = codec._varint(rest, 1, len(rest))
            if rest[0] >> 4 == 3:
                packets = codec.Decoder().feed(rest[: start + size])
                found += [packet for packet in packets if isinstance(packet, codec.Publish)]
            rest = rest[start + size :]
        return found


class Home:
    """A fleet of one."""

    def __init__(self, *, window: int = 16, backlog_max: int = 100, qos: int = 1) -> None:
        self.window, self.backlog_max, self.qos = window, backlog_max, qos
        self.at_s = 0.0
        self.sent = self.payload_bytes = self.acked = 0
        self.acks_us: list[int] = []
        self.reasons: Counter[str] = Counter()
        self.codes: list[int] = []
        self.losses: list[tuple[str, bool]] = []
        self.done: list[tuple[int, int]] = []
        self.out: list[int] = []

    def came(self, device: LoadDevice) -> None:
        """It says what it is."""
        device.say(device.speaker.births(42))

    def lost(self, device: LoadDevice, reason: str, *, online: bool) -> None:  # noqa: ARG002 - the protocol's
        """Take note."""
        self.losses.append((reason, online))

    def refused(self, device: LoadDevice, code: int) -> None:  # noqa: ARG002 - the protocol's
        """Take note."""
        self.codes.append(code)

    def settled(self, due_ms: int, lot: int) -> None:
        """Take note."""
        self.done.append((due_ms, lot))

    def pushed_out(self, due_ms: int, lot: int) -> None:  # noqa: ARG002 - the protocol's
        """Take note."""
        self.out.append(due_ms)


class Bench:
    """A device with its home and its wire."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.device = LoadDevice(0, Speaker(NATIVE, SPEC, (1.0, 2.0), run="t"), home)
        self.wire = Wire()
        self.number = 0

    def connect(self, answer: bytes = ACCEPTED) -> Wire:
        """Connect on a new wire."""
        self.wire = Wire()
        self.device.connection_made(self.wire)  # type: ignore[arg-type]  # as much as it needs
        self.device.data_received(answer)
        return self.wire

    def hand(self, count: int = 1, lot: int = NONE) -> None:
        """Hand messages to the device, due at 1000, 1001 and so on."""
        for _ in range(count):
            self.device.hand(json.dumps({"seq": self.number}).encode(), 1000 + self.number, lot)
            self.number += 1

    def acknowledge(self) -> None:
        """Acknowledge all that is written and not acknowledged, in one piece."""
        acks = [codec.puback(packet.mid) for packet in self.wire.published()]
        if acks:
            self.device.data_received(b"".join(acks))

    def seqs(self) -> list[int]:
        """The numbers on the wire."""
        found = [p for p in self.wire.published() if p.topic.endswith(b"/telemetry")]
        return [json.loads(packet.payload)["seq"] for packet in found]


@pytest.fixture
def make() -> Callable[..., Bench]:
    """Makes a device at a home with certain limits."""
    return lambda **limits: Bench(Home(**limits))


class TestSending:
    """Messages on their way to the broker."""

    def test_window(self, make: Any) -> None:
        """Not more than the window is in flight; the rest follows when room is made."""
        bench = make(window=4)
        bench.connect()
        bench.acknowledge()
        bench.hand(6)

        assert [0, 1, 2, 3] == bench.seqs()
        bench.acknowledge()
        assert [0, 1, 2, 3, 4, 5] == bench.seqs()

    def test_counted(self, make: Any) -> None:
        """Messages, payload bytes, acknowledgements and their delays are counted; births are not."""
        bench = make()
        bench.connect()
        bench.hand(3)
        bench.acknowledge()

        home = bench.home
        assert (3, 3, 3 * len('{"seq": 0}')) == (home.sent, home.acked, home.payload_bytes)
        assert 3 == len(home.acks_us)
        assert home.acks_us[0] > 10**12

    def test_backlog(self, make: Any) -> None:
        """A full backlog loses its oldest message."""
        bench = make(backlog_max=3)
        bench.hand(5)
        bench.connect()

        assert [1000, 1001] == bench.home.out
        assert [2, 3, 4] == bench.seqs()

    def test_repeated(self, make: Any) -> None:
        """What was not acknowledged is sent again first, and counts as sent again."""
        bench = make()
        bench.connect()
        bench.hand(2)
        bench.device.connection_lost(None)
        bench.hand()
        bench.connect()

        assert [0, 1, 2] == bench.seqs()
        assert 5 == bench.home.sent

    def test_oldest(self, make: Any) -> None:
        """The oldest is the first that waits, in flight or not; uncommon lots are kept elsewhere."""
        bench = make(window=3)
        bench.connect()
        bench.hand(lot=LATE)
        bench.hand(4)

        assert 1001 == bench.device.oldest_ms
        assert 2 + 5 == bench.device.waiting
        bench.acknowledge()
        bench.acknowledge()
        bench.acknowledge()
        assert bench.device.oldest_ms is None
        assert [(1000, LATE)] == [one for one in bench.home.done if one[1] == LATE]

    def test_at_most_once(self, make: Any) -> None:
        """At QoS 0 nothing waits for an acknowledgement."""
        bench = make(qos=0)
        bench.connect()
        bench.acknowledge()
        bench.hand(30)

        assert list(range(30)) == bench.seqs()
        assert 0 == bench.device.waiting

    def test_stuffed(self, make: Any) -> None:
        """While the network takes no more, messages are kept."""
        bench = make(qos=0)
        bench.connect()
        bench.device.pause_writing()
        bench.hand(2)

        assert [] == bench.seqs()
        bench.device.resume_writing()
        assert [0, 1] == bench.seqs()

    @given(
        steps=st.lists(st.sampled_from(["hand", "acknowledge", "connect", "lose"]), max_size=40),
        window=st.integers(1, 5),
    )
    def test_any_course(self, steps: list[str], window: int) -> None:
        """Whatever happens in between, in the end all was sent, first copies in their order."""
        bench, arrived = Bench(Home(window=window)), list[int]()
        for step in [*steps, "lose", "connect", *["acknowledge"] * 60]:
            online = bench.device.state is Connection.ONLINE
            if step == "hand":
                bench.hand()
            elif step == "lose" and online:
                bench.device.connection_lost(None)
            elif step == "connect" and not online:
                bench.connect()
            elif step == "acknowledge" and online:
                bench.acknowledge()
            arrived += [seq for seq in bench.seqs() if seq not in arrived]

        assert list(range(bench.number)) == arrived
        assert 0 == bench.device.waiting
        assert bench.number == bench.home.acked


class TestConnection:
    """The life of a connection."""

    def test_refused(self, make: Any) -> None:
        """A refusal is reported with its code, once, and the connection is dropped."""
        bench = make()
        wire = bench.connect(b"\x20\x02\x00\x05")
        bench.device.connection_lost(None)

        assert [5] == bench.home.codes
        assert wire.aborted
        assert [("", False)] == bench.home.losses

    @pytest.mark.parametrize("cut", [True, False])
    def test_lost(self, make: Any, cut: bool) -> None:  # noqa: FBT001 - pytest passes it by name
        """There is a reason where a connection is lost, and none where it was cut on purpose."""
        bench = make()
        bench.connect()
        if cut:
            bench.device.abort()
        bench.device.connection_lost(None)

        assert [("" if cut else "the broker closed the connection", True)] == bench.home.losses
        assert Connection.ASLEEP is bench.device.state

    def test_after_cut(self, make: Any) -> None:
        """What is handed over between cut and loss is kept."""
        bench = make()
        bench.connect()
        bench.device.abort()
        bench.hand()
        bench.device.connection_lost(None)
        bench.connect()

        assert [0] == bench.seqs()

    def test_spoilt(self, make: Any) -> None:
        """What is malformed is not sent again: it may be what broke the connection."""
        bench = make()
        bench.connect()
        bench.hand(lot=MALFORMED)
        bench.hand()
        bench.device.connection_lost(None)
        bench.connect()

        assert [1] == bench.seqs()
        assert (1000, MALFORMED) in bench.home.done

    @given(cuts=st.lists(st.integers(1, 9), max_size=8))
    def test_pieces(self, cuts: list[int]) -> None:
        """Answers may come cut anywhere, and others between them."""
        bench = Bench(Home())
        bench.connect()
        bench.hand(4)
        answers = [codec.puback(packet.mid) for packet in bench.wire.published()]
        stream = b"".join([*answers[:3], b"\xd0\x00", *answers[3:]])
        for size in [*cuts, len(stream)]:
            piece, stream = stream[:size], stream[size:]
            if piece:
                bench.device.data_received(piece)

        assert (4, 0) == (bench.home.acked, bench.device.waiting)

    def test_not_mqtt(self, make: Any) -> None:
        """A peer that does not speak MQTT is hung up on, and the reason is counted."""
        bench = make()
        wire = bench.connect(b"\xf0\x00")

        assert wire.aborted
        assert 1 == bench.home.reasons.total()

    def test_goodbye(self, make: Any) -> None:
        """A device that parts disconnects so that its will is not sent."""
        bench = make()
        wire = bench.connect()
        bench.device.part()

        assert wire.written.endswith(codec.DISCONNECT)
