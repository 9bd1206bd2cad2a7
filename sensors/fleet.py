"""The fleet: every device of the city on its own connection, sending when it measures."""

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from heapq import heappop, heappush
from typing import Final, Protocol

import numpy as np
import structlog

from broker.choice import BrokerAddress
from broker.codec import ConnectCode
from broker.credentials import Login
from city.backoff import Backoff
from city.cityfile import Position
from city.clock import Clock
from city.readings import Flag
from sensors.commands import Commander, Obedient
from sensors.device import Connection, VirtualDevice
from sensors.fields import Group
from sensors.sampler import Frame

_log = structlog.get_logger(__name__)

_SLOT_S: Final = 0.02
_FAST_SLOT_MS: Final = 1_000
_FAST_WAITING_PER_DEVICE: Final = 8
_CONNECTING_MAX: Final = 256
_CONNECT_TIMEOUT_S: Final = 10.0
_SEND_TIMEOUT_S: Final = 30.0
_PART_TIMEOUT_S: Final = 5.0
_REFUSED_FIRST_S: Final = 1.0
_REFUSED_CAP_S: Final = 300.0
"""A wrong password is mended by people: asking more often only burdens the broker."""
_WRONG_LOGIN: Final = (
    "its user or password is wrong, or it is not in the broker's files: run `cityeye broker init` "
    "for this city, reload the broker, and give that credentials file"
)
_REMEDIES: Final[Mapping[int, str]] = {
    ConnectCode.BAD_CREDENTIALS: _WRONG_LOGIN,
    ConnectCode.NOT_AUTHORISED: _WRONG_LOGIN,
}
_LETTERS: Final = {flag.value: flag.name for flag in Flag if flag is not Flag.N}


class Source(Obedient, Protocol):
    """Where a fleet's samples come from: the engine, or a recording."""

    groups: tuple[Group, ...]

    def frames(self, from_ms: int, until_ms: int) -> Iterator[Frame]:
        """All samples taken from `from_ms` to before `until_ms`."""

    def device_positions(self) -> Mapping[str, Position]:
        """Longitude and latitude of every device by name."""


class Fleet:
    """Runs the devices of one source against one broker."""

    def __init__(
        self,
        engine: Source,
        clock: Clock,
        address: BrokerAddress,
        *,
        password: str | None = None,
        logins: Mapping[str, Login] | None = None,
        tls: ssl.SSLContext | None = None,
        keep_alive_s: int = 60,
        window: int = 16,
        backlog_max: int = 3_600,
    ) -> None:
        self.window = window
        self.backlog_max = backlog_max
        self.online = 0
        self.at_s = asyncio.get_running_loop().time()
        self.connects = 0
        self.messages = 0
        self.readings = 0
        self.acknowledged = 0
        self.dropped = 0
        self.late_ms_max = 0.0
        """How far sending ever lagged behind the clock, on the wall."""
        self.refusals: Counter[int] = Counter()
        """CONNACK return codes other than 0."""
        self.simulated_ms = 0
        """How much simulated time has been sent."""
        self._engine = engine
        self._kept: list[_Kept] = []
        self._clock = clock
        self._address = address
        self._password = password.encode() if password is not None else None
        self._logins = logins
        self._tls = tls
        self._keep_alive_s = keep_alive_s
        self._commander = Commander(engine, clock)
        positions = engine.device_positions()
        self._devices = {
            id(group): [VirtualDevice(d, positions[d.name], self) for d in group.devices]
            for group in engine.groups
        }
        self._backoffs: dict[VirtualDevice, Backoff] = {}
        self._turned_away: set[VirtualDevice] = set()
        self._connecting = asyncio.Semaphore(_CONNECTING_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving = False

    @property
    def devices(self) -> list[VirtualDevice]:
        """All devices, by group."""
        return [device for group in self._devices.values() for device in group]

    @property
    def held_back(self) -> int:
        """Samples whose line is still down."""
        return len(self._kept)

    @property
    def waiting(self) -> int:
        """Messages that the broker has not acknowledged yet."""
        return sum(device.waiting for device in self.devices)

    async def run(self, *, until_ms: int | None = None) -> None:
        """Connect every device and send what it measures, until that instant or for ever."""
        for device in self.devices:
            self._wake(device)
        watch = asyncio.create_task(self._keep_alive(), name="fleet keep-alive")
        try:
            await self._send(until_ms)
        finally:
            watch.cancel()

    async def leave(self) -> bool:
        """Wait until all is acknowledged, say goodbye and disconnect; whether all was."""
        await _until(lambda: not self._commander.underway, _PART_TIMEOUT_S)
        done = await self._all_acknowledged(_SEND_TIMEOUT_S)
        self._leaving = True
        for device in self.devices:
            if device.state is Connection.ONLINE:
                device.goodbye()
        done = await self._all_acknowledged(_PART_TIMEOUT_S) and done
        for device in self.devices:
            device.part()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await _until(lambda: not any(device.connected for device in self.devices), _PART_TIMEOUT_S)
        return done

    def now_ms(self) -> int:
        """The simulated instant."""
        return self._clock.now_ms()

    def lost(self, device: VirtualDevice, reason: str) -> None:
        """A device lost its connection: it tries again after a while."""
        if self._leaving:
            return
        _log.debug("device lost its connection", device=device.device.name, why=reason)
        delay_s = self._backoffs.setdefault(device, Backoff()).delay_s()
        asyncio.get_running_loop().call_later(delay_s, self._wake, device)

    def refused(self, device: VirtualDevice, code: int) -> None:
        """The broker refused a device; it tries again, ever more slowly."""
        if not self.refusals[code]:
            _log.warning(
                "the broker refuses a device",
                device=device.device.name,
                code=code,
                remedy=_REMEDIES.get(code, "see the broker's log"),
            )
        self.refusals[code] += 1
        if code in _REMEDIES and device not in self._turned_away:
            self._backoffs[device] = Backoff(first_s=_REFUSED_FIRST_S, cap_s=_REFUSED_CAP_S)
        self._turned_away.add(device)
        device.abort()

    def commanded(self, device: VirtualDevice, payload: bytes) -> None:
        """A command arrived at a device."""
        self._commander.obey(device, payload)

    def _wake(self, device: VirtualDevice) -> None:
        if self._leaving or device.state is not Connection.ASLEEP:
            return
        device.state = Connection.CONNECTING
        task = asyncio.create_task(self._connect(device), name=f"connect {device.device.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, device: VirtualDevice) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with self._connecting, asyncio.timeout(_CONNECT_TIMEOUT_S):
                await loop.create_connection(
                    lambda: device, self._address.host, self._address.port, ssl=self._tls
                )
        except (OSError, TimeoutError) as error:
            device.state = Connection.ASLEEP
            self.lost(device, str(error) or "no answer in time")
            return
        username, password = self._login(device)
        hello = device.hello(keep_alive_s=self._keep_alive_s, username=username, password=password)
        device.heard_at_s = loop.time()
        device.write(hello)
        self.connects += 1

    def _login(self, device: VirtualDevice) -> tuple[str | None, bytes | None]:
        """User name and password: the device's own, or those of all."""
        if self._logins is None:
            return self._address.username, self._password
        login = self._logins[str(device.device.address)]
        return login.user, None if login.password is None else login.password.encode()

    async def _keep_alive(self) -> None:
        """Ping the devices that have been silent, and drop those that hear nothing."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._keep_alive_s / 4)
            now_s = self.at_s = loop.time()
            for device in self.devices:
                if device.state in {Connection.ASLEEP, Connection.GONE}:
                    continue
                if now_s - device.heard_at_s > self._keep_alive_s * 1.5:
                    device.abort()
                elif now_s - device.sent_at_s > self._keep_alive_s / 2:
                    device.ping()
                if device.state is Connection.ONLINE:
                    self._backoffs.pop(device, None)
                    self._turned_away.discard(device)

    async def _send(self, until_ms: int | None) -> None:
        clock = self._clock
        loop = asyncio.get_running_loop()
        fast = clock.as_fast_as_possible
        slot_ms = _FAST_SLOT_MS if fast else max(1, round(_SLOT_S * 1000 * clock.speed))
        from_ms = clock.start_ms
        while until_ms is None or from_ms < until_ms:
            slot_end_ms = (
                from_ms + slot_ms if until_ms is None else min(from_ms + slot_ms, until_ms)
            )
            await clock.sleep_until(slot_end_ms)
            self.at_s = loop.time()
            for frame in self._engine.frames(from_ms, slot_end_ms):
                self._measure(frame, slot_end_ms)
            self._send_kept(slot_end_ms)
            if fast:
                await self._room()
            else:
                late_ms = (clock.now_ms() - slot_end_ms) / clock.speed
                self.late_ms_max = max(self.late_ms_max, late_ms)
            from_ms = slot_end_ms
            self.simulated_ms = from_ms - clock.start_ms

    def _measure(self, frame: Frame, now_ms: int) -> None:
        """Hand every row of `frame` to its device, or keep it until its line is up again."""
        devices = self._devices[id(frame.group)]
        names = frame.group.quantities
        flagged = bool(frame.flags.any())
        absent = bool(np.isnan(frame.values).any())
        later = frame.sent_ms is not None and bool((frame.sent_ms > now_ms).any())
        samples = zip(frame.rows.tolist(), frame.ts.tolist(), frame.values.tolist(), strict=True)
        if not flagged and not absent and not later:
            self.messages += len(frame.rows)
            self.readings += frame.values.size
            for row, ts, values in samples:
                devices[row].measure(ts, dict(zip(names, values, strict=True)), None)
            return
        for position, (row, ts, values) in enumerate(samples):
            present, flags = _worth_saying(names, values, frame.flags[position].tolist())
            sent_ms = now_ms if frame.sent_ms is None else int(frame.sent_ms[position])
            if sent_ms > now_ms:
                self._keep(_Kept(sent_ms, ts, devices[row], present, flags))
            else:
                self._hand_on(devices[row], ts, present, flags)

    def _hand_on(
        self,
        device: VirtualDevice,
        ts: int,
        values: dict[str, float],
        flags: dict[str, str] | None,
    ) -> None:
        self.messages += 1
        self.readings += len(values)
        device.measure(ts, values, flags)

    def _keep(self, kept: "_Kept") -> None:
        if len(self._kept) < self.backlog_max * len(self.devices):
            heappush(self._kept, kept)
        else:
            self.messages += 1
            self.dropped += 1

    def _send_kept(self, now_ms: int) -> None:
        """Hand on what was kept and is due, with the instants at which it was measured."""
        while self._kept and self._kept[0].sent_ms <= now_ms:
            kept = heappop(self._kept)
            self._hand_on(kept.device, kept.ts, kept.values, kept.flags)

    async def _room(self) -> None:
        """As fast as possible means as fast as the broker takes it."""
        bound = _FAST_WAITING_PER_DEVICE * max(1, len(self.devices))
        while self.messages - self.acknowledged - self.dropped - self._stuck() > bound:  # noqa: ASYNC110 - counting is cheaper than waking somebody at every acknowledgement
            await asyncio.sleep(0.001)

    def _stuck(self) -> int:
        """Messages of devices that the broker does not let in: nobody waits for those."""
        return sum(device.waiting for device in self._shut_out())

    def _shut_out(self) -> set[VirtualDevice]:
        return {d for d in self._turned_away if d.state is not Connection.ONLINE}

    async def _all_acknowledged(self, patience_s: float) -> bool:
        """Wait for the devices that can still send; whether nothing at all is left."""
        others = [device for device in self.devices if device not in self._shut_out()]
        await _until(lambda: not any(device.waiting for device in others), patience_s)
        return not self.waiting


def said(frame: Frame) -> tuple[list[dict[str, float]], list[dict[str, str] | None]]:
    """What the messages of a frame hold, sample by sample: values, and flags where there are any.

    A missing value is an absent key; what is normal has no flag.
    """
    names, rows = frame.group.quantities, frame.values.tolist()
    if not frame.flags.any() and not np.isnan(frame.values).any():
        return [dict(zip(names, values, strict=True)) for values in rows], [None] * len(rows)
    both = zip(rows, frame.flags.tolist(), strict=True)
    samples = [_worth_saying(names, values, flags) for values, flags in both]
    return [values for values, _ in samples], [flags for _, flags in samples]


def _worth_saying(
    names: tuple[str, ...], values: list[float], flags: list[int]
) -> tuple[dict[str, float], dict[str, str] | None]:
    present = {n: v for n, v in zip(names, values, strict=True) if v == v}  # noqa: PLR0124 - NaN is absent
    letters = {n: _LETTERS[f] for n, f in zip(names, flags, strict=True) if f and n in present}
    return present, letters or None


class _Kept:
    """A sample that waits for its line; the one that is due first comes first."""

    __slots__ = ("device", "flags", "sent_ms", "ts", "values")

    def __init__(
        self,
        sent_ms: int,
        ts: int,
        device: VirtualDevice,
        values: dict[str, float],
        flags: dict[str, str] | None,
    ) -> None:
        self.sent_ms = sent_ms
        self.ts = ts
        self.device = device
        self.values = values
        self.flags = flags

    def __lt__(self, other: "_Kept") -> bool:
        return (self.sent_ms, self.ts) < (other.sent_ms, other.ts)


async def _until(condition: Callable[[], object], patience_s: float) -> None:
    """Return when `condition` holds, or after the patience."""
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            while not condition():  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.01)
