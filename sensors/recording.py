"""Files of recorded data: what their columns mean, and their rows as arrays.

The meaning stands in a small YAML file of its own, the mapping. A row that does not parse is left
out, counted and told; the rest go on.
"""

import csv
import gzip
import math
import re
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import duckdb
import msgspec
import numpy as np
from numpy.typing import NDArray

from city.citycheck import check_identifier
from city.cityfile import Identifier, Position
from city.documents import Document, suggestion
from city.errors import DocumentError
from city.quantities import QUANTITIES, Domain, Quantity, to_canonical

PROBLEMS_KEPT: Final = 5
"""Rows that do not parse are all counted; so many are told."""

_ROWS_AT_ONCE: Final = 10_000
_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9]+")
_DIGITS_KEPT: Final = 6
_TEXT_SHOWN: Final = 40
_EPOCHS: Final = {"epoch_s": 1, "epoch_ms": 1000}
"""Formats that count since the epoch, with their ticks per second."""
_PARTS: Final = ("year", "month", "day", "hour", "minute", "second")

Row = tuple[int, Sequence[str]]
"""The number of a line or row in its file, and its cells."""


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the mapping; unknown keys are errors."""


class TimeColumns(_Strict, frozen=True, kw_only=True):
    """Where a row's instant stands: in one column, or in one column per part."""

    column: str | None = None
    format: str = "iso"
    """`iso`, `epoch_s`, `epoch_ms`, or a pattern such as `%d.%m.%Y %H:%M`."""
    year: str | None = None
    month: str | None = None
    day: str | None = None
    hour: str | None = None
    minute: str | None = None
    second: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The columns of the parts from the year on, without gaps."""
        names = [getattr(self, part) for part in _PARTS]
        return tuple(names[: names.index(None)] if None in names else names)


class StationColumn(_Strict, frozen=True, kw_only=True):
    """Which station a row belongs to: the text in a column, or one for the whole file."""

    column: str | None = None
    id: Identifier | None = None


class ValueColumn(_Strict, frozen=True, kw_only=True):
    """The column of a quantity and its unit; `words` are the numbers that texts stand for."""

    column: str
    unit: str | None = None
    words: dict[str, float] = {}


class Place(_Strict, frozen=True, kw_only=True):
    """What the file does not say about a station."""

    district: Identifier = "recorded"
    name: str = ""
    name_zh: str = ""
    position: Position = (0.0, 0.0)


class RecordingMap(_Strict, frozen=True, kw_only=True):
    """One mapping file: what the columns of a recording mean."""

    recording: Identifier
    city: Identifier
    timezone: str = "UTC"
    time: TimeColumns
    station: StationColumn
    values: Annotated[dict[str, ValueColumn], msgspec.Meta(min_length=1)]
    missing: tuple[str, ...] = ("", "NA")
    """Cells that say that there is no value."""
    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    places: dict[str, Place] = {}
    """Stations by identifier: their name in the file in small letters, digits and hyphens."""

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """What the recording measures, in the order of the file."""
        return tuple(QUANTITIES[name] for name in self.values)

    @property
    def domain(self) -> Domain:
        """The one domain of all its quantities."""
        return self.quantities[0].domain


class Rows(msgspec.Struct, frozen=True, eq=False):
    """The rows that parse, in the order of the file.

    `station` (index into `stations`) and `ts` (milliseconds since the epoch, UTC) have the shape
    (n,), `values` (canonical units, NaN where there is no value) has the shape (n, q).
    """

    stations: tuple[str, ...]
    station: NDArray[np.int64]
    ts: NDArray[np.int64]
    values: NDArray[np.float64]
    refused: int
    problems: tuple[str, ...]
    """Where the first rows that do not parse stand, and why they do not."""


def read_map(path: Path) -> RecordingMap:
    """The mapping in the file at `path`.

    Raises:
        DocumentError: It is wrong; the text says where and what is allowed.
    """
    return map_of(Document.read(path))


def map_of(document: Document) -> RecordingMap:
    """The mapping in `document`, checked as a whole."""
    mapping = document.convert(RecordingMap)
    check_identifier(document, ("recording",), mapping.recording)
    check_identifier(document, ("city",), mapping.city)
    try:
        ZoneInfo(mapping.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        document.fail(("timezone",), f"unknown time zone {mapping.timezone!r}; use an IANA name")
    if (mapping.time.column is None) == (len(mapping.time.parts) < 3):  # noqa: PLR2004 - a date
        document.fail(("time",), "give either column, or year, month, day and so on")
    if (mapping.station.column is None) == (mapping.station.id is None):
        document.fail(("station",), "give either column or id")
    for name, value in mapping.values.items():
        _check_value(document, name, value)
    domains = {quantity.domain.value for quantity in mapping.quantities}
    if len(domains) > 1:
        found = ", ".join(sorted(domains))
        document.fail(("values",), f"one recording has quantities of one domain, found: {found}")
    return mapping


def read_rows(path: Path, mapping: RecordingMap) -> Rows:
    """Every row of the CSV (also .gz) or Parquet file at `path` that parses.

    Raises:
        DocumentError: The file cannot be read, lacks a column, or no row of it parses.
    """
    _check_file(path)
    parquet = path.suffix == ".parquet"
    rows = _parquet_rows(path) if parquet else _csv_rows(path, mapping.delimiter)
    _, header = next(rows, (0, ()))
    if not header:
        raise DocumentError(f"{path}: is empty; its first line must name the columns")
    parser = _Parser(path, mapping, header)
    stations: dict[str, int] = {}
    station, ts, values = array("q"), array("q"), array("d")
    refused = 0
    problems: list[str] = []
    for number, cells in rows:
        try:
            where, instant, numbers = parser.parse(cells)
        except (ValueError, OverflowError) as error:
            refused += 1
            if len(problems) < PROBLEMS_KEPT:
                problems.append(f"{path}:{number}: {error}")
            continue
        station.append(stations.setdefault(where, len(stations)))
        ts.append(instant)
        values.extend(numbers)
    if not ts and not refused:
        raise DocumentError(f"{path}: has no row below its header")
    if not ts:
        first = f"; the first: {problems[0]}" if problems else ""
        raise DocumentError(f"{path}: none of its {refused} rows parses{first}")
    return Rows(
        stations=tuple(stations),
        station=np.array(station),
        ts=np.array(ts),
        values=np.round(np.array(values).reshape(len(ts), -1), _DIGITS_KEPT),
        refused=refused,
        problems=tuple(problems),
    )


class _Parser:
    """What one row of a recording says."""

    def __init__(self, path: Path, mapping: RecordingMap, header: Sequence[str]) -> None:
        self._width = len(header)
        self._path = path
        self._header = list(header)
        self._missing = frozenset(text.strip() for text in mapping.missing)
        self._zone = ZoneInfo(mapping.timezone)
        self._format = mapping.time.format
        names = (mapping.time.column,) if mapping.time.column else mapping.time.parts
        self._time = [self._index(name) for name in names]
        self._instant = self._one_column if mapping.time.column else self._several_columns
        column = mapping.station.column
        self._station = None if column is None else self._index(column)
        self._name = mapping.station.id or ""
        self._names: dict[str, str] = {}
        self._values = [
            _Cell(
                index=self._index(value.column),
                column=value,
                quantity=quantity,
                factor=_factor(value, quantity),
                words={word.strip(): number for word, number in value.words.items()},
            )
            for value, quantity in zip(mapping.values.values(), mapping.quantities, strict=True)
        ]

    def parse(self, cells: Sequence[str]) -> tuple[str, int, list[float]]:
        """A row's station, instant [ms] and values, NaN where one is missing.

        Raises:
            ValueError: The row does not parse; the text says which cell and why.
        """
        if len(cells) != self._width:
            raise ValueError(f"has {len(cells)} cells, the header {self._width}")
        texts = [cell.strip() for cell in cells]
        return self._place(texts), self._instant(texts), [
            math.nan if texts[cell.index] in self._missing else cell.value(texts[cell.index])
            for cell in self._values
        ]  # fmt: skip

    def _index(self, name: str) -> int:
        if name not in self._header:
            near = suggestion(name, self._header)
            raise DocumentError(f"{self._path}: has no column {name!r}; {near}")
        return self._header.index(name)

    def _place(self, cells: Sequence[str]) -> str:
        if self._station is None:
            return self._name
        text = cells[self._station]
        if not text or text in self._missing:
            raise ValueError(f"column {self._header[self._station]!r}: names no station")
        name = self._names.get(text)
        if name is None:
            slug = _NOT_IN_NAMES.sub("-", text.lower())[:64].strip("-")
            name = self._names[text] = slug or f"station-{len(self._names) + 1}"
        return name

    def _one_column(self, cells: Sequence[str]) -> int:
        text = cells[self._time[0]]
        try:
            if self._format in _EPOCHS:
                instant = datetime.fromtimestamp(float(text) / _EPOCHS[self._format], UTC)
            elif self._format == "iso":
                instant = datetime.fromisoformat(text)
            else:
                instant = datetime.strptime(text, self._format)  # noqa: DTZ007 - the zone follows
            return _ms(instant if instant.tzinfo else instant.replace(tzinfo=self._zone))
        except (ValueError, OverflowError, OSError):
            column = self._header[self._time[0]]
            raise ValueError(
                f"column {column!r}: {text[:_TEXT_SHOWN]!r} is no instant of format "
                f"{self._format!r}"
            ) from None

    def _several_columns(self, cells: Sequence[str]) -> int:
        parts = [self._part(cells, index) for index in self._time]
        year, month, day, hour, minute, second = [*parts, 0, 0, 0][: len(_PARTS)]
        try:
            return _ms(datetime(year, month, day, hour, minute, second, tzinfo=self._zone))
        except (ValueError, OverflowError) as error:
            found = ", ".join(
                f"{self._header[index]!r}: {cells[index][:_TEXT_SHOWN]!r}" for index in self._time
            )
            raise ValueError(f"columns {found}: {error}") from None

    def _part(self, cells: Sequence[str], index: int) -> int:
        text = cells[index]
        try:
            return int(text)
        except ValueError:
            found = f"column {self._header[index]!r}: {text[:_TEXT_SHOWN]!r}"
            raise ValueError(f"{found} is no whole number") from None


class _Cell(msgspec.Struct, frozen=True, kw_only=True):
    """The cell of one quantity in every row."""

    index: int
    column: ValueColumn
    quantity: Quantity
    factor: float
    words: dict[str, float]

    def value(self, text: str) -> float:
        """The value in the canonical unit; none in a blank cell.

        Raises:
            ValueError: It is no number, or cannot be true.
        """
        given = self.words.get(text)
        if given is None and not text:
            return math.nan
        found = f"column {self.column.column!r}: {text[:_TEXT_SHOWN]!r}"
        try:
            value = (float(text) if given is None else given) * self.factor
        except ValueError:
            raise ValueError(f"{found} is no number") from None
        low, high = self.quantity.low, self.quantity.high
        if not low <= value <= high:
            raise ValueError(f"{found} is not within {low:g} to {high:g} {self.quantity.unit}")
        return value


def _ms(instant: datetime) -> int:
    return round(instant.astimezone(UTC).timestamp() * 1000)


def _factor(value: ValueColumn, quantity: Quantity) -> float:
    return to_canonical(1.0, value.unit or quantity.unit, quantity)


def _check_value(document: Document, name: str, value: ValueColumn) -> None:
    if name not in QUANTITIES:
        problem = f"unknown quantity {name!r}; {suggestion(name, QUANTITIES)}"
        document.fail(("values", name), problem)
    try:
        _factor(value, QUANTITIES[name])
    except ValueError as error:
        document.fail(("values", name, "unit"), str(error))


def _check_file(path: Path) -> None:
    if not path.exists():
        raise DocumentError(f"{path}: there is no such file")
    if path.is_dir():
        raise DocumentError(f"{path}: is a directory; give a .csv, .csv.gz or .parquet file")
    if path.is_file() and not path.stat().st_size:
        raise DocumentError(f"{path}: is empty; its first line must name the columns")


def _csv_rows(path: Path, delimiter: str) -> Iterator[Row]:
    opening: Callable[..., IO[str]] = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opening(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            for cells in reader:
                number = reader.line_num
                if cells:
                    yield number, cells
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DocumentError(f"{path}:{number + 1}: cannot be read: {reason}") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        with duckdb.connect() as connection:
            found = connection.execute("FROM read_parquet(?)", [str(path)])
            yield 0, [column[0] for column in found.description]
            number = 0
            while rows := found.fetchmany(_ROWS_AT_ONCE):
                for row in rows:
                    number += 1
                    yield number, ["" if cell is None else str(cell) for cell in row]
    except duckdb.Error as error:
        raise DocumentError(f"{path}: cannot be read as Parquet: {error}") from error
