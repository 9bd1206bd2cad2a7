"""What a load test is: everything that its parts must agree on, as plain data.

A plan travels to other processes and machines, so it holds values and paths, never open things.

Time: the test runs on the wall clock in milliseconds since the epoch. The city's own time, which
decides what devices measure and when, runs beside it at a pace (`load.pace`): at pace 1 a device
measures once per interval, at pace 2 twice. `ts` on the wire is always the instant on the wall at
which the device was due to measure, so that latency counts from when a message should have left.
"""

from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from broker.choice import BrokerAddress
from city.cityfile import City
from city.synthetic import synthetic_city
from load.payloads import NATIVE, Template

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
"""A share of messages or devices."""

FAULTS: Final = ("missing", "repeated", "late", "reordered", "malformed", "oversized")
"""What may be wrong with a message, in the order in which its lot is drawn."""


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which share of the messages is faulty, and how; a message has one fault at most.

    The lot of a message is drawn by (seed, device, seq) alone: another process draws the same.
    """

    missing: Share = 0.0
    """Never sent, though its number is used up, as by a device that lost it."""
    repeated: Share = 0.0
    """Sent twice, in the same bytes."""
    late: Share = 0.0
    """Sent `late_s` after it was due."""
    reordered: Share = 0.0
    """Sent after the device's next message."""
    malformed: Share = 0.0
    """Cut off in the middle of its payload."""
    oversized: Share = 0.0
    """Followed by blanks up to `oversized_bytes`."""
    late_s: float = 5.0
    oversized_bytes: int = 300_000

    @property
    def any(self) -> bool:
        """Whether anything is ever wrong."""
        return any(getattr(self, name) > 0 for name in FAULTS)


class Phase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the test with a course of its own; paces are relative to the plan's rate.

    The pace runs straight from `pace` to `to_pace` (None: it stays). At its beginning the share
    `drop` of the devices loses its connection without a word; while it lasts, the share `alarms`
    of the devices shows values near the end of the range, which crosses every limit.
    """

    name: str
    for_s: Annotated[float, Meta(gt=0)]
    pace: Annotated[float, Meta(ge=0)] = 1.0
    to_pace: Annotated[float, Meta(ge=0)] | None = None
    drop: Share = 0.0
    alarms: Share = 0.0


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One load test."""

    run: str
    """Its name: letters, digits and hyphens; it stands in client identifiers and topics."""
    broker: BrokerAddress
    devices: int
    interval_s: float
    """How often each device sends at pace 1."""
    ramp_s: float
    """Over which time the devices connect, evenly, before the first phase."""
    phases: tuple[Phase, ...]
    kinds: tuple[str, ...]
    seed: int
    city_start_ms: int
    """The city's own time when the test begins."""
    qos: int = 1
    template: Template = NATIVE
    faults: Faults = Faults()
    password: str | None = None
    """The one password of all devices, where they have no logins of their own."""
    credentials: Path | None = None
    """The file of `cityeye broker init`: a login for every device and for the subscribers."""
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    certificates: Path | None = None
    """A folder with `{site}.{device}.crt` and `.key` for every device."""
    sources: tuple[str, ...] = ()
    """Local addresses that connections come from, in turn; without any the system chooses."""
    window: int = 16
    keep_alive_s: int = 60
    backlog_max: int = 3_600
    subscribers: int = 1
    drain_s: float = 30.0
    """How long the end waits for what is on its way."""

    @property
    def rate(self) -> float:
        """Messages per second at pace 1."""
        return self.devices / self.interval_s

    @property
    def duration_s(self) -> float:
        """From the first connection to the end of the last phase, without the drain."""
        return self.ramp_s + sum(phase.for_s for phase in self.phases)

    def city(self) -> City:
        """The simulated city whose devices these are."""
        return synthetic_city(
            self.devices, interval_s=self.interval_s, seed=self.seed, kinds=self.kinds
        )


class Part(msgspec.Struct, frozen=True):
    """One of the processes that a test is divided among."""

    number: int
    of: int
    start_ms: int
    """The instant on the wall at which the test begins, the same for all."""
    resume: "Resume | None" = None


class Resume(msgspec.Struct, frozen=True):
    """Where a shard goes on whose first process died."""

    complete_ms: int
    """Up to this instant on the wall all that was due has been acknowledged."""
    orders: "tuple[Order, ...]" = ()
    """What was ordered since the beginning."""


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the conductor says to every shard while the test runs.

    `factor` multiplies the pace of the phases from `at_ms` on (0 pauses); `drop` cuts that share
    of the connections; `stop` ends the test at `at_ms`. Orders come a little before their instant,
    so that all shards follow at the same one.
    """

    at_ms: int
    factor: Annotated[float, Meta(ge=0)] | None = None
    drop: Share = 0.0
    stop: bool = False
