"""`cityeye load` as a user types it, against a real Mosquitto."""

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
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


@contextmanager
def loading(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A test that runs, once it says that devices send."""
    with subprocess.Popen(
        [CITYEYE, "load", *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as test:  # fmt: skip
        assert test.stderr is not None
        for line in test.stderr:
            if "event=loading" in line:
                break
        yield test


def kill_part(test: subprocess.Popen[str], place: int) -> None:
    """End at once the process that the test started as that one of its parts."""
    children = psutil.Process(test.pid).children()
    parts = [one for one in children if "load.processes" in one.cmdline()]
    sorted(parts, key=psutil.Process.create_time)[place].kill()


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
        "--devices", "50", "--for", "10m", "--ramp", "1s", "--broker", "mosquitto", "--out", "out",
        "--json",
    ]  # fmt: skip
    with loading(tmp_path, *words) as test:
        test.send_signal(signal.SIGINT)
        out, _ = test.communicate(timeout=TIMEOUT_S)

    figures = json.loads(out)
    assert 0 == test.returncode
    assert (50, 0) == (figures["connected"], figures["lost"])
    assert figures["lasted_s"] < 300
    assert figures["run"] == report_in(tmp_path / "out")["run"]


@pytest.mark.mosquitto
@pytest.mark.parametrize("how", ["Ctrl-C twice", "kill -9"])
def test_ended_at_once(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is ended, none of its processes stays, and none complains."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    words = ["--devices", "50", "--for", "10m", "--ramp", "1s", "--broker", "mosquitto"]
    with loading(tmp_path, *words) as test:
        parts = psutil.Process(test.pid).children(recursive=True)
        if how == "kill -9":
            test.kill()
        else:
            test.send_signal(signal.SIGINT)
            assert test.stderr is not None
            assert "Ctrl-C again" in test.stderr.readline()
            test.send_signal(signal.SIGINT)
        _, errors = test.communicate(timeout=TIMEOUT_S)
        _, alive = psutil.wait_procs(parts, timeout=TIMEOUT_S)

    assert 3 == len(parts)
    assert ([], "") == (alive, errors)
    assert how == "kill -9" or not list(tmp_path.glob("cityeye-load-*"))


@pytest.mark.mosquitto
def test_shard_killed(tmp_path: Path) -> None:
    """A shard process that is killed is replaced: nothing is lost, and the report says so."""
    words = [
        "--devices", "100", "--rate", "300", "--for", "14s", "--ramp", "1s", "--processes", "2",
        "--broker", "mosquitto", "--out", "out", "--json",
    ]  # fmt: skip
    with loading(tmp_path, *words) as test:
        kill_part(test, 0)
        out, _ = test.communicate(timeout=TIMEOUT_S)

    figures = json.loads(out)
    received = sum(part["counts"].get("distinct", 0) for part in figures["parts"])
    assert 0 == test.returncode
    assert (True, 100, 0) == (figures["complete"], figures["connected"], figures["lost"])
    assert received == sum(part["confirmed"] for part in figures["parts"])
    assert ["was started again", "died after"] == [
        words for words in ("was started again", "died after", "bottleneck", "at its own limit")
        if any(words in warning for warning in figures["warnings"])
    ]  # fmt: skip


@pytest.mark.mosquitto
def test_subscriber_killed(tmp_path: Path) -> None:
    """Without its subscriber a test goes on to its report, in which loss is unknown: status 1."""
    words = [
        "--devices", "50", "--rate", "100", "--for", "12s", "--ramp", "1s", "--broker", "mosquitto",
        "--out", "out", "--json",
    ]  # fmt: skip
    with loading(tmp_path, *words) as test:
        kill_part(test, 1)
        out, _ = test.communicate(timeout=TIMEOUT_S)

    figures = json.loads(out)
    assert 1 == test.returncode
    assert (False, 50, None) == (figures["complete"], figures["connected"], figures["lost"])
    assert figures["sent"] == figures["acked"] >= 1_200
    assert any("subscriber 1 of 1 died" in warning for warning in figures["warnings"])


@pytest.mark.mosquitto
def test_no_place_for_the_report(tmp_path: Path) -> None:
    """Where the report cannot be written, the figures are shown all the same."""
    (tmp_path / "taken").write_text("a file")
    done = cityeye(
        tmp_path, "--devices", "20", "--ramp", "1s", "--for", "2s", "--broker", "mosquitto",
        "--out", "taken/out", "--json",
    )  # fmt: skip

    assert 1 == done.returncode
    assert (20, 0) == tuple(json.loads(done.stdout)[name] for name in ("connected", "lost"))
    assert "the report cannot be written" in done.stderr


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
