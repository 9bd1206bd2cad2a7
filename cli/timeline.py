"""What happened and what was done about it, in the order of time: from the hole to the repair order."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from alerts.planner import NO_ANSWER
from broker.messages import ActionEvent, Announcement, RepairOrder, TruthRecord
from cli.alerting import Alerting

MOST: Final = 100
"""Entries that a summary shows; the archive has all."""
_TOLD: Final = frozenset({"raised", "escalated", "promoted"})
_COUNTED: Final = frozenset({"sent", "done", "would-send"})


def actions(alerting: Alerting, since_ms: int) -> dict[str, int]:
    """How many actions of each name were begun since an instant; of a dry run, would have been."""
    begun = {
        (step.id, step.action)
        for step in alerting.desk.steps()
        if step.ts >= since_ms and step.step in _COUNTED
    }
    return dict(sorted(Counter(action for _, action in begun).items()))


def timeline(
    alerting: Alerting, since_ms: int, truths: tuple[TruthRecord, ...] = ()
) -> list[dict[str, Any]]:
    """The events that led to actions, the actions and the orders, each with its simulated instant.

    `truths` are the causes where they are known. `after_s` counts from the first entry. Empty where
    nothing acted.
    """
    steps = [step for step in alerting.desk.steps() if step.ts >= since_ms]
    orders = [order for order in alerting.orders.find() if order.opened >= since_ms]
    if not steps and not orders:
        return []
    acting = {step.rule for step in steps} | {order.rule for order in orders}
    entries = [*_causes(truths), *_alarms(alerting, since_ms, acting), *map(_step, steps)]
    entries += [entry for order in orders for entry in _order(order)]
    entries.sort(key=lambda entry: int(entry["ts"]))
    first = entries[0]["ts"]
    return [
        {**entry, "after_s": round((entry["ts"] - first) / 1000, 1)} for entry in entries[:MOST]
    ]


def told(value: list[dict[str, Any]]) -> str:
    """The timeline for people: one line each."""
    lines = [f"{entry['after_s']:8.1f} s  {entry['where']}: {entry['what']}" for entry in value]
    return "\n".join(["", *lines]) if lines else "nothing acted"


def _causes(truths: tuple[TruthRecord, ...]) -> Iterator[dict[str, Any]]:
    for record in truths:
        what = f"{record.kind} begins" + (f" ({record.note})" if record.note else "")
        yield {"ts": record.start, "where": record.target, "what": what}


def _alarms(alerting: Alerting, since_ms: int, acting: set[str]) -> Iterator[dict[str, Any]]:
    for rule in sorted(acting | {"valve-unanswered"}):
        found = alerting.archive.history(since_ms=since_ms, pattern=f"*/*/{rule}")
        for announcement in found:
            if announcement.event.event in _TOLD:
                yield _alarm(announcement)


def _alarm(announcement: Announcement) -> dict[str, Any]:
    address, event = announcement.address, announcement.event
    to = f" to the {event.supervision}" if event.event == "promoted" else ""
    what = f"alarm {event.rule} {event.event}{to}, {event.severity}: {event.value:g} {event.unit}"
    return {"ts": event.ts, "where": f"{address.site}/{address.device}", "what": what}


def _step(step: ActionEvent) -> dict[str, Any]:
    detail = f": {step.detail}" if step.detail else ""
    return {"ts": step.ts, "where": step.target, "what": f"{step.action} {step.step}{detail}"}


def _order(order: RepairOrder) -> Iterator[dict[str, Any]]:
    people = f", {order.customers} customers without supply" if order.customers else ""
    answers = f", answers {len(order.alarms)} alarms" if len(order.alarms) > 1 else ""
    failed = [f"{valve} {became}" for valve, became in order.valves.items() if _fails(became)]
    valves = "".join(f", {words}" for words in failed)
    what = f"repair order {order.id} opened, {order.priority}{people}{answers}{valves}"
    yield {"ts": order.opened, "where": order.alarm.rpartition("/")[0], "what": what}


def _fails(became: str) -> bool:
    return became == NO_ANSWER or became.startswith("refused")
