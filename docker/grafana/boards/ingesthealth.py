"""Dashboard Ingest health: rates, the ledger by fate, spool, delays and memory."""

from typing import Final

from .board import Board
from .influxql import Query, line
from .limits import Step, Steps
from .panels import Look, Panel, Row

_FATES: Final = ("written", "duplicate", "quarantined", "refused", "pending")
_PLAIN: Final[Steps] = (Step(None, "green"),)
_BAD: Final[Steps] = (Step(None, "green"), Step(1, "red"))
_QUIET: Final = "Nothing came and was stored in this step."


def figures(
    part: str,
    title: str,
    fields: dict[str, str],
    *,
    unit: str = "short",
    how: str = "mean",
    steps: Steps = _PLAIN,
    note: str = "",
    empty: str = "",
    width: int = 12,
) -> Panel:
    """Fields of `cityeye` over time by worker, under the names that people know them by."""
    shown = ", ".join(f'{how}("{field}") AS "{name}"' for field, name in fields.items())
    ours = f"\"part\" = '{part}'"
    return Panel(
        kind="lines",
        title=title,
        queries=(
            line(
                "cityeye",
                shown,
                by=("worker",),
                tags=(),
                where=ours,
                alias="$col $tag_worker",
                empty=empty,
            ),
        ),
        note=note,
        unit=unit,
        steps=steps,
        edged=len(steps) > 1,
        width=width,
    )


def newest(part: str, shown: str, name: str, *, empty: str = "") -> Query:
    """One number of `cityeye`, the newest in the time shown, summed over the workers."""
    each = (
        f'SELECT {shown} AS "each" FROM "cityeye" WHERE $timeFilter AND "part" = \'{part}\' '
        'GROUP BY "worker"'
    )
    return Query(text=f'SELECT sum("each") AS "{name}" FROM ({each})', empty=empty)


_BALANCE: Final = Panel(
    kind="stat",
    title="Ledger 台账",
    queries=(
        newest("ledger", 'last("received")', "received"),
        *(newest("ledger", f'last("{fate}")', fate) for fate in _FATES),
        newest("ledger", 'last("received") - ' + " - ".join(f'last("{fate}")' for fate in _FATES),
               "unaccounted for"),
    ),
    note=(
        "Since the spool was made. Received is the sum of the fates and of what is pending: the "
        "last number is 0 at all times. Quarantined could not be read or believed; see the log."
    ),
    looks={
        "A": Look(name="received"),
        "B": Look(name="written"),
        "C": Look(name="duplicate"),
        "D": Look(name="quarantined", steps=(Step(None, "green"), Step(1, "orange"))),
        "E": Look(name="refused", steps=_BAD),
        "F": Look(name="pending"),
        "G": Look(name="unaccounted for", steps=(Step(None, "red"), Step(0, "green"), Step(1, "red"))),
    },
    width=24,
    height=5,
)  # fmt: skip

BOARD: Final = Board(
    uid="cityeye-ingest",
    title="Ingest health",
    note="Whether everything that the sensors sent is where it belongs; times are the wall's.",
    marked=False,
    rows=(
        Row(title="Ledger", panels=(_BALANCE,)),
        Row(title="Flow", panels=(
            figures("ingest", "Messages per second",
                    {"received_per_s": "received", "written_per_s": "written"}, unit="suffix: /s"),
            figures("ingest", "Not written, per second",
                    {"duplicate_per_s": "duplicate", "quarantined_per_s": "quarantined",
                     "refused_per_s": "refused"}, unit="suffix: /s"),
        )),
        Row(title="Delay", panels=(
            figures("ingest", "Arrival to acknowledgement",
                    {f"accepted_{name}_ms": name for name in ("p50", "p99", "max")},
                    unit="ms", how="max", empty=_QUIET, note="Per message, at most; spool included."),
            figures("ingest", "Arrival to the store's answer",
                    {f"stored_{name}_ms": name for name in ("p50", "p99", "max")},
                    unit="ms", how="max", empty=_QUIET),
        )),
        Row(title="Resources", panels=(
            figures("ingest", "Spool", {"spool_bytes": "on disk"}, unit="decbytes", width=6,
                    note="The file keeps its size when it empties; see pending."),
            figures("ingest", "Pending messages", {"pending": "pending"}, how="max", width=6,
                    note="In the spool and not in the store yet: grows while the store is down."),
            figures("ingest", "Memory", {"memory_bytes": "resident"}, unit="decbytes", width=6),
            figures("ingest", "Processor", {"cpu_share": "of one core"}, unit="percentunit", width=6),
        )),
    ),
)  # fmt: skip
