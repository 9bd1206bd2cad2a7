"""The store that a short text names: `duckdb`, `influx1://127.0.0.1:8086/cityeye`, and so on."""

from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

from city.documents import suggestion
from city.errors import SettingError
from ingest.duck import DuckStore
from ingest.influx1 import Influx1Store, PrivateInfluxStore
from ingest.store import Store

SPECS: Final = {
    "duckdb": "DuckDB in the data directory",
    "duckdb:PATH": "DuckDB in that file",
    "influxd": "a private InfluxDB 1.x, started with CityEye",
    "influx1://HOST:PORT/DATABASE": "an InfluxDB 1.x server (influx1s: over TLS)",
    "influx2://HOST:PORT/ORG/BUCKET": "an InfluxDB 2.x or 3.x server (influx2s: over TLS)",
}
"""What a store may be called, and what that means."""

SECRETS: Final = ("CITYEYE_STORE_TOKEN", "CITYEYE_STORE_USER", "CITYEYE_STORE_PASSWORD")
PORT: Final = 8086
"""Where InfluxDB listens unless told otherwise."""

_SCHEMES: Final = {"influx1": "http", "influx1s": "https", "influx2": "http", "influx2s": "https"}
_DUCK_RETENTION: Final = "delete from DuckDB's tables what you want no more, see docs/storage.md"
_BUCKET_RETENTION: Final = "its buckets have their own, see docs/storage.md"
_OWN_RETENTION: Final = {
    "duckdb": _DUCK_RETENTION,
    "influx2": _BUCKET_RETENTION,
    "influx2s": _BUCKET_RETENTION,
}
"""The stores that retention_days is not for, and what is instead."""
_WORDS: Final = ("duckdb", "influxd", *_SCHEMES)


def open_store(
    spec: str,
    *,
    data_dir: Path,
    token: str | None = None,
    user: str | None = None,
    password: str | None = None,
    retention_days: int | None = None,
    rollup_bucket: str | None = None,
) -> Store:
    """The store that `spec` names, not yet opened.

    Args:
        spec: One of `SPECS`.
        data_dir: Where embedded stores keep their files.
        token: For InfluxDB 2.x and 3.x.
        user: For InfluxDB 1.x.
        password: Of that user.
        retention_days: How long InfluxDB 1.x keeps readings; None leaves that to the server.
        rollup_bucket: Where downsampled readings go on InfluxDB 2.x and 3.x.

    Raises:
        SettingError: It names none; the text says what is allowed.
    """
    word, _, rest = spec.partition(":")
    if retention_days is not None and word in _OWN_RETENTION:
        raise SettingError(f"retention_days does not go with this store: {_OWN_RETENTION[word]}")
    if spec == "duckdb":
        return DuckStore(data_dir / "store.duckdb")
    if word == "duckdb" and rest:
        return DuckStore(Path(rest).expanduser())
    if spec == "influxd":
        return PrivateInfluxStore(data_dir / "influxd", retention_days=retention_days)
    if word not in _SCHEMES:
        _fail_unknown(word, rest)
    parts = _split(spec)
    url = f"{_SCHEMES[word]}://{_authority(parts)}"
    names = [unquote(name) for name in parts.path.strip("/").split("/")]
    if word.startswith("influx1"):
        return _influx1(url, names, user, password, retention_days)
    return _influx2(url, names, token, rollup_bucket)


def _influx1(
    url: str,
    names: list[str],
    user: str | None,
    password: str | None,
    retention_days: int | None,
) -> Store:
    if len(names) != 1 or not names[0]:
        raise SettingError("the store names no database; write influx1://HOST:PORT/DATABASE")
    if (user is None) != (password is None):
        missing = "CITYEYE_STORE_USER" if user is None else "CITYEYE_STORE_PASSWORD"
        raise SettingError(f"{missing} is missing; a store has both user and password, or neither")
    return Influx1Store(url, names[0], user=user, password=password, retention_days=retention_days)


def _influx2(url: str, names: list[str], token: str | None, rollup_bucket: str | None) -> Store:
    match names:
        case [org, bucket] if org and bucket:
            # influxdb-client takes half a second to import, which only its users shall wait for
            from ingest.influx2 import Influx2Store  # noqa: PLC0415 - slow and seldom needed

            return Influx2Store(url, org, bucket, token=token, rollup_bucket=rollup_bucket)
    raise SettingError(
        "the store names no organisation and bucket; write influx2://HOST:PORT/ORG/BUCKET"
    )


def _split(spec: str) -> SplitResult:
    """The parts of a server's address; a secret in it is refused and not repeated."""
    if any(mark in spec for mark in "@?#"):
        raise SettingError(
            "the store's address has a user, a secret or options in it; write only host, port and "
            f"names, and set {', '.join(SECRETS[:-1])} or {SECRETS[-1]} in the environment"
        )
    try:
        parts = urlsplit(spec)
        known = parts.hostname is not None and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise SettingError(f"no host and port in the store's address {spec!r}; write HOST:PORT")
    return parts


def _authority(parts: SplitResult) -> str:
    host = parts.hostname or ""
    return f"[{host}]:{parts.port or PORT}" if ":" in host else f"{host}:{parts.port or PORT}"


def _fail_unknown(word: str, rest: str) -> NoReturn:
    if word == "duckdb":
        raise SettingError("the store names no file; write duckdb or duckdb:PATH")
    if word in _WORDS and rest:
        raise SettingError(f"the store {word!r} takes no address; allowed: {', '.join(SPECS)}")
    hint = suggestion(word[:40], _WORDS).split("allowed:")[0]
    raise SettingError(f"unknown store {word[:40]!r}; {hint}allowed: {', '.join(SPECS)}")
