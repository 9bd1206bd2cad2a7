"""Downsampling: from readings to one row per device and minute, and one per hour.

A row is made when a later reading of its device closes the interval, or when the city's newest
instant lies more than one interval past it; should the device then still add to that interval, its
row is made again and overwrites itself. A reading of an interval that its device has left is late:
it is not in the minute's row, nor in the hour's unless that is still open.

Rows are spooled with the very readings that close them. The open intervals are saved now and then,
with the number of the group up to which they are complete; the spool holds the later groups, and
after a crash they are handed in again. So every row tells of every reading once, whatever happens.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from broker.messages import Announcement, Birth
from city.cityfile import Address
from city.readings import ReadingBatch, SeriesTable
from ingest.openintervals import NEVER, OpenIntervals, Roster
from ingest.rollups import (
    COUNTS,
    HOUR_MS,
    MINUTE_MS,
    NAMES,
    SUFFIXES,
    Segments,
    merged,
    of_values,
    points_of,
)
from ingest.store import Point, PointKey, device_key

_log = structlog.get_logger(__name__)

_FORMAT: Final = "cityeye-intervals-1"
_LATE_SAID_MS: Final = HOUR_MS
_FORGOTTEN_MS: Final = 2 * 24 * HOUR_MS
"""A device that was silent for so long, in the city's time, is not remembered at the next start."""


class _Header(msgspec.Struct, frozen=True):
    """What the file begins with, after its length in four bytes; then the arrays follow."""

    format: str
    number: int
    newest_ms: int
    swept_ms: dict[int, int]
    late: int
    devices: list[Address]
    quantities: list[str]
    device: bytes


class Downsampling:
    """Makes the rows; a consumer of every reading.

    Args:
        table: The series table of the readings.
        path: The file that keeps the open intervals through a restart.
        every_s: How often it is written, on the wall clock.
    """

    def __init__(self, table: SeriesTable, path: Path, *, every_s: float = 15.0) -> None:
        self.late = 0
        """Counting readings that are in no minute's row, because it was closed."""
        self.rows_made = 0
        self._table = table
        self._path = path
        self._every_s = every_s
        self._roster = Roster()
        self._minutes = OpenIntervals(MINUTE_MS, self._roster)
        self._hours = OpenIntervals(HOUR_MS, self._roster)
        self._keys: dict[int, list[PointKey]] = {length_ms: [] for length_ms in SUFFIXES}
        self._tags: dict[tuple[str, str], tuple[str, str]] = {}
        """Each tag once, for most devices share most of theirs."""
        self._rows: list[Point] = []
        self._newest_ms = NEVER
        self._swept_ms = {MINUTE_MS: NEVER, HOUR_MS: NEVER}
        self._late_said_ms = NEVER
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="downsampling")
        self._saving: Future[int] | None = None
        self._saved_s = time.monotonic()
        self._committed = 0
        self._between_groups = True
        self._covered = 0
        self._warned = False

    def begin(self, newest: int, *, begins_ms: int | None = None) -> None:
        """Go on as the file says, or begin after group `newest` of the spool.

        Where it is known when the city's time begins, intervals of a later time are forgotten: they
        belong to another run.
        """
        if not self._restore(begins_ms):
            self._committed = self._covered = newest
            self._save(self._snapshot())

    # What a consumer has.

    @property
    def covered(self) -> int:
        """Up to which group the file has everything."""
        return self._covered

    def learn(self, address: Address, birth: Birth) -> None:
        """Births change nothing here."""

    def consume(self, batch: ReadingBatch) -> Sequence[Announcement]:
        """Add the readings to their intervals; `take_rows` has what they closed."""
        self._between_groups = False
        self._meet(batch.table)
        device = self._roster.device[batch.series]
        minute = batch.ts // MINUTE_MS * MINUTE_MS
        devices, starts, reached = self._advance(device, minute)
        counts = COUNTS[batch.flag]
        timely = counts & (minute == reached)
        moved = (starts > self._minutes.start[devices]).any()
        closed = self._minutes.feed(merged(_segments(batch, minute, timely)), devices, starts)
        self._hours.fresh[devices] = True
        late = counts & (minute < reached)
        if moved or late.any():
            missed = _segments(batch, minute, late & (minute >= reached // HOUR_MS * HOUR_MS))
            hour = starts // HOUR_MS * HOUR_MS
            parts = merged(closed.within(HOUR_MS), missed.within(HOUR_MS))
            hours = self._hours.feed(parts, devices, hour)
            self._count_late(int(np.count_nonzero(late)))
            self._tell(closed, MINUTE_MS)
            self._tell(hours, HOUR_MS)
        self._sweep(int(batch.ts.max()))
        return ()

    def committed(self, number: int, *, replaying: bool) -> None:
        """Save the open intervals when it is time."""
        self._committed = number
        self._between_groups = True
        if replaying:
            self._rows.clear()  # they were spooled with the group
        self._note_saved()
        if time.monotonic() - self._saved_s >= self._every_s:
            self.cover()

    def cover(self) -> None:
        """Save the open intervals, unless that is under way or they are ahead of the spool."""
        self._note_saved()
        if self._saving is None and self._between_groups:
            self._saved_s = time.monotonic()
            self._saving = self._thread.submit(self._save, self._snapshot())

    # What ingest has besides.

    def take_rows(self) -> list[Point]:
        """The rows that were made since the last call."""
        rows, self._rows = self._rows, []
        return rows

    def figures(self) -> dict[str, float | int]:
        """How it is going."""
        return {"rows": self.rows_made, "late": self.late}

    def wait_saved(self) -> None:
        """Return when nothing is being saved."""
        if self._saving is not None:
            wait([self._saving])
        self._note_saved()

    def close(self) -> None:
        """Save once more and stop."""
        self.wait_saved()
        self.cover()
        self.wait_saved()
        self._thread.shutdown()

    # Adding up.

    def _meet(self, table: SeriesTable) -> None:
        if len(table) == self._roster.known:
            return
        self._roster.learn(table)
        self._minutes.make_room()
        self._hours.make_room()
        for address in self._roster.addresses[len(self._keys[MINUTE_MS]) :]:
            of_readings = device_key(address)
            tags = tuple(self._tags.setdefault(tag, tag) for tag in of_readings.tags)
            for length_ms, suffix in SUFFIXES.items():
                key = PointKey(of_readings.measurement + suffix, tags)
                self._keys[length_ms].append(key)

    def _advance(
        self, device: NDArray[np.int32], minute: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        """The devices of a batch, the newest minute of each, and for each reading that so far.

        A reading is late when its device has reached a later minute before, also in this batch.
        """
        present = self._minutes.start[device]
        if (minute == present).all():
            devices = np.unique(device)
            return devices, self._minutes.start[devices], present
        order = np.argsort(device, kind="stable")
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = np.diff(device[order]) != 0
        # a running maximum that begins anew with each device: later devices lie higher
        reached = np.maximum(minute, present)
        lowest = int(reached.min())
        lift = (np.cumsum(first) - 1) * (int(reached.max()) - lowest + 1) - lowest
        reached[order] = np.maximum.accumulate(reached[order] + lift) - lift
        last = order[np.append(np.flatnonzero(first)[1:] - 1, len(order) - 1)]
        return device[last], reached[last], reached

    def _count_late(self, count: int) -> None:
        self.late += count
        if count and self._newest_ms >= self._late_said_ms + _LATE_SAID_MS:
            self._late_said_ms = self._newest_ms
            _log.warning(
                "readings came too late for the row of their minute; they are stored all the same",
                so_far=self.late,
            )

    def _sweep(self, newest_ms: int) -> None:
        """Tell of the intervals of devices that say no more, as the city's time goes on."""
        self._newest_ms = max(self._newest_ms, newest_ms)
        for intervals in (self._minutes, self._hours):
            length_ms = intervals.interval_ms
            if self._newest_ms < self._swept_ms[length_ms] + length_ms:
                continue
            self._swept_ms[length_ms] = self._newest_ms
            devices = intervals.due(self._newest_ms)
            found = intervals.of(devices)
            if intervals is self._hours:
                found = merged(found, self._minutes.of(devices).within(HOUR_MS))
            self._tell(found, length_ms)

    def _tell(self, segments: Segments, interval_ms: int) -> None:
        if len(segments):
            rows = points_of(
                segments,
                self._roster.device[segments.series],
                self._keys[interval_ms].__getitem__,
                lambda series: NAMES[self._roster.quantities[series]],
            )
            before = len(self._rows)
            self._rows += rows
            self.rows_made += len(self._rows) - before

    # Through a restart.

    def _snapshot(self) -> tuple[_Header, list[NDArray[Any]]]:
        """Everything as it is after the last committed group; later changes do not reach it."""
        series, devices = self._roster.known, len(self._roster.addresses)
        header = _Header(
            format=_FORMAT,
            number=self._committed,
            newest_ms=self._newest_ms,
            swept_ms=dict(self._swept_ms),
            late=self.late,
            devices=self._roster.addresses[:devices],
            quantities=self._roster.quantities[:series],
            device=self._roster.device[:series].tobytes(),
        )
        arrays: list[NDArray[Any]] = []
        for intervals in (self._minutes, self._hours):
            arrays += intervals.arrays(OpenIntervals.DEVICE_ARRAYS, devices)
            arrays += intervals.arrays(OpenIntervals.SERIES_ARRAYS, series)
        return header, arrays

    def _save(self, snapshot: tuple[_Header, list[NDArray[Any]]]) -> int:
        """Write the file, complete or not at all; the group up to which it has everything."""
        header, arrays = snapshot
        unfinished = self._path.with_suffix(".new")
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        encoded = msgspec.msgpack.encode(header)
        with unfinished.open("wb") as file:
            file.write(len(encoded).to_bytes(4, "little") + encoded)
            for array in arrays:
                file.write(array.data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._path)
        return header.number

    def _note_saved(self) -> None:
        if self._saving is None or not self._saving.done():
            return
        saving, self._saving = self._saving, None
        try:
            self._covered = saving.result()
            self._warned = False
        except OSError as error:
            say = _log.debug if self._warned else _log.warning
            self._warned = True
            say(
                "the open intervals cannot be saved; the spool holds their readings meanwhile",
                file=str(self._path),
                why=error.strerror,
            )

    def _restore(self, begins_ms: int | None) -> bool:
        """Take over what the file has; False if there is none, or none that we may go on from."""
        try:
            with self._path.open("rb") as file:
                header, arrays = _read(file)
        except FileNotFoundError:
            return False
        except (OSError, ValueError, msgspec.DecodeError) as error:
            _log.warning(
                "the open intervals of the last run cannot be read; rows begin anew",
                file=str(self._path),
                why=str(error),
            )
            return False
        if begins_ms is not None and header.newest_ms >= begins_ms:
            return False
        self._take_over(header, arrays)
        return True

    def _take_over(self, header: _Header, arrays: list[NDArray[Any]]) -> None:
        self._committed = self._covered = header.number
        self._newest_ms, self.late = header.newest_ms, header.late
        self._swept_ms |= header.swept_ms
        old_device = np.frombuffer(header.device, np.int32)
        heard = arrays[0] >= header.newest_ms - _FORGOTTEN_MS
        old_series = np.flatnonzero(heard[old_device])
        series = [
            self._table.index(header.devices[old_device[old]], header.quantities[old])
            for old in old_series
        ]
        self._meet(self._table)
        devices = self._roster.device[series]
        half = len(arrays) // 2
        for intervals, found in ((self._minutes, arrays[:half]), (self._hours, arrays[half:])):
            for name, array in zip(OpenIntervals.DEVICE_ARRAYS, found[:2], strict=True):
                getattr(intervals, name)[devices] = array[old_device[old_series]]
            for name, array in zip(OpenIntervals.SERIES_ARRAYS, found[2:], strict=True):
                getattr(intervals, name)[series] = array[old_series]


def _segments(batch: ReadingBatch, minute: NDArray[np.int64], rows: NDArray[np.bool_]) -> Segments:
    """Each of these readings as a segment."""
    if rows.all():
        return of_values(batch.series, minute, batch.value)
    return of_values(batch.series[rows], minute[rows], batch.value[rows])


def _read(file: BinaryIO) -> tuple[_Header, list[NDArray[Any]]]:
    """What `Downsampling` has saved.

    Raises:
        ValueError: It is something else, or not complete.
    """
    length = int.from_bytes(file.read(4), "little")
    header = msgspec.msgpack.decode(file.read(length), type=_Header)
    if header.format != _FORMAT:
        raise ValueError(f"its format is {header.format[:40]!r}, not {_FORMAT}")
    shape = OpenIntervals(MINUTE_MS, Roster())
    arrays = []
    for _ in SUFFIXES:
        for names, size in (
            (OpenIntervals.DEVICE_ARRAYS, len(header.devices)),
            (OpenIntervals.SERIES_ARRAYS, len(header.quantities)),
        ):
            for name in names:
                kind = getattr(shape, name).dtype
                content = file.read(size * kind.itemsize)
                if len(content) != size * kind.itemsize:
                    raise ValueError("it is not complete")
                arrays.append(np.frombuffer(content, kind))
    return header, arrays
