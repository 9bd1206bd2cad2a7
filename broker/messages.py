"""The typed messages of the wire, all JSON.

Times are milliseconds since the epoch, UTC, on the simulated clock.
"""

import re
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from city.cityfile import Address
from city.errors import PayloadError

PAYLOAD_MAX: Final = 65_536
"""Largest payload that is decoded [bytes]."""

_NOT_FINITE: Final = re.compile(rb"[\[:,]\s*[+-]?(nan|inf(inity)?)\s*[\],}]", re.IGNORECASE)
"""A number as JSON does not know it."""

T = TypeVar("T", bound=msgspec.Struct)
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Instant = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
FlagLetter = Literal["F", "M", "S", "D", "C", "T", "B"]
Severity = Literal["low", "medium", "high", "critical"]
Supervision = Literal["site", "district", "city"]
"""Who is responsible, from below."""
AlarmState = Literal[
    "normal", "unacknowledged", "acknowledged", "returned", "latched", "latched-acknowledged",
    "shelved", "suppressed", "out-of-service",
]  # fmt: skip
"""`returned`: the condition is gone, nobody has acknowledged it yet; `latched`: gone, and a person
must reset it."""
AlarmHappening = Literal[
    "raised", "escalated", "eased", "cleared",
    "acknowledged", "commented", "reset", "repeated", "promoted", "stale", "heard",
    "shelved", "unshelved", "suppressed", "unsuppressed", "out-of-service", "in-service",
]  # fmt: skip
"""`escalated` and `eased` are of the level, `promoted` is to the next level of supervision."""
OperatorAction = Literal[
    "acknowledge", "comment", "shelve", "unshelve", "reset", "disable", "enable", "reload",
    "take-order", "close-order",
]  # fmt: skip


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message on the wire; unknown keys are errors."""


class Telemetry(
    msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True
):
    """What a device measured at one instant."""

    ts: Instant
    seq: Count
    values: dict[str, float]
    flags: dict[str, FlagLetter] | None = None
    pos: tuple[float, float] | None = None


class Status(_Message, frozen=True, kw_only=True):
    """Whether a device is there; `lost` is its last will."""

    state: Literal["online", "offline", "lost"]
    ts: Instant | None = None


class MeasuredQuantity(_Message, frozen=True, kw_only=True):
    """One quantity in a birth document."""

    unit: str
    low: float
    high: float


class Birth(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """What a device is: published, retained, when it connects."""

    kind: str
    model: str
    position: tuple[float, float]
    interval_s: float
    quantities: dict[str, MeasuredQuantity]
    name: str = ""
    name_zh: str = ""
    plant: str | None = None
    commands: tuple[str, ...] = ()


class Command(_Message, frozen=True, kw_only=True):
    """An order to a device; refused when it arrives after `expires`."""

    id: str
    name: str
    ts: Instant
    by: str
    args: dict[str, Any] = {}
    expires: Instant | None = None


class Reply(_Message, frozen=True, kw_only=True):
    """A device's one answer to a command."""

    id: str
    ok: bool
    ts: Instant
    detail: str = ""


class ClockTick(_Message, frozen=True, kw_only=True):
    """The simulated time; `speed` 0 means as fast as possible, `wall` is the sender's clock."""

    ts: Instant
    speed: float
    seed: int
    wall: Instant


class AlarmEvent(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """A change in the life of an alarm, after ISA-18.2 and OPC UA Part 9.

    `number` counts the events of one alarm, so that topic and number name an event for ever.
    `state` is the alarm's after the event; it stays on its topic, retained, until it is `normal`.
    """

    rule: str
    event: AlarmHappening
    state: AlarmState
    severity: Severity
    level: Literal["HH", "H", "L", "LL"]
    quantity: str
    value: float
    limit: float
    unit: str
    ts: Instant
    raised: Instant
    number: Count = 0
    active: bool = True
    """Whether the condition holds."""
    stale: bool = False
    """Whether the device has fallen silent since: nothing is known of the condition."""
    supervision: Supervision = "site"
    """The level of supervision that it has been told to."""
    by: str = ""
    """Who did it, where a person or another alarm did."""
    why: str = ""
    until: Instant | None = None
    """The end of a timed shelf."""
    cause: str = ""
    """What groups alarms of one cause: a site, a rule of a district, a section of the network."""
    first_out: bool = False
    """Whether it was the first of its cause."""
    standard: str = ""
    clause: str = ""
    grade: str = "A"
    message: str = ""
    message_zh: str = ""


class OperatorRequest(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """What a person wants of the alarm service; answered once, with an `OperatorReply`.

    `targets` are `site/device/rule`, each part with `*` for any, or numbers of repair orders.
    """

    id: str
    action: OperatorAction
    by: str
    targets: tuple[str, ...] = ()
    why: str = ""
    for_s: float | None = None
    """`shelve`: how long."""
    once: bool = False
    """`shelve`: until the condition is gone."""


class OperatorReply(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a request."""

    id: str
    ok: bool
    ts: Instant
    detail: str = ""
    changed: tuple[str, ...] = ()
    """`site/device/rule` of every alarm that changed, or numbers of repair orders."""


class ActionEvent(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """A step of an action that an alarm has set off: to a device, or to the repair crew."""

    id: str
    """The same for all steps of one action."""
    action: str
    step: Literal["would-send", "sent", "retried", "done", "refused", "unanswered", "withheld"]
    target: str
    """`site/device`."""
    ts: Instant
    rule: str
    alarm: str
    """`site/device/rule`."""
    detail: str = ""


class RepairOrder(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """Work for the repair crew; retained until it is done."""

    id: str
    state: Literal["open", "taken", "done"]
    ts: Instant
    opened: Instant
    priority: Severity
    rule: str
    alarm: str
    """`site/device/rule`."""
    title: str
    title_zh: str = ""
    position: tuple[float, float] | None = None
    section: str = ""
    valves: dict[str, str] = {}
    """`site/device` of each valve that isolates the section, and what became of it."""
    customers: int = 0
    """Who are without supply when the section is cut off."""
    by: str = ""
    why: str = ""
    alarms: tuple[str, ...] = ()
    """`site/device/rule` of every alarm that it answers, the first one first; the most urgent gives
    rule, title and section."""


class TruthRecord(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """What really happened: one event of the simulated city, for whoever scores detectors.

    `devices` are `site/device`, `site/*` for all of a site, or `*`; of these, the event affects
    those that measure one of `quantities`. Without `end` it lasts for ever.
    """

    id: str
    kind: str
    layer: Literal["world", "instrument", "fraud"]
    cause: Literal["scripted", "drawn", "commanded"]
    start: Instant
    end: Instant | None = None
    target: str = ""
    devices: tuple[str, ...] = ()
    quantities: tuple[str, ...] = ()
    expected: str = ""
    params: dict[str, float] = {}
    note: str = ""


ENCODER: Final = msgspec.json.Encoder()
_DECODERS: Final[dict[type[msgspec.Struct], msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind)
    for kind in (
        Telemetry,
        Status,
        Birth,
        Command,
        Reply,
        ClockTick,
        TruthRecord,
        AlarmEvent,
        OperatorRequest,
        OperatorReply,
        ActionEvent,
        RepairOrder,
    )
}


def encode(message: msgspec.Struct) -> bytes:
    """`message` as it goes over the wire."""
    return ENCODER.encode(message)


def decode(kind: type[T], payload: bytes) -> T:
    """The message in `payload`.

    Raises:
        PayloadError: It is too large, not JSON, not finite, or not of the right shape.
    """
    if len(payload) > PAYLOAD_MAX:
        raise PayloadError("too-large", f"{len(payload)} bytes, at most {PAYLOAD_MAX}")
    try:
        message: T = _DECODERS[kind].decode(payload)
    except msgspec.ValidationError as error:
        reason = "not-finite" if "out of range" in str(error) else "wrong-shape"
        raise PayloadError(reason, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = "not-finite" if _NOT_FINITE.search(payload) else "not-json"
        raise PayloadError(reason, str(error)) from error
    return message


class Announcement(msgspec.Struct, frozen=True):
    """An alarm event and the device it is about; the topic carries the address on the wire."""

    address: Address
    event: AlarmEvent
