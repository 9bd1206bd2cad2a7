"""The gas network under the city, solved by pandapipes at several levels of demand.

Between the levels every pressure and flow follows a cubic spline of the demand, so a state at any
demand costs no solution; the spline passes through the solutions themselves.
"""

import difflib
import math
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from city.cityfile import Position
from city.documents import suggestion
from city.errors import DocumentError, InputError

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
_NORMAL_KELVIN: Final = 273.15
_HALVINGS: Final = 20


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
    """The states of the network `name`, or of the one in a pandapipes file; takes some seconds.

    Levels above the network's own demand that it cannot carry are left out.

    Raises:
        DocumentError: There is no such network, or the file holds none.
        InputError: It cannot be solved; the text says which part is cut off or infeasible.
    """
    net = _load(name)
    _check(name, net)
    scaling = net.sink["scaling"].to_numpy(dtype=np.float64).copy()
    levels: list[float] = []
    solutions: list[tuple[NDArray[np.float64], ...]] = []
    for level in DEMAND_LEVELS:
        found = _solution(net, scaling * level)
        if found is None:
            break
        levels.append(level)
        solutions.append(found)
    if not levels or levels[-1] < OWN_DEMAND:
        raise InputError(_infeasible(name, net, scaling))
    pressures, flows, pipe_flows = (np.stack(parts) for parts in zip(*solutions, strict=True))
    return _states(net, scaling, np.array(levels), pressures, flows, pipe_flows)


def _states(
    net: Any,
    scaling: NDArray[np.float64],
    levels: NDArray[np.float64],
    pressures: NDArray[np.float64],
    flows: NDArray[np.float64],
    pipe_flows: NDArray[np.float64],
) -> NetworkStates:
    """What the rest of the city needs to know of a solved network."""
    count = len(net.junction)
    sinks = _indices(net, net.sink["junction"])
    works = net.sink["in_service"].to_numpy(dtype=np.bool_)
    drawn = np.where(works, net.sink["mdot_kg_per_s"].to_numpy(dtype=np.float64) * scaling, 0.0)
    east_m, north_m = _places(net)
    return NetworkStates(
        names=_names(net),
        east_m=east_m,
        north_m=north_m,
        levels=levels,
        pressure_kpa=pressures,
        flow_m3_h=flows,
        pipe_flow_kg_s=pipe_flows,
        pipes=_pipes(net),
        demand_kg_s=summed(sinks, drawn, count),
        customers=np.bincount(sinks[works], minlength=count),
        feeds=tuple(_feeds(net).tolist()),
        gas=_gas(net, float(pressures[0].max())),
    )


def _load(name: str) -> Any:
    """The pandapipes network of that name or in that file."""
    path = Path(name)
    if name not in NETWORKS and path.suffix != ".json":
        known = suggestion(name, NETWORKS)
        text = f"gas.network: unknown network {name!r}; {known}; or give a pandapipes .json file"
        raise DocumentError(text)
    if name not in NETWORKS and not path.is_file():
        raise DocumentError(f"gas.network: no file {name!r}; give a pandapipes network as .json")
    import pandapipes  # noqa: PLC0415 - takes two seconds, and only cities with gas need it
    import pandapipes.networks  # noqa: PLC0415 - the same

    if name in NETWORKS:
        return getattr(pandapipes.networks, NETWORKS[name])()
    try:
        net = pandapipes.from_json(str(path))
    except Exception as error:
        raise DocumentError(f"gas.network: {name}: not a pandapipes network: {error}") from error
    if not isinstance(net, pandapipes.pandapipesNet):
        raise DocumentError(f"gas.network: {name}: not a pandapipes network")
    return net


def _check(name: str, net: Any) -> None:
    """Refuse a network whose parts are not all fed with gas by pipes that work."""
    import pandapipes.topology  # noqa: PLC0415 - see `_load`

    if not net.fluid.is_gas:
        raise InputError(f"gas.network: {name}: carries {net.fluid.name}, which is no gas")
    if not len(net.ext_grid) or not net.ext_grid["in_service"].any():
        raise InputError(f"gas.network: {name}: has no feed; add an ext_grid of set pressure")
    if not len(net.pipe) or not len(net.sink):
        raise InputError(f"gas.network: {name}: has no pipes or no sinks; add them")
    _check_numbers(name, net)
    out = set(net.junction.index[~net.junction["in_service"].to_numpy(dtype=np.bool_)])
    lost = sorted(set(pandapipes.topology.unsupplied_junctions(net)) | out)
    if lost:
        text = f"gas.network: {name}: {len(lost)} of {len(net.junction)} junctions are cut off "
        text += f"from every feed: {_listed(net, lost)}; connect them or take them out of the file"
        raise InputError(text)
    part = parts(*_ends(net), len(net.junction))
    joined = net.junction.index[~np.isin(part, part[_feeds(net)])]
    if len(joined):
        text = f"gas.network: {name}: {len(joined)} junctions are joined to the feed by something "
        text += f"other than pipes: {_listed(net, joined)}; put pipes in the place of valves, "
        raise InputError(text + "compressors and flow controllers")


def _check_numbers(name: str, net: Any) -> None:
    """Refuse pipes without length or width, and demands that are no amounts of gas."""
    pipes = net.pipe[_working(net)]
    for column, unit in (("length_km", "km"), ("inner_diameter_mm", "mm")):
        size = pipes[column].to_numpy(dtype=np.float64)
        wrong = np.flatnonzero(~(np.isfinite(size) & (size > 0.0)))
        if len(wrong):
            text = f"gas.network: {name}: pipe {_called(pipes, wrong[0])}: {column} is "
            raise InputError(f"{text}{size[wrong[0]]:g} {unit}; allowed: above 0")
    sinks = net.sink[net.sink["in_service"].to_numpy(dtype=np.bool_)]
    for column in ("mdot_kg_per_s", "scaling"):
        demand = sinks[column].to_numpy(dtype=np.float64)
        wrong = np.flatnonzero(~(np.isfinite(demand) & (demand >= 0.0)))
        if len(wrong):
            text = f"gas.network: {name}: sink {_called(sinks, wrong[0])}: {column} is "
            raise InputError(f"{text}{demand[wrong[0]]:g}; allowed: 0 and above, finite")


def _called(table: Any, row: int) -> str:
    """The name in a row of a network's table, or the row's number where it has none."""
    name = table["name"].iloc[row]
    return name if isinstance(name, str) and name else str(table.index[row])


def _solution(net: Any, scaling: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...] | None:
    """Pressures [kPa], flows [m3/h] and pipe flows [kg/s], or None where there is no solution."""
    import pandapipes  # noqa: PLC0415 - see `_load`
    from pandapipes.pf.pipeflow_setup import PipeflowNotConverged  # noqa: PLC0415 - the same

    net.sink["scaling"] = scaling
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pressures below zero: judged here
            pandapipes.pipeflow(net, use_numba=False)
    except (PipeflowNotConverged, ArithmeticError):
        return None
    pressure_kpa = 100.0 * net.res_junction["p_bar"].to_numpy(dtype=np.float64)
    if not np.all(pressure_kpa > 0.0):
        return None
    pipe_flow = net.res_pipe.loc[_working(net), "mdot_from_kg_per_s"].to_numpy(np.float64)
    return pressure_kpa, _throughput_m3_h(net), pipe_flow.copy()


def _infeasible(name: str, net: Any, scaling: NDArray[np.float64]) -> str:
    """Which part of a network gives out first, found at the demand that it still carries."""
    for share in (0.5**halving for halving in range(1, _HALVINGS + 1)):
        found = _solution(net, scaling * share)
        if found is not None:
            lowest = net.junction.index[np.argsort(found[0], kind="stable")[:_NAMES_SHOWN]]
            return (
                f"gas.network: {name}: infeasible: it carries {100 * share:g} % of its own demand "
                f"but not {200 * share:g} %; pressure is lowest at {_listed(net, lowest)}; widen "
                "the pipes that lead there, raise the feed's pressure or lower the demand"
            )
    return f"gas.network: {name}: infeasible: no solution even at a small part of its demand"


def _throughput_m3_h(net: Any) -> NDArray[np.float64]:
    """What passes each junction of a solved network: the larger one-sided sum of its pipes' flows.

    Inflow and outflow of a junction differ only by what is drawn or fed in there.
    """
    works = _working(net)
    flow = 3600.0 * net.res_pipe.loc[works, "vdot_norm_m3_per_s"].to_numpy(dtype=np.float64)
    return throughput(*_ends(net), flow, len(net.junction))


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


def _indices(net: Any, junctions: Any) -> NDArray[np.int64]:
    """Where junctions of the network, given by its own index, stand in its table."""
    return np.asarray(net.junction.index.get_indexer(junctions), dtype=np.int64)


def _feeds(net: Any) -> NDArray[np.int64]:
    """The junctions of set pressure: external grids, and the outlets of pressure controllers."""
    grids = net.ext_grid.loc[net.ext_grid["in_service"], "junction"].tolist()
    controls = (
        net["press_control"]["controlled_junction"].tolist() if "press_control" in net else []
    )
    return np.unique(_indices(net, [*grids, *controls]))


def _working(net: Any) -> NDArray[np.bool_]:
    """Which of the network's pipes are in service."""
    found: NDArray[np.bool_] = net.pipe["in_service"].to_numpy(dtype=np.bool_)
    return found


def _ends(net: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the pipes in service start and end."""
    pipe = net.pipe[_working(net)]
    return _indices(net, pipe["from_junction"]), _indices(net, pipe["to_junction"])


def _pipes(net: Any) -> Pipes:
    pipe, (start, end) = net.pipe[_working(net)], _ends(net)
    return Pipes(
        start=start,
        end=end,
        length_m=np.maximum(1000.0 * pipe["length_km"].to_numpy(dtype=np.float64), 0.1),
        diameter_m=pipe["inner_diameter_mm"].to_numpy(dtype=np.float64) / 1000.0,
        roughness_m=pipe["k_mm"].to_numpy(dtype=np.float64) / 1000.0,
    )


def _gas(net: Any, pressure_kpa: float) -> GasProperties:
    """The gas at the network's own temperature and highest pressure."""
    kelvin = float(net.junction["tfluid_k"].mean())
    bar = (pressure_kpa + 101.325) / 100.0
    return GasProperties(
        molar_mass_kg_mol=_number(net.fluid.get_molar_mass()) / 1000.0,
        temperature_k=kelvin,
        compressibility=_number(net.fluid.get_compressibility(bar)),
        viscosity_pa_s=_number(net.fluid.get_viscosity(kelvin)),
        normal_density_kg_m3=_number(net.fluid.get_density(_NORMAL_KELVIN)),
    )


def _number(value: Any) -> float:
    """A fluid's property, which comes as a number or as an array of one."""
    return float(np.ravel(value)[0])


def _names(net: Any) -> tuple[str, ...]:
    """Every junction's name, or its number where it has none."""
    rows = zip(net.junction["name"], net.junction.index, strict=True)
    return tuple(name if isinstance(name, str) and name else str(row) for name, row in rows)


def _places(net: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Metres east and north of the network's middle; all there, if the file has no places."""
    if not len(net.junction_geodata):
        return np.zeros(len(net.junction)), np.zeros(len(net.junction))
    places = net.junction_geodata.reindex(net.junction.index)
    x, y = (places[axis].to_numpy(dtype=np.float64) for axis in ("x", "y"))
    return np.nan_to_num(x - np.nanmean(x)), np.nan_to_num(y - np.nanmean(y))


def _listed(net: Any, rows: Any) -> str:
    """The first names of junctions, and how many more there are."""
    names = dict(zip(net.junction.index, _names(net), strict=True))
    shown = ", ".join(names[row] for row in list(rows)[:_NAMES_SHOWN])
    more = len(rows) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
