"""`cityeye alarms`: what stands, and what changes, as the broker's alarm topics tell."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC
from typing import Any, Final

import aiomqtt
import msgspec
from rich.console import Console
from rich.table import Table

from broker.choice import BrokerAddress, parse_broker, tls_context
from broker.messages import AlarmEvent, Announcement, decode
from broker.topics import alarm_filter, parse_alarm_topic
from city.cityfile import load_city
from city.errors import BrokerError, SettingError, WireError
from city.settings import Settings, duration_s
from cli.commands import RUN_FILE
from cli.live import alarm_row

_QUIET_S: Final = 0.5
_CONNECT_TIMEOUT_S: Final = 10.0


async def show_standing(settings: Settings, city: str | None, *, as_json: bool) -> None:
    """Print the alarms that stand now, the newest first."""
    standing: list[Announcement] = []
    async with _announcements(settings, city) as announcements:
        try:
            while True:
                async with asyncio.timeout(_QUIET_S):
                    announcement, retained = await anext(announcements)
                if retained:
                    standing.append(announcement)
        except TimeoutError:
            pass
    standing.sort(key=lambda announcement: announcement.event.raised, reverse=True)
    if as_json:
        _print({"alarms": [_plain(announcement) for announcement in standing]})
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("since", "state", "where", "what", "limit", "standard"):
        table.add_column(heading)
    for announcement in standing:
        table.add_row(*alarm_row(announcement, UTC))
    console = Console()
    console.print(table if standing else "no alarm stands")


async def watch(settings: Settings, city: str | None, *, as_json: bool) -> None:
    """Print every change, beginning with the alarms that stand."""
    limit_s = None if settings.for_ is None else duration_s(str(settings.for_), "for")
    console = Console(soft_wrap=True)
    try:
        async with asyncio.timeout(limit_s), _announcements(settings, city) as announcements:
            async for announcement, _ in announcements:
                if as_json:
                    _print(_plain(announcement))
                else:
                    console.print(*alarm_row(announcement, UTC))
    except TimeoutError:
        return


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
        if not isinstance(message.payload, bytes) or not message.payload:
            continue
        try:
            address, _ = parse_alarm_topic(message.topic.value)
            event = decode(AlarmEvent, message.payload)
        except WireError as error:
            sys.stderr.write(f"cityeye: {message.topic.value}: {error}\n")
            continue
        yield Announcement(address, event), bool(message.retain)


def _address(settings: Settings) -> BrokerAddress:
    """The broker that is asked: the one given, or that of the running `cityeye`."""
    if settings.broker is not None:
        chosen = parse_broker(settings.broker)
    else:
        run_file = settings.data / RUN_FILE
        try:
            chosen = parse_broker(json.loads(run_file.read_text())["broker"])
        except (OSError, ValueError, KeyError) as error:
            raise SettingError(
                f"no cityeye runs in {settings.data}; start one, or give --broker mqtt://HOST:PORT "
                "or --data DIRECTORY"
            ) from error
    if not isinstance(chosen, BrokerAddress):
        raise SettingError(f"--broker: give the address of {chosen.value}, mqtt://HOST:PORT")
    return chosen


def _plain(announcement: Announcement) -> dict[str, Any]:
    address = msgspec.structs.asdict(announcement.address)
    event: dict[str, Any] = msgspec.to_builtins(announcement.event)
    return address | event


def _print(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, ensure_ascii=False) + "\n")
    sys.stdout.flush()
