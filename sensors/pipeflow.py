"""Stationary states of a gas network, by pandapipes; importing this takes two seconds."""

import warnings
from typing import Any, Final

import numpy as np
import pandapipes
import pandapipes.networks
import pandapipes.topology
from numpy.typing import NDArray
from pandapipes.pf.pipeflow_setup import PipeflowNotConverged

from city.errors import DocumentError, InputError
from sensors.network import (
    DEMAND_LEVELS,
    NETWORKS,
    OWN_DEMAND,
    GasProperties,
    NetworkStates,
    Pipes,
    parts,
    summed,
    throughput,
)

_NAMES_SHOWN: Final = 5
_NORMAL_KELVIN: Final = 273.15
_HALVINGS: Final = 20


def solve_file(name: str) -> NetworkStates:
    """The states of the network in a pandapipes file.

    Raises:
        DocumentError: The file holds none.
        InputError: It cannot be solved; the text says which part is cut off or infeasible.
    """
    try:
        net = pandapipes.from_json(name)
    except Exception as error:
        raise DocumentError(f"gas.network: {name}: not a pandapipes network: {error}") from error
    if not isinstance(net, pandapipes.pandapipesNet):
        raise DocumentError(f"gas.network: {name}: not a pandapipes network")
    return _solve(name, net)


def solve_named(name: str) -> NetworkStates:
    """The states of one of the `NETWORKS`, computed."""
    return _solve(name, getattr(pandapipes.networks, NETWORKS[name])())


def _solve(name: str, net: Any) -> NetworkStates:
    """The states at every level of demand that the network carries."""
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


def _check(name: str, net: Any) -> None:
    """Refuse a network whose parts are not all fed with gas by pipes that work."""
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
