"""What deltas add up to: counts, exact sums of histograms, processor time."""

from collections import Counter
from collections.abc import Mapping

from hdrh.histogram import HdrHistogram

from load.figures import STAGES, Delta, histogram
from load.percentiles import Latency, latency_of


class Sums:
    """The sum of some deltas.

    A histogram is 190 KB in memory and some KB encoded: `seal` encodes what is seldom added to.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.cpu_s = 0.0
        self._open: dict[str, HdrHistogram] = {}
        self._sealed: dict[str, bytes] = {}
        self._latency: dict[str, Latency] = {}

    def add(self, delta: Delta, delays: Mapping[str, HdrHistogram]) -> None:
        """Add counts, processor time and delays, which are decoded once for all sums."""
        self.counts.update(delta.counts)
        self.cpu_s += delta.cpu_s
        for stage, some in delays.items():
            self.add_delays(stage, some)

    def add_delays(self, stage: str, delays: HdrHistogram) -> None:
        """Add the delays of one stage."""
        self._opened(stage).add(delays)

    def merge(self, other: "Sums") -> None:
        """Add another sum to this one."""
        self.counts.update(other.counts)
        self.cpu_s += other.cpu_s
        for stage, encoded in other.encoded().items():
            self._opened(stage).decode_and_add(encoded)

    def seal(self) -> None:
        """Keep the histograms encoded from now on; adding opens them again."""
        self._latency |= self._opened_latency()
        self._sealed |= {stage: delays.encode() for stage, delays in self._open.items()}
        self._open = {}

    def latency(self) -> dict[str, Latency]:
        """How long each stage took, in the order of `STAGES`."""
        known = self._latency | self._opened_latency()
        return {stage: known[stage] for stage in STAGES if stage in known}

    def encoded(self) -> dict[str, bytes]:
        """The histograms in HdrHistogram's own encoding (V2, compressed, base 64), likewise."""
        known = self._sealed | {stage: delays.encode() for stage, delays in self._open.items()}
        return {stage: known[stage] for stage in STAGES if stage in known}

    def _opened(self, stage: str) -> HdrHistogram:
        if stage not in self._open:
            self._open[stage] = histogram()
            self._latency.pop(stage, None)
            if stage in self._sealed:
                self._open[stage].decode_and_add(self._sealed.pop(stage))
        return self._open[stage]

    def _opened_latency(self) -> dict[str, Latency]:
        each = ((stage, latency_of(delays)) for stage, delays in self._open.items())
        return {stage: latency for stage, latency in each if latency is not None}
