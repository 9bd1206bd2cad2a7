"""How fine the readings are that a curve is made of: as they came, or means of minutes or hours.

A dashboard's variable holds what stands behind FROM. Its values name the measurements of all
domains, and so no domain: the quantities that a query selects exist in one domain alone. Thereby
the choice can be carried from one dashboard to the next.
"""

from typing import Final
from urllib.parse import quote

import msgspec
from grafana_foundation_sdk.builders import dashboard as built
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard

from city.quantities import Domain
from ingest.rollups import HOUR_MS, MINUTE_MS, POLICY, SUFFIXES

VARIABLE: Final = "resolution"
READINGS: Final = f"${{{VARIABLE}:raw}}"
"""What a query has behind FROM for readings in the chosen resolution."""
_DOMAINS: Final = "|".join(domain.value for domain in Domain)


def _means(width_ms: int) -> str:
    return f'"{POLICY}"./^({_DOMAINS}){SUFFIXES[width_ms]}$/'


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """One choice; `sources` is InfluxQL, and a link to it shows the time since `since`."""

    title: str
    sources: str
    link: str
    since: str
    refresh: str


RESOLUTIONS: Final = (
    Resolution(
        title="raw", sources=f"/^({_DOMAINS})$/", link="6 h, raw", since="now-6h", refresh="10s"
    ),
    Resolution(
        title="1 minute", sources=_means(MINUTE_MS),
        link="7 d, 1 minute", since="now-7d", refresh="1m",
    ),
    Resolution(
        title="1 hour", sources=_means(HOUR_MS),
        link="1 y, 1 hour", since="now-1y", refresh="5m",
    ),
)  # fmt: skip
"""The first is what a dashboard opens with: its own time is hours."""
QUICK_RANGES: Final = {
    "Last 15 minutes": "now-15m",
    "Last 1 hour": "now-1h",
    "Last 6 hours": "now-6h",
    "Last 24 hours": "now-24h",
}
"""What the list of times offers; longer times come with their resolution, by the links."""


def variable() -> built.CustomVariable:
    """The variable, for the dashboard's builder."""
    options = [
        dashboard.VariableOption(selected=number == 0, text=one.title, value=one.sources)
        for number, one in enumerate(RESOLUTIONS)
    ]
    made = built.CustomVariable(VARIABLE).label("Resolution").multi(False).include_all(False)
    made.description("What curves are made of: readings as they came, or means.")
    made.values(",".join(f"{one.title} : {one.sources}" for one in RESOLUTIONS))
    return made.options(options).current(options[0]).allow_custom_value(False)


def links(uid: str, kept: tuple[str, ...]) -> list[built.DashboardLink]:
    """Links that choose a time and its resolution together; the variables `kept` stay."""
    others = "".join(f"&${{{name}:queryparam}}" for name in kept)
    return [
        built.DashboardLink(one.link)
        .type(dashboard.DashboardLinkType.LINK)
        .icon("clock-nine")
        .tooltip(f"Show {one.link}")
        .url(
            f"/d/{uid}?from={one.since}&to=now&refresh={one.refresh}"
            f"&var-{VARIABLE}={quote(one.sources, safe='')}{others}"
        )
        for one in RESOLUTIONS
    ]


class _Range(Builder[dashboard.TimeOption]):
    """One line of the list of times, as the picker's builder takes it."""

    def __init__(self, title: str, since: str) -> None:
        self._built = dashboard.TimeOption(display=title, from_val=since, to="now")

    def build(self) -> dashboard.TimeOption:
        """The line."""
        return self._built


def time_picker() -> built.TimePicker:
    """The list of times for dashboards with a resolution."""
    return built.TimePicker().quick_ranges([_Range(*row) for row in QUICK_RANGES.items()])
