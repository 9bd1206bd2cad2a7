"""The stack's secrets: made once on the host, dealt to each service alone."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from docker import deal as dealing
from docker.deal import SHARES, Share, User, deal, logins
from docker.keys import SECRETS, make_secrets

ROOT = Path(__file__).parents[2]
BUCKET = ROOT / "docker" / "influx2" / "bucket.sh"
ME = User(os.getuid(), os.getgid())
CREDENTIALS = {
    "city": "lanting",
    "port": 8883,
    "roles": {"sim": "s", "ingest": "i", "ingest/north": "n", "alarms": "a", "scorer": "t"},
    "devices": {"lanting/north/air/mill/station-1": "d"},
}

INFLUX = """\
#!/bin/bash
# Answers like the influx command, and writes down what it was asked, without the token.
echo "$*" >> "$ASKED"
case "$*" in
    "bucket list"*) [ -z "$REFUSES" ] || { echo "401 Unauthorized: unauthorized access"; exit 1; }
        printf '0b0b\\tcityeye\\t720h0m0s\\n' ;;
    "v1 dbrp create"*) [ -z "$MAPPED" ] || { echo "Error: dbrp already exists for the given ID"; exit 1; } ;;
    "auth create"*) printf '{"id": "1", "token": "made-for-%s", "status": "active"}\\n' "$4" ;;
esac
"""


@pytest.fixture
def broker(tmp_path: Path) -> Path:
    """A broker's installation."""
    folder = tmp_path / "mosquitto"
    (folder / "broker" / "certs").mkdir(parents=True)
    (folder / "broker" / "data").mkdir()
    for name in (
        "broker/mosquitto.conf",
        "broker/certs/server.key",
        "broker/data/old.db",
        "ca.crt",
    ):
        (folder / name).write_text(name)
    (folder / "credentials.json").write_text(json.dumps(CREDENTIALS))
    return folder


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Secrets as `make secrets` makes them."""
    make_secrets(tmp_path)
    return tmp_path / "secrets"


def share(volume: str) -> Share:
    """The share of one service, for the user that runs the test."""
    return next(row for row in SHARES if row.volume == volume)._replace(user=ME)


def held(folder: Path) -> set[str]:
    """The files below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_owner_only(secrets: Path) -> None:
    """Secrets are for their owner alone."""
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()}
    assert 0o700 == stat.S_IMODE(secrets.stat().st_mode)


def test_made_once(secrets: Path) -> None:
    """A second run changes nothing."""
    before = {path.name: path.read_text() for path in secrets.iterdir()}

    assert [] == make_secrets(secrets.parent)
    assert before == {path.name: path.read_text() for path in secrets.iterdir()}


def test_only_what_is_missing(secrets: Path) -> None:
    """A secret that is missing is made, and no other."""
    (secrets / "grafana-admin-password").unlink()

    assert ["grafana-admin-password"] == make_secrets(secrets.parent)


def test_random(secrets: Path, tmp_path: Path) -> None:
    """Every secret is long and differs from every other, here and elsewhere."""
    make_secrets(tmp_path / "other")
    both = [
        (folder / name).read_text() for folder in (secrets, tmp_path / "other" / "secrets")
        for name in SECRETS
    ]  # fmt: skip

    assert len(both) == len(set(both))
    assert min(map(len, both)) >= 43


def test_offline_token(secrets: Path) -> None:
    """InfluxDB 3 is given the same token that ingest is given."""
    offline = json.loads((secrets / "influx3-admin-token.json").read_text())

    assert (secrets / "influx3-token").read_text() == offline["token"]
    assert offline["token"].startswith("apiv3_")


def test_unversioned() -> None:
    """What holds secrets is named in .gitignore."""
    ignored = set((ROOT / ".gitignore").read_text().splitlines())

    assert {
        "docker/.env",
        "docker/secrets/",
        "docker/mosquitto/",
        "docker/mosquitto-load/",
    } <= ignored


def test_every_secret_is_dealt() -> None:
    """Every secret that is made reaches a service, and no other name is dealt."""
    dealt = {name for row in SHARES for name in row.secrets}

    assert {*SECRETS, "influx3-admin-token.json"} == dealt


def test_broker_share(broker: Path, secrets: Path, tmp_path: Path) -> None:
    """Mosquitto gets its folder, and neither the secrets of others nor what lies in its data."""
    (tmp_path / "keys" / "mosquitto" / "data").mkdir(parents=True)
    deal(share("mosquitto"), secrets=secrets, broker=broker, keys=tmp_path / "keys")

    assert {"mosquitto.conf", "certs/server.key"} == held(tmp_path / "keys" / "mosquitto")


def test_ingest_share(
    broker: Path, secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ingest gets its own files, read-only for its user, and room for its token."""
    monkeypatch.setattr(dealing, "INFLUXDB2", ME)
    volume = tmp_path / "keys" / "ingest"
    volume.mkdir(parents=True)
    deal(share("ingest"), secrets=secrets, broker=broker, keys=tmp_path / "keys")

    assert {"ca.crt", "credentials.json", "influx1-ingest-password", "influx3-token"} == held(
        volume
    )
    assert 0o400 == stat.S_IMODE((volume / "credentials.json").stat().st_mode)
    assert 0o2750 == stat.S_IMODE((volume / "influxdb").stat().st_mode)


def test_dealt_again(broker: Path, secrets: Path, tmp_path: Path) -> None:
    """What was rotated on the host arrives at the next start."""
    volume = tmp_path / "keys" / "influxdb"
    volume.mkdir(parents=True)
    for text in ("old", "new"):
        (secrets / "influxdb-password").write_text(text)
        volume.chmod(0o700)
        deal(share("influxdb"), secrets=secrets, broker=broker, keys=tmp_path / "keys")

    assert "new" == (volume / "influxdb-password").read_text()


@pytest.mark.parametrize(
    ("volume", "roles", "devices"),
    [("sim", {"sim"}, 1), ("ingest", {"ingest", "ingest/north", "alarms"}, 0)],
)
def test_logins(volume: str, roles: set[str], devices: int) -> None:
    """A service gets the logins of its own roles, and only the fleet those of devices."""
    found = logins(share(volume), CREDENTIALS)

    assert (roles, devices) == (set(found["roles"]), len(found["devices"]))


def test_missing_is_named(broker: Path, secrets: Path, tmp_path: Path) -> None:
    """A secret that is missing is named, with the remedy."""
    (secrets / "influxdb-password").unlink()
    (tmp_path / "keys" / "influxdb").mkdir(parents=True)
    with pytest.raises(
        FileNotFoundError, match=r"influxdb-password is missing: run `make secrets`"
    ):
        deal(share("influxdb"), secrets=secrets, broker=broker, keys=tmp_path / "keys")


def bucket(tmp_path: Path, secrets: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the job `bucket` against a command that answers like influx."""
    program = tmp_path / "bin" / "influx"
    program.parent.mkdir(exist_ok=True)
    program.write_text(INFLUX)
    program.chmod(0o755)
    keys = tmp_path / "keys"
    for name in ("ingest", "grafana"):
        (keys / name / "influxdb").mkdir(parents=True, exist_ok=True)
    if not (keys / "influxdb").exists():
        (keys / "influxdb").symlink_to(secrets)
    known = {
        "PATH": f"{program.parent}:{os.environ['PATH']}", "KEYS": str(keys),
        "ASKED": str(tmp_path / "asked"), "BUCKET": "cityeye", "INFLUX_ORG": "cityeye",
        "RETENTION": "30d", "REFUSES": "", "MAPPED": "",
    }  # fmt: skip
    return subprocess.run(
        ["bash", BUCKET], env=known | environment, capture_output=True, text=True, check=False
    )


def test_bucket_first(tmp_path: Path, secrets: Path) -> None:
    """The first start makes the mapping, and a token each for ingest and Grafana."""
    done = bucket(tmp_path, secrets)
    asked = (tmp_path / "asked").read_text().splitlines()

    assert (0, "") == (done.returncode, done.stderr)
    assert "v1 dbrp create --db cityeye --rp autogen --bucket-id 0b0b --default" in asked
    assert "bucket update --id 0b0b --retention 30d" in asked
    assert "made-for-CityEye ingest\n" == (tmp_path / "keys/ingest/influxdb/token").read_text()
    assert "v1 dbrp create --db cityeye --rp rollup --bucket-id 0b0b" in asked
    both = "--read-bucket 0b0b --read-bucket 0b0b"
    assert f"auth create --description CityEye Grafana {both} --json" in asked


def test_bucket_again(tmp_path: Path, secrets: Path) -> None:
    """A later start finds the mapping and the tokens, and makes none."""
    bucket(tmp_path, secrets)
    (tmp_path / "asked").unlink()
    done = bucket(tmp_path, secrets, MAPPED="1")

    assert 0 == done.returncode
    assert "auth create" not in (tmp_path / "asked").read_text()


def test_bucket_with_another_token(tmp_path: Path, secrets: Path) -> None:
    """A database that was set up with another token is named, with the remedy."""
    done = bucket(tmp_path, secrets, REFUSES="1")

    assert 1 == done.returncode
    assert "docker/secrets/influxdb-admin-token: it was set up with another one" in done.stderr


def test_no_token_is_told(tmp_path: Path, secrets: Path) -> None:
    """The job passes the token on in the environment alone, and repeats it nowhere."""
    done = bucket(tmp_path, secrets)
    token = (secrets / "influxdb-admin-token").read_text()

    assert token not in done.stdout + done.stderr + (tmp_path / "asked").read_text()
