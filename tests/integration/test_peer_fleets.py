import sys
from pathlib import Path

import pytest

from bench.peers.fleets import TOOLS
from bench.peers.loadjob import LoadJob
from bench.peers.toolbox import Toolbox

DEVICES = 5


class Here(Toolbox):
    """What the tests' own environment has, instead of a folder that is filled from the network."""

    @property
    def python(self) -> str:
        """The interpreter of the tests."""
        return sys.executable


@pytest.mark.mosquitto
@pytest.mark.parametrize("name", ["CityEye", "paho-mqtt", "aiomqtt"])
async def test_a_trial_counts_every_message(name: str, tmp_path: Path) -> None:
    """A fleet connects all devices, and what it got acknowledged is what the tally received."""
    tool = next(tool for tool in TOOLS if tool.name == name)
    job = LoadJob(Here(tmp_path / "tools"), tmp_path, interval_s=0.5, seconds=1)
    trial = await job.trial(tool, DEVICES)

    assert trial.trouble is None
    assert DEVICES == trial.connected
    assert trial.acknowledged == trial.received
    assert 0 == trial.lost
