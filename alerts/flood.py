"""What belongs together when many alarms come at once: the cause of an alarm, and the first of each.

The cause of a gas alarm is the section of the network that it lies in, of any other its site. When
three sites of a district raise one rule within ten minutes, the cause is the rule in the district.
"""

from collections import defaultdict
from typing import Any, Final

from alerts.alarm import Alarm
from alerts.surroundings import Surroundings
from city.cityfile import Address
from city.quantities import Domain

WIDESPREAD_SITES: Final = 3
WIDESPREAD_MS: Final = 600_000

_Cause = tuple[str, str]
"""City and cause."""


class Causes:
    """What has caused alarms, and which alarms of each cause stand uncovered."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._standing: defaultdict[_Cause, set[int]] = defaultdict(set)
        self._cause_of: dict[int, _Cause] = {}
        self._lately: dict[tuple[str, str, str], dict[str, int]] = {}

    def of(self, address: Address) -> str:
        """The cause of an alarm at a device, seen alone."""
        section = None
        if address.domain == Domain.GAS.value:
            section = self._surroundings.section(address)
        return address.site if section is None else section.id

    def raised(self, alarm: Alarm, ts: int) -> tuple[str, bool]:
        """The cause of `alarm`, raised at `ts`, and whether it is the first of it.

        An alarm of a widespread cause is not: others were raised before the cause was seen.
        """
        address = alarm.address
        sites = self._recent(address, alarm.rule, ts)
        if len(sites) >= WIDESPREAD_SITES:
            return f"{alarm.rule}@{address.district}", False
        cause = self.of(address)
        others = self._standing.get((address.city, cause), set())
        return cause, len(others) == (alarm.serial in others)

    def follow(self, alarm: Alarm) -> None:
        """Take note of whether `alarm` stands uncovered."""
        stands = alarm.is_open and alarm.state != "normal"
        cause = (alarm.address.city, alarm.cause) if stands else None
        before = self._cause_of.get(alarm.serial)
        if before == cause:
            return
        if before is not None:
            self._leave(alarm.serial, before)
        if cause is not None:
            self._cause_of[alarm.serial] = cause
            self._standing[cause].add(alarm.serial)

    def capture(self) -> list[list[Any]]:
        """The raises of the last ten minutes: city, district, rule and the instant per site."""
        return [[*group, dict(sites)] for group, sites in self._lately.items()]

    def restore(self, state: list[list[Any]]) -> None:
        """Take up what was captured; who stands is said by `follow`."""
        for city, district, rule, sites in state:
            self._lately[city, district, rule] = dict(sites)

    def _recent(self, address: Address, rule: str, ts: int) -> dict[str, int]:
        """The sites of the district that raised the rule within ten minutes up to `ts`.

        No more than the newest are kept that decide.
        """
        group = (address.city, address.district, rule)
        before = self._lately.get(group, {})
        sites = {site: at for site, at in before.items() if ts - at <= WIDESPREAD_MS}
        sites[address.site] = max(ts, sites.get(address.site, ts))
        if len(sites) > WIDESPREAD_SITES:
            del sites[min(sites, key=lambda site: (sites[site], site))]
        self._lately[group] = sites
        return sites

    def _leave(self, serial: int, cause: _Cause) -> None:
        del self._cause_of[serial]
        self._standing[cause].discard(serial)
        if not self._standing[cause]:
            del self._standing[cause]
