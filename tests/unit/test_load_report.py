from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.choice import BrokerAddress
from city.errors import DocumentError, ServiceError
from load.course import Course
from load.figures import Delta, histogram_of
from load.machine import Machine, this_machine
from load.payloads import Template
from load.plan import LoadPlan, Phase
from load.report import Report, public_plan, read_report, report_of, write_text
from load.verdict import lines, verdict

START_MS = 1_795_413_600_000
MACHINE = Machine("a processor", 2, 8.0, "Linux", "3.11")


def planned(**changes: Any) -> LoadPlan:
    """A plan of ten devices: a ramp of 2 s, one phase of 8 s."""
    fields: dict[str, Any] = {
        "run": "trial", "broker": BrokerAddress("127.0.0.1", 1883), "devices": 10,
        "interval_s": 1.0, "ramp_s": 2.0, "kinds": ("air-micro",), "seed": 1, "city_start_ms": 0,
        "phases": (Phase(name="steady", for_s=8),),
    } | changes  # fmt: skip
    return LoadPlan(**fields)


def shard(at_s: int, **fields: Any) -> Delta:
    """A second of the one shard: ten messages, each confirmed."""
    told: dict[str, Any] = {
        "kind": "shard", "part": 0, "at_ms": START_MS + at_s * 1000, "connected": 10,
        "counts": {"sent": 10, "acked": 10, "readings": 40, "connects": 10 if at_s == 1 else 0},
        "confirmed": 10 * at_s, "cpu_s": 0.001, "rss_bytes": 1_040_960, "empty_rss_bytes": 1_000_000,
        "delays": {"ack": histogram_of([2_000] * 10).encode(),
                   "lateness": histogram_of([400] * 10).encode()},
        "last": at_s == 10,
    }  # fmt: skip
    return Delta(**(told | fields))


def reader(at_s: int, **fields: Any) -> Delta:
    """A second of the one subscriber, which received it all."""
    told: dict[str, Any] = {
        "kind": "subscriber", "part": 0, "at_ms": START_MS + at_s * 1000, "cpu_s": 0.0005,
        "counts": {"received": 10, "distinct": 10}, "last": at_s == 10,
        "delays": {"subscriber": histogram_of([3_000] * 10).encode()},
    }  # fmt: skip
    return Delta(**(told | fields))


def reported(*more: Delta, plan: LoadPlan | None = None, **options: Any) -> Report:
    """The report of ten good seconds, and of what else was told."""
    plan = plan or planned()
    course = Course(plan, START_MS)
    for at_s in range(1, 11):
        course.add(shard(at_s))
        course.add(reader(at_s))
    for one in more:
        course.add(one)
    return report_of(plan, course, started_ms=START_MS, machine=MACHINE, **options)


def test_search_goes_too_far() -> None:
    """A search that found a rate did what it was for, though what went beyond it was lost."""
    fewer = reader(10, counts={"distinct": -3})
    found = reported(fewer, knee={"rate": 1_000.0})
    nothing = reported(fewer, knee={"rate": None})

    assert (3, False, True) == (found.lost, found.complete, found.fulfilled)
    assert not nothing.fulfilled
    assert not reported(fewer).fulfilled


def test_replaced_shard() -> None:
    """A shard that was replaced explains the delays; no more processes are asked for."""
    late = {"lateness": histogram_of([900_000] * 10).encode()}
    report = reported(shard(10, attempt="other", delays=late))

    assert ["shard 0 died after 10 s and another went on"] == [
        said.partition(":")[0] for said in report.warnings
    ]


def test_a_good_run_is_complete() -> None:
    """Where nothing is lost, dropped or open and all were online, nothing is to be said."""
    report = reported()

    assert report.complete
    assert [] == report.warnings
    assert (100, 100, 100, 0, 400) == (
        report.sent, report.acked, report.received, report.lost, report.readings,
    )  # fmt: skip


def test_programs_find_the_figures_by_their_names() -> None:
    """The names that the documents promise are there, and the series is not among them."""
    figures = reported().figures()

    promised = {
        "devices", "connected", "connects", "disconnects", "sent", "acked", "received", "lost",
        "repeated", "out_of_order", "faults", "broker_dropped", "refused", "readings",
        "rate_per_s", "latency_ms", "lateness_ms", "cpu_us_per_msg", "rss_kb_per_device",
        "cpu_share", "parts", "knee", "warnings", "complete",
    }  # fmt: skip
    assert promised <= set(figures)
    assert {"p50", "p95", "p99", "max", "count"} == set(figures["latency_ms"]["ack"])
    assert "series" not in figures


def test_costs_are_per_message_and_per_device() -> None:
    """Processor time is divided by messages after the ramp, memory by devices."""
    report = reported()

    assert {"shard": 100.0, "subscriber": 50.0} == report.cpu_us_per_msg
    assert 4.0 == report.rss_kb_per_device


def test_the_rate_is_that_of_the_phases() -> None:
    """Ramp and drain do not lower the rate."""
    report = reported()

    assert 10.0 == report.rate_per_s
    assert ["ramp", "steady"] == [phase.name for phase in report.phases]


def test_phases_lose_what_was_never_received() -> None:
    """The losses of the phases add up to those of the test."""
    plan = planned(phases=(Phase(name="good", for_s=4), Phase(name="bad", for_s=4)))
    course = Course(plan, START_MS)
    for at_s in range(1, 11):
        got = 7 if at_s == 8 else 10
        course.add(shard(at_s))
        course.add(reader(at_s, counts={"received": got, "distinct": got}))

    report = report_of(plan, course, started_ms=START_MS, machine=MACHINE)

    assert [0, 0, 3] == [phase.lost for phase in report.phases]
    assert (3, False) == (report.lost, report.complete)


@pytest.mark.parametrize("counts", [{"dropped": 1}, {"broker_dropped": 1}, {"unread_possible": 1}])
def test_what_went_wrong_makes_a_run_incomplete(counts: dict[str, int]) -> None:
    """Drops, and a subscriber that was too slow to tell, are not hidden by a loss of zero."""
    last = Delta(
        kind="shard", part=0, at_ms=START_MS + 10_500, counts=counts, confirmed=101, last=True
    )

    assert not reported(last).complete


def test_where_everything_arrived_nothing_is_unknown() -> None:
    """A subscriber that was still receiving when it ended may have everything that was confirmed."""
    report = reported(reader(10, counts={"unread_possible": 1}, delays={}))

    assert (0, 0, True) == (report.lost, report.unread, report.complete)
    assert "No acknowledged message was lost." in verdict(report)


def test_the_bottleneck_is_said_once() -> None:
    """A late generator is said to be the bottleneck, by itself or by the report, never by both."""
    late = {"lateness": histogram_of([900_000] * 100).encode()}
    own = "the generator was the bottleneck: its own words"

    assert 1 == len(reported(shard(10, delays=late)).warnings)
    assert [own] == reported(shard(10, delays=late, warnings=(own,))).warnings


def test_people_read_names_that_say_what_they_mean() -> None:
    """A shard is a generator, stages stand in the order of the way, and the verdict is a sentence."""
    report = reported()

    assert ["ack", "subscriber"] == list(report.latency_ms)
    assert "a message left 0.4 ms late, was acknowledged after" in verdict(report)
    assert "generator 0 0% of a core" in dict(lines(report))["processor"]


def test_messages_that_were_not_read_are_not_called_lost() -> None:
    """A subscriber slower than the load leaves the loss unknown, and says how much it missed."""
    report = reported(
        shard(10, confirmed=140), reader(10, counts={"unread_possible": 1}, delays={})
    )

    assert (None, 40) == (report.lost, report.unread)
    assert "unknown" in verdict(report)


def test_a_process_that_died_is_told() -> None:
    """Both processes of a part have a row of their own, and the first one's death is a warning."""
    report = reported(shard(11, attempt="again", last=True))

    assert ["", "again"] == [part.attempt for part in report.parts if part.kind == "shard"]
    assert 1 == len([warning for warning in report.warnings if "died" in warning])


def test_a_process_that_was_replaced_before_it_began_is_no_row() -> None:
    """Who said nothing but that it was prepared does not count."""
    plan = planned()
    course = Course(plan, START_MS)
    course.add(Delta(kind="shard", part=0, attempt="idle", at_ms=START_MS - 900))
    course.add(shard(1, attempt="real", last=True))

    report = report_of(plan, course, started_ms=START_MS, machine=MACHINE)

    assert ["real"] == [part.attempt for part in report.parts]


def test_a_late_generator_is_a_warning() -> None:
    """Where the generator itself was the bottleneck, the report says so."""
    late = {"lateness": histogram_of([90_000] * 20).encode()}

    report = reported(shard(11, delays=late, last=True))

    assert report.generator_limited
    assert any("generator" in warning for warning in report.warnings)


def test_a_test_that_never_began_has_a_report() -> None:
    """Ctrl-C before the first word still ends in a report."""
    plan = planned()

    report = report_of(plan, Course(plan, START_MS), started_ms=START_MS, machine=MACHINE)

    assert (0, None, False) == (report.sent, report.lost, report.complete)
    assert "0 of 10 devices" in verdict(report)


def test_secrets_are_not_in_the_report() -> None:
    """Neither a password nor an access token is written anywhere."""
    template = Template(name="stranger", topic="t", username="token-7f3a")

    plan = planned(password="hunter2", template=template, ca=Path("ca.crt"))  # noqa: S106 - invented

    plain = public_plan(plan)

    assert "hunter2" not in str(plain)
    assert "token-7f3a" not in str(plain)
    assert "ca.crt" == plain["ca"]


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    """What is written is read back, series and histograms included."""
    report = reported(knee={"rate_per_s": 12.5, "sentence": "12 per second"})
    path = tmp_path / "new" / "report.json"

    write_text(path, report.encode())

    assert report == read_report(path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "no report"),
        ('{"name":"something else"}', "no report"),
        ('{"format":0,"run":"r","version":"0.0.9"}', "CityEye 0.0.9"),
        ('{"format":1,"run":"r","version":"0.0.9"}', "damaged"),
    ],
)
def test_a_foreign_file_is_named(tmp_path: Path, text: str, what: str) -> None:
    """A file that is no report of this format is an error that says which file and why."""
    path = tmp_path / "other.json"
    path.write_text(text)

    with pytest.raises(DocumentError, match=what) as raised:
        read_report(path)

    assert str(path) in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is an error of the user's input."""
    with pytest.raises(DocumentError, match=r"none\.json"):
        read_report(tmp_path / "none.json")


def test_a_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A folder in the way is said with the file's name."""
    with pytest.raises(ServiceError, match=str(tmp_path)):
        write_text(tmp_path, "text")


def test_the_verdict_says_what_ran_what_was_lost_and_where_the_time_went() -> None:
    """The first sentences of a report answer what people ask first."""
    said = verdict(reported())

    assert "10 of 10 devices sent 100 messages in 10 s, 10 per second." in said
    assert "No acknowledged message was lost." in said
    assert "was acknowledged after 2 ms and was at the subscriber after 3 ms" in said


def test_lines_leave_out_what_there_is_none_of() -> None:
    """People see no empty rows."""
    names = [name for name, _ in lines(reported())]

    assert "lost" in names
    assert not {"refused", "faults injected", "limit"} & set(names)


def test_this_machine_has_a_name() -> None:
    """The report names processor, cores and memory."""
    machine = this_machine()

    assert machine.cpu
    assert machine.cores >= 1
    assert machine.memory_gib > 0


def test_figures_are_plain_json() -> None:
    """What `--json` prints needs no encoder of its own."""
    figures = reported().figures()

    assert figures == msgspec.json.decode(msgspec.json.encode(figures))
