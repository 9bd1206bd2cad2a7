"""The spool: what has been received and is not yet in the store, safe on disk.

One SQLite file in WAL mode with `synchronous=FULL`. A group of messages is appended in one
transaction together with its entries in the ledger and its dead letters; only then are the
messages acknowledged. Groups are settled in the order of their numbers, so one number says how
far the store has come. The newest groups stay for a while after they are settled: after a crash
they tell which redelivered messages were received before. This tail gives way when room is short.

The groups are also a journal. Who keeps a state that is made of the groups, and only now and then
makes it durable, has the later groups held: after a crash they are read again, with the birth
documents that came with them. What is held gives way last, and `lost_hold` tells of it.

Appending leaves some room on the disk, and beside the spool lies a reserve, a file that only takes
up room: should others fill the disk, it is given back, so that settling, which frees room in the
spool, is always possible.

A `Spool` is used from one thread at a time.
"""

import fcntl
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from broker.messages import PAYLOAD_MAX
from city.errors import SpoolError, SpoolFull
from ingest.ledger import DeadLetter, Fate, Ledger
from ingest.store import Point

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS groups (
    id INTEGER PRIMARY KEY, last INTEGER NOT NULL, messages INTEGER NOT NULL,
    body BLOB NOT NULL, points BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS groups_last ON groups (last);
CREATE TABLE IF NOT EXISTS births (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
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
_DEAD_BYTES: Final = "SELECT coalesce(sum(length(topic) + length(payload)), 0) FROM dead_letters"
_DELETE_OLDEST_DEAD: Final = """
DELETE FROM dead_letters WHERE id <= (
    SELECT max(id) FROM (
        SELECT id, sum(length(topic) + length(payload)) OVER (ORDER BY id DESC) AS newer_bytes
        FROM dead_letters
    ) WHERE newer_bytes > ?
)
"""
_TAIL: Final = "SELECT id FROM groups WHERE last <= ? ORDER BY last DESC, id DESC LIMIT 1"
_JOURNAL: Final = """
SELECT groups.id, births.body, groups.body FROM groups LEFT JOIN births ON births.id = groups.id
WHERE groups.id > ? ORDER BY groups.id
"""
_RECEIVED: Final = "received"
_RESERVE_BYTES: Final = 8 << 20
"""Enough for SQLite to merge its log, which it does at 4 MB, and to note what is settled."""
_LEFT_BYTES: Final = 1 << 20
"""What appending leaves free on the disk, for settling."""
_DEAD_LETTERS_SHARE: Final = 8
"""Dead letters take at most one part in so many of the spool's bound."""
_FORGOTTEN_MIN: Final = 32
"""So many groups, and twice those just settled, are deleted at once: thousands would take long."""

T = TypeVar("T")

Message = tuple[bytes, bytes]
"""Topic and payload, as they came."""

Spooled = tuple[int, list[Message], list[Point]]
"""A group's number, its messages and its points."""

Journaled = tuple[int, list[Message], list[Message]]
"""A group's number, the birth documents in it and its messages."""


class Group(msgspec.Struct, frozen=True):
    """What was received together: valid messages, points of our own, and the rest by fate."""

    messages: Sequence[Message]
    points: Sequence[Point] = ()
    """Points that did not come as messages: alarm events and the service's own figures."""
    duplicates: int = 0
    dead: Sequence[DeadLetter] = ()
    births: Sequence[Message] = ()
    """Birth documents, for the journal; the ledger counts readings only."""

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
        reserve_bytes: int = _RESERVE_BYTES,
    ) -> None:
        """Open the spool at `path`, or make it.

        Of the dead letters the newest are kept, up to `dead_letters_max` of them and an eighth of
        `max_bytes`.

        Raises:
            SpoolError: It cannot be opened, or another process uses it.
        """
        self.path = path
        self._tail = tail_messages
        self._max_bytes = max_bytes
        self._dead_letters_max = dead_letters_max
        self._reserve = path.with_suffix(".reserve")
        self._reserve_bytes = reserve_bytes
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
            self._open()
        except sqlite3.Error as error:
            self._lock.close()
            raise SpoolError(f"{path}: cannot be used as a spool: {error}") from error
        self._keep_reserve()

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA journal_size_limit=67108864")
        # Debian's SQLite overwrites what is deleted, which costs time, and log that a full disk lacks
        self._db.execute("PRAGMA secure_delete=OFF")
        self._db.executescript(_SCHEMA)
        row = self._db.execute("SELECT max(id), max(last) FROM groups").fetchone()
        self._settled = self._number("SELECT id FROM settled")
        self._newest = max(self._settled, row[0] or 0)
        self._forgotten = (self._oldest() or self._newest + 1) - 1
        self._hold: int | None = None
        pending = "SELECT coalesce(sum(messages), 0) FROM groups WHERE id > ?"
        self._took(self._read_counts(), self._number(pending, self._settled))
        self._last = max(row[1] or 0, self._ledger.received)
        self._dead_bytes = self._number(_DEAD_BYTES)

    def append(self, group: Group) -> int:
        """Make `group` durable and return its number; one with nothing to store gets none of its own.

        Raises:
            SpoolFull: There is no room; nothing was appended.
            SpoolError: The disk does not take it; nothing was appended.
        """
        while True:
            try:
                return self._append(group)
            except SpoolFull:
                if not self._make_room():
                    raise

    def _append(self, group: Group) -> int:
        kept = bool(group.messages or group.points or group.births)
        number, last = self._newest + kept, self._last + group.received
        changes = {(_RECEIVED, ""): group.received, (Fate.DUPLICATE, ""): group.duplicates}
        body = msgspec.msgpack.encode(group.messages)
        points = msgspec.msgpack.encode(group.points)
        births = msgspec.msgpack.encode(group.births) if group.births else b""
        self._check_room(len(body) + len(points) + len(births))
        with self._transaction():
            if kept:
                self._db.execute(
                    "INSERT INTO groups VALUES (?, ?, ?, ?, ?)",
                    (number, last, len(group.messages), body, points),
                )
            if births:
                self._db.execute("INSERT INTO births VALUES (?, ?)", (number, births))
            counts = self._count(changes, group.dead)
        self._newest, self._last = number, last
        self._took(counts, self._ledger.pending + len(group.messages))
        return number

    def settle(self, number: int, *, written: int, refused: Sequence[DeadLetter] = ()) -> None:
        """Take note that the store has all groups up to `number`, but for what it `refused`.

        Raises:
            SpoolError: The disk does not take it; call again later.
        """
        self._sparing(lambda: self._settle(number, written, refused))
        self._keep_reserve()

    def _settle(self, number: int, written: int, refused: Sequence[DeadLetter]) -> None:
        with self._transaction():
            forgotten = self._may_forget(number)
            self._db.execute("UPDATE settled SET id = ?", (number,))
            self._forget(forgotten)
            counts = self._count({(Fate.WRITTEN, ""): written}, refused)
        self._settled, self._forgotten = number, forgotten
        self._took(counts, self._ledger.pending - written - len(refused))

    def _may_forget(self, number: int) -> int:
        """Up to where groups go when those up to `number` are settled."""
        row = self._db.execute(_TAIL, (self._last - self._tail,)).fetchone()
        wanted = min(row[0] if row else 0, self._unheld(number))
        most = _FORGOTTEN_MIN + 2 * (number - self._settled)
        return max(self._forgotten, min(wanted, self._forgotten + most))

    def _unheld(self, number: int) -> int:
        """Up to where groups may go, of those up to `number`."""
        return number if self._hold is None else min(number, self._hold)

    def _forget(self, number: int) -> None:
        """Delete the groups up to `number`, within a transaction."""
        if number > self._forgotten:
            self._db.execute("DELETE FROM groups WHERE id <= ?", (number,))
            self._db.execute("DELETE FROM births WHERE id <= ?", (number,))

    def hold(self, number: int | None) -> None:
        """Keep the groups after `number` though they are settled; None: keep none for that reason.

        Takes effect with the next settling; safe from any thread.
        """
        self._hold = number

    @property
    def lost_hold(self) -> bool:
        """Whether groups that are held are gone, for lack of room: the journal has a gap."""
        hold = self._hold
        return hold is not None and self._forgotten > hold

    def skip(self, number: int) -> None:
        """Give no group a number up to `number`: one that is older than what they stand for."""
        self._newest = max(self._newest, number)

    def journal(self, after: int) -> Iterator[Journaled]:
        """The groups that are kept after number `after`, oldest first, read one by one."""
        for number, births, messages in self._rows(_JOURNAL, after):
            yield (
                number,
                msgspec.msgpack.decode(births, type=list[Message]) if births else [],
                msgspec.msgpack.decode(messages, type=list[Message]),
            )

    def after(self, number: int, messages_max: int) -> list[Spooled]:
        """The first groups after `number`: at least one if there is any, else up to the bound."""
        found: list[Spooled] = []
        count = 0
        for identifier, messages, body, points in self._rows(
            "SELECT id, messages, body, points FROM groups WHERE id > ? ORDER BY id", number
        ):
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
        return found

    def recent(self) -> Iterator[Message]:
        """The messages that the broker may deliver again, oldest first."""
        for (body,) in self._rows(
            "SELECT body FROM groups WHERE last > ? ORDER BY id", self._last - self._tail
        ):
            yield from msgspec.msgpack.decode(body, type=list[Message])

    def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        """The newest dead letters, newest first."""
        rows = self._rows(
            "SELECT fate, reason, detail, topic, payload FROM dead_letters "
            "ORDER BY id DESC LIMIT ?",
            limit,
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
            [(now_ms, d.fate, d.reason, d.detail, d.topic, d.payload[:PAYLOAD_MAX]) for d in dead],
        )
        self._db.execute(
            "DELETE FROM dead_letters WHERE id <= (SELECT max(id) FROM dead_letters) - ?",
            (self._dead_letters_max,),
        )
        self._dead_bytes += sum(len(d.topic) + len(d.payload[:PAYLOAD_MAX]) for d in dead)
        bound = self._max_bytes // _DEAD_LETTERS_SHARE
        if self._dead_bytes > bound:
            self._db.execute(_DELETE_OLDEST_DEAD, (bound // 2,))
            self._dead_bytes = self._number(_DEAD_BYTES)

    def _check_room(self, more_bytes: int) -> None:
        """Raise when there is no room for `more_bytes`, within the bound or on the disk.

        The bound is waived for an empty spool: it takes a group of any size.
        """
        with self._errors():
            page_bytes = self._number("PRAGMA page_size")
            size = self._number("PRAGMA page_count") * page_bytes
            unused = self._number("PRAGMA freelist_count") * page_bytes
            if size - unused + more_bytes > self._max_bytes and self._oldest():
                raise SpoolFull(
                    f"{self.path}: holds {(size - unused) / 1e6:.1f} MB of at most "
                    f"{self._max_bytes / 1e6:.1f} MB; see why the store takes nothing, "
                    "or raise spool_max_mb"
                )
            size += max(0, more_bytes - unused)
            if self._disk_short(size, more_bytes):
                self._merge_log()
                if self._disk_short(size, more_bytes):
                    raise SpoolFull(f"{self.path}: the disk is full; make room on it")

    def _disk_short(self, size: int, more_bytes: int) -> bool:
        """Whether the disk is too full for a spool of `size` bytes and as much log in addition."""
        growth = max(0, size - self.path.stat().st_size)
        return shutil.disk_usage(self.path.parent).free < growth + more_bytes + _LEFT_BYTES

    def _merge_log(self) -> None:
        """Move what SQLite has in its log into the spool's file, and give the log's room back."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _make_room(self) -> bool:
        """Give up what is not needed now: the tail, then the reserve; False if there is nothing."""
        if self._sparing(self._shorten_tail):
            return True
        if self._settled < self._newest or not self._reserve.exists():
            return False
        self._reserve.unlink()
        return True

    def _shorten_tail(self) -> bool:
        """Forget the older half of what is settled and not held, or else of what is settled.

        Returns:
            Whether there was anything to forget.
        """
        oldest = self._oldest()
        if not oldest or oldest > self._settled:
            return False
        unheld = self._unheld(self._settled)
        number = (oldest + (unheld if oldest <= unheld else self._settled)) // 2
        with self._transaction():
            self._forget(number)
        self._forgotten = number
        return True

    def _oldest(self) -> int:
        """The number of the oldest group that is kept, 0 if none is."""
        return self._number("SELECT coalesce(min(id), 0) FROM groups")

    def _sparing(self, work: Callable[[], T]) -> T:
        """Do `work`, on a full disk in the room that the reserve held."""
        try:
            return work()
        except SpoolFull:
            if not self._reserve.exists():
                raise
            self._reserve.unlink(missing_ok=True)
            with self._errors():
                self._merge_log()
            return work()

    def _keep_reserve(self) -> None:
        """Take up the reserve's room where as much again is left for the spool."""
        if self._reserve.exists() or not self._reserve_bytes:
            return
        try:
            if shutil.disk_usage(self.path.parent).free >= 2 * self._reserve_bytes:
                self._reserve.write_bytes(bytes(self._reserve_bytes))
        except OSError:
            self._reserve.unlink(missing_ok=True)

    def _read_counts(self) -> dict[tuple[str, str], int]:
        rows = self._db.execute("SELECT fate, reason, count FROM ledger")
        return {(fate, reason): count for fate, reason, count in rows}

    def _number(self, statement: str, *values: int) -> int:
        return int(self._db.execute(statement, values).fetchone()[0])

    def _rows(self, statement: str, *values: int) -> Iterator[tuple[Any, ...]]:
        with self._errors():
            yield from self._db.execute(statement, values)

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
        """Turn what SQLite and the system raise into our own errors."""
        try:
            yield
        except sqlite3.Error as error:
            kind = SpoolFull if "full" in str(error) else SpoolError
            raise kind(f"{self.path}: {error}; make room on the disk") from error
        except OSError as error:
            raise SpoolError(
                f"{self.path}: {error.strerror}; do not touch it while it is used"
            ) from error
