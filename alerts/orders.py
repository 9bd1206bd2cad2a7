"""Repair orders: work that alarms give the repair crew, kept in the archive until it is done.

One site has at most one order that is not done: further alarms of the site join it, and the most
urgent of them says what it is about. An occurrence of an alarm counts once, whatever becomes of the
order. Every change of an order, and every alarm that joins it, is a row that stays.
"""

from collections.abc import Mapping
from datetime import datetime, tzinfo
from threading import RLock
from typing import Any, Final, Literal

import msgspec

from alerts.archive import Archive, Change
from alerts.surroundings import Section
from alerts.transitions import alarm_name
from broker.messages import (
    Announcement,
    OperatorAction,
    OperatorReply,
    OperatorRequest,
    RepairOrder,
    Severity,
    decode,
    encode,
)
from broker.topics import order_topic
from city.cityfile import Address, Position

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS orders (
    id TEXT PRIMARY KEY, site TEXT NOT NULL, place TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS orders_site ON orders (site, id);
CREATE TABLE IF NOT EXISTS order_alarms (
    id INTEGER PRIMARY KEY, number TEXT NOT NULL, place TEXT NOT NULL, rule TEXT NOT NULL,
    raised INTEGER NOT NULL, urgency INTEGER NOT NULL, section TEXT NOT NULL,
    customers INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS order_alarms_alarm ON order_alarms (place, rule, raised);
CREATE INDEX IF NOT EXISTS order_alarms_number ON order_alarms (number);
CREATE TRIGGER IF NOT EXISTS order_alarms_stay BEFORE UPDATE ON order_alarms
BEGIN SELECT raise(ABORT, 'what an order answers only grows'); END;
CREATE TRIGGER IF NOT EXISTS order_alarms_remain BEFORE DELETE ON order_alarms
BEGIN SELECT raise(ABORT, 'what an order answers only grows'); END;
CREATE TABLE IF NOT EXISTS order_states (
    id INTEGER PRIMARY KEY, number TEXT NOT NULL, state TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS order_states_number ON order_states (number, id);
CREATE TRIGGER IF NOT EXISTS order_states_stay BEFORE UPDATE ON order_states
BEGIN SELECT raise(ABORT, 'what became of an order only grows'); END;
CREATE TRIGGER IF NOT EXISTS order_states_remain BEFORE DELETE ON order_states
BEGIN SELECT raise(ABORT, 'what became of an order only grows'); END;
"""
_LATEST: Final = (
    "order_states.id = (SELECT max(o.id) FROM order_states AS o WHERE o.number = orders.id)"
)
_CURSOR: Final = "orders told"

MANY_CUSTOMERS: Final = 100
"""Where so many lose their supply, an order is one step more urgent (engineering default)."""

NOT_COMMANDED: Final = "not commanded"
"""What an order says of a valve that no alarm has told to close."""

_URGENCIES: Final[tuple[Severity, ...]] = ("low", "medium", "high", "critical")

State = Literal["open", "taken", "done"]


class _Move(msgspec.Struct, frozen=True):
    """What an operator's action makes of an order, and from which states it may."""

    to: State
    of: frozenset[State]
    needs_reason: bool


_MOVES: Final[Mapping[OperatorAction, _Move]] = {
    "take-order": _Move("taken", frozenset({"open"}), needs_reason=False),
    "close-order": _Move("done", frozenset({"open", "taken"}), needs_reason=True),
}


class Scene(msgspec.Struct, frozen=True):
    """Where an alarm is, and what is done there already.

    `valves` says of each valve of the section, `site/device`, what became of it so far.
    """

    section: Section | None = None
    position: Position | None = None
    valves: Mapping[str, str] = {}

    @property
    def customers(self) -> int:
        """Who lose their supply when the section is cut off."""
        return self.section.customers if self.section else 0

    @property
    def section_id(self) -> str:
        """The section's, empty where it is not known."""
        return self.section.id if self.section else ""


class Assigned(msgspec.Struct, frozen=True):
    """An alarm's order, and the changes that make it so."""

    order: RepairOrder
    changes: list[Change]
    how: Literal["opened", "joins", "presses"]
    """`presses`: it was there for this occurrence, which is more urgent now."""


class Untold(msgspec.Struct, frozen=True):
    """A state of an order that its topic does not show yet; payloads with whether retained."""

    place: int
    topic: str
    messages: tuple[tuple[bytes, bool], ...]


class Orders:
    """All repair orders of one city; safe from any thread.

    What opens or changes an order as part of something larger is returned as changes for the
    archive, to be made before `turn` is given up.
    """

    def __init__(self, archive: Archive, zone: tzinfo) -> None:
        """`zone` says on which day an order is counted."""
        self.turn = RLock()
        self._archive = archive
        self._zone = zone
        archive.create(_SCHEMA)

    def assign(self, alarm: Announcement, scene: Scene) -> Assigned | None:
        """Give an alarm to the order of its site that is not done, or else to a new one.

        None where this occurrence has its order and is no more urgent than it was.
        """
        urgency = _urgency(alarm, scene)
        number, known = self._assigned((alarm.address, alarm.event.rule, alarm.event.raised))
        current = self._current(_site(alarm.address))
        if number and (current is None or current.id != number or urgency <= known):
            return None
        if current is None:
            order = self._new(alarm, scene)
            values = order.id, _site(alarm.address), str(alarm.address)
            changes = [("INSERT INTO orders VALUES (?, ?, ?)", values), _appended(order)]
        else:
            order = self._joined(current, alarm, scene, urgency)
            changes = [] if _same(order, current) else [_appended(order)]
        answers = _answers(order, alarm, scene, urgency)
        how: Any = "presses" if number else "opened" if current is None else "joins"
        return Assigned(order, [*changes, answers], how)

    def valve(self, alarm: tuple[Address, str, int], name: str, what: str, ts: int) -> list[Change]:
        """What became of a valve `site/device`, in the order of that alarm and raise instant."""
        order = self._order(self._assigned(alarm)[0])
        if order is None or order.valves.get(name, what) == what:
            return []
        return [_appended(_changed(order, ts, valves={**order.valves, name: what}))]

    def handle(self, request: OperatorRequest, ts: int) -> OperatorReply:
        """Take or close the orders that a person names, at the simulated instant `ts`.

        An order that already is as wanted, by the same person, stays as it is: a request may come
        twice.
        """
        move = _MOVES.get(request.action)
        if move is None:
            return _refusal(request, ts, f"{request.action} is nothing to be done with an order")
        if not request.by or not request.targets:
            return _refusal(request, ts, "say who (by), and which orders (targets)")
        if move.needs_reason and not request.why:
            return _refusal(request, ts, f"{request.action} needs a reason (why): what was done?")
        changed, problems = [], []
        with self.turn:
            for number in dict.fromkeys(request.targets):
                problem = self._move(number, move, request, ts)
                if problem is None:
                    changed.append(number)
                elif problem:
                    problems.append(problem)
        return OperatorReply(
            id=request.id, ok=not problems, ts=ts, detail="; ".join(problems),
            changed=tuple(changed),
        )  # fmt: skip

    def find(self, *states: State) -> list[RepairOrder]:
        """The orders in one of `states`, or all, as they are now, the oldest first."""
        rows = self._archive.rows(
            "SELECT body FROM orders JOIN order_states ON number = orders.id "
            f"WHERE {_LATEST} ORDER BY orders.id"
        )
        orders = [decode(RepairOrder, body.encode()) for (body,) in rows]
        return [order for order in orders if not states or order.state in states]

    def untold(self, most: int) -> list[Untold]:
        """What is still to be said on the orders' topics, oldest first."""
        rows = self._archive.rows(
            "SELECT order_states.id, orders.place, body FROM order_states "
            "JOIN orders ON orders.id = number WHERE order_states.id > "
            "coalesce((SELECT upto FROM cursors WHERE name = ?), 0) ORDER BY 1 LIMIT ?",
            (_CURSOR, most),
        )
        return [_untold(*row) for row in rows]

    def told(self, place: int) -> None:
        """All up to that place has been said."""
        self._archive.settle(_CURSOR, place)

    def _assigned(self, alarm: tuple[Address, str, int]) -> tuple[str, int]:
        """The order that an occurrence of an alarm has, empty if none, and how urgent it was."""
        address, rule, raised = alarm
        ((number, urgency),) = self._archive.rows(
            "SELECT number, max(urgency) FROM order_alarms "
            "WHERE place = ? AND rule = ? AND raised = ?",
            (str(address), rule, raised),
        )
        return number or "", urgency or 0

    def _current(self, site: str) -> RepairOrder | None:
        """The order of a site that is not done."""
        rows = self._archive.rows(
            "SELECT body FROM orders JOIN order_states ON number = orders.id "
            f"WHERE {_LATEST} AND site = ? AND state <> 'done' ORDER BY orders.id LIMIT 1",
            (site,),
        )
        return decode(RepairOrder, rows[0][0].encode()) if rows else None

    def _order(self, number: str) -> RepairOrder | None:
        """An order as it is now."""
        rows = self._archive.rows(
            "SELECT body FROM order_states WHERE number = ? ORDER BY id DESC LIMIT 1", (number,)
        )
        return decode(RepairOrder, rows[0][0].encode()) if rows else None

    def _new(self, alarm: Announcement, scene: Scene) -> RepairOrder:
        event = alarm.event
        return RepairOrder(
            id=self._next_id(event.raised),
            state="open",
            ts=event.ts,
            opened=event.ts,
            priority=priority(event.severity, scene.customers),
            valves=dict(scene.valves),
            customers=scene.customers,
            alarms=(alarm_name((alarm.address, event.rule)),),
            **_subject(alarm, scene),
        )

    def _joined(
        self, order: RepairOrder, alarm: Announcement, scene: Scene, urgency: int
    ) -> RepairOrder:
        """`order` with one more alarm, which says what it is about if none was as urgent."""
        ((most,),) = self._archive.rows(
            "SELECT max(urgency) FROM order_alarms WHERE number = ?", (order.id,)
        )
        sections = dict(
            self._archive.rows(
                "SELECT DISTINCT section, customers FROM order_alarms WHERE number = ?", (order.id,)
            )
        )
        customers = sum((sections | {scene.section_id: scene.customers}).values())
        pressing = priority(alarm.event.severity, customers)
        told = {name: what for name, what in order.valves.items() if what != NOT_COMMANDED}
        names = dict.fromkeys((*order.alarms, alarm_name((alarm.address, alarm.event.rule))))
        return _changed(
            order,
            alarm.event.ts,
            priority=max(order.priority, pressing, key=_URGENCIES.index),
            valves={**order.valves, **scene.valves, **told},
            customers=customers,
            alarms=tuple(names),
            **(_subject(alarm, scene) if urgency > most else {}),
        )

    def _next_id(self, raised_ms: int) -> str:
        day = f"ro-{datetime.fromtimestamp(raised_ms / 1000, self._zone):%Y%m%d}-"
        ((count,),) = self._archive.rows(
            "SELECT count(*) FROM orders WHERE id GLOB ?", (f"{day}*",)
        )
        return f"{day}{count + 1:04d}"

    def _move(self, number: str, move: _Move, request: OperatorRequest, ts: int) -> str | None:
        """None: it was done; empty: nothing was to be done; else why it was not."""
        order = self._order(number)
        if order is None:
            return f"there is no order {number[:80]!r}; `cityeye orders` lists them"
        if order.state == move.to and order.by == request.by:
            return ""
        if order.state not in move.of:
            whose = f" by {order.by}" if order.by else ""
            return f"{number} is {order.state}{whose}"
        after = _changed(order, ts, state=move.to, by=request.by, why=request.why)
        self._archive.change([_appended(after)])
        return None


def priority(severity: Severity, customers: int) -> Severity:
    """How urgent an order is: as the alarm, one step more where many lose their supply."""
    step = _URGENCIES.index(severity) + (customers >= MANY_CUSTOMERS)
    return _URGENCIES[min(step, len(_URGENCIES) - 1)]


def _urgency(alarm: Announcement, scene: Scene) -> int:
    """By severity; of equally severe ones, an alarm that closes valves before one that does not."""
    closes = any(what != NOT_COMMANDED for what in scene.valves.values())
    return 2 * _URGENCIES.index(alarm.event.severity) + closes


def _subject(alarm: Announcement, scene: Scene) -> dict[str, Any]:
    """What an order says of the alarm that it is about."""
    address, event = alarm.address, alarm.event
    name = f"{address.site}/{address.device}"
    return {
        "rule": event.rule,
        "alarm": alarm_name((address, event.rule)),
        "title": f"{event.message or event.rule}: {name}",
        "title_zh": f"{event.message_zh}：{name}" if event.message_zh else "",
        "position": scene.position,
        "section": scene.section_id,
    }


def _answers(order: RepairOrder, alarm: Announcement, scene: Scene, urgency: int) -> Change:
    """That an order answers an occurrence of an alarm."""
    values = (
        order.id, str(alarm.address), alarm.event.rule, alarm.event.raised, urgency,
        scene.section_id, scene.customers,
    )  # fmt: skip
    columns = "number, place, rule, raised, urgency, section, customers"
    return f"INSERT INTO order_alarms ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", values


def _same(order: RepairOrder, other: RepairOrder) -> bool:
    return msgspec.structs.replace(order, ts=other.ts) == other


def _site(address: Address) -> str:
    return str(address).rpartition("/")[0]


def _changed(order: RepairOrder, ts: int, **changes: Any) -> RepairOrder:
    return msgspec.structs.replace(order, ts=max(ts, order.ts), **changes)


def _appended(order: RepairOrder) -> Change:
    values = (order.id, order.state, encode(order).decode())
    return "INSERT INTO order_states (number, state, body) VALUES (?, ?, ?)", values


def _untold(place: int, where: str, body: str) -> Untold:
    order = decode(RepairOrder, body.encode())
    topic = order_topic(_address(where), order.id)
    payload = body.encode()
    if order.state == "done":
        return Untold(place, topic, ((payload, False), (b"", True)))
    return Untold(place, topic, ((payload, True),))


def _refusal(request: OperatorRequest, ts: int, why: str) -> OperatorReply:
    return OperatorReply(id=request.id, ok=False, ts=ts, detail=why)


def _address(text: str) -> Address:
    return Address(*text.split("/"))
