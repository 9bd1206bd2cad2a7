from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from broker.mosquitto import PrivateMosquitto
from city.quantities import QUANTITIES
from city.synthetic import synthetic_city
from load.payloads import Reader, Speaker
from load.templates import presets, template_of

TS_MS = 1_795_413_600_250


@pytest.mark.mosquitto
@pytest.mark.parametrize("name", ["native", *presets()])
async def test_through_the_broker(
    mosquitto: PrivateMosquitto, connect: Callable[..., Awaitable[Any]], name: str
) -> None:
    """A broker takes what a device says, a subscriber reads it, and the will follows a loss."""
    template = template_of(name)
    reader = Reader(template)
    (device,) = synthetic_city(1, interval_s=1.0, seed=1, kinds=("air-micro",)).devices()
    speaker = Speaker(template, device, device.position, run="trial")
    will = speaker.will
    subscriber = await connect(mosquitto)
    for pattern in (*reader.filters, *([will.topic] if will else [])):
        await subscriber.subscribe(pattern)
    peer = await connect(mosquitto, speaker.client_id, will=will, username=speaker.username)
    births = speaker.births(TS_MS)
    for topic, payload, retain in births:
        await peer.publish(topic[2:].decode(), payload, retain=retain)
    values = {name: QUANTITIES[name].high / 2 for name in device.kind.quantities}
    await peer.publish(speaker.topic[2:].decode(), speaker.payload(5, TS_MS, values, None))
    await peer.vanish()
    expected = (reader.key_of(speaker), 5, TS_MS)
    await subscriber.wait(
        lambda sub: (
            any(reader.read(m.topic, m.payload) == expected for m in sub.messages)
            and (will is None or any(m.payload == will.payload for m in sub.messages))
        )
    )

    assert 1 == sum(reader.read(m.topic, m.payload) == expected for m in subscriber.messages)
