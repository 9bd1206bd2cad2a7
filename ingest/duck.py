"""The embedded store: one DuckDB file, one table per measurement.

A table has the instant `ts` (UTC, to the millisecond), a text column per tag and a column per
field, so a person queries it as it stands: `SELECT ts, device, pm25 FROM air ORDER BY ts`. Tags and
`ts` are the primary key; a point without some tag has an empty text there.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import duckdb

from city.errors import StoreError, StoreRefused, StoreUnavailable
from ingest.columns import (
    TEXT,
    TIME,
    Table,
    check_case,
    columns_of,
    conflict,
    merged,
    point_of,
    shape_of,
)
from ingest.store import Point

T = TypeVar("T")

INSTANT_MAX_MS: Final = 2**53
"""No instant on the wire lies further from the epoch."""

_CONFIGURATION: Final = {
    "memory_limit": "512MB",
    "autoinstall_known_extensions": False,
}
_BATCH: Final = "cityeye_incoming_batch"
_NARROW: Final = "cityeye_narrow_table"
"""What no measurement is called: a name of ours would hide its table."""

_REFUSALS: Final = (
    duckdb.DataError,
    duckdb.IntegrityError,
    duckdb.NotSupportedError,
    duckdb.ProgrammingError,
)
"""What DuckDB raises when the points are at fault; all else may pass."""


class DuckStore:
    """Points in a DuckDB file; all work on it happens in one thread of its own.

    Args:
        path: The file; made when missing, with the folder it is in.
        timeout_s: How long one call may take.
    """

    def __init__(self, path: Path, *, timeout_s: float = 60.0) -> None:
        self.name = f"DuckDB file {path}"
        self.timeout_s = timeout_s
        self._path = path
        self._connection: Any = None
        self._tables: dict[str, Table] = {}
        self._thread: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        """Open the file, or make it.

        Raises:
            StoreError: Another process holds the file, or it is none of DuckDB's.
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="duckdb")
        try:
            await self._run(self._connect)
        except BaseException:
            await self.close()
            raise

    async def write(self, points: Sequence[Point]) -> None:
        """Keep every point; when it raises, none was kept."""
        if points:
            await self._run(lambda: self._write(points))

    async def read(
        self, measurement: str, start_ms: int, stop_ms: int, *, limit: int = 10_000
    ) -> list[Point]:
        """The points of `measurement` with `start_ms <= ts < stop_ms`, oldest first."""
        return await self._run(lambda: self._read(measurement, start_ms, stop_ms, limit))

    async def close(self) -> None:
        """Close the file; it is then complete in itself."""
        if self._thread is not None:
            thread = self._thread
            try:
                await self._run(self._disconnect)
            finally:
                self._thread = None
                thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise StoreError(f"{self.name} is not open")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeout_s):
                return await loop.run_in_executor(self._thread, work)
        except TimeoutError as error:
            connection = self._connection
            if connection is not None:
                connection.interrupt()
            raise StoreUnavailable(f"{self.name} took over {self.timeout_s:g} s") from error

    # Everything below runs in the store's thread.

    def _connect(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = duckdb.connect(str(self._path), config=_CONFIGURATION)
            self._tables = self._find_tables()
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be made: {error.strerror}") from error
        except duckdb.Error as error:
            self._disconnect()
            raise StoreError(f"{self._path}: {_remedy(str(error))}: {error}") from error

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _find_tables(self) -> dict[str, Table]:
        columns: dict[str, dict[str, str]] = {}
        for table, column, kind in self._fetch(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() "
            "WHERE schema_name = 'main' AND NOT internal ORDER BY column_index"
        ):
            columns.setdefault(table, {})[column] = kind
        keys = self._fetch(
            "SELECT table_name, constraint_column_names FROM duckdb_constraints() "
            "WHERE schema_name = 'main' AND constraint_type = 'PRIMARY KEY'"
        )
        return {
            table: Table(
                tags=tuple(name for name in key if name != TIME),
                fields={n: kind for n, kind in columns[table].items() if n not in key},
            )
            for table, key in keys
            if TIME in key
        }

    def _fetch(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self._connection.execute(statement, list(values)).fetchall()
        return rows

    def _write(self, points: Sequence[Point]) -> None:
        measurements: dict[str, list[Point]] = {}
        for point in merged(points):
            measurements.setdefault(point.key.measurement, []).append(point)
        with self._transaction():
            tables = dict(self._tables)
            for name, rows in measurements.items():
                given = shape_of(name, rows)
                tables[name] = self._fit(name, tables, given)
                self._upsert(name, tables[name], rows, given)
        self._tables = tables

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; after an error of DuckDB's the file is opened anew by the next write."""
        if self._connection is None:
            self._reconnect()
        try:
            self._connection.begin()
            yield
            self._connection.commit()
        except StoreRefused:
            self._connection.rollback()
            raise
        except _REFUSALS as error:
            self._disconnect()
            raise StoreRefused(f"{self.name} refused: {error}") from error
        except duckdb.Error as error:
            self._disconnect()
            raise StoreUnavailable(f"{self.name} cannot be written: {error}") from error

    def _reconnect(self) -> None:
        try:
            self._connect()
        except StoreError as error:
            raise StoreUnavailable(str(error)) from error

    def _fit(self, name: str, tables: dict[str, Table], wanted: Table) -> Table:
        """The table of a measurement, made or widened to what `wanted` has."""
        table = tables.get(name)
        if table is None:
            check_case(name, tables)
            self._create(name, wanted)
            return wanted
        if not set(wanted.tags) <= set(table.tags):
            table = self._add_tags(name, table, wanted)
        for field, kind in wanted.fields.items():
            known = table.fields.get(field)
            if known is None:
                check_case(field, (*table.tags, *table.fields, TIME))
                self._connection.execute(
                    f"ALTER TABLE {_quoted(name)} ADD COLUMN {_quoted(field)} {kind}"
                )
            elif known != kind:
                raise conflict(name, field, kind, known)
        return Table(table.tags, {**wanted.fields, **table.fields})

    def _create(self, name: str, table: Table) -> None:
        for index, column in enumerate(columns := [TIME, *table.tags, *table.fields]):
            check_case(column, columns[:index])
        tags = "".join(f", {_quoted(tag)} {TEXT}" for tag in table.tags)
        fields = "".join(f", {_quoted(field)} {kind}" for field, kind in table.fields.items())
        key = ", ".join(_quoted(column) for column in (*table.tags, TIME))
        self._connection.execute(
            f"CREATE TABLE {_quoted(name)} ({TIME} TIMESTAMP_MS{tags}{fields}, PRIMARY KEY ({key}))"
        )

    def _add_tags(self, name: str, table: Table, wanted: Table) -> Table:
        """Make the table anew: DuckDB cannot change a primary key."""
        wider = Table(tuple(sorted({*table.tags, *wanted.tags})), table.fields)
        kept = ", ".join(_quoted(column) for column in (TIME, *table.tags, *table.fields))
        added = [tag for tag in wider.tags if tag not in table.tags]
        columns = kept + "".join(f", {_quoted(tag)}" for tag in added)
        values = kept + ", ''" * len(added)
        source = _quoted(name)
        self._connection.execute(f"CREATE TEMP TABLE {_NARROW} AS FROM {source}")
        self._connection.execute(f"DROP TABLE {source}")
        self._create(name, wider)
        self._connection.execute(f"INSERT INTO {source} ({columns}) SELECT {values} FROM {_NARROW}")
        self._connection.execute(f"DROP TABLE {_NARROW}")
        return wider

    def _upsert(self, name: str, table: Table, rows: Sequence[Point], given: Table) -> None:
        """Insert `rows`; of a row that is there already only the given fields change."""
        columns = columns_of(rows, table.tags, given.fields)
        names = ", ".join(_quoted(column) for column in columns)
        places = ", ".join(f"c{index}" for index in range(len(columns)))
        changes = ", ".join(
            f"{_quoted(field)} = coalesce(excluded.{_quoted(field)}, {_quoted(field)})"
            for field in given.fields
        )
        batch = {f"c{index}": column for index, column in enumerate(columns.values())}
        self._connection.register(_BATCH, batch)
        try:
            self._connection.execute(
                f"INSERT INTO {_quoted(name)} ({names}) SELECT {places} FROM {_BATCH} "
                f"ON CONFLICT DO UPDATE SET {changes}"
            )
        finally:
            self._connection.unregister(_BATCH)

    def _read(self, measurement: str, start_ms: int, stop_ms: int, limit: int) -> list[Point]:
        if self._connection is None:
            self._reconnect()
        table = self._tables.get(measurement)
        if table is None:
            return []
        columns = [_quoted(column) for column in (*table.tags, *table.fields)]
        bounds = [min(max(ms, -INSTANT_MAX_MS), INSTANT_MAX_MS) for ms in (start_ms, stop_ms)]
        instant = "make_timestamp_ms(?)::TIMESTAMP_MS"
        try:
            rows = self._fetch(
                f"SELECT {', '.join([f'epoch_ms({TIME})', *columns])} FROM {_quoted(measurement)} "
                f"WHERE {TIME} >= {instant} AND {TIME} < {instant} ORDER BY {TIME} LIMIT ?",
                [*bounds, limit],
            )
        except duckdb.Error as error:
            self._disconnect()
            raise StoreUnavailable(f"{self.name} cannot be read: {error}") from error
        return [point_of(measurement, table, row) for row in rows]


def _quoted(identifier: str) -> str:
    escaped = identifier.replace('"', '""')
    return f'"{escaped}"'


def _remedy(text: str) -> str:
    if "lock" in text:
        return "another process holds this file; end it or choose another file with duckdb:PATH"
    if "not a valid DuckDB" in text:
        return "not a DuckDB file; move it away or choose another file with duckdb:PATH"
    return "cannot be opened as a DuckDB file; choose another one with duckdb:PATH"
