"""The plots of a load test, by bokeh: what each shows, in which unit, and how it is read.

Runs that are compared lie over one another: colours tell what is shown, dashes tell the second run.
"""

from collections.abc import Sequence
from math import ceil, floor, log10
from typing import Final, Literal

import msgspec
import numpy as np
from bokeh.models import (
    BoxAnnotation,
    ColumnDataSource,
    CrosshairTool,
    HoverTool,
    Label,
    NumeralTickFormatter,
    Range1d,
    Span,
)
from bokeh.plotting import figure

from load.percentiles import distribution
from load.report import Report
from load.series import Series, thinned
from load.verdict import KIND_NAMES, STAGE_NAMES

POINTS_MAX: Final = 1_000
"""A plot is no wider than that on most screens."""

BLUE: Final = "#3b82f6"
GREEN: Final = "#1f9d63"
ORANGE: Final = "#e07b22"
PURPLE: Final = "#9065d8"
RED: Final = "#e5484d"
TEAL: Final = "#1495a8"
GREY: Final = "#8b94a0"
"""Seen on white and on black."""

_STAGE_COLOURS: Final = {
    "lateness": GREY, "connect": TEAL, "ack": GREEN, "subscriber": PURPLE, "store": ORANGE,
    "alarm": RED,
}  # fmt: skip
_KIND_COLOURS: Final = {"shard": BLUE, "subscriber": PURPLE, "store": ORANGE, "broker": GREEN}
_HEIGHT: Final = 280
_SHADED: Final = 24
"""More phases than this are not named in a plot."""
_NARROW: Final = 0.06
"""A phase that lasts less than this share of the test has no room for its name."""
_FLOOR_MS: Final = 0.01
"""Where a logarithmic axis of delays begins at the lowest."""

Scale = Literal["linear", "log"]


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a plot."""

    name: str
    colour: str
    values: Sequence[float | None]
    dots: bool = False
    dashed: bool = False
    faint: bool = False
    legend: bool = True
    width: float = 2.0


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """One plot over the time of the test."""

    key: str
    title: str
    unit: str
    reading: str
    """How it is read, in a sentence."""
    curves: tuple[Curve, ...]
    scale: Scale = "linear"
    digits: str = "0,0"
    """How numbers look, by numbro."""
    most: float = 1.0
    """Where the axis ends at the least."""


class Mark(msgspec.Struct, frozen=True):
    """One entry of a legend."""

    name: str
    colour: str
    kind: Literal["solid", "dashed", "dots"]


class Drawn(msgspec.Struct, frozen=True):
    """A plot as bokeh has it, with its words; its legend is text, which a phone can wrap."""

    key: str
    title: str
    reading: str
    marks: tuple[Mark, ...]
    figure: figure


def plots_of(report: Report, series: Series) -> list[Plot]:
    """What is plotted over time."""
    all_ = (
        _rate(series), _latency(series), _connections(report, series), _loss(series), _cpu(series),
        _lateness(series),
    )  # fmt: skip
    return [plot for plot in all_ if plot.curves]


def draw(report: Report) -> list[Drawn]:
    """The plots of one test."""
    return draw_all([report])


def draw_all(reports: Sequence[Report]) -> list[Drawn]:
    """The plots of some tests over one another, and their distributions; time axes are linked."""
    all_series = [thinned(report.series, POINTS_MAX // len(reports)) for report in reports]
    end_s = max([1.0, *(series.at_s[-1] for series in all_series if series.at_s)])
    time = Range1d(0, end_s, bounds=(0, end_s))
    crosshair = Span(dimension="height", line_color=GREY, line_width=1, line_alpha=0.5)
    each = [plots_of(*one) for one in zip(reports, all_series, strict=True)]
    drawn = []
    for plot in each[0]:
        same = [next((p for p in plots if p.key == plot.key), None) for plots in each]
        shown = _axes(plot, time, _height([one for one in same if one]))
        shown.add_tools(CrosshairTool(overlay=crosshair))
        _shade(shown, reports[0].series, end_s)
        found = [(series.at_s, one) for series, one in zip(all_series, same, strict=True) if one]
        marks = _curves(shown, found)
        drawn.append(Drawn(plot.key, f"{plot.title} [{plot.unit}]", plot.reading, marks, shown))
    curve = _distribution(reports)
    return [*drawn[:2], *([curve] if curve else []), *drawn[2:]]


def _rate(series: Series) -> Plot:
    names = {"due": "wanted", "sent": "sent", "acked": "acknowledged", "received": "received"}
    colours = {"due": GREY, "sent": BLUE, "acked": GREEN, "received": PURPLE}
    return Plot(
        key="rate",
        title="Rate",
        unit="messages/s",
        reading=(
            "All lines lie on one another as long as everybody keeps up. Sent below wanted: the "
            "generator or its connections are full. Acknowledged or received below sent: the broker "
            "or the subscriber falls behind."
        ),
        curves=tuple(
            Curve(
                name=names[name], colour=colours[name], values=column, dashed=name == "due",
                width=3.5 if name == "due" else 2.0,
            )
            for name, column in series.rate.items()
            if name in names and any(column)
        ),
    )  # fmt: skip


def _latency(series: Series) -> Plot:
    curves = []
    for stage, columns in series.latency_ms.items():
        if stage in {"lateness", "connect"}:
            continue
        name, colour = STAGE_NAMES[stage], _STAGE_COLOURS[stage]
        curves += [
            Curve(name=f"{name}, p50", colour=colour, values=columns["p50"], dashed=True,
                  legend=False, width=1.2),
            Curve(name=f"{name}, p99", colour=colour, values=columns["p99"]),
            Curve(name=f"{name}, max", colour=colour, values=columns["max"], dots=True,
                  legend=False, faint=True),
        ]  # fmt: skip
    return Plot(
        key="latency",
        title="Latency since a message was due",
        unit="ms, logarithmic",
        reading=(
            "Strong: 99 of 100 messages of that second were faster. Dashed: half of them. Dots: the "
            "slowest one. It counts from when a message should have been sent, so a generator that "
            "hangs cannot hide it."
        ),
        curves=tuple(curves),
        scale="log",
        digits="0,0.00",
    )


def _connections(report: Report, series: Series) -> Plot:
    wanted: list[float | None] = [float(report.devices)] * len(series.at_s)
    return Plot(
        key="connections",
        title="Connections",
        unit="devices",
        reading=(
            "Devices that are online, beside those wanted: what is cut off comes back. Messages "
            "that are not acknowledged yet wait at their devices."
        ),
        curves=(
            Curve(name="wanted", colour=GREY, values=wanted, dashed=True, width=1.2),
            Curve(name="online", colour=BLUE, values=series.connected),
            Curve(name="messages waiting", colour=ORANGE, values=series.waiting, width=1.2),
            Curve(
                name="connections lost so far",
                colour=RED,
                values=series.cumulated.get("disconnects", []),
                width=1.2,
            ),
        ),
    )


def _loss(series: Series) -> Plot:
    columns: list[tuple[str, str, Sequence[float | None]]] = [
        ("lost", RED, series.lost),
        ("not yet received", GREY, series.missing),
        ("repeated", ORANGE, series.cumulated.get("repeated", [])),
        ("out of order", PURPLE, series.cumulated.get("out_of_order", [])),
    ]
    return Plot(
        key="loss",
        title="Lost, repeated, out of order",
        unit="messages since the beginning",
        reading=(
            "Not yet received: acknowledged and still on its way, or lost; what never came back to "
            "zero is lost. A flat line at zero is what one wants to see."
        ),
        curves=tuple(
            Curve(name=name, colour=colour, values=values, dashed=name == "not yet received")
            for name, colour, values in columns
            if any(value is not None for value in values)
        ),
        most=10.0,
    )


def _cpu(series: Series) -> Plot:
    return Plot(
        key="cpu",
        title="Processor",
        unit="cores",
        reading=(
            "Cores that the parts of this test use, all processes of a kind together. A single "
            "process cannot use more than one."
        ),
        curves=tuple(
            Curve(name=KIND_NAMES[kind], colour=_KIND_COLOURS.get(kind, GREY),
                  values=column)
            for kind, column in series.cpu.items()
        ),
        digits="0.00",
        most=1.0,
    )  # fmt: skip


def _lateness(series: Series) -> Plot:
    columns = series.latency_ms.get("lateness", {})
    colours = {"p50": TEAL, "p99": BLUE, "max": ORANGE}
    return Plot(
        key="lateness",
        title="The generator's own lateness",
        unit="ms, logarithmic",
        reading=(
            "How long after it was due the generator handed a message to the network. Where this "
            "comes near the latency above, the generator was the bottleneck, not the broker."
        ),
        curves=tuple(
            Curve(name=name, colour=colour, values=columns[name], dots=name == "max",
                  faint=name == "max")
            for name, colour in colours.items()
            if name in columns
        ),
        scale="log",
        digits="0,0.00",
    )  # fmt: skip


def _axes(plot: Plot, time: Range1d, y_range: Range1d) -> figure:
    """An empty plot."""
    shown = figure(
        height=_HEIGHT, sizing_mode="stretch_width", x_range=time, y_range=y_range,
        y_axis_type=plot.scale, tools="xpan,xwheel_zoom,xbox_zoom,reset,save",
        active_drag="xbox_zoom", active_scroll=None, toolbar_location="right",
        output_backend="canvas",
    )  # fmt: skip
    shown.xaxis.axis_label = "seconds since the test began"
    shown.yaxis.formatter = NumeralTickFormatter(format="0,0.[00]")
    _plain(shown)
    return shown


def _height(plots: Sequence[Plot]) -> Range1d:
    """From the least to the most of all runs, with room for the names of phases above."""
    known = [v for plot in plots for curve in plot.curves for v in curve.values if v is not None]
    if plots[0].scale == "linear":
        return Range1d(0, max([plots[0].most, *known]) * 1.18)
    low = 10 ** floor(log10(max(_FLOOR_MS, min(known, default=_FLOOR_MS))))
    high = 10 ** ceil(log10(max([10 * low, *known])))
    return Range1d(low, high * (high / low) ** 0.1)


def _plain(shown: figure) -> None:
    """Nothing but the data: thin grids, no frames; colours follow the page's by its script."""
    shown.background_fill_color = shown.border_fill_color = shown.outline_line_color = None
    shown.min_border_left, shown.min_border_right = 70, 8
    shown.toolbar.autohide, shown.toolbar.logo = True, None
    for axis in shown.axis:
        axis.axis_line_color = axis.minor_tick_line_color = axis.major_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font = axis.major_label_text_font = "system-ui, sans-serif"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
    shown.xgrid.grid_line_color = None
    shown.ygrid.grid_line_alpha = 1.0


def _curves(shown: figure, runs: Sequence[tuple[Sequence[float], Plot]]) -> tuple[Mark, ...]:
    """The lines of each run, a hover box for each; returns the legend that they have in common."""
    marks: dict[str, Mark] = {}
    for number, (at_s, plot) in enumerate(runs):
        named = {f"c{index}": curve for index, curve in enumerate(plot.curves)}
        columns = {name: _numbers(curve.values, plot) for name, curve in named.items()}
        source = ColumnDataSource({"t": np.array(at_s), **columns})
        renderers = [
            _line(shown, source, name, curve, second=number > 0) for name, curve in named.items()
        ]
        prefix = "" if len(runs) == 1 else f"{'AB'[number]}: "
        tips = [("at", "@t{0,0.[0]} s")] + [
            (prefix + curve.name, f"@{name}{{{plot.digits}}}") for name, curve in named.items()
        ]
        shown.add_tools(HoverTool(tooltips=tips, renderers=renderers[-1:], mode="vline"))
        marks |= {curve.name: _mark(curve) for curve in plot.curves if curve.legend}
    return tuple(marks.values())


def _mark(curve: Curve) -> Mark:
    return Mark(
        curve.name, curve.colour, "dots" if curve.dots else "dashed" if curve.dashed else "solid"
    )


def _line(
    shown: figure, source: ColumnDataSource, name: str, curve: Curve, *, second: bool
) -> object:
    """One curve; of a second run dashed and thinner."""
    alpha = 0.45 if curve.faint else 1.0
    if curve.dots:
        return shown.scatter(
            "t", name, source=source, size=4, color=curve.colour, alpha=alpha,
            marker="x" if second else "circle",
        )  # fmt: skip
    dash = "dashed" if curve.dashed and not second else [2, 3] if second else "solid"
    return shown.line(
        "t", name, source=source, color=curve.colour, line_width=curve.width, alpha=alpha,
        line_dash=dash,
    )  # fmt: skip


def _numbers(
    values: Sequence[float | None], plot: Plot
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """A column for bokeh: unknown is no number, and an axis of logarithms has no zero."""
    numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return np.maximum(numbers, _FLOOR_MS) if plot.scale == "log" else numbers


def _shade(shown: figure, series: Series, end_s: float) -> None:
    """Every other phase is shaded, and named where there is room."""
    spans = _phase_spans(series)
    for number, (name, from_s, to_s) in enumerate(spans):
        if number % 2:
            shown.add_layout(
                BoxAnnotation(
                    left=from_s, right=to_s, fill_color=GREY, fill_alpha=0.09, level="underlay"
                )
            )
        if len(spans) <= _SHADED and to_s - from_s > _NARROW * end_s:
            label = Label(
                x=from_s, y=shown.y_range.end, x_offset=4, y_offset=-16, text=name,
                text_font_size="11px", text_font="system-ui, sans-serif", text_alpha=0.8,
                text_color=GREY,
            )  # fmt: skip
            shown.add_layout(label)


def _phase_spans(series: Series) -> list[tuple[str, float, float]]:
    """Name, beginning and end [s] of each phase, as the series has them."""
    spans: list[tuple[str, float, float]] = []
    before_s = 0.0
    for at_s, name in zip(series.at_s, series.phase, strict=True):
        if spans and spans[-1][0] == name:
            spans[-1] = (name, spans[-1][1], at_s)
        else:
            spans.append((name, before_s, at_s))
        before_s = at_s
    return spans


def _distribution(reports: Sequence[Report]) -> Drawn | None:
    """How latency is distributed, down to the slowest message, as HDR plots are."""
    if not any(stage != "connect" for report in reports for stage in report.histograms):
        return None
    shown = figure(
        height=_HEIGHT + 40, sizing_mode="stretch_width", x_axis_type="log", y_axis_type="log",
        tools="reset,save", toolbar_location="right",
    )  # fmt: skip
    shown.xaxis.axis_label = "share of messages that were faster"
    _plain(shown)
    _percent_ticks(shown)
    shown.yaxis.formatter = NumeralTickFormatter(format="0,0.[00]")
    marks: dict[str, Mark] = {}
    for number, report in enumerate(reports):
        prefix = "" if len(reports) == 1 else f"{'AB'[number]}: "
        marks |= _distributions(shown, report, prefix, second=number > 0)
    return Drawn(
        "distribution",
        "Latency by percentile [ms, logarithmic]",
        "Where a line rises steeply, few messages took far longer than the rest; the right end is "
        "the slowest of all. The ramp is left out.",
        tuple(marks.values()),
        shown,
    )


def _distributions(shown: figure, report: Report, prefix: str, *, second: bool) -> dict[str, Mark]:
    marks = {}
    for stage, encoded in report.histograms.items():
        if stage == "connect":
            continue
        tails, delays = distribution(encoded)
        source = ColumnDataSource({
            "t": tails, "c0": np.maximum(delays, _FLOOR_MS), "share": 100 - 100 / tails,
        })  # fmt: skip
        curve = Curve(name=STAGE_NAMES[stage], colour=_STAGE_COLOURS[stage], values=())
        renderer = _line(shown, source, "c0", curve, second=second)
        marks[stage] = _mark(curve)
        tips = [(prefix + curve.name, "@c0{0,0.00} ms"), ("faster", "@share{0.000000} %")]
        shown.add_tools(HoverTool(tooltips=tips, renderers=[renderer], mode="mouse"))
    return marks


def _percent_ticks(shown: figure) -> None:
    """The axis of 1 / (1 - share), named by shares."""
    names = {2: "50 %", 10: "90 %"}
    names |= {10**nines: f"99{'.' * (nines > 2)}{'9' * (nines - 2)} %" for nines in range(2, 10)}  # noqa: PLR2004 - 99 % has no decimals
    shown.xaxis.ticker = list(names)
    shown.xaxis.major_label_overrides = names
