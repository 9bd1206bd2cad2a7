import pytest

from broker.codec import Publish
from broker.messages import Telemetry, encode
from cli.earlier import FreshIntake, is_later

TELEMETRY = b"cityeye/v1/c/d/gas/market/detector-1/telemetry"
BEGINS_MS = 1_780_000_000_000


@pytest.mark.parametrize(
    ("ts", "begins_ms", "later"),
    [
        (BEGINS_MS - 1, BEGINS_MS, False),
        (BEGINS_MS, BEGINS_MS, True),
        (BEGINS_MS, None, False),
    ],
)
def test_later(ts: int, begins_ms: int | None, *, later: bool) -> None:
    """What does not lie before the beginning is of another run, where the beginning is known."""
    assert later is is_later(ts, begins_ms)


@pytest.mark.parametrize(("ts", "duplicates"), [(BEGINS_MS - 1, 1), (BEGINS_MS, 0)])
def test_memory(ts: int, duplicates: int) -> None:
    """A message is recognised as a repeat unless it is of a time that has not come yet."""
    payload = encode(Telemetry(ts, 1, {"methane": 1.0}))
    intake = FreshIntake(devices_max=9, begins_ms=BEGINS_MS)
    intake.remember([(TELEMETRY, payload)])
    taken = intake.take([[Publish(TELEMETRY, payload, 1, False, False, 1)]])

    assert duplicates == taken.duplicates
