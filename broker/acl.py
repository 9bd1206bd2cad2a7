"""Who may read and write which topics: the roles, the classes of topics, and Mosquitto's ACL file.

Whatever is not granted here is refused. A device is no role: its user name is its address, so one
pattern grants every device its own topics and nothing else.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final, Literal

import msgspec

from broker.topics import ROOT, Channel

Granted = Literal["pattern", "blocks"]
"""How devices are granted their topics: by one pattern, or by a block of lines for each of them.

Mosquitto 2.1 refuses a pattern whose user name has slashes (issue 3520 there). It takes blocks, as
2.0 does, but reading them takes time that grows with the square of the number of devices: 0.7 s
for 5,000 and 14 s for 20,000 with Mosquitto 2.0.11 on 2 cores.
"""


class Role(StrEnum):
    """A service, or people, with rights of their own."""

    SIM = "sim"
    INGEST = "ingest"
    ALARMS = "alarms"
    SCORER = "scorer"
    OPERATOR = "operator"
    VIEWER = "viewer"
    HEALTH = "health"


class TopicClass(msgspec.Struct, frozen=True):
    """Topics of one kind; `filter` has the city in braces."""

    id: str
    filter: str


def _of_devices(channel: Channel) -> TopicClass:
    return TopicClass(channel.value, f"{ROOT}/{{city}}/+/+/+/+/{channel.value}")


_CLASS_ROWS: Final = (
    *map(_of_devices, Channel),
    TopicClass("alarms", f"{ROOT}/{{city}}/+/alarms/+/+/+/+"),
    TopicClass("actions", f"{ROOT}/{{city}}/+/actions/+/+/+"),
    TopicClass("orders", f"{ROOT}/{{city}}/+/orders/+/+/+"),
    TopicClass("request", f"{ROOT}/{{city}}/operator/request"),
    TopicClass("answer", f"{ROOT}/{{city}}/operator/reply"),
    TopicClass("notifications", f"{ROOT}/{{city}}/notifications/+"),
    TopicClass("truth", f"{ROOT}/{{city}}/truth"),
    TopicClass("clock", f"{ROOT}/{{city}}/clock"),
    TopicClass("load-figures", f"{ROOT}/{{city}}/load/+/figures"),
    TopicClass("load-control", f"{ROOT}/{{city}}/load/+/control"),
    TopicClass("uptime", "$SYS/broker/uptime"),
)
TOPIC_CLASSES: Final = {row.id: row for row in _CLASS_ROWS}


class Rights(msgspec.Struct, frozen=True):
    """What a role may do, as classes of topics."""

    role: Role
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


_SHOWN: Final = ("telemetry", "status", "meta", "reply", "alarms", "actions", "orders")
_RIGHTS_ROWS: Final = (
    Rights(Role.SIM, reads=("load-control",), writes=("clock", "truth", "load-figures")),
    Rights(Role.INGEST, reads=("telemetry", "status", "meta", "clock")),
    Rights(
        Role.ALARMS,
        reads=("clock", "reply", "request", "alarms"),
        writes=("alarms", "actions", "orders", "answer", "command", "notifications"),
    ),
    Rights(Role.SCORER, reads=("truth",)),
    Rights(
        Role.OPERATOR,
        reads=("alarms", "orders", "actions", "answer", "status", "meta", "load-figures"),
        writes=("request", "load-control"),
    ),
    Rights(Role.VIEWER, reads=(*_SHOWN, "notifications", "clock", "load-figures")),
    Rights(Role.HEALTH, reads=("uptime",)),
)
RIGHTS: Final = {row.role: row for row in _RIGHTS_ROWS}

DEVICE_WRITES: Final = (Channel.TELEMETRY, Channel.STATUS, Channel.META, Channel.REPLY)
DEVICE_READS: Final = (Channel.COMMAND,)


def role_of(user: str) -> Role:
    """The role of a user `ROLE` or `ROLE/SEAT`; ValueError if that is none."""
    return Role(user.partition("/")[0])


def acl_text(
    city: str, *, users: Iterable[str], devices: Iterable[str], granted: Granted = "pattern"
) -> str:
    """Mosquitto's ACL file for these users of roles and these addresses of devices."""
    lines = [
        "# Written by `cityeye broker init`; changes are lost.",
        "# What is not here is refused.",
    ]
    for user in sorted(users):
        lines += ["", f"user {user}", *_granted(role_of(user), city)]
    lines.append("")
    if granted == "pattern":
        lines += [
            "# Every device by its own address, which is its user name.",
            *_device("pattern", "%u"),
        ]
    else:
        for device in sorted(devices):
            lines += ["", f"user {device}", *_device("topic", device)]
    return "\n".join(lines) + "\n"


def _granted(role: Role, city: str) -> Iterator[str]:
    rights = RIGHTS[role]
    for access, classes in (("read", rights.reads), ("write", rights.writes)):
        for name in classes:
            filter_ = TOPIC_CLASSES[name].filter.format(city=city)
            yield f"topic {access} {filter_}"


def _device(keyword: str, user: str) -> Iterator[str]:
    for access, channels in (("write", DEVICE_WRITES), ("read", DEVICE_READS)):
        for channel in channels:
            yield f"{keyword} {access} {ROOT}/{user}/{channel.value}"
