"""`cityeye run --secure`, `cityeye broker init` and what goes wrong, as a user types it."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from broker.credentials import read_credentials
from broker.mosquitto import free_port

pytestmark = pytest.mark.mosquitto

DEADLINE_S = 300.0
COMMAND = (sys.executable, "-m", "cli.main")


def cityeye(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        env=os.environ | environment,
    )


def command_lines(process: psutil.Process) -> str:
    """What the list of processes shows of a process and its children."""
    return " ".join(
        part for one in (process, *process.children(recursive=True)) for part in one.cmdline()
    )


def alarmed(data: Path) -> bool:
    """Whether a run in that directory has raised an alarm."""
    path = data / "alarms.sqlite"
    if not path.exists():
        return False
    with (
        closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database,
        suppress(sqlite3.OperationalError),
    ):
        return bool(database.execute("SELECT 1 FROM events LIMIT 1").fetchall())
    return False


def test_run(tmp_path: Path) -> None:
    """Fleet, ingest, alarms, a valve's command and a console all work with TLS, logins and ACL."""
    data = tmp_path / "data"
    options = ("--scenario", "gas-burst", "--speed", "20", "--for", "10m", "--actions", "armed")
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            [*COMMAND, "run", "--secure", *options, "--data", str(data), "--json"],
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        standing: list[object] = []
        lines = ""
        began_s = time.monotonic()
        while not standing and running.poll() is None and time.monotonic() < began_s + DEADLINE_S:
            lines = command_lines(psutil.Process(running.pid))
            if not alarmed(data):
                time.sleep(0.1)
                continue
            listed = cityeye("alarms", "list", "--data", str(data), "--json")
            standing = json.loads(listed.stdout)["alarms"] if listed.returncode == 0 else []
        output, _ = running.communicate(timeout=DEADLINE_S)
    finally:
        running.kill()

    figures = json.loads(output)
    assert 0 == running.returncode
    assert standing
    assert "guarded" in figures["broker"]
    assert ({}, 0) == (figures["refused_connects"], figures["ledger"]["pending"])
    assert figures["messages"] == figures["ledger"]["written"]
    assert figures["actions"]["close_valve"] >= 1
    users = read_credentials(data / "mosquitto-secure" / "credentials.json").users
    told = lines + (tmp_path / "log").read_text() + output.decode()
    assert not [user for user, secret in users.items() if secret in told]


def test_init_twice(tmp_path: Path) -> None:
    """`broker init` says what it wrote, never a secret, and nothing the second time."""
    out = str(tmp_path / "broker")
    first = cityeye("broker", "init", "--city", "lanting", "--out", out, "--json")
    second = cityeye("broker", "init", "--city", "lanting", "--out", out, "--json")

    users = read_credentials(tmp_path / "broker" / "credentials.json").users
    assert not [user for user, secret in users.items() if secret in first.stdout + first.stderr]
    assert "broker/mosquitto.conf" in json.loads(first.stdout)["files_written"]
    assert [] == json.loads(second.stdout)["files_written"]


@pytest.mark.parametrize("command", ["sim", "ingest", "run"])
def test_readable_by_others(tmp_path: Path, command: str) -> None:
    """Credentials that others can read are refused in one line, with exit status 2."""
    path = tmp_path / "credentials.json"
    path.write_text("{}")
    path.chmod(0o644)
    done = cityeye(
        command, "--broker", "mqtt://127.0.0.1:1", "--data", str(tmp_path / "data"),
        CITYEYE_BROKER_CREDENTIALS=str(path),
    )  # fmt: skip

    said = [line for line in done.stderr.splitlines() if line.startswith("cityeye: ")]
    assert (2, 1) == (done.returncode, len(said))
    assert f"run `chmod 600 {path}`" in said[0]


def test_other_city(tmp_path: Path) -> None:
    """Credentials of another city lack the devices that are simulated: that is named."""
    cityeye("broker", "init", "--city", "synthetic:3", "--out", str(tmp_path / "broker"))
    done = cityeye(
        "sim", "--broker", "mqtt://127.0.0.1:1", "--broker-credentials",
        str(tmp_path / "broker" / "credentials.json"),
    )  # fmt: skip

    assert 2 == done.returncode
    assert "of city synthetic has no secret of device lanting/" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--broker", "embedded"), "--secure: embedded cannot be made secure from here"),
        (("--broker", "mqtt://127.0.0.1:1"), "cannot be made secure from here"),
    ],
)
def test_not_ours(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    """Only a Mosquitto of our own can be guarded by --secure."""
    done = cityeye("run", "--secure", "--data", str(tmp_path), *options)

    assert 2 == done.returncode
    assert said in done.stderr


def test_doctor(tmp_path: Path) -> None:
    """The doctor names what is wrong with credentials, certificates and the broker's port."""
    out = tmp_path / "broker"
    cityeye("broker", "init", "--out", str(out))
    (out / "credentials.json").chmod(0o644)
    given = (
        "--broker-credentials", str(out / "credentials.json"), "--broker-ca", str(out / "ca.crt"),
        "--broker", f"mqtts://127.0.0.1:{free_port()}", "--data", str(tmp_path / "data"),
    )  # fmt: skip
    sick = cityeye("doctor", *given, "--json")
    (out / "credentials.json").chmod(0o600)
    figures = json.loads(cityeye("doctor", *given, "--json").stdout)

    assert 1 == sick.returncode
    assert "chmod 600" in json.loads(sick.stdout)["credentials"]
    assert "does not answer" in figures["broker"]
    assert figures["credentials"].endswith("city lanting, 60 devices, 7 roles")
    assert "is valid until" in figures["broker_ca"]
