"""Delays between retries: growing up to a cap, with jitter."""

import random
import time
from collections.abc import Callable, Collection


class Backoff:
    """The delays of one operation that keeps failing, growing from *initial_seconds* by *factor* up to *cap_seconds*.

    Args:
        jitter: the random share of each delay, 0 to 1. A delay lies between ``(1 - jitter) * w`` and ``w``, so
            that processes which failed together do not retry together.
        draw: the random source; returns a number in [0, 1).
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
        """The number of delays since the last reset."""
        self._draw = draw
        self._next = initial_seconds

    def next_seconds(self) -> float:
        """Return the delay after one more failure."""
        wait = self._next
        self.failures += 1
        # Stop multiplying at the cap: a power of the failures would overflow in a long outage.
        self._next = min(wait * self.factor, self.cap_seconds)
        return wait * (1 - self.jitter * self._draw())

    def reset(self) -> None:
        """Start again at *initial_seconds* after a success."""
        self.failures = 0
        self._next = self.initial_seconds


class Setbacks:
    """Tracks when each of many failed keys may be retried. Successful keys are not stored.

    Args:
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self, initial_seconds: float, cap_seconds: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._initial_seconds = initial_seconds
        self._cap_seconds = cap_seconds
        self._clock = clock
        self._failed: dict[str, tuple[Backoff, float]] = {}

    def failed(self, key: str) -> float:
        """Record a failure of *key*, and return the seconds until it may be retried."""
        backoff, _ = self._failed.get(key) or (Backoff(self._initial_seconds, self._cap_seconds), 0.0)
        wait = backoff.next_seconds()
        self._failed[key] = (backoff, self._clock() + wait)
        return wait

    def worked(self, key: str) -> None:
        """Forget the failures of *key*."""
        self._failed.pop(key, None)

    def left_seconds(self, key: str) -> float:
        """Return the seconds until *key* may be retried; 0 when it may be now."""
        known = self._failed.get(key)
        return max(0.0, known[1] - self._clock()) if known is not None else 0.0

    def first_left_seconds(self) -> float | None:
        """Return the seconds until the first key may be retried; None when no key waits."""
        left = (until - self._clock() for _, until in self._failed.values())
        return min((seconds for seconds in left if seconds > 0), default=None)

    def forget_all_but(self, keys: Collection[str]) -> None:
        """Drop the state of removed keys."""
        for key in self._failed.keys() - set(keys):
            del self._failed[key]
