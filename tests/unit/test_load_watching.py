"""What a verifying subscriber decides without a broker."""

import json
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from broker.choice import BrokerAddress
from broker.codec import Publish
from broker.credentials import Credentials, encoded
from broker.session import Link
from city.errors import SettingError
from load.desk import Desk, Drops
from load.figures import Delays, Delta
from load.line import begun
from load.pace import Pace
from load.payloads import ReadBack, Template
from load.plan import LoadPlan, Order, Part, Phase
from load.subscriber import Slowness, filters_of, login_of
from load.teller import Teller


class Acknowledged:
    """A link that keeps what is acknowledged."""

    def __init__(self) -> None:
        self.mids: list[int] = []

    def acknowledge(self, mids: list[int]) -> None:
        """Called by whoever received."""
        self.mids += mids


def plan_of(**changes: Any) -> LoadPlan:
    """A plan that nobody plays."""
    plan = LoadPlan(
        run=uuid.uuid4().hex, broker=BrokerAddress("127.0.0.1", 1), devices=10, interval_s=1.0,
        ramp_s=0.1, phases=(Phase(name="steady", for_s=1.0),), kinds=("air-micro",), seed=1,
        city_start_ms=1795413600000,
    )  # fmt: skip
    return msgspec.structs.replace(plan, **changes)


def template_of(topic: str) -> Template:
    """A template that can be read back."""
    return Template(name="own", topic=topic, payload='{"n":${seq}}', read=ReadBack(seq="/n"))


def publish(payload: bytes, *, mid: int = 0, topic: bytes = b"t") -> Publish:
    """A message."""
    return Publish(topic, payload, 1 if mid else 0, retain=False, dup=False, mid=mid)


def test_acknowledges_in_order() -> None:
    """All messages of QoS 1 are acknowledged in the order of arrival, unreadable ones too."""
    link = Acknowledged()
    desk = Desk({b"t": 0}, Delays())
    messages = [publish(b"{", mid=7), publish(b'{"ts":1,"seq":0}', mid=9), publish(b"", mid=8)]
    desk.receive(cast("Link", link), [*messages, publish(b"at QoS 0")])

    assert [7, 9, 8] == link.mids


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"{", b"null", b"[1]", b'{"ts":1}', b'{"seq":1}', b'{"ts":1,"seq":-1}',
        b'{"ts":1,"seq":1.5}', b'{"ts":"1","seq":1}', b'{"ts":1,"seq":99999999999999999999}',
        b'{"ts":1,"seq":1,"values":{"pm25":1', b'{"ts":1,"seq":1,"values":' + b"[" * 60_000,
    ],
)  # fmt: skip
def test_unreadable(payload: bytes) -> None:
    """A payload without an instant and a whole number is unreadable, and nothing else."""
    desk = Desk({b"t": 0}, Delays())
    desk.receive(cast("Link", Acknowledged()), [publish(payload)])

    assert (1, 1, 0) == tuple(
        desk.counts()[name] for name in ("received", "unreadable", "distinct")
    )


def test_alarm_delivered_again() -> None:
    """An alarm event counts once, however often the broker delivers it."""
    delays = Delays()
    desk = Desk({}, delays)
    ts = time.time_ns() // 1_000_000
    event = {
        "rule": "r", "event": "raised", "state": "unacknowledged", "severity": "high",
        "level": "H", "quantity": "q", "value": 1.0, "limit": 0.5, "unit": "u", "ts": ts,
        "raised": ts, "number": 3,
    }  # fmt: skip
    message = publish(json.dumps(event).encode(), topic=b"cityeye/v1/c/d/alarms/air/s/d/r")
    desk.receive(cast("Link", Acknowledged()), [message, message])

    assert 1 == desk.counts()["alarms"]
    assert 1 == len(delays.of("alarm"))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ((5,), 0),
        ((5, 5, 9), 4),
        ((0, 10, 3, 4), 14),
    ],
)
def test_drops(shown: tuple[int, ...], expected: int) -> None:
    """What the broker had dropped before does not count; a restarted broker begins at nothing."""
    drops = Drops()
    drops.receive(cast("Link", Acknowledged()), [publish(b"%d" % one) for one in shown])

    assert expected == drops.total


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([(2.0, 0.95), (3.0, 0.95), (4.0, 0.95), (5.0, 0.95)], [False, False, True, False]),
        ([(2.0, 0.5), (3.0, 0.5), (4.0, 0.5)], [False, False, False]),
        ([(0.2, 1.0), (0.3, 1.0), (0.4, 1.0)], [False, False, False]),
        ([(4.0, 1.0), (3.0, 1.0), (2.0, 1.0)], [False, False, False]),
        ([(2.0, 1.0), (3.0, 1.0), (2.0, 1.0), (3.0, 1.0)], [False] * 4),
    ],
)
def test_slowness(looks: list[tuple[float, float]], expected: list[bool]) -> None:
    """A busy process whose delay grows above a second for three words is too slow, said once."""
    slowness = Slowness()

    assert expected == [slowness.look(delay_s, busy) for delay_s, busy in looks]


def test_every_district_once() -> None:
    """However many subscribers, every district has one; the first one hears of alarms."""
    plan = plan_of()
    alarms = "cityeye/v1/synthetic/+/alarms/+/+/+/+"
    telemetry = [f"cityeye/v1/synthetic/d{n}/+/+/+/telemetry" for n in range(1, 7)]
    for of in range(1, 7):
        filters = [one for number in range(of) for one in filters_of(plan, Part(number, of, 1))]

        assert sorted([alarms, *telemetry]) == sorted(filters)
        assert alarms in filters_of(plan, Part(0, of, 1))


def test_template_by_district() -> None:
    """A template whose topics have the district as a level is shared like our own messages."""
    plan = plan_of(template=template_of("x/${district}/${site}/${device}"))

    assert ["x/+/+/+"] == filters_of(plan, Part(0, 1, 1))
    assert ["x/d2/+/+", "x/d6/+/+"] == filters_of(plan, Part(1, 4, 1))


@pytest.mark.parametrize("topic", ["x/${site}/${device}", "x/${site}-${district}/${device}"])
def test_template_without_district(topic: str) -> None:
    """A template whose topics do not tell the district allows one subscriber, which is said."""
    with pytest.raises(SettingError, match="use one subscriber"):
        filters_of(plan_of(template=template_of(topic)), Part(0, 2, 1))


def test_too_many_subscribers() -> None:
    """More subscribers than districts are refused with the number possible."""
    with pytest.raises(SettingError, match="use 6 at most"):
        filters_of(plan_of(), Part(0, 7, 1))


def credentials(folder: Path, *users: str) -> Path:
    """A credentials file with these users of roles."""
    path = folder / "credentials.json"
    known = Credentials(
        city="synthetic", port=1, plain_host="127.0.0.1", plain_port=2,
        roles={user: f"secret of {user}" for user in users}, devices={},
    )  # fmt: skip
    path.write_bytes(encoded(known))
    path.chmod(0o600)
    return path


def test_logins_of_viewers(tmp_path: Path) -> None:
    """Over TLS, where a user has one session, every subscriber is another viewer."""
    path = credentials(tmp_path, "ingest", "viewer", "viewer/b", "viewer/a")
    plan = plan_of(credentials=path, broker=BrokerAddress("127.0.0.1", 1, tls=True))

    users = [login_of(plan, Part(number, 3, 1)).user for number in range(3)]
    assert ["viewer", "viewer/a", "viewer/b"] == users
    with pytest.raises(SettingError, match="cityeye broker init --seat NAME"):
        login_of(plan, Part(0, 4, 1))


def test_shared_login(tmp_path: Path) -> None:
    """Without TLS several subscribers may share a login."""
    plan = plan_of(credentials=credentials(tmp_path, "viewer"))

    assert "viewer" == login_of(plan, Part(2, 3, 1)).user


def test_login_of_the_address() -> None:
    """Without a credentials file the user of the address and the one password are used."""
    plan = plan_of(broker=BrokerAddress("h", 1, username="me"), password="mine")  # noqa: S106

    assert ("me", "mine") == msgspec.structs.astuple(login_of(plan, Part(0, 1, 1)))


class Line:
    """A line that tells the beginning, and keeps the words."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []

    def tell(self, delta: Delta) -> None:
        """Keep a word."""
        self.deltas.append(delta)

    def heard(self) -> Sequence[Order]:
        """No orders."""
        return ()

    async def begin(self) -> int:
        """The instant of the beginning."""
        return 77


async def test_beginning() -> None:
    """A part without an instant asks its line for it, once it is prepared."""
    assert Part(1, 2, 77) == await begun(Part(1, 2, 0), Line())
    assert Part(1, 2, 55) == await begun(Part(1, 2, 55), Line())


def test_a_word_is_due_where_a_phase_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two seconds a part speaks once where a phase ends, so that phases part there."""
    now_ms = 50_000
    monkeypatch.setattr("load.teller.wall_ms", lambda: now_ms)
    pace = Pace(plan_of(), 49_000)  # its ramp ends at 49,100, its only phase at 50,100
    teller = Teller("subscriber", 3, Line())
    assert not teller.is_due(pace)

    now_ms = 50_120
    assert teller.is_due(pace)
    teller.tell({})
    assert not teller.is_due(pace)


def test_words_tell_what_is_new() -> None:
    """Every word has what was counted and warned of since the last one, so that words add up."""
    line = Line()
    teller = Teller("subscriber", 3, line)
    teller.warn("once")
    teller.delays.of("subscriber").append(1_000)
    teller.tell({"received": 5, "repeated": 1})
    teller.tell({"received": 7, "repeated": 1}, last=True)
    first, second = line.deltas

    assert ({"received": 5, "repeated": 1}, ("once",)) == (first.counts, first.warnings)
    assert ({"received": 2}, ()) == (second.counts, second.warnings)
    assert (["subscriber"], []) == (list(first.delays), list(second.delays))
    assert (False, True) == (first.last, second.last)
