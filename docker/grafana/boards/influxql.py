"""What panels ask of the store, in InfluxQL, and how Grafana wants it written down."""

from typing import Final, Literal

import msgspec
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import DataSourceRef

from .resolution import READINGS

SOURCE_UID: Final = "cityeye-influxdb"
"""The data source that provisioning makes under this identifier."""
SCOPE: Final = ("city", "district", "site", "device")
"""The tags that every reading has, and the variables of the same names."""

Shape = Literal["time_series", "table"]


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One question to the store.

    `alias` names the series; `empty` says why it may rightly have no answer.
    """

    text: str
    alias: str = ""
    shape: Shape = "time_series"
    empty: str = ""


class InfluxQuery(Dataquery):
    """A query as Grafana's InfluxDB data source keeps it in a dashboard."""

    def __init__(self, query: Query, ref_id: str, extra: dict[str, object]) -> None:
        self.ref_id = ref_id
        self._query = query
        self._extra = extra

    def to_json(self) -> dict[str, object]:
        """Its keys in the dashboard's file."""
        document: dict[str, object] = {
            "refId": self.ref_id,
            "datasource": {"type": "influxdb", "uid": SOURCE_UID},
            "rawQuery": True,
            "query": self._query.text,
            "resultFormat": self._query.shape,
        }
        if self._query.alias:
            document["alias"] = self._query.alias
        return document | self._extra


class Target(Builder[Dataquery]):
    """A query in the form that the panels' builders take."""

    def __init__(self, query: Query, ref_id: str, **extra: object) -> None:
        self._built = InfluxQuery(query, ref_id, extra)

    def build(self) -> Dataquery:
        """The query."""
        return self._built


def source() -> DataSourceRef:
    """The data source of every panel."""
    return DataSourceRef(type_val="influxdb", uid=SOURCE_UID)


def scoped(*tags: str) -> str:
    """The condition that the variables of these tags make."""
    return " AND ".join(f'"{tag}" =~ /^${{{tag}:regex}}$/' for tag in tags)


def lately(span: str) -> str:
    """The condition for the last `span` of the time that a dashboard shows, as in `1h`."""
    return f"time > ${{__to}}ms - {span} AND time <= ${{__to}}ms"


UNTIL_NOW: Final = "time <= ${__to}ms"
"""For what stands: it may have begun before the time that a dashboard shows."""


def named(measurement: str) -> str:
    """What stands behind FROM: the measurement's name, or the variable that holds it."""
    return measurement if measurement == READINGS else f'"{measurement}"'


def line(
    measurement: str,
    shown: str,
    *,
    by: tuple[str, ...] = ("site", "device"),
    where: str = "",
    tags: tuple[str, ...] = SCOPE,
    alias: str = "",
    empty: str = "",
) -> Query:
    """A curve over time per `by`; `shown` is an aggregate with its name.

    `measurement` is one of the store's, or `READINGS` for those of the chosen resolution.
    """
    condition = " AND ".join(part for part in ("$timeFilter", scoped(*tags), where) if part)
    groups = ", ".join(["time($__interval)", *(f'"{tag}"' for tag in by)])
    return Query(
        text=f"SELECT {shown} FROM {named(measurement)} WHERE {condition} "
        f"GROUP BY {groups} fill(none)",
        alias=alias or "/".join(f"$tag_{tag}" for tag in by),
        empty=empty,
    )


def latest(
    measurement: str,
    shown: str,
    *,
    by: tuple[str, ...] = ("site", "device"),
    where: str = "",
    span: str = "1h",
    tags: tuple[str, ...] = SCOPE,
    empty: str = "",
) -> Query:
    """A table with one row per `by`, of the last `span`."""
    condition = " AND ".join(part for part in (lately(span), scoped(*tags), where) if part)
    groups = ", ".join(f'"{tag}"' for tag in by)
    text = f'SELECT {shown} FROM "{measurement}" WHERE {condition}'
    text += f" GROUP BY {groups}" if by else ""
    return Query(text=text, shape="table", empty=empty)


def of_each(
    inner: str,
    measurement: str,
    outer: str,
    *,
    where: str = "",
    tags: tuple[str, ...] = SCOPE,
    time: str = UNTIL_NOW,
    by: tuple[str, ...] = ("city", "site", "device"),
    kept: str = "",
    empty: str = "",
    shape: Shape = "time_series",
    alias: str = "",
) -> Query:
    """One number made of one per device: `outer` over what `inner` says of each that is `kept`."""
    condition = " AND ".join(part for part in (time, scoped(*tags), where) if part)
    groups = ", ".join(f'"{tag}"' for tag in by)
    each = f"SELECT {inner} FROM {named(measurement)} WHERE {condition} GROUP BY {groups}"
    text = f"SELECT {outer} FROM ({each})" + (f" WHERE {kept}" if kept else "")
    return Query(text=text, shape=shape, empty=empty, alias=alias)
