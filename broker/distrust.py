"""What certificates keep broker and client apart, and what people do about it."""

from typing import Final

from broker.choice import BrokerAddress
from city.errors import BrokerError

_DISTRUST: Final[tuple[tuple[str, str], ...]] = (
    (
        "certificate has expired",
        (
            "its certificate, or that of its CA, has expired; run `cityeye broker init` again where it "
            "runs and reload it (and is the clock of this machine right?)"
        ),
    ),
    (
        "not yet valid",
        "its certificate is not valid yet; is the clock of this machine right?",
    ),
    (
        "mismatch",
        (
            "its certificate is for other host names; connect by one of those, or run "
            "`cityeye broker init --host NAME` where it runs and reload it"
        ),
    ),
    (
        "certificate is not valid for",
        (
            "its certificate is for other host names; connect by one of those, or run "
            "`cityeye broker init --host NAME` where it runs and reload it"
        ),
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        (
            "its certificate is of a CA that we do not trust; give the broker's ca.crt with "
            "--broker-ca"
        ),
    ),
    (
        "CERTIFICATE_REQUIRED",
        (
            "it wants to see a certificate; give one of `cityeye broker init --client-certificates` "
            "with --broker-certificate and --broker-key"
        ),
    ),
    (
        "ALERT_CERTIFICATE_EXPIRED",
        "our certificate has expired; run `cityeye broker init` again and take the new one",
    ),
    (
        "ALERT_UNKNOWN_CA",
        (
            "our certificate is not of its CA; give one of `cityeye broker init "
            "--client-certificates` with --broker-certificate and --broker-key"
        ),
    ),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS at this port; use mqtt:// or its TLS port"),
)
"""What the TLS library says, and what that means for the user; the first that fits counts."""


def distrust(address: BrokerAddress, error: BaseException) -> BrokerError | None:
    """What is wrong between broker and us by their certificates; None if it is something else."""
    said = str(error)
    why = next((words for sign, words in _DISTRUST if sign.lower() in said.lower()), None)
    if why is None:
        return None
    return BrokerError(f"broker {address} and we do not trust each other: {why}")
