"""Which store a text names, and what is said when it names none."""

from pathlib import Path

import pytest

from city.errors import SettingError
from ingest.duck import DuckStore
from ingest.influx1 import Influx1Store, PrivateInfluxStore
from ingest.influx2 import Influx2Store
from ingest.store import Store
from ingest.storeurl import SPECS, open_store

DATA = Path("data")


def named(spec: str) -> Store:
    """The store that `spec` names, where nothing but the text decides."""
    return open_store(spec, data_dir=DATA)


def told(spec: str) -> str:
    """What the user reads about a `spec` that names no store."""
    with pytest.raises(SettingError) as caught:
        named(spec)
    return str(caught.value)


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("duckdb", DuckStore),
        ("duckdb:here.duckdb", DuckStore),
        ("influxd", PrivateInfluxStore),
        ("influx1://localhost:8086/cityeye", Influx1Store),
        ("influx1s://localhost/cityeye", Influx1Store),
        ("influx2://localhost:8086/org/bucket", Influx2Store),
        ("influx2s://localhost/org/bucket", Influx2Store),
    ],
)
def test_kinds(spec: str, kind: type[Store]) -> None:
    """The first word of the text decides which kind of store it is."""
    assert kind is type(named(spec))


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("duckdb", f"DuckDB file {DATA / 'store.duckdb'}"),
        ("duckdb:a/b.duckdb", f"DuckDB file {Path('a/b.duckdb')}"),
        ("influx1://db:1/city", "InfluxDB 1.x at http://db:1, database city"),
        ("influx1s://db/city", "InfluxDB 1.x at https://db:8086, database city"),
        ("influx1://[::1]/my%20city", "InfluxDB 1.x at http://[::1]:8086, database my city"),
        ("influx2://db:1/org/bucket", "InfluxDB 2 at http://db:1, bucket org/bucket"),
        ("influx2s://db/org/a%2Fb/", "InfluxDB 2 at https://db:8086, bucket org/a/b"),
    ],
)
def test_names(spec: str, name: str) -> None:
    """A store is named with its file, or its address and place; the port is 8086 by default."""
    assert name == named(spec).name


def test_private_server_lives_in_the_data_directory() -> None:
    """The private InfluxDB keeps its files below the data directory."""
    store = named("influxd")

    assert isinstance(store, PrivateInfluxStore)
    assert (DATA / "influxd").absolute() == store.influxd.directory


@pytest.mark.parametrize(
    "spec",
    [
        "influx1://user:geheim@db/city",
        "influx1://user:ge/heim@db/city",
        "influx1://db/city?p=geheim",
        "influx2://geheim@db/org/bucket",
        "influx2://db/org/bucket#geheim",
    ],
)
def test_secret_in_the_address(spec: str) -> None:
    """A secret in the address is refused, not repeated, and the right place for it is named."""
    text = told(spec)

    assert "geheim" not in text
    assert "CITYEYE_STORE_TOKEN" in text
    assert "CITYEYE_STORE_PASSWORD" in text


def test_secret_in_an_unknown_address() -> None:
    """Not even the refusal of an unknown kind of address repeats a secret in it."""
    assert "geheim" not in told("http://user:geheim@db/city")


def test_nearest_kind() -> None:
    """An unknown kind is answered with the nearest known one and all that is allowed."""
    text = told("duckbd")

    assert "did you mean 'duckdb'?" in text
    assert all(spec in text for spec in SPECS)


@pytest.mark.parametrize(
    ("spec", "needs"),
    [
        ("", "duckdb"),
        ("duckdb:", "duckdb:PATH"),
        ("influxd:here", "takes no address"),
        ("influx1", "HOST:PORT"),
        ("influx1:city", "HOST:PORT"),
        ("influx1://db:port/city", "HOST:PORT"),
        ("influx1://db:99999/city", "HOST:PORT"),
        ("influx1://db:8086", "/DATABASE"),
        ("influx1://db:8086/a/b", "/DATABASE"),
        ("influx2://db:8086/bucket", "/ORG/BUCKET"),
        ("influx2://db:8086/org/", "/ORG/BUCKET"),
    ],
)
def test_incomplete(spec: str, needs: str) -> None:
    """A text that lacks a part is answered with the form that has it."""
    assert needs in told(spec)


@pytest.mark.parametrize(
    ("user", "password", "missing"),
    [("ann", None, "CITYEYE_STORE_PASSWORD"), (None, "geheim", "CITYEYE_STORE_USER")],
)
def test_half_a_login(user: str | None, password: str | None, missing: str) -> None:
    """A user without password, or the other way round, is told which setting is missing."""
    with pytest.raises(SettingError, match=missing):
        open_store("influx1://db/city", data_dir=DATA, user=user, password=password)


def test_name_without_secrets() -> None:
    """A store's name tells neither user nor password nor token."""
    one = open_store("influx1://db/city", data_dir=DATA, user="ann", password="geheim")  # noqa: S106 - a test's password
    two = open_store("influx2://db/org/bucket", data_dir=DATA, token="geheim")  # noqa: S106 - the same

    assert "geheim" not in one.name + two.name
