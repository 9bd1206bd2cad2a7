"""Downsampling against a slow model, and through every kind of restart."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from city.cityfile import Address
from city.quantities import QUANTITIES
from city.readings import Flag, ReadingBatch, SeriesTable
from ingest.downsampling import Downsampling
from ingest.rollups import HOUR_MS, MEASUREMENTS, MINUTE_MS, NAMES
from ingest.store import Point

T0 = 1_795_413_600_000  # a full hour
STATION = Address("lanting", "east", "air", "park", "aq-1")
OTHER = Address("lanting", "east", "air", "park", "aq-2")
COUNTING = {Flag.N, Flag.S, Flag.T}


class Reading(NamedTuple):
    """One value on its way."""

    device: int
    quantity: str
    ts: int
    value: float
    flag: Flag = Flag.N


Row = tuple[str, str, int]
Told = dict[Row, dict[str, tuple[Any, float, float, int]]]


def address(device: int) -> Address:
    """One of many stations."""
    return Address("lanting", "east", "air", "park", f"aq-{device}")


def batch(table: SeriesTable, readings: Sequence[Reading]) -> ReadingBatch:
    """The readings as ingest hands them out."""
    return ReadingBatch(
        table=table,
        series=np.array([table.index(address(r.device), r.quantity) for r in readings], np.int32),
        ts=np.array([r.ts for r in readings], np.int64),
        value=np.array([r.value for r in readings], np.float64),
        flag=np.array([r.flag for r in readings], np.uint8),
    )


def told(points: Sequence[Point]) -> Told:
    """What rows say, by measurement, device and instant; a later row stands over an earlier one."""
    found: Told = {}
    for point in points:
        row = found.setdefault(
            (point.key.measurement, dict(point.key.tags)["device"], point.ts), {}
        )
        for name in {field.removesuffix("_count") for field in point.counts}:
            mean, low, high, count = NAMES[name]
            values = point.values
            row[name] = (values[mean], values[low], values[high], point.counts[count])
    return found


class Model:
    """The same by the definition, reading by reading."""

    def __init__(self) -> None:
        self.minutes: dict[Row, dict[str, list[float]]] = {}
        self.hours: dict[Row, dict[str, list[float]]] = {}
        self.late = 0
        self._minute: dict[int, int] = {}

    def take(self, reading: Reading) -> None:
        """Sort one reading into its minute and its hour."""
        minute, hour = (reading.ts // length * length for length in (MINUTE_MS, HOUR_MS))
        present = self._minute[reading.device] = max(self._minute.get(reading.device, 0), minute)
        if reading.flag not in COUNTING:
            return
        device = address(reading.device).device
        if minute == present:
            row = self.minutes.setdefault(("air_1m", device, minute), {})
            row.setdefault(reading.quantity, []).append(reading.value)
        else:
            self.late += 1
        if hour == present // HOUR_MS * HOUR_MS:
            row = self.hours.setdefault(("air_1h", device, hour), {})
            row.setdefault(reading.quantity, []).append(reading.value)

    def rows(self) -> Told:
        """All rows, those of open intervals as well."""
        return {
            row: {
                name: (pytest.approx(sum(found) / len(found)), min(found), max(found), len(found))
                for name, found in quantities.items()
            }
            for row, quantities in (self.minutes | self.hours).items()
        }


def rounds(readings: Sequence[Reading], sizes: Sequence[int]) -> Iterator[Sequence[Reading]]:
    """The readings in groups of these sizes, the rest in one."""
    at = 0
    for size in sizes:
        yield readings[at : at + size]
        at += size
    yield readings[at:]


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Reading], list[int]]:
    """Readings of a few devices that mostly advance, and how they are grouped; no group is empty."""
    ts, readings = T0, []
    for _ in range(draw(st.integers(1, 60))):
        ts += draw(st.sampled_from([0, 1_000, 20_000, 61_000, 600_000, 4_000_000]))
        late_ms = draw(st.sampled_from([0, 0, 0, 0, 30_000, 100_000, 3_700_000]))
        readings.append(
            Reading(
                draw(st.integers(0, 3)),
                draw(st.sampled_from(["pm25", "no2"])),
                ts - late_ms,
                draw(st.floats(-1e6, 1e6)),
                draw(st.sampled_from([*[Flag.N] * 6, *Flag])),
            )
        )
    return readings, draw(st.lists(st.integers(1, 9), max_size=20))


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new folder, also for every example of a property."""
    return tmp_path_factory.mktemp("intervals")


def begun(folder: Path, newest: int = 0, **more: int) -> Downsampling:
    """One that goes on from the folder's file."""
    made = Downsampling(SeriesTable(), folder / "intervals", every_s=3600.0)
    made.begin(newest, **more)
    return made


def feed(work: Downsampling, readings: Sequence[Reading], number: int = 1) -> list[Point]:
    """Hand in one group, and take the rows that it makes."""
    work.consume(batch(work._table, readings))
    rows = work.take_rows()
    work.committed(number, replaying=False)
    return rows


END = [Reading(device, "pm25", T0 + 10 * 24 * HOUR_MS, 0.0, Flag.D) for device in range(4)]
"""Readings that close everything and are in no row."""


@settings(max_examples=60)
@given(streams())
def test_model(
    tmp_path_factory: pytest.TempPathFactory, stream: tuple[list[Reading], list[int]]
) -> None:
    """However readings are grouped, rows hold mean, extremes and count of just those that count."""
    readings, sizes = stream
    work, model = begun(tmp_path_factory.mktemp("model")), Model()
    points: list[Point] = []
    for group in rounds(readings, sizes):
        points += feed(work, group) if group else []
    for reading in readings:
        model.take(reading)
    points += feed(work, END)

    assert model.rows() == told(points)
    assert model.late == work.late


@settings(max_examples=40)
@given(streams(), st.data())
def test_crash(
    tmp_path_factory: pytest.TempPathFactory,
    stream: tuple[list[Reading], list[int]],
    data: st.DataObject,
) -> None:
    """Whenever it is killed and whenever it was saved, the rows that were spooled say the same."""
    readings, sizes = stream
    groups = [group for group in rounds([*readings, *END], sizes) if group]
    path = tmp_path_factory.mktemp("crash")
    steady = begun(tmp_path_factory.mktemp("steady"))
    expected = [point for at, group in enumerate(groups) for point in feed(steady, group, at + 1)]
    spooled: list[Point] = []
    work = begun(path)
    for number, group in enumerate(groups, 1):
        what = data.draw(st.sampled_from(["on", "save", "kill before commit", "kill"]))
        if what == "kill before commit":
            work.consume(batch(work._table, group))
        if what.startswith("kill"):
            work = begun(path, newest=number - 1)
            for again in range(work.covered + 1, number):
                work.consume(batch(work._table, groups[again - 1]))
                work.committed(again, replaying=True)
        spooled += feed(work, group, number)
        if what == "save":
            work.cover()
            work.wait_saved()

    assert told(expected) == told(spooled)
    assert steady.late == work.late


def test_row(folder: Path) -> None:
    """A row stands at the START of its interval, under the tags of the readings, counts as integers."""
    work = begun(folder)
    feed(work, [Reading(1, "pm25", T0 + 1_000, 10.0), Reading(1, "pm25", T0 + 59_999, 40.0)])
    [row] = feed(work, [Reading(1, "pm25", T0 + MINUTE_MS, 70.0)])

    assert ("air_1m", T0) == (row.key.measurement, row.ts)
    assert {"city": "lanting", "district": "east", "site": "park", "device": "aq-1"} == dict(
        row.key.tags
    )
    assert {"pm25": 25.0, "pm25_min": 10.0, "pm25_max": 40.0} == row.values
    assert ({"pm25_count": 2}, {}) == (row.counts, row.texts)


def test_silent_device(folder: Path) -> None:
    """A device that says no more has its rows once the city is more than an interval past them."""
    work = begun(folder)
    feed(work, [Reading(1, "pm25", T0, 10.0), Reading(2, "pm25", T0, 20.0)])
    soon = told(feed(work, [Reading(2, "pm25", T0 + 2 * MINUTE_MS - 1, 30.0)]))
    later = told(feed(work, [Reading(2, "pm25", T0 + 3 * MINUTE_MS, 30.0)]))

    assert {("air_1m", "aq-2", T0)} == set(soon)
    assert {("air_1m", "aq-1", T0), ("air_1m", "aq-2", T0 + MINUTE_MS)} == set(later)


def test_silent_hour(folder: Path) -> None:
    """The hour of a silent device holds its last minute too."""
    work = begun(folder)
    feed(work, [Reading(1, "pm25", T0, 10.0), Reading(1, "pm25", T0 + MINUTE_MS, 30.0)])
    rows = told(feed(work, [Reading(2, "pm25", T0 + 3 * HOUR_MS, 1.0)]))

    assert {"pm25": (20.0, 10.0, 30.0, 2)} == rows["air_1h", "aq-1", T0]


def test_clock_ahead(folder: Path) -> None:
    """A device whose clock is ahead costs the others no reading: their rows are made again."""
    work = begun(folder)
    rows = feed(work, [Reading(1, "pm25", T0, 10.0)])
    rows += feed(work, [Reading(2, "pm25", T0 + 5 * MINUTE_MS, 1.0)])
    rows += feed(work, [Reading(1, "pm25", T0 + 1_000, 30.0)])
    rows += feed(work, [Reading(1, "pm25", T0 + MINUTE_MS, 50.0)])

    assert {"pm25": (20.0, 10.0, 30.0, 2)} == told(rows)["air_1m", "aq-1", T0]
    assert 0 == work.late


def test_late_is_said(folder: Path) -> None:
    """Late readings are counted, and said once an hour of the city's time."""
    work = begun(folder)
    feed(work, [Reading(1, "pm25", T0 + MINUTE_MS, 10.0)])
    with capture_logs() as logs:
        feed(work, [Reading(1, "pm25", T0, 10.0)])
        feed(work, [Reading(1, "pm25", T0, 10.0)])

    assert ({"rows": 0, "late": 2}, 1) == (work.figures(), len(logs))


def test_huge_values(folder: Path) -> None:
    """The mean of values whose sum has no form is still a number between them."""
    work = begun(folder)
    feed(work, [Reading(1, "pm25", T0, 1.7e308), Reading(1, "pm25", T0, 1.6e308)])
    [row] = feed(work, [Reading(1, "pm25", T0 + MINUTE_MS, -1.7e308)])

    assert 1.6e308 <= row.values["pm25"] <= 1.7e308


def test_another_run(folder: Path) -> None:
    """Where the city's time begins again, the intervals of the other run are forgotten."""
    work = begun(folder)
    feed(work, [Reading(1, "pm25", T0 + HOUR_MS, 10.0)])
    work.close()
    again = begun(folder, newest=7, begins_ms=T0)
    feed(again, [Reading(1, "pm25", T0, 20.0)])
    [row] = feed(again, [Reading(1, "pm25", T0 + MINUTE_MS, 20.0)])

    assert (7, 20.0, 0) == (again.covered, row.values["pm25"], again.late)


def test_closing(folder: Path) -> None:
    """At the end everything is saved, but for a group that is not in the spool yet."""
    work = begun(folder)
    feed(work, [Reading(1, "pm25", T0, 10.0)], 3)
    work.close()
    other = begun(folder)
    other.consume(batch(other._table, [Reading(1, "pm25", T0, 20.0)]))
    other.close()
    again = begun(folder)
    [row] = feed(again, [Reading(1, "pm25", T0 + MINUTE_MS, 20.0)])

    assert (3, {"pm25_count": 1}) == (again.covered, row.counts)


@pytest.mark.parametrize("content", [b"", b"not ours at all", b"\x05\x00\x00\x00abcde"])
def test_damaged_file(folder: Path, content: bytes) -> None:
    """A file that is none of ours is said; rows begin anew behind what the spool has."""
    (folder / "intervals").write_bytes(content)
    with capture_logs() as logs:
        work = begun(folder, newest=5)

    assert (5, ["warning"]) == (work.covered, [log["log_level"] for log in logs])


def test_cut_file(folder: Path) -> None:
    """A file that is not complete counts as damaged."""
    work = begun(folder)
    feed(work, [Reading(1, "pm25", T0, 10.0)], 3)
    work.close()
    content = (folder / "intervals").read_bytes()
    (folder / "intervals").write_bytes(content[:-3])
    with capture_logs() as logs:
        again = begun(folder, newest=5)

    assert (5, "it is not complete") == (again.covered, logs[0]["why"])


def test_cannot_be_saved(folder: Path) -> None:
    """What cannot be saved is not covered, which is said once; the spool holds it."""
    work = begun(folder / "deep")
    (folder / "deep" / "intervals.new").mkdir()
    with capture_logs() as logs:
        for number in (1, 2):
            feed(work, [Reading(1, "pm25", T0, 10.0)], number)
            work.cover()
            work.wait_saved()
        work.close()

    assert (0, ["warning"]) == (
        work.covered, [log["log_level"] for log in logs if log["log_level"] != "debug"]
    )  # fmt: skip


def test_long_silent_devices_are_forgotten(folder: Path) -> None:
    """What has sent nothing for days is not taken over by the next start."""
    work = begun(folder)
    feed(work, [Reading(1, "pm25", T0, 10.0)])
    feed(work, [Reading(2, "pm25", T0 + 3 * 24 * HOUR_MS, 10.0)], 2)
    work.close()
    again = begun(folder)

    assert 1 == len(again._table)


def test_names() -> None:
    """No quantity is called like a field of another one's rows, and each has its measurements."""
    derived = {field for name in QUANTITIES for field in NAMES[name][1:]}

    assert set() == derived & set(QUANTITIES)
    assert {
        f"{d}_{i}" for d in ("air", "water", "gas", "emission") for i in ("1m", "1h")
    } == MEASUREMENTS
