import hashlib
import hmac
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from alerts.channels import Notice, NoticeLine
from alerts.tellingfile import RouteSpec, telling_of
from broker.messages import AlarmHappening
from city.documents import Document

PAGE = (Path(__file__).parents[2] / "docs" / "telling.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of the page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_yaml() -> None:
    """The telling file of the page is one."""
    (text,) = blocks("yaml")

    assert 4 == len(telling_of(Document(text, "docs/telling.md")).telling.routes)


def test_json() -> None:
    """The body of the page is that of a webhook, with all of its keys."""
    (text,) = blocks("json")
    body = msgspec.json.decode(text)
    notice = msgspec.json.decode(text, type=Notice)

    assert set(Notice.__struct_fields__) == set(body)
    assert set(NoticeLine.__struct_fields__) == set(body["alarms"][0])
    assert body["alarms"][0]["event"] == msgspec.to_builtins(notice.alarms[0].event)


def test_signature() -> None:
    """The check of signatures of the page knows genuine ones from others."""
    (text,) = blocks("python")
    names: dict[str, Any] = {}
    exec(text, names)  # noqa: S102 - our own page
    signature = f"sha256={hmac.new(b'key', b'body', hashlib.sha256).hexdigest()}"

    assert [True, False] == [
        names["is_genuine"](body, signature, b"key") for body in (b"body", b"")
    ]


@pytest.mark.parametrize("name", [*RouteSpec.__struct_fields__, *get_args(AlarmHappening)])
def test_complete(name: str) -> None:
    """The page names every key of a route and every event."""
    assert f"`{name}`" in PAGE or name == "id"
