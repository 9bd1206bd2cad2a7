"""What the alarm engine knows of the city beyond what devices say of themselves."""

from collections.abc import Sequence
from datetime import tzinfo
from typing import Protocol
from zoneinfo import ZoneInfo

import msgspec

from city.cityfile import Address, Position


class Section(msgspec.Struct, frozen=True):
    """The part of a gas network around a device that valves can cut off."""

    id: str
    valves: tuple[Address, ...]
    """All of them must close; none: it cannot be cut off."""
    customers: int
    """Who lose their gas when it is cut off."""
    members: frozenset[Address]
    """The devices within it."""


class Surroundings(Protocol):
    """Where things lie and what is connected; built from the city file."""

    @property
    def zone(self) -> tzinfo:
        """The time zone of calendars and of people."""

    def section(self, address: Address) -> Section | None:
        """The section that a gas device lies in; None where it is not known."""

    def position(self, address: Address) -> Position | None:
        """Where a device stands."""

    def upstream(self, address: Address) -> Sequence[str]:
        """The water and emission sites that the river passes before a water device's, next first."""

    def device(self, address: Address) -> bool:
        """Whether the city has such a device."""


class Nowhere:
    """The surroundings where there is no city file: nothing is known."""

    def __init__(self, zone: tzinfo | None = None) -> None:
        self._zone = zone or ZoneInfo("UTC")

    @property
    def zone(self) -> tzinfo:
        """UTC unless another was given."""
        return self._zone

    def section(self, address: Address) -> Section | None:
        """Nothing is known of any network."""

    def position(self, address: Address) -> Position | None:
        """Nor of any place."""

    def upstream(self, address: Address) -> Sequence[str]:  # noqa: ARG002 - of the protocol
        """Nor of any river."""
        return ()

    def device(self, address: Address) -> bool:  # noqa: ARG002 - of the protocol
        """Any device may exist."""
        return True
