"""Fleet, services and certificates on a guarded Mosquitto."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from broker.certificates import new_ca, new_client, new_server, read_signed
from broker.choice import BrokerAddress, tls_context
from broker.credentials import Login, read_credentials
from broker.guarded import GuardedMosquitto
from broker.installation import BROKER_FOLDER, CA, CA_KEY, CLIENTS_FOLDER, Plan, install
from broker.mosquittoconf import SERVER_FILE, SERVER_KEY_FILE
from broker.session import Session
from city.cityfile import City, check_city
from city.clock import Clock, wall_ms
from city.documents import Document
from city.errors import BrokerError
from sensors.engine import CityEngine
from sensors.fleet import Fleet

pytestmark = pytest.mark.mosquitto

CITY: Final = """
city: testville
districts: [{id: d1}]
sites:
  - id: air-1
    district: d1
    domain: air
    devices: [{id: a, kind: air-micro, interval_s: 0.2}, {id: b, kind: air-micro, interval_s: 0.2}]
"""
HOUR: Final = timedelta(hours=1)
Until = Callable[..., Awaitable[None]]


def city() -> City:
    """The city in `CITY`."""
    return check_city(Document(CITY, "test.yaml"))


class Shown(GuardedMosquitto):
    """A guarded Mosquitto that shows another certificate than its own."""

    def __init__(self, folder: Path, *, certificate: str = "") -> None:
        super().__init__(folder, city())
        self.certificate = certificate

    @property
    def address(self) -> BrokerAddress:
        """The listener with TLS."""
        return BrokerAddress(self.host, self.tls_port, tls=True)

    def session(self, role: str, **options: Any) -> Session:
        """A session of a role, by its own CA and secret unless told otherwise."""
        secret = read_credentials(self.credentials_path).roles[role]
        options = {"password": secret, "tls": tls_context(self.address, self.ca_path)} | options
        address = BrokerAddress(self.host, self.tls_port, tls=True, username=role)
        return Session(options.pop("address", address), client_id="c", clean=True, **options)

    def _write_configuration(self) -> Any:
        conf, log = super()._write_configuration()
        ca = read_signed(self.data_dir / CA, self.data_dir / CA_KEY)
        assert ca is not None
        now = datetime.now(UTC)
        server = {
            "expired": lambda: new_server(ca, ["127.0.0.1"], now - timedelta(days=400)),
            "future": lambda: new_server(ca, ["127.0.0.1"], now + 24 * HOUR),
            "foreign": lambda: new_server(new_ca("other", now), ["127.0.0.1"], now),
            "other host": lambda: new_server(ca, ["broker.example.org"], now),
        }.get(self.certificate)
        if server is not None:
            signed = server()
            (self.data_dir / BROKER_FOLDER / SERVER_FILE).write_bytes(signed.certificate_pem)
            (self.data_dir / BROKER_FOLDER / SERVER_KEY_FILE).write_bytes(signed.key_pem)
        return conf, log


@contextlib.asynccontextmanager
async def working(session: Session) -> AsyncIterator[asyncio.Task[None]]:
    """The session's task while it runs."""
    task = asyncio.create_task(session.run(), name="session")
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def refusal(session: Session) -> str:
    """What a session says that does not get in."""
    async with working(session):
        with pytest.raises(BrokerError) as caught:
            await session.ready(patience_s=60)
    return str(caught.value)


@pytest.mark.parametrize(
    ("certificate", "why", "remedy"),
    [
        ("expired", "has expired", "run `cityeye broker init` again where it runs and reload it"),
        ("future", "is not valid yet", "is the clock of this machine right?"),
        ("foreign", "of a CA that we do not trust", "give the broker's ca.crt with --broker-ca"),
        ("other host", "for other host names", "run `cityeye broker init --host NAME` where it"),
    ],
)
async def test_certificates(tmp_path: Path, certificate: str, why: str, remedy: str) -> None:
    """A certificate that does not do ends the session at once, in one line with the remedy."""
    async with Shown(tmp_path / "broker", certificate=certificate) as broker:
        said = await refusal(broker.session("ingest"))

    assert (True, True, 1) == (why in said, remedy in said, len(said.splitlines()))


async def test_password(tmp_path: Path) -> None:
    """A wrong password ends the session at once and is not repeated to anybody."""
    async with Shown(tmp_path / "broker") as broker:
        said = await refusal(broker.session("ingest", password="wr0ng"))  # noqa: S106 - it is wrong

    assert "CITYEYE_BROKER_CREDENTIALS" in said
    assert "wr0ng" not in said


@pytest.mark.parametrize("own", ["none", "foreign", "right"])
async def test_client_certificates(tmp_path: Path, own: str) -> None:
    """Where the broker wants to see a certificate, only one of its own CA and a login do together."""
    folder = tmp_path / "broker"
    install(folder, city(), Plan(client_certificates=True))
    strange = new_client(new_ca("other", datetime.now(UTC)), "ingest", datetime.now(UTC))
    (tmp_path / "s.crt").write_bytes(strange.certificate_pem)
    (tmp_path / "s.key").write_bytes(strange.key_pem)
    pair = {
        "none": (None, None),
        "foreign": (tmp_path / "s.crt", tmp_path / "s.key"),
        "right": (folder / CLIENTS_FOLDER / "ingest.crt", folder / CLIENTS_FOLDER / "ingest.key"),
    }[own]
    async with Shown(folder) as broker:
        tls = tls_context(broker.address, broker.ca_path, certificate=pair[0], key=pair[1])
        session = broker.session("ingest", tls=tls)
        if own == "right":
            async with working(session):
                await session.ready(patience_s=60)
            assert 1 == session.connections
        else:
            assert "--broker-certificate and --broker-key" in await refusal(session)


async def test_rotated(tmp_path: Path, until: Until) -> None:
    """A session that worked outlives a change of its password: it says so, and waits for it."""
    async with Shown(tmp_path / "broker") as broker:
        session = broker.session("ingest")
        with capture_logs() as logs:
            async with working(session) as task:
                await session.ready(patience_s=60)
                await broker.stop()
                install(broker.data_dir, city(), Plan(rotate=("ingest",)))
                await broker.start()
                await until(lambda: "not authorised" in (session.trouble or ""))

                assert not task.done()

    said = [entry for entry in logs if "not authorised" in str(entry.get("why"))]
    assert 1 == len(said)


@contextlib.asynccontextmanager
async def fleet_on(broker: Shown, logins: dict[str, Login]) -> AsyncIterator[Fleet]:
    """A fleet of the city, each device with its login."""
    start_ms = wall_ms()
    engine = CityEngine(city(), seed=1, start_ms=start_ms)
    tls = tls_context(broker.address, broker.ca_path)
    fleet = Fleet(engine, Clock(start_ms), broker.address, logins=logins, tls=tls)
    playing = asyncio.create_task(fleet.run(), name="fleet")
    try:
        yield fleet
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
        for device in fleet.devices:
            device._backlog.clear()
        await fleet.leave()


def logins_of(broker: Shown) -> dict[str, Login]:
    """The login of every device."""
    known = read_credentials(broker.credentials_path)
    return {str(d.address): known.of_device(d.address) for d in city().devices()}


async def test_fleet(tmp_path: Path, until: Until) -> None:
    """Every device logs in over TLS as itself, and ingest gets what it sends."""
    heard: list[str] = []
    async with Shown(tmp_path / "broker") as broker:
        ingest = broker.session(
            "ingest",
            subscriptions=[("cityeye/v1/testville/+/+/+/+/telemetry", 1)],
            receive=lambda _, messages: heard.extend(m.topic.decode() for m in messages),
        )
        async with working(ingest):
            await ingest.ready(patience_s=60)
            async with fleet_on(broker, logins_of(broker)) as fleet:
                await until(lambda: fleet.online == 2 and len(set(heard)) == 2)

    assert not fleet.refusals


async def test_refused_device(tmp_path: Path, until: Until) -> None:
    """A device with a wrong secret is named once with the remedy, and asks ever more slowly."""
    async with Shown(tmp_path / "broker") as broker:
        logins = logins_of(broker)
        wrong = "testville/d1/air/air-1/a"
        logins[wrong] = Login(wrong, "wr0ng")
        with capture_logs() as logs:
            async with fleet_on(broker, logins) as fleet:
                await until(lambda: fleet._turned_away and fleet.online == 1)
                (device,) = fleet._turned_away
                await until(lambda: fleet._backoffs[device]._next_s >= 4.0)

    said = [entry for entry in logs if entry["event"] == "the broker refuses a device"]
    assert ["air-1/a"] == [entry["device"] for entry in said]
    assert "cityeye broker init" in said[0]["remedy"]
    assert "wr0ng" not in str(logs)
    assert fleet.refusals.total() <= 4


async def test_reload(tmp_path: Path, until: Until) -> None:
    """A reload takes up a new device and a new secret, and leaves everybody else connected."""
    async with Shown(tmp_path / "broker") as broker:
        kept, changed = broker.session("viewer"), broker.session("ingest")
        async with working(kept), working(changed):
            await kept.ready(patience_s=60)
            await changed.ready(patience_s=60)
            install(broker.data_dir, city(), Plan(listen_host="127.0.0.1", rotate=("ingest",)))
            assert broker.pid
            os.kill(broker.pid, signal.SIGHUP)
            await until(lambda: "not authorised" in (changed.trouble or ""))
            renewed = broker.session("ingest")
            async with working(renewed):
                await renewed.ready(patience_s=60)

            assert (1, None) == (kept.connections, kept.trouble)
