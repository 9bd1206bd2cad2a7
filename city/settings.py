"""The one table of settings that the command line, the documentation and the validation read.

A setting is looked for on the command line, then in the environment (`CITYEYE_` and its name in
capitals), then in the settings file, and else has its default. Secrets are taken from the
environment alone: `CITYEYE_<NAME>` holds one, or `CITYEYE_<NAME>_FILE` names a file that does.
"""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from city.documents import Document, suggestion
from city.errors import DocumentError, SettingError

_DURATION: Final = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>ms|s|m|h|d)?")
_FOUND: Final = re.compile(r"(, got | - at ).*")
"""What msgspec says after what it expected."""

_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SHORTEST_S: Final = 0.001
_LONGEST_S: Final = 100 * 366 * 86400.0
_LISTS: Final = frozenset({"rules", "districts"})
"""Settings that hold several words, which stand with commas between them."""
_TYPE_WORDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a command works with."""

    city: Annotated[str, Meta(description="The city: a shipped one by name, or a .yaml file.")] = (
        "lanting"
    )
    devices: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Simulate a generated city of so many devices instead."),
    ] = None
    scenario: Annotated[
        str | None,
        Meta(
            description="A scenario in place of the city's own events: a shipped one by name (see "
            "`cityeye scenarios`), or a .yaml file."
        ),
    ] = None
    truth: Annotated[
        Path | None,
        Meta(
            description="Where the ground truth of all events goes (JSON lines); default for run: "
            "truth.jsonl in the data directory."
        ),
    ] = None
    seed: Annotated[
        int | None, Meta(description="Seed of all randomness; default: the city file's.")
    ] = None
    start: Annotated[
        str | None,
        Meta(
            description="Where simulated time begins: 'now' or an ISO 8601 instant; default: now "
            "at speed 1, else the start of the scenario or city file."
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
    broker_credentials: Annotated[
        Path | None,
        Meta(
            description="The credentials file that `cityeye broker init` writes: the login of every "
            "device and service; default: the broker's user and CITYEYE_BROKER_PASSWORD for all."
        ),
    ] = None
    broker_seat: Annotated[
        str | None,
        Meta(
            description="Which further login of a role to use, where several processes of one role "
            "work (see `cityeye broker init --seat`)."
        ),
    ] = None
    broker_certificate: Annotated[
        Path | None,
        Meta(description="Our certificate (PEM), for a broker that wants to see one."),
    ] = None
    broker_key: Annotated[Path | None, Meta(description="The key (PEM) of our certificate.")] = None
    secure: Annotated[
        bool,
        Meta(
            description="Guard the private Mosquitto: TLS, a login for every device and service, "
            "and an ACL."
        ),
    ] = False
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
    retention_days: Annotated[
        Annotated[int, Meta(ge=1, le=36_500)] | None,
        Meta(
            description="How long an InfluxDB 1.x store keeps readings [days]; default: what the "
            "database says, at first for ever."
        ),
    ] = None
    downsample: Annotated[
        bool | None,
        Meta(
            description="Also store readings by the minute and by the hour: mean, minimum, maximum "
            "and count; default: with InfluxDB, but not with DuckDB."
        ),
    ] = None
    rollup_bucket: Annotated[
        str | None,
        Meta(
            description="Where an influx2 store keeps downsampled readings; default: the bucket's "
            "name and _rollup."
        ),
    ] = None
    data: Annotated[
        Path, Meta(description="Directory for the spool and for servers of our own.")
    ] = Path("cityeye-data")
    rules: Annotated[
        tuple[str, ...],
        Meta(description="Rule files or shipped packs; default: what the city file names."),
    ] = ()
    telling: Annotated[
        str | None,
        Meta(description="A telling file: who is told of which alarms, and how; default: nobody."),
    ] = None
    districts: Annotated[
        tuple[str, ...],
        Meta(
            description="Districts that this ingest owns, with commas between; default: all. Each "
            "district of a city has one owner, and each owner a data directory of its own."
        ),
    ] = ()
    actions: Annotated[
        Literal["off", "dry-run", "armed"] | None,
        Meta(
            description="What alarms may do to devices; default: what the city file says, and a dry run at "
            "speed max, where no reply has an instant."
        ),
    ] = None
    operators: Annotated[
        int,
        Meta(ge=1, le=1000, description="People who share the alarms, for the figures on them."),
    ] = 1
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
    def downsamples(self) -> bool:
        """Whether readings are downsampled: DuckDB sums its raw columns up in no time."""
        if self.downsample is None:
            return not self.store.startswith("duckdb")
        return self.downsample

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
    def duration_s(self) -> float | None:
        """How long to work [s], of simulated time where time is simulated; None for ever."""
        return None if self.for_ is None else seconds_in(str(self.for_))

    @property
    def duration_ms(self) -> int | None:
        """The same in milliseconds."""
        return None if self.duration_s is None else round(1000 * self.duration_s)

    def start_ms(self, city_start: datetime | None, now_ms: int) -> int:
        """Where simulated time begins, in milliseconds since the epoch, UTC."""
        start = self.start
        if start is None:
            live = self.simulated_speed == 1.0 and self.scenario is None
            if live or city_start is None:
                return now_ms
            return round(city_start.timestamp() * 1000)
        return now_ms if start == "now" else round(_instant(start).timestamp() * 1000)


class Setting(msgspec.Struct, frozen=True):
    """One row of the table."""

    name: str
    option: str
    variable: str
    default: Any
    sentence: str
    secret: bool
    choices: tuple[str, ...]
    """The words that it may be, where there is a list of them."""


def _table() -> dict[str, Setting]:
    hints = get_type_hints(Settings, include_extras=True)
    rows = {}
    for field in msgspec.structs.fields(Settings):
        kind, meta = get_args(hints[field.name])
        extra = meta.extra or {}
        name = field.encode_name
        rows[name] = Setting(
            name=name,
            option=f"--{name.replace('_', '-')}",
            variable=f"CITYEYE_{name.upper()}",
            default=field.default,
            sentence=meta.description or "",
            secret=bool(extra.get("secret")),
            choices=get_args(kind) if get_origin(kind) is Literal else (),
        )
    return rows


SETTINGS: Final = _table()


def resolve(
    options: Mapping[str, Any], environment: Mapping[str, str], file: Path | None = None
) -> Settings:
    """The settings: `options` (None where not given) over `environment` over `file` over defaults.

    A variable that is empty counts as not given.

    Raises:
        SettingError: A value is not allowed; the text names the source and what is allowed.
        DocumentError: The settings file is wrong.
    """
    known = {row.variable for row in SETTINGS.values()}
    known |= {f"{row.variable}_FILE" for row in SETTINGS.values() if row.secret}
    known |= {"CITYEYE_CONFIG", "CITYEYE_REQUIRE_SERVERS", "CITYEYE_TEST_BROKER"}
    for variable in environment:
        if variable.startswith("CITYEYE_") and variable not in known:
            raise SettingError(f"{variable}: no such setting; {suggestion(variable, known)}")
    values = _in_file(Document.read(file)) if file else {}
    for row in SETTINGS.values():
        value, source = _given(row, options, environment)
        if source:
            values[row.name] = _checked(row.name, value, source)
    return msgspec.convert(values, Settings, strict=False, dec_hook=_as_path)


def _in_file(document: Document) -> dict[str, Any]:
    """The values in a settings file."""
    content = {} if document.content is None else document.content
    if not isinstance(content, dict):
        document.fail((), f"expected a mapping of keys, found {type(content).__name__}")
    values = {}
    for name, value in content.items():
        row = SETTINGS.get(str(name))
        if row is None:
            document.fail((str(name),), f"unknown key {name!r}; {suggestion(str(name), SETTINGS)}")
        if row.secret:
            document.fail(
                (row.name,), f"a secret does not stand here; give {row.variable} or "
                f"{row.variable}_FILE in the environment"
            )  # fmt: skip
        given = value.isoformat() if isinstance(value, datetime) else value
        try:
            values[row.name] = _checked(row.name, given, document.place((row.name,))[:-2])
        except SettingError as error:
            raise DocumentError(str(error)) from error
    return values


def _given(
    row: Setting, options: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[Any, str]:
    """The value on the command line or in the environment, and where it stands."""
    if options.get(row.name) is not None:
        return options[row.name], row.option
    if environment.get(row.variable):
        return environment[row.variable], row.variable
    held_in = environment.get(f"{row.variable}_FILE") if row.secret else None
    if not held_in:
        return None, ""
    try:
        return Path(held_in).read_text(encoding="utf-8").strip(), f"{row.variable}_FILE"
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingError(f"{row.variable}_FILE: {held_in} cannot be read: {why}") from error


def _checked(name: str, value: Any, source: str) -> Any:
    """`value` if the setting `name` may have it; `source` begins the message if it may not."""
    if name in _LISTS and isinstance(value, str):
        value = tuple(part.strip() for part in value.split(",") if part.strip())
    try:
        settings = msgspec.convert({name: value}, Settings, strict=False, dec_hook=_as_path)
    except msgspec.ValidationError as error:
        shown = "" if SETTINGS[name].secret else f" (found {str(value)!r})"
        raise SettingError(f"{source}: {_in_words(name, str(error))}{shown}") from error
    try:
        _ = settings.simulated_speed, settings.duration_ms, settings.start_ms(None, 0)
    except SettingError as error:
        problem = str(error).removeprefix(f"{name}: ")
        raise SettingError(f"{source}: {problem}") from error
    return value


def _in_words(name: str, problem: str) -> str:
    """What msgspec says about a value, for people."""
    choices = SETTINGS[name].choices
    if choices:
        return f"expected one of {', '.join(choices)}"
    text = _FOUND.sub("", problem).replace(" | null", "")
    for kind, words in _TYPE_WORDS.items():
        text = text.replace(f"`{kind}`", words)
    return text[0].lower() + text[1:]


def _as_path(kind: type, value: Any) -> Any:
    """Paths are text in the environment and in files."""
    return kind(value)


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise SettingError(
            f"start: {text!r} is not allowed; give 'now' or an instant with its offset, "
            "e.g. 2026-06-01T08:00:00+08:00"
        )
    return instant


def seconds_in(text: str, name: str = "for") -> float:
    """The seconds in a duration such as `90s`, `5m`, `1h` or a bare number of seconds."""
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match["number"]) * _UNIT_S[match["unit"] or "s"] if match else 0.0
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise SettingError(
            f"{name}: {text!r} is not a duration of 1 ms to 100 years; give e.g. 90s, 5m, 1h or 2d"
        )
    return seconds
