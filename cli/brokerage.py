"""`cityeye broker init`: everything that Mosquitto needs to let in one city and nobody else."""

import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from broker.installation import Plan, install
from broker.mosquittoconf import PLAIN_PORT, PORT
from city.cityfile import load_city
from cli import options
from cli.summary import Outcome

broker_app: Final = typer.Typer(
    help="Write Mosquitto's configuration, ACL, passwords and certificates."
)


@broker_app.callback()
def _group() -> None:
    """Keeps `init` a command of its own, though it is the only one."""


@broker_app.command("init")
def init(
    city: options.City = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder that it writes into.")
    ] = Path("cityeye-broker"),
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="NAME", help="A name or address of the broker; repeatable."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help=f"Port with TLS. Default: {PORT}."),
    ] = None,
    plain_port: Annotated[
        int | None,
        typer.Option(
            "--plain-port", min=1, max=65535, help=f"Port without TLS. Default: {PLAIN_PORT}."
        ),
    ] = None,
    plain_host: Annotated[
        str | None,
        typer.Option(
            "--plain-host",
            metavar="ADDRESS",
            help="Where that one is bound, e.g. 0.0.0.0 in a network of containers only. "
            "Default: 127.0.0.1.",
        ),
    ] = None,
    seat: Annotated[
        list[str] | None,
        typer.Option(
            "--seat", metavar="NAME", help="A further login ROLE/NAME of each role; repeatable."
        ),
    ] = None,
    rotate: Annotated[
        list[str] | None,
        typer.Option(
            "--rotate", metavar="DEVICE", help="Make the secret of site/device (or role) anew."
        ),
    ] = None,
    acl: Annotated[
        str,
        typer.Option(
            "--acl",
            metavar="pattern|blocks",
            help="How devices are granted their topics: pattern for Mosquitto 2.0, blocks for 2.1.",
        ),
    ] = "pattern",
    client_certificates: Annotated[
        bool,
        typer.Option("--client-certificates", help="Let in only who also shows a certificate."),
    ] = False,
    json: options.Json = False,
) -> None:
    """Write a complete Mosquitto for a city: TLS, a login per device and service, and an ACL.

    Run again, it changes nothing, but for devices that came or went and for certificates that end
    within 30 days.

    Example: cityeye broker init --city lanting --out /srv/broker --host broker.example.org
    """
    given: Literal["pattern", "blocks"] = "blocks" if acl == "blocks" else "pattern"
    if acl != given:
        raise typer.BadParameter("expected pattern or blocks", param_hint="--acl")
    plan = Plan(
        hosts=tuple(host or ()),
        port=port,
        plain_host=plain_host,
        plain_port=plain_port,
        client_certificates=client_certificates,
        seats=tuple(seat or ()),
        rotate=tuple(rotate or ()),
        granted=given,
    )
    sys.exit(initialise(out, city or "lanting", plan).show(as_json=json))


def initialise(folder: Path, city: str, plan: Plan) -> Outcome:
    """Install, and say what was done.

    Raises:
        InputError: The city is wrong, or the folder cannot be used.
    """
    done = install(folder, load_city(city), plan)
    known = done.credentials
    figures: dict[str, Any] = {
        "folder": str(folder),
        "city": known.city,
        "devices": len(known.devices),
        "roles": len(known.roles),
        "logins_added": done.added,
        "logins_removed": done.removed,
        "secrets_renewed": len(plan.rotate),
        "files_written": list(done.changed),
        "certificate_until": f"{done.certificate_until:%Y-%m-%d}",
        "listens": f"{known.port} with TLS, {known.plain_host}:{known.plain_port} without",
    }
    closing = (
        "Start Mosquitto in its folder `broker`, or send a running one SIGHUP."
        if done.changed
        else "Nothing has changed."
    )
    return Outcome(figures, complete=True, closing=closing)
