"""The gas network under the city: its stationary states at several levels of demand.

The states of a named network are found once per machine by pandapipes and kept in the user's cache:
the next start solves nothing, and reads the same bits. Those of a network in a file are computed.
Between the levels every pressure and flow follows a cubic spline of the demand, so a state at any
demand costs no solution; the spline passes through the solutions.
"""

import difflib
import math
import os
import zlib
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final
from zipfile import BadZipFile

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from city.cityfile import Position
from city.documents import suggestion
from city.errors import DocumentError

NETWORKS: Final = {"schutterwald": "schutterwald_gas"}
"""The names that a city file may give, and pandapipes' functions that make these networks."""

DEMAND_LEVELS: Final = (
    0.02, 0.06, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9,
    1.0, 1.15, 1.3, 1.5, 1.7, 1.9, 2.1, 2.3, 2.4, 2.5,
)  # fmt: skip
"""Multiples of the network's own demand at which it is solved; closer where flow is laminar."""

OWN_DEMAND: Final = 1.0

_METRES_PER_DEGREE: Final = 111_320.0
"""Of latitude, on a sphere of the Earth's mean size."""

_NAMES_SHOWN: Final = 5


class GasProperties(msgspec.Struct, frozen=True):
    """The gas in the pipes, isothermal and of one compressibility."""

    molar_mass_kg_mol: float = 0.0167
    temperature_k: float = 288.0
    compressibility: float = 1.0
    viscosity_pa_s: float = 1.07e-5
    normal_density_kg_m3: float = 0.745
    """At 0 degC and 101.325 kPa."""


class Pipes(msgspec.Struct, frozen=True, eq=False):
    """The pipes of a network, shape (p,); `start` and `end` are indices of junctions."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    length_m: NDArray[np.float64]
    diameter_m: NDArray[np.float64]
    roughness_m: NDArray[np.float64]


class NetworkStates(msgspec.Struct, frozen=True, eq=False):
    """Stationary states of one network.

    `levels`, shape (l,), are multiples of the network's own demand; `pressure_kpa` (gauge) and
    `flow_m3_h` (at 0 degC, 101.325 kPa), shape (l, j), belong to the junctions `names`;
    `pipe_flow_kg_s`, shape (l, p), counts from a pipe's start to its end. `demand_kg_s` (the
    network's own) and `customers` have the shape (j,); `feeds` are the junctions of set pressure;
    `east_m` and `north_m`, shape (j,), are measured from the middle of the network.
    """

    names: tuple[str, ...]
    east_m: NDArray[np.float64]
    north_m: NDArray[np.float64]
    levels: NDArray[np.float64]
    pressure_kpa: NDArray[np.float64]
    flow_m3_h: NDArray[np.float64]
    pipe_flow_kg_s: NDArray[np.float64]
    pipes: Pipes
    demand_kg_s: NDArray[np.float64]
    customers: NDArray[np.int64]
    feeds: tuple[int, ...]
    gas: GasProperties

    def junction(self, name: str, *, where: str) -> int:
        """The index of the junction `name`.

        Raises:
            DocumentError: There is none; the text names `where`, the name and near names.
        """
        try:
            return self.names.index(name)
        except ValueError:
            begin_alike = [other for other in self.names if other.startswith(name)]
            alike = difflib.get_close_matches(name, self.names, n=_NAMES_SHOWN, cutoff=0.5)
            near = (begin_alike or alike or list(self.names))[:_NAMES_SHOWN]
            text = f"{where}: no junction {name!r} in the gas network; near names: "
            raise DocumentError(text + ", ".join(near)) from None

    def position(self, junction: int, centre: Position) -> Position:
        """Longitude and latitude of a junction when the network's middle lies at `centre`."""
        return offset_position(
            centre, east_m=float(self.east_m[junction]), north_m=float(self.north_m[junction])
        )


class DemandCurve:
    """Columns of solved states as a function of the demand: a cubic spline through the levels."""

    def __init__(self, levels: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        """`values`, shape (l, n), belong to `levels`, shape (l,), rising."""
        from scipy.interpolate import CubicSpline  # noqa: PLC0415 - 0.3 s, only cities with gas

        self._levels = levels
        self._shape = np.ascontiguousarray(CubicSpline(levels, values, axis=0).c)

    def at(self, level: NDArray[np.float64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """The values of `columns` at demands `level`, both of shape (m,)."""
        demand, below, after = self._place(level)
        if demand.size and below.min() == below.max():
            cubic, square, slope, value = self._shape[:, below[0]].take(columns, axis=1)
        else:
            cubic, square, slope, value = self._shape[:, below, columns]
        found: NDArray[np.float64] = ((cubic * after + square) * after + slope) * after + value
        return found

    def all_at(self, level: float) -> NDArray[np.float64]:
        """The values of all columns at one demand, shape (n,)."""
        _, below, after = self._place(np.array([level]))
        cubic, square, slope, value = self._shape[:, below[0]]
        found: NDArray[np.float64] = ((cubic * after + square) * after + slope) * after + value
        return found

    def _place(
        self, level: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        """The demand within the solved levels, the level below it, and how far above that it is."""
        demand = np.clip(level, self._levels[0], self._levels[-1])
        below = np.searchsorted(self._levels, demand, side="right") - 1
        below = np.minimum(below, len(self._levels) - 2)
        return demand, below, demand - self._levels[below]


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
    """The states of the network `name`, or of the one in a pandapipes file; solving takes seconds.

    Levels above the network's own demand that it cannot carry are left out.

    Raises:
        DocumentError: There is no such network, or the file holds none.
        InputError: It cannot be solved; the text says which part is cut off or infeasible.
    """
    if name in NETWORKS:
        return _kept_or_solved(name)
    if Path(name).suffix != ".json":
        known = suggestion(name, NETWORKS)
        text = f"gas.network: unknown network {name!r}; {known}; or give a pandapipes .json file"
        raise DocumentError(text)
    if not Path(name).is_file():
        raise DocumentError(f"gas.network: no file {name!r}; give a pandapipes network as .json")
    from sensors import pipeflow  # noqa: PLC0415 - takes two seconds, and only such files need it

    return pipeflow.solve_file(name)


def kept_path(name: str) -> Path:
    """Where the states of a named network are kept; another solver or version has another file."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    solver = Path(__file__).with_name("pipeflow.py").read_bytes()
    key = f"{version('pandapipes')}-{version('numpy')}-{zlib.crc32(solver):08x}"
    return folder / "cityeye" / f"{name}-{key}.npz"


def _kept_or_solved(name: str) -> NetworkStates:
    """The states from the cache, or solved and kept; a cache that cannot be used costs time only."""
    path = kept_path(name)
    with suppress(OSError, ValueError, KeyError, TypeError, BadZipFile):
        return read_states(path)
    from sensors import pipeflow  # noqa: PLC0415 - takes two seconds, and is seldom needed

    states = pipeflow.solve_named(name)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            write_states(Path(file.name), states)
        Path(file.name).replace(path)
    return states


def read_states(path: Path) -> NetworkStates:
    """The states in a file that `write_states` wrote."""
    with np.load(path, allow_pickle=False) as file:
        found = dict(file)
    names, feeds, gas = (found.pop(key).tolist() for key in ("names", "feeds", "gas"))
    pipes = Pipes(*(found.pop(field) for field in Pipes.__struct_fields__))
    return NetworkStates(
        names=tuple(names), feeds=tuple(feeds), gas=GasProperties(*gas), pipes=pipes, **found
    )


def write_states(path: Path, states: NetworkStates) -> None:
    """Write the states of a network to a file of numpy's, compressed."""
    arrays = msgspec.structs.asdict(states)
    pipes = msgspec.structs.asdict(arrays.pop("pipes"))
    arrays["gas"] = msgspec.structs.astuple(states.gas)
    np.savez_compressed(path, **arrays, **pipes)


def throughput(
    start: NDArray[np.int64], end: NDArray[np.int64], flow: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """The larger one-sided sum of the pipes' flows at each of `count` junctions."""
    forward, size = flow >= 0.0, np.abs(flow)
    leaving = summed(np.where(forward, start, end), size, count)
    entering = summed(np.where(forward, end, start), size, count)
    return np.maximum(leaving, entering)


def parts(start: NDArray[np.int64], end: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The number of the connected part that each of `count` junctions belongs to."""
    links = coo_matrix((np.ones(len(start)), (start, end)), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)


def summed(
    places: NDArray[np.int64], amounts: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """The sum of the `amounts` at each of `count` places."""
    return np.bincount(places, weights=amounts, minlength=count).astype(np.float64, copy=False)
