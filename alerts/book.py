"""The book of alarms: every alarm's life, in the order of what happens.

What the book says depends on its inputs and their order alone. Whoever keeps it calls `advance`
with an instant before handing in what happened at that instant, whenever something is due.
"""

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from alerts.alarm import NEVER, Alarm, as_of, found, unfound
from alerts.figures import AlarmFigures, Tally
from alerts.flood import Causes
from alerts.life import Input, Move, move
from alerts.requests import INPUTS, check, is_pattern, matches, objection
from alerts.rules import Rule
from alerts.shelving import CHATTER_RAISES, Shelf, shelf_of
from alerts.suppression import Suppression
from alerts.surroundings import Surroundings
from alerts.transitions import AlarmKey, Transition
from broker.messages import (
    AlarmEvent,
    AlarmHappening,
    AlarmState,
    Announcement,
    OperatorAction,
    OperatorRequest,
)
from city.cityfile import Address
from city.errors import InputError

SELF: Final = "cityeye"
"""Who does what no person has done."""
_CHANGES: Final[dict[str, Input]] = {
    "raised": "raise",
    "escalated": "escalate",
    "eased": "ease",
    "cleared": "clear",
}
_ANNUNCIATED: Final[frozenset[AlarmHappening]] = frozenset({"raised", "repeated"})
_TOLD: Final[frozenset[AlarmHappening]] = _ANNUNCIATED | {"escalated"}
_Doing = tuple[int, str, str]
"""When [ms], who and why."""


class AlarmBook:
    """All alarms of the rules, from their first event on; a number per event, kept for ever.

    `operators` share the alarms: the figures are per operator. Memory is bounded by the alarms that
    ever were.
    """

    def __init__(
        self, rules: Iterable[Rule], surroundings: Surroundings, *, operators: int = 1
    ) -> None:
        self._rules = {rule.id: rule for rule in rules}
        self._alarms: dict[AlarmKey, Alarm] = {}
        self._at: dict[Address, list[Alarm]] = {}
        self._places: dict[str, dict[Address, None]] = {}
        self._suppression = Suppression(self._rules.values(), surroundings)
        self._causes = Causes(surroundings)
        self._tally = Tally(operators)
        self._queue: list[tuple[int, int, AlarmKey]] = []
        self._queued: dict[AlarmKey, int] = {}
        self._unruly: list[AlarmKey] = []
        self._newest = -NEVER
        self._standing: dict[int, Alarm] = {}
        """By serial: those that are not normal."""
        self._rows: list[str] = []
        """By serial: the alarm as JSON, as it was when it was last captured."""
        self._changed: set[int] = set()
        """The serials of those that have changed since."""

    @property
    def due(self) -> int:
        """The instant of the next thing that is due [ms], 2**62 if none is."""
        if self._unruly:
            return self._newest
        while self._queue and self._queued.get(self._queue[0][2]) != self._queue[0][0]:
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else NEVER

    def change(self, transition: Transition) -> list[Announcement]:
        """The condition of a rule at a device came, changed its level, or went."""
        ts = self._see(transition.ts)
        alarm = self._alarms.get(transition.key)
        if alarm is None:
            if transition.change.event == "cleared":
                return []
            alarm = self._include(self._fresh(transition.address, transition.rule, transition))
        alarm.finding = found(transition, alarm.finding)
        self._hold(alarm, transition)
        said = self._cover(alarm, ts)
        if alarm.is_open:
            said += self._live(alarm, _CHANGES[transition.change.event], (ts, "", ""))
        elif not alarm.active and alarm.shelf is not None and alarm.shelf.once:
            why = "shelved once, and its condition is gone"
            said += self._uncover(alarm, "unshelve-by-time", (ts, SELF, why))
        return said + self._settle(alarm, ts)

    def hush(self, address: Address, ts: int) -> list[Announcement]:
        """A device fell silent: its alarms stay, and those whose condition held become stale."""
        self._see(ts)
        self._meet(address)
        alarms = self._at.get(address, ())
        return [said for alarm in alarms for said in self._stale(alarm, ts, stale=True)]

    def hear(self, address: Address, ts: int) -> list[Announcement]:
        """A device speaks again."""
        self._see(ts)
        self._meet(address)
        alarms = self._at.get(address, ())
        return [said for alarm in alarms for said in self._stale(alarm, ts, stale=False)]

    def obey(self, request: OperatorRequest, ts: int) -> tuple[list[Announcement], tuple[str, ...]]:
        """Do what a person asks: the events, and the names of the alarms that changed.

        Of a pattern, those alarms are changed that can be. Either everything that is named without
        a pattern is done, or nothing.

        Raises:
            InputError: It cannot be done; nothing has changed. The text says what, where and what
                to do.
        """
        check(request)
        shelf = shelf_of(request, ts) if request.action == "shelve" else None
        alarms = self._wanted(request)
        self._see(ts)
        said: list[Announcement] = []
        for alarm in alarms:
            if alarm.key not in self._alarms:
                self._include(alarm)
            said += self._do(alarm, request, shelf, ts)
        return said, tuple(alarm.name for alarm in alarms)

    def forget(self, key: AlarmKey, ts: int) -> list[Announcement]:
        """The rule watches the device no more: its alarm ends, and so does what covered it."""
        self._see(ts)
        alarm = self._alarms.get(key)
        if alarm is None:
            return []
        return self._end(alarm, ts, "its rule does not watch this device any more")

    def advance(self, now: int) -> list[Announcement]:
        """All that is due up to `now`, in the order of the instants when it was due."""
        self._see(now)
        unruly, self._unruly = self._unruly, []
        said = [one for key in unruly for one in self._reconcile(self._alarms[key], now)]
        while (due := self.due) <= now:
            _, _, key = heapq.heappop(self._queue)
            del self._queued[key]
            said += self._happen(self._alarms[key], due)
        return said

    def standing(self) -> list[Announcement]:
        """The newest event of every alarm that is not normal, in the order of their raises."""
        standing = list(self._standing.values())
        standing.sort(key=lambda alarm: (alarm.raised, alarm.serial))
        return [
            Announcement(alarm.address, alarm.last) for alarm in standing if alarm.last is not None
        ]

    def states(self) -> Counter[AlarmState]:
        """How many alarms are in each state, those that are normal left out."""
        return Counter(alarm.shown for alarm in self._standing.values())

    def is_active(self, key: AlarmKey) -> bool:
        """Whether the condition of that alarm holds, told to people or not."""
        alarm = self._alarms.get(key)
        return alarm is not None and alarm.active

    def figures(self, now: int) -> AlarmFigures:
        """How the alarms do at `now`."""
        return self._tally.figures(self._alarms.values(), now)

    def capture(self) -> dict[str, Any]:
        """A copy of all that the book remembers, of plain data; quick where little has changed."""
        if self._changed:
            alarms = list(self._alarms.values())
            for serial in self._changed:
                self._rows[serial] = msgspec.json.encode(alarms[serial]).decode()
            self._changed.clear()
        places = (address for place in self._places.values() for address in place)
        return {
            "alarms": list(self._rows),
            "places": [list(msgspec.structs.astuple(address)) for address in places],
            "causes": self._causes.capture(),
            "tally": self._tally.capture(),
            "unruly": [self._alarms[key].serial for key in self._unruly],
            "newest": self._newest,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up, in a new book, what one of maybe other rules has captured.

        Alarms find their rules by identifier. Those whose rule is gone end at the next `advance`,
        and so does a suppression that the rules have no longer.
        """
        self._newest = state["newest"]
        self._causes.restore(state["causes"])
        self._tally.restore(state["tally"])
        for place in state["places"]:
            self._meet(Address(*place))
        for row in state["alarms"]:
            self._include(_alarm(row))
        for alarm in self._alarms.values():
            self._settle(alarm, self._newest, spread=False)
        captured = set(state["unruly"])
        self._unruly = [
            alarm.key
            for alarm in self._alarms.values()
            if alarm.serial in captured or self._differs(alarm)
        ]

    def renumber(self, state: dict[str, Any]) -> None:
        """Begin, in a new book, after what another has captured: only its numbers go on."""
        for row in state["alarms"]:
            past = _alarm(row)
            alarm = Alarm(
                address=past.address, rule=past.rule, serial=len(self._alarms),
                finding=past.finding, number=past.number,
            )  # fmt: skip
            alarm.cause = self._causes.of(past.address)
            self._include(alarm)

    def _see(self, ts: int) -> int:
        self._newest = max(self._newest, ts)
        self._tally.begin(ts)
        return ts

    def _meet(self, address: Address) -> None:
        self._places.setdefault(f"{address.site}/{address.device}", {})[address] = None

    def _fresh(self, address: Address, rule: Rule, transition: Transition | None = None) -> Alarm:
        """A new alarm, normal so far and not yet in the book."""
        finding = unfound(rule) if transition is None else found(transition, None)
        cause = self._causes.of(address)
        return Alarm(address=address, rule=rule.id, finding=finding, cause=cause)

    def _include(self, alarm: Alarm) -> Alarm:
        alarm.serial = len(self._alarms)
        self._alarms[alarm.key] = alarm
        self._at.setdefault(alarm.address, []).append(alarm)
        self._meet(alarm.address)
        self._suppression.enrol(alarm)
        self._rows.append("")
        self._note(alarm)
        return alarm

    def _note(self, alarm: Alarm) -> None:
        """Whatever changes an alarm says so here."""
        self._changed.add(alarm.serial)
        if alarm.shown == "normal":
            self._standing.pop(alarm.serial, None)
        else:
            self._standing[alarm.serial] = alarm

    def _hold(self, alarm: Alarm, transition: Transition) -> None:
        """Whether the condition holds; something was heard of it, so it is not stale."""
        holds = transition.change.event != "cleared"
        if holds and not alarm.active and alarm.state == "normal":
            alarm.raised = transition.ts
        alarm.active, alarm.stale = holds, False

    def _live(self, alarm: Alarm, happens: Input, doing: _Doing) -> list[Announcement]:
        """What happens to an alarm that nothing covers."""
        step = move(alarm.shown, as_of(self._rules[alarm.rule], happens))
        return self._take(alarm, step, doing)

    def _take(self, alarm: Alarm, step: Move, doing: _Doing) -> list[Announcement]:
        """Make a move in the alarm's own life; its event is said, and what follows from it."""
        # the state of a move that nothing covers is one of the own life
        ts = doing[0]
        waits = {"unacknowledged", "latched"}
        if step.event == "raised":
            self._begin(alarm, ts)
        elif step.to == "unacknowledged" and alarm.state not in waits:
            alarm.waiting_since = ts
        alarm.state = step.to if step.to is not None else alarm.state  # type: ignore[assignment]
        if step.event is None:
            return []
        said = [self._say(alarm, step.event, doing)]
        return said + (self._check_chatter(alarm, ts) if step.event == "raised" else [])

    def _begin(self, alarm: Alarm, ts: int) -> None:
        alarm.raised = alarm.waiting_since = ts
        alarm.supervision = "site"
        alarm.cause, alarm.first_out = self._causes.raised(alarm, ts)

    def _check_chatter(self, alarm: Alarm, ts: int) -> list[Announcement]:
        times = alarm.chatter.count(ts)
        if times < CHATTER_RAISES:
            return []
        alarm.shelf = alarm.chatter.shelve(ts)
        self._tally.chatter()
        return [self._say(alarm, "shelved", (ts, SELF, f"chattering: {times} times in a minute"))]

    def _say(self, alarm: Alarm, happening: AlarmHappening, doing: _Doing) -> Announcement:
        ts, by, why = doing
        event: AlarmEvent = alarm.event({"event": happening, "ts": ts, "by": by, "why": why})
        if happening in _TOLD:
            alarm.told = ts
        if happening in _ANNUNCIATED:
            alarm.annunciations += 1
            self._tally.annunciate(event.severity, ts)
        return Announcement(alarm.address, event)

    def _cover(self, alarm: Alarm, ts: int) -> list[Announcement]:
        """Suppress an alarm that stands, or is about to, while another stands that suppresses it."""
        holder = self._suppression.holder(alarm)
        if holder is None or alarm.suppressor or not alarm.stands:
            return []
        event = move(alarm.shown, "suppress").event
        alarm.suppressor = holder.name
        why = "suppressed by design"
        return [] if event is None else [self._say(alarm, event, (ts, holder.name, why))]

    def _uncover(self, alarm: Alarm, happens: Input, doing: _Doing) -> list[Announcement]:
        """Lift one cover; when it was the last, the alarm appears again or is gone."""
        event = move(alarm.shown, happens).event
        if happens == "unsuppress":
            alarm.suppressor = ""
        elif happens == "enable":
            alarm.disabled = False
        else:
            alarm.shelf = None
        step = Move()
        if alarm.is_open:
            after: Input = "appear" if alarm.active else "vanish"
            step = move(alarm.state, as_of(self._rules[alarm.rule], after))
            if step.event == "raised":
                self._begin(alarm, doing[0])
            alarm.state = step.to if step.to is not None else alarm.state  # type: ignore[assignment]
        said = [] if event is None else [self._say(alarm, event, doing)]
        if step.event is None:
            return said
        said.append(self._say(alarm, step.event, (doing[0], "", "")))
        return said + self._check_chatter(alarm, doing[0])

    def _stale(self, alarm: Alarm, ts: int, *, stale: bool) -> list[Announcement]:
        rule = self._rules.get(alarm.rule)
        if not alarm.active or alarm.stale is stale or rule is None or rule.kind == "silence":
            return []
        alarm.stale = stale
        self._note(alarm)
        step = move(alarm.shown, "hush" if stale else "hear")
        return [] if step.event is None else [self._say(alarm, step.event, (ts, "", ""))]

    def _end(self, alarm: Alarm, ts: int, why: str) -> list[Announcement]:
        event = move(alarm.shown, "end").event
        alarm.state, alarm.active, alarm.stale = "normal", False, False
        alarm.disabled, alarm.shelf, alarm.suppressor = False, None, ""
        said = [] if event is None else [self._say(alarm, event, (ts, "", why))]
        return said + self._settle(alarm, ts)

    def _happen(self, alarm: Alarm, due: int) -> list[Announcement]:
        """What is due for one alarm at the instant `due`."""
        rule = self._rules.get(alarm.rule)
        what = alarm.next_due(rule)[1]
        if what == "unshelve":
            doing = (due, SELF, "the time of the shelf is over")
            said = self._uncover(alarm, "unshelve-by-time", doing)
        else:
            if what == "promote" and rule is not None:
                alarm.supervision = alarm.next_supervision(rule) or alarm.supervision
            said = self._live(alarm, what, (due, "", ""))
        return said + self._settle(alarm, due)

    def _settle(self, alarm: Alarm, ts: int, *, spread: bool = True) -> list[Announcement]:
        """After a change: what is due, of which cause it stands, and whom it suppresses."""
        self._causes.follow(alarm)
        self._schedule(alarm)
        rule = self._rules.get(alarm.rule)
        reached = self._suppression.hold(alarm, holds=alarm.suppresses(rule))
        return [said for one in reached for said in self._reach(one, ts)] if spread else []

    def _reach(self, alarm: Alarm, ts: int) -> list[Announcement]:
        """Suppress an alarm, or lift that, as others stand now."""
        if not alarm.suppressor:
            said = self._cover(alarm, ts)
        elif self._suppression.holder(alarm) is None:
            said = self._uncover(alarm, "unsuppress", (ts, alarm.suppressor, "it stands no more"))
        else:
            return []
        self._causes.follow(alarm)
        self._schedule(alarm)
        return said

    def _schedule(self, alarm: Alarm) -> None:
        self._note(alarm)
        due, _ = alarm.next_due(self._rules.get(alarm.rule))
        if self._queued.get(alarm.key, NEVER) == due:
            return
        if due == NEVER:
            del self._queued[alarm.key]
            return
        self._queued[alarm.key] = due
        heapq.heappush(self._queue, (due, alarm.serial, alarm.key))
        if len(self._queue) > 2 * len(self._queued) + 64:
            alarms = self._alarms
            self._queue = [(at, alarms[key].serial, key) for key, at in self._queued.items()]
            heapq.heapify(self._queue)

    def _differs(self, alarm: Alarm) -> bool:
        """Whether an alarm that was restored is not as the rules of this book would have it."""
        if alarm.rule not in self._rules:
            return alarm.shown != "normal" or alarm.active
        held = self._suppression.holder(alarm) is not None
        return not held if alarm.suppressor else held and alarm.stands

    def _reconcile(self, alarm: Alarm, now: int) -> list[Announcement]:
        if alarm.rule not in self._rules:
            return self._end(alarm, now, "its rule is gone")
        return self._reach(alarm, now)

    def _wanted(self, request: OperatorRequest) -> list[Alarm]:
        """The alarms that `request` names and that can do what it asks, each once, in order."""
        wanted: dict[AlarmKey, Alarm] = {}
        first: str | None = None
        for target in request.targets:
            named = list(self._named(target, request.action))
            for alarm in named:
                objects = objection(alarm, request)
                if objects is None:
                    wanted[alarm.key] = alarm
                elif not is_pattern(target):
                    raise InputError(objects)
                first = first or objects
        if not wanted:
            targets = ", ".join(request.targets[:10])
            raise InputError(
                first or f"{request.action}: no alarm fits {targets}; see `cityeye alarms list`"
            )
        return list(wanted.values())

    def _named(self, target: str, action: OperatorAction) -> Iterator[Alarm]:
        if is_pattern(target):
            for alarm in list(self._alarms.values()):
                unfit = action == "comment" and alarm.shown == "normal"
                if alarm.rule in self._rules and not unfit and matches(target, alarm.name):
                    yield alarm
            return
        place, _, rule = target.rpartition("/")
        addresses = self._places.get(place)
        if addresses is None or rule not in self._rules:
            unknown = "device" if addresses is None else "rule"
            raise InputError(
                f"{action}: {target!r} is no alarm, the {unknown} is not known here; "
                "see `cityeye alarms list` and `cityeye rules list`"
            )
        for address in addresses:
            yield self._alarms.get((address, rule)) or self._fresh(address, self._rules[rule])

    def _do(
        self, alarm: Alarm, request: OperatorRequest, shelf: Shelf | None, ts: int
    ) -> list[Announcement]:
        """What a person may do, and does."""
        happens = INPUTS[request.action]
        doing = (ts, request.by, request.why)
        if happens in {"unshelve", "enable"}:
            said = self._uncover(alarm, happens, doing)
        else:
            step = move(alarm.shown, happens)
            if happens == "shelve":
                alarm.shelf, step = shelf, Move(None, step.event)
            elif happens == "disable":
                alarm.disabled, step = True, Move(None, step.event)
            said = self._take(alarm, step, doing)
        return said + self._settle(alarm, ts)


def _alarm(row: str) -> Alarm:
    """The alarm that was captured as `row`.

    Not by msgspec's decoder of JSON: that makes a text of one character anew each time, and an
    event leaves out a default field only where it is the very object, so that the same event would
    be written in another way after a restart.
    """
    return msgspec.convert(json.loads(row), Alarm)
