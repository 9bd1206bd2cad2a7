"""The live view of a load test on a terminal, and the line now and then of a pipe."""

import time
from collections.abc import Callable, Sequence
from typing import Final, Self

import structlog
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from load.course import Course
from load.figures import BUSY, STAGES
from load.percentiles import Latency
from load.plan import LoadPlan
from load.series import Point
from load.verdict import KIND_NAMES, STAGE_NAMES, shown_ms

_log = structlog.get_logger(__name__)

KEYS: Final = "+ - rate   p pause   r resume   q stop   Ctrl-C stops and sums up"
_REFRESH_S: Final = 0.5
_LINE_EVERY_S: Final = 10.0
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_SPARKS: Final = 40
_WIDE: Final = 90
_WARNINGS: Final = 3


class LiveView:
    """Shows how a test goes: used as a context, and told by `update` as often as one likes."""

    def __init__(self, console: Console, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._now_s = now_s
        self._shown_s = float("-inf")
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, course: Course, plan: LoadPlan, knee_state: str = "") -> None:
        """Show it, unless it was shown a moment ago; `knee_state` is what the search says now."""
        every_s = _LINE_EVERY_S if self._live is None else _REFRESH_S
        if self._now_s() - self._shown_s < every_s:
            return
        self._shown_s = self._now_s()
        if self._live is None:
            self._line(course, plan, knee_state)
        else:
            self._live.update(self.page(course, plan, knee_state), refresh=True)

    def page(
        self, course: Course, plan: LoadPlan, knee_state: str = "", *, width: int | None = None
    ) -> RenderableType:
        """What a terminal of that width shows now; default: the one that we run on."""
        narrow = (width or self._console.width) < _WIDE
        seconds = course.recent(_SPARKS)
        newest = seconds[-1] if seconds else None
        parts: list[RenderableType] = [_progress(course, newest)]
        if newest is not None:
            parts += [
                _figures(course, plan, seconds, knee_state),
                Text(),
                _delays(course, newest, narrow=narrow),
            ]
        parts += [Text(f"! {warning}", style="yellow") for warning in course.warnings[-_WARNINGS:]]
        title = f"load test {plan.run} on {plan.broker}"
        # the last line is short: a terminal echoes ^C behind it, which must not start another line
        hint = Text(KEYS, style="dim", no_wrap=True, overflow="ellipsis")
        return Group(Panel(Group(*parts), title=Text(title), title_align="left"), hint)

    def _line(self, course: Course, plan: LoadPlan, knee_state: str) -> None:
        newest = course.latest()
        if newest is None:
            _log.info("preparing", devices=plan.devices)
            return
        facts: dict[str, object] = {
            "phase": newest.phase,
            "at_s": round(newest.at_s),
            "online": newest.stand.connected,
            "rate": round(newest.stand.rates["sent"]),
            "sent": course.counts["sent"],
            "acked": course.counts["acked"],
            "received": course.counts["received"],
        }
        if course.lost is not None:
            facts["missing"] = course.lost
        facts |= {f"{stage}_p99_ms": one.p99 for stage, one in newest.latency.items()}
        if knee_state:
            facts["limit"] = knee_state
        _log.info("loading", **facts)


def sparkline(values: Sequence[float]) -> str:
    """A line of little blocks, the tallest for the greatest."""
    top = max(values, default=0.0)
    if top <= 0:
        return _BLOCKS[0] * len(values)
    return "".join(_BLOCKS[round(max(0.0, one) / top * (len(_BLOCKS) - 1))] for one in values)


def _progress(course: Course, newest: Point | None) -> RenderableType:
    """The phase, and how far the test has come."""
    whole_s = max(1.0, (course.pace.end_ms - course.start_ms) / 1000)
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True, justify="right")
    grid.add_row(
        Text(newest.phase if newest else "preparing"),
        ProgressBar(total=whole_s, completed=min(course.at_s, whole_s)),
        f"{course.at_s:,.0f} of {whole_s:,.0f} s",
    )
    return grid


def _figures(
    course: Course, plan: LoadPlan, seconds: Sequence[Point], knee_state: str
) -> RenderableType:
    newest, counts = seconds[-1], course.counts
    stand, rates = newest.stand, newest.stand.rates
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("devices", f"{stand.connected:,} of {plan.devices:,} online")
    table.add_row(
        "rate",
        f"{rates['sent']:,.0f}/s of {rates['due']:,.0f}/s wanted (pace {newest.pace:.2f}), "
        f"acknowledged {rates['acked']:,.0f}/s, received {rates['received']:,.0f}/s",
    )
    table.add_row("", Text(sparkline([one.stand.rates["sent"] for one in seconds]), style="cyan"))
    table.add_row(
        "messages",
        f"{counts['sent']:,} sent, {counts['acked']:,} acknowledged, "
        f"{counts['received']:,} received, {stand.waiting:,} waiting",
    )
    table.add_row("lost", _lost(course))
    table.add_row("processor", _cores(newest))
    if course.reasons:
        reasons = ", ".join(f"{why} {count:,}" for why, count in course.reasons.most_common(3))
        table.add_row("refused", Text(reasons, style="bold red"))
    if knee_state:
        table.add_row("limit", Text(knee_state))
    return table


def _lost(course: Course) -> Text:
    if course.lost is None:
        return Text("nobody verifies", style="dim")
    more = {"repeated": "repeated", "out_of_order": "out of order", "dropped": "pushed out"}
    others = [
        f"{course.counts[name]:,} {word}" for name, word in more.items() if course.counts[name]
    ]
    text = f"{course.lost:,} not received yet" if course.lost else "nothing missing"
    return Text(", ".join([text, *others]), style="" if course.lost == 0 else "yellow")


def _cores(newest: Point) -> Text:
    shown = Text()
    for kind, cores in newest.stand.cpu.items():
        busy = newest.stand.busiest[kind] > BUSY
        shown.append(
            f"{', ' if shown else ''}{KIND_NAMES[kind]} {cores:.0%}",
            style="bold red" if busy else "",
        )
    return shown.append(" of a core") if shown else shown


def _delays(course: Course, newest: Point, *, narrow: bool) -> RenderableType:
    """Each stage, in the last second and since the ramp."""
    total = course.total.latency()
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("delay", no_wrap=True)
    heads = ("p50", "p99") if narrow else ("p50", "p95", "p99", "max")
    for when in ("now", "all"):
        for head in heads:
            table.add_column(f"{when} {head}", justify="right", no_wrap=True)
    for stage in STAGES:
        if stage in newest.latency or stage in total:
            cells = _cells(newest.latency.get(stage), heads) + _cells(total.get(stage), heads)
            table.add_row(STAGE_NAMES[stage], *cells)
    return table


def _cells(latency: Latency | None, heads: Sequence[str]) -> list[str]:
    return [shown_ms(getattr(latency, head)) if latency else "" for head in heads]
