"""Conditions made of others: all, any, not, and so many devices of a place."""

import heapq
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from alerts.gates import Change
from alerts.rules import Condition, Count, Every, Group, Leaf, Not, Rule, Some
from alerts.surroundings import Surroundings
from alerts.transitions import AlarmKey, Transition
from city.cityfile import Address

EVERYONE: Final = "all"
"""The device, and where needed the site, that stands for a place in the alarm of a count."""
_NOTHING: Final[frozenset[str]] = frozenset()
_NARROW_TO_WIDE: Final[tuple[Group, ...]] = ("device", "site", "section", "district", "city")


class Evidence(msgspec.Struct, frozen=True):
    """The number that last made a leaf hold, and its limit."""

    ts: int
    quantity: str
    value: float
    limit: float
    unit: str


class _Pending(NamedTuple):
    """A change of a rule's condition that its delay has not let through yet."""

    due: int
    address: Address
    rule: str
    holds: bool


class Composites:
    """Which leaves hold where, and what follows for the rules that are made of them.

    A rule is evaluated at every device that its first leaf watches; a rule that is a count, once
    for the whole place, at an address whose device is `all`.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._evidence: dict[tuple[str, Address], Evidence] = {}
        self._watched: dict[Address, frozenset[str]] = {}
        self._alike: dict[tuple[frozenset[str], str], frozenset[str]] = {}
        self._places: defaultdict[tuple[str, str], set[Address]] = defaultdict(set)
        self._rules: dict[str, Rule] = {}
        self._scopes: dict[str, tuple[Group, ...]] = {}
        self._holding: dict[AlarmKey, Evidence] = {}
        self._pending: dict[AlarmKey, _Pending] = {}
        self._due: list[tuple[int, Address, str]] = []

    @property
    def due(self) -> int | None:
        """The instant at which the next delay is over."""
        return self._due[0][0] if self._due else None

    def add(self, rule: Rule, leaf: Leaf, address: Address) -> None:
        """A leaf of a rule watches a device."""
        self._rules[rule.id] = rule
        self._watched[address] = self._and(self._watched.get(address, _NOTHING), leaf.id)
        for within in self._looked_at(rule):
            self._places[leaf.id, self._place(address, within)].add(address)

    def remove(self, rule: Rule, leaf: Leaf, address: Address, ts: int) -> list[Transition]:
        """A leaf of a rule watches a device no more."""
        found = self.change(rule, leaf, address, None, ts)
        self._watched[address] = self._watched.get(address, _NOTHING) - {leaf.id}
        for within in self._looked_at(rule):
            self._places[leaf.id, self._place(address, within)].discard(address)
        return found

    def change(
        self, rule: Rule, leaf: Leaf, address: Address, evidence: Evidence | None, ts: int
    ) -> list[Transition]:
        """A leaf begins to hold at a device, or (None) ceases to; what follows for its rule."""
        if evidence is not None:
            self._evidence[leaf.id, address] = evidence
        elif self._evidence.pop((leaf.id, address), None) is None:
            return []
        found: list[Transition] = []
        for target in self._targets(rule, address):
            found += self._judge(rule, target, ts, evidence)
        return found

    def advance(self, now: int) -> list[Transition]:
        """What delays let through up to `now`, in the order of their ends."""
        found: list[Transition] = []
        while self._due and self._due[0][0] <= now:
            due, address, rule_id = heapq.heappop(self._due)
            pending = self._pending.get((address, rule_id))
            if pending is not None and pending.due == due:
                del self._pending[address, rule_id]
                found.append(self._let(self._rules[rule_id], address, pending.holds, due, None))
        return found

    def holds(self, key: AlarmKey) -> bool:
        """Whether the rule's condition is taken to hold there."""
        return key in self._holding

    def capture(self) -> dict[str, Any]:
        """What holds and what waits."""
        plain = msgspec.to_builtins
        return {
            "evidence": [[leaf, plain(at), plain(e)] for (leaf, at), e in self._evidence.items()],
            "holding": [[rule, plain(at), plain(e)] for (at, rule), e in self._holding.items()],
            "pending": [plain(pending) for pending in self._pending.values()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there, with the rules that there still are."""
        for leaf, at, evidence in state["evidence"]:
            address = msgspec.convert(at, Address)
            if self._sees(leaf, address):
                self._evidence[leaf, address] = msgspec.convert(evidence, Evidence)
        for rule, at, evidence in state["holding"]:
            if rule in self._rules:
                key = (msgspec.convert(at, Address), rule)
                self._holding[key] = msgspec.convert(evidence, Evidence)
        for due, at, rule, holds in state["pending"]:
            if rule in self._rules:
                self._wait(_Pending(due, msgspec.convert(at, Address), rule, holds))

    def _sees(self, leaf: str, address: Address) -> bool:
        """Whether a leaf watches a device."""
        return leaf in self._watched.get(address, _NOTHING)

    def _and(self, leaves: frozenset[str], leaf: str) -> frozenset[str]:
        """The leaves and one more, as one object for all devices that these watch."""
        key = (leaves, leaf)
        if key not in self._alike:
            self._alike[key] = leaves | {leaf}
        return self._alike[key]

    def _looked_at(self, rule: Rule) -> tuple[Group, ...]:
        """The places beyond the device itself of which the rule looks at the devices."""
        if rule.id not in self._scopes:
            scopes = set(_scopes(rule.condition))
            self._scopes[rule.id] = tuple(one for one in _NARROW_TO_WIDE[1:] if one in scopes)
        return self._scopes[rule.id]

    def _judge(
        self, rule: Rule, target: Address, ts: int, evidence: Evidence | None
    ) -> Iterator[Transition]:
        holds = self._truth(rule.condition, target)
        key = (target, rule.id)
        waiting = self._pending.get(key)
        if waiting is not None:
            if waiting.holds != holds:
                del self._pending[key]
            return
        if holds is (key in self._holding):
            return
        delay_ms = rule.on_delay_ms if holds else rule.off_delay_ms
        if delay_ms:
            self._wait(_Pending(ts + delay_ms, target, rule.id, holds))
        else:
            yield self._let(rule, target, holds, ts, evidence)

    def _wait(self, pending: _Pending) -> None:
        self._pending[pending.address, pending.rule] = pending
        heapq.heappush(self._due, (pending.due, pending.address, pending.rule))

    def _let(
        self,
        rule: Rule,
        target: Address,
        holds: bool,  # noqa: FBT001
        ts: int,
        evidence: Evidence | None,
    ) -> Transition:
        """The transition of a rule's condition; its numbers are those of the leaf that tells most."""
        key = (target, rule.id)
        if holds:
            shown = self._evidence.get((rule.head.id, target)) or evidence
            shown = shown or next(self._found(rule, target), self._nothing(rule, ts))
            shown = self._holding[key] = replace(shown, ts=ts)
        else:
            shown = self._holding.pop(key)
        change = Change("raised" if holds else "cleared", rule.limits[0].level, shown.ts)
        return Transition(
            rule=rule, address=target, change=change, ts=ts, value=shown.value, limit=shown.limit,
            quantity=shown.quantity, unit=shown.unit,
        )  # fmt: skip

    @staticmethod
    def _nothing(rule: Rule, ts: int) -> Evidence:
        """The evidence of a rule that holds because nothing speaks against it."""
        head = rule.head
        return Evidence(ts, head.signal.name, 0.0, 0.0, head.unit)

    def _found(self, rule: Rule, target: Address) -> Iterator[Evidence]:
        """The evidence of the rule's leaves in the neighbourhood of a device."""
        for leaf in rule.leaves:
            for address in sorted(self._near(leaf, target, _widest(rule.condition))):
                evidence = self._evidence.get((leaf.id, address))
                if evidence is not None:
                    yield evidence

    def _truth(self, condition: Condition, target: Address) -> bool:
        if isinstance(condition, Leaf):
            if condition.signal.at:
                return any(
                    self._holds_at(condition, a) for a in self._near(condition, target, "site")
                )
            return self._holds_at(condition, target)
        if isinstance(condition, Not):
            return not self._truth(condition.of, target)
        if isinstance(condition, Count):
            members = self._members(condition, target)
            return sum(self._truth(condition.of, a) for a in members) >= condition.at_least
        test = all if isinstance(condition, Every) else any
        return test(self._truth(one, target) for one in condition.of)

    def _holds_at(self, leaf: Leaf, address: Address) -> bool:
        return (leaf.id, address) in self._evidence

    def _members(self, count: Count, target: Address) -> set[Address]:
        """The devices of the place that a count is over, which its first leaf watches."""
        return self._near(_first(count.of), target, count.within)

    def _near(self, leaf: Leaf, target: Address, within: Group) -> set[Address]:
        if within == "device":
            return {target} if self._sees(leaf.id, target) else set()
        return self._places.get((leaf.id, self._place(target, within)), set())

    def _targets(self, rule: Rule, address: Address) -> list[Address]:
        """Where a rule has to be judged again when a leaf of it changes at a device."""
        if isinstance(rule.condition, Count):
            return [self._representative(address, rule.condition.within)]
        reached = {address} if self._sees(rule.head.id, address) else set()
        for scope in self._looked_at(rule):
            reached |= self._near(rule.head, address, scope)
        return sorted(reached)

    def _representative(self, address: Address, within: Group) -> Address:
        """The address that stands for the place around a device."""
        if within == "section":
            section = self._surroundings.section(address)
            if section is not None:
                return min(section.members)
        site = EVERYONE if within in {"district", "city"} else address.site
        district = EVERYONE if within == "city" else address.district
        return Address(address.city, district, address.domain, site, EVERYONE)

    def _place(self, address: Address, within: Group) -> str:
        """The name of the place around a device; a section that is not known is the site."""
        district = f"{address.city}/{address.district}"
        if within == "city":
            return address.city
        if within == "district":
            return district
        if within == "section":
            section = self._surroundings.section(address)
            if section is not None:
                return f"section {section.id}"
        return f"{district}/{address.site}"


def _widest(condition: Condition) -> Group:
    """The widest place that the condition looks at."""
    return max(_scopes(condition), key=_NARROW_TO_WIDE.index)


def _scopes(condition: Condition) -> Iterator[Group]:
    if isinstance(condition, Leaf):
        yield "site" if condition.signal.at else "device"
    elif isinstance(condition, Count):
        yield condition.within
        yield from _scopes(condition.of)
    elif isinstance(condition, Not):
        yield from _scopes(condition.of)
    else:
        for one in condition.of:
            yield from _scopes(one)


def _first(condition: Condition) -> Leaf:
    while not isinstance(condition, Leaf):
        condition = condition.of[0] if isinstance(condition, Every | Some) else condition.of
    return condition
