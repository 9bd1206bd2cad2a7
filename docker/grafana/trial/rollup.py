"""Means of minutes and hours of generated readings, as ingest would make and keep them."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from city.quantities import QUANTITIES, Domain
from city.readings import Flag
from ingest.rollups import COUNTS, NAMES, SUFFIXES
from ingest.store import Point, PointKey

_DOMAINS: Final = frozenset(domain.value for domain in Domain)


class Rollups:
    """Collects readings, and makes of them a row per device and interval of the calendar."""

    def __init__(self) -> None:
        self._instants: dict[tuple[PointKey, str], list[int]] = defaultdict(list)
        self._values: dict[tuple[PointKey, str], list[float]] = defaultdict(list)

    def add(self, points: Iterable[Point]) -> None:
        """Take the readings among the points."""
        for point in points:
            if point.key.measurement not in _DOMAINS:
                continue
            for name, value in point.values.items():
                flag = Flag[point.texts.get(f"{name}_flag", Flag.N.name)]
                if name in QUANTITIES and COUNTS[flag.value]:
                    self._instants[point.key, name].append(point.ts)
                    self._values[point.key, name].append(value)

    def points(self) -> Iterator[Point]:
        """Mean, lowest, highest and number of every quantity, at the start of each interval."""
        for width_ms, suffix in SUFFIXES.items():
            rows: dict[tuple[PointKey, int], tuple[dict[str, float], dict[str, int]]] = {}
            for (key, name), instants in self._instants.items():
                values = np.array(self._values[key, name])
                for start_ms, figures in _rows(np.array(instants), values, width_ms):
                    means, counts = rows.setdefault((key, start_ms), ({}, {}))
                    mean, least, most, count = figures
                    of_mean, of_least, of_most, of_count = NAMES[name]
                    means |= {of_mean: mean, of_least: least, of_most: most}
                    counts[of_count] = int(count)
            for (key, start_ms), (means, counts) in rows.items():
                place = PointKey(f"{key.measurement}{suffix}", key.tags)
                yield Point(place, start_ms, means, counts, {})


def _rows(
    instants_ms: NDArray[np.int64], values: NDArray[np.float64], width_ms: int
) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Start of each interval, and its mean, least, most and count; both arrays are of one length."""
    order = np.argsort(instants_ms, kind="stable")
    starts, firsts = np.unique(instants_ms[order] // width_ms, return_index=True)
    sorted_values = values[order]
    counts = np.diff(firsts, append=len(values))
    means = np.add.reduceat(sorted_values, firsts) / counts
    least = np.minimum.reduceat(sorted_values, firsts)
    most = np.maximum.reduceat(sorted_values, firsts)
    figures = np.column_stack([means, least, most, counts]).tolist()
    yield from zip((starts * width_ms).tolist(), map(tuple, figures), strict=True)
