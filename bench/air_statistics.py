"""Statistics of simulated or recorded air beside those of twelve Beijing stations.

    python bench/air_statistics.py [--days N] [--start YYYY-MM-DD] [--stations N] [--seed N]
    python bench/air_statistics.py --csv FILE [FILE ...]

Simulated: hourly means at urban stations of one city without events or plants, from the field
itself. Recorded: files of the columns of the UCI Beijing Multi-Site Air-Quality Data, plain or
gzip, one station each. Prints a line per statistic: what the tables have, the tolerance, what was
found, the verdict. Exit status 1 when a line is out of tolerance.

The tables are of the whole of that data set (S. Chen, 2019, UCI Machine Learning Repository, doi
10.24432/C5RK5G; 12 stations, hourly, 2013-03 to 2017-02). Levels are not compared: they have fallen
to a third since. Autocorrelations over hours and correlations with ozone live on the seasons: what
covers less than 360 days is held against the months of one of those stations instead.
"""

import argparse
import csv
import gzip
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import City, DeviceSpec, District, Site
from city.kinds import DEVICE_KINDS
from city.quantities import Domain
from sensors.air import AirField
from sensors.fields import Group
from sensors.weather import Weather

Hours = dict[str, NDArray[np.float64]]
"""Hourly values by quantity, shape (hours, stations), from local midnight; NaN where missing."""

SAMPLE_MS: Final = 300_000
SAMPLES_PER_HOUR: Final = 12
YEAR_DAYS: Final = 360
CENTRE: Final = (119.97, 31.82)
RING_DEGREES: Final = 0.05

UCI_COLUMNS: Final = {
    "pm25": "PM2.5", "pm10": "PM10", "so2": "SO2", "no2": "NO2", "co": "CO", "o3": "O3",
    "temperature": "TEMP", "wind_speed": "WSPM",
}  # fmt: skip

AUTOCORRELATION: Final = {
    "pm25": {1: 0.969, 6: 0.767, 12: 0.596, 24: 0.404},
    "pm10": {1: 0.935, 12: 0.504, 24: 0.356},
    "so2": {1: 0.947, 12: 0.572, 24: 0.507},
    "no2": {1: 0.939, 12: 0.432, 24: 0.442},
    "co": {1: 0.950, 12: 0.574, 24: 0.438},
    "o3": {1: 0.955, 6: 0.453, 12: 0.098, 24: 0.714},
    "wind_speed": {1: 0.775, 24: 0.312},
}
DAY: Final = {
    "pm25": (
        93.0, 92.1, 90.4, 88.0, 85.2, 81.9, 79.6, 78.2, 79.0, 79.7, 80.0, 80.3,
        79.6, 79.2, 78.4, 77.1, 76.7, 77.9, 80.7, 85.5, 90.2, 93.1, 93.6, 93.6,
    ),
    "no2": (
        67.1, 65.3, 63.3, 62.1, 60.8, 58.7, 58.7, 60.1, 61.7, 59.8, 56.6, 52.9,
        49.1, 45.3, 42.6, 41.9, 42.6, 46.1, 52.2, 59.0, 64.4, 67.6, 69.1, 68.7,
    ),
    "o3": (
        39.0, 35.4, 31.6, 28.9, 27.8, 25.6, 24.3, 22.9, 24.9, 32.5, 44.2, 57.9,
        72.6, 86.7, 97.2, 102.0, 102.5, 98.6, 90.2, 78.8, 66.9, 55.9, 47.8, 42.6,
    ),
}  # fmt: skip
CROSS: Final = {
    ("pm25", "pm10"): 0.88,
    ("pm25", "co"): 0.79,
    ("pm25", "no2"): 0.67,
    ("pm25", "so2"): 0.48,
    ("pm25", "o3"): -0.15,
    ("no2", "o3"): -0.47,
    ("o3", "temperature"): 0.59,
    ("pm25", "wind_speed"): -0.27,
    ("no2", "wind_speed"): -0.40,
}
SPATIAL: Final = {
    "pm25": 0.938, "pm10": 0.896, "no2": 0.857, "o3": 0.925, "co": 0.893, "so2": 0.877,
}  # fmt: skip
RATIO_MEDIAN: Final = 0.792
RATIO_P10: Final = 0.333


MONTHS: Final = {
    "pm25 lag 1 h": (0.958, 0.021),
    "pm25 lag 6 h": (0.706, 0.103),
    "pm25 lag 12 h": (0.515, 0.139),
    "pm25 lag 24 h": (0.312, 0.150),
    "pm10 lag 1 h": (0.902, 0.062),
    "pm10 lag 12 h": (0.411, 0.168),
    "pm10 lag 24 h": (0.265, 0.171),
    "so2 lag 1 h": (0.928, 0.025),
    "so2 lag 12 h": (0.337, 0.145),
    "so2 lag 24 h": (0.273, 0.141),
    "no2 lag 1 h": (0.917, 0.039),
    "no2 lag 12 h": (0.152, 0.287),
    "no2 lag 24 h": (0.326, 0.125),
    "co lag 1 h": (0.930, 0.043),
    "co lag 12 h": (0.401, 0.150),
    "co lag 24 h": (0.263, 0.151),
    "o3 lag 1 h": (0.934, 0.025),
    "o3 lag 6 h": (0.266, 0.154),
    "o3 lag 12 h": (-0.138, 0.318),
    "o3 lag 24 h": (0.518, 0.166),
    "wind_speed lag 1 h": (0.733, 0.070),
    "wind_speed lag 24 h": (0.248, 0.091),
    "pm25 day, likeness of shape": (0.372, 0.534),
    "pm25 day, highest / lowest": (1.505, 0.254),
    "no2 day, likeness of shape": (0.807, 0.133),
    "no2 day, highest / lowest": (2.032, 0.410),
    "o3 day, likeness of shape": (0.923, 0.104),
    "o3 day, highest / lowest": (5.733, 2.939),
    "pm25 with pm10": (0.867, 0.108),
    "pm25 with co": (0.780, 0.132),
    "pm25 with no2": (0.568, 0.263),
    "pm25 with so2": (0.467, 0.252),
    "pm25 with o3": (-0.151, 0.295),
    "no2 with o3": (-0.588, 0.156),
    "o3 with temperature": (0.529, 0.213),
    "pm25 with wind_speed": (-0.250, 0.137),
    "no2 with wind_speed": (-0.494, 0.098),
    "pm25 / pm10, median": (0.784, 0.153),
    "pm25 / pm10, 10th percentile": (0.398, 0.165),
}
"""Mean and standard deviation of each statistic over the 48 periods of 30 days in the record of the
station Aotizhongxin, as this script finds them."""

MONTH_DEVIATIONS: Final = 2.5
MONTH_SLACK: Final = 0.03
NEIGHBOURS_MONTH: Final = 0.12


LAG_1: Final = 0.03
LAG_1_WIND: Final = 0.08
LAGS: Final = 0.12
SHAPE: Final = 0.12
SWING: Final = 0.25
CROSSED: Final = 0.12
NEIGHBOURS: Final = 0.06
RATIO: Final = 0.10


class Line(msgspec.Struct, frozen=True):
    """One statistic: of the tables, how far from that a year may be, and as found."""

    name: str
    table: float
    tolerance: float
    found: float

    def held_against(self, *, year: bool) -> tuple[float, float]:
        """What is expected of a year or of less, and how far from that it may be."""
        if year:
            return self.table, self.tolerance
        if self.name not in MONTHS:
            return self.table, NEIGHBOURS_MONTH
        mean, deviation = MONTHS[self.name]
        return mean, MONTH_DEVIATIONS * deviation + MONTH_SLACK

    def holds(self, *, year: bool) -> bool:
        """Whether what was found is near enough."""
        expected, allowed = self.held_against(year=year)
        return abs(self.found - expected) <= allowed


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--days", type=int, default=365, help="simulated days (default 365)")
    parser.add_argument("--start", default="2026-01-01", help="first day (default 2026-01-01)")
    parser.add_argument("--stations", type=int, default=8, help="stations (default 8)")
    parser.add_argument("--seed", type=int, default=1, help="seed (default 1)")
    parser.add_argument("--csv", type=Path, nargs="+", help="recorded data instead")
    asked = parser.parse_args()
    began_s = time.perf_counter()
    if asked.csv:
        hours = read_hours(asked.csv)
        origin = ", ".join(path.name for path in asked.csv)
    else:
        hours = simulate(asked.days, asked.start, asked.stations, asked.seed)
        origin = f"simulated, seed {asked.seed}, from {asked.start}"
    days, stations = len(hours["pm25"]) // 24, hours["pm25"].shape[1]
    print(f"{origin}: {days} days, {stations} stations ({time.perf_counter() - began_s:.1f} s)\n")
    return report(list(lines(hours)), year=days >= YEAR_DAYS)


def report(found: Sequence[Line], *, year: bool) -> int:
    """Print the lines; 1 when one is out of tolerance."""
    print(f"{'statistic':<34}{'Beijing':>9}{'+-':>8}{'found':>9}  verdict")
    for line in found:
        expected, allowed = line.held_against(year=year)
        verdict = "ok" if line.holds(year=year) else "OUT"
        print(f"{line.name:<34}{expected:>9.3f}{allowed:>8.3f}{line.found:>9.3f}  {verdict}")
    bad = sum(not line.holds(year=year) for line in found)
    print(f"\n{len(found) - bad} of {len(found)} within tolerance")
    return 1 if bad else 0


def simulate(days: int, start: str, stations: int, seed: int) -> Hours:
    """Hourly means of the field at stations on a ring around the middle of a city."""
    city = _city(stations)
    start_ms = round(datetime.fromisoformat(start).replace(tzinfo=city.zone).timestamp() * 1000)
    weather = Weather(city, seed=seed, start_ms=start_ms)
    field = AirField(city, seed=seed, start_ms=start_ms, weather=weather, plants=None)
    devices = tuple(city.devices())
    kind = DEVICE_KINDS["air-station"]
    group = Group(kind, SAMPLE_MS, devices, 0, np.zeros(stations, dtype=np.int64))
    probe = field.probe(group)
    rows = np.tile(np.arange(stations), 24 * SAMPLES_PER_HOUR)
    means = []
    for day in range(days):
        ticks = day * 24 * SAMPLES_PER_HOUR + np.arange(24 * SAMPLES_PER_HOUR)
        ts = np.repeat(start_ms + ticks * SAMPLE_MS, stations)
        truth = probe.truth(rows, ts).reshape(24, SAMPLES_PER_HOUR, stations, -1)
        means.append(truth.mean(axis=1))
    whole = np.concatenate(means)
    return {name: whole[:, :, column] for column, name in enumerate(kind.quantities)}


def _city(stations: int) -> City:
    turns = 2.0 * np.pi * np.arange(stations) / stations
    sites = tuple(
        Site(
            id=f"air-{number}",
            district="centre",
            domain=Domain.AIR,
            position=(
                CENTRE[0] + RING_DEGREES * float(np.cos(turn)),
                CENTRE[1] + RING_DEGREES * float(np.sin(turn)),
            ),
            devices=(DeviceSpec(id="station-1", kind="air-station"),),
        )
        for number, turn in enumerate(turns)
    )
    return City(city="statistics", districts=(District(id="centre"),), sites=sites)


def read_hours(paths: Sequence[Path]) -> Hours:
    """Recorded hours, one station a file; the files cover the same time."""
    stations = [_read_station(path) for path in paths]
    shortest = min(len(station["pm25"]) for station in stations)
    return {
        name: np.stack([station[name][:shortest] for station in stations], axis=1)
        for name in UCI_COLUMNS
    }


def _read_station(path: Path) -> dict[str, NDArray[np.float64]]:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    rows = list(csv.DictReader(text.splitlines()))
    hour = np.array([_hours_since_epoch(row) for row in rows])
    midnight = hour[0] // 24 * 24
    station = {}
    for name, column in UCI_COLUMNS.items():
        values = np.full(hour[-1] - midnight + 1, np.nan)
        values[hour - midnight] = [_number(row[column]) for row in rows]
        station[name] = values
    return station


def _hours_since_epoch(row: Mapping[str, str]) -> int:
    """As if local time were UTC: only its own midnights matter."""
    year, month, day, hour = (int(row[part]) for part in ("year", "month", "day", "hour"))
    return round(datetime(year, month, day, hour, tzinfo=UTC).timestamp() / 3600)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def lines(hours: Mapping[str, NDArray[np.float64]]) -> Iterator[Line]:
    """Every statistic."""
    for name, lags in AUTOCORRELATION.items():
        for lag, table in lags.items():
            near = LAG_1_WIND if name == "wind_speed" else LAG_1
            found = autocorrelation(hours[name], lag)
            yield Line(f"{name} lag {lag} h", table, near if lag == 1 else LAGS, found)
    for name, day in DAY.items():
        course, expected = daily_course(hours[name]), np.array(day)
        likeness = correlation(course, expected)
        yield Line(f"{name} day, likeness of shape", 1.0, SHAPE, likeness)
        swing, table = (float(each.max() / each.min()) for each in (course, expected))
        yield Line(f"{name} day, highest / lowest", table, SWING * table, swing)
    for (one, other), table in CROSS.items():
        yield Line(f"{one} with {other}", table, CROSSED, pooled(hours[one], hours[other]))
    if hours["pm25"].shape[1] > 1:
        for name, table in SPATIAL.items():
            yield Line(f"{name} between stations", table, NEIGHBOURS, neighbours(hours[name]))
    ratio = hours["pm25"] / np.where(hours["pm10"] > 0, hours["pm10"], np.nan)
    for name, table, share in (("median", RATIO_MEDIAN, 50), ("10th percentile", RATIO_P10, 10)):
        yield Line(f"pm25 / pm10, {name}", table, RATIO, float(np.nanpercentile(ratio, share)))


def correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Pearson's, of what is present in both."""
    both = np.isfinite(one) & np.isfinite(other)
    return float(np.corrcoef(one[both], other[both])[0, 1])


def autocorrelation(values: NDArray[np.float64], lag: int) -> float:
    """At a lag in hours, the mean over stations of `values`, shape (hours, stations)."""
    return float(np.mean([correlation(column[:-lag], column[lag:]) for column in values.T]))


def daily_course(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean at each hour of the day, shape (24,)."""
    whole = values[: len(values) // 24 * 24].reshape(-1, 24, values.shape[1])
    course: NDArray[np.float64] = np.nanmean(whole, axis=(0, 2))
    return course


def pooled(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The correlation of two quantities over all stations."""
    return correlation(one.reshape(-1), other.reshape(-1))


def neighbours(values: NDArray[np.float64]) -> float:
    """The mean correlation of the pairs of stations."""
    pairs = combinations(values.T, 2)
    return float(np.mean([correlation(one, other) for one, other in pairs]))


if __name__ == "__main__":
    sys.exit(main())
