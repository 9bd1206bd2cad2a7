"""`cityeye load` as a user types it, against a real Mosquitto."""

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_S = 100
CITYEYE = str(Path(sys.executable).parent / "cityeye")
FIGURES = (
    "devices", "connected", "sent", "acked", "received", "lost", "repeated", "out_of_order",
    "latency_ms", "lateness_ms", "cpu_us_per_msg", "rss_kb_per_device",
)  # fmt: skip


def cityeye(
    folder: Path, *words: str, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the shipped command to its end."""
    return subprocess.run(
        [CITYEYE, "load", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        preexec_fn=before,
    )


def report_in(folder: Path) -> Any:
    """The report that a test has written."""
    return json.loads((folder / "report.json").read_text())


@pytest.mark.mosquitto
def test_report(tmp_path: Path) -> None:
    """A test ends with one JSON object, and a page that opens without a network."""
    done = cityeye(
        tmp_path, "--devices", "200", "--rate", "400", "--ramp", "1s", "--for", "4s",
        "--broker", "mosquitto", "--out", "out", "--json",
    )  # fmt: skip

    assert 0 == done.returncode, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert set(FIGURES) <= set(figures)
    assert (200, 200, 0) == (figures["devices"], figures["connected"], figures["lost"])
    assert figures["sent"] == figures["acked"] == figures["received"] > 1_600
    assert {"p50", "p95", "p99", "max"} <= set(figures["latency_ms"]["subscriber"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script src=" not in page
    assert figures["run"] in page


@pytest.mark.mosquitto
def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends the phase, lets the devices say goodbye, and the report is written."""
    words = [
        "load", "--devices", "50", "--for", "10m", "--ramp", "1s", "--broker", "mosquitto",
        "--out", "out", "--json",
    ]  # fmt: skip
    with subprocess.Popen(
        [CITYEYE, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as test:
        assert test.stderr is not None
        deadline_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline_s and "working" not in test.stderr.readline():
            pass
        test.send_signal(signal.SIGINT)
        out, _ = test.communicate(timeout=TIMEOUT_S)

    figures = json.loads(out)
    assert 0 == test.returncode
    assert (50, 0) == (figures["connected"], figures["lost"])
    assert figures["lasted_s"] < 300
    assert figures["run"] == report_in(tmp_path / "out")["run"]


@pytest.mark.mosquitto
def test_processes(tmp_path: Path) -> None:
    """Two processes and two subscribers add up."""
    done = cityeye(
        tmp_path, "--devices", "120", "--rate", "240", "--ramp", "1s", "--for", "4s", "--processes",
        "2", "--subscribers", "2", "--broker", "mosquitto", "--out", "out", "--json",
    )  # fmt: skip

    assert 0 == done.returncode, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    parts = figures["parts"]
    assert ["shard", "shard", "subscriber", "subscriber"] == [part["kind"] for part in parts]
    assert figures["sent"] == sum(part["counts"].get("sent", 0) for part in parts)
    assert figures["received"] == sum(part["counts"].get("received", 0) for part in parts)
    assert (120, 0) == (figures["connected"], figures["lost"])


@pytest.mark.mosquitto
def test_faults(tmp_path: Path) -> None:
    """Faults are injected, told, and not taken for losses of the broker."""
    done = cityeye(
        tmp_path, "--devices", "100", "--rate", "300", "--ramp", "1s", "--for", "5s", "--faults",
        "missing=3%,repeated=4%,malformed=2%", "--broker", "mosquitto", "--out", "out", "--json",
    )  # fmt: skip

    assert 0 == done.returncode, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert all(figures["faults"][name] > 0 for name in ("missing", "repeated", "malformed"))
    assert figures["faults"]["repeated"] == figures["repeated"]
    assert figures["faults"]["malformed"] == figures["unreadable"]
    assert 0 == figures["lost"]


@pytest.mark.mosquitto
def test_template(tmp_path: Path) -> None:
    """A stranger's payload is verified like our own."""
    done = cityeye(
        tmp_path, "--devices", "60", "--rate", "120", "--ramp", "1s", "--for", "3s", "--payload",
        "senml", "--broker", "mosquitto", "--out", "out", "--json",
    )  # fmt: skip

    assert 0 == done.returncode, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert (60, 0) == (figures["connected"], figures["lost"])
    assert figures["acked"] == figures["received"]


@pytest.mark.mosquitto
def test_secure(tmp_path: Path) -> None:
    """Every device logs in with its own password over TLS."""
    done = cityeye(
        tmp_path, "--devices", "30", "--interval", "500ms", "--ramp", "1s", "--for", "3s",
        "--secure", "--broker", "mosquitto", "--out", "out", "--json",
    )  # fmt: skip

    assert 0 == done.returncode, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert (30, 0) == (figures["connected"], figures["lost"])
    assert figures["refused"] == {}


@pytest.mark.mosquitto
def test_compare(tmp_path: Path) -> None:
    """Two reports are put side by side."""
    for name, rate in (("one", "60"), ("two", "120")):
        done = cityeye(
            tmp_path, "--devices", "30", "--rate", rate, "--ramp", "1s", "--for", "3s",
            "--name", name, "--broker", "mosquitto", "--data", "data", "--json",
        )  # fmt: skip
        assert 0 == done.returncode, done.stderr[-2000:]
    both = cityeye(tmp_path, "compare", "data/load/one", "data/load/two", "--html", "both.html")

    assert 0 == both.returncode, both.stderr[-2000:]
    assert "one" in both.stdout
    assert "two" in both.stdout
    assert (tmp_path / "both.html").stat().st_size > 10_000


def few_descriptors() -> None:
    """A process that may open 600 files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (600, 600))


def test_unknown_field(tmp_path: Path) -> None:
    """A template with an unknown field names file, place and what is allowed."""
    template = tmp_path / "mine.yaml"
    template.write_text('name: mine\ntopic: "plant/${device}"\npayload: \'{"t": ${tempo}}\'\n')
    done = cityeye(tmp_path, "--payload", "mine.yaml")

    assert 2 == done.returncode, done.stderr[-2000:]
    assert "mine.yaml:3" in done.stderr
    assert "tempo" in done.stderr


def test_too_many_devices(tmp_path: Path) -> None:
    """More devices than descriptors: the number possible and the remedy, before connecting."""
    done = cityeye(tmp_path, "--devices", "2000", before=few_descriptors)

    assert 2 == done.returncode, done.stderr[-2000:]
    assert "possible are 344 devices" in done.stderr
    assert "--processes" in done.stderr


def test_no_broker(tmp_path: Path) -> None:
    """A broker that is not there is named, with what to do."""
    done = cityeye(tmp_path, "--broker", "mqtt://127.0.0.1:9", "--patience-s", "1")

    assert 1 == done.returncode, done.stderr[-2000:]
    assert "no broker answers at mqtt://127.0.0.1:9" in done.stderr
