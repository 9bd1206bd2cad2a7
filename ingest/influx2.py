"""The store on the write endpoint of InfluxDB 2.x, which 3.x and others keep."""

from collections.abc import Sequence
from typing import Any, Final

import aiohttp
from influxdb_client.client.influxdb_client_async import InfluxDBClientAsync
from influxdb_client.domain.write_precision import WritePrecision
from influxdb_client.rest import ApiException

from city.errors import StoreError, StoreRefused
from ingest.influxhttp import Series, Server, parse_answer, read_points
from ingest.lineprotocol import encode
from ingest.store import Point

REQUEST_MAX: Final = 1_000_000
"""Largest request body [bytes]; the client sends it from memory in one piece."""


class Influx2Store:
    """Points in a bucket, written through the API of InfluxDB 2.x.

    Nothing is buffered or tried again here: that is the writer's part. The bucket must exist.

    Args:
        url: Where the server answers, e.g. `http://127.0.0.1:8086`.
        org: The organisation that owns the bucket.
        token: Who writes, on a server that asks.
        timeout_s: How long one request may take.
    """

    def __init__(
        self, url: str, org: str, bucket: str, *, token: str | None = None, timeout_s: float = 30.0
    ) -> None:
        self.name = f"InfluxDB 2 at {url}, bucket {org}/{bucket}"
        self.timeout_s = timeout_s
        self._url = url
        self._org = org
        self._bucket = bucket
        self._token = token
        self._server = Server(
            name=self.name,
            credentials="CITYEYE_STORE_TOKEN",
            place=f"bucket {bucket!r} of organisation {org!r}",
        )
        self._client: Any = None
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Connect and see whether we may write to the bucket."""
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        if self._session is None:
            headers = {"Authorization": f"Token {self._token}"} if self._token else {}
            self._session = aiohttp.ClientSession(headers=headers, timeout=timeout)
            self._client = InfluxDBClientAsync(
                self._url, token=self._token, org=self._org, timeout=timeout
            )
        try:
            await self._probe()
        except BaseException:
            await self.close()
            raise

    async def write(self, points: Sequence[Point]) -> None:
        """Keep every point, or raise; after an error some of them may have been kept."""
        lines = encode(points)
        if len(lines) > REQUEST_MAX and len(points) > 1:
            middle = len(points) // 2
            await self.write(points[:middle])
            await self.write(points[middle:])
        elif points:
            await self._write(lines)

    async def read(
        self, measurement: str, start_ms: int, stop_ms: int, *, limit: int = 10_000
    ) -> list[Point]:
        """The points of `measurement` with `start_ms <= ts < stop_ms`, oldest first."""
        return await read_points(self._query, measurement, start_ms, stop_ms, limit)

    async def close(self) -> None:
        """Release the connections."""
        client, session = self._client, self._session
        self._client = self._session = None
        if client is not None:
            await client.close()
        if session is not None:
            await session.close()

    async def _probe(self) -> None:
        """Write nothing: token, organisation and bucket are judged before the missing lines."""
        try:
            await self._write(b"")
        except StoreRefused:
            return

    async def _write(self, lines: bytes) -> None:
        if self._client is None:
            raise StoreError(f"{self.name} is not open")
        with self._server.reaching():
            try:
                await self._client.write_api().write(
                    bucket=self._bucket, record=lines, write_precision=WritePrecision.MS
                )
            except ApiException as error:
                self._server.check(error.status, error.body, error.retry_after)

    async def _query(self, statement: str) -> list[Series]:
        if self._session is None:
            raise StoreError(f"{self.name} is not open")
        query = {"db": self._bucket, "epoch": "ms", "q": statement}
        with self._server.reaching():
            async with self._session.get(f"{self._url}/query", params=query) as answer:
                status, body = answer.status, await answer.read()
                retry_after = answer.headers.get("Retry-After")
        self._server.check(status, body, retry_after)
        return parse_answer(self._server, body)
