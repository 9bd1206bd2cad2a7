import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.certificates import read_signed
from broker.credentials import read_credentials
from broker.installation import Plan, install
from city.cityfile import City, check_city
from city.documents import Document
from city.errors import SettingError

NOW = datetime(2026, 6, 1, tzinfo=UTC)
OWNER_ONLY = {
    "credentials.json",
    "ca.key",
    "broker/passwd",
    "broker/acl",
    "broker/certs/server.key",
    "broker/health/mosquitto_sub",
}


def city(*devices: str, name: str = "testville") -> City:
    """A city with these devices at one site."""
    listed = ", ".join(f"{{id: {device}, kind: air-micro}}" for device in devices)
    text = (
        f"city: {name}\ndistricts: [{{id: d1}}]\nsites:\n"
        f"  - {{id: air-1, district: d1, domain: air, devices: [{listed}]}}\n"
    )
    return check_city(Document(text, "test.yaml"))


@pytest.fixture
def state(tmp_path: Path) -> Callable[[], dict[str, bytes]]:
    """All files below the folder."""
    return lambda: {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }


State = Callable[[], dict[str, bytes]]


def test_modes(tmp_path: Path) -> None:
    """Whatever holds a secret is readable by its owner alone; everything else is not secret."""
    install(tmp_path, city("a"), Plan(), now=NOW)

    closed = {
        str(path.relative_to(tmp_path))
        for path in tmp_path.rglob("*")
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) == 0o600
    }
    assert closed == OWNER_ONLY
    known = read_credentials(tmp_path / "credentials.json")
    for path in tmp_path.rglob("*"):
        if path.is_file() and str(path.relative_to(tmp_path)) not in OWNER_ONLY:
            assert not any(secret.encode() in path.read_bytes() for secret in known.users.values())


def test_twice(tmp_path: Path, state: State) -> None:
    """The second time nothing is written."""
    install(tmp_path, city("a", "b"), Plan(hosts=("broker.example.org",)), now=NOW)
    before = state()

    done = install(tmp_path, city("a", "b"), Plan(), now=NOW + timedelta(days=300))

    assert () == done.changed
    assert before == state()


def test_rotate(tmp_path: Path, state: State) -> None:
    """One credential is made anew; every other line of every file stays."""
    install(tmp_path, city("a", "b"), Plan(), now=NOW)
    before = state()

    done = install(tmp_path, city("a", "b"), Plan(rotate=("air-1/a",)), now=NOW)

    after = state()
    assert ("credentials.json", "broker/passwd") == done.changed
    for name in done.changed:
        old, new = before[name].splitlines(), after[name].splitlines()
        differing = [line for line, other in zip(old, new, strict=True) if line != other]
        assert [True] == [b"testville/d1/air/air-1/a" in line for line in differing]


def test_rotate_health(tmp_path: Path) -> None:
    """A role's credential can be made anew too; what the health check reads follows."""
    install(tmp_path, city("a"), Plan(), now=NOW)

    done = install(tmp_path, city("a"), Plan(rotate=("health",)), now=NOW)

    assert ("credentials.json", "broker/passwd", "broker/health/mosquitto_sub") == done.changed
    secret = done.credentials.roles["health"]
    assert f"-P {secret}" in (tmp_path / "broker/health/mosquitto_sub").read_text()


def test_rotate_unknown(tmp_path: Path, state: State) -> None:
    """A device that does not exist is named with the nearest that does; nothing is written."""
    with pytest.raises(SettingError, match=r"'air-1/aa' is no device.*did you mean 'air-1/a'"):
        install(tmp_path, city("a"), Plan(rotate=("air-1/aa",)), now=NOW)

    assert {} == state()


def test_devices_come_and_go(tmp_path: Path) -> None:
    """A new device gets a login, one that is gone loses its own, the others keep theirs."""
    before = install(tmp_path, city("a", "b"), Plan(), now=NOW).credentials

    done = install(tmp_path, city("b", "c"), Plan(), now=NOW)

    here = "testville/d1/air/air-1/"
    assert {here + "b", here + "c"} == set(done.credentials.devices)
    assert before.devices[here + "b"] == done.credentials.devices[here + "b"]
    assert (1, 1) == (done.added, done.removed)
    passwords = (tmp_path / "broker/passwd").read_text()
    assert here + "a:" not in passwords
    assert here + "c:" in passwords


def test_seats(tmp_path: Path) -> None:
    """A seat is a further login of each role with the rights of that role, and stays."""
    install(tmp_path, city("a"), Plan(seats=("east",)), now=NOW)

    done = install(tmp_path, city("a"), Plan(), now=NOW)

    assert "ingest/east" in done.credentials.roles
    acl = (tmp_path / "broker/acl").read_text()
    blocks = dict(block.split("\n", 1) for block in acl.split("\n\n") if block.startswith("user "))
    assert blocks["user ingest"] == blocks["user ingest/east"]


def test_ports_stay(tmp_path: Path) -> None:
    """Ports that were given once are kept."""
    install(tmp_path, city("a"), Plan(port=18883, plain_port=11883), now=NOW)

    done = install(tmp_path, city("a"), Plan(), now=NOW)

    assert (18883, 11883) == (done.credentials.port, done.credentials.plain_port)


def test_renewal(tmp_path: Path) -> None:
    """The broker's certificate alone is made anew when it ends within 30 days, for the same hosts."""
    install(tmp_path, city("a"), Plan(hosts=("broker.example.org",)), now=NOW)

    done = install(tmp_path, city("a"), Plan(), now=NOW + timedelta(days=370))

    assert ("broker/certs/server.crt", "broker/certs/server.key") == done.changed
    certs = tmp_path / "broker/certs"
    server = read_signed(certs / "server.crt", certs / "server.key")
    assert server is not None
    assert "broker.example.org" in server.hosts()


def test_new_host(tmp_path: Path) -> None:
    """A further host name gets a certificate for it and all that were named before."""
    install(tmp_path, city("a"), Plan(hosts=("one.example.org",)), now=NOW)

    install(tmp_path, city("a"), Plan(hosts=("192.0.2.7",)), now=NOW)

    certs = tmp_path / "broker/certs"
    server = read_signed(certs / "server.crt", certs / "server.key")
    assert server is not None
    assert {"one.example.org", "192.0.2.7", "localhost", "mosquitto"} <= server.hosts()


def test_client_certificates(tmp_path: Path) -> None:
    """On request the broker wants to see a certificate, and there is one for each role."""
    install(tmp_path, city("a"), Plan(client_certificates=True), now=NOW)

    again = install(tmp_path, city("a"), Plan(), now=NOW)

    assert () == again.changed
    assert "require_certificate true" in (tmp_path / "broker/mosquitto.conf").read_text()
    assert {"devices", "ingest", "sim"} <= {p.stem for p in (tmp_path / "clients").iterdir()}


def test_other_city(tmp_path: Path) -> None:
    """The broker of one city is not made into that of another: its logins would be lost."""
    install(tmp_path, city("a"), Plan(), now=NOW)

    with pytest.raises(SettingError, match="is the broker of city testville, not of elsewhere"):
        install(tmp_path, city("a", name="elsewhere"), Plan(), now=NOW)


@pytest.mark.parametrize("half", ["ca.key", "ca.crt", "broker/certs/server.key"])
def test_half_missing(tmp_path: Path, half: str) -> None:
    """A key without its certificate, or the other way round, is named; nothing is made up."""
    install(tmp_path, city("a"), Plan(), now=NOW)
    (tmp_path / half).unlink()

    with pytest.raises(SettingError, match="missing, though its other half is there"):
        install(tmp_path, city("a"), Plan(), now=NOW)


@pytest.mark.parametrize("host", ["", "a b", "-$-", "x" * 64, "é.example"])
def test_bad_host(tmp_path: Path, host: str) -> None:
    """What can be no host name is refused."""
    with pytest.raises(SettingError, match="is neither a host name nor an address"):
        install(tmp_path, city("a"), Plan(hosts=(host,)), now=NOW)


def test_bad_seat(tmp_path: Path) -> None:
    """What would break the ACL file is no seat."""
    with pytest.raises(SettingError, match="--seat: 'a\\\\ntopic' is no identifier"):
        install(tmp_path, city("a"), Plan(seats=("a\ntopic",)), now=NOW)


def test_not_writable(tmp_path: Path) -> None:
    """A folder that cannot be made is named."""
    (tmp_path / "file").touch()

    with pytest.raises(
        SettingError, match=r"cannot be written: .*; give another folder with --out"
    ):
        install(tmp_path / "file" / "out", city("a"), Plan(), now=NOW)


def test_relative(tmp_path: Path) -> None:
    """The configuration names no place of this machine: it works wherever the folder is."""
    install(tmp_path, city("a"), Plan(), now=NOW)

    lines = (tmp_path / "broker/mosquitto.conf").read_text().splitlines()
    assert not [line for line in lines if " /" in line and not line.startswith("#")]
