from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.ledger import Fate, Ledger

COUNTS = st.fixed_dictionaries({fate.value: st.integers(0, 1000) for fate in Fate})
PENDING = st.integers(0, 1000)


def ledger_of(counts: Mapping[str, int], pending: int) -> Ledger:
    """A ledger that balances."""
    return msgspec.convert(
        {"received": sum(counts.values()) + pending, "pending": pending, **counts}, Ledger
    )


def test_a_new_ledger_balances() -> None:
    """A ledger without entries balances."""
    assert Ledger().balanced


@pytest.mark.parametrize(
    "field", ["received", "written", "duplicate", "quarantined", "refused", "pending"]
)
def test_a_single_count_unbalances(field: str) -> None:
    """A message that is counted on one side only shows."""
    assert not msgspec.convert({field: 1}, Ledger).balanced


@given(COUNTS, PENDING, COUNTS, PENDING)
def test_a_balanced_span(
    before: Mapping[str, int], pending_before: int, change: Mapping[str, int], pending: int
) -> None:
    """What happened between two balanced ledgers balances as well."""
    start = ledger_of(before, pending_before)
    end = ledger_of({fate: before[fate] + change[fate] for fate in before}, pending)

    assert end.since(start).balanced


def test_what_was_pending_counts_as_received() -> None:
    """A message that was pending at the start of a span is received in that span."""
    start = Ledger(received=5, written=3, pending=2)
    end = Ledger(received=6, written=6)

    assert Ledger(received=3, written=3) == end.since(start)


def test_reasons_of_a_span() -> None:
    """Of the reasons only those that grew remain."""
    start = Ledger(reasons={"quarantined:not-json": 2, "refused:store": 1})
    end = Ledger(reasons={"quarantined:not-json": 5, "refused:store": 1, "refused:new": 1})

    assert {"quarantined:not-json": 3, "refused:new": 1} == end.since(start).reasons
