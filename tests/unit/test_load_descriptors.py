"""Descriptors and ports: what a machine cannot open is said before the first connection."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from city.errors import InputError
from load import descriptors
from load.descriptors import SPARE, make_room


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """Limits are as they were after every test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_too_many() -> None:
    """More devices than descriptors are refused with the number possible and the remedy."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    with pytest.raises(InputError) as refusal:
        make_room(hard, 1)

    assert 2 == refusal.value.exit_status
    assert f"possible are {hard - SPARE:,} devices on one process" in str(refusal.value)
    assert "--processes 2" in str(refusal.value)


def test_raised() -> None:
    """A soft limit that is too low is raised."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (SPARE + 200, hard))
    make_room(1_000, 1)

    assert 1_000 + SPARE == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_untouched() -> None:
    """A soft limit that suffices stays, and several processes share the devices."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (SPARE + 500, hard))
    make_room(1_000, 2)

    assert SPARE + 500 == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More devices than local ports need more source addresses."""
    ports = tmp_path / "range"
    ports.write_text("1000 1999\n")
    monkeypatch.setattr(descriptors, "_PORTS", ports)

    with pytest.raises(InputError, match=r"1,000 local ports .* --source"):
        make_room(1_500, 1)
    make_room(1_500, 1, ("127.0.0.2", "127.0.0.3"))
