"""`cityeye alarms`: what stands, and what changes, as the broker's alarm topics tell."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import aiomqtt
import msgspec
from rich.console import Console
from rich.table import Table

from alerts.archive import read_history
from alerts.transitions import alarm_name
from broker.acl import Role
from broker.choice import BrokerAddress, parse_broker
from broker.messages import AlarmEvent, Announcement, decode
from broker.topics import alarm_filter, parse_alarm_topic
from city.cityfile import load_city
from city.errors import BrokerError, InputError, SettingError, WireError
from city.settings import Settings
from cli.access import Access
from cli.directory import ARCHIVE, running_in
from cli.live import alarm_row

_PIPE_WIDTH: Final = 240
_QUIET_S: Final = 0.5
_EVENTS_SHOWN: Final = 50


async def show_standing(settings: Settings, city: str | None, *, as_json: bool) -> None:
    """Print the alarms that stand now, the newest first."""
    standing = await _standing(settings, city)
    if as_json:
        print_object({"alarms": [_plain(announcement) for announcement in standing]})
        return
    zone = _zone(settings, city)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in (f"since ({zone.key})", "state", "where", "what", "limit", "standard"):
        table.add_column(heading)
    for announcement in standing:
        table.add_row(*alarm_row(announcement, zone, since=announcement.event.raised))
    console().print(table if standing else "no alarm stands")


async def watch(settings: Settings, city: str | None, *, as_json: bool) -> None:
    """Print every change, beginning with the alarms that stand."""
    shown, zone = console(), _zone(settings, city)
    name = load_city(city).city if city else "+"
    try:
        async with (
            asyncio.timeout(settings.duration_s),
            _subscribed(settings, alarm_filter(name)) as client,
        ):
            async for message in client.messages:
                announcement = _announcement(message)
                if announcement is not None and as_json:
                    print_object(_plain(announcement))
                elif announcement is not None:
                    shown.print(*alarm_row(announcement, zone))
    except TimeoutError:
        return


async def show_one(settings: Settings, city: str | None, name: str, *, as_json: bool) -> None:
    """Print all that is known of one alarm, and its last events if the archive is at hand.

    Raises:
        InputError: There is no such alarm, now or in the archive.
    """
    standing = [one for one in await _standing(settings, city) if _named(one) == name]
    events = _archived(settings, name, _EVENTS_SHOWN)
    if not standing and not events:
        raise InputError(f"no alarm {name!r}; see `cityeye alarms list` and `alarms history`")
    if as_json:
        now = _plain(standing[0]) if standing else None
        print_object({"alarm": now, "events": [_plain(one) for one in events]})
        return
    newest = standing[0] if standing else events[-1]
    facts = {key: value for key, value in _plain(newest).items() if value not in ("", None)}
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for key, value in facts.items():
        instant = key in {"ts", "raised", "until"}
        text = f"{value:g}" if isinstance(value, float) else str(value)
        table.add_row(key, local_time(settings, city, value) if instant else text)
    console().print(table)
    _print_events(settings, events)


def show_history(settings: Settings, pattern: str, most: int, *, as_json: bool) -> None:
    """Print what has become of alarms, from the archive in the data directory, the newest last."""
    events = _archived(settings, pattern, most)
    if as_json:
        print_object({"events": [_plain(one) for one in events]})
    elif events:
        _print_events(settings, events)
    else:
        console().print(f"nothing is recorded of {pattern}")


def _archived(settings: Settings, pattern: str, most: int) -> list[Announcement]:
    path = settings.data / ARCHIVE
    if not path.exists():
        return []
    return list(reversed(read_history(path, pattern=pattern, limit=most)))


def _print_events(settings: Settings, events: list[Announcement]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("when", "alarm", "what", "state", "value", "by", "why"):
        table.add_column(heading)
    for one in events:
        event = one.event
        value = f"{event.value:g} {event.unit}"
        when = local_time(settings, None, event.ts)
        table.add_row(when, _named(one), event.event, event.state, value, event.by, event.why)
    console().print(table)


def _named(announcement: Announcement) -> str:
    return alarm_name((announcement.address, announcement.event.rule))


async def _standing(settings: Settings, city: str | None) -> list[Announcement]:
    """The retained alarms, the newest first."""
    found: list[Announcement] = []
    name = load_city(city).city if city else "+"
    for message in await retained(settings, alarm_filter(name)):
        announcement = _announcement(message)
        if announcement is not None:
            found.append(announcement)
    return sorted(found, key=lambda announcement: announcement.event.raised, reverse=True)


async def retained(settings: Settings, topic_filter: str) -> list[aiomqtt.Message]:
    """The retained messages; the broker sends them on subscribing, in one go."""
    found: list[aiomqtt.Message] = []
    loop = asyncio.get_running_loop()
    async with _subscribed(settings, topic_filter) as client:
        quiet_at_s = loop.time() + _QUIET_S
        messages = aiter(client.messages)
        try:
            while True:
                async with asyncio.timeout_at(quiet_at_s):
                    message = await anext(messages)
                if message.retain:
                    found.append(message)
                    quiet_at_s = loop.time() + _QUIET_S
        except TimeoutError:
            pass
    return found


@asynccontextmanager
async def _subscribed(settings: Settings, topic_filter: str) -> AsyncIterator[aiomqtt.Client]:
    """A client of the broker in question, subscribed."""
    address = broker_asked(settings)
    client = Access.to_running(settings, address).client(Role.OPERATOR)
    try:
        async with client:
            await client.subscribe(topic_filter, qos=1)
            yield client
    except aiomqtt.MqttError as error:
        raise BrokerError(
            f"broker {address} does not answer ({error}); is cityeye running there?"
        ) from error


def _announcement(message: aiomqtt.Message) -> Announcement | None:
    """The alarm event in a message; None for the empty one that takes it back."""
    payload: Any = message.payload
    if not payload:
        return None
    try:
        address, _ = parse_alarm_topic(message.topic.value)
        return Announcement(address, decode(AlarmEvent, payload))
    except WireError as error:
        sys.stderr.write(f"cityeye: {message.topic.value}: {error}\n")
        return None


def console() -> Console:
    """Standard output; a line is never broken for a pipe."""
    shown = Console(highlight=False)
    return shown if shown.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def local_time(settings: Settings, city: str | None, ts: int) -> str:
    """An instant [ms] as people of the city write it."""
    return datetime.fromtimestamp(ts / 1000, _zone(settings, city)).strftime("%Y-%m-%d %H:%M:%S")


def broker_asked(settings: Settings) -> BrokerAddress:
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


def city_asked(settings: Settings, city: str | None) -> str:
    """The city that is asked about: the one given, or that of the running `cityeye`.

    Raises:
        SettingError: It is not known.
    """
    running = running_in(settings.data) if settings.broker is None else None
    if city is not None:
        return load_city(city).city
    if running is not None and running.city:
        return running.city
    raise SettingError("--city: say which city; none can be told from the data directory")


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


def print_object(content: dict[str, Any]) -> None:
    """Print one JSON object on a line of standard output."""
    sys.stdout.write(json.dumps(content, ensure_ascii=False) + "\n")
    sys.stdout.flush()
