import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from alerts.archive import Archive
from alerts.recorder import Events, Input, Recorder, State, Told
from broker.messages import AlarmEvent, Announcement
from city.cityfile import Address
from city.errors import ArchiveError

NODE = Address("city", "east", "gas", "main", "node-1")
Until = Callable[..., Awaitable[None]]


class Disk:
    """An archive's room: while it is full, nothing is written."""

    def __init__(self, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.refused = 0
        for name in ("record", "note", "save"):
            monkeypatch.setattr(archive, name, self._guarded(getattr(archive, name)))

    def _guarded(self, work: Callable[..., object]) -> Callable[..., object]:
        def guarded(*given: object, **named: object) -> object:
            if self.full:
                self.refused += 1
                raise ArchiveError("alarms.sqlite: disk is full; make room on the disk")
            return work(*given, **named)

        return guarded


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """An archive."""
    archive = Archive(tmp_path / "alarms.sqlite")
    yield archive
    archive.close()


@pytest.fixture
def disk(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The room of that archive."""
    return Disk(archive, monkeypatch)


@pytest.fixture
async def recorder(archive: Archive, disk: Disk) -> AsyncIterator[Recorder]:
    """A working recorder."""
    assert not disk.full
    recorder = Recorder(archive)
    working = asyncio.create_task(recorder.run(), name="recorder")
    yield recorder
    working.cancel()
    await asyncio.wait([working], timeout=60)


def happened(number: int) -> Events:
    """One event."""
    event = AlarmEvent(
        rule="pressure", event="raised", state="unacknowledged", severity="high", level="L",
        quantity="gas_pressure", value=80, limit=85, unit="kPa", ts=number, raised=0, number=number,
    )  # fmt: skip
    return Events((Announcement(NODE, event),))


async def settled(recorder: Recorder) -> None:
    """Wait until the recorder has made everything durable."""
    async with asyncio.timeout(60):
        await recorder.settled()


async def test_seen_when_durable(archive: Archive, recorder: Recorder) -> None:
    """Whoever is told of events finds them in the archive."""
    found: list[int] = []
    recorder.recorded.append(lambda _: found.append(len(archive.history())))
    recorder.put(happened(1))
    recorder.put(happened(2))
    await settled(recorder)

    assert [1, 2] == found


async def test_full_disk_holds_back(
    archive: Archive, disk: Disk, recorder: Recorder, until: Until
) -> None:
    """While the archive takes nothing, nobody is told of anything, and the trouble is named."""
    told: list[str] = []
    recorder.recorded.append(lambda _: told.append("events"))
    disk.full = True
    recorder.put(happened(1))
    recorder.put(Told(lambda: told.append("told")))
    await until(lambda: disk.refused > 1)
    held = (list(told), recorder.trouble)
    disk.full = False
    await settled(recorder)

    assert ([], "alarms.sqlite: disk is full; make room on the disk") == held
    assert (["events", "told"], None, 1) == (told, recorder.trouble, len(archive.history()))


async def test_one_state_waits(disk: Disk, recorder: Recorder, until: Until) -> None:
    """However long nothing can be recorded, of the states only the newest waits."""
    made: list[int] = []

    def state(number: int) -> State:
        def body() -> bytes:
            made.append(number)
            return b"state"

        return State(number, body)

    disk.full = True
    recorder.put(happened(1))
    await until(lambda: disk.refused)
    for number in range(1, 9):
        recorder.put(state(number))
    disk.full = False
    await settled(recorder)

    assert ([8], 8) == (made, recorder.covered)


async def test_state_covers_inputs_before_it(archive: Archive, recorder: Recorder) -> None:
    """A state makes the inputs before it needless, and no later one."""
    recorder.put(Input(1, b"before"))
    recorder.put(State(1, lambda: b"state"))
    recorder.put(Input(1, b"after"))
    await settled(recorder)

    assert ((1, b"state"), [(1, b"after")]) == (archive.snapshot(), archive.inputs())


async def test_repeated_event(archive: Archive, recorder: Recorder) -> None:
    """An event that is handed in again after a restart is recorded once."""
    recorder.put(happened(1))
    recorder.put(happened(1))
    await settled(recorder)

    assert [1] == [one.event.number for one in archive.history()]
