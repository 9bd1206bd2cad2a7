"""What the parts of a test say of themselves, second by second, so that it adds up exactly.

A part tells deltas: what it counted and how long things took since its last word. Whoever adds
them up has the figures of the whole test, whatever parts died or started again in between.
"""

from collections.abc import Iterable
from typing import Final, Literal

import msgspec
import numpy as np
from hdrh.histogram import HdrHistogram

HIGHEST_US: Final = 3_600_000_000
"""No delay is counted as longer than an hour."""

DIGITS: Final = 3
"""Significant digits of a delay."""

_SUBS: Final = 2048
"""HdrHistogram's linear counts per bucket at three digits."""

LATE_P99_MS: Final = 20.0
"""A generator that is later than this with one message in a hundred distorts what it measures."""

BUSY: Final = 0.9
"""A process that uses more of its core than this has nothing in reserve."""

BOTTLENECK: Final = "the generator was the bottleneck"
"""How the warning begins that says so."""

PartKind = Literal["shard", "subscriber", "store", "broker"]

STAGES: Final = ("lateness", "connect", "ack", "subscriber", "store", "alarm")
"""Delays [us] since a message was due, except `connect` (since the connection was begun).

`lateness`: until the generator handed it to the network, its own fault. `ack`: until the broker's
acknowledgement. `subscriber`: until a subscriber had it. `store`: until it could be read in the
store. `alarm`: until the alarm event that it raised was at a subscriber.
"""

COUNTS: Final = (
    "due", "sent", "acked", "readings", "bytes", "dropped", "connects", "disconnects",
    "missing", "repeats", "late", "reordered", "malformed", "oversized",
    "received", "distinct", "repeated", "out_of_order", "unreadable", "strange", "alarms",
    "broker_dropped", "unread_possible",
)  # fmt: skip
"""Counts of shards: messages that became due, were sent (repeats and retries included), were
acknowledged; readings and payload bytes sent; messages that a full backlog pushed out;
connections made and lost; messages with each fault of `load.plan.FAULTS` (`repeats`: sent twice on
purpose). Counts of subscribers: messages received, of these for the first time, again, and after a
later one of their device; payloads without device or number, messages of no device of the test;
alarm events; messages that the broker says it dropped; whether it may not have read everything."""


class Delays:
    """Delays of some stages since the last look. Not safe from several threads."""

    def __init__(self) -> None:
        self._taken: dict[str, list[int]] = {}

    def of(self, stage: str) -> list[int]:
        """The list to which delays of a stage [us] are appended: the fast path."""
        return self._taken.setdefault(stage, [])

    def look(self) -> dict[str, bytes]:
        """What was taken since the last look, as encoded histograms."""
        looked = {}
        for stage, taken in self._taken.items():
            if taken:
                looked[stage] = histogram_of(taken).encode()
                taken.clear()
        return looked


def histogram() -> HdrHistogram:
    """An empty histogram of delays [us]."""
    return HdrHistogram(1, HIGHEST_US, DIGITS)


def histogram_of(delays_us: list[int]) -> HdrHistogram:
    """The histogram of these delays: what `record_value` of each would make, many times faster.

    Counts stand where HdrHistogram puts them: a bucket for each power of 2 above the first
    `_SUBS`, half as many counts in each, linear within it.
    """
    made = histogram()
    within = np.clip(np.array(delays_us, dtype=np.int64), 1, HIGHEST_US)
    if len(within):
        bits = np.frexp((within | (_SUBS - 1)).astype(np.float64))[1].astype(np.int64)
        bucket = bits - _SUBS.bit_length() + 1
        places = bucket * (_SUBS // 2) + (within >> bucket)
        counts = np.frombuffer(made.counts, dtype=np.uint64)
        counts += np.bincount(places, minlength=len(counts)).astype(np.uint64)
        made.total_count = len(within)
        made.min_value, made.max_value = int(within.min()), int(within.max())
    return made


def merged(encoded: Iterable[bytes]) -> HdrHistogram:
    """The sum of encoded histograms."""
    total = histogram()
    for one in encoded:
        total.decode_and_add(one)
    return total


class Delta(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One word of one part, about once per second and once at its end."""

    kind: PartKind
    part: int
    attempt: str = ""
    """Which process it was: a shard that starts again is another attempt."""
    at_ms: int
    """The instant on the wall at which it was said."""
    counts: dict[str, int] = {}
    """Of `COUNTS`, since the last word."""
    delays: dict[str, bytes] = {}
    """Of `STAGES`, since the last word: encoded histograms."""
    reasons: dict[str, int] = {}
    """Why connections were refused or lost, since the last word."""
    connected: int = 0
    """Devices that are online now."""
    waiting: int = 0
    """Messages of a shard that are not acknowledged now."""
    cpu_s: float = 0.0
    """Processor time of the process since its last word."""
    rss_bytes: int = 0
    """Resident memory of the process now."""
    empty_rss_bytes: int = 0
    """The same before it had devices; shards only."""
    complete_ms: int = 0
    """Up to this instant all that was due is acknowledged (at QoS 0: sent); shards only."""
    confirmed: int = 0
    """How many different messages that is since the attempt began; shards only."""
    warnings: tuple[str, ...] = ()
    """What people should know."""
    last: bool = False
    """Whether the part ends with this word."""
    failed: bool = False
    """Said in place of a part that ended before its time, and with which nobody goes on."""
