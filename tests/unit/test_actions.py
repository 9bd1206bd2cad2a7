"""Actions: what an alarm sets off, followed to its end, by a wire that the test holds."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alerts.actions import VALVE_UNANSWERED, ActionDesk, FollowedTime
from alerts.archive import Archive
from alerts.deeds import ACTIONS, COMMANDS, Deed
from alerts.orders import Orders
from alerts.rules import Rule
from alerts.surroundings import Nowhere, Section
from broker.messages import (
    ActionEvent,
    AlarmEvent,
    Announcement,
    Birth,
    ClockTick,
    Command,
    OperatorRequest,
    RepairOrder,
    Reply,
    decode,
)
from broker.topics import Channel, action_topic, device_topic
from city.cityfile import Actions, Address, Position
from city.kinds import DEVICE_KINDS

Until = Callable[[Callable[[], object]], Awaitable[None]]

NOW = 1_780_275_600_000
NODE = Address("lanting", "millside", "gas", "foundry", "node-1")
VALVE = Address("lanting", "millside", "gas", "foundry", "valve-1")
OTHER = Address("lanting", "millside", "gas", "market", "valve-1")
DETECTOR = Address("lanting", "millside", "gas", "foundry", "detector-1")
STACK = Address("lanting", "millside", "emission", "works", "stack-1")
NAME = "foundry/node-1/gas-burst"
VALVE_NAME = "foundry/valve-1"
ARMED = Actions(mode="armed", rules=("gas-burst",))


class Town:
    """Surroundings with one section of two valves."""

    zone: tzinfo = UTC

    def __init__(self, *valves: Address) -> None:
        self.valves = valves

    def section(self, address: Address) -> Section | None:
        """That of gas devices."""
        if address.domain != "gas":
            return None
        return Section("foundry-valve-1", self.valves, 24, frozenset({NODE, VALVE}))

    def position(self, address: Address) -> Position | None:  # noqa: ARG002 - of the protocol
        """One place for all."""
        return (120.0, 31.8)

    def upstream(self, address: Address) -> Sequence[str]:  # noqa: ARG002 - of the protocol
        """No river."""
        return ()

    def device(self, address: Address) -> bool:  # noqa: ARG002 - of the protocol
        """All there."""
        return True


class Time:
    """A clock that stands, in a city that is fast."""

    speed = 1000.0

    def __init__(self) -> None:
        self.at = NOW

    def now_ms(self) -> int:
        """The instant."""
        return self.at


class Wire:
    """What is published, and devices that answer, or do not."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self.answers: dict[Address, list[bool | None]] = {}
        """Per device what it answers to one command after the other; None: nothing."""
        self.refusals = 0
        """So many publishes fail first."""
        self.known: set[str] = set()
        """Commands that devices have got: a repeat is not answered again."""
        self.replies: list[tuple[Address, Reply]] = []
        self.desk: ActionDesk | None = None

    async def __call__(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Take a message; a device may answer at once."""
        if self.refusals:
            self.refusals -= 1
            raise ConnectionResetError("gone")
        self.messages.append((topic, payload, retain))
        for address, answers in self.answers.items():
            if topic == device_topic(address, Channel.COMMAND) and answers:
                self._answer(address, decode(Command, payload).id, answers)

    def _answer(self, address: Address, command_id: str, answers: list[bool | None]) -> None:
        if command_id in self.known:
            return
        self.known.add(command_id)
        ok = answers.pop(0)
        if ok is not None:
            detail = "closed in 1.8 s" if ok else "stuck"
            reply = Reply(id=command_id, ok=ok, ts=NOW + 9, detail=detail)
            self.replies.append((address, reply))
            if self.desk is not None:
                self.desk.hear(address, reply)

    def deliver(self) -> None:
        """Bring every reply once more."""
        for address, reply in self.replies:
            if self.desk is not None:
                self.desk.hear(address, reply)

    def commands(self, address: Address = VALVE) -> list[Command]:
        """What a device was told."""
        topic = device_topic(address, Channel.COMMAND)
        return [decode(Command, payload) for place, payload, _ in self.messages if place == topic]

    def steps(self, address: Address = NODE) -> list[ActionEvent]:
        """What was said of the actions of a device's alarms."""
        topic = action_topic(address)
        return [decode(ActionEvent, body) for place, body, _ in self.messages if place == topic]

    def said(self, address: Address = NODE) -> list[str]:
        """Only the names of the steps."""
        return [step.step for step in self.steps(address)]

    def valves(self) -> list[str]:
        """What was told last of the valves of an order, if one was told."""
        return [words for order in self.orders()[-1:] for words in order.valves.values()]

    def orders(self) -> list[RepairOrder]:
        """The states of orders that were told."""
        return [decode(RepairOrder, body) for place, body, _ in self.messages
                if "/orders/" in place and body]  # fmt: skip


def rule(*actions: str, **changes: Any) -> Rule:
    """A rule with actions."""
    changed = {"id": "gas-burst", "actions": actions} | changes
    return msgspec.structs.replace(VALVE_UNANSWERED, **changed)


def alarm(address: Address = NODE, **changes: Any) -> Announcement:
    """A burst at a device."""
    event = AlarmEvent(
        rule="gas-burst", event="raised", state="unacknowledged", severity="high", level="H",
        quantity="gas_pressure", value=-200.0, limit=-150.0, unit="kPa/min", ts=NOW, raised=NOW,
        number=1,
    )  # fmt: skip
    return Announcement(address, msgspec.structs.replace(event, **changes))


class Station:
    """A desk on an archive, with everything around it."""

    def __init__(self, path: Path) -> None:
        self.archive = Archive(path)
        self.orders = Orders(self.archive, UTC)
        self.wire = Wire()
        self.time = Time()
        self.raised: list[tuple[str, Address, int, float]] = []
        self.trouble = False

    @contextlib.asynccontextmanager
    async def desk(
        self, *actions: str, policy: Actions = ARMED, around: Any = None, patience_s: float = 0.05
    ) -> AsyncIterator[ActionDesk]:
        """A desk at work; ended without ceremony, as by a crash."""
        desk = ActionDesk(
            self.archive, [rule(*(actions or ("close_valve",)))], around or Town(VALVE), policy,
            orders=self.orders, time=self.time, patience_s=patience_s,
            raise_alarm=self.alarmed,
        )  # fmt: skip
        self.wire.desk = desk
        working = asyncio.create_task(desk.run(self.wire))
        try:
            yield desk
        finally:
            working.cancel()
            await asyncio.wait([working])

    async def alarmed(self, *values: Any) -> None:
        """Take a higher alarm; while there is trouble, it does not become durable."""
        while self.trouble:  # noqa: ASYNC110 - a test polls from outside
            await asyncio.sleep(0.001)
        self.raised.append(values)

    def ended(self, desk: ActionDesk) -> bool:
        """Whether the first valve's closing has an outcome."""
        ends = {step.step for step in desk.steps() if step.action == "close_valve"}
        return bool(ends & {"done", "unanswered", "refused"})

    def happens(self, desk: ActionDesk, *announcements: Announcement) -> None:
        """Something is recorded, and offered."""
        self.archive.record(announcements)
        desk.offer(announcements)


@pytest.fixture
async def station(tmp_path: Path) -> AsyncIterator[Station]:
    """A station of its own."""
    made = Station(tmp_path / "alarms.sqlite")
    yield made
    made.archive.close()


async def test_closes(station: Station, until: Until) -> None:
    """An armed burst closes the section's valves, and what they answer is followed."""
    station.wire.answers[VALVE] = [True]
    async with station.desk() as desk:
        station.happens(desk, alarm())
        await until(lambda: len(station.wire.steps()) == 2)
    (command,) = station.wire.commands()

    assert (f"{NAME}#1-foundry/valve-1-1", "close_valve", "alerts/gas-burst") == (
        command.id, command.name, command.by,
    )  # fmt: skip
    assert command.expires == NOW + 2000 + 50_000
    assert [("sent", NOW, "attempt 1 of 2"), ("done", NOW + 9, "closed in 1.8 s")] == [
        (step.step, step.ts, step.detail) for step in station.wire.steps()
    ]
    assert {f"{NAME}#1-foundry/valve-1"} == {step.id for step in station.wire.steps()}
    assert [] == station.raised


async def test_all_valves(station: Station, until: Until) -> None:
    """Every valve of a section is told, and one that is dumb holds up no other."""
    station.wire.answers = {VALVE: [None], OTHER: [True]}
    async with station.desk(around=Town(VALVE, OTHER), patience_s=30) as desk:
        station.happens(desk, alarm())
        await until(lambda: sorted(station.wire.said()) == ["done", "sent", "sent"])

    assert (1, 1) == (len(station.wire.commands()), len(station.wire.commands(OTHER)))


async def test_retried(station: Station, until: Until) -> None:
    """A valve that does not answer in time is told once more, by a new identifier."""
    station.wire.answers[VALVE] = [None, True]
    async with station.desk() as desk:
        station.happens(desk, alarm())
        await until(lambda: "done" in station.wire.said())

    assert ["sent", "retried", "done"] == station.wire.said()
    assert ["1", "2"] == [command.id[-1] for command in station.wire.commands()]
    assert [] == station.raised


async def test_unanswered(station: Station, until: Until) -> None:
    """A valve that does not answer twice raises the higher alarm, once, and is left alone."""
    async with station.desk("close_valve", "repair_order") as desk:
        station.happens(desk, alarm())
        await until(lambda: "unanswered" in station.wire.said())
        await until(lambda: "does not answer" in station.wire.valves())

    assert 2 == len(station.wire.commands())
    assert [("valve-unanswered", VALVE, NOW, 1.0)] == station.raised


async def test_one_higher_alarm(station: Station, until: Until) -> None:
    """However many alarms tell a dumb valve to close, the higher alarm is raised once."""
    async with station.desk() as desk:
        station.happens(desk, alarm(), alarm(VALVE))
        await until(lambda: "unanswered" in station.wire.said())
        await until(lambda: "unanswered" in station.wire.said(VALVE))

    assert [("valve-unanswered", VALVE, NOW, 1.0)] == station.raised


async def test_order_changed(station: Station, until: Until) -> None:
    """What a person makes of an order is told at once, from whichever thread it comes."""
    async with station.desk("repair_order") as desk:
        station.happens(desk, alarm())
        await until(station.wire.orders)
        (order,) = station.wire.orders()
        request = OperatorRequest(
            id="r", action="close-order", by="li", targets=(order.id,), why="repaired"
        )

        def close() -> None:
            station.orders.handle(request, NOW + 5)
            desk.order_changed()

        await asyncio.to_thread(close)
        await until(
            lambda: station.wire.messages[-1:] and station.wire.messages[-1][1:] == (b"", True)
        )

    assert "done" == station.wire.orders()[-1].state


async def test_late(station: Station, until: Until) -> None:
    """A valve that answers after all ends what raised the higher alarm."""
    async with station.desk("close_valve", "repair_order") as desk:
        station.happens(desk, alarm())
        await until(lambda: "unanswered" in station.wire.said())
        desk.hear(VALVE, Reply(id=f"{NAME}#1-foundry/valve-1-1", ok=True, ts=NOW + 77))
        await until(lambda: "closed" in station.wire.valves())
        await until(lambda: station.wire.said().count("done") == 2)

    assert [(1.0, NOW), (0.0, NOW + 77)] == [(value, ts) for _, _, ts, value in station.raised]
    assert ["sent", "retried", "unanswered", "done"] == [
        step.step for step in station.wire.steps() if step.action == "close_valve"
    ]


async def test_refused(station: Station, until: Until) -> None:
    """A valve that refuses is not asked again: a person must go, so the higher alarm is raised."""
    station.wire.answers[VALVE] = [False]
    async with station.desk() as desk:
        station.happens(desk, alarm())
        await until(lambda: "refused" in station.wire.said())

    assert ["stuck"] == [step.detail for step in station.wire.steps() if step.step == "refused"]
    assert [("valve-unanswered", VALVE, NOW + 9, 1.0)] == station.raised
    assert 1 == len(station.wire.commands())


async def test_old_refusal(station: Station, until: Until) -> None:
    """That the first command has expired says nothing of the second."""
    async with station.desk() as desk:
        station.happens(desk, alarm())
        await until(lambda: len(station.wire.commands()) == 2)
        first, second = station.wire.commands()
        desk.hear(VALVE, Reply(id=first.id, ok=False, ts=NOW, detail="expired"))
        desk.hear(VALVE, Reply(id=second.id, ok=True, ts=NOW, detail="closed"))
        await until(lambda: "done" in station.wire.said())

    assert [] == station.raised


async def test_broker_away(station: Station, until: Until) -> None:
    """A command that the broker does not take is sent again, as the same."""
    station.wire.refusals = 2
    station.wire.answers[VALVE] = [True]
    async with station.desk() as desk:
        station.happens(desk, alarm())
        await until(lambda: "done" in station.wire.said())

    assert [f"{NAME}#1-foundry/valve-1-1"] == [command.id for command in station.wire.commands()]


async def test_dry_run(station: Station, until: Until) -> None:
    """Where the city does not arm a rule, it is said what would have been sent, and ordered."""
    for policy, number in ((Actions(), 1), (Actions(mode="armed", rules=("other",)), 2)):
        async with station.desk("close_valve", "repair_order", policy=policy) as desk:
            station.happens(desk, alarm(number=number, raised=NOW + number))
            await until(lambda: len(station.wire.said()) == 2 * number)  # noqa: B023 - awaited here
            await until(station.wire.orders)

    assert ["would-send", "done", "would-send", "withheld"] == station.wire.said()
    assert "close_valve to foundry/valve-1" in station.wire.steps()[0].detail
    assert [] == station.wire.commands()
    assert {"foundry/valve-1": "not commanded (dry run)"} == station.wire.orders()[0].valves


@pytest.mark.parametrize("mode", ["off", False])
async def test_off(station: Station, until: Until, mode: Any) -> None:
    """Switched off, nothing is done, said or ordered, and nothing of it later either."""
    async with station.desk("close_valve", "repair_order", policy=Actions(mode=mode)):
        station.archive.record([alarm()])
        desk = station.wire.desk
        assert desk is not None
        desk._wake.set()
        await until(lambda: not station.archive.after("actions", 1))
    async with station.desk("close_valve", "repair_order") as again:
        station.happens(again, alarm(VALVE, rule="harmless"))
        await until(lambda: not station.archive.after("actions", 1))

    assert [] == station.wire.messages


async def test_withheld(station: Station, until: Until) -> None:
    """A valve is not closed twice by one alarm, but again when it comes back."""
    station.wire.answers[VALVE] = [True, True]
    async with station.desk() as desk:
        station.happens(desk, alarm())
        await until(lambda: "done" in station.wire.said())
        station.happens(desk, alarm(event="escalated", number=2))
        await until(lambda: "withheld" in station.wire.said())
        station.happens(desk, alarm(raised=NOW + 5, number=9))
        await until(lambda: station.wire.said().count("done") == 2)

    assert ["1", "9"] == [c.id.split("#")[1].split("-")[0] for c in station.wire.commands()]


@pytest.mark.parametrize("state", ["shelved", "suppressed", "out-of-service"])
async def test_put_aside(station: Station, until: Until, state: str) -> None:
    """What people have put aside moves nothing."""
    async with station.desk() as desk:
        station.happens(desk, alarm(state=state))
        await until(station.wire.said)

    assert [("withheld", f"the alarm is {state}")] == [
        (step.step, step.detail) for step in station.wire.steps()
    ]


async def test_rate(station: Station, until: Until) -> None:
    """A rule acts so many times within an hour, whatever the number of valves, and then again."""
    policy = Actions(mode="armed", rules=("gas-burst",), most_per_hour=2)
    async with station.desk(policy=policy, around=Town(VALVE, OTHER)) as desk:
        for number, after_s in enumerate((0, 10, 20, 3_605)):
            ts = NOW + 1000 * after_s
            station.happens(desk, alarm(ts=ts, raised=ts, number=number))
        await until(lambda: len(station.wire.commands()) >= 3)
        await until(lambda: station.wire.said().count("withheld") == 2)

    numbers = {command.id.split("#")[1].split("-")[0] for command in station.wire.commands()}
    assert {"0", "1", "3"} == numbers
    held = next(step for step in station.wire.steps() if step.step == "withheld")
    assert held.detail.startswith("gas-burst has acted 2 times within the hour")


async def test_old(station: Station, until: Until) -> None:
    """An alarm of long ago, found after a standstill, moves nothing."""
    station.time.speed = 1.0
    async with station.desk() as desk:
        station.happens(desk, alarm(ts=NOW - 700_000))
        await until(station.wire.said)

    assert (["withheld"], []) == (station.wire.said(), station.wire.commands())


@pytest.mark.parametrize(
    ("around", "says"),
    [(Town(), "no valves can cut it off"), (Nowhere(), "no gas network has this device")],
)
async def test_no_valves(station: Station, until: Until, around: Any, says: str) -> None:
    """Where nothing can be closed, that is said, and the order is opened all the same."""
    async with station.desk("close_valve", "repair_order", around=around) as desk:
        station.happens(desk, alarm())
        await until(station.wire.orders)
    refused = station.wire.steps()[0]

    assert ("refused", "foundry/node-1") == (refused.step, refused.target)
    assert says in refused.detail


async def test_site(station: Station, until: Until) -> None:
    """A command goes to the alarm's own device if it knows it, else to those of its site that do."""
    station.wire.answers = {DETECTOR: [True], STACK: [True]}
    async with station.desk("ventilate", "stop_unit") as desk:
        for address, kind in ((DETECTOR, "gas-detector"), (STACK, "stack-cems")):
            known = DEVICE_KINDS[kind].commands
            desk.learn(address, Birth(kind=kind, model="", position=(0, 0), interval_s=1,
                                      quantities={}, commands=known))  # fmt: skip
        station.happens(desk, alarm(), alarm(STACK))
        await until(lambda: "done" in station.wire.said() and "done" in station.wire.said(STACK))

    assert ["ventilate"] == [command.name for command in station.wire.commands(DETECTOR)]
    assert ["stop_unit"] == [command.name for command in station.wire.commands(STACK)]
    assert {"no device of foundry knows stop_unit", "no device of works knows ventilate"} == {
        step.detail
        for address in (NODE, STACK)
        for step in station.wire.steps(address)
        if step.step == "refused"
    }
    assert [] == station.raised


async def test_cleared(station: Station, until: Until) -> None:
    """Only what begins or grows worse acts: nothing is opened again when an alarm ends."""
    async with station.desk() as desk:
        ends = [
            alarm(event=event, number=number, active=False)
            for number, event in enumerate(["cleared", "eased", "acknowledged", "reset"])
        ]
        station.happens(desk, *ends)
        desk._wake.set()
        await until(lambda: not station.archive.after("actions", 1))

    assert [] == station.wire.messages


def test_never_opens() -> None:
    """No action opens a valve or starts anything."""
    assert ("close_valve", "stop_unit", "cut_power", "ventilate", "repair_order") == ACTIONS


async def test_crash_before_sending(station: Station, until: Until) -> None:
    """What was decided and not sent is sent after a restart."""
    station.wire.refusals = 10**9
    async with station.desk() as desk:
        station.happens(desk, alarm())
        await until(lambda: not station.archive.after("actions", 1))
    station.wire.refusals = 0
    station.wire.answers[VALVE] = [True]
    async with station.desk():
        await until(lambda: "done" in station.wire.said())

    assert [f"{NAME}#1-foundry/valve-1-1"] == [command.id for command in station.wire.commands()]


async def test_crash_before_reply(station: Station, until: Until) -> None:
    """A reply that comes after a restart, even before the desk is ready, ends the action."""
    async with station.desk(patience_s=30) as desk:
        station.happens(desk, alarm())
        await until(lambda: "sent" in station.wire.said())
    async with station.desk(patience_s=30) as again:
        again.hear(VALVE, Reply(id=f"{NAME}#1-foundry/valve-1-1", ok=True, ts=NOW + 9))
        await until(lambda: "done" in station.wire.said())

    assert 1 == len(station.wire.commands())


async def test_crash_before_higher_alarm(station: Station, until: Until) -> None:
    """A crash before the higher alarm is durable does not lose it: the deed is not ended before."""
    async with station.desk("close_valve") as desk:
        station.trouble = True
        station.happens(desk, alarm())
        await until(lambda: "retried" in station.wire.said())
        await until(desk._judging.locked)
    assert ([], ["sent", "retried"]) == (station.raised, [step.step for step in desk.steps()])

    station.trouble = False
    async with station.desk("close_valve"):
        await until(lambda: "unanswered" in station.wire.said())

    assert [("valve-unanswered", VALVE, NOW, 1.0)] == station.raised
    assert 2 == len(station.wire.commands())


async def test_late_after_restart(station: Station, until: Until) -> None:
    """A valve that was given up before a restart, and answers after it, ends the higher alarm."""
    async with station.desk() as desk:
        station.happens(desk, alarm())
        await until(lambda: "unanswered" in station.wire.said())
    async with station.desk() as again:
        again.hear(VALVE, Reply(id=f"{NAME}#1-foundry/valve-1-2", ok=True, ts=NOW + 77))
        await until(lambda: len(station.raised) == 2)

    assert ("valve-unanswered", VALVE, NOW + 77, 0.0) == station.raised[-1]


async def test_disarmed(station: Station, until: Until) -> None:
    """What was due when the service ended is not sent when it is disarmed before the next start."""
    station.wire.refusals = 10**9
    async with station.desk() as desk:
        station.happens(desk, alarm())
        await until(lambda: not station.archive.after("actions", 1))
    station.wire.refusals = 0
    async with station.desk(policy=Actions()):
        await until(station.wire.said)

    assert (["withheld"], []) == (station.wire.said(), station.wire.commands())


async def test_stranger(station: Station, until: Until) -> None:
    """A reply to somebody else's command changes nothing."""
    async with station.desk() as desk:
        desk.hear(VALVE, Reply(id="x", ok=True, ts=NOW))
        station.wire.answers[VALVE] = [True]
        station.happens(desk, alarm())
        await until(lambda: "done" in station.wire.said())

    assert (["sent", "done"], []) == (station.wire.said(), station.raised)


class Crossing(Town):
    """Surroundings where only what lies behind the first valve can be cut off."""

    def section(self, address: Address) -> Section | None:
        """The node is on the side of the feed."""
        behind = super().section(address)
        if address != NODE or behind is None:
            return behind
        return Section("feed-foundry", (), 0, frozenset({NODE}))


@pytest.mark.parametrize("first", [NODE, VALVE])
async def test_feed_side(station: Station, until: Until, first: Address) -> None:
    """On the feed's side of a burst nothing is closed, and that is no failure: one order, one step."""
    station.wire.answers[VALVE] = [True]
    both = sorted((NODE, VALVE), key=lambda address: address != first)
    around = Crossing(VALVE)
    async with station.desk("close_valve", "repair_order", around=around) as desk:
        station.happens(desk, *(alarm(address, ts=NOW + 5 * n) for n, address in enumerate(both)))
        await until(lambda: "done" in station.wire.said(VALVE))
        await until(lambda: len(station.wire.said()) == 2)
        await until(lambda: station.wire.valves() == ["closed in 1.8 s"])

    assert {VALVE_NAME: "closed in 1.8 s"} == station.wire.orders()[-1].valves
    feed_side = next(s for s in station.wire.steps() if s.action == "close_valve")
    expected = f"the feed side cannot be cut off; the section behind {VALVE_NAME} is being closed"
    assert ("withheld", expected) == (feed_side.step, feed_side.detail)
    (order,) = station.orders.find()
    assert (24, "foundry/valve-1/gas-burst", 2) == (
        order.customers, order.alarm, len(order.alarms),
    )  # fmt: skip


@pytest.mark.parametrize("change", [{"ts": NOW - 30_001}, {"state": "shelved"}, {"rule": "other"}])
async def test_feed_side_alone(station: Station, until: Until, change: dict[str, Any]) -> None:
    """Where no other alarm of that burst closes anything, that nothing can be closed is said."""
    async with station.desk("close_valve", around=Crossing(VALVE)) as desk:
        station.happens(desk, alarm(VALVE, **change), alarm())
        await until(station.wire.said)

    assert ["refused"] == station.wire.said()


@given(crashes=st.lists(st.integers(0, 12), max_size=4), mute=st.integers(0, 2))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_exactly_once(
    crashes: list[int], mute: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """However often the desk ends midway, each step is taken once, and one order is opened."""
    station = Station(tmp_path_factory.mktemp("once") / "alarms.sqlite")
    station.archive.record([alarm()])
    station.wire.answers[VALVE] = [None] * mute + [True]

    async def life(turns: float) -> None:
        async with station.desk("close_valve", "repair_order") as desk, asyncio.timeout(60):
            station.wire.deliver()
            while turns > 0 and not station.ended(desk):
                await asyncio.sleep(0.002)
                turns -= 1

    for turns in (*crashes, math.inf):
        asyncio.run(life(turns))
    steps = [step.step for step in station.wire.desk.steps()] if station.wire.desk else []
    orders = station.orders.find()
    station.archive.close()

    retried = ["retried"] if mute else []
    assert ["done", "sent", *retried, "unanswered" if mute == 2 else "done"] == steps
    assert 1 + bool(mute) == len({command.id for command in station.wire.commands()})
    assert [{"foundry/valve-1": "does not answer" if mute == 2 else "closed in 1.8 s"}] == [
        order.valves for order in orders
    ]
    assert {1.0} == {value for *_, value in station.raised} if mute == 2 else not station.raised


def test_higher_alarm() -> None:
    """The alarm of a dumb valve is critical, latched, of grade D, and sets nothing off itself."""
    (limit,) = VALVE_UNANSWERED.limits

    assert ("critical", "Engineering default", "D") == (
        limit.severity, limit.standard, limit.grade,
    )  # fmt: skip
    assert (True, ()) == (VALVE_UNANSWERED.latched, VALVE_UNANSWERED.actions)
    assert (True, False) == (limit.crossed(1.0), limit.crossed(0.0))


def test_followed_time() -> None:
    """The city's time runs at its speed from the newest announcement, and at the wall's before."""
    wall = [5_000]
    time = FollowedTime(lambda: wall[0])
    assert (5_000, 1.0) == (time.now_ms(), time.speed)
    time.learn(ClockTick(ts=NOW, speed=20.0, seed=1, wall=4_000))

    assert (NOW + 20_000, 20.0) == (time.now_ms(), time.speed)
    time.learn(ClockTick(ts=NOW, speed=0.0, seed=1, wall=4_000))
    assert (NOW, math.inf) == (time.now_ms(), time.speed)


def test_identifiers() -> None:
    """Two commands to one device because of one event have identifiers of their own."""
    deeds = [
        Deed(rule="r", place=NODE, number=1, raised=0, action=action, target=VALVE, ts=0)
        for action in COMMANDS
    ]

    assert len({deed.command_id for deed in deeds}) == len(COMMANDS)
