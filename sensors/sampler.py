"""Samples of one group of devices: when each measures, what it shows, and when it says so."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import City
from sensors.events import FOR_EVER_MS, Script, Spells, Tile
from sensors.faults import Faults, calibrate, mark, sending
from sensors.fields import Group, Probe
from sensors.fraud import Frauds
from sensors.instruments import Calibrations, Instruments, Response
from sensors.randomness import Lanes
from sensors.truth import Comparison, affected, world_spells

TILE_ROWS: Final = 4096
"""Samples computed at once: enough to hide what a call costs, few enough for the cache."""

_TILES_KEPT: Final = 2
_ROUNDS_KEPT: Final = 4


class Frame(msgspec.Struct, frozen=True, eq=False):
    """Samples of one group, in the order in which they are taken; the arrays are read-only.

    `rows` (indices into `group.devices`) and `ts` (milliseconds since the epoch, UTC) have the
    shape (m,); `values` (canonical units, rounded, NaN where there is no value) and `flags`
    (`city.readings.Flag`) have the shape (m, q).

    `ts` is what the device's clock says, which differs from when the sample was taken while that
    clock is wrong. `sent_ms`, shape (m,), is when the message leaves the device on the true clock:
    later than taken while the line is down; None where all leave as they are taken. Whoever plays
    live keeps a sample until then; whoever writes files need not care.

    `truth`, shape (m, q), only on request, is what was true when the sample was taken, for the
    readings that an event affects, and NaN for all others.
    """

    group: Group
    rows: NDArray[np.int64]
    ts: NDArray[np.int64]
    values: NDArray[np.float64]
    flags: NDArray[np.uint8]
    sent_ms: NDArray[np.int64] | None = None
    truth: NDArray[np.float64] | None = None

    def comparisons(self) -> Iterator[Comparison]:
        """Sample by sample, the affected readings beside the truth; none without it."""
        if self.truth is None:
            return
        known = ~np.isnan(self.truth)
        for sample in np.flatnonzero(known.any(axis=1)).tolist():
            columns = np.flatnonzero(known[sample]).tolist()
            names = [self.group.quantities[column] for column in columns]
            yield Comparison(
                device=self.group.devices[self.rows[sample]].name,
                ts=int(self.ts[sample]),
                true=dict(zip(names, self.truth[sample, columns].tolist(), strict=True)),
                shown=dict(zip(names, self.values[sample, columns].tolist(), strict=True)),
            )


class Round(msgspec.Struct, eq=False):
    """Devices of a group that measure at one interval, in the order of their phases.

    `order` and `phases`, shape (k,), are their rows and offsets; `lanes` their lanes in `noise`.
    `place`, shape (n,), is every device's position in the order. A device is in the round from
    `joins_ms` to before its `leaves_ms`, shape (n,).
    """

    interval_ms: int
    order: NDArray[np.int64]
    phases: NDArray[np.int64]
    lanes: NDArray[np.int64]
    noise: Lanes
    place: NDArray[np.int64]
    leaves_ms: NDArray[np.int64]
    joins_ms: int = -FOR_EVER_MS

    @classmethod
    def of(
        cls, group: Group, seed: int, interval_ms: int, rows: NDArray[np.int64], joins_ms: int
    ) -> "Round":
        """The devices `rows`, which follow one another, at `interval_ms` from `joins_ms` on."""
        phases = group.phase_ms[rows] % interval_ms
        by_phase = np.argsort(phases, kind="stable")
        own = "" if interval_ms == group.interval_ms else f"/{interval_ms}"
        noise = Lanes(
            seed,
            f"instruments/{group.stream}{own}",
            first=group.first + int(rows[0]),
            count=len(rows),
            columns=len(group.quantities),
        )
        count = len(group.devices)
        place = np.full(count, -1, dtype=np.int64)
        place[rows[by_phase]] = np.arange(len(rows))
        leaves_ms = np.full(count, FOR_EVER_MS)
        order = rows[by_phase]
        return cls(
            interval_ms, order, phases[by_phase], by_phase, noise, place, leaves_ms, joins_ms
        )

    def tile(self, number: int, start: int, repeats: int) -> Tile:
        """The samples of intervals `number` to `number + repeats`, of devices from `start` on."""
        rows = self.order[start : start + TILE_ROWS]
        begin_ms = (number + np.arange(repeats, dtype=np.int64)) * self.interval_ms
        ts = (begin_ms[:, None] + self.phases[start : start + TILE_ROWS]).ravel()
        place = self.place - start if start else self.place
        return Tile(np.tile(rows, repeats) if repeats > 1 else rows, ts, place, repeats)

    def members(self, tile: Tile) -> NDArray[np.bool_] | None:
        """Which samples are of devices that are in the round then; None for all."""
        leaves_ms = self.leaves_ms[tile.rows]
        if self.joins_ms <= tile.ts[0] and leaves_ms.min() > tile.ts[-1]:
            return None
        inside: NDArray[np.bool_] = (tile.ts >= self.joins_ms) & (tile.ts < leaves_ms)
        return inside


class Taken(msgspec.Struct, frozen=True, eq=False):
    """A frame and when its samples were taken by the true clock, shape (m,)."""

    frame: Frame
    at_ms: NDArray[np.int64]

    def cut(self, from_ms: int, until_ms: int) -> Frame:
        """The samples taken from `from_ms` to before `until_ms`."""
        first, stop = np.searchsorted(self.at_ms, (from_ms, until_ms)).tolist()
        return self.frame if stop - first == len(self.at_ms) else _picked(self.frame, first, stop)


class Sampler:
    """One group: its field, its instruments, and what each device says when."""

    def __init__(self, city: City, group: Group, probe: Probe, *, seed: int, start_ms: int) -> None:
        self.group = group
        self.script = Script(city, group, seed=seed, start_ms=start_ms)
        self._seed = seed
        self._probe = probe
        self._in_world = world_spells(city, group, start_ms)
        self._responses = {group.interval_ms: Response(group.quantities, group.interval_ms)}
        self._instruments = Instruments(group)
        offset_ms = _utc_offset_ms(city, start_ms)
        self._calibrations = Calibrations(group, seed=seed, utc_offset_ms=offset_ms)
        self._faults = Faults(group, self._instruments, seed=seed)
        self._frauds = Frauds(group)
        rows = np.arange(len(group.devices), dtype=np.int64)
        self._rounds = [Round.of(group, seed, group.interval_ms, rows, -FOR_EVER_MS)]
        self._tiles: dict[tuple[int, int, int, bool], Taken] = {}
        self._truths: dict[tuple[int, int, int], NDArray[np.float64]] = {}

    def frames(self, from_ms: int, until_ms: int, *, with_truth: bool) -> Iterator[Frame]:
        """The group's samples taken from `from_ms` to before `until_ms`."""
        for index, own in enumerate(self._rounds):
            yield from self._frames_of(
                index, max(from_ms, own.joins_ms), until_ms, with_truth=with_truth
            )

    def retime(self, row: int, interval_ms: int, ts_ms: int) -> None:
        """Take the device out of its round from `ts_ms` on, into one of its own."""
        for own in self._rounds:
            own.leaves_ms[row] = min(int(own.leaves_ms[row]), ts_ms)
        only = np.array([row], dtype=np.int64)
        self._rounds.append(Round.of(self.group, self._seed, interval_ms, only, ts_ms))
        self._responses[interval_ms] = Response(self.group.quantities, interval_ms)
        self.forget()

    def forget(self) -> None:
        """Compute samples anew: the world was changed."""
        self._tiles.clear()
        self._truths.clear()
        self._faults.forget()

    def _frames_of(
        self, index: int, from_ms: int, until_ms: int, *, with_truth: bool
    ) -> Iterator[Frame]:
        own = self._rounds[index]
        number, size = from_ms // own.interval_ms, len(own.order)
        while number * own.interval_ms < until_ms:
            begin_ms = number * own.interval_ms
            # Whole intervals of a small group are computed together.
            whole = (until_ms - begin_ms) // own.interval_ms if begin_ms >= from_ms else 0
            repeats = min(whole, TILE_ROWS // size)
            if repeats > 1:
                taken = self._sample(
                    own, own.tile(number, 0, repeats), number, with_truth=with_truth
                )
                yield from _worth(taken.frame)
            else:
                bounds = (from_ms - begin_ms, until_ms - begin_ms)
                first, stop = np.searchsorted(own.phases, bounds).tolist()
                for start in range(first - first % TILE_ROWS, stop, TILE_ROWS):
                    taken = self._kept(index, number, start, with_truth=with_truth)
                    yield from _worth(taken.cut(from_ms, until_ms))
            number += max(repeats, 1)

    def _kept(self, index: int, number: int, start: int, *, with_truth: bool) -> Taken:
        key = (index, number, start, with_truth)
        found = self._tiles.get(key)
        if found is None:
            own = self._rounds[index]
            found = self._sample(own, own.tile(number, start, 1), number, with_truth=with_truth)
            while len(self._tiles) >= _TILES_KEPT + len(self._rounds):
                self._tiles.pop(next(iter(self._tiles)))
            self._tiles[key] = found
        return found

    def _sample(self, own: Round, tile: Tile, number: int, *, with_truth: bool) -> Taken:
        """Take the samples of `tile`, whose first interval is `number`, and let them be said."""
        spells = self.script.during(int(tile.ts[0]), int(tile.ts[-1]))
        numbers = range(number, number + tile.repeats)
        values, flags = self._shown(own, tile, numbers, spells)
        way = sending(tile, spells)
        truth = self._truth(tile, spells) if with_truth else None
        frame = Frame(self.group, tile.rows, way.stamped, values, flags, way.sent, truth)
        spoken, members = way.spoken, own.members(tile)
        if members is not None:
            spoken = members if spoken is None else spoken & members
        if spoken is not None:
            return Taken(_picked(frame, np.flatnonzero(spoken)), tile.ts[spoken])
        return Taken(_sealed(frame), tile.ts)

    def _shown(
        self, own: Round, tile: Tile, numbers: range, spells: Mapping[str, Spells]
    ) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """What the devices show, and their flags, shape (m, q): from sample to logger."""
        answer = self._answer(own, tile, numbers[0])
        flags = np.zeros(answer.shape, dtype=np.uint8)
        noise = self._noise(own, tile, numbers)
        if spells:
            self._frauds.taint(answer, tile, spells)
            self._faults.roughen(noise, tile, spells)
        age_ms = calibrate(answer, flags, tile, spells, self._instruments, self._calibrations)
        values = self._instruments.sense(answer, noise)
        if self._calibrations.length_ms:
            self._calibrations.drift(values, tile.rows, tile.ts, age_ms)
        if spells:
            self._faults.drift(values, tile, spells, age_ms)
            self._faults.spike(values, tile, spells, numbers)
            self._faults.hang(values, tile, spells, self._answer_at)
            self._frauds.falsify(values, noise, tile, spells)
            mark(flags, tile, spells)
        self._instruments.show(values, flags, tile.rows)
        return values, flags

    def _answer(self, own: Round, tile: Tile, number: int) -> NDArray[np.float64]:
        """What the sensors have answered to; samples of the round's past are used again."""
        response = self._responses[own.interval_ms]
        back = response.rounds
        if not 0 < back <= _ROUNDS_KEPT:
            return response.of(self._probe.truth, tile.rows, tile.ts)
        start, devices = int(own.place[tile.rows[0]]), len(tile.rows) // tile.repeats
        now = self._probe.truth(tile.rows, tile.ts)
        if tile.repeats > back:
            early = slice(back * devices)
            before = self._probe.truth(tile.rows[early], tile.ts[early] - response.age_ms)
            return response.blend(now, np.concatenate((before, now[: -back * devices])))
        past = self._truths.get((own.interval_ms, number - back, start))
        if past is None or tile.repeats > 1:
            past = self._probe.truth(tile.rows, tile.ts - response.age_ms)
        if tile.repeats == 1:
            tiles = len(own.order) // TILE_ROWS + 1
            while len(self._truths) >= tiles * (_ROUNDS_KEPT + 1):
                self._truths.pop(next(iter(self._truths)))
            self._truths[own.interval_ms, number, start] = now
        return response.blend(now, past)

    def _answer_at(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._responses[self.group.interval_ms].of(self._probe.truth, rows, ts)

    def _noise(self, own: Round, tile: Tile, numbers: range) -> NDArray[np.float64]:
        start = int(own.place[tile.rows[0]])
        lanes = own.lanes[start : start + len(tile.rows) // tile.repeats]
        drawn = [own.noise.draw(number).take(lanes, axis=0) for number in numbers]
        return drawn[0] if len(drawn) == 1 else np.concatenate(drawn)

    def _truth(self, tile: Tile, spells: Mapping[str, Spells]) -> NDArray[np.float64]:
        """What is true of the readings that any event affects, shape (m, q), else NaN."""
        mask = affected(tile, self.group.quantities, {**spells, **self._in_world})
        truth = np.full(mask.shape, np.nan)
        samples = np.flatnonzero(mask.any(axis=1))
        if samples.size:
            found = self._probe.truth(tile.rows[samples], tile.ts[samples])
            truth[samples] = np.where(mask[samples], found, np.nan)
        return truth


def _worth(frame: Frame) -> Iterator[Frame]:
    if len(frame.rows):
        yield frame


def _picked(frame: Frame, first: "int | NDArray[np.int64]", stop: int | None = None) -> Frame:
    """The samples from `first` to before `stop`, or at the indices `first`."""
    part = slice(first, stop) if isinstance(first, int) else first
    sent_ms = None if frame.sent_ms is None else frame.sent_ms[part]
    truth = None if frame.truth is None else frame.truth[part]
    rows, ts = frame.rows[part], frame.ts[part]
    picked = Frame(frame.group, rows, ts, frame.values[part], frame.flags[part], sent_ms, truth)
    return _sealed(picked)


def _sealed(frame: Frame) -> Frame:
    for array in (frame.rows, frame.ts, frame.values, frame.flags, frame.sent_ms, frame.truth):
        if array is not None:
            array.flags.writeable = False
    return frame


def _utc_offset_ms(city: City, instant_ms: int) -> int:
    offset = datetime.fromtimestamp(instant_ms / 1000, UTC).astimezone(city.zone).utcoffset()
    return round(1000 * offset.total_seconds()) if offset else 0
