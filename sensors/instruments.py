"""Instruments: what a sensor makes of the truth at its place.

An instrument answers late, adds noise, drifts until it is calibrated, rounds to its resolution
(the decimals of its quantity) and ends at its range. A value above the range is shown at its end
with flag T; one below is shown at the lower end, as real instruments show zero for less than they
can detect.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.quantities import QUANTITIES
from city.readings import Flag
from sensors.fields import Group
from sensors.fluegas import correct_columns, corrected_columns, reference_o2_percent
from sensors.randomness import Lanes

DEFAULT: Final = "engineering default (grade D)"
FULL_TURN_DEG: Final = 360.0
DAY_MS: Final = 86_400_000
SPAN_GAS: Final = 0.8
"""Share of the range that the span gas or solution has, as is usual (grade D)."""

_NIGHT_MS: Final = 5 * 3_600_000
"""The daily calibrations end within the first five hours of the local day."""
_GOLDEN: Final = 0.6180339887498949
_ZERO_SHARE: Final = 0.4
"""Of a calibration's time for zero gas, and as much for span gas; then the sample comes back."""
_DAYS_KEPT: Final = 4

Truth = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]


class Instrument(msgspec.Struct, frozen=True):
    """How one quantity is measured.

    The noise of a reading has the standard deviation `absolute + relative * |value|`, in the
    quantity's unit. Where `high` is the end of the physical range, nothing lies over the range.
    `lag_s` is the time constant of the response (T90 / 2.3). `calibration_min` is the time of the
    daily calibration [min], 0 for instruments without one; between two calibrations zero and span
    drift at rates with the standard deviations `zero_pct_fs` [% of full scale per day] and
    `span_pct` [% per day].
    """

    quantity: str
    absolute: float
    relative: float
    low: float
    high: float
    lag_s: float = 0.0
    calibration_min: float = 0.0
    zero_pct_fs: float = 0.0
    span_pct: float = 0.0
    source: str = DEFAULT


_GAS: Final = (45.0, 20.0, 0.02, 0.3, "0 to 500 ppb (CO: 50 ppm), T90 below 120 s, grade D")
_WATER: Final = (60.0, 30.0, 0.05, 0.3, "HJ 915-2017 checks NH3-N, CODMn, TP, TN daily, grade D")
_CEMS: Final = (30.0, 20.0, 0.02, 0.3, "HJ 75-2017: calibrated every 24 h, drift 2.5 % FS, grade D")
_OUTFALL: Final = (60.0, 30.0, 0.03, 0.3, "usual monitors are checked daily, grade D")

_ROWS: Final = (
    Instrument("pm25", 0.8, 0.02, 0, 1000, 60.0, source="usual beta gauge: 0 to 1000 ug/m3"),
    Instrument("pm10", 1.2, 0.02, 0, 2000, 60.0),
    Instrument("so2", 0.6, 0.01, 0, 1300, *_GAS),
    Instrument("no2", 0.6, 0.01, 0, 950, *_GAS),
    Instrument("co", 0.02, 0.01, 0, 60, *_GAS),
    Instrument("o3", 0.8, 0.01, 0, 1000, *_GAS),
    Instrument("temperature", 0.1, 0.0, -40, 60, 30.0),
    Instrument("humidity", 0.5, 0.0, 0, 100, 30.0),
    Instrument("wind_speed", 0.1, 0.02, 0, 60),
    Instrument("wind_direction", 3.0, 0.0, 0, 360),
    Instrument("water_temperature", 0.05, 0.0, -1, 45, 10.0),
    Instrument("ph", 0.015, 0.0, 0, 14, 10.0),
    Instrument("dissolved_oxygen", 0.03, 0.0, 0, 20, 25.0),
    Instrument("conductivity", 1.0, 0.003, 0, 5000, 2.0),
    Instrument("turbidity", 0.2, 0.01, 0, 1000, 4.0),
    Instrument("codmn", 0.05, 0.01, 0, 20, *_WATER),
    Instrument("ammonia_n", 0.008, 0.01, 0, 10, *_WATER),
    Instrument("total_p", 0.002, 0.01, 0, 2, *_WATER),
    Instrument("total_n", 0.03, 0.01, 0, 20, *_WATER),
    Instrument("gas_pressure", 0.05, 0.0, -100, 250),
    Instrument("gas_flow", 0.05, 0.005, 0, 2500),
    Instrument("methane", 0.1, 0.01, 0, 100, 4.0, source="usual catalytic bead: 0 to 100 %LEL, "
               "T90 below 12 s"),
    Instrument("valve_position", 0.0, 0.0, 0, 100),
    Instrument("stack_pm", 0.15, 0.01, 0, 500, 4.0),
    Instrument("stack_so2", 0.3, 0.01, 0, 1500, *_CEMS),
    Instrument("stack_nox", 0.3, 0.01, 0, 1500, *_CEMS),
    Instrument("stack_o2", 0.02, 0.0, 0, 21, *_CEMS),
    Instrument("stack_pm_corrected", 0.0, 0.0, 0, 50000, 4.0),
    Instrument("stack_so2_corrected", 0.0, 0.0, 0, 50000, 30.0),
    Instrument("stack_nox_corrected", 0.0, 0.0, 0, 50000, 30.0),
    Instrument("flue_temperature", 0.2, 0.0, 0, 400, 10.0),
    Instrument("flue_pressure", 0.002, 0.0, -5, 5, 4.0),
    Instrument("flue_humidity", 0.1, 0.0, 0, 40, 10.0),
    Instrument("flue_velocity", 0.05, 0.005, 0, 40, 4.0),
    Instrument("flue_flow", 0.0, 0.005, 0, 5000, 4.0),
    Instrument("effluent_flow", 0.05, 0.01, 0, 5000, 4.0),
    Instrument("effluent_ph", 0.02, 0.0, 0, 14, 10.0),
    Instrument("effluent_cod", 0.4, 0.01, 0, 1000, *_OUTFALL),
    Instrument("effluent_ammonia_n", 0.03, 0.01, 0, 100, *_OUTFALL),
    Instrument("effluent_total_p", 0.005, 0.01, 0, 20, *_OUTFALL),
    Instrument("effluent_total_n", 0.1, 0.01, 0, 200, *_OUTFALL),
    Instrument("plant_load", 0.3, 0.0, 0, 150),
    Instrument("plant_power", 0.5, 0.003, 0, 500000),
)  # fmt: skip
INSTRUMENTS: Final = {row.quantity: row for row in _ROWS}


class Response:
    """How late a group's instruments answer: a first-order lag by one sample of the past.

    The lag's answer is the mean of the past, weighted by exp(-age / lag). It is taken at two ages,
    0 and one that the group shares, which each quantity weighs so that the mean age is its own
    lag: exact for truths linear in time; a step arrives in two parts. The shared age is the whole
    number of intervals from twice the longest lag on, so that samples serve twice; where the
    interval is long compared to that, it is twice the longest lag.
    """

    def __init__(self, quantities: Sequence[str], interval_ms: int) -> None:
        lag_ms = 1000.0 * np.array([INSTRUMENTS[name].lag_s for name in quantities])
        longest_ms = float(lag_ms.max())
        rounds = math.ceil(2.0 * longest_ms / interval_ms)
        fits = rounds * interval_ms <= 4.0 * longest_ms
        self.age_ms = rounds * interval_ms if fits else round(2.0 * longest_ms)
        self.rounds = rounds if fits else 0
        """So many intervals ago the past sample was taken; 0 where it was between samples."""
        self._past = lag_ms / self.age_ms if self.age_ms else lag_ms

    def of(
        self, truth: Truth, rows: NDArray[np.int64], ts: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """What the sensors of devices `rows` have answered to at `ts`, shape (m, q)."""
        now = truth(rows, ts)
        return self.blend(now, truth(rows, ts - self.age_ms)) if self.age_ms else now

    def blend(self, now: NDArray[np.float64], past: NDArray[np.float64]) -> NDArray[np.float64]:
        """The answer to the truths of now and of `age_ms` ago, both of shape (m, q)."""
        answer: NDArray[np.float64] = past - now
        answer *= self._past
        answer += now
        return answer


class Calibrations:
    """When a group's instruments are calibrated, and how far they have drifted since.

    Every device with such instruments is calibrated once a day, at its own time of the night.
    Clocks of instruments know no summer time: the offset from UTC is that of the start.
    """

    def __init__(self, group: Group, *, seed: int, utc_offset_ms: int = 0) -> None:
        rows = [INSTRUMENTS[name] for name in group.quantities]
        self.columns = np.array([row.calibration_min > 0 for row in rows])
        self.length_ms = round(60_000 * max((row.calibration_min for row in rows), default=0.0))
        chosen = np.flatnonzero(self.columns).tolist() or [0]
        self._drifting = slice(chosen[0], chosen[-1] + 1)
        between = rows[self._drifting]
        self._zero = np.array([0.01 * row.zero_pct_fs * (row.high - row.low) for row in between])
        self._span = np.array([0.01 * row.span_pct for row in between])
        turns = (group.first + np.arange(len(group.devices))) * _GOLDEN % 1.0
        self._end_ms = self.length_ms + (turns * (_NIGHT_MS - self.length_ms)).astype(np.int64)
        self._end_ms -= utc_offset_ms
        self._lanes = Lanes(
            seed,
            f"drift/{group.stream}",
            first=group.first,
            count=len(group.devices),
            columns=2 * len(between),
        )
        self._kept: dict[int, NDArray[np.float64]] = {}

    def age_ms(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The time since the end of the last daily calibration, shape (m,)."""
        age: NDArray[np.int64] = (ts - self._end_ms[rows]) % DAY_MS
        return age

    def running(self, age_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """The samples of that age that fall into the next daily calibration."""
        return np.flatnonzero(age_ms >= DAY_MS - self.length_ms)

    def drift(
        self,
        values: NDArray[np.float64],
        rows: NDArray[np.int64],
        ts: NDArray[np.int64],
        age_ms: NDArray[np.int64],
    ) -> None:
        """Let `values`, shape (m, q), drift for `age_ms`, in place; rates change every day."""
        day = (ts - self._end_ms[rows]) // DAY_MS
        first, last = int(day.min()), int(day.max())
        age_days = (age_ms / DAY_MS)[:, None]
        count = len(self._zero)
        if first == last:
            rates = self._rates(first).take(rows, axis=0)
        else:
            rates = np.empty((len(rows), 2 * count))
            for number in np.unique(day).tolist():
                part = np.flatnonzero(day == number)
                rates[part] = self._rates(number).take(rows[part], axis=0)
        rates *= age_days
        shown = values[:, self._drifting]
        zero, span = rates[:, :count], rates[:, count:]
        span *= shown
        span += zero
        shown += span

    def _rates(self, day: int) -> NDArray[np.float64]:
        found = self._kept.get(day)
        if found is None:
            found = self._lanes.draw(day)
            found *= np.concatenate((self._zero, self._span))
            while len(self._kept) >= _DAYS_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[day] = found
        return found


class Instruments:
    """Noise, range and resolution of the instruments of one group of devices."""

    def __init__(self, group: Group) -> None:
        rows = [INSTRUMENTS[quantity] for quantity in group.quantities]
        physical = [QUANTITIES[quantity] for quantity in group.quantities]
        self._quantities = group.quantities
        self._absolute = np.array([row.absolute for row in rows])
        self._relative = np.array([row.relative for row in rows])
        self.low = np.array([float(row.low) for row in rows])
        self.high = np.array([float(row.high) for row in rows])
        self._scale = np.array([10.0**quantity.decimals for quantity in physical])
        ends = [quantity.high <= row.high for row, quantity in zip(rows, physical, strict=True)]
        self._top = np.where(ends, np.inf, self.high)
        self._wind = [i for i, name in enumerate(group.quantities) if name == "wind_direction"]
        self._corrections = corrected_columns(group.quantities)
        columns = [column for column, _ in self._corrections]
        self._corrected = slice(min(columns), max(columns) + 1) if columns else slice(0)
        self._o2_ref = reference_o2_percent(group) if self._corrections else None

    def sense(self, answer: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
        """`answer` with standard normal `noise`, both of shape (m, q)."""
        values = np.abs(answer)
        values *= self._relative
        values += self._absolute
        values *= noise
        values += answer
        return values

    def feed_gas(
        self,
        answer: NDArray[np.float64],
        flags: NDArray[np.uint8],
        samples: NDArray[np.int64],
        passed: NDArray[np.float64],
        columns: NDArray[np.bool_],
    ) -> None:
        """Let calibrated sensors answer to zero gas, then span gas, then the sample again; flag C.

        `answer` and `flags`, shape (m, q), change in place at `samples`, shape (h,); `passed` is
        the share of the calibration's time that is gone, `columns`, shape (h, q) or (1, q), what
        it calibrates.
        """
        gas = np.where((passed < _ZERO_SHARE)[:, None], 0.0, SPAN_GAS * self.high)
        on_gas = columns & (passed < 2.0 * _ZERO_SHARE)[:, None]
        answer[samples] = np.where(on_gas, gas, answer[samples])
        flags[samples] = np.where(columns, np.uint8(Flag.C), flags[samples])

    def show(
        self,
        values: NDArray[np.float64],
        flags: NDArray[np.uint8],
        rows: NDArray[np.int64],
    ) -> None:
        """Turn `values` into what devices `rows` show; `flags` get T and follow as values follow.

        `values` and `flags` have the shape (m, q); what is shown is finite, within the ranges and
        rounded. An analyser corrects what it shows itself, clipped and rounded, not the truth.
        """
        for column in self._wind:
            values[:, column] %= FULL_TURN_DEG
        self._limit(values, flags, slice(None))
        if self._o2_ref is None:
            return
        correct_columns(values, self._quantities, self._o2_ref[rows])
        if flags.any():
            o2 = self._quantities.index("stack_o2")
            for column, raw in self._corrections:
                own = np.maximum(flags[:, column], flags[:, raw])
                flags[:, column] = np.maximum(own, flags[:, o2])
        self._limit(values, flags, self._corrected)

    def _limit(self, values: NDArray[np.float64], flags: NDArray[np.uint8], columns: slice) -> None:
        """Clip and round these columns in place, and flag what is over the range."""
        shown, marks = values[:, columns], flags[:, columns]
        over = shown > self._top[columns]
        if over.any():
            marks[over & (marks == Flag.N)] = Flag.T
        np.maximum(shown, self.low[columns], out=shown)
        np.minimum(shown, self.high[columns], out=shown)
        shown *= self._scale[columns]
        np.rint(shown, out=shown)
        shown /= self._scale[columns]
        for column in self._wind:
            values[values[:, column] >= FULL_TURN_DEG, column] = 0.0
        # Adding zero turns a rounded -0.0 into 0.0.
        shown += 0.0
