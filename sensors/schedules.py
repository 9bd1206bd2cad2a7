"""When plants work: load by hour, shift and weekday, maintenance weekends, and each plant's lag.

Figures are engineering defaults. A schedule is relative to the mean of its working days; the load
of a plant is its city file's, times the schedule, times a slow noise of its own.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray

from sensors.fields import HOUR_S
from sensors.randomness import Lanes, Octave, Process

LOAD_MAX: Final = 1.2
"""No plant works at more than this share of its rated load."""

_STEP_S: Final = 600.0
_STEPS_PER_DAY: Final = 144
_CYCLE_WEEKS: Final = 4
_CYCLE_MS: Final = _CYCLE_WEEKS * 7 * 86_400_000
_FIRST_MONDAY_MS: Final = 4 * 86_400_000
"""1970-01-05 was a Monday."""

_LAGS_KEPT: Final = 6
_DELAY_S: Final = 600.0
_NOISE: Final = 0.035
_OCTAVES: Final = (Octave(6 * HOUR_S, 0.5), Octave(HOUR_S, 0.3), Octave(900.0, 0.2))


class Schedule(msgspec.Struct, frozen=True):
    """The working week of a kind of plant.

    `hours` are the 24 hours of a working day, in any scale; `saturday` and `sunday` are shares of
    a working day. `maintenance` is the share that is left on every fourth weekend. The plant
    follows its orders with the time constant `lag_s`, and needs `stop_s` to come to a stand.
    """

    hours: tuple[float, ...]
    saturday: float
    sunday: float
    maintenance: float
    lag_s: float
    stop_s: float


_HEAT: Final = (
    0.80, 0.78, 0.76, 0.76, 0.78, 0.85, 0.95, 1.05, 1.12, 1.15, 1.15, 1.12,
    1.10, 1.12, 1.14, 1.15, 1.15, 1.12, 1.10, 1.08, 1.02, 0.96, 0.90, 0.84,
)  # fmt: skip
_PEAKS: Final = (
    0.60, 0.58, 0.58, 0.58, 0.62, 0.78, 1.02, 1.18, 1.25, 1.25, 1.22, 1.15,
    1.08, 1.10, 1.12, 1.12, 1.15, 1.25, 1.30, 1.30, 1.22, 1.02, 0.82, 0.68,
)  # fmt: skip
_DRYER: Final = (
    0.88, 0.88, 0.88, 0.88, 0.88, 0.88, 1.06, 1.08, 1.08, 1.08, 1.08, 1.06,
    1.04, 1.08, 1.08, 1.08, 1.08, 1.08, 1.06, 1.06, 1.04, 1.00, 0.88, 0.88,
)  # fmt: skip
_STEADY: Final = (1.0,) * 24
_HOUSEHOLDS: Final = (
    0.85, 0.70, 0.60, 0.55, 0.55, 0.65, 0.90, 1.15, 1.30, 1.28, 1.20, 1.15,
    1.15, 1.10, 1.00, 0.95, 0.95, 1.00, 1.10, 1.20, 1.28, 1.25, 1.15, 0.99,
)  # fmt: skip
_SHIFTS: Final = (
    0.55, 0.55, 0.55, 0.55, 0.55, 0.75, 1.15, 1.25, 1.28, 1.28, 1.28, 1.25,
    1.20, 1.25, 1.28, 1.28, 1.28, 1.25, 1.20, 1.20, 1.15, 0.95, 0.70, 0.55,
)  # fmt: skip
SCHEDULES: Final = {
    "coal-boiler": Schedule(_HEAT, 0.96, 0.93, 0.93, lag_s=1200.0, stop_s=1800.0),
    "gas-turbine": Schedule(_PEAKS, 0.85, 0.75, 0.75, lag_s=300.0, stop_s=600.0),
    "ceramics-kiln": Schedule(_DRYER, 1.0, 0.92, 0.60, lag_s=1800.0, stop_s=3600.0),
    "steel-sinter": Schedule(_STEADY, 1.0, 1.0, 0.50, lag_s=1800.0, stop_s=1200.0),
    "sewage-works": Schedule(_HOUSEHOLDS, 1.02, 1.02, 1.02, lag_s=3600.0, stop_s=600.0),
    "brewery": Schedule(_SHIFTS, 0.60, 0.40, 0.35, lag_s=900.0, stop_s=900.0),
}


class Loads:
    """The ordered load of every plant of a city, before anybody stops one."""

    def __init__(
        self, kinds: Sequence[str], usual: Sequence[float], zone: ZoneInfo, seed: int
    ) -> None:
        """`kinds` and `usual` (mean load of a working day) have one entry per plant."""
        count = len(kinds)
        names = tuple(dict.fromkeys(kinds))
        courses = [course(SCHEDULES[name]) for name in names]
        self._courses = np.stack(courses) if courses else np.zeros((0, 1))
        self._kind = np.array([names.index(kind) for kind in kinds], dtype=np.int64)
        self._usual = np.array(usual, dtype=np.float64)
        self._zone = zone
        own = Lanes(seed, "plants/delay", first=0, count=count, columns=1).draw(0)[:, 0]
        weeks = np.arange(count) % _CYCLE_WEEKS * (_CYCLE_MS // _CYCLE_WEEKS)
        delay_ms = 1000.0 * _DELAY_S * np.clip(1.0 + 0.5 * own, 0.0, 2.0)
        self._shift_ms = weeks + np.rint(delay_ms).astype(np.int64)
        self._noise = Process(seed, "plants/load", _OCTAVES, count=count)

    def at(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Loads in 0 to 1.2 at `ts`, shape (k, plants)."""
        count = len(self._usual)
        phase_ms = local_ms(ts, self._zone)[:, None] - _FIRST_MONDAY_MS - self._shift_ms
        place = (phase_ms % _CYCLE_MS) / (1000.0 * _STEP_S)
        step = place.astype(np.int64)
        after = place - step
        steps = self._courses.shape[1]
        now = self._courses[self._kind, step % steps]
        ordered = now + after * (self._courses[self._kind, (step + 1) % steps] - now)
        rows = np.tile(np.arange(count), len(ts))
        noise = self._noise.at(rows, np.repeat(ts, count))[:, 0].reshape(len(ts), count)
        load: NDArray[np.float64] = self._usual * ordered * (1.0 + _NOISE * noise)
        return np.clip(load, 0.0, LOAD_MAX)


def course(schedule: Schedule) -> NDArray[np.float64]:
    """Four weeks of a schedule from a Monday on, every ten minutes, lag included; shape (4032,).

    The weekend of the fourth week is for maintenance.
    """
    hours = np.repeat(np.array(schedule.hours), _STEPS_PER_DAY // 24)
    hours /= hours.mean()
    weekend = [(schedule.saturday, schedule.sunday)] * (_CYCLE_WEEKS - 1)
    weekend.append((schedule.maintenance, schedule.maintenance))
    shares = [(*(1.0,) * 5, *days) for days in weekend]
    ordered = np.concatenate([share * hours for week in shares for share in week])
    return _lagged(ordered, schedule.lag_s)


def _lagged(ordered: NDArray[np.float64], lag_s: float) -> NDArray[np.float64]:
    """The response of a first-order lag to a course that repeats for ever."""
    back = np.arange(int(_LAGS_KEPT * lag_s / _STEP_S) + 1)
    weights = np.exp(-back * _STEP_S / lag_s)
    weights /= weights.sum()
    parts = (weight * np.roll(ordered, steps) for steps, weight in enumerate(weights.tolist()))
    total: NDArray[np.float64] = np.sum(list(parts), axis=0)
    return total


def local_ms(ts: NDArray[np.int64], zone: ZoneInfo) -> NDArray[np.int64]:
    """What clocks in `zone` show at `ts`, in milliseconds as if they showed UTC; shape (k,)."""
    offsets = [
        offset.total_seconds() if offset else 0.0
        for instant in ts.tolist()
        for offset in (datetime.fromtimestamp(instant / 1000, UTC).astimezone(zone).utcoffset(),)
    ]
    return ts + np.array(offsets, dtype=np.int64) * 1000


def unwatched(ts: NDArray[np.int64], zone: ZoneInfo) -> NDArray[np.bool_]:
    """Whether offices are empty: from 22 h to 5 h, on Saturdays and Sundays; shape (k,)."""
    days, in_day_ms = np.divmod(local_ms(ts, zone) - _FIRST_MONDAY_MS, 86_400_000)
    hour = in_day_ms / 3_600_000
    return (days % 7 >= 5) | (hour >= 22) | (hour < 5)  # noqa: PLR2004 - the domain table's hours
