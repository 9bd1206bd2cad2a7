import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.topics import (
    Channel,
    alarm_filter,
    alarm_topic,
    clock_topic,
    device_filter,
    device_topic,
    parse_alarm_topic,
    parse_device_topic,
    truth_topic,
)
from city.cityfile import IDENTIFIER_MAX, Address
from city.errors import TopicError
from city.quantities import Domain

identifiers = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?", fullmatch=True)
addresses = st.builds(
    Address,
    city=identifiers,
    district=identifiers,
    domain=st.sampled_from([domain.value for domain in Domain]),
    site=identifiers,
    device=identifiers,
)
STATION = Address("changzhou", "xinbei", "air", "tech-park", "aq-01")


def matches(pattern: str, topic: str) -> bool:
    """Whether an MQTT filter without # matches."""
    shape = "/".join("[^/]+" if level == "+" else re.escape(level) for level in pattern.split("/"))
    return re.fullmatch(shape, topic) is not None


@given(addresses, st.sampled_from(Channel))
def test_device_round_trip(address: Address, channel: Channel) -> None:
    """A device topic parses to what it was built from."""
    assert (address, channel) == parse_device_topic(device_topic(address, channel))


@given(addresses, identifiers)
def test_alarm_round_trip(address: Address, rule: str) -> None:
    """An alarm topic parses to what it was built from."""
    assert (address, rule) == parse_alarm_topic(alarm_topic(address, rule))


@given(st.text())
def test_any_text(topic: str) -> None:
    """Any text is a device topic or a TopicError, and nothing else."""
    try:
        address, channel = parse_device_topic(topic)
    except TopicError:
        return

    assert topic == device_topic(address, channel)


@given(addresses, st.sampled_from(Channel), st.data())
def test_mutated(address: Address, channel: Channel, data: st.DataObject) -> None:
    """A topic with one character replaced parses to itself or is refused."""
    topic = device_topic(address, channel)
    at = data.draw(st.integers(0, len(topic) - 1))
    mutated = topic[:at] + data.draw(st.characters()) + topic[at + 1 :]

    try:
        parsed = device_topic(*parse_device_topic(mutated))
    except TopicError:
        return
    assert mutated == parsed


def test_shape() -> None:
    """The topics are those of the published interface."""
    assert "cityeye/v1/changzhou/xinbei/air/tech-park/aq-01/telemetry" == device_topic(
        STATION, Channel.TELEMETRY
    )
    assert "cityeye/v1/changzhou/xinbei/alarms/air/tech-park/aq-01/pm25-high" == alarm_topic(
        STATION, "pm25-high"
    )
    assert "cityeye/v1/changzhou/clock" == clock_topic("changzhou")
    assert "cityeye/v1/changzhou/truth" == truth_topic("changzhou")


@given(addresses, st.sampled_from(Channel))
def test_device_filter(address: Address, channel: Channel) -> None:
    """The device filter of a channel matches that channel of every device and no other."""
    pattern = device_filter(channel)
    matched = [c for c in Channel if matches(pattern, device_topic(address, c))]

    assert [channel] == matched


@given(addresses, identifiers)
def test_alarm_filter(address: Address, rule: str) -> None:
    """The alarm filter of a district matches its alarms; the one of another does not."""
    topic = alarm_topic(address, rule)

    assert matches(alarm_filter(address.city, address.district), topic)
    assert not matches(alarm_filter(address.city, address.district + "x"), topic)


@given(addresses, identifiers, st.sampled_from(Channel))
def test_apart(address: Address, rule: str, channel: Channel) -> None:
    """No filter for devices matches an alarm, and the other way round."""
    assert not matches(device_filter(channel), alarm_topic(address, rule))
    assert not matches(alarm_filter(), device_topic(address, channel))


@pytest.mark.parametrize(
    ("topic", "says"),
    [
        ("", "not a device topic"),
        ("cityeye/v1/c/d/air/s/x", "not a device topic"),
        ("cityeye/v1/c/d/air/s/x/telemetry/more", "not a device topic"),
        ("/cityeye/v1/c/d/air/s/telemetry", "not a device topic"),
        ("cityeye/v2/c/d/air/s/x/telemetry", "not a device topic"),
        ("Cityeye/v1/c/d/air/s/x/telemetry", "not a device topic"),
        ("cityeye/v1/c/d/air/s/x/telemetri", "unknown channel 'telemetri'"),
        ("cityeye/v1/c/d/air/s/x/", "unknown channel ''"),
        ("cityeye/v1/c/d/soil/s/x/telemetry", "unknown domain 'soil'"),
        ("cityeye/v1//d/air/s/x/telemetry", "not an identifier: ''"),
        ("cityeye/v1/C/d/air/s/x/telemetry", "not an identifier: 'C'"),
        ("cityeye/v1/c/-d/air/s/x/telemetry", "not an identifier: '-d'"),
        ("cityeye/v1/c/d/air/s-/x/telemetry", "not an identifier: 's-'"),
        ("cityeye/v1/c/d/air/s/x\n/telemetry", "not an identifier: 'x\\n'"),
        ("cityeye/v1/c/d/air/s/细/telemetry", "not an identifier: '细'"),
        ("cityeye/v1/c/d/air/+/x/telemetry", "not an identifier: '+'"),
        (f"cityeye/v1/c/d/air/s/{'x' * (IDENTIFIER_MAX + 1)}/telemetry", "not an identifier"),
    ],
)
def test_malformed_device_topic(topic: str, says: str) -> None:
    """A topic that names no device is refused, with the level that is wrong."""
    with pytest.raises(TopicError) as caught:
        parse_device_topic(topic)

    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("topic", "says"),
    [
        ("cityeye/v1/c/d/alarms/air/s/x", "not an alarm topic"),
        ("cityeye/v1/c/d/alarm/air/s/x/r", "not an alarm topic"),
        ("cityeye/v2/c/d/alarms/air/s/x/r", "not an alarm topic"),
        ("cityeye/v1/c/d/alarms/soil/s/x/r", "unknown domain 'soil'"),
        ("cityeye/v1/c/d/alarms/air/s/x/R", "not an identifier: 'R'"),
        ("cityeye/v1/c//alarms/air/s/x/r", "not an identifier: ''"),
    ],
)
def test_malformed_alarm_topic(topic: str, says: str) -> None:
    """A topic that names no alarm is refused, with the level that is wrong."""
    with pytest.raises(TopicError) as caught:
        parse_alarm_topic(topic)

    assert says in str(caught.value)


def test_message_is_bounded() -> None:
    """The text about a topic stays short, however long the topic is."""
    with pytest.raises(TopicError) as caught:
        parse_device_topic("x" * 60_000)

    assert len(str(caught.value)) < 300
