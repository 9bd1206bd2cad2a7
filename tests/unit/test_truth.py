"""The truth about what happens."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from broker.messages import TruthRecord
from city.cityfile import City, DeviceSpec, District, Event, Outfall, Plant, Site, Stack
from city.errors import StoreError
from city.events import EVENT_KINDS, Layer
from city.quantities import QUANTITIES, Domain
from sensors.engine import CityEngine
from sensors.truth import AFFECTS, Comparison, TruthLog, felt_at, scripted_records

START_MS = 1_780_272_000_000


def _site(name: str, domain: Domain, *kinds: str, **more: object) -> Site:
    devices = tuple(DeviceSpec(id=f"{kind}-1", kind=kind) for kind in kinds)
    return Site(id=name, district="d", domain=domain, devices=devices, **more)  # type: ignore[arg-type]


@pytest.fixture
def town() -> City:
    """A town with a plant between two river stations, and an air station."""
    return City(
        city="town",
        districts=(District(id="d"),),
        sites=(
            _site("air", Domain.AIR, "air-gas"),
            _site("above", Domain.WATER, "water-station", river_km=2.0),
            _site("below", Domain.WATER, "water-station", river_km=9.0),
            _site(
                "works", Domain.EMISSION, "stack-cems", "outfall",
                plant=Plant(kind="brewery", outfall=Outfall(river_km=5.0)),
            ),
        ),
    )  # fmt: skip


def happening(town: City, kind: str, target: str = "", **more: object) -> City:
    """The town with that one event, from second 100 on for 200 s."""
    content = {"id": "e", "kind": kind, "target": target, "at_s": 100, "for_s": 200} | more
    return msgspec.structs.replace(town, events=(msgspec.convert(content, Event),))


def with_stack(town: City) -> City:
    """The town, its plant having a stack that the air knows of, and a network of gas sites."""
    *others, works = town.sites
    assert works.plant is not None
    plant = msgspec.structs.replace(works.plant, stack=Stack(height_m=60.0, diameter_m=2.0))
    grid = (
        _site("one", Domain.GAS, "gas-node", "gas-detector"),
        _site("two", Domain.GAS, "gas-node", "gas-detector"),
        _site("three", Domain.GAS, "gas-valve"),
    )
    sites = (*others, msgspec.structs.replace(works, plant=plant), *grid)
    return msgspec.structs.replace(town, sites=sites)


def record_of(city: City) -> TruthRecord:
    """The record of the city's one event."""
    (record,) = scripted_records(city, START_MS)
    return record


class TestRecords:
    """What a record says."""

    def test_every_world_event(self) -> None:
        """For every event of the world it is known which quantities it changes."""
        world = {kind.id for kind in EVENT_KINDS.values() if kind.layer is Layer.WORLD}

        assert world == AFFECTS.keys()
        assert all(name in QUANTITIES for names in AFFECTS.values() for name in names)

    def test_content(self, town: City) -> None:
        """A record has times, cause, parameters with their defaults, and the expected effect."""
        record = record_of(happening(town, "stuck", "air/air-gas-1", quantity="o3", note="dirt"))

        assert record == TruthRecord(
            id="e", kind="stuck", layer="instrument", cause="scripted",
            start=START_MS + 100_000, end=START_MS + 300_000, target="air/air-gas-1",
            devices=("air/air-gas-1",), quantities=("o3",),
            expected=EVENT_KINDS["stuck"].expected, params={}, note="dirt",
        )  # fmt: skip

    def test_fraud(self, town: City) -> None:
        """What follows from a faked oxygen value is named with it."""
        record = record_of(happening(town, "o2-fake", "works/stack-cems-1"))
        gases = ("stack_pm_corrected", "stack_so2_corrected", "stack_nox_corrected")

        assert record.quantities == ("stack_o2", *gases)
        assert record.params == {"o2_percent": 6.5}

    @pytest.mark.parametrize(
        ("kind", "target", "places"),
        [
            ("smog", "", ("*",)),
            ("rain", "", ("*",)),
            ("spill", "above", ("above/*", "below/*")),
            ("spill", "below", ("below/*",)),
            ("secret-discharge", "works", ("works/*", "below/*")),
            ("treatment-failure", "works/outfall-1", ("works/*", "below/*")),
            ("inspection", "works", ("works/*",)),
            ("silence", "works", ("works/*",)),
            ("silence", "works/outfall-1", ("works/outfall-1",)),
        ],
    )
    def test_reach(self, town: City, kind: str, target: str, places: tuple[str, ...]) -> None:
        """An event is felt at its site and down the river, at its device, or everywhere."""
        record = record_of(happening(town, kind, target))
        felt = {device.site.id for device in town.devices() if felt_at(places, device)}

        assert places == record.devices
        assert felt >= {place.partition("/")[0] for place in places if place != "*"}

    def test_bypass(self, town: City) -> None:
        """A secret discharge is seen in river and stack; the outfall's monitor misses its flow."""
        record = record_of(happening(town, "secret-discharge", "works"))

        assert {"ammonia_n", "stack_so2"} < set(record.quantities)
        effluent = {name for name in record.quantities if name.startswith("effluent")}
        assert {"effluent_flow"} == effluent

    @pytest.mark.parametrize("kind", ["secret-discharge", "treatment-failure"])
    def test_plume(self, town: City, kind: str) -> None:
        """What leaves a stack untreated is felt at the air stations, and still in the river."""
        record = record_of(happening(with_stack(town), kind, "works"))

        assert record.devices == ("works/*", "below/*", "air/*")
        assert {"so2", "no2", "stack_so2", "ammonia_n"} < set(record.quantities)
        assert not {"co", "o3"} & set(record.quantities)

    @pytest.mark.parametrize("kind", ["secret-discharge", "treatment-failure"])
    def test_one_outlet(self, town: City, kind: str) -> None:
        """An event at one outlet leaves alone the other outlet and where that leads."""
        city = with_stack(town)
        stack = record_of(happening(city, kind, "works/stack-cems-1"))
        outfall = record_of(happening(city, kind, "works/outfall-1"))

        assert stack.devices == ("works/*", "air/*")
        assert {"stack_so2", "so2"} < set(stack.quantities)
        assert not {"ammonia_n", "effluent_cod"} & set(stack.quantities)
        assert outfall.devices == ("works/*", "below/*")
        assert "ammonia_n" in outfall.quantities
        assert not {"stack_so2", "so2"} & set(outfall.quantities)

    def test_burst(self, town: City) -> None:
        """A burst is felt in the whole network, its methane at its own site alone."""
        city = happening(with_stack(town), "gas-burst", "one")
        record = record_of(city)
        felt = {device.name for device in city.devices() if felt_at(record.devices, device)}

        assert record.devices == ("one/*", "two/gas-node-1", "three/*")
        assert record.quantities == ("methane", "gas_pressure", "gas_flow")
        assert "two/gas-detector-1" not in felt

    def test_long_reach(self, town: City) -> None:
        """A record that would name too many places to fit a message says everywhere instead."""
        town = with_stack(town)
        many = tuple(_site(f"air-{n}", Domain.AIR, "air-gas") for n in range(5_000))
        city = msgspec.structs.replace(town, sites=(*town.sites, *many))
        record = record_of(happening(city, "secret-discharge", "works"))

        assert record.devices == ("*",)

    def test_nothing_falsified(self, town: City) -> None:
        """A fraud that touches nothing its target measures has no record."""
        city = happening(town, "o2-fake", "works/outfall-1")

        assert not list(scripted_records(city, START_MS))

    def test_size(self, town: City) -> None:
        """A record of the whole city is small, however many devices it has."""
        sites = tuple(_site(f"air-{n}", Domain.AIR, "air-gas") for n in range(5_000))
        city = happening(msgspec.structs.replace(town, sites=sites), "smog")

        assert len(msgspec.json.encode(record_of(city))) < 1_000


class TestEngine:
    """Who tells what."""

    def test_shards(self, town: City) -> None:
        """An event of the city file is told once, whatever the number of shards."""
        city = happening(town, "smog")
        engines = [CityEngine(city, seed=1, start_ms=START_MS, shard=(n, 3)) for n in range(3)]
        told = [engine.truths(START_MS, START_MS + 200_000) for engine in engines]

        assert [1, 0, 0] == [len(records) for records in told]

    def test_span(self, town: City) -> None:
        """An event is told in the span in which it begins."""
        engine = CityEngine(happening(town, "smog"), seed=1, start_ms=START_MS)
        at_ms = START_MS + 100_000

        assert not engine.truths(START_MS, at_ms)
        assert len(engine.truths(at_ms, at_ms + 1)) == 1
        assert not engine.truths(at_ms + 1, at_ms + 10**9)

    def test_beside(self, town: City) -> None:
        """The true value stands beside every affected reading, and beside no other."""
        city = happening(town, "scale", "works/stack-cems-1", quantity="stack_so2")
        engine = CityEngine(city, seed=1, start_ms=START_MS)
        frames = list(engine.frames(START_MS, START_MS + 400_000, with_truth=True))
        for frame in frames:
            assert frame.truth is not None
            known = ~np.isnan(frame.truth)
            lasts = (frame.ts >= START_MS + 100_000) & (frame.ts < START_MS + 300_000)
            touched = np.isin(frame.group.quantities, ("stack_so2", "stack_so2_corrected"))

            assert np.array_equal(known, lasts[:, None] & touched)
            assert np.allclose(frame.values[known], 0.4 * frame.truth[known], rtol=0.2, atol=0.5)

    def test_world_beside(self, town: City) -> None:
        """An event of the world affects what is felt of it, also after its end."""
        engine = CityEngine(happening(town, "spill", "above"), seed=1, start_ms=START_MS)
        at_ms = START_MS + 3_600_000
        frames = {
            frame.group.kind.id: frame
            for frame in engine.frames(at_ms, at_ms + 10_000, with_truth=True)
        }
        river, air = frames["water-station"], frames["air-gas"]
        assert river.truth is not None
        assert air.truth is not None

        assert np.isnan(air.truth).all()
        column = river.group.quantities.index("ammonia_n")
        assert not np.isnan(river.truth[:, column]).any()
        assert np.isnan(river.truth[:, river.group.quantities.index("ph")]).all()

    def test_one_outlet_beside(self, town: City) -> None:
        """True values stand beside the river's and the outfall's readings, not the stack's."""
        city = happening(with_stack(town), "treatment-failure", "works/outfall-1")
        engine = CityEngine(city, seed=1, start_ms=START_MS)
        at_ms = START_MS + 200_000
        known = {
            frame.group.kind.id: bool(frame.truth is not None and np.isfinite(frame.truth).any())
            for frame in engine.frames(at_ms, at_ms + 10_000, with_truth=True)
        }

        assert known["outfall"]
        assert known["water-station"]
        assert not known["stack-cems"]
        assert not known["air-gas"]

    def test_telemetry(self, town: City) -> None:
        """Asking for the truth changes no reading."""
        city = happening(town, "scale", "works")
        one, two = (
            b"".join(
                frame.values.tobytes()
                for frame in CityEngine(city, seed=1, start_ms=START_MS).frames(
                    START_MS, START_MS + 200_000, with_truth=with_truth
                )
            )
            for with_truth in (False, True)
        )

        assert one == two


class TestLog:
    """The file."""

    def test_lines(self, town: City, tmp_path: Path) -> None:
        """Each line is one record, as it would be published."""
        record = record_of(happening(town, "smog"))
        with TruthLog(tmp_path / "deep" / "truth.jsonl") as log:
            log.write([record])
            log.write([record])
        lines = (tmp_path / "deep" / "truth.jsonl").read_bytes().splitlines()

        assert log.records == 2
        assert [record, record] == [msgspec.json.decode(line, type=TruthRecord) for line in lines]

    def test_comparisons(self, town: City, tmp_path: Path) -> None:
        """Shown and true values of affected readings can be written beside each other."""
        city = happening(town, "scale", "works/stack-cems-1", quantity="stack_so2")
        engine = CityEngine(city, seed=1, start_ms=START_MS)
        path = tmp_path / "truth.jsonl"
        with TruthLog(path) as log:
            for frame in engine.frames(START_MS, START_MS + 400_000, with_truth=True):
                log.write(frame.comparisons())
        first, *_ = path.read_bytes().splitlines()
        line = msgspec.json.decode(first, type=Comparison)

        assert log.records == 40
        assert line.device == "works/stack-cems-1"
        assert line.true.keys() == line.shown.keys() == {"stack_so2", "stack_so2_corrected"}

    def test_unwritable(self, tmp_path: Path) -> None:
        """A file that cannot be written is named."""
        (tmp_path / "file").write_text("")

        with pytest.raises(StoreError, match="cannot be written"):
            TruthLog(tmp_path / "file" / "truth.jsonl")
