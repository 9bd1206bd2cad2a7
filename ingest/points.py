"""How what is not telemetry looks in the store: devices, alarm events, orders, own figures."""

import re
from collections.abc import Mapping
from typing import Final

from broker.messages import Announcement, Birth, RepairOrder
from city.cityfile import Address
from ingest.ledger import Ledger
from ingest.store import Point, PointKey

EVERYTHING: Final = "all"
"""The worker that takes in every district."""
_NAME: Final = re.compile(r"[\w.-]{1,64}")
"""What a device may call its kind and still have it as a tag."""


def alarm_point(announcement: Announcement) -> Point:
    """An alarm event as a point of measurement `alarms`.

    The event is a tag: an alarm may have several events of one instant.
    """
    address, event = announcement.address, announcement.event
    key = PointKey(
        "alarms",
        (
            ("city", address.city),
            ("device", address.device),
            ("district", address.district),
            ("domain", address.domain),
            ("event", event.event),
            ("rule", event.rule),
            ("site", address.site),
        ),
    )
    texts = {
        "state": event.state,
        "severity": event.severity,
        "level": event.level,
        "quantity": event.quantity,
        "unit": event.unit,
        "supervision": event.supervision,
        "cause": event.cause,
        "by": event.by,
        "why": event.why,
        "standard": event.standard,
        "clause": event.clause,
    }
    counts = {
        "raised": event.raised,
        "number": event.number,
        "active": int(event.active),
        "stale": int(event.stale),
        "first_out": int(event.first_out),
    }
    return Point(
        key,
        event.ts,
        {"value": event.value, "limit": event.limit},
        counts,
        {name: text for name, text in texts.items() if text},
    )


def station_point(address: Address, birth: Birth, *, ts: int) -> Point:
    """What a device is and where it stands, as a point of measurement `stations`.

    Kind, and kind of plant where it watches one, are tags: dashboards choose sites by them.
    `ts` is the instant at which the birth document came, on the wall clock.
    """
    tags = {
        "city": address.city,
        "device": address.device,
        "district": address.district,
        "domain": address.domain,
        "kind": birth.kind if _NAME.fullmatch(birth.kind) else "",
        "plant": birth.plant if birth.plant and _NAME.fullmatch(birth.plant) else "",
        "site": address.site,
    }
    key = PointKey("stations", tuple((name, text) for name, text in tags.items() if text))
    longitude, latitude = birth.position
    values = {"lon": longitude, "lat": latitude, "interval_s": birth.interval_s}
    texts = {"model": birth.model, "name": birth.name, "name_zh": birth.name_zh}
    return Point(key, ts, values, {}, {name: text for name, text in texts.items() if text})


def order_point(order: RepairOrder, *, city: str) -> Point:
    """A repair order's state as a point of measurement `orders`, at the instant of its change."""
    site, device, rule = order.alarm.split("/", 2)
    key = PointKey(
        "orders",
        (("city", city), ("device", device), ("order", order.id), ("rule", rule), ("site", site)),
    )
    longitude, latitude = order.position or (None, None)
    places = {"lon": longitude, "lat": latitude}
    texts = {
        "state": order.state,
        "priority": order.priority,
        "title": order.title,
        "title_zh": order.title_zh,
        "section": order.section,
        "by": order.by,
        "why": order.why,
    }
    return Point(
        key,
        order.ts,
        {name: place for name, place in places.items() if place is not None},
        {"opened": order.opened, "customers": order.customers},
        {name: text for name, text in texts.items() if text},
    )


def ledger_point(ledger: Ledger, *, ts: int, worker: str = EVERYTHING) -> Point:
    """The ledger as a point of measurement `cityeye`; `ts` is on the wall clock."""
    counts = {
        "received": ledger.received,
        "written": ledger.written,
        "duplicate": ledger.duplicate,
        "quarantined": ledger.quarantined,
        "refused": ledger.refused,
        "pending": ledger.pending,
    }
    return Point(_own("ledger", worker), ts, {}, counts, {})


def figures_point(
    part: str, figures: Mapping[str, float | int], *, ts: int, worker: str = EVERYTHING
) -> Point:
    """A part's figures as a point of measurement `cityeye`; `ts` is on the wall clock."""
    counts = {name: value for name, value in figures.items() if isinstance(value, int)}
    values = {name: float(value) for name, value in figures.items() if name not in counts}
    return Point(_own(part, worker), ts, values, counts, {})


def _own(part: str, worker: str) -> PointKey:
    return PointKey("cityeye", (("part", part), ("worker", worker)))
