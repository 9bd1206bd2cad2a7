"""Strict YAML documents: read into typed structures, with errors that name file, line and path."""

import difflib
import re
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import msgspec
import yaml

from city.errors import DocumentError

T = TypeVar("T")
Path_ = tuple[str | int, ...]

FAST: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's loader, ten times as fast as PyYAML's own.

It explains less, takes some texts that are no YAML, and ends the process where a text is nested
deeply; so it reads only what is shipped, of which a test knows that both say the same.
"""

_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<key>[^`]*)`")
_AT = re.compile(r" - at (?P<key>`key` in )?`(?P<path>\$[^`]*)`$")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The entry of `known` that `word` was probably meant to be, if one is near."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def suggestion(word: str, known: Iterable[str]) -> str:
    """A clause for an error message: the nearest known word, then all that are allowed."""
    names = sorted(known)
    near = nearest(word, names)
    hint = f"did you mean {near!r}? " if near else ""
    return f"{hint}allowed: {', '.join(names)}"


class Document:
    """One YAML file's text, its parsed content, and where in the text each path stands."""

    def __init__(self, text: str, name: str, *, shipped: bool = False) -> None:
        """`shipped`: it comes with CityEye, so it is read by the fast loader, if there is one."""
        self.name = name
        loader = FAST if shipped else yaml.SafeLoader
        try:
            self._root = yaml.compose(text, Loader=loader)
            self._reject_repeated_keys(self._root)
            self.content: Any = yaml.load(text, Loader=loader)  # noqa: S506 - both loaders are safe
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line = f":{mark.line + 1}" if mark else ""
            raise DocumentError(f"{name}{line}: not valid YAML: {error.problem}") from error
        except (yaml.YAMLError, ValueError) as error:
            raise DocumentError(f"{name}: not valid YAML: {error}") from error
        except RecursionError as error:
            raise DocumentError(f"{name}: nested too deeply, or in itself") from error

    @classmethod
    def read(cls, path: Path, *, shipped: bool = False) -> "Document":
        """The document at `path`, which is `shipped` with CityEye or not.

        Raises:
            DocumentError: The file cannot be read or is not YAML.
        """
        try:
            return cls(path.read_text(encoding="utf-8"), str(path), shipped=shipped)
        except OSError as error:
            raise DocumentError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise DocumentError(f"{path}: is not UTF-8 text: {error}") from error

    def convert(self, kind: type[T]) -> T:
        """The content as a `kind`; every unknown key and wrong type is an error.

        Raises:
            DocumentError: Names the path, what was found and the nearest known key.
        """
        if not isinstance(self.content, dict):
            found = "nothing" if self.content is None else type(self.content).__name__
            self.fail((), f"expected a mapping of keys, found {found}")
        try:
            return msgspec.convert(self.content, kind)
        except msgspec.ValidationError as error:
            self._explain(error, kind)

    def fail(self, path: Path_, problem: str) -> NoReturn:
        """Raise a `DocumentError` that places `problem` at `path`."""
        raise DocumentError(self.place(path) + problem)

    def place(self, path: Path_) -> str:
        """The prefix of a message about `path`: file, line and path."""
        shown = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
        dotted = shown.removeprefix(".")
        line = self._line_of(path)
        where = f"{self.name}:{line}" if line else self.name
        return f"{where}: {dotted}: " if dotted else f"{where}: "

    def _line_of(self, path: Path_) -> int | None:
        node: yaml.Node | None = self._root
        line = node.start_mark.line + 1 if node else None
        for step in path:
            if isinstance(node, yaml.MappingNode):
                pair = next(((k, v) for k, v in node.value if k.value == str(step)), None)
                if pair is None:
                    break
                line, node = pair[0].start_mark.line + 1, pair[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                if step >= len(node.value):
                    break
                node = node.value[step]
                line = node.start_mark.line + 1
        return line

    def _reject_repeated_keys(self, root: yaml.Node | None) -> None:
        for mapping in _mappings(root):
            seen: set[str] = set()
            for key, _ in mapping.value:
                if not isinstance(key, yaml.ScalarNode):
                    line = key.start_mark.line + 1
                    raise DocumentError(
                        f"{self.name}:{line}: a key is a word, not a list or mapping"
                    )
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise DocumentError(f"{self.name}:{line}: key {key.value!r} stands twice")
                seen.add(key.value)

    def _explain(self, error: msgspec.ValidationError, kind: type) -> NoReturn:
        text = str(error)
        match = _AT.search(text)
        problem = text[: match.start()] if match else text
        raw = match["path"] if match else "$"
        path = _steps(raw)
        unknown = _UNKNOWN_FIELD.search(problem)
        if unknown:
            key = unknown["key"]
            fields = _fields_at(kind, path)
            self.fail((*path, key), f"unknown key {key!r}; {suggestion(key, fields)}")
        found = self._value_at(path)
        if match and match["key"]:
            shown = " as a key; put it in quotes"
        elif isinstance(found, date):
            shown = f" (found {found})"
        else:
            shown = "" if isinstance(found, dict | list) else f" (found {found!r})"
        self.fail(path, problem[0].lower() + problem[1:] + shown)

    def _value_at(self, path: Path_) -> Any:
        value = self.content
        for step in path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return None
        return value


def _mappings(root: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """Every mapping below `root`, each once: an alias stands for the same node again."""
    waiting, seen = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield node
            waiting += [part for pair in reversed(node.value) for part in reversed(pair)]
        elif isinstance(node, yaml.SequenceNode):
            waiting += reversed(node.value)


def _steps(raw: str) -> Path_:
    """The steps of a path as msgspec writes it: `$.sites[2].id`."""
    steps: list[str | int] = []
    for name, index in _STEP.findall(raw.removeprefix("$")):
        if name:
            steps.append(name)
        elif index != "...":
            steps.append(int(index))
    return tuple(steps)


def _fields_at(kind: Any, path: Path_) -> list[str]:
    """The field names that the structure at `path` below `kind` knows."""
    shape = msgspec.inspect.type_info(kind)
    for step in path:
        shape = _below(shape, step)
    structs = [part for part in _parts(shape) if isinstance(part, msgspec.inspect.StructType)]
    return sorted({field.encode_name for struct in structs for field in struct.fields})


def _below(shape: msgspec.inspect.Type, step: str | int) -> msgspec.inspect.Type:
    for part in _parts(shape):
        if isinstance(part, msgspec.inspect.StructType) and isinstance(step, str):
            for field in part.fields:
                if field.encode_name == step:
                    return field.type
        elif isinstance(part, msgspec.inspect.DictType):
            return part.value_type
        elif isinstance(part, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
            return part.item_type
    return msgspec.inspect.AnyType()


def _parts(shape: msgspec.inspect.Type) -> tuple[msgspec.inspect.Type, ...]:
    return shape.types if isinstance(shape, msgspec.inspect.UnionType) else (shape,)
