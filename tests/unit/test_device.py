import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import codec
from broker.topics import Channel, device_topic
from city.cityfile import Device, load_city
from sensors.device import Connection, VirtualDevice, birth_of

VALVE = next(d for d in load_city("lanting").devices() if d.kind.id == "gas-valve")
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
        """The messages among what was written; SUBSCRIBE and PINGREQ are left out."""
        found: list[codec.Publish] = []
        rest = self.written
        while rest:
            size, start = codec._varint(rest, 1, len(rest))
            if rest[0] >> 4 == 3:
                found += [p for p in codec.Decoder().feed(rest[: start + size])
                          if isinstance(p, codec.Publish)]  # fmt: skip
            rest = rest[start + size :]
        return found


class Home:
    """A fleet of one."""

    def __init__(self, *, window: int = 16, backlog_max: int = 100) -> None:
        self.window, self.backlog_max = window, backlog_max
        self.acknowledged = self.dropped = self.online = 0
        self.at_s = 0.0
        self.codes: list[int] = []
        self.commands: list[bytes] = []
        self.losses: list[str] = []

    def now_ms(self) -> int:
        """A fixed instant."""
        return 42

    def lost(self, device: VirtualDevice, reason: str) -> None:  # noqa: ARG002 - the protocol's
        """Take note."""
        self.losses.append(reason)

    def refused(self, device: VirtualDevice, code: int) -> None:  # noqa: ARG002 - the protocol's
        """Take note."""
        self.codes.append(code)

    def commanded(self, device: VirtualDevice, payload: bytes) -> None:  # noqa: ARG002 - the same
        """Take note."""
        self.commands.append(payload)


class Bench:
    """A device with its home and its wire."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.device = VirtualDevice(VALVE, (1.0, 2.0), home)
        self.wire = Wire()

    def connect(self, answer: bytes = ACCEPTED) -> Wire:
        """Connect on a new wire."""
        self.wire = Wire()
        self.device.connection_made(self.wire)  # type: ignore[arg-type]  # as much as it needs
        self.device.data_received(answer)
        return self.wire

    def measure(self, count: int = 1) -> None:
        """Take samples."""
        for _ in range(count):
            self.device.measure(1000 + self.device._seq, {"gas_pressure": 1.0}, None)

    def acknowledge(self) -> None:
        """Acknowledge all that is written and not acknowledged."""
        for packet in self.wire.published():
            self.device.data_received(codec.puback(packet.mid))

    def sent(self) -> list[codec.Publish]:
        """The telemetry on the wire."""
        return [p for p in self.wire.published() if p.topic.endswith(b"/telemetry")]

    def seqs(self) -> list[int]:
        """Its sequence numbers."""
        return [json.loads(packet.payload)["seq"] for packet in self.sent()]


@pytest.fixture
def make() -> Callable[..., Bench]:
    """Makes a device at a home with certain limits."""
    return lambda **limits: Bench(Home(**limits))


async def test_client_ids_differ() -> None:
    """Two devices have two identities, wherever the hyphens of their names stand."""
    names = [("air-bell", "gate-station-1"), ("air-bell-gate", "station-1")]
    addresses = [
        msgspec.structs.replace(VALVE.address, site=site, device=device) for site, device in names
    ]
    devices = [msgspec.structs.replace(VALVE, address=address) for address in addresses]

    assert 2 == len({VirtualDevice(d, (1.0, 2.0), Home()).client_id for d in devices})


class TestBirth:
    """The document by which a device introduces itself."""

    def test_content(self) -> None:
        """It says where the device stands, what it measures and which commands it obeys."""
        birth = birth_of(VALVE, (1.0, 2.0))

        assert (1.0, 2.0) == birth.position
        assert set(VALVE.kind.quantities) == set(birth.quantities)
        assert ("close_valve", "open_valve", "calibrate", "set_interval") == birth.commands

    def test_plant(self) -> None:
        """At a plant it names the kind of plant, by which the limits are chosen."""
        devices: dict[str, Device] = {d.name: d for d in load_city("lanting").devices()}
        stack = devices["plant-north-heat/stack-1"]

        assert "coal-boiler" == birth_of(stack, stack.position).plant


class TestConnecting:
    """What happens when the broker has answered."""

    async def test_first_words(self, make: Any) -> None:
        """The first messages are the birth and the state, retained at QoS 1."""
        wire = make().connect()

        words = [(p.topic.decode(), p.qos, p.retain) for p in wire.published()]
        assert [
            (device_topic(VALVE.address, c), 1, True) for c in (Channel.META, Channel.STATUS)
        ] == words

    async def test_will(self, make: Any) -> None:
        """The last will says that the device is lost, retained, on its status topic."""
        hello = make().device.hello(keep_alive_s=60, username=None, password=None)

        assert device_topic(VALVE.address, Channel.STATUS).encode() in hello
        assert b'{"state":"lost"' in hello
        assert 0x04 | 0x08 | 0x20 == hello[hello.index(b"\x00\x04MQTT\x04") + 7]

    async def test_refused(self, make: Any) -> None:
        """A refusal is reported with its code, and the device is not online."""
        bench = make()
        bench.connect(b"\x20\x02\x00\x05")

        assert [5] == bench.home.codes
        assert Connection.ONLINE is not bench.device.state

    async def test_not_mqtt(self, make: Any) -> None:
        """A peer that does not speak MQTT is hung up on."""
        assert make().connect(b"\xf0\x00").aborted

    async def test_births_do_not_pile_up(self, make: Any) -> None:
        """However often the connection breaks before it answers, one birth and one state wait."""
        bench = make()
        for _ in range(5):
            bench.connect()
            bench.device.connection_lost(None)

        assert 2 == bench.device.waiting


class TestTelemetry:
    """Samples on their way to the broker."""

    async def test_window(self, make: Any) -> None:
        """Not more than the window is in flight; the rest follows when room is made."""
        bench = make(window=4)
        bench.connect()
        bench.acknowledge()
        bench.measure(6)

        assert [0, 1, 2, 3] == bench.seqs()
        bench.acknowledge()
        assert [0, 1, 2, 3, 4, 5] == bench.seqs()

    async def test_narrow_window(self, make: Any) -> None:
        """A window as small as the birth and the state does not shut telemetry out."""
        bench = make(window=2)
        bench.connect()
        bench.measure(3)
        for _ in range(3):
            bench.acknowledge()

        assert [0, 1, 2] == bench.seqs()
        assert 0 == bench.device.waiting

    async def test_repeated(self, make: Any) -> None:
        """What was not acknowledged is sent again first, marked, and then what came later."""
        bench = make()
        bench.connect()
        bench.measure(2)
        bench.device.connection_lost(None)
        bench.measure(2)
        bench.connect()

        assert [(0, True), (1, True), (2, False), (3, False)] == list(
            zip(bench.seqs(), [packet.dup for packet in bench.sent()], strict=True)
        )

    async def test_backlog(self, make: Any) -> None:
        """A full backlog loses its oldest message; the instants of the others are kept."""
        bench = make(backlog_max=3)
        bench.measure(5)
        bench.connect()

        assert 2 == bench.home.dropped
        assert [1002, 1003, 1004] == [json.loads(p.payload)["ts"] for p in bench.sent()]

    async def test_acknowledged_once(self, make: Any) -> None:
        """An acknowledgement that comes twice is counted once."""
        bench = make()
        bench.connect()
        bench.measure()
        bench.acknowledge()
        bench.acknowledge()

        assert 1 == bench.home.acknowledged

    @given(
        steps=st.lists(st.sampled_from(["measure", "acknowledge", "connect", "lose"]), max_size=40),
        window=st.integers(1, 5),
    )
    async def test_any_course(self, steps: list[str], window: int) -> None:
        """Whatever happens in between, in the end all was sent, first copies in their order."""
        bench, arrived = Bench(Home(window=window)), list[int]()
        for step in [*steps, "lose", "connect", *["acknowledge"] * 60]:
            if step == "measure":
                bench.measure()
            elif step == "lose" and bench.device.state is Connection.ONLINE:
                bench.device.connection_lost(None)
            elif step == "connect" and bench.device.state is not Connection.ONLINE:
                bench.connect()
            elif step == "acknowledge" and bench.device.state is Connection.ONLINE:
                bench.acknowledge()
            arrived += [seq for seq in bench.seqs() if seq not in arrived]

        assert list(range(bench.device._seq)) == arrived
        assert 0 == bench.device.waiting


class TestLeaving:
    """The end of a connection."""

    async def test_goodbye(self, make: Any) -> None:
        """A device that leaves says so, retained, and disconnects so that its will is not sent."""
        bench = make()
        bench.connect()
        bench.device.goodbye()
        bench.device.part()

        last = bench.wire.published()[-1]
        assert {"state": "offline", "ts": 42} == json.loads(last.payload)
        assert last.retain
        assert bench.wire.written.endswith(codec.DISCONNECT)

    async def test_counted(self, make: Any) -> None:
        """Devices online are counted up and down."""
        bench = make()
        bench.connect()
        online = bench.home.online
        bench.device.connection_lost(None)

        assert (1, 0) == (online, bench.home.online)
        assert ["the broker closed the connection"] == bench.home.losses
