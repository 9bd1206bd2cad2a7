from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.choice import BrokerAddress
from load import course as course_module
from load.course import Course
from load.figures import Delta, histogram_of
from load.plan import LoadPlan, Order, Phase

START_MS = 1_795_413_600_000


def planned(**changes: Any) -> LoadPlan:
    """A plan of ten devices: a ramp of 2 s, two phases of 4 s."""
    fields: dict[str, Any] = {
        "run": "trial", "broker": BrokerAddress("127.0.0.1", 1883), "devices": 10,
        "interval_s": 1.0, "ramp_s": 2.0, "kinds": ("air-micro",), "seed": 1, "city_start_ms": 0,
        "phases": (Phase(name="steady", for_s=4), Phase(name="more", for_s=4, pace=2)),
    } | changes  # fmt: skip
    return LoadPlan(**fields)


def word(at_s: float, **fields: Any) -> Delta:
    """What shard 0 says so long after the beginning; delays are given in microseconds."""
    delays = {stage: histogram_of(us).encode() for stage, us in fields.pop("delays", {}).items()}
    told: dict[str, Any] = {
        "kind": "shard",
        "part": 0,
        "at_ms": START_MS + round(at_s * 1000),
        "delays": delays,
    }
    return Delta(**(told | fields))


def course_of(*words: Delta, **changes: Any) -> Course:
    """A course that has heard these words."""
    course = Course(planned(**changes), START_MS)
    for one in words:
        course.add(one)
    return course


WORDS = st.lists(
    st.builds(
        word,
        st.floats(0.1, 30),
        kind=st.sampled_from(["shard", "subscriber"]),
        part=st.integers(0, 2),
        counts=st.dictionaries(st.sampled_from(["sent", "acked", "received"]), st.integers(0, 99)),
        delays=st.dictionaries(
            st.sampled_from(["ack", "connect"]), st.lists(st.integers(1, 10**6), min_size=1)
        ),
        connected=st.integers(0, 9),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(words=WORDS)
def test_totals_are_the_sums_of_the_parts_and_of_the_phases(words: list[Delta]) -> None:
    """Whatever is told, counts of parts, of phases and over all agree, and so do delays."""
    course = course_of(*words)

    of_parts: Counter[str] = sum(
        (one.sums.counts for one in course.attempts.values()), Counter[str]()
    )
    of_phases: Counter[str] = sum((one.sums.counts for one in course.stretches), Counter[str]())
    delays = Counter[str]()
    for one in course.attempts.values():
        delays.update({stage: found.count for stage, found in one.sums.latency().items()})
    assert +course.counts == of_parts == of_phases
    assert {stage: one.count for stage, one in course.total.latency().items()} == delays


@settings(max_examples=40, deadline=None)
@given(words=WORDS, most=st.integers(4, 12))
def test_a_long_test_keeps_few_points_and_every_delay(words: list[Delta], most: int) -> None:
    """Neighbours become one point: there are never more than allowed, and no delay is lost."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(course_module, "POINTS_MAX", most)
        course = course_of(*words)

    points = course.points()
    told = course_of(*words).points()
    assert len(points) <= most
    assert sorted(point.at_s for point in points) == [point.at_s for point in points]
    for stage in ("ack", "connect"):
        counts = [
            sum(point.latency[stage].count for point in some if stage in point.latency)
            for some in (points, told)
        ]
        assert counts[0] == counts[1]


def test_delays_of_the_ramp_count_in_the_series_alone() -> None:
    """The totals leave out what was said in the ramp, but for how long connecting took."""
    course = course_of(
        word(1, delays={"ack": [500], "connect": [300]}),
        word(2, delays={"ack": [500]}),
        word(3, delays={"ack": [700]}),
    )

    assert {"ack": 1, "connect": 1} == {
        stage: one.count for stage, one in course.total.latency().items()
    }
    assert 3 == sum(point.latency["ack"].count for point in course.points())


def test_lost_is_what_is_confirmed_and_not_received() -> None:
    """Messages that are acknowledged and that no subscriber had for the first time are missing."""
    course = course_of(
        word(3, confirmed=30),
        word(3.1, kind="subscriber", counts={"received": 29, "distinct": 28, "repeated": 1}),
    )

    assert 2 == course.lost


def test_nothing_is_lost_where_nobody_looks() -> None:
    """Without a subscriber what was lost is unknown."""
    assert course_of(word(3, confirmed=30)).lost is None


def test_a_subscriber_may_be_ahead_of_the_acknowledgements() -> None:
    """More received than confirmed is no loss, and no gain either."""
    course = course_of(word(3, confirmed=3), word(3, kind="subscriber", counts={"distinct": 9}))

    assert 0 == course.lost


def test_confirmed_adds_up_over_the_processes_of_a_part() -> None:
    """A shard that starts again counts from nothing; what its first process had stands."""
    course = course_of(
        word(3, attempt="one", confirmed=10),
        word(4, attempt="one", confirmed=20),
        word(6, attempt="two", confirmed=5),
        word(7, attempt="two", confirmed=15),
    )

    assert 35 == course.confirmed
    assert [20, 15] == [one.confirmed for one in course.attempts.values()]


def test_a_part_that_says_nothing_for_a_second_stands_as_it_was() -> None:
    """Words do not come exactly once a second: rates and devices show neither gaps nor peaks."""
    words = [
        *(word(0.95 + 1.03 * n, counts={"sent": 103}, connected=10) for n in range(8)),
        *(word(1.0 * n, part=1, counts={"sent": 100}, connected=5) for n in range(1, 9)),
    ]
    course = course_of(*sorted(words, key=lambda one: one.at_ms))

    points = course.points()[2:-1]
    assert [15] * len(points) == [point.stand.connected for point in points]
    assert [200.0] * len(points) == [round(point.stand.rates["sent"]) for point in points]


def test_a_part_that_has_ended_is_not_there_any_more() -> None:
    """After its last word a part's devices count no more."""
    course = course_of(
        word(1, connected=10),
        word(2, connected=10, last=True),
        *(word(n, part=1, connected=5) for n in range(1, 5)),
    )

    assert [15, 15, 5, 5] == [point.stand.connected for point in course.points()]


def test_a_part_that_fell_silent_is_left_out_after_a_while() -> None:
    """A process that died is not counted as online for ever."""
    course = course_of(
        word(1.5, connected=10), *(word(n, part=1, connected=5) for n in range(1, 12))
    )

    assert 5 == course.points()[-1].stand.connected
    assert 15 == course.connected_most


def test_words_before_the_beginning_say_only_how_a_part_stands() -> None:
    """What a part used to prepare itself is no load."""
    course = course_of(word(-3, cpu_s=5.0, empty_rss_bytes=80), word(1, cpu_s=0.5, rss_bytes=100))

    attempt = next(iter(course.attempts.values()))
    assert (0.5, 80, 100) == (attempt.sums.cpu_s, attempt.empty_rss_bytes, attempt.rss_bytes)
    assert [{"shard": 0.5}] == [point.stand.cpu for point in course.points()]


def test_a_word_that_comes_late_is_added_to_its_second() -> None:
    """Delays of a second that seemed over are not lost, and not counted in another one."""
    course = course_of(
        *(word(n + 0.5, part=1, delays={"ack": [100]}) for n in range(20)),
        word(3.0),
        word(3.6, delays={"ack": [900]}),
    )

    counts = [point.latency["ack"].count for point in course.points()]
    assert [1, 1, 1, 2] + [1] * 16 == counts


def test_points_know_their_phase_and_pace() -> None:
    """Each second says in which phase it was, and how fast the city's time ran."""
    course = course_of(*(word(n + 0.9) for n in range(12)))

    told = [(point.phase, point.pace) for point in course.points()]
    assert [("ramp", 1.0)] * 2 + [("steady", 1.0)] * 4 + [("more", 2.0)] * 4 == told[:10]
    assert ["drain"] * 2 == [phase for phase, _ in told[10:]]


def test_an_order_to_stop_begins_the_drain() -> None:
    """What is said after a stop belongs to no phase."""
    course = Course(planned(), START_MS)
    course.follow([Order(at_ms=START_MS + 4_000, stop=True)])
    course.add(word(4.01, counts={"sent": 5}))
    course.add(word(4.5, counts={"sent": 7}))

    assert 7 == course.stretches[-1].sums.counts["sent"]


def test_a_word_belongs_to_the_phase_in_which_most_of_its_time_lies() -> None:
    """What is told just after a phase has ended counts in it; the ramp's delays are left out."""
    course = course_of(
        word(1.0, delays={"ack": [9_000]}, counts={"sent": 1}),
        word(2.01, delays={"ack": [9_000]}, counts={"sent": 2}),
        word(3.0, delays={"ack": [1_000]}, counts={"sent": 3}),
        word(6.02, delays={"ack": [1_000]}, counts={"sent": 4}),
        word(6.9, counts={"sent": 5}),
        word(9.98, counts={"sent": 6}),
        word(10.01, counts={"sent": 7}),
        word(10.5, counts={"sent": 8}),
    )

    assert [3, 7, 18, 8] == [one.sums.counts["sent"] for one in course.stretches]
    assert 1.0 == pytest.approx(course.total.latency()["ack"].max, rel=0.01)


def test_the_latest_second_is_one_that_all_have_told() -> None:
    """The newest second is still growing: the one before it is shown."""
    course = course_of(word(2.0), word(3.0, counts={"sent": 5}), word(4.0))

    latest = course.latest()
    assert latest is not None
    assert 3.0 == latest.at_s


def test_no_second_is_shown_before_there_is_one() -> None:
    """A test that is being prepared has no figures."""
    assert course_of(word(-1)).latest() is None


def test_warnings_are_kept_once() -> None:
    """Several parts that say the same are one warning."""
    course = course_of(word(1, warnings=("slow",)), word(1, part=1, warnings=("slow",)))

    assert ["slow"] == course.warnings
