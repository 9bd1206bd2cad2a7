import asyncio
import random
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from alerts.channels import Notice

EVENTS = 60
PROGRAM = f"""
import asyncio, sys
from datetime import UTC
from pathlib import Path
from alerts.archive import Archive
from alerts.channels import open_channels
from alerts.mailroom import Mailroom
from alerts.tellingfile import telling_of
from broker.messages import AlarmEvent, Announcement
from city.cityfile import Address
from city.documents import Document

async def publish(topic, payload, *, retain):
    raise AssertionError

def happened(number):
    address = Address("lanting", "old-town", "gas", "foundry-road", f"p-{{number % 7}}")
    over = number >= {EVENTS} // 2
    return Announcement(address, AlarmEvent(
        rule="gas-low-pressure", event="cleared" if over else "raised",
        state="normal" if over else "unacknowledged", severity="high", level="LL",
        quantity="gas_pressure", value=60.0, limit=75.0, unit="kPa", number=number,
        ts=10_000 * number, raised=0, cause=f"section-{{number}}",
    ))

async def main(path, url):
    text = f\"\"\"
channels: [{{{{id: hook, kind: webhook, url: '{{url}}'}}}}]
routes: [{{{{id: r, channels: [hook], group_wait_s: 0, repeat_s: 60}}}}]
\"\"\"
    file = telling_of(Document(text, "telling"))
    archive = Archive(Path(path))
    mailroom = Mailroom(archive, file.telling, UTC, first_retry_s=0.05)
    channels = open_channels(file, "lanting", publish)
    recorded = 0
    task = asyncio.create_task(mailroom.run(channels, lambda: 10_000 * (recorded - 1), poll_s=0.01))
    for number in range({EVENTS}):
        archive.record([happened(number)])
        recorded = number + 1
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.1)
    await mailroom.flush(timeout_s=60)
    print("done", flush=True)
    await task

asyncio.run(main(*sys.argv[1:]))
"""


class Hook:
    """A webhook that keeps what it gets and answers when it may."""

    def __init__(self) -> None:
        self.got: list[Notice] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def answer(self, request: web.Request) -> web.Response:
        """Keep the notice; it has arrived whether or not anybody waits for the answer."""
        self.got.append(msgspec.json.decode(await request.read(), type=Notice))
        await self.gate.wait()
        return web.Response()


class Work:
    """A process that tells people of alarms, and can be killed and started again."""

    def __init__(self, path: Path, url: str) -> None:
        self._path = path
        self._url = url
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Begin, or go on."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, str(self._path), self._url, stdout=-1
        )

    async def kill(self) -> list[str]:
        """End it at once; return the ids of what it was sending."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        with sqlite3.connect(self._path) as archive:
            try:
                rows = archive.execute("SELECT id FROM mails WHERE state = 'sending'").fetchall()
            except sqlite3.OperationalError:
                rows = []
        archive.close()
        return [name for (name,) in rows]

    async def finish(self) -> None:
        """Let it deliver everything, then end it."""
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            assert await self._process.stdout.readline() == b"done\n"
        assert [] == await self.kill()


@pytest.fixture
async def hook() -> Hook:
    """A webhook."""
    return Hook()


@pytest.fixture
async def server(hook: Hook) -> AsyncIterator[TestServer]:
    """The server that the webhook lives on."""
    application = web.Application()
    application.router.add_post("/", hook.answer)
    server = TestServer(application, host="127.0.0.1")
    await server.start_server()
    yield server
    hook.gate.set()
    await server.close()


@asynccontextmanager
async def working(path: Path, server: TestServer) -> AsyncIterator[Work]:
    """The process; it does not outlive the block."""
    work = Work(path, str(server.make_url("/")))
    try:
        yield work
    finally:
        await work.kill()


async def undisturbed(folder: Path, server: TestServer, hook: Hook) -> list[Notice]:
    """What arrives when nothing is killed."""
    async with working(folder / "undisturbed.sqlite", server) as work:
        await work.start()
        await work.finish()
    got, hook.got = hook.got, []
    return got


async def test_between_sending_and_sent(
    tmp_path: Path,
    server: TestServer,
    hook: Hook,
    until: Callable[..., Awaitable[None]],
) -> None:
    """Killed after a notice has left and before that is noted, it sends it again by the same id."""
    hook.gate.clear()
    async with working(tmp_path / "alarms.sqlite", server) as work:
        await work.start()
        await until(lambda: hook.got, deadline_s=60)
        (flying,) = await work.kill()
        hook.gate.set()
        await work.start()
        await work.finish()

    counts = Counter(notice.id for notice in hook.got)
    assert flying == hook.got[0].id
    assert {flying: 2} == {name: count for name, count in counts.items() if count > 1}


async def test_killed_anywhere(
    tmp_path: Path,
    server: TestServer,
    hook: Hook,
    until: Callable[..., Awaitable[None]],
) -> None:
    """Killed at any point, the same notices arrive, none twice but those that were being sent."""
    expected = await undisturbed(tmp_path, server, hook)
    chance = random.Random(4)  # noqa: S311 - a test's dice
    flying: Counter[str] = Counter()
    async with working(tmp_path / "alarms.sqlite", server) as work:
        for _ in range(6):
            seen = len(hook.got)
            await work.start()
            await until(lambda seen=seen: len(hook.got) > seen, deadline_s=60)
            await asyncio.sleep(chance.uniform(0, 0.1))
            flying.update(await work.kill())
        await work.start()
        await work.finish()

    got = {notice.id: notice for notice in hook.got}
    counts = Counter(notice.id for notice in hook.got)
    assert {notice.id: notice for notice in expected} == got
    assert len(expected) == len(got) > EVENTS
    assert not {name for name, count in counts.items() if count > 1 + flying[name]}
