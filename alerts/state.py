"""A snapshot as bytes: plain data with numpy arrays, exactly as it was.

MessagePack, with arrays as an extension. An array of which most entries are the same, like the
times of delays that do not run, is kept as that entry and the others; one of integers that are
close to one another, like instants, as differences from the least in fewer bytes. Equal means the
same bits: NaN stays the NaN that it was, and -0.0 is not 0.0.
"""

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.errors import ArchiveError

_FORMAT: Final = b"cityeye state 1\n"
_ARRAY: Final = 1
_KINDS: Final = "biufSU"
"""Truth values, integers, floats and text."""
_MOSTLY: Final = 0.75
"""From this share of equal entries on, only the others are kept."""
_WORTH_IT: Final = 64
"""Shorter arrays are kept as they are."""
_LONGEST: Final = 8
"""Of an entry that may be kept once for many [bytes]."""
_NARROW: Final = (np.uint8, np.uint16, np.uint32)

_Array = NDArray[Any]


class _Kept(msgspec.Struct, array_like=True):
    """An array: as its bytes, or in one of the two shorter ways."""

    dtype: str
    shape: tuple[int, ...]
    body: bytes
    common: bytes = b""
    """The entry that most places have; `body` holds the others."""
    places: bytes = b""
    """Where the others are, uint32."""
    least: int = 0
    narrow: str = ""
    """`body` holds differences from `least`, of this type."""


def pack(state: Any) -> bytes:
    """`state` as bytes: None, truth values, numbers, text, bytes, lists, dicts, arrays of these.

    Keys are text; tuples come back as lists, structs as dicts, numbers of numpy as Python's.

    Raises:
        TypeError: It holds something else.
    """
    return _FORMAT + msgspec.msgpack.encode(state, enc_hook=_encode)


def unpack(packed: bytes) -> Any:
    """What `pack` was given; the arrays are new and may be written to.

    Raises:
        ArchiveError: It was not made by `pack`, or by that of another version.
    """
    if not packed.startswith(_FORMAT):
        raise ArchiveError(_unreadable("another version of cityeye made it"))
    try:
        return msgspec.msgpack.decode(memoryview(packed)[len(_FORMAT) :], ext_hook=_decode)
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise ArchiveError(_unreadable(str(error))) from error


def _unreadable(why: str) -> str:
    return (
        f"the snapshot of the alarms cannot be read: {why}; move alarms.sqlite away to begin anew"
    )


def _encode(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in _KINDS:
        what = getattr(value, "dtype", type(value).__name__)
        raise TypeError(f"a snapshot cannot hold {what}; turn it into plain data first")
    return msgspec.msgpack.Ext(_ARRAY, msgspec.msgpack.encode(_keep(value)))


def _decode(code: int, body: memoryview) -> _Array:
    if code != _ARRAY:
        raise ValueError(f"no data is known as {code}")
    return _restore(msgspec.msgpack.decode(body, type=_Kept))


def _keep(array: _Array) -> _Kept:
    dtype, shape = array.dtype.str, array.shape
    flat = np.ascontiguousarray(array).reshape(-1)
    if len(flat) >= _WORTH_IT:
        sparse = _keep_sparse(flat, dtype, shape)
        if sparse is not None:
            return sparse
        if flat.dtype.kind in "iu":
            return _keep_narrow(flat, dtype, shape)
    return _Kept(dtype, shape, flat.tobytes())


def _keep_sparse(flat: _Array, dtype: str, shape: tuple[int, ...]) -> _Kept | None:
    """The array as its most common entry and the others; None where too many are others."""
    if len(flat) > np.iinfo(np.uint32).max or flat.dtype.itemsize > _LONGEST:
        return None
    bits = _bits(flat)
    # an entry that most places have is the median of a few of them, or there hardly is one
    middle = _WORTH_IT // 2
    common = np.sort(bits[:: len(bits) // _WORTH_IT])[middle : middle + 1]
    others = np.flatnonzero(bits != common)
    if len(others) > len(flat) * (1 - _MOSTLY):
        return None
    places = others.astype("<u4").tobytes()
    return _Kept(dtype, shape, flat[others].tobytes(), common.tobytes(), places)


def _bits(flat: _Array) -> _Array:
    """The same entries in a form in which equal means the same bits."""
    return flat.view(f"u{flat.dtype.itemsize}") if flat.dtype.kind == "f" else flat


def _keep_narrow(flat: _Array, dtype: str, shape: tuple[int, ...]) -> _Kept:
    """The array as differences from its least entry, where these take fewer bytes."""
    least, most = int(flat.min()), int(flat.max())
    for kind in _NARROW:
        narrow = np.dtype(kind)
        if narrow.itemsize < flat.dtype.itemsize and most - least <= np.iinfo(kind).max:
            # modulo 2**n, as the sum when it is restored: no overflow matters
            apart = flat - np.array(least, dtype=flat.dtype)
            return _Kept(dtype, shape, apart.astype(kind).tobytes(), least=least, narrow=narrow.str)
    return _Kept(dtype, shape, flat.tobytes())


def _restore(kept: _Kept) -> _Array:
    dtype = np.dtype(kept.dtype)
    whole: _Array
    if kept.narrow:
        apart = np.frombuffer(kept.body, dtype=kept.narrow).astype(dtype)
        whole = apart + np.array(kept.least, dtype=dtype)
        return whole.reshape(kept.shape)
    entries = np.frombuffer(kept.body, dtype=dtype)
    if not kept.common:
        return entries.reshape(kept.shape).copy()
    whole = np.empty(int(np.prod(kept.shape)), dtype=dtype)
    whole[:] = np.frombuffer(kept.common, dtype=dtype)
    whole[np.frombuffer(kept.places, dtype="<u4")] = entries
    return whole.reshape(kept.shape)
