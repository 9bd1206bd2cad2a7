"""Faults: instruments that drift, hang, spike, shout, fall silent or tell the wrong time.

Each function does to one tile what the spells of its kinds say, in place. The order in which the
engine calls them is that of a signal's way: sensor, electronics, logger, line.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.readings import Flag
from sensors.events import DAY_MS, FOR_EVER_MS, Spells, Tile, uniform
from sensors.fields import Group
from sensors.instruments import Calibrations, Instruments, Truth
from sensors.randomness import Lanes

RESEND_SPEED: Final = 20
"""A buffer is sent so many times faster than it was filled (engineering default)."""

_HOUR_S: Final = 3600.0
_HELD_KEPT: Final = 10_000
_STATES: Final = (
    ("stopped", Flag.F),
    ("maintenance", Flag.M),
    ("fault", Flag.D),
    ("comm-loss", Flag.B),
)
"""Flags that a spell sets; where several do, the last one stands."""


class Faults:
    """What faults do to the instruments of one group."""

    def __init__(self, group: Group, instruments: Instruments, *, seed: int) -> None:
        self._interval_s = group.interval_ms / 1000.0
        self._instruments = instruments
        self._full_scale = instruments.high - instruments.low
        self._held: dict[tuple[int, int], NDArray[np.float64]] = {}
        self._spikes = Lanes(
            seed,
            f"spikes/{group.stream}",
            first=group.first,
            count=len(group.devices),
            columns=3,
        )

    def roughen(self, noise: NDArray[np.float64], tile: Tile, spells: Mapping[str, Spells]) -> None:
        """Noisy electronics: `noise`, shape (m, q), grows by the factor."""
        if "noise" in spells:
            samples, spell, columns = tile.cells(spells["noise"])
            factor = spells["noise"].params[spell, 0]
            noise[samples, columns] *= factor

    def drift(
        self,
        values: NDArray[np.float64],
        tile: Tile,
        spells: Mapping[str, Spells],
        age_ms: NDArray[np.int64],
    ) -> None:
        """Zero and span wander since the spell began, or since the last calibration if later."""
        if "drift" not in spells:
            return
        own = spells["drift"]
        samples, spell, columns = tile.cells(own)
        since_ms = tile.ts[samples] - own.from_ms[spell]
        days = np.minimum(since_ms, age_ms[samples]) / DAY_MS
        zero, span = 0.01 * days * own.params[spell, 0], 0.01 * days * own.params[spell, 1]
        values[samples, columns] += values[samples, columns] * span
        values[samples, columns] += self._full_scale[columns] * zero

    def spike(
        self,
        values: NDArray[np.float64],
        tile: Tile,
        spells: Mapping[str, Spells],
        numbers: Iterable[int],
    ) -> None:
        """Single values jump up or down by the spell's size, at its rate at most every sample.

        `numbers` are those of the tile's rounds.
        """
        if "spike" not in spells:
            return
        own = spells["spike"]
        samples, spell, columns = tile.cells(own)
        if samples.size:
            devices = tile.rows[: len(tile.rows) // tile.repeats]
            drawn = np.concatenate([self._spikes.draw(n).take(devices, axis=0) for n in numbers])
            likely = own.params[spell, 1] * self._interval_s / _HOUR_S
            struck = np.flatnonzero(uniform(drawn[samples, :2]) < likely)
            samples, columns, spell = samples[struck], columns[struck], spell[struck]
            size = 0.01 * own.params[spell, 0] * self._full_scale[columns]
            values[samples, columns] += np.copysign(size, drawn[samples, 2])

    def hang(
        self, values: NDArray[np.float64], tile: Tile, spells: Mapping[str, Spells], answer: Truth
    ) -> None:
        """Hung and unreachable instruments show what was so when it began, broken ones the low end.

        `answer` tells what sensors answer to at any instant.
        """
        if "fault" in spells:
            samples, _, columns = tile.cells(spells["fault"])
            values[samples, columns] = np.maximum(self._instruments.low[columns], 0.0)
        for kind in ("stuck", "comm-loss"):
            if kind in spells:
                own = spells[kind]
                samples, spell, columns = tile.cells(own)
                if samples.size:
                    used, place = np.unique(spell, return_inverse=True)
                    held = self._held_at(own.rows[used], own.from_ms[used], answer)
                    values[samples, columns] = held[place, columns]

    def forget(self) -> None:
        """Look anew at what is held: the world was changed."""
        self._held.clear()

    def _held_at(
        self, rows: NDArray[np.int64], from_ms: NDArray[np.int64], answer: Truth
    ) -> NDArray[np.float64]:
        """The answers at those instants, shape (h, q); kept, as the past is dear to look up."""
        keys = list(zip(rows.tolist(), from_ms.tolist(), strict=True))
        if len(self._held) > _HELD_KEPT:
            self._held.clear()
        new = [index for index, key in enumerate(keys) if key not in self._held]
        if new:
            found = answer(rows[new], from_ms[new])
            self._held |= {keys[index]: found[place] for place, index in enumerate(new)}
        return np.stack([self._held[key] for key in keys])


def mark(flags: NDArray[np.uint8], tile: Tile, spells: Mapping[str, Spells]) -> None:
    """Set the flags of stopped, maintained, broken and unreachable instruments."""
    for kind, flag in _STATES:
        if kind in spells:
            samples, _, columns = tile.cells(spells[kind])
            flags[samples, columns] = flag


def calibrate(
    answer: NDArray[np.float64],
    flags: NDArray[np.uint8],
    tile: Tile,
    spells: Mapping[str, Spells],
    instruments: Instruments,
    calibrations: Calibrations,
) -> NDArray[np.int64]:
    """Carry out calibrations in the tile and return the time since each device's last [ms].

    Without any, daily or not, that is for ever, shape (m,).
    """
    age_ms = np.full(len(tile.rows), FOR_EVER_MS)
    if calibrations.length_ms:
        age_ms = calibrations.age_ms(tile.rows, tile.ts)
        samples = calibrations.running(age_ms)
        if samples.size:
            passed = 1.0 - (DAY_MS - age_ms[samples]) / calibrations.length_ms
            columns = calibrations.columns[None, :]
            instruments.feed_gas(answer, flags, samples, passed, columns)
    if "calibration" in spells:
        own = spells["calibration"]
        samples, spell = tile.hits(own)
        passed = (tile.ts[samples] - own.from_ms[spell]) / (own.until_ms - own.from_ms)[spell]
        instruments.feed_gas(answer, flags, samples, passed, own.columns[spell])
        samples, spell = tile.hits(own, after_ms=FOR_EVER_MS)
        since_ms = tile.ts[samples] - own.until_ms[spell]
        done = since_ms >= 0
        np.minimum.at(age_ms, samples[done], since_ms[done])
    return age_ms


class Sending(msgspec.Struct, frozen=True, eq=False):
    """How a tile's samples leave: which at all, under which instant, and when.

    `stamped` and `sent` have the shape (m,); `spoken` is None where every sample leaves.
    """

    spoken: NDArray[np.bool_] | None
    stamped: NDArray[np.int64]
    sent: NDArray[np.int64] | None


def sending(tile: Tile, spells: Mapping[str, Spells]) -> Sending:
    """Silence, wrong clocks and late resends of the tile's samples."""
    stamped, sent, spoken = tile.ts, None, None
    if "clock-skew" in spells:
        samples, spell = tile.hits(spells["clock-skew"])
        if samples.size:
            stamped, sent = tile.ts.copy(), tile.ts.copy()
            skew_s = spells["clock-skew"].params[spell, 0]
            stamped[samples] += np.rint(1000.0 * skew_s).astype(np.int64)
    if "comm-loss" in spells:
        own = spells["comm-loss"]
        samples, spell = tile.hits(own)
        if samples.size:
            sent = tile.ts.copy() if sent is None else sent
            waited_ms = tile.ts[samples] - own.from_ms[spell]
            sent[samples] = own.until_ms[spell] + waited_ms // RESEND_SPEED
    if "silence" in spells:
        samples, _ = tile.hits(spells["silence"])
        if samples.size:
            spoken = np.ones(len(tile.rows), dtype=np.bool_)
            spoken[samples] = False
    return Sending(spoken, stamped, sent)
