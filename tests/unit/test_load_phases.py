"""The courses of load tests: shipped profiles, and files of phases."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.choice import BrokerAddress
from city.documents import Document
from city.errors import DocumentError, SettingError
from load.phases import (
    DEFAULT_FOR_S,
    PROFILES,
    course_of,
    phases_in,
    phases_of,
    profile_help,
    profile_table,
)
from load.plan import LoadPlan, Phase

DOCS = Path(__file__).parents[2] / "docs" / "load.md"
RATE = 10_000.0


def phases(text: str, *, for_s: float | None = None) -> tuple[Phase, ...]:
    """The phases that a file with this text says."""
    return phases_in(Document(text, "mine.yaml"), rate=RATE, for_s=for_s)


def problem(text: str) -> str:
    """What is wrong with a file with this text."""
    with pytest.raises(DocumentError) as caught:
        phases(text)
    return str(caught.value)


def plan(*parts: Phase) -> LoadPlan:
    """A test of these phases, of 10,000 messages per second at pace 1."""
    return LoadPlan(
        run="test", broker=BrokerAddress("127.0.0.1", 1883), devices=10_000, interval_s=1.0,
        ramp_s=5.0, phases=parts, kinds=("air-station",), seed=1, city_start_ms=0,
    )  # fmt: skip


def test_names() -> None:
    """Seven profiles are shipped."""
    wanted = {"steady", "ramp", "step", "spike", "reconnect-storm", "alarm-storm", "daily"}

    assert wanted == set(PROFILES)


@settings(deadline=None)
@given(st.sampled_from(sorted(PROFILES)), st.floats(0.1, 1e6))
def test_whole_time(name: str, for_s: float) -> None:
    """A profile fills the time that it is given."""
    assert for_s == pytest.approx(sum(one.for_s for one in phases_of(name, rate=1.0, for_s=for_s)))


@pytest.mark.parametrize("name", ["ramp", "daily"])
def test_joined(name: str) -> None:
    """A profile with slopes has no jumps: each phase begins at the pace at which the last ended."""
    course = phases_of(name, rate=1.0)
    ends = [one.pace if one.to_pace is None else one.to_pace for one in course]

    assert ends[:-1] == [one.pace for one in course[1:]]


def test_day() -> None:
    """The day's course has 24 hours, its peak is the rate, and it ends where the next day begins."""
    day = phases_of("daily", rate=1.0)

    assert 24 == len(day)
    assert 1.0 == max(one.pace for one in day)
    assert day[0].pace == day[-1].to_pace


def test_default_time() -> None:
    """A profile lasts a minute where nobody says how long."""
    assert DEFAULT_FOR_S == sum(one.for_s for one in phases_of("steady", rate=1.0))


def test_unknown_profile() -> None:
    """A misspelt profile is named with the one that was probably meant and all that there are."""
    with pytest.raises(SettingError, match=r"'stedy' is no profile; did you mean 'steady'\?") as no:
        phases_of("stedy", rate=1.0)

    assert all(name in str(no.value) for name in PROFILES)


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(DocumentError, match=r"none\.yaml: cannot be read"):
        phases_of(str(tmp_path / "none.yaml"), rate=1.0)


def test_file(tmp_path: Path) -> None:
    """A file says each phase with a duration, a pace or a rate, and shares of devices."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "phases:\n"
        "  - {name: up, for: 30s, pace: 0.2, to_pace: 1}\n"
        "  - {name: rush, for: 1.5m, rate: 20000/s, to_rate: 600000/min, drop: 0.1, alarms: 0.05}\n"
        "  - {name: rest, for: 10}\n",
        encoding="utf-8",
    )

    assert (
        Phase(name="up", for_s=30, pace=0.2, to_pace=1),
        Phase(name="rush", for_s=90, pace=2.0, to_pace=1.0, drop=0.1, alarms=0.05),
        Phase(name="rest", for_s=10),
    ) == phases_of(str(path), rate=RATE)


def test_stretched() -> None:
    """A file's phases keep their proportions when they are given another time."""
    text = "phases: [{name: a, for: 10s}, {name: b, for: 30s}]"

    assert [2.0, 6.0] == [one.for_s for one in phases(text, for_s=8.0)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "mine.yaml: expected a mapping of keys, found nothing"),
        ("phases: []", "mine.yaml:1: phases: "),
        ("phase: []", "mine.yaml:1: phase: unknown key 'phase'; did you mean 'phases'?"),
        (
            "phases:\n- {name: a, for: 1s, paec: 2}",
            "mine.yaml:2: phases[0].paec: unknown key 'paec'",
        ),
        ("phases:\n- {name: a}", "mine.yaml:2: phases[0]: "),
        ("phases:\n- name: a\n  for: soon", "mine.yaml:3: phases[0].for: 'soon' is not a duration"),
        ("phases:\n- name: a\n  for: 0", "mine.yaml:3: phases[0].for: '0.0' is not a duration"),
        ("phases:\n- name: a\n  for: -3", "mine.yaml:3: phases[0].for: '-3.0' is not a duration"),
        ("phases:\n- name: a\n  for: 1s\n  pace: -1", "mine.yaml:4: phases[0].pace: "),
        ("phases:\n- name: a\n  for: 1s\n  pace: .nan", "mine.yaml:4: phases[0].pace: "),
        ("phases:\n- name: a\n  for: 1s\n  pace: .inf", "mine.yaml:4: phases[0].pace: "),
        ("phases:\n- name: a\n  for: 1s\n  drop: 1.5", "mine.yaml:4: phases[0].drop: "),
        (
            "phases:\n- name: a\n  for: 1s\n  rate: fast",
            "mine.yaml:4: phases[0].rate: 'fast' is not a rate; give e.g. 20000/s",
        ),
        (
            "phases:\n- name: a\n  for: 1s\n  rate: 1000000000000/s",
            "mine.yaml:4: phases[0].rate: '1000000000000/s' is more than 1,000,000 times",
        ),
        (
            "phases:\n- name: a\n  for: 1s\n  pace: 1\n  rate: 5/s",
            "mine.yaml:5: phases[0].rate: stands beside pace; give one of them",
        ),
    ],
)
def test_wrong(text: str, said: str) -> None:
    """What is wrong in a file is named with its line, its path and what is allowed."""
    assert problem(text).startswith(said)


def test_course() -> None:
    """A course is told phase by phase: from when to when, at what pace and rate, and what else."""
    told = course_of(plan(*phases_of("reconnect-storm", rate=RATE, for_s=20.0)))

    assert told == (
        "phase         from      to  pace           rate\n"
        "connecting   0.0 s   5.0 s     1  0 to 10,000/s\n"
        "calm         5.0 s  11.0 s     1       10,000/s\n"
        "half        11.0 s  17.0 s     1       10,000/s"
        "  50% of the devices lose their connection\n"
        "all         17.0 s  25.0 s     1       10,000/s"
        "  100% of the devices lose their connection"
    )


def test_slope_in_course() -> None:
    """A slope is told by both its ends."""
    told = course_of(plan(*phases_of("ramp", rate=RATE, for_s=10.0)))

    assert "up           5.0 s  12.0 s  0.1 to 1  1,000 to 10,000/s" in told


def test_help() -> None:
    """The help names every profile with its sentence."""
    told = profile_help()

    assert all(f"{one.name}: {one.sentence}" in told for one in PROFILES.values())


def test_docs() -> None:
    """The page of load tests shows the table of the profiles as it is."""
    assert profile_table() in DOCS.read_text(encoding="utf-8")


def test_docs_file() -> None:
    """The file of phases that the page shows as an example can be read."""
    page = DOCS.read_text(encoding="utf-8")
    example = page.split("```yaml\n", 1)[1].split("```", 1)[0]

    assert ["warm-up", "rush", "outage"] == [one.name for one in phases(example)]
