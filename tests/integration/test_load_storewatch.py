import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest

from broker.choice import BrokerAddress
from city.cityfile import Address
from city.clock import wall_ms
from city.errors import SettingError, StoreError
from ingest.influx1 import Influx1Store
from ingest.influxd import PrivateInfluxd
from ingest.store import Point, device_key
from load.figures import Delta, merged
from load.payloads import Template
from load.plan import LoadPlan, Order, Part, Phase
from load.storewatch import PROBES, Eye, Probe, probes_of, statement_of, watch_store

pytestmark = pytest.mark.influxd

Until = Callable[..., Awaitable[None]]
DATABASE = "tests"


class Ears:
    """The conductor's end of a line: keeps the words, and gives orders."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.orders: list[Order] = []

    def tell(self, delta: Delta) -> None:
        """Keep a word."""
        self.deltas.append(delta)

    def heard(self) -> Sequence[Order]:
        """Orders since the last call."""
        heard, self.orders = self.orders, []
        return heard

    @property
    def warnings(self) -> list[str]:
        """All warnings so far."""
        return [text for delta in self.deltas for text in delta.warnings]

    @property
    def delays_ms(self) -> tuple[int, float, float]:
        """How many delays were told, the shortest and the longest."""
        told = merged(delta.delays["store"] for delta in self.deltas if "store" in delta.delays)
        return told.get_total_count(), told.get_min_value() / 1000, told.get_max_value() / 1000


def plan_of(**changes: Any) -> LoadPlan:
    """A plan of ten devices that would take an hour: tests end it by an order."""
    plan = LoadPlan(
        run=uuid.uuid4().hex, broker=BrokerAddress("127.0.0.1", 1), devices=10, interval_s=1.0,
        ramp_s=0.1, phases=(Phase(name="steady", for_s=3600.0),), kinds=("air-micro", "outfall"),
        seed=1, city_start_ms=1795413600000, drain_s=1.0,
    )  # fmt: skip
    return msgspec.structs.replace(plan, **changes)


def addresses_of(plan: LoadPlan) -> list[Address]:
    """Every device."""
    return [device.address for device in plan.city().devices()]


def points(addresses: Sequence[Address], *instants_ms: int) -> list[Point]:
    """A reading of every device at every instant."""
    return [
        Point(device_key(one), ts_ms, {"pm25": 12.4}, {"seq": seq}, {})
        for one in addresses
        for seq, ts_ms in enumerate(instants_ms)
    ]


@contextlib.asynccontextmanager
async def watching(plan: LoadPlan, server: PrivateInfluxd, start_ms: int) -> AsyncIterator[Ears]:
    """A watch at work; it is told to stop at the end, and has said its last word then."""
    ears = Ears()
    address = server.url.replace("http://", "influx1://")
    task = asyncio.create_task(
        watch_store(plan, Part(0, 1, start_ms), ears, store=f"{address}/{DATABASE}"), name="watch"
    )
    try:
        async with asyncio.timeout(30):
            while not ears.deltas and not task.done():  # noqa: ASYNC110 - polled from outside
                await asyncio.sleep(0.01)
        yield ears
        ears.orders.append(Order(at_ms=wall_ms(), stop=True))
        async with asyncio.timeout(60):
            await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_every_new_point(
    influxd: PrivateInfluxd, influx1: Influx1Store, until: Until
) -> None:
    """A store that catches up shows the delay of every point, not of the newest ones alone."""
    plan = plan_of()
    start_ms = wall_ms() - 20_000
    async with watching(plan, influxd, start_ms) as ears:
        written = points(addresses_of(plan), start_ms, start_ms + 10_000, start_ms + 19_000)
        await influx1.write(written)
        await until(lambda: ears.delays_ms[0] >= 30)
        took_ms = wall_ms() - start_ms - 20_000
    count, shortest_ms, longest_ms = ears.delays_ms

    assert 30 == count
    assert 990 < shortest_ms < 1_010 + took_ms
    assert 19_900 < longest_ms < 20_100 + took_ms


async def test_of_the_test_alone(
    influxd: PrivateInfluxd, influx1: Influx1Store, until: Until
) -> None:
    """Points before the beginning, of other devices, and written twice are not counted."""
    plan = plan_of()
    start_ms = wall_ms() - 1_000
    addresses = addresses_of(plan)
    stranger = msgspec.structs.replace(addresses[0], site="elsewhere")
    other_city = msgspec.structs.replace(addresses[0], city="other")
    await influx1.write(points(addresses, start_ms - 5_000))
    async with watching(plan, influxd, start_ms) as ears:
        await influx1.write(points([stranger, other_city], start_ms + 10))
        await influx1.write(points(addresses, start_ms + 10))
        await until(lambda: ears.delays_ms[0] >= 10)
        await influx1.write(points(addresses, start_ms + 10))
        await influx1.write(points(addresses[:1], start_ms + 20))
        await until(lambda: ears.delays_ms[0] >= 11)

    assert 11 == ears.delays_ms[0]


async def test_behind_at_the_end(influxd: PrivateInfluxd, influx1: Influx1Store) -> None:
    """Devices whose last readings do not reach the store are counted in a warning."""
    plan = plan_of()
    start_ms = wall_ms() - 20_000
    await influx1.write(points(addresses_of(plan)[:4], start_ms + 19_900))
    async with watching(plan, influxd, start_ms) as ears:
        pass

    [warning] = ears.warnings
    assert "the last readings of 6 of 10 watched devices could not be read in InfluxDB" in warning


async def test_outage(influxd: PrivateInfluxd, influx1: Influx1Store, until: Until) -> None:
    """A store that goes away is said once; when it is back, delays are counted again."""
    plan = plan_of()
    start_ms = wall_ms()
    async with watching(plan, influxd, start_ms) as ears:
        await influxd.stop()
        await until(lambda: ears.warnings)
        await influxd.start()
        await influx1.write(points(addresses_of(plan), start_ms + 1))
        await until(lambda: ears.delays_ms[0] >= 10)

    assert 1 == sum("unknown for a while" in text for text in ears.warnings)


async def test_stale_device(influx1: Influx1Store) -> None:
    """A device that falls far behind is asked for apart, and its points are found all the same."""
    plan = plan_of()
    start_ms = wall_ms() - 100_000
    addresses = addresses_of(plan)
    eye = Eye(influx1, addresses, start_ms, stale_ms=5_000)
    await influx1.write(points(addresses[1:], start_ms + 90_000))
    first = await eye.look()
    await influx1.write(points(addresses[:1], start_ms + 1_000, start_ms + 2_000))
    later = [await eye.look() for _ in range(25)]

    assert 9 == len(first.delays_us)
    assert 2 == sum(len(found.delays_us) for found in later)


@pytest.mark.parametrize("store", ["duckdb", "duckdb:some.db", "influxd"])
async def test_embedded_store(store: str) -> None:
    """A store inside another process is refused with what to use instead."""
    with pytest.raises(SettingError, match="influx1://HOST:PORT/DATABASE"):
        await watch_store(plan_of(), Part(0, 1, 1), Ears(), store=store)


async def test_other_templates() -> None:
    """Messages that CityEye's ingest does not store cannot be looked for."""
    plan = plan_of(template=Template(name="own", topic="a/${device}"))

    with pytest.raises(SettingError, match="template 'own'"):
        await watch_store(plan, Part(0, 1, 1), Ears(), store="influx1://127.0.0.1:1/x")


async def test_nobody_there() -> None:
    """A store that does not answer ends the part before its first word."""
    ears = Ears()
    with pytest.raises(StoreError, match="cannot be reached"):
        await watch_store(plan_of(), Part(0, 1, 1), ears, store="influx1://127.0.0.1:1/x")

    assert not ears.deltas


def test_probes() -> None:
    """The watched devices are a sample that the seed alone decides."""
    plan = plan_of(devices=500)

    assert PROBES == len(set(probes_of(plan)))
    assert probes_of(plan) == probes_of(plan)
    assert probes_of(plan) != probes_of(plan_of(devices=500, seed=2))


def test_statement() -> None:
    """One statement asks for all devices of a domain, after the oldest instant seen."""
    address = Address("xinzhou", "east", "air", "o'park", "aq-1")
    other = msgspec.structs.replace(address, site="b", device="2")

    assert (
        "SELECT seq FROM \"air\" WHERE time > 5ms AND city = 'xinzhou' AND "
        "((site = 'o\\'park' AND device = 'aq-1') OR (site = 'b' AND device = '2')) "
        "GROUP BY site, device"
    ) == statement_of([Probe(address, 7), Probe(other, 5)])
