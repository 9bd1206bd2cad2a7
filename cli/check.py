"""`cityeye check`: validate city files and rule files before they are used."""

from collections import Counter
from pathlib import Path
from typing import Any

from alerts.rules import pack_of, shipped_packs
from city.cityfile import check_city, shipped_cities
from city.documents import Document, suggestion
from city.errors import DocumentError
from cli.summary import Outcome


def check(names: list[str]) -> Outcome:
    """Check every file; what is in the good ones.

    Raises:
        DocumentError: The first problem of each bad file, all of them in one text.
    """
    figures: dict[str, Any] = {}
    problems = []
    for name in names:
        try:
            figures[name] = _content(_document(name))
        except DocumentError as error:
            problems.append(str(error))
    if problems:
        raise DocumentError("\n         ".join(problems))
    return Outcome(figures, complete=True)


def _document(name: str) -> Document:
    known = shipped_cities() | shipped_packs()
    path = known.get(name, Path(name))
    if not path.suffix and not path.exists():
        raise DocumentError(f"no file, city or rule pack {name!r}; {suggestion(name, known)}")
    return Document.read(path)


def _content(document: Document) -> dict[str, Any]:
    content = document.content
    if isinstance(content, dict) and "city" in content:
        city = check_city(document)
        domains = Counter(device.kind.domain.value for device in city.devices())
        sites, events = len(city.sites), len(city.events)
        return {"city": city.city, "sites": sites, **domains, "events": events}
    if isinstance(content, dict) and "pack" in content:
        pack = pack_of(document)
        limits = sum(len(rule.limits) for rule in pack.rules)
        return {"pack": pack.id, "rules": len(pack.rules), "limits": limits}
    return document.fail((), "is neither a city file (key 'city') nor a rule file (key 'pack')")
