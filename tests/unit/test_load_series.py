from hypothesis import given
from hypothesis import strategies as st

from load.percentiles import Latency
from load.series import Point, Stand, lost_for_good, series_of, thinned

MISSING = st.lists(st.none() | st.integers(0, 50), max_size=30)


def point(at_s: float, *, sent: float = 10.0, p99: float | None = 2.0, missing: int = 0) -> Point:
    """A second of a test."""
    latency = {} if p99 is None else {"ack": Latency(1.0, 1.5, p99, 3.0, 10)}
    stand = Stand({"sent": sent}, 5, 1, {"shard": 0.5}, {"shard": 0.5}, {"shard": 90.0})
    return Point(
        at_s=at_s, phase="steady", pace=1.0, stand=stand, latency=latency,
        cumulated={"repeated": round(at_s)}, missing=missing,
    )  # fmt: skip


@given(missing=MISSING)
def test_what_is_lost_for_good_only_grows(missing: list[int | None]) -> None:
    """Losses never shrink, are never more than what is missing, and end at what is."""
    lost = lost_for_good(missing)

    known = [one for one in lost if one is not None]
    assert sorted(known) == known
    assert all(a is None or (b is not None and b <= a) for a, b in zip(missing, lost, strict=True))
    assert [one for one in missing if one is not None][-1:] == known[-1:]


def test_what_was_on_its_way_is_not_lost() -> None:
    """A second in which much was missing, and all of it came, has lost nothing."""
    assert [0, 0, 2, 2] == lost_for_good([9, 0, 7, 2])


def test_a_second_without_delays_has_a_gap() -> None:
    """Where a stage measured nothing its column says None, not zero."""
    series = series_of([point(1), point(2, p99=None)])

    assert [2.0, None] == series.latency_ms["ack"]["p99"]


def test_thinning_keeps_the_worst_delay_and_the_mean_rate() -> None:
    """Points of a long test become fewer; nothing bad disappears."""
    points = [point(n + 1, sent=n, p99=50.0 if n == 3 else 2.0) for n in range(10)]

    thin = thinned(series_of(points), 5)

    assert [2.0, 4.0, 6.0, 8.0, 10.0] == thin.at_s
    assert [0.5, 2.5, 4.5, 6.5, 8.5] == thin.rate["sent"]
    assert [2.0, 50.0, 2.0, 2.0, 2.0] == thin.latency_ms["ack"]["p99"]
    assert [2, 4, 6, 8, 10] == thin.cumulated["repeated"]


def test_a_short_series_stays_as_it_is() -> None:
    """What fits is not thinned."""
    series = series_of([point(1), point(2)])

    assert series is thinned(series, 2)
