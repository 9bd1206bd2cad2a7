"""Whoever runs the parts of a test: local processes, or workers of a cluster."""

from collections.abc import AsyncIterator
from typing import Protocol

from load.figures import Delta
from load.plan import LoadPlan, Order


class Crew(Protocol):
    """Runs the parts of one test; `close` ends whatever still runs."""

    async def start(self, plan: LoadPlan, *, shards: int, subscribers: int) -> int:
        """Start every part, wait until all are prepared, and begin; the instant at which [ms].

        Raises:
            ServiceError: A part could not prepare itself.
        """

    def words(self) -> AsyncIterator[Delta]:
        """Every word of every part, in order per part, until all have said their last.

        A part that ends before its time has said a word that it `failed`; the others go on.
        """

    def order(self, order: Order) -> None:
        """Tell every part; returns at once."""

    async def close(self) -> None:
        """End every part, whatever it is doing."""
