"""`cityeye replay`: recorded data, sent by devices of their own."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from broker.embedded import EmbeddedBroker
from broker.messages import Birth, Telemetry, decode
from city.settings import Settings
from cli.replay import replay

EXAMPLE = Path(__file__).parents[2] / "docs" / "replay" / "beijing-air.yaml"
TOPIC = "cityeye/v1/beijing/chaoyang/air/aotizhongxin/recording"
PROGRAM = str(Path(sys.executable).with_name("cityeye"))
DEADLINE_S = 60.0
LINES = """\
"year","month","day","hour","PM2.5","PM10","SO2","NO2","CO","O3","TEMP","wd","WSPM","station"
2013,3,1,0,4,4,4,7,300,77,-0.7,"NNW",4.4,"Aotizhongxin"
2013,3,1,1,NA,8,4,7,300,77,-1.1,"N",4.7,"Aotizhongxin"
2013,3,1,2,7,many,5,10,300,73,-1.1,"NNW",5.6,"Aotizhongxin"
2013,3,1,4,6,6,11,11,300,72,-1.4,"NW",3.1,"Aotizhongxin"
"""


async def test_published(
    tmp_path: Path,
    embedded_broker: EmbeddedBroker,
    connect: Callable[..., Awaitable[Any]],
) -> None:
    """A station introduces itself and sends its rows with their own instants, gaps and all."""
    (tmp_path / "air.csv").write_text(LINES, encoding="utf-8")
    listener = await connect(embedded_broker)
    await listener.subscribe(f"{TOPIC}/#")
    address = f"mqtt://{embedded_broker.host}:{embedded_broker.port}"
    settings = Settings(broker=address, speed="18000", data=tmp_path)
    outcome = await replay(settings, tmp_path / "air.csv", EXAMPLE)
    await listener.wait(lambda peer: len(_sent(peer, "telemetry")) == 3)
    samples = [decode(Telemetry, payload) for payload in _sent(listener, "telemetry")]
    [birth] = [decode(Birth, payload) for payload in _sent(listener, "meta")]

    assert outcome.complete
    assert (3, 1, 26) == tuple(
        outcome.figures[key] for key in ("messages", "rows_left_out", "readings")
    )
    assert 3 == outcome.figures["rows_played"]
    assert [0, 1, 4] == [(sample.ts - 1362067200000) // 3_600_000 for sample in samples]
    assert "pm25" not in samples[1].values
    assert 0.3 == samples[0].values["co"]
    assert ("recorded-air", 9) == (birth.kind, len(birth.quantities))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_stopped(
    tmp_path: Path,
    embedded_broker: EmbeddedBroker,
    connect: Callable[..., Awaitable[Any]],
    number: int,
) -> None:
    """Ctrl-C and SIGTERM end a replay in order: the device says goodbye, a summary, status 0."""
    (tmp_path / "air.csv").write_text(LINES, encoding="utf-8")
    listener = await connect(embedded_broker)
    await listener.subscribe(f"{TOPIC}/#")
    words = ["air.csv", "--mapping", str(EXAMPLE), "--json", "--broker"]
    process = await asyncio.create_subprocess_exec(
        PROGRAM, "replay", *words, f"mqtt://{embedded_broker.host}:{embedded_broker.port}",
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("CITYEYE_")},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await listener.wait(lambda peer: _sent(peer, "telemetry"))
        process.send_signal(number)
        async with asyncio.timeout(DEADLINE_S):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    await listener.wait(lambda peer: len(_sent(peer, "status")) > 1)
    said = json.loads(out)

    assert 0 == process.returncode
    assert (3, 1, 1) == (said["rows"], said["rows_played"], said["acknowledged"])
    assert b"offline" in _sent(listener, "status")[-1]


async def test_left_out(
    tmp_path: Path, embedded_broker: EmbeddedBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first rows that do not parse are told, the rest as a number."""
    bad = '2013,3,1,2,7,many,5,10,300,73,-1.1,"NNW",5.6,"Aotizhongxin"\n'
    (tmp_path / "air.csv").write_text(LINES + 7 * bad, encoding="utf-8")
    address = f"mqtt://{embedded_broker.host}:{embedded_broker.port}"
    settings = Settings(broker=address, speed="18000", data=tmp_path)
    outcome = await replay(settings, tmp_path / "air.csv", EXAMPLE)
    said = capsys.readouterr()

    assert 8 == outcome.figures["rows_left_out"]
    assert 5 == (said.out + said.err).count("'many' is no number")
    assert "and 3 more" in said.out + said.err


def _sent(peer: Any, channel: str) -> list[bytes]:
    """The payloads on one of the device's topics."""
    return [
        m.payload for m in peer.messages if m.topic == f"{TOPIC}/{channel}".encode() and m.payload
    ]
