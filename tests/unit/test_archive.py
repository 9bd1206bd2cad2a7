import json
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from alerts.archive import Archive
from broker.messages import AlarmEvent, Announcement
from city.cityfile import Address
from city.errors import ArchiveError, InputError

STATION = Address("lanting", "east", "air", "park", "aq-1")
STACK = Address("lanting", "west", "emission", "kiln", "stack-1")
EVENT = AlarmEvent(
    rule="smog", event="raised", state="unacknowledged", severity="high", level="H",
    quantity="pm25", value=80.0, limit=75.0, unit="ug/m3", ts=1000, raised=1000,
    message="PM2.5 above 75 ug/m3", message_zh="PM2.5 超过 75 ug/m3",
)  # fmt: skip
MAILS = "CREATE TABLE IF NOT EXISTS mails (id INTEGER PRIMARY KEY, text TEXT NOT NULL)"
MAIL = "INSERT INTO mails VALUES (?, ?)"

WORKING = """
import sys
from pathlib import Path
import msgspec
from alerts.archive import Archive
from broker.messages import AlarmEvent, Announcement
from city.cityfile import Address

event = msgspec.json.decode(sys.argv[2], type=AlarmEvent)
archive = Archive(Path(sys.argv[1]))
archive.create("CREATE TABLE IF NOT EXISTS due (id INTEGER PRIMARY KEY)")
first = max([(archive.snapshot() or (0, b""))[0], *(after for after, _ in archive.inputs())]) + 1
for n in range(first, first + 100_000):
    happened = msgspec.structs.replace(event, number=n)
    archive.record([Announcement(Address("lanting", "east", "air", "park", "aq-1"), happened)])
    archive.note(n, b"%d" % n)
    for place, _ in archive.after("due", 10):
        archive.settle("due", place, [("INSERT INTO due VALUES (?)", (place,))])
    if n % 3 == 0:
        archive.save(n, b"%09d" % n * 300_000)
    print(n, flush=True)
"""

RLIMIT_SCRIPT = """
import json, resource, sys
from pathlib import Path
from alerts.archive import Archive
from city.errors import ArchiveError

archive = Archive(Path(sys.argv[1]))
archive.save(1, b"old" * 100_000)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
error = None
try:
    archive.save(2, b"new" * 4_000_000)
except ArchiveError as raised:
    error = str(raised)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
kept = archive.snapshot() == (1, b"old" * 100_000)
archive.save(2, b"new" * 4_000_000)
print(json.dumps({"error": error, "kept": kept, "after": archive.snapshot()[0]}))
archive.close()
"""


def announced(
    number: int, address: Address = STATION, *, rule: str = "smog", ts: int = 1000
) -> Announcement:
    """One event of an alarm."""
    return Announcement(address, replace(EVENT, number=number, rule=rule, ts=ts))


def take_all_room(disk: Path) -> None:
    """Fill the last bytes of `disk`."""
    with suppress(OSError), (disk / "greedy").open("wb", buffering=0) as file:
        for _ in range(100_000):
            if file.write(bytes(4096)) < 4096:
                return


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the archive lies."""
    return tmp_path / "alarms.sqlite"


@pytest.fixture
def archive(path: Path) -> Iterator[Archive]:
    """An empty archive."""
    archive = Archive(path)
    yield archive
    archive.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if not mount or not unmount:
        pytest.skip("there is no mount on PATH")
    options = [mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if subprocess.run(options, capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("a file system can only be mounted by root")
    yield folder
    subprocess.run([unmount, "-l", str(folder)], timeout=60, check=True)


def test_what_is_recorded_comes_back(archive: Archive) -> None:
    """Events come back as they were, in the order in which they were recorded."""
    announcements = [announced(1), announced(1, STACK), announced(2)]
    archive.record(announcements)

    assert announcements == [found for _, found in archive.after("reader", 10)]


def test_recording_again_changes_nothing(archive: Archive) -> None:
    """What was recorded before is passed over; only new events are counted and appended."""
    archive.record([announced(1), announced(2)])
    again = archive.record([announced(2), announced(3), announced(3)])

    assert (1, 3) == (again, len(archive.after("reader", 10)))


def test_the_first_word_stands(archive: Archive) -> None:
    """An event that is recorded again with another content stays as it was."""
    archive.record([announced(1, ts=1000)])
    archive.record([announced(1, ts=2000)])

    assert [1000] == [found.event.ts for _, found in archive.after("reader", 10)]


def test_nothing_to_record(archive: Archive) -> None:
    """No events are recorded at no cost: the file is not touched."""
    wal = archive.path.with_suffix(".sqlite-wal")
    before = wal.stat().st_size

    assert (0, before) == (archive.record([]), wal.stat().st_size)


def test_events_of_other_devices_are_others(archive: Archive) -> None:
    """The same number of the same rule names another event in another city, district or domain."""
    places = [STATION, replace(STATION, city="other"), replace(STATION, district="west")]

    assert 3 == archive.record([announced(1, place) for place in places])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET body = ''",
        "DELETE FROM events",
        "INSERT OR REPLACE INTO events SELECT * FROM events",
        "REPLACE INTO events SELECT 7, city, district, domain, site, device, rule, number, ts, '' FROM events",
    ],
)
def test_the_audit_trail_only_grows(archive: Archive, statement: str) -> None:
    """Whatever statement would change or remove an event is refused, and changes nothing."""
    archive.record([announced(1)])
    with pytest.raises(ArchiveError, match=r"alarms\.sqlite: the audit trail only grows"):
        archive.change([(statement, ())])

    assert [(1, announced(1))] == archive.after("reader", 10)


def test_the_audit_trail_only_grows_for_others_too(archive: Archive) -> None:
    """A tool that opens the file is refused as well."""
    archive.record([announced(1)])
    with (
        sqlite3.connect(archive.path) as other,
        pytest.raises(sqlite3.IntegrityError, match="the audit trail only grows"),
    ):
        other.execute("DELETE FROM events")
    other.close()

    assert 1 == len(archive.history())


def test_a_cursor_passes_events(archive: Archive) -> None:
    """A reader gets what its own cursor has not passed, up to what it asks for."""
    archive.record([announced(n) for n in range(1, 6)])
    archive.settle("mails", 2)
    mails = [place for place, _ in archive.after("mails", 2)]

    assert ([3, 4], [1, 2]) == (mails, [place for place, _ in archive.after("orders", 2)])


def test_a_cursor_does_not_move_back(archive: Archive) -> None:
    """What a reader has settled once does not come again."""
    archive.record([announced(n) for n in range(1, 6)])
    archive.settle("mails", 4)
    archive.settle("mails", 1)

    assert [5] == [place for place, _ in archive.after("mails", 10)]


def test_changes_and_cursor_are_one(archive: Archive) -> None:
    """When one change fails neither the others nor the cursor's move have happened."""
    archive.create(MAILS)
    archive.record([announced(1)])
    with pytest.raises(ArchiveError, match="UNIQUE"):
        archive.settle("mails", 1, [(MAIL, (1, "first")), (MAIL, (1, "again"))])

    assert ([], 1) == (archive.rows("SELECT * FROM mails"), len(archive.after("mails", 10)))


def test_changes_are_made(archive: Archive) -> None:
    """Changes are there with the cursor's move, also when the archive is opened again."""
    archive.create(MAILS)
    archive.record([announced(1)])
    archive.settle("mails", 1, [(MAIL, (1, "first"))])
    archive.close()
    again = Archive(archive.path)
    again.create(MAILS)
    found = again.rows("SELECT text FROM mails WHERE id = ?", (1,)), again.after("mails", 10)
    again.close()

    assert ([("first",)], []) == found


def test_there_is_no_snapshot_at_first(archive: Archive) -> None:
    """A new archive has neither snapshot nor inputs."""
    found = archive.snapshot(), archive.inputs()

    assert (None, []) == found


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_a_snapshot_replaces_the_one_before(archive: Archive, size: int) -> None:
    """The newest snapshot comes back whole, whatever its size; of the older nothing is left."""
    archive.save(1, b"old" * 1_000_000)
    archive.save(2, b"x" * size)
    [(kept,)] = archive.rows("SELECT sum(length(body)) FROM parts")

    assert ((2, b"x" * size), size) == (archive.snapshot(), kept)


def test_inputs_come_back_in_order(archive: Archive) -> None:
    """Inputs are kept in the order in which they were noted."""
    bodies = [(3, b"first"), (3, b"second"), (4, b"third")]
    for after, body in bodies:
        archive.note(after, body)

    assert bodies == archive.inputs()


def test_a_snapshot_covers_older_inputs(archive: Archive) -> None:
    """Inputs after a group that the snapshot covers are forgotten with it, later ones are not."""
    for after in (1, 2, 3):
        archive.note(after, b"%d" % after)
    archive.save(2, b"state")

    assert [(3, b"3")] == archive.inputs()


def test_a_snapshot_says_which_inputs_it_covers(archive: Archive) -> None:
    """An input that came while the state was being saved is not forgotten, whatever its group."""
    covered = archive.note(2, b"before the state was captured")
    archive.note(2, b"after it")
    archive.save(2, b"state", inputs=covered)

    assert [(2, b"after it")] == archive.inputs()


def test_numbers_of_inputs_rise_for_ever(archive: Archive, path: Path) -> None:
    """The number of an input that is forgotten is not given again, nor after opening anew."""
    first = archive.note(1, b"")
    archive.save(1, b"")
    archive.close()
    again = Archive(path)
    second = again.note(1, b"")
    again.close()

    assert first < second


def test_history_is_newest_first(archive: Archive) -> None:
    """History begins with the newest instant; of one instant, with what was recorded last."""
    archive.record([announced(1, ts=5), announced(2, ts=9), announced(3, ts=7), announced(4, ts=7)])

    assert [2, 4, 3, 1] == [found.event.number for found in archive.history()]


def test_history_of_a_time(archive: Archive) -> None:
    """The beginning of the time belongs to it, its end does not."""
    archive.record([announced(ts, ts=ts) for ts in range(1, 9)])
    found = [found.event.ts for found in archive.history(since_ms=3, until_ms=6)]

    assert [5, 4, 3] == found


def test_history_is_bounded(archive: Archive) -> None:
    """Of much history the newest is given."""
    archive.record([announced(ts, ts=ts) for ts in range(1, 9)])

    assert [8, 7] == [found.event.ts for found in archive.history(limit=2)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*/*/*", {"aq-1", "stack-1"}),
        ("park/*/*", {"aq-1"}),
        ("*/stack-1/smog", {"stack-1"}),
        ("*/stack-*/*", {"stack-1"}),
        ("*/*/fog", set()),
    ],
)
def test_history_of_some_alarms(archive: Archive, pattern: str, expected: set[str]) -> None:
    """A pattern names alarms by site, device and rule, each with `*` for any text."""
    archive.record([announced(1), announced(1, STACK)])

    assert expected == {found.address.device for found in archive.history(pattern=pattern)}


def test_a_pattern_that_names_no_alarms(archive: Archive) -> None:
    """A pattern of another shape is refused with the shape that it must have."""
    with pytest.raises(InputError, match=r"'aq-1' names no alarms; write site/device/rule"):
        archive.history(pattern="aq-1")


def test_a_second_process_is_refused(archive: Archive) -> None:
    """Another process on the same archive is told whose it is and what to do."""
    script = "import sys; from pathlib import Path; from alerts.archive import Archive; "
    script += "Archive(Path(sys.argv[1]))"
    command = [sys.executable, "-c", script, str(archive.path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert ended.returncode
    assert "is used by another cityeye; stop it, or choose another directory" in ended.stderr


def test_a_file_that_is_no_archive(path: Path) -> None:
    """A file of something else is refused by its name with what to do, and left alone."""
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(ArchiveError, match=r"alarms\.sqlite: cannot be used .* move it away"):
        Archive(path)

    assert path.read_bytes().startswith(b"not a database")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """Where no folder can be made, the error says which file was to be opened, and why not."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArchiveError, match=r"alarms\.sqlite: cannot be opened: "):
        Archive(tmp_path / "file" / "alarms.sqlite")


def test_a_full_disk(small_disk: Path) -> None:
    """On a full disk nothing is half done, the error says what to do, and later it goes on."""
    archive = Archive(small_disk / "alarms.sqlite")
    archive.save(1, b"old" * 500_000)
    archive.record([announced(1)])
    take_all_room(small_disk)
    with pytest.raises(ArchiveError, match=r"alarms\.sqlite: .*full; make room on the disk"):
        archive.save(2, b"new" * 1_500_000)
    kept = archive.snapshot(), len(archive.history())
    (small_disk / "greedy").unlink()
    archive.save(2, b"new" * 500_000)
    later = archive.record([announced(2)]), archive.snapshot()
    archive.close()

    assert ((1, b"old" * 500_000), 1) == kept
    assert (1, (2, b"new" * 500_000)) == later


def test_a_file_that_must_not_grow(path: Path) -> None:
    """When the system refuses to let the file grow, the old snapshot stands; later it goes on."""
    if resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY:
        pytest.skip("the size of files is limited already")
    command = [sys.executable, "-c", RLIMIT_SCRIPT, str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = json.loads(ended.stdout)

    assert (True, 2) == (said["kept"], said["after"])
    assert str(path) in said["error"]


def test_what_is_left_of_an_unfinished_snapshot(archive: Archive) -> None:
    """Parts of a snapshot that a crash has cut short are gone when the archive is opened again."""
    archive.save(1, b"state")
    archive._keep_part(b"the beginning of a later one")
    archive.close()
    again = Archive(archive.path)
    found = again.snapshot(), again.rows("SELECT body FROM parts")
    again.close()

    assert ((1, b"state"), [(b"state",)]) == found


def test_many_threads(archive: Archive) -> None:
    """Threads that record, note, save and read at the same time lose nothing."""

    def work(thread: int) -> None:
        for n in range(20):
            archive.record([announced(n, rule=f"rule-{thread}")])
            archive.note(n, b"input")
            archive.save(-1, b"%d" % thread * 1_500_000)
            archive.settle(f"cursor-{thread}", archive.after(f"cursor-{thread}", 1)[0][0])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _, state = archive.snapshot() or (0, b"")

    assert (80, 80) == (len(archive.history()), len(archive.inputs()))
    assert (1_500_000, 1) == (len(state), len(set(state)))


def worked_until_killed(path: Path, rounds: int) -> int:
    """Have another process work until it is killed; the last round that it reported."""
    event = msgspec.json.encode(EVENT).decode()
    command = [sys.executable, "-c", WORKING, str(path), event]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(rounds)]
        child.kill()
        said += child.stdout.readlines()
    return int(said[-1])


@pytest.mark.parametrize("kills", [(1, 2, 9), (5, 20, 1), (30, 3, 4)])
def test_killed_while_working(path: Path, kills: tuple[int, ...]) -> None:
    """After kill -9 events, cursors, what is due, inputs and snapshot agree with one another."""
    for rounds in kills:
        reported = worked_until_killed(path, rounds)
        archive = Archive(path)
        covered, state = archive.snapshot() or (0, b"")
        events = [found.event.number for found in archive.history()][::-1]
        inputs = [after for after, _ in archive.inputs()]
        due = [place for (place,) in archive.rows("SELECT id FROM due ORDER BY id")]
        open_events = [place for place, _ in archive.after("due", 10)]
        archive.close()
        newest = events[-1]

        assert list(range(1, newest + 1)) == events
        assert list(range(1, newest + 1)) == due + open_events
        assert newest in {reported, reported + 1}
        assert (0, b"%09d" % covered * 300_000) == (covered % 3, state or b"%09d" % 0 * 300_000)
        assert inputs in (list(range(covered + 1, newest + 1)), list(range(covered + 1, newest)))
