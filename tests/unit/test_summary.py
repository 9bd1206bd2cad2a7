import json
from typing import Any

import pytest

from cli.summary import Outcome

LEDGER = {"received": 1003, "written": 1000, "duplicate": 2, "quarantined": 1, "refused": 0,
          "pending": 0, "reasons": {"quarantined:not-json": 1}}  # fmt: skip


@pytest.mark.parametrize(("complete", "status"), [(True, 0), (False, 1)])
def test_status(complete: bool, status: int, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: FBT001 - parametrised
    """The exit status says whether anything is missing."""
    assert status == Outcome({}, complete).show(as_json=True)
    assert "{}\n" == capsys.readouterr().out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """For programs there is one JSON object on one line, and nothing else."""
    figures = {"seed": 1, "ledger": LEDGER}
    Outcome(figures, complete=True, closing="Done.").show(as_json=True)

    out = capsys.readouterr().out
    assert 1 == out.count("\n")
    assert figures == json.loads(out)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("devices", 10_000, "devices  10,000"),
        ("seed", 20_260_601, "seed  20260601"),
        ("simulated_s", 31.26, "simulated  31.3 s"),
        ("ledger", LEDGER, "ledger  1,003 received = 1,000 written + 2 duplicate + 1 quarantined + 0 refused + 0 pending; quarantined:not-json 1"),
        ("alarms", {"raised": 2, "standing": 0}, "alarms  2 raised, 0 standing"),
        ("refused_connects", {}, "refused connects  none"),
        ("latency_ms", {"stored_p50": 1.6, "stored_p99": 9.0},
         "latency  stored p50 2, p99 9 ms after arrival"),
    ],
)  # fmt: skip
def test_people(name: str, value: Any, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """For people every figure is said in words that stand for themselves."""
    Outcome({name: value}, complete=True).show(as_json=False)

    words, _, said = line.partition("  ")
    assert f"{words} {said}" == " ".join(capsys.readouterr().out.split())


def test_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """What looks like markup is shown as it is."""
    Outcome({"broker": "[bold]x[/nope]"}, complete=True).show(as_json=False)

    assert "[bold]x[/nope]" in capsys.readouterr().out


def test_closing(capsys: pytest.CaptureFixture[str]) -> None:
    """The last line for people is the verdict."""
    Outcome({"devices": 1}, complete=True, closing="Done.").show(as_json=False)

    assert "Done." == capsys.readouterr().out.splitlines()[-1]
