"""What a load test says of itself while it runs, and what it is told."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from broker.messages import Count, Instant

FACTOR_MAX: Final = 10_000.0


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a stage took in the last second [ms]."""

    p50: float
    p95: float
    p99: float
    max: float


class LoadFigures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One second of a running load test."""

    run: str
    ts: Instant
    """On the wall, milliseconds since the epoch: the end of that second."""
    phase: str
    at_s: float
    devices: Count
    connected: Count
    due: Count
    sent: Count
    acked: Count
    received: Count
    lost: Count | None = None
    """Acknowledged and not received so far; absent without a subscriber."""
    waiting: Count
    wanted_rate: float
    rate: float
    """Messages sent per second."""
    latency_ms: dict[str, Spread]
    cpu: dict[str, float]
    """Cores used, by kind of part."""


class LoadControl(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A wish to a running load test; exactly one of these is given."""

    factor: Annotated[float, Meta(gt=0, le=FACTOR_MAX)] | None = None
    """The rate becomes so many times that of the test."""
    rate: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    """The rate becomes this [messages/s]."""
    pause: bool | None = None
    """Nothing is sent from now on, or again what was sent before the pause."""
    stop: bool | None = None
    """The test ends in order."""
