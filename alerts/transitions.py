"""What passes between the parts of the alarm engine: from conditions to the book of alarms."""

import msgspec

from alerts.gates import Change
from alerts.rules import Rule
from city.cityfile import Address

AlarmKey = tuple[Address, str]
"""The device and the rule: one alarm."""


class Transition(msgspec.Struct, frozen=True):
    """The condition of one rule at one device has come, changed its level, or gone.

    `value` is the number that did it, `limit` what it was held against, in `unit`; `quantity` is
    the quantity or index that it is a number of.
    """

    rule: Rule
    address: Address
    change: Change
    ts: int
    quantity: str
    value: float
    limit: float
    unit: str

    @property
    def key(self) -> AlarmKey:
        """The alarm that it is about."""
        return self.address, self.rule.id


def alarm_name(key: AlarmKey) -> str:
    """`site/device/rule`, as people name an alarm."""
    address, rule = key
    return f"{address.site}/{address.device}/{rule}"
