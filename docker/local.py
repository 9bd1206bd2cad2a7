"""The stack without containers: `make up-local`, on this machine's Mosquitto and InfluxDB 1.x.

It starts them with the files that Compose mounts (the broker's installation, `influx1/influxdb.conf`,
the secrets), then `cityeye ingest` and `cityeye sim`, over TLS and with their own logins, and stops
all of them in order at Ctrl-C. Grafana is not there.
"""

import argparse
import asyncio
import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlencode

from broker.credentials import CREDENTIALS_FILE, read_credentials
from broker.installation import BROKER_FOLDER, CA
from broker.mosquitto import answers, find_mosquitto, free_port
from broker.mosquittoconf import CONF_FILE
from city.errors import CityEyeError, InputError, ServiceError

HERE: Final = Path(__file__).resolve().parent
LOOPBACK: Final = "127.0.0.1"
DATABASE: Final = "cityeye"
RETENTION: Final = "30d"
START_S: Final = 60.0
GRACE_S: Final = 150.0
"""As in Compose: longer than what ingest allows itself for its last write."""

_POLL_S: Final = 0.1
_TAIL: Final = 2_000


class Options(NamedTuple):
    """What the command line says."""

    secrets: Path
    broker: Path
    data: Path
    influxdb_port: int
    city: str
    speed: str
    log: str


class Program(NamedTuple):
    """A program that runs until it is told to stop."""

    name: str
    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str]
    log: Path | None
    """Where its output goes; None: to ours."""


Running = tuple[Program, subprocess.Popen[bytes]]


def secret(options: Options, name: str) -> str:
    """The content of a file of `docker/secrets`.

    Raises:
        InputError: It is missing.
    """
    path = options.secrets / name
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; `make secrets` makes what is missing"
        ) from error


def check_free(port: int, remedy: str) -> None:
    """Raise if somebody listens on a port of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise ServiceError(
                f"{LOOPBACK}:{port}: {error.strerror}; stop it, or {remedy}"
            ) from error


def mosquitto(options: Options) -> Program:
    """Mosquitto in the folder that `cityeye broker init` wrote."""
    found = find_mosquitto()
    if found is None:
        raise ServiceError("Mosquitto is not installed; `make services` installs it")
    folder = options.broker / BROKER_FOLDER
    if not (folder / CONF_FILE).is_file():
        raise InputError(f"{folder / CONF_FILE} is missing; `make secrets` writes it")
    command = [str(found), "-c", CONF_FILE]
    return Program("mosquitto", command, folder, {}, options.data / "mosquitto.log")


def influxd(options: Options) -> Program:
    """InfluxDB 1.x with Compose's configuration, on loopback and in our folder."""
    found = shutil.which("influxd")
    if found is None:
        raise ServiceError("InfluxDB 1.x is not installed; `make services` installs it")
    check_free(
        options.influxdb_port, "give another one: make up-local ARGS='--influxdb-port 18086'"
    )
    files = options.data / "influxdb"
    environment = {
        "INFLUXDB_HTTP_BIND_ADDRESS": f"{LOOPBACK}:{options.influxdb_port}",
        "INFLUXDB_BIND_ADDRESS": f"{LOOPBACK}:{free_port()}",
        "INFLUXDB_META_DIR": str(files / "meta"),
        "INFLUXDB_DATA_DIR": str(files / "data"),
        "INFLUXDB_DATA_WAL_DIR": str(files / "wal"),
    }
    command = [found, "-config", str(HERE / "influx1" / "influxdb.conf")]
    return Program("influxd", command, options.data, environment, options.data / "influxd.log")


def cityeye(options: Options, name: str, environment: Mapping[str, str]) -> Program:
    """`cityeye sim` or `cityeye ingest`, with the logins that the broker's installation holds."""
    port = read_credentials(options.broker / CREDENTIALS_FILE).port
    wired = {
        "CITYEYE_CITY": options.city,
        "CITYEYE_BROKER": f"mqtts://{LOOPBACK}:{port}",
        "CITYEYE_BROKER_CA": str(options.broker / CA),
        "CITYEYE_BROKER_CREDENTIALS": str(options.broker / CREDENTIALS_FILE),
        "CITYEYE_DATA": str(options.data / name),
        "CITYEYE_LOG": options.log,
    }
    command = [sys.executable, "-m", "cli.main", name]
    return Program(name, command, HERE.parent, {**wired, **environment}, None)


def stored(options: Options) -> dict[str, str]:
    """What ingest needs to know of the database; the file is Compose's, the address is ours."""
    return {
        "CITYEYE_STORE": f"influx1://{LOOPBACK}:{options.influxdb_port}/{DATABASE}",
        "CITYEYE_STORE_USER": "ingest",
        "CITYEYE_STORE_PASSWORD_FILE": str(options.secrets / "influx1-ingest-password"),
    }


@contextmanager
def running(program: Program) -> Iterator[subprocess.Popen[bytes]]:
    """The program, stopped at the end, by force if it does not stop in time."""
    with ExitStack() as stack:
        output = stack.enter_context(program.log.open("wb")) if program.log else None
        process = subprocess.Popen(
            program.command,
            cwd=program.folder,
            env={**os.environ, **program.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is ours; we stop them in order
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def until(ready: Callable[[], bool], program: Program, process: subprocess.Popen[bytes]) -> None:
    """Return once `ready`; raise with the program's own words if it ends or takes too long."""
    deadline_s = time.monotonic() + START_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise ServiceError(f"{program.name} does not start{said(program)}")
        time.sleep(_POLL_S)


def said(program: Program) -> str:
    """The end of a program's output, as the tail of a message."""
    text = program.log.read_text(errors="replace").strip() if program.log else ""
    return f"; it said:\n{text[-_TAIL:]}" if text else ""


def influxql(port: int, statement: str, login: tuple[str, str] | None = None) -> tuple[int, str]:
    """The status and the answer of an InfluxQL statement; the secret goes in a header."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    if login:
        words = base64.b64encode(":".join(login).encode()).decode()
        headers["Authorization"] = f"Basic {words}"
    try:
        connection.request("POST", "/query", urlencode({"q": statement}), headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except OSError as error:
        return 0, str(error)
    finally:
        connection.close()


def make_users(options: Options) -> None:
    """The database, and the users that the profile `influx1` has; what is there stays.

    Raises:
        ServiceError: InfluxDB does not take a statement.
    """
    passwords = {
        user: secret(options, f"influx1-{user}-password") for user in ("admin", "ingest", "grafana")
    }
    admin = ("admin", passwords["admin"])
    first = f"CREATE USER admin WITH PASSWORD '{passwords['admin']}' WITH ALL PRIVILEGES"
    if influxql(options.influxdb_port, "SHOW DATABASES", admin)[0] != http.HTTPStatus.OK:
        ask(options.influxdb_port, first, None)
    for statement in (
        f"CREATE DATABASE {DATABASE} WITH DURATION {RETENTION} NAME autogen",
        f"CREATE RETENTION POLICY rollup ON {DATABASE} DURATION INF REPLICATION 1",
        f"CREATE USER ingest WITH PASSWORD '{passwords['ingest']}'",
        f"GRANT ALL ON {DATABASE} TO ingest",
        f"CREATE USER grafana WITH PASSWORD '{passwords['grafana']}'",
        f"GRANT READ ON {DATABASE} TO grafana",
    ):
        ask(options.influxdb_port, statement, admin)


def ask(port: int, statement: str, login: tuple[str, str] | None) -> None:
    """Carry out a statement; the error repeats its first words only, for a password may follow."""
    status, answer = influxql(port, statement, login)
    problem = "" if status != http.HTTPStatus.OK else json.dumps(json.loads(answer)["results"])
    if status != http.HTTPStatus.OK or "error" in problem:
        what = " ".join(statement.split()[:3])
        raise ServiceError(
            f"InfluxDB on port {port} refused {what}: {status} {problem or answer.strip()}; if the "
            "secrets are newer than its data, put the old ones back or give up the data"
        )


def run(options: Options, stop: Callable[[], bool]) -> None:
    """Start everything, say where it is, and wait for the wish to stop.

    Raises:
        CityEyeError: A part is missing, does not start, or ends by itself.
    """
    options.data.mkdir(parents=True, exist_ok=True)
    credentials = read_credentials(options.broker / CREDENTIALS_FILE)
    again = f"move it: cityeye broker init --city {options.city} --out {options.broker} --port PORT"
    for port in (credentials.port, credentials.plain_port):
        check_free(port, again)
    with ExitStack() as stack:
        processes: list[Running] = []
        for program, ready in (
            (mosquitto(options), lambda: asyncio.run(answers(LOOPBACK, credentials.plain_port))),
            (influxd(options), lambda: influxql(options.influxdb_port, "SHOW DATABASES")[0] > 0),
        ):
            processes.append((program, stack.enter_context(running(program))))
            until(ready, *processes[-1])
        make_users(options)
        ours = (
            cityeye(options, "ingest", stored(options)),
            cityeye(options, "sim", {"CITYEYE_SPEED": options.speed, "CITYEYE_START": "now"}),
        )
        processes += [(program, stack.enter_context(running(program))) for program in ours]
        sys.stderr.write(addresses(options, credentials.port))
        watch(processes, stop)


def watch(processes: Sequence[Running], stop: Callable[[], bool]) -> None:
    """Return at the wish to stop; raise if a program ends by itself."""
    while not stop():
        for program, process in processes:
            if process.poll() is not None:
                raise ServiceError(
                    f"{program.name} ended with status {process.returncode}{said(program)}"
                )
        time.sleep(_POLL_S)


def addresses(options: Options, port: int) -> str:
    """Where everything is, for people."""
    return (
        f"Mosquitto  mqtts://{LOOPBACK}:{port}, certificates: {options.broker / CA}\n"
        f"InfluxDB   http://{LOOPBACK}:{options.influxdb_port}, database {DATABASE}, to read: user "
        f"grafana, password in {options.secrets / 'influx1-grafana-password'}\n"
        "Grafana    not here; `make up` has it, in containers\n"
        "Ctrl-C stops everything in order.\n"
    )


def given(arguments: Sequence[str] | None) -> Options:
    """The command line."""
    parser = argparse.ArgumentParser(prog="docker/local.py", description=__doc__)
    parser.add_argument("--secrets", type=Path, default=HERE / "secrets")
    parser.add_argument("--broker", type=Path, default=HERE / "mosquitto")
    parser.add_argument("--data", type=Path, default=Path("cityeye-data/local"))
    parser.add_argument("--influxdb-port", type=int, default=8086)
    parser.add_argument("--city", default="lanting")
    parser.add_argument("--speed", default="1")
    parser.add_argument("--log", default="info")
    found = vars(parser.parse_args(arguments))
    for name in ("secrets", "broker", "data"):
        found[name] = found[name].absolute()
    return Options(**found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until Ctrl-C; the exit status."""
    wanted: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: wanted.append(got))
    try:
        run(given(arguments), lambda: bool(wanted))
    except CityEyeError as error:
        sys.stderr.write(f"up-local: {error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
