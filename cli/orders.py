"""`cityeye orders`: the repair orders that are not done, as the broker's order topics tell."""

from typing import Any, Final

import aiomqtt
import msgspec
from rich.table import Table

from broker.messages import RepairOrder, decode
from broker.topics import order_filter
from city.cityfile import load_city
from city.errors import WireError
from city.settings import Settings
from cli.alarms import console, local_time, print_object, retained

_COLUMNS: Final = ("order", "state", "priority", "opened", "where", "what", "valves", "customers")


async def show(settings: Settings, city: str | None, *, as_json: bool) -> None:
    """Print the orders, the newest last."""
    name = load_city(city).city if city else "+"
    found: list[RepairOrder] = []
    for message in await retained(settings, order_filter(name)):
        order = _order(message)
        if order is not None:
            found.append(order)
    found.sort(key=lambda order: (order.opened, order.id))
    if as_json:
        print_object({"orders": [msgspec.to_builtins(order) for order in found]})
        return
    if not found:
        console().print("no repair order is open")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in _COLUMNS:
        table.add_column(heading)
    for order in found:
        table.add_row(*_row(settings, city, order))
    console().print(table)


def _row(settings: Settings, city: str | None, order: RepairOrder) -> list[str]:
    valves = ", ".join(f"{valve} {became}" for valve, became in order.valves.items())
    taken = f"{order.state} by {order.by}" if order.by else order.state
    more = f" (and {len(order.alarms) - 1} more alarms)" if len(order.alarms) > 1 else ""
    return [
        order.id, taken, order.priority, local_time(settings, city, order.opened),
        order.alarm.rpartition("/")[0], order.title + more, valves, f"{order.customers:,}",
    ]  # fmt: skip


def _order(message: aiomqtt.Message) -> RepairOrder | None:
    payload: Any = message.payload
    try:
        return decode(RepairOrder, payload) if payload else None
    except WireError:
        return None
