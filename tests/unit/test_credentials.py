import shutil
import string
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.acl import Role
from broker.credentials import (
    Credentials,
    Login,
    encoded,
    password_line,
    password_text,
    read_credentials,
    renewed,
)
from city.cityfile import Address
from city.errors import SettingError

DEVICE = Address("testville", "d1", "air", "air-1", "a")
KNOWN = Credentials(
    city="testville",
    port=8883,
    plain_host="127.0.0.1",
    plain_port=1883,
    roles={"sim": "s-secret", "ingest": "i-secret", "ingest/east": "e-secret"},
    devices={str(DEVICE): "a-secret"},
)
NAMES = st.text(string.ascii_lowercase + "/-", min_size=1, max_size=30)
SECRETS = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=40)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A credentials file."""
    path = tmp_path / "credentials.json"
    path.write_bytes(encoded(KNOWN))
    path.chmod(0o600)
    return path


def test_round_trip(path: Path) -> None:
    """What is written is read."""
    assert KNOWN == read_credentials(path)


def test_logins() -> None:
    """A role, a seat of a role and a device each have a login."""
    logins = [
        KNOWN.of_role(Role.INGEST),
        KNOWN.of_role(Role.INGEST, "east"),
        KNOWN.of_device(DEVICE),
    ]

    assert [
        Login("ingest", "i-secret"),
        Login("ingest/east", "e-secret"),
        Login(str(DEVICE), "a-secret"),
    ] == logins


def test_nothing_shown() -> None:
    """What a log would show of credentials and logins holds no secret."""
    assert "secret" not in f"{KNOWN!r} {KNOWN.of_device(DEVICE)!r} {KNOWN} {[KNOWN]}"


@pytest.mark.parametrize(
    ("role", "seat", "text"),
    [
        (Role.SCORER, None, "no secret of scorer; run `cityeye broker init` again"),
        (Role.INGEST, "west", "no secret of ingest/west; run `cityeye broker init --seat west`"),
    ],
)
def test_missing_role(role: Role, seat: str | None, text: str) -> None:
    """A login that is not there is an error that says how to make it."""
    with pytest.raises(SettingError, match=text):
        KNOWN.of_role(role, seat)


def test_missing_device() -> None:
    """The same for a device."""
    other = Address("testville", "d1", "air", "air-1", "zzz")

    with pytest.raises(SettingError, match=r"no secret of device testville/d1/air/air-1/zzz; run"):
        KNOWN.of_device(other)


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o666, 0o620])
def test_open_to_others(path: Path, mode: int) -> None:
    """A file that others can read or change is not used."""
    path.chmod(mode)

    with pytest.raises(SettingError, match="others may read or change it; run `chmod 600 "):
        read_credentials(path)


def test_open_to_the_group(path: Path) -> None:
    """The group may read it, so that a service of its own user can."""
    path.chmod(0o640)

    assert KNOWN == read_credentials(path)


def test_missing(tmp_path: Path) -> None:
    """A file that is not there is named with what makes it."""
    with pytest.raises(SettingError, match="there is none; `cityeye broker init` writes it"):
        read_credentials(tmp_path / "credentials.json")


def test_folder(tmp_path: Path) -> None:
    """What cannot be read is named."""
    tmp_path.chmod(0o700)

    with pytest.raises(SettingError, match="cannot be read: Is a directory"):
        read_credentials(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b'{"city": "s3cr3t"}', b'{"roles": {"sim": 1}}'],
    ids=range(6),
)
def test_damaged(path: Path, content: bytes) -> None:
    """Anything else is no credentials file, and nothing of it is shown."""
    path.write_bytes(content)

    with pytest.raises(SettingError, match="is no credentials file") as caught:
        read_credentials(path)
    assert "s3cr3t" not in str(caught.value)


def test_known_stay() -> None:
    """Known secrets stay, those by wish and those that are missing are made, others go."""
    before = {"a": "1", "b": "2", "gone": "3"}

    after = renewed(before, ["a", "b", "c"], rotate=["b"])

    assert ["a", "b", "c"] == list(after)
    assert "1" == after["a"]
    assert 3 == len({after["b"], after["c"], "2"})


@given(st.dictionaries(NAMES, SECRETS, max_size=4))
@settings(max_examples=25)
def test_stable(users: dict[str, str]) -> None:
    """Made again for the same secrets, the password file is the same byte for byte."""
    first = password_text(users)

    assert first == password_text(users, first)


def test_changed_line() -> None:
    """A line whose secret changed, or that is damaged, is made anew; all others stay."""
    before = password_text({"a": "1", "b": "2", "c": "3"})
    kept, *_ = before.splitlines()

    after = password_text({"a": "1", "b": "other", "c": "3"}, before.replace("c:$7$", "c:$6$"))

    lines = after.splitlines()
    assert kept == lines[0]
    assert not set(lines[1:]) & set(before.splitlines())


@pytest.mark.mosquitto
def test_format(tmp_path: Path) -> None:
    """A line looks as `mosquitto_passwd` makes it: the same fields of the same lengths."""
    program = shutil.which("mosquitto_passwd")
    if program is None:
        pytest.skip("mosquitto_passwd is not on PATH")
    path = tmp_path / "passwd"
    path.touch(mode=0o600)
    subprocess.run([program, "-b", path, "user", "secret"], check=True, timeout=60)

    theirs = path.read_text().strip().split("$")
    ours = password_line("user", "secret").split("$")
    assert theirs[:3] == ours[:3]
    assert [len(part) for part in theirs] == [len(part) for part in ours]
