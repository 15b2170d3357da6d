"""Divide the disk space for bots' output equally while the storage is unavailable."""

from collections.abc import Iterable
from typing import Protocol

from libs.docker_runner.executable import MIB


class Limited(Protocol):
    """What takes a share; a :class:`~libs.docker_runner.logs.spool.LogSpool` does."""

    def limit(self, max_bytes: int) -> None:
        """Take no more than that from now on."""


class SpoolBudget:
    """The disk space of all spools of one service on this host.

    A spool takes what it needs up to its share, so that they take less than the whole as long as the storage is there.

    Args:
        total_bytes: of all of them.
        each_bytes: of one of them, however few there are.
    """

    def __init__(self, total_bytes: int = 1024 * MIB, each_bytes: int = 64 * MIB) -> None:
        self._total_bytes = total_bytes
        self._each_bytes = each_bytes
        self._elsewhere = 0

    def share(self, spools: int) -> int:
        """What each of so many open spools may take, with those that are known to be elsewhere."""
        return min(self._each_bytes, self._total_bytes // max(1, spools + self._elsewhere))

    def divide(self, spools: Iterable[Limited], elsewhere: int | None = None) -> None:
        """Limit all open spools to their share.

        Args:
            elsewhere: how many folders on the disk have output and are not open; None for as many as before.
        """
        if elsewhere is not None:
            self._elsewhere = elsewhere
        every = list(spools)
        share = self.share(len(every))
        for spool in every:
            spool.limit(share)
