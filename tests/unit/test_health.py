"""The health check of CityEye's containers."""

import os
import time
from pathlib import Path

import pytest

from cli.health import QUIET_S, complaint, connections, ledger_age_s, main

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue\n"
ESTABLISHED = "   0: 0100007F:A1B2 0100007F:22B3 01 00000000:00000000 00:00000000\n"
CLOSING = "   1: 0100007F:A1B3 0100007F:22B3 06 00000000:00000000 00:00000000\n"
ELSEWHERE = "   2: 0100007F:A1B4 0100007F:1F90 01 00000000:00000000 00:00000000\n"
PORT = 0x22B3


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of connections: one established to the port, one that is closing, one elsewhere."""
    path = tmp_path / "tcp"
    path.write_text(HEAD + ESTABLISHED + CLOSING + ELSEWHERE)
    return path


def test_established(table: Path, tmp_path: Path) -> None:
    """Only established connections to the port count; a table that is missing is passed over."""
    assert 1 == connections(PORT, [table, tmp_path / "tcp6"])


def test_no_connection(table: Path) -> None:
    """Without a connection it is unhealthy, and the port is named."""
    assert "no connection to port 1883 of the broker" == complaint(1883, None, tables=[table])


def test_fresh_ledger(table: Path, tmp_path: Path) -> None:
    """A connection and a fresh ledger are healthy."""
    (tmp_path / "spool.sqlite").touch()

    assert None is complaint(PORT, tmp_path, tables=[table])


def test_newest_file_counts(tmp_path: Path) -> None:
    """The log beside the spool counts as the ledger: it is written first."""
    old, new = tmp_path / "spool.sqlite", tmp_path / "spool.sqlite-wal"
    for path, time_s in ((old, 100.0), (new, 160.0)):
        path.touch()
        os.utime(path, (time_s, time_s))

    assert 40.0 == ledger_age_s(tmp_path, 200.0)


def test_silent_ledger(table: Path, tmp_path: Path) -> None:
    """A ledger that nobody writes any more is unhealthy."""
    spool = tmp_path / "spool.sqlite"
    spool.touch()
    then_s = time.time() - QUIET_S - 5
    os.utime(spool, (then_s, then_s))

    assert "was last written 65 s ago" in (complaint(PORT, tmp_path, tables=[table]) or "")


def test_no_ledger(table: Path, tmp_path: Path) -> None:
    """A missing ledger is unhealthy."""
    assert f"no ledger in {tmp_path}" == complaint(PORT, tmp_path, tables=[table])


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with 1 and says why."""
    assert 1 == main(["--connected", "1"])
    assert "unhealthy: no connection to port 1 of the broker\n" == capsys.readouterr().err
