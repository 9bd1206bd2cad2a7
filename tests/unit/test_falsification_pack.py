"""The shipped signs of falsified data: which frauds they look for, and what they say of one stack."""

import pytest
from msgspec.structs import replace

from alerts.engine import AlarmEngine
from alerts.rules import load_packs
from alerts.scoring import DETECTORS, Alarms, Scoring, dedicated_to, looks_for
from alerts.surroundings import Nowhere
from city.cityfile import City, Event, load_city
from city.events import EVENT_KINDS, Layer
from city.readings import ReadingBatch
from cli.histories import Simulated

RULES = load_packs(["falsification"])
FRAUDS = [row.id for row in EVENT_KINDS.values() if row.layer is Layer.FRAUD]
SITE = "plant-blue-glaze"
STACK = f"{SITE}/stack-1"
HOUR_MS = 3_600_000
START_MS = 1_780_272_000_000
HOURS = 5
EVENTS = (
    Event(
        id="constant", kind="constant", target=STACK, quantity="stack_so2", at_s=3600, for_s=3600
    ),
    Event(id="dilution", kind="air-dilution", target=STACK, at_s=8000, for_s=2000),
    Event(id="oxygen", kind="o2-fake", target=STACK, at_s=11000, for_s=1500),
    Event(id="scale", kind="scale", target=STACK, quantity="stack_nox", at_s=14400, for_s=1200),
)


def one_stack(events: tuple[Event, ...]) -> City:
    """Lanting's ceramics works with its first stack analyser alone."""
    city = load_city("lanting")
    (site,) = (site for site in city.sites if site.id == SITE)
    site = replace(site, devices=site.devices[:1])
    return replace(city, sites=(site,), events=events)


def watched(events: tuple[Event, ...]) -> tuple[Alarms, Scoring]:
    """What the pack says of five hours of that stack, and what to hold it against."""
    city = one_stack(events)
    history = Simulated(city, seed=7, start_ms=START_MS, stop_ms=START_MS + HOURS * HOUR_MS)
    engine, alarms = AlarmEngine(RULES, Nowhere(), operators=1), Alarms()
    for birth in history.births():
        alarms.add(engine.learn(*birth))
    for until_ms, part in history.slices():
        batch = ReadingBatch(history.table, part.series, part.ts, part.value, part.flag)
        alarms.add(engine.evaluate(batch))
        alarms.add(engine.advance(until_ms))
    return alarms, Scoring(RULES, history.records or ())


@pytest.fixture(scope="module")
def falsified() -> tuple[Alarms, Scoring]:
    """The alarms of hours with four frauds."""
    return watched(EVENTS)


@pytest.mark.parametrize("kind", [*FRAUDS, "secret-discharge"])
def test_every_fraud_has_a_rule_of_its_name(kind: str) -> None:
    """The table of detectors names the rules of each kind, and the pack has one that is its own."""
    own = [rule.id for rule in RULES.rules if f"{rule.id}-".startswith(f"{kind}-")]
    seeking = {rule.id for rule in RULES.rules if looks_for(rule, kind)}

    assert kind in DETECTORS
    assert own
    assert seeking.issuperset(own)


def test_a_rule_is_there_for_its_own_sign() -> None:
    """Oxygen that is set by hand is no sign of water in the sampling tube."""
    kinds = dedicated_to(RULES.rule("o2-fake"))

    assert {"o2-fake"} == kinds


def test_every_rule_has_both_languages_and_says_what_it_rests_on() -> None:
    """A sign without its source would pass for a law."""
    limits = [limit for rule in RULES.rules for limit in rule.limits]
    messages = {text for rule in RULES.rules for text in (rule.message, rule.message_zh)}

    assert {("Engineering default", "D")} == {(row.standard, row.grade) for row in limits}
    assert "" not in messages | {limit.clause for limit in limits}


def test_most_signs_do_not_hurry() -> None:
    """What a person looks into by day is of medium or low severity."""
    severities = [rule.limits[0].severity for rule in RULES.rules]

    assert "critical" not in severities
    assert severities.count("high") <= len(severities) // 5


@pytest.mark.parametrize("kind", [event.kind for event in EVENTS])
def test_a_fraud_at_a_stack_is_found(kind: str, falsified: tuple[Alarms, Scoring]) -> None:
    """Each of four frauds in turn is found within the hour."""
    alarms, scoring = falsified
    (score,) = (score for score in scoring.scores(alarms) if score.kind == kind)

    assert score.recall == 1.0
    assert max(score.delays_ms) <= HOUR_MS


def test_a_fraud_is_not_many_alarms(falsified: tuple[Alarms, Scoring]) -> None:
    """Four frauds make at most an alarm when they begin and one when they end."""
    alarms, scoring = falsified

    assert {} == scoring.unexplained(alarms)
    assert len(EVENTS) <= len(alarms) <= 2 * len(EVENTS)


def test_an_honest_stack_raises_nothing() -> None:
    """Without frauds the same hours are quiet."""
    alarms, _ = watched(())

    assert [] == list(alarms)
