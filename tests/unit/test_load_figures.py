"""Histograms of delays: fast, and the same as the library's own."""

from hypothesis import given
from hypothesis import strategies as st

from load.figures import HIGHEST_US, Delays, histogram, histogram_of, merged

delays = st.lists(st.one_of(st.integers(1, 5_000), st.integers(1, HIGHEST_US)), max_size=60)


@given(delays)
def test_as_the_library(delays_us: list[int]) -> None:
    """Counting all at once makes the histogram that counting one by one makes."""
    expected = histogram()
    for delay_us in delays_us:
        expected.record_value(delay_us)
    made = histogram_of(delays_us)

    assert expected.equals(made)
    assert expected.encode() == made.encode()
    assert (expected.get_min_value(), expected.get_max_value()) == (
        made.get_min_value(), made.get_max_value(),
    )  # fmt: skip


@given(delays, delays)
def test_sum(one: list[int], other: list[int]) -> None:
    """Histograms add exactly: the sum of two is the histogram of all their delays."""
    total = merged([histogram_of(one).encode(), histogram_of(other).encode()])

    assert histogram_of([*one, *other]).encode() == total.encode()


def test_bounds() -> None:
    """No delay is lost: what is below the range or above it counts at its end."""
    made = histogram_of([-5, 0, 2 * HIGHEST_US])

    assert 3 == made.get_total_count()


def test_look() -> None:
    """A look takes what came since the last one."""
    taken = Delays()
    taken.of("ack").extend([100, 200])
    first, second = taken.look(), taken.look()

    assert 2 == merged(first.values()).get_total_count()
    assert {} == second
