"""`cityeye doctor`: which real servers are found, which would be used, what is missing."""

import asyncio
import os
import platform
import resource
import sqlite3
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from broker.choice import BrokerAddress, OwnBroker, parse_broker
from broker.mosquitto import answers, mosquitto_version
from city.errors import CityEyeError
from city.settings import Settings
from cli.keys import look_at_keys, look_at_tls, port_free
from cli.summary import Outcome
from ingest.influxd import influxd_version
from ingest.mapping import bucket_of, mapping_problem
from ingest.storeurl import open_store

_COMMITS: Final = 20
_TAKEN: Final = (
    "port {} of 127.0.0.1 is in use by another program; stop it, or choose another with "
    "--broker-port"
)
_INSTALL: Final = "not found; `make services` installs it on Debian and Ubuntu"


async def examine(settings: Settings) -> Outcome:
    """Look at the machine and at what the settings point to."""
    mosquitto = await asyncio.to_thread(mosquitto_version)
    influxd = await asyncio.to_thread(influxd_version)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    broker, broker_fine = await _broker(settings, mosquitto)
    if not port_free(settings):
        broker_fine, broker = False, _TAKEN.format(settings.broker_port)
    guard, guard_fine = await asyncio.to_thread(look_at_keys, settings)
    store, store_fine = await _store(settings)
    data, data_fine = await asyncio.to_thread(_data, settings.data)
    figures: dict[str, Any] = {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "cityeye": version("cityeye"),
        "mosquitto": mosquitto or _INSTALL,
        "influxd": influxd or _INSTALL,
        "embedded_broker": f"amqtt {version('amqtt')}",
        "embedded_store": f"DuckDB {version('duckdb')}",
        "broker": broker,
        **guard,
        "store": store,
        "data": data,
        "devices_per_process": f"about {max(0, soft - 200):,} (descriptor limit {soft:,})",
    }
    return Outcome(figures, complete=broker_fine and guard_fine and store_fine and data_fine)


async def _broker(settings: Settings, mosquitto: str | None) -> tuple[str, bool]:
    address = parse_broker(settings.broker) if settings.broker is not None else None
    if address is None:
        chosen = OwnBroker.MOSQUITTO if mosquitto else OwnBroker.EMBEDDED
        return f"would use {chosen.value}", True
    if address is OwnBroker.MOSQUITTO and not mosquitto:
        return f"mosquitto is wanted and {_INSTALL}", False
    if not isinstance(address, BrokerAddress):
        return f"would use {address.value}", True
    if address.tls:
        return await look_at_tls(settings, address)
    if await answers(address.host, address.port):
        return f"{address} answers", True
    return f"{address} does not answer; start it, or give another one with --broker", False


async def _store(settings: Settings) -> tuple[str, bool]:
    if settings.store == "influxd":
        found = influxd_version()
        return ("would start a private InfluxDB" if found else f"influxd is {_INSTALL}"), bool(
            found
        )
    store = open_store(
        settings.store,
        data_dir=settings.data,
        token=settings.store_token,
        user=settings.store_user,
        password=settings.store_password,
    )
    if settings.store.startswith("duckdb"):
        return f"would use {store.name}", True
    try:
        await store.open()
    except CityEyeError as error:
        return str(error), False
    finally:
        await store.close()
    problem = await _unreadable(settings)
    return problem or f"{store.name} answers", problem is None


async def _unreadable(settings: Settings) -> str | None:
    """Why what is written to an InfluxDB 2 cannot be read by InfluxQL, if so."""
    found = bucket_of(settings.store)
    if found is None:
        return None
    url, org, bucket = found
    return await mapping_problem(url, bucket, org=org, token=settings.store_token)


def _data(directory: Path) -> tuple[str, bool]:
    """Whether the spool can be written there, and what a durable commit costs."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            database = sqlite3.connect(Path(folder) / "try.sqlite", isolation_level=None)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.execute("CREATE TABLE t (x)")
            started_s = time.perf_counter()
            for number in range(_COMMITS):
                database.execute("INSERT INTO t VALUES (?)", (number,))
            each_ms = (time.perf_counter() - started_s) / _COMMITS * 1000
            database.close()
    except (OSError, sqlite3.Error) as error:
        return f"{directory} cannot hold the spool: {error}", False
    return f"{directory}, a durable commit takes {each_ms:.1f} ms", True
