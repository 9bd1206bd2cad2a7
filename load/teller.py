"""How a part that watches speaks: what it counted since its last word, what it costs, what is wrong."""

import time
from collections.abc import Mapping
from typing import Final, cast

import msgspec
import psutil

from city.clock import wall_ms
from load.crew import Opening
from load.figures import Delays, Delta, PartKind
from load.line import Line
from load.plan import Part

WORD_S: Final = 1.0
"""A part speaks so often."""


async def begun(part: Part, line: Line) -> Part:
    """The part with the instant of the beginning, once the part is prepared.

    A part whose instant is 0 asks for it on its line, which is an `Opening` then.
    """
    if part.start_ms:
        return part
    return msgspec.structs.replace(part, start_ms=await cast("Opening", line).begin())


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
        self._cpu_s = time.process_time()
        self._warnings: list[str] = []

    @property
    def due(self) -> bool:
        """Whether it is time for a word."""
        return time.monotonic() >= self._told_at_s + WORD_S

    def warn(self, text: str) -> None:
        """Say this with the next word."""
        self._warnings.append(text)

    def tell(self, totals: Mapping[str, int], *, last: bool = False) -> None:
        """Say a word; `totals` are the counts since the beginning."""
        now_s, cpu_s = time.monotonic(), time.process_time()
        used_s, self.span_s = cpu_s - self._cpu_s, max(1e-3, now_s - self._told_at_s)
        self.busy = used_s / self.span_s
        self._told_at_s, self._cpu_s = now_s, cpu_s
        delta = Delta(
            kind=self._kind,
            part=self._number,
            at_ms=wall_ms(),
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
