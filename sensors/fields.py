"""Fields: what is true everywhere, now. Instruments see no more of the world than this.

A field is asked once per group of devices for a probe at their places; the probe then tells the
true values at any instants. What varies over the whole city is computed at knots in time and is
linear between them; what varies from place to place is added per device. Each is a pure function
of the city file, the seed and the instant.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import Device
from city.kinds import DeviceKind
from sensors.randomness import Octave, Process

HOUR_S: Final = 3600.0
YEAR_MS: Final = 365.2425 * 86_400_000
_QUARTER_MS: Final = 900_000
"""Clocks change at whole quarters of an hour of UTC."""

_KNOTS_PER_CHUNK: Final = 64
_CHUNKS_KEPT: Final = 4
_LOCAL_OCTAVES: Final = (Octave(300.0, 0.15), Octave(8 * HOUR_S, 0.85))


class Group(msgspec.Struct, frozen=True, eq=False):
    """All devices of one kind and one interval, in the order of the city file.

    `phase_ms`, shape (n,), is each device's offset into the interval: device i measures at
    `k * interval_ms + phase_ms[i]` for every integer k. A shard's group holds a consecutive part
    of the city's; `first` is the index in the whole city's group of its first device.
    """

    kind: DeviceKind
    interval_ms: int
    devices: tuple[Device, ...]
    first: int
    phase_ms: NDArray[np.int64]

    @property
    def quantities(self) -> tuple[str, ...]:
        """What the devices measure: the columns of their frames."""
        return self.kind.quantities

    @property
    def stream(self) -> str:
        """The name under which the group draws its randomness."""
        return f"{self.kind.id}/{self.interval_ms}"


class Probe(Protocol):
    """A field at the places of one group's devices."""

    def truth(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The true values at devices `rows`, at `ts` [ms since the epoch].

        Shape (m, q): a column per quantity of the group's kind, in its canonical unit.
        """


class Field(Protocol):
    """One domain of the city."""

    def probe(self, group: Group) -> Probe:
        """The field at the places of `group`, whose kind belongs to the field's domain."""


class Series:
    """Values of a few sources over time: computed at knots, linear between them."""

    def __init__(
        self, step_s: float, knots: Callable[[NDArray[np.int64]], NDArray[np.float64]]
    ) -> None:
        """`knots` maps instants, shape (k,), to values, shape (k, sources, columns)."""
        self._step_ms = round(step_s * 1000)
        self._knots = knots
        self._kept: dict[int, NDArray[np.float64]] = {}

    def at(
        self, ts: NDArray[np.int64], sources: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """The values of `sources` (the only one, if absent) at `ts`, shape (m, columns)."""
        knot = ts // self._step_ms
        after = (ts - knot * self._step_ms) / self._step_ms
        chunk = knot // _KNOTS_PER_CHUNK
        first, last = int(chunk.min()), int(chunk.max())
        if first == last:
            return self._lerp(first, knot, after, sources)
        parts = [
            (part, self._lerp(int(number), knot[part], after[part], _part(sources, part)))
            for number in np.unique(chunk)
            for part in (np.flatnonzero(chunk == number),)
        ]
        whole = np.empty((len(ts), parts[0][1].shape[1]))
        for part, values in parts:
            whole[part] = values
        return whole

    def forget(self) -> None:
        """Compute values anew: what they are made of was changed."""
        self._kept.clear()

    def _lerp(
        self,
        number: int,
        knot: NDArray[np.int64],
        after: NDArray[np.float64],
        sources: NDArray[np.int64] | None,
    ) -> NDArray[np.float64]:
        table = self._chunk(number)
        count, columns = table.shape[1:]
        flat = table.reshape(-1, columns)
        index = (knot - number * _KNOTS_PER_CHUNK) * count
        if sources is not None:
            index = index + sources
        values: NDArray[np.float64] = flat.take(index, axis=0)
        rise = flat.take(index + count, axis=0)
        rise -= values
        rise *= after[:, None]
        values += rise
        return values

    def _chunk(self, number: int) -> NDArray[np.float64]:
        found = self._kept.get(number)
        if found is None:
            steps = np.arange(_KNOTS_PER_CHUNK + 1, dtype=np.int64)
            found = self._knots((number * _KNOTS_PER_CHUNK + steps) * self._step_ms)
            while len(self._kept) >= _CHUNKS_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[number] = found
        return found


def _part(sources: NDArray[np.int64] | None, part: NDArray[np.int64]) -> NDArray[np.int64] | None:
    return None if sources is None else sources[part]


class Spread(msgspec.Struct, frozen=True):
    """How far a place differs from its city: standard deviation, relative and absolute."""

    relative: float = 0.0
    absolute: float = 0.0


class LocalPart:
    """What is special about each device's place, varying slowly."""

    def __init__(
        self, group: Group, seed: int, quantities: Sequence[str], spread: Mapping[str, Spread]
    ) -> None:
        rows = [spread.get(quantity, Spread()) for quantity in quantities]
        self._relative = np.array([row.relative for row in rows])
        self._absolute = np.array([row.absolute for row in rows])
        self._process = Process(
            seed,
            f"local/{group.stream}",
            _LOCAL_OCTAVES,
            first=group.first,
            count=len(group.devices),
            columns=len(quantities),
        )

    def apply(
        self, values: NDArray[np.float64], rows: NDArray[np.int64], ts: NDArray[np.int64]
    ) -> None:
        """Turn the city's `values`, shape (m, q), into those at devices `rows`, in place."""
        noise = self._process.at(rows, ts)
        scale = values * self._relative
        scale += self._absolute
        noise *= scale
        values += noise


class DailyProfile:
    """A quantity's course over the day as a factor with mean 1, from its 24 hourly means."""

    def __init__(self, hourly: Sequence[float]) -> None:
        mean = sum(hourly) / len(hourly)
        self._factors = np.array([*hourly, hourly[0]]) / mean

    def at(self, hour: NDArray[np.float64]) -> NDArray[np.float64]:
        """The factor at local hours [0, 24); hourly means stand at the middle of their hour."""
        return np.interp((hour - 0.5) % 24.0, np.arange(25.0), self._factors)


class YearlyProfile:
    """A quantity's course over the year as a factor with mean 1, from its 12 monthly means."""

    def __init__(self, monthly: Sequence[float]) -> None:
        mean = sum(monthly) / len(monthly)
        self._factors = np.array([*monthly, monthly[0]]) / mean

    def at(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The factor at `ts`; monthly means stand at the middle of their twelfth of the year."""
        month = (ts / YEAR_MS) % 1.0 * 12.0
        return np.interp((month - 0.5) % 12.0, np.arange(13.0), self._factors)


def local_hour(ts: NDArray[np.int64], zone: ZoneInfo) -> NDArray[np.float64]:
    """The hour of the day [0, 24) at `ts` in `zone`, summer time included."""
    quarters, place = np.unique(ts // _QUARTER_MS, return_inverse=True)
    offsets = np.array(
        [
            offset.total_seconds() * 1000 if offset else 0.0
            for quarter in quarters.tolist()
            for moment in (datetime.fromtimestamp(quarter * _QUARTER_MS / 1000, UTC),)
            for offset in (moment.astimezone(zone).utcoffset(),)
        ],
        dtype=np.int64,
    )
    return (ts + offsets[place]) % 86_400_000 / 3_600_000.0


def season(ts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The northern year as a wave: 1 in the last week of July, -1 in the last week of January."""
    return np.cos(2.0 * np.pi * ((ts / YEAR_MS - 205.0 / 365.0) % 1.0))


def capped(values: NDArray[np.float64], cap: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """`values` (not negative) bent so that they never reach `cap`; little changed below half.

    A background level is what stands when nothing happens; what exceeds limits is an event.
    """
    fourth = np.square(np.square(values / cap))
    bent: NDArray[np.float64] = values / np.sqrt(np.sqrt(1.0 + fourth))
    return bent
