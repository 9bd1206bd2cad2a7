"""A report as one HTML page that opens anywhere, without a network."""

from html import escape
from typing import Final

from load.figures import BUSY
from load.pagestyle import framed, named, plotted, tabled
from load.percentiles import Latency
from load.plots import draw
from load.report import Report
from load.verdict import KIND_NAMES, STAGE_NAMES, flat, shown_ms, verdict

_DASH: Final = "–"


def page(report: Report) -> str:
    """The page; whatever comes from outside is escaped."""
    sections, script = plotted(draw(report))
    body = "\n".join([
        _head(report), _tiles(report), _stages(report), sections, _phases(report), _limit(report),
        _trouble(report), _parts(report), _plan(report),
    ])  # fmt: skip
    return framed(f"Load test {report.run}", body, script)


def warned(warnings: list[str]) -> str:
    """Warnings as a list, nothing where there are none."""
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<ul class="warnings">{items}</ul>'


def _head(report: Report) -> str:
    kind, word = ("good", "Complete") if report.complete else ("bad", "Incomplete")
    started = report.started.replace("T", " ").replace("+00:00", " UTC")
    return (
        f"<h1>Load test {escape(report.run)}</h1>"
        f'<p class="by">{escape(started)} · {escape(report.broker)} · CityEye '
        f"{escape(report.version)}</p>"
        f'<div class="verdict {kind}"><b>{word}</b><p>{escape(verdict(report))}</p></div>'
        f"{warned(report.warnings)}"
    )


def _tiles(report: Report) -> str:
    shards = [part for part in report.parts if part.kind == "shard"]
    busiest = max([part.cpu_share for part in shards], default=0.0)
    tiles = [
        ("devices online", f"{report.connected:,}", report.connected < report.devices),
        ("messages per second", f"{report.rate_per_s:,.0f}", False),
        ("messages sent", f"{report.sent:,}", False),
        ("lost", _DASH if report.lost is None else f"{report.lost:,}", bool(report.lost)),
        *(
            (f"{STAGE_NAMES[stage]}, p99", shown_ms(one.p99), False)
            for stage, one in report.latency_ms.items()
            if stage != "connect"
        ),
        *(
            (f"CPU per message, {KIND_NAMES[kind]}", f"{cost:.3g} µs", False)
            for kind, cost in report.cpu_us_per_msg.items()
        ),
        ("busiest generator, of a core", f"{busiest:.0%}", busiest > BUSY),
    ]
    if report.rss_kb_per_device is not None:
        tiles.append(("memory per device", f"{report.rss_kb_per_device:,.3g} KB", False))
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile{" wrong" if wrong else ""}"><strong>{escape(value)}</strong>'
            f"<span>{escape(name)}</span></div>"
            for name, value, wrong in tiles
        )
        + "</div>"
    )


def _stages(report: Report) -> str:
    rows = [[STAGE_NAMES[name], *_cells(one)] for name, one in report.latency_ms.items()]
    late = report.lateness_ms
    if late is not None:
        each = [shown_ms(late.p50), _DASH, shown_ms(late.p99), shown_ms(late.max), _DASH]
        rows.append([STAGE_NAMES["lateness"], *each])
    return (
        "<h2>Where the time went</h2>"
        '<p class="reading">Since the instant at which a message was due, without the ramp; '
        "“connection made” since the connection was begun, with it.</p>"
        + tabled(["until", "p50", "p95", "p99", "max", "measured"], rows)
    )


def _cells(latency: Latency) -> list[str]:
    times = (latency.p50, latency.p95, latency.p99, latency.max)
    return [*(shown_ms(time) for time in times), f"{latency.count:,}"]


def _phases(report: Report) -> str:
    stages = [name for name in report.latency_ms if name != "connect"]
    rows = [
        [
            phase.name, f"{phase.at_s:,g} s", f"{phase.for_s:,g} s", f"{phase.sent:,}",
            f"{phase.sent_per_s:,.0f}", f"{phase.acked_per_s:,.0f}",
            f"{phase.received_per_s:,.0f}", _DASH if phase.lost is None else f"{phase.lost:,}",
            *(
                shown_ms(phase.latency_ms[name].p99) if name in phase.latency_ms else _DASH
                for name in stages
            ),
        ]
        for phase in report.phases
    ]  # fmt: skip
    heads = ["phase", "from", "for", "sent", "sent/s", "acknowledged/s", "received/s", "lost"]
    heads += [f"{STAGE_NAMES[name]}, p99" for name in stages]
    return f"<h2>Phases</h2>{tabled(heads, rows)}"


def _limit(report: Report) -> str:
    if report.knee is None:
        return ""
    sentence = report.knee.get("sentence", "")
    rows = flat({name: value for name, value in report.knee.items() if name != "sentence"})
    return (
        f"<h2>The limit</h2><p>{escape(str(sentence))}</p>"
        f"<details><summary>Every step</summary>{named(rows)}</details>"
    )


def _trouble(report: Report) -> str:
    """What was injected and what went wrong, where anything was or did."""
    counts = {
        "repeated": report.repeated,
        "out of order": report.out_of_order,
        "unreadable": report.unreadable,
        "pushed out of full backlogs": report.dropped,
        "dropped by the broker": report.broker_dropped,
        "never acknowledged": report.unconfirmed,
        "not read in time by the subscriber": report.unread,
        "connections lost": report.disconnects,
    }
    rows = [(f"injected: {name}", f"{count:,}") for name, count in report.faults.items() if count]
    rows += [(name, f"{count:,}") for name, count in counts.items() if count]
    rows += [(f"refused: {reason}", f"{count:,}") for reason, count in report.refused.items()]
    return f"<h2>Faults and refusals</h2>{named(rows)}" if rows else ""


def _parts(report: Report) -> str:
    rows = [
        [
            f"{KIND_NAMES[part.kind]} {part.part}"
            + (f" ({part.attempt})" if part.attempt else ""),
            f"{part.connected:,}", f"{part.counts.get('sent', 0):,}",
            f"{part.counts.get('acked', 0):,}", f"{part.counts.get('received', 0):,}",
            f"{part.cpu_share:.0%}", f"{part.cpu_share_most:.0%}", f"{part.rss_mb:,.0f} MB",
            "yes" if part.ended else "no",
        ]
        for part in report.parts
    ]  # fmt: skip
    heads = ["process", "devices", "sent", "acknowledged", "received", "CPU", "at most", "memory",
             "ended"]  # fmt: skip
    return f"<h2>Processes</h2>{tabled(heads, rows)}"


def _plan(report: Report) -> str:
    machine = [("machine", str(report.machine)), ("broker", report.broker)]
    return (
        f"<h2>Machine</h2>{named(machine)}<h2>Plan</h2>"
        f"<details open><summary>As it was asked for</summary>{named(flat(report.plan))}</details>"
    )
