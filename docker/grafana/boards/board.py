"""Dashboards: rows of panels with variables, annotations and links to one another."""

from typing import Final

import msgspec
from grafana_foundation_sdk.builders import dashboard as built
from grafana_foundation_sdk.models import dashboard

from .influxql import SCOPE, Query, Target, scoped, source
from .panels import Row, builder
from .resolution import links, time_picker, variable

TAG: Final = "cityeye"
"""What all dashboards are tagged with; their links to one another are by this tag."""
ALL: Final = "$__all"
EVERY: Final = ".*"
_MARKED: Final = "raised|escalated|cleared"
_TOP: Final = 1
"""The number of the first panel; a file's panels keep their numbers as long as their order."""


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """What a person chooses at the top of a dashboard, or a hidden list that queries use.

    A hidden list has no value for all: it stands for its values, of which there may be none.
    """

    name: str
    query: str
    label: str = ""
    many: bool = True
    hidden: bool = False


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """One dashboard. `uid` is for ever: links and bookmarks know it."""

    uid: str
    title: str
    note: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()
    domain: str = ""
    """Whose alarms are marked on the curves; empty: of all domains."""
    marked: bool = True
    resolved: bool = False
    """Whether its curves are of a resolution that people choose."""
    since: str = "now-1h"
    refresh: str = "10s"

    @property
    def name(self) -> str:
        """What its file is called, without ending."""
        return self.uid.removeprefix(f"{TAG}-")


def tag_values(measurement: str, tag: str, *above: str, where: str = "") -> str:
    """The values of a tag, below what is chosen of the tags above it."""
    condition = " AND ".join(part for part in (scoped(*above), where) if part)
    tail = f" WHERE {condition}" if condition else ""
    return f'SHOW TAG VALUES FROM "{measurement}" WITH KEY = "{tag}"{tail}'


def scope(
    measurement: str, *, tags: tuple[str, ...] = SCOPE, one: str = ""
) -> tuple[Variable, ...]:
    """The variables city, district, site and device; of `one` a single value is chosen."""
    return tuple(
        Variable(
            name=tag,
            query=tag_values(measurement, tag, *tags[:place]),
            label=tag.capitalize(),
            many=tag != one,
        )
        for place, tag in enumerate(tags)
    )


def render(board: Board) -> dashboard.Dashboard:
    """The dashboard as the foundation SDK knows it."""
    made = built.Dashboard(board.title).uid(board.uid).description(board.note)
    made.tags([TAG]).timezone("browser").time(board.since, "now").refresh(board.refresh)
    made.readonly().tooltip(dashboard.DashboardCursorSync.CROSSHAIR).link(_links())
    for chosen in board.variables:
        made.with_variable(_variable(chosen))
    if board.resolved:
        made.with_variable(variable()).timepicker(time_picker())
        for link in links(board.uid, tuple(v.name for v in board.variables if not v.hidden)):
            made.link(link)
    if board.marked:
        made.annotation(_alarms(board.domain))
    number = _TOP
    for row in board.rows:
        made.with_row(built.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            made.with_panel(builder(panel, number))
        number += 1
    return _placed(made.build())


def _placed(board: dashboard.Dashboard) -> dashboard.Dashboard:
    """The dashboard with its links in sight: the SDK's default hides them in the menu of controls."""
    for link in board.links or ():
        link.placement = None  # type: ignore[assignment]  # None is left out
    return board


def _variable(variable: Variable) -> built.QueryVariable:
    made = built.QueryVariable(variable.name).label(variable.label or variable.name)
    made.datasource(source()).query(variable.query).definition(variable.query)
    made.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
    made.sort(dashboard.VariableSort.ALPHABETICAL_ASC).multi(variable.many)
    if variable.hidden:
        made.hide(dashboard.VariableHide.HIDE_VARIABLE)
    if variable.many:
        made.include_all(True).current(dashboard.VariableOption(text="All", value=ALL))
        if not variable.hidden:
            made.all_value(EVERY)
    return made


def _alarms(domain: str) -> built.AnnotationQuery:
    """What alarms did, as marks on the curves."""
    mine = f"\"domain\" = '{domain}' AND " if domain else ""
    text = (
        'SELECT "rule", "event", "site", "device", "severity", "value" FROM "alarms" '
        f'WHERE $timeFilter AND {mine}{scoped(*SCOPE)} AND "event" =~ /^({_MARKED})$/'
    )
    target = Target(
        Query(text=text, shape="table"), "Anno", fromAnnotations=True, textEditor=True,
        titleColumn="", textColumn="rule", tagsColumn="event,severity,site,device",
    )  # fmt: skip
    made = built.AnnotationQuery().name("Alarms").enable(True).icon_color("red")
    return made.datasource(source()).target(target)


def _links() -> built.DashboardLink:
    link = built.DashboardLink("CityEye").type(dashboard.DashboardLinkType.DASHBOARDS)
    return link.tags([TAG]).as_dropdown(True).keep_time(True).include_vars(True)
