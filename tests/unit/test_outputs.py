"""Where generated samples go, and how time is cut for it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from city.cityfile import load_city
from city.errors import SettingError
from city.readings import Flag
from city.synthetic import synthetic_city
from cli.generate import slices, with_interval
from cli.outputs import Points, check_folder, remove
from sensors.engine import CityEngine, Frame, Group
from sensors.parquet import ParquetDays, flag_texts

HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def group() -> Group:
    """Two devices of four quantities."""
    city = synthetic_city(2, interval_s=60, seed=1, kinds=("air-micro",))
    return CityEngine(city, seed=1, start_ms=0).groups[0]


def frame(group: Group, *rows: tuple[int, int, float, Flag]) -> Frame:
    """Samples whose first quantity is given: device, instant, value and flag."""
    values = np.ones((len(rows), 4))
    flags = np.zeros((len(rows), 4), dtype=np.uint8)
    values[:, 0] = [value for _, _, value, _ in rows]
    flags[:, 0] = [flag for _, _, _, flag in rows]
    devices, instants = (np.array([row[i] for row in rows], dtype=np.int64) for i in (0, 1))
    return Frame(group, devices, instants, values, flags)


def stored(path: Path) -> list[tuple[Any, ...]]:
    """The rows of a Parquet file in its order: instant, site, device, first quantity, flags."""
    with duckdb.connect() as connection:
        query = f"SELECT epoch_ms(ts), site, device, pm25, flags FROM '{path}'"
        rows: list[tuple[Any, ...]] = connection.execute(query).fetchall()
        return rows


def test_parquet(group: Group, tmp_path: Path) -> None:
    """Rows stand in the order of their instants, with their place; what is no number is null."""
    with ParquetDays(tmp_path, [group]) as days:
        days.add([frame(group, (1, 30, 3.5, Flag.T)), frame(group, (0, 20, np.nan, Flag.N))])
        days.add([frame(group, (0, 40, 1.0, Flag.N))])
        days.end_day("2026-06-01")
    one, other = (device.address.device for device in group.devices)
    site = group.devices[0].address.site

    assert [
        (20, site, one, None, None),
        (30, site, other, 3.5, '{"pm25":"T"}'),
        (40, site, one, 1.0, None),
    ] == stored(tmp_path / "air-2026-06-01.parquet")


def test_empty_day(group: Group, tmp_path: Path) -> None:
    """A day without samples has no file, and days do not run into each other."""
    with ParquetDays(tmp_path, [group]) as days:
        days.add([frame(group, (0, 1, 1.0, Flag.N))])
        days.end_day("a")
        days.end_day("b")
        days.add([frame(group, (0, 9, 2.0, Flag.N))])
        days.end_day("c")

    assert ["air-a.parquet", "air-c.parquet"] == [path.name for path in days.files]
    assert [2.0] == [row[3] for row in stored(tmp_path / "air-c.parquet")]


def test_flag_texts(group: Group) -> None:
    """Flags are the JSON of the wire; none is said of normal values."""
    texts = flag_texts(frame(group, (0, 1, 1.0, Flag.N), (1, 1, 1.0, Flag.C)))

    assert [None, '{"pm25":"C"}'] == texts.tolist()


def test_points(group: Group) -> None:
    """A point is what ingest stores of the message: counted per device, absent is left out."""
    points = Points([group])
    first = points.of(frame(group, (0, 1, np.nan, Flag.B), (1, 1, 7.0, Flag.T)))
    second = points.of(frame(group, (1, 2, 8.0, Flag.N)))

    assert ["pm10", "temperature", "humidity"] == list(first[0].values)
    assert [{}, {"pm25_flag": "T"}, {}] == [point.texts for point in [*first, *second]]
    assert [0, 0, 1] == [point.counts["seq"] for point in [*first, *second]]


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),  # noqa: DTZ001 - UTC follows
    st.integers(1, 90 * HOUR_MS),
    st.sampled_from(["Asia/Shanghai", "Europe/Berlin", "America/St_Johns", "UTC"]),
)
def test_slices(start: datetime, span_ms: int, zone: str) -> None:
    """Slices follow one another without gaps, last at most an hour and lie within one local day."""
    start_ms = round(start.replace(tzinfo=UTC).timestamp() * 1000)
    parts = list(slices(start_ms, start_ms + span_ms, ZoneInfo(zone)))

    assert [start_ms, *(part[2] for part in parts)] == [
        *(part[1] for part in parts),
        start_ms + span_ms,
    ]
    assert all(0 < until_ms - from_ms <= HOUR_MS for _, from_ms, until_ms in parts)
    assert all(days == {day} for day, days in _days(parts, ZoneInfo(zone)))


def _days(
    parts: list[tuple[str | None, int, int]], zone: ZoneInfo
) -> Iterator[tuple[str, set[str]]]:
    """Each day that ends, and the local dates of its slices' first and last instants."""
    found: set[str] = set()
    for day, from_ms, until_ms in parts:
        for instant_ms in (from_ms, until_ms - 1):
            found.add(datetime.fromtimestamp(instant_ms / 1000, zone).date().isoformat())
        if day:
            yield day, found
            found = set()
    assert not found


def test_folder(tmp_path: Path) -> None:
    """Of a folder's files only those of other runs matter; one that is not there is empty."""
    for name in ("notes.txt", "air-a.parquet", "air-b.parquet", "b.lp.gz", "truth.jsonl"):
        (tmp_path / name).touch()

    check_folder(tmp_path / "none", ())
    check_folder(tmp_path, {"air-a.parquet", "air-b.parquet", "b.lp.gz", "truth.jsonl"})
    with pytest.raises(SettingError, match=r"run: b.lp.gz, truth.jsonl; give an empty"):
        check_folder(tmp_path, {"air-a.parquet", "air-b.parquet"})
    with pytest.raises(SettingError, match=r"air-a.parquet, air-b.parquet, b.lp.gz and 1 more"):
        check_folder(tmp_path, ())
    remove(tmp_path, ["air-a.parquet", "air-c.parquet"])
    assert not (tmp_path / "air-a.parquet").exists()


def test_with_interval() -> None:
    """All devices of a city can be given one interval."""
    city = with_interval(load_city("lanting"), 600.0)

    assert {600_000} == {device.interval_ms for device in city.devices()}
