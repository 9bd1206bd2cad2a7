"""What every fleet of the comparison sends: the same devices, payloads and figures at the end.

Only the standard library is used: the peers' programs run in an environment of their own.
"""

import json
import math
import random
import signal
import sys
import time
from array import array
from pathlib import Path
from typing import Any, Final, NamedTuple

HOST: Final = "127.0.0.1"
DRAIN_S: Final = 10.0
"""How long a fleet waits at its end for acknowledgements that are on their way."""


class Device(NamedTuple):
    """One device, as it is known to the broker."""

    client_id: str
    topic: str
    quantities: tuple[str, ...]


class Job(NamedTuple):
    """What a fleet is to do until it is told to stop."""

    port: int
    roster: Path
    interval_s: float

    @classmethod
    def given(cls) -> "Job":
        """The job of the command line: PORT ROSTER INTERVAL_S."""
        port, roster, interval_s = sys.argv[1:4]
        return cls(int(port), Path(roster), float(interval_s))

    def devices(self) -> list[Device]:
        """The devices of the roster."""
        return read_roster(self.roster)


def write_roster(path: Path, devices: list[Device]) -> None:
    """The devices as JSON, so that programs of other languages read them too."""
    path.write_text(json.dumps([device._asdict() for device in devices]), encoding="utf-8")


def read_roster(path: Path) -> list[Device]:
    """The devices that `write_roster` wrote."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Device(row["client_id"], row["topic"], tuple(row["quantities"])) for row in rows]


def payload(device: Device, seq: int) -> bytes:
    """A message of the device's quantities, measured now, in CityEye's form."""
    values = {name: round(random.random() * 50, 2) for name in device.quantities}  # noqa: S311 - no secret
    message = {"ts": round(time.time() * 1000), "seq": seq, "values": values}
    return json.dumps(message, separators=(",", ":")).encode()


class Turns:
    """When which device sends: all in turn, spread evenly over the interval."""

    def __init__(self, devices: int, interval_s: float, began_s: float) -> None:
        self._devices = devices
        self._gap_s = interval_s / devices
        self._began_s = began_s
        self.taken = 0

    def wait_s(self, now_s: float) -> float:
        """How long it is until the next turn; 0 when it is due."""
        return max(0.0, self._began_s + self.taken * self._gap_s - now_s)

    def take(self) -> tuple[int, int]:
        """The number of the device whose turn it is, and its `seq`."""
        seq, number = divmod(self.taken, self._devices)
        self.taken += 1
        return number, seq


class Figures:
    """What a fleet counts."""

    def __init__(self) -> None:
        self.sent = 0
        self.acknowledged = 0
        self.stopped = False
        self._ack_ms = array("f")

    def stop_on_signal(self) -> None:
        """Let SIGTERM set `stopped`."""
        signal.signal(signal.SIGTERM, self._stop)

    def confirmed(self, sent_s: float) -> None:
        """A message that was sent at `sent_s` [s, `time.perf_counter`] is acknowledged."""
        self.acknowledged += 1
        self._ack_ms.append((time.perf_counter() - sent_s) * 1000)

    def tell(self) -> None:
        """The last line that a fleet prints."""
        print(json.dumps(self.report()), flush=True)

    def report(self) -> dict[str, Any]:
        """The counts, and the times from publishing to acknowledgement [ms]."""
        return {
            "sent": self.sent,
            "acknowledged": self.acknowledged,
            "ack_ms": percentiles(sorted(self._ack_ms)),
        }

    def _stop(self, *_: object) -> None:
        self.stopped = True


def percentiles(ordered: list[float]) -> dict[str, float]:
    """`p50` and `p99` of ordered numbers by nearest rank; nothing of none."""
    if not ordered:
        return {}
    ranks = {"p50": 0.50, "p99": 0.99}
    return {
        name: round(ordered[math.ceil(share * len(ordered)) - 1], 3)
        for name, share in ranks.items()
    }
