"""A private Mosquitto that trusts no one: TLS, a login for everybody, and the city's ACL."""

from pathlib import Path
from typing import BinaryIO, Final

from broker.acl import Granted
from broker.credentials import CREDENTIALS_FILE, Credentials, read_credentials
from broker.installation import BROKER_FOLDER, CA, Plan, install
from broker.mosquitto import (
    LOOPBACK,
    WINDOW,
    PrivateMosquitto,
    free_port,
    mosquitto_version,
)
from broker.mosquittoconf import CONF_FILE
from city.cityfile import City
from city.errors import BrokerError

GUARDED_FOLDER: Final = "mosquitto-secure"
"""Below the data directory."""

_BLOCKS_SINCE: Final = (2, 1)


class GuardedMosquitto(PrivateMosquitto):
    """As `PrivateMosquitto`, with the installation of `cityeye broker init` in its folder.

    `port` is that of the listener without TLS, for programs on this machine; `tls_port` that of the
    other one, for everybody. Both are bound to loopback.
    """

    def __init__(
        self, folder: Path, city: City, *, port: int = 0, tls_port: int = 0, window: int = WINDOW
    ) -> None:
        super().__init__(folder, port=port, window=window)
        self.tls_port = tls_port
        self._any_tls_port = tls_port == 0
        self._city = city

    @property
    def ports(self) -> str:
        """The ports that it listens on, for people."""
        return f"{self.port} or {self.tls_port}"

    @property
    def credentials_path(self) -> Path:
        """The file with everybody's secret."""
        return self.data_dir / CREDENTIALS_FILE

    @property
    def ca_path(self) -> Path:
        """The certificate that its own is verified by."""
        return self.data_dir / CA

    async def start(self) -> None:
        """As the private one; a later start keeps both ports."""
        await super().start()
        self._any_tls_port = False

    def _write_configuration(self) -> tuple[Path, BinaryIO]:
        if self._any_tls_port:
            self.tls_port = free_port()
        plan = Plan(
            listen_host=LOOPBACK,
            port=self.tls_port,
            plain_host=LOOPBACK,
            plain_port=self.port,
            granted=granted_by(mosquitto_version()),
            window=self.window,
        )
        install(self.data_dir, self._city, plan)
        try:
            log = self.log_path.open("wb")
        except OSError as error:
            raise BrokerError(
                f"Mosquitto's folder {self.data_dir} cannot be written: {error.strerror}"
            ) from error
        return (self.data_dir / BROKER_FOLDER / CONF_FILE).resolve(), log


def granted_by(version: str | None) -> Granted:
    """How that version of Mosquitto lets devices in; see `broker.acl.Granted`."""
    numbers = tuple(int(part) for part in (version or "2.0").split(".")[:2] if part.isdigit())
    return "blocks" if numbers >= _BLOCKS_SINCE else "pattern"


def credentials_of_running(data_dir: Path, port: int) -> tuple[Path, Path] | None:
    """Credentials file and CA of the guarded Mosquitto of that data directory, if it is at `port`."""
    folder = data_dir / GUARDED_FOLDER
    path = folder / CREDENTIALS_FILE
    if not path.exists():
        return None
    known: Credentials = read_credentials(path)
    return (path, folder / CA) if port in {known.port, known.plain_port} else None
