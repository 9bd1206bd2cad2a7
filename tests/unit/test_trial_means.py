"""The means that the dashboards' trial makes of generated readings."""

from docker.grafana.trial.rollup import Rollups
from ingest.store import Point, PointKey

KEY = PointKey("air", (("city", "weir"), ("device", "aq")))
T0 = 1_780_272_000_000


def reading(at_s: int, value: float, **texts: str) -> Point:
    """A reading so many seconds into the hour."""
    return Point(KEY, T0 + 1000 * at_s, {"pm25": value}, {"seq": at_s}, texts)


def test_minutes_and_hours() -> None:
    """A row has mean, lowest, highest and number, at the start of its interval of the calendar."""
    rollups = Rollups()
    rollups.add([reading(70, 4.0), reading(0, 1.0), reading(59, 3.0)])
    rows = {(p.key.measurement, p.ts - T0): (p.values, p.counts) for p in rollups.points()}

    assert {
        ("air_1m", 0): ({"pm25": 2.0, "pm25_min": 1.0, "pm25_max": 3.0}, {"pm25_count": 2}),
        ("air_1m", 60_000): ({"pm25": 4.0, "pm25_min": 4.0, "pm25_max": 4.0}, {"pm25_count": 1}),
        ("air_1h", 0): ({"pm25": 8 / 3, "pm25_min": 1.0, "pm25_max": 4.0}, {"pm25_count": 3}),
    } == rows


def test_what_does_not_count() -> None:
    """A faulty value is in no mean, and alarms have none."""
    alarm = Point(PointKey("alarms", ()), T0, {"value": 1.0}, {}, {})
    rollups = Rollups()
    rollups.add([reading(0, 1.0, pm25_flag="D"), alarm])

    assert [] == list(rollups.points())
