"""How the pages of load tests look: light and dark, wide and narrow, and the frame of a page."""

from collections.abc import Sequence
from html import escape
from typing import Final

from bokeh.embed import components
from bokeh.resources import Resources

from load.plots import Drawn

STYLE: Final = """
:root { color-scheme: light dark; --ink: #16202b; --soft: #5a6673; --line: #dfe4ea;
  --paper: #ffffff; --card: #f6f8fa; --good: #14774a; --good-back: #e3f5ec; --bad: #b3261e;
  --bad-back: #fdeceb; --warn: #7a4d00; --warn-back: #fff4dd; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaef; --soft: #9aa5b1; --line: #2c3540;
  --paper: #11161c; --card: #19202a; --good: #5fd39b; --good-back: #12301f; --bad: #ff8a80;
  --bad-back: #3a1615; --warn: #f2c463; --warn-back: #33270d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  -webkit-text-size-adjust: 100%; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.015em;
  overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 48px 0 4px; letter-spacing: -0.01em; }
p { margin: 0 0 12px; max-width: 72ch; overflow-wrap: anywhere; }
.by { color: var(--soft); font-size: 14px; margin-bottom: 20px; }
.reading { color: var(--soft); font-size: 14px; max-width: 88ch; margin-bottom: 8px; }
.verdict { display: flex; gap: 14px; align-items: baseline; border-radius: 10px;
  padding: 14px 18px; margin: 0 0 20px; }
.verdict p { margin: 0; font-size: 17px; max-width: none; }
.verdict b { white-space: nowrap; }
.good { background: var(--good-back); } .good b { color: var(--good); }
.bad { background: var(--bad-back); } .bad b { color: var(--bad); }
.plain { background: var(--card); }
.warnings { background: var(--warn-back); border-radius: 10px; padding: 12px 18px 12px 36px;
  margin: 0 0 20px; font-size: 15px; }
.warnings li::marker { color: var(--warn); } .warnings li { overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px;
  margin: 0 0 8px; }
.tile { background: var(--card); border-radius: 10px; padding: 12px 14px; }
.tile span { display: block; color: var(--soft); font-size: 13px; line-height: 1.35; }
.tile strong { display: block; font-size: 23px; font-weight: 620; line-height: 1.3;
  font-variant-numeric: tabular-nums; letter-spacing: -0.01em; }
.tile.wrong strong { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums;
  min-width: 60%; margin: 8px 0 4px; }
th, td { text-align: right; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; vertical-align: top; }
th { color: var(--soft); font-weight: 500; white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child, td.text { text-align: left; }
td.text { white-space: normal; overflow-wrap: anywhere; }
tr.marked td { background: var(--warn-back); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 13px; color: var(--soft); }
.legend i { display: inline-block; width: 18px; margin-right: 6px; vertical-align: middle;
  border-top: 3px solid; } .legend i.dashed { border-top-style: dashed; }
.legend i.dots { border: 3.5px solid; width: 7px; height: 7px; border-radius: 50%; }
.plot { margin: 4px 0 0; min-width: 0; }
details { margin-top: 12px; } summary { cursor: pointer; color: var(--soft); font-size: 14px; }
@media (max-width: 600px) { main { padding: 24px 16px 48px; } h1 { font-size: 24px; }
  .tiles { grid-template-columns: repeat(2, 1fr); } .tile strong { font-size: 19px; }
  .verdict { display: block; padding: 12px 14px; } .verdict p { font-size: 16px; } }
@media print { .plot { break-inside: avoid; } }
"""

_SCRIPT: Final = """
(function () {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  function paint() {
    const style = getComputedStyle(document.documentElement);
    const soft = style.getPropertyValue("--soft").trim();
    const line = style.getPropertyValue("--line").trim();
    for (const drawn of Bokeh.documents) for (const model of drawn.all_models) {
      if (/Axis$/.test(model.type)) model.setv({major_label_text_color: soft, axis_label_text_color: soft});
      else if (model.type === "Grid") model.setv({grid_line_color: line});
      else if (model.type === "Label") model.setv({text_color: soft});
    }
  }
  dark.addEventListener("change", paint);
  (function wait() { Bokeh.documents.length ? paint() : setTimeout(wait, 20); })();
})();
"""
"""Plots are drawn on canvases, which no stylesheet reaches: they are told the page's colours."""


def framed(title: str, body: str, script: str) -> str:
    """A whole page that needs nothing from a network; `body` and `script` are HTML already."""
    library = "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="generator" content="CityEye">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n"
        f"<script>{library}</script>\n</head>\n<body>\n<main>\n{body}\n</main>\n{script}\n"
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def plotted(drawn: Sequence[Drawn]) -> tuple[str, str]:
    """Plots as sections of a page, and the script that fills them."""
    if not drawn:
        return "", "<script></script>"
    script, places = components({plot.key: plot.figure for plot in drawn})
    sections = [
        f'<section><h2>{escape(plot.title)}</h2><p class="reading">{escape(plot.reading)}</p>'
        f'{_legend(plot)}<div class="plot">{places[plot.key]}</div></section>'
        for plot in drawn
    ]
    return "\n".join(sections), script


def _legend(plot: Drawn) -> str:
    marks = "".join(
        f'<span><i class="{mark.kind}" style="border-color:{escape(mark.colour)}"></i>'
        f"{escape(mark.name)}</span>"
        for mark in plot.marks
    )
    return f'<div class="legend">{marks}</div>'


def tabled(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, marked: Sequence[bool] = ()
) -> str:
    """A table; the first column is words, the others are numbers. Everything is escaped."""
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    marks = [*marked, *([False] * (len(rows) - len(marked)))]
    body = "".join(
        f"<tr{' class=marked' if mark else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row, mark in zip(rows, marks, strict=True)
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def named(rows: Sequence[tuple[str, str]]) -> str:
    """A table of names and texts."""
    body = "".join(
        f'<tr><td>{escape(name)}</td><td class="text">{escape(text)}</td></tr>'
        for name, text in rows
    )
    return f'<div class="scroll"><table>{body}</table></div>'
