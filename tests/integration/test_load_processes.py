"""The parts of a load test as processes: what happens when one dies, or its conductor does."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest
import structlog

from broker.choice import BrokerAddress
from broker.mosquitto import PrivateMosquitto
from ingest.influxd import PrivateInfluxd
from load.figures import Delta
from load.plan import LoadPlan, Phase
from load.processes import Login, Processes

DEADLINE_S = 60.0

pytestmark = pytest.mark.mosquitto


@pytest.fixture
def plan(mosquitto: PrivateMosquitto) -> LoadPlan:
    """Twenty devices for two seconds."""
    return LoadPlan(
        run="t", broker=BrokerAddress(mosquitto.host, mosquitto.port), devices=20, interval_s=0.1,
        ramp_s=0.5, phases=(Phase(name="steady", for_s=2.0),), kinds=("air-micro", "air-gas"),
        seed=3, city_start_ms=1_795_413_600_000, drain_s=3.0,
    )  # fmt: skip


@asynccontextmanager
async def running(plan: LoadPlan, store: Login | None = None) -> AsyncIterator[Processes]:
    """One shard, one subscriber, and what watches the store."""
    crew = Processes(store=store)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await crew.start(plan, shards=1, subscribers=1)
            yield crew
    finally:
        await crew.close()


def kill_part(place: int) -> None:
    """End the process that was started as that one, at once."""
    parts = [one for one in psutil.Process().children() if "load.processes" in one.cmdline()]
    os.kill(sorted(parts, key=psutil.Process.create_time)[place].pid, signal.SIGKILL)


async def words_with_one_killed(plan: LoadPlan, place: int, *, times: int = 1) -> list[Delta]:
    """All words; so many times, when devices have sent, that part is killed."""
    words: list[Delta] = []
    killed: set[str] = set()
    async with running(plan) as crew:
        async for word in crew.words():
            words.append(word)
            if word.counts.get("acked") and word.attempt not in killed and len(killed) < times:
                killed.add(word.attempt)
                kill_part(place)
    return words


async def test_subscriber_killed(plan: LoadPlan) -> None:
    """A subscriber that dies has failed, and says so; the shard goes on to its end."""
    words = await words_with_one_killed(plan, 1)

    failed = [word for word in words if word.failed]
    assert [("subscriber", {"unread_possible": 1})] == [(one.kind, one.counts) for one in failed]
    assert "subscriber 1 of 1 died" in failed[0].warnings[0]
    assert ["shard"] == [word.kind for word in words if word.last]


async def test_shard_killed(plan: LoadPlan) -> None:
    """A shard that dies is replaced: nothing of what was due is left out, and none counted twice."""
    words = await words_with_one_killed(plan, 0)

    confirmed = {word.attempt: word.confirmed for word in words if word.kind == "shard"}
    distinct = sum(word.counts.get("distinct", 0) for word in words)
    assert 2 == len(confirmed)
    assert sum(confirmed.values()) == distinct
    assert [] == [word for word in words if word.failed]
    assert {"shard", "subscriber"} == {word.kind for word in words if word.last}
    assert any("was started again" in said for word in words for said in word.warnings)


@pytest.mark.influxd
@pytest.mark.usefixtures("influx1")
async def test_logs(plan: LoadPlan, influxd: PrivateInfluxd) -> None:
    """What a part logs goes to the conductor's log, and not between its words."""
    store = Login(f"influx1://127.0.0.1:{influxd.port}/tests")
    with structlog.testing.capture_logs() as logged:
        async with running(plan, store) as crew:
            words = [word async for word in crew.words()]

    assert {"shard", "subscriber", "store"} == {word.kind for word in words if word.last}
    assert [("store 1 of 1", "info")] == [(one["part"], one["log_level"]) for one in logged]


async def test_conductor_gone() -> None:
    """A part whose conductor is gone before it has a job ends without a word."""
    part = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "load.processes",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(DEADLINE_S):
        out, errors = await part.communicate()

    assert (b"", b"") == (out, errors)
