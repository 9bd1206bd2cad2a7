"""The access list on a real Mosquitto: every user tries every class of topics, and gets his own."""

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from broker import codec
from broker.acl import Granted
from broker.choice import BrokerAddress, tls_context
from broker.codec import ConnectCode, Will
from broker.credentials import password_line, read_credentials
from broker.guarded import GuardedMosquitto
from broker.installation import BROKER_FOLDER
from broker.mosquittoconf import ACL_FILE, PASSWORD_FILE
from city.cityfile import City, check_city
from city.documents import Document

pytestmark = pytest.mark.mosquitto

CITY: Final = """
city: testville
districts: [{id: d1}, {id: d2}]
sites:
  - id: air-1
    district: d1
    domain: air
    devices: [{id: a, kind: air-micro}, {id: b, kind: air-micro}]
"""
HERE: Final = "cityeye/v1/testville"
ALICE: Final = "testville/d1/air/air-1/a"
BOB: Final = "testville/d1/air/air-1/b"
WITNESS: Final = "witness"
SECRET: Final = "the witness's own"  # noqa: S105 - of a broker that lives as long as this test

TOPICS: Final = {
    "own telemetry": f"cityeye/v1/{ALICE}/telemetry",
    "own status": f"cityeye/v1/{ALICE}/status",
    "own meta": f"cityeye/v1/{ALICE}/meta",
    "own reply": f"cityeye/v1/{ALICE}/reply",
    "own command": f"cityeye/v1/{ALICE}/command",
    "telemetry": f"cityeye/v1/{BOB}/telemetry",
    "status": f"cityeye/v1/{BOB}/status",
    "meta": f"cityeye/v1/{BOB}/meta",
    "reply": f"cityeye/v1/{BOB}/reply",
    "command": f"cityeye/v1/{BOB}/command",
    "alarms": f"{HERE}/d1/alarms/air/air-1/b/smog",
    "actions": f"{HERE}/d1/actions/air/air-1/b",
    "orders": f"{HERE}/d1/orders/air/air-1/ro-1",
    "operator/request": f"{HERE}/operator/request",
    "operator/reply": f"{HERE}/operator/reply",
    "notifications": f"{HERE}/notifications/duty",
    "truth": f"{HERE}/truth",
    "clock": f"{HERE}/clock",
    "load figures": f"{HERE}/load/run-1/figures",
    "load control": f"{HERE}/load/run-1/control",
    "another city": "cityeye/v1/elsewhere/d1/air/air-1/b/telemetry",
    "anything else": "some/other/topic",
}
"""One topic of every class; `own` is device a's, all others are device b's."""

SYSTEM: Final = ("$SYS uptime", "$SYS, the rest")

TABLE: Final = """
| topics            | device | sim | ingest | alarms | scorer | operator | viewer | health | nobody |
|-------------------|--------|-----|--------|--------|--------|----------|--------|--------|--------|
| own telemetry     | w      |     | r      |        |        |          | r      |        |        |
| own status        | w      |     | r      |        |        | r        | r      |        |        |
| own meta          | w      |     | r      |        |        | r        | r      |        |        |
| own reply         | w      |     |        | r      |        |          | r      |        |        |
| own command       | r      |     |        | w      |        |          |        |        |        |
| telemetry         |        |     | r      |        |        |          | r      |        |        |
| status            |        |     | r      |        |        | r        | r      |        |        |
| meta              |        |     | r      |        |        | r        | r      |        |        |
| reply             |        |     |        | r      |        |          | r      |        |        |
| command           |        |     |        | w      |        |          |        |        |        |
| alarms            |        |     |        | rw     |        | r        | r      |        |        |
| actions           |        |     |        | w      |        | r        | r      |        |        |
| orders            |        |     |        | w      |        | r        | r      |        |        |
| operator/request  |        |     |        | r      |        | w        |        |        |        |
| operator/reply    |        |     |        | w      |        | r        |        |        |        |
| notifications     |        |     |        | w      |        |          | r      |        |        |
| truth             |        | w   |        |        | r      |          |        |        |        |
| clock             |        | w   | r      | r      |        |          | r      |        |        |
| load figures      |        | w   |        |        |        | r        | r      |        |        |
| load control      |        | r   |        |        |        | w        |        |        |        |
| another city      |        |     |        |        |        |          |        |        |        |
| anything else     |        |     |        |        |        |          |        |        |        |
| $SYS uptime       |        |     |        |        |        |          |        | r      |        |
| $SYS, the rest    |        |     |        |        |        |          |        |        |        |
"""
"""What each user may: r reads, w writes. `own` and all others as seen by the first device."""


def cells() -> Iterator[tuple[str, str, str]]:
    """User, class of topics, and what is allowed."""
    heads, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.strip().splitlines()
    )
    for row in rows:
        for user, allowed in zip(heads[1:], row[1:], strict=True):
            yield user, row[0], allowed


ALLOWED: Final = {(user, topics): allowed for user, topics, allowed in cells()}
USERS: Final = list(dict.fromkeys(user for user, _ in ALLOWED))
KNOWN: Final = [user for user in USERS if user != "nobody"]

WILDCARDS: Final = (
    "#",
    "+/#",
    "/#",
    "+/+/+/+/+/+/+/+",
    "+/+/+/truth",
    "+/+/+/clock",
    "+/+/+/operator/+",
    "+/+/+/+/+/+/+/+/+",
    "cityeye/#",
    "cityeye/v1/+/+/+/+/+/command",
    f"{HERE}/#",
    f"cityeye/v1/{BOB}/#",
    f"cityeye/v1/{ALICE}/#",
    "$share/g/#",
    "$share/g/cityeye/v1/#",
    f"$share/g/{HERE}/truth",
    f"$share/g/cityeye/v1/{BOB}/command",
    "$SYS/#",
    "$SYS/broker/#",
    "$share/s/$SYS/#",
)

Connect = Callable[..., Awaitable[Any]]


class Town:
    """A guarded Mosquitto, and a witness in it who may read and write everything."""

    def __init__(self, broker: GuardedMosquitto) -> None:
        self.broker = broker
        self.credentials = read_credentials(broker.credentials_path)
        self.plain = BrokerAddress(broker.host, broker.port)
        self.tls = BrokerAddress(broker.host, broker.tls_port, tls=True)
        self.context: ssl.SSLContext | None = tls_context(self.tls, broker.ca_path)

    def login(self, user: str) -> dict[str, str]:
        """User name and password of a user of the table."""
        name = ALICE if user == "device" else user
        secret = SECRET if name == WITNESS else self.credentials.users[name]
        return {"username": name, "password": secret}


def city() -> City:
    """The city in `CITY`."""
    return check_city(Document(CITY, "test.yaml"))


class Watched(GuardedMosquitto):
    """With a witness in its files."""

    granted: Granted | None = None

    def _write_configuration(self) -> Any:
        conf, log = super()._write_configuration()
        folder = self.data_dir / BROKER_FOLDER
        passwords, acl = folder / PASSWORD_FILE, folder / ACL_FILE
        with passwords.open("a") as file:
            file.write(password_line(WITNESS, SECRET) + "\n")
        granted = f"user {WITNESS}\ntopic readwrite #\ntopic readwrite $SYS/#\n\n"
        acl.write_text(granted + acl.read_text())
        text = conf.read_text().replace("sys_interval 10", "sys_interval 1")
        conf.write_text(text)
        return conf, log


@pytest.fixture(params=["pattern", "blocks"])
async def town(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Town]:
    """A town whose devices are let in by a pattern, and one with a block for each of them."""
    monkeypatch.setattr("broker.guarded.granted_by", lambda _: request.param)
    async with Watched(tmp_path / "guarded", city()) as broker:
        yield Town(broker)


def may(user: str, topics: str, what: str) -> bool:
    """What the table says."""
    return what in ALLOWED[user, topics]


@pytest.mark.parametrize("user", KNOWN)
async def test_writes(town: Town, connect: Connect, user: str) -> None:
    """A user's messages, retained and not, reach exactly the topics that the table allows."""
    witness = await connect(town.plain, **town.login(WITNESS))
    await witness.subscribe("#")
    peer = await connect(town.tls, tls=town.context, **town.login(user))
    for topic, retain in itertools.product(TOPICS.values(), (False, True)):
        await peer.publish(topic, b"x", retain=retain)
    await peer.publish("$SYS/broker/uptime", b"forged")
    await witness.ping()

    late = await connect(town.plain, **town.login(WITNESS))
    await late.subscribe("#")
    await late.ping()
    expected = {topic for name, topic in TOPICS.items() if may(user, name, "w")}
    assert expected == {message.topic.decode() for message in witness.messages}
    assert expected == {message.topic.decode() for message in late.messages}


@pytest.mark.parametrize("user", KNOWN)
async def test_reads(town: Town, connect: Connect, user: str) -> None:
    """Whatever a user subscribes to, he gets exactly the topics that the table allows.

    Filters are tried one by one and by wildcard, shared subscriptions too; messages come live and
    retained.
    """
    witness = await connect(town.plain, **town.login(WITNESS))
    for topic in TOPICS.values():
        await witness.publish(topic, b"retained", retain=True)
    peer = await connect(town.tls, tls=town.context, **town.login(user))
    for pattern in (*TOPICS.values(), *WILDCARDS, "$SYS/broker/uptime"):
        await peer.subscribe(pattern)
    for topic in TOPICS.values():
        await witness.publish(topic, b"live")
    await peer.ping()

    expected = {topic for name, topic in TOPICS.items() if may(user, name, "r")}
    if may(user, "$SYS uptime", "r"):
        expected.add("$SYS/broker/uptime")
    assert expected == {message.topic.decode() for message in peer.messages}
    for topic in expected & set(TOPICS.values()):
        payloads = {m.payload for m in peer.messages if m.topic.decode() == topic}
        assert {b"retained", b"live"} == payloads


@pytest.mark.parametrize("topics", TOPICS)
async def test_wills(town: Town, connect: Connect, topics: str) -> None:
    """A device's last will reaches its own topics alone; Mosquitto drops a foreign one."""
    witness = await connect(town.plain, **town.login(WITNESS))
    await witness.subscribe("#")
    will = Will(TOPICS[topics], b"gone")
    peer = await connect(town.tls, tls=town.context, will=will, **town.login("device"))
    await peer.vanish()
    again = await connect(town.tls, tls=town.context, **town.login("device"))
    await again.publish(TOPICS["own telemetry"], b"after")
    await witness.got(1 + may("device", topics, "w"))

    wills = [b"gone"] if may("device", topics, "w") else []
    assert [*wills, b"after"] == witness.payloads


async def test_nobody(town: Town, connect: Connect) -> None:
    """Without a login, with a wrong one, or as a device of no city, nobody is let in anywhere."""
    for login in (
        {},
        {"username": ALICE},
        {"username": ALICE, "password": "wrong"},
        {"username": ALICE, "password": town.credentials.devices[BOB]},
        {"username": "testville/d1/air/air-1/zzz", "password": "x"},
        {"username": "#", "password": "x"},
        {"username": "+/+/+/+/+", "password": ""},
    ):
        for address, context in ((town.plain, None), (town.tls, town.context)):
            peer = await connect(address, tls=context, **login)
            await peer.wait(lambda p: p.closed)
            assert ConnectCode.NOT_AUTHORISED == peer.packets[0].code


async def test_client_ids(town: Town, connect: Connect) -> None:
    """Over TLS nobody gets at another's session, whatever client id he names."""
    names = (ALICE, "cityeye.testville.air-1.a", "cityeye-ingest-testville", "ingest")
    alice = await connect(town.tls, names[1], tls=town.context, clean=False, **town.login("device"))
    ingest = await connect(
        town.tls, names[2], tls=town.context, clean=False, **town.login("ingest")
    )
    await ingest.subscribe(TOPICS["own telemetry"])
    bob_login = {"username": BOB, "password": town.credentials.devices[BOB]}
    for name in names:
        bob = await connect(town.tls, name, tls=town.context, clean=False, **bob_login)
        await bob.subscribe(f"cityeye/v1/{BOB}/command")
        await alice.publish(TOPICS["own telemetry"], name.encode())
        await ingest.got(names.index(name) + 1)

    assert (False, False) == (alice.closed, ingest.closed)
    assert [name.encode() for name in names] == ingest.payloads
    assert [] == bob.messages


async def test_same_user_twice(town: Town, connect: Connect) -> None:
    """Over TLS a second connection of one user replaces the first, as a reconnect must."""
    first = await connect(town.tls, "one", tls=town.context, **town.login("device"))
    second = await connect(town.tls, "two", tls=town.context, **town.login("device"))
    await first.wait(lambda p: p.closed)
    await second.publish(TOPICS["own telemetry"], b"still here")

    assert not second.closed


async def test_plain_is_for_many(town: Town, connect: Connect) -> None:
    """Without TLS, on the broker's own machine, one role may have several sessions."""
    first = await connect(town.plain, **town.login("operator"))
    second = await connect(town.plain, **town.login("operator"))
    await second.ping()

    assert (False, False) == (first.closed, second.closed)


async def test_queued_for_a_stopped_ingest(town: Town, connect: Connect) -> None:
    """What is acknowledged while ingest is away waits for it, through a restart of the broker."""
    ingest = await connect(town.tls, tls=town.context, clean=False, **town.login("ingest"))
    await ingest.subscribe(f"{HERE}/+/+/+/+/telemetry")
    await ingest.vanish()
    device = await connect(town.tls, tls=town.context, **town.login("device"))
    for number in range(50):
        await device.publish(TOPICS["own telemetry"], b"%d" % number)
    await device.leave()
    await town.broker.stop()
    await town.broker.start()
    device = await connect(town.tls, tls=town.context, **town.login("device"))
    await device.publish(TOPICS["own telemetry"], b"after")
    back = await connect(town.tls, tls=town.context, clean=False, **town.login("ingest"))

    expected = [b"%d" % number for number in range(50)] + [b"after"]
    assert expected == await back.got(51)


async def test_plain_words_on_the_tls_port(town: Town) -> None:
    """Whoever speaks MQTT without TLS to the TLS port is not heard."""
    reader, writer = await asyncio.open_connection(town.tls.host, town.tls.port)
    writer.write(codec.connect("x", keep_alive_s=10, clean=True, username=ALICE, password=b"x"))
    answer = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(60):
            answer = await reader.read()
    writer.close()

    assert not answer.startswith(b"\x20")


def shown() -> str:
    """The table as people read it."""
    words = {"": "refused", "r": "reads", "w": "writes", "rw": "reads, writes"}
    lines = [
        "| topics | " + " | ".join(USERS) + " |",
        "|---|" + "---|" * len(USERS),
    ]
    for name in dict.fromkeys(topics for _, topics in ALLOWED):
        cells_ = (words[ALLOWED[user, name]] for user in USERS)
        lines.append(f"| {name} | " + " | ".join(cells_) + " |")
    return "\n".join(lines)


def test_documented() -> None:
    """docs/security.md shows the table that is tried here."""
    page = Path(__file__).parents[2] / "docs" / "security.md"

    assert shown() in page.read_text(encoding="utf-8")


def test_complete() -> None:
    """The table says something of every user and every class of topics."""
    assert set(itertools.product(USERS, [*TOPICS, *SYSTEM])) == set(ALLOWED)
