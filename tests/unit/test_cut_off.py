"""What a burst's valve does to the town: who loses gas, who keeps it, and that it stays so."""

from datetime import timedelta

import numpy as np
import pytest
from numpy.typing import NDArray

from city.cityfile import City, load_city
from city.scenarios import load_scenario, with_scenario
from sensors.gas import GasField
from sensors.linepack import SUPPLY_KPA

VALVE = "gas-foundry-road/valve-1"
NODE = "gas-foundry-road/node-1"
HOLE_S = 300
CLOSES_S = HOLE_S + 8


class Town:
    """The burst of the scenario, and a valve that closes eight seconds later."""

    def __init__(self, city: City) -> None:
        assert city.start is not None
        self.start_ms = round(city.start.timestamp() * 1000)
        self.field = GasField(city, seed=city.seed, start_ms=self.start_ms)
        self.sections = np.arange(self.field.pack.sections)

    def at(self, second: float) -> NDArray[np.int64]:
        """An instant of the scenario, once per section."""
        instant = self.start_ms + round(timedelta(seconds=second) / timedelta(milliseconds=1))
        return np.full(len(self.sections), instant, dtype=np.int64)

    def pressure_kpa(self, second: float) -> NDArray[np.float64]:
        """The pressure at every junction."""
        ts = self.at(second)
        level = float(self.field.level(ts[:1])[0])
        deviation = self.field.transient.pressure_kpa(ts, self.sections)
        found: NDArray[np.float64] = (
            self.field.pressure.all_at(level) + deviation[self.field.pack.section]
        )
        return found

    def without_gas(self, second: float) -> NDArray[np.bool_]:
        """At which junctions customers' regulators starve."""
        return self.pressure_kpa(second) < SUPPLY_KPA

    def flow_m3_h(self, second: float) -> NDArray[np.float64]:
        """What passes every section beyond what passes it while nothing happens."""
        return self.field.transient.flow_m3_h(self.at(second), self.sections)


def closed(seconds: range) -> Town:
    """The scenario, looked at in these seconds before the valve is told to close."""
    town = Town(with_scenario(load_city("lanting"), load_scenario("gas-burst")))
    for second in seconds:
        town.pressure_kpa(second)
    town.field.set_valve(VALVE, 0.0, int(town.at(CLOSES_S)[0]))
    return town


@pytest.fixture(scope="module")
def town() -> Town:
    """The scenario as somebody sees it who lives through it."""
    return closed(range(HOLE_S, CLOSES_S))


def test_hole_behind_valve(town: Town) -> None:
    """The hole is in the section that the valve cuts off; the node beside it is fed directly."""
    (leak,) = town.field.transient.leaks
    here, there = (town.field.states.names[town.field.junctions[name]] for name in (VALVE, NODE))

    assert town.field.junctions[VALVE] == leak.junction
    assert ((VALVE,), ()) == (
        town.field.isolating_valves(here), town.field.isolating_valves(there),
    )  # fmt: skip


def test_only_isolated(town: Town) -> None:
    """Once the section is empty, its customers have no gas, and all others have."""
    customers = town.field.states.customers
    lost = town.field._isolation.cut_off(town.field.junctions[VALVE])

    for second in (CLOSES_S + 120, CLOSES_S + 600):
        assert lost[customers > 0].tolist() == town.without_gas(second)[customers > 0].tolist()
    assert 24 == customers[town.without_gas(CLOSES_S + 600)].sum()


def test_recovers(town: Town) -> None:
    """Outside the section pressure and flow are again as if nothing had happened."""
    lost = town.field._isolation.cut_off(town.field.junctions[VALVE])
    fed = np.unique(town.field.pack.section[~lost])
    deviation = town.field.transient.pressure_kpa(town.at(CLOSES_S + 600), town.sections)[fed]
    inside = town.field.pack.section[town.field.junctions[VALVE]]

    assert np.abs(deviation).max() < 2.0
    assert town.pressure_kpa(CLOSES_S - 1)[town.field.junctions[NODE]] < 60.0
    assert town.field.junctions[NODE] not in np.flatnonzero(lost)
    assert town.flow_m3_h(CLOSES_S - 1)[inside] > 0.0


def test_stays_closed(town: Town) -> None:
    """Nothing opens the valve again, not even the end of the repair."""
    ends_s = HOLE_S + 1200

    for second in (CLOSES_S + 2, ends_s, ends_s + 3600):
        assert 0.0 == town.field.valves.position(VALVE, int(town.at(second)[0]))
    lost = town.field._isolation.cut_off(town.field.junctions[VALVE])
    assert town.without_gas(ends_s + 60)[lost & (town.field.states.customers > 0)].all()


def test_whenever_asked(town: Town) -> None:
    """Who looks only afterwards, and backwards, sees the same to the last bit."""
    seconds = (CLOSES_S + 150, CLOSES_S + 1, CLOSES_S - 3)
    other = closed(range(0))

    for second in seconds:
        assert town.pressure_kpa(second).tobytes() == other.pressure_kpa(second).tobytes()
        assert town.flow_m3_h(second).tobytes() == other.flow_m3_h(second).tobytes()
