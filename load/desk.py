"""Where messages are counted: what arrived of each device, how late, and which alarms were raised."""

import time
from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from broker.codec import Publish
from broker.messages import PAYLOAD_MAX, AlarmEvent, Count, Instant, decode
from broker.session import Link
from city.errors import PayloadError
from load.figures import Delays
from load.tally import Tally

_RANGES_MAX: Final = 3
_YOUNG_ALARM_US: Final = 60_000_000
"""An event that is older when it arrives tells nothing of how long alarms take."""


class _Stamp(msgspec.Struct, gc=False):
    """What is read of CityEye's own telemetry: the rest is skipped."""

    ts: Instant
    seq: Count


_decode_stamp: Final = msgspec.json.Decoder(_Stamp).decode
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Reads(Protocol):
    """What reads the messages of a template."""

    def read(self, topic: bytes, payload: bytes) -> tuple[bytes, int, int] | None:
        """Key of the device, number, instant [ms] or 0; None for what cannot be read."""


class Desk:
    """Counts what arrives, and then acknowledges it; one per subscriber.

    `received` is everything but alarms: `distinct`, `repeated`, `unreadable` and `strange` together.
    Retained messages are of the past and do not count.
    """

    def __init__(
        self, devices: Mapping[bytes, int], delays: Delays, *, reader: Reads | None = None
    ) -> None:
        """`devices`: the index of every device of the test, by its topic or its reader's key."""
        self.tally = Tally(len(devices))
        self.heard_at_s = time.monotonic()
        self.unreadable = 0
        self.strange = 0
        self.alarms = 0
        self._devices = devices
        self._reader = reader
        self._arrived = delays.of("subscriber")
        self._alarmed = delays.of("alarm")
        self._events: dict[bytes, tuple[int, int]] = {}

    def receive(self, link: Link, messages: list[Publish]) -> None:
        """Count and acknowledge; called by the session."""
        now_us = time.time_ns() // 1_000
        if self._reader is None:
            self._take_native(messages, now_us)
        else:
            self._take_foreign(self._reader, messages, now_us)
        link.acknowledge([message.mid for message in messages if message.mid])
        self.heard_at_s = time.monotonic()

    def counts(self) -> dict[str, int]:
        """All counts since the beginning."""
        tally = self.tally
        return {
            "received": tally.received + self.unreadable + self.strange,
            "distinct": tally.distinct,
            "repeated": tally.repeated,
            "out_of_order": tally.out_of_order,
            "unreadable": self.unreadable,
            "strange": self.strange,
            "alarms": self.alarms,
        }

    def worst(self, count: int) -> list[str]:
        """The devices of which most is missing, with the first of the missing numbers."""
        keys = list(self._devices)
        said = []
        for one in self.tally.gaps(count):
            ranges = [
                str(first) if first == last else f"{first}-{last}" for first, last in one.ranges
            ]
            shown = ", ".join(ranges[:_RANGES_MAX]) + (", …" if len(ranges) > _RANGES_MAX else "")
            said.append(f"{keys[one.device].decode(errors='replace')}: {one.count} ({shown})")
        return said

    def _take_native(self, messages: list[Publish], now_us: int) -> None:
        """The fast path: two numbers of each payload, and the device by its topic."""
        find, take, late = self._devices.get, self.tally.take, self._arrived.append
        for message in messages:
            device = find(message.topic)
            if device is None or message.retain:
                self._take_other(message, now_us)
                continue
            payload = message.payload
            try:
                stamp = _decode_stamp(payload)
            except _UNREADABLE:
                self.unreadable += 1
                continue
            if len(payload) > PAYLOAD_MAX:
                self.unreadable += 1
            elif take(device, stamp.seq):
                late(now_us - stamp.ts * 1_000)

    def _take_foreign(self, reader: Reads, messages: list[Publish], now_us: int) -> None:
        """Messages of a template, which its reader reads."""
        for message in messages:
            if message.retain:
                continue
            found = reader.read(message.topic, message.payload)
            if found is None:
                self.unreadable += 1
                continue
            key, seq, ts_ms = found
            device = self._devices.get(key)
            if device is None:
                self.strange += 1
            elif self.tally.take(device, seq) and ts_ms:
                self._arrived.append(now_us - ts_ms * 1_000)

    def _take_other(self, message: Publish, now_us: int) -> None:
        """What is no telemetry of the test: an alarm event, or of a device that is not known."""
        if message.retain:
            return
        if b"/alarms/" not in message.topic:
            self.strange += 1
        elif message.payload:
            try:
                self._take_alarm(message.topic, decode(AlarmEvent, message.payload), now_us)
            except PayloadError:
                self.unreadable += 1

    def _take_alarm(self, topic: bytes, event: AlarmEvent, now_us: int) -> None:
        """Count an event once, however often the broker delivers it."""
        place = (event.ts, event.number)
        if place <= self._events.get(topic, (-(2**63), 0)):
            return
        self._events[topic] = place
        self.alarms += 1
        age_us = now_us - event.ts * 1_000
        if event.event == "raised" and age_us < _YOUNG_ALARM_US:
            self._alarmed.append(age_us)


class Drops:
    """How many messages the broker says that it has dropped since the test began."""

    def __init__(self) -> None:
        self.total = 0
        self._shown: int | None = None

    def receive(self, link: Link, messages: list[Publish]) -> None:
        """Take the broker's count; a lower one than before is that of a broker started again."""
        for message in messages:
            if not message.payload.isdigit():
                continue
            shown = int(message.payload)
            before = shown if self._shown is None else self._shown
            self.total += shown - before if shown >= before else shown
            self._shown = shown
        link.acknowledge([message.mid for message in messages if message.mid])
