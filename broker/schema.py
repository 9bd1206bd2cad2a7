"""The wire, described for other programs: JSON Schema and AsyncAPI 3.0, made from the types.

`python -m broker.schema` prints the AsyncAPI document as YAML; `docs/asyncapi.yaml` is its output.
"""

import sys
from typing import Any, Final

import msgspec
import yaml

from broker.loadmessages import LoadControl, LoadFigures
from broker.messages import (
    PAYLOAD_MAX,
    ActionEvent,
    AlarmEvent,
    Birth,
    ClockTick,
    Command,
    OperatorReply,
    OperatorRequest,
    RepairOrder,
    Reply,
    Status,
    Telemetry,
    TruthRecord,
)
from broker.topics import ROOT, Channel
from city.cityfile import IDENTIFIER, IDENTIFIER_MAX
from city.quantities import Domain

WIRE_VERSION: Final = "1.0.0"
REFERENCE: Final = "#/components/schemas/{name}"

_Message = type[msgspec.Struct]


class Topic(msgspec.Struct, frozen=True):
    """One kind of topic: who sends what on it, and whether the broker retains it."""

    id: str
    address: str
    message: _Message
    receives: bool
    """Whether the sender of the other topics receives it: the device, or the alarm service."""
    retained: bool
    sentence: str


_DEVICE: Final = f"{ROOT}/{{city}}/{{district}}/{{domain}}/{{site}}/{{device}}"
_ALARM: Final = f"{ROOT}/{{city}}/{{district}}/alarms/{{domain}}/{{site}}/{{device}}/{{rule}}"
_ACTION: Final = f"{ROOT}/{{city}}/{{district}}/actions/{{domain}}/{{site}}/{{device}}"
_ORDER: Final = f"{ROOT}/{{city}}/{{district}}/orders/{{domain}}/{{site}}/{{order}}"

TOPICS: Final = (
    Topic("telemetry", f"{_DEVICE}/{Channel.TELEMETRY}", Telemetry, False, False,
          "Readings of one device at one instant."),
    Topic("status", f"{_DEVICE}/{Channel.STATUS}", Status, False, True,
          "Whether the device is there; its last will says `lost`."),
    Topic("meta", f"{_DEVICE}/{Channel.META}", Birth, False, True,
          "The birth document: model, position, quantities, units and ranges."),
    Topic("command", f"{_DEVICE}/{Channel.COMMAND}", Command, True, False,
          "An order to the device."),
    Topic("reply", f"{_DEVICE}/{Channel.REPLY}", Reply, False, False,
          "The device's one answer to a command."),
    Topic("alarm", _ALARM, AlarmEvent, False, True,
          "The alarm that a rule raised on a device; an empty message when it is gone."),
    Topic("action", _ACTION, ActionEvent, False, False,
          "A step of an action that an alarm has set off at the device."),
    Topic("order", _ORDER, RepairOrder, False, True,
          "A repair order; an empty message when it is done."),
    Topic("request", f"{ROOT}/{{city}}/operator/request", OperatorRequest, True, False,
          "What a person asks of the alarm service."),
    Topic("answer", f"{ROOT}/{{city}}/operator/reply", OperatorReply, False, False,
          "The alarm service's one answer to a request."),
    Topic("clock", f"{ROOT}/{{city}}/clock", ClockTick, False, True,
          "Simulated time, speed and seed of the city."),
    Topic("truth", f"{ROOT}/{{city}}/truth", TruthRecord, False, False,
          "Ground truth of one event; only the scorer may read it."),
    Topic("load-figures", f"{ROOT}/{{city}}/load/{{run}}/figures", LoadFigures, False, False,
          "One second of a running load test."),
    Topic("load-control", f"{ROOT}/{{city}}/load/{{run}}/control", LoadControl, True, False,
          "A wish to a running load test."),
)  # fmt: skip

_PARAMETERS: Final = {
    "city": "The city's identifier.",
    "district": "The district that supervises the device.",
    "domain": "The part of the environment that the device watches.",
    "site": "The place where the device stands.",
    "device": "The device's identifier, unique at its site.",
    "rule": "The rule that watches the device.",
    "order": "The number of the repair order.",
    "run": "The name of a load test.",
}


def json_schemas() -> dict[str, Any]:
    """The JSON Schema (draft-07) of every message and of the parts it refers to, by name."""
    messages = [topic.message for topic in TOPICS]
    _, schemas = msgspec.json.schema_components(messages, ref_template=REFERENCE)
    return {name: _draft_07(schema) for name, schema in sorted(schemas.items())}


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document of the wire."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "CityEye",
            "version": WIRE_VERSION,
            "description": (
                "What a city's sensors and the service that watches them say to each other over "
                "MQTT 3.1.1. Times are milliseconds since the epoch, UTC, on the simulated clock. "
                f"A payload has at most {PAYLOAD_MAX} bytes."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.id: _channel(topic) for topic in TOPICS},
        "operations": {_operation_id(topic): _operation(topic) for topic in TOPICS},
        "components": {
            "messages": {topic.message.__name__: _message(topic.message) for topic in TOPICS},
            "parameters": {name: _parameter(name) for name in _PARAMETERS},
            "schemas": json_schemas(),
        },
    }


def asyncapi_yaml() -> str:
    """The AsyncAPI document as it stands in `docs/asyncapi.yaml`."""
    head = "# Made by `python -m broker.schema` from the message types; do not edit.\n"
    return head + yaml.dump(
        asyncapi(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )


class _Dumper(yaml.SafeDumper):
    """Writes every value where it stands instead of a reference to an earlier equal one."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - YAML's interface
        """True: no anchors."""
        return True


def _channel(topic: Topic) -> dict[str, Any]:
    names = [name for name in _PARAMETERS if f"{{{name}}}" in topic.address]
    name = topic.message.__name__
    return {
        "address": topic.address,
        "description": topic.sentence,
        "parameters": {n: {"$ref": f"#/components/parameters/{n}"} for n in names},
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
    }


def _operation_id(topic: Topic) -> str:
    return f"{_action(topic)}-{topic.id}"


def _action(topic: Topic) -> str:
    return "receive" if topic.receives else "send"


def _operation(topic: Topic) -> dict[str, Any]:
    return {
        "action": _action(topic),
        "channel": {"$ref": f"#/channels/{topic.id}"},
        "bindings": {"mqtt": {"qos": 1, "retain": topic.retained, "bindingVersion": "0.2.0"}},
    }


def _message(message: _Message) -> dict[str, Any]:
    return {
        "name": message.__name__,
        "contentType": "application/json",
        "summary": (message.__doc__ or "").strip().splitlines()[0],
        "payload": {"$ref": REFERENCE.format(name=message.__name__)},
    }


def _parameter(name: str) -> dict[str, Any]:
    if name == "domain":
        return {"description": _PARAMETERS[name], "enum": [domain.value for domain in Domain]}
    shape = f"Matches `{IDENTIFIER.pattern}`, at most {IDENTIFIER_MAX} characters."
    return {"description": f"{_PARAMETERS[name]} {shape}"}


def _draft_07(schema: Any) -> Any:
    """`schema` in the draft that AsyncAPI builds on: there a tuple's items are a list."""
    if isinstance(schema, list):
        return [_draft_07(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    renamed = dict(schema)
    if "prefixItems" in renamed:
        renamed["additionalItems"] = renamed.pop("items", True)
        renamed["items"] = renamed.pop("prefixItems")
    return {key: _draft_07(value) for key, value in renamed.items()}


if __name__ == "__main__":
    sys.stdout.write(asyncapi_yaml())
