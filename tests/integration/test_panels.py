"""Every panel's query of every dashboard, asked of a real InfluxDB as Grafana would ask it."""

import sys

import aiohttp
import pytest

from docker.grafana.boards.gasnetwork import ONLY_OF_MEANS
from docker.grafana.boards.resolution import RESOLUTIONS, VARIABLE
from docker.grafana.boards.shelf import BOARDS, FOLDER
from docker.grafana.trial.asking import Asked, Server, ask, choose, load, resolutions
from docker.grafana.trial.hour import HOUR_MS, fill
from ingest.influx1 import Influx1Store
from ingest.influxd import PrivateInfluxd

START_MS = 1_780_272_000_000
STATION = {"site": "air-bell-gate"}
RAW, MINUTE, HOUR = (one.title for one in RESOLUTIONS)
ABSENT = {
    ("cityeye-air-station", "Flagged values by device 数据标记", "A"),
    *(("cityeye-emissions", "Hours over limit 超标小时数", ref) for ref in "DEFILORS"),
}
"""What the hour does not have; why that may be is said at the queries."""
OF_MEANS = {
    (board.uid, panel.title, "B")
    for board in BOARDS
    for row in board.rows
    for panel in row.panels
    if len(panel.queries) > 1 and panel.queries[1].empty == ONLY_OF_MEANS
}
"""What only means have."""
EMPTY = {
    *((*place, resolution) for place in ABSENT for resolution in (RAW, MINUTE, HOUR)),
    *((*place, RAW) for place in OF_MEANS),
    ("cityeye-gas-network", "Methane above 5 %LEL 泄漏", "A", HOUR),
}
"""Every query without an answer, by resolution: no leak fills an hour."""

pytestmark = pytest.mark.influxd


def reasons() -> dict[tuple[str, str, str], str]:
    """Why a query may be empty, by dashboard, panel and letter."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return {
        (board.uid, panel.title, letter): query.empty
        for board in BOARDS
        for row in board.rows
        for panel in row.panels
        for letter, query in zip(letters, panel.queries, strict=False)
    }


async def everything(influxd: PrivateInfluxd, store: Influx1Store) -> tuple[int, list[Asked]]:
    """The points of a generated hour, and what every query says of it."""
    points = await fill(store, START_MS)
    span = (START_MS, START_MS + HOUR_MS)
    asked: list[Asked] = []
    async with aiohttp.ClientSession() as session:
        server = Server(session, influxd.url, "tests")
        for board in load(FOLDER):
            for resolution in resolutions(board):
                shown = await choose(server, board, span, {**STATION, VARIABLE: resolution})
                asked += await ask(server, board, shown)
    return points, asked


async def test_every_panel_shows_something(
    influxd: PrivateInfluxd, influx1: Influx1Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each query brings rows with the fields it names, or its row says why there may be none."""
    points, asked = await everything(influxd, influx1)
    why = reasons()
    empty = {
        (one.board, one.panel, one.ref, one.resolution) for one in asked if not one.answer.rows
    }
    unexplained = {place for place in empty if not why.get(place[:3])}
    lacking = {
        (one.board, one.panel, one.ref, *one.missing())
        for one in asked
        if one.missing() and not why.get((one.board, one.panel, one.ref))
    }
    panels = {(one.board, one.panel) for one in asked}
    rows = sum(len(one.answer.rows) for one in asked)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{points} points: {len(panels)} panels, {len(asked)} queries, {rows} rows\n"
        )

    assert set() == unexplained
    assert set() == lacking
    assert empty == EMPTY
