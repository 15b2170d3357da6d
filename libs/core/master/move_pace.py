"""Limit moves between engines: a loaded engine may not answer for seconds, and bots must not move back and forth."""

from collections.abc import Iterable

from libs.core.master.assignment import Move

_REST_SECONDS = 10.0


class MovePace:
    """Remembers which engines recently took part in a move. Times are the caller's, in seconds."""

    def __init__(self, rest_seconds: float = _REST_SECONDS) -> None:
        self._rest_seconds = rest_seconds
        self._moved_at: dict[str, float] = {}

    def note(self, moves: Iterable[Move], now: float) -> None:
        """Record *moves*, which begin at *now*."""
        for move in moves:
            self._moved_at[move.from_host] = self._moved_at[move.to_host] = now

    def resting(self, now: float) -> frozenset[str]:
        """Return the engines that must take part in no further move yet."""
        self._moved_at = {host: at for host, at in self._moved_at.items() if now - at < self._rest_seconds}
        return frozenset(self._moved_at)
