"""A broker's installation: the folder that `cityeye broker init` writes, and keeps as it is.

mosquitto.conf, passwd, acl, certs/, health/, data/   below broker/: what Mosquitto reads
credentials.json      the secrets of all devices and roles, for fleet and services
ca.crt, ca.key        who vouches for the broker; clients need the certificate alone
clients/              a certificate per role and one for the devices, on request
cityeye-mosquitto.service, compose.mosquitto.yaml   two ways to start it
"""

import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from broker import certificates
from broker import mosquittoconf as conf
from broker.acl import Granted, Role, acl_text
from broker.certificates import LEAF_DAYS, Signed
from broker.credentials import (
    CREDENTIALS_FILE,
    Credentials,
    encoded,
    password_text,
    read_credentials,
    renewed,
)
from city.cityfile import IDENTIFIER, IDENTIFIER_MAX, City
from city.documents import nearest
from city.errors import SettingError

BROKER_FOLDER: Final = "broker"
CLIENTS_FOLDER: Final = "clients"
CA: Final = "ca.crt"
CA_KEY: Final = "ca.key"
UNIT_FILE: Final = "cityeye-mosquitto.service"
COMPOSE_FILE: Final = "compose.mosquitto.yaml"
DEVICES: Final = "devices"
"""The name of the certificate that all devices share."""

USUAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1", "mosquitto")
"""Always in the certificate: this machine, and the service's name in Compose."""

_OWNER_ONLY: Final = 0o600
_READABLE: Final = 0o644


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the installation shall be like; None keeps what is there, else takes the usual."""

    hosts: tuple[str, ...] = ()
    """Names and addresses of the broker, beside the usual ones."""
    listen_host: str | None = None
    """Where the TLS listener is bound; None: on every interface."""
    port: int | None = None
    plain_host: str | None = None
    plain_port: int | None = None
    client_certificates: bool = False
    seats: tuple[str, ...] = ()
    rotate: tuple[str, ...] = ()
    """`site/device` or a role: whose secret is made anew."""
    granted: Granted = "pattern"
    window: int = 20_000


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """What was done."""

    folder: Path
    credentials: Credentials
    changed: tuple[str, ...]
    """The files that were written, relative to the folder."""
    added: int
    """New logins."""
    removed: int
    """Logins of devices, or of others, that are gone."""
    certificate_until: datetime


def install(folder: Path, city: City, plan: Plan, *, now: datetime | None = None) -> Installed:
    """Write what is missing or different below `folder`; what is right stays byte for byte.

    Raises:
        SettingError: The folder belongs to another city, cannot be written, what is there is
            damaged, or the plan names what does not exist.
    """
    now = now or datetime.now(UTC)
    try:
        return _install(folder, city, plan, now)
    except OSError as error:
        raise SettingError(
            f"{folder}: cannot be written: {error.strerror}; give another folder with --out"
        ) from error


def _install(folder: Path, city: City, plan: Plan, now: datetime) -> Installed:
    before = _known(folder, city)
    credentials = _credentials(before, city, plan)
    ca = _ca(folder, city, now)
    server = _server(folder, ca, plan, now)
    files = dict(_files(folder, credentials, ca, server, city, plan))
    if plan.client_certificates:
        files |= dict(_client_files(folder, ca, now))
    _make_folders(folder)
    changed = tuple(name for name, (data, mode) in files.items() if _put(folder / name, data, mode))
    known = before.users if before else {}
    return Installed(
        folder=folder,
        credentials=credentials,
        changed=changed,
        added=len(credentials.users.keys() - known.keys()),
        removed=len(known.keys() - credentials.users.keys()),
        certificate_until=server.certificate.not_valid_after_utc,
    )


def _known(folder: Path, city: City) -> Credentials | None:
    """The credentials that are there."""
    path = folder / CREDENTIALS_FILE
    if not path.exists():
        return None
    known = read_credentials(path)
    if known.city != city.city:
        raise SettingError(
            f"--out: {folder} is the broker of city {known.city}, not of {city.city}; give its "
            "--city, or another folder"
        )
    return known


def _credentials(before: Credentials | None, city: City, plan: Plan) -> Credentials:
    devices = {device.name: str(device.address) for device in city.devices()}
    seats = set(plan.seats) | set(before.seats if before else ())
    for seat in seats:
        if len(seat) > IDENTIFIER_MAX or not IDENTIFIER.fullmatch(seat):
            raise SettingError(f"--seat: {seat!r} is no identifier: small letters, digits, '-'")
    roles = [role.value for role in Role]
    roles += [f"{role}/{seat}" for role in roles for seat in sorted(seats)]
    for name in plan.rotate:
        if name not in devices and name not in roles:
            near = nearest(name, [*roles, *devices])
            hint = f"did you mean {near!r}?" if near else f"give SITE/DEVICE or {', '.join(roles)}"
            raise SettingError(
                f"--rotate: {name!r} is no device and no role of city {city.city}; {hint}"
            )
    fresh = [devices.get(name, name) for name in plan.rotate]
    return Credentials(
        city=city.city,
        port=plan.port or (before.port if before else conf.PORT),
        plain_host=plan.plain_host or (before.plain_host if before else conf.PLAIN_HOST),
        plain_port=plan.plain_port or (before.plain_port if before else conf.PLAIN_PORT),
        roles=renewed(before.roles if before else {}, roles, rotate=fresh),
        devices=renewed(before.devices if before else {}, devices.values(), rotate=fresh),
    )


def _ca(folder: Path, city: City, now: datetime) -> Signed:
    """The CA that is there if it outlives a certificate that it signs today; else a new one."""
    found = certificates.read_signed(folder / CA, folder / CA_KEY)
    if found is None or found.expires_soon(now, days=LEAF_DAYS):
        return certificates.new_ca(city.city, now)
    return found


def _server(folder: Path, ca: Signed, plan: Plan, now: datetime) -> Signed:
    """The broker's certificate if it still does; else a new one, also for all hosts of the old."""
    broker = folder / BROKER_FOLDER
    found = certificates.read_signed(broker / conf.SERVER_FILE, broker / conf.SERVER_KEY_FILE)
    hosts = certificates.checked_hosts([*USUAL_HOSTS, *plan.hosts])
    if found is not None:
        if found.is_of(ca) and not found.expires_soon(now) and found.hosts() >= set(hosts):
            return found
        hosts = tuple(dict.fromkeys([*hosts, *sorted(found.hosts())]))
    return certificates.new_server(ca, hosts, now)


def _files(
    folder: Path, credentials: Credentials, ca: Signed, server: Signed, city: City, plan: Plan
) -> Iterator[tuple[str, tuple[bytes, int]]]:
    """Each file's name with its content and mode."""
    here = f"{BROKER_FOLDER}/"
    passwords = folder / BROKER_FOLDER / conf.PASSWORD_FILE
    before = passwords.read_text(encoding="utf-8") if passwords.exists() else ""
    text = conf.conf_text(
        port=credentials.port,
        host=plan.listen_host,
        plain_port=credentials.plain_port,
        plain_host=credentials.plain_host,
        client_certificates=plan.client_certificates or (folder / CLIENTS_FOLDER).is_dir(),
        window=plan.window,
    )
    granted = acl_text(
        city.city, users=credentials.roles, devices=credentials.devices, granted=plan.granted
    )
    health = conf.health_text(credentials.roles[Role.HEALTH], plain_port=credentials.plain_port)
    yield CREDENTIALS_FILE, (encoded(credentials), _OWNER_ONLY)
    yield CA, (ca.certificate_pem, _READABLE)
    yield CA_KEY, (ca.key_pem, _OWNER_ONLY)
    yield here + conf.CA_FILE, (ca.certificate_pem, _READABLE)
    yield here + conf.SERVER_FILE, (server.certificate_pem, _READABLE)
    yield here + conf.SERVER_KEY_FILE, (server.key_pem, _OWNER_ONLY)
    yield (
        here + conf.PASSWORD_FILE,
        (password_text(credentials.users, before).encode(), _OWNER_ONLY),
    )
    yield here + conf.ACL_FILE, (granted.encode(), _OWNER_ONLY)
    yield here + conf.HEALTH_FILE, (health.encode(), _OWNER_ONLY)
    yield here + conf.CONF_FILE, (text.encode(), _READABLE)
    yield UNIT_FILE, (conf.unit_text(city.city).encode(), _READABLE)
    yield COMPOSE_FILE, (conf.compose_text(city.city, port=credentials.port).encode(), _READABLE)


def _client_files(
    folder: Path, ca: Signed, now: datetime
) -> Iterator[tuple[str, tuple[bytes, int]]]:
    for who in (DEVICES, *(role.value for role in Role)):
        name = f"{CLIENTS_FOLDER}/{who}"
        found = certificates.read_signed(folder / f"{name}.crt", folder / f"{name}.key")
        if found is None or not found.is_of(ca) or found.expires_soon(now):
            found = certificates.new_client(ca, who, now)
        yield f"{name}.crt", (found.certificate_pem, _READABLE)
        yield f"{name}.key", (found.key_pem, _OWNER_ONLY)


def _make_folders(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in (BROKER_FOLDER, f"{BROKER_FOLDER}/{conf.DATA_FOLDER}"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)


def _put(path: Path, data: bytes, mode: int) -> bool:
    """Write a file unless it is as it shall be; whether it was written.

    It is there completely or not at all, and never readable by more people than `mode` says.
    """
    try:
        same = path.read_bytes() == data
    except FileNotFoundError:
        same = False
    if same:
        if path.stat().st_mode & 0o777 != mode:
            path.chmod(mode)
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(new).chmod(mode)
        Path(new).replace(path)
    except BaseException:
        Path(new).unlink(missing_ok=True)
        raise
    return True
