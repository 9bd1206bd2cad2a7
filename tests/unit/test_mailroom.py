import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from alerts.archive import Archive
from alerts.channels import ChannelError, ChannelRefused, Notice
from alerts.mailroom import Mailroom
from alerts.routes import Route, Telling
from broker.messages import AlarmEvent, Announcement
from city.cityfile import Address
from city.errors import ArchiveError

NOON = round(1000 * datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp())
LATER = NOON + 3_600_000
Until = Callable[[Callable[[], object]], Awaitable[None]]


def happened(number: int = 0, **changes: Any) -> Announcement:
    """An alarm of its own cause, so many seconds after noon."""
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
        "ts": NOON + 1000 * number,
        "raised": NOON,
        "cause": f"section-{number}",
    }
    address = Address("lanting", "old-town", "gas", "foundry-road", f"p-{number}")
    return Announcement(address, AlarmEvent(**(fields | changes)))


class Memory:
    """A channel that keeps what it gets, after failing as it is told."""

    def __init__(
        self, *failures: Exception, give_up_s: float = 3600, fails: Exception | None = None
    ) -> None:
        self.timeout_s = 0.2
        self.give_up_s = give_up_s
        self.got: list[Notice] = []
        self.tried: list[str] = []
        self.at_s: list[float] = []
        self._failures = list(failures)
        self._fails = fails

    @property
    def groups(self) -> list[str]:
        """What it got is about."""
        return [notice.group for notice in self.got]

    async def send(self, notice: Notice) -> None:
        """Fail, or take it."""
        self.tried.append(notice.group)
        self.at_s.append(asyncio.get_running_loop().time())
        failure = self._failures.pop(0) if self._failures else self._fails
        if isinstance(failure, TimeoutError):
            await asyncio.sleep(10)
        if failure is not None:
            raise failure
        self.got.append(notice)

    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    """An archive of its own."""
    archive = Archive(tmp_path / "alarms.sqlite")
    yield archive
    archive.close()


def mailroom_of(archive: Archive, *channels: str, **options: Any) -> Mailroom:
    """A mailroom with one route to all of these channels."""
    route = Route(id="r", channels=channels or ("console",), group_wait_ms=0)
    telling = Telling((route,), options.pop("queue_max", 100))
    return Mailroom(archive, telling, UTC, **({"first_retry_s": 0.02} | options))


@asynccontextmanager
async def running(mailroom: Mailroom, **channels: Memory) -> AsyncIterator[None]:
    """The mailroom runs within the block, an hour after noon."""
    task = asyncio.create_task(mailroom.run(channels, lambda: LATER, poll_s=0.02))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_delivered(archive: Archive, until: Until) -> None:
    """What happens to alarms is delivered, in its order, and counted."""
    mailroom, console = mailroom_of(archive, city="lanting"), Memory()
    archive.record([happened(number) for number in range(5)])
    async with running(mailroom, console=console):
        await until(lambda: len(console.got) == 5)
        assert await mailroom.flush(timeout_s=60)

    assert [f"section-{number}" for number in range(5)] == console.groups
    assert (5, 0, 0) == (mailroom.figures().sent, mailroom.figures().due, mailroom.figures().failed)


async def test_notice(archive: Archive, until: Until) -> None:
    """A notice says where, what, when and for whom, and carries the event as it was."""
    mailroom, console = mailroom_of(archive), Memory()
    announcement = happened(3)
    archive.record([announcement])
    async with running(mailroom, console=console):
        await until(lambda: console.got)
    (notice,) = console.got

    assert ("lanting", "r", "console", "section-3", NOON + 3000, "high", False) == (
        notice.city, notice.route, notice.channel, notice.group, notice.ts, notice.severity,
        notice.resolved,
    )  # fmt: skip
    assert [announcement.event] == [line.event for line in notice.alarms]
    assert "[high] raised: gas-low-pressure foundry-road/p-3" == notice.title


async def test_restart(archive: Archive, until: Until) -> None:
    """After a restart what was sent is not sent again, and what is new is."""
    console = Memory()
    for number in range(3):
        mailroom = mailroom_of(archive)
        archive.record([happened(number)])
        async with running(mailroom, console=console):
            await until(lambda: console.got and console.got[-1].group == f"section-{number}")  # noqa: B023 - it is awaited in the loop
            await mailroom.flush(timeout_s=60)

    assert ["section-0", "section-1", "section-2"] == console.groups
    assert 3 == mailroom_of(archive).figures().sent


async def test_in_flight(archive: Archive, until: Until) -> None:
    """What was being sent when everything ended is sent again, with the same id."""
    console = Memory(TimeoutError())
    archive_it = mailroom_of(archive)
    archive.record([happened()])
    async with running(archive_it, console=console):
        await until(lambda: console.tried)
    (before,) = archive.rows("SELECT id FROM mails WHERE state = 'sending'")[0]
    async with running(mailroom_of(archive), console=console):
        await until(lambda: console.got)

    assert [before] == [notice.id for notice in console.got]


async def test_old_events(archive: Archive, until: Until) -> None:
    """What was recorded before anybody was to be told is not told."""
    archive.record([happened(0)])
    mailroom, console = mailroom_of(archive), Memory()
    archive.record([happened(1)])
    async with running(mailroom, console=console):
        await until(lambda: console.got)

    assert ["section-1"] == console.groups


async def test_trouble(archive: Archive, until: Until) -> None:
    """A channel in trouble gets its mails in their order once it works, and holds up no other."""
    mailroom = mailroom_of(archive, "slow", "fast")
    slow, fast = Memory(ChannelError("down"), TimeoutError(), fails=ChannelError("down")), Memory()
    archive.record([happened(number) for number in range(3)])
    async with running(mailroom, slow=slow, fast=fast):
        await until(lambda: len(fast.got) == 3)
        await until(lambda: len(slow.tried) > 3)
        slow._fails = None
        await until(lambda: len(slow.got) == 3)

    assert ["section-0"] * (len(slow.tried) - 2) + ["section-1", "section-2"] == slow.tried
    assert ["section-0", "section-1", "section-2"] == slow.groups


async def test_reported_once(archive: Archive, until: Until) -> None:
    """Trouble is said once, and its end; the rest is for whoever debugs."""
    mailroom, console = mailroom_of(archive), Memory(*[ChannelError("down")] * 3)
    archive.record([happened()])
    with structlog.testing.capture_logs() as entries:
        async with running(mailroom, console=console):
            await until(lambda: len(console.tried) == 2)
            assert "down" == mailroom.figures().channels["console"].trouble
            await until(lambda: console.got)
            await mailroom.flush(timeout_s=60)

    assert ["warning", "debug", "debug", "info"] == [entry["log_level"] for entry in entries]
    assert "" == mailroom.figures().channels["console"].trouble


async def test_refused(archive: Archive, until: Until) -> None:
    """A mail that a channel refuses is put off, and those behind it go first."""
    mailroom = mailroom_of(archive, first_retry_s=2.0)
    console = Memory(ChannelRefused("HTTP status 400"))
    archive.record([happened(number) for number in range(3)])
    async with running(mailroom, console=console):
        await until(lambda: len(console.got) == 3)

    assert ["section-0", "section-1", "section-2", "section-0"] == console.tried


async def test_asked_to_wait(archive: Archive, until: Until) -> None:
    """A channel that asks to wait is left alone for so long."""
    mailroom, console = mailroom_of(archive), Memory(ChannelError("busy", retry_after_s=0.4))
    archive.record([happened()])
    async with running(mailroom, console=console):
        await until(lambda: console.got)

    assert console.at_s[1] - console.at_s[0] >= 0.4


@pytest.mark.parametrize("failure", [ChannelError("down"), ChannelRefused("HTTP status 400")])
async def test_given_up(archive: Archive, until: Until, failure: Exception) -> None:
    """What cannot be delivered in time is given up, counted and reported; the next is tried."""
    mailroom, console = mailroom_of(archive), Memory(fails=failure, give_up_s=0.1)
    archive.record([happened(0)])
    with structlog.testing.capture_logs() as entries:
        async with running(mailroom, console=console):
            await until(lambda: mailroom.figures().failed == 1)
            console._fails = None
            archive.record([happened(1)])
            await until(lambda: mailroom.figures().sent == 1)

    assert ["section-1"] == console.groups
    assert [("failed", str(failure))] == archive.rows(
        "SELECT state, reason FROM mails WHERE state != 'sent'"
    )
    assert 1 == [entry["log_level"] for entry in entries].count("error")


async def test_tried_once_at_least(archive: Archive, until: Until) -> None:
    """What was due long before a restart is tried before it is given up."""
    now_ms = 1_000_000
    first = mailroom_of(archive, wall_ms=lambda: now_ms)
    archive.record([happened()])
    await first.tick(LATER)
    now_ms += 86_400_000
    console = Memory()
    async with running(mailroom_of(archive, wall_ms=lambda: now_ms), console=console):
        await until(lambda: console.got)

    assert ["section-0"] == console.groups


async def test_too_many(archive: Archive, until: Until) -> None:
    """When more is due than may be, the oldest are given up, counted and reported."""
    mailroom, console = mailroom_of(archive, queue_max=3), Memory()
    archive.record([happened(number) for number in range(10)])
    with structlog.testing.capture_logs() as entries:
        await mailroom.tick(LATER)
    async with running(mailroom, console=console):
        await until(lambda: len(console.got) == 3)
        await mailroom.flush(timeout_s=60)

    assert ["section-0", "section-8", "section-9"] == console.groups
    assert (7, 3) == (mailroom.figures().failed, mailroom.figures().sent)
    assert [("error", 7)] == [(entry["log_level"], entry["count"]) for entry in entries]


async def test_channel_gone(archive: Archive, until: Until) -> None:
    """What is due at a channel that is no longer set up is given up, and said."""
    mailroom, console = mailroom_of(archive, "console", "gone"), Memory()
    archive.record([happened()])
    async with running(mailroom, console=console):
        await until(lambda: mailroom.figures().failed == 1)
        await until(lambda: console.got)

    assert "no such channel" == archive.rows("SELECT reason FROM mails WHERE state='failed'")[0][0]


async def test_full_disk(archive: Archive, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk is full nothing is sent, and what was sent meanwhile is not sent again."""
    change, broken = archive.change, False

    def changed(changes: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        if broken:
            raise ArchiveError("disk is full")
        change(changes)

    monkeypatch.setattr(archive, "change", changed)
    mailroom, console = mailroom_of(archive), Memory(TimeoutError())
    archive.record([happened(0)])
    with structlog.testing.capture_logs() as entries:
        async with running(mailroom, console=console):
            await until(lambda: console.tried)
            broken = True
            archive.record([happened(1)])
            await until(lambda: any("cannot write" in entry["event"] for entry in entries))
            broken = False
            await until(lambda: len(console.got) == 2)
            await mailroom.flush(timeout_s=60)

    assert ["section-0", "section-1"] == console.groups


async def test_held_back(archive: Archive) -> None:
    """What is not due yet waits, and survives."""
    route = Route(id="r", channels=("console",), group_wait_ms=7_200_000)
    mailroom = Mailroom(archive, Telling((route,)), UTC)
    archive.record([happened()])
    await mailroom.tick(LATER)
    again = Mailroom(archive, Telling((route,)), UTC)
    waiting = again.figures().waiting
    await again.tick(LATER + 3_600_000)

    assert [1, 0, 1] == [waiting, again.figures().waiting, again.figures().due]


async def test_who_would_be_told(archive: Archive) -> None:
    """Who would be told can be asked, and nothing is sent."""
    mailroom = mailroom_of(archive, "console", "screen")
    recipients = mailroom.who_would_be_told(happened())

    assert ["console", "screen"] == [recipient.channel for recipient in recipients]
    assert 0 == mailroom.figures().waiting


async def test_woken(archive: Archive, until: Until) -> None:
    """Who says that events were recorded need not wait for the next look."""
    mailroom, console = mailroom_of(archive), Memory()
    channels: Mapping[str, Memory] = {"console": console}
    task = asyncio.create_task(mailroom.run(channels, lambda: LATER, poll_s=600))
    await asyncio.sleep(0)
    archive.record([happened()])
    mailroom.wake()
    await until(lambda: console.got)
    task.cancel()
    await asyncio.wait({task})

    assert ["section-0"] == console.groups


async def test_flush_waits_no_longer(archive: Archive) -> None:
    """Waiting for delivery ends in time though a channel is down."""
    mailroom, console = mailroom_of(archive), Memory(fails=ChannelError("down"))
    archive.record([happened()])
    await mailroom.tick(LATER)
    async with running(mailroom, console=console):
        assert not await mailroom.flush(timeout_s=0.1)
