from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from structlog.testing import capture_logs

from broker.choice import BrokerAddress
from load.course import Course
from load.figures import Delta, histogram_of
from load.liveview import KEYS, LiveView, sparkline
from load.plan import LoadPlan, Phase

START_MS = 1_795_413_600_000
PLAN = LoadPlan(
    run="trial", broker=BrokerAddress("127.0.0.1", 1883), devices=10, interval_s=1.0, ramp_s=2.0,
    phases=(Phase(name="steady", for_s=18),), kinds=("air",), seed=1, city_start_ms=0,
)  # fmt: skip


def course_of(seconds: int, **fields: Any) -> Course:
    """So many seconds of a course."""
    course = Course(PLAN, START_MS)
    for at_s in range(1, seconds + 1):
        told: dict[str, Any] = {
            "kind": "shard", "part": 0, "at_ms": START_MS + at_s * 1000, "connected": 9,
            "counts": {"due": 1_000, "sent": 999, "acked": 998}, "waiting": 7, "cpu_s": 0.5,
            "delays": {"ack": histogram_of([2_000] * 10).encode()},
        }  # fmt: skip
        course.add(Delta(**(told | fields)))
    return course


def page(course: Course, *, width: int = 120, knee_state: str = "") -> str:
    """What a terminal of that width shows."""
    console = Console(file=StringIO(), width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(LiveView(console).page(course, PLAN, knee_state))
    return captured.get()


@pytest.mark.parametrize(
    "text",
    [
        "steady", "10 of 20 s", "9 of 10 online", "999/s of 1,000/s wanted", "acknowledged 998/s",
        "7 waiting", "nobody verifies", "generator 50% of a core", "2 ms", KEYS,
    ],
)  # fmt: skip
def test_a_terminal_shows_how_the_test_goes(text: str) -> None:
    """Phase, devices, rates, delays, losses, costs and keys are on one page."""
    assert text in page(course_of(10))


def test_a_test_that_is_prepared_has_a_page() -> None:
    """Before the first second there is nothing to show but that it is prepared."""
    assert "preparing" in page(Course(PLAN, START_MS))


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """A narrow terminal leaves out columns instead of breaking the frame."""
    assert width >= max(len(line) for line in page(course_of(10), width=width).splitlines())


def test_what_is_missing_is_said() -> None:
    """Messages that were acknowledged and not received are shown while the test runs."""
    course = course_of(5, confirmed=50)
    course.add(Delta(kind="subscriber", part=0, at_ms=START_MS + 5_000, counts={"distinct": 48}))

    assert "2 not received yet" in page(course)


def test_warnings_and_refusals_are_shown() -> None:
    """Trouble is seen at once, and markup in it stays text."""
    course = course_of(5, reasons={"bad user": 3}, warnings=("slow [red]disk[/red]",))

    shown = page(course)
    assert "bad user 15" in shown
    assert "! slow [red]disk[/red]" in shown


def test_the_search_for_the_limit_is_shown() -> None:
    """What the search does now has a line."""
    assert "step 4 holds" in page(course_of(5), knee_state="step 4 holds")


def test_a_pipe_gets_a_line_now_and_then() -> None:
    """Where there is no terminal, figures are logged every ten seconds."""
    now_s = [0.0]
    console = Console(file=StringIO(), force_terminal=False)
    with capture_logs() as logs, LiveView(console, now_s=lambda: now_s[0]) as view:
        for at_s in range(25):
            now_s[0] = float(at_s)
            view.update(course_of(5), PLAN)

    assert 3 == len(logs)
    assert ("loading", "steady", 9) == (logs[0]["event"], logs[0]["phase"], logs[0]["online"])


def test_a_pipe_is_told_that_the_test_is_prepared() -> None:
    """The first line of a pipe may come before the first second."""
    with capture_logs() as logs:
        LiveView(Console(file=StringIO())).update(Course(PLAN, START_MS), PLAN)

    assert [("preparing", 10)] == [(one["event"], one["devices"]) for one in logs]


def test_a_terminal_is_drawn_again_and_left_clean() -> None:
    """It is not drawn more often than needed, and goes away with its context."""
    file = StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    with capture_logs() as logs, LiveView(console, now_s=lambda: 1.0) as view:
        view.update(course_of(10), PLAN)
        view.update(course_of(12), PLAN)

    assert [] == logs
    assert "10 of 20 s" in file.getvalue()
    assert "12 of 20 s" not in file.getvalue()
    assert file.getvalue().endswith("\x1b[2K")


@given(values=st.lists(st.floats(0, 1e6), max_size=50))
def test_a_sparkline_is_as_long_as_its_values(values: list[float]) -> None:
    """Each value is one block, the greatest the tallest."""
    line = sparkline(values)

    assert len(values) == len(line)
    if max(values, default=0) > 0:
        assert "█" == line[values.index(max(values))]
