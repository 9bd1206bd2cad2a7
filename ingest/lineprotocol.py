"""Points as InfluxDB line protocol, timestamps in milliseconds.

One line is `measurement,tag=value text="…",field=1.5,count=3i 1795413600000`. A name or tag has no
form in it if it is empty, breaks the line, or has a backslash where servers differ on what that
escapes: at the end, or before a comma, blank, equals sign or quote. Such a point is refused, never
changed.
"""

import math
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from city.errors import StoreRefused
from ingest.store import Point, PointKey

CACHE_MAX: Final = 65_536
"""How many series, and how many sets of field names, are remembered in escaped form."""

_MEASUREMENT: Final = str.maketrans({",": r"\,", " ": r"\ ", "%": "%%"})
_NAME: Final = str.maketrans({",": r"\,", " ": r"\ ", "=": r"\=", "%": "%%"})
_TEXT: Final = str.maketrans({'"': r"\"", "\\": r"\\", "%": "%%"})
_NO_FORM: Final = re.compile(r'[\r\n]|\\(?=[,= "]|\Z)|\A\Z')

_NUMBERS: Final = msgspec.json.Encoder(enc_hook=float)
_prefixes: Final[dict[PointKey, str]] = {}
_templates: Final[dict[tuple[str | None, ...], str]] = {}


def encode(points: Sequence[Point]) -> bytes:
    """One line per point; every float is read back as the same float.

    Names are escaped once per series and per set of fields, and all numbers of the batch are
    written by one call: the lines are a format string that they fill.

    Raises:
        StoreRefused: A point has no form in line protocol; the text says which and why.
    """
    if not points:
        return b""
    lines: list[str] = []
    numbers: list[float] = []
    for point in points:
        values, counts = point.values, point.counts
        names = (*values, None, *counts)
        lines.append(_prefixes.get(point.key) or _prefix(point.key))
        if point.texts:
            lines.append(_texts(point))
        lines.append(_templates.get(names) or _template(names))
        numbers += values.values()
        numbers += counts.values()
        numbers.append(point.ts)
    return ("".join(lines) % _written(numbers, points)).encode()


def _written(numbers: list[float], points: Sequence[Point]) -> tuple[str, ...]:
    """Every number in its shortest form that reads back as the same number."""
    written = _NUMBERS.encode(numbers)[1:-1].decode()
    if "n" in written:
        _refuse_not_finite(points)
    return tuple(written.split(","))


def _prefix(key: PointKey) -> str:
    """`measurement,tag=value ` of a series, ready to stand in a format string."""
    if key.measurement.startswith("#"):
        raise StoreRefused(f"measurement {key.measurement!r}: a line that starts with # is dropped")
    parts = [_escaped(key.measurement, _MEASUREMENT, "measurement")]
    for name, value in key.tags:
        parts.append(f"{_escaped(name, _NAME, 'tag')}={_escaped(value, _NAME, f'tag {name!r}')}")
    if len(_prefixes) >= CACHE_MAX:
        _prefixes.clear()
    prefix = _prefixes[key] = ",".join(parts) + " "
    return prefix


def _template(names: tuple[str | None, ...]) -> str:
    """`value=%s,count=%si %s`: the names of floats, None, the names of integers, the instant."""
    middle = names.index(None)
    parts = [f"{_escaped(name or '', _NAME, 'field')}=%s" for name in names[:middle]]
    parts += [f"{_escaped(name or '', _NAME, 'field')}=%si" for name in names[middle + 1 :]]
    if len(_templates) >= CACHE_MAX:
        _templates.clear()
    template = _templates[names] = ",".join(parts) + " %s\n"
    return template


def _texts(point: Point) -> str:
    texts = [
        f'{_escaped(name, _NAME, "field")}="{text.translate(_TEXT)}"'
        for name, text in point.texts.items()
    ]
    return ",".join(texts) + ("," if point.values or point.counts else "")


def _escaped(text: str, table: dict[int, str], what: str) -> str:
    if _NO_FORM.search(text):
        raise StoreRefused(
            f"{what}: {text[:80]!r} has no form in line protocol; "
            'it must not be empty, break the line, or have a backslash at its end or before , = " or blank'
        )
    return text.translate(table)


def _refuse_not_finite(points: Sequence[Point]) -> None:
    for point in points:
        for name, value in point.values.items():
            if not math.isfinite(value):
                raise StoreRefused(
                    f"{name} of {point.key.measurement} {dict(point.key.tags)} at {point.ts} "
                    f"is {value}; only finite numbers are stored"
                )
