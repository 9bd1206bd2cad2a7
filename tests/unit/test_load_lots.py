import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from load.faults import COUNTED, MALFORMED, MISSING, NONE, OVERSIZED, FaultLots, spoilt
from load.lots import lots
from load.plan import FAULTS, Faults

MANY = np.arange(20_000)


class TestLots:
    """Numbers that anybody draws alike."""

    @given(
        seed=st.integers(0, 2**63 - 1),
        device=st.integers(0, 10**6),
        number=st.integers(0, 2**53),
        others=st.integers(0, 20),
    )
    def test_alone(self, seed: int, device: int, number: int, others: int) -> None:
        """A lot does not depend on which others are drawn with it."""
        crowd = np.arange(device, device + others + 1)

        alone = lots(seed, "faults", np.array([device]), np.array([number]))
        assert alone[0] == lots(seed, "faults", crowd, number)[0]
        assert 0.0 <= alone[0] < 1.0

    def test_even(self) -> None:
        """Lots are spread evenly, over devices and over numbers."""
        spread = [
            np.histogram(drawn, bins=10, range=(0, 1))[0]
            for drawn in (
                lots(1, "faults", MANY, 0),
                lots(1, "faults", np.zeros(20_000, dtype=np.int64), MANY),
            )
        ]

        assert np.allclose(spread, 2_000, atol=250)

    def test_purposes(self) -> None:
        """What a lot is for decides it, and the seed does."""
        drawn = [lots(seed, purpose, MANY, 0) for seed in (1, 2) for purpose in ("a", "b")]

        assert np.abs(np.corrcoef(drawn) - np.eye(4)).max() < 0.05


class TestFaults:
    """Which message is faulty, and how."""

    def test_shares(self) -> None:
        """Each fault has its share of the messages, and the rest has none."""
        faults = Faults(missing=0.1, late=0.05, oversized=0.2)
        drawn = FaultLots(faults, 7).draw(MANY, MANY)

        counts = np.bincount(drawn, minlength=len(FAULTS) + 1) / len(MANY)
        expected = [0.65, 0.1, 0.0, 0.05, 0.0, 0.0, 0.2]
        assert np.allclose(counts, expected, atol=0.02)
        assert [0, 0, 0] == counts[[2, 4, 5]].tolist()

    def test_all_and_none(self) -> None:
        """A share of 1 is every message, of 0 none."""
        every, none = FaultLots(Faults(missing=1.0), 1), FaultLots(Faults(), 1)

        assert {MISSING} == set(every.draw(MANY, MANY).tolist())
        assert {NONE} == set(none.draw(MANY, MANY).tolist())

    def test_counted(self) -> None:
        """Every fault has its count."""
        assert list(range(1, len(FAULTS) + 1)) == sorted(COUNTED)

    @pytest.mark.parametrize(
        ("lot", "expected"), [(NONE, b'{"a":1}'), (MALFORMED, b'{"a'), (OVERSIZED, b'{"a":1}   ')]
    )
    def test_spoilt(self, lot: int, expected: bytes) -> None:
        """A malformed payload is cut off, an oversized one is followed by blanks."""
        assert expected == spoilt(b'{"a":1}', lot, Faults(oversized_bytes=10))

    @pytest.mark.parametrize(
        ("size", "expected"), [(65_536, (MISSING, MALFORMED)), (65_537, (MISSING, MALFORMED, OVERSIZED))]
    )  # fmt: skip
    def test_unreadable(self, size: int, expected: tuple[int, ...]) -> None:
        """An oversized message that is still within what subscribers take can be read."""
        assert expected == FaultLots(Faults(oversized_bytes=size), 1).unreadable
