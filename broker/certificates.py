"""Certificates: a CA of our own, what it signs, and what is wrong with a certificate."""

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from city.errors import SettingError

CA_DAYS: Final = 3650
LEAF_DAYS: Final = 397
"""What browsers and mail programs accept at most from a certificate of a server."""
RENEWAL_DAYS: Final = 30
"""A certificate that is valid for less than this is made anew."""

_AGO: Final = timedelta(hours=1)
"""Certificates begin in the past, for machines whose clock is a little behind."""


class Signed(msgspec.Struct, frozen=True):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as a file holds it."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key as a file holds it: not encrypted, so that a server starts by itself."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def expires_soon(self, now: datetime, *, days: int = RENEWAL_DAYS) -> bool:
        """Whether it ends within so many days."""
        return self.certificate.not_valid_after_utc < now + timedelta(days=days)

    def is_of(self, issuer: "Signed") -> bool:
        """Whether `issuer` signed it."""
        try:
            self.certificate.verify_directly_issued_by(issuer.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def hosts(self) -> frozenset[str]:
        """The host names and addresses that it is for."""
        try:
            names = self.certificate.extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            ).value
        except x509.ExtensionNotFound:
            return frozenset()
        found = {*names.get_values_for_type(x509.DNSName)}
        found |= {str(address) for address in names.get_values_for_type(x509.IPAddress)}
        return frozenset(found)


def new_ca(city: str, now: datetime) -> Signed:
    """A CA for the broker of one city."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"CityEye CA {city}"[:64])
    builder = _builder(name, name, key, key.public_key(), now, CA_DAYS)
    usage = _usage(key_cert_sign=True, crl_sign=True)
    builder = builder.add_extension(usage, critical=True).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    return Signed(builder.sign(key, hashes.SHA256()), key)


def new_server(ca: Signed, hosts: Sequence[str], now: datetime) -> Signed:
    """A certificate for the broker, valid for all of `hosts` (names or addresses)."""
    names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
    return _leaf(ca, "cityeye-broker", ExtendedKeyUsageOID.SERVER_AUTH, now, names)


def new_client(ca: Signed, who: str, now: datetime) -> Signed:
    """A certificate by which the clients of one kind show that they are ours."""
    return _leaf(ca, who, ExtendedKeyUsageOID.CLIENT_AUTH, now)


def read_signed(certificate: Path, key: Path) -> Signed | None:
    """The certificate and its key in two files; None if neither is there.

    Raises:
        SettingError: One of them is missing, cannot be read, or does not belong to the other.
    """
    if not certificate.exists() and not key.exists():
        return None
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        secret = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except FileNotFoundError as error:
        missing = key if certificate.exists() else certificate
        raise SettingError(
            f"{missing}: missing, though its other half is there; bring it back, or remove both "
            "so that new ones are made"
        ) from error
    except OSError as error:
        raise SettingError(
            f"{certificate}: it or its key cannot be read: {error.strerror}"
        ) from error
    except (ValueError, TypeError) as error:
        raise SettingError(f"{certificate}: it or its key is no PEM; remove both files") from error
    if not isinstance(secret, ec.EllipticCurvePrivateKey) or (
        secret.public_key() != found.public_key()
    ):
        raise SettingError(f"{key}: is not the key of {certificate.name}; remove both files")
    return Signed(found, secret)


def valid_until(path: Path) -> datetime:
    """The end of the certificate in a file that began already; the earliest of several.

    Raises:
        SettingError: It cannot be read, is no certificate, has expired or is not valid yet.
    """
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise SettingError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingError(f"{path}: holds no PEM certificate") from error
    until = min(one.not_valid_after_utc for one in found)
    now = datetime.now(UTC)
    if until < now:
        raise SettingError(
            f"{path}: has expired on {until:%Y-%m-%d}; run `cityeye broker init` again and reload "
            "the broker"
        )
    if max(one.not_valid_before_utc for one in found) > now:
        raise SettingError(f"{path}: is not valid yet; is the clock of this machine right?")
    return until


def _leaf(
    ca: Signed,
    who: str,
    purpose: x509.ObjectIdentifier,
    now: datetime,
    names: x509.SubjectAlternativeName | None = None,
) -> Signed:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(who), ca.certificate.subject, ca.key, key.public_key(), now, LEAF_DAYS)
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([purpose]), False),
        *(((names, False),) if names else ()),
    ):
        builder = builder.add_extension(extension, critical=critical)
    return Signed(builder.sign(ca.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    public: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _AGO)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(issued_by, critical=False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def checked_hosts(hosts: Iterable[str]) -> tuple[str, ...]:
    """`hosts` in order, each once and in its usual spelling.

    Raises:
        SettingError: One of them can be neither a host name nor an address.
    """
    found = []
    for host in hosts:
        try:
            found.append(str(ipaddress.ip_address(host)))
        except ValueError:
            labels = host.lower().rstrip(".").split(".")
            fine = all(
                0 < len(label) <= 63  # noqa: PLR2004 - RFC 1035, section 2.3.4
                and label.isascii()
                and label.replace("-", "").isalnum()
                for label in labels
            )
            if not fine:
                raise SettingError(
                    f"--host: {host!r} is neither a host name nor an address, e.g. "
                    "broker.example.org or 192.0.2.7"
                ) from None
            found.append(".".join(labels))
    return tuple(dict.fromkeys(found))
