"""The private InfluxDB 1.x: it starts, stops, dies with us, and says why when it does not."""

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from city.errors import StoreError
from ingest.influxd import PrivateInfluxd, influxd_version

pytestmark = pytest.mark.influxd

PARENT = """
import asyncio, pathlib, sys
from ingest.influxd import PrivateInfluxd

async def main():
    async with PrivateInfluxd(pathlib.Path(sys.argv[1])) as server:
        print(server.url, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def pings(url: str) -> bool:
    """Whether an InfluxDB answers there."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"{url}/ping") as answer:
                return answer.status == 204
        except aiohttp.ClientError:
            return False


def test_version() -> None:
    """The version of the installed influxd is told."""
    version = influxd_version()

    assert version is not None
    assert version.startswith("1.")


def test_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an influxd there is no version."""
    monkeypatch.setenv("PATH", "")

    assert influxd_version() is None


async def test_start_and_stop(tmp_path: Path) -> None:
    """The server answers between start and stop, and not after."""
    async with PrivateInfluxd(tmp_path) as server:
        assert await pings(server.url)

    assert not server.running
    assert not await pings(server.url)


async def test_given_port(tmp_path: Path) -> None:
    """The server listens on the port that it is given, on loopback alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with PrivateInfluxd(tmp_path, port=port) as server:
        assert await pings(f"http://127.0.0.1:{port}")

        assert f"http://127.0.0.1:{port}" == server.url


async def test_port_in_use(tmp_path: Path) -> None:
    """A port that somebody listens on is an error that names it."""
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]

        with pytest.raises(StoreError, match=f"127.0.0.1:{port}.*choose another port"):
            await PrivateInfluxd(tmp_path, port=port).start()


async def test_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an influxd on PATH the error says how to get one."""
    monkeypatch.setenv("PATH", "")

    with pytest.raises(StoreError, match="apt-get install influxdb"):
        await PrivateInfluxd(tmp_path).start()


async def test_directory_in_use(tmp_path: Path) -> None:
    """A second server on the same directory is refused while the first one runs."""
    async with PrivateInfluxd(tmp_path):
        with pytest.raises(StoreError, match="another influxd works in this directory"):
            await PrivateInfluxd(tmp_path, stop_timeout_s=0.2).start()


async def test_server_that_cannot_start(tmp_path: Path) -> None:
    """A server that ends at once is an error with its own last words."""
    (tmp_path / "meta").touch()

    with pytest.raises(StoreError, match=r"(?s)influxd ended at start; it said:.*meta"):
        await PrivateInfluxd(tmp_path).start()


async def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A directory that cannot be made is an error that names it."""
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match=r"influxd\.log: cannot be written"):
        await PrivateInfluxd(tmp_path / "file").start()


async def test_foreign_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables meant for another InfluxDB do not reach the private one."""
    monkeypatch.setenv("INFLUXDB_HTTP_ENABLED", "false")
    async with PrivateInfluxd(tmp_path) as server:
        assert await pings(server.url)


async def test_interrupt_from_the_terminal(tmp_path: Path) -> None:
    """The server is in no process group of ours, so Ctrl-C does not end it before us."""
    async with PrivateInfluxd(tmp_path) as server:
        assert server._process is not None

        assert os.getpgid(0) != os.getpgid(server._process.pid)


async def test_server_that_does_not_end(tmp_path: Path) -> None:
    """A server that does not end when asked is killed after the grace period."""
    server = PrivateInfluxd(tmp_path, stop_timeout_s=1.0)
    await server.start()
    process = server._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    await server.stop()
    killed = -signal.SIGKILL

    assert killed == process.returncode


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a child of its parent's death"
)
async def test_killed_parent(tmp_path: Path) -> None:
    """The server ends when the process that started it is killed, and leaves its directory free."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(tmp_path / "influxd"),
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert parent.stdout is not None
    url = (await parent.stdout.readline()).decode().strip()
    assert await pings(url)
    parent.kill()
    await parent.wait()
    deadline = time.monotonic() + 60
    while await pings(url) and time.monotonic() < deadline:  # noqa: ASYNC110 - another process ends
        await asyncio.sleep(0.02)

    assert not await pings(url)
    async with PrivateInfluxd(tmp_path / "influxd") as successor:
        assert successor.running
