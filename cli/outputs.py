"""Where generated samples can go besides Parquet: line protocol, or a store."""

import asyncio
import gzip
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, Self

import numpy as np
import uvloop

from city.errors import SettingError, StoreError, StoreTooLarge
from city.readings import Flag
from ingest.lineprotocol import encode
from ingest.store import Point, Store, device_key
from sensors.engine import Frame, Group

POINTS_PER_WRITE: Final = 5_000
"""What every kind of store takes at once."""

_COMPRESSION: Final = 1
"""The fastest: line protocol shrinks ten times even so."""

_LETTERS: Final = {flag.value: flag.name for flag in Flag if flag is not Flag.N}


TRUTH: Final = "truth.jsonl"
TRUTH_OF_READINGS: Final = "truth-readings.jsonl"
UNFINISHED: Final = "unfinished.lp.gz"
"""The file of line protocol whose day is not over."""

_ENDINGS: Final = (".parquet", ".lp.gz", TRUTH, TRUTH_OF_READINGS)
_SHOWN: Final = 3


def line_name(day: str) -> str:
    """What the day's file of line protocol is called."""
    return f"{day}.lp.gz"


def check_folder(folder: Path, fresh: Collection[str]) -> None:
    """Refuse a folder with files of another run; those in `fresh` are written anew.

    Raises:
        SettingError: There are such files; the text names the first.
        StoreError: The folder cannot be read.
    """
    try:
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise StoreError(f"{folder}: cannot be read: {error.strerror}") from error
    others = [name for name in names if name.endswith(_ENDINGS) and name not in fresh]
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        raise SettingError(
            f"--out: {folder} has files of another run: {', '.join(others[:_SHOWN])}{more}; "
            "give an empty directory, or remove them"
        )


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove the files of those names, where there are any.

    Raises:
        StoreError: One cannot be removed.
    """
    for path in (folder / name for name in names):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{path}: cannot be removed: {error.strerror}") from error


class Output(Protocol):
    """Takes the samples of a run, slice by slice in the order of time."""

    def add(self, frames: Iterable[Frame]) -> None:
        """Take the samples of one slice of time, which lies within one day."""

    def end_day(self, day: str) -> None:
        """Know that the day is over."""


class Points:
    """Samples as the points that ingest would store of their messages."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._keys = {
            id(group): [device_key(device.address) for device in group.devices] for group in groups
        }
        self._sent = {id(group): [0] * len(group.devices) for group in groups}

    def of(self, frame: Frame) -> list[Point]:
        """The points of `frame`; a device's messages are counted from 0."""
        keys, sent = self._keys[id(frame.group)], self._sent[id(frame.group)]
        names = frame.group.quantities
        points = []
        plain = not frame.flags.any() and not np.isnan(frame.values).any()
        rows = zip(frame.rows.tolist(), frame.ts.tolist(), frame.values.tolist(), strict=True)
        for place, (row, ts, numbers) in enumerate(rows):
            values = dict(zip(names, numbers, strict=True))
            texts = {} if plain else _clean(values, frame.flags[place].tolist())
            points.append(Point(keys[row], ts, values, {"seq": sent[row]}, texts))
            sent[row] += 1
        return points


def _clean(values: dict[str, float], flags: list[int]) -> dict[str, str]:
    """Drop what is not a number from `values`; the flags of what is left, as fields."""
    flagged = zip(list(values), flags, strict=True)
    for name in [name for name, value in values.items() if np.isnan(value)]:
        del values[name]
    return {f"{name}_flag": _LETTERS[flag] for name, flag in flagged if flag and name in values}


class LineFiles:
    """Line protocol, gzip, one file per day. Closed once."""

    def __init__(self, folder: Path, groups: Sequence[Group]) -> None:
        """Make the folder where it is missing.

        Raises:
            StoreError: The folder cannot be made.
        """
        self.files: list[Path] = []
        self._folder = folder
        self._points = Points(groups)
        self._file: Any = None
        self._path = folder / UNFINISHED
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder}: cannot be made: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, frames: Iterable[Frame]) -> None:
        """Append the samples."""
        try:
            if self._file is None:
                self._file = gzip.open(self._path, "wb", compresslevel=_COMPRESSION)  # noqa: SIM115 - open over many calls
            for frame in frames:
                self._file.write(encode(self._points.of(frame)))
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be written: {error.strerror}") from error

    def end_day(self, day: str) -> None:
        """Finish the day's file."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self.files.append(self._path.rename(self._folder / line_name(day)))


class StoreOutput:
    """A store, opened on entry; every sample becomes a point."""

    def __init__(self, store: Store, groups: Sequence[Group]) -> None:
        self.files: list[Path] = []
        self._store = store
        self._points = Points(groups)
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    @property
    def name(self) -> str:
        """The store as a person would name it."""
        return self._store.name

    def __enter__(self) -> Self:
        try:
            self._runner.run(self._store.open())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._runner.run(self._store.close())
        finally:
            self._runner.close()

    def add(self, frames: Iterable[Frame]) -> None:
        """Write the samples; returns once the store has them."""
        for points in _batches(self._points.of(frame) for frame in frames):
            self._runner.run(self._write(points))

    def end_day(self, day: str) -> None:
        """Nothing is left to do: every sample is in the store already."""

    async def _write(self, points: Sequence[Point]) -> None:
        try:
            await self._store.write(points)
        except StoreTooLarge:
            if len(points) == 1:
                raise
            middle = len(points) // 2
            await self._write(points[:middle])
            await self._write(points[middle:])


def _batches(parts: Iterable[list[Point]]) -> Iterator[list[Point]]:
    waiting: list[Point] = []
    for part in parts:
        waiting += part
        while len(waiting) >= POINTS_PER_WRITE:
            yield waiting[:POINTS_PER_WRITE]
            del waiting[:POINTS_PER_WRITE]
    if waiting:
        yield waiting
