"""The plants: how hard they work, what leaves their stacks and outfalls, what they draw.

Orders and noise are computed at knots two minutes apart and are linear between them; failures,
secret discharges and stops act at their exact instants. A plant has one stack and one outfall: all
of its analysers and monitors see the same.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from city.cityfile import City, Position, Site
from city.documents import suggestion
from city.errors import InputError
from sensors.enterprises import FIRINGS, SEWERS, SUPPLIES, USUAL_LOAD, arrays
from sensors.fields import HOUR_S, Group, Probe, Series
from sensors.firing import GASES, fire, in_duct
from sensors.fluegas import dry_standard_flow_m3_s, emission_g_s, uncorrected
from sensors.outlets import (
    Effluent,
    FlueGas,
    MeterProbe,
    Operation,
    OutfallLoads,
    OutfallPlace,
    OutfallProbe,
    StackEmissions,
    StackPlace,
    StackProbe,
)
from sensors.randomness import Lanes, Octave, Process
from sensors.schedules import SCHEDULES, Loads, unwatched
from sensors.treatment import Medium, Treatment
from sensors.weather import Weather

__all__ = ["OutfallLoads", "OutfallPlace", "PlantsField", "StackEmissions", "StackPlace"]

KNOT_S: Final = 120.0
DRAINAGE_LOAD: Final = 0.05
"""Wastewater that runs from a plant at a stand, as a load."""

HEAVY_RAIN_MM_H: Final = 8.0
RAIN_GROWTH_MAX: Final = 2.5
"""Beyond this growth of the flow the sewers overflow elsewhere."""

_RAIN_DELAYS_MS: Final = (1_800_000, 3_600_000, 5_400_000)
_NEVER_MS: Final = 2**60
_OCTAVES: Final = (Octave(8 * HOUR_S, 0.4), Octave(1.5 * HOUR_S, 0.35), Octave(600.0, 0.25))
_OWN: Final = 0.6
"""How far plants of a kind differ for good, relative to how far each varies over time."""

_VARIES: Final = {
    "gas": {"pm": 0.06, "so2": 0.06, "nox": 0.05, "air": 0.02, "temperature": 0.012,
                 "humidity": 0.03, "velocity": 0.02},
    "water": {"flow": 0.04, "ph": 0.008, "cod": 0.06, "ammonia_n": 0.08, "total_p": 0.07,
                   "total_n": 0.05},
    "power": {"power": 0.015},
}  # fmt: skip
"""Relative standard deviation over time, of what leaves or enters a plant."""

_PRESSURE, _AMBIENT, _RAIN, _COVER = range(4)
_SUBSTANCES: Final = ("cod", "ammonia_n", "total_p", "total_n")


class PlantsField:
    """The plants of one city."""

    def __init__(self, city: City, *, seed: int, start_ms: int, weather: Weather) -> None:
        self._weather = weather
        self._zone = city.zone
        self._seed = seed
        self._sites = [site for site in city.sites if site.plant]
        self._number = {site.id: number for number, site in enumerate(self._sites)}
        plants = [site.plant for site in self._sites if site.plant]
        self._kinds = [plant.kind for plant in plants]
        self._loads = Loads(self._kinds, [plant.load for plant in plants], city.zone, seed)
        self._firing = arrays(FIRINGS, self._kinds)
        self._sewer = arrays(SEWERS, self._kinds)
        self._supply = arrays(SUPPLIES, self._kinds)
        self._series = {stream: self._varying(stream) for stream in _VARIES}
        self._around = Series(KNOT_S, self._surroundings)
        self._treatment = {
            medium: Treatment(city, self._number, medium, start_ms=start_ms)
            for medium in (Medium.GAS, Medium.WATER)
        }
        self._stop_ms = np.full(len(plants), _NEVER_MS, dtype=np.int64)
        self._slow_ms = np.array([1000.0 * SCHEDULES[kind].stop_s for kind in self._kinds])
        self.stacks = tuple(_stack_places(self._sites, city.position))
        self.outfalls = tuple(_outfall_places(self._sites))
        self._stack_plants = np.array([self._number[stack.site] for stack in self.stacks], np.int64)
        self._outfall_plants = np.array([self._number[out.site] for out in self.outfalls], np.int64)
        for stack, number in zip(self.stacks, self._stack_plants.tolist(), strict=True):
            self._firing["area_m2"][number] = np.pi / 4.0 * stack.diameter_m**2

    def probe(self, group: Group) -> Probe:
        """The plants at the places of `group`."""
        plants = np.array([self._number[device.site.id] for device in group.devices], np.int64)
        if "stack_o2" in group.quantities:
            return StackProbe(self.flue_gas, plants, group)
        if "plant_load" in group.quantities:
            return MeterProbe(self.operation, plants, group)
        return OutfallProbe(self.effluent, plants, group)

    def emissions(self, ts: NDArray[np.int64]) -> StackEmissions:
        """What the stacks truly emit at `ts`, shape (k,), in the order of `stacks`."""
        shape = (len(ts), len(self.stacks))
        if not shape[0] * shape[1]:
            return StackEmissions(*(np.zeros(shape) for _ in range(5)))
        gas = self.flue_gas(np.tile(self._stack_plants, shape[0]), np.repeat(ts, shape[1]))
        masses = (emission_g_s(part, gas.flow_m3_s) for part in (gas.pm, gas.so2, gas.nox))
        columns = (*masses, gas.temperature_c, gas.velocity_m_s)
        return StackEmissions(*(column.reshape(shape) for column in columns))

    def loads(self, ts: NDArray[np.int64]) -> OutfallLoads:
        """What the outfalls truly give the river at `ts`, shape (k,), in the order of `outfalls`.

        What goes past the treatment is in it.
        """
        shape = (len(ts), len(self.outfalls))
        if not shape[0] * shape[1]:
            return OutfallLoads(*(np.zeros(shape) for _ in range(5)))
        water = self.effluent(np.tile(self._outfall_plants, shape[0]), np.repeat(ts, shape[1]))
        flow_m3_s = water.flow_l_s / 1000.0
        columns = [flow_m3_s]
        for name in _SUBSTANCES:
            clean, raw = water.clean[name], water.raw[name]
            columns.append(flow_m3_s * (water.treated * clean + (1.0 - water.treated) * raw))
        return OutfallLoads(*(column.reshape(shape) for column in columns))

    def stop_unit(self, site: str, ts_ms: int) -> int:
        """Stop the unit at `site` from `ts_ms` on, for good; returns when it stands [ms].

        A second stop changes nothing, an earlier one takes its place.

        Raises:
            InputError: There is no plant at `site`.
        """
        if site not in self._number:
            raise InputError(f"no plant at {site!r}; {suggestion(site, self._number)}")
        number = self._number[site]
        self._stop_ms[number] = min(int(self._stop_ms[number]), ts_ms)
        return int(self._stop_ms[number] + self._slow_ms[number])

    def flue_gas(self, plants: NDArray[np.int64], ts: NDArray[np.int64]) -> FlueGas:
        """The gas in the stacks of `plants` at `ts`, both of shape (m,)."""
        load, vary = self._state("gas", plants, ts)
        around = self._around.at(ts)
        row = {name: column[plants] for name, column in self._firing.items()}
        o2_percent, draught = fire(load, vary["air"], row)
        cooling = self._cooling(plants, ts)
        duct = in_duct(load, o2_percent, draught, around[:, _AMBIENT], cooling, vary, row)
        treatment = self._treatment[Medium.GAS]
        at_work = treatment.working(plants, ts)
        at_work *= treatment.treated(plants, ts, around[:, _COVER])
        left = {gas: 1.0 - row[f"{gas}_efficiency"] * at_work for gas in GASES}
        clean = {gas: row[f"{gas}_raw"] * vary[gas] * left[gas] for gas in GASES}
        return FlueGas(
            **{gas: uncorrected(clean[gas], o2_percent, row["basis_o2"]) for gas in GASES},
            o2_percent=o2_percent,
            **duct,
            flow_m3_s=dry_standard_flow_m3_s(
                **duct, area_m2=row["area_m2"], barometer_kpa=around[:, _PRESSURE]
            ),
        )

    def effluent(self, plants: NDArray[np.int64], ts: NDArray[np.int64]) -> Effluent:
        """The wastewater of `plants` at `ts`, both of shape (m,); rain thins it."""
        load, vary = self._state("water", plants, ts)
        around = self._around.at(ts)
        row = {name: column[plants] for name, column in self._sewer.items()}
        growth = np.minimum(1.0 + row["per_mm_h"] * around[:, _RAIN], RAIN_GROWTH_MAX)
        drawn = np.maximum(load, DRAINAGE_LOAD) / USUAL_LOAD
        treatment, cover = self._treatment[Medium.WATER], around[:, _COVER]
        working = treatment.working(plants, ts)
        raw = {name: row[f"{name}_raw"] * vary[name] / growth for name in _SUBSTANCES}
        return Effluent(
            flow_l_s=row["flow_l_s"] * drawn * growth * vary["flow"],
            treated=treatment.treated(plants, ts, cover),
            ph=row["ph"] * vary["ph"],
            clean={name: raw[name] * (1.0 - row[f"{name}_efficiency"] * working) for name in raw},
            raw=raw,
        )

    def operation(self, plants: NDArray[np.int64], ts: NDArray[np.int64]) -> Operation:
        """Load and electricity of `plants` at `ts`, both of shape (m,).

        Treatment that is switched off or broken draws less, and that is what gives it away.
        """
        load, vary = self._state("power", plants, ts)
        cover = self._around.at(ts)[:, _COVER]
        row = {name: column[plants] for name, column in self._supply.items()}
        kept = np.ones(len(ts))
        for treatment in self._treatment.values():
            kept *= treatment.working(plants, ts) * treatment.treated(plants, ts, cover)
        drawn = row["standing"] + (1.0 - row["standing"]) * load / USUAL_LOAD
        drawn *= 1.0 - row["treatment"] * (1.0 - kept)
        return Operation(100.0 * load, row["power_kw"] * drawn * vary["power"])

    def _state(
        self, stream: str, plants: NDArray[np.int64], ts: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        """The load of `plants`, stops included, and how the stream varies, by name."""
        state = self._series[stream].at(ts, plants)
        run = 1.0 - np.clip((ts - self._stop_ms[plants]) / self._slow_ms[plants], 0.0, 1.0)
        vary = {name: state[:, column] for column, name in enumerate(_VARIES[stream], start=1)}
        return state[:, 0] * run, vary

    def _cooling(self, plants: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The share of its heat that a stack still has after a stop, shape (m,)."""
        since = np.maximum(ts - self._stop_ms[plants], 0) / self._slow_ms[plants]
        left: NDArray[np.float64] = np.exp(-since)
        return left

    def _varying(self, stream: str) -> Series:
        """Load and relative variation of every plant, shape (k, plants, 1 + columns)."""
        spread = np.array(list(_VARIES[stream].values()))
        count, columns = len(self._sites), len(spread)
        name = f"plants/{stream}"
        process = Process(self._seed, name, _OCTAVES, count=count, columns=columns)
        own = Lanes(self._seed, f"{name}/own", first=0, count=count, columns=columns).draw(0)
        own = 1.0 + _OWN * spread * own

        def knots(ts: NDArray[np.int64]) -> NDArray[np.float64]:
            rows = np.tile(np.arange(count), len(ts))
            noise = process.at(rows, np.repeat(ts, count)).reshape(len(ts), count, columns)
            varied = own * (1.0 + spread * noise)
            return np.concatenate((self._loads.at(ts)[:, :, None], varied), axis=2)

        return Series(KNOT_S, knots)

    def _surroundings(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Barometer [kPa], air [degC], rain in the sewers [mm/h] and cover, shape (k, 1, 4)."""
        now = self._weather.at(ts)
        sewers = np.mean(
            [self._weather.at(ts - back).rain_mm_h for back in _RAIN_DELAYS_MS], axis=0
        )
        cover = unwatched(ts, self._zone) | (now.rain_mm_h >= HEAVY_RAIN_MM_H)
        columns = (now.pressure_kpa, now.temperature_c, sewers, cover.astype(np.float64))
        return np.stack(columns, axis=1)[:, None, :]


def _stack_places(sites: list[Site], centre: Position) -> list[StackPlace]:
    return [
        StackPlace(
            site=site.id,
            position=stack.position or site.position or centre,
            height_m=stack.height_m,
            diameter_m=stack.diameter_m,
        )
        for site in sites
        for stack in ((site.plant.stack if site.plant else None),)
        if stack
    ]


def _outfall_places(sites: list[Site]) -> list[OutfallPlace]:
    return [
        OutfallPlace(site=site.id, river_km=outfall.river_km)
        for site in sites
        for outfall in ((site.plant.outfall if site.plant else None),)
        if outfall
    ]
