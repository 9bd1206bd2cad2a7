import asyncio
from collections.abc import Mapping
from typing import Any, cast

import msgspec
import pytest

from broker.messages import Command, Reply, encode
from city.cityfile import Device, load_city
from city.clock import Clock
from sensors.commands import Commander
from sensors.device import VirtualDevice

VALVE = next(d for d in load_city("lanting").devices() if d.kind.id == "gas-valve")
STATION = next(d for d in load_city("lanting").devices() if d.kind.id == "air-station")
EXPLODE = (
    "unknown command 'explode'; this device knows: close_valve, open_valve, calibrate, set_interval"
)
CLOSE = Command(id="c1", name="close_valve", ts=0, by="test")


class Engine:
    """An engine whose valves take 1.8 s and whose calibrations take ten minutes."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, str, dict[str, float]]] = []
        self.deaf: set[str] = set()

    def obey(self, order: str, device_name: str, args: Mapping[str, float], ts_ms: int) -> int:
        """Take note."""
        self.orders.append((order, device_name, dict(args)))
        return ts_ms + {"calibrate": 600_000, "set_interval": 0}.get(order, 1800)

    def hears(self, device_name: str, ts_ms: int) -> bool:  # noqa: ARG002 - as the engine's
        """All but those that are deaf."""
        return device_name not in self.deaf


class Talker:
    """As much of a device on the wire as a commander needs."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.answered: list[str] = []
        self.replies: list[Reply] = []
        self.interval_s = 0.0

    def reply(self, reply: Reply) -> None:
        """Keep it."""
        self.replies.append(reply)

    def retime(self, interval_s: float) -> None:
        """Keep it."""
        self.interval_s = interval_s


class Desk:
    """A commander at infinite speed: a valve's answer does not keep one waiting."""

    def __init__(self, device: Device = VALVE, *, now_ms: int = 1000) -> None:
        self.engine = Engine()
        self.talker = Talker(device)
        clock = Clock(now_ms, speed=float("inf"))
        self.commander = Commander(self.engine, clock)

    async def say(self, payload: bytes | Command) -> list[Reply]:
        """Give a command; all replies so far."""
        raw = payload if isinstance(payload, bytes) else encode(payload)
        self.commander.obey(cast("VirtualDevice", self.talker), raw)
        while self.commander.underway:  # noqa: ASYNC110 - the commander has no event for it
            await asyncio.sleep(0)
        return self.talker.replies


async def test_close() -> None:
    """A valve is closed, and the reply says when it had arrived and how long it took."""
    desk = Desk()

    assert [Reply(id="c1", ok=True, ts=2800, detail="closed in 1.8 s")] == await desk.say(CLOSE)
    assert [("close_valve", VALVE.name, {})] == desk.engine.orders


async def test_open() -> None:
    """A valve is opened again by a command of its own."""
    desk = Desk()
    await desk.say(msgspec.structs.replace(CLOSE, name="open_valve"))

    assert [("open_valve", VALVE.name, {})] == desk.engine.orders


async def test_long() -> None:
    """What takes longer than a moment is answered when it begins, with how long it will take."""
    replies = await Desk().say(msgspec.structs.replace(CLOSE, name="calibrate"))

    assert [Reply(id="c1", ok=True, ts=1000, detail="under way, calibrated in 600 s")] == replies


async def test_interval() -> None:
    """A device that is given another interval says so in a new birth document."""
    desk = Desk()
    await desk.say(msgspec.structs.replace(CLOSE, name="set_interval", args={"interval_s": 2.5}))

    assert 2.5 == desk.talker.interval_s


async def test_once() -> None:
    """A command that comes a second time is neither obeyed nor answered again."""
    desk = Desk()
    await desk.say(CLOSE)
    desk.engine.orders.clear()

    assert 1 == len(await desk.say(CLOSE))
    assert [] == desk.engine.orders


async def test_deaf() -> None:
    """A deaf device neither obeys nor answers; a repeat that comes after that is obeyed."""
    desk = Desk()
    desk.engine.deaf = {VALVE.name}

    assert [] == await desk.say(CLOSE)
    assert ([], 0) == (desk.engine.orders, desk.commander.refused)
    desk.engine.deaf = set()
    assert [True] == [reply.ok for reply in await desk.say(CLOSE)]


async def test_travelling() -> None:
    """At speed 1, the reply comes when the valve has arrived, not before."""
    desk = Desk()
    desk.commander._clock = Clock(0, speed=1.0)
    desk.commander.obey(cast("VirtualDevice", desk.talker), encode(CLOSE))

    assert (1, []) == (desk.commander.underway, desk.talker.replies)


@pytest.mark.parametrize(
    ("device", "change", "detail"),
    [
        (VALVE, {"name": "explode"},
         EXPLODE),
        (STATION, {}, "unknown command 'close_valve'; this device knows: calibrate, set_interval"),
        (VALVE, {"args": {"b": 1, "a": 2}}, "close_valve takes no arguments; got: a, b"),
        (VALVE, {"name": "set_interval", "args": {"interval_s": 0}},
         "set_interval: interval_s is not within 0.1 to 86400 s"),
        (VALVE, {"expires": 500}, "expired 0.5 s ago"),
    ],
)  # fmt: skip
async def test_refused(device: Device, change: dict[str, Any], detail: str) -> None:
    """What cannot be done is answered with the reason, counted, and changes nothing."""
    desk = Desk(device)
    replies = await desk.say(msgspec.structs.replace(CLOSE, **change))

    assert [Reply(id="c1", ok=False, ts=1000, detail=detail)] == replies
    assert (1, []) == (desk.commander.refused, desk.engine.orders)


async def test_not_expired() -> None:
    """A command is good up to its last instant."""
    assert (await Desk().say(msgspec.structs.replace(CLOSE, expires=1000)))[0].ok


@pytest.mark.parametrize("payload", [b"", b"close", b"[]", b'{"id":"c1"}', b"\xff", b"[" * 5000])
async def test_no_command(payload: bytes) -> None:
    """Whatever is no command is answered without an identifier."""
    replies = await Desk().say(payload)

    assert [("", False)] == [(reply.id, reply.ok) for reply in replies]
