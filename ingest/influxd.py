"""A private InfluxDB 1.x server: found on PATH, run with our configuration, stopped with us."""

import asyncio
import fcntl
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp

from city.errors import StoreError

HOST: Final = "127.0.0.1"
REMEDY: Final = "install it (Debian, Ubuntu: apt-get install influxdb) or choose another store"

# The monitor's own database and the query log cost without use here, and the limits on series would
# refuse a large city; the tsi1 index keeps its many series on disk.
CONFIGURATION: Final = """\
reporting-disabled = true
bind-address = "{host}:{rpc_port}"

[meta]
  dir = "{directory}/meta"

[data]
  dir = "{directory}/data"
  wal-dir = "{directory}/wal"
  index-version = "tsi1"
  query-log-enabled = false
  max-series-per-database = 0
  max-values-per-tag = 0
  cache-snapshot-memory-size = "128m"

[monitor]
  store-enabled = false

[subscriber]
  enabled = false

[continuous_queries]
  enabled = false

[http]
  bind-address = "{host}:{port}"
  auth-enabled = false
  log-enabled = false

[logging]
  level = "warn"
  suppress-logo = true
"""


def influxd_version() -> str | None:
    """The version of the influxd on PATH, or None if there is none that tells one."""
    program = shutil.which("influxd")
    if program is None:
        return None
    try:
        answer = subprocess.run(
            [program, "version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"v?(\d+\.\d+\S*)", answer.stdout)
    return found[1] if found else None


class PrivateInfluxd:
    """An InfluxDB 1.x server of our own, listening on 127.0.0.1 only.

    Data, configuration and log live below `directory` and are kept; a second server on the same
    directory is refused. The server ends with `stop`, and on Linux also when this process dies; an
    interrupt from the terminal does not reach it, so that we can still write what we have.

    Args:
        directory: Where it keeps its files; made when missing.
        port: The HTTP port; a free one by default, the same one at every start.
        start_timeout_s: How long it may take until it answers.
        stop_timeout_s: How long it may take to end before it is killed.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        start_timeout_s: float = 60.0,
        stop_timeout_s: float = 10.0,
    ) -> None:
        self.directory = directory.absolute()
        self.port = port or _free_port()
        self.start_timeout_s = start_timeout_s
        self.stop_timeout_s = stop_timeout_s
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """The address of its HTTP interface."""
        return f"http://{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended."""
        return self._process is not None and self._process.returncode is None

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

    async def start(self) -> None:
        """Start the server and return when it answers.

        Raises:
            StoreError: It is not installed, does not answer in time, or ended; the text carries
                the end of its own output.
        """
        command = await asyncio.to_thread(self._command)
        lock = await self._locked()
        try:
            await asyncio.to_thread(self._configure)
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=lock, stderr=lock,
                env=_clean_environment(), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(lock)
        try:
            await self._answering()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the server, by force if it does not end in time; nothing when it is not running."""
        process = self._process
        if process is None:
            return
        try:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(self.stop_timeout_s):
                await process.wait()
        except TimeoutError:
            process.kill()
            async with asyncio.timeout(self.stop_timeout_s):
                await process.wait()
        except ProcessLookupError:
            pass
        self._process = None

    def _command(self) -> list[str]:
        program = shutil.which("influxd")
        if program is None:
            raise StoreError(f"influxd is not on PATH; {REMEDY}")
        return [*_tied_to_us(), program, "-config", str(self._configuration)]

    def _configure(self) -> None:
        """Write the configuration, now that the directory is ours."""
        _check_free(self.port)
        quoted = str(self.directory).replace("\\", "\\\\").replace('"', '\\"')
        text = CONFIGURATION.format(
            host=HOST, port=self.port, rpc_port=_free_port(), directory=quoted
        )
        try:
            self._configuration.write_text(text, encoding="utf-8")
        except OSError as error:
            where = f"{self._configuration}: cannot be written"
            raise StoreError(f"{where}: {error.strerror}") from error

    async def _locked(self) -> int:
        """A descriptor of the log that the server inherits.

        The lock on it lives exactly as long as the server, even if this process is killed; a
        server that we left behind like that is given the time to end.
        """
        try:
            async with asyncio.timeout(self.stop_timeout_s):
                while (lock := await asyncio.to_thread(self._try_lock)) is None:  # noqa: ASYNC110 - a lock is polled
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise StoreError(
                f"{self.directory}: another influxd works in this directory; "
                "stop it or choose another data directory"
            ) from error
        return lock

    def _try_lock(self) -> int | None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._log, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise StoreError(f"{self._log}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        os.ftruncate(lock, 0)
        return lock

    @property
    def _configuration(self) -> Path:
        return self.directory / "influxdb.conf"

    @property
    def _log(self) -> Path:
        return self.directory / "influxd.log"

    async def _answering(self) -> None:
        try:
            async with asyncio.timeout(self.start_timeout_s), aiohttp.ClientSession() as session:
                while not await _pings(session, f"{self.url}/ping"):
                    if not self.running:
                        said = await asyncio.to_thread(self._output)
                        raise StoreError(f"influxd ended at start{said}")
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            said = await asyncio.to_thread(self._output)
            text = f"influxd gave no answer on {self.url} within {self.start_timeout_s:g} s"
            raise StoreError(text + said) from error

    def _output(self) -> str:
        """The end of what the server said, as the tail of an error message."""
        text = self._log.read_text(encoding="utf-8", errors="replace").strip()
        return f"; it said:\n{text[-2000:]}" if text else "; it said nothing"


async def _pings(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=1.0)) as answer:
            return answer.status == 204  # noqa: PLR2004 - No Content: how influxd says it is there
    except (aiohttp.ClientError, TimeoutError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _check_free(port: int) -> None:
    """Raise if somebody listens there: an answer of theirs would be taken for our server's."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            where = f"influxd cannot listen on {HOST}:{port}"
            raise StoreError(f"{where}: {error.strerror}; choose another port") from error


def _tied_to_us() -> tuple[str, ...]:
    """The command before the command that has the kernel end the server when we die.

    We are the thread that runs the event loop. `setpriv` (util-linux) replaces itself by the
    server, so the process id is the server's; a hook between fork and exec would do the same but
    is not safe in a process with threads.
    """
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "TERM") if setpriv else ()


def _clean_environment() -> dict[str, str]:
    """Our environment without the variables by which influxd overrides its configuration.

    A garbage collection at four times the live heap instead of twice saves a quarter of its
    processor time, for memory that a small heap can spare.
    """
    kept = {name: text for name, text in os.environ.items() if not name.startswith("INFLUXDB_")}
    return {"GOGC": "400"} | kept
