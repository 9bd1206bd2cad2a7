"""Which rules watch each series, the life of each watch, and what readings would change it."""

from collections import defaultdict
from typing import Final

import numpy as np
from numpy.typing import NDArray

from alerts.gates import Life, normal, quiet_band
from alerts.rules import Rule, RuleSet
from city.cityfile import Address
from city.readings import SeriesTable

_LONG_AGO: Final = np.iinfo(np.int64).min
_FIRST_CAPACITY: Final = 1024


class Watches:
    """The state of every watch, by series.

    `low` and `high` are the band of values that change nothing, the intersection over the watches
    of a series; `last` is the instant of the newest reading counted [ms]. All three have at least
    one entry per series of the table. A life that is normal takes no memory.
    """

    def __init__(self, rules: RuleSet) -> None:
        self.low = np.empty(0)
        self.high = np.empty(0)
        self.last: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._rules = rules.rules
        self._kinds: dict[Address, tuple[str, str | None]] = {}
        self._selected: dict[tuple[str, str | None, str | None], tuple[Rule, ...]] = {}
        self._restored: dict[tuple[Address, str], tuple[Life, int]] = {}
        self._table = SeriesTable()
        self._rules_of: list[tuple[Rule, ...]] = []
        self._series_of: defaultdict[Address, list[int]] = defaultdict(list)
        self._lives: dict[tuple[int, str], Life] = {}

    def learn(self, address: Address, device_kind: str, plant_kind: str | None) -> list[str]:
        """Select the rules for a device, and return the identifiers of those that are not for it.

        Until a device is learned, the rules for devices of every kind watch it.
        """
        foreign = [rule.id for rule in self._rules if not rule.applies(device_kind, plant_kind)]
        if self._kinds.get(address) != (device_kind, plant_kind):
            self._kinds[address] = (device_kind, plant_kind)
            for rule in foreign:
                self._restored.pop((address, rule), None)
            self._bind_all(address)
        return foreign

    def may_watch(self, address: Address, rule: Rule) -> bool:
        """Whether `rule` watches that device, or may do so once the device is learned."""
        kinds = self._kinds.get(address)
        return kinds is None or rule.applies(*kinds)

    def restore(self, address: Address, rule: Rule, life: Life, ts: int) -> None:
        """Set a life that was left at `ts`, now or when its series is seen and its rule selected."""
        self._restored[address, rule.id] = (life, ts)
        self._bind_all(address)

    def follow(self, table: SeriesTable) -> None:
        """Make room for, and find the rules of, the series that are new in `table`.

        Raises:
            ValueError: It is not the table that was followed so far.
        """
        if self._table is not table:
            if self._rules_of:
                raise ValueError("an alarm engine follows one series table; make a new engine")
            self._table = table
        if len(table) > len(self.low):
            self._grow(max(len(table), 2 * len(self.low), _FIRST_CAPACITY))
        for series in range(len(self._rules_of), len(table)):
            self._series_of[table[series].address].append(series)
            self._rules_of.append(())
            self._bind(series)

    def address(self, series: int) -> Address:
        """The device that a series belongs to."""
        return self._table[series].address

    def rules(self, series: int) -> tuple[Rule, ...]:
        """The rules that watch a series."""
        return self._rules_of[series]

    def life(self, series: int, rule: Rule) -> Life:
        """The life of one watch."""
        return self._lives.get((series, rule.id)) or normal(rule.watch)

    def set_life(self, series: int, rule: Rule, life: Life) -> None:
        """Remember the life of one watch and what would change it."""
        if life.is_normal:
            self._lives.pop((series, rule.id), None)
        else:
            self._lives[series, rule.id] = life
        self._set_band(series)

    def _grow(self, capacity: int) -> None:
        more = capacity - len(self.low)
        self.low = np.concatenate((self.low, np.full(more, -np.inf)))
        self.high = np.concatenate((self.high, np.full(more, np.inf)))
        self.last = np.concatenate((self.last, np.full(more, _LONG_AGO)))

    def _bind_all(self, address: Address) -> None:
        for series in self._series_of.get(address, ()):
            self._bind(series)

    def _bind(self, series: int) -> None:
        """Attach the rules of a series: forget lives that are watched no more, restore others."""
        address = self._table[series].address
        rules = self._select(self._table[series].quantity, address)
        kept = {rule.id for rule in rules}
        for rule in self._rules_of[series]:
            if rule.id not in kept:
                self._lives.pop((series, rule.id), None)
        self._rules_of[series] = rules
        for rule in rules:
            restored = self._restored.pop((address, rule.id), None)
            if restored is not None:
                self._lives[series, rule.id], ts = restored
                self.last[series] = max(self.last[series], ts)
        self._set_band(series)

    def _select(self, quantity: str, address: Address) -> tuple[Rule, ...]:
        device, plant = self._kinds.get(address, (None, None))
        key = (quantity, device, plant)
        if key not in self._selected:
            fitting = (rule for rule in self._rules if rule.applies(device, plant))
            self._selected[key] = tuple(rule for rule in fitting if rule.quantity == quantity)
        return self._selected[key]

    def _set_band(self, series: int) -> None:
        low, high = -np.inf, np.inf
        for rule in self._rules_of[series]:
            its_low, its_high = quiet_band(rule.watch, self.life(series, rule))
            low, high = max(low, its_low), min(high, its_high)
        self.low[series], self.high[series] = low, high
