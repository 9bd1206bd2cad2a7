"""The mailroom: what is due to people, durable until it is delivered or given up.

Events are read from the archive by the cursor `mailroom`; what they make due is written in the
transaction that moves the cursor. A mail is `waiting` until it is due on simulated time, then
`due`, `sending` before the first byte leaves, and `sent` once its channel has said so. After a
crash nothing that was due is forgotten, and only what was `sending` goes out again, with the same
id: whether it had arrived only its channel can tell.

Every channel has a postman of its own. While a channel is in trouble its mails wait in their order;
a mail that a channel refuses is put off, and those behind it go first.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import tzinfo
from typing import Any, Final, Literal

import msgspec
import structlog

from alerts.archive import Archive
from alerts.channels import Channel, ChannelError, ChannelRefused, Notice, NoticeLine
from alerts.mails import SCHEMA, Change, Mail, Sorter
from alerts.routes import Recipient, Telling
from alerts.wording import SiteNames, is_over, severity_of, worded
from broker.messages import Announcement
from city.backoff import Backoff
from city.clock import wall_ms as wall_clock_ms
from city.errors import ArchiveError, ServiceError

_log = structlog.get_logger(__name__)

CURSOR: Final = "mailroom"
_BATCH: Final = 500
_KEPT: Final = 10_000
"""Finished mails that are kept to be looked at."""
_PRUNE_EVERY: Final = 500
_IDLE_S: Final = 1.0
_GLANCE_S: Final = 0.2
_LONGEST_WAIT_S: Final = 3600.0
"""No channel makes us wait longer at once, whatever it asks for."""
_BEGUN: Final = "CREATE TABLE IF NOT EXISTS mailroom (one INTEGER PRIMARY KEY CHECK (one = 1));"
_NEXT: Final = """
SELECT seq, released_ms, attempts, body FROM mails
WHERE state IN ('sending', 'due') AND channel = ? AND retry_ms <= ? ORDER BY due_ms, seq LIMIT 1
"""
_TRY: Final = "UPDATE mails SET state = 'sending', attempts = attempts + 1 WHERE seq = ?"
_PUT_OFF: Final = "UPDATE mails SET state = 'due', retry_ms = ?, reason = ? WHERE seq = ?"
_FINISH: Final = "UPDATE mails SET state = ?, reason = ? WHERE seq = ?"
_COUNT: Final = """
INSERT INTO mail_totals VALUES (?, ?, 1)
ON CONFLICT (channel, fate) DO UPDATE SET count = count + 1
"""
_PRUNE: Final = """
DELETE FROM mails WHERE state IN ('sent', 'failed') AND seq <= (SELECT max(seq) FROM mails) - ?
"""
_OVERFLOW: Final = """
SELECT seq, channel FROM (
    SELECT seq, channel, row_number() OVER oldest AS place, count(*) OVER whole AS due
    FROM mails WHERE state = 'due'
    WINDOW whole AS (PARTITION BY channel), oldest AS (PARTITION BY channel ORDER BY due_ms, seq)
) WHERE place > 1 AND place <= 1 + due - ?
"""
"""The oldest of those that are too many; the very first is the postman's."""

Fate = Literal["sent", "failed"]


class ChannelFigures(msgspec.Struct, frozen=True):
    """How one channel does."""

    due: int
    """To be delivered now, or being delivered."""
    sent: int
    failed: int
    """Given up: too late, or too many were due."""
    trouble: str
    """Why it does not deliver at the moment; empty: it does."""


class MailFigures(msgspec.Struct, frozen=True):
    """What lies in the mailroom, and what has become of the rest, restarts included."""

    waiting: int
    """Not due yet: grouped, or held back."""
    due: int
    sent: int
    failed: int
    channels: dict[str, ChannelFigures]


class _Post(msgspec.Struct, frozen=True):
    """A mail to be delivered now."""

    seq: int
    released_ms: int
    attempts: int
    mail: Mail


class Mailroom:
    """Tells people what happens to alarms; see the module's text.

    Events that were recorded before the first mailroom used the archive are not told. To change the
    routes, end `run` and make another mailroom on the same archive. Making one reads and writes the
    archive, as `collect` and `figures` do: in a service they are called off the event loop.
    """

    def __init__(
        self,
        archive: Archive,
        telling: Telling,
        zone: tzinfo,
        *,
        city: str = "",
        sites: SiteNames | None = None,
        wall_ms: Callable[[], int] = wall_clock_ms,
        first_retry_s: float = 1.0,
    ) -> None:
        self._archive = archive
        self._telling = telling
        self._zone = zone
        self._city = city
        self._sites = sites
        self._wall_ms = wall_ms
        self._first_retry_s = first_retry_s
        self._sorter = Sorter(telling, zone, wall_ms)
        self._woken = asyncio.Event()
        self._progress = asyncio.Event()
        self._bells: dict[str, asyncio.Event] = {}
        self._troubles: dict[str, str] = {}
        self._giving_up: set[str] = set()
        self._delivered = 0
        self._in_trouble = False
        archive.create(SCHEMA + _BEGUN)
        self._begin()
        self._sorter.load(archive)
        self._in_order = True

    def who_would_be_told(self, announcement: Announcement) -> list[Recipient]:
        """Whoever would hear of such an event, and when; nothing is sent."""
        return self._telling.who_would_be_told(announcement, self._zone)

    def wake(self) -> None:
        """Say that events were recorded; on the event loop's thread."""
        self._woken.set()

    def collect(self, now_ms: int) -> None:
        """Sort the new events and release what is due at the simulated instant `now_ms`.

        Synchronous, and used from one thread at a time.

        Raises:
            ArchiveError: Nothing of the last part was sorted; it will be at the next call.
        """
        if not self._in_order:
            self._sorter.load(self._archive)
        self._in_order = False
        released = self._sorter.released
        while events := self._archive.after(CURSOR, _BATCH):
            for _, announcement in events:
                self._sorter.take(announcement)
            self._archive.settle(CURSOR, events[-1][0], self._sorter.changes())
        self._sorter.advance(now_ms)
        changes = self._sorter.changes()
        if changes:
            self._archive.change(changes)
        self._in_order = True
        if self._sorter.released != released:
            self._shorten()

    async def tick(self, now_ms: int) -> None:
        """`collect`, off the event loop; then the postmen look at what is due."""
        released = self._sorter.released
        await asyncio.to_thread(self.collect, now_ms)
        if self._sorter.released != released:
            for bell in self._bells.values():
                bell.set()

    async def run(
        self,
        channels: Mapping[str, Channel],
        now_ms: Callable[[], int],
        *,
        poll_s: float = 0.5,
    ) -> None:
        """Sort and deliver until cancelled; whoever has opened the channels closes them.

        `now_ms` says the simulated time [ms], and only an instant up to which all events are
        recorded: after a restart that is, once the engine has been handed again what it had not
        saved.
        """
        self._bells = {name: asyncio.Event() for name in channels}
        async with asyncio.TaskGroup() as group:
            for name, channel in channels.items():
                group.create_task(self._deliver_all(name, channel), name=f"postman {name}")
            group.create_task(self._sort_all(now_ms, poll_s), name="mailroom")

    async def flush(self, *, timeout_s: float) -> bool:
        """Wait until nothing that is due is left to deliver; False if that takes too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while (await asyncio.to_thread(self.figures)).due:
                    self._progress.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_GLANCE_S):
                            await self._progress.wait()
                return True
        return False

    def figures(self) -> MailFigures:
        """What lies here and what has become of the rest; reads the archive."""
        states = "SELECT channel, state, count(*) FROM mails GROUP BY state, channel"
        open_now = {(name, state): count for name, state, count in self._archive.rows(states)}
        totals = {
            (name, fate): count
            for name, fate, count in self._archive.rows("SELECT * FROM mail_totals")
        }
        names = sorted({name for name, _ in (*open_now, *totals)} | set(self._bells))
        channels = {
            name: ChannelFigures(
                due=open_now.get((name, "due"), 0) + open_now.get((name, "sending"), 0),
                sent=totals.get((name, "sent"), 0),
                failed=totals.get((name, "failed"), 0),
                trouble=self._troubles.get(name, ""),
            )
            for name in names
        }
        return MailFigures(
            waiting=sum(count for (_, state), count in open_now.items() if state == "waiting"),
            due=sum(figures.due for figures in channels.values()),
            sent=sum(figures.sent for figures in channels.values()),
            failed=sum(figures.failed for figures in channels.values()),
            channels=channels,
        )

    def _begin(self) -> None:
        """The first time, pass over what was recorded before anybody was to be told."""
        if self._archive.rows("SELECT one FROM mailroom"):
            return
        (newest,) = self._archive.rows("SELECT coalesce(max(id), 0) FROM events")[0]
        self._archive.settle(CURSOR, newest, [("INSERT INTO mailroom VALUES (1)", ())])

    def _shorten(self) -> None:
        """Give up the oldest where more is due than may be."""
        rows = self._archive.rows(_OVERFLOW, (self._telling.queue_max,))
        changes = [
            change for seq, channel in rows for change in _finished(seq, channel, "failed", "full")
        ]
        if changes:
            self._archive.change(changes)
            names = sorted({channel for _, channel in rows})
            _log.error(
                "messages to people given up, too many were due", count=len(rows), channels=names
            )

    async def _sort_all(self, now_ms: Callable[[], int], poll_s: float) -> None:
        backoff = Backoff(first_s=poll_s)
        while True:
            self._woken.clear()
            try:
                await self.tick(now_ms())
                await self._give_up_strays()
            except ArchiveError as error:
                self._say_archive(error)
                await asyncio.sleep(backoff.delay_s())
                continue
            backoff.reset()
            self._in_trouble = False
            with suppress(TimeoutError):
                async with asyncio.timeout(poll_s):
                    await self._woken.wait()

    async def _give_up_strays(self) -> None:
        """Mails to channels that there are no more."""
        due = "SELECT seq, channel FROM mails WHERE state IN ('due', 'sending')"
        absent = " AND channel NOT IN (" + ", ".join("?" * len(self._bells)) + ")"
        rows = await asyncio.to_thread(self._archive.rows, due + absent, tuple(self._bells))
        for seq, channel in rows:
            _log.error("message to people given up, its channel is not set up", channel=channel)
            await self._write(_finished(seq, channel, "failed", "no such channel"))

    async def _deliver_all(self, name: str, channel: Channel) -> None:
        """One postman: one mail at a time, in order, for ever."""
        pause = Backoff(first_s=self._first_retry_s, cap_s=60.0)
        refusal = Backoff(first_s=self._first_retry_s, cap_s=300.0)
        bell = self._bells[name]
        while True:
            bell.clear()
            post = await self._next(name)
            if post is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_IDLE_S):
                        await bell.wait()
                continue
            await self._write([(_TRY, (post.seq,))])
            try:
                async with asyncio.timeout(channel.timeout_s):
                    await channel.send(self._notice(post.mail))
            except ChannelRefused as error:
                delay_s = _wait_s(error, refusal)
                await self._put_off(post, channel, str(error), delay_s)
            except (ServiceError, TimeoutError, OSError) as error:
                trouble = str(error) or f"no answer in {channel.timeout_s:g} s"
                if not await self._given_up(post, channel, trouble):
                    await asyncio.sleep(_wait_s(error, pause))
            else:
                pause.reset()
                refusal.reset()
                await self._note_sent(post)

    async def _next(self, name: str) -> _Post | None:
        """The oldest mail of a channel that may be tried now."""
        with suppress(ArchiveError):
            rows = await asyncio.to_thread(self._archive.rows, _NEXT, (name, self._wall_ms()))
            for seq, released_ms, attempts, body in rows:
                mail = msgspec.json.decode(body, type=Mail)
                return _Post(seq, released_ms, attempts, mail)
        return None

    async def _note_sent(self, post: _Post) -> None:
        name = post.mail.channel
        await self._write(_finished(post.seq, name, "sent", ""))
        self._progress.set()
        self._giving_up.discard(name)
        if self._troubles.pop(name, ""):
            _log.info("channel to people works again", channel=name)
        self._delivered += 1
        if self._delivered % _PRUNE_EVERY == 0:
            await self._write([(_PRUNE, (_KEPT,))])

    async def _put_off(self, post: _Post, channel: Channel, trouble: str, delay_s: float) -> None:
        if not await self._given_up(post, channel, trouble):
            retry_ms = self._wall_ms() + round(1000 * delay_s)
            await self._write([(_PUT_OFF, (retry_ms, trouble, post.seq))])

    async def _given_up(self, post: _Post, channel: Channel, trouble: str) -> bool:
        """Report a failed attempt; give the mail up if it has been due for too long."""
        name = post.mail.channel
        late_ms = self._wall_ms() - post.released_ms
        over = late_ms >= 1000 * channel.give_up_s
        said = name in (self._giving_up if over else self._troubles)
        say = _log.debug if said else _log.error if over else _log.warning
        what = "message given up" if over else "message not delivered, trying again"
        say(what, channel=name, id=post.mail.id, trouble=trouble, attempts=post.attempts + 1)
        self._troubles[name] = trouble
        if over:
            self._giving_up.add(name)
            await self._write(_finished(post.seq, name, "failed", trouble))
            self._progress.set()
        return over

    async def _write(self, changes: Sequence[Change]) -> None:
        """Make the changes, however long it takes: what is not noted would be sent twice."""
        backoff = Backoff()
        while True:
            try:
                await asyncio.to_thread(self._archive.change, changes)
            except ArchiveError as error:
                self._say_archive(error)
                await asyncio.sleep(backoff.delay_s())
            else:
                return

    def _say_archive(self, error: ArchiveError) -> None:
        say = _log.debug if self._in_trouble else _log.error
        say("the mailroom cannot write, trying again", trouble=str(error))
        self._in_trouble = True

    def _notice(self, mail: Mail) -> Notice:
        wording = worded(mail, self._zone, self._sites)
        return Notice(
            id=mail.id,
            city=self._city or mail.lines[0].announcement.address.city,
            route=mail.route,
            channel=mail.channel,
            person=mail.person,
            group=mail.group,
            ts=mail.due_ms,
            severity=severity_of(mail),
            resolved=is_over(mail),
            title=wording.title,
            body=wording.body,
            more=mail.more,
            alarms=tuple(
                NoticeLine(
                    happening=line.occasion,
                    district=line.announcement.address.district,
                    domain=line.announcement.address.domain,
                    site=line.announcement.address.site,
                    device=line.announcement.address.device,
                    event=line.announcement.event,
                )
                for line in mail.lines
            ),
        )


def _finished(seq: int, channel: str, fate: Fate, reason: str) -> list[tuple[str, tuple[Any, ...]]]:
    return [(_FINISH, (fate, reason, seq)), (_COUNT, (channel, fate))]


def _wait_s(error: Exception, backoff: Backoff) -> float:
    """How long to wait after a failure: as the channel asks, or ever longer."""
    own_s = backoff.delay_s()
    asked_s = error.retry_after_s if isinstance(error, ChannelError) else None
    return own_s if asked_s is None else min(_LONGEST_WAIT_S, max(own_s, asked_s))
