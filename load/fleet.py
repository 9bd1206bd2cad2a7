"""The devices of one shard: what is due goes to its device, what comes back is counted."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Mapping
from heapq import heappop, heappush
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from broker.codec import PINGREQ, ConnectCode
from broker.messages import ENCODER, Telemetry
from load.agenda import Agenda, Due
from load.connecting import Connector
from load.device import CONTROL, LoadDevice
from load.faults import COUNTED, LATE, MISSING, NONE, REORDERED, REPEATED, FaultLots, spoilt
from load.figures import Delays
from load.plan import LoadPlan
from sensors.device import Connection

AT_ONCE: Final = 256
"""So many messages are handed on between two looks at the clock."""

_CONNECT_TIMEOUT_S: Final = 10.0
_STEADY_S: Final = 5.0
"""A connection that lasted so long is no failure."""
_MARK_MS: Final = 10
_REFUSALS: Final[Mapping[int, str]] = {
    ConnectCode.BAD_PROTOCOL: "refused: the broker does not speak MQTT 3.1.1",
    ConnectCode.BAD_CLIENT_ID: "refused: the broker does not like the client identifier",
    ConnectCode.UNAVAILABLE: "refused: the broker is not available",
    ConnectCode.BAD_CREDENTIALS: "refused: user or password is wrong",
    ConnectCode.NOT_AUTHORISED: "refused: not authorised",
}
_UNTRACKED: Final = frozenset({CONTROL, NONE, MISSING, REPEATED})
_MENDED_BY_PEOPLE: Final = frozenset(_REFUSALS) - {ConnectCode.UNAVAILABLE}


class Survey(msgspec.Struct, frozen=True):
    """How the devices are at one instant."""

    waiting: int
    """Messages that are not acknowledged, those held back by a fault included."""
    complete_ms: int
    """Up to this instant on the wall all that was due is acknowledged, dropped or withheld."""
    confirmed: int
    """How many different messages of these were acknowledged and can be read."""


class Fleet:
    """Devices that send what they are handed."""

    def __init__(self, plan: LoadPlan, faults: FaultLots, *, complete_ms: int) -> None:
        """All that was due up to `complete_ms` is none of our concern."""
        self.qos = plan.qos
        self.window = plan.window
        self.backlog_max = plan.backlog_max
        self.at_s = asyncio.get_running_loop().time()
        self.sent = self.payload_bytes = self.acked = 0
        self.due = self.readings = self.dropped = 0
        self.online = self.connects = self.disconnects = 0
        self.faulty: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.delays = Delays()
        self.acks_us = self.delays.of("ack")
        self.devices: list[LoadDevice] = []
        self.lateness_us = self.delays.of("lateness")
        self._connects_us = self.delays.of("connect")
        self._keep_alive_s = plan.keep_alive_s
        self._native = plan.template.format == "native"
        self._faults = faults
        self._unreadable = np.array(faults.unreadable)
        self._connector: Connector | None = None
        self._index = np.empty(0, dtype=np.int64)
        self._turned_away: set[int] = set()
        self._late: list[tuple[int, int, LoadDevice, bytes, int]] = []
        self._behind: dict[int, list[tuple[bytes, int]]] = {}
        self._tracked: Counter[int] = Counter()
        self._marks: deque[tuple[int, int]] = deque()
        self._complete = (complete_ms, 0)
        self._marked_ms = complete_ms
        self._readable = 0
        self._pushed_out_ms: list[int] = []
        self._pushed_out = 0

    def settle_in(
        self, devices: list[LoadDevice], index: NDArray[np.int64], connector: Connector
    ) -> None:
        """These are our devices, by number, with their indices in the whole city."""
        self._index = index
        self.devices = devices
        self._connector = connector

    def play(self, agenda: Agenda, now_ms: int, *, rounds: int = 4) -> bool:
        """Hand on what has become due; whether that was all."""
        self._send_late(now_ms)
        for _ in range(rounds):
            due = agenda.take(now_ms, AT_ONCE)
            if due is None:
                self.mark(now_ms)
                return True
            self._hand_on(due)
        return False

    def mark(self, now_ms: int, *, always: bool = False) -> None:
        """All that was due up to now has been handed on."""
        if always or now_ms >= self._marked_ms + _MARK_MS:
            self._marked_ms = now_ms
            self._marks.append((now_ms, self._readable))

    def release(self) -> None:
        """Hand on at once what is held back."""
        self._send_late(None)
        for number in list(self._behind):
            self._send_behind(self.devices[number])

    def cut(self, numbers: NDArray[np.int64]) -> None:
        """Drop the connections of these devices."""
        for number in numbers.tolist():
            self.devices[number].abort()

    def counts(self) -> dict[str, int]:
        """What was counted so far, by `load.figures.COUNTS`."""
        return {
            "due": self.due, "sent": self.sent, "acked": self.acked, "readings": self.readings,
            "bytes": self.payload_bytes, "dropped": self.dropped, "connects": self.connects,
            "disconnects": self.disconnects, **self.faulty,
        }  # fmt: skip

    def survey(self) -> Survey:
        """Look after every device: who waits, since when, who is to ping, who hears nothing."""
        now_s = self.at_s
        deaf_s, quiet_s = now_s - 1.5 * self._keep_alive_s, now_s - self._keep_alive_s / 2
        oldest_ms = min(self._tracked, default=self._marked_ms + 1)
        waiting = sum(map(len, self._behind.values())) + len(self._late)
        for device in self.devices:
            if device.unacked or device.backlog:
                waiting += device.waiting
                since_ms = device.oldest_ms
                if since_ms is not None and since_ms < oldest_ms:
                    oldest_ms = since_ms
            if device.sent_at_s < quiet_s or device.heard_at_s < deaf_s or device.failures:
                self._look_after(device, now_s)
        return Survey(waiting, *self._completed(oldest_ms))

    def came(self, device: LoadDevice) -> None:
        """A device is online: it says what it is."""
        self.online += 1
        self.connects += 1
        self._connects_us.append(round((time.monotonic() - device.began_s) * 1e6))
        self._turned_away.discard(device.number)
        device.say(device.speaker.births(time.time_ns() // 1_000_000))

    def lost(self, device: LoadDevice, reason: str, *, online: bool) -> None:
        """A device lost its connection, or got none: it tries again after a while."""
        if online:
            self.online -= 1
            self.disconnects += 1
        if reason and device.number not in self._turned_away:
            self.reasons[reason] += 1
        if self._connector is not None:
            self._connector.wake_later(device, refused=device.number in self._turned_away)

    def refused(self, device: LoadDevice, code: int) -> None:
        """The broker refused a device."""
        self.reasons[_REFUSALS.get(code, f"refused: return code {code}")] += 1
        if code in _MENDED_BY_PEOPLE and device.number not in self._turned_away:
            self._turned_away.add(device.number)
            device.failures = 0

    def settled(self, due_ms: int, lot: int) -> None:
        """A message of an uncommon lot needs no more care."""
        if lot not in _UNTRACKED:
            self._tracked[due_ms] -= 1
            if self._tracked[due_ms] <= 0:
                del self._tracked[due_ms]

    def pushed_out(self, due_ms: int, lot: int) -> None:
        """A full backlog lost a message."""
        self.dropped += 1
        self.settled(due_ms, lot)
        if lot != REPEATED and lot not in self._faults.unreadable:
            self._pushed_out_ms.append(due_ms)

    def can_finish(self) -> bool:
        """Whether nothing waits any more at devices that the broker lets in."""
        return not any(
            (device.unacked or device.backlog) and device.number not in self._turned_away
            for device in self.devices
        )

    def can_part(self) -> bool:
        """Whether nothing waits at devices that are online."""
        online = Connection.ONLINE
        return not any(device.unacked and device.state is online for device in self.devices)

    def farewell(self) -> None:
        """Let the devices say that they leave."""
        now_ms = time.time_ns() // 1_000_000
        for device in self.devices:
            if device.state is Connection.ONLINE:
                device.say(device.speaker.farewells(now_ms))

    def part(self) -> None:
        """Disconnect all."""
        for device in self.devices:
            device.part()

    def _hand_on(self, due: Due) -> None:
        now_us = time.time_ns() // 1000
        self.lateness_us += [now_us - due_ms * 1000 for due_ms in due.due_ms]
        self.due += len(due.devices)
        self.readings += sum(map(len, due.values))
        devices = self.devices
        both = zip(due.devices, due.due_ms, due.seqs, due.values, due.flags, strict=True)
        if not self._faults.faults.any:
            self._readable += len(due.devices)
            if self._native:
                for number, due_ms, seq, values, flags in both:
                    telemetry = Telemetry(due_ms, seq, values, flags)  # type: ignore[arg-type]
                    devices[number].hand(ENCODER.encode(telemetry), due_ms, NONE)
                return
            for number, due_ms, seq, values, flags in both:
                device = devices[number]
                device.hand(device.speaker.payload(seq, due_ms, values, flags), due_ms, NONE)
            return
        drawn = self._faults.draw(self._index[due.devices], np.array(due.seqs))
        self._readable += len(drawn) - int(np.isin(drawn, self._unreadable).sum())
        for (number, due_ms, seq, values, flags), lot in zip(both, drawn.tolist(), strict=True):
            if lot == MISSING:
                self.faulty["missing"] += 1
                self.readings -= len(values)
                continue
            device = devices[number]
            self._spoil(device, device.speaker.payload(seq, due_ms, values, flags), due_ms, lot)

    def _spoil(self, device: LoadDevice, payload: bytes, due_ms: int, lot: int) -> None:
        """Hand on a message with what its lot does to it."""
        if lot != NONE:
            self.faulty[COUNTED[lot]] += 1
        if lot not in _UNTRACKED:
            self._tracked[due_ms] += 1
        if lot == LATE:
            at_ms = due_ms + round(self._faults.faults.late_s * 1000)
            heappush(self._late, (at_ms, self.faulty["late"], device, payload, due_ms))
        elif lot == REORDERED:
            self._behind.setdefault(device.number, []).append((payload, due_ms))
        else:
            first = NONE if lot == REPEATED else lot
            device.hand(spoilt(payload, lot, self._faults.faults), due_ms, first)
            if lot == REPEATED:
                device.hand(payload, due_ms, REPEATED)
            if device.number in self._behind:
                self._send_behind(device)

    def _send_late(self, now_ms: int | None) -> None:
        while self._late and (now_ms is None or self._late[0][0] <= now_ms):
            _, _, device, payload, due_ms = heappop(self._late)
            device.hand(payload, due_ms, LATE)

    def _send_behind(self, device: LoadDevice) -> None:
        """What was held back until after its successor, the latest first."""
        for payload, due_ms in reversed(self._behind.pop(device.number)):
            device.hand(payload, due_ms, REORDERED)

    def _look_after(self, device: LoadDevice, now_s: float) -> None:
        online, silent_s = device.state is Connection.ONLINE, now_s - device.heard_at_s
        lasted_s = time.monotonic() - device.began_s
        if online and device.failures and lasted_s > _STEADY_S:
            device.failures = 0
        if online and silent_s > self._keep_alive_s * 1.5:
            self.reasons["the broker is silent"] += 1
            device.abort()
        elif online and now_s - device.sent_at_s > self._keep_alive_s / 2:
            device.write(PINGREQ)
        elif device.connected and not online and lasted_s > _CONNECT_TIMEOUT_S:
            self.reasons["no answer in time"] += 1
            device.abort()

    def _completed(self, oldest_ms: int) -> tuple[int, int]:
        """The latest mark before that instant, and what was confirmed up to it."""
        while self._marks and self._marks[0][0] < oldest_ms:
            self._complete = self._marks.popleft()
        complete_ms, readable = self._complete
        later = [due_ms for due_ms in self._pushed_out_ms if due_ms > complete_ms]
        self._pushed_out += len(self._pushed_out_ms) - len(later)
        self._pushed_out_ms = later
        return complete_ms, readable - self._pushed_out
