"""What a load test has shown: one document for programs, files, pages and people."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec

from city.errors import DocumentError, ServiceError
from load.course import DRAIN, Attempt, Course, Stretch
from load.figures import BOTTLENECK, BUSY, LATE_P99_MS
from load.machine import Machine, this_machine
from load.percentiles import Latency
from load.plan import LoadPlan
from load.series import Series

FORMAT: Final = 1
"""Raised when an older CityEye could no longer read the file."""

_HIDDEN: Final = "(set)"
_FAULTS: Final = {
    "missing": "missing",
    "repeated": "repeats",
    "late": "late",
    "reordered": "reordered",
    "malformed": "malformed",
    "oversized": "oversized",
}
"""Kinds of faults, and under which count shards tell them."""


class PhaseFigures(msgspec.Struct, kw_only=True):
    """One phase by itself; the ramp and the drain after the last phase are phases too.

    What was sent and measured in it, to some hundredths of a second. `lost`: what was acknowledged
    in it and never received, to the second.
    """

    name: str
    at_s: float
    for_s: float
    sent: int
    acked: int
    received: int
    sent_per_s: float
    acked_per_s: float
    received_per_s: float
    lost: int | None
    latency_ms: dict[str, Latency]


class PartFigures(msgspec.Struct, kw_only=True):
    """One process, with its own sums."""

    kind: str
    part: int
    attempt: str
    ended: bool
    """Whether it said its last word; one that did not has died."""
    lasted_s: float
    connected: int
    confirmed: int
    counts: dict[str, int]
    latency_ms: dict[str, Latency]
    cpu_share: float
    """Of one core, on the average."""
    cpu_share_most: float
    rss_mb: float


class Lateness(msgspec.Struct, frozen=True):
    """By how much the generator itself was late [ms]."""

    p50: float
    p99: float
    max: float


class Report(msgspec.Struct, kw_only=True):
    """One load test.

    Latency is without the ramp, but for `connect`. `lost` is None where nobody has verified, or
    where the subscriber was too slow to tell: `unread` is then what it had not read.
    """

    run: str
    version: str
    started: str
    """ISO 8601, UTC."""
    lasted_s: float
    machine: Machine
    broker: str
    plan: dict[str, Any]
    devices: int
    connected: int
    connects: int
    disconnects: int
    sent: int
    acked: int
    received: int
    lost: int | None
    unread: int
    repeated: int
    out_of_order: int
    unreadable: int
    faults: dict[str, int]
    dropped: int
    """Messages that a device's full backlog pushed out before they were sent."""
    broker_dropped: int
    unconfirmed: int
    refused: dict[str, int]
    readings: int
    alarms: int
    wanted_per_s: float
    rate_per_s: float
    latency_ms: dict[str, Latency]
    lateness_ms: Lateness | None
    cpu_us_per_msg: dict[str, float]
    rss_kb_per_device: float | None
    cpu_share: dict[str, float]
    phases: list[PhaseFigures]
    parts: list[PartFigures]
    knee: dict[str, Any] | None
    warnings: list[str]
    complete: bool
    """Nothing lost, dropped or unconfirmed, and every wanted device was online."""
    series: Series
    histograms: dict[str, str]
    """Delays [us] by stage, in HdrHistogram's own encoding (V2, compressed, base 64)."""
    format: int = FORMAT

    def figures(self) -> dict[str, Any]:
        """All but the series and the histograms, in the order in which it is shown."""
        shown: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in shown.items() if name not in _LONG}

    def encode(self) -> bytes:
        """The JSON document."""
        return msgspec.json.encode(self)

    @property
    def fulfilled(self) -> bool:
        """Whether the test did what it was for.

        A search goes beyond the limit on purpose, and what was lost there is no failure of it: some
        rate was held, by all devices, and every part told its figures to the end.
        """
        if self.knee is None:
            return self.complete
        ended = {(part.kind, part.part): part.ended for part in self.parts}
        held = self.knee.get("rate") is not None
        return held and self.connected >= self.devices and all(ended.values())

    @property
    def generator_limited(self) -> bool:
        """Whether the generator had no reserve, so that the figures are of it and not the broker."""
        late = self.lateness_ms is not None and self.lateness_ms.p99 > LATE_P99_MS
        return late or any(part.kind == "shard" and part.cpu_share > BUSY for part in self.parts)


_LONG: Final = ("series", "histograms", "format")


def report_of(
    plan: LoadPlan,
    course: Course,
    *,
    started_ms: int,
    broker: str = "",
    machine: Machine | None = None,
    knee: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> Report:
    """The report of a test that is over.

    Args:
        plan: As it was asked for.
        course: All that its parts have said.
        started_ms: When it began, on the wall.
        broker: Its name for people; default: its address.
        machine: Where it ran; default: here.
        knee: The limit that was found, as plain data.
        warnings: Of the conductor, before those of the parts.
    """
    counts, latency = course.counts, course.total.latency()
    late = latency.get("lateness")
    unread = (course.lost or 0) if counts["unread_possible"] else 0
    report = Report(
        run=plan.run,
        version=version("cityeye"),
        started=datetime.fromtimestamp(started_ms / 1000, UTC).isoformat(timespec="seconds"),
        lasted_s=round(course.at_s, 1),
        machine=machine or this_machine(),
        broker=broker or str(plan.broker),
        plan=public_plan(plan),
        devices=plan.devices,
        connected=course.connected_most,
        connects=counts["connects"],
        disconnects=counts["disconnects"],
        sent=counts["sent"],
        acked=counts["acked"],
        received=counts["received"],
        lost=None if unread else course.lost,
        unread=unread,
        repeated=counts["repeated"],
        out_of_order=counts["out_of_order"],
        unreadable=counts["unreadable"],
        faults={fault: counts[name] for fault, name in _FAULTS.items()},
        dropped=counts["dropped"],
        broker_dropped=counts["broker_dropped"],
        unconfirmed=_unconfirmed(course),
        refused=dict(course.reasons.most_common()),
        readings=counts["readings"],
        alarms=counts["alarms"],
        wanted_per_s=round(plan.rate, 1),
        rate_per_s=_rate_per_s(course),
        latency_ms={stage: one for stage, one in latency.items() if stage != "lateness"},
        lateness_ms=None if late is None else Lateness(late.p50, late.p99, late.max),
        cpu_us_per_msg=_cpu_us(course),
        rss_kb_per_device=_rss_kb(course),
        cpu_share=_cpu_share(course),
        phases=_phases(course),
        parts=[_part(one) for one in sorted(_told(course), key=_order)],
        knee=dict(knee) if knee is not None else None,
        warnings=list(dict.fromkeys([*warnings, *course.warnings])),
        complete=False,
        series=course.series(),
        histograms={stage: text.decode() for stage, text in course.total.encoded().items()},
    )
    report.complete = _complete(report, verified=plan.subscribers > 0)
    report.warnings += _own_warnings(report)
    return report


def read_report(path: Path) -> Report:
    """A report from its file.

    Raises:
        DocumentError: It cannot be read or is none; the text says what is wrong.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DocumentError(
            f"{path}: cannot be read: {error.strerror}; give the folder, or the JSON file in it, "
            "that `cityeye load` wrote"
        ) from error
    try:
        head = msgspec.json.decode(data, type=_Head)
    except msgspec.DecodeError as error:
        raise DocumentError(
            f"{path}: no report of a load test ({error}); give the JSON file that "
            "`cityeye load` wrote"
        ) from error
    if head.format != FORMAT:
        raise DocumentError(
            f"{path}: a report in format {head.format} of CityEye {head.version}; this one reads "
            f"format {FORMAT}: run the test again with this version, or compare with that one"
        )
    try:
        return msgspec.json.decode(data, type=Report)
    except msgspec.DecodeError as error:
        raise DocumentError(f"{path}: a damaged report of a load test: {error}") from error


def write_text(path: Path, text: str | bytes) -> None:
    """A report's document into a file, whose folder is made.

    Raises:
        ServiceError: It cannot be written.
    """
    data = text.encode() if isinstance(text, str) else text
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise ServiceError(
            f"{path}: the report cannot be written: {error.strerror}; name another file"
        ) from error


def public_plan(plan: LoadPlan) -> dict[str, Any]:
    """The plan as plain data, without secrets: password and tokens are only said to be there."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(plan, enc_hook=str))
    if plain["password"] is not None:
        plain["password"] = _HIDDEN
    if plain["template"]["username"] is not None:
        plain["template"]["username"] = _HIDDEN
    return plain


class _Head(msgspec.Struct):
    """What tells a report from other files."""

    format: int
    run: str
    version: str


def _order(attempt: Attempt) -> tuple[str, int, int]:
    return attempt.kind, attempt.part, attempt.since_ms


def _told(course: Course) -> list[Attempt]:
    """The processes that count: one that another replaced before it said anything does not."""
    newest = _newest(course)
    return [one for one in course.attempts.values() if one in newest or one.sums.counts]


def _newest(course: Course) -> list[Attempt]:
    """The last process of each part."""
    return list({(one.kind, one.part): one for one in course.attempts.values()}.values())


def _unconfirmed(course: Course) -> int:
    return sum(one.waiting for one in _newest(course) if one.kind == "shard")


def _stretch_s(course: Course, stretch: Stretch) -> float:
    """How long a stretch lasted."""
    newest_ms = course.start_ms + course.at_s * 1000
    ends_ms = newest_ms if stretch.name == DRAIN else min(stretch.ends_ms, course.pace.end_ms)
    begins_ms = stretch.begins_ms if stretch.name != DRAIN else course.pace.end_ms
    return max(0.0, min(ends_ms, newest_ms) - begins_ms) / 1000


def _rate_per_s(course: Course) -> float:
    """Messages per second in the phases; in the ramp, where the test never left it."""
    phases = [one for one in course.stretches[1:-1] if _stretch_s(course, one) > 0]
    chosen = phases or course.stretches[:1]
    seconds = sum(_stretch_s(course, one) for one in chosen)
    sent = sum(one.sums.counts["sent"] for one in chosen)
    return round(sent / seconds, 1) if seconds else 0.0


def _cpu_us(course: Course) -> dict[str, float]:
    """Processor time per message: of shards sent, of subscribers received; after the ramp."""
    costs = {}
    for kind, count in (("shard", "sent"), ("subscriber", "received")):
        sums = course.after_ramp.get(kind)  # type: ignore[call-overload] # kinds of parts
        if sums is not None and sums.counts[count]:
            costs[kind] = round(sums.cpu_s / sums.counts[count] * 1e6, 2)
    return costs


def _rss_kb(course: Course) -> float | None:
    """What shards hold more than before they had devices, per device that was online."""
    shards = [one for one in _newest(course) if one.kind == "shard" and one.empty_rss_bytes]
    devices = sum(one.connected_most for one in shards)
    more = sum(one.rss_bytes - one.empty_rss_bytes for one in shards)
    return round(max(0, more) / devices / 1024, 2) if devices else None


def _cpu_share(course: Course) -> dict[str, float]:
    """Of one core, by part, on the average over all its processes."""
    seconds: dict[str, float] = {}
    lasted: dict[str, float] = {}
    for one in sorted(course.attempts.values(), key=_order):
        name = f"{one.kind} {one.part}"
        seconds[name] = seconds.get(name, 0.0) + one.sums.cpu_s
        lasted[name] = lasted.get(name, 0.0) + one.lasted_s
    return {name: round(seconds[name] / lasted[name], 3) for name in seconds if lasted[name]}


def _part(one: Attempt) -> PartFigures:
    return PartFigures(
        kind=one.kind,
        part=one.part,
        attempt=one.attempt,
        ended=one.ended,
        lasted_s=round(one.lasted_s, 1),
        connected=one.connected_most,
        confirmed=one.confirmed,
        counts=dict(sorted(one.sums.counts.items())),
        latency_ms=one.sums.latency(),
        cpu_share=round(one.sums.cpu_s / one.lasted_s, 3) if one.lasted_s else 0.0,
        cpu_share_most=one.busiest,
        rss_mb=round(one.rss_bytes / 1e6, 1),
    )


def _phases(course: Course) -> list[PhaseFigures]:
    """Every stretch that was begun."""
    series = course.series()
    figures = []
    for stretch in course.stretches:
        for_s = _stretch_s(course, stretch)
        if for_s <= 0:
            continue
        begins_ms = course.pace.end_ms if stretch.name == DRAIN else stretch.begins_ms
        at_s = round((begins_ms - course.start_ms) / 1000, 1)
        figures.append(_phase(stretch, at_s, for_s, series))
    return figures


def _phase(stretch: Stretch, at_s: float, for_s: float, series: Series) -> PhaseFigures:
    counts = stretch.sums.counts
    return PhaseFigures(
        name=stretch.name,
        at_s=at_s,
        for_s=round(for_s, 1),
        sent=counts["sent"],
        acked=counts["acked"],
        received=counts["received"],
        sent_per_s=round(counts["sent"] / for_s, 1),
        acked_per_s=round(counts["acked"] / for_s, 1),
        received_per_s=round(counts["received"] / for_s, 1),
        lost=_lost_between(series, at_s, at_s + for_s),
        latency_ms=stretch.sums.latency(),
    )


def _lost_between(series: Series, from_s: float, to_s: float) -> int | None:
    before = _lost_at(series, from_s)
    after = _lost_at(series, to_s)
    return None if after is None else after - (before or 0)


def _lost_at(series: Series, at_s: float) -> int | None:
    """What was lost for good by then; 0 before anything was told."""
    lost: int | None = 0
    for then_s, one in zip(series.at_s, series.lost, strict=True):
        if then_s > at_s + 0.5:
            return lost
        lost = one
    return lost


def _complete(report: Report, *, verified: bool) -> bool:
    ended = {(part.kind, part.part): part.ended for part in report.parts}
    return (
        (report.lost == 0 or not verified)
        and report.unread == 0
        and report.connected >= report.devices
        and report.dropped == report.broker_dropped == report.unconfirmed == 0
        and all(ended.values())
    )


def _own_warnings(report: Report) -> list[str]:
    """What the sums show that no part could know."""
    said = []
    newest = {(part.kind, part.part): part for part in report.parts}
    died = [part for part in report.parts if part is not newest[part.kind, part.part]]
    known = any(BOTTLENECK in warning for warning in report.warnings)
    if report.generator_limited and not died and not known:
        late = report.lateness_ms.p99 if report.lateness_ms else 0.0
        busiest = max((one.cpu_share for one in report.parts if one.kind == "shard"), default=0.0)
        said.append(
            f"{BOTTLENECK}: over the whole test its messages left {late:.0f} ms late (p99) and a "
            f"process of it used {busiest:.0%} of a core; delays and rates are partly its own; "
            "divide the devices among more processes (--processes) or machines"
        )
    if report.connected < report.devices:
        said.append(
            f"only {report.connected:,} of {report.devices:,} devices were online at once; see "
            "'refused' for the reasons"
        )
    said += [
        f"{part.kind} {part.part} died after {part.lasted_s:,.0f} s and another went on: lateness "
        "and delays have that gap in them; sent, acked and injected faults leave out what it did "
        "after its last word, and count twice what was done again; lost is exact"
        for part in died
    ]
    said += [
        f"{part.kind} {part.part} ended without its last word"
        for part in newest.values()
        if not part.ended
    ]
    return said
