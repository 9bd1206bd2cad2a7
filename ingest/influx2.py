"""The store on the write endpoint of InfluxDB 2.x, which 3.x and others keep.

A bucket has one retention, so downsampled readings go to a second bucket. For InfluxQL that is
retention policy `rollup` of the database that is called as the first bucket. Where the two are one,
as on 3.x, all goes there.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import structlog
from influxdb_client.client.influxdb_client_async import InfluxDBClientAsync
from influxdb_client.domain.write_precision import WritePrecision
from influxdb_client.rest import ApiException

from city.errors import StoreError, StoreRefused
from ingest.influxhttp import Series, Server, parse_answer, read_points
from ingest.lineprotocol import encode
from ingest.rollups import MEASUREMENTS, POLICY, Parts
from ingest.store import Point

_log = structlog.get_logger(__name__)

REQUEST_MAX: Final = 1_000_000
"""Largest request body [bytes]; the client sends it from memory in one piece."""


_NO_BUCKET: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
"""What the server answers when a bucket is not there, or not for us."""


class _NoBucketError(StoreError):
    """The bucket for downsampled readings cannot be written to."""


class Influx2Store:
    """Points in a bucket, written through the API of InfluxDB 2.x.

    Nothing is buffered or tried again here: that is the writer's part. The bucket must exist.

    Args:
        url: Where the server answers, e.g. `http://127.0.0.1:8086`.
        org: The organisation that owns the bucket.
        token: Who writes, on a server that asks.
        rollup_bucket: Where downsampled readings go; default: the bucket's name and `_rollup`.
        timeout_s: How long one request may take.
    """

    def __init__(
        self,
        url: str,
        org: str,
        bucket: str,
        *,
        token: str | None = None,
        rollup_bucket: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self.name = f"InfluxDB 2 at {url}, bucket {org}/{bucket}"
        self.timeout_s = timeout_s
        self._url = url
        self._org = org
        self._bucket = bucket
        self._rollup_bucket = rollup_bucket or f"{bucket}_{POLICY}"
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
        parts = Parts.of(points)
        await self._write_to(self._bucket, parts.others)
        try:
            await self._write_to(self._rollup_bucket, parts.rows)
        except _NoBucketError as error:
            self._do_without(error)
            await self._write_to(self._bucket, parts.rows)

    async def read(
        self, measurement: str, start_ms: int, stop_ms: int, *, limit: int = 10_000
    ) -> list[Point]:
        """The points of `measurement` with `start_ms <= ts < stop_ms`, oldest first."""
        apart = measurement in MEASUREMENTS and self._rollup_bucket != self._bucket
        policy = POLICY if apart else None
        return await read_points(self.query, measurement, start_ms, stop_ms, limit, policy)

    async def query(self, statement: str) -> list[Series]:
        """The answer to an InfluxQL statement that reads; instants are in milliseconds.

        Raises:
            StoreUnavailable: The server does not answer, or asks to wait.
            StoreError: It does not answer the question.
        """
        if self._session is None:
            raise StoreError(f"{self.name} is not open")
        query = {"db": self._bucket, "epoch": "ms", "q": statement}
        with self._server.reaching():
            async with self._session.get(f"{self._url}/query", params=query) as answer:
                status, body = answer.status, await answer.read()
                retry_after = answer.headers.get("Retry-After")
        self._server.check(status, body, retry_after)
        return parse_answer(self._server, body)

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
            await self._send(self._bucket, b"")
        except StoreRefused:
            return

    def _do_without(self, error: StoreError) -> None:
        """Have downsampled readings go to the readings from now on."""
        _log.warning(
            "downsampled readings have no bucket of their own and are kept only as long as the "
            f"readings; make the bucket {self._rollup_bucket!r} and its mapping, let the token "
            "write there, and start again",
            store=self.name,
            why=str(error),
        )
        self._rollup_bucket = self._bucket

    async def _write_to(self, bucket: str, points: Sequence[Point]) -> None:
        lines = encode(points)
        if len(lines) > REQUEST_MAX and len(points) > 1:
            middle = len(points) // 2
            await self._write_to(bucket, points[:middle])
            await self._write_to(bucket, points[middle:])
        elif points:
            await self._send(bucket, lines)

    async def _send(self, bucket: str, lines: bytes) -> None:
        if self._client is None:
            raise StoreError(f"{self.name} is not open")
        with self._server.reaching():
            try:
                await self._client.write_api().write(
                    bucket=bucket, record=lines, write_precision=WritePrecision.MS
                )
            except ApiException as error:
                if bucket != self._bucket and error.status in _NO_BUCKET:
                    raise _NoBucketError(f"it answered {error.status}") from error
                self._server.check(error.status, error.body, error.retry_after)
