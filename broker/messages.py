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
    """A change in the life of an alarm."""

    rule: str
    event: Literal["raised", "escalated", "eased", "cleared"]
    state: Literal["active", "cleared"]
    severity: Literal["low", "medium", "high", "critical"]
    level: Literal["HH", "H", "L", "LL"]
    quantity: str
    value: float
    limit: float
    unit: str
    ts: Instant
    raised: Instant
    standard: str
    clause: str = ""
    grade: str = "A"
    message: str = ""
    message_zh: str = ""


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
    for kind in (Telemetry, Status, Birth, Command, Reply, ClockTick, AlarmEvent, TruthRecord)
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
