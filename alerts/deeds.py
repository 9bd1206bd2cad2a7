"""What alarms have set off: every command with what became of it, kept in the archive.

A deed is durable before its command is sent, and each step of it is an event on the action's topic;
steps are rows that stay, told in their order.
"""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from alerts.archive import Archive, Change
from alerts.transitions import alarm_name
from broker.messages import ActionEvent, Announcement, decode, encode
from broker.topics import action_topic
from city.cityfile import Address

CLOSE_VALVE: Final = "close_valve"
REPAIR_ORDER: Final = "repair_order"


class CommandKind(msgspec.Struct, frozen=True):
    """A command as an action, and how long a device takes to answer it [simulated s]."""

    name: str
    travel_s: float


_KIND_ROWS: Final = (
    CommandKind(CLOSE_VALVE, 2.0),
    CommandKind("stop_unit", 10.0),
    CommandKind("cut_power", 10.0),
    CommandKind("ventilate", 10.0),
)
"""Two seconds: the travel of a spring-return valve (engineering default). Ten: what takes a device
longer, it answers when it begins."""
COMMANDS: Final = {row.name: row for row in _KIND_ROWS}
ACTIONS: Final = (*COMMANDS, REPAIR_ORDER)
"""The names of the actions that a rule may list."""

Step = Literal["would-send", "sent", "retried", "done", "refused", "unanswered", "withheld"]
Standing = Literal[
    "due", "would-send", "sent", "retried", "done", "refused", "unanswered", "withheld"
]

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS deeds (
    id TEXT PRIMARY KEY, rule TEXT NOT NULL, place TEXT NOT NULL, number INTEGER NOT NULL,
    raised INTEGER NOT NULL, action TEXT NOT NULL, target TEXT NOT NULL, ts INTEGER NOT NULL,
    attempt INTEGER NOT NULL, state TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS deeds_rule ON deeds (rule, ts);
CREATE INDEX IF NOT EXISTS deeds_state ON deeds (state);
CREATE TABLE IF NOT EXISTS action_steps (
    id INTEGER PRIMARY KEY, topic TEXT NOT NULL, body TEXT NOT NULL
);
CREATE TRIGGER IF NOT EXISTS action_steps_stay BEFORE UPDATE ON action_steps
BEGIN SELECT raise(ABORT, 'what actions did only grows'); END;
CREATE TRIGGER IF NOT EXISTS action_steps_remain BEFORE DELETE ON action_steps
BEGIN SELECT raise(ABORT, 'what actions did only grows'); END;
"""
_DEED: Final = "rule, place, number, raised, action, target, ts, attempt, state"
_CURSOR: Final = "actions told"


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """One command to one device because of one event of an alarm, and how it stands.

    `place` is the alarm's device, `number` the event's, `raised` names the alarm's occurrence, `ts`
    is the event's instant; `attempt` counts from 1, and is 0 where there was nobody to send to.
    """

    rule: str
    place: Address
    number: int
    raised: int
    action: str
    target: Address
    ts: int
    attempt: int = 1
    state: Standing = "due"

    @property
    def alarm(self) -> str:
        """`site/device/rule`."""
        return alarm_name((self.place, self.rule))

    @property
    def target_name(self) -> str:
        """`site/device`."""
        return f"{self.target.site}/{self.target.device}"

    @property
    def id(self) -> str:
        """The same whenever it is planned, so that it is planned once."""
        kind = "" if self.action == CLOSE_VALVE else f"{self.action}-"
        return f"{self.alarm}#{self.number}-{kind}{self.target_name}"

    @property
    def command_id(self) -> str:
        """The identifier of its present attempt, by which the device knows a repeat."""
        return f"{self.id}-{self.attempt}"


class ToldStep(msgspec.Struct, frozen=True):
    """A step that its topic has not heard of yet."""

    place: int
    topic: str
    payload: bytes


class Deeds:
    """All deeds of one city; safe from any thread."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        archive.create(_SCHEMA)

    def kept(self, deed: Deed) -> Change:
        """The change that keeps how `deed` stands."""
        values = (
            deed.id, deed.rule, str(deed.place), deed.number, deed.raised, deed.action,
            str(deed.target), deed.ts, deed.attempt, deed.state,
        )  # fmt: skip
        return "INSERT OR REPLACE INTO deeds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values

    def step(self, deed: Deed, step: Step, ts: int, detail: str) -> list[Change]:
        """The changes by which `deed` takes a step: it stands so, and its topic will say so."""
        event = ActionEvent(
            id=deed.id, action=deed.action, step=step, target=deed.target_name, ts=ts,
            rule=deed.rule, alarm=deed.alarm, detail=detail,
        )  # fmt: skip
        values = (action_topic(deed.place), encode(event).decode())
        return [
            self.kept(msgspec.structs.replace(deed, state=step)),
            ("INSERT INTO action_steps (topic, body) VALUES (?, ?)", values),
        ]

    def underway(self) -> list[Deed]:
        """What was due or sent and has no outcome, oldest first."""
        return self._find("state IN ('due', 'sent', 'retried') ORDER BY ts, id", ())

    def stands(self, deed: Deed) -> bool:
        """Whether an earlier event of the same occurrence of the alarm has done the same already."""
        same = (deed.rule, str(deed.place), deed.raised, deed.action, str(deed.target))
        where = (
            "rule = ? AND place = ? AND raised = ? AND action = ? AND target = ? AND "
            "state IN ('due', 'would-send', 'sent', 'retried', 'done')"
        )
        return bool(self._find(where, same))

    def alarms(self, near: Address, rule: str, ts: int, *, within_ms: int) -> list[Announcement]:
        """The events of a rule at other devices of a device's site about that instant."""
        found = self._archive.history(
            since_ms=ts - within_ms, until_ms=ts + within_ms + 1, pattern=f"{near.site}/*/{rule}"
        )
        place = msgspec.structs.replace(near, device="")
        return [
            one
            for one in found
            if one.address != near and msgspec.structs.replace(one.address, device="") == place
        ]

    def acted(self, rule: str, since_ms: int) -> int:
        """How many actions of `rule` were taken, or would have been, by events after that instant.

        All commands of one action of one event count as one.
        """
        ((count,),) = self._archive.rows(
            "SELECT count(*) FROM (SELECT DISTINCT place, number, action FROM deeds "
            "WHERE rule = ? AND ts > ? AND attempt > 0 AND state <> 'withheld')",
            (rule, since_ms),
        )
        return int(count)

    def disobedient(self) -> set[Address]:
        """The valves whose newest close command was refused or not answered."""
        newest: dict[Address, Deed] = {}
        where = "action = ? AND attempt > 0 AND state NOT IN ('withheld', 'would-send') ORDER BY ts"
        for deed in self._find(where, (CLOSE_VALVE,)):
            newest[deed.target] = deed
        return {
            target for target, deed in newest.items() if deed.state in {"refused", "unanswered"}
        }

    def untold(self, most: int) -> list[ToldStep]:
        """The steps that are still to be told, oldest first."""
        rows = self._archive.rows(
            "SELECT id, topic, body FROM action_steps WHERE id > "
            "coalesce((SELECT upto FROM cursors WHERE name = ?), 0) ORDER BY id LIMIT ?",
            (_CURSOR, most),
        )
        return [ToldStep(place, topic, body.encode()) for place, topic, body in rows]

    def steps(self) -> list[ActionEvent]:
        """Every step that was ever taken, oldest first."""
        rows = self._archive.rows("SELECT body FROM action_steps ORDER BY id")
        return [decode(ActionEvent, body.encode()) for (body,) in rows]

    def told(self, place: int) -> None:
        """All steps up to that place have been told."""
        self._archive.settle(_CURSOR, place)

    def _find(self, where: str, values: tuple[object, ...]) -> list[Deed]:
        rows = self._archive.rows(f"SELECT {_DEED} FROM deeds WHERE {where}", values)
        return [_deed(dict(zip(_DEED.split(", "), row, strict=True))) for row in rows]


def _deed(row: Mapping[str, object]) -> Deed:
    places = {key: _address(str(row[key])) for key in ("place", "target")}
    return msgspec.convert({**row, **places}, Deed)


def _address(text: str) -> Address:
    return Address(*text.split("/"))
