import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import pytest

from broker.messages import TruthRecord
from broker.session import Session
from city.clock import Clock
from city.errors import StoreError
from sensors.truth import TruthLog
from sensors.truthteller import Truthteller


def record(number: int) -> TruthRecord:
    """Event `number`, which begins at that instant [s]."""
    return TruthRecord(
        id=f"e{number}", kind="drift", layer="instrument", cause="scripted", start=number * 1000,
        end=number * 1000 + 500, target="a/b", devices=("a/b",), quantities=("pm25",),
        expected="a trend",
    )  # fmt: skip


class Engine:
    """Knows one event per second."""

    def truths(self, from_ms: int, until_ms: int) -> Iterable[TruthRecord]:
        """The events that begin in the span."""
        return [r for r in map(record, range(100)) if from_ms <= r.start < until_ms]


class Line:
    """A session that publishes, or waits for ever while it is cut."""

    def __init__(self) -> None:
        self.cut = False
        self.said: list[str] = []

    async def publish(self, _topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Take note."""
        if self.cut:
            await asyncio.Event().wait()
        self.said.append(json.loads(payload)["id"])
        assert not retain


def teller(line: Line, log: TruthLog | None = None) -> Truthteller:
    """A truthteller at the beginning of time."""
    clock = Clock(0, speed=float("inf"))
    return Truthteller(cast("Session", line), Engine(), clock, city="lanting", log=log)


async def test_each_event_once() -> None:
    """Every event is told when it has begun, once."""
    line = Line()
    truth = teller(line)
    for until_ms in (1500, 1500, 3500):
        await truth.tell(until_ms)

    assert (["e0", "e1", "e2", "e3"], 4) == (line.said, truth.told)


async def test_cut_short() -> None:
    """What could not be told when the line was cut is told first when it is back."""
    line = Line()
    truth = teller(line)
    line.cut = True
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await truth.tell(2500)
    line.cut = False
    await truth.tell(3500)

    assert ["e0", "e1", "e2", "e3"] == line.said


async def test_log(tmp_path: Path) -> None:
    """The log of a run goes on where that of the run before ended."""
    for until_ms in (500, 1500):
        with TruthLog(tmp_path / "truth.jsonl", append=True) as log:
            await teller(Line(), log).tell(until_ms)
    lines = (tmp_path / "truth.jsonl").read_text(encoding="utf-8").splitlines()

    assert ["e0", "e0", "e1"] == [json.loads(line)["id"] for line in lines]


class FullLog:
    """A log on a disk that is full for a while."""

    def __init__(self) -> None:
        self.full = True
        self.kept: list[str] = []

    def write(self, records: Iterable[TruthRecord]) -> None:
        """Take the records unless the disk is full."""
        if self.full:
            raise StoreError("no room")
        self.kept += [r.id for r in records]


async def test_full_disk() -> None:
    """A full disk stops nothing: the topic hears at once, the log when there is room."""
    line, log = Line(), FullLog()
    truth = teller(line, cast("TruthLog", log))
    await truth.tell(1500)
    told = list(line.said)
    log.full = False
    await truth.tell(2500)

    assert ["e0", "e1"] == told
    assert ["e0", "e1", "e2"] == log.kept
