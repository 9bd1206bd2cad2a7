from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alerts.archive import Archive
from alerts.calendars import Calendar, Duty, Rota
from alerts.mails import LINES_MAX, SCHEMA, Mail, Sorter
from alerts.routes import Route, Telling
from alerts.signals import Shift
from broker.messages import AlarmEvent, Announcement
from city.cityfile import Address

NOON = round(1000 * datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp())
HOUR = 3_600_000
NIGHT = Calendar(shifts=(Shift(begins=time(22), ends=time(6)),))


def happened(event: str = "raised", at_s: float = 0, **changes: Any) -> Announcement:
    """An event so long after noon [s]."""
    device = changes.pop("device", "p-01")
    fields: dict[str, Any] = {
        "rule": "gas-low-pressure",
        "event": event,
        "state": "normal" if event == "cleared" else "unacknowledged",
        "severity": "high",
        "level": "LL",
        "quantity": "gas_pressure",
        "value": 60.0,
        "limit": 75.0,
        "unit": "kPa",
        "ts": NOON + round(1000 * at_s),
        "raised": NOON,
        "cause": "section-4",
        "number": round(at_s),
    }
    address = Address("lanting", "old-town", "gas", "foundry-road", device)
    return Announcement(address, AlarmEvent(**(fields | changes)))


class Desk:
    """A sorter on an archive, which can be replaced at any time."""

    def __init__(self, folder: Path, *routes: Route) -> None:
        self.telling = Telling(routes)
        self.archive = Archive(folder / "alarms.sqlite")
        self.archive.create(SCHEMA)
        self.restart()

    def restart(self) -> None:
        """Begin with what the archive says."""
        self.sorter = Sorter(self.telling, UTC, lambda: 1)
        self.sorter.load(self.archive)

    def take(self, *announcements: Announcement) -> None:
        """Sort these events."""
        for announcement in announcements:
            self.sorter.take(announcement)
        self.archive.change(self.sorter.changes())

    def mails(self, at_s: float) -> list[Mail]:
        """All mails that were released up to then."""
        self.sorter.advance(NOON + round(1000 * at_s))
        self.archive.change(self.sorter.changes())
        rows = self.archive.rows("SELECT body FROM mails WHERE state = 'due' ORDER BY due_ms, seq")
        return [msgspec.json.decode(body, type=Mail) for (body,) in rows]

    def said(self, at_s: float) -> list[tuple[int, list[str]]]:
        """When each of them was due [s after noon], and of what it tells."""
        return [
            ((mail.due_ms - NOON) // 1000, [line.occasion for line in mail.lines])
            for mail in self.mails(at_s)
        ]


@pytest.fixture
def desk_of(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    """Makes a desk for some routes; its archive is closed with the test."""
    desks: list[Desk] = []

    def make(*routes: Route) -> Desk:
        desks.append(Desk(tmp_path, *routes))
        return desks[-1]

    yield make
    for desk in desks:
        desk.archive.close()


def route(**changes: Any) -> Route:
    """A route to a console."""
    return Route(**({"id": "r", "channels": ("console",)} | changes))


def test_grouped(desk_of: Callable[..., Desk]) -> None:
    """What happens to alarms of one cause within the waiting time is one mail, due at its end."""
    desk = desk_of(route())
    desk.take(happened(), happened(at_s=9.9, device="p-02"), happened(at_s=10, device="p-03"))

    assert [(10, ["raised", "raised"])] == desk.said(19.9)
    assert [(10, ["raised", "raised"]), (20, ["raised"])] == desk.said(20)


def test_groups_apart(desk_of: Callable[..., Desk]) -> None:
    """Alarms of different causes, and mails to different channels, are apart."""
    desk = desk_of(route(channels=("console", "screen")))
    desk.take(happened(), happened(at_s=1, device="p-02", cause="section-5"))
    mails = desk.mails(20)

    assert 4 == len({mail.id for mail in mails})
    assert 4 == len({(mail.channel, mail.group) for mail in mails})


def test_resolved(desk_of: Callable[..., Desk]) -> None:
    """Those who were told of an alarm hear that it is over, and nobody else."""
    desk = desk_of(route(severity="high"))
    desk.take(happened(), happened(severity="low", device="p-02"))
    desk.take(happened("cleared", at_s=60), happened("cleared", at_s=60, device="p-02"))

    assert [(10, ["raised"]), (70, ["cleared"])] == desk.said(100)
    assert ["p-01"] == [line.announcement.address.device for line in desk.mails(100)[1].lines]


def test_resolved_once(desk_of: Callable[..., Desk]) -> None:
    """That it is over is said when the condition is gone, and not again when it is acknowledged."""
    desk = desk_of(route(group_wait_ms=0))
    desk.take(happened(), happened("cleared", at_s=1, state="returned"))
    desk.take(happened("acknowledged", at_s=2, state="normal"))

    assert [(0, ["raised"]), (1, ["cleared"])] == desk.said(10)


def test_over_in_other_ways(desk_of: Callable[..., Desk]) -> None:
    """An alarm that comes back from its shelf as normal is over as well."""
    desk = desk_of(route(group_wait_ms=0))
    desk.take(happened(), happened("shelved", at_s=1, state="shelved"))
    desk.take(happened("unshelved", at_s=2, state="normal"))

    assert [(0, ["raised"]), (2, ["cleared"])] == desk.said(10)


def test_not_resolved(desk_of: Callable[..., Desk]) -> None:
    """A route can do without the word that it is over."""
    desk = desk_of(route(resolved=False))
    desk.take(happened(), happened("cleared", at_s=60))

    assert [(10, ["raised"])] == desk.said(100)


def test_reminders(desk_of: Callable[..., Desk]) -> None:
    """An alarm is told again at its interval until somebody acknowledges it."""
    desk = desk_of(route(group_wait_ms=0, repeat_ms=60_000))
    desk.take(happened())
    desk.sorter.advance(NOON + 130_000)
    desk.take(happened("acknowledged", at_s=150, state="acknowledged"))

    assert [(0, ["raised"]), (60, ["reminder"]), (120, ["reminder"])] == desk.said(600)


def test_reminded_again(desk_of: Callable[..., Desk]) -> None:
    """An alarm that gets worse after it was acknowledged is told, and again until acknowledged."""
    telling = route(group_wait_ms=0, repeat_ms=60_000, events=frozenset({"raised", "escalated"}))
    desk = desk_of(telling)
    desk.take(happened(), happened("acknowledged", at_s=10, state="acknowledged"))
    desk.take(happened("escalated", at_s=100))
    desk.take(happened("cleared", at_s=170))

    assert [(0, ["raised"]), (100, ["escalated"]), (160, ["reminder"]), (170, ["cleared"])] == (
        desk.said(600)
    )


def test_events_and_reminders_in_their_order(desk_of: Callable[..., Desk]) -> None:
    """A reminder that was due before an event is made though both are sorted late."""
    desk = desk_of(route(group_wait_ms=0, repeat_ms=60_000))
    desk.take(happened(), happened("cleared", at_s=150))

    assert [(0, ["raised"]), (60, ["reminder"]), (120, ["reminder"]), (150, ["cleared"])] == (
        desk.said(150)
    )


def test_night(desk_of: Callable[..., Desk]) -> None:
    """What happens in quiet hours is one mail in the morning; the critical goes at once."""
    desk = desk_of(route(quiet=NIGHT))
    night_s, morning_s = 11 * 3600, 18 * 3600
    desk.take(happened(at_s=night_s), happened(at_s=night_s + 3600, device="p-02"))
    desk.take(happened(at_s=night_s + 7200, cause="section-5", severity="critical"))

    assert [(night_s + 7210, ["raised"]), (morning_s, ["raised", "raised"])] == desk.said(24 * 3600)


def test_critical_takes_the_others_along(desk_of: Callable[..., Desk]) -> None:
    """A critical alarm is not held back because others of its cause are."""
    desk = desk_of(route(quiet=NIGHT))
    night_s = 11 * 3600
    desk.take(happened(at_s=night_s))
    desk.take(happened(at_s=night_s + 60, device="p-02", severity="critical"))

    assert [(night_s + 70, ["raised", "raised"])] == desk.said(24 * 3600)


def test_whoever_was_on_call(desk_of: Callable[..., Desk]) -> None:
    """That it is over is told to whoever was on call when it was raised; reminders go to the next."""
    people = (Duty("Lin", ("lin",)), Duty("Mo", ("mo",)))
    rota = Rota(people=people, begins=date(2026, 5, 25), handover=time(13))
    desk = desk_of(route(channels=(), rota=rota, group_wait_ms=0, repeat_ms=2 * HOUR))
    desk.take(happened(), happened("cleared", at_s=3 * 3600))
    found = [(mail.lines[0].occasion, mail.channel) for mail in desk.mails(4 * 3600)]

    assert [("raised", "lin"), ("reminder", "mo"), ("cleared", "lin"), ("cleared", "mo")] == found


def test_flood(desk_of: Callable[..., Desk]) -> None:
    """A mail lists so many events and counts the others."""
    desk = desk_of(route())
    desk.take(*(happened(device=f"p-{number}") for number in range(LINES_MAX + 25)))
    (mail,) = desk.mails(10)

    assert (LINES_MAX, 25) == (len(mail.lines), mail.more)


def test_route_gone(desk_of: Callable[..., Desk]) -> None:
    """After a change of the routes, those of routes that are gone hear nothing more."""
    desk = desk_of(route(group_wait_ms=0, repeat_ms=60_000))
    desk.take(happened())
    desk.telling = Telling((route(id="other", events=frozenset({"promoted"})),))
    desk.restart()
    desk.take(happened("cleared", at_s=300))

    assert [(0, ["raised"])] == desk.said(600)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["raised", "escalated", "acknowledged", "cleared", "promoted"]),
        st.integers(0, 90),
        st.sampled_from(["p-01", "p-02", "p-03"]),
        st.sampled_from(["low", "high", "critical"]),
        st.sampled_from(["section-4", "section-5"]),
    ),
    max_size=25,
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(EVENTS, st.lists(st.integers(0, 24)), st.lists(st.integers(0, 24)))
def test_restarts_change_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    events: list[tuple[str, int, str, str, str]],
    restarts: list[int],
    breaks: list[int],
) -> None:
    """The same mails with the same ids come out, however events are batched and whenever it ends.

    Mails that are due at one instant may come in any order.
    """
    routes = (
        route(severity="high", repeat_ms=60_000, channels=("console", "screen")),
        route(id="s", group_by="site", quiet=NIGHT, group_wait_ms=60_000, channels=("mail",)),
    )
    at_s, whole = 11 * 3600, []
    for number, (event, after_s, device, severity, cause) in enumerate(events):
        at_s += after_s
        state = "acknowledged" if event == "acknowledged" else "unacknowledged"
        state = "normal" if event == "cleared" else state
        changes: dict[str, Any] = {"severity": severity, "cause": cause, "state": state}
        whole.append(happened(event, at_s, device=device, number=number, **changes))
    once = Desk(tmp_path_factory.mktemp("once"), *routes)
    once.take(*whole)
    often = Desk(tmp_path_factory.mktemp("often"), *routes)
    for number, announcement in enumerate(whole):
        if number in restarts:
            often.restart()
        if number in breaks:
            often.mails((announcement.event.ts - NOON) / 1000)
        often.take(announcement)
    found = [
        sorted(desk.mails(48 * 3600), key=lambda mail: (mail.due_ms, mail.id))
        for desk in (once, often)
    ]
    for desk in (once, often):
        desk.archive.close()

    assert found[0] == found[1]
    assert len({mail.id for mail in found[0]}) == len(found[0])
