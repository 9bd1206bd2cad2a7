"""The write endpoint of InfluxDB 2.x: on VictoriaMetrics, which has it, and all its answers.

No server that runs here can be made to refuse a token or to be too busy, so for those answers a
small server plays a script.
"""

import json
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web

from city.cityfile import Address
from city.errors import StoreError, StoreRefused, StoreTooLarge, StoreUnavailable
from ingest.influx1 import Influx1Store
from ingest.influx2 import REQUEST_MAX, Influx2Store
from ingest.influxd import PrivateInfluxd
from ingest.lineprotocol import encode
from ingest.store import Point, PointKey, device_key

T0 = 1795413600000
AIR = device_key(Address("xinzhou", "east", "air", "park", "aq-1"))
POINTS = [
    Point(AIR, T0 + index, {"pm25": 12.4 + index, "no2": 31.25}, {"seq": index}, {})
    for index in range(3)
]
TOKEN = "geheim"  # noqa: S105 - a test's token


class Request(NamedTuple):
    """What the server got."""

    path: str
    query: dict[str, str]
    authorization: str | None
    body: bytes


class Script:
    """A server that gives the next answer of its script, and 204 after the last."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[web.Response] = []
        self.requests: list[Request] = []

    async def answer(self, request: web.Request) -> web.Response:
        """Note the request and give the next answer."""
        authorization = request.headers.get("Authorization")
        body = await request.read()
        self.requests.append(Request(request.path, dict(request.query), authorization, body))
        return self.answers.pop(0) if self.answers else web.Response(status=204)


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    """A running server with an empty script."""
    script = Script()
    application = web.Application(client_max_size=10 * REQUEST_MAX)
    application.router.add_route("*", "/{path:.*}", script.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    script.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    yield script
    await runner.cleanup()


@pytest.fixture
async def store(script: Script) -> AsyncIterator[Influx2Store]:
    """An open store on the scripted server, whose opening is forgotten."""
    store = Influx2Store(script.url, "org", "bucket", token=TOKEN)
    await store.open()
    script.requests.clear()
    yield store
    await store.close()


@pytest.mark.victoria
async def test_points_arrive(victoria: str) -> None:
    """Values, tags and milliseconds of every point are in the server, read by its own export."""
    store = Influx2Store(victoria, "org", "bucket")
    await store.open()
    await store.write(POINTS)
    await store.close()

    expected = {
        "air_pm25": [point.values["pm25"] for point in POINTS],
        "air_no2": [point.values["no2"] for point in POINTS],
        "air_seq": [float(point.counts["seq"]) for point in POINTS],
    }
    exported = await export(victoria)
    assert expected == {series["metric"]["__name__"]: series["values"] for series in exported}
    for series in exported:
        assert [point.ts for point in POINTS] == series["timestamps"]
        assert dict(AIR.tags).items() <= series["metric"].items()


async def export(url: str) -> list[dict[str, Any]]:
    """Every series that the VictoriaMetrics at `url` has."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/internal/force_flush") as flushed:
            assert flushed.ok
        query = {"match[]": '{__name__=~"air_.*"}', "start": "0"}
        async with session.get(f"{url}/api/v1/export", params=query) as answer:
            lines = (await answer.text()).splitlines()
    return [json.loads(line) for line in lines]


async def test_request(script: Script, store: Influx2Store) -> None:
    """A write is one request with token, organisation, bucket, milliseconds and the bare lines."""
    await store.write(POINTS)

    query = {"org": "org", "bucket": "bucket", "precision": "ms"}
    request = Request("/api/v2/write", query, f"Token {TOKEN}", encode(POINTS))
    assert [request] == script.requests


async def test_large_batch(script: Script, store: Influx2Store) -> None:
    """A batch beyond the largest request goes in several, with every line in its order."""
    points = [Point(AIR, T0 + index, {"pm25": index / 7}, {}, {}) for index in range(20_000)]
    await store.write(points)

    assert len(script.requests) > 1
    assert max(len(request.body) for request in script.requests) <= REQUEST_MAX
    assert encode(points) == b"".join(request.body for request in script.requests)


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (400, StoreRefused, "the server's words"),
        (401, StoreError, "CITYEYE_STORE_TOKEN"),
        (403, StoreError, "CITYEYE_STORE_TOKEN"),
        (404, StoreError, "bucket 'bucket' of organisation 'org'"),
        (413, StoreTooLarge, "the server's words"),
        (418, StoreError, "is this the address of an InfluxDB?"),
        (422, StoreRefused, "the server's words"),
        (429, StoreUnavailable, "the server's words"),
        (500, StoreUnavailable, "the server's words"),
        (503, StoreUnavailable, "the server's words"),
        (504, StoreUnavailable, "the server's words"),
    ],
)
async def test_answers(
    script: Script, store: Influx2Store, status: int, error: type[StoreError], says: str
) -> None:
    """Each status is its own kind of error, said with the server's words or a remedy, once."""
    script.answers.append(web.json_response({"message": "the server's words"}, status=status))

    with pytest.raises(StoreError) as caught:
        await store.write(POINTS)
    assert error is type(caught.value)
    assert says in str(caught.value)
    assert len(script.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "wait_s"),
    [(None, None), ("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("soon", None), ("nan", None)],
)
async def test_retry_after(
    script: Script, store: Influx2Store, status: int, header: str | None, wait_s: float | None
) -> None:
    """A busy server's wish to wait is passed on, whatever it may have written there."""
    headers = {} if header is None else {"Retry-After": header}
    script.answers.append(web.Response(status=status, headers=headers))

    with pytest.raises(StoreUnavailable) as caught:
        await store.write(POINTS)
    assert wait_s == caught.value.retry_after_s


async def test_retry_after_a_date(script: Script, store: Influx2Store) -> None:
    """A wish to wait until a date becomes the seconds until then."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    script.answers.append(web.Response(status=503, headers={"Retry-After": date}))

    with pytest.raises(StoreUnavailable) as caught:
        await store.write(POINTS)
    assert caught.value.retry_after_s == pytest.approx(100, abs=20)


async def test_next_write_after_an_error(script: Script, store: Influx2Store) -> None:
    """After an error the same store writes again, and nothing of the failed batch is sent anew."""
    script.answers.append(web.Response(status=503))
    with pytest.raises(StoreUnavailable):
        await store.write(POINTS[:1])
    await store.write(POINTS[1:])

    assert [encode(POINTS[:1]), encode(POINTS[1:])] == [item.body for item in script.requests]


@pytest.mark.parametrize(
    ("status", "says"), [(401, "CITYEYE_STORE_TOKEN"), (404, "bucket 'bucket'")]
)
async def test_open_is_refused(script: Script, status: int, says: str) -> None:
    """Opening tells of a wrong token or a missing bucket, and never of the token itself."""
    script.answers.append(web.Response(status=status))
    store = Influx2Store(script.url, "org", "bucket", token=TOKEN)

    with pytest.raises(StoreError, match=says) as caught:
        await store.open()
    assert TOKEN not in str(caught.value)


async def test_open_without_points(script: Script) -> None:
    """A server that only misses the points in the probe is one that we may write to."""
    script.answers.append(web.json_response({"message": "writing requires points"}, status=400))
    store = Influx2Store(script.url, "org", "bucket", token=TOKEN)
    await store.open()
    await store.write(POINTS)
    await store.close()

    assert encode(POINTS) == script.requests[-1].body


async def test_unreachable() -> None:
    """A server that is not there is unavailable, and the text has its address."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(StoreUnavailable, match=url):
            await Influx2Store(url, "org", "bucket").open()


async def test_server_that_says_nothing() -> None:
    """A server that takes the request and never answers is unavailable after the time-out."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(StoreUnavailable, match="in time"):
            await Influx2Store(url, "org", "bucket", timeout_s=0.1).open()


async def test_closed(store: Influx2Store) -> None:
    """A store that was closed says so."""
    await store.close()

    with pytest.raises(StoreError, match="not open"):
        await store.write(POINTS)


@pytest.mark.influxd
async def test_read(
    influxd: PrivateInfluxd, influx1: Influx1Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points are read by InfluxQL; the server that speaks it here is InfluxDB 1.x."""

    async def nothing() -> None:
        """Not asked: 1.6 has no write endpoint of 2.x."""

    await influx1.write(POINTS)
    store = Influx2Store(influxd.url, "org", "tests", token=TOKEN)
    monkeypatch.setattr(store, "_probe", nothing)
    await store.open()
    points = await store.read("air", T0, T0 + 2)
    await store.close()

    assert POINTS[:2] == points


async def test_read_request(script: Script, store: Influx2Store) -> None:
    """Reading asks `/query` for the bucket, in milliseconds, with the token."""
    script.answers += [web.json_response({"results": [{"statement_id": 0}]}) for _ in range(3)]
    points = await store.read("air", T0, T0 + 1)

    assert not points
    for request in script.requests:
        assert ("/query", f"Token {TOKEN}") == (request.path, request.authorization)
        assert {"db": "bucket", "epoch": "ms"}.items() <= request.query.items()


@pytest.mark.parametrize(
    "body", ["<html>", "[]", '{"results":[{"error":"database not found: bucket"}]}']
)
async def test_read_of_something_else(script: Script, store: Influx2Store, body: str) -> None:
    """An answer that is no table is an error with the server's words."""
    script.answers.append(web.Response(text=body))

    with pytest.raises(StoreError, match=r"html|\[\]|database not found: bucket"):
        await store.read("air", T0, T0 + 1)


async def test_point_without_form(script: Script, store: Influx2Store) -> None:
    """A point that line protocol cannot carry is refused before anything is sent."""
    with pytest.raises(StoreRefused):
        await store.write([*POINTS, Point(PointKey("a\nb", ()), T0, {"v": 1.0}, {}, {})])

    assert not script.requests
