import struct
from collections.abc import Iterator
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker import codec
from broker.messages import Birth, Status, Telemetry, decode
from city.cityfile import Device
from city.quantities import QUANTITIES
from city.synthetic import synthetic_city
from load.payloads import NATIVE, ReadBack, Reader, Said, Speaker, Template
from load.templates import presets, template_of

NOW_MS = 1_795_413_600_250
TEMPLATES = {name: template_of(name) for name in ("native", *presets())}
KINDS = ("air-station", "air-micro", "water-station", "gas-valve", "stack-cems", "outfall")
DEVICES = {
    device.kind.id: device
    for device in synthetic_city(60, interval_s=1.0, seed=1, kinds=KINDS).devices()
}

# RFC 8428, section 5 and the table of 4.3, as far as JSON Schema says it
SENML = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {
            "bn": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9:./_-]*$"},
            "bt": {"type": "number", "minimum": 2**28},
            "n": {"type": "string", "pattern": "^[A-Za-z0-9:./_-]+$"},
            "u": {
                "enum": [
                    "count", "ug/m3", "Cel", "%RH", "m/s", "deg", "pH", "/100", "m3/s", "l/s", "kW"
                ]
            },
            "v": {"type": "number"},
        },
        "required": ["n", "v"],
        "additionalProperties": False,
    },
}  # fmt: skip

# thingsboard.io, MQTT Device API and MQTT Gateway API: telemetry upload
THINGSBOARD = {
    "type": "object",
    "properties": {
        "ts": {"type": "integer"},
        "values": {"type": "object", "additionalProperties": {"type": ["number", "string"]}},
    },
    "required": ["ts", "values"],
    "additionalProperties": False,
}
GATEWAY = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"type": "array", "items": THINGSBOARD, "minItems": 1},
}

# home-assistant.io, MQTT sensor: what its discovery needs to hold together
DISCOVERY = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "unique_id": {"type": "string", "minLength": 1},
        "state_topic": {"type": "string", "minLength": 1},
        "availability_topic": {"type": "string", "minLength": 1},
        "value_template": {"type": "string", "pattern": r"^\{\{ .* \}\}$"},
        "unit_of_measurement": {"type": ["string", "null"]},
        "device_class": {"type": ["string", "null"]},
        "state_class": {"enum": ["measurement", "measurement_angle"]},
        "suggested_display_precision": {"type": "integer"},
        "device": {"type": "object", "required": ["identifiers", "name"]},
        "origin": {"type": "object", "required": ["name"]},
    },
    "required": ["unique_id", "state_topic", "value_template", "availability_topic", "device"],
    "additionalProperties": False,
}

# home-assistant.io, Sensor: device classes with the units that each may have, of those used here
CLASSES: dict[str, set[str | None]] = {
    "pm25": {"µg/m³"}, "pm10": {"µg/m³"}, "sulphur_dioxide": {"µg/m³"},
    "nitrogen_dioxide": {"µg/m³"}, "ozone": {"µg/m³"}, "carbon_monoxide": {"ppm", "mg/m³"},
    "temperature": {"°C", "°F", "K"}, "humidity": {"%"}, "wind_speed": {"m/s", "km/h"},
    "wind_direction": {"°"}, "ph": {None}, "conductivity": {"µS/cm", "mS/cm"},
    "pressure": {"kPa", "bar", "Pa", "hPa"}, "volume_flow_rate": {"m³/h", "m³/s", "L/s"},
    "speed": {"m/s", "km/h"}, "power": {"W", "kW", "MW"},
}  # fmt: skip


def speaker_of(name: str, kind: str = "air-micro", index: int = 0) -> Speaker:
    """The speaker of a device of that kind."""
    device = DEVICES[kind]
    return Speaker(TEMPLATES[name], device, device.position, run="trial", index=index)


def full(device: Device, value: float = 12.5) -> dict[str, float]:
    """That value of every quantity."""
    return dict.fromkeys(device.kind.quantities, value)


def own(**changes: Any) -> Template:
    """A template of one's own."""
    given: dict[str, Any] = {"name": "own", "topic": "t/${site}/${device}", "payload": "{}"}
    return Template(**(given | changes))


def said(template: Template, values: dict[str, float], **kwargs: Any) -> str:
    """What a device says by a template of one's own."""
    device = DEVICES["air-micro"]
    speaker = Speaker(template, device, device.position, run="trial", index=7)
    return speaker.payload(300, NOW_MS, values, kwargs.get("flags")).decode()


@st.composite
def readings(draw: st.DrawFn) -> tuple[Device, dict[str, float], dict[str, str]]:
    """A device, some of its values and flags."""
    device = DEVICES[draw(st.sampled_from(KINDS))]
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    values = draw(st.dictionaries(st.sampled_from(device.kind.quantities), numbers))
    flags = {name: draw(st.sampled_from("FMSDCTB")) for name in values if draw(st.booleans())}
    return device, values, flags


@pytest.mark.parametrize("name", TEMPLATES)
@settings(deadline=None)
@given(
    seq=st.integers(0, 2**40), ts_ms=st.integers(10**12, 2 * 10**12), reading=readings()
)  # fmt: skip
def test_round_trip(
    name: str, seq: int, ts_ms: int, reading: tuple[Device, dict[str, float], dict[str, str]]
) -> None:
    """What a speaker says is read back, whatever the values, flags, number and instant."""
    device, values, flags = reading
    template = TEMPLATES[name]
    speaker = Speaker(template, device, device.position, run="trial")
    reader = Reader(template)
    payload = speaker.payload(seq, ts_ms, values, flags or None)

    assert (reader.key_of(speaker), seq, ts_ms) == reader.read(speaker.topic[2:], payload)


@pytest.mark.parametrize("name", TEMPLATES)
def test_keys(name: str) -> None:
    """Every device has a key of its own, and a client identifier."""
    template = TEMPLATES[name]
    reader = Reader(template)
    devices = list(synthetic_city(200, interval_s=1.0, seed=1, kinds=KINDS).devices())
    speakers = [Speaker(template, device, device.position, run="trial") for device in devices]

    assert len(devices) == len({reader.key_of(speaker) for speaker in speakers})
    assert len(devices) == len({speaker.client_id for speaker in speakers})


@pytest.mark.parametrize("name", TEMPLATES)
@settings(deadline=None)
@given(payload=st.binary() | st.text().map(str.encode))
def test_foreign(name: str, payload: bytes) -> None:
    """No payload that anybody may send is more than unreadable."""
    found = Reader(TEMPLATES[name]).read(b"a/b", payload)

    assert found is None or isinstance(found[1], int)


@pytest.mark.parametrize("name", TEMPLATES)
def test_cut_off(name: str) -> None:
    """A message that is cut off anywhere is unreadable, and so is one of 300,000 bytes."""
    speaker = speaker_of(name)
    reader = Reader(TEMPLATES[name])
    payload = speaker.payload(5, NOW_MS, full(DEVICES["air-micro"]), None)
    cuts = [reader.read(speaker.topic[2:], payload[:end]) for end in range(len(payload))]

    assert {None} == {*cuts, reader.read(speaker.topic[2:], payload.ljust(300_000))}


@pytest.mark.parametrize(
    ("name", "filters"),
    [
        ("native", ("cityeye/v1/+/+/+/+/+/telemetry",)),
        ("senml", ("senml/+/+/+",)),
        ("sparkplug", ("spBv1.0/+/NDATA/+",)),
        ("thingsboard", ("v1/devices/me/telemetry",)),
        ("thingsboard-gateway", ("v1/gateway/telemetry",)),
        ("home-assistant", ("cityeye/+/+/+/state",)),
    ],
)
def test_filters(name: str, filters: tuple[str, ...]) -> None:
    """A subscriber's filter has a wildcard where a topic has fields."""
    assert filters == Reader(TEMPLATES[name]).filters


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("a/x-${site}-y/b", "a/+/b"),
        ("${site}/${device}", "+/+"),
        ("$$a/${name}/b/c", "$a/#"),
        ("a/${site}/z${model}", "a/+/#"),
    ],
)
def test_filter_of_topic(topic: str, expected: str) -> None:
    """A level with a field is +, and everything from one that may hold slashes on is #."""
    assert (expected,) == Reader(own(topic=topic, read=ReadBack(seq="/n"))).filters


def test_native() -> None:
    """Native messages are CityEye's own: telemetry, birth document, status, will."""
    speaker = speaker_of("native")
    values = full(DEVICES["air-micro"])
    (meta, status) = speaker.births(NOW_MS)
    will = speaker.will

    assert Telemetry(NOW_MS, 5, values) == decode(
        Telemetry, speaker.payload(5, NOW_MS, values, None)
    )
    assert "air-micro" == decode(Birth, meta[1]).kind
    assert Status(state="online", ts=NOW_MS) == decode(Status, status[1])
    assert will is not None
    assert Status(state="lost") == decode(Status, will.payload)


@settings(deadline=None)
@given(reading=readings(), seq=st.integers(0, 2**40))
def test_senml(reading: tuple[Device, dict[str, float], dict[str, str]], seq: int) -> None:
    """SenML is what RFC 8428 says: resolved, every value has name, instant and number."""
    device, values, flags = reading
    speaker = Speaker(TEMPLATES["senml"], device, device.position, run="trial")
    pack = msgspec.json.decode(speaker.payload(seq, NOW_MS, values, flags or None))
    jsonschema.validate(pack, SENML)
    base = pack[0]["bn"]

    assert f"synthetic/{device.address.site}/{device.address.device}/" == base
    assert NOW_MS / 1000 == pack[0]["bt"]
    assert {"seq": seq} | values == {record["n"]: record["v"] for record in pack}


def test_thingsboard() -> None:
    """A ThingsBoard device sends ts and values, with its access token as the user name."""
    speaker = speaker_of("thingsboard")
    content = msgspec.json.decode(speaker.payload(5, NOW_MS, {"pm25": 1.5}, None))
    jsonschema.validate(content, THINGSBOARD)

    assert {"seq": 5, "device": "air-micro-00001-09", "pm25": 1.5} == content["values"]
    assert "air-micro-00001-09" == speaker.username
    assert (b"v1/devices/me/telemetry", []) == (speaker.topic[2:], speaker.births(NOW_MS))


def test_thingsboard_gateway() -> None:
    """A ThingsBoard gateway connects its device and sends readings under the device's name."""
    speaker = speaker_of("thingsboard-gateway")
    content = msgspec.json.decode(speaker.payload(5, NOW_MS, {"pm25": 1.5}, None))
    jsonschema.validate(content, GATEWAY)
    ((topic, payload, retain),) = speaker.births(NOW_MS)

    assert [{"ts": NOW_MS, "values": {"seq": 5, "pm25": 1.5}}] == content["air-micro-00001-09"]
    assert (b"v1/gateway/connect", False) == (topic[2:], retain)
    assert {"device": "air-micro-00001-09", "type": "CE-AQ4"} == msgspec.json.decode(payload)


@pytest.mark.parametrize("kind", KINDS)
def test_home_assistant(kind: str) -> None:
    """Home Assistant finds one sensor per quantity, of a class that its unit fits, and its state."""
    speaker = speaker_of("home-assistant", kind)
    *configs, (available, online, retained) = speaker.births(NOW_MS)
    device = DEVICES[kind]
    state = msgspec.json.decode(speaker.payload(5, NOW_MS, full(device), None))
    for (topic, payload, retain), quantity in zip(configs, device.kind.quantities, strict=True):
        config = msgspec.json.decode(payload)
        jsonschema.validate(config, DISCOVERY)
        node = f"{device.address.site}-{device.address.device}"

        assert f"homeassistant/sensor/{node}/{quantity}/config" == topic[2:].decode()
        assert retain
        assert speaker.topic[2:].decode() == config["state_topic"]
        assert available[2:].decode() == config["availability_topic"]
        assert f"value_json.readings.{quantity} " in config["value_template"]
        assert state["readings"][quantity] == 12.5
        if config["device_class"] is not None:
            assert config["unit_of_measurement"] in CLASSES[config["device_class"]]
    assert (b"online", True) == (online, retained)


def test_home_assistant_will() -> None:
    """A lost Home Assistant device is offline, and so is one that leaves."""
    speaker = speaker_of("home-assistant")
    topic = "cityeye/trial/air-micro-00001/09/availability"

    assert codec.Will(topic, b"offline", retain=True) == speaker.will
    assert [(codec.field(topic), b"offline", True)] == speaker.farewells(NOW_MS)


def fields_of(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and content of each field of a protobuf message, read by hand."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            value |= (raw[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if raw[at - 1] < 0x80:
                return value

    while at < len(raw):
        tag = number()
        if tag & 7 == 0:
            yield tag >> 3, number()
            continue
        size = 8 if tag & 7 == 1 else number()
        yield tag >> 3, raw[at : at + size]
        at += size


def metrics_of(raw: bytes) -> list[dict[int, int | bytes]]:
    """The metrics (field 2) of a Sparkplug payload, each by number of field."""
    return [
        dict(fields_of(content))
        for number, content in fields_of(raw)
        if number == 2 and isinstance(content, bytes)
    ]


def test_sparkplug_birth() -> None:
    """NBIRTH has number 0, bdSeq, the rebirth control, and every metric with alias and type."""
    ((topic, payload, retain),) = speaker_of("sparkplug").births(NOW_MS)
    outer = dict(fields_of(payload))
    metrics = metrics_of(payload)

    assert (b"spBv1.0/trial/NBIRTH/air-micro-00001.09", False) == (topic[2:], retain)
    assert (NOW_MS, 0) == (outer[1], outer[3])
    assert [b"bdSeq", b"Node Control/Rebirth", b"seq", b"pm25", b"pm10", b"temperature",
            b"humidity"] == [metric[1] for metric in metrics]  # fmt: skip
    assert [None, None, 1, 2, 3, 4, 5] == [metric.get(2) for metric in metrics]
    assert {NOW_MS} == {metric[3] for metric in metrics}
    assert [4, 11, 4, 10, 10, 10, 10] == [metric[4] for metric in metrics]


def test_sparkplug_data() -> None:
    """NDATA has an instant, the next number, and values by alias, without names and types."""
    speaker = speaker_of("sparkplug")
    speaker.births(NOW_MS)
    payload = speaker.payload(300, NOW_MS, {"pm25": 1.5, "humidity": 40.0}, {"pm25": "D"})
    outer = dict(fields_of(payload))
    count, pm25, humidity = metrics_of(payload)

    assert (NOW_MS, 1) == (outer[1], outer[3])
    assert {2: 1, 3: NOW_MS, 11: 300} == count
    assert {2: 5, 3: NOW_MS, 13: struct.pack("<d", 40.0)} == humidity
    assert {2: 2, 3: NOW_MS, 13: struct.pack("<d", 1.5)}.items() <= pm25.items()
    assert b"Quality" in bytes(pm25[9])


def test_sparkplug_numbers() -> None:
    """NDATA counts 1 to 255 and 0 again after every birth."""
    speaker = speaker_of("sparkplug")
    values = full(DEVICES["air-micro"])
    counted: list[int | bytes] = []
    for first, last in ((0, 300), (300, 302)):
        assert speaker.will is not None
        speaker.births(NOW_MS)
        payloads = [speaker.payload(seq, NOW_MS, values, None) for seq in range(first, last)]
        counted += [dict(fields_of(payload))[3] for payload in payloads]

    assert [*range(1, 256), *range(45), 1, 2] == counted


def test_sparkplug_death() -> None:
    """NDEATH bears the bdSeq of the birth that follows, another one for each connection."""
    speaker = speaker_of("sparkplug")
    pairs = []
    for _ in range(258):
        will = speaker.will
        assert will is not None
        ((_, birth, _),) = speaker.births(NOW_MS)
        pairs.append((metrics_of(will.payload)[0][11], metrics_of(birth)[0][11]))

    assert [(n % 256, n % 256) for n in range(258)] == pairs


def test_sparkplug_leaves() -> None:
    """NDEATH is the will, not retained, and is said before leaving on purpose."""
    speaker = speaker_of("sparkplug")
    topic = "spBv1.0/trial/NDEATH/air-micro-00001.09"
    ((said_topic, payload, retain),) = speaker.farewells(NOW_MS)

    assert (codec.field(topic), False) == (said_topic, retain)
    assert codec.Will(topic, payload, retain=False) == speaker.will


def test_fields_of_payload() -> None:
    """A payload may hold who, when and what."""
    text = "${run} ${index} ${seq} ${seq_mod_256} ${ts_ms} ${ts_s} ${ts_iso} ${values} ${flags}"
    expected = (
        'trial 7 300 44 1795413600250 1795413600.250 2026-11-23T06:00:00.250Z {"pm25":1.5} '
        '{"pm25":"D"}'
    )

    assert expected == said(own(payload=text, format="text"), {"pm25": 1.5}, flags={"pm25": "D"})


@pytest.mark.parametrize(("format_", "expected"), [("json", "[1.5,null]"), ("text", "[1.5,]")])
def test_absent(format_: str, expected: str) -> None:
    """A value that is not there is null in JSON and nothing in a text."""
    template = own(payload="[${value:pm25},${value:co}]", format=format_)

    assert expected == said(template, {"pm25": 1.5})


def test_records() -> None:
    """A record is repeated for every value, with its quantity, flag and the template's words."""
    template = own(
        payload="[${records}]",
        record='{"${term:short}":${value},"f":"${flag}","u":"${unit}","d":"${device}","n":${seq}}',
        separator=", ",
        terms={"short": {"pm25": "fine", "*": "other"}},
    )
    expected = (
        '[{"fine":1.5,"f":"T","u":"ug/m3","d":"09","n":300}, '
        '{"other":2.0,"f":"N","u":"ug/m3","d":"09","n":300}]'
    )

    assert expected == said(template, {"pm25": 1.5, "pm10": 2.0}, flags={"pm25": "T"})


def test_birth_of_quantities() -> None:
    """A birth is said once, or for every quantity, and knows the topic of the readings."""
    template = own(
        birth=(
            Said(topic="b", payload="${client_id} ${ts_ms}"),
            Said(topic="b/${quantity}", payload="${topic} ${high}", each_quantity=True),
        )
    )
    device = DEVICES["air-micro"]
    births = Speaker(template, device, device.position, run="trial").births(NOW_MS)

    assert (codec.field("b"), b"cityeye.trial.air-micro-00001.09 1795413600250", False) == births[0]
    assert [
        (codec.field(f"b/{name}"), f"t/air-micro-00001/09 {QUANTITIES[name].high:g}".encode(), False)
        for name in device.kind.quantities
    ] == births[1:]  # fmt: skip


@settings(deadline=None)
@given(name=st.text())
def test_escaped(name: str) -> None:
    """Whatever a site is called, JSON stays JSON and says that name."""
    device = DEVICES["air-micro"]
    named = msgspec.structs.replace(device, site=msgspec.structs.replace(device.site, name=name))
    template = own(payload='{"name":"${name}"}')
    payload = Speaker(template, named, device.position, run="r").payload(0, 0, {}, None)

    assert {"name": name or "Micro air station"} == msgspec.json.decode(payload)


@pytest.mark.parametrize(
    ("content", "read", "expected"),
    [
        ('{"a":[{"n":5}]}', ReadBack(seq="/a/0/n"), (b"t", 5, 0)),
        ('{"a/b":5,"~":6}', ReadBack(seq="/a~1b", ts="/~0"), (b"t", 5, 6)),
        ('{"x":{"n":5}}', ReadBack(seq="/*/n", device="/#"), (b"x", 5, 0)),
        ('{"n":5,"t":1.5}', ReadBack(seq="/n", ts="/t", ts_unit="s"), (b"t", 5, 1500)),
        ('{"n":5,"t":"1970-01-01T00:00:01.5Z"}', ReadBack(seq="/n", ts="/t", ts_unit="iso"),
         (b"t", 5, 1500)),
        ('{"n":5,"d":"x"}', ReadBack(seq="/n", device="/d"), (b"x", 5, 0)),
        ('{"n":5,"d":6}', ReadBack(seq="/n", device="/d"), None),
        ('{"n":5.5}', ReadBack(seq="/n"), None),
        ('{"n":true}', ReadBack(seq="/n"), None),
        ('{"n":5,"t":1e308}', ReadBack(seq="/n", ts="/t", ts_unit="s"), None),
        ('{"x":{"n":5},"y":{"n":6}}', ReadBack(seq="/*/n"), None),
        ("[5]", ReadBack(seq="/n"), None),
        ("5", ReadBack(seq="/n"), None),
    ],
)  # fmt: skip
def test_pointers(content: str, read: ReadBack, expected: tuple[bytes, int, int] | None) -> None:
    """A message is read by JSON pointers, `*` is the only member and `#` its name."""
    assert expected == Reader(own(read=read)).read(b"t", content.encode())


def test_key_of_nothing() -> None:
    """A device that its messages do not name has no key."""
    device = DEVICES["air-micro"]
    template = own(payload='{"n":${seq}}', read=ReadBack(seq="/n", device="/d"))
    speaker = Speaker(template, device, device.position, run="trial")

    with pytest.raises(LookupError, match=r"no text at /d in the messages of cityeye\.trial"):
        Reader(template).key_of(speaker)


def test_native_is_the_default() -> None:
    """A native speaker has the topic, identity and login of CityEye's own devices."""
    device = DEVICES["air-micro"]
    speaker = Speaker(NATIVE, device, device.position, run="trial")

    assert f"cityeye/v1/{device.address}/telemetry" == speaker.topic[2:].decode()
    assert ("cityeye.trial.air-micro-00001.09", None) == (speaker.client_id, speaker.username)
