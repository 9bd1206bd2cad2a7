from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.rules import shipped_packs
from city.cityfile import shipped_cities
from city.documents import Document, nearest, suggestion
from city.errors import DocumentError

Place = tuple[str | int, ...]


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """A part of the shape."""

    id: str
    weight: float = 1.0


class Shape(msgspec.Struct, forbid_unknown_fields=True):
    """What the documents of these tests say."""

    name: str
    parts: tuple[Part, ...] = ()
    main: Part | None = None
    named: dict[str, Part] = {}


def problem(text: str) -> str:
    """What is wrong with that text as a `Shape`."""
    with pytest.raises(DocumentError) as caught:
        Document(text, "shape.yaml").convert(Shape)
    return str(caught.value)


def test_good() -> None:
    """A document that says what it must becomes its structure."""
    document = Document("name: a\nparts: [{id: x, weight: 2}]", "shape.yaml")

    assert Shape("a", (Part("x", 2.0),)) == document.convert(Shape)


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("name: a\nnam: b", "shape.yaml:2: nam: unknown key 'nam'; did you mean 'name'? allowed: "),
        ("name: a\nzzz: b", "shape.yaml:2: zzz: unknown key 'zzz'; allowed: main, name, named"),
        (
            "name: a\nparts:\n  - id: x\n  - id: y\n    wieght: 2",
            "shape.yaml:5: parts[1].wieght: unknown key 'wieght'; did you mean 'weight'?",
        ),
        (
            "name: a\nmain:\n  id: x\n  wait: 1",
            "shape.yaml:4: main.wait: unknown key 'wait'; did you mean 'weight'?",
        ),
    ],
)
def test_unknown_key(text: str, starts: str) -> None:
    """An unknown key is named with its line, its path, the nearest key and all that are allowed."""
    assert problem(text).startswith(starts)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: 3", "shape.yaml:1: name: expected `str`, got `int` (found 3)"),
        (
            "name: a\nparts:\n  - id: x\n    weight: heavy",
            "shape.yaml:4: parts[0].weight: expected `float`, got `str` (found 'heavy')",
        ),
        ("name: a\nparts: 5", "shape.yaml:2: parts: expected `array`, got `int` (found 5)"),
        (
            "name: a\nparts: [{weight: 2}]",
            "shape.yaml:2: parts[0]: object missing required field `id`",
        ),
        ("parts: []", "shape.yaml:1: object missing required field `name`"),
        ("name: 2026-06-01", "shape.yaml:1: name: expected `str`, got `date` (found 2026-06-01)"),
        ("1: a", "shape.yaml:1: expected `str` as a key; put it in quotes"),
        ("- name", "shape.yaml:1: expected a mapping of keys, found list"),
        ("", "shape.yaml: expected a mapping of keys, found nothing"),
    ],
)
def test_wrong_type(text: str, says: str) -> None:
    """A value of the wrong type is named with its line, its path and what was found."""
    assert says == problem(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: a\nname: b", "shape.yaml:2: key 'name' stands twice"),
        ("name: a\nparts:\n- id: x\n  id: y", "shape.yaml:4: key 'id' stands twice"),
        ("name: a\nparts: [", "shape.yaml:2: not valid YAML"),
        ("name: a\n\tparts: []", "shape.yaml:2: not valid YAML"),
        ("name: a: b", "shape.yaml:1: not valid YAML"),
        ("name: a\n---\nname: b", "shape.yaml:2: not valid YAML"),
        ("name: !!python/object:os.system a", "shape.yaml:1: not valid YAML"),
        ("name: 2026-13-45", "shape.yaml: not valid YAML: month must be in 1..12"),
        ("name: \x00", "shape.yaml: not valid YAML"),
        ("? [a, b]\n: c", "shape.yaml:1: a key is a word"),
        ("[" * 3_000, "shape.yaml: nested too deeply"),
        ("a: *nowhere", "shape.yaml:1: not valid YAML"),
    ],
)
def test_bad_yaml(text: str, says: str) -> None:
    """What is not YAML, or is ambiguous, is refused with its line where it has one."""
    assert problem(text).startswith(says)


def test_in_itself() -> None:
    """A document that contains itself is refused like any other that does not fit."""
    assert problem("name: &a [*a]").startswith("shape.yaml:1: name: expected `str`")


def test_many_aliases() -> None:
    """Aliases of aliases cost no more than the text is long."""
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12)]
    text = "l0: &l0 [x]\n" + "\n".join(levels)

    assert problem(text).startswith("shape.yaml:")


def test_line_of_a_path(tmp_path: Path) -> None:
    """`fail` places a problem at the line of its path, or at the nearest line above."""
    file = tmp_path / "shape.yaml"
    file.write_text("name: a\nparts:\n  - id: x\n    weight: 2\n", encoding="utf-8")
    document = Document.read(file)

    assert f"{file}:4: parts[0].weight: " == document.place(("parts", 0, "weight"))
    assert f"{file}:3: parts[0].colour: " == document.place(("parts", 0, "colour"))
    assert f"{file}:2: parts[7]: " == document.place(("parts", 7))


@pytest.mark.parametrize(
    "path", [*shipped_packs().values(), *shipped_cities().values()], ids=lambda path: path.stem
)
def test_shipped(path: Path) -> None:
    """What is shipped says the same by either loader, and stands at the same lines."""
    fast, own = Document.read(path, shipped=True), Document.read(path)

    assert repr(own.content) == repr(fast.content)
    assert [own.place(place) for place in places(own.content)] == [
        fast.place(place) for place in places(own.content)
    ]


def places(content: Any, path: Place = ()) -> Iterator[Place]:
    """The path of everything in a document's content."""
    yield path
    steps: Iterable[tuple[str | int, Any]] = ()
    if isinstance(content, dict):
        steps = content.items()
    elif isinstance(content, list):
        steps = enumerate(content)
    for step, below in steps:
        yield from places(below, (*path, step))


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(DocumentError, match=r"none\.yaml: cannot be read: No such file"):
        Document.read(tmp_path / "none.yaml")


def test_not_text(tmp_path: Path) -> None:
    """A file that is not UTF-8 is named."""
    file = tmp_path / "latin.yaml"
    file.write_bytes("name: Gewässer".encode("latin-1"))

    with pytest.raises(DocumentError, match=r"latin\.yaml: is not UTF-8 text"):
        Document.read(file)


@given(st.text(max_size=80))
def test_any_text(text: str) -> None:
    """Any text is a `Shape` or a DocumentError, and nothing else."""
    try:
        shape = Document(text, "shape.yaml").convert(Shape)
    except DocumentError as error:
        assert str(error).startswith("shape.yaml")  # noqa: PT017 - both outcomes are right
    else:
        assert shape.name


@given(st.text("nameidprtswgh:-[]{}*&!?|>'\"# \n1.", max_size=60))
def test_nearly_yaml(text: str) -> None:
    """Text made of YAML's own signs is a `Shape` or a DocumentError, and nothing else."""
    try:
        shape = Document(f"name: a\n{text}", "shape.yaml").convert(Shape)
    except DocumentError as error:
        assert str(error).startswith("shape.yaml")  # noqa: PT017 - both outcomes are right
    else:
        assert shape.name.startswith("a")


def test_nearest() -> None:
    """The nearest word is one that was probably meant, or none."""
    assert "district" == nearest("distrct", ["device", "district"])
    assert nearest("xyz", ["device", "district"]) is None


def test_suggestion() -> None:
    """A suggestion names the nearest word and then everything that is allowed, in order."""
    assert "did you mean 'water'? allowed: air, water" == suggestion("wter", ["water", "air"])
    assert "allowed: air, water" == suggestion("xyz", {"water", "air"})
