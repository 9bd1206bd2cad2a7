from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.silence import SilenceOperator
from alerts.state import pack, unpack

INTERVAL_MS = 10_000
LIMIT_MS = 60_000
Heard = tuple[int, int]
"""A device, and the instant of its reading [ms]."""


def hearing(devices: int = 3, *, late_ms: int = 0) -> SilenceOperator:
    """An operator that watches so many devices, each as the output of ten times its number."""
    operator = SilenceOperator(5.0, LIMIT_MS, late_ms=late_ms)
    for device in range(devices):
        operator.include(device, 10 * device, INTERVAL_MS)
    return operator


def take(operator: SilenceOperator, rows: Sequence[Heard], now: int = 0) -> list[tuple[int, ...]]:
    """Hear the devices; row, output, instant and seconds of each change."""
    device = np.array([one for one, _ in rows], dtype=np.int64)
    ts = np.array([ts for _, ts in rows], dtype=np.int64)
    reached = np.maximum.accumulate(np.maximum(ts, now))
    made = operator.take(np.arange(len(rows)), device, ts, reached)
    columns = (made.row, made.series, made.ts, made.value)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_silent_and_heard() -> None:
    """A device falls silent when others go on for longer than the limit, and is heard again."""
    found = take(hearing(2), [(0, 0), (1, 0), (1, 60_000), (1, 61_000), (0, 65_000)])

    assert [(3, 0, 60_000, 60.0), (4, 0, 65_000, 0.0)] == found


def test_own_interval() -> None:
    """A device that speaks seldom is given so many of its own intervals."""
    operator = hearing(2)
    operator.include(0, 0, 3 * INTERVAL_MS)

    assert [] == take(operator, [(0, 0), (1, 0), (1, 150_000)])
    assert [(0, 0, 150_000, 150.0)] == take(operator, [(1, 151_000)], 150_000)[:1]


def test_lateness() -> None:
    """Messages that may be late put off the finding, not the instant that it is dated."""
    operator = hearing(2, late_ms=30_000)

    assert [] == take(operator, [(0, 0), (1, 0), (1, 90_000)])
    assert (0, 0, 60_000, 60.0) in take(operator, [(1, 91_000)], 90_000)


def test_never_heard() -> None:
    """A device that was never heard is not silent: nobody knows that it is there."""
    assert [] == take(hearing(2), [(1, 0), (1, 50_000), (1, 100_000)])


def test_time_alone() -> None:
    """Time that goes on without a reading finds the same."""
    operator = hearing(1)
    take(operator, [(0, 0)])
    early, late = operator.advance(60_000), operator.advance(60_001)

    assert ([], [60_000]) == (early.ts.tolist(), late.ts.tolist())
    assert operator.is_silent(0)


def test_excluded() -> None:
    """A device that is watched no more falls silent without a word."""
    operator = hearing(2)
    take(operator, [(0, 0), (1, 0)])
    operator.exclude(0)

    assert [] == take(operator, [(1, 50_000), (1, 100_000)])


STREAM = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([0, 1_000, 20_000, 61_000, -5_000])), max_size=30
)


def instants(steps: Sequence[tuple[int, int]]) -> list[Heard]:
    """Steps of time as instants."""
    now, found = 100_000, []
    for device, step in steps:
        now += step
        found.append((device, now))
    return found


@given(STREAM, st.lists(st.integers(0, 30), max_size=4), st.sampled_from([0, 7_000]))
def test_batching(steps: list[tuple[int, int]], cuts: list[int], late_ms: int) -> None:
    """However the readings are batched, and whoever goes on in between, the same is found."""
    rows = instants(steps)
    expected = [found[1:] for found in take(hearing(late_ms=late_ms), rows)]
    edges = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    operator, said, now = hearing(late_ms=late_ms), list[tuple[int, ...]](), 0
    for start, end in pairwise(edges):
        said += [found[1:] for found in take(operator, rows[start:end], now)]
        now = max([now, *(ts for _, ts in rows[start:end])])
        again = hearing(late_ms=late_ms)
        again.restore(unpack(pack(operator.capture())))
        operator = again

    assert expected == said


@pytest.mark.parametrize("count", [255, 256, 1000])
def test_many(count: int) -> None:
    """Any number of devices can be watched."""
    operator = hearing(count)
    rows = [(device, 0) for device in range(count)]
    found = take(operator, [*rows, (0, 61_000)])

    assert count - 1 == len(found)
