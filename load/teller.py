"""How a part that watches speaks: what it counted since its last word, what it costs, what is wrong."""

import time
from collections.abc import Mapping
from typing import Final

import psutil

from city.clock import wall_ms
from load.figures import Delays, Delta, PartKind
from load.line import Line
from load.pace import Pace

WORD_S: Final = 1.0
"""A part speaks so often."""


class Teller:
    """Tells the words of one part; `warn` collects what people should know for the next one."""

    def __init__(self, kind: PartKind, number: int, line: Line) -> None:
        self.delays = Delays()
        self.busy = 0.0
        """The share of a core that the process used between the last two words."""
        self.span_s = 0.0
        """The time between the last two words."""
        self._kind = kind
        self._number = number
        self._line = line
        self._process = psutil.Process()
        self._told: dict[str, int] = {}
        self._told_at_s = time.monotonic()
        self._told_ms = wall_ms()
        self._cpu_s = time.process_time()
        self._warnings: list[str] = []

    def is_due(self, pace: Pace) -> bool:
        """Whether it is time for a word: a second has passed since the last one, or a phase ended."""
        passed = time.monotonic() >= self._told_at_s + WORD_S
        return passed or wall_ms() >= pace.turn_after(self._told_ms)

    def warn(self, text: str) -> None:
        """Say this with the next word."""
        self._warnings.append(text)

    def tell(self, totals: Mapping[str, int], *, last: bool = False) -> None:
        """Say a word; `totals` are the counts since the beginning."""
        now_s, cpu_s = time.monotonic(), time.process_time()
        used_s, self.span_s = cpu_s - self._cpu_s, max(1e-3, now_s - self._told_at_s)
        self.busy = used_s / self.span_s
        self._told_at_s, self._told_ms, self._cpu_s = now_s, wall_ms(), cpu_s
        delta = Delta(
            kind=self._kind,
            part=self._number,
            at_ms=self._told_ms,
            counts=self._grown(totals),
            delays=self.delays.look(),
            cpu_s=used_s,
            rss_bytes=self._process.memory_info().rss,
            warnings=tuple(self._warnings),
            last=last,
        )
        self._warnings = []
        self._line.tell(delta)

    def _grown(self, totals: Mapping[str, int]) -> dict[str, int]:
        grown = {
            name: more
            for name, total in totals.items()
            if (more := total - self._told.get(name, 0))
        }
        self._told = dict(totals)
        return grown
