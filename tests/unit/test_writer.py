import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from city.errors import SpoolError, StoreError, StoreRefused, StoreTooLarge, StoreUnavailable
from ingest.ledger import DeadLetter, Fate
from ingest.spool import Group, Message, Spool
from ingest.store import Point, PointKey
from ingest.writer import Writer

T = TypeVar("T")
KEY = PointKey("air", (("device", "aq-1"),))


class ScriptedStore:
    """Keeps points in memory; fails as `script` says, then refuses what is bad or too much."""

    name = "scripted store"

    def __init__(self) -> None:
        self.script: list[Exception] = []
        self.bad: set[int] = set()
        self.points_max = 1_000_000
        self.away = False
        self.calls: list[list[int]] = []
        self.kept: list[int] = []

    async def open(self) -> None:
        """Nothing to open."""

    async def write(self, points: Sequence[Point]) -> None:
        """Keep the points, or raise."""
        await asyncio.sleep(0)
        self.calls.append([point.ts for point in points])
        if self.script:
            raise self.script.pop(0)
        if self.away:
            raise StoreUnavailable("gone fishing")
        if len(points) > self.points_max:
            raise StoreTooLarge("too much at once")
        if self.bad & set(self.calls[-1]):
            raise StoreRefused("field type conflict")
        self.kept += self.calls[-1]

    async def read(
        self, measurement: str, start_ms: int, stop_ms: int, *, limit: int = 10_000
    ) -> list[Point]:
        """Nobody reads here."""
        raise NotImplementedError(f"{measurement} {start_ms} {stop_ms} {limit}")

    async def close(self) -> None:
        """Nothing to close."""


def point(n: int) -> Point:
    """The point of message `n`."""
    return Point(KEY, n, {"pm25": float(n)}, {}, {})


def message(n: int) -> Message:
    """Message `n`."""
    return (b"topic/%d" % n, b"%d" % n)


def revive(messages: Iterable[Message]) -> list[Point]:
    """The points of messages from the spool."""
    return [point(int(payload)) for _, payload in messages]


async def at_once(work: Callable[[], T]) -> T:
    """Stands for the thread that owns the spool."""
    await asyncio.sleep(0)
    return work()


class Bench:
    """A writer between a spool and a scripted store, with a clock that jumps."""

    def __init__(self, spool: Spool, *, distance_s: float = 0.0, **options: int) -> None:
        self.store = ScriptedStore()
        self.spool = spool
        self.writer = Writer(
            self.store,
            spool,
            in_spool_thread=at_once,
            revive=revive,
            distance_s=distance_s,
            **options,
        )

    def put(self, *numbers: int, own: Sequence[int] = (), offer: bool = True) -> int:
        """Append messages and points of our own as one group, and offer it."""
        points = [point(n) for n in numbers] + [point(n) for n in own]
        group = Group([message(n) for n in numbers], points[len(numbers) :])
        number = self.spool.append(group)
        if offer:
            self.writer.offer(number, points, len(numbers))
        return number

    async def drain(self, *, deadline_s: float = 60.0) -> None:
        """Run the writer until all that was offered is settled."""
        running = asyncio.create_task(self.writer.run(), name="writer")
        try:
            async with asyncio.timeout(deadline_s):
                while self.spool.settled < self.spool.newest:
                    await asyncio.sleep(0)
                    if running.done():
                        running.result()
                await self.writer.drained()
        finally:
            running.cancel()
            await asyncio.wait([running], timeout=deadline_s)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """An empty spool."""
    spool = Spool(tmp_path / "spool.sqlite", reserve_bytes=0)
    yield spool
    spool.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The writer's delays, which end at once."""
    waited: list[float] = []
    sleep = asyncio.sleep

    async def jump(delay_s: float) -> None:
        if delay_s:
            waited.append(delay_s)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", jump)
    return waited


@pytest.fixture
def bench(spool: Spool) -> Bench:
    """A writer on an empty spool."""
    return Bench(spool)


async def test_groups_are_written_in_order(bench: Bench) -> None:
    """Points reach the store in the order of their groups, each once."""
    for start in range(0, 100, 10):
        bench.put(*range(start, start + 10))
    await bench.drain()

    assert list(range(100)) == bench.store.kept


async def test_what_is_written_is_settled(bench: Bench) -> None:
    """After the store has answered, the ledger counts the messages as written."""
    bench.put(1, 2, 3)
    await bench.drain()
    ledger = bench.spool.ledger()

    assert (3, 0, 3) == (ledger.written, ledger.pending, bench.writer.messages_written)


async def test_small_groups_share_a_request(bench: Bench) -> None:
    """Groups that wait together are written together."""
    bench.put(1)
    bench.put(2, 3)
    await bench.drain()

    assert [[1, 2, 3]] == bench.store.calls


async def test_a_request_is_bounded(spool: Spool) -> None:
    """Groups that together pass the bound are written one after the other."""
    bench = Bench(spool, write_max=3)
    bench.put(1, 2)
    bench.put(3, 4)
    await bench.drain()

    assert [[1, 2], [3, 4]] == bench.store.calls


async def test_our_own_points_are_no_messages(bench: Bench) -> None:
    """Points that did not come as messages are written, and the ledger does not count them."""
    bench.put(1, own=[100, 101])
    bench.put(own=[102])
    await bench.drain()

    assert ([1, 100, 101, 102], 1) == (bench.store.kept, bench.spool.ledger().written)


async def test_small_writes_keep_a_distance(spool: Spool, waits: list[float]) -> None:
    """After a small write the next one waits a moment, so that more comes together."""
    bench = Bench(spool, distance_s=30.0)
    bench.put(1)
    await bench.drain()

    assert [True] == [29.0 < wait <= 30.0 for wait in waits]


async def test_a_store_that_comes_back(bench: Bench, waits: list[float]) -> None:
    """While the store is away the same points are tried again, until it has them once."""
    bench.store.script = [StoreUnavailable("away")] * 3
    bench.put(1, 2)
    await bench.drain()

    assert ([[1, 2]] * 4, [1, 2], 3) == (bench.store.calls, bench.store.kept, len(waits))


async def test_a_store_that_locks_us_out(bench: Bench, waits: list[float]) -> None:
    """A store that refuses our credentials in mid-run is tried again: nothing is given up."""
    bench.store.script = [StoreError("the token is not accepted")] * 2
    bench.put(1, 2)
    await bench.drain()

    assert ([1, 2], 2) == (bench.store.kept, len(waits))


async def test_delays_grow(bench: Bench, waits: list[float]) -> None:
    """A store that stays away is asked ever more seldom, at most every 15 s."""
    bench.store.script = [StoreUnavailable("away")] * 12
    bench.put(1)
    await bench.drain()

    assert waits[0] <= 0.2
    assert 7.5 <= waits[-1] <= 15


async def test_retry_after_is_respected(bench: Bench, waits: list[float]) -> None:
    """A store that says when to come again is not asked earlier."""
    bench.store.script = [StoreUnavailable("busy", retry_after_s=42.0)]
    bench.put(1)
    await bench.drain()

    assert [42.0] == waits


async def test_retry_after_has_a_bound(bench: Bench, waits: list[float]) -> None:
    """A store that asks for a day is asked again after five minutes."""
    bench.store.script = [StoreUnavailable("busy", retry_after_s=86_400.0)]
    bench.put(1)
    await bench.drain()

    assert [300.0] == waits


async def test_trouble_is_said_once(bench: Bench, waits: list[float]) -> None:
    """An outage is one warning at its beginning and one line at its end."""
    bench.store.script = [StoreUnavailable("away")] * 5
    bench.put(1)
    with capture_logs() as said:
        await bench.drain()

    assert 5 == len(waits)
    assert ["warning", "info"] == [entry["log_level"] for entry in said]
    assert bench.writer.trouble is None


@pytest.mark.parametrize("bad", [{0}, {99}, {41}, {0, 1, 50, 99}, set(range(100))])
async def test_exactly_the_bad_points_are_refused(bench: Bench, bad: set[int]) -> None:
    """Of a refused batch every good point is written once, in order, and no bad one."""
    bench.store.bad = bad
    bench.put(*range(60))
    bench.put(*range(60, 100))
    await bench.drain()
    ledger = bench.spool.ledger()

    assert [n for n in range(100) if n not in bad] == bench.store.kept
    assert (100 - len(bad), len(bad), True) == (ledger.written, ledger.refused, ledger.balanced)


async def test_refused_points_are_dead_lettered(bench: Bench) -> None:
    """A message that the store refuses is kept with topic, payload and the store's words."""
    bench.store.bad = {7, 12}
    bench.put(*range(10))
    bench.put(*range(10, 20))
    await bench.drain()
    expected = [
        DeadLetter(Fate.REFUSED, "store", "field type conflict", *message(n)) for n in (12, 7)
    ]

    assert expected == bench.spool.dead_letters()


async def test_a_refused_point_of_our_own(bench: Bench) -> None:
    """A point of our own that is refused has no dead letter; the ledger stays balanced."""
    bench.store.bad = {100}
    bench.put(1, 2, own=[100, 101])
    await bench.drain()

    assert ([1, 2, 101], [], 2) == (
        bench.store.kept,
        bench.spool.dead_letters(),
        bench.spool.ledger().written,
    )


async def test_refusals_are_warned_of_once(bench: Bench) -> None:
    """The first refusal is a warning, further ones are told at level debug."""
    bench.store.bad = {1, 11, 21}
    for start in (0, 10, 20):
        bench.put(*range(start, start + 10))
    with capture_logs() as said:
        await bench.drain()

    assert ["warning", "debug", "debug"] == [entry["log_level"] for entry in said]


async def test_an_outage_during_bisection(bench: Bench, waits: list[float]) -> None:
    """A store that goes away while a batch is halved changes nothing about who is refused."""
    bench.store.bad = {5}
    bench.store.script = [StoreRefused("some"), StoreUnavailable("away"), StoreUnavailable("away")]
    bench.put(*range(8))
    await bench.drain()

    assert ([0, 1, 2, 3, 4, 6, 7], 2) == (bench.store.kept, len(waits))


async def test_too_large_is_split(bench: Bench) -> None:
    """A batch that is too large is written in parts, in order, and nothing is refused."""
    bench.store.points_max = 30
    bench.put(*range(100))
    await bench.drain()

    assert (list(range(100)), 0) == (bench.store.kept, bench.spool.ledger().refused)


async def test_a_store_that_takes_less_is_remembered(bench: Bench) -> None:
    """After a batch was too large the next ones are smaller from the start."""
    bench.store.points_max = 300
    for start in range(0, 2_000, 50):
        bench.put(*range(start, start + 50))
    await bench.drain()
    tries = [len(call) for call in bench.store.calls]
    bench.store.calls.clear()
    for start in range(2_000, 4_000, 50):
        bench.put(*range(start, start + 50))
    await bench.drain()

    assert max(tries) == 2_000
    assert max(len(call) for call in bench.store.calls) <= 300


async def test_one_giant_does_not_slow_the_others(bench: Bench) -> None:
    """A single point that is too large is refused, and later batches are not cut to one point."""
    bench.store.script = [StoreTooLarge("giant")] * 11
    bench.put(*range(1_024))
    await bench.drain()
    bench.store.calls.clear()
    for start in range(2_000, 2_100, 10):
        bench.put(*range(start, start + 10))
    await bench.drain()

    assert (1, [100]) == (bench.spool.ledger().refused, [len(call) for call in bench.store.calls])


async def test_memory_is_bounded(spool: Spool) -> None:
    """Groups beyond the bound are not held in memory, and are written in order all the same."""
    bench = Bench(spool, write_max=20, held_max=30)
    for start in range(0, 200, 10):
        bench.put(*range(start, start + 10))
    held = sum(len(group.points) for group in bench.writer._held)
    await bench.drain()

    assert (30, list(range(200))) == (held, bench.store.kept)


async def test_new_groups_behind_a_gap(spool: Spool) -> None:
    """Groups that are offered while older ones are read back are neither lost nor repeated."""
    bench = Bench(spool, write_max=20, held_max=30)
    for start in range(0, 100, 10):
        bench.put(*range(start, start + 10))

    def more(number: int) -> None:
        if number < 20:
            start = 10 * bench.spool.newest
            bench.put(*range(start, start + 10))

    bench.writer.on_written = more
    await bench.drain()

    assert list(range(10 * spool.newest)) == bench.store.kept


async def test_groups_of_before_the_start(spool: Spool) -> None:
    """What an earlier process left in the spool is written first, own points included."""
    Bench(spool).put(1, 2, own=[100], offer=False)
    bench = Bench(spool)
    bench.put(3)
    await bench.drain()

    assert ([1, 2, 100, 3], 3) == (bench.store.kept, spool.ledger().written)


async def test_a_restart_repeats_only_what_was_in_flight(tmp_path: Path) -> None:
    """After a stop between writing and settling that one batch is written again, nothing else."""
    path = tmp_path / "spool.sqlite"
    spool = Spool(path, reserve_bytes=0)
    first = Bench(spool, write_max=2)
    for n in (0, 2, 4):
        first.put(n, n + 1)
    await stop_before_settling(first, 2)
    spool.close()
    spool = Spool(path, reserve_bytes=0)
    second = Bench(spool, write_max=2)
    await second.drain()
    ledger = spool.ledger()
    spool.close()

    assert ([0, 1, 2, 3], [2, 3, 4, 5]) == (first.store.kept, second.store.kept)
    assert (6, 0, True) == (ledger.written, ledger.pending, ledger.balanced)


async def stop_before_settling(bench: Bench, batches: int) -> None:
    """Run the writer until the store has so many batches, and stop it before it takes note."""
    reached, settle = asyncio.Event(), bench.writer._settle

    async def settle_or_hang(number: int, written: int, letters: list[DeadLetter]) -> None:
        if len(bench.store.calls) == batches:
            reached.set()
            await asyncio.Event().wait()
        await settle(number, written, letters)

    bench.writer._settle = settle_or_hang  # type: ignore[method-assign]
    running = asyncio.create_task(bench.writer.run(), name="writer")
    async with asyncio.timeout(60):
        await reached.wait()
    running.cancel()
    await asyncio.wait([running], timeout=60)


async def test_a_spool_that_cannot_take_note(
    bench: Bench, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While settling fails nothing is written twice; it is tried again until it works."""
    settle, failures = bench.spool.settle, iter([True, True])

    def fail_twice(number: int, *, written: int, refused: Sequence[DeadLetter] = ()) -> None:
        if next(failures, False):
            raise SpoolError("disk full")
        settle(number, written=written, refused=refused)

    monkeypatch.setattr(bench.spool, "settle", fail_twice)
    bench.put(1, 2)
    await bench.drain()

    assert ([[1, 2]], 2, 2) == (bench.store.calls, len(waits), bench.spool.ledger().written)


async def test_a_group_is_announced_when_it_is_stored(bench: Bench) -> None:
    """Whoever wants to know is told the number of the newest group that the store has."""
    told: list[int] = []
    bench.writer.on_written = told.append
    bench.put(1)
    bench.put(2)
    await bench.drain()

    assert [2] == told


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    bad=st.sets(st.integers(0, 30)),
    points_max=st.integers(1, 20),
    held_max=st.integers(1, 20),
)
def test_every_message_ends_once(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    bad: set[int],
    points_max: int,
    held_max: int,
) -> None:
    """Whatever is refused or too large, each message is written once or refused once, in order."""

    async def write_all() -> tuple[list[int], int]:
        spool = Spool(tmp_path_factory.mktemp("spool") / "spool.sqlite", reserve_bytes=0)
        bench = Bench(spool, write_max=10, held_max=held_max)
        bench.store.bad, bench.store.points_max = bad, points_max
        numbers = iter(range(1000))
        for size in sizes:
            bench.put(*[next(numbers) for _ in range(size)])
        await bench.drain()
        refused = spool.ledger().refused
        spool.close()
        return bench.store.kept, refused

    kept, refused = asyncio.run(write_all())
    everything = range(sum(sizes))

    assert [n for n in everything if n not in bad] == kept
    assert len([n for n in everything if n in bad]) == refused
