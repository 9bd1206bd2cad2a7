import pytest

from broker.choice import BrokerAddress
from broker.distrust import distrust

ADDRESS = BrokerAddress("broker.example", 8883, tls=True)


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("certificate verify failed: certificate has expired", "run `cityeye broker init` again"),
        ("certificate verify failed: Hostname mismatch", "--host NAME"),
        ("certificate is not valid for 'x'", "--host NAME"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate", "--broker-ca"),
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED]", "--broker-certificate"),
        ("[SSL: TLSV1_ALERT_UNKNOWN_CA]", "--broker-certificate"),
        ("[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED]", "our certificate has expired"),
        ("[SSL: WRONG_VERSION_NUMBER]", "use mqtt://"),
    ],
)
def test_remedy(said: str, remedy: str) -> None:
    """What the TLS library says becomes one line with the broker and the remedy."""
    error = distrust(ADDRESS, OSError(said))

    text = str(error)
    assert text.startswith("broker mqtts://broker.example:8883 and we do not trust each other: ")
    assert remedy in text


def test_something_else() -> None:
    """Any other error is not about trust."""
    assert None is distrust(ADDRESS, ConnectionRefusedError("Connection refused"))
