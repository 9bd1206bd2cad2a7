"""What every store promises, whatever server stands behind it.

A point is one row: a measurement, its tags, an instant, and fields. Points of the same
measurement, tags and instant overwrite one another field by field, so writing twice is harmless.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from city.cityfile import Address


class PointKey(msgspec.Struct, frozen=True, cache_hash=True):
    """The measurement and tags that a point belongs to; tags are sorted by name."""

    measurement: str
    tags: tuple[tuple[str, str], ...]


class Point(msgspec.Struct, frozen=True, gc=False):
    """One row for the store.

    `ts` is milliseconds since the epoch, UTC. A name stands in at most one of `values` (floats),
    `counts` (integers) and `texts`, and at least one of them is not empty.
    """

    key: PointKey
    ts: int
    values: dict[str, float]
    counts: dict[str, int]
    texts: dict[str, str]


class Store(Protocol):
    """A place that keeps points. Opened before use, closed once."""

    name: str
    """The store as a person would name it, with its address and without secrets."""

    async def open(self) -> None:
        """Connect and make database or tables where they are missing.

        Raises:
            StoreUnavailable: The server does not answer.
            StoreError: It answers that we may not use it.
        """

    async def write(self, points: Sequence[Point]) -> None:
        """Keep every point, or raise; after an error some of them may have been kept.

        Raises:
            StoreUnavailable: Try the same points later.
            StoreTooLarge: Try fewer points at once.
            StoreRefused: At least one point will never be taken.
        """

    async def read(
        self, measurement: str, start_ms: int, stop_ms: int, *, limit: int = 10_000
    ) -> list[Point]:
        """The points of `measurement` with `start_ms <= ts < stop_ms`, oldest first."""

    async def close(self) -> None:
        """Release the connection; what `write` accepted is kept."""


def device_key(address: Address) -> PointKey:
    """The key under which a device's telemetry is stored."""
    return PointKey(
        measurement=address.domain,
        tags=(
            ("city", address.city),
            ("device", address.device),
            ("district", address.district),
            ("site", address.site),
        ),
    )
