"""The book of alarms against a simple model of one alarm after the other, restarted at any step."""

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from alerts.book import AlarmBook
from alerts.gates import Change, Watch
from alerts.rules import Leaf, Limit, Rule, Step, Suppressor
from alerts.signals import Signal
from alerts.surroundings import Nowhere
from alerts.transitions import Transition
from broker.messages import OperatorAction, OperatorRequest
from city.cityfile import Address
from city.errors import InputError

MINUTE = 60_000
HOUR = 60 * MINUTE
START = 1_780_272_000_000
DEVICES = tuple(
    Address("lanting", "east", "gas", site, "meter-1") for site in ("street-1", "street-2")
)


def a_rule(name: str, **more: Any) -> Rule:
    """A rule on the pressure with two limits."""
    bounds = {"standard": "s", "clause": "c", "grade": "A", "deadband": 1.0}
    limits = tuple(
        Limit(level=level, limit=limit, severity=severity, **bounds)  # type: ignore[arg-type]
        for level, limit, severity in (("HH", 20.0, "high"), ("H", 10.0, "medium"))
    )
    leaf = Leaf(
        id=name, signal=Signal(quantity="pressure"), unit="kPa", limits=limits, watch=Watch(limits)
    )
    return Rule(
        id=name, pack="test", kind="limit", condition=leaf, limits=limits, unit="kPa", **more
    )


RULES = {
    one.id: one
    for one in (
        a_rule("trip", latched=True),
        a_rule(
            "low",
            suppressed_by=(Suppressor("trip", "site"),),
            realarm_ms=45 * MINUTE,
            escalation=(Step(10 * MINUTE, "district"), Step(30 * MINUTE, "city")),
        ),
        a_rule("note", acknowledged_by_itself=True, realarm_ms=HOUR),
    )
}
ALARMS = tuple(f"{device.site}/{device.device}/{name}" for device in DEVICES for name in RULES)


class One:
    """One alarm of the model."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.site = name.split("/", maxsplit=1)[0]
        self.rule = RULES[name.rsplit("/", maxsplit=1)[-1]]
        self.own = "normal"
        self.level = 0
        self.out = self.once = self.down = self.stale = self.met = False
        self.until = 0
        self.waiting = self.told = self.number = self.rank = 0
        self.raises: list[int] = []
        self.auto, self.auto_end = 0, 0

    @property
    def seen(self) -> str:
        """The state that people see."""
        if self.out:
            return "out-of-service"
        if self.until:
            return "shelved"
        return "suppressed" if self.down else self.own

    @property
    def open(self) -> bool:
        """Whether nothing covers it."""
        return not (self.out or self.until or self.down)


class Model:
    """What the book should say, in words and with loops over everything."""

    def __init__(self) -> None:
        self.alarms = {name: One(name) for name in ALARMS}
        self.order: list[One] = []
        self.said: list[tuple[str, str, str, int, int]] = []

    def say(self, one: One, event: str, ts: int) -> None:
        """Note an event with the state after it."""
        one.number += 1
        self.said.append((one.name, event, one.seen, ts, one.number))

    def meet(self, one: One) -> None:
        """Alarms come in the order in which they are first heard of."""
        if not one.met:
            one.met = True
            self.order.append(one)

    def show(self, one: One, ts: int) -> None:
        """Raise an alarm, and shelve it if that was the third time within a minute."""
        one.own = "acknowledged" if one.rule.acknowledged_by_itself else "unacknowledged"
        one.waiting = one.told = ts
        one.rank = 0

    def count(self, one: One, ts: int) -> None:
        """Shelve what chatters."""
        one.raises = [t for t in one.raises if t > ts - MINUTE] + [ts]
        if len(one.raises) == 3:
            again = one.auto and ts - one.auto_end <= 10 * MINUTE
            one.auto = min(4 * HOUR, 2 * one.auto) if again else 10 * MINUTE
            one.until = one.auto_end = ts + one.auto
            one.once = False
            one.raises = []
            self.say(one, "shelved", ts)

    def lifted(self, one: One, event: str, ts: int) -> None:
        """A cover is gone: appear again, or be gone, but for a latch."""
        appears = one.open and one.level > 0
        if appears:
            self.show(one, ts)
        elif one.open and one.rule.latched and one.own in {"unacknowledged", "acknowledged"}:
            one.own = "latched" if one.own == "unacknowledged" else "latched-acknowledged"
        elif one.open and not one.own.startswith("latched"):
            one.own = "normal"
        self.say(one, event, ts)
        if appears:
            self.say(one, "raised", ts)
            self.count(one, ts)

    def suppress(self, ts: int, among: list[One] | None = None) -> None:
        """Let trips suppress what they should, and no more."""
        for one in self.order if among is None else among:
            if one.rule.id != "low":
                continue
            trip = self.alarms[one.name.replace("/low", "/trip")]
            holds = trip.met and not trip.out and (trip.level > 0 or trip.own != "normal")
            if holds and not one.down and (one.level or one.own != "normal"):
                one.down = True
                self.say(one, "suppressed", ts)
            elif one.down and not holds:
                one.down = False
                self.lifted(one, "unsuppressed", ts)

    def condition(self, one: One, level: int, ts: int) -> None:
        """The condition comes, changes or goes."""
        before, one.level, one.stale = one.level, level, False
        self.meet(one)
        self.suppress(ts, [one])
        if not one.open:
            if not level and one.until and one.once:
                one.until = 0
                self.lifted(one, "unshelved", ts)
        elif level and not before:
            self.show(one, ts)
            self.say(one, "raised", ts)
            self.count(one, ts)
        elif not level:
            seen = one.own == "acknowledged"
            if one.rule.latched:
                one.own = "latched-acknowledged" if seen else "latched"
            else:
                one.own = "normal" if seen else "returned"
            self.say(one, "cleared", ts)
        elif level > before:
            if one.own == "acknowledged" and not one.rule.acknowledged_by_itself:
                one.own, one.waiting = "unacknowledged", ts
            one.told = ts
            self.say(one, "escalated", ts)
        else:
            self.say(one, "eased", ts)
        self.suppress(ts)

    def due(self, one: One) -> tuple[int, str] | None:
        """What is due next for one alarm."""
        if one.until:
            return one.until, "unshelve"
        things = []
        if (
            one.open
            and one.own in {"unacknowledged", "latched"}
            and one.rank < len(one.rule.escalation)
        ):
            things.append((one.waiting + one.rule.escalation[one.rank].after_ms, "promote"))
        if one.open and one.own in {"unacknowledged", "acknowledged"} and one.rule.realarm_ms:
            things.append((one.told + one.rule.realarm_ms, "repeat"))
        return min(things, default=None)

    def advance(self, now: int) -> None:
        """All that is due, the earliest first."""
        while True:
            dues = [(self.due(one), place) for place, one in enumerate(self.order)]
            ready = [(due[0], place, due[1]) for due, place in dues if due and due[0] <= now]
            if not ready:
                return
            ts, place, what = min(ready)
            one = self.order[place]
            if what == "unshelve":
                one.until = 0
                self.lifted(one, "unshelved", ts)
            elif what == "promote":
                one.rank += 1
                self.say(one, "promoted", ts)
            else:
                if one.own == "acknowledged" and not one.rule.acknowledged_by_itself:
                    one.own, one.waiting = "unacknowledged", ts
                one.told = ts
                self.say(one, "repeated", ts)

    def obey(self, one: One, action: str, ts: int, *, for_ms: int = 0, once: bool = False) -> bool:
        """What a person does; False: it is refused."""
        if not getattr(self, f"_{action}")(one, ts, for_ms, once):
            return False
        self.suppress(ts)
        return True

    def _acknowledge(self, one: One, ts: int, *_: object) -> bool:
        after = {
            "unacknowledged": "acknowledged",
            "returned": "normal",
            "latched": "latched-acknowledged",
        }
        if not one.open or one.own not in after:
            return False
        one.own = after[one.own]
        self.say(one, "acknowledged", ts)
        return True

    def _reset(self, one: One, ts: int, *_: object) -> bool:
        if not one.open or one.own != "latched-acknowledged":
            return False
        one.own = "normal"
        self.say(one, "reset", ts)
        return True

    def _comment(self, one: One, ts: int, *_: object) -> bool:
        self.meet(one)
        self.say(one, "commented", ts)
        return True

    def _shelve(self, one: One, ts: int, for_ms: int, once: bool) -> bool:  # noqa: FBT001
        if one.out or (once and not one.level):
            return False
        self.meet(one)
        one.until, one.once = ts + (24 * HOUR if once else for_ms), once
        self.say(one, "shelved", ts)
        return True

    def _unshelve(self, one: One, ts: int, *_: object) -> bool:
        if one.out or not one.until:
            return False
        one.until = 0
        self.lifted(one, "unshelved", ts)
        return True

    def _disable(self, one: One, ts: int, *_: object) -> bool:
        if one.out:
            return False
        self.meet(one)
        one.out = True
        self.say(one, "out-of-service", ts)
        return True

    def _enable(self, one: One, ts: int, *_: object) -> bool:
        if not one.out:
            return False
        one.out = False
        self.lifted(one, "in-service", ts)
        return True


class BookAndModel(RuleBasedStateMachine):
    """Does the same to both, and hears the same from both."""

    def __init__(self) -> None:
        super().__init__()
        self.book = AlarmBook(RULES.values(), Nowhere())
        self.model = Model()
        self.now = START
        for device in DEVICES:
            self.book.hear(device, START)

    def both(self, announcements: list[Any]) -> None:
        """What the book said is what the model says."""
        said = [
            (
                f"{one.address.site}/{one.address.device}/{one.event.rule}",
                one.event.event,
                one.event.state,
                one.event.ts,
                one.event.number,
            )
            for one in announcements
        ]
        expected, self.model.said = self.model.said, []

        assert expected == said

    @rule(seconds=st.sampled_from([1, 15, 240, 600, 1_800, 5_400]))
    def time_passes(self, seconds: int) -> None:
        """Whatever is due comes in its order."""
        self.now += 1000 * seconds
        self.model.advance(self.now)
        self.both(self.book.advance(self.now))

    @rule(name=st.sampled_from(ALARMS), level=st.integers(0, 2))
    def condition_changes(self, name: str, level: int) -> None:
        """A condition comes, deepens, eases or goes."""
        one = self.model.alarms[name]
        if level != one.level:
            before = one.level
            self.model.condition(one, level, self.now)
            self.both(self.book.change(self._transition(one, before, level)))

    @rule(name=st.sampled_from(ALARMS))
    def condition_flickers(self, name: str) -> None:
        """A condition comes and goes within seconds, or goes and comes."""
        for _ in range(2):
            self.now += 1000
            self.model.advance(self.now)
            self.both(self.book.advance(self.now))
            self.condition_changes(name, 0 if self.model.alarms[name].level else 1)

    @rule(
        name=st.sampled_from(ALARMS),
        action=st.sampled_from(
            ["acknowledge", "comment", "reset", "unshelve", "disable", "enable", "acknowledge"]
        ),
    )
    def person_acts(self, name: str, action: OperatorAction) -> None:
        """A person does something that is done, or refused in both."""
        self._ask(OperatorRequest(id="1", action=action, by="lin", why="seen", targets=(name,)))

    @rule(name=st.sampled_from(ALARMS), for_s=st.sampled_from([30.0, 900.0, 86_400.0]))
    def person_shelves(self, name: str, for_s: float) -> None:
        """A person shelves an alarm for a time."""
        self._ask(
            OperatorRequest(
                id="1", action="shelve", by="lin", why="known", targets=(name,), for_s=for_s
            )
        )

    @rule(name=st.sampled_from(ALARMS))
    def person_shelves_once(self, name: str) -> None:
        """A person shelves an alarm until its condition is gone."""
        self._ask(
            OperatorRequest(
                id="1", action="shelve", by="lin", why="known", targets=(name,), once=True
            )
        )

    @rule(device=st.sampled_from(DEVICES), silent=st.booleans())
    def device_is_heard_or_not(self, device: Address, silent: bool) -> None:  # noqa: FBT001
        """A device falls silent: what stands, stands."""
        for one in self.model.order:
            if one.site == device.site and one.level and one.stale is not silent:
                one.stale = silent
                if one.open:
                    self.model.say(one, "stale" if silent else "heard", self.now)
        act = self.book.hush if silent else self.book.hear
        self.both(act(device, self.now))

    @precondition(lambda self: self.model.order)
    @rule()
    def restart(self) -> None:
        """A new book takes up what the old one has captured, through bytes."""
        state = json.loads(json.dumps(self.book.capture()))
        due = self.book.due
        self.book = AlarmBook(RULES.values(), Nowhere())
        self.book.restore(state)

        assert due == self.book.due
        assert state == json.loads(json.dumps(self.book.capture()))

    @invariant()
    def same_states(self) -> None:
        """Both show the same alarms in the same states."""
        expected = {one.name: (one.seen, one.number) for one in self.model.order}
        expected = {name: seen for name, seen in expected.items() if seen[0] != "normal"}
        shown = {
            f"{one.address.site}/{one.address.device}/{one.event.rule}": (
                one.event.state,
                one.event.number,
            )
            for one in self.book.standing()
        }

        assert expected == shown

    @invariant()
    def same_conditions_and_timers(self) -> None:
        """Both know which conditions hold and what is due next."""
        holding = {one.name for one in self.model.order if one.level}
        active = {
            f"{device.site}/{device.device}/{name}"
            for device in DEVICES
            for name in RULES
            if self.book.is_active((device, name))
        }
        dues = [due[0] for one in self.model.order if (due := self.model.due(one))]

        assert holding == active
        assert min(dues, default=2**62) == self.book.due

    def _ask(self, request: OperatorRequest) -> None:
        one = self.model.alarms[request.targets[0]]
        for_ms = round(1000 * (request.for_s or 0))
        done = self.model.obey(one, request.action, self.now, for_ms=for_ms, once=request.once)
        if done:
            announcements, changed = self.book.obey(request, self.now)
            self.both(announcements)
            assert (one.name,) == changed
            return
        before = self.book.capture()
        try:
            self.book.obey(request, self.now)
        except InputError:
            assert before == self.book.capture()
        else:
            raise AssertionError(request)

    def _transition(self, one: One, before: int, level: int) -> Transition:
        if not level:
            event = "cleared"
        elif not before:
            event = "raised"
        else:
            event = "escalated" if level > before else "eased"
        device = next(device for device in DEVICES if device.site == one.site)
        named = "HH" if (level or before) == 2 else "H"
        return Transition(
            rule=one.rule,
            address=device,
            change=Change(event, named, self.now),  # type: ignore[arg-type]
            ts=self.now,
            quantity="pressure",
            value=10.0 * level,
            limit=10.0,
            unit="kPa",
        )


TestBookAndModel = BookAndModel.TestCase
TestBookAndModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
