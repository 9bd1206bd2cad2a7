from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ingest.ledger import Ledger
from ingest.vitals import Resources, Vitals, resources

USED = Resources(memory_bytes=100, cpu_s=1.0, spool_bytes=10)


def test_the_first_look_has_no_rates() -> None:
    """Nothing is known of a span that has not begun."""
    figures = Vitals(now_s=lambda: 0.0).figures(Ledger(pending=4), USED)

    assert {"memory_bytes": 100, "spool_bytes": 10, "pending": 4} == figures


def test_rates_are_per_second() -> None:
    """What the ledger grew by is divided by the time between two looks."""
    instants = iter([0.0, 10.0])
    vitals = Vitals(now_s=lambda: next(instants))
    vitals.figures(Ledger(received=5, written=5), USED)
    figures = vitals.figures(Ledger(received=105, written=55, pending=50), Resources(100, 6.0, 10))

    assert (10.0, 5.0, 0.5) == tuple(
        figures[name] for name in ("received_per_s", "written_per_s", "cpu_share")
    )


def test_delays_are_those_since_the_last_look() -> None:
    """A bad second is seen in its own figures and not for ever."""
    vitals = Vitals()
    vitals.accepted(5_000, 10)
    first = vitals.figures(Ledger(), USED)

    assert "accepted_p99_ms" in first
    assert "accepted_p99_ms" not in vitals.figures(Ledger(), USED)


@given(st.lists(st.integers(1, 10**9), min_size=1))
def test_percentiles_are_in_order(delays_us: list[int]) -> None:
    """Half of the delays are no longer than the longest."""
    vitals = Vitals()
    for delay_us in delays_us:
        vitals.stored(delay_us, 1)
    figures = vitals.figures(Ledger(), USED)

    assert figures["stored_p50_ms"] <= figures["stored_p99_ms"] <= figures["stored_max_ms"]


def test_resources_count_the_spool_and_its_log(tmp_path: Path) -> None:
    """SQLite keeps what it has not merged beside the spool."""
    spool = tmp_path / "spool.sqlite"
    spool.write_bytes(b"12345")
    (tmp_path / "spool.sqlite-wal").write_bytes(b"678")
    used = resources(spool)

    assert 8 == used.spool_bytes
    assert used.memory_bytes > 0
