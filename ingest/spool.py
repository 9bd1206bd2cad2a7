"""The spool: what has been received and is not yet in the store, safe on disk.

One SQLite file in WAL mode with `synchronous=FULL`. A group of messages is appended in one
transaction together with its entries in the ledger and its dead letters; only then are the
messages acknowledged. Groups are settled in the order of their numbers, so one number says how
far the store has come. The newest groups stay for a while after they are settled: after a crash
they tell which redelivered messages were received before.

A `Spool` is used from one thread at a time.
"""

import fcntl
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from city.errors import SpoolError, SpoolFull
from ingest.ledger import DeadLetter, Fate, Ledger
from ingest.store import Point

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS groups (
    id INTEGER PRIMARY KEY, last INTEGER NOT NULL, messages INTEGER NOT NULL,
    body BLOB NOT NULL, points BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS ledger (
    fate TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (fate, reason)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead_letters (
    id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, fate TEXT NOT NULL, reason TEXT NOT NULL,
    detail TEXT NOT NULL, topic BLOB NOT NULL, payload BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS settled (one INTEGER PRIMARY KEY CHECK (one = 1), id INTEGER NOT NULL);
INSERT OR IGNORE INTO settled VALUES (1, 0);
"""
_RECEIVED: Final = "received"
_PAGE_BYTES: Final = 4096

Message = tuple[bytes, bytes]
"""Topic and payload, as they came."""

Spooled = tuple[int, list[Message], list[Point]]
"""A group's number, its messages and its points."""


class Group(msgspec.Struct, frozen=True):
    """What was received together: valid messages, points of our own, and the rest by fate."""

    messages: Sequence[Message]
    points: Sequence[Point] = ()
    """Points that did not come as messages: alarm events and the service's own figures."""
    duplicates: int = 0
    dead: Sequence[DeadLetter] = ()

    @property
    def received(self) -> int:
        """How many messages this group accounts for."""
        return len(self.messages) + self.duplicates + len(self.dead)


class Spool:
    """The durable queue between the broker and the store."""

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = 8 << 30,
        tail_messages: int = 40_000,
        dead_letters_max: int = 100_000,
    ) -> None:
        """Open the spool at `path`, or make it.

        Raises:
            SpoolError: It cannot be opened, or another process uses it.
        """
        self.path = path
        self._tail = tail_messages
        self._dead_letters_max = dead_letters_max
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = path.with_suffix(".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise SpoolError(
                f"{path.parent} is used by another cityeye; stop it, or choose another directory "
                "with --data"
            ) from error
        except OSError as error:
            raise SpoolError(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA journal_size_limit=67108864")
            self._db.execute(f"PRAGMA max_page_count={max(64, max_bytes // _PAGE_BYTES)}")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self._lock.close()
            raise SpoolError(f"{path}: cannot be used as a spool: {error}") from error
        row = self._db.execute("SELECT max(id), max(last) FROM groups").fetchone()
        self._settled = int(self._db.execute("SELECT id FROM settled").fetchone()[0])
        self._newest = max(self._settled, row[0] or 0)
        pending = "SELECT coalesce(sum(messages), 0) FROM groups WHERE id > ?"
        counts = self._read_counts()
        self._took(counts, int(self._db.execute(pending, (self._settled,)).fetchone()[0]))
        self._last = max(row[1] or 0, self._ledger.received)

    def append(self, group: Group) -> int:
        """Make `group` durable and return its number; one with nothing to store gets none of its own.

        Raises:
            SpoolFull: There is no room; nothing was appended.
            SpoolError: The disk does not take it; nothing was appended.
        """
        kept = bool(group.messages or group.points)
        number, last = self._newest + kept, self._last + group.received
        changes = {(_RECEIVED, ""): group.received, (Fate.DUPLICATE, ""): group.duplicates}
        with self._transaction():
            if kept:
                body = msgspec.msgpack.encode(group.messages)
                points = msgspec.msgpack.encode(group.points)
                self._db.execute(
                    "INSERT INTO groups VALUES (?, ?, ?, ?, ?)",
                    (number, last, len(group.messages), body, points),
                )
            counts = self._count(changes, group.dead)
        self._newest, self._last = number, last
        self._took(counts, self._ledger.pending + len(group.messages))
        return number

    def settle(self, number: int, *, written: int, refused: Sequence[DeadLetter] = ()) -> None:
        """Take note that the store has all groups up to `number`, but for what it `refused`.

        Raises:
            SpoolError: The disk does not take it; call again later.
        """
        with self._transaction():
            self._db.execute("UPDATE settled SET id = ?", (number,))
            self._db.execute(
                "DELETE FROM groups WHERE id <= ? AND last <= ?", (number, self._last - self._tail)
            )
            counts = self._count({(Fate.WRITTEN, ""): written}, refused)
        self._settled = number
        self._took(counts, self._ledger.pending - written - len(refused))

    def after(self, number: int, messages_max: int) -> list[Spooled]:
        """The first groups after `number`: at least one if there is any, else up to the bound."""
        rows = self._db.execute(
            "SELECT id, messages, body, points FROM groups WHERE id > ? ORDER BY id", (number,)
        )
        found: list[Spooled] = []
        count = 0
        for identifier, messages, body, points in rows:
            count += messages
            if found and count > messages_max:
                break
            found.append(
                (
                    identifier,
                    msgspec.msgpack.decode(body, type=list[Message]),
                    msgspec.msgpack.decode(points, type=list[Point]),
                )
            )
        rows.close()
        return found

    def recent(self) -> Iterator[Message]:
        """The messages that the broker may deliver again, oldest first."""
        rows = self._db.execute(
            "SELECT body FROM groups WHERE last > ? ORDER BY id", (self._last - self._tail,)
        )
        for (body,) in rows:
            yield from msgspec.msgpack.decode(body, type=list[Message])

    def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        """The newest dead letters, newest first."""
        rows = self._db.execute(
            "SELECT fate, reason, detail, topic, payload FROM dead_letters "
            "ORDER BY id DESC LIMIT ?",
            (limit,),
        )
        return [DeadLetter(Fate(row[0]), *row[1:]) for row in rows]

    @property
    def settled(self) -> int:
        """The number of the newest group that the store has."""
        return self._settled

    @property
    def newest(self) -> int:
        """The number of the newest group."""
        return self._newest

    def ledger(self) -> Ledger:
        """The ledger since the spool was made; safe to ask from any thread."""
        return self._ledger

    def close(self) -> None:
        """Close the file and let go of it."""
        self._db.close()
        self._lock.close()

    def _took(self, counts: dict[tuple[str, str], int], pending: int) -> None:
        """Publish the state after a transaction, as one object: it is balanced at all times."""
        totals = dict.fromkeys(Fate, 0)
        reasons = {}
        for (fate, reason), count in counts.items():
            if fate != _RECEIVED:
                totals[Fate(fate)] += count
                if reason:
                    reasons[f"{fate}:{reason}"] = count
        self._counts = counts
        self._ledger = Ledger(
            received=counts.get((_RECEIVED, ""), 0),
            pending=pending,
            reasons=reasons,
            **{fate.value: count for fate, count in totals.items()},
        )

    def _count(
        self, changes: dict[tuple[str, str], int], dead: Sequence[DeadLetter]
    ) -> dict[tuple[str, str], int]:
        """Write `changes` and the dead letters, and return the counts as they then are."""
        counts = dict(self._counts)
        for letter in dead:
            key = (str(letter.fate), letter.reason)
            changes[key] = changes.get(key, 0) + 1
        for key, change in changes.items():
            if change:
                counts[key] = counts.get(key, 0) + change
                self._db.execute("INSERT OR REPLACE INTO ledger VALUES (?, ?, ?)",
                                 (*key, counts[key]))  # fmt: skip
        if dead:
            self._keep(dead)
        return counts

    def _keep(self, dead: Sequence[DeadLetter]) -> None:
        now_ms = time.time_ns() // 1_000_000
        self._db.executemany(
            "INSERT INTO dead_letters (at_ms, fate, reason, detail, topic, payload) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [(now_ms, d.fate, d.reason, d.detail, d.topic, d.payload) for d in dead],
        )
        self._db.execute(
            "DELETE FROM dead_letters WHERE id <= (SELECT max(id) FROM dead_letters) - ?",
            (self._dead_letters_max,),
        )

    def _read_counts(self) -> dict[tuple[str, str], int]:
        rows = self._db.execute("SELECT fate, reason, count FROM ledger")
        return {(fate, reason): count for fate, reason, count in rows}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            kind = SpoolFull if "full" in str(error) else SpoolError
            raise kind(
                f"{self.path}: {error}; make room on the disk or raise spool_max_mb"
            ) from error
