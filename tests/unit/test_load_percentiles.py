import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from load.figures import HIGHEST_US, histogram, histogram_of
from load.percentiles import distribution, latency_of, percentiles

DELAYS_US = st.lists(st.integers(1, HIGHEST_US), min_size=1, max_size=200)


@settings(max_examples=50, deadline=None)
@given(delays_us=DELAYS_US, percentile=st.floats(0.1, 100))
def test_values_are_those_of_the_library(delays_us: list[int], percentile: float) -> None:
    """A percentile by numpy is the one that HdrHistogram itself gives."""
    delays = histogram_of(delays_us)

    assert [delays.get_value_at_percentile(percentile) / 1000] == percentiles(delays, (percentile,))


def test_latency_of_an_empty_histogram() -> None:
    """Nothing measured is no latency."""
    assert latency_of(histogram()) is None


def test_latency_is_in_milliseconds() -> None:
    """A histogram counts microseconds, a latency is said in milliseconds."""
    latency = latency_of(histogram_of([1_000] * 99 + [2_000]))

    assert latency is not None
    assert (1.0, 2.0, 100) == (latency.p50, latency.max, latency.count)


@settings(max_examples=30, deadline=None)
@given(delays_us=DELAYS_US)
def test_a_distribution_rises_to_the_slowest(delays_us: list[int]) -> None:
    """The curve never falls, and ends at the greatest delay, once for all."""
    delays = histogram_of(delays_us)

    tails, values_ms = distribution(delays.encode().decode())

    assert np.all(np.diff(values_ms) >= 0)
    assert pytest.approx((len(delays_us), delays.get_max_value() / 1000)) == (
        tails[-1],
        values_ms[-1],
    )
