"""The river in time: its state at every step since the start, reachable in any order.

What discharges, spills and rain do to the river depends on the past, so it advances by fixed steps
from a spin-up before the start. States are kept at the beginnings of blocks of steps: a bounded
number of them, ever farther apart as the run grows longer, so memory does not grow with the run. Any
instant is computed from the nearest one before it, and always by the same steps: the same bits.
"""

from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from sensors.discharges import AMMONIA_N, BOD, CARRIED, DEFICIT, Discharges
from sensors.oxygen import rate_at, uptake
from sensors.reaches import FLOOD_MAX, VELOCITY_EXPONENT, Channel, advect, disperse
from sensors.weather import Weather

STEP_MS: Final = 30_000
SPIN_UP_MS: Final = 86_400_000
BLOCK_STEPS: Final = 64
CHECKPOINTS_MAX: Final = 256
_BLOCKS_KEPT: Final = 2
_BLOCK_MS: Final = BLOCK_STEPS * STEP_MS
_STEP_D: Final = STEP_MS / 86_400_000

OXYGEN_PER_AMMONIA_N: Final = 4.57
"""What nitrification uses [g/g]: 2 O2 per N."""

REAERATION_THETA: Final = 1.024
RUNOFF_S: Final = (3600.0, 4 * 3600.0)
"""How long rain stays on the ground, then in brooks: two reservoirs (engineering default)."""

FLOW_PER_RUNOFF: Final = 1.0
"""Growth of the flow per mm/h of runoff from the brooks, while small (engineering default)."""


def flow_factor(runoff_mm_h: NDArray[np.float64]) -> NDArray[np.float64]:
    """The river's flow relative to dry weather, by the brooks' runoff [mm/h]; below `FLOOD_MAX`."""
    span = FLOOD_MAX - 1.0
    return 1.0 - span * np.expm1(-FLOW_PER_RUNOFF / span * runoff_mm_h)


class Balance(msgspec.Struct, frozen=True, eq=False):
    """Where everything went since the spin-up began [g], shape (carried,): in = the other three.

    For `deficit`, which reactions also make, it is no balance.
    """

    put_in: NDArray[np.float64]
    left: NDArray[np.float64]
    decayed: NDArray[np.float64]
    stored: NDArray[np.float64]


class Water(msgspec.Struct, frozen=True, eq=False):
    """The river at some steps: arrays of shape (k, cells, carried) and (k, 2).

    `carried` [g/m3] is that of the dry-weather section; `runoff_mm_h` that from the ground, which
    stirs up mud, and from the brooks, which swells the river.
    """

    carried: NDArray[np.float64]
    runoff_mm_h: NDArray[np.float64]

    @property
    def flow_factor(self) -> NDArray[np.float64]:
        """The flow relative to dry weather, shape (k,)."""
        return flow_factor(self.runoff_mm_h[:, 1])

    @property
    def area_factor(self) -> NDArray[np.float64]:
        """The section relative to dry weather, shape (k,)."""
        grown: NDArray[np.float64] = self.flow_factor ** (1.0 - VELOCITY_EXPONENT)
        return grown


class _State(msgspec.Struct, frozen=True, eq=False):
    carried: NDArray[np.float64]
    runoff_mm_h: NDArray[np.float64]
    ledger: NDArray[np.float64]
    """Put in, left and decayed [g]."""


class Stream:
    """What one river carries. Not for use by two threads at once."""

    def __init__(
        self,
        channel: Channel,
        discharges: Discharges,
        weather: Weather,
        temperature_c: Callable[[NDArray[np.int64]], NDArray[np.float64]],
        *,
        start_ms: int,
    ) -> None:
        """`channel` is made for `STEP_MS`; `temperature_c` tells the water's at any instants."""
        self._channel = channel
        self._discharges = discharges
        self._weather = weather
        self._temperature_c = temperature_c
        self._first = (start_ms - SPIN_UP_MS) // _BLOCK_MS
        sections = channel.sections(discharges.river_km)
        cells = np.concatenate([sections.before, sections.after])
        self._fed, self._feeds = np.unique(cells, return_inverse=True)
        self._shares = np.concatenate([1.0 - sections.share, sections.share])
        self._checkpoints: dict[int, _State] = {}
        self._spacing = 1
        self._kept: dict[int, Water] = {}

    def at(self, ts: NDArray[np.int64]) -> Water:
        """The river after the steps that end at `ts` [ms], multiples of `STEP_MS`, shape (k,).

        Before the spin-up it is as at its beginning.
        """
        blocks = np.maximum(ts // _BLOCK_MS, self._first)
        inside = np.maximum(ts // STEP_MS - blocks * BLOCK_STEPS, 0)
        parts = [(self._block(int(n)), inside[blocks == n]) for n in np.unique(blocks)]
        order = np.argsort(np.argsort(blocks, kind="stable"), kind="stable")
        carried = np.concatenate([water.carried[steps] for water, steps in parts])
        runoff = np.concatenate([water.runoff_mm_h[steps] for water, steps in parts])
        return Water(carried[order], runoff[order])

    def balance(self, ts_ms: int) -> Balance:
        """The balance at the last beginning of a block, every 32 minutes, not after `ts_ms`."""
        state = self._state(max(ts_ms // _BLOCK_MS, self._first))
        stored = self._mass_g(state.carried)
        put_in, left, decayed = state.ledger
        return Balance(put_in, left, decayed, stored)

    def forget(self, after_ms: int) -> None:
        """Compute anew what comes after `after_ms`: a discharge was commanded to change then."""
        for kept, span in ((self._checkpoints, 0), (self._kept, 1)):
            for number in [n for n in kept if (n + span) * _BLOCK_MS > after_ms]:
                del kept[number]

    def _block(self, number: int) -> Water:
        found = self._kept.get(number)
        if found is None:
            found, after = self._advance(number, self._state(number))
            self._keep(number + 1, after)
            while len(self._kept) >= _BLOCKS_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[number] = found
        return found

    def _state(self, number: int) -> _State:
        """The state at the beginning of block `number`."""
        known = max((n for n in self._checkpoints if n <= number), default=None)
        if known is None:
            known = self._first
            self._checkpoints[known] = self._begin()
        state = self._checkpoints[known]
        for before in range(known, number):
            _, state = self._advance(before, state)
            self._keep(before + 1, state)
        return state

    def _keep(self, number: int, state: _State) -> None:
        self._checkpoints[number] = state
        if len(self._checkpoints) <= CHECKPOINTS_MAX:
            return
        while len(self._checkpoints) > CHECKPOINTS_MAX // 2:
            stays = [n for n in self._checkpoints if n % self._spacing == 0]
            self._checkpoints = {n: self._checkpoints[n] for n in {*stays, self._first, number}}
            if len(self._checkpoints) > CHECKPOINTS_MAX // 2:
                self._spacing *= 2

    def _begin(self) -> _State:
        """The steady state under what is discharged when the spin-up begins, without spills."""
        at = np.array([self._first * _BLOCK_MS])
        loads_g_s = np.zeros((self._channel.cells, len(CARRIED)))
        loads_g_s[self._fed] = self._fed_g(at)[0] * 1000.0 / STEP_MS
        carried = _steady(self._channel, loads_g_s, float(self._temperature_c(at)[0]))
        ledger = np.zeros((3, len(CARRIED)))
        ledger[0] = self._mass_g(carried)
        return _State(carried, np.zeros(2), ledger)

    def _mass_g(self, carried: NDArray[np.float64]) -> NDArray[np.float64]:
        mass_g: NDArray[np.float64] = (carried * self._channel.volume_m3[:, None]).sum(axis=0)
        return mass_g

    def _advance(self, number: int, state: _State) -> tuple[Water, _State]:
        """The block's steps, both ends included, and the state at its end."""
        ts = number * _BLOCK_MS + np.arange(BLOCK_STEPS, dtype=np.int64) * STEP_MS
        runoff = self._runoff(ts, state.runoff_mm_h)
        fed_g = self._fed_g(ts)
        carried = np.zeros((BLOCK_STEPS + 1, *state.carried.shape))
        if not (fed_g.any() or state.carried.any()):
            after = _State(state.carried, runoff[-1].copy(), state.ledger)
            return Water(carried, runoff), after
        carried[0] = state.carried
        speed = float(flow_factor(runoff[0, 1:])[0]) ** VELOCITY_EXPONENT
        left_g, decayed_g = self._march(
            carried, fed_g, speed, float(self._temperature_c(ts[:1])[0])
        )
        ledger = state.ledger + np.stack([fed_g.sum(axis=(0, 1)), left_g, decayed_g])
        return Water(carried, runoff), _State(carried[-1].copy(), runoff[-1].copy(), ledger)

    def _march(
        self,
        carried: NDArray[np.float64],
        fed_g: NDArray[np.float64],
        speed: float,
        temperature_c: float,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fill `carried`, shape (steps + 1, cells, carried), from its first; what left, decayed."""
        fed = fed_g / self._channel.volume_m3[self._fed, None]
        pace = self._channel.pace(speed, len(CARRIED))
        keep, bod_takes, ammonia_takes = _reactions(self._channel, temperature_c)
        moved, unchanged = np.zeros_like(carried[0]), np.zeros_like(carried[0])
        for step in range(len(fed_g)):
            now = carried[step + 1]
            now[...] = carried[step]
            now[self._fed] += fed[step]
            moved += advect(now, pace)
            disperse(now, pace)
            used = now[:, BOD] * bod_takes
            used += now[:, AMMONIA_N] * ammonia_takes
            unchanged += now
            now *= keep
            now[:, DEFICIT] += used
        left_g = (moved * self._channel.leaving_m3[:, None]).sum(axis=0)
        return left_g, self._mass_g(unchanged * (1.0 - keep))

    def _fed_g(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """What steps that begin at `ts` put into the cells that are fed [g], (k, fed, carried)."""
        masses_g = self._discharges.masses_g(ts, STEP_MS)
        parts_g = np.concatenate([masses_g, masses_g], axis=1) * self._shares[:, None]
        fed_g = np.zeros((len(ts), len(self._fed), len(CARRIED)))
        for source, fed in enumerate(self._feeds):
            fed_g[:, fed] += parts_g[:, source]
        return fed_g

    def _runoff(self, ts: NDArray[np.int64], before: NDArray[np.float64]) -> NDArray[np.float64]:
        """Runoff at the ends of the steps that begin at `ts`, the first beginning included."""
        rain_mm_h = self._weather.at(ts + STEP_MS // 2).rain_mm_h
        runoff = np.zeros((len(ts) + 1, 2))
        if not (rain_mm_h.any() or before.any()):
            return runoff
        runoff[0] = before
        stays = np.exp(-STEP_MS / 1000.0 / np.array(RUNOFF_S)).tolist()
        ground, brooks = before.tolist()
        for step, rain in enumerate(rain_mm_h.tolist(), start=1):
            ground = rain + (ground - rain) * stays[0]
            brooks = ground + (brooks - ground) * stays[1]
            runoff[step] = ground, brooks
        return runoff


def _rates(channel: Channel, temperature_c: float) -> NDArray[np.float64]:
    """How fast each thing carried goes, reaeration for the deficit [1/d], (cells, carried)."""
    rates = [rate_at(row.rate_20_per_day, row.theta, temperature_c) for row in CARRIED]
    per_day = np.tile(np.array(rates), (channel.cells, 1))
    per_day[:, DEFICIT] = rate_at(channel.reaeration_per_day, REAERATION_THETA, temperature_c)
    return per_day


def _reactions(
    channel: Channel, temperature_c: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What a step's reaction keeps, (cells, carried), and the oxygen BOD and ammonia take."""
    per_day = _rates(channel, temperature_c)
    k2 = per_day[:, DEFICIT]
    bod_takes = uptake(per_day[:, BOD], k2, _STEP_D)
    ammonia_takes = OXYGEN_PER_AMMONIA_N * uptake(per_day[:, AMMONIA_N], k2, _STEP_D)
    return np.exp(-per_day * _STEP_D), bod_takes, ammonia_takes


def _steady(
    channel: Channel, loads_g_s: NDArray[np.float64], temperature_c: float
) -> NDArray[np.float64]:
    """Concentrations [g/m3] under constant `loads_g_s`, both (cells, carried): mixed cells."""
    removed_m3_s = _rates(channel, temperature_c) / 86_400.0 * channel.volume_m3[:, None]
    renewed_m3_s = channel.flow_m3_s[:, None] + removed_m3_s
    passed_m3_s = np.append(channel.passed_m3_s, 0.0)
    carried = np.zeros_like(loads_g_s)
    entering = np.zeros(len(CARRIED))
    for cell, here in enumerate(carried):
        here[:] = (entering + loads_g_s[cell]) / renewed_m3_s[cell]
        used = removed_m3_s[cell, BOD] * here[BOD]
        used += OXYGEN_PER_AMMONIA_N * removed_m3_s[cell, AMMONIA_N] * here[AMMONIA_N]
        here[DEFICIT] += used / renewed_m3_s[cell, DEFICIT]
        entering = here * passed_m3_s[cell]
    return carried
