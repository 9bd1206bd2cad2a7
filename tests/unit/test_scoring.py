"""Alarms held against what really happened."""

from collections.abc import Iterable
from itertools import count

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.gates import Watch
from alerts.rules import Count, Leaf, Limit, Pack, Rule, RuleKind, RuleSet
from alerts.scoring import (
    AFTER_FAULT_MS,
    AFTERMATH_MS,
    Alarm,
    Alarms,
    Judgement,
    Score,
    Scoring,
    judged,
    looks_for,
)
from alerts.signals import Signal
from broker.messages import AlarmEvent, AlarmHappening, AlarmState, Announcement, TruthRecord
from city.cityfile import Address
from city.events import EVENT_KINDS, Layer

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
PM25 = Signal(quantity="pm25")
STUCK = Signal(stat="stuck", quantity="pm25")


def at(device: str, domain: str = "air") -> Address:
    """A device by `site/device`."""
    site, name = device.split("/")
    return Address("town", "north", domain, site, name)


def rule(name: str, kind: RuleKind = "limit", signal: Signal = PM25, pack: str = "any") -> Rule:
    """A rule with one upper limit."""
    limit = Limit(
        level="H", limit=75.0, deadband=0.0, severity="high", standard="", clause="", grade="D"
    )
    leaf = Leaf(id=name, signal=signal, unit="", limits=(limit,), watch=Watch((limit,)))
    return Rule(id=name, pack=pack, kind=kind, condition=leaf, limits=(limit,), unit="")


def ruleset(*rules: Rule) -> RuleSet:
    """The rules as one set."""
    pack = Pack(
        id="any", title="", title_zh="", valid_from=None, valid_until=None, note="", source="",
        rules=rules,
    )  # fmt: skip
    return RuleSet((pack,))


def alarm(
    name: str, minute: float, device: str = "park/1", quantity: str = "pm25", domain: str = "air"
) -> Alarm:
    """An alarm of the rule `name`, raised so many minutes after the epoch."""
    return Alarm(
        rule=name, address=at(device, domain), quantity=quantity, severity="high", level="H",
        value=80.0, limit=75.0, raised=round(minute * MINUTE_MS),
    )  # fmt: skip


def record(
    kind: str,
    begins: float,
    ends: float | None,
    devices: tuple[str, ...] = ("park/1",),
    quantities: tuple[str, ...] = ("pm25",),
) -> TruthRecord:
    """An event of that kind between two minutes after the epoch."""
    layer = {"world": "world", "instrument": "instrument", "fraud": "fraud"}
    return TruthRecord(
        id=f"{kind}-{begins}",
        kind=kind,
        layer=layer[EVENT_KINDS[kind].layer.value],  # type: ignore[arg-type]
        cause="scripted",
        start=round(begins * MINUTE_MS),
        end=None if ends is None else round(ends * MINUTE_MS),
        devices=devices,
        quantities=quantities,
    )


def score(
    rules: Iterable[Rule], records: Iterable[TruthRecord], *alarms: Alarm
) -> dict[str, Score]:
    """The scores by kind of event."""
    return {one.kind: one for one in Scoring(ruleset(*rules), records).scores(alarms)}


class TestHits:
    """When an alarm detects an event."""

    def test_hit(self) -> None:
        """An alarm at the device during the event is right, and its delay counts from the start."""
        found = score(
            [rule("hangs", "stuck", STUCK)], [record("stuck", 10, 60)], alarm("hangs", 25)
        )["stuck"]

        assert (1.0, 1.0, (900.0, 900.0)) == (found.precision, found.recall, found.delay_s)

    @pytest.mark.parametrize(
        ("minute", "device", "quantity"),
        [
            (9, "park/1", "pm25"),
            (60 + AFTER_FAULT_MS / MINUTE_MS + 1, "park/1", "pm25"),
            (30, "park/2", "pm25"),
            (30, "mill/1", "pm25"),
        ],
        ids=["before", "long after", "next to it", "elsewhere"],
    )
    def test_miss(self, minute: float, device: str, quantity: str) -> None:
        """Before, long after or elsewhere an alarm is false, and the event is missed."""
        found = score(
            [rule("hangs", "stuck", STUCK)],
            [record("stuck", 10, 60)],
            alarm("hangs", minute, device, quantity),
        )["stuck"]

        assert (0.0, 0.0, 1) == (found.precision, found.recall, found.unexplained)

    def test_other_quantity(self) -> None:
        """An alarm about a quantity that the event leaves alone is false."""
        other = Signal(stat="stuck", quantity="o3")
        found = score(
            [rule("hangs", "stuck", other)], [record("stuck", 10, 60)], alarm("hangs", 30)
        )

        assert (0.0, 0.0) == (found["stuck"].precision, found["stuck"].recall)

    @pytest.mark.parametrize("place", ["*", "park/*", "park/1"])
    def test_places(self, place: str) -> None:
        """A record names a device, all of a site, or everything."""
        found = score(
            [rule("hangs", "stuck", STUCK)],
            [record("stuck", 10, 60, devices=(place,))],
            alarm("hangs", 30),
        )

        assert 1.0 == found["stuck"].recall

    @pytest.mark.parametrize(("late_min", "recall"), [(-1, 1.0), (1, 0.0)])
    @pytest.mark.parametrize("domain", list(AFTERMATH_MS))
    def test_aftermath(self, domain: str, late_min: int, recall: float) -> None:
        """An event of the world is felt for a while after its end, by the domain of the device."""
        limits = rule("methane-high", "limit", Signal(quantity="methane"), "gas-network")
        leak = record("gas-leak", 10, 60, quantities=("methane",))
        minute = 60 + AFTERMATH_MS[domain] / MINUTE_MS + late_min
        found = score([limits], [leak], alarm("methane-high", minute, domain=domain))

        assert recall == found["gas-leak"].recall

    def test_memory(self) -> None:
        """A rule that looks back over a window may find an event so much later."""
        daily = Signal(stat="rate", quantity="pm25", window_ms=HOUR_MS)
        rules = [rule("jump", "rate", daily, "data-quality")]
        minute = 60 + (AFTER_FAULT_MS + HOUR_MS) / MINUTE_MS
        found = score(rules, [record("spike", 10, 60)], alarm("jump", minute))

        assert 1.0 == found["spike"].recall

    def test_neighbour(self) -> None:
        """A rule that compares devices of a site finds the fault of either of them."""
        beside = Signal(quantity="pm25", minus=Signal(quantity="pm25", at="air-station"))
        rules = [rule("apart", "comparison", beside, "data-quality")]
        found = score(rules, [record("drift", 10, 60, ("park/2",))], alarm("apart", 30))

        assert 1.0 == found["drift"].recall

    def test_counted(self) -> None:
        """A rule that counts devices of a district is about any of them."""
        many = rule("smog-widespread", "count")
        condition = Count(3, "district", many.condition)
        rules = [msgspec.structs.replace(many, condition=condition)]
        found = score(rules, [record("smog", 10, 60, ("mill/1",))], alarm("smog-widespread", 30))

        assert 1.0 == found["smog"].recall

    def test_for_ever(self) -> None:
        """An event without an end may be found at any time after its start."""
        found = score(
            [rule("hangs", "stuck", STUCK)], [record("stuck", 10, None)], alarm("hangs", 1e6)
        )

        assert 1.0 == found["stuck"].recall

    def test_first(self) -> None:
        """The first alarm of several makes the time to detection; every one of them is right."""
        found = score(
            [rule("hangs", "stuck", STUCK)],
            [record("stuck", 10, 60)],
            alarm("hangs", 40),
            alarm("hangs", 20),
        )["stuck"]

        assert ((600_000,), 2) == (found.delays_ms, found.right)

    def test_delays(self) -> None:
        """Over several events stand the median and the longest time."""
        events = [record("stuck", start, start + 60) for start in (0, 1000, 2000, 3000)]
        alarms = [alarm("hangs", start) for start in (1, 1002, 2030)]
        found = score([rule("hangs", "stuck", STUCK)], events, *alarms)["stuck"]

        assert (0.75, (120.0, 1800.0)) == (found.recall, found.delay_s)


class TestKinds:
    """Which rules look for what, and what explains an alarm."""

    def test_nobody_looks(self) -> None:
        """Where no rule looks for a kind of event there is no recall, rather than none."""
        found = score([rule("pm25-high")], [record("clock-skew", 0, 60)])["clock-skew"]

        assert (0, None, None) == (found.rules, found.recall, found.precision)

    def test_named(self) -> None:
        """A rule with the kind's name in its identifier looks for it, whatever it is made of."""
        assert looks_for(rule("too-much-noise-in-pm25", "composite"), "noise")
        assert not looks_for(rule("noisey"), "noise")

    def test_frauds(self) -> None:
        """A falsification rule looks for every kind of fraud."""
        flat = rule("flat", "comparison", Signal(quantity="stack_o2"), "falsification")
        frauds = {row.id for row in EVENT_KINDS.values() if row.layer is Layer.FRAUD}

        assert frauds | {"secret-discharge"} == {k for k in EVENT_KINDS if looks_for(flat, k)}

    @pytest.mark.parametrize(
        ("flags", "kind"),
        [("B", "comm-loss"), ("C", "calibration"), ("M", "maintenance"), ("D", "fault")],
    )
    def test_flags(self, flags: str, kind: str) -> None:
        """A rule about a flag looks for what sets that flag."""
        flagged = rule("marked", "flags", Signal(stat="flagged", quantity="pm25", flags=flags))

        assert [kind] == [name for name in EVENT_KINDS if looks_for(flagged, name)]

    def test_explained_by_another(self) -> None:
        """An alarm that another kind of event explains is not false, and said to be of that."""
        found = score(
            [rule("hangs", "stuck", STUCK)],
            [record("stuck", 0, 10), record("drift", 500, 600)],
            alarm("hangs", 5),
            alarm("hangs", 550),
        )["stuck"]

        assert (1, {"drift": 1}, 0, 1.0) == (
            found.right, found.elsewhere, found.unexplained, found.precision,
        )  # fmt: skip

    def test_silence(self) -> None:
        """That a device is silent is explained by silence alone, not by the weather."""
        silent = rule("quiet", "silence", Signal(stat="silence", window_ms=MINUTE_MS))
        events = [record("smog", 0, 100, ("*",)), record("silence", 200, 300)]
        found = score([silent], events, alarm("quiet", 50), alarm("quiet", 210))["silence"]

        assert (1, 1, 0.5) == (found.right, found.unexplained, found.precision)

    def test_witness(self) -> None:
        """A limit rule may find a discharge; its other alarms are not false ones."""
        permit = rule(
            "so2-permit", "average", Signal(stat="hour", quantity="stack_so2"), "emission-permits"
        )
        event = record("secret-discharge", 0, 60, ("works/*",), ("stack_so2",))
        scoring = Scoring(ruleset(permit), [event])
        alarms = [
            alarm("so2-permit", minute, "works/stack-1", "stack_so2", "emission")
            for minute in (20, 5000)
        ]
        [found] = scoring.scores(alarms)

        assert (1.0, None, {}) == (found.recall, found.precision, scoring.unexplained(alarms))

    def test_unexplained(self) -> None:
        """What nothing explains is counted by rule, the worst first."""
        scoring = Scoring(ruleset(rule("a", "stuck", STUCK), rule("b", "stuck", STUCK)), [])
        alarms = [alarm("b", 1), alarm("a", 2), alarm("b", 3)]

        assert [("b", 2), ("a", 1)] == list(scoring.unexplained(alarms).items())


@given(st.lists(st.tuples(st.integers(0, 300), st.sampled_from(["park/1", "mill/1"]))))
def test_every_alarm_is_judged(raised: list[tuple[int, str]]) -> None:
    """A detector's alarms are right, of another kind, or unexplained: each exactly one of them."""
    events = [record("stuck", 50, 100), record("drift", 120, 180, ("mill/*",))]
    alarms = [alarm("hangs", minute, device) for minute, device in raised]
    found = score([rule("hangs", "stuck", STUCK)], events, *alarms)["stuck"]
    other = sum(found.elsewhere.values())

    assert len(alarms) == found.alarms == found.right + other + found.unexplained
    assert found.right == 0 or found.recall == 1.0


class TestAlarms:
    """From events to the alarms that people saw."""

    @staticmethod
    def told(*happenings: tuple[AlarmHappening, AlarmState, bool]) -> list[Announcement]:
        """One alarm's events, a minute apart: what happened, the state after it, if it is active."""
        minutes = count()
        return [
            Announcement(
                at("park/1"),
                AlarmEvent(
                    rule="high", event=event, state=state, severity="high", level="H",
                    quantity="pm25", value=80.0, limit=75.0, unit="ug/m3",
                    ts=next(minutes) * MINUTE_MS, raised=0, active=active,
                ),
            )
            for event, state, active in happenings
        ]  # fmt: skip

    def test_life(self) -> None:
        """An alarm lasts from its raising to its clearing; what people do to it is no new one."""
        alarms = Alarms()
        alarms.add(self.told(
            ("raised", "unacknowledged", True), ("escalated", "unacknowledged", True),
            ("acknowledged", "acknowledged", True), ("repeated", "acknowledged", True),
            ("cleared", "normal", False), ("raised", "unacknowledged", True),
        ))  # fmt: skip

        assert [(0, 240_000), (300_000, None)] == [(a.raised, a.cleared) for a in alarms]

    def test_hidden(self) -> None:
        """What is suppressed from its raising to its end was not seen."""
        alarms = Alarms()
        alarms.add(self.told(("raised", "suppressed", True), ("cleared", "normal", False)))

        assert (0, 1) == (len(alarms), alarms.hidden)

    def test_shown_later(self) -> None:
        """A suppressed alarm that comes to light is seen from then on."""
        alarms = Alarms()
        alarms.add(self.told(
            ("raised", "suppressed", True), ("unsuppressed", "unacknowledged", True),
            ("cleared", "returned", False),
        ))  # fmt: skip

        assert [(60_000, 120_000)] == [(a.raised, a.cleared) for a in alarms]

    def test_gone_on_the_shelf(self) -> None:
        """What ended on the shelf is told when it leaves it: no end of its own, no new alarm."""
        alarms = Alarms()
        alarms.add(self.told(
            ("raised", "unacknowledged", True), ("shelved", "shelved", True),
            ("unshelved", "normal", False), ("raised", "unacknowledged", True),
        ))  # fmt: skip

        assert [(0, 120_000), (180_000, None)] == [(a.raised, a.cleared) for a in alarms]


class TestJudged:
    """Alarms about limits."""

    @pytest.mark.parametrize(
        ("true", "expected"),
        [
            ({("park/1", "pm25", MINUTE_MS): 76.0}, Judgement(1, 0, 0)),
            ({("park/1", "pm25", MINUTE_MS): 75.0}, Judgement(0, 1, 0)),
            ({("park/1", "pm10", MINUTE_MS): 76.0}, Judgement(0, 0, 1)),
            ({}, Judgement(0, 0, 1)),
        ],
    )
    def test_true_value(self, true: dict[tuple[str, str, int], float], expected: Judgement) -> None:
        """It is right when the truth lies beyond the limit, wrong when not; else nothing is known."""
        assert expected == judged(ruleset(rule("high")), [alarm("high", 1)], true)

    def test_lower_limit(self) -> None:
        """Below a lower limit the truth is beyond it."""
        low = msgspec.structs.replace(alarm("low", 1), level="L", limit=5.0)
        true = {("park/1", "pm25", MINUTE_MS): 4.0}

        assert Judgement(1, 0, 0) == judged(ruleset(rule("low")), [low], true)

    def test_means_are_not_judged(self) -> None:
        """The truth of one instant says nothing about a mean."""
        hourly = rule("hourly", "average", Signal(stat="hour", quantity="pm25"))

        assert Judgement(0, 0, 0) == judged(ruleset(hourly), [alarm("hourly", 1)], {})
