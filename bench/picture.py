"""Draws docs/images/live.svg: the live view of a real run, as a terminal shows it."""

import asyncio
import contextlib
import re
import tempfile
from io import StringIO
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console

from broker.choice import running_broker
from city.cityfile import load_city
from city.settings import Settings
from cli.ingesting import ingesting
from cli.live import View
from cli.simulating import simulating

PICTURE: Final = Path(__file__).parent.parent / "docs" / "images" / "live.svg"
WALL_S: Final = 30.0
WIDTH: Final = 140
SETTINGS: Final = Settings(speed="10", broker="embedded", log="error")


async def draw() -> str:
    """Run the default city for a while; the view at the end, as SVG."""
    city = load_city(SETTINGS.city)
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    async with (
        running_broker("embedded", data_dir=SETTINGS.data) as broker,
        ingesting(SETTINGS, broker, city) as ingest,
        simulating(SETTINGS, broker, city) as sim,
    ):
        title = f"CityEye: {city.name}"  # SVG sets wide letters too narrow
        view = View(title, broker.name, simulating=sim, ingesting=ingest, zone=city.zone)
        playing = asyncio.create_task(sim.fleet.run(), name="fleet")
        for _ in range(round(WALL_S)):
            await asyncio.sleep(1)
            view.page(WIDTH)
        console.print(view.page(WIDTH))
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
        await sim.fleet.leave()
        await ingest.finish(SETTINGS)
    picture = console.export_svg(title="cityeye run --speed 10", unique_id="cityeye")
    return re.sub(
        r',\s*url\("http[^;]*', "", picture
    )  # fonts of the machine, none of the network's


def main() -> None:
    """Draw in an empty directory, so that only names relative to it show."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        picture = uvloop.run(draw())
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(picture, encoding="utf-8")
    print(PICTURE.name, len(picture), "bytes")


if __name__ == "__main__":
    main()
