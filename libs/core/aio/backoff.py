"""How long to wait before trying again: longer each time, never longer than a cap, and not all at the same moment."""

import random
import time
from collections.abc import Callable, Collection


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


class Setbacks:
    """When each of many things that failed may be tried again. What works is not remembered.

    Args:
        clock: seconds on a clock that only goes forward.
    """

    def __init__(
        self, initial_seconds: float, cap_seconds: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._initial_seconds = initial_seconds
        self._cap_seconds = cap_seconds
        self._clock = clock
        self._failed: dict[str, tuple[Backoff, float]] = {}

    def failed(self, key: str) -> float:
        """Note a failure of *key*, and return for how many seconds it is not to be tried again."""
        backoff, _ = self._failed.get(key) or (Backoff(self._initial_seconds, self._cap_seconds), 0.0)
        wait = backoff.next_seconds()
        self._failed[key] = (backoff, self._clock() + wait)
        return wait

    def worked(self, key: str) -> None:
        """Forget the failures of *key*."""
        self._failed.pop(key, None)

    def left_seconds(self, key: str) -> float:
        """For how much longer *key* is not to be tried; 0 when it may be."""
        known = self._failed.get(key)
        return max(0.0, known[1] - self._clock()) if known is not None else 0.0

    def first_left_seconds(self) -> float | None:
        """For how much longer the first of those that wait is not to be tried; None when none waits."""
        left = (until - self._clock() for _, until in self._failed.values())
        return min((seconds for seconds in left if seconds > 0), default=None)

    def forget_all_but(self, keys: Collection[str]) -> None:
        """Drop what is known of things that are gone."""
        for key in self._failed.keys() - set(keys):
            del self._failed[key]
