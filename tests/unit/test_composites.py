from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.engine import AlarmEngine
from alerts.rules import RuleSet, pack_of
from alerts.state import pack, unpack
from city.cityfile import Address
from city.documents import Document
from city.readings import ReadingBatch, SeriesTable

LOW = "{quantity: pm25, unit: ug/m3, below: 80}"
DEEP = "{quantity: pm25, unit: ug/m3, below: 60}"
GASSY = "{quantity: no2, unit: ug/m3, above: 20}"
RULES = """
pack: test
title: Combinations
standard: ST 1
rules:
  - id: combined
    {condition}
    severity: high
    on_delay_s: {on}
    off_delay_s: {off}
"""
STATIONS = [Address("city", "east", "air", site, f"aq-{n}") for site in ("main", "side")
         for n in range(3)]  # fmt: skip
QUANTITIES = ("pm25", "no2")
Row = tuple[int, int, int, float]
"""Seconds, device, quantity, value."""


def engine(condition: str, *, on_s: int = 0, off_s: int = 0) -> AlarmEngine:
    """An engine with one combination."""
    text = RULES.replace("{condition}", condition)
    text = text.replace("{on}", str(on_s)).replace("{off}", str(off_s))
    return AlarmEngine(RuleSet((pack_of(Document(text, "test.yaml")),)))


def give(engine: AlarmEngine, rows: Sequence[Row]) -> list[tuple[int, str, str]]:
    """Second, place and event of what readings change; every series is known beforehand."""
    table = SeriesTable()
    for station in STATIONS:
        for quantity in QUANTITIES:
            table.index(station, quantity)
    series = [table.index(STATIONS[device], QUANTITIES[what]) for _, device, what, _ in rows]
    batch = ReadingBatch(
        table,
        np.array(series, dtype=np.int32),
        np.array([1000 * second for second, *_ in rows], dtype=np.int64),
        np.array([value for *_, value in rows]),
        np.zeros(len(rows), dtype=np.uint8),
    )
    return [
        (one.event.ts // 1000, f"{one.address.site}/{one.address.device}", one.event.event)
        for one in engine.evaluate(batch)
    ]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (f"all: [{LOW}, {GASSY}]", [False, False, False, True]),
        (f"any: [{LOW}, {GASSY}]", [False, True, True, True]),
        (f"all: [{LOW}, {{not: {GASSY}}}]", [False, True, False, False]),
        (f"all: [{LOW}, {{any: [{GASSY}, {DEEP}]}}]", [False, False, False, True]),
    ],
    ids=["all", "any", "not", "nested"],
)
def test_truth(condition: str, holds: list[bool]) -> None:
    """A combination holds where its table of truth says so."""
    found = []
    for dust, gas in [(90.0, 0.0), (70.0, 0.0), (90.0, 30.0), (70.0, 30.0)]:
        said = give(engine(condition), [(1, 0, 0, 90.0), (1, 0, 1, 0.0), (2, 0, 1, gas),
                                        (2, 0, 0, dust)])  # fmt: skip
        found.append("raised" in [event for *_, event in said])

    assert holds == found


def test_each_device_for_itself() -> None:
    """A leaf of one device says nothing of another."""
    condition = f"all: [{LOW}, {GASSY}]"

    assert [] == give(engine(condition), [(1, 0, 0, 70.0), (1, 1, 1, 30.0)])
    assert [(2, "main/aq-0", "raised")] == give(
        engine(condition), [(1, 0, 0, 70.0), (2, 0, 1, 30.0)]
    )


def test_count() -> None:
    """A count is one alarm of the place: raised with enough devices, cleared with too few."""
    condition = f"count: {{at_least: 2, within: site, of: {LOW}}}"
    rows = [(1, 0, 0, 70.0), (2, 3, 0, 70.0), (3, 1, 0, 70.0), (4, 2, 0, 70.0), (5, 0, 0, 90.0),
            (6, 1, 0, 90.0)]  # fmt: skip
    found = give(engine(condition), rows)

    assert [(3, "raised"), (6, "cleared")] == [(second, event) for second, _, event in found]
    assert {"main"} == {place.partition("/")[0] for _, place, _ in found}


def test_delays() -> None:
    """A combination must hold for its on-delay and be over for its off-delay; both are dated."""
    condition = f"all: [{LOW}, {GASSY}]"
    rows = [(1, 0, 1, 30.0), (2, 0, 0, 70.0), (5, 0, 0, 90.0), (6, 0, 0, 70.0), (30, 1, 0, 90.0),
            (31, 0, 0, 90.0), (60, 1, 0, 90.0)]  # fmt: skip
    found = give(engine(condition, on_s=10, off_s=20), rows)

    assert [(16, "main/aq-0", "raised"), (51, "main/aq-0", "cleared")] == found


CONDITIONS = [
    f"all: [{LOW}, {GASSY}]",
    f"any: [{LOW}, {GASSY}]",
    f"count: {{at_least: 2, within: site, of: {LOW}}}",
    f"all: [{LOW}, {{count: {{at_least: 2, within: district, of: {LOW}}}}}]",
]
STEPS = st.lists(
    st.tuples(
        st.integers(0, 9), st.integers(0, 5), st.integers(0, 1), st.sampled_from([0.0, 50.0, 90.0])
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(CONDITIONS), STEPS, st.integers(0, 12), st.integers(0, 30))
def test_restart_anywhere(
    condition: str, steps: list[tuple[int, int, int, float]], delay_s: int, cut: int
) -> None:
    """Captured and taken up between any two readings, it says the same."""
    rows, now = list[Row](), 0
    for step, device, what, value in steps:
        now += step
        rows.append((now, device, what, value))
    expected = give(engine(condition, on_s=delay_s, off_s=delay_s), rows)
    first = engine(condition, on_s=delay_s, off_s=delay_s)
    said = give(first, rows[:cut])
    again = engine(condition, on_s=delay_s, off_s=delay_s)
    again.restore(unpack(pack(first.capture())))

    assert expected == said + give(again, rows[cut:])
