"""`cityeye rules test`: rules over history, and the same alarms as live."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import structlog
import typer
from typer.testing import CliRunner, Result

from city.errors import DocumentError, InputError
from cli import backtest, generate

TIMEOUT_S = 300
START = "2026-06-01T08:00:00+08:00"
CITY = "synthetic:60:air-micro,water-sonde,stack-cems"
"""Without gas, whose network takes seconds to solve."""
LIMITS = """
pack: plain
title: Limits on plain readings, some of them crossed at any time
standard: none
grade: D
rules:
  - {id: dust, quantity: pm25, unit: ug/m3, high: {limit: 35, severity: low, deadband: 1}}
  - {id: dust-delayed, quantity: pm10, unit: ug/m3, high: {limit: 60, severity: medium}, on_delay_s: 30}
  - {id: oxygen, quantity: dissolved_oxygen, unit: mg/L, low: {limit: 7.5, severity: low}, off_delay_s: 20}
  - {id: sulphur, quantity: stack_so2, unit: mg/m3, high: {limit: 60, severity: high, deadband: 2}}
"""
Told = set[tuple[str, str, str, str, int]]


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """The command's logging ends with the test."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A rule file."""
    path = tmp_path / "plain.yaml"
    path.write_text(LIMITS, encoding="utf-8")
    return path


def rules_test(*words: str) -> Result:
    """The command as a user gives it."""
    app = typer.Typer()
    app.command()(backtest.command)
    return CliRunner().invoke(app, list(words), catch_exceptions=True)


def generated(out: Path, *words: str) -> None:
    """Files that `cityeye generate` writes."""
    app = typer.Typer()
    app.command()(generate.command)
    result = CliRunner().invoke(app, [*words, "--out", str(out)], catch_exceptions=True)

    assert 0 == result.exit_code, result.output


def figures(*words: str) -> dict[str, Any]:
    """What it says for programs."""
    result = rules_test(*words, "--json")

    assert 0 == result.exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def cityeye(folder: Path, *words: str) -> None:
    """Run the shipped command to a good end."""
    command = Path(sys.executable).parent / "cityeye"
    done = subprocess.run(
        [command, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert 0 == done.returncode, done.stderr[-2000:]


def told(events: Path) -> Told:
    """Rule, site, device, event and instant of every event in a file of JSON lines."""
    rows = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    return {(r["rule"], r["site"], r["device"], r["event"], r["ts"]) for r in rows}


def stored(database: Path) -> Told:
    """The same of the events that a run has stored."""
    with duckdb.connect(str(database), read_only=True) as connection:
        query = "SELECT rule, site, device, event, epoch_ms(ts) FROM alarms"
        return set(connection.execute(query).fetchall())


def test_as_live(tmp_path: Path, pack: Path) -> None:
    """A live run and a back-test of the same city, seed and span raise the same limit alarms."""
    same = ("--seed", "11", "--for", "20m", "--start", START)
    events = tmp_path / "events.jsonl"
    live = ("--city", CITY, "--speed", "max", "--rules", str(pack), "--data", "data")
    cityeye(tmp_path, "run", *same, *live)
    figures(str(pack), "--on", CITY, *same, "--events", str(events))
    raised = stored(tmp_path / "data" / "store.duckdb")

    assert len(raised) > 10
    assert raised == told(events)


def test_stored_run(tmp_path: Path, pack: Path) -> None:
    """Over what a run has stored the back-test raises the alarms that the run raised."""
    events = tmp_path / "events.jsonl"
    words = ("--for", "10m", "--start", START, "--speed", "max", "--rules", str(pack))
    cityeye(tmp_path, "run", "--city", CITY, *words, "--data", "data")
    data = tmp_path / "data"
    figures(str(pack), "--on", str(data), "--city", CITY, "--events", str(events))

    assert stored(tmp_path / "data" / "store.duckdb") == told(events) != set()


@pytest.mark.parametrize("format_", ["parquet", "line"])
def test_generated(tmp_path: Path, pack: Path, format_: str) -> None:
    """Generated files raise the alarms of the simulated city, with the same scores."""
    span = ("--scenario", "falsified-stack", "--for", "2h")
    out, first, second = (tmp_path / name for name in ("out", "a.jsonl", "b.jsonl"))
    generated(out, *span, "--format", format_, "--truth")
    files = figures(str(pack), "--on", str(out), "--events", str(first))
    simulated = figures(
        str(pack), "--on", "falsified-stack", "--for", "2h", "--events", str(second)
    )

    assert told(first) == told(second) != set()
    assert simulated["readings"] == files["readings"]
    assert simulated["scores"] == files["scores"]
    assert simulated["limits"] == files["limits"]


def test_burst() -> None:
    """The gas network's rules find the burst at once, and none of their alarms is false."""
    found = figures("gas-network", "--on", "gas-burst")
    score = found["scores"]["gas-burst"]

    assert (1.0, 1.0, 0) == (score["recall"], score["precision"], score["unexplained"])
    assert 0 < score["detection_s_median"] < 30
    assert found["alarms"] == sum(found["by_rule"].values())
    assert found["readings_per_s"] > 0


def test_cut(pack: Path) -> None:
    """--for ends the history early."""
    found = figures(str(pack), "--on", "gas-burst", "--for", "60s")

    assert (60.0, {}) == (found["covered_s"], found["scores"])


def test_for_people(pack: Path) -> None:
    """Without --json there is a table of figures, of rules and of scores."""
    result = rules_test(str(pack), "--on", "gas-burst", "--for", "6m")

    assert 0 == result.exit_code
    for words in ("alarms by rule", "alarms by priority", "gas-burst", "no rule"):
        assert words in result.stdout


def test_without_truth(tmp_path: Path, pack: Path) -> None:
    """Where no truth log lies beside the data nothing is scored, and the report says so."""
    out = tmp_path / "out"
    generated(out, "--for", "5m")
    (out / "truth.jsonl").unlink()
    result = rules_test(str(pack), "--on", str(out))

    assert "no truth log" in result.stdout


class TestMistakes:
    """What is wrong is said in one line."""

    def test_unknown(self) -> None:
        """A name that is neither path, scenario nor city."""
        result = rules_test("gas-network", "--on", "gas-brust")

        assert isinstance(result.exception, DocumentError)
        assert "gas-burst" in str(result.exception)

    def test_empty_folder(self, tmp_path: Path) -> None:
        """A directory without readings; the text says what was expected."""
        result = rules_test("gas-network", "--on", str(tmp_path))

        assert isinstance(result.exception, InputError)
        assert "expected *.parquet" in str(result.exception)

    @pytest.mark.parametrize(
        "line",
        [
            "air,city=c,device=d pm25=1 1",
            "air pm25=1",
            "air,city=c,device=d,district=n,site=s pm25=x 1",
            'air,city=c,device=d,district=n,site=s pm25=1,pm25_flag="Q" 1',
            "air,city=c,device=d,district=n,site=s pm25=1 soon",
        ],
    )
    def test_bad_line(self, tmp_path: Path, line: str) -> None:
        """A line that holds no readings; file and line are named."""
        path = tmp_path / "day.lp"
        path.write_text(f"{line}\n", encoding="utf-8")
        result = rules_test("gas-network", "--on", str(path))

        assert isinstance(result.exception, DocumentError)
        assert f"{path}, line 1" in str(result.exception)

    def test_bad_truth(self, tmp_path: Path) -> None:
        """A truth log that holds something else; file and line are named."""
        (tmp_path / "day.lp").write_text(
            "air,city=c,device=d,district=n,site=s pm25=1 1\n", encoding="utf-8"
        )
        (tmp_path / "truth.jsonl").write_text("{}\n", encoding="utf-8")
        result = rules_test("gas-network", "--on", str(tmp_path))

        assert isinstance(result.exception, DocumentError)
        assert "truth.jsonl, line 1" in str(result.exception)
