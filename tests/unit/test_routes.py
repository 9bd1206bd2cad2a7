from datetime import UTC, date, datetime, time
from typing import Any

import pytest

from alerts.calendars import Calendar, Duty, Rota
from alerts.routes import Grouping, Route, Telling
from alerts.signals import Shift
from broker.messages import AlarmEvent, Announcement
from city.cityfile import Address


def ms(text: str) -> int:
    """The instant of a UTC time."""
    return round(1000 * datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


NOON = ms("2026-06-01T12:00")
NIGHT = Calendar(shifts=(Shift(begins=time(22), ends=time(6)),))


def happened(**changes: Any) -> Announcement:
    """A high alarm of a gas device, raised at noon."""
    fields: dict[str, Any] = {
        "rule": "gas-low-pressure",
        "event": "raised",
        "state": "unacknowledged",
        "severity": "high",
        "level": "LL",
        "quantity": "gas_pressure",
        "value": 60.0,
        "limit": 75.0,
        "unit": "kPa",
        "ts": NOON,
        "raised": NOON,
        "cause": "section-4",
    }
    address = Address("lanting", "old-town", "gas", "foundry-road", "p-01")
    return Announcement(address, AlarmEvent(**(fields | changes)))


def told(announcement: Announcement, **route: Any) -> list[str]:
    """The channels that one route with a console tells."""
    given = Route(**({"id": "r", "channels": ("console",)} | route))
    return [one.channel for one in Telling((given,)).who_would_be_told(announcement, UTC)]


@pytest.mark.parametrize(
    ("route", "matches"),
    [
        ({}, True),
        ({"severity": "high"}, True),
        ({"severity": "critical"}, False),
        ({"districts": frozenset({"old-town"})}, True),
        ({"districts": frozenset({"harbour"})}, False),
        ({"domains": frozenset({"gas", "air"})}, True),
        ({"domains": frozenset({"air"})}, False),
        ({"rules": ("air-*", "gas-*")}, True),
        ({"rules": ("gas",)}, False),
        ({"supervision": frozenset({"site"})}, True),
        ({"supervision": frozenset({"district"})}, False),
        ({"events": frozenset({"promoted"})}, False),
        ({"during": NIGHT}, False),
        ({"outside": NIGHT}, True),
    ],
)
def test_match(route: dict[str, Any], *, matches: bool) -> None:
    """A route tells what fits all that it names, and nothing else."""
    assert (["console"] if matches else []) == told(happened(), **route)


def test_promotion_reaches_the_next_level() -> None:
    """Those of the district hear of an alarm once it is passed on to them."""
    district = {"supervision": frozenset({"district"}), "events": frozenset({"raised", "promoted"})}
    events = [happened(), happened(event="promoted", supervision="district")]

    assert [[], ["console"]] == [told(event, **district) for event in events]


@pytest.mark.parametrize(
    ("severity", "at", "due"),
    [
        ("high", "2026-06-01T21:59:49", "2026-06-01T21:59:59"),
        ("high", "2026-06-01T21:59:50", "2026-06-02T06:00:00"),
        ("high", "2026-06-01T23:00:00", "2026-06-02T06:00:00"),
        ("critical", "2026-06-01T23:00:00", "2026-06-01T23:00:10"),
        ("high", "2026-06-02T06:00:00", "2026-06-02T06:00:10"),
    ],
)
def test_quiet_hours(severity: str, at: str, due: str) -> None:
    """Quiet hours hold all but the critical back until they end."""
    route = Route(id="r", channels=("console",), quiet=NIGHT)
    announcement = happened(severity=severity, ts=ms(at))
    (recipient,) = Telling((route,)).who_would_be_told(announcement, UTC)

    assert ms(due) == recipient.due_ms
    assert recipient.held == (ms(due) > ms(at) + 10_000)


def test_on_call() -> None:
    """A rota tells whoever is on call, beside the channels of the route."""
    people = (Duty("Lin", ("lin",)), Duty("Mo", ("mo",)))
    rota = Rota(people=people, begins=date(2026, 5, 25), handover=time(8))
    route = Route(id="r", channels=("console",), rota=rota)
    recipients = Telling((route,)).who_would_be_told(happened(), UTC)

    assert [("console", ""), ("mo", "Mo")] == [(one.channel, one.person) for one in recipients]


def test_told_once() -> None:
    """A channel that several routes would tell is told once, by the route that does it first."""
    slow = Route(id="slow", channels=("console",), group_wait_ms=60_000)
    fast = Route(id="fast", channels=("console", "screen"), group_wait_ms=0)
    same = Route(id="same", channels=("screen",), group_wait_ms=0)
    recipients = Telling((slow, fast, same)).who_would_be_told(happened(), UTC)

    assert [("fast", "console"), ("fast", "screen")] == [
        (one.route, one.channel) for one in recipients
    ]


@pytest.mark.parametrize(
    ("group_by", "cause", "group"),
    [
        ("cause", "section-4", "section-4"),
        ("cause", "", "old-town/foundry-road"),
        ("site", "section-4", "old-town/foundry-road"),
        ("rule", "section-4", "gas-low-pressure"),
        ("none", "section-4", "old-town/foundry-road/p-01/gas-low-pressure"),
    ],
)
def test_groups(group_by: Grouping, cause: str, group: str) -> None:
    """Alarms are grouped by their cause, site or rule, or each is its own group."""
    route = Route(id="r", channels=("console",), group_by=group_by)

    assert group == route.group(happened(cause=cause))
