import re
from html.parser import HTMLParser
from typing import Any, Final

import pytest

from broker.choice import BrokerAddress
from load.comparisonpage import comparison_page
from load.course import Course
from load.figures import Delta, histogram_of
from load.machine import Machine
from load.page import page
from load.plan import LoadPlan, Phase
from load.plots import POINTS_MAX
from load.report import Report, report_of

START_MS = 1_795_413_600_000
EVIL: Final = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'
LOADING: Final = {"src", "href", "srcset", "data", "action", "poster"}


class Loads(HTMLParser):
    """What a page would load, and the tags that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take in a tag."""
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in LOADING]


def reported(seconds: int = 10, *, evil: str = "", confirmed: int = 0, **options: Any) -> Report:
    """The report of a short run; `evil` stands wherever text from outside can stand."""
    plan = LoadPlan(
        run=f"trial{evil}", broker=BrokerAddress("127.0.0.1", 1883), devices=10, interval_s=1.0,
        ramp_s=2.0, phases=(Phase(name=f"steady{evil}", for_s=seconds),), kinds=(f"air{evil}",),
        seed=1, city_start_ms=0,
    )  # fmt: skip
    course = Course(plan, START_MS)
    for at_s in range(1, seconds + 1):
        course.add(Delta(
            kind="shard", part=0, attempt=evil, at_ms=START_MS + at_s * 1000, connected=10,
            counts={"due": 10, "sent": 10, "acked": 10}, cpu_s=0.1, confirmed=10 * at_s + confirmed,
            delays={stage: histogram_of([2_000 + at_s] * 10).encode()
                    for stage in ("ack", "lateness", "connect")},
            reasons={f"refused{evil}": 1} if evil else {}, last=at_s == seconds,
        ))  # fmt: skip
        course.add(Delta(
            kind="subscriber", part=0, at_ms=START_MS + at_s * 1000, last=at_s == seconds,
            counts={"received": 10, "distinct": 10},
            delays={"subscriber": histogram_of([3_000] * 10).encode()},
        ))  # fmt: skip
    machine = Machine(f"a processor{evil}", 2, 8.0, "Linux", "3.11")
    return report_of(plan, course, started_ms=START_MS, machine=machine, **options)


def loads(html: str) -> Loads:
    """The page as a browser reads it."""
    parser = Loads()
    parser.feed(html)
    return parser


@pytest.mark.parametrize("html", [page(reported()), comparison_page(reported(), reported())])
def test_a_page_needs_no_network(html: str) -> None:
    """No tag and no style names an address: all that it shows is in it."""
    style = "".join(re.findall(r"<style>(.*?)</style>", html, re.DOTALL))

    assert ["data:,"] == loads(html).addresses
    assert "url(" not in style
    assert "@import" not in style


def test_a_page_is_small_enough_to_mail() -> None:
    """The page is below 2 MB with as many points as plots ever have."""
    assert len(page(reported(POINTS_MAX)).encode()) < 2_000_000


def test_what_comes_from_outside_is_escaped() -> None:
    """Names, warnings, reasons and the plan may hold tags: none of them becomes one."""
    report = reported(evil=EVIL, broker=f"b{EVIL}", warnings=[EVIL], knee={"sentence": EVIL})

    for html in (page(report), comparison_page(report, reported())):
        assert "<script>alert" not in html
        assert "img" not in loads(html).tags


def test_a_page_says_first_whether_anything_was_lost() -> None:
    """The verdict stands before the figures, and a loss makes it a bad one."""
    good, bad = page(reported()), page(reported(confirmed=5))

    assert '<div class="verdict good"><b>Complete</b>' in good
    assert '<div class="verdict bad"><b>Incomplete</b>' in bad
    assert "5 acknowledged messages were lost" in bad


def test_warnings_stand_above_the_figures() -> None:
    """Who reads only the top has read the warnings."""
    html = page(reported(warnings=["the moon is full"]))

    assert 0 < html.index("the moon is full") < html.index('class="tiles"')


def test_every_plot_has_its_unit_and_says_how_to_read_it() -> None:
    """No plot stands without a unit in its title and a sentence."""
    sections = re.findall(
        r'<section><h2>([^<]*)</h2><p class="reading">([^<]*)</p>', page(reported())
    )

    assert 7 == len(sections)
    assert all(
        re.search(r"\[.+\]$", title) and reading.endswith(".") for title, reading in sections
    )


def test_a_page_of_a_test_that_never_began() -> None:
    """Without a single word there is still a page that says so."""
    html = page(_empty())

    assert "0 of 10 devices" in html


def _empty() -> Report:
    plan = LoadPlan(
        run="trial", broker=BrokerAddress("127.0.0.1", 1883), devices=10, interval_s=1.0,
        ramp_s=2.0, phases=(Phase(name="steady", for_s=5),), kinds=("air",), seed=1,
        city_start_ms=0,
    )  # fmt: skip
    machine = Machine("a processor", 2, 8.0, "Linux", "3.11")
    return report_of(plan, Course(plan, START_MS), started_ms=START_MS, machine=machine)


def test_compared_plots_show_both_runs() -> None:
    """A comparison says what A and B are, and how they are told apart."""
    html = comparison_page(reported(), reported(confirmed=5))

    assert re.search(r"A is better in 1 of \d+ figures: lost\.", html)
    assert "B dotted" in html
