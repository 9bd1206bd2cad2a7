"""Credentials: the secret of every device and role, in one file that only its owner reads."""

import base64
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from broker.acl import Role
from city.cityfile import Address
from city.errors import SettingError

CREDENTIALS_FILE: Final = "credentials.json"

_SECRET_BYTES: Final = 24
_ITERATIONS: Final = 101
"""Mosquitto's own default; the secrets are random, so a slow hash protects nothing more."""
_SALT_BYTES: Final = 12
_HASH_NAME: Final = "sha512"
_MADE_BY: Final = "`cityeye broker init` writes it"


class Login(msgspec.Struct, frozen=True):
    """As whom a session logs in; None for the name means without a name."""

    user: str | None
    password: str | None

    def __repr__(self) -> str:
        """The name alone: a secret does not reach a log by accident."""
        return f"Login({self.user!r})"


class Credentials(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the credentials file holds: one city's users with their secrets, and the ports."""

    city: str
    port: int
    """Where the broker listens with TLS."""
    plain_host: str
    plain_port: int
    """Where it listens without."""
    roles: dict[str, str]
    """Secrets by `ROLE` or `ROLE/SEAT`."""
    devices: dict[str, str]
    """Secrets by the device's address."""

    def __repr__(self) -> str:
        """Without any secret."""
        return f"Credentials({self.city!r}, {len(self.devices)} devices)"

    @property
    def users(self) -> dict[str, str]:
        """All secrets by user name."""
        return self.roles | self.devices

    @property
    def seats(self) -> tuple[str, ...]:
        """The names of further logins of each role."""
        return tuple(sorted({user.partition("/")[2] for user in self.roles if "/" in user}))

    def of_role(self, role: Role, seat: str | None = None) -> Login:
        """The login of a role, or of one of its seats.

        Raises:
            SettingError: There is none.
        """
        user = f"{role.value}/{seat}" if seat else role.value
        if user not in self.roles:
            again = f"cityeye broker init --seat {seat}" if seat else "cityeye broker init"
            raise SettingError(f"the credentials file has no secret of {user}; run `{again}` again")
        return Login(user, self.roles[user])

    def of_device(self, address: Address) -> Login:
        """The login of a device.

        Raises:
            SettingError: There is none.
        """
        user = str(address)
        if user not in self.devices:
            raise SettingError(
                f"the credentials file of city {self.city} has no secret of device {user}; run "
                "`cityeye broker init` with the --city that is simulated, and reload the broker"
            )
        return Login(user, self.devices[user])


def read_credentials(path: Path) -> Credentials:
    """The credentials in the file at `path`.

    Raises:
        SettingError: It cannot be read, others may read it, or it is no credentials file; the
            text says what to do and holds no secret.
    """
    where = f"credentials file {path}"
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise SettingError(f"{where}: there is none; {_MADE_BY}") from error
    except OSError as error:
        raise SettingError(
            f"{where}: cannot be read: {error.strerror}; it belongs to whoever made it: run as "
            "that user, or change its owner"
        ) from error
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise SettingError(f"{where}: others may read or change it; run `chmod 600 {path}`")
    try:
        return msgspec.json.decode(content, type=Credentials)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # what msgspec says names keys and types, never values
        raise SettingError(f"{where}: is no credentials file ({error}); {_MADE_BY}") from error


def encoded(credentials: Credentials) -> bytes:
    """The content of the credentials file."""
    return msgspec.json.format(msgspec.json.encode(credentials, order="sorted"), indent=1) + b"\n"


def renewed(
    known: Mapping[str, str], users: Iterable[str], *, rotate: Iterable[str] = ()
) -> dict[str, str]:
    """A secret for each of `users`: the known one, or a new one where there is none or by wish."""
    fresh = set(rotate)
    return {
        user: known[user] if user in known and user not in fresh else new_secret()
        for user in sorted(users)
    }


def new_secret() -> str:
    """A random secret of 192 bits, in letters that need no escape anywhere."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def password_line(user: str, secret: str) -> str:
    """A line of Mosquitto's password file, with a new salt.

    The format is `user:$7$iterations$salt$hash`, salt and hash in base64, the hash 64 bytes of
    PBKDF2 with HMAC-SHA-512, as `mosquitto_passwd` of Mosquitto 2 writes it.
    """
    salt = os.urandom(_SALT_BYTES)
    return f"{user}:$7${_ITERATIONS}${_in_base64(salt)}${_in_base64(_hash(secret, salt))}"


def password_text(users: Mapping[str, str], before: str = "") -> str:
    """Mosquitto's password file; a line of the file `before` stays if it is still right."""
    lines = {line.partition(":")[0]: line for line in before.splitlines()}
    kept = (
        lines[user]
        if user in lines and _holds(lines[user], secret)
        else password_line(user, secret)
        for user, secret in sorted(users.items())
    )
    return "\n".join(kept) + "\n"


def _holds(line: str, secret: str) -> bool:
    """Whether a line of the password file is that of `secret`, made the way we make it."""
    try:
        _, kind, iterations, salt, hashed = line.partition(":")[2].split("$")
        found = base64.b64decode(hashed, validate=True)
        computed = _hash(secret, base64.b64decode(salt, validate=True))
    except ValueError:
        return False
    same = hmac.compare_digest(found, computed)
    return same and kind == "7" and iterations == str(_ITERATIONS)


def _hash(secret: str, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac(_HASH_NAME, secret.encode(), salt, _ITERATIONS)


def _in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
