"""Recorded data as frames."""

import gzip
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from city.documents import Document
from city.errors import DocumentError
from sensors.recording import Rows, map_of, read_map, read_rows
from sensors.replay import Replay

EXAMPLE = Path(__file__).parents[2] / "docs" / "replay" / "beijing-air.yaml"
HEADER = (
    '"No","year","month","day","hour","PM2.5","PM10","SO2","NO2","CO","O3","TEMP","PRES","DEWP",'
    '"RAIN","wd","WSPM","station"'
)
HOUR_MS = 3_600_000
FIRST_MS = 1362067200000
"""2013-03-01 00:00 in Beijing."""


def line(hour: int, pm25: str = "4", wind: str = '"NNW"', *, day: int = 1) -> str:
    """One line of a file as the UCI's."""
    return f'1,2013,3,{day},{hour},{pm25},4,4,7,300,77,-0.7,1023,-18.8,0,{wind},4.4,"Aotizhongxin"'


def recorded(path: Path, *lines: str) -> Rows:
    """The rows of a file of those lines, by the mapping that is shown in the documentation."""
    path.write_text("\n".join((HEADER, *lines)) + "\n", encoding="utf-8")
    return read_rows(path, read_map(EXAMPLE))


def mapping(**changes: Any) -> dict[str, Any]:
    """A small mapping: one station, an ISO time, one value."""
    return {
        "recording": "mine",
        "city": "town",
        "time": {"column": "t"},
        "station": {"id": "park"},
        "values": {"co": {"column": "co", "unit": "ug/m3"}},
        **changes,
    }


def rows_of(path: Path, text: str, **changes: Any) -> Rows:
    """The rows of a file of that text by the small mapping."""
    path.write_text(text, encoding="utf-8")
    return read_rows(path, map_of(Document(yaml.safe_dump(mapping(**changes)), "map.yaml")))


def replay(station: list[int], ts: list[int]) -> Replay:
    """A replay of two stations whose values are the places of their rows in the file."""
    values = np.arange(len(ts), dtype=np.float64)[:, None]
    rows = Rows(("a", "b"), np.array(station), np.array(ts), values, 0, ())
    return Replay(map_of(Document(yaml.safe_dump(mapping()), "map.yaml")), rows)


def test_example(tmp_path: Path) -> None:
    """The mapping in the documentation reads the UCI file's columns: local time, ug/m3, words."""
    rows = recorded(tmp_path / "a.csv", line(0), line(1))

    assert ("aotizhongxin",) == rows.stations
    assert [FIRST_MS, FIRST_MS + HOUR_MS] == rows.ts.tolist()
    assert [4.0, 4.0, 4.0, 7.0, 0.3, 77.0, -0.7, 4.4, 337.5] == rows.values[0].tolist()


def test_gap(tmp_path: Path) -> None:
    """A missing value is absent, and a missing row sends nothing."""
    rows = recorded(tmp_path / "a.csv", line(0, pm25="NA"), line(3))
    whole = Replay(read_map(EXAMPLE), rows)
    frames = list(whole.frames(FIRST_MS, FIRST_MS + 4 * HOUR_MS))

    assert [[True] + 8 * [False], 9 * [False]] == np.isnan(frames[0].values).tolist()
    assert [] == list(whole.frames(FIRST_MS + 1, FIRST_MS + 3 * HOUR_MS))


def test_rows_that_do_not_parse(tmp_path: Path) -> None:
    """Rows that do not parse are counted, the first five told by line, and the rest go on."""
    bad = [line(25), line(2, pm25="many"), line(3, pm25="-999"), "1,2", line(4, wind='"up"')]
    rows = recorded(tmp_path / "a.csv", line(0), *bad, *bad, line(5))

    assert 10 == rows.refused
    assert 2 == len(rows.ts)
    assert [
        (
            "a.csv:3: columns 'year': '2013', 'month': '3', 'day': '1', 'hour': '25': "
            "hour must be in 0..23"
        ),
        "a.csv:4: column 'PM2.5': 'many' is no number",
        "a.csv:5: column 'PM2.5': '-999' is not within 0 to 2000 ug/m3",
        "a.csv:6: has 2 cells, the header 18",
        "a.csv:7: column 'wd': 'up' is no number",
    ] == [problem.removeprefix(f"{tmp_path}/") for problem in rows.problems]


@pytest.mark.parametrize(
    ("time", "text", "says"),
    [
        ({"column": "t"}, "soon", "column 't': 'soon' is no instant of format 'iso'"),
        ({"column": "t"}, "", "column 't': '' is no instant of format 'iso'"),
        (
            {"column": "t", "format": "epoch_s"},
            "soon",
            "column 't': 'soon' is no instant of format 'epoch_s'",
        ),
        (
            {"column": "t", "format": "epoch_ms"},
            "1e30",
            "column 't': '1e30' is no instant of format 'epoch_ms'",
        ),
        (
            {"column": "t", "format": "%d.%m.%Y"},
            "2026-06-01",
            "column 't': '2026-06-01' is no instant of format '%d.%m.%Y'",
        ),
        (
            {"year": "t", "month": "co", "day": "co"},
            "MMXXVI",
            "column 't': 'MMXXVI' is no whole number",
        ),
    ],
)
def test_no_instant(tmp_path: Path, time: dict[str, str], text: str, says: str) -> None:
    """An instant that does not parse is told with its column and text."""
    with pytest.raises(DocumentError) as caught:
        rows_of(tmp_path / "a.csv", f"t,co\n{text},1\n", time=time)

    assert str(caught.value).endswith(f"a.csv:2: {says}")


@pytest.mark.parametrize("cell", ["", "  ", " NA", "-999 "])
def test_blank(tmp_path: Path, cell: str) -> None:
    """A blank cell is an absent value whatever else is missing; spaces do not matter."""
    text = f"t,co\n2026-06-01 08:00,{cell}\n 2026-06-01 09:00 , 500 \n"
    rows = rows_of(tmp_path / "a.csv", text, missing=["NA", "-999"])

    assert 0 == rows.refused
    np.testing.assert_array_equal([[np.nan], [0.5]], rows.values)


def test_nothing_to_read(tmp_path: Path) -> None:
    """A file that is missing, empty, a directory or a bare header is refused in those words."""
    config = map_of(Document(yaml.safe_dump(mapping()), "map.yaml"))
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b""))

    for name in ("none.csv", "none.parquet"):
        with pytest.raises(DocumentError, match=rf"{name}: there is no such file"):
            read_rows(tmp_path / name, config)
    with pytest.raises(DocumentError, match="is a directory; give"):
        read_rows(tmp_path, config)
    with pytest.raises(DocumentError, match=r"a.csv: is empty; its first line must name"):
        rows_of(tmp_path / "a.csv", "")
    with pytest.raises(DocumentError, match=r"b.csv.gz: is empty; its first line must name"):
        read_rows(tmp_path / "b.csv.gz", config)
    with pytest.raises(DocumentError, match=r"a.csv: has no row below its header"):
        rows_of(tmp_path / "a.csv", "t,co\n")


def test_nothing_parses(tmp_path: Path) -> None:
    """A file of which no row parses is refused, with the first reason."""
    with pytest.raises(
        DocumentError, match=r"none of its 1 rows parses; the first: .*a.csv:2: has"
    ):
        recorded(tmp_path / "a.csv", "1")


def test_no_column(tmp_path: Path) -> None:
    """A column that the file lacks is refused with the nearest one."""
    with pytest.raises(DocumentError, match="no column 'co'; did you mean 'co_'"):
        rows_of(tmp_path / "a.csv", "t,CO2,co_\n", values={"co": {"column": "co"}}, delimiter=",")


def test_compressed(tmp_path: Path) -> None:
    """A CSV may be compressed; one that breaks off is refused with the line."""
    text = "t,co\n" + "".join(f"2026-06-01 {h:02d}:00,{h}\n" for h in range(24))
    plain = rows_of(tmp_path / "a.csv", text)
    small = tmp_path / "a.csv.gz"
    small.write_bytes(gzip.compress(text.encode()))
    config = map_of(Document(yaml.safe_dump(mapping()), "map.yaml"))

    assert plain.values.tolist() == read_rows(small, config).values.tolist()
    small.write_bytes(small.read_bytes()[:-12])
    with pytest.raises(DocumentError, match=r"a.csv.gz:\d+: cannot be read"):
        read_rows(small, config)


def test_parquet(tmp_path: Path) -> None:
    """A Parquet file reads as a CSV of the same rows."""
    path = tmp_path / "a.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT TIMESTAMP '2026-06-01 08:00:00' + i * INTERVAL 1 HOUR AS t, "
            f"CASE WHEN i <> 1 THEN 500.0 * i END AS co FROM range(3) AS r(i)) TO '{path}'"
        )
    read = read_rows(path, map_of(Document(yaml.safe_dump(mapping()), "map.yaml")))

    assert [0.0, HOUR_MS, 2.0 * HOUR_MS] == (read.ts - read.ts[0]).tolist()
    np.testing.assert_array_equal([[0.0], [np.nan], [1.0]], read.values)


@pytest.mark.parametrize(
    ("time", "text"),
    [
        ({"column": "t"}, "2026-06-01T08:00:00+08:00"),
        ({"column": "t"}, "2026-06-01 00:00"),
        ({"column": "t", "format": "%d.%m.%Y %H Uhr"}, "01.06.2026 00 Uhr"),
        ({"column": "t", "format": "epoch_s"}, "1780272000"),
        ({"column": "t", "format": "epoch_ms"}, "1780272000000"),
    ],
)
def test_time(tmp_path: Path, time: dict[str, str], text: str) -> None:
    """An instant may be ISO 8601, seconds or milliseconds since the epoch, or of any pattern."""
    rows = rows_of(tmp_path / "a.csv", f"t,co\n{text},1\n", time=time)

    assert [1_780_272_000_000] == rows.ts.tolist()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"time": {}}, "time: give either column, or year, month, day"),
        ({"time": {"column": "t", "year": "y", "month": "m", "day": "d"}}, "time: give either"),
        ({"station": {}}, "station: give either column or id"),
        ({"timezone": "Mars"}, "timezone: unknown time zone 'Mars'"),
        ({"values": {"c0": {"column": "co"}}}, "values.c0: unknown quantity 'c0'; "),
        (
            {"values": {"co": {"column": "co", "unit": "ppm"}}},
            "values.co.unit: unit 'ppm' does not",
        ),
        ({"values": {"co": {"column": "a"}, "ph": {"column": "b"}}}, "values: one recording has"),
        ({"values": {}}, "values: expected `object` of length >= 1"),
        ({"city": "Town"}, "city: identifier 'Town' is not allowed"),
    ],
)
def test_wrong_mapping(changes: dict[str, Any], says: str) -> None:
    """A mapping that is wrong is refused by path, with what is allowed."""
    with pytest.raises(DocumentError) as caught:
        map_of(Document(yaml.safe_dump(mapping(**changes)), "map.yaml"))

    assert says in str(caught.value)


def test_device(tmp_path: Path) -> None:
    """Every station is a device that measures what the file has, at the file's usual interval."""
    [group] = Replay(read_map(EXAMPLE), recorded(tmp_path / "a.csv", *map(line, range(9)))).groups
    [device] = group.devices

    assert "beijing/chaoyang/air/aotizhongxin/recording" == str(device.address)
    assert (HOUR_MS, "wind_direction") == (group.interval_ms, group.quantities[-1])


def test_repeated() -> None:
    """Of rows with one station and one instant the first counts."""
    twice = replay([0, 1, 0, 0], [5, 5, 5, 9])

    assert 1 == twice.repeated
    assert [0.0, 1.0, 3.0] == [v for f in twice.frames(0, 10) for v in f.values[:, 0].tolist()]


def test_moved() -> None:
    """A recording can begin at another instant; its steps stay."""
    rows = Rows(("a",), np.zeros(3, np.int64), np.array([7, 9, 20]), np.zeros((3, 1)), 0, ())
    moved = Replay(map_of(Document(yaml.safe_dump(mapping()), "map.yaml")), rows, start_ms=100)

    assert [100, 102, 113] == [ts for frame in moved.frames(0, 999) for ts in frame.ts.tolist()]


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 60)), min_size=1), st.integers(1, 61))
def test_slices(samples: list[tuple[int, int]], step: int) -> None:
    """However time is cut, every sample comes once, in the order of the instants."""
    whole = replay([station for station, _ in samples], [ts for _, ts in samples])
    cut = [
        (ts, row)
        for start in range(0, 61, step)
        for frame in whole.frames(start, start + step)
        for ts, row in zip(frame.ts.tolist(), frame.rows.tolist(), strict=True)
    ]

    assert sorted({(ts, station) for station, ts in samples}) == cut
