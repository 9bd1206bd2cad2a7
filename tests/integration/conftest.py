"""Stores for the tests: files below the test's folder, servers on free ports of loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from ingest.duck import DuckStore
from ingest.influx1 import Influx1Store
from ingest.influxd import PrivateInfluxd
from ingest.store import Store

START_DEADLINE_S = 60.0


@pytest.fixture
async def influxd(tmp_path: Path) -> AsyncIterator[PrivateInfluxd]:
    """A running InfluxDB 1.x; the test is marked `influxd`."""
    async with PrivateInfluxd(tmp_path / "influxd") as server:
        yield server


@pytest.fixture
async def influx1(influxd: PrivateInfluxd) -> AsyncIterator[Influx1Store]:
    """An open store on `influxd`; the test is marked `influxd`."""
    store = Influx1Store(influxd.url, "tests")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def duck(tmp_path: Path) -> AsyncIterator[DuckStore]:
    """An open DuckDB store."""
    store = DuckStore(tmp_path / "store.duckdb")
    await store.open()
    yield store
    await store.close()


@pytest.fixture(params=["duckdb", pytest.param("influx1", marks=pytest.mark.influxd)])
def store(request: pytest.FixtureRequest) -> Store:
    """Each kind of store that can be read back, open."""
    name = {"duckdb": "duck", "influx1": "influx1"}[request.param]
    opened: Store = request.getfixturevalue(name)
    return opened


@pytest.fixture
async def victoria(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a running VictoriaMetrics; the test is marked `victoria`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    log = tmp_path / "victoria.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            "victoria-metrics", f"-storageDataPath={tmp_path / 'victoria'}",
            f"-httpListenAddr={address}", "-retentionPeriod=100y", "-memory.allowedBytes=64MB",
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        await _healthy(f"http://{address}/health", process, log)
        yield f"http://{address}"
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(START_DEADLINE_S):
            await process.wait()


async def _healthy(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    """Return when `url` answers; a server that ends instead is told of with its own words."""
    async with asyncio.timeout(START_DEADLINE_S), aiohttp.ClientSession() as session:
        while process.returncode is None:
            try:
                async with session.get(url) as answer:
                    if answer.ok:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.02)
    said = await asyncio.to_thread(log.read_text)
    pytest.fail(f"victoria-metrics ended at start:\n{said[-2000:]}")
