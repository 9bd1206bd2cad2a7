"""The archive: what alarms have become, and what is still due because of it, safe on disk.

One SQLite file in WAL mode with `synchronous=FULL`. It holds the events of all alarms, an audit
trail that only grows; the newest snapshot of the engine, with the inputs that came after it; and
the tables of the parts that read the events, each by a cursor of its own. A part writes what an
event makes due in the same transaction that moves its cursor past that event.
"""

import fcntl
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Lock, RLock
from typing import IO, Any, Final

import msgspec

from broker.messages import AlarmEvent, Announcement, decode, encode
from city.cityfile import Address
from city.errors import ArchiveError, InputError

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, city TEXT NOT NULL, district TEXT NOT NULL, domain TEXT NOT NULL,
    site TEXT NOT NULL, device TEXT NOT NULL, rule TEXT NOT NULL, number INTEGER NOT NULL,
    ts INTEGER NOT NULL, body TEXT NOT NULL,
    UNIQUE (site, device, rule, number, domain, district, city)
);
CREATE INDEX IF NOT EXISTS events_ts ON events (ts);
CREATE TRIGGER IF NOT EXISTS events_stay BEFORE UPDATE ON events
BEGIN SELECT raise(ABORT, 'the audit trail only grows'); END;
CREATE TRIGGER IF NOT EXISTS events_remain BEFORE DELETE ON events
BEGIN SELECT raise(ABORT, 'the audit trail only grows'); END;
CREATE TABLE IF NOT EXISTS cursors (name TEXT PRIMARY KEY, upto INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inputs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, after INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS snapshot (
    one INTEGER PRIMARY KEY CHECK (one = 1), covered INTEGER NOT NULL, part INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS parts (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
"""
_FORGET_LOOSE_PARTS: Final = "DELETE FROM parts WHERE id > coalesce((SELECT part FROM snapshot), 0)"
"""The parts of a snapshot that was not finished."""
_RECORD: Final = """
INSERT INTO events (city, district, domain, site, device, rule, number, ts, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (site, device, rule, number, domain, district, city) DO NOTHING
"""
_EVENT: Final = "city, district, domain, site, device, body"
_MOVE: Final = """
INSERT INTO cursors VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET upto = max(upto, excluded.upto)
"""
_PART_BYTES: Final = 1 << 20
"""A snapshot is written in parts: between them events, which are more urgent, get their turn."""
_ALL: Final = 2**63 - 1
_MAKE_ROOM: Final = "make room on the disk"
_LOOK: Final = "see that nothing else writes to it and that its disk is sound"

Change = tuple[str, tuple[Any, ...]]
"""An SQL statement and its values."""


class Archive:
    """The alarm service's durable memory; every method is synchronous and safe from any thread.

    What a method has written when it returns survives the end of the process and of the machine;
    one that raises has written nothing.
    """

    def __init__(self, path: Path) -> None:
        """Open the archive at `path`, or make it.

        Raises:
            ArchiveError: It cannot be opened, or another process uses it.
        """
        self.path = path
        self._turn = RLock()
        self._saving = Lock()
        self._owned = _own(path)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._open()
        except sqlite3.Error as error:
            self._owned.close()
            raise ArchiveError(f"{path}: cannot be used as an archive of alarms: {error}; move it "
                               "away to begin a new one") from error  # fmt: skip

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA journal_size_limit=67108864")
        self._db.execute("PRAGMA secure_delete=OFF")
        # without it, INSERT OR REPLACE would delete events past the trigger
        self._db.execute("PRAGMA recursive_triggers=ON")
        self._db.executescript(_SCHEMA)
        self._db.execute(_FORGET_LOOSE_PARTS)

    def create(self, schema: str) -> None:
        """Make a part's own tables: statements that do nothing where they exist already."""
        with self._errors():
            self._db.executescript(schema)

    def snapshot(self) -> tuple[int, bytes] | None:
        """The number of the last group that the newest state covers, and that state."""
        with self._errors():
            row = self._db.execute("SELECT covered, part FROM snapshot").fetchone()
            if row is None:
                return None
            parts = self._db.execute("SELECT body FROM parts WHERE id <= ? ORDER BY id", row[1:])
            return row[0], b"".join(body for (body,) in parts)

    def save(self, covered: int, state: bytes, *, inputs: int | None = None) -> None:
        """Replace the snapshot by `state`, which covers the groups up to `covered`.

        The inputs that it covers are forgotten: those up to the one that `note` numbered `inputs`;
        without it, all that were noted so far after `covered` or an older group. Calls from several
        threads at the same time end in one of the states whole.
        """
        forget = "after <= ?" if inputs is None else "id <= ?"
        with self._saving, self._no_loose_parts():
            starts = range(0, max(len(state), 1), _PART_BYTES)
            parts = [self._keep_part(state[start : start + _PART_BYTES]) for start in starts]
            self.change([
                ("INSERT OR REPLACE INTO snapshot VALUES (1, ?, ?)", (covered, parts[-1])),
                ("DELETE FROM parts WHERE id < ?", (parts[0],)),
                (f"DELETE FROM inputs WHERE {forget}", (covered if inputs is None else inputs,)),
            ])  # fmt: skip

    def _keep_part(self, body: bytes) -> int:
        return self._insert("INSERT INTO parts (body) VALUES (?)", (body,))

    @contextmanager
    def _no_loose_parts(self) -> Iterator[None]:
        """After a failure give back the room of what was written of a snapshot."""
        try:
            yield
        except ArchiveError:
            with suppress(ArchiveError):
                self.change([(_FORGET_LOOSE_PARTS, ())])
            raise

    def note(self, after: int, body: bytes) -> int:
        """Keep an input that came after group `after` and before the next; return its number.

        Numbers rise, and none is given twice.
        """
        return self._insert("INSERT INTO inputs (after, body) VALUES (?, ?)", (after, body))

    def inputs(self) -> list[tuple[int, bytes]]:
        """The inputs that the snapshot does not cover, each with its group, in their order."""
        return self.rows("SELECT after, body FROM inputs ORDER BY id")

    def record(self, announcements: Sequence[Announcement]) -> int:
        """Append those that are not there yet, and return how many these were.

        Address, rule and number name an event: one that is there stays as it is.
        """
        if not announcements:
            return 0
        rows = [_row(announcement) for announcement in announcements]
        with self._transaction():
            before = self._db.total_changes
            self._db.executemany(_RECORD, rows)
            return self._db.total_changes - before

    def after(self, cursor: str, most: int) -> list[tuple[int, Announcement]]:
        """The first `most` events that `cursor` has not passed, with their places, oldest first."""
        rows = self.rows(
            f"SELECT id, {_EVENT} FROM events WHERE id > "
            "coalesce((SELECT upto FROM cursors WHERE name = ?), 0) ORDER BY id LIMIT ?",
            (cursor, most),
        )
        return [(row[0], _announcement(row[1:])) for row in rows]

    def settle(self, cursor: str, upto: int, changes: Sequence[Change] = ()) -> None:
        """Make `changes` and move `cursor` past the event at place `upto`: both, or neither.

        A cursor does not move back.
        """
        self.change([*changes, (_MOVE, (cursor, upto))])

    def change(self, changes: Sequence[Change]) -> None:
        """Make all of `changes`, or none."""
        with self._transaction():
            for statement, values in changes:
                self._db.execute(statement, values)

    def rows(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """What a query returns."""
        with self._errors():
            return self._db.execute(statement, values).fetchall()

    def history(
        self,
        *,
        since_ms: int | None = None,
        until_ms: int | None = None,
        pattern: str = "*/*/*",
        limit: int = 1000,
    ) -> list[Announcement]:
        """The events with `since_ms <= ts < until_ms` of the alarms that fit, newest first.

        `pattern` is `site/device/rule`; in each of them `*` stands for any text.

        Raises:
            InputError: The pattern has not three parts.
        """
        question, values = _history(since_ms, until_ms, pattern, limit)
        return [_announcement(row) for row in self.rows(question, values)]

    def close(self) -> None:
        """Close the file and let go of it."""
        with self._turn:
            self._db.close()
            self._owned.close()

    def _insert(self, statement: str, values: tuple[Any, ...]) -> int:
        with self._transaction():
            return int(self._db.execute(statement, values).lastrowid or 0)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Take turns, and turn what SQLite raises into our own error."""
        with self._turn:
            try:
                yield
            except sqlite3.Error as error:
                remedy = _MAKE_ROOM if "full" in str(error) else _LOOK
                raise ArchiveError(f"{self.path}: {error}; {remedy}") from error


def read_history(path: Path, *, pattern: str = "*/*/*", limit: int = 1000) -> list[Announcement]:
    """The newest events of the alarms that fit, newest first, of an archive that is in use or not.

    Raises:
        ArchiveError: There is no archive at `path`, or it cannot be read.
        InputError: The pattern has not three parts.
    """
    question, values = _history(None, None, pattern, limit)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            return [_announcement(row) for row in db.execute(question, values)]
    except sqlite3.Error as error:
        raise ArchiveError(f"{path}: cannot be read: {error}; {_LOOK}") from error


def _history(
    since_ms: int | None, until_ms: int | None, pattern: str, limit: int
) -> tuple[str, tuple[Any, ...]]:
    names = pattern.split("/")
    if len(names) != 3:  # noqa: PLR2004 - site, device and rule
        raise InputError(f"{pattern!r} names no alarms; write site/device/rule, * for any")
    question = (
        f"SELECT {_EVENT} FROM events WHERE ts >= ? AND ts < ? AND site GLOB ? "
        "AND device GLOB ? AND rule GLOB ? ORDER BY ts DESC, id DESC LIMIT ?"
    )
    since = -_ALL if since_ms is None else since_ms
    return question, (since, _ALL if until_ms is None else until_ms, *names, limit)


def _own(path: Path) -> IO[str]:
    """Keep other processes out for as long as the file returned is open."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise ArchiveError(
            f"{path} is used by another cityeye; stop it, or choose another directory with --data"
        ) from error
    return lock


def _row(announcement: Announcement) -> tuple[Any, ...]:
    event = announcement.event
    place = msgspec.structs.astuple(announcement.address)
    return (*place, event.rule, event.number, event.ts, encode(event).decode())


def _announcement(row: tuple[Any, ...]) -> Announcement:
    *place, body = row
    return Announcement(Address(*place), decode(AlarmEvent, body.encode()))
