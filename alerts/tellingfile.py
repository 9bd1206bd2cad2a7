"""The telling file: who is told of which alarms, when and by what channel, as YAML."""

import re
from collections.abc import Iterable, Sequence
from datetime import date, time
from pathlib import Path
from typing import Annotated, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from alerts.calendars import Calendar, Duty, HolidayHours, Rota
from alerts.routes import Grouping, Language, Route, Telling
from alerts.signals import WEEKDAYS, Shift, Weekday
from broker.messages import AlarmHappening, Severity, Supervision
from city.cityfile import IDENTIFIER, Identifier
from city.documents import Document, suggestion
from city.quantities import Domain

_HOURS: Final = re.compile(r"(?P<begins>\d\d:\d\d)-(?P<ends>\d\d:\d\d)")
_CLOCK: Final = re.compile(r"(?P<hour>[01]\d|2[0-3]):(?P<minute>[0-5]\d)")
_REPEAT_MIN_S: Final = 60
_MIDNIGHT: Final = "24:00"
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HIDE: Final = (
    "put it into a file and name that in url_file, or a variable and name that in url_env"
)

T = TypeVar("T")
Names = tuple[str, ...]
Place = tuple[str | int, ...]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=31 * 86_400)]
Timeout = Annotated[float, msgspec.Meta(gt=0, le=300)]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the telling file; unknown keys are errors."""


class WeeklySpec(_Strict, frozen=True, kw_only=True):
    """Hours such as `08:00-18:00` on some days of the week."""

    days: tuple[Weekday, ...] = WEEKDAYS
    hours: str = "00:00-24:00"


class CalendarSpec(_Strict, frozen=True, kw_only=True):
    """Weekly hours; holidays are those of the file."""

    id: Identifier
    weekly: Annotated[tuple[WeeklySpec, ...], msgspec.Meta(min_length=1)]
    on_holidays: HolidayHours = "closed"


class PersonSpec(_Strict, frozen=True, kw_only=True):
    """A person of a rota."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    channels: Annotated[Names, msgspec.Meta(min_length=1)]


class RotaSpec(_Strict, frozen=True, kw_only=True):
    """People who take turns of so many weeks."""

    id: Identifier
    begins: date
    handover: str | int = "08:00"
    weeks: Annotated[int, msgspec.Meta(ge=1, le=52)] = 1
    people: Annotated[tuple[PersonSpec, ...], msgspec.Meta(min_length=1)]


class _ChannelSpec(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"
):
    """What all channels have."""

    id: Identifier
    timeout_s: Timeout = 10.0
    give_up_s: Annotated[float, msgspec.Meta(ge=0, le=31 * 86_400)] = 3600.0
    """So long after it was due a message that cannot be delivered is given up [s, wall time]."""


class LogSpec(_ChannelSpec, frozen=True, kw_only=True, tag="log"):
    """The service's own log, on the console."""


class MqttSpec(_ChannelSpec, frozen=True, kw_only=True, tag="mqtt"):
    """The topic `cityeye/v1/{city}/notifications/{channel}`."""


class WebhookSpec(_ChannelSpec, frozen=True, kw_only=True, tag="webhook"):
    """An HTTP POST of a JSON body, signed if there is a secret."""

    url: str | None = None
    url_file: str | None = None
    url_env: str | None = None
    secret_file: str | None = None
    secret_env: str | None = None


class AppriseSpec(_ChannelSpec, frozen=True, kw_only=True, tag="apprise"):
    """One service of apprise; its URL is a secret as a whole."""

    url: str | None = None
    """Never allowed: there to be refused with the remedy."""
    url_file: str | None = None
    url_env: str | None = None


ChannelSpec = LogSpec | MqttSpec | WebhookSpec | AppriseSpec


class RouteSpec(_Strict, frozen=True, kw_only=True):
    """Which alarms are told to whom; what is not given matches everything."""

    id: Identifier
    severity: Severity = "low"
    districts: Names = ()
    domains: tuple[Domain, ...] = ()
    rules: Names = ()
    supervision: tuple[Supervision, ...] = ()
    events: tuple[AlarmHappening, ...] = ("raised", "escalated", "promoted", "repeated")
    during: str | None = None
    outside: str | None = None
    channels: Names = ()
    rota: str | None = None
    language: Language | None = None
    group_by: Grouping = "cause"
    group_wait_s: Seconds = 10.0
    repeat_s: Annotated[float, msgspec.Meta(ge=0, le=31 * 86_400)] = 0.0
    quiet: str | None = None
    resolved: bool = True


class TellingSpec(_Strict, frozen=True, kw_only=True):
    """The content of a telling file."""

    language: Language = "en"
    queue_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    holidays: tuple[date, ...] = ()
    calendars: tuple[CalendarSpec, ...] = ()
    rotas: tuple[RotaSpec, ...] = ()
    channels: Annotated[tuple[ChannelSpec, ...], msgspec.Meta(min_length=1)]
    routes: Annotated[tuple[RouteSpec, ...], msgspec.Meta(min_length=1)]


class TellingFile(msgspec.Struct, frozen=True):
    """A checked telling file: the routes, the channels to open for them, and where files lie."""

    telling: Telling
    channels: tuple[ChannelSpec, ...]
    folder: Path


class _Known(msgspec.Struct):
    """What routes and rotas may name."""

    channels: list[str]
    calendars: dict[str, Calendar]
    rotas: dict[str, Rota] = {}


def read_telling(path: Path) -> TellingFile:
    """The telling file at `path`, checked as a whole; no secret is read.

    Raises:
        DocumentError: Names file, line and path, what was found and what is allowed.
    """
    return telling_of(Document.read(path), path.parent)


def telling_of(document: Document, folder: Path = Path()) -> TellingFile:
    """The content of a telling file, checked as a whole; files in it are relative to `folder`."""
    spec = document.convert(TellingSpec)
    for part in ("calendars", "rotas", "channels", "routes"):
        _check_names(document, part, [entry.id for entry in getattr(spec, part)])
    for index, channel in enumerate(spec.channels):
        _check_channel(document, ("channels", index), channel)
    known = _Known(
        channels=[channel.id for channel in spec.channels],
        calendars={
            given.id: _calendar(document, ("calendars", index), given, spec.holidays)
            for index, given in enumerate(spec.calendars)
        },
    )
    for index, given in enumerate(spec.rotas):
        known.rotas[given.id] = _rota(document, ("rotas", index), given, known)
    routes = tuple(
        _route(
            document,
            ("routes", index),
            msgspec.structs.replace(given, language=given.language or spec.language),
            known,
        )
        for index, given in enumerate(spec.routes)
    )
    return TellingFile(Telling(routes, spec.queue_max), spec.channels, folder)


def _calendar(
    document: Document, place: Place, given: CalendarSpec, holidays: tuple[date, ...]
) -> Calendar:
    shifts = []
    for index, weekly in enumerate(given.weekly):
        where = (*place, "weekly", index)
        if not weekly.days:
            document.fail((*where, "days"), f"no day is given; allowed: {', '.join(WEEKDAYS)}")
        begins, ends = _hours(document, (*where, "hours"), weekly.hours)
        shifts.append(Shift(begins=begins, ends=ends, days=frozenset(weekly.days)))
    return Calendar(
        shifts=tuple(shifts), holidays=frozenset(holidays), on_holidays=given.on_holidays
    )


def _rota(document: Document, place: Place, given: RotaSpec, known: _Known) -> Rota:
    for index, person in enumerate(given.people):
        where = (*place, "people", index, "channels")
        _check_known(document, where, person.channels, known.channels)
    return Rota(
        people=tuple(Duty(person.name, person.channels) for person in given.people),
        begins=given.begins,
        handover=_time(document, (*place, "handover"), given.handover),
        weeks=given.weeks,
    )


def _route(document: Document, place: Place, given: RouteSpec, known: _Known) -> Route:
    _check_route(document, place, given)
    _check_known(document, (*place, "channels"), given.channels, known.channels)
    rota = _named(document, (*place, "rota"), given.rota, known.rotas)
    quiet = _named(document, (*place, "quiet"), given.quiet, known.calendars)
    if quiet is not None and quiet.never_ends:
        problem = "these quiet hours never end: what is held back would never be sent"
        document.fail((*place, "quiet"), problem)
    return Route(
        id=given.id,
        severity=given.severity,
        districts=frozenset(given.districts),
        domains=frozenset(domain.value for domain in given.domains),
        rules=given.rules,
        supervision=frozenset(given.supervision),
        events=frozenset(given.events),
        during=_named(document, (*place, "during"), given.during, known.calendars),
        outside=_named(document, (*place, "outside"), given.outside, known.calendars),
        quiet=quiet,
        channels=given.channels,
        rota=rota,
        language=given.language or "en",
        group_by=given.group_by,
        group_wait_ms=round(1000 * given.group_wait_s),
        repeat_ms=round(1000 * given.repeat_s),
        resolved=given.resolved,
    )


def _check_route(document: Document, place: Place, given: RouteSpec) -> None:
    if not given.channels and given.rota is None:
        document.fail(place, "nobody is told; give channels or a rota")
    if not given.events:
        document.fail((*place, "events"), "no event is given, so nothing is ever told")
    if "cleared" in given.events:
        problem = (
            "'cleared' is not among what can be asked for; say `resolved: true`, and all who were "
            "told of an alarm hear that it is over"
        )
        document.fail((*place, "events"), problem)
    if 0 < given.repeat_s < _REPEAT_MIN_S:
        problem = f"{given.repeat_s:g} s is too often; 0 or at least {_REPEAT_MIN_S}"
        document.fail((*place, "repeat_s"), problem)


def _named(document: Document, place: Place, name: str | None, known: dict[str, T]) -> T | None:
    if name is None:
        return None
    if name not in known:
        document.fail(place, f"{place[-1]}: no such name {name!r}; {suggestion(name, known)}")
    return known[name]


def _check_channel(document: Document, place: Place, channel: ChannelSpec) -> None:
    if isinstance(channel, LogSpec | MqttSpec):
        return
    keys = ("url", "url_file", "url_env")
    given = [key for key in keys if getattr(channel, key) is not None]
    if isinstance(channel, AppriseSpec) and channel.url is not None:
        document.fail((*place, "url"), f"an apprise URL holds credentials; {_HIDE}")
    if len(given) != 1:
        allowed = keys if isinstance(channel, WebhookSpec) else keys[1:]
        document.fail(place, f"give one of {', '.join(allowed)}; found {' and '.join(given) or 0}")
    _check_variable(document, (*place, "url_env"), channel.url_env)
    if isinstance(channel, WebhookSpec):
        _check_variable(document, (*place, "secret_env"), channel.secret_env)
        if channel.secret_file is not None and channel.secret_env is not None:
            document.fail(place, "give secret_file or secret_env, not both")
        if channel.url is not None:
            _check_open_url(document, (*place, "url"), channel.url)


def _check_open_url(document: Document, place: Place, url: str) -> None:
    """An URL may stand in the file only if nothing in it can be a credential."""
    problem = url_problem(url)
    if problem is not None:
        document.fail(place, problem)
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        problem = f"a user, password or query in an URL may be a credential; {_HIDE}"
        document.fail(place, problem)


def url_problem(url: str) -> str | None:
    """What is wrong with the URL of a webhook, in words that do not repeat it; None: nothing."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "not an URL; give http://HOST[:PORT]/PATH or https://..."
    if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"\s", url):
        return "not an URL of a webhook; give http://HOST[:PORT]/PATH or https://..."
    return None


def _check_variable(document: Document, place: Place, name: str | None) -> None:
    if name is not None and not _VARIABLE.fullmatch(name):
        document.fail(place, "not the name of an environment variable; letters, digits and _")


def _check_known(
    document: Document, place: Place, names: Iterable[str], known: Iterable[str]
) -> None:
    for index, name in enumerate(names):
        if name not in known:
            problem = f"no channel is named {name!r}; {suggestion(name, known)}"
            document.fail((*place, index), problem)


def _check_names(document: Document, part: str, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        place = (part, index, "id")
        if not IDENTIFIER.fullmatch(name):
            allowed = "small letters, digits and inner hyphens"
            document.fail(place, f"identifier {name!r} is not allowed; use {allowed}")
        if name in names[:index]:
            document.fail(place, f"{name!r} stands twice; rename one of them")


def _hours(document: Document, place: Place, text: str) -> tuple[time, time]:
    match = _HOURS.fullmatch(text.strip())
    if match is None:
        document.fail(place, f"{text!r} are no hours; give e.g. '08:00-18:00' or '22:00-06:00'")
    begins = _time(document, place, match["begins"])
    ends = time(0) if match["ends"] == _MIDNIGHT else _time(document, place, match["ends"])
    if match["ends"] != _MIDNIGHT and begins == ends:
        document.fail(place, f"{text!r} begin and end at once; all day is '00:00-24:00'")
    return begins, ends


def _time(document: Document, place: Place, text: str | int) -> time:
    if isinstance(text, int):
        document.fail(place, f"YAML reads this as the number {text}; put the time in quotes")
    match = _CLOCK.fullmatch(text)
    if match is None:
        document.fail(place, f"{text!r} is no time of day; give e.g. '08:00'")
    return time(int(match["hour"]), int(match["minute"]))
