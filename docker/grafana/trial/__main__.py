"""Ask a running server what every panel asks: `python -m docker.grafana.trial --url … --database …`.

With --fill, an hour of generated data is written first, into an InfluxDB 1.x.
"""

import argparse
import asyncio
import sys
import time

import aiohttp

from docker.grafana.boards.resolution import VARIABLE
from docker.grafana.boards.shelf import FOLDER
from docker.grafana.trial.asking import Asked, Server, ask, choose, load, resolutions
from docker.grafana.trial.hour import HOUR_MS, fill
from ingest.influx1 import Influx1Store


async def _tried(options: argparse.Namespace) -> list[Asked]:
    to_ms = int(time.time() * 1000)
    span = (to_ms - HOUR_MS, to_ms)
    if options.fill:
        store = Influx1Store(options.url, options.database)
        await store.open()
        await fill(store, span[0])
        await store.close()
    asked: list[Asked] = []
    async with aiohttp.ClientSession() as session:
        server = Server(session, options.url, options.database)
        for board in load(FOLDER):
            for resolution in resolutions(board):
                shown = await choose(server, board, span, {VARIABLE: resolution})
                asked += await ask(server, board, shown)
    return asked


def main() -> None:
    """Print what every query brought."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="the server, e.g. http://127.0.0.1:8086")
    parser.add_argument("--database", default="cityeye")
    parser.add_argument("--fill", action="store_true")
    asked = asyncio.run(_tried(parser.parse_args()))
    for one in asked:
        sys.stdout.write(
            f"{one.board:24} {one.panel[:48]:48} {one.ref:4} {one.resolution:8} "
            f"{len(one.answer.rows):6}\n"
        )
    panels = len({(one.board, one.panel) for one in asked})
    rows = sum(len(one.answer.rows) for one in asked)
    sys.stdout.write(f"{panels} panels, {len(asked)} queries, {rows} rows\n")


if __name__ == "__main__":
    main()
