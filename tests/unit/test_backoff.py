from hypothesis import given
from hypothesis import strategies as st

from city.backoff import Backoff


@given(st.floats(0.001, 10), st.floats(10, 1000), st.integers(1, 40))
def test_bounds(first_s: float, cap_s: float, times: int) -> None:
    """The n-th delay lies between half of and the full doubled delay, never above the cap."""
    backoff = Backoff(first_s=first_s, cap_s=cap_s)
    delays = [backoff.delay_s() for _ in range(times)]

    full = [min(cap_s, first_s * 2**n) for n in range(times)]
    assert all(half / 2 <= delay <= half for delay, half in zip(delays, full, strict=True))


def test_reset() -> None:
    """After a success the delays begin again with the shortest."""
    backoff = Backoff(first_s=1.0, cap_s=100.0)
    for _ in range(5):
        backoff.delay_s()
    backoff.reset()

    assert backoff.delay_s() <= 1.0


def test_jitter() -> None:
    """Two that failed at the same moment do not come back at the same moment."""
    delays = {Backoff(first_s=1.0).delay_s() for _ in range(20)}

    assert len(delays) > 15
