"""What every store promises, on DuckDB and on a real InfluxDB 1.x."""

import socket
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest

from city.cityfile import Address
from city.errors import StoreError, StoreRefused, StoreUnavailable
from ingest import influxd as influxd_module
from ingest.influx1 import Influx1Store, PrivateInfluxStore
from ingest.influxd import PrivateInfluxd
from ingest.store import Point, PointKey, Store, device_key

T0 = 1795413600000
AIR = device_key(Address("xinzhou", "east", "air", "park", "aq-1"))


def reading(
    ts: int = T0,
    *,
    key: PointKey = AIR,
    values: Mapping[str, float] | None = None,
    counts: Mapping[str, int] | None = None,
    texts: Mapping[str, str] | None = None,
) -> Point:
    """A point of one device; `seq` 1 unless other fields are given."""
    if values is None and counts is None and texts is None:
        counts = {"seq": 1}
    return Point(key, ts, dict(values or {}), dict(counts or {}), dict(texts or {}))


async def execute(server: PrivateInfluxd, statement: str, **login: str) -> None:
    """Run one InfluxQL statement on `server`."""
    query = {"q": statement, **login}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{server.url}/query", params=query) as answer,
    ):
        assert "error" not in await answer.text()


async def kept(store: Store, measurement: str = "air") -> list[Point]:
    """All that `store` has of a measurement."""
    return await store.read(measurement, -(2**53), 2**53)


async def test_write_and_read(store: Store) -> None:
    """What is written is read back equal: floats, integers, texts, tags and instant."""
    point = reading(
        values={"pm25": 12.4, "no2": 0.1 + 0.2, "co": 5e-324, "o3": -1.7976931348623157e308},
        counts={"seq": 1873, "most": 2**63 - 1, "least": -(2**63)},
        texts={"no2_flag": "D"},
    )
    await store.write([point])

    assert [point] == await kept(store)


async def test_writing_twice(store: Store) -> None:
    """Writing the same points again changes nothing."""
    points = [reading(T0 + index, values={"pm25": index / 7}) for index in range(10)]
    await store.write(points)
    await store.write(points[3:])

    assert points == await kept(store)


async def test_later_fields_join(store: Store) -> None:
    """Fields that come later join the earlier ones of the same device and instant."""
    await store.write([reading(values={"pm25": 1.0, "pm10": 2.0})])
    await store.write([reading(values={"pm10": 3.0, "o3": 4.0}, texts={"o3_flag": "T"})])

    merged = reading(values={"pm25": 1.0, "pm10": 3.0, "o3": 4.0}, texts={"o3_flag": "T"})
    assert [merged] == await kept(store)


async def test_one_instant_twice_in_a_batch(store: Store) -> None:
    """Two points of one device and instant in the same batch become one, the later one winning."""
    await store.write(
        [reading(values={"pm25": 1.0, "o3": 9.0}), reading(values={"pm25": 2.0, "pm10": 3.0})]
    )

    assert [reading(values={"pm25": 2.0, "o3": 9.0, "pm10": 3.0})] == await kept(store)


@pytest.mark.parametrize(
    "text",
    [
        "a b",
        "a,b",
        "a=b",
        '"a"',
        "a\\b",
        "a\tb",
        "100 %s",
        "细颗粒物",
        "'; DROP TABLE air; --",
        "#",
    ],
)
async def test_tags_survive(store: Store, text: str) -> None:
    """Tags and names with blanks, commas, quotes and other scripts are read back as they were."""
    key = PointKey("air", (("site", text), (f"tag {text}", "x")))
    await store.write([reading(key=key, values={f"field {text}": 1.5})])

    assert [reading(key=key, values={f"field {text}": 1.5})] == await kept(store)


@pytest.mark.parametrize("text", ["", 'say "hi"', "a\\", "a\\n", "two\nlines", "a=1,b=2 3", "报警"])
async def test_texts_survive(store: Store, text: str) -> None:
    """Texts are read back as they were, line breaks and backslashes included."""
    await store.write([reading(texts={"message": text})])

    assert [reading(texts={"message": text})] == await kept(store)


async def test_integers_stay_integers(store: Store) -> None:
    """A whole float stays a float, and an integer an integer."""
    await store.write([reading(values={"pm25": 31.0}, counts={"seq": 31})])
    [point] = await kept(store)

    assert (float, int) == (type(point.values["pm25"]), type(point.counts["seq"]))


async def test_ten_thousand_points(store: Store) -> None:
    """One write takes 10,000 points and keeps every one."""
    points = [
        reading(T0 + index, values={"pm25": index / 10, "pm10": index / 3}, counts={"seq": index})
        for index in range(10_000)
    ]
    await store.write(points)

    assert points == await kept(store)


async def test_no_points(store: Store) -> None:
    """Writing nothing is allowed."""
    await store.write([])

    assert not await kept(store)


async def test_span(store: Store) -> None:
    """Reading begins with the start, ends before the stop, and goes from old to new."""
    points = [reading(T0 + index) for index in range(5)]
    await store.write(points[::-1])

    assert points[1:4] == await store.read("air", T0 + 1, T0 + 4)


async def test_limit(store: Store) -> None:
    """At most as many points as asked for are read, the oldest ones."""
    points = [reading(T0 + index) for index in range(5)]
    await store.write(points)

    assert points[:2] == await store.read("air", T0, T0 + 5, limit=2)


async def test_measurements_are_apart(store: Store) -> None:
    """A measurement has only its own points, and an unknown one has none."""
    gas = reading(key=PointKey("gas", AIR.tags))
    await store.write([reading(), gas])

    assert [gas] == await kept(store, "gas")
    assert not await kept(store, "water")


async def test_devices_are_apart(store: Store) -> None:
    """Points of one instant with different tags, or fewer tags, are different points."""
    keys = [AIR, PointKey("air", (("city", "xinzhou"),)), PointKey("air", (("zone", "a"),))]
    points = [reading(key=key, values={"pm25": float(i)}) for i, key in enumerate(keys)]
    for point in points:
        await store.write([point])

    assert points == sorted(await kept(store), key=lambda point: point.values["pm25"])


async def test_type_conflict(store: Store) -> None:
    """A float field that comes as text is refused, and the text says which field it is."""
    await store.write([reading(T0, values={"pm25": 1.0})])

    with pytest.raises(StoreRefused, match="pm25"):
        await store.write([reading(T0 + 1, texts={"pm25": "high"})])


async def test_good_neighbours(store: Store) -> None:
    """The good points of a refused batch are kept when they are written without the bad one."""
    good = [reading(T0 + index, values={"pm25": 1.0}) for index in range(3)]
    bad = reading(T0 + 9, counts={"pm25": 1})
    await store.write(good[:1])
    with pytest.raises(StoreRefused):
        await store.write([*good, bad])
    await store.write(good)

    assert good == await kept(store)


async def test_value_that_is_no_number(store: Store) -> None:
    """A value that is not finite is refused and nothing of it is kept."""
    with pytest.raises(StoreRefused, match="finite"):
        await store.write([reading(values={"pm25": float("nan")})])

    assert not await kept(store)


async def test_closed(store: Store) -> None:
    """A store that was closed says so; closing it again is allowed."""
    await store.close()
    await store.close()

    with pytest.raises(StoreError, match="not open"):
        await store.write([reading()])


async def test_closed_and_opened(store: Store) -> None:
    """What was written is there when the same store is opened again."""
    await store.write([reading()])
    await store.close()
    await store.open()

    assert [reading()] == await kept(store)


async def test_unreachable() -> None:
    """A server that is not there is unavailable, and the text has its address."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        store = Influx1Store(f"http://{address}", "tests")

        with pytest.raises(StoreUnavailable, match=address):
            await store.open()


async def test_server_that_says_nothing() -> None:
    """A server that takes the request and never answers is unavailable after the time-out."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        store = Influx1Store(f"http://127.0.0.1:{silent.getsockname()[1]}", "t", timeout_s=0.1)

        with pytest.raises(StoreUnavailable, match="in time"):
            await store.open()


@pytest.mark.influxd
async def test_server_comes_back(influxd: PrivateInfluxd, influx1: Influx1Store) -> None:
    """A stopped server is unavailable; once it is back, the same store object writes again."""
    await influx1.write([reading(T0)])
    await influxd.stop()
    with pytest.raises(StoreUnavailable, match=influxd.url):
        await influx1.write([reading(T0 + 1)])
    await influxd.start()
    await influx1.write([reading(T0 + 1)])

    assert [reading(T0), reading(T0 + 1)] == await kept(influx1)


@pytest.mark.influxd
async def test_partial_write(influx1: Influx1Store) -> None:
    """InfluxDB 1.x itself keeps the good points of a batch and says that it was partial."""
    good, late = reading(T0), reading(2**53)
    with pytest.raises(StoreRefused, match="partial write"):
        await influx1.write([good, late])

    assert [good] == await kept(influx1)


@pytest.mark.influxd
async def test_dropped_database(influxd: PrivateInfluxd, influx1: Influx1Store) -> None:
    """A database that somebody drops is made anew by the next write."""
    await execute(influxd, 'DROP DATABASE "tests"')
    await influx1.write([reading()])

    assert [reading()] == await kept(influx1)


@pytest.mark.influxd
async def test_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that asks for a login takes the right one and names the settings to check."""
    asking = influxd_module.CONFIGURATION.replace("auth-enabled = false", "auth-enabled = true")
    monkeypatch.setattr(influxd_module, "CONFIGURATION", asking)
    async with PrivateInfluxd(tmp_path) as server:
        await execute(server, "CREATE USER ann WITH PASSWORD 'geheim' WITH ALL PRIVILEGES")
        right = Influx1Store(server.url, "tests", user="ann", password="geheim")  # noqa: S106 - a test's password
        await right.open()
        await right.close()

        with pytest.raises(StoreError, match="CITYEYE_STORE_PASSWORD"):
            await Influx1Store(server.url, "tests", user="ann", password="no").open()  # noqa: S106 - the same


@pytest.mark.influxd
async def test_writer_without_rights_of_an_administrator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who may write to the database but make none can use one that is there."""
    asking = influxd_module.CONFIGURATION.replace("auth-enabled = false", "auth-enabled = true")
    monkeypatch.setattr(influxd_module, "CONFIGURATION", asking)
    async with PrivateInfluxd(tmp_path) as server:
        for statement in (
            "CREATE USER root WITH PASSWORD 'root' WITH ALL PRIVILEGES",
            "CREATE DATABASE tests",
            "CREATE USER bob WITH PASSWORD 'bob'",
            "GRANT ALL ON tests TO bob",
        ):
            await execute(server, statement, u="root", p="root")
        store = Influx1Store(server.url, "tests", user="bob", password="bob")  # noqa: S106 - a test's password
        await store.open()
        await store.write([reading()])
        points = await kept(store)
        await store.close()

    assert [reading()] == points


@pytest.mark.influxd
async def test_private_store(tmp_path: Path) -> None:
    """The private store brings its own server, keeps its data, and takes the server with it."""
    store = PrivateInfluxStore(tmp_path)
    await store.open()
    await store.write([reading()])
    await store.close()
    assert not store.influxd.running
    await store.open()
    points = await kept(store)
    await store.close()

    assert [reading()] == points


@pytest.mark.influxd
async def test_private_server_that_dies(tmp_path: Path) -> None:
    """The private store starts its server again when that has died."""
    store = PrivateInfluxStore(tmp_path)
    await store.open()
    await store.write([reading(T0)])
    await store.influxd.stop()
    await store.write([reading(T0 + 1)])
    points = await kept(store)
    await store.close()

    assert [reading(T0), reading(T0 + 1)] == points
