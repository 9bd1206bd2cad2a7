"""The figures by which alarm management is judged, after ISA-18.2 and EEMUA 191.

A flood is more than 10 alarms per operator in 10 minutes; an alarm that stands for more than a day
stands for long; about 150 alarms a day are what one operator can handle; of low, medium and higher
severities 80, 15 and 5 % are aimed at. Counted is what is annunciated: raises and repetitions that
people are told of, at the instant of the event.
"""

import heapq
from collections import Counter
from collections.abc import Collection
from typing import Any, Final

import msgspec

from alerts.alarm import Alarm
from alerts.life import UNREAD
from broker.messages import Severity

FLOOD_ALARMS: Final = 10
"""More annunciated per operator and 10 minutes than this are a flood."""
WINDOW_MS: Final = 600_000
LONG_MS: Final = 86_400_000
DAY_MS: Final = 86_400_000
WORST: Final = 10

_BIN_MS: Final = 10_000
_BINS: Final = 2 * WINDOW_MS // _BIN_MS
_SLOTS: Final = DAY_MS // WINDOW_MS


class AlarmFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How the alarms do, now and since the beginning of the run."""

    standing: int
    """Alarms that people see and that are not normal; those under a cover are counted apart."""
    unacknowledged: int
    """Of these, those that wait for an acknowledgement."""
    shelved: int
    suppressed: int
    out_of_service: int
    long_standing: int
    """Of those standing, those raised more than 24 h ago."""
    operator_10min: float
    """Annunciated per operator within the last 10 minutes, to 10 s."""
    operator_10min_peak: float
    flood_share: float
    """Part of the 10-minute slots of the run that were floods."""
    chattering: int
    """Automatic shelves so far."""
    worst: tuple[tuple[str, int], ...]
    """The alarms annunciated most often, at most ten, with how often."""
    priorities: dict[Severity, float]
    """Part of all annunciated, by severity; empty when there are none."""
    annunciated: int
    operator_day: float
    """Annunciated per operator and day; a run shorter than a day counts as one."""


class _Bins:
    """Counts per span of time; of the newest spans only, so that memory is bounded."""

    def __init__(self, span_ms: int, most: int) -> None:
        self.counts: dict[int, int] = {}
        self._span_ms = span_ms
        self._most = most

    def add(self, ts: int) -> int:
        """Count one at `ts`; returns how many its span has, 0 if it is older than all kept."""
        place = ts // self._span_ms
        if place not in self.counts and len(self.counts) == self._most:
            oldest = min(self.counts)
            if place < oldest:
                return 0
            del self.counts[oldest]
        self.counts[place] = self.counts.get(place, 0) + 1
        return self.counts[place]

    def within(self, ts: int, length_ms: int) -> int:
        """How many came in the `length_ms` up to `ts`, to one span."""
        last = ts // self._span_ms
        first = last - length_ms // self._span_ms
        return sum(count for place, count in self.counts.items() if first < place <= last)


class Tally:
    """Counts what is annunciated; memory does not grow with the run."""

    def __init__(self, operators: int) -> None:
        self._operators = operators
        self._begun: int | None = None
        self._annunciated = 0
        self._severities: Counter[Severity] = Counter()
        self._bins = _Bins(_BIN_MS, _BINS)
        self._slots = _Bins(WINDOW_MS, _SLOTS)
        self._floods = 0
        self._peak = 0
        self._chattering = 0

    def begin(self, ts: int) -> None:
        """The run begins with the first instant that anything is known of."""
        if self._begun is None:
            self._begun = ts

    def annunciate(self, severity: Severity, ts: int) -> None:
        """People are told of an alarm."""
        self._annunciated += 1
        self._severities[severity] += 1
        if self._bins.add(ts):
            self._peak = max(self._peak, self._bins.within(ts, WINDOW_MS))
        if self._slots.add(ts) == FLOOD_ALARMS * self._operators + 1:
            self._floods += 1

    def chatter(self) -> None:
        """An alarm was shelved because it chattered."""
        self._chattering += 1

    def figures(self, alarms: Collection[Alarm], now: int) -> AlarmFigures:
        """The figures of `alarms` at `now`."""
        shown = Counter(alarm.shown for alarm in alarms)
        standing = [alarm for alarm in alarms if alarm.is_open and alarm.state != "normal"]
        told = ((alarm.annunciations, alarm.name) for alarm in alarms if alarm.annunciations)
        worst = heapq.nsmallest(WORST, ((-count, name) for count, name in told))
        begun = now if self._begun is None else self._begun
        slots = max(1, now // WINDOW_MS - begun // WINDOW_MS + 1)
        total = self._annunciated
        return AlarmFigures(
            standing=len(standing),
            unacknowledged=sum(shown[state] for state in UNREAD),
            shelved=shown["shelved"],
            suppressed=shown["suppressed"],
            out_of_service=shown["out-of-service"],
            long_standing=sum(now - alarm.raised > LONG_MS for alarm in standing),
            operator_10min=self._bins.within(now, WINDOW_MS) / self._operators,
            operator_10min_peak=self._peak / self._operators,
            flood_share=min(1.0, self._floods / slots),
            chattering=self._chattering,
            worst=tuple((name, -count) for count, name in worst),
            priorities={level: n / total for level, n in sorted(self._severities.items())},
            annunciated=total,
            operator_day=total / self._operators / max(1.0, (now - begun) / DAY_MS),
        )

    def capture(self) -> dict[str, Any]:
        """A copy of the counts, of plain data."""
        return {
            "begun": self._begun,
            "annunciated": self._annunciated,
            "severities": dict(self._severities),
            "bins": [list(pair) for pair in self._bins.counts.items()],
            "slots": [list(pair) for pair in self._slots.counts.items()],
            "floods": self._floods,
            "peak": self._peak,
            "chattering": self._chattering,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up counts captured before."""
        self._begun = state["begun"]
        self._annunciated = state["annunciated"]
        self._severities = Counter(state["severities"])
        self._bins.counts = dict(state["bins"])
        self._slots.counts = dict(state["slots"])
        self._floods, self._peak = state["floods"], state["peak"]
        self._chattering = state["chattering"]
