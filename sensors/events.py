"""Events of the city file: what each kind does to the true values, how it rises and decays."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import City, Device, Event
from sensors.fields import Group

_DECAYS_SHOWN: Final = 20.0
"""An event is over after this many time constants: what is left is below 1e-8."""


class Effect(msgspec.Struct, frozen=True):
    """What an event at full strength does to one quantity: `value * factor + add`."""

    quantity: str
    add: float = 0.0
    factor: float = 1.0


class Course(msgspec.Struct, frozen=True):
    """How a kind of event unfolds.

    It rises with the time constant `rise_s` and decays with `decay_s`, both shortened for short
    events. `sitewide` events reach every device of the target's site.
    """

    rise_s: float
    decay_s: float
    effects: tuple[Effect, ...]
    sitewide: bool = False


COURSES: Final = {
    "gas-leak": Course(
        10.0,
        20.0,
        (
            Effect("methane", add=85.0),
            Effect("gas_pressure", add=-1.5),
            Effect("gas_flow", add=60.0),
        ),
        sitewide=True,
    ),
    "treatment-failure": Course(
        60.0,
        90.0,
        (
            Effect("stack_pm", factor=15.0),
            Effect("stack_so2", factor=15.0),
            Effect("stack_nox", factor=8.0),
            Effect("effluent_cod", factor=8.0),
            Effect("effluent_ammonia_n", factor=15.0),
            Effect("effluent_total_p", factor=6.0),
            Effect("effluent_total_n", factor=4.0),
        ),
    ),
    "spill": Course(
        300.0,
        900.0,
        (
            Effect("dissolved_oxygen", factor=0.45),
            Effect("conductivity", add=350.0),
            Effect("turbidity", add=60.0),
            Effect("codmn", add=12.0),
            Effect("ammonia_n", add=4.0),
            Effect("total_p", add=0.5),
            Effect("total_n", add=6.0),
        ),
    ),
    "smog": Course(
        7200.0,
        10800.0,
        (
            Effect("pm25", add=170.0),
            Effect("pm10", add=320.0),
            Effect("so2", add=30.0),
            Effect("no2", add=60.0),
            Effect("co", add=1.2),
        ),
    ),
}
"""Engineering defaults: at strength 1 each kind exceeds its limits clearly."""


class Episodes:
    """The events that reach one group's devices."""

    def __init__(self, city: City, group: Group, start_ms: int, quantities: Sequence[str]) -> None:
        places = _places(group.devices)
        self._episodes = []
        for event in city.events:
            rows = places.get(_scope(event), [])
            if rows:
                reaches = np.zeros(len(group.devices), dtype=np.bool_)
                reaches[rows] = True
                self._episodes.append(_Episode(event, reaches, start_ms, quantities))

    def apply(
        self, values: NDArray[np.float64], rows: NDArray[np.int64], ts: NDArray[np.int64]
    ) -> None:
        """Change `values`, shape (m, q), of devices `rows` at `ts` in place."""
        first, last = int(ts.min()), int(ts.max())
        for episode in self._episodes:
            if episode.from_ms <= last and episode.gone_ms > first:
                episode.apply(values, rows, ts)

    def stop(self, site: str, kind: str, at_ms: int) -> None:
        """Let events of `kind` that are at work at `site` end at `at_ms` instead of later."""
        for episode in self._episodes:
            if episode.site == site and episode.kind == kind:
                episode.stop(at_ms)


class _Episode:
    """One event, bound to the devices of a group."""

    def __init__(
        self,
        event: Event,
        reaches: NDArray[np.bool_],
        start_ms: int,
        quantities: Sequence[str],
    ) -> None:
        course = COURSES[event.kind]
        self.kind = event.kind
        self.site = event.target.partition("/")[0]
        self.from_ms = start_ms + round(event.at_s * 1000)
        self.until_ms = self.from_ms + round(event.for_s * 1000)
        self._strength = event.strength
        self._rise_ms = 1000.0 * min(course.rise_s, event.for_s / 8.0)
        self._decay_ms = 1000.0 * min(course.decay_s, event.for_s / 4.0)
        self._reaches = reaches
        effects = {effect.quantity: effect for effect in course.effects}
        chosen = [effects.get(quantity, Effect(quantity)) for quantity in quantities]
        self._add = np.array([effect.add for effect in chosen])
        self._factor = np.array([effect.factor for effect in chosen])

    @property
    def gone_ms(self) -> int:
        """From here on nothing is left of the event."""
        return self.until_ms + round(_DECAYS_SHOWN * self._decay_ms)

    def apply(
        self, values: NDArray[np.float64], rows: NDArray[np.int64], ts: NDArray[np.int64]
    ) -> None:
        """Change the values of the devices that the event reaches."""
        part = np.flatnonzero(self._reaches[rows])
        if not part.size:
            return
        level = self._strength * self._level(ts[part])[:, None]
        before = values[part]
        values[part] = before * (1.0 + level * (self._factor - 1.0)) + level * self._add

    def stop(self, at_ms: int) -> None:
        """End at `at_ms`, if the event is at work then."""
        if self.from_ms <= at_ms < self.until_ms:
            self.until_ms = at_ms

    def _level(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """How far the event has risen at `ts`, in [0, 1): exponential rise, exponential decay."""
        risen_ms = np.clip(ts, self.from_ms, self.until_ms) - self.from_ms
        passed_ms = np.maximum(ts - self.until_ms, 0)
        level = -np.expm1(-risen_ms / self._rise_ms) * np.exp(-passed_ms / self._decay_ms)
        return np.where(ts < self.gone_ms, level, 0.0)


def _places(devices: Sequence[Device]) -> dict[str, list[int]]:
    """The rows of the devices by site and by name."""
    places: dict[str, list[int]] = {}
    for row, device in enumerate(devices):
        places.setdefault(device.site.id, []).append(row)
        places[device.name] = [row]
    return places


def _scope(event: Event) -> str:
    """The site or device that the event reaches."""
    return event.target.partition("/")[0] if COURSES[event.kind].sitewide else event.target
