"""`make up-local`: the files that Compose mounts, on this machine's Mosquitto and InfluxDB 1.x."""

import base64
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from broker.installation import Plan, install
from broker.mosquitto import free_port
from city.cityfile import load_city
from docker.keys import make_secrets

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docker" / "local.py"
RULES = ROOT / "docker" / "grafana" / "provisioning" / "alerting" / "rules.yaml"
DEADLINE_S = 60.0

pytestmark = [pytest.mark.mosquitto, pytest.mark.influxd]


class Stack:
    """A stack that runs below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[str] | None = None
        make_secrets(folder)
        plan = Plan(port=free_port(), plain_port=free_port())
        install(folder / "mosquitto", load_city("lanting"), plan)

    def start(self) -> None:
        """Start it; what it says goes to a file."""
        command: list[str | Path] = [
            sys.executable, SCRIPT, "--secrets", self.folder / "secrets", "--broker",
            self.folder / "mosquitto", "--data", self.folder / "data", "--influxdb-port",
            str(self.port), "--log", "warning",
        ]  # fmt: skip
        with (self.folder / "said").open("w") as said:
            self.process = subprocess.Popen(command, stdout=said, stderr=said, text=True, cwd=ROOT)

    def ended(self) -> int:
        """Wait for its end; its status."""
        assert self.process is not None
        return self.process.wait(DEADLINE_S)

    def stop(self) -> int:
        """Press Ctrl-C, if it still runs; its status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.ended()

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds; fail with what was said if the stack ends before."""
        assert self.process is not None
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                pytest.fail(f"the stack does not work:\n{self.said()[-3000:]}")
            time.sleep(0.2)

    def said(self) -> str:
        """What it has said so far."""
        return (self.folder / "said").read_text()

    def query(self, statement: str, user: str = "grafana") -> tuple[int, list[dict[str, Any]]]:
        """The status, and the series that a user is shown."""
        secret = (self.folder / "secrets" / f"influx1-{user}-password").read_text()
        login = base64.b64encode(f"{user}:{secret}".encode()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            words = urlencode({"db": "cityeye", "q": statement})
            headers = {
                "Authorization": f"Basic {login}",
                "Content-Type": "application/x-www-form-urlencoded",
            }
            connection.request("POST", "/query", words, headers)
            answer = connection.getresponse()
            body = json.loads(answer.read())
        except OSError:
            return 0, []
        finally:
            connection.close()
        series = [one for result in body.get("results", []) for one in result.get("series", [])]
        return answer.status, series


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that has stored readings and its ledger."""
    found = Stack(tmp_path_factory.mktemp("stack"))
    found.start()
    try:
        found.until(lambda: found.query('SELECT last("received") FROM "cityeye"')[1])
        yield found
    finally:
        found.stop()


def alert_queries() -> Iterator[tuple[str, str]]:
    """The InfluxQL of Grafana's alert rules, by the rule's uid."""
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["uid"], rule["data"][0]["model"]["query"]


def test_readings(stack: Stack) -> None:
    """Readings of every domain come over TLS with their own logins into the database."""
    names = {name for one in stack.query("SHOW MEASUREMENTS")[1] for [name] in one["values"]}

    assert {"air", "water", "gas", "emission", "cityeye"} <= names


def test_reader_may_not_write(stack: Stack) -> None:
    """Grafana's user reads and can do nothing else."""
    assert 403 == stack.query('DROP MEASUREMENT "air"')[0]


def test_retention(stack: Stack) -> None:
    """Readings are kept for 30 days."""
    [policies] = stack.query("SHOW RETENTION POLICIES ON cityeye", "admin")[1]

    assert ["autogen", "720h0m0s"] == policies["values"][0][:2]


@pytest.mark.parametrize(("uid", "query"), list(alert_queries()), ids=lambda value: value[:30])
def test_alert_rules(stack: Stack, uid: str, query: str) -> None:
    """Each alert rule's query gives Grafana one number, and a sound stack does not alarm."""
    [series] = stack.query(query.replace("$timeFilter", "time > now() - 5m"))[1]
    [[_, number]] = series["values"]
    limits = {"cityeye-ledger-mismatch": (0, 0), "cityeye-database-refusing": (0, 10_000)}
    low, high = limits.get(uid, (0, float("inf")))

    assert low <= number <= high


def test_addresses(stack: Stack) -> None:
    """It says where everything is, and no secret."""
    said = stack.said()

    assert f"InfluxDB   http://127.0.0.1:{stack.port}, database cityeye" in said
    assert [] == [
        path.name for path in (stack.folder / "secrets").iterdir() if path.read_text() in said
    ]


def test_port_in_use(tmp_path: Path) -> None:
    """A port in use is named, with the remedy."""
    stack = Stack(tmp_path)
    with socket.create_server(("127.0.0.1", stack.port)):
        stack.start()

        assert 1 == stack.ended()
        assert f"127.0.0.1:{stack.port}: Address already in use; stop it" in stack.said()


def test_other_secrets(tmp_path: Path) -> None:
    """It starts again on its data; with other secrets these are named, and not said."""
    stack = Stack(tmp_path)
    for _ in range(2):
        stack.start()
        stack.until(lambda: "Ctrl-C stops everything" in stack.said())
        stack.stop()
    (tmp_path / "secrets" / "influx1-admin-password").write_text("another")
    stack.start()

    assert 1 == stack.ended()
    assert "if the secrets are newer than its data, put the old ones back" in stack.said()
    assert "another" not in stack.said()


def test_stop(stack: Stack) -> None:
    """Ctrl-C stops everything in order, and both ends account for every message."""
    assert 0 == stack.stop()
    assert 2 == len(re.findall("Every message is accounted for", stack.said()))
