"""The `cityeye` command."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import uvloop

from city.errors import CityEyeError, SettingError
from city.settings import Settings, resolve
from cli import (
    backtest,
    brokerage,
    check,
    commands,
    console,
    doctor,
    generate,
    load,
    options,
    replay,
    rulebook,
    scenarios,
)
from cli.logs import start_logging
from cli.summary import Outcome

app = typer.Typer(
    name="cityeye",
    help="A simulated city's environmental sensors over MQTT, and the service that watches them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(console.alarms_app, name="alarms", no_args_is_help=True)
app.add_typer(console.orders_app, name="orders", no_args_is_help=True)
app.add_typer(brokerage.broker_app, name="broker", no_args_is_help=True)
app.add_typer(rulebook.rules_app, name="rules", no_args_is_help=True)
app.add_typer(load.load_app, name="load")

_INTERRUPTED = 130


def main() -> None:
    """Run the command line; every expected error is one line on standard error."""
    try:
        app(standalone_mode=True)
    except CityEyeError as error:
        _fail(error)
    except BaseExceptionGroup as group:
        expected = _first(group)
        if expected is None:
            raise
        _fail(expected)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@app.command(epilog=options.EPILOG)
def run(
    city: options.City = None,
    scenario: options.Scenario = None,
    devices: options.Devices = None,
    seed: options.Seed = None,
    start: options.Start = None,
    speed: options.Speed = None,
    for_: options.For = None,
    broker: options.Broker = None,
    broker_port: options.BrokerPort = None,
    broker_ca: options.BrokerCa = None,
    broker_credentials: options.BrokerCredentials = None,
    broker_seat: options.BrokerSeat = None,
    broker_certificate: options.BrokerCertificate = None,
    broker_key: options.BrokerKey = None,
    secure: options.Secure = None,
    window: options.Window = None,
    store: options.Store = None,
    retention_days: options.RetentionDays = None,
    downsample: options.Downsample = None,
    rollup_bucket: options.RollupBucket = None,
    data: options.Data = None,
    rules: options.Rules = None,
    telling: options.Telling = None,
    actions: options.Actions = None,
    operators: options.Operators = None,
    patience_s: options.Patience = None,
    drain_s: options.Drain = None,
    spool_max_mb: options.SpoolMax = None,
    devices_max: options.DevicesMax = None,
    truth: options.Truth = None,
    log: options.Log = None,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """Run everything: broker, simulated city, ingest with alarms.

    Embedded parts are used unless told otherwise; Mosquitto is used when it is installed.

    Example: cityeye run --for 60s --json
    """
    settings = _settings(locals())
    _finish(commands.run(settings), as_json=json)


@app.command(epilog=options.EPILOG)
def sim(
    city: options.City = None,
    scenario: options.Scenario = None,
    devices: options.Devices = None,
    seed: options.Seed = None,
    start: options.Start = None,
    speed: options.Speed = None,
    for_: options.For = None,
    broker: options.Broker = None,
    broker_port: options.BrokerPort = None,
    broker_ca: options.BrokerCa = None,
    broker_credentials: options.BrokerCredentials = None,
    broker_seat: options.BrokerSeat = None,
    broker_certificate: options.BrokerCertificate = None,
    broker_key: options.BrokerKey = None,
    secure: options.Secure = None,
    window: options.Window = None,
    data: options.Data = None,
    patience_s: options.Patience = None,
    truth: options.Truth = None,
    log: options.Log = None,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """Run the simulated sensors alone, against any broker.

    Example: cityeye sim --broker mqtt://127.0.0.1:1883 --speed 10
    """
    settings = _settings(locals())
    _finish(commands.sim(settings), as_json=json)


@app.command(epilog=options.EPILOG)
def ingest(
    city: options.City = None,
    for_: options.For = None,
    broker: options.Broker = None,
    broker_port: options.BrokerPort = None,
    broker_ca: options.BrokerCa = None,
    broker_credentials: options.BrokerCredentials = None,
    broker_seat: options.BrokerSeat = None,
    broker_certificate: options.BrokerCertificate = None,
    broker_key: options.BrokerKey = None,
    secure: options.Secure = None,
    window: options.Window = None,
    store: options.Store = None,
    retention_days: options.RetentionDays = None,
    downsample: options.Downsample = None,
    rollup_bucket: options.RollupBucket = None,
    data: options.Data = None,
    districts: options.Districts = None,
    rules: options.Rules = None,
    telling: options.Telling = None,
    actions: options.Actions = None,
    operators: options.Operators = None,
    patience_s: options.Patience = None,
    drain_s: options.Drain = None,
    spool_max_mb: options.SpoolMax = None,
    devices_max: options.DevicesMax = None,
    log: options.Log = None,
    config: options.Config = None,
    every_city: Annotated[
        bool, typer.Option("--every-city", help="Take in every city on the broker, not one.")
    ] = False,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="ADDRESS",
            help="Share the districts among the workers of this Dask scheduler, e.g. tcp://HOST:8786.",
        ),
    ] = None,
    local_cluster: Annotated[
        int | None,
        typer.Option(
            "--local-cluster", min=1, metavar="NUMBER", help="Or among so many Dask workers here."
        ),
    ] = None,
    share: Annotated[
        int | None,
        typer.Option(
            "--share",
            min=1,
            metavar="NUMBER",
            help="Owners that the districts are divided among. Default: one per worker.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Run ingest and alarms alone: from a broker into a store.

    Example: cityeye ingest --broker mqtt://127.0.0.1:1883 --store influx1://127.0.0.1:8086/cityeye
    """
    settings = _settings(locals())
    if scheduler is None and local_cluster is None and share is None:
        _finish(commands.ingest(settings, every_city=every_city), as_json=json)
    from cli.ingestcluster import run_ingest_cluster  # noqa: PLC0415 - Dask is slow to import

    if every_city:
        raise SettingError("--every-city: the districts of one city are shared; leave it out")
    work = run_ingest_cluster(settings, scheduler=scheduler, local=local_cluster, share=share)
    _finish(work, as_json=json)


rulebook.rules_app.command("test", epilog=options.EPILOG)(backtest.command)
app.command("generate", epilog=options.EPILOG)(generate.command)
app.command("replay", epilog=options.EPILOG)(replay.command)


@app.command("scenarios")
def list_scenarios(
    json: options.Json = False,
) -> None:
    """List the scenarios that run, sim and generate can play, one line each.

    Example: cityeye scenarios --json
    """
    sys.exit(scenarios.scenarios().show(as_json=json))


@app.command("check")
def check_files(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="City files, rule files, scenarios, or their names."
        ),
    ],
    json: options.Json = False,
) -> None:
    """Validate city files, rule files and scenarios; say what is in them or what is wrong.

    Example: cityeye check my-city.yaml my-rules.yaml
    """
    sys.exit(check.check(files).show(as_json=json))


@app.command("doctor")
def look_around(
    broker: options.Broker = None,
    broker_port: options.BrokerPort = None,
    broker_ca: options.BrokerCa = None,
    broker_credentials: options.BrokerCredentials = None,
    broker_seat: options.BrokerSeat = None,
    broker_certificate: options.BrokerCertificate = None,
    broker_key: options.BrokerKey = None,
    store: options.Store = None,
    data: options.Data = None,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """Say which real servers are found, which would be used, and what is missing.

    Example: cityeye doctor --broker mqtt://127.0.0.1:1883
    """
    settings = _settings(locals())
    sys.exit(uvloop.run(doctor.examine(settings)).show(as_json=json))


def _version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"cityeye {version('cityeye')}")
        raise typer.Exit


@app.callback()
def _top(
    _version_wanted: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and end.", is_eager=True, callback=_version
        ),
    ] = False,
) -> None:
    pass


def _settings(given: dict[str, Any]) -> Settings:
    """The settings from a command's parameters; also starts the logging."""
    config: Path | None = given.pop("config", None)
    values = {name.rstrip("_"): value for name, value in given.items()}
    settings = resolve(values, os.environ, config)
    start_logging(settings.log)
    return settings


def _finish(work: Coroutine[Any, Any, Outcome], *, as_json: bool) -> NoReturn:
    """Do the work on uvloop, show its outcome, and exit with its status."""
    sys.exit(uvloop.run(work).show(as_json=as_json))


def _first(group: BaseExceptionGroup[BaseException]) -> CityEyeError | None:
    """The first expected error in `group`."""
    for error in group.exceptions:
        found = _first(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, CityEyeError):
            return found
    return None


def _fail(error: CityEyeError) -> NoReturn:
    sys.stderr.write(f"cityeye: {error}\n")
    sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
