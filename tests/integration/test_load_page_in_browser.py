import asyncio
import re
from pathlib import Path

import pytest

from broker.choice import BrokerAddress
from load.course import Course
from load.figures import Delta, histogram_of
from load.machine import Machine
from load.page import page
from load.plan import LoadPlan, Phase
from load.report import report_of

START_MS = 1_795_413_600_000
EVIL = "</script><img src=x onerror=document.body.id='evil'>"
DEADLINE_S = 100


def written(path: Path) -> Path:
    """The page of a short run in a file."""
    plan = LoadPlan(
        run="trial", broker=BrokerAddress("127.0.0.1", 1883), devices=10, interval_s=1.0,
        ramp_s=0.0, phases=(Phase(name=f"steady{EVIL}", for_s=10),), kinds=("air",), seed=1,
        city_start_ms=0,
    )  # fmt: skip
    course = Course(plan, START_MS)
    for at_s in range(1, 11):
        course.add(Delta(
            kind="shard", part=0, at_ms=START_MS + at_s * 1000, connected=10, cpu_s=0.1,
            counts={"due": 10, "sent": 10, "acked": 10}, last=at_s == 10,
            delays={"ack": histogram_of([2_000] * 10).encode()},
        ))  # fmt: skip
    machine = Machine("a processor", 2, 8.0, "Linux", "3.11")
    path.write_text(page(report_of(plan, course, started_ms=START_MS, machine=machine)))
    return path


@pytest.mark.chromium
async def test_a_browser_without_a_network_draws_every_plot(tmp_path: Path) -> None:
    """Chromium that resolves no name draws all plots, and runs nothing that a name smuggled in."""
    path = await asyncio.to_thread(written, tmp_path / "page.html")
    browser = await asyncio.create_subprocess_exec(
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom", path.as_uri(),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    async with asyncio.timeout(DEADLINE_S):
        output, _ = await browser.communicate()
    body = re.sub(r"<script\b.*?</script>", "", output.decode(), flags=re.DOTALL)

    assert body.count('class="plot"') == body.count('class="bk-Figure"')
    assert 'id="evil"' not in body
