import json
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from city.errors import SpoolError, SpoolFull
from ingest.ledger import DeadLetter, Fate, Ledger
from ingest.spool import Group, Message, Spool
from ingest.store import Point, PointKey

MESSAGES = st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=40)), max_size=5)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
POINTS = st.lists(
    st.builds(
        Point,
        st.builds(PointKey, TEXTS, st.just((("part", "ledger"),))),
        st.integers(-(2**53), 2**53),
        st.dictionaries(TEXTS, st.floats(allow_nan=False), max_size=3),
        st.dictionaries(TEXTS, st.integers(-(2**63), 2**63 - 1), max_size=3),
        st.dictionaries(TEXTS, TEXTS, max_size=3),
    ),
    max_size=3,
)
DEAD = st.lists(
    st.builds(
        DeadLetter,
        st.sampled_from([Fate.QUARANTINED, Fate.REFUSED]),
        st.sampled_from(["not-json", "bad-topic"]),
        TEXTS,
        st.binary(max_size=20),
        st.binary(max_size=40),
    ),
    max_size=3,
)
GROUPS = st.builds(Group, MESSAGES, POINTS, st.integers(0, 3), DEAD)

OpenSpool = Callable[..., Spool]

RLIMIT_SCRIPT = """
import json, resource, sys
from pathlib import Path
from city.errors import SpoolError
from ingest.spool import Group, Spool

spool = Spool(Path(sys.argv[1]), reserve_bytes=0)
group = Group([(b"topic", b"x" * 1000)] * 100)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
error, appended = None, 0
while error is None and appended < 100:
    try:
        spool.append(group)
        appended += 1
    except SpoolError as raised:
        error = str(raised)
kept = spool.ledger().received
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
spool.append(group)
print(json.dumps({"error": error, "appended": appended, "kept": kept,
                  "after": spool.ledger().received}))
spool.close()
"""


def numbered(start: int, count: int, *, size: int = 10) -> list[Message]:
    """Messages whose payloads are their numbers."""
    return [(b"topic", str(n).zfill(size).encode()) for n in range(start, start + count)]


def letter(payload: bytes = b"payload", *, reason: str = "not-json") -> DeadLetter:
    """A quarantined message."""
    return DeadLetter(Fate.QUARANTINED, reason, "detail", b"topic", payload)


def fill(spool: Spool, group: Group) -> int:
    """Append `group` until there is no room; how many times it went in."""
    for count in range(10_000):
        try:
            spool.append(group)
        except SpoolFull:
            return count
    pytest.fail("the spool never got full")


def take_all_room(disk: Path) -> None:
    """Fill the last bytes of `disk`."""
    with suppress(OSError), (disk / "greedy").open("wb", buffering=0) as file:
        for _ in range(100_000):
            if file.write(bytes(4096)) < 4096:
                return


def stored(spool: Spool) -> list[Message]:
    """Every message that is not settled."""
    return [m for _, messages, _ in spool.after(spool.settled, 10**9) for m in messages]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the spool lies."""
    return tmp_path / "spool.sqlite"


@pytest.fixture
def open_spool(path: Path) -> Iterator[OpenSpool]:
    """Opens the spool, after closing the one that was opened before."""
    opened: list[Spool] = []

    def reopen(**options: int) -> Spool:
        for spool in opened:
            spool.close()
        opened[:] = [Spool(path, **{"reserve_bytes": 0, **options})]
        return opened[0]

    yield reopen
    for spool in opened:
        spool.close()


@pytest.fixture
def spool(open_spool: OpenSpool) -> Spool:
    """An empty spool."""
    return open_spool()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if not mount or not unmount:
        pytest.skip("there is no mount on PATH")
    options = [mount, "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if subprocess.run(options, capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("a file system can only be mounted by root")
    yield folder
    subprocess.run([unmount, "-l", str(folder)], timeout=60, check=True)


@settings(max_examples=25, deadline=None)
@given(st.lists(GROUPS, max_size=6))
def test_what_is_appended_comes_back(groups: Sequence[Group]) -> None:
    """Messages and points come back as they were appended, in order, after opening anew."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder) / "spool.sqlite", reserve_bytes=0)
        for group in groups:
            spool.append(group)
        spool.close()
        spool = Spool(Path(folder) / "spool.sqlite", reserve_bytes=0)
        found = [(messages, points) for _, messages, points in spool.after(0, 10**9)]
        spool.close()
    expected = [(list(g.messages), list(g.points)) for g in groups if g.messages or g.points]

    assert expected == found


class SpoolLife(RuleBasedStateMachine):
    """Appends, settles with refusals, and opens anew, beside a model of lists and numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.pending: list[tuple[int, list[Message]]] = []
        self.counts = dict.fromkeys(("received", *Fate), 0)
        self.reasons: dict[str, int] = {}

    @initialize()
    def begin(self) -> None:
        """Start with an empty spool with a short tail."""
        self.spool = self.opened()

    def opened(self) -> Spool:
        """The spool on its file."""
        path = Path(self.folder.name) / "spool.sqlite"
        return Spool(path, tail_messages=4, reserve_bytes=0)

    def count_dead(self, letters: Sequence[DeadLetter]) -> None:
        """Count `letters` in the model."""
        for dead in letters:
            self.counts[dead.fate] += 1
            key = f"{dead.fate.value}:{dead.reason}"
            self.reasons[key] = self.reasons.get(key, 0) + 1

    @rule(group=GROUPS)
    def append(self, group: Group) -> None:
        """Append a group."""
        number = self.spool.append(group)
        self.counts["received"] += group.received
        self.counts[Fate.DUPLICATE] += group.duplicates
        self.count_dead(group.dead)
        if group.messages or group.points:
            self.pending.append((number, list(group.messages)))

    @rule(groups=st.integers(1, 3), refused=st.integers(0, 3))
    def settle(self, groups: int, refused: int) -> None:
        """Settle the oldest groups but for some messages that the store refused."""
        settled, self.pending = self.pending[:groups], self.pending[groups:]
        if settled:
            messages = [message for _, found in settled for message in found]
            letters = [DeadLetter(Fate.REFUSED, "store", "", *m) for m in messages[:refused]]
            written = len(messages) - len(letters)
            self.spool.settle(settled[-1][0], written=written, refused=letters)
            self.counts[Fate.WRITTEN] += written
            self.count_dead(letters)

    @rule()
    def reopen(self) -> None:
        """Open the same file anew."""
        self.spool.close()
        self.spool = self.opened()

    @invariant()
    def the_ledger_says_what_happened(self) -> None:
        """The ledger has the model's counts, and balances."""
        pending = sum(len(messages) for _, messages in self.pending)
        expected = Ledger(
            received=self.counts["received"],
            pending=pending,
            reasons=self.reasons,
            **{fate.value: self.counts[fate] for fate in Fate},
        )

        assert expected == self.spool.ledger()
        assert expected.balanced

    @invariant()
    def what_is_pending_is_there(self) -> None:
        """Exactly the groups that are not settled come after what is settled."""
        found = [(number, m) for number, m, _ in self.spool.after(self.spool.settled, 10**9)]

        assert self.pending == found

    def teardown(self) -> None:
        """Remove the file."""
        if hasattr(self, "spool"):
            self.spool.close()
        self.folder.cleanup()


SpoolLife.TestCase.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
test_the_life_of_a_spool = SpoolLife.TestCase


def test_after_bounds_what_it_reads(spool: Spool) -> None:
    """As many whole groups are read as the bound allows."""
    for start in (0, 10, 20):
        spool.append(Group(numbered(start, 10)))

    assert [1, 2] == [number for number, _, _ in spool.after(0, 20)]


def test_after_reads_at_least_one(spool: Spool) -> None:
    """A group larger than the bound is still read."""
    spool.append(Group(numbered(0, 10)))

    assert [1] == [number for number, _, _ in spool.after(0, 1)]


def test_nothing_to_store_makes_no_group(spool: Spool) -> None:
    """A group of repeats and dead letters is counted and gets no number of its own."""
    number = spool.append(Group([], duplicates=2, dead=[letter()]))

    assert (0, 3, 0) == (number, spool.ledger().received, spool.newest)


def test_settled_groups_stay_as_the_tail(open_spool: OpenSpool) -> None:
    """Settled messages are still known as recent, even after opening anew."""
    spool = open_spool(tail_messages=20)
    spool.settle(spool.append(Group(numbered(0, 10))), written=10)
    spool = open_spool(tail_messages=20)

    assert numbered(0, 10) == list(spool.recent())


def test_the_tail_is_pruned(open_spool: OpenSpool) -> None:
    """Of the settled groups only those remain that hold some of the newest messages."""
    spool = open_spool(tail_messages=15)
    for start in range(0, 50, 10):
        spool.settle(spool.append(Group(numbered(start, 10))), written=10)

    assert numbered(30, 20) == [m for _, messages, _ in spool.after(0, 1000) for m in messages]


def test_what_is_pending_is_never_pruned(open_spool: OpenSpool) -> None:
    """However short the tail is, what the store does not have stays."""
    spool = open_spool(tail_messages=1)
    for start in range(0, 50, 10):
        spool.append(Group(numbered(start, 10)))
    spool.settle(2, written=20)

    assert numbered(20, 30) == stored(spool)


def test_numbers_go_on_after_opening_anew(open_spool: OpenSpool) -> None:
    """A number is never used twice, even when all groups are gone."""
    spool = open_spool(tail_messages=0)
    spool.settle(spool.append(Group(numbered(0, 10))), written=10)
    spool = open_spool(tail_messages=0)

    assert 2 == spool.append(Group(numbered(10, 10)))


def test_dead_letters_are_kept(open_spool: OpenSpool) -> None:
    """Dead letters keep reason, detail, topic and payload; the newest come first."""
    letters = [letter(b"\x00\xff"), DeadLetter(Fate.REFUSED, "store", "why", b"\xfe", b"")]
    open_spool().append(Group([], dead=letters))
    spool = open_spool()

    assert letters[::-1] == spool.dead_letters()


def test_dead_letters_are_bounded_by_number(open_spool: OpenSpool) -> None:
    """Beyond their number the oldest dead letters go; the ledger goes on counting them."""
    spool = open_spool(dead_letters_max=3)
    for n in range(5):
        spool.append(Group([], dead=[letter(str(n).encode())]))
    kept = [found.payload for found in spool.dead_letters()]

    assert ([b"4", b"3", b"2"], 5) == (kept, spool.ledger().quarantined)


def test_dead_letters_are_bounded_by_size(open_spool: OpenSpool) -> None:
    """Dead letters take at most an eighth of the spool, so they cannot fill it."""
    spool = open_spool(max_bytes=8 << 20)
    for _ in range(40):
        spool.append(Group([], dead=[letter(b"x" * 60_000)]))
    kept = sum(len(found.payload) for found in spool.dead_letters(limit=1000))

    assert 0 < kept <= 1 << 20


def test_a_huge_payload_is_cut_in_its_dead_letter(spool: Spool) -> None:
    """Of a payload that is larger than any valid one, the dead letter keeps the first 64 KiB."""
    spool.append(Group([], dead=[letter(b"x" * 1_000_000)]))

    assert [65_536] == [len(found.payload) for found in spool.dead_letters()]


def test_a_second_process_is_refused(spool: Spool) -> None:
    """Another process on the same directory is told whose it is and what to do."""
    script = "import sys; from pathlib import Path; from ingest.spool import Spool; "
    script += "Spool(Path(sys.argv[1]))"
    command = [sys.executable, "-c", script, str(spool.path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert ended.returncode
    assert "is used by another cityeye; stop it, or choose another directory" in ended.stderr


def test_a_closed_spool_lets_go(spool: Spool, path: Path) -> None:
    """After `close` another spool may be opened on the same directory."""
    spool.append(Group(numbered(0, 1)))
    spool.close()
    other = Spool(path)
    received = other.ledger().received
    other.close()

    assert 1 == received


def test_a_file_that_is_no_spool(path: Path) -> None:
    """A file of something else is refused by its name, and left alone."""
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(SpoolError, match=r"spool\.sqlite: cannot be used as a spool"):
        Spool(path)

    assert path.read_bytes().startswith(b"not a database")


def test_a_full_spool_appends_nothing(open_spool: OpenSpool) -> None:
    """At its bound the spool raises, and keeps what it had, no more and no less."""
    spool = open_spool(max_bytes=1 << 20)
    group = Group(numbered(0, 100, size=1000), dead=[letter()], duplicates=1)
    count = fill(spool, group)
    with pytest.raises(SpoolFull, match="see why the store takes nothing, or raise spool_max_mb"):
        spool.append(group)

    assert (102 * count, 100 * count) == (spool.ledger().received, len(stored(spool)))


def test_a_full_spool_has_room_again_after_settling(open_spool: OpenSpool) -> None:
    """What the store took makes room, even if all of it would have stayed as the tail."""
    spool = open_spool(max_bytes=1 << 20, tail_messages=1_000_000)
    group = Group(numbered(0, 100, size=1000))
    count = fill(spool, group)
    spool.settle(count, written=100 * count)

    assert count + 1 == spool.append(group)


def test_the_tail_gives_way_from_its_old_end(open_spool: OpenSpool) -> None:
    """For lack of room the oldest part of the tail is forgotten, not the newest."""
    spool = open_spool(max_bytes=1 << 20, tail_messages=1_000_000)
    for start in range(0, 5_000, 100):
        number = spool.append(Group(numbered(start, 100, size=1000)))
        spool.settle(number, written=100)
    recent = list(spool.recent())

    assert numbered(5_000 - len(recent), len(recent), size=1000) == recent
    assert len(recent) > 100


def test_an_empty_spool_takes_any_group(open_spool: OpenSpool) -> None:
    """A group larger than the bound is taken when nothing else is there: it must go somewhere."""
    spool = open_spool(max_bytes=1 << 16)

    assert 1 == spool.append(Group(numbered(0, 100, size=10_000)))


def test_settling_works_at_the_bound(open_spool: OpenSpool) -> None:
    """A full spool can take note that the store refused messages, and of which."""
    spool = open_spool(max_bytes=1 << 20)
    count = fill(spool, Group(numbered(0, 100, size=1000)))
    refused = [DeadLetter(Fate.REFUSED, "store", "why", b"topic", b"x" * 1000)] * 100
    spool.settle(1, written=0, refused=refused)

    assert (100, 100 * (count - 1)) == (spool.ledger().refused, spool.ledger().pending)


def test_an_error_leaves_no_transaction_open(spool: Spool) -> None:
    """A group that cannot be written at all does not stand in the way of the next one."""
    broken = DeadLetter(Fate.QUARANTINED, "not-json", "\ud800", b"", b"")
    with pytest.raises(UnicodeEncodeError):
        spool.append(Group(numbered(0, 5), dead=[broken]))
    spool.append(Group(numbered(0, 1)))

    assert (1, 1) == (spool.ledger().received, len(stored(spool)))


def test_an_unreadable_spool(spool: Spool) -> None:
    """What SQLite cannot read is reported as an error of the spool, with its path."""
    with sqlite3.connect(spool.path) as other:
        other.execute("DROP TABLE groups")
    other.close()

    with pytest.raises(SpoolError, match=r"spool\.sqlite: no such table"):
        spool.after(0, 1)


def test_a_removed_spool(spool: Spool) -> None:
    """A spool whose file somebody removes takes nothing more, and says where it should be."""
    spool.path.unlink()

    with pytest.raises(SpoolError, match=r"spool\.sqlite: No such file"):
        spool.append(Group(numbered(0, 1)))


def test_a_file_that_must_not_grow(path: Path) -> None:
    """When the system refuses to let the file grow nothing is appended; later it goes on."""
    if resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY:
        pytest.skip("the size of files is limited already")
    command = [sys.executable, "-c", RLIMIT_SCRIPT, str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = json.loads(ended.stdout)

    assert (said["appended"] * 100, said["kept"] + 100) == (said["kept"], said["after"])
    assert str(path) in said["error"]


def test_a_full_disk(small_disk: Path) -> None:
    """On a full disk nothing is appended and all that was is there."""
    spool = Spool(small_disk / "spool.sqlite", reserve_bytes=8 << 20)
    group = Group(numbered(0, 100, size=1000))
    count = fill(spool, group)
    ledger, found = spool.ledger(), len(stored(spool))
    spool.close()

    assert (100 * count, 100 * count) == (ledger.received, found)


def test_settling_on_a_full_disk(small_disk: Path) -> None:
    """On a full disk what the store has can be settled, and that makes room for more."""
    spool = Spool(small_disk / "spool.sqlite", tail_messages=100, reserve_bytes=8 << 20)
    group = Group(numbered(0, 100, size=1000))
    count = fill(spool, group)
    take_all_room(small_disk)
    for number in range(1, count + 1):
        spool.settle(number, written=100)
    spool.append(group)
    ledger = spool.ledger()
    spool.close()

    assert (100 * count, 100) == (ledger.written, ledger.pending)


def test_a_disk_with_room_again(small_disk: Path) -> None:
    """When somebody makes room on a full disk, appending works again."""
    (small_disk / "film").write_bytes(bytes(15 << 20))
    spool = Spool(small_disk / "spool.sqlite", reserve_bytes=0)
    group = Group(numbered(0, 100, size=1000))
    count = fill(spool, group)
    (small_disk / "film").unlink()
    number = spool.append(group)
    spool.close()

    assert count + 1 == number


def test_the_reserve_is_taken_up_again(small_disk: Path) -> None:
    """Once there is ample room, the reserve that was given back is held again."""
    reserve = small_disk / "spool.reserve"
    (small_disk / "film").write_bytes(bytes(8 << 20))
    spool = Spool(small_disk / "spool.sqlite", reserve_bytes=6 << 20)
    count = fill(spool, Group(numbered(0, 100, size=1000)))
    take_all_room(small_disk)
    numbers = iter(range(1, count))
    while reserve.exists():
        spool.settle(next(numbers), written=100)
    (small_disk / "film").unlink()
    spool.settle(count, written=spool.ledger().pending)
    spool.close()

    assert 6 << 20 == reserve.stat().st_size
