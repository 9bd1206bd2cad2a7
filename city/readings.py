"""Readings in bulk: the arrays in which they travel from the wire to whoever evaluates them."""

from enum import IntEnum
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import Address


class Flag(IntEnum):
    """What a value is worth: the data flags of HJ 212-2017, section 6.6.4."""

    N = 0
    """Normal; never sent."""
    F = 1
    """The source has stopped."""
    M = 2
    """Taken during maintenance."""
    S = 3
    """Set by hand."""
    D = 4
    """The instrument is faulty."""
    C = 5
    """The instrument is being calibrated."""
    T = 6
    """Over the instrument's range."""
    B = 7
    """The instrument does not answer its logger."""


FLAG_OF_LETTER: Final = {flag.name: flag for flag in Flag}


class Series(msgspec.Struct, frozen=True, cache_hash=True):
    """One quantity of one device."""

    address: Address
    quantity: str


class SeriesTable:
    """Every series seen so far; a series keeps its index for the life of the table."""

    def __init__(self) -> None:
        self._series: list[Series] = []
        self._index: dict[Series, int] = {}

    def __len__(self) -> int:
        return len(self._series)

    def __getitem__(self, index: int) -> Series:
        return self._series[index]

    def index(self, address: Address, quantity: str) -> int:
        """The index of that series, a new one when it is seen for the first time."""
        series = Series(address, quantity)
        index = self._index.get(series)
        if index is None:
            index = self._index[series] = len(self._series)
            self._series.append(series)
        return index


class ReadingBatch(msgspec.Struct, frozen=True):
    """Readings in the order of their arrival, one row per value.

    All arrays have the length n: `series` (indices into `table`), `ts` (instant of measurement,
    milliseconds since the epoch, UTC), `value` (canonical unit) and `flag` (`Flag`).
    """

    table: SeriesTable
    series: NDArray[np.int32]
    ts: NDArray[np.int64]
    value: NDArray[np.float64]
    flag: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.series)
