"""As whom a command enters the broker: each of its sessions by its role, each device by its own."""

import ssl
from collections.abc import Sequence
from typing import Final, Self

import aiomqtt
import msgspec

from broker.acl import Role
from broker.choice import BrokerAddress, RunningBroker, tls_context
from broker.credentials import Credentials, Login, read_credentials
from broker.guarded import credentials_of_running
from broker.session import Receive, Session
from city.cityfile import City
from city.settings import Settings

_CONNECT_TIMEOUT_S: Final = 10.0


class Access(msgspec.Struct, frozen=True):
    """The way into one broker, by the settings of a command."""

    settings: Settings
    address: BrokerAddress
    credentials: Credentials | None

    @classmethod
    def to(cls, settings: Settings, broker: RunningBroker) -> Self:
        """The way into the broker that a service works with.

        Raises:
            SettingError: The credentials file cannot be used.
        """
        path = settings.broker_credentials or broker.credentials
        if broker.ca is not None and settings.broker_ca is None:
            settings = msgspec.structs.replace(settings, broker_ca=broker.ca)
        return cls(settings, broker.address, read_credentials(path) if path else None)

    @classmethod
    def to_running(cls, settings: Settings, address: BrokerAddress) -> Self:
        """The way for people into the broker at `address`, maybe that of the running `cityeye`.

        Raises:
            SettingError: The credentials file cannot be used.
        """
        path = settings.broker_credentials
        if path is None and settings.broker is None:
            found = credentials_of_running(settings.data, address.port)
            if found is not None:
                path = found[0]
        return cls(settings, address, read_credentials(path) if path else None)

    def login(self, role: Role) -> Login:
        """The login of a session; a user in the broker's address is used for every session.

        Raises:
            SettingError: The credentials file has none for it.
        """
        user = self.address.username
        if self.credentials is None or (user and self.settings.broker_password is not None):
            return Login(user, self.settings.broker_password)
        if user and user in self.credentials.roles:
            return Login(user, self.credentials.roles[user])
        return self.credentials.of_role(role, self.settings.broker_seat)

    def session(
        self,
        role: Role,
        client_id: str,
        *,
        subscriptions: Sequence[tuple[str, int]] = (),
        receive: Receive | None = None,
        clean: bool = False,
    ) -> Session:
        """A session of a service.

        Raises:
            SettingError: Certificates or credentials cannot be used.
        """
        login = self.login(role)
        return Session(
            msgspec.structs.replace(self.address, username=login.user),
            client_id=client_id,
            subscriptions=subscriptions,
            receive=receive,
            clean=clean,
            password=login.password,
            tls=self.tls(),
        )

    def client(self, role: Role) -> aiomqtt.Client:
        """A client for a command of people.

        Raises:
            SettingError: Certificates or credentials cannot be used.
        """
        login = self.login(role)
        return aiomqtt.Client(
            self.address.host,
            self.address.port,
            username=login.user,
            password=login.password,
            tls_context=self.tls(),
            timeout=_CONNECT_TIMEOUT_S,
        )

    def devices(self, city: City) -> dict[str, Login] | None:
        """The login of every device by its address; None where there is one for all.

        Raises:
            SettingError: The credentials file lacks one.
        """
        if self.credentials is None:
            return None
        known = self.credentials
        return {str(d.address): known.of_device(d.address) for d in city.devices()}

    def tls(self) -> ssl.SSLContext | None:
        """What verifies the broker, and shows our certificate.

        Raises:
            SettingError: One of the files cannot be used.
        """
        settings = self.settings
        return tls_context(
            self.address,
            settings.broker_ca,
            certificate=settings.broker_certificate,
            key=settings.broker_key,
        )
