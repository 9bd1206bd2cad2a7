"""The alarm engine: batches of readings in, changes of alarms out.

A batch is compared with the quiet bands of its series by a handful of array operations; only series
with a reading outside its band are followed reading by reading, in the order of arrival.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from alerts.gates import Change, level_of, standing, step
from alerts.rules import Rule, RuleSet
from alerts.watches import Watches
from broker.messages import AlarmEvent, Announcement, Birth
from city.cityfile import Address
from city.readings import Flag, ReadingBatch

_COUNTED: Final = np.array([flag in {Flag.N, Flag.S, Flag.T} for flag in sorted(Flag)])
"""By flag: whether the value says something about the medium, and so can raise or clear."""


class AlarmEngine:
    """Holds readings against rules; one alarm per rule and device.

    A reading counts when it is normal, set by hand or over range, and not older than the last one
    counted of its series. What the engine says depends on the readings and their order alone, not
    on how they are batched. All batches of one engine share one series table.
    """

    def __init__(self, rules: RuleSet) -> None:
        self._rules = {rule.id: rule for rule in rules.rules}
        self._watches = Watches(rules)
        self._standing: dict[tuple[Address, str], Announcement] = {}
        self._over: dict[tuple[Address, str], int] = {}
        self._ended: list[Announcement] = []

    def learn(self, address: Address, birth: Birth) -> None:
        """Select the rules for a device; until its birth is known, those for every kind apply.

        An alarm whose rule is not for such a device ends; the next `evaluate` returns that.
        """
        for rule in self._watches.learn(address, birth.kind, birth.plant):
            alarm = self._standing.pop((address, rule), None)
            if alarm is not None:
                self._ended.append(_end(alarm))
                self._over[address, rule] = self._ended[-1].event.ts

    def adopt(self, announcement: Announcement) -> bool:
        """Take over an alarm that stood before this engine began, so that it clears in its time.

        False: it does not stand, has ended here since, or no rule can ever clear it. An alarm that
        the engine knows already stays as it is.
        """
        address, event = announcement.address, announcement.event
        rule = self._rules.get(event.rule)
        if event.state != "active" or rule is None or rule.quantity != event.quantity:
            return False
        life = standing(rule.watch, event.level, event.raised)
        if level_of(rule.watch, life) is None or not self._watches.may_watch(address, rule):
            return False
        alarm = (address, event.rule)
        if alarm in self._standing:
            return True
        if alarm in self._over and event.ts <= self._over[alarm]:
            return False
        self._standing[alarm] = announcement
        self._watches.restore(address, rule, life, event.ts)
        return True

    def standing(self) -> list[Announcement]:
        """The newest event of every alarm that stands, in the order in which they were raised."""
        return list(self._standing.values())

    def evaluate(self, batch: ReadingBatch) -> list[Announcement]:
        """What `batch` changes, in the order of arrival."""
        watches = self._watches
        watches.follow(batch.table)
        changes, self._ended = self._ended, []
        series, ts, value = batch.series.astype(np.intp), batch.ts, batch.value
        if batch.flag.any():
            counted = _COUNTED[batch.flag]
            series, ts, value = series[counted], ts[counted], value[counted]
        hit = (value < watches.low.take(series)) | (value > watches.high.take(series))
        if hit.any():
            rows = np.flatnonzero(np.isin(series, series[hit]))
            columns = (series[rows].tolist(), ts[rows].tolist(), value[rows].tolist())
            changes.extend(self._walk(*columns))
        _advance(watches.last, series, ts)
        return changes

    def _walk(self, series: list[int], ts: list[int], value: list[float]) -> Iterator[Announcement]:
        """Follow readings one by one; `last` still stands where it was before the batch."""
        newest: dict[int, int] = {}
        for index, instant, reading in zip(series, ts, value, strict=True):
            last = newest.get(index)
            if last is None:
                last = int(self._watches.last[index])
            if instant >= last:
                newest[index] = instant
                yield from self._take(index, instant, reading)

    def _take(self, series: int, ts: int, value: float) -> Iterator[Announcement]:
        for rule in self._watches.rules(series):
            before = self._watches.life(series, rule)
            after, change = step(rule.watch, before, ts, value)
            if after is not before:
                self._watches.set_life(series, rule, after)
            if change is not None:
                yield self._announce(series, rule, change, ts, value)

    def _announce(
        self, series: int, rule: Rule, change: Change, ts: int, value: float
    ) -> Announcement:
        address = self._watches.address(series)
        announcement = Announcement(address, _event(rule, change, ts, value))
        if change.event == "cleared":
            del self._standing[address, rule.id]
            self._over[address, rule.id] = ts
        else:
            self._standing[address, rule.id] = announcement
        return announcement


def _event(rule: Rule, change: Change, ts: int, value: float) -> AlarmEvent:
    limit = rule.limit(change.level)
    return AlarmEvent(
        rule=rule.id,
        event=change.event,
        state="cleared" if change.event == "cleared" else "active",
        severity=limit.severity,
        level=change.level,
        quantity=rule.quantity,
        value=value,
        limit=limit.limit,
        unit=rule.unit,
        ts=ts,
        raised=change.raised,
        standard=limit.standard,
        clause=limit.clause,
        grade=limit.grade,
        message=rule.message,
        message_zh=rule.message_zh,
    )


def _end(alarm: Announcement) -> Announcement:
    """The end of an alarm that its rule watches no more, just after its last event."""
    last = alarm.event
    event = msgspec.structs.replace(last, event="cleared", state="cleared", ts=last.ts + 1)
    return Announcement(alarm.address, event)


def _advance(last: NDArray[np.int64], series: NDArray[np.intp], ts: NDArray[np.int64]) -> None:
    """Move the series' last counted instants forward, never back.

    Of equal indices in one assignment the last one wins, which is the newest unless readings came
    out of order; then the newer ones are assigned again.
    """
    newest = np.maximum(last.take(series), ts)
    last[series] = newest
    behind = last.take(series) < newest
    while behind.any():
        series, newest = series[behind], newest[behind]
        last[series] = newest
        behind = last.take(series) < newest
