"""`cityeye alarms`: what stands, and what changes, as the broker's alarm topics tell."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from zoneinfo import ZoneInfo

import aiomqtt
import msgspec
from rich.console import Console
from rich.table import Table

from broker.choice import BrokerAddress, parse_broker, tls_context
from broker.messages import AlarmEvent, Announcement, decode
from broker.topics import alarm_filter, parse_alarm_topic
from city.cityfile import load_city
from city.errors import BrokerError, SettingError, WireError
from city.settings import Settings
from cli.directory import running_in
from cli.live import alarm_row

_PIPE_WIDTH: Final = 240
_QUIET_S: Final = 0.5
_CONNECT_TIMEOUT_S: Final = 10.0


async def show_standing(settings: Settings, city: str | None, *, as_json: bool) -> None:
    """Print the alarms that stand now, the newest first."""
    standing = await _standing(settings, city)
    if as_json:
        _print({"alarms": [_plain(announcement) for announcement in standing]})
        return
    zone = _zone(settings, city)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in (f"since ({zone.key})", "state", "where", "what", "limit", "standard"):
        table.add_column(heading)
    for announcement in standing:
        table.add_row(*alarm_row(announcement, zone, since=announcement.event.raised))
    _console().print(table if standing else "no alarm stands")


async def watch(settings: Settings, city: str | None, *, as_json: bool) -> None:
    """Print every change, beginning with the alarms that stand."""
    console = _console()
    zone = _zone(settings, city)
    try:
        async with (
            asyncio.timeout(settings.duration_s),
            _announcements(settings, city) as announcements,
        ):
            async for announcement, _ in announcements:
                if as_json:
                    _print(_plain(announcement))
                else:
                    console.print(*alarm_row(announcement, zone))
    except TimeoutError:
        return


async def _standing(settings: Settings, city: str | None) -> list[Announcement]:
    """The retained alarms, the newest first; the broker sends them on subscribing, in one go."""
    found: list[Announcement] = []
    loop = asyncio.get_running_loop()
    async with _announcements(settings, city) as announcements:
        quiet_at_s = loop.time() + _QUIET_S
        try:
            while True:
                async with asyncio.timeout_at(quiet_at_s):
                    announcement, retained = await anext(announcements)
                if retained:
                    found.append(announcement)
                    quiet_at_s = loop.time() + _QUIET_S
        except TimeoutError:
            pass
    return sorted(found, key=lambda announcement: announcement.event.raised, reverse=True)


@asynccontextmanager
async def _announcements(
    settings: Settings, city: str | None
) -> AsyncIterator[AsyncIterator[tuple[Announcement, bool]]]:
    """Alarm events with whether they were retained, from the broker in question."""
    address = _address(settings)
    one_city = load_city(city).city if city else "+"
    client = aiomqtt.Client(
        address.host,
        address.port,
        username=address.username,
        password=settings.broker_password,
        tls_context=tls_context(address, settings.broker_ca),
        timeout=_CONNECT_TIMEOUT_S,
    )
    try:
        async with client:
            await client.subscribe(alarm_filter(one_city), qos=1)
            yield _read(client)
    except aiomqtt.MqttError as error:
        raise BrokerError(
            f"broker {address} does not answer ({error}); is cityeye running there?"
        ) from error


async def _read(client: aiomqtt.Client) -> AsyncIterator[tuple[Announcement, bool]]:
    async for message in client.messages:
        if not message.payload:
            continue
        try:
            address, _ = parse_alarm_topic(message.topic.value)
            event = decode(AlarmEvent, message.payload)
        except WireError as error:
            sys.stderr.write(f"cityeye: {message.topic.value}: {error}\n")
            continue
        yield Announcement(address, event), bool(message.retain)


def _console() -> Console:
    """Standard output; a line is never broken for a pipe."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def _address(settings: Settings) -> BrokerAddress:
    """The broker that is asked: the one given, or that of the running `cityeye`."""
    running = running_in(settings.data)
    if settings.broker is not None:
        chosen = parse_broker(settings.broker)
    elif running is not None:
        chosen = parse_broker(running.broker)
    else:
        raise SettingError(
            f"no cityeye runs in {settings.data}; start one, or give --broker mqtt://HOST:PORT "
            "or --data DIRECTORY"
        )
    if not isinstance(chosen, BrokerAddress):
        raise SettingError(f"--broker: give the address of {chosen.value}, mqtt://HOST:PORT")
    return chosen


def _zone(settings: Settings, city: str | None) -> ZoneInfo:
    """The city's time zone, as far as it is known."""
    if city is not None:
        return load_city(city).zone
    running = running_in(settings.data) if settings.broker is None else None
    return running.zone if running else ZoneInfo("UTC")


def _plain(announcement: Announcement) -> dict[str, Any]:
    address = msgspec.structs.asdict(announcement.address)
    event: dict[str, Any] = msgspec.to_builtins(announcement.event)
    return address | event


def _print(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, ensure_ascii=False) + "\n")
    sys.stdout.flush()
