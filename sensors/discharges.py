"""What enters the river: outfalls by what their plants discharge, spills by the city file.

What is carried beside each discharge's chemical oxygen demand follows from how raw it is. Ratios
without a source are engineering defaults.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import City


class Carried(msgspec.Struct, frozen=True):
    """Something that the water carries: in raw sewage [mg/L, conductivity uS/cm], and its decay."""

    id: str
    raw: float
    rate_20_per_day: float
    theta: float = 1.047


CARRIED: Final = (
    Carried("cod", 400.0, 0.20),
    Carried("bod", 280.0, 0.25),
    Carried("ammonia_n", 35.0, 0.10),
    Carried("total_p", 5.0, 0.03),
    Carried("total_n", 45.0, 0.03),
    Carried("salt", 780.0, 0.0),
    Carried("deficit", 29.0, 0.0),
)
"""`bod` is the ultimate demand, k1 that of the domain's Streeter-Phelps default (0.25/d). `salt` is
conductivity above the river's own. `deficit`, the missing oxygen, is what sewage lacks (9 mg/L) and
takes at once (20 mg/L, sulphide); reaeration, not a rate of this table, makes it good."""

CODMN_OF_COD: Final = 1.0 / 3.0
"""Permanganate index per COD: the ratio of the class IV limits of GB 3838-2002 (10 to 30 mg/L)."""

TREATED_COD_MG_L: Final = 60.0
"""Wastewater of at most this COD (GB 18918-2002, 1B) has been treated."""

TREATED_BOD_OF_COD: Final = 0.28
"""Ultimate demand per COD of treated wastewater: 10 to 50 mg/L of GB 18918-2002 1A, the five-day
demand being 71 % of the ultimate at 0.25/d. In raw sewage 200 to 400 mg/L, so 0.70."""

EFFLUENT_SALT_US_CM: Final = 500.0
"""Conductivity of treated wastewater above the river's."""

COD, BOD, AMMONIA_N, TOTAL_P, TOTAL_N, SALT, DEFICIT = range(len(CARRIED))
_RAW_PER_COD: Final = np.array([row.raw / CARRIED[COD].raw for row in CARRIED])


class OutfallPlace(Protocol):
    """Where a plant's wastewater enters the river."""

    @property
    def river_km(self) -> float:
        """Distance from the head of the river [km]."""


class OutfallLoads(Protocol):
    """What outfalls discharge; arrays of shape (k, outfalls)."""

    @property
    def flow_m3_s(self) -> NDArray[np.float64]:
        """Flow [m3/s]."""

    @property
    def cod_g_s(self) -> NDArray[np.float64]:
        """Chemical oxygen demand [g/s]."""

    @property
    def ammonia_n_g_s(self) -> NDArray[np.float64]:
        """Ammonia nitrogen [g/s]."""

    @property
    def total_p_g_s(self) -> NDArray[np.float64]:
        """Total phosphorus [g/s]."""

    @property
    def total_n_g_s(self) -> NDArray[np.float64]:
        """Total nitrogen [g/s]."""


class Dischargers(Protocol):
    """The plants, as the river knows them."""

    @property
    def outfalls(self) -> Sequence[OutfallPlace]:
        """The places of their outfalls."""

    def loads(self, ts: NDArray[np.int64]) -> OutfallLoads:
        """What truly enters the river at `ts` [ms since the epoch], shape (k,)."""


class _Spill(msgspec.Struct, frozen=True):
    river_km: float
    from_ms: int
    for_ms: int
    cod_g: float


class Discharges:
    """All that enters one river, by place and time."""

    def __init__(self, city: City, plants: Dischargers | None, *, start_ms: int) -> None:
        self._plants = plants if plants is not None and len(plants.outfalls) else None
        self._spills = _spills(city, start_ms)
        outfalls = self._plants.outfalls if self._plants else ()
        self.river_km = np.array(
            [*(place.river_km for place in outfalls), *(spill.river_km for spill in self._spills)]
        )
        """Where each source is, shape (sources,)."""

    def masses_g(self, ts: NDArray[np.int64], step_ms: int) -> NDArray[np.float64]:
        """What each source puts in during the steps that begin at `ts`, shape (k, sources, carried).

        [g]; for conductivity [uS/cm m3]. An outfall counts as steady at the step's middle, a spill
        as steady while it lasts.
        """
        parts = [_drained_g(self._plants, ts, step_ms)] if self._plants else []
        parts += [_spilled_g(spill, ts, step_ms) for spill in self._spills]
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(ts), 0, len(CARRIED)))


def _drained_g(plants: Dischargers, ts: NDArray[np.int64], step_ms: int) -> NDArray[np.float64]:
    loads = plants.loads(ts + step_ms // 2)
    flow, cod = loads.flow_m3_s, loads.cod_g_s
    mg_l = cod / np.maximum(flow, 1e-9)
    span = CARRIED[COD].raw - TREATED_COD_MG_L
    raw = np.clip((mg_l - TREATED_COD_MG_L) / span, 0.0, 1.0)
    bod_of_cod = TREATED_BOD_OF_COD + raw * (_RAW_PER_COD[BOD] - TREATED_BOD_OF_COD)
    salt = flow * (EFFLUENT_SALT_US_CM + raw * (CARRIED[SALT].raw - EFFLUENT_SALT_US_CM))
    rows = (
        cod,
        cod * bod_of_cod,
        loads.ammonia_n_g_s,
        loads.total_p_g_s,
        loads.total_n_g_s,
        salt,
        cod * raw * _RAW_PER_COD[DEFICIT],
    )
    return np.stack(rows, axis=2) * (step_ms / 1000.0)


def _spilled_g(spill: _Spill, ts: NDArray[np.int64], step_ms: int) -> NDArray[np.float64]:
    begins = np.maximum(ts, spill.from_ms)
    ends = np.minimum(ts + step_ms, spill.from_ms + spill.for_ms)
    cod_g = np.maximum(ends - begins, 0) / spill.for_ms * spill.cod_g
    spilled: NDArray[np.float64] = (cod_g[:, None] * _RAW_PER_COD)[:, None, :]
    return spilled


def _spills(city: City, start_ms: int) -> list[_Spill]:
    places = {site.id: site.river_km or 0.0 for site in city.sites}
    return [
        _Spill(
            river_km=places[event.target.partition("/")[0]],
            from_ms=start_ms + round(event.at_s * 1000),
            for_ms=max(round(event.for_s * 1000), 1),
            cod_g=1000.0 * event.param("mass_kg"),
        )
        for event in city.events
        if event.kind == "spill"
    ]
