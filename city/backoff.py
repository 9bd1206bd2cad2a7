"""How long to wait before trying again: growing, capped, and jittered so that nobody marches in step."""

import random


class Backoff:
    """Delays that double from `first_s` to `cap_s`, each drawn between half of it and all of it."""

    def __init__(self, *, first_s: float = 0.2, cap_s: float = 15.0) -> None:
        self.first_s = first_s
        self.cap_s = cap_s
        self._next_s = first_s
        self._random = random.Random()  # noqa: S311 - jitter, not a secret

    def delay_s(self) -> float:
        """The next delay."""
        full_s = self._next_s
        self._next_s = min(self.cap_s, full_s * 2)
        return full_s * self._random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start again from the shortest delay: something worked."""
        self._next_s = self.first_s
