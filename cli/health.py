"""Whether a `cityeye` in a container does its work: `python -m cli.health`, for health checks.

It looks from outside, without a word to the process: a network with an established connection to
the broker's port, and a ledger that was written not long ago. It imports nothing that is slow to
import, since it runs every few seconds. Exit status: 0 healthy, 1 not; the text says why.
"""

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

SPOOL_FILES: Final = ("spool.sqlite", "spool.sqlite-wal")
QUIET_S: Final = 60.0
"""Ingest appends its ledger to the spool every 10 s: six times that long it must not be silent."""

TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
"""The connections of this container's network, as Linux tells them (proc(5))."""

_ESTABLISHED: Final = "01"


def connections(port: int, tables: Iterable[Path] = TABLES) -> int:
    """How many connections to that remote port are established.

    Each line of a table has the columns: number, local address, remote address, state, ...; an
    address is `ADDRESS:PORT` in hexadecimal digits.
    """
    count = 0
    for table in tables:
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, _, remote, state = line.split(maxsplit=4)[:4]
            count += state == _ESTABLISHED and int(remote.rpartition(":")[2], 16) == port
    return count


def ledger_age_s(data: Path, now_s: float) -> float | None:
    """How long ago the ledger in the data directory was written [s]; None if there is none."""
    times_s = [file.stat().st_mtime for name in SPOOL_FILES if (file := data / name).exists()]
    return now_s - max(times_s) if times_s else None


def complaint(port: int, data: Path | None, *, tables: Iterable[Path] = TABLES) -> str | None:
    """What is not as it should be; None when all is well."""
    if not connections(port, tables):
        return f"no connection to port {port} of the broker"
    if data is None:
        return None
    age_s = ledger_age_s(data, time.time())
    if age_s is None:
        return f"no ledger in {data}"
    if age_s > QUIET_S:
        return f"the ledger in {data} was last written {age_s:.0f} s ago"
    return None


def main(arguments: list[str] | None = None) -> int:
    """Look, and say on standard error what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m cli.health", description=__doc__)
    parser.add_argument("--connected", type=int, required=True, metavar="PORT")
    parser.add_argument("--ledger", type=Path, metavar="DIRECTORY")
    given = parser.parse_args(arguments)
    wrong = complaint(given.connected, given.ledger)
    if wrong:
        sys.stderr.write(f"unhealthy: {wrong}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
