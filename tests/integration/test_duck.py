"""What only the DuckDB store does: one file, tables that grow, and what a disk can do to it."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from city.errors import StoreError, StoreRefused, StoreUnavailable
from ingest.duck import DuckStore
from ingest.store import Point, PointKey

T0 = 1795413600000
HOLDER = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); input()"


def reading(ts: int = T0, *, tags: dict[str, str] | None = None, **values: float) -> Point:
    """A point of measurement `air`."""
    key = PointKey("air", tuple(sorted((tags or {"device": "aq-1"}).items())))
    return Point(key, ts, values or {"pm25": 1.0}, {}, {})


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Path]:
    """A DuckDB file that another process holds."""
    path = tmp_path / "held.duckdb"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield path
        process.communicate(b"\n", timeout=60)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond 2 MB, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_person_reads_the_file(tmp_path: Path) -> None:
    """The closed file has a table per measurement, with time, tags and fields as columns."""
    store = DuckStore(tmp_path / "new" / "store.duckdb")
    await store.open()
    await store.write([reading(tags={"device": "aq-1", "site": "park"}, pm25=12.5)])
    await store.close()

    with duckdb.connect(str(tmp_path / "new" / "store.duckdb"), read_only=True) as connection:
        found = connection.execute("SELECT ts::TEXT, site, device, pm25 FROM air").fetchone()
    row = ("2026-11-23 06:00:00", "park", "aq-1", 12.5)
    assert row == found


async def test_held_file(holder: Path) -> None:
    """A file that another process holds is an error that says so and what to do."""
    with pytest.raises(StoreError, match=r"another process holds this file; .*duckdb:PATH"):
        await DuckStore(holder).open()


async def test_other_file(tmp_path: Path) -> None:
    """A file of another kind is left alone, with an error that says what it is not."""
    path = tmp_path / "notes.txt"
    text = "hello " * 1000
    path.write_text(text)

    with pytest.raises(StoreError, match="not a DuckDB file"):
        await DuckStore(path).open()
    assert text == path.read_text()


async def test_no_folder(tmp_path: Path) -> None:
    """A file below something that is no folder cannot be made, and the path is named."""
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match=r"file.store\.duckdb: cannot be made"):
        await DuckStore(tmp_path / "file" / "store.duckdb").open()


async def test_new_tag(duck: DuckStore) -> None:
    """A tag that appears later is taken; earlier points keep theirs and stay themselves."""
    old, new = reading(T0), reading(T0, tags={"device": "aq-1", "site": "park"}, o3=2.0)
    await duck.write([old])
    await duck.write([new])
    await duck.write([old])

    assert [old, new] == sorted(await duck.read("air", T0, T0 + 1), key=lambda p: len(p.key.tags))


async def test_tag_named_like_a_field(duck: DuckStore) -> None:
    """A new tag with the name of a field is refused, and the table stays as it was."""
    await duck.write([reading(T0)])
    with pytest.raises(StoreRefused, match="pm25"):
        await duck.write([reading(T0 + 1, tags={"device": "aq-1", "pm25": "x"}, o3=1.0)])
    await duck.write([reading(T0 + 2)])

    assert [reading(T0), reading(T0 + 2)] == await duck.read("air", T0, T0 + 9)


@pytest.mark.parametrize("field", ["PM25", "device", "Device", "ts"])
async def test_names_that_meet(duck: DuckStore, field: str) -> None:
    """A field that DuckDB would take for another column is refused, and nothing is kept."""
    named = Point(reading().key, T0 + 2, {field: 1.0}, {}, {})
    await duck.write([reading(T0, pm25=1.0)])

    with pytest.raises(StoreRefused, match=field):
        await duck.write([reading(T0 + 1, pm25=1.0), named])
    assert [reading(T0, pm25=1.0)] == await duck.read("air", T0, T0 + 9)


async def test_two_types_in_one_batch(duck: DuckStore) -> None:
    """A field that is float and text in one batch is refused."""
    text = Point(reading().key, T0 + 1, {}, {}, {"pm25": "high"})

    with pytest.raises(StoreRefused, match="pm25"):
        await duck.write([reading(), text])


async def test_integer_too_large(duck: DuckStore) -> None:
    """An integer beyond 64 bits is refused."""
    with pytest.raises(StoreRefused, match="64 bits"):
        await duck.write([Point(reading().key, T0, {}, {"seq": 2**63}, {})])


@pytest.mark.usefixtures("small_files")
async def test_full_disk(tmp_path: Path) -> None:
    """A full disk makes the store unavailable; with room again the same object writes."""
    store = DuckStore(tmp_path / "store.duckdb")
    await store.open()
    first = [reading(T0)]
    await store.write(first)
    many = [reading(T0 + index, pm25=index / 7, o3=index / 3) for index in range(100_000)]
    with pytest.raises(StoreUnavailable):
        await store.write(many)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await store.write(many[1:])
    kept = await store.read("air", T0, T0 + 100_000, limit=200_000)
    await store.close()

    assert first + many[1:] == kept


async def test_time_is_up(duck: DuckStore) -> None:
    """Work that takes too long makes the store unavailable, and later work is done again."""
    duck.timeout_s = 0.0
    with pytest.raises(StoreUnavailable, match="took over"):
        await duck.write([reading(T0 + 1)])
    duck.timeout_s = 60.0
    await duck.write([reading(T0)])

    assert reading(T0) in await duck.read("air", T0, T0 + 2)


FIELDS = st.sampled_from(["pm25", "pm10", "o3"])
BATCHES = st.lists(
    st.lists(
        st.builds(
            lambda ts, device, values: reading(ts, tags={"device": device}, **values),
            st.integers(-(2**53), 2**53 - 1) | st.integers(0, 2),
            st.sampled_from(["aq-1", "aq-2"]),
            st.dictionaries(FIELDS, st.floats(allow_nan=False, allow_infinity=False), min_size=1),
        ),
        max_size=5,
    ),
    max_size=4,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(BATCHES)
async def test_any_batches(batches: list[list[Point]]) -> None:
    """However points come in batches, each field ends with the value that came last."""
    expected: dict[tuple[PointKey, int], dict[str, float]] = {}
    store = DuckStore(Path(":memory:"))
    await store.open()
    for batch in batches:
        await store.write(batch)
        for point in batch:
            expected.setdefault((point.key, point.ts), {}).update(point.values)
    kept = {(p.key, p.ts): p.values for p in await store.read("air", -(2**53), 2**53)}
    await store.close()

    assert expected == kept
