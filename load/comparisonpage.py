"""Two load tests as one HTML page, their plots over one another."""

from html import escape
from typing import Final

from load.comparison import Comparison, compare, figure_cells
from load.pagestyle import framed, plotted, tabled
from load.plots import draw_all
from load.report import Report

_HOW: Final = (
    '<p class="reading">In the plots below A is drawn in full and B dotted, both since their own '
    "beginning; the phases shaded are those of A.</p>"
)


def comparison_page(a: Report, b: Report) -> str:
    """The page; the plots show A in full lines and B in dotted ones."""
    both = compare(a, b)
    sections, script = plotted(draw_all([a, b]))
    heads = ["", "A", "B", "B / A", ""]
    cells = figure_cells(both)
    body = "\n".join([
        "<h1>Two load tests</h1>",
        f'<p class="by">A: {escape(both.a)}<br>B: {escape(both.b)}</p>',
        _verdict(both),
        _asked(both),
        "<h2>Figures</h2>",
        tabled(heads, cells, marked=[row.differs for row in both.rows]),
        f'<p class="reading">{escape(both.rule)}</p>',
        _HOW,
        sections,
    ])  # fmt: skip
    return framed(f"{a.run} and {b.run}", body, script)


def _verdict(both: Comparison) -> str:
    """How many figures differ, and for which side they speak."""
    better = {side: [row.name for row in both.rows if row.better == side] for side in ("a", "b")}
    said = [
        f"{side.upper()} is better in {len(names)} of {len(both.rows)} figures: {'; '.join(names)}."
        for side, names in better.items()
        if names
    ]
    text = " ".join(said) or "The two runs differ by no more than noise."
    warning = " Not the same was asked of both: see below." if both.asked else ""
    return f'<div class="verdict plain"><p>{escape(text + warning)}</p></div>'


def _asked(both: Comparison) -> str:
    if not both.asked:
        return ""
    rows = [[one.name, one.a, one.b] for one in both.asked]
    return "<h2>Asked differently</h2>" + tabled(["", "A", "B"], rows)
