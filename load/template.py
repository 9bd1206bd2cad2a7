"""A template: how a device speaks to a stranger's platform, as plain data."""

from typing import Final, Literal

import msgspec

Format = Literal["native", "json", "text", "sparkplug"]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a template file; unknown keys are errors."""


class Said(_Strict, frozen=True, kw_only=True):
    """A message besides the readings: a birth document, a will."""

    topic: str
    payload: str
    retain: bool = False
    each_quantity: bool = False
    """Once for every quantity of the device, whose fields it may then use."""


class ReadBack(_Strict, frozen=True, kw_only=True):
    """Where a subscriber finds in a message what it counts by: JSON pointers (RFC 6901).

    The step `*` stands for the only member of an object, and `#` at the end for its name. Without
    `device` the device is known by the topic.
    """

    seq: str
    ts: str | None = None
    ts_unit: Literal["ms", "s", "iso"] = "ms"
    device: str | None = None


class Template(_Strict, frozen=True, kw_only=True):
    """How a device speaks: topics and payloads with fields written `${field}`.

    `json` payloads are checked to be JSON and their texts are escaped, `text` is taken as it is;
    `native` and `sparkplug` make payloads, births and will by themselves.
    """

    name: str
    topic: str
    payload: str = ""
    record: str = ""
    """What `${records}` in the payload repeats for every value."""
    separator: str = ","
    """What stands between records."""
    format: Format = "json"
    birth: tuple[Said, ...] = ()
    will: Said | None = None
    client_id: str = "cityeye.${run}.${site}.${device}"
    username: str | None = None
    """None: that of the login."""
    terms: dict[str, dict[str, str]] = {}
    """Words of the template's own: `${term:NAME}` is the one of the quantity, or that of `*`."""
    read: ReadBack | None = None


NATIVE: Final = Template(
    name="native",
    topic="cityeye/v1/${city}/${district}/${domain}/${site}/${device}/telemetry",
    format="native",
)
"""CityEye's own messages (docs/asyncapi.yaml)."""
