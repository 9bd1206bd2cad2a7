"""How what is not telemetry looks in the store: alarm events and the service's own figures."""

from broker.messages import Announcement
from ingest.ledger import Ledger
from ingest.store import Point, PointKey


def alarm_point(announcement: Announcement) -> Point:
    """An alarm event as a point of measurement `alarms`."""
    address, event = announcement.address, announcement.event
    key = PointKey(
        "alarms",
        (
            ("city", address.city),
            ("device", address.device),
            ("district", address.district),
            ("domain", address.domain),
            ("rule", event.rule),
            ("site", address.site),
        ),
    )
    texts = {
        "event": event.event,
        "state": event.state,
        "severity": event.severity,
        "level": event.level,
        "quantity": event.quantity,
        "unit": event.unit,
        "standard": event.standard,
        "clause": event.clause,
    }
    return Point(
        key,
        event.ts,
        {"value": event.value, "limit": event.limit},
        {"raised": event.raised},
        {name: text for name, text in texts.items() if text},
    )


def ledger_point(ledger: Ledger, *, ts: int) -> Point:
    """The ledger as a point of measurement `cityeye`; `ts` is on the wall clock."""
    counts = {
        "received": ledger.received,
        "written": ledger.written,
        "duplicate": ledger.duplicate,
        "quarantined": ledger.quarantined,
        "refused": ledger.refused,
        "pending": ledger.pending,
    }
    return Point(PointKey("cityeye", (("part", "ledger"),)), ts, {}, counts, {})
