"""The life of an alarm after ISA-18.2 (IEC 62682) and OPC UA Part 9, as one table.

A column is the state that people see, a row is what happens, a cell is what becomes of it. The six
states to the left are the alarm's own; the three to the right cover them, the rightmost first. Under
a cover the alarm's own state rests and only its condition is followed, unheard. When the last cover
is lifted, the alarm appears again if its condition holds and else is gone, except for a latch that
stood before, which only a person lets go.
"""

from typing import Final, Literal

import msgspec

from broker.messages import AlarmHappening, AlarmState

Own = Literal[
    "normal", "unacknowledged", "acknowledged", "returned", "latched", "latched-acknowledged"
]
"""The states of an alarm that nothing covers."""
Input = Literal[
    "raise", "raise-acknowledged", "escalate", "escalate-acknowledged", "ease",
    "clear", "clear-latched", "end",
    "acknowledge", "comment", "reset", "repeat", "repeat-acknowledged", "promote", "hush", "hear",
    "shelve", "unshelve", "unshelve-by-time", "suppress", "unsuppress", "disable", "enable",
    "appear", "appear-acknowledged", "vanish", "vanish-latched",
]  # fmt: skip
"""`-acknowledged` is of rules whose alarms need nobody's acknowledgement, `-latched` of those that a
person must reset. `appear` and `vanish` follow when the last cover is lifted, as the condition
holds or not; `end` is when nobody watches the device for it any more."""

COLUMNS: Final[tuple[AlarmState, ...]] = (
    "normal", "unacknowledged", "acknowledged", "returned", "latched", "latched-acknowledged",
    "suppressed", "shelved", "out-of-service",
)  # fmt: skip


class Move(msgspec.Struct, frozen=True):
    """Where an alarm goes (None: it stays), and the event that says so (None: nobody is told).

    `beneath` is what the cover that is lifted has covered.
    """

    to: AlarmState | Literal["beneath"] | None = None
    event: AlarmHappening | None = None


class Refusal(msgspec.Struct, frozen=True):
    """A person may not do that now: why, and what to do; reads on after the alarm's name."""

    reason: str


Cell = Move | Refusal

_ = Move()
_RAISED: Final = Move("unacknowledged", "raised")
_AS_READ: Final = Move("acknowledged", "raised")
_NORMAL: Final = Move("normal")
_ENDED: Final = Move("normal", "cleared")
_AGAIN: Final = Move("unacknowledged", "escalated")
_DEEPER: Final = Move(None, "escalated")
_EASED: Final = Move(None, "eased")
_TOLD: Final = Move("unacknowledged", "repeated")
_RETOLD: Final = Move("acknowledged", "repeated")
_HIGHER: Final = Move(None, "promoted")
_STALE: Final = Move(None, "stale")
_HEARD: Final = Move(None, "heard")
_NOTE: Final = Move(None, "commented")
_SHELF: Final = Move("shelved", "shelved")
_UNSHELF: Final = Move("beneath", "unshelved")
_DOWN: Final = Move("suppressed", "suppressed")
_OUT: Final = Move("out-of-service", "out-of-service")
_LATCH: Final = Move("latched", "cleared")
_LATCH_READ: Final = Move("latched-acknowledged", "cleared")

_NO_ACK: Final = Refusal("needs no acknowledgement; there is nothing to do")
_COVERED: Final = Refusal("is suppressed by another alarm; see to that one first")
_ON_SHELF: Final = Refusal("is shelved; unshelve it first")
_NO_SERVICE: Final = Refusal("is out of service; enable it first")
_IN_SERVICE: Final = Refusal("is in service; there is nothing to enable")
_NO_SHELF: Final = Refusal("is not shelved; there is nothing to unshelve")
_NO_LATCH: Final = Refusal("is not latched; there is nothing to reset")
_HOLDS: Final = Refusal("still holds; it can be reset only when its condition is gone")
_UNREAD: Final = Refusal("is latched and nobody has acknowledged it; acknowledge it first")
_OUT_ALREADY: Final = Refusal("is out of service already; there is nothing to disable")

_ROWS: Final[dict[Input, tuple[Cell, ...]]] = {
    "raise":
        (_RAISED, _, _, _RAISED, _RAISED, _RAISED, _, _, _),
    "raise-acknowledged":
        (_AS_READ, _, _, _AS_READ, _AS_READ, _AS_READ, _, _, _),
    "escalate":
        (_RAISED, _DEEPER, _AGAIN, _RAISED, _RAISED, _RAISED, _, _, _),
    "escalate-acknowledged":
        (_AS_READ, _DEEPER, _DEEPER, _AS_READ, _AS_READ, _AS_READ, _, _, _),
    "ease":
        (_RAISED, _EASED, _EASED, _RAISED, _RAISED, _RAISED, _, _, _),
    "clear":
        (_, Move("returned", "cleared"), _ENDED, _, _, _, _, _, _),
    "clear-latched":
        (_, _LATCH, _LATCH_READ, _, _, _, _, _, _),
    "end":
        (_, _ENDED, _ENDED, _ENDED, _ENDED, _ENDED, _ENDED, _ENDED, _ENDED),
    "acknowledge":
        (_NO_ACK, Move("acknowledged", "acknowledged"), _NO_ACK, Move("normal", "acknowledged"),
         Move("latched-acknowledged", "acknowledged"), _NO_ACK, _COVERED, _ON_SHELF, _NO_SERVICE),
    "comment":
        (_NOTE, _NOTE, _NOTE, _NOTE, _NOTE, _NOTE, _NOTE, _NOTE, _NOTE),
    "reset":
        (_NO_LATCH, _HOLDS, _HOLDS, _NO_LATCH, _UNREAD, Move("normal", "reset"),
         _COVERED, _ON_SHELF, _NO_SERVICE),
    "repeat":
        (_, _TOLD, _TOLD, _, _, _, _, _, _),
    "repeat-acknowledged":
        (_, _RETOLD, _RETOLD, _, _, _, _, _, _),
    "promote":
        (_, _HIGHER, _, _, _HIGHER, _, _, _, _),
    "hush":
        (_, _STALE, _STALE, _, _, _, _, _, _),
    "hear":
        (_, _HEARD, _HEARD, _, _, _, _, _, _),
    "shelve":
        (_SHELF, _SHELF, _SHELF, _SHELF, _SHELF, _SHELF, _SHELF, _SHELF, _NO_SERVICE),
    "unshelve":
        (_NO_SHELF, _NO_SHELF, _NO_SHELF, _NO_SHELF, _NO_SHELF, _NO_SHELF, _NO_SHELF,
         _UNSHELF, _NO_SERVICE),
    "unshelve-by-time":
        (_, _, _, _, _, _, _, _UNSHELF, Move(None, "unshelved")),
    "suppress":
        (_DOWN, _DOWN, _DOWN, _DOWN, _DOWN, _DOWN, _,
         Move(None, "suppressed"), Move(None, "suppressed")),
    "unsuppress":
        (_, _, _, _, _, _, Move("beneath", "unsuppressed"),
         Move(None, "unsuppressed"), Move(None, "unsuppressed")),
    "disable":
        (_OUT, _OUT, _OUT, _OUT, _OUT, _OUT, _OUT, _OUT, _OUT_ALREADY),
    "enable":
        (_IN_SERVICE, _IN_SERVICE, _IN_SERVICE, _IN_SERVICE, _IN_SERVICE, _IN_SERVICE,
         _IN_SERVICE, _IN_SERVICE, Move("beneath", "in-service")),
    "appear":
        (_RAISED, _RAISED, _RAISED, _RAISED, _RAISED, _RAISED, _, _, _),
    "appear-acknowledged":
        (_AS_READ, _AS_READ, _AS_READ, _AS_READ, _AS_READ, _AS_READ, _, _, _),
    "vanish":
        (_, _NORMAL, _NORMAL, _NORMAL, _, _, _, _, _),
    "vanish-latched":
        (_, Move("latched"), Move("latched-acknowledged"), _NORMAL, _, _, _, _, _),
}  # fmt: skip
"""To reset, OPC UA Part 9, 5.8.5: "in Alarm, returned to normal and acknowledged prior to"."""

LIFE: Final[dict[tuple[AlarmState, Input], Cell]] = {
    (state, happens): cell
    for happens, cells in _ROWS.items()
    for state, cell in zip(COLUMNS, cells, strict=True)
}
"""By state and input: what becomes of an alarm."""
OWN: Final[frozenset[AlarmState]] = frozenset(COLUMNS[:6])
"""The states that are no cover."""
UNREAD: Final[frozenset[AlarmState]] = frozenset({"unacknowledged", "returned", "latched"})
"""The states that ask for an acknowledgement."""


def move(state: AlarmState, happens: Input) -> Move:
    """What becomes of an alarm in `state`; for what no person does, so that nothing is refused."""
    cell = LIFE[state, happens]
    return cell if isinstance(cell, Move) else _


def refusal(state: AlarmState, happens: Input) -> str | None:
    """Why a person may not do that to an alarm in `state`; None: he may."""
    cell = LIFE[state, happens]
    return cell.reason if isinstance(cell, Refusal) else None
