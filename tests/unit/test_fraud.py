"""What frauds make emission monitors show."""

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from city.cityfile import DeviceSpec, District, Event, Plant, Site
from city.quantities import Domain
from city.synthetic import synthetic_city
from sensors.engine import CityEngine, Group
from sensors.fluegas import O2_AIR_PERCENT, corrected
from sensors.permits import PERMITS
from sensors.sampler import Sampler

START_MS = 1_780_272_000_000
PLANT = "works"
STACK = {
    "stack_pm": 60.0,
    "stack_so2": 100.0,
    "stack_nox": 200.0,
    "stack_o2": 8.0,
    "flue_temperature": 120.0,
    "flue_humidity": 10.0,
    "flue_velocity": 12.0,
    "flue_flow": 40.0,
}
OUTFALL = {
    "effluent_flow": 300.0,
    "effluent_ph": 7.2,
    "effluent_cod": 90.0,
    "effluent_ammonia_n": 8.0,
    "effluent_total_p": 0.9,
    "effluent_total_n": 20.0,
}


class Wavering:
    """A field around fixed values, up and down by a fifth within the hour; oxygen stays."""

    def __init__(self, group: Group) -> None:
        self._levels = np.array([(STACK | OUTFALL).get(name, 0.0) for name in group.quantities])
        self._wavers = np.array([name != "stack_o2" for name in group.quantities])

    def truth(self, rows: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The true values, shape (m, q)."""
        del rows
        wave = 1.0 + 0.2 * np.sin(2.0 * np.pi * ts / 3_600_000.0)
        return self._levels * np.where(self._wavers, wave[:, None], 1.0)


def shown(kind: str, plant: str, *events: Event) -> dict[str, NDArray[np.float64]]:
    """What a device of that kind at such a plant shows in two hours, by quantity."""
    site = Site(
        id=PLANT, district="d", domain=Domain.EMISSION, plant=Plant(kind=plant),
        devices=(DeviceSpec(id="m", kind=kind, interval_s=10.0),),
    )  # fmt: skip
    city = msgspec.structs.replace(
        synthetic_city(1, interval_s=10, seed=1, kinds=("outfall",)),
        districts=(District(id="d"),), sites=(site,), events=events,
    )  # fmt: skip
    (group,) = CityEngine(city, seed=1, start_ms=START_MS).groups
    own = Sampler(city, group, Wavering(group), seed=1, start_ms=START_MS)
    frames = list(own.frames(START_MS, START_MS + 7_200_000, with_truth=False))
    values = np.concatenate([frame.values for frame in frames])
    return {name: values[:, column] for column, name in enumerate(group.quantities)}


def fraud(kind: str, at_s: float = 0.0, for_s: float = 7200.0, **more: object) -> Event:
    """A fraud at the plant."""
    content = {"id": kind, "kind": kind, "target": PLANT, "at_s": at_s, "for_s": for_s} | more
    return msgspec.convert(content, Event)


def test_constant() -> None:
    """A constant lies at its share of the limit, after correction, with its small variation."""
    seen = shown("stack-cems", "coal-boiler", fraud("constant", params={"level_of_limit": 0.4}))
    limit = PERMITS["coal-boiler", "stack_so2_corrected"].high
    values = seen["stack_so2_corrected"]

    assert values.mean() == pytest.approx(0.4 * limit, rel=0.01)
    assert values.std() / values.mean() < 0.02


def test_cap() -> None:
    """Nothing exceeds a cap, and what is below it stays."""
    cap = fraud("cap", quantity="stack_nox_corrected", params={"level_of_limit": 0.95})
    free, capped = (shown("stack-cems", "steel-sinter", *events) for events in ((), (cap,)))
    limit = PERMITS["steel-sinter", "stack_nox_corrected"].high
    high = free["stack_nox_corrected"] > 0.96 * limit
    low = free["stack_nox_corrected"] < 0.94 * limit
    top = max(capped["stack_nox_corrected"])

    assert top <= 0.95 * limit + 0.5 if high.any() else high.sum() == 0
    assert np.array_equal(free["stack_nox"][low], capped["stack_nox"][low])
    assert np.array_equal(free["stack_so2"], capped["stack_so2"])


def test_cap_piles_up() -> None:
    """Far too much is shown just below the limit, all the time."""
    seen = shown("outfall", "sewage-works", fraud("cap", params={"level_of_limit": 0.9}))

    assert seen["effluent_cod"].max() == pytest.approx(45.0)
    assert (seen["effluent_cod"] == 45.0).mean() > 0.95


def test_scale() -> None:
    """A factor changes concentrations alone."""
    free, scaled = (
        shown("stack-cems", "coal-boiler", *events)
        for events in ((), (fraud("scale", params={"k": 0.4}),))
    )
    share = scaled["stack_so2"] / free["stack_so2"]

    assert share.tolist() == pytest.approx([0.4] * len(share), rel=0.01)
    for same in ("stack_o2", "flue_temperature", "flue_flow"):
        assert np.array_equal(free[same], scaled[same])


def test_air_dilution() -> None:
    """Half air: raw values halve, oxygen is 14.45 %, temperature and humidity fall."""
    free, tainted = (
        shown("stack-cems", "coal-boiler", *events)
        for events in ((), (fraud("air-dilution", params={"share": 0.5}),))
    )

    assert tainted["stack_so2"].mean() == pytest.approx(0.5 * free["stack_so2"].mean(), rel=0.01)
    assert tainted["stack_o2"].mean() == pytest.approx(14.45, abs=0.02)
    assert tainted["flue_temperature"].mean() < free["flue_temperature"].mean() - 40
    assert tainted["flue_humidity"].mean() < 0.7 * free["flue_humidity"].mean()


def test_dilution_does_not_help() -> None:
    """After correction half air changes 115.4 to 114.5 mg/m3: one must also fake the oxygen."""
    ref = np.array([6.0])
    true = corrected(np.array([100.0]), np.array([8.0]), ref)
    diluted = corrected(np.array([50.0]), np.array([0.5 * 8.0 + 0.5 * O2_AIR_PERCENT]), ref)

    assert (115.4, 114.5) == (round(float(true[0]), 1), round(float(diluted[0]), 1))


def test_dilution_with_fake_oxygen() -> None:
    """With both, what is shown after correction is about half of what is true."""
    frauds = (
        fraud("air-dilution", params={"share": 0.5}),
        fraud("o2-fake", params={"o2_percent": 8.0}),
    )
    free, faked = (shown("stack-cems", "coal-boiler", *events) for events in ((), frauds))
    share = faked["stack_so2_corrected"].mean() / free["stack_so2_corrected"].mean()

    assert share == pytest.approx(0.5, rel=0.01)
    assert faked["stack_o2"].std() < 0.1


def test_sample_swap() -> None:
    """In clean water COD is what the event says, ammonia next to nothing, pH and flow as ever."""
    free, swapped = (
        shown("outfall", "brewery", *events)
        for events in ((), (fraud("sample-swap", params={"cod_mg_l": 12.0}),))
    )

    assert swapped["effluent_cod"].mean() == pytest.approx(12.0, rel=0.01)
    assert swapped["effluent_ammonia_n"].max() < 0.5
    assert np.array_equal(free["effluent_ph"], swapped["effluent_ph"])
    assert np.array_equal(free["effluent_flow"], swapped["effluent_flow"])


def test_inspection() -> None:
    """While inspectors are there, the truth is shown; then the fraud goes on."""
    visit = fraud("inspection", at_s=1800, for_s=1800)
    free, faked = (
        shown("stack-cems", "coal-boiler", *events)
        for events in ((), (fraud("scale", params={"k": 0.4}), visit))
    )
    same = faked["stack_so2"] == free["stack_so2"]

    assert not same[:180].any()
    assert same[180:360].all()
    assert not same[360:].any()


def test_no_limit() -> None:
    """Where there is no limit there is nothing to stay below."""
    free, faked = (
        shown("outfall", "gas-turbine", *events)
        for events in ((), (fraud("constant"), fraud("cap", id="c", quantity="effluent_cod")))
    )

    assert np.array_equal(free["effluent_cod"], faked["effluent_cod"])
