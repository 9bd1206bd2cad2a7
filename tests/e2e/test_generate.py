"""`cityeye generate`: days of simulated time into files or a store."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import structlog
import typer
from typer.testing import CliRunner, Result

from city.errors import DocumentError, SettingError
from city.settings import Settings
from cli import generate
from cli.scenarios import playing

START = "2026-06-01T22:00:00+08:00"
CITY = "synthetic:40:air-micro,air-gas"
PROGRAM = str(Path(sys.executable).with_name("cityeye"))
DEADLINE_S = 60.0


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """The command's logging ends with the test."""
    yield
    structlog.reset_defaults()


def run(out: Path, *options: str) -> Result:
    """The command as a user gives it."""
    app = typer.Typer()
    app.command()(generate.command)
    given = ["--out", str(out), "--start", START, "--data", str(out / "data"), *options]
    return CliRunner().invoke(app, given, catch_exceptions=True)


def figures(out: Path, *options: str) -> dict[str, Any]:
    """What the command says at its end."""
    result = run(out, *options, "--json")
    assert 0 == result.exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def query(path: Path, columns: str) -> list[tuple[Any, ...]]:
    """The rows of a Parquet file."""
    with duckdb.connect() as connection:
        rows: list[tuple[Any, ...]] = connection.execute(
            f"SELECT {columns} FROM '{path}'"
        ).fetchall()
        return rows


def test_days(tmp_path: Path) -> None:
    """Parquet has one file per domain and day of the city, in the order of the instants."""
    said = figures(tmp_path, "--city", CITY, "--interval", "60s", "--for", "4h")
    files = sorted(path.name for path in tmp_path.glob("*.parquet"))
    before = query(tmp_path / files[0], "count(*), min(epoch_ms(ts)), max(epoch_ms(ts))")

    assert ["air-2026-06-01.parquet", "air-2026-06-02.parquet"] == files
    assert 2 == said["files"]
    assert (40 * 240, 4 * 40 * 240) == (said["messages"], said["readings"])
    assert [(40 * 120, 1780322400000, 1780329600000)] == [
        (count, low - low % 60_000, high - high % 60_000 + 60_000) for count, low, high in before
    ]


def test_columns(tmp_path: Path) -> None:
    """A row has its instant, its device's place, a column per quantity of the domain, and flags."""
    figures(tmp_path, "--city", CITY, "--interval", "60s", "--for", "10m")
    path = tmp_path / "air-2026-06-01.parquet"
    names = _names(path)
    absent = query(path, "count(*) FILTER (pm25 IS NULL), count(*) FILTER (so2 IS NULL)")

    assert ["ts", "city", "district", "site", "device"] == names[:5]
    assert {"pm25", "pm10", "temperature", "humidity", "so2", "no2", "co", "o3"} == {*names[5:-1]}
    assert "flags" == names[-1]
    assert [(200, 200)] == absent


def _names(path: Path) -> list[str]:
    with duckdb.connect() as connection:
        found = connection.execute(f"FROM '{path}' LIMIT 0").description
        return [column[0] for column in found]


def test_same_however_cut(tmp_path: Path) -> None:
    """Line protocol has the same values as Parquet, and a second run the same as the first."""
    common = ("--city", CITY, "--interval", "60s", "--for", "10m", "--seed", "5")
    figures(tmp_path / "a", *common)
    figures(tmp_path / "b", *common)
    figures(tmp_path / "c", *common, "--format", "line")
    name = "air-2026-06-01.parquet"
    rows = query(tmp_path / "a" / name, "*")
    text = gzip.decompress((tmp_path / "c" / "2026-06-01.lp.gz").read_bytes()).decode()
    values = {
        float(field.partition("=")[2])
        for line in text.splitlines()
        for field in line.split(" ")[1].split(",")
        if field.startswith("pm25=")
    }

    assert rows == query(tmp_path / "b" / name, "*")
    assert {value for (value,) in query(tmp_path / "a" / name, "pm25") if value} == values
    assert len(rows) == len(text.splitlines())


def test_store(tmp_path: Path) -> None:
    """Into a store go the points that ingest would write of the same messages."""
    store = tmp_path / "city.duckdb"
    options = ("--city", CITY, "--interval", "60s", "--for", "5m", "--format", "store")
    said = figures(tmp_path, *options, "--store", f"duckdb:{store}")
    with duckdb.connect(str(store), read_only=True) as connection:
        found = connection.execute("SELECT count(*), max(seq) FROM air").fetchone()

    assert (200, 4) == found
    assert 200 == said["messages"]
    assert str(store) in said["store"]


def test_unknown_format(tmp_path: Path) -> None:
    """A format that does not exist is refused with those that do."""
    result = run(tmp_path, "--format", "parket")

    assert isinstance(result.exception, SettingError)
    assert "--format: 'parket' is not allowed; did you mean 'parquet'?" in str(result.exception)


@pytest.mark.parametrize("interval", ["1ms", "2d", "often"])
def test_impossible_interval(tmp_path: Path, interval: str) -> None:
    """An interval that no device can have is refused."""
    result = run(tmp_path, "--interval", interval)

    assert isinstance(result.exception, SettingError)


def test_scenario_of_another_city(tmp_path: Path) -> None:
    """A scenario whose places the city lacks is refused."""
    result = run(tmp_path, "--city", CITY, "--scenario", "river-spill")

    assert isinstance(result.exception, DocumentError)


def test_devices_and_scenario(tmp_path: Path) -> None:
    """A scenario whose places a generated city lacks is refused; one of the weather plays there."""
    result = run(tmp_path / "a", "--devices", "30", "--scenario", "gas-burst")
    options = ("--devices", "30", "--scenario", "smog-episode", "--interval", "600s", "--for", "3h")
    said = figures(tmp_path / "b", *options)

    assert isinstance(result.exception, DocumentError)
    assert (30, "smog-episode") == (said["devices"], said["scenario"])
    assert "smog" in (tmp_path / "b" / "truth.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "lasts_s"), [((), 1_800), (("--for", "600s"), 600), (("--for", "2h"), 7_200)]
)
def test_own_time(tmp_path: Path, options: tuple[str, ...], lasts_s: int) -> None:
    """A scenario lasts as long as it says, unless --for says otherwise."""
    story = tmp_path / "short.yaml"
    story.write_text(
        "scenario: short\nsentence: A short one\nfor_s: 1800\n"
        "events: [{id: smog, kind: smog, at_s: 60, for_s: 600}]\n",
        encoding="utf-8",
    )
    city = ("--city", CITY, "--interval", "600s")
    said = figures(tmp_path / "out", *city, "--scenario", str(story), *options)

    assert lasts_s == said["simulated_s"]
    assert not said["interrupted"]


def test_files_of_another_run(tmp_path: Path) -> None:
    """A directory with files that this run would not write anew is refused and left as it is."""
    common = ("--city", CITY, "--interval", "600s")
    figures(tmp_path, *common, "--for", "4h")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    shorter = run(tmp_path, *common, "--for", "1h")
    other = run(tmp_path, *common, "--for", "4h", "--format", "line")

    assert isinstance(shorter.exception, SettingError)
    assert 2 == shorter.exception.exit_status
    assert f"--out: {tmp_path} has files of another run: air-2026-06-02.parquet; " in str(
        shorter.exception
    )
    assert isinstance(other.exception, SettingError)
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    assert 2 == figures(tmp_path, *common, "--for", "4h")["files"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("format_", ["parquet", "line"])
def test_stopped(tmp_path: Path, number: int, format_: str) -> None:
    """Ctrl-C and SIGTERM end the work after its slice: whole files, a summary, exit status 0."""
    options = ("--city", CITY, "--interval", "10s", "--for", "3650d", "--start", START)
    with subprocess.Popen(
        [PROGRAM, "generate", *options, "--out", "out", "--format", format_, "--json"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("CITYEYE_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        give_up_s = time.monotonic() + DEADLINE_S
        while not list((tmp_path / "out").glob("*2026-06-01*")):
            assert process.poll() is None
            assert time.monotonic() < give_up_s
            time.sleep(0.01)
        process.send_signal(number)
        out, _ = process.communicate(timeout=DEADLINE_S)
    said = json.loads(out)
    files = sorted((tmp_path / "out").glob("*2026*"))

    assert 0 == process.returncode
    assert said["interrupted"]
    assert 0 == said["simulated_s"] % 3600
    assert 40 * 360 * (said["simulated_s"] / 3600) == said["messages"]
    assert len(files) == said["files"]
    assert not list((tmp_path / "out").glob("unfinished*"))
    assert said["messages"] == sum(_rows(path) for path in files)


def _rows(path: Path) -> int:
    """How many samples a file holds."""
    if path.suffix == ".gz":
        return len(gzip.decompress(path.read_bytes()).splitlines())
    [(count,)] = query(path, "count(*)")
    return int(count)


@pytest.mark.parametrize("name", ["smog-episode", "river-spill"])
def test_truth(tmp_path: Path, name: str) -> None:
    """truth.jsonl has a record for each event that begins in the time that was simulated."""
    figures(tmp_path, "--city", "lanting", "--scenario", name, "--interval", "600s", "--for", "3h")
    lines = (tmp_path / "truth.jsonl").read_text(encoding="utf-8").splitlines()
    begun = [event.id for event in playing(Settings(scenario=name)).events if event.at_s < 3 * 3600]

    assert begun == [json.loads(line)["id"] for line in lines]


def test_truth_of_readings(tmp_path: Path) -> None:
    """On request the true value stands beside the shown one, for the readings that are affected."""
    options = ("--scenario", "falsified-stack", "--interval", "300s", "--for", "2h", "--truth")
    figures(tmp_path, *options)
    text = (tmp_path / "truth-readings.jsonl").read_text(encoding="utf-8")
    readings = [json.loads(line) for line in text.splitlines()]
    both = [
        (reading["shown"]["stack_so2"], reading["true"]["stack_so2"])
        for reading in readings
        if reading["device"] == "plant-red-hearth/stack-1"
    ]

    assert any(shown < 0.5 * true for shown, true in both)
    assert not any(reading["device"].startswith("gas-") for reading in readings)
