"""The gas network under the city, solved by pandapipes at several levels of demand."""

import difflib
import math
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import Position
from city.documents import suggestion
from city.errors import DocumentError

NETWORKS: Final = {"schutterwald": "schutterwald_gas"}
"""The names that a city file may give, and pandapipes' functions that make these networks."""

DEMAND_LEVELS: Final = (0.02, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5)
"""Multiples of the network's own demand at which it is solved."""

_METRES_PER_DEGREE: Final = 111_320.0
"""Of latitude, on a sphere of the Earth's mean size."""


class NetworkStates(msgspec.Struct, frozen=True, eq=False):
    """Stationary states of one network.

    `levels`, shape (l,), are multiples of the network's own demand; `pressure_kpa` (gauge) and
    `flow_m3_h` (at 0 degC, 101.325 kPa), shape (l, j), belong to the junctions `names`; `east_m`
    and `north_m`, shape (j,), are measured from the middle of the network.
    """

    names: tuple[str, ...]
    east_m: NDArray[np.float64]
    north_m: NDArray[np.float64]
    levels: NDArray[np.float64]
    pressure_kpa: NDArray[np.float64]
    flow_m3_h: NDArray[np.float64]

    def junction(self, name: str, *, where: str) -> int:
        """The index of the junction `name`.

        Raises:
            DocumentError: There is none; the text names `where`, the name and near names.
        """
        try:
            return self.names.index(name)
        except ValueError:
            begin_alike = [other for other in self.names if other.startswith(name)]
            alike = difflib.get_close_matches(name, self.names, n=5, cutoff=0.5)
            near = (begin_alike or alike or list(self.names))[:5]
            text = f"{where}: no junction {name!r} in the gas network; near names: "
            raise DocumentError(text + ", ".join(near)) from None

    def position(self, junction: int, centre: Position) -> Position:
        """Longitude and latitude of a junction when the network's middle lies at `centre`."""
        return offset_position(
            centre, east_m=float(self.east_m[junction]), north_m=float(self.north_m[junction])
        )


def offset_position(centre: Position, *, east_m: float, north_m: float) -> Position:
    """The position so many metres east and north of `centre`; good to 1 % within 100 km."""
    longitude, latitude = centre
    shrink = max(math.cos(math.radians(latitude)), 0.01)
    return (
        round(longitude + east_m / (_METRES_PER_DEGREE * shrink), 6),
        round(latitude + north_m / _METRES_PER_DEGREE, 6),
    )


@lru_cache(maxsize=4)
def solve_network(name: str) -> NetworkStates:
    """The states of the network `name`; takes some seconds the first time.

    Raises:
        DocumentError: There is no such network.
    """
    if name not in NETWORKS:
        raise DocumentError(f"gas.network: unknown network {name!r}; {suggestion(name, NETWORKS)}")
    import pandapipes  # noqa: PLC0415 - takes two seconds, and only cities with gas need it
    import pandapipes.networks  # noqa: PLC0415 - the same

    net = getattr(pandapipes.networks, NETWORKS[name])()
    own_scaling = net.sink["scaling"].to_numpy(dtype=np.float64).copy()
    pressures, flows = [], []
    for level in DEMAND_LEVELS:
        net.sink["scaling"] = own_scaling * level
        pandapipes.pipeflow(net, use_numba=False)
        pressures.append(100.0 * net.res_junction["p_bar"].to_numpy(dtype=np.float64))
        flows.append(_throughput_m3_h(net))
    x = net.junction_geodata["x"].to_numpy(dtype=np.float64)
    y = net.junction_geodata["y"].to_numpy(dtype=np.float64)
    return NetworkStates(
        names=tuple(net.junction["name"]),
        east_m=x - x.mean(),
        north_m=y - y.mean(),
        levels=np.array(DEMAND_LEVELS),
        pressure_kpa=np.stack(pressures),
        flow_m3_h=np.stack(flows),
    )


def _throughput_m3_h(net: Any) -> NDArray[np.float64]:
    """What passes each junction of a solved network: the larger one-sided sum of its pipes' flows.

    Inflow and outflow of a junction differ only by what is drawn or fed in there.
    """
    flow = 3600.0 * net.res_pipe["vdot_norm_m3_per_s"].to_numpy(dtype=np.float64)
    start = net.pipe["from_junction"].to_numpy(dtype=np.int64)
    end = net.pipe["to_junction"].to_numpy(dtype=np.int64)
    leaving = np.zeros(len(net.junction))
    entering = np.zeros(len(net.junction))
    np.add.at(leaving, np.where(flow >= 0.0, start, end), np.abs(flow))
    np.add.at(entering, np.where(flow >= 0.0, end, start), np.abs(flow))
    return np.maximum(leaving, entering)
