"""From an alarm to the valve's reply, over a real broker and the real simulated fleet."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC
from pathlib import Path

import msgspec
import pytest

from alerts.actions import VALVE_UNANSWERED, ActionDesk
from alerts.archive import Archive
from alerts.orders import Orders
from broker import codec
from broker.choice import BrokerAddress
from broker.messages import ActionEvent, AlarmEvent, Announcement, RepairOrder, Reply, decode
from broker.mosquitto import PrivateMosquitto
from broker.session import Link, Session
from broker.topics import Channel, action_topic, device_filter, order_filter, parse_device_topic
from city.cityfile import Actions, Address, City, load_city
from city.clock import Clock, wall_ms
from city.scenarios import load_scenario, with_scenario
from cli.surroundings import CitySurroundings
from sensors.engine import CityEngine
from sensors.fleet import Fleet

Until = Callable[..., Awaitable[None]]

SPEED = 20.0
VALVE = Address("lanting", "millside", "gas", "gas-foundry-road", "valve-1")
RULE = msgspec.structs.replace(
    VALVE_UNANSWERED, id="gas-burst", actions=("close_valve", "repair_order")
)


def foundry_road(scenario: str) -> City:
    """The scenario's city, with the devices of Foundry Road and the valves of all others only."""
    city = with_scenario(load_city("lanting"), load_scenario(scenario))
    gas = (site for site in city.sites if site.domain == "gas")
    sites = (
        site
        if site.id == "gas-foundry-road"
        else msgspec.structs.replace(site, devices=site.devices[:1])
        for site in gas
    )
    return msgspec.structs.replace(city, sites=tuple(sites))


class Watchers:
    """A desk on a session of its own, and what it says on the wire."""

    def __init__(self, fleet: Fleet, engine: CityEngine, clock: Clock, orders: Orders) -> None:
        self.fleet = fleet
        self.engine = engine
        self.clock = clock
        self.orders = orders
        self.steps: list[ActionEvent] = []
        self.told: list[RepairOrder] = []
        self.raised: list[tuple[str, Address, float]] = []

    def happen(self, desk: ActionDesk, archive: Archive) -> None:
        """A burst is detected now."""
        now_ms = self.clock.now_ms()
        event = AlarmEvent(
            rule="gas-burst", event="raised", state="unacknowledged", severity="high", level="H",
            quantity="gas_pressure", value=-200.0, limit=-150.0, unit="kPa/min", ts=now_ms,
            raised=now_ms, number=1, message="Pressure falls fast",
        )  # fmt: skip
        archive.record([Announcement(VALVE, event)])
        desk.offer([Announcement(VALVE, event)])

    async def alarmed(self, rule: str, where: Address, _: int, value: float) -> None:
        """Take a higher alarm."""
        self.raised.append((rule, where, value))

    def receive(self, desk: ActionDesk, link: Link, messages: list[codec.Publish]) -> None:
        """Sort what arrives."""
        for message in messages:
            topic = message.topic.decode()
            if topic.endswith("/reply"):
                address, _ = parse_device_topic(topic)
                desk.hear(address, decode(Reply, message.payload))
            elif "/orders/" in topic and message.payload:
                self.told.append(decode(RepairOrder, message.payload))
            elif topic == action_topic(VALVE):
                self.steps.append(decode(ActionEvent, message.payload))
            link.acknowledge([message.mid])


@contextlib.asynccontextmanager
async def playing(
    scenario: str, port: int, archive: Archive, *, patience_s: float
) -> AsyncIterator[tuple[Watchers, ActionDesk]]:
    """A scenario's fleet and an armed desk."""
    city, start_ms = foundry_road(scenario), wall_ms()
    engine = await asyncio.to_thread(CityEngine, city, seed=1, start_ms=start_ms)
    around = CitySurroundings(city)
    await around.prepare()
    clock, address = Clock(wall_ms(), speed=SPEED), BrokerAddress("127.0.0.1", port)
    fleet, orders = Fleet(engine, clock, address), Orders(archive, UTC)
    watchers = Watchers(fleet, engine, clock, orders)
    desk = ActionDesk(
        archive, [RULE], around, Actions(mode="armed", rules=("gas-burst",)),
        orders=orders, time=clock, patience_s=patience_s,
        raise_alarm=watchers.alarmed,
    )  # fmt: skip
    session = Session(
        address, client_id="desk",
        subscriptions=[(device_filter(Channel.REPLY, city.city), 1),
                       (order_filter(city.city), 1), (action_topic(VALVE), 1)],
        receive=lambda link, messages: watchers.receive(desk, link, messages),
    )  # fmt: skip
    tasks = [
        asyncio.create_task(work)
        for work in (session.run(), fleet.run(), desk.run(session.publish))
    ]
    await session.ready(patience_s=60)
    try:
        yield watchers, desk
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await fleet.leave()


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """An archive of its own."""
    opened = Archive(tmp_path / "alarms.sqlite")
    yield opened
    opened.close()


@pytest.mark.mosquitto
async def test_closes(mosquitto: PrivateMosquitto, archive: Archive, until: Until) -> None:
    """A burst's alarm closes the valve; its reply is followed into the repair order."""
    async with playing("gas-burst", mosquitto.port, archive, patience_s=60) as (watchers, desk):
        await until(lambda: watchers.fleet.online == len(watchers.fleet.devices))
        watchers.happen(desk, archive)
        await until(lambda: [s.step for s in watchers.steps if s.action == "close_valve"][1:])
        name = f"{VALVE.site}/{VALVE.device}"
        await until(
            lambda: watchers.told and watchers.told[-1].valves.get(name) == "closed in 1.8 s"
        )
        still_ms = watchers.clock.now_ms()
        closed = watchers.engine.valve_position(name, still_ms)

    assert 0.0 == closed
    assert ["sent", "done"] == [s.step for s in watchers.steps if s.action == "close_valve"]
    assert (24, "open", "gas-foundry-road-valve-1") == (
        watchers.told[-1].customers, watchers.told[-1].state, watchers.told[-1].section,
    )  # fmt: skip
    assert [] == watchers.raised


@pytest.mark.mosquitto
async def test_deaf(mosquitto: PrivateMosquitto, archive: Archive, until: Until) -> None:
    """A valve that does not obey is told twice; then the higher alarm is raised."""
    async with playing("gas-burst-deaf-valve", mosquitto.port, archive, patience_s=0.5) as (
        watchers,
        desk,
    ):
        await until(lambda: watchers.fleet.online == len(watchers.fleet.devices))
        watchers.happen(desk, archive)
        name = f"{VALVE.site}/{VALVE.device}"
        await until(
            lambda: watchers.told and watchers.told[-1].valves.get(name) == "does not answer"
        )
        await until(lambda: [s for s in watchers.steps if s.step == "unanswered"])
        open_still = watchers.engine.valve_position(name, watchers.clock.now_ms())

    assert 100.0 == open_still
    assert ["sent", "retried", "unanswered"] == [
        s.step for s in watchers.steps if s.action == "close_valve"
    ]
    assert [("valve-unanswered", VALVE, 1.0)] == watchers.raised
