from typing import Any, cast

import pytest

from alerts.service import AlarmService
from broker.codec import Publish
from broker.messages import AlarmEvent, Telemetry, encode
from broker.session import Link
from cli.adoption import Adoption, FreshIntake

TOPIC = "cityeye/v1/c/d/alarms/gas/market/detector-1/gas-methane"
TELEMETRY = b"cityeye/v1/c/d/gas/market/detector-1/telemetry"
BEGINS_MS = 1_780_000_000_000


class Alarms:
    """Keeps what is to be taken over."""

    def __init__(self) -> None:
        self.adopted: list[str] = []

    def adopt(self, topic: str, payload: bytes) -> bool:  # noqa: ARG002 - the service's interface
        """Take note."""
        self.adopted.append(topic)
        return True


class Wire:
    """A link that keeps what is acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []

    def acknowledge(self, mids: list[int]) -> None:
        """Take note."""
        self.acknowledged += mids


def alarm(ts: int, *, retain: bool = True) -> Publish:
    """The message of an alarm whose last event was at `ts`."""
    event = AlarmEvent(
        rule="gas-methane", event="raised", state="active", severity="high", level="H",
        quantity="methane", value=30.0, limit=25.0, unit="%LEL", ts=ts, raised=ts, standard="s",
    )  # fmt: skip
    return Publish(TOPIC.encode(), encode(event), 1, retain, False, 7)


@pytest.mark.parametrize(
    ("ts", "begins_ms", "taken"),
    [
        (BEGINS_MS - 1, BEGINS_MS, [TOPIC]),
        (BEGINS_MS, BEGINS_MS, []),
        (BEGINS_MS, None, [TOPIC]),
    ],
)
async def test_alarm(ts: int, begins_ms: int | None, taken: list[str]) -> None:
    """An alarm is taken over unless it is of a time that has not come yet."""
    alarms, wire = Alarms(), Wire()
    adoption = Adoption(cast("AlarmService", alarms), begins_ms)
    adoption.receive(cast("Link", wire), [alarm(ts)])

    assert (taken, [7]) == (alarms.adopted, wire.acknowledged)


async def test_echo() -> None:
    """A message that is not retained is an echo, and only acknowledged."""
    alarms, wire = Alarms(), Wire()
    Adoption(cast("AlarmService", alarms), None).receive(
        cast("Link", wire), [alarm(0, retain=False)]
    )

    assert ([], [7]) == (alarms.adopted, wire.acknowledged)


async def test_removed() -> None:
    """The topic of an alarm that is not taken over is emptied, retained."""
    adoption = Adoption(cast("AlarmService", Alarms()), BEGINS_MS)
    adoption.receive(cast("Link", Wire()), [alarm(BEGINS_MS + 1)])
    published: list[tuple[Any, ...]] = []

    async def publish(topic: str, payload: bytes, *, retain: bool) -> None:
        published.append((topic, payload, retain))
        raise InterruptedError

    with pytest.raises(InterruptedError):
        await adoption.run(publish)
    assert [(TOPIC, b"", True)] == published


@pytest.mark.parametrize(("ts", "duplicates"), [(BEGINS_MS - 1, 1), (BEGINS_MS, 0)])
def test_memory(ts: int, duplicates: int) -> None:
    """A message is recognised as a repeat unless it is of a time that has not come yet."""
    payload = encode(Telemetry(ts, 1, {"methane": 1.0}))
    intake = FreshIntake(devices_max=9, begins_ms=BEGINS_MS)
    intake.remember([(TELEMETRY, payload)])
    taken = intake.take([[Publish(TELEMETRY, payload, 1, False, False, 1)]])

    assert duplicates == taken.duplicates
