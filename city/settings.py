"""The one table of settings that the command line, the documentation and the validation read.

A setting is looked for on the command line, then in the environment (`CITYEYE_` and its name in
capitals), then in the settings file, and else has its default. Secrets are never taken from the
command line; `CITYEYE_<NAME>_FILE` names a file that holds one.
"""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_type_hints

import msgspec
from msgspec import Meta

from city.documents import Document, suggestion
from city.errors import SettingError

_DURATION: Final = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>ms|s|m|h|d)?")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a command works with."""

    city: Annotated[str, Meta(description="The city: a shipped one by name, or a .yaml file.")] = (
        "lanting"
    )
    seed: Annotated[
        int | None, Meta(description="Seed of all randomness; default: the city file's.")
    ] = None
    start: Annotated[
        str | None,
        Meta(
            description="Where simulated time begins: 'now' or an ISO 8601 instant; default: now "
            "at speed 1, else the city file's start."
        ),
    ] = None
    speed: Annotated[
        float | str,
        Meta(description="Simulated seconds per second, or 'max' for as fast as it goes."),
    ] = "1"
    for_: Annotated[
        float | str | None,
        Meta(
            description="Stop after that much simulated time, e.g. 90s, 5m, 1h, 2d; default: run "
            "until Ctrl-C."
        ),
    ] = msgspec.field(default=None, name="for")
    broker: Annotated[
        str | None,
        Meta(
            description="embedded, mosquitto, mqtt://HOST[:PORT] or mqtts://HOST[:PORT]; default: "
            "a private Mosquitto if it is installed, else the embedded broker."
        ),
    ] = None
    broker_port: Annotated[
        int,
        Meta(ge=0, le=65535, description="Port of a broker of our own; 0 takes a free one."),
    ] = 0
    broker_password: Annotated[
        str | None,
        Meta(description="Password for the broker's user.", extra={"secret": True}),
    ] = None
    broker_ca: Annotated[
        Path | None,
        Meta(description="Certificates (PEM) that an mqtts:// broker is verified by."),
    ] = None
    window: Annotated[
        int,
        Meta(ge=1, le=65535, description="Messages a broker of our own lets ingest hold unacked."),
    ] = 20_000
    store: Annotated[
        str,
        Meta(
            description="duckdb, duckdb:FILE, influxd (a private one), influx1://HOST:PORT/DATABASE "
            "or influx2://HOST:PORT/ORG/BUCKET."
        ),
    ] = "duckdb"
    store_token: Annotated[
        str | None, Meta(description="Token for an InfluxDB 2.x store.", extra={"secret": True})
    ] = None
    store_user: Annotated[
        str | None, Meta(description="User for an InfluxDB 1.x store.", extra={"secret": True})
    ] = None
    store_password: Annotated[
        str | None, Meta(description="Password for an InfluxDB 1.x store.", extra={"secret": True})
    ] = None
    data: Annotated[
        Path, Meta(description="Directory for the spool and for servers of our own.")
    ] = Path("cityeye-data")
    rules: Annotated[
        tuple[str, ...],
        Meta(description="Rule files or shipped packs; default: what the city file names."),
    ] = ()
    patience_s: Annotated[
        float,
        Meta(gt=0, le=3600, description="How long to wait for broker and store at start [s]."),
    ] = 30.0
    drain_s: Annotated[
        float,
        Meta(gt=0, le=86400, description="How long to wait at the end for the last write [s]."),
    ] = 60.0
    spool_max_mb: Annotated[
        int,
        Meta(
            ge=1,
            description="Bound of the spool [MB]; at the bound messages are not acknowledged.",
        ),
    ] = 8192
    devices_max: Annotated[
        int, Meta(ge=1, description="Devices that ingest accepts; messages of others are refused.")
    ] = 200_000
    log: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="What is logged to standard error."),
    ] = "info"

    @property
    def simulated_speed(self) -> float:
        """Simulated seconds per wall second; infinity for as fast as possible."""
        if self.speed == "max":
            return math.inf
        try:
            speed = float(self.speed)
        except ValueError:
            speed = math.nan
        if not 0 < speed < math.inf:
            raise SettingError(f"speed: {self.speed!r} is not allowed; give a number > 0 or 'max'")
        return speed

    @property
    def duration_ms(self) -> int | None:
        """How long to simulate [ms]; None for ever."""
        return None if self.for_ is None else round(1000 * duration_s(str(self.for_), "for"))

    def start_ms(self, city_start: datetime | None, now_ms: int) -> int:
        """Where simulated time begins, in milliseconds since the epoch, UTC."""
        start = self.start
        if start is None:
            if self.simulated_speed == 1.0 or city_start is None:
                return now_ms
            return round(city_start.timestamp() * 1000)
        if start == "now":
            return now_ms
        try:
            instant = datetime.fromisoformat(start)
        except ValueError:
            instant = None
        if instant is None or instant.tzinfo is None:
            raise SettingError(
                f"start: {start!r} is not allowed; give 'now' or an instant with its offset, "
                "e.g. 2026-06-01T08:00:00+08:00"
            )
        return round(instant.timestamp() * 1000)


class Setting(msgspec.Struct, frozen=True):
    """One row of the table."""

    name: str
    option: str
    variable: str
    default: Any
    sentence: str
    secret: bool


def _table() -> dict[str, Setting]:
    hints = get_type_hints(Settings, include_extras=True)
    rows = {}
    for field in msgspec.structs.fields(Settings):
        meta: Meta = hints[field.name].__metadata__[0]
        extra = meta.extra or {}
        name = field.encode_name
        rows[name] = Setting(
            name=name,
            option=f"--{name.replace('_', '-')}",
            variable=f"CITYEYE_{name.upper()}",
            default=field.default,
            sentence=meta.description or "",
            secret=bool(extra.get("secret")),
        )
    return rows


SETTINGS: Final = _table()


def duration_s(text: str, name: str) -> float:
    """The seconds in a duration such as `90s`, `5m`, `1h` or a bare number of seconds.

    Raises:
        SettingError: It is no duration above 0.
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match["number"]) * _UNIT_S[match["unit"] or "s"] if match else 0.0
    if seconds <= 0:
        raise SettingError(f"{name}: {text!r} is not a duration; give e.g. 90s, 5m, 1h or 2d")
    return seconds


def resolve(
    options: Mapping[str, Any], environment: Mapping[str, str], file: Path | None = None
) -> Settings:
    """The settings: `options` (None where not given) over `environment` over `file` over defaults.

    Raises:
        SettingError: A value is not allowed; the text names the source and what is allowed.
        DocumentError: The settings file is wrong.
    """
    document = Document.read(file) if file else None
    values: dict[str, Any] = {}
    if document is not None:
        document.convert(Settings)
        values.update(document.content)
    known = {row.variable for row in SETTINGS.values()}
    known |= {f"{row.variable}_FILE" for row in SETTINGS.values() if row.secret}
    known |= {"CITYEYE_CONFIG", "CITYEYE_REQUIRE_SERVERS", "CITYEYE_TEST_BROKER"}
    for variable in environment:
        if variable.startswith("CITYEYE_") and variable not in known:
            raise SettingError(f"{variable}: no such setting; {suggestion(variable, known)}")
    for row in SETTINGS.values():
        value, source = _given(row, options, environment)
        if source:
            values[row.name] = _checked(row.name, value, source)
    return msgspec.convert(values, Settings, strict=False)


def _given(
    row: Setting, options: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[Any, str]:
    """The value on the command line or in the environment, and where it stands."""
    if options.get(row.name) is not None:
        return options[row.name], row.option
    if row.variable in environment:
        return environment[row.variable], row.variable
    held_in = environment.get(f"{row.variable}_FILE") if row.secret else None
    if held_in is None:
        return None, ""
    try:
        return Path(held_in).read_text(encoding="utf-8").strip(), f"{row.variable}_FILE"
    except OSError as error:
        raise SettingError(
            f"{row.variable}_FILE: {held_in} cannot be read: {error.strerror}"
        ) from error


def _checked(name: str, value: Any, source: str) -> Any:
    if name == "rules" and isinstance(value, str):
        value = tuple(part for part in value.split(",") if part)
    try:
        msgspec.convert({name: value}, Settings, strict=False)
    except msgspec.ValidationError as error:
        shown = "" if SETTINGS[name].secret else f" (found {str(value)!r})"
        raise SettingError(f"{source}: {str(error).split(' - at ')[0]}{shown}") from error
    return value
