"""Topics are built and parsed here and nowhere else.

cityeye/v1/{city}/{district}/{domain}/{site}/{device}/{channel}
cityeye/v1/{city}/{district}/alarms/{domain}/{site}/{device}/{rule}
cityeye/v1/{city}/{district}/actions/{domain}/{site}/{device}
cityeye/v1/{city}/{district}/orders/{domain}/{site}/{order}
cityeye/v1/{city}/operator/request
cityeye/v1/{city}/operator/reply
cityeye/v1/{city}/truth
cityeye/v1/{city}/clock
cityeye/v1/{city}/load/{run}/figures
cityeye/v1/{city}/load/{run}/control
"""

from enum import StrEnum
from typing import Final, Literal

from city.cityfile import IDENTIFIER, IDENTIFIER_MAX, Address
from city.errors import TopicError
from city.quantities import Domain

ROOT: Final = "cityeye/v1"
_DEVICE_LEVELS: Final = 8
_ALARM_LEVELS: Final = 9
_DOMAINS: Final = frozenset(domain.value for domain in Domain)


class Channel(StrEnum):
    """The last level of a device's topics."""

    TELEMETRY = "telemetry"
    STATUS = "status"
    META = "meta"
    COMMAND = "command"
    REPLY = "reply"


_CHANNELS: Final = {channel.value: channel for channel in Channel}


def device_topic(address: Address, channel: Channel) -> str:
    """The topic of one channel of one device."""
    return f"{ROOT}/{address}/{channel.value}"


def alarm_topic(address: Address, rule: str) -> str:
    """The topic of the alarm that `rule` may raise on a device."""
    a = address
    return f"{ROOT}/{a.city}/{a.district}/alarms/{a.domain}/{a.site}/{a.device}/{rule}"


def action_topic(address: Address) -> str:
    """The topic of the actions that an alarm sets off at a device."""
    a = address
    return f"{ROOT}/{a.city}/{a.district}/actions/{a.domain}/{a.site}/{a.device}"


def order_topic(address: Address, order: str) -> str:
    """The topic of a repair order at a device's site."""
    a = address
    return f"{ROOT}/{a.city}/{a.district}/orders/{a.domain}/{a.site}/{order}"


def order_filter(city: str = "+", district: str = "+") -> str:
    """The filter that matches every repair order of a city or district."""
    return f"{ROOT}/{city}/{district}/orders/+/+/+"


def request_topic(city: str) -> str:
    """The topic on which people ask the alarm service for something."""
    return f"{ROOT}/{city}/operator/request"


def reply_topic(city: str) -> str:
    """The topic on which the alarm service answers people."""
    return f"{ROOT}/{city}/operator/reply"


def clock_topic(city: str) -> str:
    """The topic on which a city's simulated time is announced."""
    return f"{ROOT}/{city}/clock"


def truth_topic(city: str) -> str:
    """The topic of the ground truth, for the scorer alone."""
    return f"{ROOT}/{city}/truth"


def load_topic(city: str, run: str, part: Literal["figures", "control"]) -> str:
    """The topic on which a load test tells its live figures, or is controlled."""
    return f"{ROOT}/{city}/load/{run}/{part}"


def device_filter(channel: Channel, city: str = "+", district: str = "+") -> str:
    """The filter that matches one channel of every device of a city or district."""
    return f"{ROOT}/{city}/{district}/+/+/+/{channel.value}"


def alarm_filter(city: str = "+", district: str = "+") -> str:
    """The filter that matches every alarm of a city or district."""
    return f"{ROOT}/{city}/{district}/alarms/+/+/+/+"


def parse_device_topic(topic: str) -> tuple[Address, Channel]:
    """The device and channel that `topic` names.

    Raises:
        TopicError: It names none; the text says which level is wrong.
    """
    levels = topic.split("/")
    if len(levels) != _DEVICE_LEVELS or not topic.startswith(ROOT + "/"):
        raise TopicError(f"not a device topic: {topic[:200]!r}")
    city, district, domain, site, device, channel = levels[2:]
    if channel not in _CHANNELS:
        raise TopicError(f"unknown channel {channel[:80]!r} in {topic[:200]!r}")
    if domain not in _DOMAINS:
        raise TopicError(f"unknown domain {domain[:80]!r} in {topic[:200]!r}")
    _check(topic, city, district, site, device)
    return Address(city, district, domain, site, device), _CHANNELS[channel]


def parse_alarm_topic(topic: str) -> tuple[Address, str]:
    """The device and rule that an alarm topic names.

    Raises:
        TopicError: It names none.
    """
    levels = topic.split("/")
    if len(levels) != _ALARM_LEVELS or not topic.startswith(ROOT + "/") or levels[4] != "alarms":
        raise TopicError(f"not an alarm topic: {topic[:200]!r}")
    city, district, _, domain, site, device, rule = levels[2:]
    if domain not in _DOMAINS:
        raise TopicError(f"unknown domain {domain[:80]!r} in {topic[:200]!r}")
    _check(topic, city, district, site, device, rule)
    return Address(city, district, domain, site, device), rule


def _check(topic: str, *identifiers: str) -> None:
    for identifier in identifiers:
        if len(identifier) > IDENTIFIER_MAX or not IDENTIFIER.fullmatch(identifier):
            raise TopicError(f"not an identifier: {identifier[:80]!r} in {topic[:200]!r}")
