import inspect
import re

import pytest

from city import errors
from city.errors import CityEyeError, InputError, PayloadError, StoreUnavailable

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, CityEyeError)
]


def drawn_tree() -> dict[str, str | None]:
    """Child to parent, as the module's docstring draws it."""
    tree: dict[str, str | None] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"(?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+)( |$)", line)
        if match and match["name"] != "Every":
            depth = len(match["branch"]) // 4
            tree[match["name"]] = above[depth - 1] if depth else None
            above[depth:] = [match["name"]]
    return tree


def test_tree() -> None:
    """The tree in the module's docstring is the class hierarchy."""
    hierarchy = {
        cls.__name__: cls.__bases__[0].__name__ if cls is not CityEyeError else None
        for cls in CLASSES
    }

    assert hierarchy == drawn_tree()


@pytest.mark.parametrize("cls", CLASSES)
def test_sentence(cls: type[CityEyeError]) -> None:
    """Every error says in one sentence what it stands for."""
    sentence = inspect.getdoc(cls) or ""

    assert 1 == len(sentence.splitlines())
    assert sentence.endswith(".")


@pytest.mark.parametrize("cls", CLASSES)
def test_exit_status(cls: type[CityEyeError]) -> None:
    """Wrong input ends a command with status 2, everything else with 1."""
    assert (2 if issubclass(cls, InputError) else 1) == cls.exit_status


def test_payload_error() -> None:
    """A payload's error carries the ledger's reason beside the detail."""
    error = PayloadError("not-json", "byte 3")

    assert ("not-json", "byte 3", "not-json: byte 3") == (error.reason, error.detail, str(error))


def test_store_unavailable() -> None:
    """A store that asks to wait says how long."""
    assert 30.0 == StoreUnavailable("busy", retry_after_s=30.0).retry_after_s
    assert StoreUnavailable("gone").retry_after_s is None
