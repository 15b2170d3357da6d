"""Collect all kinds of garbage in rounds. A failure of one kind does not affect the others."""

import time
from collections.abc import Sequence
from typing import NoReturn, Protocol

from libs.collector.metrics import COLLECTED, COLLECTED_BYTES, FAILURES, LAST_SUCCESS
from libs.collector.sweep import Found, Sweep
from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe
from libs.core.process.isolation import repeat, unexpected
from libs.core.storage.errors import ObjectMissing

log = get_logger(__name__)

_RETRY_SECONDS = 300.0
_LONGEST_FIRST_SECONDS = 60.0


class Garbage(Protocol):
    """One kind of data with a retention."""

    kind: str

    async def collect(self, sweep: Sweep) -> None:
        """Remove expired data with *sweep*. May be repeated and interrupted."""


class Collector:
    """Collects *kinds* of garbage every *interval_seconds*; with *dry_run* it only logs and counts."""

    def __init__(self, kinds: Sequence[Garbage], interval_seconds: float, *, dry_run: bool = False) -> None:
        self._kinds = kinds
        self._interval_seconds = interval_seconds
        self._dry_run = dry_run
        self._is_first = True
        for garbage in kinds:
            # Exported as 0, so that the first one shows as an increase.
            FAILURES.labels(garbage.kind)
            COLLECTED.labels(garbage.kind, str(dry_run).lower())
            COLLECTED_BYTES.labels(garbage.kind, str(dry_run).lower())

    async def collect_for_ever(self) -> NoReturn:
        """Collect in rounds until cancelled, as when another master leads."""
        # Of masters that lead one after another during a restart, not every one should start a round.
        self._is_first = True
        await repeat("collect garbage", self._next, self._interval_seconds)

    async def _next(self) -> float | None:
        if self._is_first:
            self._is_first = False
            return min(self._interval_seconds, _LONGEST_FIRST_SECONDS)
        found = await self.collect()
        return None if len(found) == len(self._kinds) else min(self._interval_seconds, _RETRY_SECONDS)

    async def collect(self) -> Sequence[Found]:
        """Run one round; return what was removed of each successful kind."""
        return [found for garbage in self._kinds if (found := await self._collect(garbage)) is not None]

    async def _collect(self, garbage: Garbage) -> Found | None:
        sweep = Sweep(garbage.kind, self._dry_run)
        try:
            with observe("collector", garbage.kind):
                await collect(garbage, sweep)
        except RuntimeFault as fault:
            log.warning("garbage not collected", kind=garbage.kind, removed=sweep.count, reason=str(fault))
        except Exception as error:  # noqa: BLE001 - of this kind alone: the others are collected all the same
            unexpected(f"collect {garbage.kind}", error)
        else:
            LAST_SUCCESS.labels(garbage.kind).set(time.time())
            if sweep.count:
                log.info(
                    "garbage found" if self._dry_run else "garbage collected",
                    kind=garbage.kind,
                    count=sweep.count,
                    bytes=sweep.size,
                )
            return sweep.found
        FAILURES.labels(garbage.kind).inc()
        return None


async def collect(garbage: Garbage, sweep: Sweep) -> None:
    """Run one round of one kind; a missing bucket has no garbage."""
    try:
        await garbage.collect(sweep)
    except ObjectMissing:
        # A bucket is created by its first writer.
        return
