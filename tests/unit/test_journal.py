"""The spool as a journal: what is held, what is read again, and what gives way."""

import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from city.errors import SpoolFull
from ingest.ledger import Ledger
from ingest.spool import Group, Journaled, Message, Spool

MESSAGES = st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=40)), max_size=5)
BIRTH = (b"topic/meta", b"birth")

OpenSpool = Callable[..., Spool]

APPENDING = """
import sys
from pathlib import Path
from ingest.spool import Group, Spool

spool = Spool(Path(sys.argv[1]), tail_messages=0, reserve_bytes=0)
hold = int(sys.argv[2])
spool.hold(hold)
while True:
    number = spool.newest + 1
    body = [(b"topic", b"%d" % number)] * 50
    births = [(b"meta", b"%d" % number)] if number % 3 == 0 else []
    assert number == spool.append(Group(body, births=births))
    if number % 2 == 0:
        spool.settle(number, written=spool.ledger().pending)
    print(number, flush=True)
"""


def numbered(start: int, count: int, *, size: int = 10) -> list[Message]:
    """Messages whose payloads are their numbers."""
    return [(b"topic", str(n).zfill(size).encode()) for n in range(start, start + count)]


def append_settled(spool: Spool, groups: int, *, messages: int = 10, size: int = 10) -> None:
    """Append so many groups, and settle them."""
    for _ in range(groups):
        spool.append(Group(numbered(0, messages, size=size)))
    spool.settle(spool.newest, written=spool.ledger().pending)


def appended_until_killed(path: Path, hold: int, groups: int) -> int:
    """Have another process append until it is killed; the last number that it reported."""
    command = [sys.executable, "-c", APPENDING, str(path), str(hold)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(groups)]
        child.kill()
        said += child.stdout.readlines()
    return int(said[-1])


def numbers(spool: Spool, after: int = 0) -> list[int]:
    """The numbers of the groups in the journal."""
    return [number for number, _, _ in spool.journal(after)]


@pytest.fixture
def open_spool(tmp_path: Path) -> Iterator[OpenSpool]:
    """Opens the spool without a tail, after closing the one that was opened before."""
    opened: list[Spool] = []

    def reopen(**options: int) -> Spool:
        for spool in opened:
            spool.close()
        options = {"tail_messages": 0, "reserve_bytes": 0, **options}
        opened[:] = [Spool(tmp_path / "spool.sqlite", **options)]
        return opened[0]

    yield reopen
    for spool in opened:
        spool.close()


@pytest.fixture
def spool(open_spool: OpenSpool) -> Spool:
    """An empty spool without a tail."""
    return open_spool()


class JournalLife(RuleBasedStateMachine):
    """Appends, settles, moves the hold and opens anew, beside a list of all groups."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.groups: list[Journaled] = []
        self.settled = 0
        self.held = 0

    @initialize()
    def begin(self) -> None:
        """Start with an empty spool that holds everything."""
        self.spool = self.opened()

    def opened(self) -> Spool:
        """The spool on its file, with the hold that it had."""
        path = Path(self.folder.name) / "spool.sqlite"
        spool = Spool(path, tail_messages=3, reserve_bytes=0)
        spool.hold(self.held)
        return spool

    @rule(messages=MESSAGES, births=MESSAGES)
    def append(self, messages: Sequence[Message], births: Sequence[Message]) -> None:
        """Append a group."""
        number = self.spool.append(Group(messages, births=births))
        if messages or births:
            self.groups.append((number, list(births), list(messages)))

    @rule(groups=st.integers(1, 100))
    def settle(self, groups: int) -> None:
        """Settle the oldest groups."""
        settled = self.groups[self.settled : self.settled + groups]
        if settled:
            self.settled += len(settled)
            written = sum(len(messages) for _, _, messages in settled)
            self.spool.settle(settled[-1][0], written=written)

    @rule(share=st.floats(0, 1))
    def move(self, share: float) -> None:
        """Hold less."""
        self.held += int(share * (self.spool.newest - self.held))
        self.spool.hold(self.held)

    @rule()
    def reopen(self) -> None:
        """Open the same file anew."""
        self.spool.close()
        self.spool = self.opened()

    @invariant()
    def what_is_held_is_there(self) -> None:
        """All groups after the hold are in the journal, with their births, in order."""
        found = list(self.spool.journal(self.held))

        assert self.groups[self.held :] == found
        assert not self.spool.lost_hold

    @invariant()
    def what_is_pending_is_there(self) -> None:
        """Holding changes nothing about what the store does not have yet."""
        pending = [number for number, _, _ in self.spool.after(self.spool.settled, 10**9)]

        assert [number for number, _, _ in self.groups[self.settled :]] == pending

    def teardown(self) -> None:
        """Remove the file."""
        if hasattr(self, "spool"):
            self.spool.close()
        self.folder.cleanup()


JournalLife.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
test_the_life_of_a_journal = JournalLife.TestCase


def test_what_is_held_stays(spool: Spool) -> None:
    """Groups after the number held stay though they are settled; the others go."""
    spool.hold(2)
    append_settled(spool, 5)

    assert [3, 4, 5] == numbers(spool)


def test_what_is_let_go_goes(spool: Spool) -> None:
    """When the hold moves, the next settling forgets what is not held any more."""
    spool.hold(0)
    append_settled(spool, 5)
    spool.hold(4)
    append_settled(spool, 1)

    assert [5, 6] == numbers(spool)


def test_nothing_is_held_any_more(spool: Spool) -> None:
    """Without a hold only the tail stays, as ever."""
    spool.hold(0)
    append_settled(spool, 5)
    spool.hold(None)
    append_settled(spool, 1)

    assert ([], False) == (numbers(spool), spool.lost_hold)


def test_much_is_let_go_by_and_by(spool: Spool) -> None:
    """A hold that moves over thousands of groups does not stop the spool: each settling takes some."""
    spool.hold(0)
    append_settled(spool, 500, messages=1)
    spool.hold(500)
    counts = []
    for _ in range(20):
        append_settled(spool, 1)
        counts.append(len(numbers(spool)))
    steps = {before - after for before, after in pairwise(counts)}

    assert (20, True) == (counts[-1], max(steps) < 50)


def test_a_group_of_births(spool: Spool) -> None:
    """A group that has births only gets a number, and is not counted in the ledger."""
    number = spool.append(Group([], births=[BIRTH]))

    assert (1, Ledger()) == (number, spool.ledger())
    assert [(1, [BIRTH], [])] == list(spool.journal(0))


def test_births_go_with_their_group(spool: Spool) -> None:
    """Births are forgotten with the group that they came in."""
    spool.append(Group(numbered(0, 1), births=[BIRTH]))
    spool.settle(1, written=1)
    with sqlite3.connect(spool.path) as other:
        [(count,)] = other.execute("SELECT count(*) FROM births").fetchall()
    other.close()

    assert 0 == count


def test_the_journal_begins_where_it_is_asked_to(spool: Spool) -> None:
    """Only later groups than the given one are read."""
    spool.hold(0)
    append_settled(spool, 5)

    assert [4, 5] == numbers(spool, after=3)


def test_what_is_held_gives_way_last(open_spool: OpenSpool) -> None:
    """For lack of room the tail goes first; while that is enough, nothing that is held is lost."""
    spool = open_spool(max_bytes=1 << 20, tail_messages=10**6)
    append_settled(spool, 8, messages=100, size=1000)
    spool.hold(8)
    append_settled(spool, 5, messages=100, size=1000)

    assert list(range(9, 14)) == numbers(spool, after=8)
    assert not spool.lost_hold


def test_appending_goes_before_holding(open_spool: OpenSpool) -> None:
    """When only held groups are left to give up, they go from the old end, and that is said."""
    spool = open_spool(max_bytes=1 << 20)
    spool.hold(0)
    append_settled(spool, 1, messages=100, size=1000)
    before = spool.lost_hold
    for _ in range(30):
        append_settled(spool, 1, messages=100, size=1000)
    kept = numbers(spool)

    assert (False, True) == (before, spool.lost_hold)
    assert list(range(kept[0], 32)) == kept


def test_a_lost_hold_is_over_when_it_is_moved(open_spool: OpenSpool) -> None:
    """Once what is gone is not held any more, nothing is lost."""
    spool = open_spool(max_bytes=1 << 20)
    spool.hold(0)
    for _ in range(30):
        append_settled(spool, 1, messages=100, size=1000)
    spool.hold(30)

    assert not spool.lost_hold


def test_pending_groups_are_not_given_up(open_spool: OpenSpool) -> None:
    """Room is never made by forgetting what the store does not have, held or not."""
    spool = open_spool(max_bytes=1 << 20)
    spool.hold(0)
    append_settled(spool, 3, messages=100, size=1000)
    with suppress(SpoolFull):
        while spool.newest < 100:
            spool.append(Group(numbered(0, 100, size=1000)))

    assert list(range(4, spool.newest + 1)) == numbers(spool)
    assert spool.newest < 100


def test_a_gap_is_seen_after_opening_anew(open_spool: OpenSpool) -> None:
    """Groups that are gone when the spool is opened are missed as soon as they are held."""
    append_settled(open_spool(), 5)
    spool = open_spool()
    spool.hold(5)
    complete = spool.lost_hold
    spool.hold(4)

    assert (False, True) == (complete, spool.lost_hold)


def test_numbers_are_skipped(spool: Spool) -> None:
    """Numbers that somebody knows from an older spool are not given again."""
    spool.skip(41)
    number = spool.append(Group(numbered(0, 1)))
    spool.skip(7)

    assert (42, 42) == (number, spool.newest)


def test_skipped_numbers_do_not_stop_settling(open_spool: OpenSpool) -> None:
    """Beyond skipped numbers groups are settled and forgotten as before."""
    spool = open_spool()
    spool.skip(1000)
    spool.hold(1000)
    for _ in range(40):
        append_settled(spool, 1)
        spool.hold(spool.newest)
    append_settled(spool, 1)

    assert ([1041], False) == (numbers(spool), spool.lost_hold)


def test_a_spool_of_before(open_spool: OpenSpool) -> None:
    """A spool that was made without births is taken over with all that it holds."""
    spool = open_spool()
    spool.append(Group(numbered(0, 3)))
    with sqlite3.connect(spool.path) as other:
        other.execute("DROP TABLE births")
    other.close()
    spool = open_spool()
    spool.append(Group([], births=[BIRTH]))

    assert [(1, [], numbered(0, 3)), (2, [BIRTH], [])] == list(spool.journal(0))


@pytest.mark.parametrize("kills", [(1, 40, 3), (25, 2, 60), (60, 1, 1)])
def test_killed_while_appending(tmp_path: Path, kills: tuple[int, ...]) -> None:
    """After kill -9 every group that was appended and held is there, whole and in order."""
    path, reported, hold = tmp_path / "spool.sqlite", 0, 0
    for appended in kills:
        reported = appended_until_killed(path, hold, appended)
        spool = Spool(path, tail_messages=0, reserve_bytes=0)
        groups, balanced = list(spool.journal(hold)), spool.ledger().balanced
        spool.close()
        expected = [
            (n, [(b"meta", b"%d" % n)] if n % 3 == 0 else [], [(b"topic", b"%d" % n)] * 50)
            for n in range(hold + 1, hold + 1 + len(groups))
        ]

        assert (expected, True) == (groups, balanced)
        assert reported <= hold + len(groups) <= reported + 1
        hold = (hold + reported) // 2
