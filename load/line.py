"""The line between a part of a test and its conductor: words one way, orders the other."""

from collections.abc import Sequence
from typing import Protocol

from load.figures import Delta
from load.plan import Order


class Line(Protocol):
    """What a part is given to speak through; both calls return at once."""

    def tell(self, delta: Delta) -> None:
        """Hand a word to the conductor; order is kept.

        Raises:
            ConnectionError: The conductor is gone; the part ends.
        """

    def heard(self) -> Sequence[Order]:
        """Orders since the last call."""
