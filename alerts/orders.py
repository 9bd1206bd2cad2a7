"""Repair orders: work that alarms give the repair crew, kept in the archive until it is done.

An order is opened once per occurrence of an alarm, and not while an earlier one of that alarm is
not done. Every change of it is a row that stays; the last one is what it is now.
"""

from collections.abc import Mapping
from datetime import datetime, tzinfo
from threading import RLock
from typing import Final, Literal

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
    id TEXT PRIMARY KEY, place TEXT NOT NULL, rule TEXT NOT NULL, raised INTEGER NOT NULL,
    UNIQUE (place, rule, raised)
) WITHOUT ROWID;
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

    def opening(
        self,
        alarm: Announcement,
        *,
        section: Section | None = None,
        position: Position | None = None,
        valves: Mapping[str, str] | None = None,
    ) -> tuple[RepairOrder, list[Change]] | None:
        """A new order for the alarm; None where it has one that is not done, or had one already.

        `valves` says of each valve, `site/device`, what became of it so far.
        """
        address, event = alarm.address, alarm.event
        if self._has_order(alarm):
            return None
        name = f"{address.site}/{address.device}"
        customers = section.customers if section else 0
        order = RepairOrder(
            id=self._next_id(event.raised),
            state="open",
            ts=event.ts,
            opened=event.ts,
            priority=priority(event.severity, customers),
            rule=event.rule,
            alarm=alarm_name((address, event.rule)),
            title=f"{event.message or event.rule}: {name}",
            title_zh=f"{event.message_zh}：{name}" if event.message_zh else "",
            position=position,
            section=section.id if section else "",
            valves=dict(valves or {}),
            customers=customers,
        )
        known = (order.id, str(address), event.rule, event.raised)
        return order, [("INSERT INTO orders VALUES (?, ?, ?, ?)", known), _appended(order)]

    def valve(self, alarm: tuple[Address, str, int], name: str, what: str, ts: int) -> list[Change]:
        """What became of a valve `site/device`, in the order of that alarm and raise instant."""
        address, rule, raised = alarm
        found = self._archive.rows(
            f"SELECT body FROM order_states JOIN orders ON orders.id = number WHERE {_LATEST} "
            "AND place = ? AND rule = ? AND raised = ?",
            (str(address), rule, raised),
        )
        orders = (decode(RepairOrder, body.encode()) for (body,) in found)
        return [
            _appended(_changed(order, ts, valves={**order.valves, name: what}))
            for order in orders
            if name in order.valves and order.valves[name] != what
        ]

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

    def _has_order(self, alarm: Announcement) -> bool:
        address, event = alarm.address, alarm.event
        rows = self._archive.rows(
            "SELECT 1 FROM orders JOIN order_states ON number = orders.id "
            f"WHERE place = ? AND rule = ? AND {_LATEST} AND (raised = ? OR state <> 'done')",
            (str(address), event.rule, event.raised),
        )
        return bool(rows)

    def _next_id(self, raised_ms: int) -> str:
        day = f"ro-{datetime.fromtimestamp(raised_ms / 1000, self._zone):%Y%m%d}-"
        ((count,),) = self._archive.rows(
            "SELECT count(*) FROM orders WHERE id GLOB ?", (f"{day}*",)
        )
        return f"{day}{count + 1:04d}"

    def _move(self, number: str, move: _Move, request: OperatorRequest, ts: int) -> str | None:
        """None: it was done; empty: nothing was to be done; else why it was not."""
        rows = self._archive.rows(
            "SELECT body FROM order_states WHERE number = ? ORDER BY id DESC LIMIT 1", (number,)
        )
        if not rows:
            return f"there is no order {number[:80]!r}; `cityeye orders` lists them"
        order = decode(RepairOrder, rows[0][0].encode())
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


def _changed(order: RepairOrder, ts: int, **changes: object) -> RepairOrder:
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
