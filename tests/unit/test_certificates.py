from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.certificates import checked_hosts, new_ca, new_server, valid_until
from city.errors import SettingError

NOW = datetime.now(UTC)


def test_chain() -> None:
    """What a CA signed is of that CA and of no other."""
    ca, other = new_ca("one", NOW), new_ca("two", NOW)
    server = new_server(ca, ["localhost", "::1"], NOW)

    assert (True, False) == (server.is_of(ca), server.is_of(other))
    assert {"localhost", "::1"} == server.hosts()


@pytest.mark.parametrize(
    ("made", "why"),
    [(NOW - timedelta(days=400), "has expired on"), (NOW + timedelta(days=2), "is not valid yet")],
)
def test_dates(tmp_path: Path, made: datetime, why: str) -> None:
    """A certificate that is over or not valid yet is named with its file."""
    path = tmp_path / "server.crt"
    path.write_bytes(new_server(new_ca("one", NOW), ["localhost"], made).certificate_pem)

    with pytest.raises(SettingError, match=f"server.crt: {why}"):
        valid_until(path)


def test_no_certificate(tmp_path: Path) -> None:
    """A file without a certificate is named."""
    path = tmp_path / "x.crt"
    path.write_text("hello")

    with pytest.raises(SettingError, match=r"x\.crt: holds no PEM certificate"):
        valid_until(path)


def test_hosts() -> None:
    """Host names come once each and in their usual spelling."""
    hosts = checked_hosts(["Broker.Example.org.", "127.0.0.1", "0:0:0:0:0:0:0:1", "127.0.0.1"])

    assert ("broker.example.org", "127.0.0.1", "::1") == hosts
