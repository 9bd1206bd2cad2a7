"""Dashboard Load test: the running test's live figures."""

from typing import Final

from .board import Board
from .influxql import line
from .ingesthealth import figures, newest
from .limits import Step
from .panels import Look, Panel, Row

_NONE: Final = "No load test ran in this time."
_COUNTS: Final = ("devices", "connected", "sent", "acked", "received", "lost")

_NOW: Final = Panel(
    kind="stat",
    title="Now",
    queries=tuple(newest("load", f'last("{name}")', name, empty=_NONE) for name in _COUNTS),
    looks={
        letter: Look(name=name, steps=(Step(None, "green"), Step(1, "red")) if name == "lost" else None)
        for letter, name in zip("ABCDEF", _COUNTS, strict=True)
    },
    note="Lost: acknowledged to a device and not received at the other end.",
    none="no test",
    width=24,
    height=5,
)  # fmt: skip
_DELAYS: Final = Panel(
    kind="lines",
    title="Delay, publish to arrival",
    queries=(
        line("cityeye", "max(/^latency_.*_ms$/)", by=(), tags=(), where="\"part\" = 'load'",
             alias="$col", empty=_NONE),
    ),
    unit="ms",
    width=12,
    height=9,
)  # fmt: skip

BOARD: Final = Board(
    uid="cityeye-load",
    title="Load test",
    note="What `cityeye load` says of itself while it runs.",
    marked=False,
    refresh="5s",
    since="now-15m",
    rows=(
        Row(title="Test", panels=(_NOW,)),
        Row(title="Course", panels=(
            figures("load", "Rate", {"rate": "messages per second"}, unit="suffix: /s", empty=_NONE),
            _DELAYS,
            figures("load", "Devices", {"devices": "wanted", "connected": "connected"}, how="last",
                    empty=_NONE),
            figures("load", "Messages", {name: name for name in ("sent", "acked", "received", "lost")},
                    how="last", empty=_NONE),
        )),
    ),
)  # fmt: skip
