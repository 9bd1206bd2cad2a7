"""What people ask of alarms, checked before anything is changed."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final

from alerts.alarm import Alarm
from alerts.life import Input, refusal
from broker.messages import OperatorAction, OperatorRequest
from city.cityfile import IDENTIFIER_MAX
from city.errors import InputError

INPUTS: Final[Mapping[OperatorAction, Input]] = {
    "acknowledge": "acknowledge",
    "comment": "comment",
    "shelve": "shelve",
    "unshelve": "unshelve",
    "reset": "reset",
    "disable": "disable",
    "enable": "enable",
}
"""What a person may do to an alarm: the row of the table of its life."""
NEEDS_WHY: Final[frozenset[OperatorAction]] = frozenset({"comment", "shelve", "disable"})
TARGETS_MAX: Final = 1_000
PATTERNS_MAX: Final = 20
"""Each pattern is held against every alarm, and nothing else is watched meanwhile."""
_PART: Final = re.compile(rf"[a-z0-9*-]{{1,{IDENTIFIER_MAX}}}")
_PARTS: Final = 3


def check(request: OperatorRequest) -> None:
    """Whether `request` is one about alarms, and complete.

    Raises:
        InputError: It is not; the text says what is missing.
    """
    action = request.action
    if action not in INPUTS:
        raise InputError(f"{action}: not something that is done to an alarm; use {_listed()}")
    if not request.by.strip():
        raise InputError(f"{action}: the name of who asks is missing; give it as `by`")
    if action in NEEDS_WHY and not request.why.strip():
        raise InputError(f"{action}: the reason is missing; give it as `why`")
    if not request.targets:
        raise InputError(f"{action}: no alarm is named; give site/device/rule, `*` for any")
    if len(request.targets) > TARGETS_MAX:
        raise InputError(
            f"{action}: {len(request.targets)} targets, at most {TARGETS_MAX}; use `*`"
        )
    patterns = sum(is_pattern(target) for target in request.targets)
    if patterns > PATTERNS_MAX:
        raise InputError(
            f"{action}: {patterns} targets with `*`, at most {PATTERNS_MAX}; ask again"
        )
    for target in request.targets:
        _check_target(action, target)


def is_pattern(target: str) -> bool:
    """Whether `target` may name many alarms."""
    return "*" in target


def matches(pattern: str, name: str) -> bool:
    """Whether each part of `name` (`site/device/rule`) fits that of `pattern`."""
    parts = zip(pattern.split("/"), name.split("/"), strict=True)
    return all(fnmatchcase(part, wanted) for wanted, part in parts)


def objection(alarm: Alarm, request: OperatorRequest) -> str | None:
    """Why that cannot be done to `alarm` now; None: it can."""
    reason = refusal(alarm.shown, INPUTS[request.action])
    if reason is None and request.action == "shelve" and request.once and not alarm.active:
        reason = "does not hold now, so it cannot be shelved once; shelve it for a time"
    return None if reason is None else f"{request.action}: {alarm.name} {reason}"


def _check_target(action: str, target: str) -> None:
    parts = target.split("/")
    if len(parts) != _PARTS or not all(_PART.fullmatch(part) for part in parts):
        raise InputError(
            f"{action}: {target[:200]!r} names no alarm; give site/device/rule, `*` for any"
        )


def _listed() -> str:
    return ", ".join(INPUTS)
