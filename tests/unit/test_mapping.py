"""A bucket without a mapping for InfluxQL is named."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from city.settings import Settings
from cli.doctor import examine
from ingest.mapping import bucket_of, mapping_problem

Answer = Callable[[int, str], Awaitable[str]]
ANSWERS_WITHOUT_MAPPING = [
    (404, '{"code":"not found","message":"unable to find DBRP"}'),
    (200, '{"results":[{"statement_id":0,"error":"database not found: cityeye"}]}'),
]


@pytest.fixture
async def server() -> AsyncIterator[Answer]:
    """Starts servers that give one answer on `/query`, and returns their address."""
    runners: list[web.AppRunner] = []

    async def start(status: int, body: str) -> str:
        async def query(request: web.Request) -> web.Response:
            known = request.headers["Authorization"] == "Token secret"
            return web.Response(status=status if known else 401, text=body)

        async def written(_request: web.Request) -> web.Response:
            return web.Response(status=204)

        app = web.Application()
        app.router.add_get("/query", query)
        app.router.add_post("/api/v2/write", written)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        return f"http://{host}:{port}"

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.mark.parametrize(("status", "body"), ANSWERS_WITHOUT_MAPPING)
async def test_no_mapping(server: Answer, status: int, body: str) -> None:
    """A database that is not found is named, with the command that maps it."""
    url = await server(status, body)
    problem = await mapping_problem(url, "cityeye", org="town", token="secret")  # noqa: S106 - a stand-in

    assert problem is not None
    assert "influx v1 dbrp create --org town --db cityeye --rp autogen --default" in problem
    assert "secret" not in problem


async def test_mapped(server: Answer) -> None:
    """A bucket that answers InfluxQL has no problem, though nothing may be in it yet."""
    url = await server(200, '{"results":[{"statement_id":0}]}')

    assert None is await mapping_problem(url, "cityeye", org="town", token="secret")  # noqa: S106 - a stand-in


async def test_no_server() -> None:
    """A server that does not answer is not this check's matter."""
    assert None is await mapping_problem("http://127.0.0.1:1", "cityeye", org="town")


async def test_the_doctor_names_it(server: Answer, tmp_path: Path) -> None:
    """A store that takes points and shows none is not well, and the doctor says why."""
    url = await server(*ANSWERS_WITHOUT_MAPPING[0])
    store = url.replace("http://", "influx2://") + "/town/cityeye"
    settings = Settings(store=store, store_token="secret", data=tmp_path)  # noqa: S106 - a stand-in
    outcome = await examine(settings)

    assert not outcome.complete
    assert "influx v1 dbrp create --org town --db cityeye" in outcome.figures["store"]


async def test_the_doctor_finds_a_mapping(server: Answer, tmp_path: Path) -> None:
    """A store that can be read answers."""
    url = await server(200, '{"results":[{"statement_id":0}]}')
    store = url.replace("http://", "influx2://") + "/town/cityeye"
    settings = Settings(store=store, store_token="secret", data=tmp_path)  # noqa: S106 - a stand-in
    outcome = await examine(settings)

    assert outcome.figures["store"].endswith("answers")


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("influx2://127.0.0.1:8086/town/cityeye", ("http://127.0.0.1:8086", "town", "cityeye")),
        ("influx2s://store.example/my%20town/b", ("https://store.example:8086", "my town", "b")),
        ("influx2://[::1]:99/o/b", ("http://[::1]:99", "o", "b")),
        ("influx1://127.0.0.1:8086/cityeye", None),
        ("duckdb:store.duckdb", None),
    ],
)
def test_where_a_bucket_is(spec: str, found: tuple[str, str, str] | None) -> None:
    """Only stores of the second kind have a bucket."""
    assert found == bucket_of(spec)
