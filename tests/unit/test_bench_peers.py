import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.peers.__main__ import options_of
from bench.peers.devices import (
    Device,
    Figures,
    Turns,
    payload,
    percentiles,
    read_roster,
    write_roster,
)
from bench.peers.figures import Sample, spread
from bench.peers.fleets import CITYEYE, TOOLS, Order, last_object, read_report, roster
from bench.peers.ingestjob import IngestTrial
from bench.peers.loadjob import LoadJob, Trial
from bench.peers.tables import ingest_table, kill_table, load_table, ratio, table
from bench.peers.tally import Tally
from bench.peers.toolbox import PACKAGES, Package, Toolbox, version_of
from broker import codec
from broker.choice import BrokerAddress
from broker.messages import Telemetry
from broker.topics import parse_device_topic

PEERS = Path(__file__).parents[2] / "bench" / "peers"
FLOW: list[dict[str, Any]] = json.loads((PEERS / "flow.json").read_text(encoding="utf-8"))


class Ear:
    """Hears which messages a tally acknowledges."""

    def __init__(self) -> None:
        self.mids: list[int] = []

    def acknowledge(self, mids: list[int]) -> None:
        """Take note."""
        self.mids += mids


def node(kind: str) -> dict[str, Any]:
    """The flow's one node of a kind."""
    (found,) = [one for one in FLOW if one["type"] == kind]
    return found


def cells(text: str) -> list[list[str]]:
    """A Markdown table's rows, without its head."""
    return [[cell.strip() for cell in row[1:-1].split(" | ")] for row in text.splitlines()[2:]]


def message(topic: bytes, seq: int, mid: int) -> codec.Publish:
    """A message as a tally gets it."""
    body = json.dumps({"ts": 1, "seq": seq, "values": {}}).encode()
    return codec.Publish(topic, body, 1, False, False, mid)


def test_the_flow_leads_only_to_nodes_that_exist() -> None:
    """Every wire of the Node-RED flow ends at a node, and no identifier is used twice."""
    names = [one["id"] for one in FLOW]
    ends = {end for one in FLOW for wires in one.get("wires", []) for end in wires}

    assert len(names) == len(set(names))
    assert ends <= set(names)


def test_the_flow_keeps_its_session() -> None:
    """Node-RED subscribes at QoS 1 with a session that outlives it: the broker keeps messages."""
    broker = node("mqtt-broker")

    assert "1" == node("mqtt in")["qos"]
    assert (False, False) == (broker["cleansession"], broker["autoUnsubscribe"])
    assert broker["clientid"]


def test_the_flow_joins_batches_of_two_thousand() -> None:
    """Lines are joined to batches of 2,000, and each batch is posted on a kept connection."""
    join, write = node("join"), node("http request")

    assert ("2000", "string", "\\n") == (join["count"], join["build"], join["joiner"])
    assert ("POST", True) == (write["method"], write["persist"])


def test_the_flow_learns_its_addresses_from_the_environment() -> None:
    """What `${…}` names in the flow is what the service sets."""
    named = set(re.findall(r"\$\{(PEERS_\w+)\}", json.dumps(FLOW)))

    assert {"PEERS_PORT", "PEERS_WRITE_URL"} == named


def test_peers_play_cityeyes_devices() -> None:
    """The roster names the topics of a CityEye city, one for each device, with four quantities."""
    devices = roster(30, 1.0)

    assert 30 == len({parse_device_topic(device.topic)[0] for device in devices})
    assert {4} == {len(device.quantities) for device in devices}


def test_a_roster_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The file loses nothing."""
    devices = roster(5, 1.0)
    write_roster(tmp_path / "roster.json", devices)

    assert devices == read_roster(tmp_path / "roster.json")


def test_a_payload_is_a_telemetry_message() -> None:
    """What peers send is what CityEye's decoder takes."""
    device = Device("peer-0", "t", ("pm25", "no2"))
    told = msgspec.json.decode(payload(device, 7), type=Telemetry)

    assert 7 == told.seq
    assert {"pm25", "no2"} == set(told.values)


@given(st.integers(1, 50), st.integers(0, 300), st.floats(0.1, 100))
def test_turns_go_round(devices: int, taken: int, interval_s: float) -> None:
    """Every device has its turn once per interval, and its numbers follow each other from 0."""
    turns = Turns(devices, interval_s, 0.0)
    seqs: dict[int, list[int]] = {}
    for _ in range(taken):
        number, seq = turns.take()
        seqs.setdefault(number, []).append(seq)

    assert all(list(range(len(mine))) == mine for mine in seqs.values())
    assert turns.wait_s(0.0) == pytest.approx(taken * interval_s / devices)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_among_the_numbers(numbers: list[float]) -> None:
    """A percentile by nearest rank is one of the numbers, and a higher one is not smaller."""
    found = percentiles(sorted(numbers))

    assert set(found.values()) <= {round(number, 3) for number in numbers}
    assert found["p50"] <= found["p99"]


def test_no_numbers_have_no_percentiles() -> None:
    """A fleet that got no acknowledgement reports no times."""
    assert {} == Figures().report()["ack_ms"]


def test_the_tally_counts_repeats_apart() -> None:
    """A second copy of a message is repeated, not received; both are acknowledged."""
    tally, ear = Tally(BrokerAddress("127.0.0.1", 1)), Ear()
    arrived = [message(b"a", 0, 1), message(b"b", 0, 2), message(b"a", 0, 3), message(b"a", 1, 4)]
    tally.receive(ear, arrived)  # type: ignore[arg-type]

    assert (3, 1) == (tally.distinct, tally.repeated)
    assert [1, 2, 3, 4] == ear.mids


async def test_the_tally_does_not_wait_for_what_it_has() -> None:
    """It is settled at once when all that is expected has arrived."""
    tally = Tally(BrokerAddress("127.0.0.1", 1))
    tally.receive(Ear(), [message(b"a", 0, 1)])  # type: ignore[arg-type]
    await tally.settled(1)

    assert 1 == await tally.count()


def test_ratios_are_by_cityeye() -> None:
    """Ratios divide medians by the median of the first tool, at each number of devices."""
    trials = [
        Trial(tool=tool, devices=10, connected=10, samples=[Sample(10.0, us)], rss_kb=kb,
              acknowledged=5, received=4)
        for tool, us, kb in (("CityEye", 10.0, 190.0), ("other", 25.0, 1000.0))
    ]  # fmt: skip
    rows = cells(load_table(trials, {"CityEye": 100.0, "other": 100.0}, 1.0))

    assert ["10.0", "1.0", "10.0", "1.0"] == rows[0][5:9]
    assert ["25.0", "2.5", "100.0", "10.0"] == rows[1][5:9]
    assert ["5", "1"] == rows[1][10:]


def test_a_peer_that_did_not_run_is_said() -> None:
    """A tool without a trial has a row with the reason."""
    trials = [Trial(tool="other", devices=10, trouble="could not be installed: no")]
    (row,) = cells(load_table(trials, {}, 1.0))

    assert "could not be installed: no" == row[2]


def test_a_kill_has_a_table_of_its_own() -> None:
    """Trials with a killed service do not stand among those that measure its speed."""
    calm = IngestTrial(service="one", rate=100, acknowledged=10, stored=10)
    killed = IngestTrial(service="one", rate=100, killed=True, acknowledged=10, stored=8)

    assert 1 == len(cells(ingest_table([calm, killed])))
    assert ["one", "100", "10", "8", "2", "20.000%"] == cells(kill_table([calm, killed]))[0]


def test_a_table_survives_what_is_in_it() -> None:
    """A bar or a line break in a cell does not break the table."""
    assert "| a\\|b c |" == table(["x"], [["a|b\nc"]]).splitlines()[-1]


@pytest.mark.parametrize(
    ("numbers", "said"), [([], "–"), ([3.0], "3"), ([1.0, 2.0, 9.0], "2 (1..9)")]
)
def test_spread_is_median_and_range(numbers: list[float], said: str) -> None:
    """One number stands alone; none is a dash."""
    assert said == spread(numbers)


def test_no_ratio_without_a_reference() -> None:
    """Nothing is divided by nothing."""
    assert "–" == ratio([1.0], [])


async def test_a_peer_that_is_not_installed_is_not_run(tmp_path: Path) -> None:
    """Its trial carries what the installer said."""
    toolbox = Toolbox(tmp_path)
    toolbox.troubles["gmqtt"] = "no such version"
    job = LoadJob(toolbox, tmp_path, interval_s=1.0, seconds=1)
    gmqtt = next(tool for tool in TOOLS if tool.package == "gmqtt")

    assert "could not be installed: no such version" == (await job.trial(gmqtt, 10)).trouble


async def test_a_peer_that_needs_too_many_descriptors_is_not_run(tmp_path: Path) -> None:
    """Its trial says how many it needs and what the limit is."""
    job = LoadJob(Toolbox(tmp_path), tmp_path, interval_s=1.0, seconds=1)
    locust = next(tool for tool in TOOLS if tool.name == "Locust")
    trial = await job.trial(locust, 10**9)

    assert "needs 3 descriptors a device" in (trial.trouble or "")


def test_every_tool_states_its_version() -> None:
    """A peer's title has the pinned version; its package is one that is installed."""
    peers = [tool for tool in TOOLS if tool is not CITYEYE]

    assert all(tool.title.endswith(version_of(tool.package or "")) for tool in peers)


def test_commands_name_the_broker(tmp_path: Path) -> None:
    """Every command line or environment carries the port of the trial's broker."""
    order = Order(10, 1.0, 12_345, tmp_path / "roster.json", 5.0)
    for tool in TOOLS:
        given_to = [*tool.command(order, Toolbox(tmp_path)), *tool.settings(order).values()]

        assert any(word.endswith("12345") for word in given_to)


def test_a_report_is_the_last_object_printed() -> None:
    """Other lines around it do not matter."""
    assert {"sent": 2} == last_object('Summary\n{"sent": 1}\n{"sent": 2}\nbye\n')


def test_a_fleet_that_died_has_no_report() -> None:
    """It says nothing, and nothing is made of it."""
    assert {} == read_report(TOOLS[1], "Traceback\n")


def test_quick_is_small() -> None:
    """`--quick` replaces sizes, rates and rounds."""
    quick, full = options_of(["--quick"]), options_of([])

    assert max(quick.sizes) < min(full.sizes)
    assert (1, 3) == (quick.rounds, full.rounds)


def test_packages_are_pinned(tmp_path: Path) -> None:
    """Each has a version, and what is missing is known as missing."""
    assert all(re.fullmatch(r"\d+(\.\d+)+", package.version) for package in PACKAGES)
    assert {None} == {Toolbox(tmp_path).installed(package) for package in PACKAGES}


def test_an_installed_package_is_found(tmp_path: Path) -> None:
    """Npm's packages tell their version in their own file."""
    home = tmp_path / "node" / "node_modules" / "mqtt"
    home.mkdir(parents=True)
    (home / "package.json").write_text('{"version": "1.2.3"}', encoding="utf-8")

    assert "1.2.3" == Toolbox(tmp_path).installed(Package("npm", "mqtt", "1.2.3"))


def test_a_fleet_stops_on_a_signal() -> None:
    """SIGTERM sets the flag that fleets look at."""
    program = (
        "import os, signal\n"
        "from bench.peers.devices import Figures\n"
        "figures = Figures(); figures.stop_on_signal()\n"
        f"os.kill(os.getpid(), {int(signal.SIGTERM)})\n"
        "print(figures.stopped)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PEERS.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "True" == done.stdout.strip()
