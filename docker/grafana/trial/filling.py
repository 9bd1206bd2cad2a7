"""How Grafana fills in a query: macros by the time shown, variables by what is chosen.

Only the forms that Grafana documents for InfluxQL are known; a `$` that is left is an error, for
Grafana would send it to the server as it is.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

ALL: Final = "$__all"
POINTS_MAX: Final = 1_000
"""How many points a panel of usual width asks for."""

_STEPS_S: Final = (
    1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 21600, 43200,
)  # fmt: skip
_VARIABLE: Final = re.compile(
    r"\$\{(?P<braced>\w+)(?::(?P<format>\w+))?\}|\[\[(?P<old>\w+)(?::\w+)?\]\]|\$(?P<bare>\w+)"
)
_SPECIAL: Final = re.compile(r"[\\^$*+?.()|\[\]{}/]")


class UnknownVariable(Exception):  # noqa: N818 - says what is wrong
    """A query uses what neither Grafana nor its dashboard knows."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What a dashboard shows: a span of time, and the chosen values by variable."""

    from_ms: int
    to_ms: int
    chosen: Mapping[str, tuple[str, ...]] = {}
    all_values: Mapping[str, str] = {}
    """What stands for all values of a variable, where all are chosen."""

    def interval_s(self, least_s: int) -> int:
        """The width of a point: the span over the points, rounded to what people read."""
        wanted_s = (self.to_ms - self.from_ms) / 1000 / POINTS_MAX
        return max(least_s, min((s for s in _STEPS_S if s >= wanted_s), default=_STEPS_S[-1]))


def filled(text: str, shown: Shown, *, least_s: int = 1) -> str:
    """The query as the server gets it.

    Raises:
        UnknownVariable: It uses something that has no value.
    """
    span = f"time >= {shown.from_ms}ms and time <= {shown.to_ms}ms"
    interval_s = shown.interval_s(least_s)
    known = {
        "timeFilter": span,
        "__interval": f"{interval_s}s",
        "interval": f"{interval_s}s",
        "__interval_ms": str(interval_s * 1000),
        "__from": str(shown.from_ms),
        "__to": str(shown.to_ms),
    }

    def value(match: re.Match[str]) -> str:
        name = match["braced"] or match["old"] or match["bare"]
        if name in known:
            return known[name]
        if name not in shown.chosen:
            raise UnknownVariable(f"${name} in {text}")
        return _chosen(name, shown, plain=match["format"] == "raw")

    return _VARIABLE.sub(value, text)


def _chosen(name: str, shown: Shown, *, plain: bool) -> str:
    """The values of a variable as a regular expression; that for all is taken as it is.

    With `plain` the one value is taken as it is, too.
    """
    values = shown.chosen[name]
    if plain:
        return values[0]
    if values == (ALL,):
        return shown.all_values[name]
    escaped = [_SPECIAL.sub(lambda found: f"\\{found[0]}", value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def least_s(panel: Mapping[str, Any]) -> int:
    """The shortest interval that a panel asks for [s]."""
    return int(str(panel.get("interval") or "1s").removesuffix("s"))
