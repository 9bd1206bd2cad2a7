from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.citytime import LEAP_MS, CityTime

Heard = tuple[int, int]
heard = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 10).map(lambda n: n * 30_000)))


def hear(time: CityTime, rows: Sequence[Heard]) -> list[int]:
    """The time after each of the readings."""
    if not rows:
        return []
    device, ts = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return [int(instant) for instant in time.hear(device, ts)]


def test_small_steps() -> None:
    """The time is that of the newest reading while nobody leaps."""
    assert [0, 5, 5, 9] == hear(CityTime(), [(0, 0), (1, 5), (0, 3), (2, 9)])


def test_a_wrong_clock() -> None:
    """A device whose clock is ahead moves the time of nobody else."""
    ahead = 5 * LEAP_MS
    rows = [(0, 0), (1, 0), (2, ahead), (0, 10), (2, ahead + 10), (1, 20)]

    assert [0, 0, 0, 10, 10, 20] == hear(CityTime(), rows)


def test_all_leap() -> None:
    """After an outage the time goes on as soon as a quarter of the devices, two at least, do."""
    later = 10 * LEAP_MS
    rows = [(0, 0), (1, 0), (2, 0), (0, later), (1, later + 5), (2, later + 7)]

    assert [0, 0, 0, 0, later, later + 7] == hear(CityTime(), rows)


def test_one_device() -> None:
    """Where there is one device, its time is the city's."""
    assert [0, 10 * LEAP_MS] == hear(CityTime(), [(0, 0), (0, 10 * LEAP_MS)])


@given(heard)
def test_it_never_goes_back(rows: list[Heard]) -> None:
    """Whatever is heard, the time goes on or stands."""
    reached = hear(CityTime(), rows)

    assert sorted(reached) == reached


@settings(max_examples=400)
@given(heard, st.integers(0, 20))
def test_batches(rows: list[Heard], cut: int) -> None:
    """Neither batches nor a restart between them change the time."""
    first, second = CityTime(), CityTime()
    begun = hear(first, rows[:cut])
    second.restore(first.capture())

    assert hear(CityTime(), rows) == begun + hear(second, rows[cut:])
