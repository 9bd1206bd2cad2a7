"""An hour of two cities in a store: the shipped one with its events, and a large one with some.

What the services would write beside the readings is written too: alarms that the engine raises
over the shipped city, what its operators did, repair orders, the ledger and all figures.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from typing import Final

import msgspec
import numpy as np

from alerts.engine import AlarmEngine
from alerts.rules import load_packs
from broker.messages import Announcement, Birth, OperatorRequest, RepairOrder
from city.cityfile import Address, City, Event, load_city
from city.readings import Flag, ReadingBatch, SeriesTable
from city.synthetic import synthetic_city
from cli.generate import with_interval
from cli.outputs import POINTS_PER_WRITE, Points
from cli.surroundings import CitySurroundings
from docker.grafana.trial.rollup import Rollups
from ingest.ledger import Ledger
from ingest.points import alarm_point, figures_point, ledger_point, order_point, station_point
from ingest.store import Point, PointKey, Store
from ingest.vitals import Resources, Vitals
from sensors.device import birth_of
from sensors.engine import CityEngine

HOUR_MS: Final = 3_600_000
DEVICES: Final = 2_000
INTERVAL_S: Final = 60.0
"""Of the large city."""
_SMALL_INTERVAL_S: Final = 10.0
_EVERY_MS: Final = 10_000
_SLICE_MS: Final = 600_000
_MINUTE_MS: Final = 60_000
_SMALL: Final = "lanting"
_CLOSED: Final = "gas-temple-lane/valve-1"
"""The valve of the shipped city that somebody closes after the burst."""
_CLOSED_MS: Final = 600_000
_OPERATOR: Final = "operator"
_ORDERED: Final = ("gas-burst", "gas-methane")

_EVENTS: Final = (
    ("drift", "air-micro-00001/00", "pm25", 300, 3000),
    ("stuck", "water-sonde-00004/01", "turbidity", 600, 2400),
    ("noise", "water-station-00003/02", "codmn", 900, 1800),
    ("spike", "air-station-00000/03", "no2", 600, 2400),
    ("spill", "water-station-00014", None, 900, 600),
    ("gas-leak", "gas-node-00005", None, 1200, 900),
    ("treatment-failure", "stack-cems-00008", None, 600, 2400),
    ("smog", "", None, 1200, 2400),
    ("maintenance", "stack-cems-00019/04", None, 600, 1200),
)
"""Kind, target, quantity, from when and how long [s] in the large city."""


def large_city() -> City:
    """The 2,000 devices, and what happens to some of them."""
    events = tuple(
        Event(id=f"{kind}-1", kind=kind, target=target, at_s=at_s, for_s=for_s, quantity=quantity)
        for kind, target, quantity, at_s, for_s in _EVENTS
    )
    city = synthetic_city(DEVICES, interval_s=INTERVAL_S, seed=1)
    return msgspec.structs.replace(city, events=events)


async def fill(store: Store, start_ms: int) -> int:
    """Write the hour from `start_ms` with its means; returns how many points it has."""
    count, rollups = 0, Rollups()
    for points in _batches(_everything(start_ms)):
        await store.write(points)
        rollups.add(points)
        count += len(points)
    for points in _batches(iter([list(rollups.points())])):
        await store.write(points)
        count += len(points)
    return count


def _everything(start_ms: int) -> Iterator[list[Point]]:
    for points, _ in _readings(large_city(), start_ms):
        yield points
    small = with_interval(load_city(_SMALL), _SMALL_INTERVAL_S)
    readings, births = [], []
    for points, introduced in _readings(small, start_ms):
        yield points
        births += introduced
        readings += [] if introduced else points
    yield from _watched(small, births, readings, start_ms)
    yield _load_test(start_ms)


def _batches(parts: Iterator[list[Point]]) -> Iterator[list[Point]]:
    for part in parts:
        for first in range(0, len(part), POINTS_PER_WRITE):
            yield part[first : first + POINTS_PER_WRITE]


Births = list[tuple[Address, Birth]]


def _readings(city: City, start_ms: int) -> Iterator[tuple[list[Point], Births]]:
    """What the devices are, then what they measure."""
    engine = CityEngine(city, seed=city.seed, start_ms=start_ms)
    places = engine.device_positions()
    births = [
        (device.address, birth_of(device, places[device.name]))
        for group in engine.groups
        for device in group.devices
    ]
    yield [station_point(*birth, ts=start_ms) for birth in births], births
    points = Points(engine.groups)
    for from_ms in range(start_ms, start_ms + HOUR_MS, _SLICE_MS):
        if from_ms - start_ms == _CLOSED_MS and city.city == _SMALL:
            engine.set_valve(_CLOSED, 0.0, from_ms)
        for frame in engine.frames(from_ms, from_ms + _SLICE_MS):
            yield points.of(frame), []


def _watched(
    city: City, births: Births, readings: list[Point], start_ms: int
) -> Iterator[list[Point]]:
    """What alarms, operators and the service write about the shipped city."""
    engine = AlarmEngine(load_packs(city.alarms.packs), CitySurroundings(city))
    for address, birth in births:
        engine.learn(address, birth)
    received, since_ms, vitals = 0, start_ms, _Wall(start_ms)
    for until_ms, batch in _minutes(readings, start_ms):
        happened = [*engine.evaluate(batch), *engine.advance(until_ms)]
        happened += _acknowledged(engine, since_ms, until_ms)
        since_ms = until_ms
        received += len(batch) // 4
        yield [alarm_point(announcement) for announcement in happened]
        yield [order_point(order, city=city.city) for order in _orders(happened)]
        yield vitals.points(received, until_ms)
        yield [figures_point("alarms", _figures(engine), ts=until_ms)]


def _minutes(readings: list[Point], start_ms: int) -> Iterator[tuple[int, ReadingBatch]]:
    """The readings again as the engine takes them, a minute at once in the order of time."""
    table = SeriesTable()
    ordered = sorted(readings, key=lambda point: point.ts)
    for minute, points in groupby(ordered, lambda point: (point.ts - start_ms) // _MINUTE_MS):
        yield start_ms + (minute + 1) * _MINUTE_MS, _batch(table, points)


def _batch(table: SeriesTable, points: Iterable[Point]) -> ReadingBatch:
    rows = [
        (
            table.index(_address(point.key), name),
            point.ts,
            value,
            point.texts.get(f"{name}_flag", "N"),
        )
        for point in points
        for name, value in point.values.items()
    ]
    series, instants, values, letters = zip(*rows, strict=True)
    return ReadingBatch(
        table=table,
        series=np.array(series, dtype=np.int32),
        ts=np.array(instants, dtype=np.int64),
        value=np.array(values, dtype=np.float64),
        flag=np.array([Flag[letter].value for letter in letters], dtype=np.uint8),
    )


@cache
def _address(key: PointKey) -> Address:
    return Address(domain=key.measurement, **dict(key.tags))


def _acknowledged(engine: AlarmEngine, since_ms: int, ts: int) -> list[Announcement]:
    """Of the alarms since then that wait for somebody, every second finds him at his desk."""
    waiting = [
        f"{address.site}/{address.device}/{event.rule}"
        for address, event in ((a.address, a.event) for a in engine.standing())
        if event.state == "unacknowledged" and event.raised >= since_ms
    ]
    if not waiting:
        return []
    request = OperatorRequest(
        id=str(ts), action="acknowledge", by=_OPERATOR, targets=tuple(waiting[::2])
    )
    return engine.obey(request, ts)[0]


def _orders(happened: list[Announcement]) -> Iterator[RepairOrder]:
    """What the alarm service asks of the repair crew; the first one is taken at once."""
    raised = [a for a in happened if a.event.event == "raised" and a.event.rule in _ORDERED]
    for number, (address, event) in enumerate((a.address, a.event) for a in raised):
        yield RepairOrder(
            id=f"{event.ts}-{number}", state="open" if number else "taken", ts=event.ts,
            opened=event.ts, priority=event.severity, rule=event.rule,
            alarm=f"{address.site}/{address.device}/{event.rule}", title=event.message,
            title_zh=event.message_zh, customers=12, section=event.cause, by="" if number else _OPERATOR,
        )  # fmt: skip


def _figures(engine: AlarmEngine) -> dict[str, float | int]:
    """The figures of alarm management as the command writes them."""
    figures = msgspec.to_builtins(engine.figures())
    shares = figures.pop("priorities")
    numbers = {name: value for name, value in figures.items() if name != "worst"}
    return numbers | {f"share_{name}": float(share) for name, share in shares.items()}


class _Wall:
    """A service that ran while the hour passed: steady, with one repeat in a hundred."""

    def __init__(self, start_ms: int) -> None:
        self._now_ms = start_ms
        self._vitals = Vitals(now_s=lambda: self._now_ms / 1000)

    def points(self, received: int, until_ms: int) -> list[Point]:
        """The ledger and the vitals of each ten seconds until then."""
        found = []
        while self._now_ms + _EVERY_MS <= until_ms:
            self._now_ms += _EVERY_MS
            twice = received // 100
            ledger = Ledger(
                received=received,
                written=received - twice - 7,
                duplicate=twice,
                quarantined=3,
                pending=4,
            )
            self._vitals.accepted(1_800, 99)
            self._vitals.accepted(9_000, 1)
            self._vitals.stored(24_000, 100)
            used = Resources(120_000_000, self._now_ms / 20_000, 6_000_000)
            vitals = self._vitals.figures(ledger, used)
            found += [
                ledger_point(ledger, ts=self._now_ms),
                figures_point("ingest", vitals, ts=self._now_ms),
            ]
        return found


def _load_test(start_ms: int) -> list[Point]:
    """What a load test of five minutes says of itself in the last part of the hour."""
    begin_ms = start_ms + HOUR_MS - 300_000
    points = []
    for step in range(60):
        sent = 25_000 * step
        figures: dict[str, float | int] = {
            "devices": 5_000, "connected": min(5_000, 500 * step), "sent": sent, "acked": sent,
            "received": sent, "lost": 0, "rate": 5_000.0, "latency_p50_ms": 2.1,
            "latency_p99_ms": 11.0 + step % 5,
        }  # fmt: skip
        points.append(figures_point("load", figures, ts=begin_ms + 5_000 * step))
    return points
