"""Suppression by design: alarms that say nothing new while another, their cause, stands.

Whether an alarm suppresses depends on its condition (or its latch) alone and not on whether it is
itself shelved or suppressed, so no order of events matters and no suppression hangs on another.
One that is out of service suppresses nothing: an instrument under repair must hide no one.
"""

from collections import defaultdict
from collections.abc import Iterable

from alerts.alarm import Alarm
from alerts.rulefile import Group
from alerts.rules import Rule, Suppressor
from alerts.surroundings import Surroundings
from city.cityfile import Address

_Reach = tuple[str, Group, str]
"""A suppressing rule, what kind of group it reaches, and the group."""


class Suppression:
    """Which alarms suppress now, and whom they reach."""

    def __init__(self, rules: Iterable[Rule], surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._by: dict[str, tuple[Suppressor, ...]] = {}
        self._within: defaultdict[str, dict[Group, None]] = defaultdict(dict)
        for rule in rules:
            self._by[rule.id] = rule.suppressed_by
            for suppressor in rule.suppressed_by:
                self._within[suppressor.rule][suppressor.within] = None
        self._reached: defaultdict[_Reach, list[Alarm]] = defaultdict(list)
        self._holders: defaultdict[_Reach, dict[int, Alarm]] = defaultdict(dict)

    def enrol(self, alarm: Alarm) -> None:
        """Let `alarm` be suppressed; once per alarm."""
        for suppressor in self._by.get(alarm.rule, ()):
            group = self._group(alarm.address, suppressor.within)
            if group is not None:
                self._reached[suppressor.rule, suppressor.within, group].append(alarm)

    def holder(self, alarm: Alarm) -> Alarm | None:
        """An alarm that suppresses `alarm` now: of the first rule that does, the eldest."""
        for suppressor in self._by.get(alarm.rule, ()):
            group = self._group(alarm.address, suppressor.within)
            if group is not None:
                holders = self._holders.get((suppressor.rule, suppressor.within, group))
                if holders:
                    return holders[min(holders)]
        return None

    def hold(self, alarm: Alarm, *, holds: bool) -> list[Alarm]:
        """Say whether `alarm` suppresses others from now on; returns those that it reaches."""
        reached: dict[int, Alarm] = {}
        for within in self._within.get(alarm.rule, ()):
            group = self._group(alarm.address, within)
            if group is not None:
                reach = (alarm.rule, within, group)
                self._set(reach, alarm, holds=holds)
                reached.update((one.serial, one) for one in self._reached.get(reach, ()))
        return [reached[serial] for serial in sorted(reached)]

    def _set(self, reach: _Reach, alarm: Alarm, *, holds: bool) -> None:
        if holds:
            self._holders[reach][alarm.serial] = alarm
        elif reach in self._holders:
            self._holders[reach].pop(alarm.serial, None)
            if not self._holders[reach]:
                del self._holders[reach]

    def _group(self, address: Address, within: Group) -> str | None:
        """The group that a device belongs to; None where the section is not known."""
        if within == "section":
            section = self._surroundings.section(address)
            return None if section is None else f"{address.city}/{section.id}"
        parts = {
            "city": address.city,
            "district": f"{address.city}/{address.district}",
            "site": f"{address.city}/{address.district}/{address.site}",
        }
        return parts.get(within, str(address))
