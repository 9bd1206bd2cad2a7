"""How many connections this machine lets a load test open, asked before the first one."""

import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from city.errors import InputError

SPARE: Final = 256
"""Descriptors of a process for all else: files, pipes, the event loop, what libraries open."""

_PORTS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


def make_room(devices: int, processes: int, sources: Sequence[str] = ()) -> None:
    """Raise this process's descriptor limit as far as needed; its children inherit it.

    Raises:
        InputError: Not so many are allowed, or there are not so many local ports; the text says how
            many devices are possible and what to do.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    each = -(-devices // processes)
    possible = (hard - SPARE) * processes if hard != resource.RLIM_INFINITY else devices
    if each + SPARE > hard != resource.RLIM_INFINITY:
        needed = -(-devices // max(1, hard - SPARE))
        raise InputError(
            f"--devices {devices}: a connection takes a descriptor, and a process here may have "
            f"{hard:,}; possible are {possible:,} devices on {_of(processes)}. Give --processes "
            f"{needed}, or raise the limit (`ulimit -Hn`, LimitNOFILE= of a systemd unit)"
        )
    if soft < each + SPARE:
        resource.setrlimit(resource.RLIMIT_NOFILE, (each + SPARE, hard))
    ports = _local_ports() * max(1, len(sources))
    if devices > ports:
        raise InputError(
            f"--devices {devices}: this machine has {ports:,} local ports to connect from; give "
            "more local addresses with --source (e.g. 127.0.0.2,127.0.0.3), or widen "
            "net.ipv4.ip_local_port_range"
        )


def _of(processes: int) -> str:
    return "one process" if processes == 1 else f"{processes} processes"


def _local_ports() -> int:
    """Ports of one local address towards one broker; those of Linux's default if unknown."""
    try:
        first, last = _PORTS.read_text().split()
    except (OSError, ValueError):
        return 28_232
    return int(last) - int(first) + 1
