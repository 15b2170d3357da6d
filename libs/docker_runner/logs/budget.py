"""Divide the disk space for bots' output equally while the storage is unavailable."""

from collections.abc import Iterable
from typing import Protocol

from libs.core.room import MIB


class Limited(Protocol):
    """A user of disk space; implemented by :class:`~libs.docker_runner.logs.spool.LogSpool`."""

    def limit(self, max_bytes: int) -> None:
        """Set the limit from now on."""


class SpoolBudget:
    """The disk space of all spools of one service on this host.

    A spool takes what it needs up to its share, so that together they need less than the total while the storage works.

    Args:
        total_bytes: limit of all spools.
        each_bytes: limit of one spool, even if there are few.
    """

    def __init__(self, total_bytes: int = 1024 * MIB, each_bytes: int = 64 * MIB) -> None:
        self._total_bytes = total_bytes
        self._each_bytes = each_bytes
        self._elsewhere = 0

    def share(self, spools: int) -> int:
        """Return the share of each of so many open spools, given the known closed ones."""
        return min(self._each_bytes, self._total_bytes // max(1, spools + self._elsewhere))

    def divide(self, spools: Iterable[Limited], elsewhere: int | None = None) -> None:
        """Limit all open spools to their share.

        Args:
            elsewhere: number of closed folders with output on the disk; None for the last number.
        """
        if elsewhere is not None:
            self._elsewhere = elsewhere
        every = list(spools)
        share = self.share(len(every))
        for spool in every:
            spool.limit(share)
