"""From messages to validated readings: decode, check, recognise repeats, sort by fate."""

from array import array
from collections.abc import Iterable, Sequence
from typing import Final, NoReturn

import msgspec
import numpy as np
import structlog

from broker.codec import Publish
from broker.messages import PAYLOAD_MAX, Birth, ClockTick, Status, Telemetry, decode
from broker.topics import Channel, clock_topic, parse_device_topic
from city.cityfile import IDENTIFIER, IDENTIFIER_MAX, Address
from city.clock import wall_ms
from city.errors import PayloadError, TopicError, WireError
from city.quantities import QUANTITIES
from city.readings import FLAG_OF_LETTER, ReadingBatch, SeriesTable
from ingest.clockwatch import ClockWatch
from ingest.ledger import DeadLetter, Fate
from ingest.spool import Message
from ingest.store import Point, device_key

_log = structlog.get_logger(__name__)

_NO_TEXTS: Final[dict[str, str]] = {}
_LAYOUTS_MAX: Final = 32
_RINGS_TOTAL: Final = 1 << 19
_RING_MIN: Final = 64
_RING_MAX: Final = 1 << 15
_UNUSED: Final = -1
"""Where nothing was taken yet: no hash has this value."""
_DETAIL_MAX: Final = 500
_CITIES_MAX: Final = 1_000
_POLICY: Final = frozenset({"too-many-devices", "too-many-cities"})
"""The reasons that refuse a message which may well be valid."""


class Taken(msgspec.Struct):
    """What became of one group of messages."""

    messages: list[Message]
    """The valid telemetry, as it came."""
    points: list[Point]
    """One per valid message, in the same order."""
    batch: ReadingBatch
    """The readings in them."""
    duplicates: int
    dead: list[DeadLetter]
    births: list[tuple[Address, Birth]]
    """Of the devices whose birth document is new, or another than the last."""
    documents: list[Message]
    """These birth documents, as they came."""


class _Source:
    """What intake remembers of one device that sends telemetry."""

    __slots__ = ("address", "clock", "key", "layouts", "ring", "slots")

    def __init__(self, address: Address, clock: ClockWatch, slots: int) -> None:
        self.address = address
        self.clock = clock
        self.key = device_key(address)
        self.layouts: dict[tuple[str, ...], tuple[int, ...]] = {}
        self.slots = slots - 1
        # the hashes of the newest payloads, by sequence number: equal means seen before
        self.ring = array("q", (_UNUSED,)) * slots


class Intake:
    """Knows every device by its topic and turns arrivals into `Taken` groups.

    A repeat is, byte for byte, a message that the same device sent before. It is recognised among
    a device's newest messages: 64 of them in a large city, up to 32,768 in a small one. An older
    one is stored again, over itself.
    """

    def __init__(self, *, devices_max: int = 200_000) -> None:
        self.series = SeriesTable()
        self.online: set[Address] = set()
        self._devices_max = devices_max
        self._clocks: dict[str, ClockWatch] = {}
        self._met: dict[Address, int] = {}
        """The hash of the newest birth document of every device that is there or had one."""
        self._sources: dict[bytes, _Source] = {}
        self._decode = msgspec.json.Decoder(Telemetry).decode
        self._warned: set[str] = set()

    @property
    def devices(self) -> int:
        """How many devices have sent telemetry."""
        return len(self._sources)

    def take(self, arrivals: Iterable[Sequence[Publish]]) -> Taken:  # noqa: C901, PLR0915 - the hot loop
        """Sort `arrivals` by fate; never raises, whatever they contain."""
        messages: list[Message] = []
        points: list[Point] = []
        dead: list[DeadLetter] = []
        births: list[tuple[Address, Birth]] = []
        documents: list[Message] = []
        duplicates = 0
        series: list[int] = []
        values: list[float] = []
        instants: list[int] = []
        lengths: list[int] = []
        flagged: list[tuple[int, int]] = []
        sources, decode_telemetry = self._sources, self._decode
        self._look_at_clocks()
        for arrival in arrivals:
            for message in arrival:
                topic, payload = message.topic, message.payload
                try:
                    source = sources.get(topic)
                    if source is None:
                        source = self._introduce(message, births, documents)
                        if source is None:
                            continue
                    if len(payload) > PAYLOAD_MAX:
                        decode(Telemetry, payload)
                    telemetry = decode_telemetry(payload)
                    ts, found = telemetry.ts, telemetry.values
                    earliest_ms, latest_ms = source.clock.span_ms
                    if not earliest_ms <= ts <= latest_ms:
                        _reject_instant(ts, earliest_ms, latest_ms)
                    names = tuple(found)
                    layout = source.layouts.get(names)
                    if layout is None:
                        layout = self._lay_out(source, names)
                    texts = _NO_TEXTS
                    if telemetry.flags:
                        texts = _flag_texts(telemetry)
                    slot = telemetry.seq & source.slots
                    identity = hash(payload)
                    if source.ring[slot] == identity:
                        duplicates += 1
                        continue
                    source.ring[slot] = identity
                except Exception as error:  # noqa: BLE001 - a payload nobody foresaw stops nothing
                    dead.append(self._dead_letter(message, error))
                    continue
                if texts:
                    flagged += _flag_rows(telemetry, names, len(series))
                messages.append((topic, payload))
                points.append(Point(source.key, ts, found, {"seq": telemetry.seq}, texts))
                series += layout
                values += found.values()
                instants.append(ts)
                lengths.append(len(layout))
        batch = self._batch(series, values, instants, lengths, flagged)
        return Taken(messages, points, batch, duplicates, dead, births, documents)

    def _batch(
        self,
        series: list[int],
        values: list[float],
        instants: list[int],
        lengths: list[int],
        flagged: list[tuple[int, int]],
    ) -> ReadingBatch:
        """The readings of messages: `instants` and `lengths` are by message, the others by value."""
        batch = ReadingBatch(
            table=self.series,
            series=np.array(series, dtype=np.int32),
            ts=np.repeat(np.array(instants, dtype=np.int64), lengths),
            value=np.array(values, dtype=np.float64),
            flag=np.zeros(len(series), dtype=np.uint8),
        )
        for row, flag in flagged:
            batch.flag[row] = flag
        return batch

    def revive(self, messages: Iterable[Message]) -> list[Point]:
        """The points of messages that were found valid when they were spooled."""
        points = []
        for topic, payload in messages:
            source = self._sources.get(topic) or self._source(topic)
            telemetry = self._decode(payload)
            texts = _flag_texts(telemetry) if telemetry.flags else _NO_TEXTS
            seq = {"seq": telemetry.seq}
            points.append(Point(source.key, telemetry.ts, telemetry.values, seq, texts))
        return points

    def readings(self, messages: Iterable[Message]) -> ReadingBatch:
        """The readings in messages that were found valid when they were spooled: as `take` gave them.

        Raises:
            CityEyeError: A message that was valid is so no longer.
        """
        series: list[int] = []
        values: list[float] = []
        instants: list[int] = []
        lengths: list[int] = []
        flagged: list[tuple[int, int]] = []
        for topic, payload in messages:
            source = self._sources.get(topic) or self._source(topic)
            telemetry = self._decode(payload)
            names = tuple(telemetry.values)
            layout = source.layouts.get(names) or self._lay_out(source, names)
            if telemetry.flags:
                flagged += _flag_rows(telemetry, names, len(series))
            series += layout
            values += telemetry.values.values()
            instants.append(telemetry.ts)
            lengths.append(len(layout))
        return self._batch(series, values, instants, lengths, flagged)

    def births(self, documents: Iterable[Message]) -> list[tuple[Address, Birth]]:
        """The births in documents that were found valid when they were spooled.

        The documents are known from then on: `take` passes over the same again.
        """
        births = []
        for topic, payload in documents:
            address, _ = parse_device_topic(topic.decode())
            births.append((address, decode(Birth, payload)))
            self._met[address] = hash(payload)
        return births

    def remember(self, messages: Iterable[Message]) -> None:
        """Recognise `messages` as repeats should they be delivered again."""
        for topic, payload in messages:
            source = self._sources.get(topic) or self._source(topic)
            telemetry = self._decode(payload)
            source.ring[telemetry.seq & source.slots] = hash(payload)

    def _introduce(
        self,
        message: Publish,
        births: list[tuple[Address, Birth]],
        documents: list[Message],
    ) -> _Source | None:
        """A new telemetry source; None for the messages that are no telemetry."""
        text = _decoded(message.topic)
        if text.endswith("/clock"):
            self._learn_clock(text, message.payload)
            return None
        address, channel = parse_device_topic(text)
        if channel is Channel.TELEMETRY:
            if len(self._sources) >= self._devices_max:
                raise PayloadError("too-many-devices", f"at most {self._devices_max}")
            self._check_cities(address.city)
            return self._source(message.topic)
        if channel is Channel.META and message.payload:
            birth = decode(Birth, message.payload)
            self._meet(address)
            if self._met[address] != hash(message.payload):
                self._met[address] = hash(message.payload)
                births.append((address, birth))
                documents.append((message.topic, message.payload))
        elif channel is Channel.STATUS:
            self._note_status(address, message.payload)
        return None

    def _learn_clock(self, topic: str, payload: bytes) -> None:
        levels = topic.split("/")
        city = levels[2] if len(levels) > 2 else ""  # noqa: PLR2004 - where a city's name stands
        known = IDENTIFIER.fullmatch(city) and len(city) <= IDENTIFIER_MAX
        if not known or topic != clock_topic(city):
            raise TopicError(f"not a clock topic: {topic[:200]!r}")
        self._check_cities(city)
        clock = self._clock(city)
        clock.learn(decode(ClockTick, payload))
        clock.look(wall_ms())

    def _note_status(self, address: Address, payload: bytes) -> None:
        """Take note of whether a device is there; an empty payload takes its status back."""
        if payload and decode(Status, payload).state == "online":
            self._meet(address)
            self.online.add(address)
        else:
            self.online.discard(address)

    def _meet(self, address: Address) -> None:
        """Bound the devices that are remembered by their births and states."""
        if address not in self._met and len(self._met) >= self._devices_max:
            raise PayloadError("too-many-devices", f"at most {self._devices_max}")
        self._met.setdefault(address, _UNUSED)

    def _check_cities(self, city: str) -> None:
        if city not in self._clocks and len(self._clocks) >= _CITIES_MAX:
            raise PayloadError("too-many-cities", f"at most {_CITIES_MAX}")

    def _clock(self, city: str) -> ClockWatch:
        return self._clocks.setdefault(city, ClockWatch())

    def _look_at_clocks(self) -> None:
        now_ms = wall_ms()
        for clock in self._clocks.values():
            clock.look(now_ms)

    def _source(self, topic: bytes) -> _Source:
        address, _ = parse_device_topic(topic.decode())
        share = _RINGS_TOTAL // (len(self._sources) + 1)
        slots = 1 << (max(_RING_MIN, min(_RING_MAX, share)).bit_length() - 1)
        source = self._sources[topic] = _Source(address, self._clock(address.city), slots)
        return source

    def _lay_out(self, source: _Source, names: tuple[str, ...]) -> tuple[int, ...]:
        """The series of one combination of quantities, checked once."""
        for name in names:
            quantity = QUANTITIES.get(name)
            if quantity is None or quantity.domain != source.address.domain:
                where = source.address.domain
                raise PayloadError("unknown-quantity", f"{name[:80]!r} in domain {where}")
        layout = tuple(self.series.index(source.address, name) for name in names)
        if len(source.layouts) < _LAYOUTS_MAX:
            source.layouts[names] = layout
        return layout

    def _dead_letter(self, message: Publish, error: Exception) -> DeadLetter:
        error = _explained(message.payload, error)
        reason = _reason(error)
        fate = Fate.REFUSED if reason in _POLICY else Fate.QUARANTINED
        detail = (error.detail if isinstance(error, PayloadError) else str(error))[:_DETAIL_MAX]
        topic = message.topic.decode(errors="replace")
        say = _log.debug if reason in self._warned else _log.warning
        self._warned.add(reason)
        say("message not stored", fate=fate.value, reason=reason, topic=topic[:200], detail=detail)
        return DeadLetter(fate, reason, detail, message.topic, message.payload)


def _decoded(topic: bytes) -> str:
    try:
        return topic.decode()
    except UnicodeDecodeError as error:
        raise TopicError(f"not UTF-8: {topic[:200]!r}") from error


def _explained(payload: bytes, error: Exception) -> Exception:
    """The same error by our own name, where the decoder's was raised on the fast path."""
    if isinstance(error, WireError):
        return error
    try:
        decode(Telemetry, payload)
    except PayloadError as known:
        return known
    return error


def _reason(error: Exception) -> str:
    if isinstance(error, PayloadError):
        return error.reason
    if isinstance(error, TopicError):
        return "bad-topic"
    return "unforeseen"


def _reject_instant(ts: int, earliest_ms: int, latest_ms: int) -> NoReturn:
    by_s = max(ts - latest_ms, earliest_ms - ts) / 1000
    side = "after" if ts > latest_ms else "before"
    detail = f"ts {ts} is {by_s:.0f} s {side} what the city's clock allows"
    raise PayloadError("impossible-time", detail)


def _flag_texts(telemetry: Telemetry) -> dict[str, str]:
    flags = telemetry.flags or {}
    for name in flags:
        if name not in telemetry.values:
            raise PayloadError("wrong-shape", f"flag for {name[:80]!r}, which has no value")
    return {f"{name}_flag": letter for name, letter in flags.items()}


def _flag_rows(telemetry: Telemetry, names: tuple[str, ...], start: int) -> list[tuple[int, int]]:
    flags = telemetry.flags or {}
    return [(start + names.index(name), FLAG_OF_LETTER[flag]) for name, flag in flags.items()]
