"""MongoDB's clock against this host's boot-time clock: when a request is late, and whether MongoDB's clock jumped."""

from collections import deque
from dataclasses import dataclass

TOLERANCE_SECONDS = 0.25
"""A difference that moves by more is a jump. Containers end that much before their lease, so that less is harmless."""
_RESOLUTION_SECONDS = 0.001
_LEAST_GAP_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Difference:
    """MongoDB's time minus the boot-time clock, in seconds: certainly between *least* and *most*."""

    least: float
    most: float
    at: float
    """When the answer arrived, by the boot-time clock."""

    @classmethod
    def of(cls, sent: float, received: float, store_seconds: float) -> "Difference":
        """Return the difference after an answer with *store_seconds* (Unix time, truncated to milliseconds)."""
        return cls(store_seconds - received, store_seconds + _RESOLUTION_SECONDS - sent, received)

    @property
    def is_sharp(self) -> bool:
        """Whether it can show a jump: a slow answer hides jumps up to its own duration."""
        return self.most - self.least <= TOLERANCE_SECONDS


class StoreClock:
    """Keeps the difference between the two clocks from each answer of MongoDB that carries its time.

    Args:
        life_seconds: of a lease; a jump counts for so long.
    """

    def __init__(self, life_seconds: float) -> None:
        self._life_seconds = life_seconds
        self._known: deque[Difference] = deque()
        self._steady_since: float | None = None
        self.last: Difference | None = None
        """The last one that is sharp, or any while there is none that is new enough."""
        self.jumps = 0
        """The number of detected jumps."""

    def note(self, difference: Difference) -> float:
        """Record *difference*; return by how many seconds MongoDB's clock jumped, 0 without a jump."""
        jump = self._jump(difference)
        if jump:
            self.jumps += 1
            self._known.clear()
            self.last = None
            self._steady_since = difference.at
        if difference.is_sharp:
            self._learn(difference)
        if difference.is_sharp or self.last is None or difference.at - self.last.at > self._life_seconds:
            self.last = difference
        return jump

    def steady_in_seconds(self, now: float) -> float:
        """Return for how long another holder's expired lease must not be taken over; zero or less: it may be.

        After a jump its holder may rely on it for one more life, by a clock like this one.
        """
        return self._life_seconds - self.steady_seconds(now)

    def store_seconds(self, at: float) -> float | None:
        """Return MongoDB's time (Unix) at *at*, from the answers that show it best; None before the first answer."""
        if self._known:
            least = max(known.least for known in self._known)
            most = min(known.most for known in self._known)
        elif self.last is not None:
            least, most = self.last.least, self.last.most
        else:
            return None
        return at + (least + most) / 2

    def steady_seconds(self, now: float) -> float:
        """Return for how long the clock is known not to have jumped."""
        return max(0.0, now - self._steady_since) if self._steady_since is not None else 0.0

    def latest_store_seconds(self, at: float) -> float | None:
        """Return the latest time (Unix) that MongoDB's clock can show at *at*; None while that is not known."""
        if self.last is None or at - self.last.at > 2 * self._life_seconds:
            return None
        return at + self.last.most + TOLERANCE_SECONDS

    def _learn(self, difference: Difference) -> None:
        if self._steady_since is None:
            self._steady_since = difference.at
        if not self._known or difference.at - self._known[-1].at >= _LEAST_GAP_SHARE * self._life_seconds:
            self._known.append(difference)
        while self._known[0].at < difference.at - 2 * self._life_seconds:
            self._known.popleft()

    def _jump(self, new: Difference) -> float:
        """Return the least movement that explains *new* and what is known, where it is beyond the tolerance; else 0."""
        if not self._known:
            return 0.0
        forward = new.least - min(known.most for known in self._known)
        back = max(known.least for known in self._known) - new.most
        if max(forward, back) <= TOLERANCE_SECONDS:
            return 0.0
        return forward if forward > back else -back
