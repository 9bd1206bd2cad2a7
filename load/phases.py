"""The course of a load test: shipped profiles by name, or a YAML file of phases of one's own.

A profile is a row of shares of the whole time. A file says how long each phase lasts:

    phases:
      - name: warm-up
        for: 30s
        pace: 0.2        # a fifth of the rate of the test, rising
        to_pace: 1       # straight to all of it
      - name: rush
        for: 5m
        rate: 20000/s    # or so many messages per second
        drop: 0.1        # at its beginning a tenth of the devices loses its connection
        alarms: 0.05     # while it lasts, every twentieth device is in alarm
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, NoReturn

import msgspec
from msgspec import Meta

from city.documents import Document, suggestion
from city.errors import SettingError
from city.settings import seconds_in
from load.plan import LoadPlan, Phase, Share

DEFAULT_FOR_S: Final = 60.0
"""How long a shipped profile lasts where nobody says."""

_RATE: Final = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(/\s*(?P<unit>s|min|m|h))?")
_UNIT_S: Final = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
_PHASES_MAX: Final = 10_000
_PACE_MAX: Final = 1_000_000.0
_Pace = Annotated[float, Meta(ge=0, le=_PACE_MAX)]


class Leg(msgspec.Struct, frozen=True):
    """A phase of a profile: its share of the whole time, and its pace."""

    name: str
    share: float
    pace: float = 1.0
    to_pace: float | None = None
    drop: float = 0.0
    alarms: float = 0.0


class Profile(msgspec.Struct, frozen=True):
    """A course that is shipped."""

    name: str
    sentence: str
    legs: tuple[Leg, ...]


_DAY: Final = (
    0.45, 0.40, 0.36, 0.34, 0.35, 0.40, 0.52, 0.70, 0.85, 0.90, 0.90, 0.88,
    0.86, 0.84, 0.82, 0.82, 0.85, 0.92, 0.98, 1.00, 0.96, 0.85, 0.70, 0.55,
)  # fmt: skip
"""A city's use at each full hour, as a share of the busiest. An engineering default: low at night,
a plateau by day, a peak in the evening, as in the load of a power grid with many households."""

_PROFILES: Final = (
    Profile("steady", "The rate, from beginning to end.", (Leg("steady", 1.0),)),
    Profile(
        "ramp",
        "From a tenth of the rate straight up to all of it, then held.",
        (Leg("up", 0.7, 0.1, 1.0), Leg("held", 0.3)),
    ),
    Profile(
        "step",
        "Five steps, each a fifth of the rate higher.",
        tuple(Leg(f"step-{number}", 0.2, number / 5) for number in range(1, 6)),
    ),
    Profile(
        "spike",
        "The rate, five times the rate for a tenth of the time, then the rate again.",
        (Leg("before", 0.4), Leg("spike", 0.1, 5.0), Leg("after", 0.5)),
    ),
    Profile(
        "reconnect-storm",
        "The rate; half of the devices lose their connection at one instant, later all of them.",
        (Leg("calm", 0.3), Leg("half", 0.3, drop=0.5), Leg("all", 0.4, drop=1.0)),
    ),
    Profile(
        "alarm-storm",
        "The rate; for a fifth of the time a third of the devices is in alarm.",
        (Leg("calm", 0.4), Leg("storm", 0.2, alarms=1 / 3), Leg("after", 0.4)),
    ),
    Profile(
        "daily",
        "A day's course of a city's use, 24 hours in the whole time; the rate is the evening's peak.",
        tuple(
            Leg(f"hour-{hour:02}", 1 / 24, *use)
            for hour, use in enumerate(pairwise((*_DAY, _DAY[0])))
        ),
    ),
)
PROFILES: Final = {profile.name: profile for profile in _PROFILES}
"""The shipped profiles by name; the help and the docs show this table."""


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A phase as a file says it; `rate` and `to_rate` stand in place of the paces."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    for_: str | float = msgspec.field(name="for")
    pace: _Pace | None = None
    to_pace: _Pace | None = None
    rate: str | float | None = None
    to_rate: str | float | None = None
    drop: Share = 0.0
    alarms: Share = 0.0


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    phases: Annotated[tuple[_Entry, ...], Meta(min_length=1, max_length=_PHASES_MAX)]


def phases_of(spec: str, *, rate: float, for_s: float | None = None) -> tuple[Phase, ...]:
    """The phases of a shipped profile, or of the YAML file at a path.

    Args:
        spec: The name of a profile, or a path that ends in `.yaml` or `.yml`.
        rate: Messages per second at pace 1, which a file's absolute rates are put against.
        for_s: How long all phases last together. None: 60 s for a profile, and what a file says;
            with a time, a file's phases are stretched to it.

    Raises:
        SettingError: There is neither such a profile nor such a file.
        DocumentError: The file is wrong; the text names file, line, path and what is allowed.
    """
    if spec in PROFILES:
        whole_s = DEFAULT_FOR_S if for_s is None else for_s
        return tuple(_phase(leg, whole_s) for leg in PROFILES[spec].legs)
    if not spec.endswith((".yaml", ".yml")):
        raise SettingError(
            f"profile: {spec!r} is no profile; {suggestion(spec, PROFILES)}, or a .yaml file"
        )
    return phases_in(Document.read(Path(spec)), rate=rate, for_s=for_s)


def phases_in(document: Document, *, rate: float, for_s: float | None = None) -> tuple[Phase, ...]:
    """The phases that a document says; see `phases_of`.

    Raises:
        DocumentError: The document is wrong.
    """
    entries = document.convert(_File).phases
    phases = tuple(
        _Written(document, number, entry, rate).phase() for number, entry in enumerate(entries)
    )
    if for_s is None:
        return phases
    stretch = for_s / sum(phase.for_s for phase in phases)
    return tuple(msgspec.structs.replace(phase, for_s=phase.for_s * stretch) for phase in phases)


def profile_help() -> str:
    """The profiles in a sentence each, for `--help`."""
    rows = [f"{profile.name}: {profile.sentence}" for profile in _PROFILES]
    return " ".join(["How the rate runs.", *rows, "Or a .yaml file of phases."])


def profile_table() -> str:
    """The profiles as a Markdown table, for the docs."""
    rows = [f"| `{profile.name}` | {profile.sentence} |" for profile in _PROFILES]
    return "\n".join(["| profile | the course |", "|---|---|", *rows])


def course_of(plan: LoadPlan) -> str:
    """The course of a test as text, a line for each phase: from, to [s], pace, messages/s, more."""
    rows = [("phase", "from", "to", "pace", "rate", ""), *_course(plan)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(_line(row, widths).rstrip() for row in rows)


def _phase(leg: Leg, whole_s: float) -> Phase:
    return Phase(
        name=leg.name, for_s=leg.share * whole_s, pace=leg.pace, to_pace=leg.to_pace,
        drop=leg.drop, alarms=leg.alarms,
    )  # fmt: skip


class _Written(msgspec.Struct, frozen=True):
    """An entry at its place in a document, which an error names."""

    document: Document
    number: int
    entry: _Entry
    rate: float

    def phase(self) -> Phase:
        """The phase that the entry says."""
        entry = self.entry
        first = self._pace("pace", entry.pace, "rate", entry.rate)
        last = self._pace("to_pace", entry.to_pace, "to_rate", entry.to_rate)
        return Phase(
            name=entry.name, for_s=self._for_s(), pace=1.0 if first is None else first,
            to_pace=last, drop=entry.drop, alarms=entry.alarms,
        )  # fmt: skip

    def _for_s(self) -> float:
        try:
            return seconds_in(str(self.entry.for_))
        except SettingError as error:
            self._fail("for", str(error).removeprefix("for: "))

    def _pace(
        self, key: str, pace: float | None, rate_key: str, rate: str | float | None
    ) -> float | None:
        """The pace, said as such or as a rate."""
        if rate is None:
            return pace
        if pace is not None:
            self._fail(rate_key, f"stands beside {key}; give one of them")
        match = _RATE.fullmatch(str(rate).strip())
        if match is None:
            self._fail(rate_key, f"{rate!r} is not a rate; give e.g. 20000/s, 500/min or 20000")
        found = float(match["number"]) / _UNIT_S[match["unit"] or "s"] / self.rate
        if found > _PACE_MAX:
            self._fail(rate_key, f"{rate!r} is more than {_PACE_MAX:,.0f} times the test's rate")
        return found

    def _fail(self, key: str, problem: str) -> NoReturn:
        self.document.fail(("phases", self.number, key), problem)


def _course(plan: LoadPlan) -> Iterator[tuple[str, ...]]:
    """The cells of every phase, the ramp first."""
    begins_s = 0.0
    if plan.ramp_s > 0:
        begins_s = plan.ramp_s
        yield "connecting", _time(0), _time(begins_s), "1", f"0 to {plan.rate:,.0f}/s", ""
    for phase in plan.phases:
        ends_s = begins_s + phase.for_s
        ends = (phase.pace, phase.pace if phase.to_pace is None else phase.to_pace)
        paces = _span([f"{pace:.3g}" for pace in ends])
        rates = _span([f"{pace * plan.rate:,.0f}" for pace in ends])
        yield phase.name, _time(begins_s), _time(ends_s), paces, f"{rates}/s", _more(phase)
        begins_s = ends_s


def _time(since_s: float) -> str:
    return f"{since_s:,.1f} s"


def _span(ends: Sequence[str]) -> str:
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _more(phase: Phase) -> str:
    said = []
    if phase.drop:
        said.append(f"{phase.drop:.0%} of the devices lose their connection")
    if phase.alarms:
        said.append(f"{phase.alarms:.0%} of the devices are in alarm")
    return ", ".join(said)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers = row[:5]
    cells = [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
    return "  ".join([name.ljust(widths[0]), *cells, row[5]])
