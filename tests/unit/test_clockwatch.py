import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import ClockTick
from city.errors import PayloadError
from ingest.clockwatch import ClockWatch

T0 = 1_795_413_600_000
DAY_MS = 86_400_000
WIRE_INSTANTS = st.integers(-(2**53), 2**53)


def tick(ts: int = T0, *, speed: float = 1.0, wall: int = T0) -> ClockTick:
    """An announcement; by default simulated time is wall time."""
    return ClockTick(ts=ts, speed=speed, seed=1, wall=wall)


def believes(clock: ClockWatch, ts: int, *, wall_ms: int = T0) -> bool:
    """Whether `ts` is believable when the wall clock shows `wall_ms`."""
    clock.look(wall_ms)
    earliest_ms, latest_ms = clock.span_ms
    return earliest_ms <= ts <= latest_ms


@pytest.mark.parametrize(("ts", "expected"), [(0, False), (T0, True), (T0 * 4, False)])
def test_without_a_clock(ts: int, *, expected: bool) -> None:
    """As long as no clock was heard, anything in this century is believable."""
    assert expected == believes(ClockWatch(), ts)


@pytest.mark.parametrize(
    ("offset_ms", "expected"),
    [(300_000, True), (300_001, False), (-30 * DAY_MS, True), (-30 * DAY_MS - 1, False)],
)
def test_a_clock_in_real_time(offset_ms: int, *, expected: bool) -> None:
    """A reading may lie five minutes ahead of the clock and thirty days behind it."""
    clock = ClockWatch()
    clock.learn(tick())

    assert expected == believes(clock, T0 + offset_ms)


def test_simulated_time_goes_on_between_announcements() -> None:
    """At speed 60 a minute of wall time lets an hour pass."""
    clock = ClockWatch(ahead_ms=0)
    clock.learn(tick(speed=60))
    clock.look(T0 + 60_000)

    assert clock.span_ms[1] == T0 + 3_600_000


def test_a_fast_city_may_be_further_ahead() -> None:
    """At speed 60 five minutes of wall time are five hours of the city's."""
    clock = ClockWatch()
    clock.learn(tick(speed=60))

    assert believes(clock, T0 + 60 * 300_000)


def test_a_slow_city_may_be_ahead_as_usual() -> None:
    """Below speed 1 the allowance does not shrink."""
    clock = ClockWatch()
    clock.learn(tick(speed=0.01))

    assert believes(clock, T0 + 300_000)


def test_as_fast_as_possible() -> None:
    """A city that runs as fast as it can may be a day past its last announcement."""
    clock = ClockWatch()
    clock.learn(tick(speed=0))
    clock.look(T0 + 10 * DAY_MS)

    assert T0 + DAY_MS == clock.span_ms[1]


def test_a_sender_whose_wall_clock_is_ahead() -> None:
    """A sender's wall clock that is ahead of ours does not turn the city's time back."""
    clock = ClockWatch(ahead_ms=0)
    clock.learn(tick(wall=T0 + 3_600_000))
    clock.look(T0)

    assert clock.span_ms[1] == T0


def test_a_new_announcement_counts() -> None:
    """The newest announcement decides, also when it turns time back."""
    clock = ClockWatch()
    clock.learn(tick())
    clock.learn(tick(T0 - 365 * DAY_MS))

    assert not believes(clock, T0)


def test_time_does_not_run_backwards() -> None:
    """A clock of negative speed is refused, and the one before it goes on."""
    clock = ClockWatch()
    clock.learn(tick())
    with pytest.raises(PayloadError, match=r"impossible-clock: speed -1 is below 0"):
        clock.learn(tick(T0 * 2, speed=-1))

    assert believes(clock, T0)


@given(WIRE_INSTANTS, WIRE_INSTANTS, st.floats(0, allow_infinity=False), st.integers(0, 2**43))
def test_any_clock_has_a_span(ts: int, wall: int, speed: float, wall_ms: int) -> None:
    """Whatever instants and speed a clock announces, there is a span, and it is not empty."""
    clock = ClockWatch()
    clock.learn(tick(ts, speed=speed, wall=wall))
    clock.look(wall_ms)
    earliest_ms, latest_ms = clock.span_ms

    assert earliest_ms < latest_ms
