"""How districts are divided among owners on a cluster, and what owners cannot share."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from city.cityfile import City
from city.errors import SettingError
from city.settings import Settings
from city.synthetic import synthetic_city
from cli.ingestcluster import _check, _check_division, divided
from cli.owner import ORDERS, Own, encoded, sendable
from ingest.ledger import Ledger

CITY: City = synthetic_city(400, interval_s=60.0, seed=1, kinds=("air-micro",))
KNOWN = [district.id for district in CITY.districts]
BROKER = "mqtt://broker.invalid"


@given(owners=st.integers(1, len(KNOWN)))
def test_every_district_has_one_owner(owners: int) -> None:
    """Whatever the number of owners, each district has exactly one, and no owner has none."""
    shares = divided(CITY, owners)

    assert sorted(KNOWN) == sorted(district for own in shares for district in own)
    assert owners == len(shares)
    assert all(shares)


def test_some_districts() -> None:
    """Only the districts that are asked for are divided, in the order of the city file."""
    assert [(KNOWN[0],), (KNOWN[2],)] == divided(CITY, 2, [KNOWN[2], KNOWN[0]])


@pytest.mark.parametrize("owners", [0, len(KNOWN) + 1])
def test_too_many_owners(owners: int) -> None:
    """A district has one owner, so there are no more owners than districts."""
    with pytest.raises(SettingError, match=f"give 1 to {len(KNOWN)}, not {owners}"):
        divided(CITY, owners)


@pytest.mark.parametrize("store", ["duckdb", "duckdb:/srv/city.duckdb", "influxd"])
def test_store_of_one_process(store: str) -> None:
    """A store that one process writes cannot be shared; the text names those that can."""
    with pytest.raises(SettingError, match="give influx1://HOST:PORT/DATABASE"):
        _check(Settings(broker=BROKER, store=store))


@pytest.mark.parametrize("broker", [None, "embedded", "mosquitto"])
def test_broker_of_the_command(broker: str | None) -> None:
    """A broker that the command would start is not one that other machines reach."""
    with pytest.raises(SettingError, match="a broker that all of them reach"):
        _check(Settings(broker=broker, store="influx1://store.invalid/city"))


def test_another_division(tmp_path: Path) -> None:
    """A data directory with the spools of another division is refused: they hold what is pending."""
    (tmp_path / "north.east").mkdir()
    (tmp_path / "north.east" / "spool.sqlite").touch()

    _check_division(Settings(data=tmp_path), [("north", "east"), ("west",)])
    with pytest.raises(SettingError, match=r"with north\.east; give the same --share"):
        _check_division(Settings(data=tmp_path), [("north",), ("east", "west")])


def test_what_travels(tmp_path: Path) -> None:
    """Secrets stay, paths become absolute, and the order arrives as it was sent."""
    secrets = {"broker_password": "quiet", "store_token": "hush"}
    settings = Settings(data=Path("data"), rules=("gas-burst",), broker_ca=tmp_path / "ca.crt")
    settings = msgspec.structs.replace(settings, **secrets)
    order = Own(sendable(settings), 5, Ledger(received=3, written=3))
    body = encoded(order)

    assert order == ORDERS.decode(body)
    assert b"quiet" not in body
    assert b"hush" not in body
    assert Path("data").absolute() == order.settings.data
