"""The machine that a load test ran on, as its report names it."""

import os
import platform
from pathlib import Path
from typing import Final

import msgspec
import psutil

_CPUINFO: Final = Path("/proc/cpuinfo")


class Machine(msgspec.Struct, frozen=True):
    """What a figure depends on first."""

    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_gib:g} GiB, {self.system}, "
            f"Python {self.python}"
        )


def this_machine() -> Machine:
    """The one that we run on."""
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def _cpu() -> str:
    """The processor's name; the kernel's word for its kind where that is all there is."""
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
