"""Samples as Parquet: one file per domain and day, a row per message.

DuckDB writes the files: it is there already as the embedded store, and a day of a domain waits in
one of its tables, compressed and spilt to disk when it is large. So memory depends on neither the
length of a run nor the length of a day.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Self

import duckdb
import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import Device
from city.errors import StoreError
from city.quantities import Domain
from city.readings import Flag
from sensors.engine import Frame, Group

_MEMORY_LIMIT: Final = "256MB"
_CODES: Final = np.array([flag.name for flag in Flag], dtype=object)
_BATCH: Final = "batch"
_TAGS: Final = ("city", "district", "site", "device")


class ParquetDays:
    """Writes the samples of some groups into a folder, day by day. Closed once."""

    def __init__(self, folder: Path, groups: Sequence[Group]) -> None:
        """Make the folder where it is missing.

        Raises:
            StoreError: The folder cannot be made or written.
        """
        self.files: list[Path] = []
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection: Any = duckdb.connect(config={
                "memory_limit": _MEMORY_LIMIT,
                "temp_directory": str(folder / ".unfinished"),
                "autoinstall_known_extensions": False,
            })  # fmt: skip
        except OSError as error:
            raise StoreError(f"{folder}: cannot be made: {error.strerror}") from error
        self._tables = _tables(groups)
        for table in self._tables.values():
            table.create(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def add(self, frames: Iterable[Frame]) -> None:
        """Keep the samples of one slice of time; slices come in order, each within one day."""
        slices: dict[Domain, list[Frame]] = {}
        for frame in frames:
            slices.setdefault(frame.group.kind.domain, []).append(frame)
        for domain, part in slices.items():
            self._tables[domain].insert(self._connection, part)

    def end_day(self, day: str) -> None:
        """Write what was added since the last day as the files of `day`.

        Raises:
            StoreError: A file cannot be written.
        """
        for domain, table in self._tables.items():
            path = self._folder / file_name(domain, day)
            try:
                if table.flush(self._connection, path):
                    self.files.append(path)
            except duckdb.Error as error:
                raise StoreError(f"{path}: cannot be written: {error}") from error


def file_name(domain: Domain, day: str) -> str:
    """What the file of that domain and day is called."""
    return f"{domain.value}-{day}.parquet"


class _Table:
    """The samples of one domain that wait for the end of their day."""

    def __init__(self, domain: Domain, groups: Sequence[Group]) -> None:
        self._name = domain.value
        self._devices: list[Device] = []
        self._first: dict[int, int] = {}
        for group in groups:
            self._first[id(group)] = len(self._devices)
            self._devices += group.devices
        self._quantities = tuple(dict.fromkeys(q for group in groups for q in group.quantities))

    def create(self, connection: Any) -> None:
        """Make the table of samples and that of the places they come from."""
        columns = "".join(f", {quantity} DOUBLE" for quantity in self._quantities)
        connection.execute(
            f"CREATE TABLE {self._name} (ts BIGINT, place INTEGER{columns}, flags VARCHAR)"
        )
        addresses = [device.address for device in self._devices]
        places = {
            key: np.array([getattr(address, key) for address in addresses], dtype=object)
            for key in _TAGS
        } | {"place": np.arange(len(addresses), dtype=np.int32)}
        connection.register(_BATCH, places)
        connection.execute(f"CREATE TABLE {self._name}_place AS FROM {_BATCH}")
        connection.unregister(_BATCH)

    def insert(self, connection: Any, frames: Sequence[Frame]) -> None:
        """Add the samples of `frames` in the order of their instants."""
        ts = np.concatenate([frame.ts for frame in frames])
        order = np.argsort(ts, kind="stable")
        place = np.concatenate([frame.rows + self._first[id(frame.group)] for frame in frames])
        batch: dict[str, NDArray[Any]] = {"ts": ts[order], "place": place[order].astype(np.int32)}
        for quantity in self._quantities:
            batch[quantity] = np.concatenate([_column(frame, quantity) for frame in frames])[order]
        flags = ""
        if any(frame.flags.any() for frame in frames):
            batch["flags"] = np.concatenate([flag_texts(frame) for frame in frames])[order]
            flags = ", flags"
        names = ", ".join(("ts", "place", *self._quantities)) + flags
        connection.register(_BATCH, batch)
        try:
            connection.execute(f"INSERT INTO {self._name} ({names}) SELECT {names} FROM {_BATCH}")
        finally:
            connection.unregister(_BATCH)

    def flush(self, connection: Any, path: Path) -> bool:
        """Write the samples to `path` and forget them; whether there were any."""
        [(count,)] = connection.execute(f"SELECT count(*) FROM {self._name}").fetchall()
        if not count:
            return False
        tags = ", ".join(f"(SELECT list({tag} ORDER BY place) FROM {self._name}_place)[place + 1] AS {tag}"
                         for tag in _TAGS)  # fmt: skip
        target = str(path).replace("'", "''")
        connection.execute(
            f"COPY (SELECT make_timestamp_ms(ts)::TIMESTAMP_MS AS ts, {tags}, "
            f"{', '.join(self._quantities)}, flags FROM {self._name}) "
            f"TO '{target}' (FORMAT parquet, COMPRESSION zstd)"
        )
        connection.execute(f"TRUNCATE {self._name}")
        return True


def flag_texts(frame: Frame) -> NDArray[np.object_]:
    """Each sample's flags as the JSON of the wire, None where all values are normal; shape (m,)."""
    texts = np.full(len(frame.rows), None, dtype=object)
    names = frame.group.quantities
    for row in np.flatnonzero(frame.flags.any(axis=1)).tolist():
        flags = {
            name: _CODES[flag]
            for name, flag in zip(names, frame.flags[row].tolist(), strict=True)
            if flag
        }
        texts[row] = msgspec.json.encode(flags).decode()
    return texts


def _column(frame: Frame, quantity: str) -> NDArray[np.float64]:
    names = frame.group.quantities
    if quantity in names:
        column: NDArray[np.float64] = frame.values[:, names.index(quantity)]
        return column
    return np.full(len(frame.rows), np.nan)


def _tables(groups: Sequence[Group]) -> dict[Domain, _Table]:
    members: dict[Domain, list[Group]] = {}
    for group in groups:
        members.setdefault(group.kind.domain, []).append(group)
    return {domain: _Table(domain, part) for domain, part in members.items()}
