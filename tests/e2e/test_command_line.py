"""The shipped command, as a user types it, in processes of its own."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest
import typer.main

from city.cityfile import shipped_cities
from cli import reference
from cli.main import app

DEADLINE_S = 60.0
PROGRAM = str(Path(sys.executable).with_name("cityeye"))
HELPS = dict(reference.helps("cityeye", typer.main.get_command(app)))
COMMANDS = [name for name, text in HELPS.items() if "COMMAND [ARGS]" not in text]
DOCS = Path(reference.__file__).parent.parent / "docs"
SMALL = """
city: smallville
districts: [{id: d1}]
sites:
  - id: air-1
    district: d1
    domain: air
    devices: [{id: a, kind: air-micro, interval_s: 1}, {id: b, kind: air-gas, interval_s: 0.5}]
"""

Say = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the commands work, with a city without gas, which starts at once."""
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment without settings of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CITYEYE_")}


@pytest.fixture
def say(folder: Path, environment: dict[str, str]) -> Say:
    """Runs `cityeye` with some arguments to its end."""

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, *words], cwd=folder, env=environment | more, capture_output=True, text=True,
            timeout=DEADLINE_S, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def start(folder: Path, environment: dict[str, str]) -> Iterator[Start]:
    """Starts `cityeye` and returns once it works; it is stopped at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: str, data: str = "data") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [PROGRAM, *words, "--data", data], cwd=folder, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        give_up_s = time.monotonic() + DEADLINE_S
        while not (folder / data / "run.json").exists():
            if process.poll() is not None or time.monotonic() > give_up_s:
                process.kill()
                pytest.fail(f"it does not work: {process.communicate()[1]}")
            time.sleep(0.02)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=DEADLINE_S)


def stop(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Press Ctrl-C; what it said on standard output and standard error."""
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=DEADLINE_S)


def received(folder: Path) -> int:
    """How many messages the service in `data` has taken in."""
    path = folder / "data" / "spool.sqlite"
    statement = "SELECT coalesce(sum(count), 0) FROM ledger WHERE fate = 'received'"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        [[count]] = database.execute(statement).fetchall()
    return int(count)


def calm(folder: Path) -> str:
    """The name of a file with the default city, in which nothing happens."""
    path = folder / "calm.yaml"
    shipped = shipped_cities()["lanting"].read_text(encoding="utf-8")
    path.write_text(shipped.partition("\nevents:")[0] + "\n", encoding="utf-8")
    return path.name


def readings(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that a DuckDB file holds but the service's own figures, rows and columns sorted.

    A table's columns stand in the order in which their quantities first arrived.
    """
    with duckdb.connect(str(path), read_only=True) as database:
        names = [name for (name,) in database.execute("SHOW TABLES").fetchall()]
        content = {}
        for name in set(names) - {"cityeye"}:
            columns = sorted(row[0] for row in database.execute(f'DESCRIBE "{name}"').fetchall())
            chosen = ", ".join(f'"{column}"' for column in columns)
            found = database.execute(f'SELECT {chosen} FROM "{name}" ORDER BY ALL').fetchall()
            content[name] = [tuple(columns), *found]
        return content


EMBEDDED = ("--broker", "embedded")
BROKERS = ["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]


class TestRun:
    """`cityeye run`."""

    def test_complete(self, say: Say) -> None:
        """One JSON object says that all that was measured is stored, once."""
        done = say("run", "--for", "5s", "--json", *EMBEDDED)
        told = json.loads(done.stdout)

        ledger = told["ledger"]
        fates = ("written", "duplicate", "quarantined", "refused", "pending")
        assert 0 == done.returncode
        assert {"broker", "store", "devices", "messages", "readings", "stored", "alarms"} <= set(
            told
        )
        assert {"raised", "cleared"} <= set(told["alarms"])
        assert (0, ledger["received"]) == (ledger["pending"], sum(ledger[fate] for fate in fates))
        assert (60, told["readings"]) == (told["devices"], told["stored"])
        assert told["messages"] == told["acknowledged"] >= 60

    @pytest.mark.mosquitto
    def test_mosquitto(self, say: Say) -> None:
        """The same holds with a Mosquitto of our own."""
        done = say("run", "--for", "2s", "--json", "--broker", "mosquitto", "--city", "small.yaml")
        told = json.loads(done.stdout)

        assert 0 == done.returncode
        assert told["broker"].startswith("Mosquitto 2")
        assert (told["readings"], 0) == (told["stored"], told["ledger"]["pending"])

    def test_seed(self, say: Say, folder: Path) -> None:
        """One seed gives identical readings, another seed others; alarms come and go in all."""
        stored = []
        for data, seed in [("a", "1"), ("b", "1"), ("c", "2")]:
            words = ("--speed", "max", "--for", "5m", "--seed", seed, "--data", data, "--json")
            alarms = json.loads(say("run", *words).stdout)["alarms"]
            stored.append(readings(folder / data / "store.duckdb"))

            assert min(alarms["raised"], alarms["cleared"]) >= 1
            for of_the_wall in ("stations", "orders"):
                stored[-1].pop(of_the_wall, None)
        assert {"air", "water", "gas", "emission", "alarms"} == set(stored[0])
        assert stored[0] == stored[1]
        assert all(stored[0][name] != stored[2][name] for name in ("air", "water", "gas"))

    @pytest.mark.mosquitto
    @pytest.mark.parametrize(
        ("start", "left"),
        [("2026-06-01T08:00:40+08:00", (2, 2)), ("2026-05-01T08:00:00+08:00", (0, 0))],
    )
    def test_again(self, say: Say, folder: Path, start: str, left: tuple[int, int]) -> None:
        """Alarms of an earlier run clear in a later one; where time begins earlier, they are gone.

        Nobody has acknowledged them: those that cleared stay visible.
        """
        words = ("run", "--speed", "max", "--json", "--broker", "mosquitto", "--for", "15s")
        first = json.loads(say(*words).stdout)["alarms"]
        quiet = calm(folder)
        second = json.loads(say(*words, "--start", start, "--city", quiet).stdout)["alarms"]

        assert (2, 0, 2) == (first["raised"], first["cleared"], first["standing"])
        assert (0, *left) == (second["raised"], second["cleared"], second["standing"])

    def test_repeated(self, say: Say) -> None:
        """The same time simulated again is stored again, over what is there."""
        words = ("run", "--speed", "max", "--for", "10m", "--city", "small.yaml", "--json",
                 "--start", "2026-06-01T08:00:00+08:00", *EMBEDDED)  # fmt: skip
        first, second = (json.loads(say(*words).stdout) for _ in range(2))

        assert first["readings"] == first["stored"] == second["stored"]
        assert 0 == second["ledger"]["pending"]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_stopped(self, start: Start, number: int) -> None:
        """Ctrl-C and SIGTERM end the run in order: a summary, nothing missing, exit status 0."""
        process = start("run", *EMBEDDED, "--city", "small.yaml")
        process.send_signal(number)
        out, _ = process.communicate(timeout=DEADLINE_S)

        assert 0 == process.returncode
        assert "Every message is accounted for." == out.splitlines()[-1]

    def test_nothing_left(self, start: Start, folder: Path) -> None:
        """After the end nobody finds a broker in the data directory."""
        stop(start("run", *EMBEDDED, "--city", "small.yaml"))

        assert not (folder / "data" / "run.json").exists()

    def test_one_directory(self, start: Start, say: Say) -> None:
        """A second one in the same directory is told so, and does not disturb the first."""
        process = start("run", *EMBEDDED, "--city", "small.yaml")
        second = say("run", "--data", "data", "--city", "small.yaml")
        listed = say("alarms", "list", "--data", "data")
        stop(process)

        assert (1, 0, 0) == (second.returncode, listed.returncode, process.returncode)
        assert (
            "cityeye: data is used by another cityeye; stop it, or choose another directory with "
            "--data"
        ) == second.stderr.splitlines()[-1]

    @pytest.mark.parametrize("broker", BROKERS)
    def test_port_in_use(self, say: Say, broker: str) -> None:
        """A port that another program listens on is named, with what to do."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            done = say("run", "--broker", broker, "--broker-port", port, "--city", "small.yaml")

        assert 1 == done.returncode
        assert (
            f"cityeye: port in use: another program listens on 127.0.0.1:{port}; stop it"
            in done.stderr
        )

    def test_no_broker(self, say: Say) -> None:
        """A broker that is not there is named after the patience, with what to do."""
        done = say(
            "sim", "--broker", "mqtt://127.0.0.1:1", "--patience-s", "0.5", "--city", "small.yaml"
        )

        assert 1 == done.returncode
        assert "broker mqtt://127.0.0.1:1 cannot be reached for 0.5 s" in done.stderr
        assert "give another one with --broker" in done.stderr

    def test_impatient(self, folder: Path, environment: dict[str, str]) -> None:
        """Ctrl-C before the work begins ends the command at once."""
        process = subprocess.Popen(
            [PROGRAM, "sim", "--broker", "mqtt://127.0.0.1:1", "--city", "small.yaml"],
            cwd=folder, env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr
        told = process.stderr.readline() + process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=DEADLINE_S)

        assert "broker not reachable" in told
        assert (130, "") == (process.returncode, rest)


class TestParts:
    """`cityeye sim` and `cityeye ingest`, one process each."""

    def test_together(self, start: Start, say: Say, folder: Path) -> None:
        """What one process simulates, the other one stores."""
        ingest = start("ingest", *EMBEDDED, "--city", "small.yaml", "--json")
        broker = json.loads((folder / "data" / "run.json").read_text())["broker"]
        sim = say(
            "sim",
            "--broker",
            broker,
            "--city",
            "small.yaml",
            "--for",
            "2s",
            "--json",
            "--data",
            "data",
        )
        give_up_s = time.monotonic() + DEADLINE_S
        while received(folder) < json.loads(sim.stdout)["messages"]:
            assert time.monotonic() < give_up_s
            time.sleep(0.02)
        out, _ = stop(ingest)

        assert (0, 0) == (sim.returncode, ingest.returncode)
        assert json.loads(sim.stdout)["readings"] == json.loads(out)["stored"] > 0


class TestAlarms:
    """`cityeye alarms`."""

    def test_list_and_watch(self, start: Start, say: Say) -> None:
        """What stands is listed, and watching begins with it; the run is found by itself."""
        process = start("run", "--speed", "2")
        give_up_s = time.monotonic() + DEADLINE_S
        listed: dict[str, Any] = {"alarms": []}
        while not listed["alarms"] and time.monotonic() < give_up_s:
            listed = json.loads(say("alarms", "list", "--json", "--data", "data").stdout)
        watched = say("alarms", "watch", "--for", "4s", "--json", "--data", "data")
        stop(process)

        lines = [json.loads(line) for line in watched.stdout.splitlines()]
        assert {"site", "device", "rule", "limit", "standard"} <= set(listed["alarms"][0])
        assert listed["alarms"][-1]["rule"] in {line["rule"] for line in lines}
        assert 0 == watched.returncode

    def test_nobody_runs(self, say: Say) -> None:
        """Where no `cityeye` runs, that is said, with what to give instead."""
        done = say("alarms", "list")

        assert 2 == done.returncode
        assert "no cityeye runs in cityeye-data; start one, or give --broker" in done.stderr


class TestCheck:
    """`cityeye check`."""

    def test_good(self, say: Say) -> None:
        """Good files are summed up."""
        done = say("check", "lanting", "gas-network", "small.yaml", "--json")

        told = json.loads(done.stdout)
        assert 0 == done.returncode
        assert ("lanting", "smallville") == (told["lanting"]["city"], told["small.yaml"]["city"])
        assert told["gas-network"]["rules"] >= 1

    def test_bad(self, say: Say, folder: Path) -> None:
        """Each bad file is told with line, path, what was found and what is allowed."""
        (folder / "key.yaml").write_text(SMALL.replace("districts", "distrits"))
        (folder / "kind.yaml").write_text(SMALL.replace("air-gas", "air-glass"))
        done = say("check", "key.yaml", "kind.yaml", "small.yaml")

        assert (2, "") == (done.returncode, done.stdout)
        assert (
            "key.yaml:3: distrits: unknown key 'distrits'; did you mean 'districts'? allowed:"
            in done.stderr
        )
        assert (
            "kind.yaml:8: sites[0].devices[1].kind: unknown device kind 'air-glass'" in done.stderr
        )
        assert "did you mean 'air-gas'? allowed: air-gas, air-micro, air-station" in done.stderr

    def test_missing(self, say: Say) -> None:
        """A file that is not there is wrong input."""
        assert 2 == say("check", "nowhere.yaml").returncode


class TestDoctor:
    """`cityeye doctor`."""

    def test_json(self, say: Say) -> None:
        """It says what is there and what would be used."""
        done = say("doctor", "--json")

        told = json.loads(done.stdout)
        assert 0 == done.returncode
        assert {"mosquitto", "influxd", "broker", "store", "data", "python"} <= set(told)

    def test_missing(self, say: Say) -> None:
        """A broker that does not answer is said, and makes it fail."""
        done = say("doctor", "--broker", "mqtt://127.0.0.1:1")

        assert 1 == done.returncode
        assert "mqtt://127.0.0.1:1 does not answer" in done.stdout


class TestUsage:
    """What a user may get wrong."""

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (("run", "--city", "lantin"), "no city named 'lantin'; did you mean 'lanting'?"),
            (("run", "--speed", "0"), "--speed: '0' is not allowed; give a number > 0 or 'max'"),
            (("run", "--for", "soon"), "--for: 'soon' is not a duration"),
            (("run", "--broker", "rabbit"), "--broker: unknown broker 'rabbit'; allowed: embedded"),
            (("run", "--data", "small.yaml"), "--data: small.yaml cannot be used: File exists"),
            (("run", "--rules", "gas-netwrk"), "did you mean 'gas-network'?"),
            (("run", "--log", "loud"), "--log: expected one of debug, info, warning, error"),
            (("run", "--tempo", "2"), "No such option: --tempo"),
        ],
    )
    def test_wrong(self, say: Say, words: tuple[str, ...], told: str) -> None:
        """Wrong input is told in one line with what is allowed; nothing is started."""
        done = say(*words)

        assert (2, "") == (done.returncode, done.stdout)
        assert told in done.stderr
        assert "Traceback" not in done.stderr

    def test_variable(self, say: Say) -> None:
        """A variable that is no setting is wrong input, too."""
        done = say("doctor", CITYEYE_BROKR="x")

        assert 2 == done.returncode
        assert "CITYEYE_BROKR: no such setting; did you mean 'CITYEYE_BROKER'?" in done.stderr

    def test_version(self, say: Say) -> None:
        """It knows its version."""
        assert say("--version").stdout.startswith("cityeye 0.")


class TestHelp:
    """What the program says of itself."""

    @pytest.mark.parametrize("name", COMMANDS)
    def test_example(self, name: str) -> None:
        """Every command's help has an example of that command."""
        assert f"Example: {name} " in HELPS[name]

    def test_no_secret(self) -> None:
        """No command has an option that carries a secret."""
        words = {word for text in HELPS.values() for word in text.split() if word.startswith("--")}

        assert set() == {
            word for word in words if "password" in word or "token" in word or "user" in word
        }

    @pytest.mark.parametrize("page", ["settings", "commands"])
    def test_docs(self, page: str) -> None:
        """The pages in docs/ say what the program says; `python -m cli.reference` writes them."""
        made = {"settings": reference.settings_page, "commands": reference.commands_page}[page]()

        assert made == (DOCS / f"{page}.md").read_text(encoding="utf-8")
