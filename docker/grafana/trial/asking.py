"""Every query of a dashboard's file, asked of a server as Grafana would, and what came back."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from docker.grafana.boards.resolution import RESOLUTIONS, VARIABLE
from docker.grafana.trial.filling import ALL, Shown, filled, least_s

OPTIONAL: Final = frozenset({"by", "why", "cause", "section", "title_zh", "name", "customers"})
"""Texts that a point leaves out when they are empty."""

_SELECTED: Final = re.compile(r"SELECT (.*?) FROM ", re.DOTALL)
_COMMA: Final = re.compile(r",\s*(?![^(]*\))")
_NAMED: Final = re.compile(r'(?:AS )?"(?P<name>[^"]+)"$')


class Answer(msgspec.Struct, frozen=True):
    """What a server said: columns, and rows with the tags of their series before the values."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def filled_columns(self) -> set[str]:
        """The columns that have a value in some row."""
        return {
            name
            for place, name in enumerate(self.columns)
            if any(row[place] is not None for row in self.rows)
        }


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One query of one panel, as it was sent, and its answer."""

    board: str
    panel: str
    ref: str
    query: str
    resolution: str = ""
    """The title of the one that was chosen, where there is a choice."""
    answer: Answer

    def missing(self) -> set[str]:
        """The fields that it selects by name and that no row has."""
        return fields_of(self.query) - OPTIONAL - self.answer.filled_columns()


def fields_of(query: str) -> set[str]:
    """The names of what a query selects; of a regular expression there are none."""
    selected = _SELECTED.match(query)
    parts = _COMMA.split(selected[1]) if selected else []
    return {found["name"] for part in parts if (found := _NAMED.search(part.strip()))}


class Server:
    """A server that speaks InfluxQL on `/query`."""

    def __init__(self, session: aiohttp.ClientSession, url: str, database: str) -> None:
        self._session = session
        self._url = url
        self._database = database

    async def answer(self, query: str) -> Answer:
        """What it says to one query.

        Raises:
            ValueError: It refuses; the text has the query and its words.
        """
        form = {"db": self._database, "epoch": "ms", "q": query}
        async with self._session.get(f"{self._url}/query", params=form) as response:
            body = await response.json(content_type=None)
        result = body.get("results", [body])[0]
        if problem := result.get("error") or body.get("error"):
            raise ValueError(f"{query}: {problem}")
        return _answer(result.get("series", []))

    async def values(self, query: str) -> tuple[str, ...]:
        """The values of a variable, in the order that its list shows them."""
        answer = await self.answer(query)
        return tuple(sorted({str(row[-1]) for row in answer.rows}))


def _answer(series: list[dict[str, Any]]) -> Answer:
    rows: list[tuple[Any, ...]] = []
    columns: tuple[str, ...] = ()
    for one in series:
        tags = one.get("tags", {})
        columns = (*tags, *one["columns"])
        rows += [(*tags.values(), *row) for row in one["values"]]
    return Answer(columns, tuple(rows))


def load(folder: Path) -> list[dict[str, Any]]:
    """The dashboards in a folder, by their files' names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def resolutions(board: Mapping[str, Any]) -> tuple[str, ...]:
    """The titles of the resolutions that a dashboard offers; an empty one where it offers none."""
    for variable in board.get("templating", {}).get("list", []):
        if variable["name"] == VARIABLE:
            return tuple(one["text"] for one in variable["options"])
    return ("",)


def panels(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The panels of a dashboard that ask something."""
    for panel in board["panels"]:
        if panel["type"] != "row":
            yield panel


async def choose(
    server: Server,
    board: Mapping[str, Any],
    span: tuple[int, int],
    chosen: Mapping[str, str],
) -> Shown:
    """What the dashboard shows at first: all of many, the first of one, or what is `chosen`.

    Of a variable with a list of its own the title of a value is chosen.
    """
    picked: dict[str, tuple[str, ...]] = {}
    everything: dict[str, str] = {}
    for variable in board.get("templating", {}).get("list", []):
        name = variable["name"]
        if variable["type"] == "custom":
            listed = {one["text"]: one["value"] for one in variable["options"]}
            picked[name] = (listed.get(chosen.get(name, ""), variable["current"]["value"]),)
            continue
        shown = Shown(from_ms=span[0], to_ms=span[1], chosen=picked, all_values=everything)
        values = await server.values(filled(variable["query"], shown))
        if variable.get("includeAll"):
            picked[name] = (ALL,)
            everything[name] = variable.get("allValue") or f"({'|'.join(values)})"
        else:
            picked[name] = (chosen[name] if chosen.get(name) in values else next(iter(values), ""),)
    return Shown(from_ms=span[0], to_ms=span[1], chosen=picked, all_values=everything)


async def ask(server: Server, board: Mapping[str, Any], shown: Shown) -> list[Asked]:
    """Every query of every panel of the dashboard, and that of its annotations."""
    asked = []
    titles = {one.sources: one.title for one in RESOLUTIONS}
    resolution = titles.get(shown.chosen.get(VARIABLE, ("",))[0], "")
    for panel in panels(board):
        for target in panel["targets"]:
            query = filled(target["query"], shown, least_s=least_s(panel))
            answer = await server.answer(query)
            asked.append(
                Asked(
                    board=board["uid"],
                    panel=panel["title"],
                    ref=target["refId"],
                    query=query,
                    resolution=resolution,
                    answer=answer,
                )
            )
    for annotation in board.get("annotations", {}).get("list", []):
        query = filled(annotation["target"]["query"], shown)
        answer = await server.answer(query)
        asked.append(
            Asked(
                board=board["uid"],
                panel=f"annotation {annotation['name']}",
                ref=annotation["target"]["refId"],
                query=query,
                answer=answer,
            )
        )
    return asked
