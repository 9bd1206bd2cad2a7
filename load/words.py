"""What a shard says of itself, about once per second."""

import gc
import time
import uuid
from collections import Counter, deque
from typing import Final

import numpy as np
import psutil

from load.figures import Delta
from load.fleet import Fleet
from load.line import Line
from load.plan import Part

WORD_S: Final = 1.0

_LATE_US: Final = 20_000
_BUSY: Final = 0.9
_LOOK_BACK: Final = 5
"""Seconds by which it is judged whether we are the bottleneck."""


class Words:
    """Tells a fleet's figures as deltas."""

    def __init__(
        self, part: Part, fleet: Fleet, line: Line, *, empty_bytes: int, ramp_s: float
    ) -> None:
        """`empty_bytes` is how much memory the process had before it had devices.

        Whether the process keeps up is judged after the ramp: connecting is a load of its own.
        """
        self._part = part
        self._fleet = fleet
        self._line = line
        self._empty_bytes = empty_bytes
        self._attempt = uuid.uuid4().hex[:8]
        self._process = psutil.Process()
        self._told: Counter[str] = Counter()
        self._told_s = time.monotonic()
        self._cpu_s = time.process_time()
        self._strain = Strain()
        self._ramp_end_ms = part.start_ms + ramp_s * 1000

    def tell_now_and_then(self, now_s: float) -> None:
        """Tell, if a second has passed since the last word."""
        if now_s >= self._told_s + WORD_S:
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
        if time.time_ns() / 1e6 > self._ramp_end_ms + WORD_S * 1000:
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
            at_ms=time.time_ns() // 1_000_000,
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
        self._told, self._told_s, self._cpu_s = counts, now_s, cpu_s
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
        late_us = np.concatenate([np.asarray(one, dtype=np.int64) for one, _, _ in self._seconds])
        p99_us = float(np.percentile(late_us, 99)) if late_us.size else 0.0
        busy = sum(cpu_s for _, cpu_s, _ in self._seconds) / sum(s for _, _, s in self._seconds)
        if p99_us <= _LATE_US and busy <= _BUSY:
            return ()
        self._said = True
        warning = (
            f"the generator was the bottleneck: its messages left {p99_us / 1000:.0f} ms late "
            f"(p99) and it used {busy:.0%} of a core over {_LOOK_BACK} s; divide the devices "
            "among more processes (--processes) or machines"
        )
        return (warning,)
