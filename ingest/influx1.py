"""The store on an InfluxDB 1.x server, and one on a server of our own.

Downsampled readings go to a retention policy of their own, so that they outlive the readings.
"""

import base64
import io
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp
import structlog

from city.errors import StoreError, StoreUnavailable
from ingest.influxd import PrivateInfluxd
from ingest.influxhttp import Series, Server, parse_answer, quoted, read_points
from ingest.lineprotocol import encode
from ingest.rollups import MEASUREMENTS, POLICY, Parts
from ingest.store import Point

_log = structlog.get_logger(__name__)

DATABASE: Final = "cityeye"
"""The database of a server of our own."""


class Influx1Store:
    """Points in a database of an InfluxDB 1.x server.

    Args:
        url: Where the server answers, e.g. `http://127.0.0.1:8086`.
        database: Made when it is missing and we may make it.
        user: Who writes, on a server that asks; `password` with it.
        retention_days: How long readings are kept; None leaves that to the server.
        timeout_s: How long one request may take.
    """

    def __init__(
        self,
        url: str,
        database: str,
        *,
        user: str | None = None,
        password: str | None = None,
        retention_days: int | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self.name = f"InfluxDB 1.x at {url}, database {database}"
        self.timeout_s = timeout_s
        self._url = url
        self._database = database
        self._retention_days = retention_days
        self._policy: str | None = POLICY
        """Where downsampled readings go; None: to the readings."""
        self._headers = _login(user, password or "") if user else {}
        self._server = Server(
            name=self.name,
            credentials="CITYEYE_STORE_USER and CITYEYE_STORE_PASSWORD",
            place=f"database {database!r}",
        )
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Connect and make the database if it is missing."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self.timeout_s)
            self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        try:
            await self._create_database()
            await self._write(b"")
            if self._retention_days is not None:
                await self._keep_for(self._retention_days)
        except BaseException:
            await self.close()
            raise

    async def write(self, points: Sequence[Point]) -> None:
        """Keep every point, or raise; what a refused batch holds besides is mostly kept."""
        parts = Parts.of(points)
        if parts.others:
            await self._write(encode(parts.others))
        if parts.rows:
            await self._write(encode(parts.rows), policy=self._policy)

    async def read(
        self, measurement: str, start_ms: int, stop_ms: int, *, limit: int = 10_000
    ) -> list[Point]:
        """The points of `measurement` with `start_ms <= ts < stop_ms`, oldest first."""
        policy = self._policy if measurement in MEASUREMENTS else None
        return await read_points(self.query, measurement, start_ms, stop_ms, limit, policy)

    async def query(self, statement: str) -> list[Series]:
        """The answer to an InfluxQL statement that reads; instants are in milliseconds.

        Raises:
            StoreUnavailable: The server does not answer, or asks to wait.
            StoreError: It does not answer the question.
        """
        query = {"db": self._database, "epoch": "ms"}
        status, body, retry_after = await self._post("/query", query, {"q": statement})
        self._server.check(status, body, retry_after)
        return parse_answer(self._server, body)

    async def close(self) -> None:
        """Release the connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _write(self, lines: bytes, policy: str | None = None) -> None:
        """Write once more with database or policy made anew if somebody has dropped it."""
        status, body, retry_after = await self._post_lines(lines, policy)
        if status == HTTPStatus.NOT_FOUND and b"database not found" in body:
            await self._create_database()
            status, body, retry_after = await self._post_lines(lines, policy)
        if policy and b"retention policy not found" in body:
            policy = self._policy = await self._create_policy()
            status, body, retry_after = await self._post_lines(lines, policy)
        self._server.check(status, body, retry_after)

    async def _post_lines(self, lines: bytes, policy: str | None) -> tuple[int, bytes, str | None]:
        query = {"db": self._database, "precision": "ms", "consistency": "all"}
        if policy:
            query["rp"] = policy
        return await self._post("/write", query, io.BytesIO(lines))

    async def _create_policy(self) -> str | None:
        """Make the policy for downsampled readings; None if we may not."""
        statement = (
            f"CREATE RETENTION POLICY {quoted(POLICY)} ON {quoted(self._database)} "
            "DURATION INF REPLICATION 1"
        )
        status, body, retry_after = await self._post("/query", {}, {"q": statement})
        if status == HTTPStatus.FORBIDDEN:
            _log.warning(
                "downsampled readings have no retention policy of their own and are kept only as "
                "long as the readings; an administrator can make it, before a restart",
                store=self.name,
                statement=statement,
            )
            return None
        self._server.check(status, body, retry_after)
        parse_answer(self._server, body)
        return POLICY

    async def _keep_for(self, days: int) -> None:
        """Have the readings kept for so long: in the database's default policy."""
        database = quoted(self._database)
        for table in await self.query(f"SHOW RETENTION POLICIES ON {database}"):
            for name, duration, *_, default in table.values:
                if default and duration != f"{24 * days}h0m0s":
                    statement = (
                        f"ALTER RETENTION POLICY {quoted(name)} ON {database} "
                        f"DURATION {days:d}d SHARD DURATION 1d DEFAULT"
                    )
                    await self._alter(statement)

    async def _alter(self, statement: str) -> None:
        status, body, retry_after = await self._post("/query", {}, {"q": statement})
        if status == HTTPStatus.FORBIDDEN:
            raise StoreError(
                f"{self.name}: only an administrator may set how long readings are kept: "
                f"have him say {statement!r}, or leave retention_days out"
            )
        self._server.check(status, body, retry_after)
        parse_answer(self._server, body)

    async def _create_database(self) -> None:
        """Make the database; a user who may only write to it finds it made."""
        statement = f"CREATE DATABASE {quoted(self._database)}"
        status, body, retry_after = await self._post("/query", {}, {"q": statement})
        if status == HTTPStatus.FORBIDDEN:
            return
        self._server.check(status, body, retry_after)
        parse_answer(self._server, body)

    async def _post(
        self, path: str, query: dict[str, str], data: io.BytesIO | dict[str, str]
    ) -> tuple[int, bytes, str | None]:
        if self._session is None:
            raise StoreError(f"{self.name} is not open")
        with self._server.reaching():
            async with self._session.post(self._url + path, params=query, data=data) as answer:
                return answer.status, await answer.read(), answer.headers.get("Retry-After")


class PrivateInfluxStore(Influx1Store):
    """Points in an InfluxDB 1.x server that starts and stops with the store.

    Args:
        directory: Where the server keeps its files.
        retention_days: How long readings are kept; None leaves that to the server.
    """

    def __init__(self, directory: Path, *, retention_days: int | None = None) -> None:
        self.influxd = PrivateInfluxd(directory)
        super().__init__(self.influxd.url, DATABASE, retention_days=retention_days)
        self.name = f"private {self.name}, files in {directory}"

    async def open(self) -> None:
        """Start the server and make the database."""
        await self.influxd.start()
        try:
            await super().open()
        except BaseException:
            await self.influxd.stop()
            raise

    async def write(self, points: Sequence[Point]) -> None:
        """Keep every point, or raise; a server that has died is started again."""
        if self._session is not None and not self.influxd.running:
            try:
                await self.influxd.start()
            except StoreError as error:
                raise StoreUnavailable(f"{self.name} has ended: {error}") from error
        await super().write(points)

    async def close(self) -> None:
        """Release the connection and stop the server."""
        await super().close()
        await self.influxd.stop()


def _login(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
