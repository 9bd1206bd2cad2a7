import asyncio
import math
import time

import pytest

from city.clock import Clock, wall_ms

START_MS = 1_795_413_600_000


class Wall:
    """A wall clock that stands where the test puts it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr("city.clock.time.monotonic", lambda: self.now_s)


@pytest.mark.parametrize("speed", [0.5, 1.0, 60.0])
def test_speed(monkeypatch: pytest.MonkeyPatch, speed: float) -> None:
    """Simulated time runs `speed` times as fast as the wall."""
    wall = Wall(monkeypatch)
    simulated = Clock(START_MS, speed=speed)

    wall.now_s += 10.0

    assert START_MS + round(10_000 * speed) == simulated.now_ms()


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan])
def test_impossible_speed(speed: float) -> None:
    """A speed that does not lead forward is refused."""
    with pytest.raises(ValueError, match="speed must be above 0"):
        Clock(START_MS, speed=speed)


async def test_as_fast_as_possible() -> None:
    """Without a speed limit time stands still, and jumps to what somebody waits for."""
    simulated = Clock(START_MS, speed=math.inf)
    before_ms = simulated.now_ms()

    await simulated.sleep_until(START_MS + 86_400_000)

    assert simulated.as_fast_as_possible
    assert (START_MS, START_MS + 86_400_000) == (before_ms, simulated.now_ms())


async def test_never_back() -> None:
    """Waiting for an instant that has passed does not turn time back."""
    simulated = Clock(START_MS, speed=math.inf)
    await simulated.sleep_until(START_MS + 5_000)

    await simulated.sleep_until(START_MS + 1_000)

    assert START_MS + 5_000 == simulated.now_ms()


async def test_waits() -> None:
    """At a given speed an instant is waited for, in wall time."""
    simulated = Clock(START_MS, speed=1_000.0)
    began_s = time.monotonic()

    async with asyncio.timeout(60):
        await simulated.sleep_until(START_MS + 20_000)

    assert time.monotonic() - began_s >= 0.015


async def test_past() -> None:
    """An instant that has passed is not waited for."""
    simulated = Clock(START_MS)

    async with asyncio.timeout(60):
        await simulated.sleep_until(START_MS - 3_600_000)

    assert simulated.now_ms() >= START_MS


def test_wall() -> None:
    """The wall clock counts milliseconds since the epoch."""
    before_s = time.time()
    found_ms = wall_ms()

    assert before_s * 1000 - 1 <= found_ms <= time.time() * 1000 + 1
