import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from broker.choice import BrokerAddress
from load.agenda import Agenda
from load.joining import Joining
from load.pace import Pace
from load.plan import LoadPlan, Order, Phase
from load.storm import ALARMING, Cuts
from sensors.engine import CityEngine

START_MS = 1_800_000_000_000
PLAN = LoadPlan(
    run="t", broker=BrokerAddress("nowhere", 1), devices=30, interval_s=0.5, ramp_s=1.0,
    phases=(Phase(name="steady", for_s=4.0),), kinds=("air-micro", "air-gas"), seed=5,
    city_start_ms=1_795_413_600_000,
)  # fmt: skip

Taken = tuple[int, int, int, str]
"""Device in the whole city, number, instant on the wall, values."""


class Player:
    """Takes what is due from an agenda, as a shard does."""

    def __init__(
        self, plan: LoadPlan = PLAN, shard: tuple[int, int] = (0, 1), since_ms: int = 0
    ) -> None:
        city = plan.city()
        engine = CityEngine(city, seed=plan.seed, start_ms=plan.city_start_ms, shard=shard)
        joining = Joining(plan, city)
        joined = [joining.of(group) for group in engine.groups]
        self.index = np.concatenate([own.index for own in joined])
        self.pace = Pace(plan, START_MS)
        self.agenda = Agenda(plan, engine, self.pace, joined, start_ms=START_MS, since_ms=since_ms)
        self.taken: list[Taken] = []

    def play(self, instants: list[int]) -> list[Taken]:
        """Take what is due at each of these instants since the beginning, then all until the end."""
        for at_ms in [*instants, round(1000 * PLAN.duration_s)]:
            self.take(START_MS + at_ms)
        return self.taken

    def take(self, now_ms: int, most: int = 7) -> None:
        """Take what is due."""
        while (due := self.agenda.take(now_ms, most)) is not None:
            assert due.due_ms[-1] <= now_ms
            devices = self.index[due.devices].tolist()
            texts = [str(values) for values in due.values]
            self.taken += zip(devices, due.seqs, due.due_ms, texts, strict=True)


@pytest.fixture(scope="module")
def whole() -> list[Taken]:
    """All samples of the plan, taken at once."""
    return Player().play([])


class TestAgenda:
    """What is due when."""

    def test_numbers(self, whole: list[Taken]) -> None:
        """Each device counts from 0 without a gap, once per interval, from when it joins."""
        for device in range(PLAN.devices):
            own = [(seq, due_ms) for index, seq, due_ms, _ in whole if index == device]
            assert [(n, own[0][1] + 500 * n) for n in range(len(own))] == own
            assert own[0][1] < START_MS + 1_000 + 500

    def test_end(self, whole: list[Taken]) -> None:
        """Nothing is due after the end."""
        assert max(due_ms for *_, due_ms, _ in whole) < START_MS + 5_000
        assert PLAN.devices * 2 * 4 <= len(whole)

    def test_order(self, whole: list[Taken]) -> None:
        """Samples come in the order in which they are due."""
        instants = [due_ms for *_, due_ms, _ in whole]
        assert sorted(instants) == instants

    @settings(max_examples=20, deadline=None)
    @given(instants=st.lists(st.integers(0, 5_000), max_size=30).map(sorted))
    def test_any_rhythm(self, whole: list[Taken], instants: list[int]) -> None:
        """However often one looks, the samples are the same."""
        assert whole == Player().play(instants)

    @pytest.mark.parametrize("shards", [2, 3])
    def test_shards(self, whole: list[Taken], shards: int) -> None:
        """The samples of all shards together are those of one process."""
        parts = [Player(shard=(number, shards)).play([]) for number in range(shards)]

        assert sorted(whole) == sorted(sample for part in parts for sample in part)

    def test_resumed(self, whole: list[Taken]) -> None:
        """Who goes on after an instant takes what was due after it."""
        since_ms = START_MS + 2_345

        expected = [sample for sample in whole if sample[2] > since_ms]
        assert expected == Player(since_ms=since_ms).play([])

    def test_bent(self, whole: list[Taken]) -> None:
        """A pause shifts what was asked of the engine already."""
        player = Player()
        player.take(START_MS + 2_000)
        player.pace.follow([
            Order(at_ms=START_MS + 2_050, factor=0.0), Order(at_ms=START_MS + 3_050, factor=1.0)
        ])  # fmt: skip
        player.agenda.bent()
        player.play([2_010, 2_060, 3_000])

        shifted = [(d, s, at + 1_000 * (at >= START_MS + 2_050), v) for d, s, at, v in whole]
        assert [one for one in shifted if one[2] < START_MS + 5_000] == player.taken

    def test_next(self) -> None:
        """The next instant is that of the sample that is taken next."""
        player = Player()
        player.take(START_MS + 2_000)
        next_ms = player.agenda.next_ms()
        player.play([])

        later = [due_ms for *_, due_ms, _ in player.taken if due_ms > START_MS + 2_000]
        assert next_ms in {None, later[0]}


class TestStorms:
    """Phases in which something happens to a share of the devices."""

    def test_alarms(self, whole: list[Taken]) -> None:
        """In a storm a fixed part of the devices shows alarming values, and only then."""
        phases = (Phase(name="a", for_s=2.0), Phase(name="b", for_s=2.0, alarms=0.4))
        stormy = Player(replace(PLAN, phases=phases)).play([])

        changed = {
            (index, due_ms >= START_MS + 3_000)
            for (index, _, due_ms, values), before in zip(stormy, whole, strict=True)
            if values != before[3]
        }
        assert {True} == {inside for _, inside in changed}
        assert 4 <= len(changed) <= 20

    def test_alarming(self) -> None:
        """Alarming values lie near the end of the range."""
        assert 1900.0 == ALARMING["pm25"]

    def test_cuts(self) -> None:
        """Connections are cut at a phase's beginning and as ordered, each time once."""
        index = np.arange(1_000)
        phases = (Phase(name="a", for_s=1.0), Phase(name="b", for_s=1.0, drop=0.3))
        cuts = Cuts(replace(PLAN, phases=phases), START_MS)
        cuts.order(START_MS + 2_500, 1.0)

        assert not cuts.due(START_MS + 1_999)
        assert cuts.due(START_MS + 2_000)
        assert 300 == pytest.approx(len(cuts.take(index, START_MS + 2_000)), abs=60)
        assert not cuts.due(START_MS + 2_499)
        assert 1_000 == len(cuts.take(index, START_MS + 2_500))
