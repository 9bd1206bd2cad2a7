"""The solved gas network: equal to pandapipes, read from files, refused with a reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandapipes
import pandapipes.networks
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from city.errors import DocumentError, InputError
from sensors.network import (
    DEMAND_LEVELS,
    NETWORKS,
    DemandCurve,
    NetworkStates,
    kept_path,
    offset_position,
    read_states,
    solve_network,
    write_states,
)
from sensors.pipeflow import solve_named


@pytest.fixture(scope="module")
def states() -> NetworkStates:
    """The shipped network, solved."""
    return solve_network("schutterwald")


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], str]:
    """Writes a pandapipes network to a file and returns its path."""

    def save(net: Any) -> str:
        path = tmp_path / "network.json"
        pandapipes.to_json(net, str(path))
        return str(path)

    return save


def street(*, demand_kg_s: float = 0.01, diameter_mm: float = 100.0) -> Any:
    """A feed, and two houses one after the other down a street of a kilometre."""
    net = pandapipes.create_empty_network(fluid="hgas")
    feed, first, second = (
        pandapipes.create_junction(net, pn_bar=1.0, tfluid_k=283.15, name=name)
        for name in ("feed", "first", "second")
    )
    pandapipes.create_ext_grid(net, feed, p_bar=1.0, t_k=283.15)
    for start, end in ((feed, first), (first, second)):
        pandapipes.create_pipe_from_parameters(
            net, start, end, length_km=0.5, inner_diameter_mm=diameter_mm, k_mm=0.1
        )
    for house in (first, second):
        pandapipes.create_sink(net, house, mdot_kg_per_s=demand_kg_s)
    return net


def arrays(part: Any, *, beside: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a struct as arrays, those `beside` left out."""
    fields = msgspec.structs.asdict(part)
    return {name: np.array(value) for name, value in fields.items() if name not in beside}


def assert_same(actual: NetworkStates, expected: NetworkStates, *, within: float) -> None:
    """Every number is the expected one, relative to it or, near zero, to the table's largest."""
    for one, other in ((actual, expected), (actual.pipes, expected.pipes)):
        shown, wanted = (arrays(part, beside=("names", "pipes", "gas")) for part in (one, other))
        for name, values in wanted.items():
            near_zero = within * np.abs(values).max()
            np.testing.assert_allclose(
                shown[name], values, rtol=within, atol=near_zero, err_msg=name
            )
    assert expected.names == actual.names
    assert msgspec.structs.astuple(expected.gas) == pytest.approx(
        msgspec.structs.astuple(actual.gas)
    )


class TestStates:
    """Stationary states at any demand."""

    @pytest.mark.parametrize("name", NETWORKS)
    def test_kept_once_solved(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second start reads what the first one solved, bit for bit."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        solved = solve_network.__wrapped__(name)
        monkeypatch.setattr(pandapipes, "pipeflow", None)

        assert_same(solve_network.__wrapped__(name), solved, within=0.0)

    @pytest.mark.parametrize("name", NETWORKS)
    def test_damaged(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is kept and cannot be read is solved again."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        kept_path(name).parent.mkdir()
        kept_path(name).write_bytes(b"PK no archive")

        assert_same(solve_network.__wrapped__(name), solve_named(name), within=1e-9)

    def test_kept(self, states: NetworkStates, tmp_path: Path) -> None:
        """States that are written to a file are read from it as they were, bit for bit."""
        write_states(tmp_path / "kept.npz", states)

        assert_same(read_states(tmp_path / "kept.npz"), states, within=0.0)

    def test_solved(self, states: NetworkStates) -> None:
        """At its own demand the network's pressures are those of pandapipes."""
        net = pandapipes.networks.schutterwald_gas()
        pandapipes.pipeflow(net, use_numba=False)
        expected = 100.0 * net.res_junction["p_bar"].to_numpy()

        np.testing.assert_allclose(
            states.pressure_kpa[DEMAND_LEVELS.index(1.0)], expected, rtol=1e-9
        )

    @settings(max_examples=8, deadline=None)
    @given(st.floats(0.05, 2.5))
    def test_between(self, level: float) -> None:
        """At any demand pressures are those of pandapipes to 1e-6."""
        net = pandapipes.networks.schutterwald_gas()
        net.sink["scaling"] = level
        pandapipes.pipeflow(net, use_numba=False)
        states = solve_network("schutterwald")
        curve = DemandCurve(states.levels, states.pressure_kpa)
        expected = 100.0 * net.res_junction["p_bar"].to_numpy()

        np.testing.assert_allclose(curve.all_at(level), expected, rtol=1e-6)

    def test_columns(self, states: NetworkStates) -> None:
        """Single junctions at several demands are those of whole states."""
        curve = DemandCurve(states.levels, states.pressure_kpa)
        level, columns = np.array([0.3, 0.31, 1.7]), np.array([5, 900, 2000])
        expected = [curve.all_at(level[k])[columns[k]] for k in range(3)]

        np.testing.assert_allclose(curve.at(level, columns), expected, rtol=1e-12)

    def test_inlet(self, states: NetworkStates) -> None:
        """What passes the inlet is the demand of the whole town."""
        density = states.gas.normal_density_kg_m3
        town_m3_h = 3600.0 * states.demand_kg_s.sum() / density
        actual = states.flow_m3_h[DEMAND_LEVELS.index(1.0), states.feeds[0]]

        assert town_m3_h == pytest.approx(actual, rel=0.01)

    def test_more_demand(self, states: NetworkStates) -> None:
        """The more is drawn, the lower is every pressure."""
        assert np.all(np.diff(states.pressure_kpa, axis=0) <= 1e-9)

    def test_customers(self, states: NetworkStates) -> None:
        """The town has 1,506 customers."""
        assert states.customers.sum() == 1506

    def test_unknown_junction(self, states: NetworkStates) -> None:
        """An unknown junction is refused with near names."""
        with pytest.raises(DocumentError, match=r"here: no junction 'K103'.*near names: K1030"):
            states.junction("K103", where="here")

    def test_offset(self) -> None:
        """A degree of latitude has 111 km, one of longitude at 60 degrees half of that."""
        longitude, latitude = offset_position((10.0, 60.0), east_m=55_660.0, north_m=0.0)

        assert pytest.approx(longitude, abs=1e-3) == 11.0
        assert latitude == 60.0


class TestFiles:
    """Networks by path, and what is wrong with them."""

    def test_file(self, saved: Callable[[Any], str]) -> None:
        """A pandapipes network in a file is solved like a shipped one."""
        net = street()
        found = solve_network(saved(net))
        pandapipes.pipeflow(net, use_numba=False)

        assert found.names == ("feed", "first", "second")
        assert found.feeds == (0,)
        np.testing.assert_allclose(
            found.pressure_kpa[DEMAND_LEVELS.index(1.0)],
            100.0 * net.res_junction["p_bar"].to_numpy(),
            rtol=1e-9,
        )

    def test_own_index(self, saved: Callable[[Any], str]) -> None:
        """Junctions without names are called by their numbers, whatever those are."""
        net = street()
        net.junction["name"] = None
        pandapipes.reindex_junctions(net, {0: 10, 1: 7, 2: 3})
        found = solve_network(saved(net))

        assert sorted(found.names) == ["10", "3", "7"]
        assert found.names[found.feeds[0]] == "10"

    def test_out_of_service(self, saved: Callable[[Any], str]) -> None:
        """A pipe that is out of service carries nothing and is left out."""
        net = street()
        pandapipes.create_pipe_from_parameters(
            net, 0, 2, length_km=1.0, inner_diameter_mm=100.0, in_service=False
        )
        found = solve_network(saved(net))

        assert len(found.pipes.start) == 2
        assert np.isfinite(found.pipe_flow_kg_s).all()

    def test_other_links(self, saved: Callable[[Any], str]) -> None:
        """Junctions that hang on something other than pipes are named."""
        net = street()
        extra = pandapipes.create_junction(net, pn_bar=1.0, tfluid_k=283.15, name="extra")
        pandapipes.create_valve(net, 2, extra, et="ju", inner_diameter_mm=100.0)

        with pytest.raises(InputError, match=r"1 junctions are joined .* pipes: extra; put pipes"):
            solve_network(saved(net))

    def test_unknown_network(self) -> None:
        """An unknown network is refused with the known ones."""
        with pytest.raises(DocumentError, match="did you mean 'schutterwald'"):
            solve_network("schuterwald")

    def test_missing_file(self) -> None:
        """A file that is not there is refused."""
        with pytest.raises(DocumentError, match=r"no file 'nowhere\.json'"):
            solve_network("nowhere.json")

    @pytest.mark.parametrize("text", ["{", "{}", "[1]"])
    def test_not_a_network(self, tmp_path: Path, text: str) -> None:
        """A file that holds no network is refused."""
        path = tmp_path / "wrong.json"
        path.write_text(text)

        with pytest.raises(DocumentError, match="not a pandapipes network"):
            solve_network(str(path))

    def test_cut_off(self, saved: Callable[[Any], str]) -> None:
        """Junctions that no feed reaches are named."""
        net = street()
        net.pipe.loc[1, "in_service"] = False

        with pytest.raises(InputError, match=r"1 of 3 junctions are cut off .* second; connect"):
            solve_network(saved(net))

    def test_no_feed(self, saved: Callable[[Any], str]) -> None:
        """A network without a feed is refused."""
        net = street()
        net.ext_grid["in_service"] = False

        with pytest.raises(InputError, match="has no feed"):
            solve_network(saved(net))

    def test_water(self, saved: Callable[[Any], str]) -> None:
        """A network that carries water is refused."""
        net = street()
        pandapipes.create_fluid_from_lib(net, "water", overwrite=True)

        with pytest.raises(InputError, match="carries water"):
            solve_network(saved(net))

    def test_infeasible(self, saved: Callable[[Any], str]) -> None:
        """A network whose pipes are too narrow says how far it gets and where it fails."""
        net = street(demand_kg_s=0.03, diameter_mm=30.0)

        with pytest.raises(InputError, match=r"infeasible: it carries .* lowest at second, first"):
            solve_network(saved(net))

    def test_hopeless(self, saved: Callable[[Any], str]) -> None:
        """A network that carries a thousandth of its demand still names where it fails."""
        net = street(demand_kg_s=3.0, diameter_mm=30.0)

        with pytest.raises(InputError, match=r"infeasible: it carries .* lowest at second, first"):
            solve_network(saved(net))

    @pytest.mark.parametrize(
        ("column", "value"),
        [("length_km", 0.0), ("inner_diameter_mm", -1.0), ("inner_diameter_mm", np.nan)],
    )
    def test_no_pipe(self, saved: Callable[[Any], str], column: str, value: float) -> None:
        """A pipe without length or width is refused by name."""
        net = street()
        net.pipe["name"] = ["main", "branch"]
        net.pipe.loc[1, column] = value

        with pytest.raises(InputError, match=rf"pipe branch: {column} is .*; allowed: above 0"):
            solve_network(saved(net))

    @pytest.mark.parametrize("value", [-0.1, np.nan])
    def test_no_demand(self, saved: Callable[[Any], str], value: float) -> None:
        """A sink that draws no amount of gas is refused by name, or number where it has none."""
        net = street()
        net.sink["name"] = ["shop", None]
        net.sink.loc[1, "mdot_kg_per_s"] = value

        with pytest.raises(InputError, match=r"sink 1: mdot_kg_per_s is .*; allowed: 0 and above"):
            solve_network(saved(net))
