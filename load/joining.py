"""Who joins the test when, and how the messages of each device are numbered from then on."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import City, Device
from load.lots import lots
from load.plan import LoadPlan
from sensors.fields import Group


class Joining:
    """The instants at which the devices of a whole city join, decided by the plan alone."""

    def __init__(self, plan: LoadPlan, city: City) -> None:
        self._plan = plan
        self._index = {device.address: place for place, device in enumerate(city.devices())}
        count = len(self._index)
        drawn = lots(plan.seed, "joining", np.arange(count), 0)
        turns = np.empty(count, dtype=np.int64)
        turns[np.argsort(drawn, kind="stable")] = np.arange(count)
        self._after_ms = turns * (plan.ramp_s * 1000) / count
        self._turns = turns

    def of(self, group: Group) -> "Joined":
        """The group's devices."""
        index = np.array([self.place(device) for device in group.devices], dtype=np.int64)
        joins_ms = self._plan.city_start_ms + np.ceil(self._after_ms[index]).astype(np.int64)
        phases = group.phase_ms % group.interval_ms
        return Joined(
            index=index,
            turns=self._turns[index],
            after_ms=self._after_ms[index],
            first_ms=joins_ms + (phases - joins_ms) % group.interval_ms,
            interval_ms=group.interval_ms,
        )

    def place(self, device: Device) -> int:
        """The index of a device in the whole city."""
        return self._index[device.address]


class Joined(msgspec.Struct, frozen=True, eq=False):
    """When the n devices of a group join, and what follows from that; arrays of shape (n,)."""

    index: NDArray[np.int64]
    """Of each device, in the whole city."""
    turns: NDArray[np.int64]
    """The how many-th of the city each is to join."""
    after_ms: NDArray[np.float64]
    """How long after the test's beginning each connects, on the wall."""
    first_ms: NDArray[np.int64]
    """When each measures for the first time since, on the city's clock."""
    interval_ms: int

    def seqs(self, rows: NDArray[np.int64], city_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of the samples taken by devices `rows` then; negative before they joined."""
        numbers: NDArray[np.int64] = (city_ms - self.first_ms[rows]) // self.interval_ms
        return numbers
