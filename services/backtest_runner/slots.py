"""Limit the number of backtests that a worker runs at once, over all its segments."""

from collections.abc import Callable
from typing import Protocol


class Pool(Protocol):
    """The slots' view of one segment's backtests."""

    @property
    def slots_taken(self) -> int:
        """How many of its backtests take a slot."""

    @property
    def next_order(self) -> tuple[bool, str] | None:
        """The sort key of its longest-waiting backtest, among all pools; None when none waits."""


class Slots:
    """The slots of one worker, shared by the pools of its segments."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pools: dict[Pool, Callable[[], None]] = {}

    @property
    def has_free(self) -> bool:
        """Whether another backtest may start."""
        return sum(pool.slots_taken for pool in self._pools) < self.size

    def join(self, pool: Pool, refill: Callable[[], None]) -> None:
        """Count the backtests of *pool*, and call *refill* when a slot becomes free."""
        self._pools[pool] = refill

    def leave(self, pool: Pool) -> None:
        """Stop counting *pool*; its slots go to the others. May be repeated."""
        if self._pools.pop(pool, None) is not None:
            self.refill()

    def refill(self) -> None:
        """Let the pools start backtests in free slots, the longest-waiting one first."""
        waiting = [(order, refill) for pool, refill in self._pools.items() if (order := pool.next_order) is not None]
        for _, refill in sorted(waiting, key=lambda pair: pair[0]):
            refill()
