import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import (
    Draft7Validator,
    ValidationError,
)

from broker.messages import (
    AlarmEvent,
    Birth,
    ClockTick,
    Command,
    MeasuredQuantity,
    Reply,
    Status,
    Telemetry,
    encode,
)
from broker.schema import TOPICS, asyncapi, asyncapi_yaml, json_schemas
from broker.topics import (
    Channel,
    action_topic,
    alarm_topic,
    clock_topic,
    device_topic,
    load_topic,
    order_topic,
    reply_topic,
    request_topic,
    truth_topic,
)
from city.cityfile import Address

CHECKED_IN = Path(__file__).parents[2] / "docs" / "asyncapi.yaml"
DOCUMENT = asyncapi()

EXAMPLES = (
    Telemetry(1795413600000, 1873, {"pm25": 12.4, "no2": 31.0}, {"no2": "D"}, (119.97, 31.82)),
    Telemetry(1795413600000, 0, {}),
    Status(state="online", ts=1795413600000),
    Status(state="lost"),
    Birth(
        kind="gas-valve",
        model="CE-GV2",
        position=(119.97, 31.82),
        interval_s=2.0,
        quantities={"gas_pressure": MeasuredQuantity(unit="kPa", low=-101.325, high=10_000.0)},
        commands=("close_valve", "open_valve"),
    ),
    Command(id="c1", name="close_valve", ts=1, by="alerts/gas-burst", args={"n": 1}, expires=2),
    Reply(id="c1", ok=True, ts=1, detail="closed in 1.8 s"),
    ClockTick(ts=1, speed=60.0, seed=7, wall=2),
    AlarmEvent(
        rule="pm25-high",
        event="raised",
        state="unacknowledged",
        severity="high",
        level="H",
        quantity="pm25",
        value=160.0,
        limit=150.0,
        unit="ug/m3",
        ts=1,
        raised=1,
        standard="GB 3095-2026",
    ),
)

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)


def generated(kind: type[msgspec.Struct]) -> st.SearchStrategy[msgspec.Struct]:
    """Any message of that type, from the type itself."""
    fields = {
        field.encode_name: values_of(field.type)
        for field in msgspec.inspect.type_info(kind).fields  # type: ignore[attr-defined]
    }
    return st.builds(kind, **fields)


def values_of(shape: Any) -> st.SearchStrategy[Any]:
    """Any value that msgspec takes for `shape`."""
    build: Callable[[Any], st.SearchStrategy[Any]] = BUILD[type(shape)]
    return build(shape)


def json_values(_: object = None) -> st.SearchStrategy[Any]:
    """Any plain value of JSON."""
    return st.none() | st.booleans() | finite | words


BUILD: dict[type, Callable[[Any], st.SearchStrategy[Any]]] = {
    msgspec.inspect.Metadata: lambda shape: values_of(shape.type),
    msgspec.inspect.IntType: lambda shape: st.integers(shape.ge, shape.le),
    msgspec.inspect.FloatType: lambda shape: (
        finite if shape.gt is None else st.floats(shape.gt, shape.le, exclude_min=True)
    ),
    msgspec.inspect.BoolType: lambda _: st.booleans(),
    msgspec.inspect.StrType: lambda _: words,
    msgspec.inspect.NoneType: lambda _: st.none(),
    msgspec.inspect.AnyType: json_values,
    msgspec.inspect.LiteralType: lambda shape: st.sampled_from(shape.values),
    msgspec.inspect.UnionType: lambda shape: st.one_of(*map(values_of, shape.types)),
    msgspec.inspect.DictType: lambda shape: st.dictionaries(
        words, values_of(shape.value_type), max_size=3
    ),
    msgspec.inspect.TupleType: lambda shape: st.tuples(*map(values_of, shape.item_types)),
    msgspec.inspect.VarTupleType: lambda shape: st.lists(
        values_of(shape.item_type), max_size=3
    ).map(tuple),
    msgspec.inspect.StructType: lambda shape: generated(shape.cls),
}


def validate(kind: type[msgspec.Struct], payload: bytes) -> None:
    """Hold a payload against the published schema of its type."""
    root = {"$ref": f"#/components/schemas/{kind.__name__}", "components": DOCUMENT["components"]}
    Draft7Validator(root).validate(msgspec.json.decode(payload))


def test_checked_in() -> None:
    """The checked-in document is what the types say now."""
    assert asyncapi_yaml() == CHECKED_IN.read_text(encoding="utf-8")


def test_command() -> None:
    """`python -m broker.schema` prints the document."""
    told = subprocess.run(
        [sys.executable, "-m", "broker.schema"], capture_output=True, check=True, timeout=120
    )

    assert asyncapi_yaml() == told.stdout.decode()


@pytest.mark.parametrize("name", json_schemas())
def test_schema_is_one(name: str) -> None:
    """Every schema is itself a right schema of its draft."""
    Draft7Validator.check_schema(DOCUMENT["components"]["schemas"][name])

    assert "object" == DOCUMENT["components"]["schemas"][name]["type"]


@pytest.mark.parametrize("message", EXAMPLES)
def test_examples(message: msgspec.Struct) -> None:
    """Real messages agree with the schema."""
    validate(type(message), encode(message))


@pytest.mark.parametrize("kind", [topic.message for topic in TOPICS])
@given(data=st.data())
def test_generated(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    """Every message that the types allow agrees with the schema."""
    validate(kind, encode(data.draw(generated(kind))))


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Telemetry, b'{"ts":1,"seq":1,"values":{"pm25":"12"}}'),
        (Telemetry, b'{"ts":1,"seq":-1,"values":{}}'),
        (Telemetry, b'{"ts":1,"seq":1,"values":{},"flags":{"pm25":"N"}}'),
        (Telemetry, b'{"ts":1,"seq":1,"values":{},"pos":[1]}'),
        (Telemetry, b'{"ts":1,"seq":1,"values":{},"pos":[1,2,3]}'),
        (Telemetry, b'{"ts":1,"seq":1,"values":{},"unit":"mg"}'),
        (Telemetry, b'{"ts":1,"seq":1}'),
        (Status, b'{"state":"away"}'),
        (Birth, b'{"kind":"a","model":"b","position":[1,2],"interval_s":1,"quantities":{"q":{}}}'),
        (Command, b'{"id":1,"name":"n","ts":1,"by":"x"}'),
    ],
)
def test_refused(kind: type[msgspec.Struct], payload: bytes) -> None:
    """What the decoder refuses, the schema refuses."""
    with pytest.raises(ValidationError):
        validate(kind, payload)


def test_addresses() -> None:
    """The channels' addresses are the topics that are really built."""
    address = Address("{city}", "{district}", "{domain}", "{site}", "{device}")
    built = {device_topic(address, channel) for channel in Channel}
    built |= {
        alarm_topic(address, "{rule}"),
        action_topic(address),
        order_topic(address, "{order}"),
    }
    built |= {request_topic("{city}"), reply_topic("{city}")}
    built |= {clock_topic("{city}"), truth_topic("{city}")}
    built |= {load_topic("{city}", "{run}", part) for part in ("figures", "control")}

    assert built == {channel["address"] for channel in DOCUMENT["channels"].values()}


@pytest.mark.parametrize("name", DOCUMENT["channels"])
def test_parameters(name: str) -> None:
    """A channel has the parameters of its address and no others."""
    channel = DOCUMENT["channels"][name]

    assert set(re.findall(r"\{(\w+)\}", channel["address"])) == set(channel["parameters"])


def references(node: object) -> list[str]:
    """Every $ref below `node`."""
    if isinstance(node, list):
        return [ref for part in node for ref in references(part)]
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [ref for part in node.values() for ref in references(part)]
    return []


@pytest.mark.parametrize("reference", sorted(set(references(DOCUMENT))))
def test_references(reference: str) -> None:
    """Every reference leads somewhere."""
    node: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]

    assert node


def test_retained() -> None:
    """What is said to be retained is what a late subscriber must know."""
    retained = {
        name
        for name, operation in DOCUMENT["operations"].items()
        if operation["bindings"]["mqtt"]["retain"]
    }

    assert {"send-status", "send-meta", "send-alarm", "send-order", "send-clock"} == retained
