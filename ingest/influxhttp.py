"""How InfluxDB answers over HTTP: statuses as errors, and reading by InfluxQL.

1.x, 2.x and 3.x give the same statuses on their write endpoints and speak InfluxQL on `/query`.
"""

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import msgspec

from city.clock import wall_ms
from city.errors import StoreError, StoreRefused, StoreTooLarge, StoreUnavailable
from ingest.store import Point, PointKey

INSTANT_MAX_MS: Final = 9_223_372_036_854
"""InfluxDB keeps nanoseconds in 64 bits: no instant lies further from the epoch."""

_SAID_MAX: Final = 500


class Server(msgspec.Struct, frozen=True):
    """What an error message says of a server.

    `credentials` names the settings to check when it does not know us, `place` what it may not
    have: the database, or the bucket and organisation.
    """

    name: str
    credentials: str
    place: str

    def check(self, status: int, body: bytes, retry_after: str | None) -> None:
        """Raise the error that an answer other than success stands for.

        Raises:
            StoreUnavailable: Too busy (429, 503) or broken (other 5xx) just now.
            StoreTooLarge: The request was too large (413).
            StoreRefused: At least one line was not taken (400, 422).
            StoreError: We may not write there (401, 403), or there is no such place (404).
        """
        if HTTPStatus(200) <= status < HTTPStatus(300):
            return
        text = f"{self.name} answered {status}: {_said(body)}"
        match status:
            case HTTPStatus.BAD_REQUEST | HTTPStatus.UNPROCESSABLE_ENTITY:
                raise StoreRefused(text)
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                raise StoreError(f"{text}; check {self.credentials}")
            case HTTPStatus.NOT_FOUND:
                raise StoreError(f"{text}; check that {self.place} exists")
            case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                raise StoreTooLarge(text)
            case HTTPStatus.TOO_MANY_REQUESTS | HTTPStatus.SERVICE_UNAVAILABLE:
                raise StoreUnavailable(text, retry_after_s=retry_after_s(retry_after))
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise StoreUnavailable(text, retry_after_s=retry_after_s(retry_after))
        raise StoreError(f"{text}; is this the address of an InfluxDB?")

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """Turn a failed connection or a wait that was too long into `StoreUnavailable`."""
        try:
            yield
        except TimeoutError as error:
            raise StoreUnavailable(f"{self.name} did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            text = str(error) or type(error).__name__
            raise StoreUnavailable(f"{self.name} cannot be reached: {text}") from error


def retry_after_s(header: str | None) -> float | None:
    """The seconds that a `Retry-After` header asks for, given as seconds or as a date."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - wall_ms() / 1000.0
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _said(body: bytes) -> str:
    """The server's own words, out of its JSON if it is some."""
    try:
        answer = msgspec.json.decode(body, type=dict[str, Any])
        text = str(answer.get("error") or answer.get("message") or answer)
    except msgspec.DecodeError:
        text = body.decode(errors="replace").strip()
    return text[:_SAID_MAX] or "nothing"


class Series(msgspec.Struct, frozen=True):
    """One table in the answer to an InfluxQL query."""

    columns: list[str]
    values: list[list[Any]] = []
    tags: dict[str, str] = {}
    """What the points of this table have in common, where a query groups by tags."""
    name: str = ""
    """The measurement."""


class _Result(msgspec.Struct, frozen=True):
    series: list[Series] = []
    error: str | None = None


class _Answer(msgspec.Struct, frozen=True):
    results: list[_Result] = []
    error: str | None = None


_ANSWER: Final = msgspec.json.Decoder(_Answer)
Query = Callable[[str], Awaitable[list[Series]]]


def parse_answer(server: Server, body: bytes) -> list[Series]:
    """The tables in a successful answer of `/query`.

    Raises:
        StoreError: It is not such an answer, or reports an error in the query.
    """
    try:
        answer = _ANSWER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{server.name} gave no InfluxQL answer: {_said(body)}") from error
    for problem in (answer.error, *(result.error for result in answer.results)):
        if problem:
            raise StoreError(f"{server.name} answered: {problem}; check that {server.place} exists")
    return [series for result in answer.results for series in result.series]


async def read_points(
    query: Query,
    measurement: str,
    start_ms: int,
    stop_ms: int,
    limit: int,
    policy: str | None = None,
) -> list[Point]:
    """At most `limit` points with `start_ms <= ts < stop_ms`, oldest first, in `policy` or the default one.

    Numbers come as JSON, which tells no 31 from 31.0, so the field types are asked for.
    """
    source = f"{quoted(policy)}.{quoted(measurement)}" if policy else quoted(measurement)
    tags = {row[0] for row in _rows(await query(f"SHOW TAG KEYS FROM {source}"))}
    types = {row[0]: row[1] for row in _rows(await query(f"SHOW FIELD KEYS FROM {source}"))}
    series = await query(
        f"SELECT * FROM {source} WHERE time >= {_instant(start_ms)} AND time < {_instant(stop_ms)} "
        f"ORDER BY time LIMIT {limit:d}"
    )
    return [
        _point(measurement, dict(zip(table.columns, row, strict=True)), tags, types)
        for table in series
        for row in table.values
    ]


def quoted(identifier: str) -> str:
    """`identifier` as InfluxQL quotes it."""
    escaped = identifier.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _instant(ms: int) -> str:
    return f"{min(max(ms, -INSTANT_MAX_MS), INSTANT_MAX_MS):d}ms"


def _rows(tables: list[Series]) -> Iterator[list[Any]]:
    for table in tables:
        yield from table.values


def _point(measurement: str, row: dict[str, Any], tags: set[str], types: dict[str, str]) -> Point:
    ts = row.pop("time")
    given = {name: value for name, value in row.items() if value is not None}
    key = PointKey(measurement, tuple(sorted((n, v) for n, v in given.items() if n in tags)))
    fields = {name: value for name, value in given.items() if name not in tags}
    kinds = {name: types.get(name, "float") for name in fields}
    return Point(
        key,
        ts,
        {name: float(value) for name, value in fields.items() if kinds[name] == "float"},
        {name: value for name, value in fields.items() if kinds[name] in {"integer", "unsigned"}},
        {
            name: str(value)
            for name, value in fields.items()
            if kinds[name] in {"string", "boolean"}
        },
    )
