"""The gas grid of a city: demand, leaks, bursts, valves, methane."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from city.cityfile import City, DeviceSpec, District, Event, Site
from city.errors import DocumentError, InputError
from city.kinds import DEVICE_KINDS
from city.quantities import Domain
from sensors.fields import Group
from sensors.gas import GasField
from sensors.linepack import orifice_kg_s
from sensors.network import DEMAND_LEVELS, GasProperties
from sensors.transient import _after_ms, _steps, methane_lel
from sensors.weather import Weather

START_MS = 1_780_272_000_000

SITES = {
    "foundry": (("valve", "K1093"), ("detector", "K1093"), ("node", "K1093")),
    "orchard": (("valve", "K1052"), ("node", "K1052"), ("detector", "K1053"), ("meter", "K1053")),
    "temple": (("valve", "K1232"), ("node", "K1234"), ("detector", "K1234")),
}
KINDS = {
    "valve": "gas-valve",
    "node": "gas-node",
    "meter": "gas-node",
    "detector": "gas-detector",
}


def town(*events: Event, junction: str | None = "") -> City:
    """A town of three gas sites; `junction`, if it is not empty, instead of every device's."""
    sites = tuple(
        Site(
            id=site,
            district="d",
            domain=Domain.GAS,
            devices=tuple(
                DeviceSpec(id=name, kind=KINDS[name], junction=own if junction == "" else junction)
                for name, own in devices
            ),
        )
        for site, devices in SITES.items()
    )
    return City(city="town", districts=(District(id="d"),), sites=sites, events=events)


def hole(target: str, *, mm: float, at_s: float = 10, for_s: float = 600) -> Event:
    """A burst or, if it is small, a leak."""
    kind = "gas-burst" if mm >= 50 else "gas-leak"
    return Event(
        id="hole", kind=kind, target=target, at_s=at_s, for_s=for_s, params={"hole_mm": mm}
    )


Reader = Callable[[str, str, list[float]], NDArray[np.float64]]


def reader(field: GasField, city: City) -> Reader:
    """Reads the truth of one device's quantity at seconds after the start."""
    devices = {device.name: device for device in city.devices()}

    def read(name: str, quantity: str, seconds: list[float]) -> NDArray[np.float64]:
        kind = devices[name].kind
        group = Group(kind, 1000, (devices[name],), 0, np.zeros(1, dtype=np.int64))
        ts = START_MS + np.array([round(1000 * second) for second in seconds])
        truth = field.probe(group).truth(np.zeros(len(ts), dtype=np.int64), ts)
        return truth[:, DEVICE_KINDS[kind.id].quantities.index(quantity)]

    return read


def built(*events: Event) -> tuple[GasField, Reader]:
    """The field of the town, and how to read it."""
    city = town(*events)
    field = GasField(city, seed=1, start_ms=START_MS)
    return field, reader(field, city)


class TestCalm:
    """The town while nothing happens."""

    def test_pressure(self) -> None:
        """A device's pressure is that of the solved network at the town's demand."""
        field, read = built()
        level = field.level(np.array([START_MS + 30_000]))[0]
        states = field.states
        near = int(np.argmin(np.abs(states.levels - level)))
        solved = states.pressure_kpa[:, states.names.index("K1234")]
        low, high = sorted((solved[near - 1], solved[near + 1]))

        assert low < read("temple/node", "gas_pressure", [30.0])[0] < high

    def test_no_events_no_deviation(self) -> None:
        """Before an event the town is what it is without."""
        seconds = [0.0, 5.0, 9.999]
        _, calm = built()
        _, struck = built(hole("orchard", mm=100))

        for quantity in ("gas_pressure", "gas_flow"):
            expected = calm("orchard/node", quantity, seconds).tolist()
            assert expected == struck("orchard/node", quantity, seconds).tolist()

    def test_same_junction(self) -> None:
        """Two devices on one junction feel one pressure."""
        _, read = built()
        expected = read("orchard/valve", "gas_pressure", [7.0])[0]

        assert expected == read("orchard/node", "gas_pressure", [7.0])[0]

    def test_cold(self) -> None:
        """In winter more is drawn than in summer, with and without weather."""
        summer_ms, winter_ms = START_MS + 50 * 86_400_000, START_MS + 230 * 86_400_000
        city = town()
        weather = Weather(city, seed=1, start_ms=START_MS)
        ts = np.array([summer_ms, winter_ms]) // 86_400_000 * 86_400_000

        for outdoors in (None, weather):
            field = GasField(city, seed=1, start_ms=START_MS, weather=outdoors)
            summer, winter = field.level(ts)
            assert winter > 1.5 * summer
            assert DEMAND_LEVELS[0] < summer < winter < DEMAND_LEVELS[-1]

    def test_spread(self) -> None:
        """Sites without junctions are spread over the network, their devices together."""
        junctions = GasField(town(junction=None), seed=1, start_ms=START_MS).junctions

        assert len(set(junctions.values())) == len(SITES)

    def test_cut_off(self) -> None:
        """What is cut off has the junction in it, and all the customers who lose their gas."""
        field, _ = built()
        junction = field.states.junction("K1053", where="test")
        lost = field._isolation.cut_off(junction)

        assert lost[junction]
        assert 890 == field.states.customers[lost].sum()
        assert not lost[list(field.states.feeds)].any()

    def test_unknown_junction(self) -> None:
        """An unknown junction is refused with near names."""
        with pytest.raises(DocumentError, match=r"foundry/valve.*'K103'.*near names: .*K1030"):
            GasField(town(junction="K103"), seed=1, start_ms=START_MS)


class TestBurst:
    """A torn pipe."""

    def test_pressure(self) -> None:
        """Pressure falls most at the hole, less further off, and comes back afterwards."""
        _, read = built(hole("orchard", mm=100))
        seconds = [9.0, 12.0, 600.0, 3600.0]
        at, near, far = (
            read(name, "gas_pressure", seconds)
            for name in ("orchard/node", "orchard/meter", "foundry/node")
        )

        assert at[1] < at[0] - 40.0
        assert at[1] < near[1] < far[1]
        assert at[2] < 5.0
        assert at[3] == pytest.approx(at[0], abs=2.0)

    def test_flow(self) -> None:
        """The gas that escapes passes the pipes that lead to the hole."""
        _, read = built(hole("orchard", mm=100))
        before, during = read("orchard/node", "gas_flow", [9.0, 60.0])

        assert during > 100.0 * before

    def test_any_order(self) -> None:
        """Instants may be asked in any order and company."""
        _, read = built(hole("orchard", mm=100, for_s=80))
        seconds = [700.0, 11.0, 10.0, 350.5, 90.25, 2500.0]
        _, again = built(hole("orchard", mm=100, for_s=80))
        single = [again("orchard/node", "gas_pressure", [second])[0] for second in sorted(seconds)]

        assert single == read("orchard/node", "gas_pressure", sorted(seconds)).tolist()
        assert single[::-1] == read("orchard/node", "gas_pressure", sorted(seconds)[::-1]).tolist()

    def test_at_rest(self) -> None:
        """Long after a short leak nothing deviates, and nothing is computed."""
        field, read = built(hole("foundry", mm=10, for_s=30))
        _, calm = built()
        day = [86_400.0]

        assert (
            calm("foundry/node", "gas_pressure", day).tolist()
            == (read("foundry/node", "gas_pressure", day)).tolist()
        )
        assert field.transient._segments[-1].checkpoints[-1] is None

    def test_no_wider_than_the_pipe(self) -> None:
        """A hole is at most as wide as the widest pipe where it is."""
        field, _ = built(hole("orchard", mm=500))

        assert field.transient.leaks[0].hole.diameter_mm == pytest.approx(102.2)

    @given(st.integers(0, 5000))
    def test_steps(self, step: int) -> None:
        """Every step stands at its own instant, and steps grow longer after a change."""
        found, share = _steps(np.array([_after_ms(step)]))

        assert (step, 0.0) == (found[0], share[0])
        assert _after_ms(step + 2) - _after_ms(step + 1) >= _after_ms(step + 1) - _after_ms(step)


class TestValves:
    """What closing a valve does."""

    def test_isolates(self) -> None:
        """Closed, it ends the loss: its part empties, all others recover."""
        field, read = built(hole("orchard", mm=100, for_s=3600))
        arrives_ms = field.set_valve("orchard/valve", 0.0, START_MS + 60_000)
        inside = read("orchard/node", "gas_pressure", [60.0, 300.0, 1800.0])
        outside = read("orchard/meter", "gas_pressure", [9.0, 60.0, 1800.0])
        flow = read("orchard/node", "gas_flow", [60.0, 1800.0])

        assert arrives_ms == START_MS + 61_800
        assert inside[2] == pytest.approx(0.0, abs=0.05)
        assert outside[1] < outside[0] - 30.0
        assert outside[2] == pytest.approx(outside[0], abs=1.0)
        assert flow[0] > 1000.0
        assert flow[1] < 1.0

    def test_only_the_isolated_part_starves(self) -> None:
        """Without a leak, only what lies behind the closed valve loses its pressure."""
        field, read = built()
        field.set_valve("orchard/valve", 0.0, START_MS + 10_000)
        sections = np.arange(field.pack.sections)
        later = np.full(len(sections), START_MS + 6 * 3_600_000)
        deviation = field.transient.pressure_kpa(later, sections)
        starved = deviation < -50.0
        customers = field.states.customers[starved[field.pack.section]].sum()

        assert field.affected_customers("K1052") == customers
        assert np.all(deviation[~starved] > -0.5)
        assert read("orchard/valve", "gas_pressure", [6 * 3600.0])[0] < 5.0

    def test_past_stays(self) -> None:
        """A command changes nothing before its instant, not even between steps."""
        seconds = [9.0, 61.3, 302.5, 302.9]
        _, plain = built(hole("orchard", mm=30))
        field, read = built(hole("orchard", mm=30))
        late, read_late = built(hole("orchard", mm=30))
        read("orchard/node", "gas_pressure", [400.0])
        field.set_valve("orchard/valve", 0.0, START_MS + 302_900)
        late.set_valve("orchard/valve", 0.0, START_MS + 302_900)
        expected = plain("orchard/node", "gas_pressure", seconds).tolist()

        assert expected == read("orchard/node", "gas_pressure", seconds).tolist()
        assert (
            read("orchard/node", "gas_pressure", [303.0, 350.0]).tolist()
            == read_late("orchard/node", "gas_pressure", [303.0, 350.0]).tolist()
        )

    def test_travel(self) -> None:
        """A valve passes the middle at half of its travel, and turns where it is."""
        field, read = built()
        field.set_valve("temple/valve", 0.0, START_MS)
        arrives_ms = field.set_valve("temple/valve", 100.0, START_MS + 900)

        assert arrives_ms == START_MS + 1_800
        assert field.valves.position("temple/valve", START_MS + 450) == 75.0
        assert read("temple/valve", "valve_position", [0.9, 1.35, 9.0]).tolist() == [50, 75, 100]

    def test_reopened(self) -> None:
        """Opened again, the isolated part fills up."""
        field, read = built()
        field.set_valve("orchard/valve", 0.0, START_MS + 10_000)
        field.set_valve("orchard/valve", 100.0, START_MS + 3_600_000)
        before, empty, after = read("orchard/node", "gas_pressure", [5.0, 3590.0, 7200.0])

        assert empty < before - 20.0
        assert after == pytest.approx(before, abs=1.0)

    def test_two_in_one_pipe(self) -> None:
        """Of two valves at one junction, either shuts the pipe, and both are named."""
        city = town(junction="K1052")
        field = GasField(city, seed=1, start_ms=START_MS)
        field.set_valve("temple/valve", 0.0, START_MS)
        field.set_valve("orchard/valve", 50.0, START_MS)

        read = reader(field, city)
        assert read("orchard/node", "gas_pressure", [6 * 3600.0])[0] < 5.0
        assert len(field.isolating_valves("K1052")) == 3

    def test_unknown(self) -> None:
        """An unknown valve is refused with the name that was probably meant."""
        field, _ = built()

        with pytest.raises(InputError, match="did you mean 'temple/valve'"):
            field.set_valve("temple/valv", 0.0, START_MS)

    def test_impossible_position(self) -> None:
        """A position outside 0 to 100 is refused."""
        field, _ = built()

        with pytest.raises(InputError, match="not within 0 to 100"):
            field.set_valve("temple/valve", 101.0, START_MS)


class TestIsolation:
    """Which valves cut what off."""

    @pytest.mark.parametrize(
        ("junction", "valves", "customers"),
        [
            ("K1052", ("orchard/valve",), 35),
            ("K1093", ("foundry/valve",), 24),
            ("K1053", ("temple/valve",), 890),
            ("K1289", (), 0),
        ],
    )
    def test_valves(self, junction: str, valves: tuple[str, ...], customers: int) -> None:
        """The nearest valve towards the feed cuts a junction off, with all behind it."""
        field, _ = built()

        assert valves == field.isolating_valves(junction)
        assert customers == field.affected_customers(junction)

    def test_unknown_junction(self) -> None:
        """An unknown junction is refused."""
        field, _ = built()

        with pytest.raises(DocumentError, match="no junction 'K9'"):
            field.isolating_valves("K9")


class TestMethane:
    """Gas in the air."""

    @pytest.mark.parametrize(("hole_mm", "low", "high"), [(5, 20, 30), (10, 50, 65), (14, 75, 100)])
    def test_typical(self, hole_mm: float, low: float, high: float) -> None:
        """Typical holes in a 100 kPa pipe give 20 to 100 %LEL."""
        loss = orifice_kg_s(np.array([200.0]), hole_mm, GasProperties())

        assert low < methane_lel(loss, GasProperties())[0] < high

    def test_course(self) -> None:
        """Methane rises within seconds at the leak's site, less at its other junction, and goes."""
        _, read = built(hole("orchard/valve", mm=10, for_s=60), hole("foundry", mm=10, for_s=60))
        here = read("foundry/detector", "methane", [9.0, 12.0, 60.0, 90.0, 200.0])
        beside = read("orchard/detector", "methane", [60.0])[0]

        assert here[0] < 1.0 < here[1] < here[2]
        assert 40.0 < here[2] < 65.0
        assert here[3] < 0.1 * here[2]
        assert here[4] < 1.0
        assert beside == pytest.approx(0.6 * here[2], rel=0.1)

    def test_nothing_elsewhere(self) -> None:
        """Detectors of other sites smell nothing."""
        _, read = built(hole("orchard", mm=100))

        assert read("temple/detector", "methane", [30.0, 300.0]).max() < 1.0

    def test_isolated(self) -> None:
        """Methane goes once the isolated part is empty."""
        field, read = built(hole("foundry", mm=40, for_s=3600))
        field.set_valve("foundry/valve", 0.0, START_MS + 30_000)
        during, after = read("foundry/detector", "methane", [30.0, 600.0])

        assert during > 100.0
        assert after < 0.1 * during
