"""Readings of the past, stored or simulated, in the order in which they arrive.

Stored readings have lost when they arrived: they come in the order of their instants. What really
happened is read from the truth log beside them, if there is one.
"""

import gzip
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import duckdb
import msgspec
import numpy as np
from numpy.typing import NDArray

from alerts.scoring import Alarm, TrueValues
from broker.messages import Birth, TruthRecord
from city.cityfile import Address, City
from city.errors import DocumentError, InputError, StoreError
from city.quantities import QUANTITIES, Domain
from city.readings import FLAG_OF_LETTER, SeriesTable
from cli.outputs import TRUTH, TRUTH_OF_READINGS
from sensors.device import birth_of
from sensors.engine import CityEngine, Frame
from sensors.truth import Comparison

T = TypeVar("T")

MESSAGES_PER_SLICE: Final = 100_000
"""So many messages are in memory at once, about."""

_SLICE_MIN_MS: Final = 10_000
_SLICE_MAX_MS: Final = 3_600_000
_LATE_MS: Final = 3_600_000
"""Lines of a file may be out of order by as much: each hour is written device kind by kind."""
_STORE_FILE: Final = "store.duckdb"
_PARQUET: Final = ".parquet"
_LINES: Final = (".lp.gz", ".lp")
_DOMAINS: Final = frozenset(domain.value for domain in Domain)
_TAGS: Final = ("city", "district", "site", "device")
_LETTERS: Final = [flag.name for flag in sorted(FLAG_OF_LETTER.values()) if flag]
_MEMORY_LIMIT: Final = "512MB"


class Arrivals(msgspec.Struct, frozen=True, eq=False):
    """Readings in the order of arrival; `at` is when [ms], all arrays have one length."""

    at: NDArray[np.int64]
    series: NDArray[np.int32]
    ts: NDArray[np.int64]
    value: NDArray[np.float64]
    flag: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.at)

    def part(self, rows: "slice | NDArray[Any]") -> "Arrivals":
        """Some of the rows."""
        return Arrivals(
            self.at[rows], self.series[rows], self.ts[rows], self.value[rows], self.flag[rows]
        )


class History(Protocol):
    """Readings of the past, in slices of time, and what is known about them.

    `city` is None where no city file is known; `records` and what `true_values` returns are None
    where there is no truth log.
    """

    table: SeriesTable
    city: City | None
    records: list[TruthRecord] | None

    @property
    def span_ms(self) -> tuple[int, int | None]:
        """From when to before when [ms]; None where only reading it tells."""

    def births(self) -> Iterable[tuple[Address, Birth]]:
        """What every device is."""

    def addresses(self) -> set[Address]:
        """The devices known so far."""

    def slices(self) -> Iterator[tuple[int, Arrivals]]:
        """Slices of time: the end of each [ms], and what arrived in it."""

    def true_values(self, alarms: Iterable[Alarm]) -> TrueValues | None:
        """What was true of the readings that raised the alarms, where an event affects them."""


class Simulated:
    """A city's history, made as it is read."""

    def __init__(self, city: City, *, seed: int, start_ms: int, stop_ms: int) -> None:
        self.table = SeriesTable()
        self.city: City | None = city
        self.span_ms = (start_ms, stop_ms)
        self._engine = CityEngine(city, seed=seed, start_ms=start_ms)
        self.records: list[TruthRecord] | None = self._engine.truths(start_ms, stop_ms)
        self._series = {
            id(group): _indices(self.table, [d.address for d in group.devices], group.quantities)
            for group in self._engine.groups
        }
        self._true: list[Arrivals] = []

    def births(self) -> Iterator[tuple[Address, Birth]]:
        """As the fleet announces them."""
        positions = self._engine.device_positions()
        for group in self._engine.groups:
            for device in group.devices:
                yield device.address, birth_of(device, positions[device.name])

    def addresses(self) -> set[Address]:
        """All devices of the city."""
        return {device.address for group in self._engine.groups for device in group.devices}

    def slices(self) -> Iterator[tuple[int, Arrivals]]:
        """What is sent after the end of the history never arrives."""
        start_ms, stop_ms = self.span_ms
        per_ms = sum(len(group.devices) / group.interval_ms for group in self._engine.groups)
        step_ms = _slice_ms(per_ms)
        late = _joined([])
        for from_ms in range(start_ms, stop_ms, step_ms):
            until_ms = min(from_ms + step_ms, stop_ms)
            frames = self._engine.frames(from_ms, until_ms, with_truth=True)
            arrived = _joined([late, *(self._read(frame) for frame in frames)])
            now = int(np.searchsorted(arrived.at, until_ms))
            late = arrived.part(slice(now, None))
            yield until_ms, arrived.part(slice(now))

    def true_values(self, alarms: Iterable[Alarm]) -> TrueValues | None:
        """From the engine itself."""
        wanted = {(alarm.device, alarm.quantity, alarm.raised) for alarm in alarms}
        found: dict[tuple[str, str, int], float] = {}
        instants = np.array(sorted({ts for _, _, ts in wanted}), dtype=np.int64)
        for part in self._true:
            rows = part.part(np.isin(part.ts, instants))
            columns = (rows.series.tolist(), rows.ts.tolist(), rows.value.tolist())
            for index, ts, value in zip(*columns, strict=True):
                series = self.table[index]
                name = f"{series.address.site}/{series.address.device}"
                found[name, series.quantity, ts] = value
        return found

    def _read(self, frame: Frame) -> Arrivals:
        series = self._series[id(frame.group)][frame.rows]
        at = frame.ts if frame.sent_ms is None else frame.sent_ms
        if frame.truth is not None and not np.isnan(frame.truth).all():
            self._true.append(_flat(at, frame.ts, series, frame.truth, frame.flags))
        return _flat(at, frame.ts, series, frame.values, frame.flags)


class Stored:
    """What is common to all histories that were written down, with the truth logs beside them."""

    def __init__(self, folder: Path) -> None:
        self.table = SeriesTable()
        self.city: City | None = None
        self.records: list[TruthRecord] | None = None
        self._truth_of_readings = folder / TRUTH_OF_READINGS
        log = folder / TRUTH
        if log.exists():
            records = {record.id: record for record in _lines_of(log, TruthRecord)}
            self.records = list(records.values())

    def addresses(self) -> set[Address]:
        """The devices known so far."""
        return {self.table[index].address for index in range(len(self.table))}

    def births(self) -> Iterator[tuple[Address, Birth]]:
        """As the city file has them; gas devices stand at their site."""
        for device in self.city.devices() if self.city else ():
            yield device.address, birth_of(device, device.position)

    def true_values(self, alarms: Iterable[Alarm]) -> TrueValues | None:
        """From the file that `generate --truth` writes."""
        if not self._truth_of_readings.exists():
            return None
        wanted = {(alarm.device, alarm.quantity, alarm.raised) for alarm in alarms}
        found: dict[tuple[str, str, int], float] = {}
        for line in _lines_of(self._truth_of_readings, Comparison):
            values = {(line.device, name, line.ts): true for name, true in line.true.items()}
            found |= {key: true for key, true in values.items() if key in wanted}
        return found


class Tabled(Stored):
    """Readings in tables that DuckDB reads: Parquet files, or a store of its own."""

    def __init__(self, folder: Path, connection: Any, sources: Mapping[str, str]) -> None:
        """`sources` are relations of the connection, by domain."""
        super().__init__(folder)
        self._connection = connection
        self._queries = [
            (self._query(domain, source), series)
            for domain, source in sources.items()
            for series in (self._places(domain, source),)
        ]
        union = " UNION ALL ".join(f"SELECT ts FROM {source}" for source in sources.values())
        query = f"SELECT count(*), min(epoch_ms(ts)), max(epoch_ms(ts)) FROM ({union})"
        [(self._count, first_ms, last_ms)] = connection.execute(query).fetchall()
        if not self._count:
            raise InputError(f"{folder}: no readings in it")
        self.span_ms = (int(first_ms), int(last_ms) + 1)

    def slices(self) -> Iterator[tuple[int, Arrivals]]:
        """In the order of their instants."""
        start_ms, stop_ms = self.span_ms
        step_ms = _slice_ms(self._count / (stop_ms - start_ms))
        for from_ms in range(start_ms, stop_ms, step_ms):
            until_ms = min(from_ms + step_ms, stop_ms)
            parts = [
                _unpacked(self._connection.execute(query, [from_ms, until_ms]).fetchnumpy(), series)
                for query, series in self._queries
            ]
            yield until_ms, _joined(parts)

    def _columns(self, domain: str, source: str) -> tuple[list[str], list[str]]:
        """The quantities of a source, and all of its columns."""
        described = self._connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
        names = [row[0] for row in described]
        missing = [tag for tag in ("ts", *_TAGS) if tag not in names]
        if missing:
            raise InputError(f"{source}: has no column {missing[0]!r}; not readings of CityEye's")
        found = [n for n in names if n in QUANTITIES and QUANTITIES[n].domain == domain]
        return found, names

    def _query(self, domain: str, source: str) -> str:
        quantities, names = self._columns(domain, source)
        letters = "[" + ", ".join(f"'{letter}'" for letter in _LETTERS) + "]"
        columns = []
        for number, name in enumerate(quantities):
            flag = f'regexp_extract(flags, \'"{name}":"(.)"\', 1)' if "flags" in names else "''"
            if f"{name}_flag" in names:
                flag = f'"{name}_flag"'
            coded = f"coalesce(list_position({letters}, {flag}), 0)::UTINYINT"
            columns.append(f'"{name}"::DOUBLE AS v{number}, {coded} AS f{number}')
        instant = "make_timestamp_ms(?)::TIMESTAMP_MS"
        return (
            f"SELECT epoch_ms(ts) AS ts, place, {', '.join(columns)} FROM {source} "
            f"JOIN {domain}_place USING ({', '.join(_TAGS)}) "
            f"WHERE ts >= {instant} AND ts < {instant} ORDER BY ts, place"
        )

    def _places(self, domain: str, source: str) -> NDArray[np.int32]:
        """The series of every place of a source, (places, quantities); makes the table of places."""
        tags = ", ".join(_TAGS)
        self._connection.execute(
            f"CREATE TEMP TABLE {domain}_place AS SELECT row_number() OVER () - 1 AS place, {tags} "
            f"FROM (SELECT DISTINCT {tags} FROM {source} ORDER BY ALL)"
        )
        rows = self._connection.execute(f"SELECT {tags} FROM {domain}_place ORDER BY place")
        places = [
            Address(city, district, domain, site, device)
            for city, district, site, device in rows.fetchall()
        ]
        return _indices(self.table, places, self._columns(domain, source)[0])


class Lined(Stored):
    """Readings as line protocol, in files of which each is later than the one before."""

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        super().__init__(folder)
        self._files = files
        self._heads: dict[str, Address | None] = {}
        firsts = ((path, next(_text_lines(path), None)) for path in files)
        instants = [self._parsed(path, 1, line)[0] for path, line in firsts if line]
        if not instants:
            raise InputError(f"{folder}: no readings in it")
        self.span_ms: tuple[int, int | None] = (min(instants), None)

    def addresses(self) -> set[Address]:
        """The devices known so far: before the readings, the first of every file."""
        return {address for address in self._heads.values() if address is not None}

    def slices(self) -> Iterator[tuple[int, Arrivals]]:
        """Sorted by instant, as far as a reading is not late by more than an hour."""
        rows = _Rows()
        newest_ms = self.span_ms[0]
        told_ms = newest_ms
        for path in self._files:
            for number, line in enumerate(_text_lines(path), start=1):
                ts, address, fields = self._parsed(path, number, line)
                if address is None:
                    continue
                newest_ms = max(newest_ms, ts)
                self._add(rows, path, number, address, fields, ts)
                if newest_ms - told_ms >= 2 * _LATE_MS:
                    told_ms = newest_ms - _LATE_MS
                    yield told_ms, rows.take(told_ms)
        yield newest_ms + 1, rows.take(newest_ms + 1)

    def _parsed(self, path: Path, number: int, line: str) -> tuple[int, Address | None, str]:
        """Instant, device and fields of a line; no device where it is none of telemetry."""
        try:
            head, fields, instant = line.split(" ")
            ts = int(instant)
            if head not in self._heads:
                measurement, *tags = head.split(",")
                named = dict(tag.split("=") for tag in tags)
                ours = measurement in _DOMAINS
                self._heads[head] = Address(domain=measurement, **named) if ours else None
        except (ValueError, TypeError) as error:
            problem = f"not a line of readings as `cityeye generate` writes it: {line[:120]!r}"
            raise DocumentError(f"{path}, line {number}: {problem}") from error
        return ts, self._heads[head], fields

    def _add(
        self, rows: "_Rows", path: Path, number: int, address: Address, fields: str, ts: int
    ) -> None:
        pairs = dict(field.split("=", 1) for field in fields.split(",") if "=" in field)
        for name, text in pairs.items():
            if name not in QUANTITIES:
                continue
            letter = pairs.get(f"{name}_flag", "").strip('"')
            try:
                flag = FLAG_OF_LETTER[letter] if letter else 0
                rows.add(self.table.index(address, name), ts, float(text), flag)
            except (ValueError, KeyError) as error:
                problem = f"{name} is {text[:40]!r}, flag {letter[:8]!r}; not a reading"
                raise DocumentError(f"{path}, line {number}: {problem}") from error


class _Rows:
    """Readings of line protocol that wait for others of an earlier instant."""

    def __init__(self) -> None:
        self._series, self._ts = array("i"), array("q")
        self._value, self._flag = array("d"), array("B")

    def add(self, series: int, ts: int, value: float, flag: int) -> None:
        """Append one reading."""
        self._series.append(series)
        self._ts.append(ts)
        self._value.append(value)
        self._flag.append(flag)

    def take(self, until_ms: int) -> Arrivals:
        """Remove and return those before `until_ms`, in the order of their instants."""
        ts = np.array(self._ts, dtype=np.int64)
        found = _joined([Arrivals(
            ts, np.array(self._series, dtype=np.int32), ts,
            np.array(self._value, dtype=np.float64), np.array(self._flag, dtype=np.uint8),
        )])  # fmt: skip
        stop = int(np.searchsorted(found.at, until_ms))
        kept = found.part(slice(stop, None))
        self._series = array("i", kept.series.tobytes())
        self._ts = array("q", kept.ts.tobytes())
        self._value = array("d", kept.value.tobytes())
        self._flag = array("B", kept.flag.tobytes())
        return found.part(slice(stop))


def stored(path: Path) -> Tabled | Lined:
    """The readings in a file, or in a directory of `generate` or of a run.

    Raises:
        InputError: There are none that can be read.
        StoreError: The store cannot be opened.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    tables = [file for file in files if file.suffix == _PARQUET]
    lines = [file for file in files if file.name.endswith(_LINES)]
    stores = [file for file in files if file.name == _STORE_FILE or file.suffix == ".duckdb"]
    folder = path if path.is_dir() else path.parent
    with _explained(path):
        if tables:
            return Tabled(folder, _database(), _parquet(tables))
        if lines:
            return Lined(folder, lines)
        if stores:
            return _of_store(folder, stores[0])
    allowed = f"*{_PARQUET}, *{_LINES[0]} or {_STORE_FILE}"
    raise InputError(f"{path}: holds no readings; expected {allowed}")


def _database() -> Any:
    return duckdb.connect(
        config={"memory_limit": _MEMORY_LIMIT, "autoinstall_known_extensions": False}
    )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """DuckDB's errors as ours."""
    try:
        yield
    except duckdb.Error as error:
        why = str(error).splitlines()[0]
        raise StoreError(
            f"{path}: cannot be read: {why}; if a cityeye runs there, wait for its end"
        ) from error


def _parquet(files: Sequence[Path]) -> dict[str, str]:
    """Relations by domain, which is the first word of a file's name."""
    found: dict[str, list[str]] = {}
    for file in files:
        domain = file.name.partition("-")[0]
        if domain not in _DOMAINS:
            names = ", ".join(sorted(_DOMAINS))
            raise InputError(f"{file}: its name must begin with a domain: {names}")
        found.setdefault(domain, []).append("'" + str(file).replace("'", "''") + "'")
    return {
        domain: f"read_parquet([{', '.join(names)}], union_by_name = true)"
        for domain, names in found.items()
    }


def _of_store(folder: Path, file: Path) -> Tabled:
    database = _database()
    name = str(file).replace("'", "''")
    database.execute(f"ATTACH '{name}' AS stored (READ_ONLY)")
    query = "SELECT table_name FROM duckdb_tables() WHERE database_name = 'stored'"
    names = {row[0] for row in database.execute(query).fetchall()}
    domains = sorted(names & _DOMAINS)
    if not domains:
        raise InputError(f"{file}: holds no readings")
    return Tabled(folder, database, {domain: f'stored."{domain}"' for domain in domains})


def _slice_ms(messages_per_ms: float) -> int:
    """How long a slice is, for about `MESSAGES_PER_SLICE` messages."""
    step_ms = MESSAGES_PER_SLICE / max(messages_per_ms, 1e-9)
    return round(min(max(step_ms, _SLICE_MIN_MS), _SLICE_MAX_MS))


def _indices(
    table: SeriesTable, places: Iterable[Address], quantities: Sequence[str]
) -> NDArray[np.int32]:
    """The series of places and quantities, shape (places, quantities)."""
    rows = [[table.index(place, quantity) for quantity in quantities] for place in places]
    return np.array(rows, dtype=np.int32).reshape(len(rows), len(quantities))


def _flat(
    at: NDArray[np.int64],
    ts: NDArray[np.int64],
    series: NDArray[np.int32],
    values: NDArray[np.float64],
    flags: NDArray[np.uint8],
) -> Arrivals:
    """Messages, (m,) and (m, q), as their readings; those that are not a number are none."""
    width = values.shape[1]
    given = ~np.isnan(values).ravel()
    whole = Arrivals(
        np.repeat(at, width), series.ravel(), np.repeat(ts, width), values.ravel(), flags.ravel()
    )
    return whole if given.all() else whole.part(given)


def _unpacked(columns: Mapping[str, Any], series: NDArray[np.int32]) -> Arrivals:
    """The rows of a query as readings."""
    ts = np.ma.filled(columns["ts"]).astype(np.int64)
    width = series.shape[1]
    values = np.empty((len(ts), width))
    flags = np.empty((len(ts), width), dtype=np.uint8)
    for number in range(width):
        values[:, number] = np.ma.filled(columns[f"v{number}"], np.nan)
        flags[:, number] = np.ma.filled(columns[f"f{number}"], 0)
    return _flat(ts, ts, series[np.ma.filled(columns["place"])], values, flags)


def _joined(parts: Iterable[Arrivals]) -> Arrivals:
    """All of the parts, in the order of arrival; what arrives together keeps its order."""
    parts = list(parts)
    if not parts:
        none = np.empty(0, dtype=np.int64)
        return Arrivals(none, none.astype(np.int32), none, np.empty(0), none.astype(np.uint8))
    whole = Arrivals(
        np.concatenate([part.at for part in parts]),
        np.concatenate([part.series for part in parts]),
        np.concatenate([part.ts for part in parts]),
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.flag for part in parts]),
    )
    return whole.part(np.argsort(whole.at, kind="stable"))


def _text_lines(path: Path) -> Iterator[str]:
    """The lines of a file, compressed or not, without their ends; empty ones are left out."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    yield line.rstrip("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _lines_of(path: Path, kind: type[T]) -> Iterator[T]:
    """A file of JSON lines."""
    decoder = msgspec.json.Decoder(kind)
    for number, line in enumerate(_text_lines(path), start=1):
        try:
            yield decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise DocumentError(f"{path}, line {number}: {error}") from error
