"""Points as the columns of a table, and a table's rows as points.

A table has a column for the instant, a text column per tag and a typed column per field.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.errors import StoreRefused
from ingest.store import Point, PointKey

TIME: Final = "ts"
FLOAT: Final = "DOUBLE"
INTEGER: Final = "BIGINT"
TEXT: Final = "VARCHAR"
_KINDS: Final = {FLOAT: "float", INTEGER: "integer", TEXT: "text"}


class Table(msgspec.Struct, frozen=True):
    """The columns of a measurement's table beside `ts`; `fields` are name and type."""

    tags: tuple[str, ...]
    fields: dict[str, str]


def merged(points: Sequence[Point]) -> Iterable[Point]:
    """One point per key and instant; where fields meet, the later one stands."""
    rows: dict[tuple[PointKey, int], Point] = {}
    for point in points:
        place = (point.key, point.ts)
        earlier = rows.setdefault(place, point)
        if earlier is not point:
            rows[place] = Point(
                point.key,
                point.ts,
                {**earlier.values, **point.values},
                {**earlier.counts, **point.counts},
                {**earlier.texts, **point.texts},
            )
    return rows.values()


def shape_of(measurement: str, rows: Sequence[Point]) -> Table:
    """The tags and typed fields that occur in `rows`."""
    tags = sorted({name for key in {row.key for row in rows} for name, _ in key.tags})
    shapes = {((*row.values,), (*row.counts,), (*row.texts,)) for row in rows}
    fields: dict[str, str] = {}
    for shape in sorted(shapes):
        for kind, names in zip(_KINDS, shape, strict=True):
            for name in names:
                if fields.setdefault(name, kind) != kind:
                    raise conflict(measurement, name, kind, fields[name])
    return Table(tuple(tags), fields)


def columns_of(
    rows: Sequence[Point], tags: Sequence[str], fields: dict[str, str]
) -> dict[str, NDArray[Any]]:
    """The columns of `rows`, missing fields as SQL nulls."""
    columns: dict[str, NDArray[Any]] = {
        TIME: np.array([row.ts for row in rows], dtype="datetime64[ms]")
    }
    keys = {key: index for index, key in enumerate({row.key for row in rows})}
    series = [keys[row.key] for row in rows]
    tag_values = [dict(key.tags) for key in keys]
    for tag in tags:
        values = np.array([value.get(tag, "") for value in tag_values], dtype=object)
        columns[tag] = values[series]
    for field, kind in fields.items():
        columns[field] = _column(rows, field, kind)
    return columns


def _column(rows: Sequence[Point], field: str, kind: str) -> NDArray[Any]:
    if kind == FLOAT:
        return _floats(rows, field)
    if kind == INTEGER:
        counts = [row.counts.get(field) for row in rows]
        try:
            filled = np.array([count or 0 for count in counts], dtype=np.int64)
        except OverflowError as error:
            raise StoreRefused(f"field {field!r} has an integer beyond 64 bits") from error
        return np.ma.masked_array(filled, mask=[count is None for count in counts])
    return np.array([row.texts.get(field) for row in rows], dtype=object)


def _floats(rows: Sequence[Point], field: str) -> NDArray[np.float64]:
    column = np.array([row.values.get(field, np.nan) for row in rows], dtype=np.float64)
    given = sum(field in row.values for row in rows)
    if np.count_nonzero(np.isfinite(column)) != given:
        raise StoreRefused(f"field {field!r} has a value that is not a finite number")
    return column


def point_of(measurement: str, table: Table, row: tuple[Any, ...]) -> Point:
    """The point in `row`: the instant in ms, then the tags and fields in the order of `table`."""
    ts, *cells = row
    tags = zip(table.tags, cells, strict=False)
    key = PointKey(measurement, tuple(sorted((name, value) for name, value in tags if value)))
    fields: dict[str, dict[str, Any]] = {kind: {} for kind in _KINDS}
    values = cells[len(table.tags) :]
    for (name, kind), value in zip(table.fields.items(), values, strict=True):
        if value is not None:
            fields.setdefault(kind, {})[name] = value
    return Point(key, ts, fields[FLOAT], fields[INTEGER], fields[TEXT])


def check_case(name: str, others: Iterable[str]) -> None:
    """Raise if DuckDB, which ignores case in names, would take `name` for another one."""
    for other in others:
        if other.lower() == name.lower():
            raise StoreRefused(f"name {name!r} is too near to {other!r}; give it another name")


def conflict(measurement: str, field: str, kind: str, known: str) -> StoreRefused:
    """The error for a field that comes as another type than it was."""
    return StoreRefused(
        f"field {field!r} of {measurement} is {_KINDS[kind]}, but was {_KINDS.get(known, known)}"
    )
