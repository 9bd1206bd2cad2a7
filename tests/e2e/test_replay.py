"""`cityeye replay`: recorded data, sent by devices of their own."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from broker.embedded import EmbeddedBroker
from broker.messages import Birth, Telemetry, decode
from city.settings import Settings
from cli.replay import replay

EXAMPLE = Path(__file__).parents[2] / "docs" / "replay" / "beijing-air.yaml"
TOPIC = "cityeye/v1/beijing/chaoyang/air/aotizhongxin/recording"
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
    assert [0, 1, 4] == [(sample.ts - 1362067200000) // 3_600_000 for sample in samples]
    assert "pm25" not in samples[1].values
    assert 0.3 == samples[0].values["co"]
    assert ("recorded-air", 9) == (birth.kind, len(birth.quantities))


def _sent(peer: Any, channel: str) -> list[bytes]:
    """The payloads on one of the device's topics."""
    return [
        m.payload for m in peer.messages if m.topic == f"{TOPIC}/{channel}".encode() and m.payload
    ]
