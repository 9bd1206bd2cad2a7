import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from alerts.state import pack, unpack
from broker.messages import Status
from city.errors import ArchiveError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary()
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
TYPES = ["bool", "int8", "int32", "int64", "uint8", "uint64", "float32", "float64", "<f2", ">f8",
         ">i4", "<U5", "S3"]  # fmt: skip
ARRAYS = st.sampled_from(TYPES).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_side=80))
)


def same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays agree in type, shape and every bit."""
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def returned(value: Any) -> Any:
    """`value` after the way to bytes and back."""
    return unpack(pack(value))


@given(PLAIN)
def test_plain_data_returns(value: Any) -> None:
    """Whatever is plain comes back equal."""
    found = returned(value)

    assert value == found


@given(ARRAYS)
def test_arrays_return(array: NDArray[Any]) -> None:
    """Type, shape and every bit of an array come back."""
    found = returned({"array": array})

    assert same(array, found["array"])


@given(st.lists(st.tuples(st.integers(0, 999), st.sampled_from([0.0, -0.0, math.nan, 1.5]))))
def test_mostly_equal_entries_return(others: list[tuple[int, float]]) -> None:
    """Of an array of NaN the few other entries stay where they are, and -0.0 is not 0.0."""
    array = np.full(1000, np.nan)
    for place, value in others:
        array[place] = value

    assert same(array, returned(array))


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**33), st.randoms())
def test_close_integers_return(least: int, span: int, random: Any) -> None:
    """Integers that are close to one another come back, wherever they lie."""
    most = min(least + span, 2**63 - 1)
    array = np.array([random.randint(least, most) for _ in range(100)])

    assert same(array, returned(array))


def test_the_nan_that_it_was() -> None:
    """NaN of another bit pattern, which is equal to nothing, keeps its pattern."""
    array = np.full(100, np.nan)
    array.view(np.uint64)[::2] = 0x7FF8_0000_0000_0123

    assert same(array, returned(array))


def test_a_slice_returns() -> None:
    """An array that lies scattered in memory comes back as what it shows."""
    array = np.arange(400.0).reshape(20, 20)[::2, ::-3]

    assert same(np.ascontiguousarray(array), returned(array))


def test_what_returns_may_be_changed() -> None:
    """The arrays that come back are one's own, in each of the ways to keep them."""
    found = returned([np.arange(3.0), np.zeros(100), np.arange(100), np.array(7)])

    assert [True] * 4 == [array.flags.writeable for array in found]


def test_idle_state_is_small() -> None:
    """20 arrays over 80,000 series in which little happens take a hundredth of their size."""
    state = {f"array {n}": np.full(80_000, math.nan) for n in range(20)}
    for array in state.values():
        array[:100] = 1.0

    assert len(pack(state)) < 128_000


def test_instants_are_narrow() -> None:
    """Instants of one hour take four bytes each, or less."""
    instants = 1_795_413_600_000 + np.arange(0, 3_600_000, 45)

    assert len(pack(instants)) < 4 * len(instants) + 100


def test_numbers_of_numpy_are_plain() -> None:
    """A single number of numpy comes back as Python's."""
    found = returned([np.float64(1.5), np.int64(3), np.bool_(True)])

    assert [1.5, 3, True] == found


def test_structs_return_as_dicts() -> None:
    """What msgspec knows comes back as plain data."""
    found = returned(Status(state="online", ts=3))

    assert {"state": "online", "ts": 3} == found


@pytest.mark.parametrize("value", [object(), np.array([object()]), np.array(1, dtype="M8[s]")])
def test_what_is_not_plain_is_refused(value: object) -> None:
    """What would not come back as it was raises at once, and the error names it."""
    with pytest.raises(TypeError, match="a snapshot cannot hold"):
        pack(value)


@pytest.mark.parametrize("keep", [0, 10, 40, 200, -1])
def test_what_is_damaged_is_refused(keep: int) -> None:
    """A state that is cut short is refused with what to do about it."""
    packed = pack({"a": np.arange(100.0), "b": np.arange(100)})
    with pytest.raises(ArchiveError, match=r"cannot be read: .*; move alarms\.sqlite away"):
        unpack(packed[:keep])
