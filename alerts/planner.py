"""Decides what the actions of an alarm come to: which commands to whom, or why none.

Nothing here waits or sends; all is safe to call from any thread.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol

import msgspec

from alerts.archive import Change
from alerts.deeds import ACTIONS, CLOSE_VALVE, COMMANDS, REPAIR_ORDER, Deed, Deeds, Standing, Step
from alerts.orders import NOT_COMMANDED, Orders, Scene
from alerts.rules import Rule
from alerts.surroundings import Surroundings
from broker.messages import Announcement, Birth
from city.cityfile import Actions, Address

_HOUR_MS: Final = 3_600_000
_FRESH_MS: Final = 600_000
"""An event that is older by the city's clock moves nothing any more (engineering default)."""
_FRESH_WALL_S: Final = 60.0
"""The same by the wall, for a city whose time flies."""
_ONE_BURST_MS: Final = 30_000
"""Alarms of one rule at one site that are no farther apart are of one burst (engineering default)."""
_PUT_ASIDE: Final = frozenset({"shelved", "suppressed", "out-of-service"})
NO_ANSWER: Final = "does not answer"
_SO_FAR: Final[Mapping[Standing, str]] = {
    "due": "closing",
    "sent": "closing",
    "retried": "told to close again",
    "unanswered": NO_ANSWER,
    "would-send": "not commanded (dry run)",
}
"""What an order says of a valve; of the other steps it says what the step does."""


class SimulatedTime(Protocol):
    """What time it is in the city; `speed` is infinite or 0 where it goes as fast as possible."""

    @property
    def speed(self) -> float:
        """Simulated seconds per wall second."""

    def now_ms(self) -> int:
        """The simulated instant [ms]."""


def speed_of(time: SimulatedTime) -> float:
    """Simulated seconds per wall second, infinite where it goes as fast as possible."""
    return time.speed or math.inf


class Planner:
    """What the rules' actions come to in one city, under what the city allows."""

    def __init__(
        self,
        rules: Iterable[Rule],
        surroundings: Surroundings,
        policy: Actions,
        *,
        deeds: Deeds,
        orders: Orders,
        time: SimulatedTime,
    ) -> None:
        self._deeds = deeds
        self._orders = orders
        self._surroundings = surroundings
        self._policy = policy
        self._time = time
        self._able: dict[tuple[str, str, str], dict[Address, frozenset[str]]] = {}
        self.use(rules)

    def use(self, rules: Iterable[Rule]) -> None:
        """Take the actions of these rules from now on."""
        self._rules = {rule.id: rule for rule in rules}

    def learn(self, address: Address, birth: Birth) -> None:
        """Take note of which commands a device knows."""
        known = frozenset(birth.commands) & COMMANDS.keys()
        site = _site(address)
        self._able[site] = {**self._able.get(site, {}), address: known}

    def acts(self, announcement: Announcement) -> bool:
        """Whether an event is one that may set off actions."""
        event = announcement.event
        rule = self._rules.get(event.rule)
        begins = event.event in {"raised", "escalated"}
        return begins and rule is not None and bool(rule.actions) and not self._policy.off

    def may_still(self, deed: Deed) -> bool:
        """Whether what was due before a restart may still be sent."""
        return self._policy.armed(deed.rule) and not self._too_old(deed.ts)

    def plan(self, alarm: Announcement) -> tuple[list[Deed], list[Change]]:
        """What is to be sent because of the event, and the changes that make its deeds durable."""
        actions = self._rules[alarm.event.rule].actions
        due, changes, valves = list[Deed](), list[Change](), dict[str, str]()
        for action in actions:
            if action == REPAIR_ORDER:
                continue
            for deed, detail in self._planned(action, alarm):
                if deed.state == "due":
                    due.append(deed)
                    changes.append(self._deeds.kept(deed))
                else:
                    changes += self._deeds.step(deed, deed.state, deed.ts, detail)
                if action == CLOSE_VALVE and deed.attempt:
                    valves[deed.target_name] = so_far(deed.state, detail)
        if REPAIR_ORDER in actions:
            changes += self._order(alarm, valves)
        return due, changes

    def _planned(self, action: str, alarm: Announcement) -> Iterator[tuple[Deed, str]]:
        """The deeds of one action, with what is to be said of those that are not due."""
        event = alarm.event
        targets, problem = self._targets(action, alarm.address)
        beside = self._beside(alarm) if action == CLOSE_VALVE and not targets else ""
        plain = Deed(
            rule=event.rule, place=alarm.address, number=event.number, raised=event.raised,
            action=action, target=alarm.address, ts=event.ts,
        )  # fmt: skip
        if not targets:
            state: Step = "withheld" if beside else "refused"
            yield msgspec.structs.replace(plain, attempt=0, state=state), beside or problem
            return
        reason = self._reason_against(alarm)
        for target in targets:
            deed = msgspec.structs.replace(plain, target=target)
            if reason:
                yield msgspec.structs.replace(deed, state="withheld"), reason
            elif self._deeds.stands(deed):
                earlier = f"an earlier {action} of this alarm stands"
                yield msgspec.structs.replace(deed, state="withheld"), earlier
            elif not self._policy.armed(event.rule):
                would = f"{action} to {deed.target_name}: the city does not arm {event.rule}"
                yield msgspec.structs.replace(deed, state="would-send"), would
            else:
                yield deed, ""

    def _targets(self, action: str, address: Address) -> tuple[tuple[Address, ...], str]:
        """Whom a command goes to, or why to nobody."""
        if action not in COMMANDS:
            return (), f"there is no such action; there are {', '.join(ACTIONS)}"
        if action == CLOSE_VALVE:
            section = self._surroundings.section(address)
            if section is None:
                return (), "which valves isolate it is not known: no gas network has this device"
            return section.valves, "no valves can cut it off from every feed"
        able = self._able.get(_site(address), {})
        if action in able.get(address, ()):
            return (address,), ""
        others = tuple(sorted(other for other, known in able.items() if action in known))
        return others, f"no device of {address.site} knows {action}"

    def _beside(self, alarm: Announcement) -> str:
        """What another alarm of the same burst closes, where this one's side cannot be cut off.

        A burst is felt on both sides of a valve; on the side of the feed nothing can be closed, and
        nothing need be where the other side is.
        """
        event, here = alarm.event, alarm.address
        for other in self._deeds.alarms(here, event.rule, event.ts, within_ms=_ONE_BURST_MS):
            section = self._surroundings.section(other.address)
            acts = other.event.state not in _PUT_ASIDE and self.acts(other)
            if acts and section is not None and section.valves:
                behind = ", ".join(f"{valve.site}/{valve.device}" for valve in section.valves)
                closed = "is being" if self._policy.armed(event.rule) else "would be"
                return (
                    f"the feed side cannot be cut off; the section behind {behind} {closed} closed"
                )
        return ""

    def _reason_against(self, alarm: Announcement) -> str:
        """Why nothing may be sent because of this event; empty where nothing speaks against it."""
        event = alarm.event
        if event.state in _PUT_ASIDE:
            return f"the alarm is {event.state}"
        if self._too_old(event.ts):
            return "the event is too old to act on: see first how things are"
        if self._deeds.acted(event.rule, event.ts - _HOUR_MS) >= self._policy.most_per_hour:
            most = self._policy.most_per_hour
            return f"{event.rule} has acted {most} times within the hour, which is the most allowed"
        return ""

    def _order(self, alarm: Announcement, valves: Mapping[str, str]) -> list[Change]:
        section = self._surroundings.section(alarm.address)
        names = [f"{valve.site}/{valve.device}" for valve in section.valves] if section else []
        position = self._surroundings.position(alarm.address)
        scene = Scene(section, position, dict.fromkeys(names, NOT_COMMANDED) | dict(valves))
        assigned = self._orders.assign(alarm, scene)
        if assigned is None or assigned.how == "presses":
            return assigned.changes if assigned else []
        event = alarm.event
        deed = Deed(
            rule=event.rule, place=alarm.address, number=event.number, raised=event.raised,
            action=REPAIR_ORDER, target=alarm.address, ts=event.ts, attempt=0,
        )  # fmt: skip
        step: Step = "done" if assigned.how == "opened" else "withheld"
        said = f"{assigned.how} {assigned.order.id}"
        return [*assigned.changes, *self._deeds.step(deed, step, event.ts, said)]

    def _too_old(self, ts: int) -> bool:
        age_ms = self._time.now_ms() - ts
        return age_ms > max(_FRESH_MS, 1000 * _FRESH_WALL_S * speed_of(self._time))


def _site(address: Address) -> tuple[str, str, str]:
    return address.city, address.district, address.site


def so_far(state: Standing, detail: str) -> str:
    """What an order says of a valve whose closing stands so."""
    if state == "done":
        return detail or "closed"
    return _SO_FAR.get(state, f"{state}: {detail}")
