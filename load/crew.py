"""Whoever runs the parts of a test: local processes, or workers of a cluster."""

from collections.abc import AsyncIterator
from typing import Protocol

from load.figures import Delta
from load.line import Line
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

        Raises:
            ServiceError: A part ended before its time.
        """

    def order(self, order: Order) -> None:
        """Tell every part; returns at once."""

    async def close(self) -> None:
        """End every part, whatever it is doing."""


class Opening(Line, Protocol):
    """A line before the test begins."""

    async def begin(self) -> int:
        """Say that the part is prepared; the instant at which the test begins [ms]."""
