"""Panels as rows of data, and the builders that they become."""

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import msgspec
from grafana_foundation_sdk.builders import common as parts
from grafana_foundation_sdk.builders import dashboard as built
from grafana_foundation_sdk.builders import geomap, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.geomap import MapCenterID

from .influxql import Query, Target, source
from .limits import PLAIN, Steps

Kind = Literal["lines", "stat", "table", "map"]
AnyPanel: TypeAlias = timeseries.Panel | stat.Panel | table.Panel | geomap.Panel
PanelBuilder: TypeAlias = Builder[dashboard.Panel]

_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DEVICES: Final = "Devices"
"""The layer of a map that its view is fitted to; the land beneath is the whole world."""
_LAND: Final[dict[str, object]] = {
    "src": "public/maps/countries.geojson",
    "rules": [],
    "style": {"color": {"fixed": "text"}, "opacity": 0.05},
}
"""Land and borders, from Grafana's own files."""
_MIN_INTERVAL: Final = "10s"
"""No finer than this, so that slow devices have a point in every step."""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """How the numbers of one query, or of one column, look; None is the panel's own."""

    unit: str | None = None
    steps: Steps | None = None
    name: str | None = None
    link: str = ""
    """A dashboard's address, where a click leads."""
    hidden: bool = False
    dashed: bool = False
    texts: dict[str, tuple[str, str]] = {}
    """What stands instead of a value, and its colour."""


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One panel of a dashboard: what it asks, and how it shows the answer.

    `looks` are by the letter of a query (`A` is the first) or by the name of a column. `width` is
    in 24ths of the page.
    """

    kind: Kind
    title: str
    queries: tuple[Query, ...]
    note: str = ""
    unit: str = "short"
    decimals: int | None = None
    steps: Steps = PLAIN
    edged: bool = False
    """Whether curves show the thresholds as lines, and start from them."""
    width: int = 8
    height: int = 8
    looks: dict[str, Look] = {}
    joined: bool = False
    """Whether rows of several queries that have the same tags become one."""
    none: str = ""
    """What stands where there is no value."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


def builder(panel: Panel, number: int) -> PanelBuilder:
    """The panel for the dashboard's builder, which knows it by its number."""
    made = _KINDS[panel.kind](panel)
    made.id(number).title(panel.title).datasource(source()).unit(panel.unit).thresholds(
        _steps(panel.steps)
    )
    made.span(panel.width).height(panel.height)
    for letter, query in zip(_LETTERS, panel.queries, strict=False):
        made.with_target(Target(query, letter))
    if panel.note:
        made.description(panel.note)
    if panel.decimals is not None:
        made.decimals(panel.decimals)
    if panel.none:
        made.no_value(panel.none)
    for name, look in panel.looks.items():
        _apply(made, name, look)
    if panel.joined:
        made.transformations(_joined())
    return made


def _lines(panel: Panel) -> timeseries.Panel:
    style = "dashed" if panel.edged else "off"
    mode = common.GraphThresholdsStyleMode(style)
    legend = (
        parts.VizLegendOptions().show_legend(True).placement(common.LegendPlacement.BOTTOM)
        .display_mode(common.LegendDisplayMode.LIST).calcs(["lastNotNull"])
    )  # fmt: skip
    tooltip = parts.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    colour = built.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC)
    return (
        timeseries.Panel().interval(_MIN_INTERVAL).line_width(1).fill_opacity(0)
        .show_points(common.VisibilityMode.AUTO).legend(legend.sort_by("Last *").sort_desc(True))
        .tooltip(tooltip.sort(common.SortOrder.DESCENDING)).color_scheme(colour)
        .thresholds_style(parts.GraphThresholdsStyleConfig().mode(mode))
    )  # fmt: skip


def _stat(_panel: Panel) -> stat.Panel:
    reduce = parts.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)
    colour = built.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS)
    return (
        stat.Panel().reduce_options(reduce).color_scheme(colour)
        .color_mode(common.BigValueColorMode.BACKGROUND)
        .graph_mode(common.BigValueGraphMode.NONE)
        .text_mode(common.BigValueTextMode.VALUE_AND_NAME)
    )  # fmt: skip


def _table(panel: Panel) -> table.Panel:
    made = table.Panel().cell_height(common.TableCellHeight.SM).filterable(True)
    made.color_scheme(built.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    if panel.joined or "Time" not in panel.looks:
        _apply(made, "Time", Look(hidden=True))
    return made


def _map(panel: Panel) -> geomap.Panel:
    """Markers where `lon` and `lat` say, in the colour of the field that the panel is about.

    Beneath them lies a file that Grafana serves itself: its usual base layer, and so every type of
    base layer that it offers, loads tiles from the internet.
    """
    size = {"fixed": 5, "min": 4, "max": 12}
    colour = {"field": next(iter(panel.looks)), "fixed": "green"}
    shape = {"mode": "fixed", "fixed": "img/icons/marker/circle.svg"}
    style = {"size": size, "color": colour, "opacity": 0.8, "symbol": shape}
    location = (
        parts.FrameGeometrySource().mode(common.FrameGeometrySourceMode.COORDS)
        .longitude("lon").latitude("lat")
    )  # fmt: skip
    layer = parts.MapLayerOptions().type("markers").name(_DEVICES).location(location)
    layer.config({"style": style, "showLegend": True}).tooltip(True)
    base = parts.MapLayerOptions().type("geojson").name("Basemap").config(_LAND)
    view = (
        geomap.MapViewConfig().id(MapCenterID.FIT.value).all_layers(False).layer(_DEVICES).zoom(12)
    )
    return (
        geomap.Panel().view(view).basemap(base).layers([layer])
        .color_scheme(built.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    )  # fmt: skip


_KINDS: Final[dict[Kind, Callable[[Panel], AnyPanel]]] = {
    "lines": _lines,
    "stat": _stat,
    "table": _table,
    "map": _map,
}


def _steps(steps: Steps) -> built.ThresholdsConfig:
    rows = [dashboard.Threshold(value=step.value, color=step.colour) for step in steps]
    return built.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(rows)


def _apply(made: AnyPanel, name: str, look: Look) -> None:
    properties = [
        dashboard.DynamicConfigValue(id_val=key, value=value) for key, value in _values(look)
    ]
    if name in _LETTERS:
        made.override_by_query(name, properties)
    else:
        made.override_by_name(name, properties)


def _values(look: Look) -> list[tuple[str, object]]:
    """The look as properties of a field, by Grafana's names."""
    found: list[tuple[str, object]] = []
    if look.unit is not None:
        found.append(("unit", look.unit))
    if look.name is not None:
        found.append(("displayName", look.name))
    if look.steps is not None:
        found.append(("thresholds", _steps(look.steps).build()))
        found.append(("color", {"mode": "thresholds"}))
    if look.steps is not None or look.texts:
        found.append(("custom.cellOptions", {"type": "color-background", "mode": "basic"}))
    if look.texts:
        texts = {
            value: dashboard.ValueMappingResult(text=text, color=colour, index=index)
            for index, (value, (text, colour)) in enumerate(look.texts.items())
        }
        found.append(("mappings", [dashboard.ValueMap(options=texts)]))
    if look.link:
        found.append(("links", [{"title": "Open", "url": look.link}]))
    if look.dashed:
        found.append(("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}))
    if look.hidden:
        found.append(("custom.hidden", True))
    return found


def _joined() -> list[dashboard.DataTransformerConfig]:
    """Rows with the same tags become one; their instants, which differ, are left out."""
    names = {"exclude": {"names": ["Time"]}}
    return [
        dashboard.DataTransformerConfig(id_val="filterFieldsByName", options=names),
        dashboard.DataTransformerConfig(id_val="merge", options={}),
    ]
