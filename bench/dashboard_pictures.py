"""Draw what the dashboards show of a generated hour: `python -m bench.dashboard_pictures`.

The numbers come from the queries in the dashboards' files, asked of a private InfluxDB 1.x; the
drawing is matplotlib's and not Grafana's.
"""

import argparse
import asyncio
import math
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import matplotlib as mpl
import matplotlib.pyplot as plt

from docker.grafana.boards.shelf import FOLDER
from docker.grafana.trial.asking import Asked, Server, ask, choose, load, panels
from docker.grafana.trial.hour import HOUR_MS, fill
from ingest.influx1 import Influx1Store
from ingest.influxd import PrivateInfluxd

START_MS: Final = 1_780_272_000_000
COLUMNS: Final = 3
CURVES_MAX: Final = 8
ROWS_MAX: Final = 8
CELL: Final = 14
"""Characters of a cell that are shown."""
_CJK: Final = 0x2E80
CITY: Final = {"city": "lanting", "site": "air-bell-gate"}


async def answers(folder: Path) -> list[tuple[dict[str, Any], list[Asked]]]:
    """Every dashboard with what its queries say of an hour of the shipped city."""
    found = []
    async with PrivateInfluxd(folder) as influxd, aiohttp.ClientSession() as session:
        store = Influx1Store(influxd.url, "pictures")
        await store.open()
        await fill(store, START_MS)
        await store.close()
        server = Server(session, influxd.url, "pictures")
        for board in load(FOLDER):
            shown = await choose(server, board, (START_MS, START_MS + HOUR_MS), CITY)
            if "city" in shown.chosen:
                shown = type(shown)(
                    from_ms=shown.from_ms, to_ms=shown.to_ms, all_values=shown.all_values,
                    chosen={**shown.chosen, "city": (CITY["city"],)},
                )  # fmt: skip
            found.append((board, await ask(server, board, shown)))
    return found


def draw(board: dict[str, Any], asked: Sequence[Asked], path: Path) -> None:
    """Draw the panels of one dashboard in rows of three."""
    by_panel: dict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        by_panel[one.panel].append(one)
    shown = list(panels(board))
    height = math.ceil(len(shown) / COLUMNS)
    figure, axes = plt.subplots(height, COLUMNS, figsize=(15, 2.5 * height), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, panel in zip(axes.flat, shown, strict=False):
        axis.set_title(_latin(panel["title"]), loc="left", fontsize=8, fontweight="bold")
        _KINDS[panel["type"]](axis, panel, by_panel[panel["title"]])
    figure.suptitle(
        f"{_latin(board['title'])}: data of the panels, not Grafana's rendering", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(path, dpi=70, metadata={"Software": None})
    plt.close(figure)


def _lines(axis: Any, panel: dict[str, Any], asked: Sequence[Asked]) -> None:
    axis.set_axis_on()
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in asked:
        time = one.answer.columns.index("time") if one.answer.rows else 0
        for row in one.answer.rows:
            for name, value in zip(one.answer.columns[time + 1 :], row[time + 1 :], strict=True):
                label = "/".join(map(str, row[:time])) or name
                label += "" if len(asked) == 1 else f" {name}"
                if value is not None:
                    curves[label].append(((row[time] - START_MS) / 60_000, value))
    largest = sorted(curves, key=lambda name: -max(v for _, v in curves[name]))[:CURVES_MAX]
    for label in largest:
        axis.plot(*zip(*curves[label], strict=True), linewidth=0.8, label=label)
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    top = axis.get_ylim()[1]
    for step in steps:
        if step.get("value") is not None and step["value"] <= top * 1.5:
            axis.axhline(step["value"], color="red", linewidth=0.7, linestyle="--")
    axis.tick_params(labelsize=6)
    axis.grid(alpha=0.3)
    if largest:
        axis.legend(fontsize=5, loc="upper right")


def _stat(axis: Any, panel: dict[str, Any], asked: Sequence[Asked]) -> None:
    overrides = panel["fieldConfig"].get("overrides", [])
    shown = {
        one["matcher"]["options"]: row["value"]
        for one in overrides
        for row in one["properties"]
        if row["id"] == "displayName"
    }
    for place, one in enumerate(asked):
        value = one.answer.rows[-1][-1] if one.answer.rows else 0
        names = [name for name in one.answer.columns if name != "time"] or ["none"]
        y = 0.85 - 0.14 * place
        axis.text(
            0.02, y, _latin(shown.get(one.ref, names[-1])), fontsize=7, transform=axis.transAxes
        )
        axis.text(0.75, y, f"{value:,.4g}", fontsize=10, transform=axis.transAxes)


def _table(axis: Any, _panel: dict[str, Any], asked: Sequence[Asked]) -> None:
    full = next((one.answer for one in asked if one.answer.rows), None)
    if full is None:
        axis.text(0.02, 0.8, "none", fontsize=8, transform=axis.transAxes)
        return
    kept = [n for n, name in enumerate(full.columns) if name not in {"time", "raised"}][:7]
    cells = [[_cell(row[n]) for n in kept] for row in full.rows[:ROWS_MAX]]
    made = axis.table(
        cellText=cells, colLabels=[full.columns[n][:CELL] for n in kept], loc="upper left"
    )
    made.auto_set_font_size(False)
    made.set_fontsize(5)


def _latin(text: str) -> str:
    """The text without its Chinese part, which few machines that draw have a font for."""
    return "".join(sign for sign in text if ord(sign) < _CJK).strip()


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str("" if value is None else value)
    return _latin(text)[:CELL]


def _map(axis: Any, _panel: dict[str, Any], asked: Sequence[Asked]) -> None:
    axis.set_axis_on()
    stations, alarms = (one.answer for one in asked)
    alarmed = {row[:2] for row in alarms.rows}
    for row in stations.rows:
        there = dict(zip(stations.columns, row, strict=True))
        colour = "red" if row[:2] in alarmed else "green"
        axis.plot(there["lon"], there["lat"], "o", color=colour, markersize=4)
    axis.tick_params(labelsize=6)


_KINDS: Final = {"timeseries": _lines, "stat": _stat, "table": _table, "geomap": _map}


def main() -> None:
    """Draw all dashboards into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/grafana"))
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    with tempfile.TemporaryDirectory() as folder:
        for board, asked in asyncio.run(answers(Path(folder))):
            path = out / f"{board['uid'].removeprefix('cityeye-')}.png"
            draw(board, asked, path)
            print(f"{path}: {len(asked)} queries")


if __name__ == "__main__":
    main()
