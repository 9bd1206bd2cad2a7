import re
from pathlib import Path

import pytest

from city.documents import Document
from city.errors import DocumentError
from load.placeholders import FIELDS, Field
from load.template import Template
from load.templates import presets, read_template, show

PAGE = (Path(__file__).parents[2] / "docs" / "load-templates.md").read_text(encoding="utf-8")
OWN, SAID, ERROR = re.findall(r"```(?:yaml|text)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("field", FIELDS, ids=str)
def test_fields(field: Field) -> None:
    """The page has every field, with what the program says of it."""
    example = f"`{field.example}`" if field.example else ""

    assert f"| `${{{field.name}}}` | {field.of} | {field.sentence} | {example} |\n" in PAGE


@pytest.mark.parametrize("name", [*Template.__struct_fields__, *presets()])
def test_complete(name: str) -> None:
    """The page names every key of a template and every preset."""
    assert f"`{name}`" in PAGE


def test_example() -> None:
    """The example of the page gives the messages of the page."""
    template = read_template(Document(OWN, "docs/load-templates.md"))

    assert SAID.splitlines() == show(template)


def test_error() -> None:
    """An unknown field in the example is refused in the words of the page."""
    text = OWN.replace("${site}/${device}/data", "${sight}/data")
    with pytest.raises(DocumentError) as caught:
        read_template(Document(text, "plant.yaml"))

    assert ERROR.strip() == str(caught.value)
