"""How what is not telemetry looks in the store: alarm events and the service's own figures."""

from collections.abc import Mapping

from broker.messages import Announcement
from ingest.ledger import Ledger
from ingest.store import Point, PointKey


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


def figures_point(part: str, figures: Mapping[str, float | int], *, ts: int) -> Point:
    """A part's figures as a point of measurement `cityeye`; `ts` is on the wall clock."""
    counts = {name: value for name, value in figures.items() if isinstance(value, int)}
    values = {name: float(value) for name, value in figures.items() if name not in counts}
    return Point(PointKey("cityeye", (("part", part),)), ts, values, counts, {})
