"""The data directory: one `cityeye` works in it at a time, and says there where its broker is."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from broker.choice import BrokerAddress
from city.errors import ServiceError, SettingError

RUN_FILE: Final = "run.json"
LOCK_FILE: Final = "cityeye.lock"
ARCHIVE: Final = "alarms.sqlite"
"""What has become of alarms."""


class Running(msgspec.Struct, frozen=True):
    """What a working `cityeye` says of itself: its broker, its process, its city and time zone."""

    broker: str
    pid: int
    timezone: str
    city: str = ""
    """Empty: every city on the broker."""

    @property
    def zone(self) -> ZoneInfo:
        """The time zone, or UTC where this machine does not know it."""
        try:
            return ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            return ZoneInfo("UTC")


@contextmanager
def reserved(directory: Path) -> Iterator[None]:
    """The directory is ours alone, made when missing.

    Raises:
        SettingError: It cannot be made or written.
        ServiceError: Another `cityeye` works in it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / LOCK_FILE).open("w", encoding="utf-8")
    except OSError as error:
        raise SettingError(
            f"--data: {directory} cannot be used: {error.strerror}; give a directory to write in"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServiceError(
                f"{directory} is used by another cityeye; stop it, or choose another directory "
                "with --data"
            ) from error
        yield


@contextmanager
def announced(
    directory: Path, address: BrokerAddress, timezone: str, *, city: str = ""
) -> Iterator[None]:
    """While the work goes on, other commands find our broker in the directory."""
    path = directory / RUN_FILE
    running = Running(str(address), os.getpid(), timezone, city)
    try:
        path.write_bytes(msgspec.json.encode(running))
    except OSError as error:
        raise ServiceError(
            f"{path} cannot be written: {error.strerror}; make room, or give another --data"
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def running_in(directory: Path) -> Running | None:
    """The `cityeye` that works in the directory, if there is one."""
    try:
        return msgspec.json.decode((directory / RUN_FILE).read_bytes(), type=Running)
    except (OSError, msgspec.DecodeError):
        return None
