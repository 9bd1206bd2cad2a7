"""Treatment units: what events of the city file take away from them, and what goes past them."""

from enum import Flag, auto
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import City, Event

_DAY_MS: Final = 86_400_000
_DECAYS_SHOWN: Final = 20.0


class Medium(Flag):
    """What a treatment unit cleans."""

    GAS = auto()
    WATER = auto()


class Course(msgspec.Struct, frozen=True):
    """How an event comes and goes: time constants [s], both shorter for short events."""

    rise_s: float
    decay_s: float


COURSES: Final = {
    ("treatment-failure", Medium.GAS): Course(60.0, 90.0),
    ("treatment-failure", Medium.WATER): Course(600.0, 1800.0),
    ("secret-discharge", Medium.GAS): Course(60.0, 90.0),
    ("secret-discharge", Medium.WATER): Course(30.0, 30.0),
    ("inspection", Medium.GAS): Course(30.0, 30.0),
    ("inspection", Medium.WATER): Course(30.0, 30.0),
}
"""A filter fails within a minute, a biological stage within its mixing time (engineering default)."""

_AMOUNT: Final = {
    "treatment-failure": "efficiency_lost",
    "secret-discharge": "bypassed",
    "inspection": None,
}
"""The parameter that says how much each kind of event takes; None takes all."""

_MONITORS: Final = {"stack-cems": Medium.GAS, "outfall": Medium.WATER}


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """One event at one plant's treatment of one medium.

    `furtive` ones, which go on for more than a day, are at work only while nobody watches.
    """

    plant: int
    kind: str
    amount: float
    from_ms: int
    until_ms: int
    rise_ms: float
    decay_ms: float
    furtive: bool

    @property
    def gone_ms(self) -> float:
        """From here on nothing is left of the event."""
        return self.until_ms + _DECAYS_SHOWN * self.decay_ms

    def level(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """How much of `amount` is at work at `ts`, in [0, 1): exponential rise and decay."""
        risen_ms = np.clip(ts, self.from_ms, self.until_ms) - self.from_ms
        passed_ms = np.maximum(ts - self.until_ms, 0)
        level = -np.expm1(-risen_ms / self.rise_ms) * np.exp(-passed_ms / self.decay_ms)
        return np.where(ts < self.gone_ms, level, 0.0)


class Treatment:
    """The treatment units of all plants of a city, for one medium."""

    def __init__(
        self, city: City, plants: dict[str, int], medium: Medium, *, start_ms: int
    ) -> None:
        """`plants` are the numbers of the plants by site."""
        monitors = {
            device.name: _MONITORS.get(device.kind.id, Medium.GAS | Medium.WATER)
            for device in city.devices()
        }
        self._episodes = [
            _episode(event, plants[site], medium, start_ms)
            for event in city.events
            for site in (event.target.partition("/")[0],)
            if event.kind in _AMOUNT
            and site in plants
            and medium in monitors.get(event.target, Medium.GAS | Medium.WATER)
        ]

    def working(self, plants: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The share of their efficiency that the units of `plants` have left, shape (m,)."""
        always = np.ones(len(ts))
        return self._spared("treatment-failure", plants, ts, overt=always, furtive=always)

    def treated(
        self, plants: NDArray[np.int64], ts: NDArray[np.int64], cover: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The share of the raw flow that passes through the units of `plants`, shape (m,).

        `cover` is how unwatched plants are at `ts`, in [0, 1]; nothing passes by an inspection.
        """
        always = np.ones(len(ts))
        unseen = self._spared("inspection", plants, ts, overt=always, furtive=always)
        return self._spared("secret-discharge", plants, ts, overt=unseen, furtive=unseen * cover)

    def _spared(
        self,
        kind: str,
        plants: NDArray[np.int64],
        ts: NDArray[np.int64],
        *,
        overt: NDArray[np.float64],
        furtive: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """What events of `kind` leave of 1, each weighted by how overt or furtive ones can act."""
        spared = np.ones(len(ts))
        first, last = int(ts.min()), int(ts.max())
        for episode in self._episodes:
            if episode.kind != kind or episode.from_ms > last or episode.gone_ms <= first:
                continue
            part = np.flatnonzero(plants == episode.plant)
            if part.size:
                weight = (furtive if episode.furtive else overt)[part]
                spared[part] *= 1.0 - episode.amount * weight * episode.level(ts[part])
        return spared


def _episode(event: Event, plant: int, medium: Medium, start_ms: int) -> Episode:
    course, amount = COURSES[event.kind, medium], _AMOUNT[event.kind]
    from_ms = start_ms + round(event.at_s * 1000)
    until_ms = from_ms + round(event.for_s * 1000)
    return Episode(
        plant=plant,
        kind=event.kind,
        amount=1.0 if amount is None else event.param(amount),
        from_ms=from_ms,
        until_ms=until_ms,
        rise_ms=1000.0 * min(course.rise_s, event.for_s / 8.0),
        decay_ms=1000.0 * min(course.decay_s, event.for_s / 4.0),
        furtive=event.kind == "secret-discharge" and until_ms - from_ms > _DAY_MS,
    )
