"""The live view of a terminal, and the line now and then of a pipe."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Final

import structlog
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from alerts.service import AlarmService
from broker.codec import ConnectCode
from broker.messages import Announcement
from city.quantities import QUANTITIES
from cli.ingesting import Ingesting
from cli.logs import CONSOLE
from cli.simulating import Simulating
from sensors.fleet import Fleet

_log = structlog.get_logger(__name__)

_REFRESH_S: Final = 0.5
_LINE_EVERY_S: Final = 10.0
_ALARMS_SHOWN: Final = 10
_WIDE: Final = 100
_COLUMNS: Final = {"time": 8, "event": 9, "where": 18, "what": 26, "limit": 6}
"""Of the alarms, with their widths on a narrow terminal, where a severity is a colour alone."""
_COLOURS: Final = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan"}


class View:
    """Shows how a command is doing until it is cancelled."""

    def __init__(
        self,
        title: str,
        broker: str,
        *,
        simulating: Simulating | None = None,
        ingesting: Ingesting | None = None,
        zone: tzinfo = UTC,
    ) -> None:
        self._title = title
        self._broker = broker
        self._simulating = simulating
        self._ingesting = ingesting
        self._zone = zone
        self._rates = Rates()

    async def run(self) -> None:
        """Show until cancelled: a live view on a terminal, else a line now and then."""
        if not CONSOLE.is_terminal:
            while True:
                await asyncio.sleep(_LINE_EVERY_S)
                self._line()
        with Live(self.page(), console=CONSOLE, auto_refresh=False, transient=True) as live:
            while True:
                await asyncio.sleep(_REFRESH_S)
                live.update(self.page(), refresh=True)

    def _line(self) -> None:
        facts: dict[str, object] = {}
        if self._simulating:
            fleet = self._simulating.fleet
            facts |= {"online": fleet.online, "sent": fleet.messages, "acked": fleet.acknowledged}
        if self._ingesting:
            ledger = self._ingesting.service.ledger()
            counts = self._ingesting.alarms.service.counts
            facts |= {
                "received": ledger.received,
                "written": ledger.written,
                "pending": ledger.pending,
                "quarantined": ledger.quarantined,
                "alarms": counts.standing,
                "raised": counts.raised,
                "cleared": counts.cleared,
            }
        _log.info("working", **facts)

    def page(self, width: int | None = None) -> RenderableType:
        """What a terminal of that width shows now; default: the one that we run on."""
        narrow = (width or CONSOLE.width) < _WIDE
        parts: list[RenderableType] = [self._figures()]
        if self._ingesting:
            parts += [Text(), self._alarms(self._ingesting, narrow=narrow)]
        # the last line is short: a terminal echoes ^C behind it, which must not start another line
        hint = Text("Ctrl-C stops and sums up", style="dim")
        return Group(Panel(Group(*parts), title=self._title, title_align="left"), hint)

    def _figures(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        if self._simulating:
            fleet = self._simulating.fleet
            now = datetime.fromtimestamp(self._simulating.clock.now_ms() / 1000, self._zone)
            table.add_row("city time", now.strftime("%Y-%m-%d %H:%M:%S"))
            rate = self._rates.per_s("sent", fleet.messages)
            sent = f"{fleet.messages:,} messages, {rate:,.0f}/s, {fleet.readings:,} readings"
            table.add_row("devices", f"{fleet.online:,} of {len(fleet.devices):,} online")
            if fleet.refusals:
                text = f"the broker refused {fleet.refusals.total():,} connects: {refused(fleet)}"
                table.add_row("", Text(text, style="bold red"))
            table.add_row("broker", self._broker)
            table.add_row("sent", sent)
        if self._ingesting:
            self._ingest_rows(table, self._ingesting)
        return table

    def _ingest_rows(self, table: Table, ingesting: Ingesting) -> None:
        service = ingesting.service
        ledger = service.ledger()
        stored = service.writer.values_written
        rate = self._rates.per_s("stored", stored)
        table.add_row("stored", f"{stored:,} readings, {rate:,.0f}/s, in {service.store_name}")
        table.add_row(
            "ledger",
            f"received {ledger.received:,} = written {ledger.written:,} + duplicate "
            f"{ledger.duplicate:,} + quarantined {ledger.quarantined:,} + refused "
            f"{ledger.refused:,} + pending {ledger.pending:,}",
        )
        trouble = service.trouble or ingesting.alarms.service.trouble
        if trouble:
            table.add_row("trouble", Text(trouble, style="bold red"))
        counts = ingesting.alarms.service.counts
        table.add_row(
            "alarms",
            f"{counts.standing} standing, {counts.unacknowledged} unacknowledged, "
            f"{counts.raised} raised, {counts.cleared} cleared",
        )

    def _alarms(self, ingesting: Ingesting, *, narrow: bool) -> RenderableType:
        table = Table(box=None, padding=(0, 1), expand=True, pad_edge=False)
        for heading, narrow_width in _COLUMNS.items():
            width = narrow_width if narrow else None
            table.add_column(heading, no_wrap=True, overflow="ellipsis", max_width=width)
        if not narrow:
            table.add_column("standard", no_wrap=True, overflow="ellipsis", ratio=1)
        rows = _shown(ingesting.alarms.service)
        for announcement in rows:
            cells = alarm_row(announcement, self._zone)
            if narrow:
                cells = cells[:-1]
                cells[1].right_crop(len(announcement.event.severity) + len(", "))
            table.add_row(*cells)
        if not rows:
            table.add_row("", Text("none yet", style="dim"))
        return table


def _shown(alarms: AlarmService) -> list[Announcement]:
    """The newest events, then the alarms that stand since before this run."""
    events = list(alarms.newest)[::-1]
    standing = [alarm for alarm in alarms.standing()[::-1] if alarm not in events]
    return (events + standing)[:_ALARMS_SHOWN]


def refused(fleet: Fleet) -> str:
    """How often the broker refused a device, by the reasons of MQTT."""
    names = {code.value: code.name.lower().replace("_", " ") for code in ConnectCode}
    parts = (f"{names.get(code, code)} {count:,}" for code, count in fleet.refusals.items())
    return ", ".join(parts)


def alarm_row(
    announcement: Announcement, zone: tzinfo = UTC, *, since: int | None = None
) -> list[Text]:
    """One alarm event as the cells of a table: at its own instant, or with that of `since`."""
    event, address = announcement.event, announcement.address
    when = datetime.fromtimestamp((event.ts if since is None else since) / 1000, zone)
    style = _COLOURS[event.severity] if event.active else "green"
    quantity = QUANTITIES.get(event.quantity)
    name = quantity.name_en if quantity else event.quantity
    sign = ">" if event.level in {"H", "HH"} else "<"
    standard = f"{event.standard} {event.clause}".strip()
    if event.grade != "A":
        standard += f" [grade {event.grade}]"
    return [
        Text(when.strftime("%H:%M:%S" if since is None else "%m-%d %H:%M:%S")),
        Text(f"{event.event if since is None else event.state}, {event.severity}", style=style),
        Text(f"{address.site}/{address.device}"),
        Text(f"{name} {event.value:g} {event.unit}"),
        Text(f"{sign} {event.limit:g}"),
        Text(standard, style="dim"),
    ]


class Rates:
    """How fast counters grow, smoothed over a few seconds."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._points: dict[str, list[tuple[float, int]]] = {}

    def per_s(self, name: str, count: int) -> float:
        """The growth of the counter `name`, which stands at `count`, over the last seconds."""
        points = self._points.setdefault(name, [])
        points.append((self._now_s(), count))
        del points[:-8]
        (then_s, before), (now_s, now) = points[0], points[-1]
        return (now - before) / (now_s - then_s) if now_s > then_s else 0.0
