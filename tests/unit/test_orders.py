"""Repair orders: opened once, taken and closed by people, never forgotten."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.archive import Archive
from alerts.orders import MANY_CUSTOMERS, NOT_COMMANDED, Orders, Scene, priority
from alerts.surroundings import Section
from broker.messages import (
    AlarmEvent,
    Announcement,
    OperatorReply,
    OperatorRequest,
    RepairOrder,
    Severity,
    decode,
)
from broker.topics import order_topic
from city.cityfile import Address
from city.errors import ArchiveError

ZONE = ZoneInfo("Asia/Shanghai")
RAISED = 1_780_275_600_000
"""2026-06-01 09:00 in Shanghai."""
NODE = Address("lanting", "millside", "gas", "foundry", "node-1")
VALVE = Address("lanting", "millside", "gas", "foundry", "valve-1")
ELSEWHERE = Address("lanting", "millside", "gas", "market", "valve-1")
SECTION = Section("foundry-valve-1", (VALVE,), 24, frozenset({NODE, VALVE}))


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """An archive of its own."""
    opened = Archive(tmp_path / "alarms.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def orders(archive: Archive) -> Orders:
    """The orders in it."""
    return Orders(archive, ZONE)


def alarm(address: Address = NODE, **changes: Any) -> Announcement:
    """A burst at a device."""
    event = AlarmEvent(
        rule="gas-burst", event="raised", state="unacknowledged", severity="high", level="H",
        quantity="gas_pressure", value=-200.0, limit=-150.0, unit="kPa/min", ts=RAISED + 5,
        raised=RAISED, number=1, message="Pressure falls fast", message_zh="压力骤降",
    )  # fmt: skip
    return Announcement(address, msgspec.structs.replace(event, **changes))


def opened(
    orders: Orders,
    archive: Archive,
    announcement: Announcement,
    section: Section | None = SECTION,
    **valves: str,
) -> RepairOrder | None:
    """The order that an alarm is given to, if it is; `valves` by their devices."""
    said = {f"foundry/{name.replace('_', '-')}": what for name, what in valves.items()}
    scene = Scene(section, (120.0, 31.8), said or {"foundry/valve-1": "closing"})
    found = orders.assign(announcement, scene)
    if found is None:
        return None
    archive.change(found.changes)
    return found.order


def say(orders: Orders, action: Any, *targets: str, **changes: Any) -> OperatorReply:
    """What the orders answer to a person."""
    request = OperatorRequest(id="r", action=action, by="li", targets=targets, why="repaired")
    return orders.handle(msgspec.structs.replace(request, **changes), RAISED + 1000)


def test_opened(orders: Orders, archive: Archive) -> None:
    """An order says where, how urgent, which valves, and how many are without gas."""
    order = opened(orders, archive, alarm())

    assert order == RepairOrder(
        id="ro-20260601-0001", state="open", ts=RAISED + 5, opened=RAISED + 5, priority="high",
        rule="gas-burst", alarm="foundry/node-1/gas-burst",
        title="Pressure falls fast: foundry/node-1", title_zh="压力骤降：foundry/node-1",
        position=(120.0, 31.8), section="foundry-valve-1",
        valves={"foundry/valve-1": "closing"}, customers=24, alarms=("foundry/node-1/gas-burst",),
    )  # fmt: skip
    assert [order] == orders.find("open")


def test_counted(orders: Orders, archive: Archive) -> None:
    """Orders are counted per day of the city's calendar."""
    numbers = [
        opened(orders, archive, alarm(VALVE, raised=raised))
        for raised in (RAISED, RAISED + 86_400_000)
    ]
    second = opened(orders, archive, alarm(ELSEWHERE))

    assert ["ro-20260601-0001"] * 2 == [order and order.id for order in numbers]
    assert second is not None
    assert second.id == "ro-20260601-0002"


def test_once(orders: Orders, archive: Archive) -> None:
    """An occurrence of an alarm has one order for ever; the next has one of its own."""
    order = opened(orders, archive, alarm())
    assert order is not None

    assert opened(orders, archive, alarm(event="escalated", number=2)) is None
    assert say(orders, "close-order", order.id).ok
    assert opened(orders, archive, alarm(number=3)) is None
    another = opened(orders, archive, alarm(raised=RAISED + 60_000))
    assert another is not None
    assert "ro-20260601-0002" == another.id


def test_joins(orders: Orders, archive: Archive) -> None:
    """Alarms of one site share an order; the most urgent one says what it is about."""
    methane: dict[str, Any] = {
        "rule": "gas-methane",
        "message": "Gas is escaping",
        "severity": "critical",
    }
    first = opened(orders, archive, alarm(**methane), None, valve_1=NOT_COMMANDED)
    burst = opened(orders, archive, alarm(VALVE, severity="critical"), valve_2="closing")
    later = opened(orders, archive, alarm(severity="medium"), valve_2=NOT_COMMANDED)
    assert first is not None
    assert burst is not None
    assert later is not None

    assert ("Gas is escaping: foundry/node-1", 0) == (first.title, first.customers)
    assert ("Pressure falls fast: foundry/valve-1", "gas-burst", 24, "foundry-valve-1") == (
        burst.title, burst.rule, burst.customers, burst.section,
    )  # fmt: skip
    assert {"foundry/valve-1": NOT_COMMANDED, "foundry/valve-2": "closing"} == later.valves
    names = ("foundry/node-1/gas-methane", "foundry/valve-1/gas-burst", "foundry/node-1/gas-burst")
    assert (names, burst.title) == (later.alarms, later.title)
    assert [later] == orders.find()


def test_more_urgent(orders: Orders, archive: Archive) -> None:
    """An alarm that escalates makes its order more urgent, and is not counted twice."""
    opened(orders, archive, alarm(severity="medium"))
    order = opened(orders, archive, alarm(event="escalated", severity="critical", number=2))
    assert order is not None

    assert ("critical", ("foundry/node-1/gas-burst",)) == (order.priority, order.alarms)


def test_again(orders: Orders, archive: Archive) -> None:
    """An alarm that comes back while its order is not done joins it silently, and for good."""
    order = opened(orders, archive, alarm())
    assert order is not None
    back = alarm(raised=RAISED + 60_000, ts=RAISED + 60_000)

    assert order.id == getattr(opened(orders, archive, back), "id", None)
    assert 1 == len(orders.untold(10))
    assert say(orders, "close-order", order.id).ok
    assert opened(orders, archive, back) is None


def test_sections(orders: Orders, archive: Archive) -> None:
    """The customers of every section of an order count, each section's once."""
    other = Section("foundry-valve-2", (VALVE,), 10, frozenset())
    for number, section in enumerate((SECTION, other, SECTION, other)):
        opened(orders, archive, alarm(raised=RAISED + number), section)

    assert [34] == [order.customers for order in orders.find()]


def test_while_taken(orders: Orders, archive: Archive) -> None:
    """An alarm joins an order that somebody has taken, which stays taken."""
    order = opened(orders, archive, alarm())
    assert order is not None
    say(orders, "take-order", order.id)
    joined = opened(orders, archive, alarm(VALVE))
    assert joined is not None

    assert (order.id, "taken", "li") == (joined.id, joined.state, joined.by)


@given(
    alarms=st.lists(
        st.tuples(
            st.sampled_from([NODE, VALVE, ELSEWHERE]), st.integers(0, 2),
            st.sampled_from(["low", "high", "critical"]), st.booleans(),
        ),
        max_size=12,
    )
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_one_per_site(
    alarms: list[tuple[Address, int, Any, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever comes, a site has at most one order that is not done, and no occurrence has two."""
    archive = Archive(tmp_path_factory.mktemp("orders") / "alarms.sqlite")
    orders = Orders(archive, ZONE)
    for address, raised, severity, done in alarms:
        order = opened(orders, archive, alarm(address, raised=RAISED + raised, severity=severity))
        if done and order is not None:
            say(orders, "close-order", order.id)
        sites = [one.alarm.partition("/")[0] for one in orders.find("open")]
        assert len(set(sites)) == len(sites)
    known = archive.rows("SELECT DISTINCT place, rule, raised, number FROM order_alarms")
    archive.close()

    assert len({row[:3] for row in known}) == len(known)


def test_life(orders: Orders, archive: Archive) -> None:
    """An order is taken, then closed, with who and why."""
    order = opened(orders, archive, alarm())
    assert order is not None
    taken = say(orders, "take-order", order.id)
    (now,) = orders.find("taken")

    assert (True, (order.id,)) == (taken.ok, taken.changed)
    assert ("li", "repaired", RAISED + 1000) == (now.by, now.why, now.ts)
    assert say(orders, "close-order", order.id).ok
    assert ([], 1) == (orders.find("open", "taken"), len(orders.find("done")))


def test_twice(orders: Orders, archive: Archive) -> None:
    """A request that comes twice changes nothing the second time and is no error."""
    order = opened(orders, archive, alarm())
    assert order is not None
    say(orders, "take-order", order.id)

    assert OperatorReply(id="r", ok=True, ts=RAISED + 1000) == say(orders, "take-order", order.id)


@pytest.mark.parametrize(
    ("action", "targets", "changes", "says"),
    [
        ("take-order", ("ro-20260601-0009",), {}, "there is no order 'ro-20260601-0009'"),
        ("take-order", (), {}, "say who (by), and which orders"),
        ("take-order", ("ro-20260601-0001",), {"by": ""}, "say who (by)"),
        ("close-order", ("ro-20260601-0001",), {"why": ""}, "close-order needs a reason"),
        ("shelve", ("ro-20260601-0001",), {}, "shelve is nothing to be done with an order"),
        ("take-order", ("ro-20260601-0001",), {"by": "wang"}, "ro-20260601-0001 is taken by li"),
    ],
)
def test_refused(
    orders: Orders, archive: Archive, action: str, targets: tuple[str, ...],
    changes: dict[str, str], says: str,
) -> None:  # fmt: skip
    """What cannot be done with an order is refused with the reason."""
    opened(orders, archive, alarm())
    say(orders, "take-order", "ro-20260601-0001")
    reply = say(orders, action, *targets, **changes)

    assert not reply.ok
    assert reply.detail.startswith(says)


def test_some(orders: Orders, archive: Archive) -> None:
    """Of several orders those that can be are changed, and the reply tells which."""
    order = opened(orders, archive, alarm())
    assert order is not None
    reply = say(orders, "take-order", "ro-1", order.id)

    assert (False, (order.id,)) == (reply.ok, reply.changed)
    assert "there is no order 'ro-1'" in reply.detail


def test_valve(orders: Orders, archive: Archive) -> None:
    """What becomes of a valve stands in the order of its alarm, and only in that."""
    opened(orders, archive, alarm())
    other = opened(orders, archive, alarm(ELSEWHERE))
    archive.change(
        orders.valve(
            (NODE, "gas-burst", RAISED), "foundry/valve-1", "closed in 1.8 s", RAISED + 1800
        )
    )
    first, second = orders.find()

    assert ({"foundry/valve-1": "closed in 1.8 s"}, RAISED + 1800) == (first.valves, first.ts)
    assert other == second


def test_valve_of_another(orders: Orders, archive: Archive) -> None:
    """A valve that the order does not know, or that stands so already, changes nothing."""
    opened(orders, archive, alarm())
    key = (NODE, "gas-burst", RAISED)

    assert [] == orders.valve(key, "foundry/valve-9", "closed", RAISED)
    assert [] == orders.valve(key, "foundry/valve-1", "closing", RAISED)


def test_told(orders: Orders, archive: Archive) -> None:
    """Every state is told in its order, retained until the order is done and then taken away."""
    order = opened(orders, archive, alarm())
    assert order is not None
    say(orders, "close-order", order.id)
    first, last = orders.untold(10)

    assert {order_topic(NODE, order.id)} == {first.topic, last.topic}
    assert [(order, True)] == [(decode(RepairOrder, p), r) for p, r in first.messages]
    assert [False, True] == [retain for _, retain in last.messages]
    assert last.messages[1][0] == b""
    orders.told(first.place)
    assert [last] == orders.untold(10)


def test_restart(tmp_path: Path) -> None:
    """Orders, their numbers and what is untold of them survive a restart."""
    path = tmp_path / "alarms.sqlite"
    archive = Archive(path)
    order = opened(Orders(archive, ZONE), archive, alarm())
    archive.close()
    again = Archive(path)
    orders = Orders(again, ZONE)

    assert [order] == orders.find()
    assert 1 == len(orders.untold(10))
    second = opened(orders, again, alarm(ELSEWHERE))
    assert second is not None
    assert second.id == "ro-20260601-0002"
    again.close()


def test_trail(orders: Orders, archive: Archive) -> None:
    """What became of an order can neither be changed nor removed."""
    opened(orders, archive, alarm())

    with pytest.raises(ArchiveError, match="only grows"):
        archive.change([("DELETE FROM order_states", ())])
    with pytest.raises(ArchiveError, match="only grows"):
        archive.change([("UPDATE order_states SET state = 'done'", ())])


@pytest.mark.parametrize(
    ("severity", "customers", "expected"),
    [
        ("low", 0, "low"),
        ("low", MANY_CUSTOMERS, "medium"),
        ("high", MANY_CUSTOMERS - 1, "high"),
        ("critical", 10_000, "critical"),
    ],
)
def test_priority(severity: Severity, customers: int, expected: str) -> None:
    """An order is as urgent as its alarm, one step more where many lose their supply."""
    assert expected == priority(severity, customers)
