"""What `cityeye doctor` finds about credentials, certificates and ports; no secret is shown."""

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from broker.certificates import RENEWAL_DAYS, valid_until
from broker.choice import BrokerAddress, tls_context
from broker.credentials import read_credentials
from broker.distrust import distrust
from city.errors import InputError
from city.settings import Settings

_TIMEOUT_S: Final = 5.0


def look_at_keys(settings: Settings) -> tuple[dict[str, str], bool]:
    """What the settings say of credentials and certificates, where they do; whether all is fine."""
    found: dict[str, str] = {}
    fine = True
    if settings.broker_credentials is not None:
        found["credentials"], good = _credentials(settings.broker_credentials)
        fine = fine and good
    named = {"broker_ca": settings.broker_ca, "broker_certificate": settings.broker_certificate}
    for name, path in named.items():
        if path is not None:
            found[name], good = _certificate(path)
            fine = fine and good
    return found, fine


async def look_at_tls(settings: Settings, address: BrokerAddress) -> tuple[str, bool]:
    """Whether the broker at `address` and we trust each other, and how long yet."""
    try:
        context = tls_context(
            address,
            settings.broker_ca,
            certificate=settings.broker_certificate,
            key=settings.broker_key,
        )
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
    except InputError as error:
        return str(error), False
    except (OSError, TimeoutError) as error:
        untrusted = distrust(address, error)
        if untrusted is not None:
            return str(untrusted), False
        return f"{address} does not answer; start it, or give another one with --broker", False
    return _until(f"{address} answers, its certificate", _end_of(shown)), True


def port_free(settings: Settings) -> bool:
    """Whether a broker of our own can listen at the port in the settings; 0 is any free one."""
    port = settings.broker_port
    if port == 0 or "://" in (settings.broker or ""):
        return True
    with socket.socket() as probe:
        probe.settimeout(_TIMEOUT_S)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _credentials(path: Path) -> tuple[str, bool]:
    try:
        known = read_credentials(path)
    except InputError as error:
        return str(error), False
    devices, roles = len(known.devices), len(known.roles)
    return f"{path}: city {known.city}, {devices:,} devices, {roles} roles", True


def _certificate(path: Path) -> tuple[str, bool]:
    try:
        return _until(str(path), valid_until(path)), True
    except InputError as error:
        return str(error), False


def _until(what: str, end: datetime) -> str:
    text = f"{what} is valid until {end:%Y-%m-%d}"
    if end < datetime.now(UTC) + timedelta(days=RENEWAL_DAYS):
        text += "; run `cityeye broker init` again soon, and reload the broker"
    return text


def _end_of(shown: Any) -> datetime:
    """The end of a certificate in DER, as the TLS library hands it out."""
    return x509.load_der_x509_certificate(shown).not_valid_after_utc
