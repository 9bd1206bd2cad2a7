"""The secrets of the stack, random, made once, for their owner alone: `make secrets`.

What exists is never overwritten. `docker/.env` tells Compose where they are and which database is
the default one; it holds no secret. This runs on any Python 3.11, without CityEye's environment.
"""

import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

HERE: Final = Path(__file__).resolve().parent
OWNER_ONLY: Final = 0o600
FOLDER: Final = 0o700
_BYTES: Final = 32

ENVIRONMENT: Final = """\
# Written by `make secrets`. Compose reads it; what stands in the environment goes first.
SECRETS=./secrets
BROKER=./mosquitto
COMPOSE_PROFILES=influx2
DATABASE=influx2
"""


def _word() -> str:
    return secrets.token_urlsafe(_BYTES)


def _influx3_token() -> str:
    """InfluxDB 3 takes tokens of this form only."""
    return f"apiv3_{_word()}"


def _offline_token(token: str) -> str:
    """What InfluxDB 3 reads by `--admin-token-file`."""
    return json.dumps({"token": token, "name": "_admin"})


SECRETS: Final[Mapping[str, Callable[[], str]]] = MappingProxyType(
    {
        "influxdb-password": _word,
        "influxdb-admin-token": _word,
        "influx1-admin-password": _word,
        "influx1-ingest-password": _word,
        "influx1-grafana-password": _word,
        "influx3-token": _influx3_token,
        "grafana-admin-password": _word,
    }
)
"""The files in `docker/secrets`, and how what is in them is made."""

OFFLINE_FILE: Final = "influx3-admin-token.json"
"""One file more: the token of InfluxDB 3 in the form that it reads at its first start."""


def make_secrets(folder: Path) -> list[str]:
    """Make what is missing in `folder`; returns the names of what was made."""
    kept = folder / "secrets"
    kept.mkdir(mode=FOLDER, parents=True, exist_ok=True)
    made = [name for name, make in SECRETS.items() if _written(kept / name, make())]
    token = (kept / "influx3-token").read_text(encoding="utf-8")
    if _written(kept / OFFLINE_FILE, _offline_token(token)):
        made.append(OFFLINE_FILE)
    if _written(folder / ".env", ENVIRONMENT):
        made.append(".env")
    return made


def _written(path: Path, text: str) -> bool:
    """Write a file that does not exist; whether it was written."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return True


def main() -> None:
    """Make the secrets next to this file and say what was done."""
    made = make_secrets(HERE)
    said = f"made {', '.join(made)}" if made else "all there, nothing changed"
    sys.stderr.write(f"docker/secrets: {said}\n")


if __name__ == "__main__":
    main()
