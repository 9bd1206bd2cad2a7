"""Percentiles of HDR histograms, by numpy: the series of a long test asks for very many.

Values are as `HdrHistogram.get_value_at_percentile` says them: the highest that counts as equal.
"""

from typing import Final

import msgspec
import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from load.figures import histogram

PERCENTILES: Final = (50.0, 95.0, 99.0)
"""What people ask of a delay, beside its maximum."""

_US: Final = 1000.0
_TAILS: Final = 9
"""A distribution is drawn up to so many nines."""
_PER_TAIL: Final = 12


class Latency(msgspec.Struct, frozen=True):
    """How long something took [ms]; `count` is how often it was measured."""

    p50: float
    p95: float
    p99: float
    max: float
    count: int


def latency_of(delays: HdrHistogram) -> Latency | None:
    """The delays [us] of a histogram that `load.figures` made, None of an empty one."""
    if not delays.get_total_count():
        return None
    p50, p95, p99 = percentiles(delays, PERCENTILES)
    return Latency(p50, p95, p99, round(delays.get_max_value() / _US, 3), delays.get_total_count())


def percentiles(delays: HdrHistogram, wanted: tuple[float, ...]) -> list[float]:
    """Values [ms] at percentiles of a histogram that is not empty."""
    sums = np.cumsum(np.frombuffer(delays.counts, dtype=np.uint64))
    targets = [delays.get_target_count_at_percentile(percentile) for percentile in wanted]
    indices = np.searchsorted(sums, np.array(targets, dtype=np.uint64), side="left")
    shown = (
        delays.get_highest_equivalent_value(delays.get_value_from_index(int(index)))
        for index in indices
    )
    return [round(value / _US, 3) for value in shown]


def distribution(encoded: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A distribution's curve: 1 / (1 - share of delays) and the delays [ms], both shape (n,).

    Evenly spaced by the logarithm of the first, as HDR plots are, up to the one worst delay.
    """
    delays = histogram()
    delays.decode_and_add(encoded.encode())
    count = delays.get_total_count()
    tails = np.logspace(0, _TAILS, _TAILS * _PER_TAIL + 1)
    tails = np.append(tails[tails < count], max(count, 1))
    shares = [float(100 - 100 / tail) for tail in tails[:-1]]
    return tails, np.array(percentiles(delays, (*shares, 100.0)))
