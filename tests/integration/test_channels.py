import asyncio
import hashlib
import hmac
import json
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer

from alerts.channels import (
    AppriseChannel,
    Channel,
    ChannelError,
    ChannelRefused,
    Notice,
    NoticeLine,
    open_channels,
)
from alerts.tellingfile import telling_of
from broker.messages import AlarmEvent, decode
from city.documents import Document
from city.errors import SettingError

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
"""A plug-in of apprise imports it."""

EVENT = AlarmEvent(
    rule="gas-low-pressure",
    event="raised",
    state="unacknowledged",
    severity="critical",
    level="LL",
    quantity="gas_pressure",
    value=60.0,
    limit=75.0,
    unit="kPa",
    ts=1_780_315_200_000,
    raised=1_780_315_200_000,
    message_zh="压力过低",
)
NOTICE = Notice(
    id="0123456789abcdef",
    city="lanting",
    route="gas",
    channel="hook",
    person="Lin",
    group="section-4",
    ts=1_780_315_210_000,
    severity="critical",
    resolved=False,
    title="[critical] raised: gas-low-pressure / 报警",
    body="low pressure <b>",
    more=0,
    alarms=(
        NoticeLine(
            happening="raised",
            district="old-town",
            domain="gas",
            site="foundry-road",
            device="p-01",
            event=EVENT,
        ),
    ),
)
Answer = Callable[[web.Request], Awaitable[web.Response]]
Serve = Callable[[Answer], Awaitable[TestServer]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts HTTP servers on free ports of loopback."""
    servers: list[TestServer] = []

    async def start(answer: Answer) -> TestServer:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", answer)
        server = TestServer(application, host="127.0.0.1")
        await server.start_server()
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.close()


async def nowhere(topic: str, payload: bytes, *, retain: bool) -> None:
    """No broker takes this."""
    raise AssertionError(topic, payload, retain)


def opened(
    channel: str, folder: Path = Path(), environ: Mapping[str, str] | None = None
) -> Channel:
    """The channel `hook` of a telling file."""
    text = f"channels: [{{id: hook, {channel}}}]\nroutes: [{{id: r, channels: [hook]}}]"
    file = telling_of(Document(text, "telling.yaml"), folder)
    return open_channels(file, "lanting", nowhere, environ or {})["hook"]


async def test_webhook(serve: Serve) -> None:
    """A webhook gets the notice as JSON, with its id as the key by which repeats are told."""
    got: list[tuple[bytes, Mapping[str, str]]] = []

    async def answer(request: web.Request) -> web.Response:
        got.append((await request.read(), request.headers))
        return web.Response(status=204)

    server = await serve(answer)
    channel = opened(f"kind: webhook, url: '{server.make_url('/hook')}'")
    await channel.send(NOTICE)
    await channel.close()
    ((body, headers),) = got

    assert NOTICE == msgspec.json.decode(body, type=Notice)
    assert NOTICE.id == headers["Idempotency-Key"]
    assert "application/json" == headers["Content-Type"]
    assert "X-CityEye-Signature" not in headers


async def test_signature(serve: Serve, tmp_path: Path) -> None:
    """With a secret, the body is signed by HMAC-SHA256."""
    got: list[tuple[bytes, str]] = []

    async def answer(request: web.Request) -> web.Response:
        got.append((await request.read(), request.headers["X-CityEye-Signature"]))
        return web.Response()

    server = await serve(answer)
    (tmp_path / "key").write_text("topsecret\n", encoding="utf-8")
    (tmp_path / "url").write_text(f"{server.make_url('/?token=1')}\n", encoding="utf-8")
    channel = opened("kind: webhook, url_file: url, secret_file: key", tmp_path)
    await channel.send(NOTICE)
    await channel.close()
    ((body, signature),) = got

    assert f"sha256={hmac.new(b'topsecret', body, hashlib.sha256).hexdigest()}" == signature


@pytest.mark.parametrize(
    ("status", "refused"),
    [(400, True), (404, True), (302, True), (500, True), (408, False), (502, False), (504, False)],
)
async def test_failures(serve: Serve, status: int, *, refused: bool) -> None:
    """Any answer but 2xx is a failure: of this notice, or of the whole channel."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    server = await serve(answer)
    channel = opened(f"kind: webhook, url: '{server.make_url('/hook')}'")
    with pytest.raises(ChannelError, match=f"HTTP status {status}") as caught:
        await channel.send(NOTICE)
    await channel.close()

    assert refused == isinstance(caught.value, ChannelRefused)


@pytest.mark.parametrize(
    ("header", "low_s", "high_s"),
    [("7", 7, 7), (formatdate(4_102_444_800, usegmt=True), 1e8, 1e10), ("Mon", None, None)],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after(
    serve: Serve, status: int, header: str, low_s: float | None, high_s: float | None
) -> None:
    """A service that asks to wait says how long, in seconds or by a date."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Retry-After": header})

    server = await serve(answer)
    channel = opened(f"kind: webhook, url: '{server.make_url('/hook')}'")
    with pytest.raises(ChannelError) as caught:
        await channel.send(NOTICE)
    await channel.close()
    waiting_s = caught.value.retry_after_s

    if low_s is None or high_s is None:
        assert waiting_s is None
    else:
        assert waiting_s is not None
        assert low_s <= waiting_s <= high_s


async def test_nobody_there(unused_tcp_port: int) -> None:
    """A service that does not answer is in trouble, and its address is not repeated."""
    channel = opened(f"kind: webhook, url: 'http://127.0.0.1:{unused_tcp_port}/private'")
    with pytest.raises(ChannelError) as caught:
        await channel.send(NOTICE)
    await channel.close()

    assert "private" not in str(caught.value)
    assert not isinstance(caught.value, ChannelRefused)


async def test_mqtt() -> None:
    """A notice goes to the channel's topic, not retained."""
    got: list[tuple[str, Notice, bool]] = []

    async def publish(topic: str, payload: bytes, *, retain: bool) -> None:
        got.append((topic, msgspec.json.decode(payload, type=Notice), retain))

    text = "channels: [{id: screens, kind: mqtt}]\nroutes: [{id: r, channels: [screens]}]"
    channels = open_channels(telling_of(Document(text, "t")), "lanting", publish, {})
    await channels["screens"].send(NOTICE)

    assert [("cityeye/v1/lanting/notifications/screens", NOTICE, False)] == got


async def test_log() -> None:
    """A notice to the log is one entry."""
    with structlog.testing.capture_logs() as entries:
        await opened("kind: log").send(NOTICE)

    assert [(NOTICE.title, "warning", NOTICE.body)] == [
        (entry["event"], entry["log_level"], entry["text"]) for entry in entries
    ]


class _Hook(BaseHTTPRequestHandler):
    """Takes JSON, as slowly as its server says."""

    def do_POST(self) -> None:
        """Keep the body and answer."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append(body)  # type: ignore[attr-defined]
        self.server.gate.wait(10)  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
async def hook() -> AsyncIterator[Any]:
    """A server in a thread of its own, for a client that blocks."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Hook)
    server.got, server.status, server.gate = [], 200, threading.Event()
    server.gate.set()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.gate.set()
    await asyncio.to_thread(server.shutdown)
    server.server_close()


def apprised(hook: Any) -> Channel:
    """A channel of apprise to the hook."""
    environ = {"HOOK": f"json://127.0.0.1:{hook.server_port}/"}
    return opened("kind: apprise, url_env: HOOK, timeout_s: 5", environ=environ)


async def test_apprise(hook: Any) -> None:
    """A service of apprise gets title and text."""
    await apprised(hook).send(NOTICE)
    (body,) = hook.got

    assert (NOTICE.title, NOTICE.body, "failure") == (body["title"], body["message"], body["type"])


async def test_apprise_fails(hook: Any) -> None:
    """A service that does not take a notice is in trouble; the next attempt may do."""
    channel = apprised(hook)
    hook.status = 500
    with pytest.raises(ChannelError):
        await channel.send(NOTICE)
    hook.status = 200
    await channel.send(NOTICE)

    assert 2 == len(hook.got)


async def test_apprise_late(hook: Any, until: Callable[..., Awaitable[None]]) -> None:
    """A notice that was delivered late is not delivered twice when it is tried again."""
    channel = apprised(hook)
    hook.gate.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await channel.send(NOTICE)
    await until(lambda: hook.got)
    hook.gate.set()
    await channel.send(NOTICE)
    await channel.send(msgspec.structs.replace(NOTICE, id="other"))
    await channel.close()

    assert 2 == len(hook.got)


@pytest.mark.parametrize(
    ("channel", "problem"),
    [
        ("kind: apprise, url_env: GONE", "variable GONE must hold one line"),
        ("kind: apprise, url_env: TWO", "variable TWO must hold one line"),
        ("kind: apprise, url_env: BAD", "apprise does not understand the URL"),
        ("kind: apprise, url_file: gone", "cannot be read: No such file"),
        ("kind: webhook, url_env: BAD", "not an URL of a webhook"),
        ("kind: webhook, url: 'http://h.example/', secret_env: GONE", "variable GONE must hold"),
    ],
)
def test_secrets(channel: str, problem: str, caplog: pytest.LogCaptureFixture) -> None:
    """A secret that is missing or wrong is said at the start, and is neither repeated nor logged."""
    environ = {"BAD": "smoke://user:pass-word@h", "TWO": "json://a/pass-word\njson://b"}
    with caplog.at_level(logging.DEBUG), pytest.raises(SettingError) as caught:
        opened(channel, environ=environ)

    assert problem in str(caught.value)
    assert "pass-word" not in str(caught.value) + caplog.text


def test_not_logged(hook: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Apprise logs nothing: its entries may hold URLs."""
    hook.status = 500
    channel = apprised(hook)
    assert isinstance(channel, AppriseChannel)
    with caplog.at_level(logging.WARNING):
        assert not channel._notify(NOTICE)

    assert not caplog.text


def test_example() -> None:
    """The event in a notice is as on the alarm's topic."""
    body = msgspec.json.decode(msgspec.json.encode(NOTICE))

    assert EVENT == decode(AlarmEvent, msgspec.json.encode(body["alarms"][0]["event"]))
