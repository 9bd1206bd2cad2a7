import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from broker.choice import BrokerAddress
from load.agenda import Due
from load.connecting import Access, Connector
from load.device import LoadDevice
from load.faults import FaultLots
from load.figures import Delta, merged
from load.fleet import Fleet
from load.pace import Pace
from load.payloads import Speaker
from load.plan import Faults, LoadPlan, Order, Part
from load.words import Strain, Words

START_MS = 1_800_000_000_000
PLAN = LoadPlan(
    run="t", broker=BrokerAddress("127.0.0.1", 1), devices=3, interval_s=0.1, ramp_s=0.1,
    phases=(), kinds=("air-micro",), seed=5, city_start_ms=START_MS, backlog_max=4,
)  # fmt: skip


class Dues:
    """An agenda of a test: samples given as (instant, device, number)."""

    def __init__(self, samples: Iterable[tuple[int, int, int]]) -> None:
        self.samples = list(samples)

    def take(self, now_ms: int, most: int) -> Due | None:
        """What is due."""
        due = [one for one in self.samples if one[0] <= now_ms][:most]
        self.samples = self.samples[len(due) :]
        if not due:
            return None
        instants, devices, seqs = (list(column) for column in zip(*due, strict=True))
        return Due(instants, devices, seqs, [{"pm25": 1.0}] * len(due), [None] * len(due))


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written.append(data)

    def abort(self) -> None:
        """Nothing to do."""


class Ear:
    """A line that keeps what is told."""

    def __init__(self) -> None:
        self.told: list[Delta] = []

    def tell(self, delta: Delta) -> None:
        """Keep it."""
        self.told.append(delta)

    def heard(self) -> Sequence[Order]:
        """Nothing."""
        return ()


class Shard:
    """A fleet of three without a network."""

    def __init__(self, plan: LoadPlan = PLAN) -> None:
        specs = list(plan.city().devices())
        self.fleet = Fleet(plan, FaultLots(plan.faults, plan.seed), complete_ms=START_MS)
        speakers = [Speaker(plan.template, spec, (1.0, 2.0), run="t") for spec in specs]
        self.devices = [LoadDevice(n, speaker, self.fleet) for n, speaker in enumerate(speakers)]
        self.connector = Connector(
            plan, Access(plan), self.fleet, specs=specs, turns=list(range(len(specs)))
        )
        self.fleet.settle_in(self.devices, np.arange(len(specs)), self.connector)

    def play(self, samples: Iterable[tuple[int, int, int]], until_ms: int) -> None:
        """Hand on what is due up to then, after the start."""
        dues: Any = Dues((START_MS + at_ms, device, seq) for at_ms, device, seq in samples)
        while not self.fleet.play(dues, START_MS + until_ms):
            pass
        self.fleet.mark(START_MS + until_ms, always=True)

    def connect(self, number: int) -> Wire:
        """Let a device connect, and have its birth acknowledged."""
        wire: Any = Wire()
        self.devices[number].connection_made(wire)
        self.devices[number].data_received(b"\x20\x02\x00\x00")
        made: Wire = wire
        return made

    def acknowledge(self, number: int) -> None:
        """Acknowledge what is in flight of a device."""
        device = self.devices[number]
        for mid in list(device.unacked):
            device.data_received(b"\x40\x02" + mid.to_bytes(2, "big"))

    def completed(self) -> tuple[int, int]:
        """Up to when all is complete, after the start, and what was confirmed."""
        survey = self.fleet.survey()
        return survey.complete_ms - START_MS, survey.confirmed


EACH = [(at_ms + device, device, at_ms // 100) for at_ms in (100, 200, 300) for device in range(3)]


class TestCompleteness:
    """Up to when everything is acknowledged."""

    async def test_all(self) -> None:
        """When all is acknowledged, all is complete up to now."""
        shard = Shard()
        for number in range(3):
            shard.connect(number)
        shard.play(EACH, 400)
        for number in range(3):
            shard.acknowledge(number)

        assert (400, 9) == shard.completed()

    async def test_one_behind(self) -> None:
        """A single device that is not online holds back what is complete."""
        shard = Shard()
        for number in range(2):
            shard.connect(number)
        shard.play(EACH[:3], 150)
        for number in range(2):
            shard.acknowledge(number)

        assert (0, 0) == shard.completed()
        shard.connect(2)
        shard.acknowledge(2)
        assert (150, 3) == shard.completed()

    async def test_pushed_out(self) -> None:
        """What a full backlog pushed out is complete, and not confirmed."""
        shard = Shard()
        shard.play([(100 + n, 0, n) for n in range(6)], 200)
        shard.connect(0)
        shard.acknowledge(0)

        assert 2 == shard.fleet.counts()["dropped"]
        assert (200, 4) == shard.completed()

    async def test_withheld(self) -> None:
        """What is missing on purpose is complete, and not confirmed."""
        shard = Shard(replace(PLAN, faults=Faults(missing=1.0)))
        shard.play(EACH, 400)

        assert (400, 0) == shard.completed()
        assert {"missing": 9} == dict(shard.fleet.faulty)

    async def test_late(self) -> None:
        """What is late holds back what is complete until it is acknowledged."""
        shard = Shard(replace(PLAN, faults=Faults(late=1.0, late_s=0.5)))
        shard.connect(0)
        shard.play([(100, 0, 0)], 400)

        assert (0, 0) == shard.completed()
        shard.play([], 700)
        shard.acknowledge(0)
        assert (700, 1) == shard.completed()

    async def test_released(self) -> None:
        """At the end what is held back is sent, the later first."""
        shard = Shard(replace(PLAN, faults=Faults(reordered=1.0)))
        wire = shard.connect(0)
        shard.play([(100, 0, 0), (200, 0, 1)], 400)
        before = len(wire.written)
        shard.fleet.release()
        shard.acknowledge(0)

        seqs = [b'"seq":1' in one for one in wire.written[before:]]
        assert [True, False] == seqs
        assert (400, 2) == shard.completed()


class TestRefusals:
    """Brokers that do not want a device."""

    async def test_counted(self) -> None:
        """A refusal is counted by its reason, once."""
        shard = Shard()
        shard.devices[0].connection_made(Wire())  # type: ignore[arg-type]  # as much as it needs
        shard.devices[0].data_received(b"\x20\x02\x00\x04")
        shard.devices[0].connection_lost(None)

        assert {"refused: user or password is wrong": 1} == dict(shard.fleet.reasons)
        assert 0 == shard.fleet.online

    async def test_ever_more_seldom(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The delays after refusals double, up to five minutes."""
        delays: list[float] = []
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "call_later", lambda delay_s, *_: delays.append(delay_s))
        shard = Shard()
        for _ in range(12):
            shard.connector.wake_later(shard.devices[0], refused=True)

        bounds = [min(300.0, 2.0**n) for n in range(12)]
        assert all(b / 2 <= delay <= b for b, delay in zip(bounds, delays, strict=True))


class TestWords:
    """What a shard says of itself."""

    async def test_deltas(self) -> None:
        """A word holds what was counted since the word before, and delays likewise."""
        shard, ear = Shard(), Ear()
        words = Words(
            Part(1, 2, START_MS), shard.fleet, ear, Pace(PLAN, START_MS), empty_bytes=7, ramp_s=0.0
        )
        shard.connect(0)
        shard.play([(100, 0, 0)], 150)
        words.tell()
        shard.play([(200, 0, 1), (300, 0, 2)], 400)
        shard.acknowledge(0)
        words.tell(last=True)

        first, second = ear.told
        assert (1, 2) == (first.counts["due"], second.counts["due"])
        assert (None, 3) == (first.counts.get("acked"), second.counts["acked"])
        assert 2 == merged([second.delays["lateness"]]).get_total_count()
        assert (1, 7, False, True) == (
            first.part, first.empty_rss_bytes, first.last, second.last,
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("late_us", "cpu_s", "expected"), [(1_000, 0.5, 0), (25_000, 0.5, 1), (1_000, 0.95, 1)]
    )
    def test_strain(self, late_us: int, cpu_s: float, expected: int) -> None:
        """Who sends late, or is busy, for five seconds says once that it was the bottleneck."""
        strain = Strain()
        said = [strain.look([late_us] * 100, cpu_s, 1.0) for _ in range(12)]

        assert expected == len([warning for warnings in said for warning in warnings])
        assert [()] * 4 == said[:4]
