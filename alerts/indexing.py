"""Indices of devices: air quality by the hour or the day, the class of a river.

A device's message closes the hours of its series one reading after the other. The index of an hour
is made when the last series that was heard in it has closed it, or, where messages lack one of them,
at the first reading of the device that is more than ten minutes later.
"""

from collections.abc import Mapping
from datetime import tzinfo
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from alerts.hours import (
    GAP_HOURS,
    HOUR_STATS,
    HOURS_KEPT,
    MILLIONTHS,
    NEVER,
    Calendar,
    ClosedHours,
    HourOperator,
    Slots,
    counted,
    needed_ms,
    said,
)
from alerts.indices import INDEX_ROWS, Indexed, nowcast
from alerts.signals import NOTHING, Arrived, Derived, Index, Signal, derived

INDEX_QUANTITIES: Final[dict[Index, tuple[str, ...]]] = {
    index: tuple(dict.fromkeys(indicator.quantity for indicator in row.indicators))
    for index, row in INDEX_ROWS.items()
}
"""What each index is made from; all in canonical units, so carbon monoxide in mg/m3."""

_NOWCAST_HOURS: Final = 12
_GRACE_MS: Final = 600_000
"""So long an index waits for series that miss in the message that closed the hour."""


class IndexOperator:
    """One index, for any number of devices, from the hourly means of their series.

    `take` is called after that of `hours` with the same readings, and for every series `name` before
    `include`. All series that are included as one output are of one device; where one quantity
    comes twice, the newest counts.
    """

    def __init__(self, index: Index, zone: tzinfo, hours: HourOperator) -> None:
        self._index = index
        self._calendar = Calendar(zone)
        self._hours = hours
        self._column: dict[int, int] = {}
        self._panels: dict[Signal, _Panel] = {}

    def name(self, series: int, quantity: str) -> None:
        """Say which quantity of the index a series is of."""
        self._column[series] = INDEX_QUANTITIES[self._index].index(quantity)

    def include(self, series: int, signal: Signal, out: int, interval_ms: int) -> None:
        """Make the index `out` of the device from this series too."""
        if signal not in self._panels:
            self._panels[signal] = _Panel(self._index, needed_ms(signal), self._calendar)
            self._panels = dict(sorted(self._panels.items(), key=lambda item: item[0].id))
        if self._panels[signal].add(series, self._column[series], out):
            self._hours.follow(series)
        self._hours.retime(series, interval_ms)

    def exclude(self, series: int, signal: Signal) -> None:
        """Make it without this series; without any, make it no more."""
        panel = self._panels.get(signal)
        if panel is not None and panel.remove(series):
            self._hours.leave(series)

    def take(self, arrived: Arrived) -> Derived:
        """The indices of the hours, or days, that these readings complete."""
        made = [
            numbers
            for panel in self._panels.values()
            for numbers in panel.take(arrived, self._hours.closed)
        ]
        if not made:
            return NOTHING
        columns = zip(*map(msgspec.structs.astuple, made), strict=True)
        return derived(*(np.concatenate(column) for column in columns))

    def last_parts(self, out: int) -> dict[str, float]:
        """By indicator, the sub-indices of the last index of `out`; without those it lacks."""
        names = [indicator.name for indicator in INDEX_ROWS[self._index].indicators]
        for panel in self._panels.values():
            if out in panel.devices:
                parts = panel.devices["parts"][panel.devices.slot(out)].tolist()
                told = zip(names, parts, strict=True)
                return {name: part for name, part in told if not np.isnan(part)}
        return {}

    def capture(self) -> Mapping[str, Any]:
        """A copy of the state."""
        return {signal.id: panel.capture() for signal, panel in self._panels.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a captured state."""
        for signal, panel in self._panels.items():
            if signal.id in state:
                panel.restore(state[signal.id])


class _Panel:
    """The devices of one signal.

    Of a series: the hour of its newest reading and its last valid hourly means. Of a device: since
    when an index is awaited (the instant of the message that closed an hour, NEVER if none is), and
    the last hour that was looked at.
    """

    def __init__(self, index: Index, needed: int, calendar: Calendar) -> None:
        self._row = INDEX_ROWS[index]
        self._quantities = INDEX_QUANTITIES[index]
        self._needed = needed
        self._calendar = calendar
        never, none = np.array(NEVER, dtype=np.int64), np.array(-1, dtype=np.int64)
        self._slots = Slots(
            {
                "hour": never,
                "hours": np.full(HOURS_KEPT, NEVER, dtype=np.int32),
                "micro": np.zeros(HOURS_KEPT, dtype=np.int64),
            },
            {"device": none, "column": none},
        )
        self.devices = Slots(
            {
                "since": never, "seen": never, "standing": np.array(False),
                "parts": np.full(len(self._row.indicators), np.nan),
            },
            {
                "out": none,
                "members": np.full(len(self._quantities), -1, dtype=np.int64),
            },
        )  # fmt: skip

    def add(self, series: int, column: int, out: int) -> bool:
        """Make a series part of a device; False: it was so already."""
        new = series not in self._slots
        slot, device = self._slots.add(series), self.devices.add(out)
        self._slots["device"][slot], self._slots["column"][slot] = device, column
        self.devices["out"][device] = out
        self.devices["members"][device, column] = slot
        return new

    def remove(self, series: int) -> bool:
        """Forget a series; False: it was not there."""
        if series not in self._slots:
            return False
        slot = self._slots.slot(series)
        device, column = self._slots["device"][slot], self._slots["column"][slot]
        self._slots.remove(series)
        if self.devices["members"][device, column] == slot:
            self.devices["members"][device, column] = -1
        if (self.devices["members"][device] < 0).all():
            self.devices.remove(int(self.devices["out"][device]))
        return True

    def capture(self) -> dict[str, Any]:
        """The state by series; that of a device with each of its series."""
        series = self._slots.capture()
        device = self._slots["device"][self._slots.find(series["keys"])]
        return {"series": series} | {name: self.devices[name][device] for name in _OF_DEVICES}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a captured state."""
        self._slots.restore(state["series"])
        slot = self._slots.find(np.asarray(state["series"]["keys"], dtype=np.int64))
        known = slot >= 0
        for name in _OF_DEVICES:
            self.devices[name][self._slots["device"][slot[known]]] = np.asarray(state[name])[known]

    def take(self, arrived: Arrived, closed: ClosedHours) -> list[Derived]:
        """Follow the messages of the devices that close an hour, wait for one, or are new."""
        slot = self._slots.find(arrived.series)
        rows = np.flatnonzero((slot >= 0) & counted(arrived))
        slot = slot[rows]
        device = self._slots["device"][slot]
        closing = _at(arrived.row[rows], closed.row)
        busy = self.devices["since"] != NEVER
        busy[device[(closing >= 0) | (self._slots["hour"][slot] == NEVER)]] = True
        mine = np.flatnonzero(busy[device])
        mine = mine[np.argsort(device[mine], kind="stable")]
        device, rows, closing = device[mine], rows[mine], closing[mine]
        columns = (arrived.row[rows], arrived.ts[rows], slot[mine], device, closing)
        made: list[Derived] = []
        nth = _messages(device, arrived.ts[rows])
        for one in range(int(nth.max(initial=-1)) + 1):
            self._follow(_Part(*(column[nth == one] for column in columns)), closed, made)
        return made

    def _follow(self, part: "_Part", closed: ClosedHours, made: list[Derived]) -> None:
        """One message, or a part of one, of each of some devices."""
        devices, slots = self.devices, self._slots
        first = np.concatenate(([True], part.device[1:] != part.device[:-1]))
        head, ts = part.device[first], part.ts[first]
        due = (devices["since"][head] != NEVER) & (ts > devices["since"][head] + _GRACE_MS)
        self._settle(head[due], part.row[first][due], made)
        upto = self._calendar.hour(part.ts) - 1
        slots["hour"][part.slot] = upto + 1
        over = np.flatnonzero(part.closing >= 0)
        if not len(over):
            return
        fits = self._keep(part, over, upto, closed)
        device = part.device[over]
        row = np.full(self.devices.capacity, -1, dtype=np.int64)
        row[device[::-1]] = part.row[over[::-1]]
        row[part.device[fits]] = part.row[fits]
        starts = (devices["since"][device] == NEVER) & (upto[over] > devices["seen"][device])
        devices["since"][device[starts]] = part.ts[over][starts]
        head = head[(row[head] >= 0) & (devices["since"][head] != NEVER)]
        done = head[~self._awaited(head)]
        self._settle(done, row[done], made)

    def _keep(
        self,
        part: "_Part",
        over: NDArray[np.int64],
        upto: NDArray[np.int64],
        closed: ClosedHours,
    ) -> NDArray[np.int64]:
        """Remember hourly means that can still count; the places in `part` of those that can."""
        hour = closed.hour[part.closing[over]]
        recent = hour > upto[over] - HOURS_KEPT
        fits, hour = over[recent], hour[recent]
        which = part.closing[fits]
        valid = closed.covered_ms[which] >= self._needed
        at = part.slot[fits][valid], hour[valid] % HOURS_KEPT
        self._slots["hours"][at] = hour[valid]
        self._slots["micro"][at] = closed.micro[which][valid]
        return fits

    def _awaited(self, device: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether a series was heard in the hours in question and not since."""
        upto = (self._calendar.hour(self.devices["since"][device]) - 1)[:, np.newaxis]
        members = self.devices["members"][device]
        hour = self._slots["hour"][members]
        stands = (members >= 0) & (hour > upto - HOURS_KEPT) & (hour <= upto)
        awaited: NDArray[np.bool_] = stands.any(axis=1)
        return awaited

    def _settle(
        self, device: NDArray[np.int64], row: NDArray[np.int64], made: list[Derived]
    ) -> None:
        """Make the indices of all hours that are over."""
        if not len(device):
            return
        devices = self.devices
        upto = self._calendar.hour(devices["since"][device]) - 1
        seen = devices["seen"][device]
        seen = np.where(seen == NEVER, self._first_hour(device, upto) - 1, seen)
        seen = np.maximum(seen, upto - GAP_HOURS)
        devices["since"][device] = NEVER
        devices["seen"][device] = upto
        for after in range(1, int((upto - seen).max()) + 1):
            live = seen + after <= upto
            made.extend(self._announce(device[live], (seen + after)[live], row[live]))

    def _first_hour(self, device: NDArray[np.int64], upto: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first hour of which a device has a mean; at most `upto`."""
        members = self.devices["members"][device]
        hours = self._slots["hours"][members].astype(np.int64)
        there = (members >= 0)[:, :, np.newaxis] & (hours != NEVER)
        first: NDArray[np.int64] = np.where(there, hours, upto[:, np.newaxis, np.newaxis]).min(
            (1, 2)
        )
        return first

    def _announce(
        self, device: NDArray[np.int64], hour: NDArray[np.int64], row: NDArray[np.int64]
    ) -> list[Derived]:
        day_hours = self._calendar.day_hours(hour)
        if self._row.daily:
            ends = day_hours > 0
            device, hour, row, day_hours = device[ends], hour[ends], row[ends], day_hours[ends]
        if not len(device):
            return []
        indexed = self._indexed(device, hour, day_hours)
        self.devices["parts"][device] = np.stack(
            [indexed.parts[indicator.name] for indicator in self._row.indicators], axis=1
        )
        tell = said(self.devices["standing"], device, indexed.value)
        out, end = self.devices["out"][device[tell]], self._calendar.end(hour[tell])
        return [Derived(row[tell], out, end, indexed.value[tell])]

    def _indexed(
        self, device: NDArray[np.int64], hour: NDArray[np.int64], day_hours: NDArray[np.int64]
    ) -> Indexed:
        concentrations = {}
        for indicator in self._row.indicators:
            slot = self.devices["members"][device, self._quantities.index(indicator.quantity)]
            stat = HOUR_STATS.get(indicator.stat)
            micro, valid = self._window(slot, hour, stat.width if stat else _NOWCAST_HOURS)
            concentrations[indicator.name] = (
                stat.of((micro, valid, day_hours))
                if stat
                else nowcast(np.where(valid, micro / MILLIONTHS, np.nan))
            )
        return self._row.of(concentrations)

    def _window(
        self, slot: NDArray[np.int64], hour: NDArray[np.int64], width: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The hourly means of the last hours, newest first, and whether each is valid."""
        hours = hour[:, np.newaxis] - np.arange(width)
        at = slot[:, np.newaxis], hours % HOURS_KEPT
        return self._slots["micro"][at], (slot >= 0)[:, np.newaxis] & (
            self._slots["hours"][at] == hours
        )


_OF_DEVICES: Final = ("since", "seen", "standing", "parts")


class _Part(msgspec.Struct, frozen=True):
    """Readings of one message of each of some devices, by device and row."""

    row: NDArray[np.int64]
    ts: NDArray[np.int64]
    slot: NDArray[np.int64]
    device: NDArray[np.int64]
    closing: NDArray[np.int64]
    """Where in the closed hours the one stands that this reading closes, else -1."""


def _at(rows: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of `rows` stands in `among`, which ascends; -1 where it does not."""
    if not len(among):
        return np.full(len(rows), -1, dtype=np.int64)
    at = np.minimum(np.searchsorted(among, rows), len(among) - 1)
    return np.where(among[at] == rows, at, -1)


def _messages(device: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of the message of its device that a reading is in; readings by device and row."""
    first = np.ones(len(device), dtype=np.bool_)
    first[1:] = device[1:] != device[:-1]
    new = first.copy()
    new[1:] |= ts[1:] != ts[:-1]
    number = np.cumsum(new)
    return number - np.maximum.accumulate(np.where(first, number, 0))
