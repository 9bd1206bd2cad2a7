"""How devices connect: evenly, so many at once, each as itself, and after a failure ever more seldom."""

import asyncio
import ipaddress
import os
import random
import socket
import ssl
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

from broker import codec
from broker.choice import tls_context
from broker.credentials import Credentials, read_credentials
from city.cityfile import Device
from city.errors import BrokerError, SettingError
from load.device import LoadDevice
from load.plan import LoadPlan
from sensors.device import Connection

CONNECTS_PER_S: Final = 10_000
"""No faster than that, however many wait."""

_AT_ONCE: Final = 256
_TIMEOUT_S: Final = 10.0
_FAILED_S: Final = (0.2, 15.0)
"""The first delay after a failure, and the longest; it doubles in between."""
_REFUSED_S: Final = (1.0, 300.0)
"""The same after a refusal: a wrong password is mended by people."""
_DOUBLINGS_MAX: Final = 16


class Failing(Protocol):
    """Whoever wants to know why a device did not connect."""

    def lost(self, device: LoadDevice, reason: str, *, online: bool) -> None:
        """Called when a device could not connect."""


class Access:
    """As whom, from where and by which secrets the devices of a plan connect."""

    def __init__(self, plan: LoadPlan) -> None:
        """Read what the plan names; this blocks.

        Raises:
            SettingError: A file cannot be read or is not what it should be.
        """
        self.hosts: list[str] = []
        """Addresses of the broker, once they are found."""
        self._plan = plan
        self._own: dict[str, str] = {}
        self._credentials: Credentials | None = None
        if plan.credentials is not None:
            self._credentials = read_credentials(plan.credentials)
        self._tls = tls_context(plan.broker, plan.ca, certificate=plan.certificate, key=plan.key)

    async def find(self) -> None:
        """Look up the broker's name, once for all.

        Raises:
            BrokerError: It has no address.
        """
        host = self._plan.broker.host
        try:
            self.hosts = [str(ipaddress.ip_address(host))]
        except ValueError:
            loop = asyncio.get_running_loop()
            try:
                found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except OSError as error:
                raise BrokerError(f"broker {self._plan.broker}: no such host: {error}") from error
            self.hosts = list(dict.fromkeys(str(one[4][0]) for one in found))

    def hello(self, device: Device, own: LoadDevice) -> bytes:
        """The CONNECT packet of a device.

        Raises:
            SettingError: The credentials file has no login for it.
        """
        user, password = self._plan.broker.username, self._plan.password
        if self._credentials is not None:
            login = self._credentials.of_device(device.address)
            user, password = login.user, login.password
        return codec.connect(
            own.speaker.client_id,
            keep_alive_s=self._plan.keep_alive_s,
            clean=self._plan.template.format == "sparkplug",
            will=own.speaker.will,
            username=own.speaker.username or user,
            password=None if password is None else password.encode(),
        )

    async def tls(self, device: Device) -> ssl.SSLContext | None:
        """What verifies the broker, with the device's own certificate where it has one."""
        folder = self._plan.certificates
        if folder is None or self._tls is None:
            return self._tls
        name = f"{device.address.site}.{device.address.device}"
        return await asyncio.to_thread(
            tls_context,
            self._plan.broker,
            self._plan.ca,
            certificate=folder / f"{name}.crt",
            key=folder / f"{name}.key",
        )

    def source(self, turn: int, towards: str) -> str | None:
        """The local address from which the device of that turn connects; None: any.

        Linux looks for an even local port when it connects, and for an odd one when it binds before
        that; it tries all of the one kind before the first of the other. So every second device
        binds, or the later half of many would wait for a search through thousands of ports.
        """
        sources = self._plan.sources
        if sources:
            return sources[turn % len(sources)]
        return self._own_address(towards) if turn % 2 else None

    def _own_address(self, towards: str) -> str:
        """Ours on the way to that address."""
        if towards not in self._own:
            with socket.socket(_family(towards), socket.SOCK_DGRAM) as probe:
                probe.connect((towards, self._plan.broker.port))  # nothing is sent
                self._own[towards] = str(probe.getsockname()[0])
        return self._own[towards]


class Connector:
    """Connects devices, and connects them again."""

    def __init__(
        self,
        plan: LoadPlan,
        access: Access,
        home: Failing,
        *,
        specs: Sequence[Device],
        turns: Sequence[int],
    ) -> None:
        """`specs` and `turns` (who joins how many-th) are those of the devices, by number."""
        self._plan = plan
        self._access = access
        self._home = home
        self._specs = specs
        self._turns = turns
        self._tried = 0
        self._queue: deque[LoadDevice] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pumped_s = 0.0
        self._leaving = False
        self._random = random.Random()  # noqa: S311 - jitter, not a secret

    @property
    def busy(self) -> bool:
        """Whether somebody waits to be connected."""
        return bool(self._queue)

    def wake(self, device: LoadDevice) -> None:
        """Connect a device that sleeps, when it is its turn."""
        if device.state is Connection.ASLEEP and not self._leaving:
            device.state = Connection.CONNECTING
            self._queue.append(device)

    def wake_later(self, device: LoadDevice, *, refused: bool) -> None:
        """Connect it after a while, the longer the more often it failed."""
        first_s, cap_s = _REFUSED_S if refused else _FAILED_S
        full_s = min(cap_s, first_s * 2 ** min(device.failures, _DOUBLINGS_MAX))
        device.failures += 1
        delay_s = full_s * self._random.uniform(0.5, 1.0)
        asyncio.get_running_loop().call_later(delay_s, self.wake, device)

    def pump(self, now_s: float) -> None:
        """Begin as many connections as the time since the last call allows."""
        allowed = round((now_s - self._pumped_s) * CONNECTS_PER_S)
        if not allowed:
            return
        self._pumped_s = now_s
        for _ in range(min(allowed, len(self._queue), _AT_ONCE - len(self._tasks))):
            device = self._queue.popleft()
            task = asyncio.create_task(self._connect(device), name=f"connect {device.number}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def leave(self) -> None:
        """Connect nobody any more."""
        self._leaving = True
        self._queue.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, device: LoadDevice) -> None:
        loop = asyncio.get_running_loop()
        spec = self._specs[device.number]
        hosts, server = self._access.hosts, self._plan.broker
        host = hosts[self._tried % len(hosts)]
        device.heard_at_s = loop.time()
        device.began_s = time.monotonic()
        try:
            hello = self._access.hello(spec, device)
            tls = await self._access.tls(spec)
            async with asyncio.timeout(_TIMEOUT_S):
                source = self._access.source(self._turns[device.number], host)
                await loop.create_connection(
                    lambda: device,
                    **await _way(host, server.port, source),
                    ssl=tls,
                    server_hostname=server.host if tls else None,
                )
        except (OSError, TimeoutError, SettingError) as error:
            self._tried += 1
            device.state = Connection.ASLEEP
            self._home.lost(device, _why(error), online=False)
            return
        device.write(hello)


async def _way(host: str, port: int, source: str | None) -> dict[str, Any]:
    """What the loop connects by: an address, or a socket that is bound to `source` and connected.

    The loop itself would bind with SO_REUSEADDR, and Linux then looks for even ports there too.
    """
    if source is None:
        return {"host": host, "port": port}
    bound = socket.socket(_family(host), socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        bound.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(bound, (host, port))
    except BaseException:
        bound.close()
        raise
    return {"sock": bound}


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _why(error: Exception) -> str:
    """Why a connection failed, the same text for all that fail alike."""
    if isinstance(error, ssl.SSLError):
        return error.reason or "TLS failed"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or "no answer in time"
