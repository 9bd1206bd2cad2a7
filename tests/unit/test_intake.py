import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from structlog.testing import capture_logs

from broker.codec import Publish
from broker.messages import PAYLOAD_MAX, Birth, ClockTick, MeasuredQuantity, Status, encode
from broker.topics import Channel, clock_topic, device_topic
from city.cityfile import Address
from city.clock import wall_ms
from city.quantities import Domain, quantities_of
from city.readings import FLAG_OF_LETTER
from ingest.intake import Intake, Taken
from ingest.ledger import DeadLetter, Fate
from ingest.store import Point, device_key

T0 = wall_ms()
DAY_MS = 86_400_000
STATION = Address("lanting", "east", "air", "park", "aq-1")
TELEMETRY = device_topic(STATION, Channel.TELEMETRY).encode()
META = device_topic(STATION, Channel.META).encode()
BIRTH = Birth(
    kind="air-station",
    model="A1",
    position=(120.0, 31.8),
    interval_s=60,
    quantities={"pm25": MeasuredQuantity(unit="ug/m3", low=0, high=1000)},
)

AIR = st.sampled_from([quantity.id for quantity in quantities_of(Domain.AIR)])
VALUES = st.dictionaries(AIR, st.floats(-1e6, 1e6), max_size=5)
LETTERS = st.sampled_from(["F", "M", "S", "D", "C", "T", "B"])
TOPICS = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            TELEMETRY,
            b"/clock",
            b"cityeye/v1/lanting/clock",
            b"cityeye/v1/lanting/east/air/park/aq-1/status",
            b"cityeye/v1/lanting/east/air/park/aq-1/meta",
            b"cityeye/v1/lanting/east/air/park/aq-1/command",
        ]
    ),
)
JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["ts", "seq", "values", "flags", "pos", "speed", "wall", "seed"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["ts", "seq", "values", "flags", "speed", "wall", "seed", "pm25"]),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=8,
)
PAYLOADS = st.one_of(
    st.binary(max_size=60),
    JSON_LIKE.map(lambda content: json.dumps(content).encode()),
    st.fixed_dictionaries(
        {"ts": st.integers(), "seq": st.integers(), "values": JSON_LIKE}, optional={"flags": VALUES}
    ).map(lambda content: json.dumps(content).encode()),
    st.fixed_dictionaries(
        {"ts": st.integers(), "speed": st.floats(), "seed": st.integers(), "wall": st.integers()}
    ).map(lambda content: json.dumps(content).encode()),
)


def publish(payload: bytes, topic: bytes = TELEMETRY, *, dup: bool = False) -> Publish:
    """A message as it arrives."""
    return Publish(topic, payload, 1, False, dup, 1)


def telemetry(
    seq: int = 0,
    *,
    ts: int = T0,
    values: Mapping[str, float] | None = None,
    flags: Mapping[str, str] | None = None,
) -> bytes:
    """A telemetry payload as a device writes it."""
    content: dict[str, Any] = {"ts": ts, "seq": seq, "values": values or {"pm25": 12.4}}
    if flags:
        content["flags"] = flags
    return json.dumps(content).encode()


def tick(ts: int, *, speed: float = 1.0) -> bytes:
    """A clock's payload, sent now."""
    return encode(ClockTick(ts=ts, speed=speed, seed=1, wall=T0))


def from_city(city: str) -> bytes:
    """The telemetry topic of the same device in another city."""
    return f"cityeye/v1/{city}/east/air/park/aq-1/telemetry".encode()


Take = Callable[..., Taken]


@pytest.fixture
def intake() -> Intake:
    """An intake that knows nobody."""
    return Intake(devices_max=3)


@pytest.fixture
def take(intake: Intake) -> Take:
    """Takes in payloads of one topic, or whole messages, in one group."""

    def run(*arrivals: bytes | Publish, topic: bytes = TELEMETRY) -> Taken:
        return intake.take([[a if isinstance(a, Publish) else publish(a, topic) for a in arrivals]])

    return run


@pytest.fixture
def rejected(take: Take) -> Callable[..., str]:
    """Takes in one message that must not be stored, and returns `fate:reason`."""

    def run(payload: bytes, topic: bytes = TELEMETRY) -> str:
        taken = take(payload, topic=topic)
        [dead] = taken.dead
        assert (topic, payload) == (dead.topic, dead.payload)
        assert ([], [], 0) == (taken.messages, taken.points, len(taken.batch))
        return f"{dead.fate.value}:{dead.reason}"

    return run


def test_a_message_becomes_a_point(take: Take) -> None:
    """A valid message is kept as it came, and becomes one point of its device."""
    payload = telemetry(7, values={"pm25": 12.4, "no2": 31}, flags={"no2": "D"})
    taken = take(payload)
    values, counts = {"pm25": 12.4, "no2": 31.0}, {"seq": 7}
    point = Point(device_key(STATION), T0, values, counts, {"no2_flag": "D"})

    assert ([(TELEMETRY, payload)], [point]) == (taken.messages, taken.points)


def test_flags_reach_the_batch(take: Take) -> None:
    """In the arrays every flag stands with its value; values without one are normal."""
    first = telemetry(0, values={"pm25": 1, "no2": 2}, flags={"no2": "D"})
    second = telemetry(1, values={"o3": 3, "pm25": 4}, flags={"o3": "T"})
    batch = take(first, second).batch

    assert [0, FLAG_OF_LETTER["D"], FLAG_OF_LETTER["T"], 0] == batch.flag.tolist()


def test_a_position_is_allowed(take: Take) -> None:
    """A device that moves sends where it is."""
    payload = json.dumps({"ts": T0, "seq": 0, "values": {}, "pos": [119.9, 31.8]}).encode()

    assert [(TELEMETRY, payload)] == take(payload).messages


BAD_PAYLOADS = {
    "nothing": (b"", "not-json"),
    "text": (b"cloudy, 12 degrees", "not-json"),
    "cut off": (telemetry()[:-3], "not-json"),
    "not UTF-8": (telemetry().replace(b"pm25", b"pm\xff5"), "not-json"),
    "deeply nested": (b"[" * 60_000, "wrong-shape"),
    "too large": (telemetry() + b" " * PAYLOAD_MAX, "too-large"),
    "NaN": (telemetry().replace(b"12.4", b"NaN"), "not-finite"),
    "infinity": (telemetry().replace(b"12.4", b"-Infinity"), "not-finite"),
    "a number beyond all bounds": (telemetry().replace(b"12.4", b"1e999"), "not-finite"),
    "a string for a number": (telemetry().replace(b"12.4", b'"12.4"'), "wrong-shape"),
    "null for a number": (telemetry().replace(b"12.4", b"null"), "wrong-shape"),
    "a list": (b"[1, 2]", "wrong-shape"),
    "no instant": (b'{"seq":0,"values":{}}', "wrong-shape"),
    "a negative sequence number": (telemetry(-1), "wrong-shape"),
    "an unknown key": (telemetry()[:-1] + b',"unit":"ug/m3"}', "wrong-shape"),
    "an unknown flag": (telemetry(flags={"pm25": "Q"}), "wrong-shape"),
    "the flag that is never sent": (telemetry(flags={"pm25": "N"}), "wrong-shape"),
    "a flag for an absent value": (telemetry(flags={"no2": "D"}), "wrong-shape"),
    "an unknown quantity": (telemetry(values={"pm99": 1}), "unknown-quantity"),
    "a quantity of another domain": (telemetry(values={"methane": 1}), "unknown-quantity"),
    "an instant of the last century": (telemetry(ts=0), "impossible-time"),
    "an instant of the next century": (telemetry(ts=T0 * 4), "impossible-time"),
}


@pytest.mark.parametrize(("payload", "reason"), BAD_PAYLOADS.values(), ids=BAD_PAYLOADS)
def test_a_bad_payload(rejected: Callable[..., str], payload: bytes, reason: str) -> None:
    """A payload that is not what it must be is quarantined whole, under its reason."""
    assert f"quarantined:{reason}" == rejected(payload)


BAD_TOPICS = {
    "nothing": b"",
    "a level too few": b"cityeye/v1/lanting/east/air/park/telemetry",
    "another root": TELEMETRY.replace(b"v1", b"v2"),
    "another channel": TELEMETRY.replace(b"telemetry", b"gossip"),
    "another domain": TELEMETRY.replace(b"air", b"noise"),
    "not an identifier": TELEMETRY.replace(b"park", b"Park"),
    "an identifier too long": TELEMETRY.replace(b"park", b"p" * 65),
    "not UTF-8": TELEMETRY.replace(b"park", b"p\xffrk"),
    "a clock of nothing": b"/clock",
    "a clock elsewhere": b"cityeye/v1/lanting/east/clock",
    "a clock of no identifier": b"cityeye/v1/Lan Ting/clock",
}


@pytest.mark.parametrize("payload", [telemetry(), b"\xff", tick(T0)], ids=["good", "bad", "tick"])
@pytest.mark.parametrize("topic", BAD_TOPICS.values(), ids=BAD_TOPICS)
def test_a_bad_topic(rejected: Callable[..., str], topic: bytes, payload: bytes) -> None:
    """A topic that does not parse is told as that, whatever the payload."""
    assert "quarantined:bad-topic" == rejected(payload, topic)


@pytest.mark.parametrize("channel", ["meta", "status", "clock"])
def test_a_bad_announcement(rejected: Callable[..., str], channel: str) -> None:
    """Births, states and clocks that do not decode are quarantined like telemetry."""
    topics = {"clock": clock_topic("lanting").encode()}
    topic = topics.get(channel) or TELEMETRY.replace(b"telemetry", channel.encode())

    assert "quarantined:wrong-shape" == rejected(b"{}", topic)


def test_a_bad_message_leaves_its_neighbours(take: Take) -> None:
    """What comes before and after a bad message in a group is taken."""
    taken = take(telemetry(0), b"bad", telemetry(1))

    assert ([0, 1], 1) == ([point.counts["seq"] for point in taken.points], len(taken.dead))


def test_one_warning_per_reason(take: Take) -> None:
    """The first message of a reason is warned of, further ones are told at level debug."""
    with capture_logs() as said:
        take(b"a", b"b", telemetry(values={"pm99": 1}), b"c")
    levels = [(entry["reason"], entry["log_level"]) for entry in said]
    expected = [
        ("not-json", "warning"),
        ("not-json", "debug"),
        ("unknown-quantity", "warning"),
        ("not-json", "debug"),
    ]

    assert expected == levels


def test_the_detail_of_an_instant(take: Take) -> None:
    """The dead letter of an impossible instant says by how much it is off."""
    [dead] = take(tick_message(T0), publish(telemetry(ts=T0 + 3_600_000))).dead

    assert f"ts {T0 + 3_600_000} is " in dead.detail
    assert "s after what the city's clock allows" in dead.detail


def tick_message(ts: int, *, speed: float = 1.0, city: str = "lanting") -> Publish:
    """A clock's announcement."""
    return publish(tick(ts, speed=speed), clock_topic(city).encode())


@pytest.mark.parametrize(
    ("offset_ms", "stored"),
    [(-31 * DAY_MS, False), (-29 * DAY_MS, True), (0, True), (DAY_MS, False)],
)
def test_instants_are_judged_by_the_city_clock(take: Take, offset_ms: int, *, stored: bool) -> None:
    """Once the clock was heard a reading must be near the city's time, whatever the wall says."""
    simulated_ms = T0 - 1000 * DAY_MS
    taken = take(tick_message(simulated_ms), telemetry(ts=simulated_ms + offset_ms))

    assert stored == bool(taken.messages)


def test_each_city_has_its_own_clock(take: Take) -> None:
    """The clock of one city does not judge the readings of another."""
    past_ms = T0 - 1000 * DAY_MS
    taken = take(
        tick_message(past_ms, city="one"),
        tick_message(T0, city="two"),
        publish(telemetry(ts=past_ms), from_city("one")),
        publish(telemetry(ts=T0), from_city("two")),
        publish(telemetry(ts=T0), from_city("one")),
    )

    assert (2, ["impossible-time"]) == (len(taken.messages), [d.reason for d in taken.dead])


def test_a_clock_that_runs_backwards(rejected: Callable[..., str]) -> None:
    """A clock of negative speed is quarantined."""
    topic = clock_topic("lanting").encode()

    assert "quarantined:impossible-clock" == rejected(tick(T0, speed=-1), topic)


def test_a_clock_of_any_speed_stops_nothing(take: Take) -> None:
    """After a clock of absurd speed messages are still taken in."""
    take(
        publish(encode(ClockTick(ts=T0, speed=1e308, seed=1, wall=0)), b"cityeye/v1/lanting/clock")
    )

    assert [] == take(b"x").messages


def test_a_redelivery_is_a_duplicate(take: Take) -> None:
    """The same message again is counted as a repeat and not kept again."""
    take(telemetry(0), telemetry(1))
    taken = take(publish(telemetry(0), dup=True), publish(telemetry(1), dup=True), telemetry(2))

    assert (2, 1) == (taken.duplicates, len(taken.messages))


def test_a_repeat_within_a_group(take: Take) -> None:
    """A message that comes twice in one group is kept once."""
    taken = take(telemetry(0), telemetry(0))

    assert (1, 1) == (taken.duplicates, len(taken.messages))


def test_a_restarted_device_is_no_duplicate(take: Take) -> None:
    """A device whose sequence begins again at 0 goes on being stored."""
    take(*[telemetry(seq, ts=T0 + seq) for seq in range(5)])
    taken = take(*[telemetry(seq, ts=T0 + 60_000 + seq) for seq in range(5)])

    assert (0, 5) == (taken.duplicates, len(taken.messages))


def test_other_values_are_no_duplicate(take: Take) -> None:
    """A message of known number and instant but other values is a message of its own."""
    take(telemetry(0, values={"pm25": 1}))

    assert 0 == take(telemetry(0, values={"pm25": 2})).duplicates


def test_the_same_instant_is_no_duplicate(intake: Intake) -> None:
    """Many messages of one instant, more than are remembered, are all taken."""
    messages = [publish(telemetry(seq)) for seq in range(40_000)]

    assert 0 == intake.take([messages]).duplicates


def test_the_first_instant_of_all_is_no_duplicate(take: Take) -> None:
    """In a city that lives in 1970 the reading of instant 0 is taken."""
    taken = take(tick_message(0, speed=0), telemetry(ts=0))

    assert (0, 1) == (taken.duplicates, len(taken.messages))


def test_devices_are_told_apart(take: Take) -> None:
    """The same payload from two devices is two messages."""
    other = TELEMETRY.replace(b"aq-1", b"aq-2")

    assert 2 == len(take(publish(telemetry()), publish(telemetry(), other)).messages)


@given(st.permutations(range(8)))
def test_late_messages_are_no_duplicates(order: Sequence[int]) -> None:
    """Messages that come in any order are all taken, and all are known afterwards."""
    intake = Intake()
    messages = [publish(telemetry(seq, ts=T0 + seq)) for seq in order]
    first, second = intake.take([messages]), intake.take([messages])

    assert (0, 8) == (first.duplicates, second.duplicates)


def test_what_was_spooled_is_remembered(intake: Intake, take: Take) -> None:
    """Messages of before a restart are recognised when they are delivered again."""
    intake.remember([(TELEMETRY, telemetry(0)), (TELEMETRY, telemetry(1))])
    taken = take(telemetry(0), telemetry(1), telemetry(2))

    assert (2, 1) == (taken.duplicates, len(taken.messages))


def test_a_bad_message_is_bad_every_time(take: Take) -> None:
    """A redelivered bad message is quarantined again: only what is stored can be repeated."""
    take(b"bad")

    assert (0, 1) == (take(b"bad").duplicates, len(take(b"bad").dead))


def test_births_are_handed_on(take: Take) -> None:
    """A birth document goes to the consumers and is no telemetry."""
    taken = take(encode(BIRTH), topic=META)

    assert ([(STATION, BIRTH)], []) == (taken.births, taken.messages)
    assert [(META, encode(BIRTH))] == taken.documents


def test_a_birth_is_handed_on_once(take: Take) -> None:
    """The same document again, as after every reconnect, is passed over; another one is not."""
    moved = replace(BIRTH, position=(120.1, 31.9))
    taken = [take(encode(birth), topic=META).births for birth in (BIRTH, BIRTH, moved, BIRTH)]

    assert [[(STATION, BIRTH)], [], [(STATION, moved)], [(STATION, BIRTH)]] == taken


def test_a_birth_after_a_status_is_handed_on(take: Take) -> None:
    """A device that is known to be there can still be born."""
    take(encode(Status(state="online")), topic=device_topic(STATION, Channel.STATUS).encode())

    assert [(STATION, BIRTH)] == take(encode(BIRTH), topic=META).births


def test_births_of_the_journal_are_known(intake: Intake, take: Take) -> None:
    """Documents that were read again come out as births, and are passed over when they arrive."""
    births = intake.births([(META, encode(BIRTH))])

    assert ([(STATION, BIRTH)], []) == (births, take(encode(BIRTH), topic=META).documents)


@pytest.mark.parametrize(
    "payload", [encode(Status(state="lost")), encode(Status(state="offline")), b""]
)
def test_who_is_online(intake: Intake, take: Take, payload: bytes) -> None:
    """A device is online from its word until it leaves, is lost, or its status is removed."""
    topic = device_topic(STATION, Channel.STATUS).encode()
    take(encode(Status(state="online")), topic=topic)
    before = set(intake.online)
    take(payload, topic=topic)

    assert ({STATION}, set()) == (before, intake.online)


def test_too_many_devices(intake: Intake, take: Take, rejected: Callable[..., str]) -> None:
    """Devices beyond the bound are refused by that policy; the known ones go on."""
    for n in range(3):
        take(telemetry(), topic=TELEMETRY.replace(b"aq-1", b"aq-%d" % n))

    assert "refused:too-many-devices" == rejected(telemetry(), TELEMETRY.replace(b"aq-1", b"aq-9"))
    assert (3, 1) == (intake.devices, len(take(telemetry(1)).messages))


@pytest.mark.parametrize(
    ("channel", "payload"),
    [(Channel.META, encode(BIRTH)), (Channel.STATUS, encode(Status(state="online")))],
)
def test_too_many_announced_devices(
    intake: Intake, rejected: Callable[..., str], take: Take, channel: Channel, payload: bytes
) -> None:
    """Births and states of devices beyond the bound are refused as well."""
    topics = [
        device_topic(Address("lanting", "east", "air", "park", f"a{n}"), channel).encode()
        for n in range(4)
    ]
    for topic in topics[:3]:
        take(payload, topic=topic)

    assert "refused:too-many-devices" == rejected(payload, topics[3])
    assert len(intake.online) <= 3


def test_too_many_cities(rejected: Callable[..., str], take: Take) -> None:
    """Clocks are kept for a thousand cities; further cities are refused."""
    take(*[tick_message(T0, city=f"c{n}") for n in range(1000)])

    assert "refused:too-many-cities" == rejected(tick(T0), clock_topic("one-more").encode())
    assert "refused:too-many-cities" == rejected(telemetry(), from_city("one-more"))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(VALUES, st.integers(T0 - 1000, T0)), max_size=8), st.data())
def test_arrays_match_points(
    messages: list[tuple[dict[str, float], int]], data: st.DataObject
) -> None:
    """Row by row the arrays say what the points say: device, quantity, instant, value and flag."""
    flags = [
        data.draw(st.dictionaries(st.sampled_from(sorted(values)), LETTERS)) if values else {}
        for values, _ in messages
    ]
    intake = Intake()
    taken = intake.take(
        [[publish(json.dumps({"ts": ts, "seq": seq, "values": values, "flags": flags[seq] or None}).encode())]
         for seq, (values, ts) in enumerate(messages)]
    )  # fmt: skip
    batch = taken.batch
    found = [
        (batch.table[series].address, batch.table[series].quantity, ts, value, flag)
        for series, ts, value, flag in zip(
            batch.series, batch.ts, batch.value, batch.flag, strict=True
        )
    ]

    assert list(rows_of(taken.points)) == found


def rows_of(points: Sequence[Point]) -> Iterator[tuple[Address, str, int, float, int]]:
    """The readings in `points`."""
    for point in points:
        for name, value in point.values.items():
            letter = point.texts.get(f"{name}_flag")
            yield STATION, name, point.ts, value, FLAG_OF_LETTER[letter] if letter else 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(VALUES, st.integers(0, 10)), max_size=8))
def test_reviving_gives_the_same_points(messages: list[tuple[dict[str, float], int]]) -> None:
    """Points made anew from spooled messages are those that were made on arrival."""
    arrivals = [publish(telemetry(seq, values=values)) for values, seq in messages]
    taken = Intake().take([arrivals])

    assert taken.points == Intake().revive(taken.messages)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(VALUES, LETTERS, st.integers(0, 10)), max_size=8))
def test_readings_again_are_the_same(messages: list[tuple[dict[str, float], str, int]]) -> None:
    """Readings made anew from spooled messages are those of their arrival, after a restart or not."""
    arrivals = [
        publish(telemetry(seq, values=values, flags=dict.fromkeys(list(values)[:1], letter)))
        for values, letter, seq in messages
    ]
    intake = Intake()
    taken = intake.take([arrivals])
    batches = [taken.batch, intake.readings(taken.messages), Intake().readings(taken.messages)]
    columns = [
        [(column.dtype, column.tolist()) for column in (one.series, one.ts, one.value, one.flag)]
        for one in batches
    ]

    assert [columns[0]] * 3 == columns


def test_readings_are_not_judged_again(intake: Intake) -> None:
    """A message that was believable when it came is so years later, and is then no repeat."""
    message = (TELEMETRY, telemetry(ts=T0 - 4000 * DAY_MS))
    batches = [intake.readings([message]) for _ in range(2)]

    assert [[T0 - 4000 * DAY_MS]] * 2 == [batch.ts.tolist() for batch in batches]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(TOPICS, PAYLOADS), max_size=6))
def test_nothing_that_arrives_raises(arrivals: list[tuple[bytes, bytes]]) -> None:
    """Whatever bytes arrive, telemetry is counted once each, and the next group is taken as well."""
    intake = Intake()
    messages = [publish(payload, topic) for topic, payload in arrivals]
    for _ in range(2):
        taken = intake.take([messages])
        counted = len(taken.messages) + taken.duplicates + len(taken.dead)
        heard = sum(not topic.endswith((b"/clock", b"/status", b"/meta")) for topic, _ in arrivals)

        assert heard - silent(messages) <= counted <= len(messages)


def silent(messages: Sequence[Publish]) -> int:
    """How many of `messages` are on a channel that ingest has nothing to do with."""
    return sum(message.topic.endswith((b"/command", b"/reply")) for message in messages)


@settings(max_examples=100, deadline=None)
@given(st.lists(PAYLOADS, max_size=6))
def test_every_telemetry_message_has_one_fate(payloads: list[bytes]) -> None:
    """Of messages on a telemetry topic each is stored, a repeat, or dead: none is left out."""
    taken = Intake().take([[publish(payload) for payload in payloads]])

    assert len(payloads) == len(taken.messages) + taken.duplicates + len(taken.dead)


def test_a_dead_letter_is_short(take: Take) -> None:
    """However long the bad name, the detail stays readable; the payload is kept whole."""
    payload = telemetry(values={"x" * 10_000: 1})
    [dead] = take(payload).dead

    assert (True, payload) == (len(dead.detail) <= 500, dead.payload)


def test_an_empty_group(take: Take) -> None:
    """A group without messages gives nothing, in arrays of the right types."""
    batch = take().batch

    assert (0, "int32", "int64") == (len(batch), batch.series.dtype.name, batch.ts.dtype.name)


def test_many_combinations_of_quantities(intake: Intake) -> None:
    """A device that sends ever other combinations is stored with one series per quantity."""
    names = [quantity.id for quantity in quantities_of(Domain.AIR)]
    combinations = list(itertools.combinations(names, 3))
    for seq, chosen in enumerate(combinations):
        taken = intake.take([[publish(telemetry(seq, values=dict.fromkeys(chosen, 1.0)))]])

        assert 3 == len(taken.batch)
    assert len(names) == len(intake.series)


def test_the_fate_of_a_dead_letter_is_known(take: Take) -> None:
    """A dead letter names its fate in the words of the ledger."""
    expected = DeadLetter(Fate.QUARANTINED, "unknown-quantity", "'pm99' in domain air", TELEMETRY,
                          telemetry(values={"pm99": 1}))  # fmt: skip

    assert [expected] == take(telemetry(values={"pm99": 1})).dead
