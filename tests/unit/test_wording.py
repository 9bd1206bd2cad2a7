from datetime import UTC
from typing import Any, get_args
from zoneinfo import ZoneInfo

import pytest

from alerts.mails import Line, Mail, Occasion
from alerts.routes import Language
from alerts.wording import PHRASES, is_over, severity_of, worded
from broker.messages import AlarmEvent, AlarmHappening, Announcement
from city.cityfile import Address

NOON = 1_780_315_200_000
"""2026-06-01T12:00Z."""


def line(occasion: Occasion, **changes: Any) -> Line:
    """A line about a high alarm of an air station."""
    fields: dict[str, Any] = {
        "rule": "pm25-hour",
        "event": "raised" if occasion == "reminder" else occasion,
        "state": "unacknowledged",
        "severity": "high",
        "level": "HH",
        "quantity": "pm25",
        "value": 163.25,
        "limit": 150.0,
        "unit": "ug/m3",
        "ts": NOON,
        "raised": NOON - 600_000,
        "standard": "HJ 633-2026",
        "message": "Fine dust is very high",
        "message_zh": "细颗粒物浓度很高",
    }
    address = Address("lanting", "old-town", "air", "north-gate", "aq-1")
    return Line(occasion, Announcement(address, AlarmEvent(**(fields | changes))))


def mail(*lines: Line, language: Language = "en", more: int = 0, person: str = "") -> Mail:
    """A mail with these lines."""
    return Mail(
        id="1",
        route="r",
        channel="c",
        person=person,
        language=language,
        group="old-town/north-gate",
        due_ms=NOON,
        lines=list(lines),
        more=more,
    )


OCCASIONS: tuple[Occasion, ...] = (*get_args(AlarmHappening), "reminder")


def test_every_happening() -> None:
    """Every happening in an alarm's life has its words, and nothing else has."""
    assert set(OCCASIONS) == set(PHRASES)


@pytest.mark.parametrize("occasion", OCCASIONS)
@pytest.mark.parametrize("language", ["en", "zh", "both"])
def test_complete(occasion: Occasion, language: Language) -> None:
    """Every happening makes a title and a text that name alarm and device, in both languages."""
    said = line(occasion, by="Lin", why="pump test", until=NOON + 3_600_000)
    wording = worded(mail(said, language=language), UTC)

    assert "pm25-hour north-gate/aq-1" in wording.title
    assert "old-town/north-gate/aq-1" in wording.body
    assert "{" not in wording.title + wording.body
    phrase = PHRASES[occasion]
    words = {"en": [phrase.word_en], "zh": [phrase.word_zh]}
    expected = words.get(language, [phrase.word_en, phrase.word_zh])
    assert all(word in wording.title for word in expected)


SENTENCES: list[tuple[Occasion, dict[str, Any], str, str]] = [
    (
        "raised", {},
        ": raised: Fine dust is very high; PM2.5 163.25 ug/m3, above HH 150 ug/m3 (HJ 633-2026)",
        "：报警：细颗粒物浓度很高；细颗粒物 163.25 ug/m3，高于 HH 150 ug/m3（HJ 633-2026）",
    ),
    (
        "eased", {"first_out": True, "level": "LL", "message": "", "quantity": "aqi", "unit": "1"},
        " [first of its cause]: eased, not over: aqi 163.25, below LL 150 (HJ 633-2026)",
        "【首发】：级别降低，尚未恢复：细颗粒物浓度很高；aqi 163.25，低于 LL 150（HJ 633-2026）",
    ),
    (
        "cleared", {"state": "latched"},
        (": over since 2026-06-01 12:00:00, a person must acknowledge and reset it; "
        "it stood since 2026-06-01 11:50:00"),
        "：已于2026-06-01 12:00:00恢复，需人工确认并复位；始于2026-06-01 11:50:00",
    ),
    (
        "shelved", {"by": "Lin", "why": "pump test", "until": NOON + 3_600_000},
        ": shelved by Lin until 2026-06-01 13:00:00: pump test",
        "：已搁置（Lin）至2026-06-01 13:00:00：pump test",
    ),
    (
        "promoted", {"supervision": "district", "standard": "", "message": "", "message_zh": ""},
        (": passed on to the district, nobody has acknowledged it since 2026-06-01 11:50:00: "
        "PM2.5 163.25 ug/m3, above HH 150 ug/m3"),
        "：自2026-06-01 11:50:00无人确认，上报至区级：细颗粒物 163.25 ug/m3，高于 HH 150 ug/m3",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("occasion", "changes", "english", "chinese"), SENTENCES)
def test_sentences(occasion: Occasion, changes: dict[str, Any], english: str, chinese: str) -> None:
    """A sentence says when, where, what, by how much, by whom and why."""
    said = line(occasion, **changes)
    place = "2026-06-01 12:00:00 old-town/north-gate/aq-1"

    assert f"{place}: pm25-hour{english}" == worded(mail(said), UTC).body
    assert f"{place}：pm25-hour{chinese}" == worded(mail(said, language="zh"), UTC).body


def test_both_languages() -> None:
    """In both languages, the Chinese follows the English."""
    wording = worded(mail(line("raised"), language="both"), UTC)

    assert "[high] raised: pm25-hour north-gate/aq-1 / [高] 报警: pm25-hour north-gate/aq-1" == (
        wording.title
    )
    assert 2 == len(wording.body.split("\n\n"))


def test_local_time_and_names() -> None:
    """Times are local, and a site has the name that the city gives it."""
    sites = {"north-gate": ("North Gate", "北门")}
    zone = ZoneInfo("Asia/Shanghai")

    assert worded(mail(line("heard")), zone, sites).body.startswith(
        "2026-06-01 20:00:00 North Gate (old-town/north-gate/aq-1): "
    )
    assert "北门" in worded(mail(line("heard"), language="zh"), zone, sites).body


def test_many() -> None:
    """A mail of several events has the greatest severity, counts them and names their group."""
    several = mail(line("raised"), line("raised", severity="critical"), more=3, person="Lin")
    wording = worded(several, UTC)

    assert "critical" == severity_of(several)
    assert "[critical] 5 alarm events: old-town/north-gate" == wording.title
    assert ["... and 3 more", "On call: Lin"] == wording.body.splitlines()[2:]


def test_over() -> None:
    """A mail says that it is over when the last word on every alarm in it is that it is."""
    mails = [
        mail(line("raised"), line("cleared")),
        mail(line("cleared"), line("raised")),
        mail(line("cleared"), line("raised", rule="other")),
        mail(line("cleared"), more=1),
    ]

    assert [True, False, False, False] == [is_over(one) for one in mails]
    assert worded(mails[0], UTC).title.startswith("[high] resolved: 2 alarm events")


def test_hostile_text() -> None:
    """What people write can neither break lines nor steer a terminal nor fill the message."""
    why = "a\n\x1b[31mb\u202ec" + "x" * 10_000
    body = worded(mail(line("commented", by="{reading}", why=why)), UTC).body

    assert "comment by {reading}: a  [31mb c" in body
    assert body.isprintable()
    assert len(body) < 1000
