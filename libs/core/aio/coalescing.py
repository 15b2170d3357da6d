"""Coalesce the wake-ups of a process's periodic loops: an idle process wakes once for several of them.

A wake-up of its own costs a sleeping process several times what one more loop costs that is due at the same moment.
"""

import asyncio
import math
import random

_LEAST_SECONDS = 1.0
_LONG_SECONDS = 2.0
_GRID_SECONDS = 0.5
"""Between the moments at which pauses end, for long ones twice that: a pause keeps at least half its length."""
_TICK = 1e-6

_phases: list[float] = []


def coalesce_wakeups() -> None:
    """Let the pauses of this process end together from now on. May be repeated.

    Not at the same moments as in other processes, which would then compete for the processors.
    """
    _phases[:] = [random.uniform(0, _GRID_SECONDS)]  # noqa: S311 - only spreads the load


def coalesced(seconds: float) -> float:
    """Return the length of a pause that begins now: *seconds*, or less, but at least half of it.

    Pauses of less than a second, and all pauses of processes that do not coalesce, keep their length.
    """
    if not _phases or seconds < _LEAST_SECONDS:
        return seconds
    grid = 2 * _GRID_SECONDS if seconds >= _LONG_SECONDS else _GRID_SECONDS
    now = asyncio.get_running_loop().time()
    (phase,) = _phases
    # A timer may fire a clock's tick early.
    steps = math.floor((now + seconds - phase) / grid + _TICK)
    return steps * grid + phase - now
