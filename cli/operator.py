"""What people ask of the running alarm service: acknowledge, shelve, reset, take an order, reload."""

import asyncio
import getpass
import uuid
from typing import Final

import aiomqtt
from rich.console import Console

from broker.acl import Role
from broker.messages import OperatorAction, OperatorReply, OperatorRequest, decode, encode
from broker.topics import reply_topic, request_topic
from city.errors import BrokerError, InputError, PayloadError, SettingError
from city.settings import Settings
from cli.access import Access
from cli.alarms import broker_asked, city_asked, print_object

_ANSWER_S: Final = 10.0


def whoever(by: str | None) -> str:
    """Who asks: the name given, or that of the user of this machine.

    Raises:
        SettingError: Nobody is named, and this machine knows no name either.
    """
    try:
        return by or getpass.getuser()
    except (ImportError, KeyError, OSError) as error:
        raise SettingError("--by: say who asks; this machine knows no name of yours") from error


async def ask(settings: Settings, city: str | None, request: OperatorRequest) -> OperatorReply:
    """Send the request and return the answer.

    Raises:
        BrokerError: The broker, or the alarm service, does not answer.
    """
    address = broker_asked(settings)
    name = city_asked(settings, city)
    client = Access.to_running(settings, address).client(Role.OPERATOR)
    try:
        async with client, asyncio.timeout(_ANSWER_S):
            await client.subscribe(reply_topic(name), qos=1)
            await client.publish(request_topic(name), encode(request), qos=1)
            async for message in client.messages:
                reply = _reply(message.payload)
                if reply is not None and reply.id == request.id:
                    return reply
    except aiomqtt.MqttError as error:
        raise BrokerError(f"broker {address} does not answer ({error})") from error
    except TimeoutError:
        pass
    raise BrokerError(
        f"no alarm service answers for city {name} on broker {address}; is `cityeye run` or "
        "`cityeye ingest` working there?"
    )


async def tell(
    settings: Settings,
    city: str | None,
    action: OperatorAction,
    *,
    targets: tuple[str, ...] = (),
    by: str | None = None,
    why: str = "",
    for_s: float | None = None,
    once: bool = False,
    as_json: bool = False,
) -> None:
    """Ask for something and print what became of it.

    Raises:
        InputError: It cannot be done; the text is the service's.
    """
    request = OperatorRequest(
        id=uuid.uuid4().hex, action=action, by=whoever(by), targets=targets, why=why,
        for_s=for_s, once=once,
    )  # fmt: skip
    reply = await ask(settings, city, request)
    if not reply.ok:
        raise InputError(reply.detail)
    if as_json:
        print_object({"ok": True, "detail": reply.detail, "changed": list(reply.changed)})
        return
    console = Console(highlight=False, soft_wrap=True)
    for name in reply.changed:
        console.print(name)
    if reply.detail:
        console.print(reply.detail)


def _reply(payload: object) -> OperatorReply | None:
    try:
        return decode(OperatorReply, payload) if isinstance(payload, bytes) else None
    except PayloadError:
        return None
