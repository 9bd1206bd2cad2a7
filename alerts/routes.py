"""Routes: which alarms are told to whom, when, and what goes into one message."""

from collections.abc import Iterable
from datetime import tzinfo
from fnmatch import fnmatchcase
from typing import Final, Literal, get_args

import msgspec

from alerts.calendars import Calendar, Rota
from broker.messages import AlarmHappening, Announcement, Severity, Supervision

Language = Literal["en", "zh", "both"]
Grouping = Literal["cause", "site", "rule", "none"]
SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)
"""From the least to the most severe."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Which alarms are told by which channels; what is empty matches everything."""

    id: str
    severity: Severity = "low"
    """At least."""
    districts: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    rules: tuple[str, ...] = ()
    """Patterns: `*` stands for any text, `?` for one character."""
    supervision: frozenset[Supervision] = frozenset()
    """The levels of supervision that the alarm has been told to."""
    events: frozenset[AlarmHappening] = frozenset({"raised"})
    during: Calendar | None = None
    outside: Calendar | None = None
    quiet: Calendar | None = None
    """Hours in which all but the critical is held back until they end."""
    channels: tuple[str, ...] = ()
    rota: Rota | None = None
    language: Language = "en"
    group_by: Grouping = "cause"
    group_wait_ms: int = 10_000
    repeat_ms: int = 0
    """While an alarm stands unacknowledged it is told again so often; 0: never."""
    resolved: bool = True
    """Whether those who were told hear that it is over."""

    def covers(self, announcement: Announcement) -> bool:
        """Whether it is about such alarms, whatever has happened to them and whenever."""
        address, event = announcement.address, announcement.event
        return (
            SEVERITIES.index(event.severity) >= SEVERITIES.index(self.severity)
            and (not self.districts or address.district in self.districts)
            and (not self.domains or address.domain in self.domains)
            and (not self.rules or any(fnmatchcase(event.rule, rule) for rule in self.rules))
            and (not self.supervision or event.supervision in self.supervision)
        )

    def is_open(self, ts: int, zone: tzinfo) -> bool:
        """Whether it tells anybody anything at the instant `ts` [ms]."""
        if self.during is not None and not self.during.holds(ts, zone):
            return False
        return self.outside is None or not self.outside.holds(ts, zone)

    def reached(self, ts: int, zone: tzinfo) -> dict[str, str]:
        """The channels that it uses at `ts` [ms], each with the person on call, or with nobody."""
        reached = dict.fromkeys(self.channels, "")
        if self.rota is not None:
            duty = self.rota.on_call(ts, zone)
            reached |= dict.fromkeys(duty.channels, duty.name)
        return reached

    def due(self, severity: Severity, ts: int, zone: tzinfo) -> int:
        """When [ms] a message is sent that is opened at `ts` by an alarm of that severity."""
        due = ts + self.group_wait_ms
        if self.quiet is None or severity == "critical":
            return due
        ends = self.quiet.ends(due, zone)
        return due if ends is None else ends

    def group(self, announcement: Announcement) -> str:
        """What the alarm is grouped by, as people can read it."""
        address, event = announcement.address, announcement.event
        site = f"{address.district}/{address.site}"
        names = {
            "cause": event.cause or site,
            "site": site,
            "rule": event.rule,
            "none": f"{site}/{address.device}/{event.rule}",
        }
        return names[self.group_by]


class Recipient(msgspec.Struct, frozen=True, kw_only=True):
    """A channel that is told of an event, by which route, and when."""

    route: str
    channel: str
    person: str
    """Who is on call; empty: nobody by name."""
    language: Language
    group: str
    due_ms: int
    held: bool
    """Whether quiet hours hold it back."""


class Telling(msgspec.Struct, frozen=True):
    """All routes, in the order of the file."""

    routes: tuple[Route, ...]
    queue_max: int = 10_000
    """So many messages may be due at one channel; beyond it the oldest are given up."""

    def route(self, name: str) -> Route | None:
        """The route of that name."""
        return next((route for route in self.routes if route.id == name), None)

    def who_would_be_told(self, announcement: Announcement, zone: tzinfo) -> list[Recipient]:
        """Whoever hears of the event, in the order of the routes.

        Every route that matches tells its channels; a channel that several would tell is told once,
        by the route that does it first.
        """
        event = announcement.event
        asked = (route for route in self.routes if event.event in route.events)
        open_now = (route for route in asked if route.is_open(event.ts, zone))
        matching = [route for route in open_now if route.covers(announcement)]
        return _soonest(
            recipient
            for route in matching
            for recipient in recipients(
                route, announcement, event.ts, zone, route.reached(event.ts, zone)
            )
        )


def recipients(
    route: Route, announcement: Announcement, ts: int, zone: tzinfo, reached: dict[str, str]
) -> list[Recipient]:
    """The channels `reached`, each with its person, as recipients of what happens at `ts` [ms]."""
    due_ms = route.due(announcement.event.severity, ts, zone)
    return [
        Recipient(
            route=route.id,
            channel=channel,
            person=person,
            language=route.language,
            group=route.group(announcement),
            due_ms=due_ms,
            held=due_ms > ts + route.group_wait_ms,
        )
        for channel, person in reached.items()
    ]


def _soonest(found: Iterable[Recipient]) -> list[Recipient]:
    """Of the recipients on one channel the one that is due first; of equals the first."""
    by_channel: dict[str, Recipient] = {}
    for recipient in found:
        known = by_channel.get(recipient.channel)
        if known is None or recipient.due_ms < known.due_ms:
            by_channel[recipient.channel] = recipient
    return list(by_channel.values())
