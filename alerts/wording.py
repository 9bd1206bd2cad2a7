"""What messages to people say, in English and Chinese: one row of texts per happening."""

from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import Final, Literal

import msgspec

from alerts.mails import Line, Mail, Occasion
from alerts.routes import SEVERITIES
from broker.messages import AlarmEvent, Severity, Supervision
from city.quantities import QUANTITIES

Tongue = Literal["en", "zh"]
SiteNames = Mapping[str, tuple[str, str]]
"""Site to its English and Chinese name; either may be empty."""

_TEXT_MAX: Final = 500
"""Characters of what a person wrote or a rule says."""


class Phrase(msgspec.Struct, frozen=True):
    """What is said of one happening: a word for the title, a sentence for the text."""

    word_en: str
    sentence_en: str
    word_zh: str
    sentence_zh: str

    def word(self, tongue: Tongue) -> str:
        """The word for the title."""
        return self.word_en if tongue == "en" else self.word_zh

    def sentence(self, tongue: Tongue) -> str:
        """The template of the sentence."""
        return self.sentence_en if tongue == "en" else self.sentence_zh


PHRASES: Final[Mapping[Occasion, Phrase]] = {
    "raised": Phrase("raised", "raised: {reading}", "报警", "报警：{reading}"),
    "escalated": Phrase("worse", "worse: {reading}", "升级", "级别升高：{reading}"),
    "eased": Phrase("eased", "eased, not over: {reading}", "缓和", "级别降低，尚未恢复：{reading}"),
    "cleared": Phrase(
        "resolved", "over since {at}{rest}; it stood since {since}",
        "恢复", "已于{at}恢复{rest}；始于{since}",
    ),
    "acknowledged": Phrase("acknowledged", "acknowledged{by}{why}", "确认", "已确认{by}{why}"),
    "commented": Phrase("comment", "comment{by}{why}", "备注", "备注{by}{why}"),
    "reset": Phrase("reset", "reset{by}{why}", "复位", "已复位{by}{why}"),
    "repeated": Phrase(
        "again", "told again, it stands since {since}: {reading}",
        "重复报警", "再次报警，自{since}持续至今：{reading}",
    ),
    "promoted": Phrase(
        "passed on", "passed on to the {supervision}, nobody has acknowledged it since {since}: "
        "{reading}",
        "上报", "自{since}无人确认，上报至{supervision}：{reading}",
    ),
    "stale": Phrase(
        "silent", "the device is silent; the alarm stands, nothing newer is known",
        "失联", "设备无数据；报警保持，现状未知",
    ),
    "heard": Phrase("heard again", "the device is heard again", "恢复通信", "设备恢复通信"),
    "shelved": Phrase("shelved", "shelved{by}{until}{why}", "搁置", "已搁置{by}{until}{why}"),
    "unshelved": Phrase("unshelved", "no longer shelved{by}{why}", "解除搁置", "已解除搁置{by}{why}"),
    "suppressed": Phrase("suppressed", "suppressed{by}{why}", "抑制", "已抑制{by}{why}"),
    "unsuppressed": Phrase(
        "unsuppressed", "no longer suppressed{by}{why}", "解除抑制", "已解除抑制{by}{why}"
    ),
    "out-of-service": Phrase(
        "out of service", "taken out of service{by}{why}", "停用", "已停用{by}{why}"
    ),
    "in-service": Phrase("in service", "back in service{by}{why}", "启用", "已重新启用{by}{why}"),
    "reminder": Phrase(
        "reminder", "stands since {since}, nobody has acknowledged it: {reading}",
        "提醒", "自{since}持续，仍无人确认：{reading}",
    ),
}  # fmt: skip
"""Every happening in an alarm's life, and the reminder."""

_SEVERITY_ZH: Final[Mapping[Severity, str]] = {
    "low": "低", "medium": "中", "high": "高", "critical": "紧急",
}  # fmt: skip
_SUPERVISION: Final[Mapping[Tongue, Mapping[Supervision, str]]] = {
    "en": {"site": "site", "district": "district", "city": "city"},
    "zh": {"site": "现场", "district": "区级", "city": "市级"},
}
_REST: Final[Mapping[str, tuple[str, str]]] = {
    "returned": (", not acknowledged yet", "，尚未确认"),
    "latched": (", a person must acknowledge and reset it", "，需人工确认并复位"),
    "latched-acknowledged": (", a person must reset it", "，需人工复位"),
}
"""What is left to do, by the state that an alarm is in when its condition is gone."""


class Wording(msgspec.Struct, frozen=True):
    """A message as people read it: plain text, lines separated by newlines."""

    title: str
    body: str


def worded(mail: Mail, zone: tzinfo, sites: SiteNames | None = None) -> Wording:
    """The mail in its language, times in `zone`."""
    tongues: tuple[Tongue, ...] = ("en", "zh") if mail.language == "both" else (mail.language,)
    title = " / ".join(_title(mail, tongue) for tongue in tongues)
    body = "\n\n".join(_body(mail, tongue, zone, sites or {}) for tongue in tongues)
    return Wording(title, body)


def severity_of(mail: Mail) -> Severity:
    """The greatest severity in the mail."""
    found = {line.announcement.event.severity for line in mail.lines}
    return max(found, key=SEVERITIES.index)


def is_over(mail: Mail) -> bool:
    """Whether it says of every alarm in it, in the end, that it is over."""
    last: dict[tuple[str, str], Occasion] = {}
    for line in mail.lines:
        last[str(line.announcement.address), line.announcement.event.rule] = line.occasion
    return not mail.more and set(last.values()) == {"cleared"}


def _title(mail: Mail, tongue: Tongue) -> str:
    severity = severity_of(mail)
    first, count = mail.lines[0], len(mail.lines) + mail.more
    shown = severity if tongue == "en" else _SEVERITY_ZH[severity]
    if count == 1:
        address, rule = first.announcement.address, first.announcement.event.rule
        word = PHRASES[first.occasion].word(tongue)
        return _plain(f"[{shown}] {word}: {rule} {address.site}/{address.device}")
    over = PHRASES["cleared"].word(tongue) if is_over(mail) else ""
    counted = f"{count} alarm events" if tongue == "en" else f"{count} 条报警消息"
    return _plain(f"[{shown}] {over + ': ' if over else ''}{counted}: {mail.group}")


def _body(mail: Mail, tongue: Tongue, zone: tzinfo, sites: SiteNames) -> str:
    lines = [_line(line, tongue, zone, sites) for line in mail.lines]
    if mail.more:
        lines.append(f"... and {mail.more} more" if tongue == "en" else f"……另有 {mail.more} 条")
    if mail.person:
        lines.append(f"On call: {mail.person}" if tongue == "en" else f"值班：{mail.person}")
    return "\n".join(lines)


def _line(line: Line, tongue: Tongue, zone: tzinfo, sites: SiteNames) -> str:
    address, event = line.announcement.address, line.announcement.event
    name = sites.get(address.site, ("", ""))[0 if tongue == "en" else 1]
    device = f"{address.district}/{address.site}/{address.device}"
    place = f"{name} ({device})" if name else device
    sentence = PHRASES[line.occasion].sentence(tongue)
    said = sentence.format_map(_fields(event, tongue, zone))
    first = {"en": " [first of its cause]", "zh": "【首发】"}[tongue] if event.first_out else ""
    colon = ": " if tongue == "en" else "："
    return _plain(f"{_clock(event.ts, zone)} {place}{colon}{event.rule}{first}{colon}{said}")


def _fields(event: AlarmEvent, tongue: Tongue, zone: tzinfo) -> dict[str, str]:
    english = tongue == "en"
    rest = _REST.get(event.state, ("", ""))[0 if english else 1]
    until = "" if event.until is None else _clock(event.until, zone)
    return {
        "reading": _reading(event, tongue),
        "at": _clock(event.ts, zone),
        "since": _clock(event.raised, zone),
        "rest": rest,
        "supervision": _SUPERVISION[tongue][event.supervision],
        "by": _clause(event.by, " by {}" if english else "（{}）"),
        "why": _clause(event.why, ": {}" if english else "：{}"),
        "until": _clause(until, " until {}" if english else "至{}"),
    }


def _reading(event: AlarmEvent, tongue: Tongue) -> str:
    """The rule's own message, the number and its limit, and where the limit comes from."""
    english = tongue == "en"
    message = event.message if english else event.message_zh or event.message
    quantity = QUANTITIES.get(event.quantity)
    known = (
        event.quantity if quantity is None else quantity.name_en if english else quantity.name_zh
    )
    above = event.level in {"H", "HH"}
    side = ("above" if above else "below") if english else ("高于" if above else "低于")
    unit = "" if event.unit in {"", "1"} else f" {event.unit}"
    comma, semicolon, brackets = (", ", "; ", " ({})") if english else ("，", "；", "（{}）")
    held = f"{known} {event.value:g}{unit}{comma}{side} {event.level} {event.limit:g}{unit}"
    source = " ".join(part for part in (event.standard, event.clause) if part)
    shown = held + (brackets.format(source) if source else "")
    return f"{_plain(message)}{semicolon}{shown}" if message else shown


def _clause(text: str, template: str) -> str:
    return template.format(_plain(text)[:_TEXT_MAX]) if text else ""


def _clock(ts: int, zone: tzinfo) -> str:
    return datetime.fromtimestamp(ts / 1000, zone).strftime("%Y-%m-%d %H:%M:%S")


def _plain(text: str) -> str:
    """`text` on one line, without characters that steer terminals or change the direction."""
    return "".join(mark if mark.isprintable() else " " for mark in text)
