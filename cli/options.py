"""The options that commands share, made from the table of settings."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from city.settings import SETTINGS


def _option(name: str, *, metavar: str | None = None, switch: bool = False) -> Any:
    """The option of a setting; a `switch` can also be said to be off."""
    row = SETTINGS[name]
    spelled = f"{row.option}/--no-{row.option[2:]}" if switch else row.option
    sentence = row.sentence
    if row.default not in {None, ()} and row.default is not False and "default" not in sentence:
        sentence = f"{sentence} Default: {row.default}."
    return typer.Option(spelled, help=sentence, show_default=False, metavar=metavar)


City = Annotated[str | None, _option("city", metavar="NAME|FILE")]
Scenario = Annotated[str | None, _option("scenario", metavar="NAME|FILE")]
Devices = Annotated[int | None, _option("devices", metavar="NUMBER")]
Truth = Annotated[Path | None, _option("truth", metavar="FILE")]
Seed = Annotated[int | None, _option("seed", metavar="NUMBER")]
Start = Annotated[str | None, _option("start", metavar="INSTANT")]
Speed = Annotated[str | None, _option("speed", metavar="NUMBER|max")]
For = Annotated[str | None, _option("for", metavar="DURATION")]
Broker = Annotated[str | None, _option("broker", metavar="BROKER")]
BrokerPort = Annotated[int | None, _option("broker_port", metavar="PORT")]
BrokerCa = Annotated[Path | None, _option("broker_ca", metavar="FILE")]
BrokerCredentials = Annotated[Path | None, _option("broker_credentials", metavar="FILE")]
BrokerSeat = Annotated[str | None, _option("broker_seat", metavar="NAME")]
BrokerCertificate = Annotated[Path | None, _option("broker_certificate", metavar="FILE")]
BrokerKey = Annotated[Path | None, _option("broker_key", metavar="FILE")]
Secure = Annotated[bool | None, _option("secure")]
Window = Annotated[int | None, _option("window", metavar="NUMBER")]
Store = Annotated[str | None, _option("store", metavar="STORE")]
RetentionDays = Annotated[int | None, _option("retention_days", metavar="DAYS")]
Downsample = Annotated[bool | None, _option("downsample", switch=True)]
RollupBucket = Annotated[str | None, _option("rollup_bucket", metavar="BUCKET")]
Data = Annotated[Path | None, _option("data", metavar="DIRECTORY")]
Rules = Annotated[list[str] | None, _option("rules", metavar="PACK|FILE")]
Telling = Annotated[str | None, _option("telling", metavar="FILE")]
Districts = Annotated[str | None, _option("districts", metavar="DISTRICT,...")]
Actions = Annotated[str | None, _option("actions", metavar="off|dry-run|armed")]
Operators = Annotated[int | None, _option("operators", metavar="NUMBER")]
Patience = Annotated[float | None, _option("patience_s", metavar="SECONDS")]
Drain = Annotated[float | None, _option("drain_s", metavar="SECONDS")]
SpoolMax = Annotated[int | None, _option("spool_max_mb", metavar="MB")]
DevicesMax = Annotated[int | None, _option("devices_max", metavar="NUMBER")]
Log = Annotated[str | None, _option("log", metavar="debug|info|warning|error")]
Json = Annotated[bool, typer.Option("--json", help="End with one JSON object on standard output.")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar="CITYEYE_CONFIG",
        show_envvar=False,
        help="Settings file (YAML), below environment and command line.",
    ),
]

EPILOG: Final = (
    "Every option can also be given as an environment variable (CITYEYE_ and its name in capitals, "
    "e.g. CITYEYE_BROKER) or in the settings file. Secrets come from the environment only: "
    "CITYEYE_BROKER_PASSWORD, CITYEYE_STORE_TOKEN, CITYEYE_STORE_USER, CITYEYE_STORE_PASSWORD, or "
    "the same with _FILE and the path of a file that holds them."
)
