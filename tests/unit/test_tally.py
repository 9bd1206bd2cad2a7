from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load.tally import Missing, Tally

ARRIVALS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), max_size=120)


def taken(*seqs: int, **bounds: int) -> Tally:
    """The tally after these numbers of one device."""
    tally = Tally(1, **bounds)
    for seq in seqs:
        tally.take(0, seq)
    return tally


def figures(tally: Tally) -> tuple[int, int, int, int]:
    """Received, distinct, repeated, out of order."""
    return tally.received, tally.distinct, tally.repeated, tally.out_of_order


def modelled(arrivals: Iterable[tuple[int, int]]) -> tuple[int, int, int, int]:
    """The same figures, with every number remembered."""
    seen: set[tuple[int, int]] = set()
    highest: dict[int, int] = {}
    received = repeated = out_of_order = 0
    for device, seq in arrivals:
        received += 1
        repeated += (device, seq) in seen
        out_of_order += (device, seq) not in seen and seq < highest.get(device, -1)
        seen.add((device, seq))
        highest[device] = max(seq, highest.get(device, -1))
    return received, len(seen), repeated, out_of_order


@pytest.mark.parametrize(
    ("seqs", "expected"),
    [
        ((), (0, 0, 0, 0)),
        ((0, 1, 2), (3, 3, 0, 0)),
        ((0, 0, 1, 1), (4, 2, 2, 0)),
        ((0, 2, 1), (3, 3, 0, 1)),
        ((0, 2, 1, 1), (4, 3, 1, 1)),
        ((3, 0, 1, 2), (4, 4, 0, 3)),
        ((0, 5, 5), (3, 2, 1, 0)),
    ],
)
def test_figures(seqs: tuple[int, ...], expected: tuple[int, int, int, int]) -> None:
    """A number counts once as distinct, again as repeated, below a later one as out of order."""
    assert expected == figures(taken(*seqs))


def test_gap_before_the_first() -> None:
    """What is missing before a device's first message is a gap, since numbers begin with 0."""
    tally = taken(3)

    assert [Missing(0, 3, ((0, 2),))] == tally.gaps()


def test_gap_splits_and_closes() -> None:
    """A late message splits a gap, and the last one of a gap closes it."""
    tally = taken(0, 6, 3)
    split = tally.gaps()
    for seq in (1, 2, 4, 5):
        tally.take(0, seq)

    assert [Missing(0, 4, ((1, 2), (4, 5)))] == split
    assert [] == tally.gaps()
    assert 0 == tally.missing


def test_worst_devices_first() -> None:
    """Of all devices with gaps, those of which most is missing are named, the worst first."""
    tally = Tally(4)
    for device, seq in ((0, 1), (1, 5), (2, 0), (3, 3)):
        tally.take(device, seq)

    assert [Missing(1, 5, ((0, 4),)), Missing(3, 3, ((0, 2),))] == tally.gaps(worst=2)
    assert 9 == tally.missing


def test_forgotten_gap() -> None:
    """Beyond the bound the oldest gap is forgotten: a number from it is unclear, yet still missing."""
    tally = taken(1, 3, 5, device_gaps_max=2)
    tally.take(0, 0)

    assert (4, 3, 1, 0) == figures(tally)
    assert 1 == tally.unclear
    assert [Missing(0, 3, ((2, 2), (4, 4)))] == tally.gaps()


def test_repetition_above_what_was_forgotten() -> None:
    """A repeated number above all forgotten gaps is as clear as ever."""
    tally = taken(1, 3, 5, 5, device_gaps_max=2)

    assert 1 == tally.repeated
    assert 0 == tally.unclear


def test_bound_of_all_devices() -> None:
    """The gaps of all devices together are bounded too, and what is missing is still counted."""
    tally = Tally(100, gaps_max=10)
    for device in range(100):
        tally.take(device, 7)

    assert 700 == tally.missing
    assert 10 == sum(len(missing.ranges) for missing in tally.gaps(worst=100))


@given(ARRIVALS)
def test_model(arrivals: list[tuple[int, int]]) -> None:
    """Whatever arrives in whatever order, the figures are those of one who remembers everything."""
    tally = Tally(3)
    for device, seq in arrivals:
        tally.take(device, seq)

    assert modelled(arrivals) == figures(tally)


@given(ARRIVALS)
def test_missing_of_the_model(arrivals: list[tuple[int, int]]) -> None:
    """The gaps are exactly the numbers below each device's highest that have not arrived."""
    tally = Tally(3)
    for device, seq in arrivals:
        tally.take(device, seq)
    missing = {
        (one.device, seq)
        for one in tally.gaps()
        for first, last in one.ranges
        for seq in range(first, last + 1)
    }
    seen = set(arrivals)
    highest = {device: max(s for d, s in arrivals if d == device) for device, _ in arrivals}

    assert {(d, s) for d, top in highest.items() for s in range(top)} - seen == missing
    assert len(missing) == tally.missing


@given(ARRIVALS, st.integers(1, 3), st.integers(1, 4))
def test_bounded_model(arrivals: list[tuple[int, int]], device_gaps: int, gaps: int) -> None:
    """With bounds, distinct messages are understated by the unclear ones at most."""
    tally = Tally(3, device_gaps_max=device_gaps, gaps_max=gaps)
    for device, seq in arrivals:
        tally.take(device, seq)
    received, distinct, _, out_of_order = modelled(arrivals)

    assert received == tally.received
    assert distinct - tally.unclear <= tally.distinct <= distinct
    assert out_of_order - tally.unclear <= tally.out_of_order <= out_of_order
    assert sum(len(one.ranges) for one in tally.gaps()) <= gaps
