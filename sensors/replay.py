"""Recorded data as frames: what stations once measured, sent again by devices of their own.

Gaps stay gaps: a missing value is absent, and a missing row sends nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from city.cityfile import Address, Device, Position, Site
from city.errors import InputError
from city.kinds import DeviceKind
from city.readings import Flag
from sensors.engine import Frame
from sensors.fields import Group
from sensors.recording import Place, RecordingMap, Rows

DEVICE: Final = "recording"
"""What the device of every recorded station is called."""

_ROWS_PER_FRAME: Final = 4096
_HOUR_MS: Final = 3_600_000


class Replay:
    """A recording in the shape of the engine: groups of devices, and frames of their samples."""

    def __init__(self, mapping: RecordingMap, rows: Rows, *, start_ms: int | None = None) -> None:
        """`start_ms` is the instant that the first row is moved to; default: its own.

        Of rows with one station and one instant the first in the file counts.
        """
        order = np.lexsort((rows.station, rows.ts))
        station, ts = rows.station[order], rows.ts[order]
        again = np.zeros(len(ts), dtype=np.bool_)
        again[1:] = (ts[1:] == ts[:-1]) & (station[1:] == station[:-1])
        kept = order[~again]
        self.repeated = int(again.sum())
        """Rows left out because their station had one with the same instant."""
        self.problems = rows.problems
        self.refused = rows.refused
        self._rows = rows.station[kept]
        self._ts = rows.ts[kept]
        if start_ms is not None:
            self._ts = self._ts + (start_ms - self._ts[0])
        self._values = rows.values[kept]
        self._flags = np.full(self._values.shape, Flag.N, dtype=np.uint8)
        for array in (self._rows, self._ts, self._values, self._flags):
            array.flags.writeable = False
        self.groups: tuple[Group, ...] = (
            _group(mapping, rows.stations, _step_ms(self._rows, self._ts)),
        )

    def __len__(self) -> int:
        return len(self._ts)

    def device_positions(self) -> dict[str, Position]:
        """Longitude and latitude of every station's device."""
        return {d.name: d.position for group in self.groups for d in group.devices}

    def obey(self, order: str, device_name: str, args: Mapping[str, float], ts_ms: int) -> int:  # noqa: ARG002 - as the engine's
        """Refuse: what was recorded does not change.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{device_name} is a recording and does not obey {order}")

    def hears(self, device_name: str, ts_ms: int) -> bool:  # noqa: ARG002 - as the engine's
        """Every command is heard, to be refused."""
        return True

    @property
    def first_ms(self) -> int:
        """The instant of the first sample [ms since the epoch]."""
        return int(self._ts[0])

    @property
    def last_ms(self) -> int:
        """The instant of the last sample [ms since the epoch]."""
        return int(self._ts[-1])

    def frames(self, from_ms: int, until_ms: int) -> Iterator[Frame]:
        """All samples with `from_ms <= ts < until_ms`, in the order of their instants."""
        first, stop = np.searchsorted(self._ts, (from_ms, until_ms)).tolist()
        for start in range(first, stop, _ROWS_PER_FRAME):
            part = slice(start, min(start + _ROWS_PER_FRAME, stop))
            rows, ts = self._rows[part], self._ts[part]
            yield Frame(self.groups[0], rows, ts, self._values[part], self._flags[part])


def _step_ms(station: NDArray[np.int64], ts: NDArray[np.int64]) -> int:
    """The usual time between two samples of one station."""
    order = np.lexsort((ts, station))
    steps = np.diff(ts[order])[np.diff(station[order]) == 0]
    return int(np.median(steps)) if len(steps) else _HOUR_MS


def _group(mapping: RecordingMap, stations: tuple[str, ...], interval_ms: int) -> Group:
    kind = DeviceKind(
        id=f"recorded-{mapping.domain.value}",
        domain=mapping.domain,
        name_en="Recorded station",
        name_zh="历史数据回放站",
        model=mapping.recording,
        quantities=tuple(mapping.values),
        interval_s=interval_ms / 1000,
    )
    devices = [_device(mapping, kind, station, interval_ms) for station in stations]
    return Group(
        kind=kind,
        interval_ms=interval_ms,
        devices=tuple(devices),
        first=0,
        phase_ms=np.zeros(len(devices), dtype=np.int64),
    )


def _device(mapping: RecordingMap, kind: DeviceKind, station: str, interval_ms: int) -> Device:
    place = mapping.places.get(station, Place())
    site = Site(
        id=station,
        district=place.district,
        domain=kind.domain,
        name=place.name or station,
        name_zh=place.name_zh,
        position=place.position,
        devices=(),
    )
    return Device(
        address=Address(mapping.city, place.district, kind.domain.value, station, DEVICE),
        kind=kind,
        interval_ms=interval_ms,
        position=place.position,
        site=site,
        plant=None,
        junction=None,
    )
