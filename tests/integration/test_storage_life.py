"""The life of what is stored: how long it is kept, downsampled, backed up and put back."""

import asyncio
import base64
import contextlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import aiohttp
import duckdb
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from broker.topics import Channel, device_topic
from city.cityfile import Address
from city.errors import StoreError
from ingest.duck import DuckStore
from ingest.influx1 import Influx1Store
from ingest.influx2 import Influx2Store
from ingest.influxd import PrivateInfluxd
from ingest.spool import Group, Spool
from ingest.store import Point, PointKey, device_key

DOCKER = Path(__file__).parents[2] / "docker"
T0 = 1_795_413_600_000  # a full hour
DEADLINE_S = 60.0
SECRET = "ingest-secret"  # noqa: S105 - a test's password
STATION = Address("lanting", "east", "air", "park", "aq-1")
TAGS = device_key(STATION).tags
RAW = Point(device_key(STATION), T0, {"pm25": 12.0}, {"seq": 1}, {})
MINUTE = Point(
    PointKey("air_1m", TAGS), T0, {"pm25": 12.0, "pm25_min": 10.0, "pm25_max": 14.0},
    {"pm25_count": 60}, {},
)  # fmt: skip
HOUR = Point(PointKey("air_1h", TAGS), T0, MINUTE.values, MINUTE.counts, {})

RUNNING = """
import asyncio, json, os, sys
from pathlib import Path
from broker.codec import Publish
from ingest.downsampling import Downsampling
from ingest.intake import Intake
from ingest.receiver import Receiver
from ingest.service import IngestService
from ingest.spool import Spool

folder = Path(sys.argv[1])
messages = [(t.encode(), p.encode()) for t, p in json.loads((folder / "messages").read_text())]
acknowledged = folder / "acknowledged"


class Store:
    name = "a file"

    async def write(self, points):
        rows = [p for p in points if p.key.measurement in ("air_1m", "air_1h")]
        with (folder / "rows").open("a") as file:
            for p in rows:
                place = [p.key.measurement, dict(p.key.tags)["device"], p.ts]
                file.write(json.dumps([place, p.values, p.counts]) + "\\n")


class Broker:
    def __init__(self):
        self.next = int(acknowledged.read_text() or 0) if acknowledged.exists() else 0
        self.acknowledged = self.next
        self.more = asyncio.Event()

    async def run(self):
        while self.next < len(messages):
            part = range(self.next, min(self.next + 40, len(messages)))
            self.next = part.stop
            self.more.clear()
            service.receiver.receive(self, [Publish(*messages[n], 1, False, False, 1) for n in part])
            await self.more.wait()
        await asyncio.sleep(3600)

    def pause(self):
        pass

    def resume(self):
        self.more.set()

    def acknowledge(self, mids):
        self.acknowledged += len(mids)
        (folder / "acknowledged.new").write_text(str(self.acknowledged))
        os.replace(folder / "acknowledged.new", acknowledged)
        print("acknowledged", self.acknowledged, flush=True)


async def main():
    global service
    spool = Spool(folder / "spool.sqlite", tail_messages=60, reserve_bytes=0)
    intake = Intake()
    downsampling = Downsampling(intake.series, folder / "intervals", every_s=0.03)
    downsampling.begin(spool.newest)
    service = IngestService(spool=spool, store=Store(), downsampling=downsampling, intake=intake,
                            receiver=Receiver(distance_s=0.001))
    broker = Broker()
    running = asyncio.create_task(service.run(broker))
    while broker.acknowledged < len(messages) and not running.done():
        await asyncio.sleep(0.01)
    await service.writer.drained()
    print(json.dumps(["done", service.consumer_failures, downsampling.late]), flush=True)
    os._exit(0)


asyncio.run(main())
"""


def killed(folder: Path, lines: int | None) -> list[str]:
    """Run ingest until it has said so many lines, then kill it; without `lines`, until it ends."""
    command = [sys.executable, "-c", RUNNING, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines or 0)]
        if lines:
            child.kill()
        said += child.stdout.readlines()
    return said


@pytest.mark.parametrize("kills", [(), (1, 4, 2, 9), (25, 1, 1, 12), (2, 30, 3)])
def test_killed_and_started_again(tmp_path: Path, kills: tuple[int, ...]) -> None:
    """However often ingest is killed, every row tells of every reading just once."""
    messages, minutes, hours = [], defaultdict(list), defaultdict(list)
    for seq in range(1800):
        device, ts, value = f"aq-{seq % 5}", T0 + seq * 7_000, float(seq * 37 % 101)
        content = {"ts": ts, "seq": seq // 5, "values": {"pm25": value}}
        topic = device_topic(Address("lanting", "east", "air", "park", device), Channel.TELEMETRY)
        messages.append((topic, json.dumps(content)))
        minutes["air_1m", device, ts // 60_000 * 60_000].append(value)
        hours["air_1h", device, ts // 3_600_000 * 3_600_000].append(value)
    (tmp_path / "messages").write_text(json.dumps(messages))
    for lines in kills:
        killed(tmp_path, lines)
    said = json.loads(killed(tmp_path, None)[-1])
    rows = {}
    for line in (tmp_path / "rows").read_text().splitlines():
        (measurement, device, ts), values, counts = json.loads(line)
        rows[measurement, device, ts] = (*values.values(), *counts.values())
    expected = {
        place: (pytest.approx(sum(found) / len(found)), min(found), max(found), len(found))
        for place, found in (minutes | hours).items()
        if place in rows
    }
    still_open = set(minutes | hours) - set(rows)

    assert ["done", 0, 0] == said
    assert expected == rows
    assert 10 == len(still_open)  # the last minute and the last hour of each device


@pytest.mark.influxd
async def test_policies(influxd: PrivateInfluxd) -> None:
    """On 1.x downsampled rows have a policy of their own, where readings may expire and they not."""
    store = Influx1Store(influxd.url, "city", retention_days=30)
    await store.open()
    await store.write([RAW, MINUTE, HOUR])
    policies = await query(influxd.url, 'SHOW RETENTION POLICIES ON "city"')
    [series] = await query(influxd.url, 'SELECT count("pm25") FROM "city"."rollup"."air_1m"')
    found = [await store.read(name, T0, T0 + 1) for name in ("air", "air_1m", "air_1h")]
    await store.close()

    assert {("autogen", "720h0m0s", True), ("rollup", "0s", False)} == {
        (row[0], row[1], row[4]) for row in policies[0]["values"]
    }
    assert [[RAW], [MINUTE], [HOUR]] == found
    assert 1 == series["values"][0][1]


@pytest.mark.influxd
@pytest.mark.parametrize("days", [1, 2, 365])
async def test_retention_again(influxd: PrivateInfluxd, days: int) -> None:
    """The retention can be changed by another start, and is not touched without the setting."""
    for given in (7, days, None):
        store = Influx1Store(influxd.url, "city", retention_days=given)
        await store.open()
        await store.close()
    [table] = await query(influxd.url, 'SHOW RETENTION POLICIES ON "city"')

    assert ["autogen", f"{24 * days}h0m0s"] == table["values"][0][:2]


async def query(
    url: str, statement: str, login: tuple[str, str] | None = None
) -> list[dict[str, list[list[object]]]]:
    """The tables of an InfluxQL answer."""
    words = base64.b64encode(":".join(login).encode()).decode() if login else ""
    headers = {"Authorization": f"Basic {words}"} if login else {}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{url}/query", params={"epoch": "ms"}, data={"q": statement}) as answer,
    ):
        content = await answer.json()
    assert "error" not in str(content)
    return [series for result in content["results"] for series in result.get("series", [])]


@pytest.mark.influxd
async def test_start_script(tmp_path: Path) -> None:
    """The profile influx1 makes both policies at its start; a user who may make none is told how."""
    async with PrivateInfluxd(tmp_path / "probe") as probe:
        port = probe.port
    url = f"http://127.0.0.1:{port}"
    process = await started(tmp_path, port)
    try:
        admin = ("admin", "admin-secret")
        await answering(url)
        for statement in (
            "CREATE USER admin WITH PASSWORD 'admin-secret' WITH ALL PRIVILEGES",
            "CREATE DATABASE other",
            "CREATE DATABASE cityeye WITH DURATION 7d NAME autogen",
            "CREATE USER ingest WITH PASSWORD 'ingest-secret'",
            "GRANT ALL ON cityeye TO ingest",
            "GRANT ALL ON other TO ingest",
        ):
            await query(url, statement, admin if "USER admin" not in statement else None)
        with capture_logs() as logs:
            found = await written(Influx1Store(url, "other", user="ingest", password=SECRET))
        async with asyncio.timeout(DEADLINE_S):
            policies: list[list[object]] = []
            while len(policies) < 2:
                [table] = await query(url, "SHOW RETENTION POLICIES ON cityeye", admin)
                policies = table["values"]
        refused = Influx1Store(url, "other", user="ingest", password=SECRET, retention_days=3)
        with pytest.raises(StoreError, match=r"only an administrator .*ALTER RETENTION POLICY"):
            await refused.open()
    finally:
        process.terminate()
        await process.wait()

    assert [["autogen", "720h0m0s"], ["rollup", "0s"]] == [row[:2] for row in policies]
    assert ([MINUTE], 1) == (found, len(logs))
    assert logs[0]["statement"].startswith('CREATE RETENTION POLICY "rollup" ON "other"')


async def written(store: Influx1Store) -> list[Point]:
    """Write a row twice, and read it."""
    await store.open()
    await store.write([MINUTE])
    await store.write([MINUTE])
    found = await store.read("air_1m", T0, T0 + 1)
    await store.close()
    return found


async def started(folder: Path, port: int) -> asyncio.subprocess.Process:
    """The start script with this folder for the container's, and influxd itself for the image's."""
    keys = folder / "keys"
    keys.mkdir()
    for name in ("admin", "ingest", "grafana"):
        (keys / f"influx1-{name}-password").write_text(f"{name}-secret\n")
    entry = folder / "entrypoint.sh"
    entry.write_text('#!/bin/bash\nexec "$@"\n')
    entry.chmod(0o755)
    text = (DOCKER / "influx1" / "start.sh").read_text().replace("/keys/", f"{keys}/")
    text = text.replace("/entrypoint.sh", str(entry))
    text = text.replace("/etc/influxdb/", f"{DOCKER / 'influx1'}/")
    environment = {
        "PATH": "/usr/bin:/bin:/usr/local/bin", "INFLUXDB_ADDRESS": f"127.0.0.1 -port {port}",
        "INFLUXDB_ADMIN_USER": "admin", "INFLUXDB_DB": "cityeye",
        "INFLUXDB_DB_RETENTION_POLICY": "WITH DURATION 30d NAME autogen",
        "INFLUXDB_HTTP_BIND_ADDRESS": f"127.0.0.1:{port}", "INFLUXDB_BIND_ADDRESS": "127.0.0.1:0",
        "INFLUXDB_META_DIR": str(folder / "meta"), "INFLUXDB_DATA_DIR": str(folder / "data"),
        "INFLUXDB_DATA_WAL_DIR": str(folder / "wal"),
    }  # fmt: skip
    script = folder / "start.sh"
    script.write_text(text.replace('-host "$address"', "-host $address"))
    with (folder / "log").open("wb") as log:
        return await asyncio.create_subprocess_exec(
            "bash", str(script), env=environment, stdout=log, stderr=log
        )


async def answering(url: str) -> None:
    """Return when the server answers."""
    async with asyncio.timeout(DEADLINE_S), aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{url}/ping"):
                    return
            await asyncio.sleep(0.05)


@pytest.mark.influxd
async def test_backup_and_restore(influxd: PrivateInfluxd, tmp_path: Path) -> None:
    """What `influxd backup -portable` has written, `influxd restore` puts back: both policies."""
    store = Influx1Store(influxd.url, "city")
    await store.open()
    await store.write([RAW, MINUTE, HOUR])
    address = re.search(r'^bind-address = "(.*)"', conf(influxd), re.MULTILINE)
    assert address is not None
    await tool("backup", "-portable", "-host", address[1], "-database", "city", str(tmp_path / "b"))
    await query(influxd.url, 'DROP DATABASE "city"')
    await tool("restore", "-portable", "-host", address[1], "-db", "city", str(tmp_path / "b"))
    found = [await restored(store, name) for name in ("air", "air_1m", "air_1h")]
    await store.write([RAW])
    await store.close()

    assert [[RAW], [MINUTE], [HOUR]] == found


async def restored(store: Influx1Store, name: str) -> list[Point]:
    """What is there again; for a moment after a restore the server says that it is not ready."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(StoreError):
                return await store.read(name, T0, T0 + 1)
            await asyncio.sleep(0.05)


def conf(influxd: PrivateInfluxd) -> str:
    """The server's configuration."""
    return (influxd.directory / "influxdb.conf").read_text()


async def tool(*words: str) -> None:
    """Run influxd's own tool."""
    process = await asyncio.create_subprocess_exec(
        "influxd", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(DEADLINE_S):
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


async def test_missing_bucket() -> None:
    """On 2.x, without a second bucket, rows go to the readings' bucket, which is said once."""
    asked: list[tuple[str, bytes]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.query["bucket"], (await request.read())[:6]))
        return web.Response(status=404 if request.query["bucket"].endswith("_rollup") else 204)

    async with serving(answer) as url:
        store = Influx2Store(url, "org", "city")
        await store.open()
        asked.clear()
        with capture_logs() as logs:
            await store.write([RAW, MINUTE])
            await store.write([MINUTE])
        await store.close()

    assert [
        ("city", b"air,ci"), ("city_rollup", b"air_1m"), ("city", b"air_1m"), ("city", b"air_1m")
    ] == asked  # fmt: skip
    assert ["warning"] == [log["log_level"] for log in logs]


@contextlib.asynccontextmanager
async def serving(answer):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """A server that answers everything so."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_duckdb_copies(tmp_path: Path) -> None:
    """A closed DuckDB file is copied as it stands, and exported to Parquet by its own command."""
    store = DuckStore(tmp_path / "store.duckdb")
    await store.open()
    await store.write([RAW, MINUTE])
    await store.close()
    shutil.copy(tmp_path / "store.duckdb", tmp_path / "copy.duckdb")
    with duckdb.connect(str(tmp_path / "copy.duckdb")) as copy:
        copy.execute(f"EXPORT DATABASE '{tmp_path / 'export'}' (FORMAT parquet)")
    with duckdb.connect(str(tmp_path / "back.duckdb")) as back:
        back.execute(f"IMPORT DATABASE '{tmp_path / 'export'}'")
    again = DuckStore(tmp_path / "back.duckdb")
    await again.open()
    found = [await again.read(name, T0, T0 + 1) for name in ("air", "air_1m")]
    await again.write([RAW])
    await again.close()

    assert [[RAW], [MINUTE]] == found


def test_spool_copies(tmp_path: Path) -> None:
    """`VACUUM INTO` copies a spool that is in use, complete to its last group."""
    spool = Spool(tmp_path / "spool.sqlite", reserve_bytes=0)
    spool.append(Group([(b"topic", b"payload")], [MINUTE]))
    with contextlib.closing(sqlite3.connect(tmp_path / "spool.sqlite")) as other:
        other.execute("VACUUM INTO ?", (str(tmp_path / "copy.sqlite"),))
    spool.close()
    copy = Spool(tmp_path / "copy.sqlite", reserve_bytes=0)
    found = copy.after(0, 10)
    copy.close()

    assert [(1, [(b"topic", b"payload")], [MINUTE])] == found
