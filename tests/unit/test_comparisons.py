import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.comparisons import HELD, CompareOperator
from alerts.signals import Derived

Number = tuple[int, int, float]
LINKS = (
    (0, 1, 10, True),
    (0, 2, 11, False),
    (3, 1, 12, True),
    (2, 2, 13, False),
    (4, 0, 14, False),
)


@st.composite
def streams(draw: st.DrawFn) -> list[Number]:
    """Numbers of five signals, the instants of each in order."""
    clock = dict.fromkeys(range(5), 0)
    numbers = []
    values = st.sampled_from([0.0, 1.0, 2.0, 5.0, math.nan])
    for series, wait in draw(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=60)
    ):
        clock[series] += wait
        numbers.append((series, clock[series], draw(values)))
    return numbers


def batch(numbers: list[Number], first: int = 0) -> Derived:
    """Numbers as an operator gets them."""
    return Derived(
        np.arange(first, first + len(numbers), dtype=np.int64),
        np.array([series for series, _, _ in numbers], dtype=np.int64),
        np.array([ts for _, ts, _ in numbers], dtype=np.int64),
        np.array([value for _, _, value in numbers], dtype=np.float64),
    )


def linked(order: int = 1) -> CompareOperator:
    """An operator with all links."""
    operator = CompareOperator()
    for left, right, out, quotient in LINKS[::order]:
        operator.link(left, right, out, quotient)
    return operator


def told(
    operator: CompareOperator, numbers: list[Number], first: int = 0
) -> list[tuple[float, ...]]:
    """What it says, as rows, outputs, instants and values."""
    got = operator.take(batch(numbers, first))
    columns = (got.row.tolist(), got.series.tolist(), got.ts.tolist(), got.value.tolist())
    return list(zip(*columns, strict=True))


def by_brute_force(numbers: list[Number]) -> list[tuple[float, ...]]:
    """Every number with the other side's newest one of its instant, among the last few."""
    said = []
    for left, right, out, quotient in LINKS:
        held: dict[str, list[tuple[int, float]]] = {"left": [], "right": []}
        for row, (series, ts, value) in enumerate(numbers):
            for side, other, its in (("left", "right", left), ("right", "left", right)):
                if series != its:
                    continue
                same = [each for at, each in held[other][-HELD:] if at == ts]
                held[side].append((ts, value))
                if same:
                    a, b = (value, same[-1]) if side == "left" else (same[-1], value)
                    divided = a / b if b else math.nan
                    said.append((row, out, ts, divided if quotient else a - b))
    return sorted(said, key=lambda each: each[:2])


def same(one: list[tuple[float, ...]], other: list[tuple[float, ...]]) -> bool:
    """Whether both are equal, NaN to NaN."""
    return repr(one) == repr(other)


@given(streams())
def test_comparisons_are_those_of_a_brute_force_search(numbers: list[Number]) -> None:
    """A number is compared with the newest one of its instant on the other side."""
    assert same(by_brute_force(numbers), told(linked(), numbers))


@given(streams(), st.lists(st.integers(0, 60), max_size=4))
def test_batches_do_not_matter(numbers: list[Number], cuts: list[int]) -> None:
    """The same is said however the numbers are split, through a restart at every split."""
    whole = told(linked(), numbers)
    edges = [0, *sorted(min(cut, len(numbers)) for cut in cuts), len(numbers)]
    parts, operator = [], linked()
    for begin, end in pairwise(edges):
        parts.extend(told(operator, numbers[begin:end], begin))
        state, operator = operator.capture(), linked(-1)
        operator.restore(state)

    assert same(whole, parts)


def test_the_second_completes_it() -> None:
    """The result is at the row of the side that came second."""
    got = told(linked(), [(1, 60, 4.0), (0, 60, 2.0)])

    assert [(1, 10, 60, 0.5)] == got


@pytest.mark.parametrize(("left", "right"), [(1.0, 0.0), (math.nan, 1.0), (1.0, math.nan)])
def test_nothing_comes_of_nothing(left: float, right: float) -> None:
    """A quotient by 0, or of NaN, is NaN."""
    got = told(linked(), [(0, 60, left), (1, 60, right)])

    assert math.isnan(got[0][3])


def test_a_new_right_replaces_the_old() -> None:
    """A link of the same output takes the newest right side."""
    operator = CompareOperator()
    operator.link(0, 1, 10, quotient=False)
    operator.link(0, 2, 10, quotient=False)
    got = told(operator, [(0, 60, 5.0), (1, 60, 1.0), (2, 60, 2.0)])

    assert [(2, 10, 60, 3.0)] == got


def test_linking_again_forgets_nothing() -> None:
    """The same link made again goes on."""
    operator = CompareOperator()
    operator.link(0, 1, 10, quotient=False)
    told(operator, [(0, 60, 5.0)])
    operator.link(0, 1, 10, quotient=False)
    got = told(operator, [(1, 60, 1.0)])

    assert [(0, 10, 60, 4.0)] == got


def test_an_unlinked_output_is_silent() -> None:
    """After unlink nothing is said, nor if it was never linked."""
    operator = CompareOperator()
    operator.link(0, 1, 10, quotient=False)
    operator.unlink(10)
    operator.unlink(99)
    got = told(operator, [(0, 60, 5.0), (1, 60, 1.0)])

    assert [] == got
