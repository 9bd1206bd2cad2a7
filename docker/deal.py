"""The job `keys`: deals each service its own secrets, readable by its user alone.

On the host the secrets belong to whoever ran `make secrets`, mode 600, and every service runs as a
user of its own. So this job, the only one that runs as root, and without network, copies each
file into the volume of the one service that may read it. It runs at every start, so that what was
rotated on the host arrives.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

SECRETS: Final = Path("/run/secrets")
BROKER: Final = Path("/run/broker")
KEYS: Final = Path("/keys")
CREDENTIALS: Final = "credentials.json"


class User(NamedTuple):
    """Who a service runs as."""

    uid: int
    gid: int


CITYEYE: Final = User(10001, 10001)
MOSQUITTO: Final = User(1883, 1883)
INFLUXDB2: Final = User(1000, 1000)
INFLUXDB1: Final = User(1500, 1500)
INFLUXDB3: Final = User(1500, 1500)
GRAFANA: Final = User(472, 0)


class Share(NamedTuple):
    """What one service gets: a volume below `/keys`, whose it is, and what lies in it."""

    volume: str
    user: User
    secrets: tuple[str, ...] = ()
    """Files of `docker/secrets`."""
    files: tuple[str, ...] = ()
    """Files of the broker's installation."""
    folder: str = ""
    """A folder of the broker's installation, whole, but for its data."""
    data: str = ""
    """A folder for the service's own data, mounted there."""
    roles: tuple[str, ...] = ()
    """As whom it logs in to the broker: its credentials file holds these and no other."""
    devices: bool = False
    """Whether its credentials file holds those of all devices as well."""
    tokens: bool = False
    """Whether the job `bucket` leaves a token in a folder `influxdb` there."""


SHARES: Final = (
    Share("mosquitto", MOSQUITTO, folder="broker", data="data"),
    Share("influxdb", INFLUXDB2, secrets=("influxdb-password", "influxdb-admin-token")),
    Share(
        "influx1",
        INFLUXDB1,
        secrets=("influx1-admin-password", "influx1-ingest-password", "influx1-grafana-password"),
    ),
    Share("influx3", INFLUXDB3, secrets=("influx3-admin-token.json",)),
    Share(
        "grafana",
        GRAFANA,
        secrets=("grafana-admin-password", "influx1-grafana-password", "influx3-token"),
        tokens=True,
    ),
    Share("sim", CITYEYE, files=("ca.crt",), roles=("sim",), devices=True),
    Share(
        "ingest",
        CITYEYE,
        secrets=("influx1-ingest-password", "influx3-token"),
        files=("ca.crt",),
        roles=("ingest", "alarms"),
        tokens=True,
    ),
)


def deal(
    share: Share, *, secrets: Path = SECRETS, broker: Path = BROKER, keys: Path = KEYS
) -> None:
    """Put one service's share into its volume.

    Raises:
        FileNotFoundError: Something is missing on the host; the text says what, and the remedy.
    """
    volume = keys / share.volume
    for target, content in contents(share, secrets, broker):
        place(volume / target, content, share.user)
    if share.data:
        own(volume / share.data, share.user, 0o700)
    if share.tokens:
        tokens = volume / "influxdb"
        tokens.mkdir(exist_ok=True)
        # The job `bucket` writes there, and its files get the group of the service that reads them.
        own(tokens, User(INFLUXDB2.uid, share.user.gid), 0o2750)
    own(volume, share.user, 0o711 if share.tokens else 0o500)


def contents(share: Share, secrets: Path, broker: Path) -> Iterator[tuple[Path, bytes]]:
    """What lies in a share: relative paths and contents."""
    for name in share.secrets:
        yield Path(name), read(secrets / name)
    for name in share.files:
        yield Path(name), read(broker / name)
    if share.folder:
        yield from whole(broker / share.folder, but=share.data)
    if share.roles:
        credentials = json.loads(read(broker / CREDENTIALS))
        yield Path(CREDENTIALS), json.dumps(logins(share, credentials)).encode()


def whole(folder: Path, *, but: str) -> Iterator[tuple[Path, bytes]]:
    """Every file below `folder`, except in the folder `but`: relative paths and contents."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: run `make secrets` on the host")
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and relative.parts[0] != but:
            yield relative, path.read_bytes()


def logins(share: Share, credentials: dict[str, Any]) -> dict[str, Any]:
    """The part of the broker's credentials that a service needs."""
    roles = {
        user: secret
        for user, secret in credentials["roles"].items()
        if user.partition("/")[0] in share.roles
    }
    return credentials | {
        "roles": roles,
        "devices": credentials["devices"] if share.devices else {},
    }


def read(source: Path) -> bytes:
    """The content of a file on the host."""
    if not source.is_file():
        raise FileNotFoundError(f"{source} is missing: run `make secrets` on the host")
    return source.read_bytes()


def place(target: Path, content: bytes, user: User) -> None:
    """Write a file, with its folder, for the eyes of `user` alone."""
    if not target.parent.exists():
        target.parent.mkdir()
        own(target.parent, user, 0o500)
    fresh = target.with_name(f".{target.name}.new")
    fresh.touch(mode=0o600)
    fresh.write_bytes(content)
    own(fresh, user, 0o400)
    fresh.replace(target)


def own(path: Path, user: User, mode: int) -> None:
    """Hand a file or folder to `user`."""
    os.chown(path, user.uid, user.gid)
    path.chmod(mode)


def main() -> None:
    """Deal every share whose volume is mounted."""
    try:
        for share in SHARES:
            if (KEYS / share.volume).is_dir():
                deal(share)
    except OSError as error:
        sys.exit(f"keys: {error}")


if __name__ == "__main__":
    main()
