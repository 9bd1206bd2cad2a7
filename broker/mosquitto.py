"""A private Mosquitto: found on PATH, with its own configuration, on loopback, stopped with us."""

import asyncio
import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

from broker import codec
from city.errors import BrokerError, ProtocolError

WINDOW: Final = 20_000
"""Messages that Mosquitto lets a subscriber hold unacknowledged."""

LOOPBACK: Final = "127.0.0.1"

_ELSEWHERE: Final = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
_VERSION: Final = re.compile(r"mosquitto version (\S+)")
_PORT_IN_USE: Final = "Address already in use"
_PORT_ATTEMPTS: Final = 3
_LOG_TAIL_BYTES: Final = 4_000
_POLL_S: Final = 0.02
_PROBE_TIMEOUT_S: Final = 0.5
_PR_SET_PDEATHSIG: Final = 1

_CONFIGURATION: Final = """\
# Written by CityEye at every start; changes are lost.
listener {port} 127.0.0.1
# Only programs on this machine reach the loopback address, so no password is asked for there.
allow_anonymous true
{user}
# Sessions, queues and retained messages outlive a stop, and a crash up to the last save.
persistence true
persistence_location {data_dir}/
autosave_interval {autosave_s}

# How many messages a subscriber may hold unacknowledged; ingest relies on this window.
max_inflight_messages {window}
# Mosquitto acknowledges to the sender and then drops what a subscriber's full queue cannot take.
max_queued_messages {queue_messages}
max_queued_bytes {queue_bytes}
# A larger packet closes its sender's connection; `message_size_limit` would drop it unseen.
max_packet_size {packet_bytes}
max_connections -1
set_tcp_nodelay false
sys_interval 0

log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages false
"""


def find_mosquitto() -> Path | None:
    """The Mosquitto program on PATH, or where packages put it for root; None if there is none."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *_ELSEWHERE])
    found = shutil.which("mosquitto", path=path)
    return Path(found) if found else None


def mosquitto_version() -> str | None:
    """The version of the installed Mosquitto, e.g. `2.0.11`; None if there is none."""
    program = find_mosquitto()
    if program is None:
        return None
    try:
        told = subprocess.run(
            [program, "-h"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(told.stdout)
    return match[1] if match else None


def configuration(
    data_dir: Path,
    *,
    port: int,
    window: int = WINDOW,
    queue_messages: int = 10_000_000,
    queue_bytes: int = 4 * 1024**3,
    packet_bytes: int = 1024**2,
    autosave_s: int = 30,
) -> str:
    """The text of a Mosquitto configuration for one listener on loopback."""
    as_root = os.geteuid() == 0
    return _CONFIGURATION.format(
        port=port,
        # As root it would become the user `mosquitto`, who may not write below our folder.
        user="user root\n" if as_root else "",
        data_dir=data_dir.resolve(),
        autosave_s=autosave_s,
        window=window,
        queue_messages=queue_messages,
        queue_bytes=queue_bytes,
        packet_bytes=packet_bytes,
    )


class PrivateMosquitto:
    """A Mosquitto of our own, started and stopped as an asynchronous context.

    `port` 0 means a free one; after the start it is the port in use. `window` is at most 65,535.
    Sessions and retained messages are kept in `data_dir` from one start to the next.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        window: int = WINDOW,
        start_timeout_s: float = 10.0,
        grace_s: float = 10.0,
    ) -> None:
        self.data_dir = data_dir
        self.host = LOOPBACK
        self.port = port
        self.window = window
        self.log_path = data_dir / "mosquitto.log"
        self._any_port = port == 0
        self._start_timeout_s = start_timeout_s
        self._grace_s = grace_s
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def ports(self) -> str:
        """The ports that it listens on, for people."""
        return str(self.port)

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def start(self) -> None:
        """Start it and return once it accepts MQTT connections.

        Raises:
            BrokerError: It is not installed, its port is in use, or it does not come up in time;
                the text names the remedy and ends with the tail of its log.
        """
        program = await asyncio.to_thread(find_mosquitto)
        if program is None:
            raise BrokerError(
                "Mosquitto is not installed; `apt-get install mosquitto`, "
                "or use --broker embedded, or give the address of a broker"
            )
        for attempt in range(_PORT_ATTEMPTS):
            if self._any_port and self.port == 0:
                self.port = free_port()
            try:
                await self._launch(program)
            except BrokerError:
                await self.stop()
                taken = self._any_port and _PORT_IN_USE in await asyncio.to_thread(self.log_tail)
                if not taken or attempt + 1 == _PORT_ATTEMPTS:
                    raise
                self.port = 0
            except BaseException:
                await self.stop()
                raise
            else:
                self._any_port = False  # a later start keeps the port that clients know
                return

    async def stop(self) -> None:
        """Stop it and wait: it saves its sessions on SIGTERM, and is killed after the grace."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._grace_s):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            async with asyncio.timeout(self._grace_s):
                await process.wait()

    def log_tail(self) -> str:
        """The last lines of its log."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
                return log.read().decode(errors="replace").strip()
        except OSError:
            return ""

    async def _launch(self, program: Path) -> None:
        conf, log = await asyncio.to_thread(self._write_configuration)
        with log:
            self._process = await asyncio.create_subprocess_exec(
                program,
                "-c",
                conf,
                cwd=conf.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C on the terminal is ours; it stops when we say so
                preexec_fn=_DIE_WITH_US,
            )
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._until_it_answers(self._process)
        except TimeoutError:
            tail = await asyncio.to_thread(self.log_tail)
            raise BrokerError(
                f"Mosquitto does not answer on {self.host}:{self.port} "
                f"after {self._start_timeout_s:g} s; its log ends:\n{tail}"
            ) from None

    def _write_configuration(self) -> tuple[Path, BinaryIO]:
        """The configuration's path, and the empty log."""
        conf = self.data_dir / "mosquitto.conf"
        text = configuration(self.data_dir, port=self.port, window=self.window)
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            conf.write_text(text, encoding="utf-8")
            return conf.resolve(), self.log_path.open("wb")
        except OSError as error:
            raise BrokerError(
                f"Mosquitto's folder {self.data_dir} cannot be written: {error.strerror}"
            ) from error

    async def _until_it_answers(self, process: asyncio.subprocess.Process) -> None:
        while not await answers(self.host, self.port, timeout_s=_PROBE_TIMEOUT_S):
            if process.returncode is not None:
                raise BrokerError(await asyncio.to_thread(self._why_it_ended, process.returncode))
            await asyncio.sleep(_POLL_S)
        # Another program's broker may answer on this port while ours is about to end.
        await asyncio.sleep(_POLL_S)
        ended = process.returncode is not None
        if ended or _PORT_IN_USE in await asyncio.to_thread(self.log_tail):
            raise BrokerError(await asyncio.to_thread(self._why_it_ended, process.returncode))

    def _why_it_ended(self, status: int | None) -> str:
        tail = self.log_tail()
        if _PORT_IN_USE in tail:
            return (
                f"port in use: another program listens on {self.host}:{self.ports}; stop it, "
                f"choose another port, or use it with --broker mqtt://{self.host}:{self.port}"
            )
        return f"Mosquitto ended with status {status}; its log ends:\n{tail}"


async def answers(host: str, port: int, *, timeout_s: float = 2.0) -> bool:
    """Whether something at that address answers an MQTT CONNECT, by whatever return code."""
    hello = codec.connect("cityeye-probe", keep_alive_s=10, clean=True)
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(hello)
                packets = codec.Decoder().feed(await reader.readexactly(4))
                writer.write(codec.DISCONNECT)
                return any(isinstance(packet, codec.Connack) for packet in packets)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ProtocolError):
        return False


def free_port() -> int:
    """A port of loopback that nobody listened on a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _parent_death_signal() -> Callable[[], Any] | None:
    """What a child runs before it becomes its program, so that it ends when we are killed.

    Linux only. The C library is loaded here, once: between fork and exec only the call is made.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


_DIE_WITH_US: Final = _parent_death_signal()
