"""How long to wait before trying again: longer each time, never longer than a cap, and not all at the same moment."""

import random
from collections.abc import Callable


class Backoff:
    """The waits of one thing that keeps failing, growing from *initial_seconds* by *factor* up to *cap_seconds*.

    Args:
        jitter: the share of each wait that is random, 0 to 1. A wait lies between ``(1 - jitter) * w`` and ``w``, so
            that many processes which failed together do not come back together.
        draw: where the randomness comes from; returns a number in [0, 1).
    """

    def __init__(
        self,
        initial_seconds: float,
        cap_seconds: float,
        *,
        factor: float = 2.0,
        jitter: float = 0.5,
        draw: Callable[[], float] = random.random,
    ) -> None:
        if not 0 < initial_seconds <= cap_seconds or factor < 1 or not 0 <= jitter <= 1:
            raise ValueError(f"no backoff: {initial_seconds=} {cap_seconds=} {factor=} {jitter=}")
        self.initial_seconds = initial_seconds
        self.cap_seconds = cap_seconds
        self.factor = factor
        self.jitter = jitter
        self.failures = 0
        """How many waits were asked for since the last reset."""
        self._draw = draw
        self._next = initial_seconds

    def next_seconds(self) -> float:
        """The wait after one more failure."""
        wait = self._next
        self.failures += 1
        # Multiplied up to the cap and no further: a power of the failures would overflow in a long outage.
        self._next = min(wait * self.factor, self.cap_seconds)
        return wait * (1 - self.jitter * self._draw())

    def reset(self) -> None:
        """It worked: the next failure waits *initial_seconds* again."""
        self.failures = 0
        self._next = self.initial_seconds
