"""What devices say and where, so that a stranger's platform can be fed: templates and presets."""

from typing import Final, Literal

import msgspec


class Said(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message of a template besides the readings: a birth document, a will."""

    topic: str
    payload: str
    retain: bool = False


class ReadBack(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a subscriber finds in a message what it counts by; JSON pointers (RFC 6901).

    Without `device` the device is known by the topic.
    """

    seq: str
    ts: str | None = None
    ts_unit: Literal["ms", "s"] = "ms"
    device: str | None = None


class Template(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a device speaks: topics and payloads with fields in braces."""

    name: str
    topic: str
    payload: str = ""
    format: Literal["native", "text", "sparkplug"] = "text"
    birth: tuple[Said, ...] = ()
    will: Said | None = None
    client_id: str | None = None
    username: str | None = None
    read: ReadBack | None = None


NATIVE: Final = Template(
    name="native",
    topic="cityeye/v1/{city}/{district}/{domain}/{site}/{device}/telemetry",
    format="native",
)
"""CityEye's own messages (docs/asyncapi.yaml)."""
