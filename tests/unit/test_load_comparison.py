from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from broker.choice import BrokerAddress
from load.comparison import Comparison, Row, compare, mark, shown
from load.course import Course
from load.figures import Delta, histogram_of
from load.machine import Machine
from load.plan import LoadPlan, Phase
from load.report import Report, report_of

START_MS = 1_795_413_600_000
MACHINE = Machine("a processor", 2, 8.0, "Linux", "3.11")


def reported(
    *, ack_us: int = 20_000, seed: int = 1, confirmed: int = 0, cpu_s: float = 0.1,
    knee: dict[str, Any] | None = None, **changes: Any,
) -> Report:  # fmt: skip
    """The report of twenty seconds whose delays lie around `ack_us`."""
    fields: dict[str, Any] = {
        "run": f"run-{seed}", "broker": BrokerAddress("127.0.0.1", 1883), "devices": 10,
        "interval_s": 1.0, "ramp_s": 0.0, "phases": (Phase(name="steady", for_s=20),),
        "kinds": ("air",), "seed": 1, "city_start_ms": 0,
    } | changes  # fmt: skip
    plan, draw = LoadPlan(**fields), np.random.default_rng(seed)
    course = Course(plan, START_MS)
    for at_s in range(1, 21):
        delays_us = (ack_us * draw.uniform(0.9, 1.1, 100)).astype(int).tolist()
        course.add(Delta(
            kind="shard", part=0, at_ms=START_MS + at_s * 1000, connected=10, cpu_s=cpu_s,
            counts={"sent": 100}, delays={"ack": histogram_of(delays_us).encode()},
            confirmed=100 * at_s + confirmed, last=at_s == 20,
        ))  # fmt: skip
        course.add(Delta(
            kind="subscriber", part=0, at_ms=START_MS + at_s * 1000, last=at_s == 20,
            counts={"distinct": 100, "received": 100},
        ))  # fmt: skip
    return report_of(plan, course, started_ms=START_MS, machine=MACHINE, knee=knee)


def differing(comparison: Comparison) -> dict[str, str]:
    """The figures that differ, and what is said of them."""
    return {row.name: mark(row) for row in comparison.rows if row.differs}


def row(comparison: Comparison, name: str) -> Row:
    """One figure."""
    return next(row for row in comparison.rows if row.name == name)


def test_a_run_is_like_itself() -> None:
    """Nothing differs, and every ratio is one."""
    comparison = compare(reported(), reported())

    assert {} == differing(comparison)
    assert {1.0} == {row.ratio for row in comparison.rows} - {None}


def test_runs_that_differ_by_chance_are_the_same() -> None:
    """What the same test shows twice on one machine is noise."""
    assert {} == differing(compare(reported(seed=1), reported(seed=2)))


def test_a_slower_run_is_marked() -> None:
    """Twice the delay is no noise, and the faster run is the better one."""
    comparison = compare(reported(), reported(ack_us=40_000))

    assert {f"acknowledged, {name}": "A is better" for name in ("p50", "p95", "p99", "max")} == (
        differing(comparison)
    )
    assert pytest.approx(2.0, rel=0.1) == row(comparison, "acknowledged, p99").ratio


def test_tiny_delays_do_not_differ() -> None:
    """A tenth of a millisecond is below what such a test can tell apart."""
    assert {} == differing(compare(reported(ack_us=100), reported(ack_us=200)))


def test_a_single_lost_message_differs() -> None:
    """What should not happen has no noise."""
    assert {"lost": "B is better"} == differing(compare(reported(confirmed=1), reported()))


def test_costs_are_compared() -> None:
    """Half the processor time per message is better."""
    comparison = compare(reported(), reported(cpu_s=0.05))

    assert {"CPU per message, generator": "B is better"} == differing(comparison)


def test_limits_are_compared() -> None:
    """Numbers of the limits that were found are rows, sentences are not."""
    one, other = reported(knee={"rate": 100.0, "sentence": "x"}), reported(knee={"rate": 200.0})

    comparison = compare(one, other)

    assert {"limit, rate": "differs"} == differing(comparison)
    assert 2.0 == row(comparison, "limit, rate").ratio


def test_what_only_one_run_has_is_shown() -> None:
    """A figure that the other run lacks has no ratio, and makes no difference."""
    alone = row(compare(reported(knee={"rate": 100.0}), reported()), "limit, rate")

    assert (100.0, None, None, False) == (alone.a, alone.b, alone.ratio, alone.differs)


def test_differences_of_the_plans_are_named_first() -> None:
    """What was asked differently is listed, but for the names of the runs."""
    comparison = compare(reported(seed=1), reported(seed=2, qos=0))

    assert [("qos", "1", "0")] == [(one.name, one.a, one.b) for one in comparison.asked]


def test_the_port_of_a_private_broker_is_no_difference() -> None:
    """Two tests on brokers of our own were asked the same, whatever ports these had."""
    one, other = reported(), reported()
    one.broker, other.broker = (
        "Mosquitto 2, private, 127.0.0.1:1",
        "Mosquitto 2, private, [::1]:2",
    )
    other.plan["broker"]["port"] = 2
    assert [] == compare(one, other).asked

    other.broker = "Mosquitto 3, private, 127.0.0.1:2"
    assert ["broker"] == [asked.name for asked in compare(one, other).asked]


def test_a_terminal_shows_both_runs_and_the_rule() -> None:
    """People see the values, their ratio, the mark, and what a mark means."""
    console = Console(width=100, record=True, file=None)
    with console.capture() as captured:
        console.print(shown(compare(reported(), reported(ack_us=40_000, qos=0))))

    text = captured.get()
    assert text.index("asked differently") < text.index("acknowledged, p99")
    assert "A is better" in text
    assert "three standard errors" in " ".join(text.split())


def test_a_comparison_is_a_document() -> None:
    """Programs get the same as JSON."""
    comparison = compare(reported(), reported(confirmed=1))

    assert comparison == msgspec.json.decode(comparison.encode(), type=Comparison)
