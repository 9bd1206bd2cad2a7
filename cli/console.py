"""`cityeye alarms`, `cityeye orders`, `cityeye rules reload`: what people do with alarms."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from broker.messages import OperatorAction
from city.settings import Settings, resolve, seconds_in
from cli import alarms, options, orders
from cli.logs import start_logging
from cli.operator import tell
from cli.rulebook import rules_app

alarms_app: Final = typer.Typer(
    help="Look at alarms, acknowledge them, shelve them, or watch them come and go."
)
orders_app: Final = typer.Typer(help="Look at the repair orders, take them, close them.")

Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="ALARM...", help="Alarms as site/device/rule; each part may have * for any."
    ),
]
By = Annotated[
    str | None, typer.Option("--by", metavar="NAME", help="Who asks; default: your user's name.")
]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason; it is recorded.")]
Shelf = Annotated[
    str | None,
    typer.Option("--for", metavar="DURATION", help="How long, e.g. 30m; at most 24h."),
]
Once = Annotated[bool, typer.Option("--once", help="Until its condition is gone.")]
Numbers = Annotated[list[str], typer.Argument(metavar="ORDER...", help="Numbers of orders.")]


@alarms_app.command("list")
def list_alarms(
    city: options.City = None,
    broker: options.Broker = None,
    broker_ca: options.BrokerCa = None,
    data: options.Data = None,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """List the alarms that are not normal, also those that are over but not acknowledged.

    Without --broker, the broker of the `cityeye` that runs in the data directory is asked.

    Example: cityeye alarms list --json
    """
    settings = _settings(locals())
    asyncio.run(alarms.show_standing(settings, city, as_json=json))


@alarms_app.command("show")
def show_alarm(
    alarm: Annotated[str, typer.Argument(metavar="ALARM", help="site/device/rule")],
    city: options.City = None,
    broker: options.Broker = None,
    broker_ca: options.BrokerCa = None,
    data: options.Data = None,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """Show all that is known of an alarm now, and its last events.

    The events are read from the archive in the data directory, if there is one.

    Example: cityeye alarms show gas-foundry-road/node-1/gas-pressure
    """
    settings = _settings(locals())
    asyncio.run(alarms.show_one(settings, city, alarm, as_json=json))


@alarms_app.command("history")
def alarm_history(
    pattern: Annotated[
        str, typer.Argument(metavar="ALARM", help="site/device/rule, * for any.")
    ] = "*/*/*",
    most: Annotated[int, typer.Option("--most", min=1, help="At most so many events.")] = 100,
    data: options.Data = None,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """Print what has become of alarms, the newest last: what, when, who and why.

    Example: cityeye alarms history 'gas-*/*/*' --most 20
    """
    settings = _settings(locals())
    alarms.show_history(settings, pattern, most, as_json=json)


@alarms_app.command("watch")
def watch_alarms(
    city: options.City = None,
    broker: options.Broker = None,
    broker_ca: options.BrokerCa = None,
    data: options.Data = None,
    config: options.Config = None,
    for_: options.For = None,
    json: options.Json = False,
) -> None:
    """Print what becomes of alarms as it happens, until Ctrl-C.

    Alarms that stand already come first. With --json, each is one object on a line of its own.

    Example: cityeye alarms watch --for 5m
    """
    settings = _settings(locals())
    asyncio.run(alarms.watch(settings, city, as_json=json))


def _alarm_command(
    action: OperatorAction, sentence: str, example: str, *, named: Any = Targets
) -> Callable[..., None]:
    """A command that asks the alarm service for one thing; `named` is what it is done to."""

    def command(
        targets: Targets,
        by: By = None,
        why: Why = "",
        city: options.City = None,
        broker: options.Broker = None,
        broker_ca: options.BrokerCa = None,
        data: options.Data = None,
        config: options.Config = None,
        json: options.Json = False,
    ) -> None:
        given = {"broker": broker, "broker_ca": broker_ca, "data": data, "config": config}
        settings = _settings(given)
        asking = tell(settings, city, action, targets=tuple(targets), by=by, why=why, as_json=json)
        asyncio.run(asking)

    command.__annotations__["targets"] = named
    command.__doc__ = f"{sentence}\n\nExample: {example}\n"
    return command


_ALARM: Final = "gas-foundry-road/node-1/gas-burst"
alarms_app.command("ack")(
    _alarm_command(
        "acknowledge", "Acknowledge alarms: somebody knows and acts.",
        f"cityeye alarms ack {_ALARM} --by lin",
    )
)  # fmt: skip
alarms_app.command("comment")(
    _alarm_command(
        "comment", "Write a remark into the record of alarms.",
        f"cityeye alarms comment {_ALARM} --why 'crew on site'",
    )
)  # fmt: skip


@alarms_app.command("shelve")
def shelve(
    targets: Targets,
    for_: Shelf = None,
    once: Once = False,
    by: By = None,
    why: Why = "",
    city: options.City = None,
    broker: options.Broker = None,
    broker_ca: options.BrokerCa = None,
    data: options.Data = None,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """Put alarms aside for a time, or until their condition is gone; give the reason.

    Example: cityeye alarms shelve 'river-*/*/water-turbidity' --for 2h --why dredging
    """
    settings = _settings(locals())
    seconds = None if for_ is None else seconds_in(for_)
    asking = tell(
        settings, city, "shelve", targets=tuple(targets), by=by, why=why, for_s=seconds,
        once=once, as_json=json,
    )  # fmt: skip
    asyncio.run(asking)


alarms_app.command("unshelve")(
    _alarm_command("unshelve", "Take alarms off the shelf.", f"cityeye alarms unshelve {_ALARM}")
)
alarms_app.command("reset")(
    _alarm_command(
        "reset", "Reset latched alarms whose condition is gone.",
        f"cityeye alarms reset {_ALARM} --why 'pipe repaired and tested'",
    )
)  # fmt: skip
alarms_app.command("disable")(
    _alarm_command(
        "disable", "Take alarms out of service; give the reason.",
        "cityeye alarms disable 'river-mill-weir/*/*' --why 'station is rebuilt'",
    )
)  # fmt: skip
alarms_app.command("enable")(
    _alarm_command(
        "enable", "Put alarms into service again.", "cityeye alarms enable 'river-mill-weir/*/*'"
    )
)


@orders_app.command("list")
def list_orders(
    city: options.City = None,
    broker: options.Broker = None,
    broker_ca: options.BrokerCa = None,
    data: options.Data = None,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """List the repair orders that are not done.

    Example: cityeye orders list --json
    """
    settings = _settings(locals())
    asyncio.run(orders.show(settings, city, as_json=json))


orders_app.command("take")(
    _alarm_command(
        "take-order", "Take repair orders: the crew is on its way.",
        "cityeye orders take ro-20260601-0001 --by crew-2", named=Numbers,
    )
)  # fmt: skip
orders_app.command("close")(
    _alarm_command(
        "close-order", "Close repair orders; give what was done.",
        "cityeye orders close ro-20260601-0001 --by crew-2 --why 'sleeve fitted, 2 h at 150 kPa'",
        named=Numbers,
    )
)  # fmt: skip


@rules_app.command("reload")
def reload_rules(
    city: options.City = None,
    broker: options.Broker = None,
    broker_ca: options.BrokerCa = None,
    data: options.Data = None,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """Have the running service read its rule files again; a bad file is refused, the old stays.

    Example: cityeye rules reload --data cityeye-data
    """
    settings = _settings(locals())
    asyncio.run(tell(settings, city, "reload", as_json=json))


def _settings(given: dict[str, Any]) -> Settings:
    """The settings from a command's parameters; also starts the logging."""
    config: Path | None = given.get("config")
    named = ("broker", "broker_ca", "data")
    values = {name: given.get(name) for name in named}
    settings = resolve({**values, "for": given.get("for_") if "alarm" not in given else None},
                       os.environ, config)  # fmt: skip
    start_logging(settings.log)
    return settings
