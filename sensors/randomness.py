"""Randomness that depends on where and when it is asked for, never on the order of asking.

Every draw is named by a seed, a stream (a text), a lane (a device, or a source in a field) and a
counter (a sample number, or a knot in time). Philox, a counter-based generator [1], turns the
name into numbers, so any process computes any of them without computing the others first.

References:
    [1] J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11, 2011.
"""

import zlib
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray

LANES_PER_BLOCK: Final = 1024
"""Lanes drawn under one key: a shard draws only the blocks that it touches."""

DEVIATIONS_MAX: Final = 4.0
"""Draws are cut here, so that no chain of chances makes an impossible value."""

_COUNTER_MASK: Final = 2**64 - 1
_KNOTS_KEPT: Final = 4


class Lanes:
    """Independent standard normal numbers for consecutive lanes, at whole-numbered counters."""

    def __init__(self, seed: int, stream: str, *, first: int, count: int, columns: int) -> None:
        self._seed = seed
        self._stream = zlib.crc32(stream.encode()) << 32
        self._columns = columns
        self._blocks = _blocks(first, count)
        self._skip = first % LANES_PER_BLOCK
        self._bits = Philox(key=0)
        self._generator = Generator(self._bits)

    def draw(self, counter: int) -> NDArray[np.float64]:
        """The numbers of all lanes at `counter`, shape (lanes, columns)."""
        parts = [self._draw_block(block, lanes, counter) for block, lanes in self._blocks]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        np.clip(whole, -DEVIATIONS_MAX, DEVIATIONS_MAX, out=whole)
        return whole[self._skip :]

    def _draw_block(self, block: int, lanes: int, counter: int) -> NDArray[np.float64]:
        # Setting the state costs a sixth of building a generator; the numbers are the same.
        self._bits.state = {
            "bit_generator": "Philox",
            "state": {
                "counter": np.array([0, counter & _COUNTER_MASK, 0, 0], dtype=np.uint64),
                "key": np.array([self._seed, self._stream | block], dtype=np.uint64),
            },
            "buffer": np.zeros(4, dtype=np.uint64),
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }
        return self._generator.standard_normal((lanes, self._columns))


def _blocks(first: int, count: int) -> list[tuple[int, int]]:
    """The blocks that hold the lanes, each with how many lanes to draw from its beginning.

    The beginning of a block does not depend on how much of it is drawn.
    """
    stop = first + count
    numbers = range(first // LANES_PER_BLOCK, max(stop - 1, first) // LANES_PER_BLOCK + 1)
    return [(block, min(LANES_PER_BLOCK, stop - block * LANES_PER_BLOCK)) for block in numbers]


class Octave(msgspec.Struct, frozen=True):
    """One time scale of a process: the distance of its knots and its share of the variance."""

    step_s: float
    share: float


class Process:
    """Autocorrelated standard normal processes, one per lane and column, at any instant.

    Each octave draws Gaussian knots `step_s` apart and blends the two around an instant with
    weights whose squares sum to one, so the variance is the same at and between knots. The
    autocorrelation of an octave falls to zero at two steps.
    """

    def __init__(
        self,
        seed: int,
        stream: str,
        octaves: Sequence[Octave],
        *,
        first: int = 0,
        count: int = 1,
        columns: int = 1,
    ) -> None:
        total = sum(octave.share for octave in octaves)
        self._columns = columns
        self._octaves = [
            _Knots(
                Lanes(seed, f"{stream}/{octave.step_s}", first=first, count=count, columns=columns),
                step_ms=round(octave.step_s * 1000),
                amplitude=float(np.sqrt(octave.share / total)),
            )
            for octave in octaves
        ]

    def at(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The values of lanes `rows` (counted from the first) at `ts`, shape (m, columns)."""
        total = np.zeros((len(rows), self._columns))
        for octave in self._octaves:
            octave.add_to(total, rows, ts)
        return total


class _Knots:
    """One octave of a process, with its latest knots kept."""

    def __init__(self, lanes: Lanes, *, step_ms: int, amplitude: float) -> None:
        self._lanes = lanes
        self._step_ms = step_ms
        self._amplitude = amplitude
        self._kept: dict[int, NDArray[np.float64]] = {}

    def add_to(
        self, total: NDArray[np.float64], rows: NDArray[np.int64], ts: NDArray[np.int64]
    ) -> None:
        """Add the octave at (`rows`, `ts`) to `total`."""
        knot = ts // self._step_ms
        after = (ts - knot * self._step_ms) / self._step_ms
        norm = np.sqrt(after * after + (1.0 - after) * (1.0 - after)) / self._amplitude
        weights = (((1.0 - after) / norm)[:, None], (after / norm)[:, None])
        if knot.min() == knot.max():
            total += self._blend(int(knot[0]), rows, weights)
            return
        for number in np.unique(knot):
            part = np.flatnonzero(knot == number)
            chosen = (weights[0][part], weights[1][part])
            total[part] += self._blend(int(number), rows[part], chosen)

    def _blend(
        self,
        number: int,
        rows: NDArray[np.int64],
        weights: tuple[NDArray[np.float64], NDArray[np.float64]],
    ) -> NDArray[np.float64]:
        before = self._knot(number).take(rows, axis=0)
        before *= weights[0]
        after = self._knot(number + 1).take(rows, axis=0)
        after *= weights[1]
        before += after
        return before

    def _knot(self, number: int) -> NDArray[np.float64]:
        found = self._kept.get(number)
        if found is None:
            found = self._lanes.draw(number)
            while len(self._kept) >= _KNOTS_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[number] = found
        return found
