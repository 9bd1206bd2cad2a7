"""Line protocol: what is written reads back as the same point."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from city.errors import StoreRefused
from ingest import lineprotocol
from ingest.lineprotocol import encode
from ingest.store import Point, PointKey

AIR = PointKey("air", (("device", "aq-1"), ("site", "park")))


def point(
    *,
    key: PointKey = AIR,
    ts: int = 1795413600000,
    values: dict[str, float] | None = None,
    counts: dict[str, int] | None = None,
    texts: dict[str, str] | None = None,
) -> Point:
    """A point of one air station."""
    return Point(key, ts, values or {}, counts or {}, texts or {})


def cut(text: str, mark: str, *, quoted: bool = True) -> list[str]:
    """`text` cut at every `mark` that is neither escaped nor, if it may be, within a quoted string."""
    parts, part, in_quotes, after_equals, index = [], "", False, False, 0
    while index < len(text):
        letter = text[index]
        if letter == "\\" and text[index + 1 : index + 2] in {",", " ", "=", '"', "\\"}:
            part += text[index : index + 2]
            index += 2
            continue
        if quoted and letter == '"' and (in_quotes or after_equals):
            in_quotes = not in_quotes
        after_equals = letter == "="
        if letter == mark and not in_quotes:
            parts.append(part)
            part = ""
        else:
            part += letter
        index += 1
    return [*parts, part]


def plain(text: str) -> str:
    """A name without its escapes."""
    for letter in ", =":
        text = text.replace("\\" + letter, letter)
    return text


def field(text: str) -> Any:
    """A field's value, of the type that its form says."""
    if text.startswith('"'):
        return text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return int(text[:-1]) if text.endswith("i") else float(text)


def decode(line: str) -> Point:
    """The point on one line, after the line protocol reference of InfluxDB: tags know no quotes."""
    key = cut(line, " ", quoted=False)[0]
    fields, ts = cut(line[len(key) + 1 :], " ")
    measurement, *tags = cut(key, ",", quoted=False)
    pairs = [(plain(name), field(text)) for name, text in (cut(f, "=") for f in cut(fields, ","))]
    return Point(
        PointKey(plain(measurement), tuple((plain(a), plain(b)) for a, b in map(split, tags))),
        int(ts),
        {name: value for name, value in pairs if isinstance(value, float)},
        {name: value for name, value in pairs if isinstance(value, int)},
        {name: value for name, value in pairs if isinstance(value, str)},
    )


def split(tag: str) -> tuple[str, str]:
    """A tag's name and value, still escaped."""
    name, text = cut(tag, "=", quoted=False)
    return name, text


LETTERS = st.characters(codec="utf-8", exclude_characters="\r\n\\")
NAMES = st.text(LETTERS, min_size=1, max_size=12)
MEASUREMENTS = NAMES.filter(lambda name: not name.startswith("#"))
KEYS = st.builds(
    lambda measurement, tags: PointKey(measurement, tuple(sorted(tags.items()))),
    MEASUREMENTS,
    st.dictionaries(NAMES, NAMES, max_size=3),
)
POINTS = st.builds(
    lambda key, ts, values, counts, texts: point(
        key=key,
        ts=ts,
        values={f"v{name}": value for name, value in values.items()},
        counts={f"c{name}": count for name, count in counts.items()},
        texts={f"t{name}": text for name, text in texts.items()},
    ),
    KEYS,
    st.integers(-(2**53), 2**53),
    st.dictionaries(NAMES, st.floats(allow_nan=False, allow_infinity=False), min_size=1),
    st.dictionaries(NAMES, st.integers(-(2**63), 2**63 - 1), max_size=3),
    st.dictionaries(NAMES, st.text(st.characters(codec="utf-8", exclude_characters="\n"))),
)


@given(POINTS)
def test_round_trip(given_point: Point) -> None:
    """Every point with allowed names reads back as itself."""
    line = encode([given_point]).decode().removesuffix("\n")

    assert given_point == decode(line)


@given(st.lists(POINTS, max_size=5))
def test_batch_is_its_points(points: list[Point]) -> None:
    """A batch is written as its points one after another, whatever is remembered of others."""
    together = encode(points)

    assert b"".join(encode([one]) for one in points) == together


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_exact(value: float) -> None:
    """A float's text is the shortest that reads back as the same float, sign of zero included."""
    text = encode([point(values={"v": value})]).decode().split(" ")[1].removeprefix("v=")

    assert (value, math.copysign(1, value)) == (float(text), math.copysign(1, float(text)))
    assert float(repr(value)) == float(text)


def test_one_line() -> None:
    """A line has measurement, tags, texts, floats, integers with an i, and milliseconds."""
    line = b'air,device=aq-1,site=park pm25_flag="D",pm25=31.0,seq=7i 1795413600000\n'

    assert line == encode(
        [point(values={"pm25": 31.0}, counts={"seq": 7}, texts={"pm25_flag": "D"})]
    )


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a b", r"a\ b"),
        (r"a\b", r"a\b"),
        ("a,b", r"a\,b"),
        ("a=b", r"a\=b"),
        ("a%sb", "a%sb"),
        ('"a"', '"a"'),
    ],
)
def test_names_are_escaped(name: str, written: str) -> None:
    """Blanks, commas and equals signs in tags and field names are escaped, others are not."""
    line = encode([point(key=PointKey("m", ((name, name),)), values={name: 1.5})]).decode()

    assert f"m,{written}={written} {written}=1.5 1795413600000\n" == line


@pytest.mark.parametrize(
    ("text", "written"),
    [('say "hi"', r'"say \"hi\""'), ("a\\", r'"a\\"'), ("a\nb", '"a\nb"'), ("100 %s", '"100 %s"')],
)
def test_texts_are_escaped(text: str, written: str) -> None:
    """Quotes and backslashes in texts are escaped; line breaks stand as they are."""
    line = encode([point(texts={"t": text})]).decode()

    assert f"air,device=aq-1,site=park t={written} 1795413600000\n" == line


@pytest.mark.parametrize("name", ["", "a\nb", "a\rb", "a\\", "a\\ b", "a\\,b", "a\\=b", 'a\\"b'])
def test_names_without_form(name: str) -> None:
    """A name that line protocol cannot carry is refused wherever it stands."""
    for bad in (
        point(key=PointKey(name, ()), values={"v": 1.0}),
        point(key=PointKey("m", ((name, "x"),)), values={"v": 1.0}),
        point(key=PointKey("m", (("x", name),)), values={"v": 1.0}),
        point(values={name: 1.0}),
        point(counts={name: 1}),
        point(texts={name: "x"}),
    ):
        with pytest.raises(StoreRefused, match="no form in line protocol"):
            encode([bad])


def test_comment() -> None:
    """A measurement that would turn its line into a comment is refused."""
    with pytest.raises(StoreRefused, match="#"):
        encode([point(key=PointKey("#air", ()), values={"v": 1.0})])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite(value: float) -> None:
    """A value that is no finite number is refused, and the text says which one it is."""
    good, bad = point(values={"a": 1.0}), point(values={"a": 1.0, "pm25": value}, ts=17)

    with pytest.raises(StoreRefused, match=r"pm25 of air .*aq-1.* at 17 is"):
        encode([good, bad])


def test_numpy_floats() -> None:
    """A numpy float is written like the float that it is."""
    number: float = np.float64(0.1)

    assert encode([point(values={"v": 0.1})]) == encode([point(values={"v": number})])


def test_nothing() -> None:
    """No points are no bytes."""
    assert not encode([])


def test_caches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of series and field names does not grow without end."""
    monkeypatch.setattr(lineprotocol, "CACHE_MAX", 3)
    for index in range(10):
        encode([point(key=PointKey(f"m{index}", ()), values={f"v{index}": 1.0})])

    assert len(lineprotocol._prefixes) <= 3
    assert len(lineprotocol._templates) <= 3
