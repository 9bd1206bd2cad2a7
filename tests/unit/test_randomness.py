"""Draws are named by where and when, so the order of asking never matters."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sensors.randomness import DEVIATIONS_MAX, LANES_PER_BLOCK, Lanes, Octave, Process

HOUR_MS = 3_600_000


def lanes(first: int = 0, count: int = 8, *, seed: int = 1, stream: str = "test") -> Lanes:
    """Lanes of three columns."""
    return Lanes(seed, stream, first=first, count=count, columns=3)


def process(count: int = 4) -> Process:
    """A process with knots every minute and every quarter of an hour."""
    return Process(7, "test", (Octave(60.0, 0.4), Octave(900.0, 0.6)), count=count, columns=2)


class TestLanes:
    """Independent draws."""

    @given(st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40))
    def test_order(self, one: int, other: int) -> None:
        """A draw is the same whatever was drawn before it."""
        busy = lanes()
        busy.draw(other)

        assert np.array_equal(lanes().draw(one), busy.draw(one))

    @given(st.integers(0, 3000), st.integers(1, 1500))
    def test_part(self, first: int, count: int) -> None:
        """Part of the lanes draws what the whole draws for them."""
        whole = lanes(0, 4500).draw(5)

        assert np.array_equal(whole[first : first + count], lanes(first, count).draw(5))

    def test_names(self) -> None:
        """Another seed, stream or counter gives other numbers."""
        draws = [
            lanes().draw(0),
            lanes(seed=2).draw(0),
            lanes(stream="other").draw(0),
            lanes().draw(1),
        ]

        assert len({draw.tobytes() for draw in draws}) == 4

    def test_blocks_differ(self) -> None:
        """The lanes of one block are not those of the next."""
        draw = lanes(0, 2 * LANES_PER_BLOCK).draw(0)

        assert not np.array_equal(draw[:LANES_PER_BLOCK], draw[LANES_PER_BLOCK:])

    def test_distribution(self) -> None:
        """Draws are standard normal and cut at the largest deviation."""
        draw = np.concatenate([lanes(0, 4096).draw(counter) for counter in range(20)])

        assert abs(draw.mean()) < 0.01
        assert abs(draw.std() - 1.0) < 0.01
        assert np.abs(draw).max() <= DEVIATIONS_MAX

    def test_largest_seed(self) -> None:
        """The largest seed that a city file may give works."""
        assert lanes(seed=2**63 - 1).draw(0).shape == (8, 3)


class TestProcess:
    """Processes in time."""

    @given(st.lists(st.integers(-(10**9), 10**12), min_size=1, max_size=20))
    def test_together(self, instants: list[int]) -> None:
        """Instants asked for together get what each gets alone."""
        ts = np.array(instants, dtype=np.int64)
        rows = np.arange(len(ts), dtype=np.int64) % 4
        alone = [process().at(rows[i : i + 1], ts[i : i + 1]) for i in range(len(ts))]

        assert np.array_equal(np.concatenate(alone), process().at(rows, ts))

    def test_variance(self) -> None:
        """The variance is one at the knots and half-way between them."""
        rows = np.arange(20_000, dtype=np.int64)
        many = process(count=20_000)

        for instant in (0, 450_000, 450_030):
            values = many.at(rows, np.full(20_000, instant, dtype=np.int64))
            assert abs(values.var() - 1.0) < 0.03

    def test_autocorrelation(self) -> None:
        """Neighbouring instants agree, distant ones do not."""
        rows = np.arange(20_000, dtype=np.int64)
        many = process(count=20_000)
        now, soon, later = (
            many.at(rows, np.full(20_000, instant, dtype=np.int64))[:, 0]
            for instant in (0, 5_000, HOUR_MS)
        )

        assert np.corrcoef(now, soon)[0, 1] > 0.97
        assert abs(np.corrcoef(now, later)[0, 1]) < 0.05

    def test_lanes_are_independent(self) -> None:
        """Two lanes of a process have nothing in common."""
        ts = np.arange(4000, dtype=np.int64) * HOUR_MS
        one, other = (
            process().at(np.full(4000, lane, dtype=np.int64), ts)[:, 0] for lane in (0, 1)
        )

        assert abs(np.corrcoef(one, other)[0, 1]) < 0.07
