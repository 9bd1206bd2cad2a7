"""One message that is far too large, on a broker that lets it through."""

import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from broker.mosquitto import find_mosquitto
from city.clock import wall_ms

TOPIC = "cityeye/v1/lanting/old-town/air/park/aq-1/telemetry"
DEADLINE_S = 60.0


def listening(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def unlimited() -> Iterator[int]:
    """The port of a Mosquitto as it comes, which has no bound for messages."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    program = find_mosquitto()
    assert program is not None
    broker = subprocess.Popen(
        [program, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline_s = time.monotonic() + DEADLINE_S
    while not listening(port) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    yield port
    broker.terminate()
    broker.wait(DEADLINE_S)


def publish(port: int, payloads: list[bytes]) -> None:
    """Publish at QoS 1, and return when the broker has acknowledged everything."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="stranger")
    client.connect("127.0.0.1", port)
    client.loop_start()
    for payload in payloads:
        client.publish(TOPIC, payload, qos=1).wait_for_publish(DEADLINE_S)
    client.disconnect()
    client.loop_stop()


def received(data: Path) -> int:
    """How many messages the ledger in a data directory has seen."""
    statement = "SELECT coalesce(sum(count), 0) FROM ledger WHERE fate = 'received'"
    with closing(sqlite3.connect(f"file:{data / 'spool.sqlite'}?mode=ro", uri=True)) as database:
        [[count]] = database.execute(statement).fetchall()
    return int(count)


@pytest.mark.mosquitto
def test_too_large(unlimited: int, tmp_path: Path) -> None:
    """It is quarantined and acknowledged like any bad message, and what follows is taken in."""
    command = shutil.which("cityeye", path=str(Path(sys.executable).parent))
    ingest = subprocess.Popen(
        [
            str(command), "ingest", "--every-city", "--json",
            "--broker", f"mqtt://127.0.0.1:{unlimited}", "--data", str(tmp_path),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    deadline_s = time.monotonic() + DEADLINE_S
    while not (tmp_path / "run.json").exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    good = [
        json.dumps({"ts": wall_ms() + seq, "seq": seq, "values": {"pm25": 1.0}}).encode()
        for seq in range(20)
    ]
    publish(unlimited, [good[0], bytes(2 << 20), *good[1:]])
    while received(tmp_path) < 21 and time.monotonic() < deadline_s:
        time.sleep(0.05)
    ingest.send_signal(signal.SIGINT)
    said, _ = ingest.communicate(timeout=DEADLINE_S)
    ledger = json.loads(said)["ledger"]

    assert 0 == ingest.returncode
    assert (21, 20, 0) == (ledger["received"], ledger["written"], ledger["pending"])
    assert {"quarantined:too-large": 1} == ledger["reasons"]
