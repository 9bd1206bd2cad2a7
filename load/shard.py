"""A shard of a load test: an even part of the devices, played in one process."""

import asyncio
import gc
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
import numpy as np
import psutil

from city.cityfile import Device
from city.clock import wall_ms
from load.agenda import Agenda
from load.connecting import Access, Connector
from load.device import LoadDevice
from load.faults import FaultLots
from load.fleet import Fleet
from load.joining import Joined, Joining
from load.line import Line, begun
from load.pace import Pace
from load.payloads import Speaker
from load.plan import LoadPlan, Part
from load.storm import Cuts
from load.words import Words
from sensors.engine import CityEngine

_TICK_S: Final = 0.001
_IDLE_S: Final = 0.01
_POLL_S: Final = 0.05
_PART_TIMEOUT_S: Final = 5.0


async def play_shard(plan: LoadPlan, part: Part, line: Line) -> None:
    """Play the shard's devices from `part.start_ms` to the end of the test, and say how it goes.

    Where `part.start_ms` is 0, the line is asked for it once the shard is prepared.

    A stop order and a cancellation end it as the plan does: what is on its way is waited for, and
    the devices say goodbye.

    Raises:
        CityEyeError: What the plan names does not exist: files, shards, the broker's host.
        ConnectionError: The conductor is gone.
    """
    empty_bytes = psutil.Process().memory_info().rss
    stage = await asyncio.to_thread(_Stage.of, plan, part)
    await stage.access.find()
    part = await begun(part, line)
    shard = Shard(plan, part, line, stage, empty_bytes=empty_bytes)
    with _frozen():
        await shard.begin()
        try:
            await shard.play()
        finally:
            await shard.end()


@contextmanager
def _frozen() -> Iterator[None]:
    """What exists now is not garbage, and little of what comes is."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


class _Stage(msgspec.Struct, frozen=True, eq=False):
    """What a shard plays with; building it takes seconds."""

    engine: CityEngine
    joined: list[Joined]
    specs: list[Device]
    speakers: list[Speaker]
    access: Access

    @classmethod
    def of(cls, plan: LoadPlan, part: Part) -> "_Stage":
        """The shard's part of the plan's city."""
        city = plan.city()
        engine = CityEngine(
            city, seed=plan.seed, start_ms=plan.city_start_ms, shard=(part.number, part.of)
        )
        joining = Joining(plan, city)
        positions = engine.device_positions()
        specs = [device for group in engine.groups for device in group.devices]
        speakers = [
            Speaker(
                plan.template,
                spec,
                positions[spec.name],
                run=plan.run,
                index=joining.place(spec),
            )
            for spec in specs
        ]
        joined = [joining.of(group) for group in engine.groups]
        return cls(engine, joined, specs, speakers, Access(plan))


class Shard:
    """One attempt at playing a shard."""

    def __init__(
        self, plan: LoadPlan, part: Part, line: Line, stage: _Stage, *, empty_bytes: int
    ) -> None:
        self._plan = plan
        self._part = part
        self._line = line
        self._pace = Pace(plan, part.start_ms)
        self._cuts = Cuts(plan, part.start_ms)
        since_ms = part.start_ms
        if part.resume is not None:
            since_ms = part.resume.complete_ms
            self._pace.follow(part.resume.orders)
            self._cuts.skip(wall_ms())
        self._agenda = Agenda(
            plan, stage.engine, self._pace, stage.joined,
            start_ms=part.start_ms, since_ms=since_ms if part.resume else 0,
        )  # fmt: skip
        none = np.empty(0, dtype=np.int64)
        self._index, turns, after_ms = (
            np.concatenate([none, *(getattr(own, name) for own in stage.joined)])
            for name in ("index", "turns", "after_ms")
        )
        self._fleet = Fleet(plan, FaultLots(plan.faults, plan.seed), complete_ms=since_ms)
        self._connector = Connector(
            plan, stage.access, self._fleet, specs=stage.specs, turns=turns.tolist()
        )
        devices = [LoadDevice(n, speaker, self._fleet) for n, speaker in enumerate(stage.speakers)]
        self._fleet.settle_in(devices, self._index, self._connector)
        order = np.argsort(after_ms, kind="stable")
        self._joining = deque(zip(after_ms[order].tolist(), order.tolist(), strict=True))
        self._words = Words(
            part, self._fleet, line, self._pace, empty_bytes=empty_bytes, ramp_s=plan.ramp_s
        )

    async def begin(self) -> None:
        """Say that we are there, and wait for the beginning."""
        self._words.tell()
        wait_s = (self._part.start_ms - time.time_ns() / 1e6) / 1000
        await asyncio.sleep(max(0.0, wait_s))

    async def play(self) -> None:
        """Connect and send until the end of the last phase."""
        loop, fleet = asyncio.get_running_loop(), self._fleet
        while (now_ms := wall_ms()) < self._pace.end_ms:
            fleet.at_s = loop.time()
            self._follow()
            self._join(now_ms)
            self._connector.pump(fleet.at_s)
            if self._cuts.due(now_ms):
                fleet.cut(self._cuts.take(self._index, now_ms))
            all_sent = fleet.play(self._agenda, now_ms)
            self._words.tell_now_and_then(fleet.at_s)
            await asyncio.sleep(self._pause_s() if all_sent else 0)
        while not fleet.play(self._agenda, self._pace.end_ms):  # noqa: ASYNC110 - others get a turn
            await asyncio.sleep(0)
        fleet.mark(self._pace.end_ms, always=True)
        self._join(self._pace.end_ms)

    async def end(self) -> None:
        """Wait for what is on its way, say goodbye, disconnect, and say the last word."""
        fleet = self._fleet
        try:
            fleet.release()
            await self._until(fleet.can_finish, self._plan.drain_s)
            fleet.farewell()
            await self._until(fleet.can_part, _PART_TIMEOUT_S)
        finally:
            await self._connector.leave()
            fleet.part()
        await self._until(lambda: not any(d.connected for d in fleet.devices), _PART_TIMEOUT_S)
        self._words.tell(last=True)

    def _follow(self) -> None:
        """Bend the pace and cut connections as ordered."""
        orders = self._line.heard()
        if not orders:
            return
        self._pace.follow(orders)
        self._agenda.bent()
        for order in orders:
            if order.drop > 0:
                self._cuts.order(order.at_ms, order.drop)

    def _join(self, now_ms: int) -> None:
        """Wake the devices whose instant to join has come."""
        while self._joining and self._part.start_ms + self._joining[0][0] <= now_ms:
            self._connector.wake(self._fleet.devices[self._joining.popleft()[1]])

    def _pause_s(self) -> float:
        """How long nothing is due, within what orders and connections may wait."""
        if self._connector.busy:
            return _TICK_S
        next_ms = self._agenda.next_ms()
        if next_ms is None:
            return _IDLE_S / 2
        return min(_IDLE_S, max(_TICK_S, (next_ms - time.time_ns() / 1e6) / 1000))

    async def _until(self, condition: Callable[[], object], patience_s: float) -> None:
        """Return when `condition` holds, or after the patience; words are said meanwhile."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + patience_s
        while not condition() and loop.time() < until_s:
            self._fleet.at_s = loop.time()
            self._connector.pump(self._fleet.at_s)
            self._words.tell_now_and_then(self._fleet.at_s)
            await asyncio.sleep(_POLL_S)
