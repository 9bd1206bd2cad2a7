"""Mails: what is due to whom because of the events of alarms, on simulated time.

The sorter turns events into mails: it groups them, holds them back, reminds, and knows who was told
of what. It depends on the events, their order and the instants that it is told alone, so that a
restart changes nothing. What it knows lies in two tables of the archive; it hands out the changes
to them, which are made in the transaction that moves the cursor past the events.
"""

import hashlib
from collections.abc import Callable
from datetime import tzinfo
from heapq import heappop, heappush
from operator import itemgetter
from typing import Any, Final, Literal

import msgspec

from alerts.archive import Archive
from alerts.routes import Language, Recipient, Route, Telling, recipients
from broker.messages import AlarmHappening, Announcement

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS mails (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, channel TEXT NOT NULL, state TEXT NOT NULL,
    due_ms INTEGER NOT NULL, released_ms INTEGER NOT NULL, retry_ms INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS mails_state ON mails (state, channel, due_ms);
CREATE TABLE IF NOT EXISTS told (
    alarm TEXT NOT NULL, route TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (alarm, route)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mail_totals (
    channel TEXT NOT NULL, fate TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (channel, fate)
) WITHOUT ROWID;
"""
LINES_MAX: Final = 50
"""So many events stand in one mail; the others are counted."""
_WRITE: Final = """
INSERT INTO mails (id, channel, state, due_ms, released_ms, body) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET state = excluded.state, due_ms = excluded.due_ms,
released_ms = excluded.released_ms, body = excluded.body
"""
_TELL: Final = "INSERT OR REPLACE INTO told VALUES (?, ?, ?)"
_UNTELL: Final = "DELETE FROM told WHERE alarm = ? AND route = ?"

Occasion = AlarmHappening | Literal["reminder"]
"""Why an alarm stands in a mail; `reminder`: it still stands unacknowledged."""
Change = tuple[str, tuple[Any, ...]]
_Key = tuple[str, str, str]
"""Route, channel and group: there is one open mail of each."""
_Told = tuple[str, str]
"""The alarm's full name and the route."""


class Line(msgspec.Struct, frozen=True):
    """One event in a mail."""

    occasion: Occasion
    announcement: Announcement


class Mail(msgspec.Struct, kw_only=True):
    """A message to one channel, which grows until it is due."""

    id: str
    """The same for the same events, route, channel and group, whenever they are sorted."""
    route: str
    channel: str
    person: str
    language: Language
    group: str
    due_ms: int
    lines: list[Line]
    more: int = 0
    """Events that did not fit."""


class Told(msgspec.Struct, kw_only=True):
    """Who was told of an alarm by one route since it was raised."""

    channels: dict[str, str]
    """Each with the person on call."""
    newest: Announcement
    next_ms: int = 0
    """When the next reminder is due; 0: none."""
    reminders: int = 0


class Sorter:
    """Turns events into mails; see the module's text. Used from one thread at a time."""

    def __init__(self, telling: Telling, zone: tzinfo, wall_ms: Callable[[], int]) -> None:
        self.released = 0
        """Mails that became due since the start."""
        self._telling = telling
        self._zone = zone
        self._wall_ms = wall_ms
        self._open: dict[_Key, Mail] = {}
        self._told: dict[str, dict[str, Told]] = {}
        self._due: list[tuple[int, str, tuple[str, ...]]] = []
        self._dirty_mails: dict[str, Mail] = {}
        self._out: dict[str, Mail] = {}
        self._dirty_told: dict[_Told, None] = {}

    def load(self, archive: Archive) -> None:
        """Take up what the archive says; anything else is forgotten."""
        self._open, self._told, self._due = {}, {}, []
        self._dirty_mails, self._out, self._dirty_told = {}, {}, {}
        for (body,) in archive.rows("SELECT body FROM mails WHERE state = 'waiting' ORDER BY seq"):
            mail = msgspec.json.decode(body, type=Mail)
            self._keep_open((mail.route, mail.channel, mail.group), mail)
        for alarm, route, body in archive.rows("SELECT alarm, route, body FROM told"):
            self._told.setdefault(alarm, {})[route] = told = msgspec.json.decode(body, type=Told)
            self._await_reminder(alarm, route, told)
        self._dirty_mails = {}

    def take(self, announcement: Announcement) -> None:
        """Sort one event; events come in the order in which they were recorded."""
        event = announcement.event
        self.advance(event.ts)
        alarm = f"{announcement.address}/{event.rule}"
        over = event.event == "cleared" or event.state == "normal"
        informed = self._resolve(alarm, announcement) if over else self._follow(alarm, announcement)
        for recipient in self._telling.who_would_be_told(announcement, self._zone):
            if recipient.channel not in informed:
                self._post(recipient, Line(event.event, announcement), event.event)
                if not over:
                    self._remember(alarm, recipient, announcement)

    def advance(self, ts: int) -> None:
        """Release the mails and make the reminders that are due up to `ts` [ms], in their order."""
        while self._due and self._due[0][0] <= ts:
            due_ms, kind, key = heappop(self._due)
            if kind == "mail":
                self._release(due_ms, key)
            else:
                self._remind(due_ms, key)

    def changes(self) -> list[Change]:
        """What has to be written since the last call."""
        wall_ms = self._wall_ms()
        changes = [_written(mail, "due", wall_ms) for mail in self._out.values()]
        waiting = (mail for name, mail in self._dirty_mails.items() if name not in self._out)
        changes += [_written(mail, "waiting", 0) for mail in waiting]
        changes += [self._written_told(alarm, route) for alarm, route in self._dirty_told]
        self._dirty_mails, self._out, self._dirty_told = {}, {}, {}
        return changes

    def _follow(self, alarm: str, announcement: Announcement) -> frozenset[str]:
        """Keep what reminders say, and whether there are any."""
        for name, told in self._told.get(alarm, {}).items():
            told.newest = announcement
            route = self._telling.route(name)
            reminding = route is not None and announcement.event.state == "unacknowledged"
            if not reminding:
                told.next_ms = 0
            elif route is not None and route.repeat_ms and not told.next_ms:
                told.next_ms = announcement.event.ts + route.repeat_ms
                self._await_reminder(alarm, name, told)
            self._dirty_told[alarm, name] = None
        return frozenset()

    def _resolve(self, alarm: str, announcement: Announcement) -> frozenset[str]:
        """Tell those who were told that it is over; return their channels."""
        ts, informed = announcement.event.ts, set[str]()
        for name, told in sorted(self._told.pop(alarm, {}).items(), key=itemgetter(0)):
            self._dirty_told[alarm, name] = None
            route = self._telling.route(name)
            if route is None or not route.resolved:
                continue
            for recipient in recipients(route, announcement, ts, self._zone, told.channels):
                if recipient.channel not in informed:
                    self._post(recipient, Line("cleared", announcement), "cleared")
                    informed.add(recipient.channel)
        return frozenset(informed)

    def _remember(self, alarm: str, recipient: Recipient, announcement: Announcement) -> None:
        name, event = recipient.route, announcement.event
        by_route = self._told.setdefault(alarm, {})
        told = by_route.setdefault(name, Told(channels={}, newest=announcement))
        told.channels[recipient.channel] = recipient.person
        told.newest = announcement
        route = self._telling.route(name)
        if route is not None and route.repeat_ms and event.state == "unacknowledged":
            told.next_ms = event.ts + route.repeat_ms
            self._await_reminder(alarm, name, told)
        self._dirty_told[alarm, name] = None

    def _remind(self, due_ms: int, key: tuple[str, ...]) -> None:
        alarm, name = key
        told, route = self._told.get(alarm, {}).get(name), self._telling.route(name)
        if told is None or route is None or told.next_ms != due_ms:
            return
        told.reminders += 1
        told.next_ms = due_ms + route.repeat_ms if route.repeat_ms else 0
        self._await_reminder(alarm, name, told)
        self._dirty_told[alarm, name] = None
        if not route.is_open(due_ms, self._zone):
            return
        reached = self._reminded(route, told, due_ms)
        told.channels |= reached
        line = Line("reminder", told.newest)
        for recipient in recipients(route, told.newest, due_ms, self._zone, reached):
            self._post(recipient, line, f"reminder {told.reminders}")

    def _reminded(self, route: Route, told: Told, ts: int) -> dict[str, str]:
        """Those who were told and still are of the route, and whoever is on call now."""
        reached = route.reached(ts, self._zone)
        return {
            channel: person
            for channel, person in reached.items()
            if person or channel in told.channels
        }

    def _post(self, recipient: Recipient, line: Line, occasion: str) -> None:
        """Put a line into the open mail of its group, or into a new one."""
        key = (recipient.route, recipient.channel, recipient.group)
        mail = self._open.get(key)
        if mail is None:
            self._keep_open(key, _new_mail(recipient, line, occasion))
            return
        if len(mail.lines) < LINES_MAX:
            mail.lines.append(line)
        else:
            mail.more += 1
        self._dirty_mails[mail.id] = mail
        if recipient.due_ms < mail.due_ms:
            mail.due_ms = recipient.due_ms
            self._keep_open(key, mail)

    def _keep_open(self, key: _Key, mail: Mail) -> None:
        self._open[key] = mail
        self._dirty_mails[mail.id] = mail
        heappush(self._due, (mail.due_ms, "mail", key))

    def _await_reminder(self, alarm: str, route: str, told: Told) -> None:
        if told.next_ms:
            heappush(self._due, (told.next_ms, "told", (alarm, route)))

    def _release(self, due_ms: int, key: tuple[str, ...]) -> None:
        route, channel, group = key
        mail = self._open.get((route, channel, group))
        if mail is not None and mail.due_ms == due_ms:
            del self._open[route, channel, group]
            self._out[mail.id] = mail
            self.released += 1

    def _written_told(self, alarm: str, route: str) -> Change:
        told = self._told.get(alarm, {}).get(route)
        if told is None:
            return _UNTELL, (alarm, route)
        return _TELL, (alarm, route, msgspec.json.encode(told))


def _written(mail: Mail, state: str, released_ms: int) -> Change:
    body = msgspec.json.encode(mail)
    return _WRITE, (mail.id, mail.channel, state, mail.due_ms, released_ms, body)


def _new_mail(recipient: Recipient, line: Line, occasion: str) -> Mail:
    address, event = line.announcement.address, line.announcement.event
    named = [recipient.route, recipient.channel, recipient.group, str(address), event.rule]
    name = msgspec.json.encode([*named, event.number, occasion])
    return Mail(
        id=hashlib.sha256(name).hexdigest()[:32],
        route=recipient.route,
        channel=recipient.channel,
        person=recipient.person,
        language=recipient.language,
        group=recipient.group,
        due_ms=recipient.due_ms,
        lines=[line],
    )
