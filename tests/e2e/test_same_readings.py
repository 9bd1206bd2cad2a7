"""One city file, one seed, one time: the same readings, however they are made."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pytest

from city.quantities import Domain, quantities_of

TIMEOUT_S = 300
SHARD = """
import hashlib, json, sys
from city.scenarios import load_scenario, with_scenario
from city.cityfile import load_city
from sensors.engine import CityEngine

number, count = int(sys.argv[1]), int(sys.argv[2])
city = with_scenario(load_city("lanting"), load_scenario("sensor-faults"))
engine = CityEngine(city, seed=7, start_ms=1780272000000, shard=(number, count))
seen = {}
for frame in engine.frames(1780272000000, 1780272000000 + 3 * 3600_000):
    for row, ts, values, flags in zip(frame.rows, frame.ts, frame.values, frame.flags):
        digest = seen.setdefault(frame.group.devices[row].name, hashlib.sha256())
        digest.update(ts.tobytes() + values.tobytes() + flags.tobytes())
print(json.dumps({name: digest.hexdigest() for name, digest in seen.items()}))
"""


def shard(number: int, count: int) -> dict[str, str]:
    """A digest of every reading of each device of one shard, made in a process of its own."""
    words = [sys.executable, "-c", SHARD, str(number), str(count)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    digests: dict[str, str] = json.loads(done.stdout)
    return digests


def test_processes() -> None:
    """One process and four together make the same readings, bit for bit."""
    whole = shard(0, 1)
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda number: shard(number, 4), range(4)))

    assert 60 == len(whole)
    assert whole == {name: digest for part in parts for name, digest in part.items()}


def cityeye(folder: Path, *words: str) -> None:
    """Run the shipped command to a good end."""
    command = Path(sys.executable).parent / "cityeye"
    done = subprocess.run(
        [command, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert 0 == done.returncode, done.stderr[-2000:]


def readings(source: str, domain: Domain, instant: str) -> list[tuple[Any, ...]]:
    """Every reading of a domain with its place and instant [ms], in order."""
    names = ", ".join(quantity.id for quantity in quantities_of(domain) if quantity.hj212)
    with duckdb.connect() as database:
        database.execute("ATTACH 'data/store.duckdb' AS live (READ_ONLY)")
        query = f"SELECT site, device, {instant}, {names} FROM {source} ORDER BY ALL"
        rows: list[tuple[Any, ...]] = database.execute(query).fetchall()
        return rows


@pytest.mark.mosquitto
def test_live_and_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A live run at speed 600 stores what `generate` writes, bit for bit."""
    monkeypatch.chdir(tmp_path)
    cityeye(
        tmp_path, "run", "--broker", "mosquitto", "--speed", "600", "--for", "10m", "--data", "data"
    )
    cityeye(tmp_path, "generate", "--for", "10m", "--out", "files")
    for domain in (Domain.AIR, Domain.WATER):
        live = readings(f"live.{domain.value}", domain, "epoch_ms(ts)")
        generated = readings(f"'files/{domain.value}-2026-06-01.parquet'", domain, "epoch_ms(ts)")

        assert live
        assert generated == live
