"""What a shard says of itself, about once per second and wherever a phase ends."""

import gc
import time
import uuid
from collections import Counter, deque
from typing import Final

import numpy as np
import psutil

from city.clock import wall_ms
from load.figures import BOTTLENECK, BUSY, LATE_P99_MS, Delta
from load.fleet import Fleet
from load.line import Line
from load.pace import Pace
from load.plan import Part

WORD_S: Final = 1.0

_CATCH_UP_S: Final = 5.0
"""So long a shard that goes on for another is late by what was due before it was there."""
_LOOK_BACK: Final = 5
"""Words, of a second each, by which it is judged whether we are the bottleneck."""


class Words:
    """Tells a fleet's figures as deltas."""

    def __init__(
        self,
        part: Part,
        fleet: Fleet,
        line: Line,
        pace: Pace,
        *,
        empty_bytes: int,
        ramp_s: float,
    ) -> None:
        """`empty_bytes` is how much memory the process had before it had devices.

        Whether the process keeps up is judged after the ramp: connecting is a load of its own. So
        is catching up, for a shard that goes on for one that died.
        """
        self._part = part
        self._fleet = fleet
        self._line = line
        self._empty_bytes = empty_bytes
        self._attempt = uuid.uuid4().hex[:8]
        self._process = psutil.Process()
        self._told: Counter[str] = Counter()
        self._told_s = time.monotonic()
        self._told_ms = wall_ms()
        self._pace = pace
        self._cpu_s = time.process_time()
        self._strain = Strain()
        self._judged_from_ms = part.start_ms + (ramp_s + WORD_S) * 1000
        if part.resume is not None:
            self._judged_from_ms = max(
                self._judged_from_ms, time.time_ns() / 1e6 + _CATCH_UP_S * 1000
            )

    def tell_now_and_then(self, now_s: float) -> None:
        """Tell, if a second has passed since the last word, or a phase has ended."""
        if now_s >= self._told_s + WORD_S or wall_ms() >= self._pace.turn_after(self._told_ms):
            self.tell()

    def tell(self, *, last: bool = False) -> None:
        """Tell what was counted since the last word.

        Raises:
            ConnectionError: The conductor is gone.
        """
        fleet, now_s = self._fleet, time.monotonic()
        cpu_s = time.process_time()
        survey = fleet.survey()
        warnings: tuple[str, ...] = ()
        if time.time_ns() / 1e6 > self._judged_from_ms:
            warnings = self._strain.look(
                fleet.lateness_us, cpu_s - self._cpu_s, now_s - self._told_s
            )
        counts = Counter(fleet.counts())
        reasons = dict(fleet.reasons)
        fleet.reasons.clear()
        word = Delta(
            kind="shard",
            part=self._part.number,
            attempt=self._attempt,
            at_ms=wall_ms(),
            counts=dict(counts - self._told),
            delays=fleet.delays.look(),
            reasons=reasons,
            connected=fleet.online,
            waiting=survey.waiting,
            cpu_s=cpu_s - self._cpu_s,
            rss_bytes=self._process.memory_info().rss,
            empty_rss_bytes=self._empty_bytes,
            complete_ms=survey.complete_ms,
            confirmed=survey.confirmed,
            warnings=warnings,
            last=last,
        )
        self._told, self._told_s, self._told_ms, self._cpu_s = counts, now_s, word.at_ms, cpu_s
        gc.collect(0)  # histograms hold themselves in a circle, and the collector sleeps
        self._line.tell(word)


class Strain:
    """Whether this process is the bottleneck: late, or busy, for some seconds."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[list[int], float, float]] = deque(maxlen=_LOOK_BACK)
        self._said = False

    def look(self, lateness_us: list[int], cpu_s: float, wall_s: float) -> tuple[str, ...]:
        """Take a second's figures; the warning, the first time that there is reason for it."""
        self._seconds.append((list(lateness_us), cpu_s, wall_s))
        if self._said or len(self._seconds) < _LOOK_BACK:
            return ()
        span_s = sum(wall_s for _, _, wall_s in self._seconds)
        late_us = np.concatenate([np.asarray(one, dtype=np.int64) for one, _, _ in self._seconds])
        p99_us = float(np.percentile(late_us, 99)) if late_us.size else 0.0
        busy = sum(cpu_s for _, cpu_s, _ in self._seconds) / span_s
        if p99_us <= LATE_P99_MS * 1000 and busy <= BUSY:
            return ()
        self._said = True
        warning = (
            f"{BOTTLENECK}: its messages left {p99_us / 1000:.0f} ms late "
            f"(p99) and it used {busy:.0%} of a core over {span_s:.0f} s; divide the devices "
            "among more processes (--processes) or machines"
        )
        return (warning,)
