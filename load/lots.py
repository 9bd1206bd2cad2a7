"""Lots that anybody draws alike: numbers hashed from what they are for, never from a sequence."""

import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)
_SHIFTS: Final = tuple(np.uint64(bits) for bits in (30, 27, 31, 11))
_UNIT: Final = 2.0**-53


def lots(
    seed: int, purpose: str, devices: NDArray[np.int64], numbers: NDArray[np.int64] | int
) -> NDArray[np.float64]:
    """A number in [0, 1) for each device (its index in the city) and number, shape (n,).

    SplitMix64 [1] over seed, purpose, device and number in turn.

    References:
        [1] G. L. Steele, D. Lea, C. H. Flood: "Fast splittable pseudorandom number generators",
            OOPSLA 2014.
    """
    begun = np.array([(seed ^ zlib.crc32(purpose.encode()) << 32) & (2**64 - 1)], dtype=np.uint64)
    mixed = _mixed(_mixed(begun) ^ devices.astype(np.uint64))
    mixed = _mixed(mixed ^ np.asarray(numbers, dtype=np.int64).astype(np.uint64))
    drawn: NDArray[np.float64] = (mixed >> _SHIFTS[3]).astype(np.float64) * _UNIT
    return drawn


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One step of SplitMix64; overflow is its arithmetic."""
    state = state + _GAMMA
    state = (state ^ (state >> _SHIFTS[0])) * _FIRST
    state = (state ^ (state >> _SHIFTS[1])) * _SECOND
    return state ^ (state >> _SHIFTS[2])
