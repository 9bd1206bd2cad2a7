"""`cityeye load`: a load test with many virtual sensors, and what belongs to it."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import uvloop

from city.settings import resolve
from cli import options
from cli.loadplan import Wanted
from cli.logs import start_logging
from load.phases import profile_help
from load.templates import presets, show, template_of

load_app = typer.Typer(
    name="load",
    epilog=options.EPILOG,
    invoke_without_command=True,
    rich_markup_mode=None,
)

_DEVICES: Final = "Devices, each with a connection of its own."


@load_app.callback(epilog=options.EPILOG)
def command(
    context: typer.Context,
    devices: Annotated[int, typer.Option("--devices", min=1, metavar="NUMBER", help=_DEVICES)] = (
        1_000
    ),
    rate: Annotated[
        float | None,
        typer.Option("--rate", metavar="NUMBER", help="Messages per second of all together."),
    ] = None,
    interval: Annotated[
        str | None,
        typer.Option(
            "--interval", metavar="DURATION", help="Or: how often each device sends. Default: 1s."
        ),
    ] = None,
    ramp: Annotated[
        str | None,
        typer.Option(
            "--ramp",
            metavar="DURATION",
            help="Over which time the devices connect, before --for. Default: 2,000 per second.",
        ),
    ] = None,
    for_: options.For = None,
    profile: Annotated[
        str, typer.Option("--profile", metavar="NAME|FILE", help=profile_help())
    ] = "steady",
    qos: Annotated[int, typer.Option("--qos", min=0, max=1, help="MQTT's quality of service.")] = 1,
    payload: Annotated[
        str,
        typer.Option(
            "--payload",
            metavar="NAME|FILE",
            help=f"What devices say: native, {', '.join(presets())}, or a template (.yaml).",
        ),
    ] = "native",
    kinds: Annotated[
        str | None,
        typer.Option(
            "--kinds",
            metavar="KIND,...",
            help="Kinds of device, in turn. Default: those with four values per message.",
        ),
    ] = None,
    faults: Annotated[
        str | None,
        typer.Option(
            "--faults",
            metavar="FAULT=SHARE,...",
            help="Shares of messages that are missing, repeated, late, reordered, malformed or "
            "oversized, e.g. missing=0.1%,late=0.02.",
        ),
    ] = None,
    late_by: Annotated[
        str, typer.Option("--late-by", metavar="DURATION", help="How late the late ones are.")
    ] = "5s",
    find_limit: Annotated[
        bool,
        typer.Option(
            "--find-limit", help="Raise the load until a bound is broken, and report the knee."
        ),
    ] = False,
    bound: Annotated[
        list[str] | None,
        typer.Option(
            "--bound",
            metavar="STAGE=DURATION|lost=SHARE",
            help="What a load must keep to be held: the p99 of ack, subscriber, store or alarm, and "
            "the share lost. Default: ack=1s, lost=0.",
        ),
    ] = None,
    subscribers: Annotated[
        int,
        typer.Option(
            "--subscribers", min=0, max=64, metavar="NUMBER", help="Verifying subscribers."
        ),
    ] = 1,
    processes: Annotated[
        int,
        typer.Option(
            "--processes", min=1, max=256, metavar="NUMBER", help="Processes of the generator."
        ),
    ] = 1,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="ADDRESS",
            help="Play the devices on the workers of this Dask scheduler, e.g. tcp://HOST:8786.",
        ),
    ] = None,
    local_cluster: Annotated[
        int | None,
        typer.Option(
            "--local-cluster", min=1, metavar="NUMBER", help="Or on so many Dask workers here."
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            metavar="ADDRESS,...",
            help="Local addresses to connect from, in turn; ranges as 127.0.0.2-127.0.0.9.",
        ),
    ] = None,
    in_flight: Annotated[
        int,
        typer.Option(
            "--in-flight",
            min=1,
            max=1_000,
            metavar="NUMBER",
            help="Messages of a device that may wait for the broker's acknowledgement.",
        ),
    ] = 16,
    keep_alive: Annotated[
        str, typer.Option("--keep-alive", metavar="DURATION", help="MQTT's keep-alive.")
    ] = "60s",
    certificates: Annotated[
        Path | None,
        typer.Option(
            "--certificates",
            metavar="DIR",
            help="A certificate and key per device: SITE.DEVICE.crt and SITE.DEVICE.key.",
        ),
    ] = None,
    broker: options.Broker = None,
    broker_ca: options.BrokerCa = None,
    broker_credentials: options.BrokerCredentials = None,
    broker_certificate: options.BrokerCertificate = None,
    broker_key: options.BrokerKey = None,
    secure: options.Secure = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="STORE",
            help="Also measure how long it takes until readings can be read here, and keep the "
            "live figures there: influx1://… or influx2://….",
        ),
    ] = None,
    seed: options.Seed = None,
    start: options.Start = None,
    data: options.Data = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where report.json and report.html go. Default: below --data.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The name of the test.")
    ] = None,
    patience_s: options.Patience = None,
    drain_s: options.Drain = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent when, and end.")
    ] = False,
    log: options.Log = None,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """Load-test a broker, or what stands behind it, with many virtual sensors.

    Every device is a real MQTT client with values from the simulated city. What is lost, repeated,
    out of order or late is counted, and the generator's own cost stated; it ends in a report
    (JSON, and HTML with plots). Load only what is yours. docs/load.md explains it.

    Example: cityeye load --devices 5000 --interval 10s --for 60s --broker mqtt://127.0.0.1:1883
    """
    if context.invoked_subcommand is not None:
        return
    from cli.loading import Request, load  # noqa: PLC0415 - other commands start without it

    given: dict[str, Any] = {
        "for": for_, "broker": broker, "broker_ca": broker_ca, "seed": seed, "start": start,
        "broker_credentials": broker_credentials, "broker_certificate": broker_certificate,
        "broker_key": broker_key, "secure": secure, "store": store, "data": data, "log": log,
        "patience_s": patience_s, "drain_s": drain_s,
    }  # fmt: skip
    settings = resolve(given, os.environ, config)
    start_logging(settings.log)
    wanted = Wanted(
        devices=devices, rate=rate, interval=interval, ramp=ramp, qos=qos, kinds=kinds,
        faults=faults, late_by=late_by, certificates=certificates, source=source,
        in_flight=in_flight, keep_alive=keep_alive, subscribers=subscribers, name=name,
    )  # fmt: skip
    request = Request(
        settings=settings, wanted=wanted, payload=payload, profile=profile, find_limit=find_limit,
        bounds=tuple(bound or ()), processes=processes, scheduler=scheduler,
        local_cluster=local_cluster, watch_store=store is not None, out=out, dry_run=dry_run,
    )  # fmt: skip
    sys.exit(uvloop.run(load(request)).show(as_json=json))


@load_app.command("compare")
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A report.json, or its folder.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a page with plots.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Put two load tests side by side: every figure, its ratio, and what differs in the plan.

    Example: cityeye load compare cityeye-data/load/monday cityeye-data/load/tuesday
    """
    from cli.loading import compare_reports  # noqa: PLC0415 - the same

    sys.exit(compare_reports(first, second, html=html, as_json=json))


@load_app.command("example")
def show_example(
    payload: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="native, a preset, or a template (.yaml).")
    ],
    devices: Annotated[int, typer.Option("--devices", min=1, max=100, metavar="NUMBER")] = 1,
) -> None:
    """Show what devices would say: topics and payloads, births and last wills included.

    Example: cityeye load example thingsboard
    """
    for line in show(template_of(payload), devices=devices):
        typer.echo(line)
