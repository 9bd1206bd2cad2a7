from datetime import date, time
from pathlib import Path

import pytest

from alerts.tellingfile import TellingFile, read_telling, telling_of
from city.documents import Document
from city.errors import DocumentError

WHOLE = """
language: both
queue_max: 500
holidays: [2026-10-01]
calendars:
  - id: office
    weekly:
      - {days: [mon, fri], hours: "08:00-18:00"}
  - id: night
    weekly: [{hours: "22:00-06:00"}]
    on_holidays: all-day
rotas:
  - id: gas-crew
    begins: 2026-01-05
    handover: "07:30"
    weeks: 2
    people:
      - {name: Lin, channels: [duty-mail]}
      - {name: Mo, channels: [duty-mail, platform]}
channels:
  - {id: duty-mail, kind: apprise, url_file: secrets/duty-mail}
  - {id: platform, kind: webhook, url: "https://platform.example/hook", secret_env: HOOK_KEY}
  - {id: screens, kind: mqtt}
  - {id: console, kind: log, timeout_s: 2, give_up_s: 60}
routes:
  - id: gas
    severity: high
    districts: [old-town]
    domains: [gas]
    rules: ["gas-*"]
    supervision: [district, city]
    events: [raised, promoted]
    outside: office
    rota: gas-crew
    channels: [screens]
    language: zh
    group_by: rule
    group_wait_s: 0
    repeat_s: 900
    quiet: night
    resolved: false
  - id: everything
    channels: [console]
"""
CHANNELS = "channels: [{id: console, kind: log}]\n"


def told(text: str) -> TellingFile:
    """The telling file with that text."""
    return telling_of(Document(text, "telling.yaml"))


def test_route() -> None:
    """Each key of a route arrives where it belongs."""
    route = told(WHOLE).telling.routes[0]

    assert ("gas", "high", "zh", "rule") == (
        route.id, route.severity, route.language, route.group_by,
    )  # fmt: skip
    assert ["old-town", "gas", "gas-*"] == [*route.districts, *route.domains, *route.rules]
    assert ["city", "district"] == sorted(route.supervision)
    assert ["promoted", "raised"] == sorted(route.events)
    assert (0, 900_000, False) == (route.group_wait_ms, route.repeat_ms, route.resolved)


def test_calendars_and_rota() -> None:
    """Hours, holidays and turns are those of the file."""
    route = told(WHOLE).telling.routes[0]

    assert route.outside is not None
    assert frozenset({date(2026, 10, 1)}) == route.outside.holidays
    assert (time(8), time(18)) == (route.outside.shifts[0].begins, route.outside.shifts[0].ends)
    assert route.quiet is not None
    assert "all-day" == route.quiet.on_holidays
    assert route.rota is not None
    assert (time(7, 30), 2) == (route.rota.handover, route.rota.weeks)
    assert ["Lin", "Mo"] == [person.name for person in route.rota.people]


def test_defaults() -> None:
    """A route that says nothing but its channels tells them of everything, as the file says."""
    file = told(WHOLE)
    route = file.telling.routes[1]

    assert ("low", "both", "cause", 10_000, 0) == (
        route.severity, route.language, route.group_by, route.group_wait_ms, route.repeat_ms,
    )  # fmt: skip
    assert {"raised", "escalated", "promoted", "repeated"} == route.events
    assert 500 == file.telling.queue_max
    assert 3600 == file.channels[1].give_up_s


def test_read(tmp_path: Path) -> None:
    """A file's secrets are looked for beside it."""
    (tmp_path / "telling.yaml").write_text(WHOLE, encoding="utf-8")

    assert tmp_path == read_telling(tmp_path / "telling.yaml").folder


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (CHANNELS + "routes: [{id: a, chanels: [console]}]", "did you mean 'channels'?"),
        (CHANNELS + "routes: [{id: a}]", "routes[0]: nobody is told"),
        (CHANNELS + "routes: [{id: a, channels: [consol]}]", "did you mean 'console'?"),
        (CHANNELS + "routes: [{id: a, rota: crew}]", "rota: no such name 'crew'"),
        (
            CHANNELS + "routes: [{id: a, channels: [console], quiet: night}]",
            "quiet: no such name 'night'",
        ),
        (CHANNELS + "routes: [{id: A b, channels: [console]}]", "identifier 'A b' is not allowed"),
        (CHANNELS + "routes: [{id: a, channels: [console], events: []}]", "nothing is ever told"),
        (CHANNELS + "routes: [{id: a, channels: [console], events: [cleared]}]", "resolved: true"),
        (CHANNELS + "routes: [{id: a, channels: [console], repeat_s: 5}]", "0 or at least 60"),
        (CHANNELS + "routes: [{id: a, channels: [console], severity: bad}]", "invalid enum value"),
        ("channels: [{id: a, kind: smoke}]\nroutes: [{id: r, channels: [a]}]", "smoke"),
        (
            "channels: [{id: a, kind: webhook}]\nroutes: [{id: r, channels: [a]}]",
            "give one of url, url_file, url_env",
        ),
        (
            "channels: [{id: a, kind: apprise}]\nroutes: [{id: r, channels: [a]}]",
            "give one of url_file, url_env",
        ),
        (
            "channels: [{id: a, kind: webhook, url: 'ftp://a/b'}]\nroutes: [{id: r, channels: [a]}]",
            "not an URL of a webhook",
        ),
        (
            "channels: [{id: a, kind: webhook, url: 'http://h:x/'}]\nroutes: [{id: r, channels: [a]}]",
            "not an URL",
        ),
        (
            "channels: [{id: a, kind: apprise, url_env: 'A B'}]\nroutes: [{id: r, channels: [a]}]",
            "environment variable",
        ),
    ],
)
def test_refused(text: str, problem: str) -> None:
    """A wrong key, name or value is refused with file, line, path and what is allowed."""
    with pytest.raises(DocumentError, match=r"^telling\.yaml:\d+: ") as caught:
        told(text)

    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "channel",
    [
        "{id: m, kind: apprise, url: 'mailto://crew:pass-word@mail.example'}",
        "{id: m, kind: webhook, url: 'https://crew:pass-word@hook.example/'}",
        "{id: m, kind: webhook, url: 'https://hook.example/?key=pass-word'}",
    ],
)
def test_credentials(channel: str) -> None:
    """An URL with credentials is refused with the remedy and without being repeated."""
    with pytest.raises(DocumentError) as caught:
        told(f"channels: [{channel}]\nroutes: [{{id: r, channels: [m]}}]")

    assert "url_file" in str(caught.value)
    assert "pass-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("calendar", "problem"),
    [
        ("{id: c, weekly: [{hours: '8-18'}]}", "are no hours"),
        ("{id: c, weekly: [{hours: '08:00-08:00'}]}", "begin and end at once"),
        ("{id: c, weekly: [{hours: '08:00-25:00'}]}", "is no time of day"),
        ("{id: c, weekly: [{days: [monday]}]}", "invalid enum value"),
        ("{id: c, weekly: [{days: []}]}", "no day is given"),
        ("{id: c, weekly: []}", "length"),
        ("{id: c, weekly: [{}]}", "never end"),
    ],
)
def test_wrong_calendars(calendar: str, problem: str) -> None:
    """Hours that are none, or quiet hours without an end, are refused."""
    text = f"{CHANNELS}calendars: [{calendar}]\nroutes: [{{id: a, channels: [console], quiet: c}}]"
    with pytest.raises(DocumentError) as caught:
        told(text)

    assert problem in str(caught.value)


def test_unquoted_time() -> None:
    """A time that YAML reads as a number is refused with the remedy."""
    people = "people: [{name: Lin, channels: [console]}]"
    rotas = f"rotas: [{{id: r, begins: 2026-01-05, handover: 22:00, {people}}}]\n"
    with pytest.raises(DocumentError, match="put the time in quotes"):
        told(f"{rotas}{CHANNELS}routes: [{{id: a, rota: r}}]")


def test_twice() -> None:
    """A name that stands twice is refused."""
    with pytest.raises(DocumentError, match=r"routes\[1\]\.id: 'a' stands twice"):
        told(f"{CHANNELS}routes: [{{id: a, channels: [console]}}, {{id: a, channels: [console]}}]")
