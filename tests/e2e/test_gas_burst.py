"""`cityeye run` from the hole in a main to the closed valve and the order for the repair crew."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TIMEOUT_S = 300
PROMPT_S = 200.0
"""What a busy machine may add to any step: ten seconds of the wall, at the speed of the run."""
PACE = {"gas-burst": ("20", "9m"), "gas-burst-deaf-valve": ("60", "25m")}
"""Speed and length; what nobody answers is waited for by the wall's clock, however fast the city."""
Summary = dict[str, Any]


def cityeye_run(scenario: str, folder: Path) -> Summary:
    """Play the beginning of a scenario, many times as fast as life."""
    command = str(Path(sys.executable).parent / "cityeye")
    speed, for_ = PACE[scenario]
    words = ["--scenario", scenario, "--speed", speed, "--for", for_, "--log", "warning"]
    done = subprocess.run(
        [command, "run", *words, "--json", "--data", str(folder)],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    found: Summary = json.loads(done.stdout)
    return found


def instant(summary: Summary, where: str, what: str) -> float:
    """When the first entry of the timeline that begins so happened [s after the hole]."""
    for entry in summary["timeline"]:
        if entry["where"] == where and entry["what"].startswith(what):
            return float(entry["after_s"])
    raise AssertionError(f"no {what!r} at {where}: {json.dumps(summary['timeline'], indent=1)}")


def said(summary: Summary) -> list[str]:
    """What the timeline says, without the instants."""
    return [f"{entry['where']}: {entry['what']}" for entry in summary["timeline"]]


VALVE = "gas-foundry-road/valve-1"


def test_burst(tmp_path: Path) -> None:
    """A burst is closed off at once, by one order, and without noise."""
    summary = cityeye_run("gas-burst", tmp_path)

    assert_closed(summary)
    assert_one_order(summary)
    assert_no_noise(summary)


def assert_closed(summary: Summary) -> None:
    """From hole to alarm, command, closed valve: each step follows the one before at once."""
    hole = instant(summary, "gas-foundry-road", "gas-burst begins")
    alarm = instant(summary, VALVE, "alarm gas-burst raised, critical")
    sent = instant(summary, VALVE, "close_valve sent: attempt 1 of 2")
    done = instant(summary, VALVE, "close_valve done: closed in 1.8 s")

    assert 0.0 == hole < alarm <= 15.0
    assert alarm <= sent <= alarm + PROMPT_S
    assert sent < done <= alarm + 1.8 + PROMPT_S
    assert {"close_valve": 1, "repair_order": 1} == summary["actions"]


def assert_one_order(summary: Summary) -> None:
    """One burst is one order, which all its alarms join; it says who is without gas."""
    lines = said(summary)

    assert 1 == summary["orders"]
    assert 1 == sum("repair_order done: opened" in line for line in lines)
    assert 3 == sum("repair_order withheld: joins" in line for line in lines)
    (order,) = (line for line in lines if "repair order " in line)
    assert order.endswith("critical, 24 customers without supply, answers 4 alarms")


def assert_no_noise(summary: Summary) -> None:
    """What the feed's side feels of the burst is no failure, and nothing is opened again."""
    lines = said(summary)
    beside = f"the feed side cannot be cut off; the section behind {VALVE} is being closed"

    assert f"gas-foundry-road/node-1: close_valve withheld: {beside}" in lines
    assert [] == [line for line in lines if "refused" in line or "open_valve" in line]
    assert [] == [line for line in lines if "valve-unanswered" in line]


def test_deaf(tmp_path: Path) -> None:
    """A valve that does not obey is told once more; then people are, by the higher alarm."""
    summary = cityeye_run("gas-burst-deaf-valve", tmp_path)
    steps = ["alarm gas-burst raised", "close_valve sent: attempt 1", "close_valve retried",
             "alarm valve-unanswered raised, critical"]  # fmt: skip
    instants = [instant(summary, VALVE, what) for what in steps]
    given_up = instant(summary, VALVE, "close_valve unanswered: no reply to 2 commands")

    assert sorted(instants) == instants
    assert given_up == instants[-1]
    assert [] == [line for line in said(summary) if "close_valve done" in line]
    (order,) = (line for line in said(summary) if "repair order " in line)
    assert f"{VALVE} does not answer" in order
    assert 1 == summary["orders"]
