"""Which broker carries the messages: `--broker embedded|mosquitto|mqtt://…|mqtts://…`."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from broker.mosquitto import WINDOW, PrivateMosquitto, mosquitto_version
from city.cityfile import City
from city.documents import nearest
from city.errors import SettingError

if TYPE_CHECKING:
    from broker.embedded import EmbeddedBroker

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_ALLOWED: Final = "allowed: embedded, mosquitto, mqtt://HOST[:PORT], mqtts://HOST[:PORT]"


class OwnBroker(StrEnum):
    """A broker that we start ourselves."""

    EMBEDDED = "embedded"
    MOSQUITTO = "mosquitto"


class BrokerAddress(msgspec.Struct, frozen=True):
    """Where a broker listens, and as whom we log in; never with the password."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None

    def __str__(self) -> str:
        scheme = "mqtts" if self.tls else "mqtt"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"


class RunningBroker(msgspec.Struct, frozen=True):
    """A broker that can be used now.

    `name` is what a person reads; `window` is how many messages it lets a subscriber hold
    unacknowledged, None when that is unknown. A guarded broker of our own also says where its
    credentials and its CA are, and where programs on this machine reach it without TLS.
    """

    address: BrokerAddress
    name: str
    window: int | None
    embedded: bool
    credentials: Path | None = None
    ca: Path | None = None
    nearby: BrokerAddress | None = None

    @property
    def announced(self) -> BrokerAddress:
        """Where people's commands on this machine find it."""
        return self.nearby or self.address


def parse_broker(spec: str) -> OwnBroker | BrokerAddress:
    """What `--broker SPEC` means.

    Raises:
        SettingError: It means nothing, or has a password in it; the text says what is allowed.
    """
    if spec in set(OwnBroker):
        return OwnBroker(spec)
    if "://" not in spec:
        raise SettingError(f"--broker: unknown broker {spec!r}; {_hint(spec, list(OwnBroker))}")
    try:
        parts = urlsplit(spec)
        port = parts.port
    except ValueError as error:
        raise SettingError(f"--broker: not an address: {error}; {_ALLOWED}") from error
    _refuse(parts)
    return BrokerAddress(
        host=parts.hostname or "",
        port=_PORTS[parts.scheme] if port is None else port,
        tls=parts.scheme == "mqtts",
        username=unquote(parts.username) if parts.username else None,
    )


def tls_context(
    address: BrokerAddress,
    ca_file: Path | None = None,
    *,
    certificate: Path | None = None,
    key: Path | None = None,
) -> ssl.SSLContext | None:
    """What verifies the broker at `address`, by `ca_file` or the system's; None without TLS.

    `certificate` and its `key` are our own, for a broker that wants to see one.

    Raises:
        SettingError: One of the files cannot be read or does not hold what it must.
    """
    if not address.tls:
        return None
    if (certificate is None) != (key is None):
        raise SettingError("--broker-certificate and --broker-key belong together; give both")
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise SettingError(f"{ca_file}: holds no PEM certificate: {error.reason}") from error
    except OSError as error:
        raise SettingError(f"{ca_file}: cannot be read: {error.strerror}") from error
    if certificate is not None and key is not None:
        _show(context, certificate, key)
    return context


def _show(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Let `context` show the certificate; a key with a passphrase is refused, not asked for."""
    try:
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        why = error.reason or "the key is encrypted"
        raise SettingError(
            f"--broker-certificate: {certificate} and {key} are no certificate and its key (PEM, "
            f"without passphrase): {why}"
        ) from error
    except OSError as error:
        raise SettingError(
            f"--broker-certificate: {certificate} or {key} cannot be read: {error.strerror}"
        ) from error


@asynccontextmanager
async def running_broker(
    spec: str | None,
    *,
    data_dir: Path,
    port: int = 0,
    window: int = WINDOW,
    guard: City | None = None,
) -> AsyncIterator[RunningBroker]:
    """The broker that `spec` chooses, started if it is ours, stopped at the end.

    None chooses Mosquitto where it is installed, else the embedded broker. `port` (0: a free
    one) and `window` are for a broker of our own; a private Mosquitto keeps its sessions in
    `data_dir/mosquitto`. With `guard`, it is a Mosquitto that lets in that city's devices and
    services only. A broker that is not ours is not contacted here.

    Raises:
        SettingError: `spec` means nothing, or cannot be guarded.
        BrokerError: Our own broker cannot be started.
    """
    version = await asyncio.to_thread(mosquitto_version)
    default = OwnBroker.MOSQUITTO if version else OwnBroker.EMBEDDED
    chosen = default if spec is None else parse_broker(spec)
    if guard is not None:
        if chosen is not OwnBroker.MOSQUITTO:
            raise SettingError(
                f"--secure: {chosen} cannot be made secure from here; it is for a private Mosquitto "
                "(`make services` installs it), for others see `cityeye broker init`"
            )
        async with _guarded(guard, data_dir, port, window, version or "") as running:
            yield running
    elif isinstance(chosen, BrokerAddress):
        yield RunningBroker(chosen, str(chosen), window=None, embedded=False)
    elif chosen is OwnBroker.MOSQUITTO:
        async with PrivateMosquitto(data_dir / "mosquitto", port=port, window=window) as private:
            address = BrokerAddress(private.host, private.port)
            name = f"Mosquitto {version}, private, {private.host}:{private.port}"
            yield RunningBroker(address, name, window=window, embedded=False)
    else:
        start, version = await asyncio.to_thread(_load_embedded)
        async with start(port) as embedded:
            address = BrokerAddress(embedded.host, embedded.port)
            name = f"amqtt {version}, embedded, {embedded.host}:{embedded.port}"
            yield RunningBroker(address, name, window=None, embedded=True)


@asynccontextmanager
async def _guarded(
    city: City, data_dir: Path, port: int, window: int, version: str
) -> AsyncIterator[RunningBroker]:
    from broker.guarded import GUARDED_FOLDER, GuardedMosquitto  # noqa: PLC0415 - certificates are slow to import, and often not needed

    folder = data_dir / GUARDED_FOLDER
    async with GuardedMosquitto(folder, city, tls_port=port, window=window) as guarded:
        name = f"Mosquitto {version}, private, guarded, {guarded.host}:{guarded.tls_port} (TLS)"
        yield RunningBroker(
            BrokerAddress(guarded.host, guarded.tls_port, tls=True),
            name,
            window=window,
            embedded=False,
            credentials=guarded.credentials_path,
            ca=guarded.ca_path,
            nearby=BrokerAddress(guarded.host, guarded.port),
        )


def _load_embedded() -> "tuple[type[EmbeddedBroker], str]":
    """The embedded broker and amqtt's version; amqtt is slow to import, and often not needed."""
    from broker.embedded import EmbeddedBroker  # noqa: PLC0415 - for that reason

    return EmbeddedBroker, package_version("amqtt")


def _refuse(parts: SplitResult) -> None:
    """Raise for whatever an address must not have."""
    shown = f"{parts.scheme}://{parts.hostname or ''}"
    if parts.scheme not in _PORTS:
        raise SettingError(
            f"--broker: unknown scheme {parts.scheme!r}; {_hint(parts.scheme, list(_PORTS))}"
        )
    if parts.password is not None:
        raise SettingError(
            f"--broker: a password does not belong in the address of {shown}; give it in "
            "CITYEYE_BROKER_PASSWORD, or the file that holds it in CITYEYE_BROKER_PASSWORD_FILE"
        )
    if not parts.hostname:
        raise SettingError(f"--broker: no host in {shown!r}; {_ALLOWED}")
    if parts.port == 0:
        raise SettingError(f"--broker: port 0 of {shown} cannot be connected to; {_ALLOWED}")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise SettingError(f"--broker: nothing may follow the port of {shown}; {_ALLOWED}")


def _hint(word: str, known: list[str]) -> str:
    near = nearest(word, known)
    return f"did you mean {str(near)!r}? {_ALLOWED}" if near else _ALLOWED
