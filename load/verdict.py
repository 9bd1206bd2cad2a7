"""A report in words: the verdict, lines for people, a table for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from load.percentiles import Latency
from load.report import Report

_SECONDS_MS: Final = 10_000.0
"""From here on a time is said in seconds."""
_WHOLE_MS: Final = 100.0
"""From here on a time is said in whole milliseconds."""


def verdict(report: Report) -> str:
    """What ran, whether anything was lost and where the time went, in sentences."""
    said = [_what_ran(report), _what_was_lost(report), *_what_failed(report)]
    return " ".join([*said, *_where_time_went(report)])


def _what_ran(report: Report) -> str:
    return (
        f"{report.connected:,} of {report.devices:,} devices sent {report.sent:,} messages in "
        f"{report.lasted_s:,.0f} s, {report.rate_per_s:,.0f} per second."
    )


def _what_was_lost(report: Report) -> str:
    if report.unread:
        return f"Whether any was lost is unknown: the subscriber had not read {report.unread:,} of them."
    if report.lost is None:
        return "Whether any was lost is unknown: no subscriber verified."
    if report.lost:
        confirmed = sum(part.confirmed for part in report.parts)
        share = report.lost / max(1, confirmed)
        return f"{report.lost:,} acknowledged messages were lost ({share:.2%})."
    return "No acknowledged message was lost."


def _what_failed(report: Report) -> list[str]:
    counts = {
        "were never acknowledged": report.unconfirmed,
        "were pushed out of full backlogs": report.dropped,
        "were dropped by the broker": report.broker_dropped,
    }
    return [f"{count:,} {what}." for what, count in counts.items() if count]


_WAYS: Final = (
    ("ack", "was acknowledged"),
    ("subscriber", "was at the subscriber"),
    ("store", "could be read in the store"),
    ("alarm", "had raised its alarm"),
)


def _where_time_went(report: Report) -> list[str]:
    reached = [
        f"{words} after {shown_ms(report.latency_ms[stage].p99)}"
        for stage, words in _WAYS
        if stage in report.latency_ms
    ]
    if not reached:
        return []
    late = [f"left {shown_ms(report.lateness_ms.p99)} late"] if report.lateness_ms else []
    return [f"At the 99th percentile a message {listed([*late, *reached])}."]


def listed(words: Sequence[str]) -> str:
    """Words as people list them."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def shown_ms(value_ms: float) -> str:
    """A time with as many digits as mean something."""
    if value_ms >= _SECONDS_MS:
        return f"{value_ms / 1000:,.1f} s"
    return f"{value_ms:,.0f} ms" if value_ms >= _WHOLE_MS else f"{value_ms:.3g} ms"


STAGE_NAMES: Final = {
    "lateness": "generator late",
    "connect": "connection made",
    "ack": "acknowledged",
    "subscriber": "at the subscriber",
    "store": "readable in the store",
    "alarm": "alarm raised",
}
"""What stages are called for people."""


KIND_NAMES: Final = {
    "shard": "generator", "subscriber": "subscriber", "store": "store watcher", "broker": "broker",
}  # fmt: skip
"""What kinds of parts are called for people."""


def lines(report: Report) -> list[tuple[str, str]]:
    """The figures that people ask for first, each with its name, in the order of reading."""
    rows: list[tuple[str, str]] = [
        ("run", f"{report.run}, {report.started}, {report.lasted_s:,.0f} s, {report.broker}"),
        ("machine", str(report.machine)),
        ("devices", f"{report.connected:,} of {report.devices:,} online at once"),
        ("connections", f"{report.connects:,} made, {report.disconnects:,} lost"),
        ("refused", _counted(report.refused)),
        ("messages", _messages(report)),
        ("lost", _lost(report)),
        ("faults injected", _counted(report.faults)),
        ("rate", f"{report.rate_per_s:,.0f}/s sent, {report.wanted_per_s:,.0f}/s at pace 1"),
        *((STAGE_NAMES[name], spread(one)) for name, one in report.latency_ms.items()),
        ("generator late", _late(report)),
        ("generator costs", _costs(report)),
        ("processor", _cores(report.cpu_share)),
        ("limit", str((report.knee or {}).get("sentence", ""))),
    ]
    return [(name, text) for name, text in rows if text]


def table(report: Report) -> Table:
    """The lines, and warnings below them, for a terminal."""
    made = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, text in lines(report):
        wrong = name == "lost" and bool(report.lost or report.unread)
        made.add_row(name, Text(text, style="bold red" if wrong else ""))
    for warning in report.warnings:
        made.add_row(Text("warning", style="yellow"), Text(warning))
    return made


def spread(latency: Latency) -> str:
    """How long a stage took."""
    return (
        f"p50 {shown_ms(latency.p50)}, p95 {shown_ms(latency.p95)}, p99 {shown_ms(latency.p99)}, "
        f"at most {shown_ms(latency.max)}"
    )


def _messages(report: Report) -> str:
    return (
        f"{report.sent:,} sent, {report.acked:,} acknowledged, {report.received:,} received, "
        f"{report.readings:,} readings"
    )


def _lost(report: Report) -> str:
    lost = "unknown" if report.lost is None else f"{report.lost:,}"
    others = {
        "repeated": report.repeated,
        "out of order": report.out_of_order,
        "pushed out of full backlogs": report.dropped,
        "dropped by the broker": report.broker_dropped,
        "never acknowledged": report.unconfirmed,
        "not read in time": report.unread,
    }
    return ", ".join([lost, *(f"{count:,} {name}" for name, count in others.items() if count)])


def _late(report: Report) -> str:
    late = report.lateness_ms
    if late is None:
        return ""
    return f"p50 {shown_ms(late.p50)}, p99 {shown_ms(late.p99)}, at most {shown_ms(late.max)}"


def _costs(report: Report) -> str:
    each = [f"{cost:.3g} us of CPU per message ({KIND_NAMES[kind]})" for kind, cost in
            report.cpu_us_per_msg.items()]  # fmt: skip
    if report.rss_kb_per_device is not None:
        each.append(f"{report.rss_kb_per_device:,.3g} KB per device")
    return ", ".join(each)


def _cores(shares: Mapping[str, float]) -> str:
    each = ((name.partition(" "), share) for name, share in shares.items())
    return ", ".join(
        f"{KIND_NAMES[kind]} {n} {share:.0%} of a core" for (kind, _, n), share in each
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)


def flat(plain: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested plain data as rows of a dotted name and a text; what is empty is left out."""
    rows: list[tuple[str, str]] = []
    for name, value in plain.items():
        rows += _rows(f"{before}{name}", value)
    return rows


def _rows(name: str, value: Any) -> list[tuple[str, str]]:
    match value:
        case dict():
            return flat(value, f"{name}.")
        case list() | tuple() if any(isinstance(one, dict) for one in value):
            return [
                row for number, one in enumerate(value) for row in _rows(f"{name}.{number}", one)
            ]
        case list() | tuple():
            return [(name, ", ".join(str(one) for one in value))] if value else []
        case None | "":
            return []
    return [(name, f"{value:g}" if isinstance(value, float) else str(value))]
