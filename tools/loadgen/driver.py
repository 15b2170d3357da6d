"""Publish a load's events at their times, and remove its entities when interrupted."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Protocol

from libs.core.errors import Retryable
from tools.bots.announce import Deployment
from tools.cli.interrupts import uninterrupted
from tools.loadgen.load import Action, Load, steps

_MAX_FAILURES_IN_A_ROW = 10


class Publisher(Protocol):
    """The target of events; implemented by `Announcer`."""

    async def created(self, deployed: Deployment) -> None: ...
    async def deleted(self, entity_id: str, config: dict[str, object]) -> None: ...


@dataclass
class Progress:
    """The progress. *behind_seconds* is the delay of the last event: above zero, the rate is not reached."""

    created: int = 0
    removed: int = 0
    failed: int = 0
    seconds: float = 0.0
    behind_seconds: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Return it as JSON."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


class Driver:
    """One run of a load.

    Args:
        deploy: creates entity number n for its announcement.
        report: called after each event.
    """

    def __init__(
        self,
        load: Load,
        publisher: Publisher,
        deploy: Callable[[int], Deployment],
        report: Callable[[Progress], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.progress = Progress()
        self._load = load
        self._publisher = publisher
        self._deploy = deploy
        self._report = report
        self._sleep = sleep
        self._clock = clock
        self._present: set[int] = set()
        self._failures = 0

    async def run(self) -> Progress:
        """Publish everything. If interrupted, remove the created entities (backtests end by themselves) first.

        Raises:
            Retryable: the last ten events could not be published.
        """
        begun = self._clock()
        try:
            for step in steps(self._load):
                await self._sleep(max(0.0, begun + step.at_seconds - self._clock()))
                self.progress.behind_seconds = max(0.0, self._clock() - begun - step.at_seconds)
                await self._publish(step.action, step.number)
                self.progress.seconds = self._clock() - begun
                self._report(self.progress)
        finally:
            if self._present:
                await uninterrupted(self.remove_all())
        return self.progress

    async def remove_all(self) -> None:
        """Remove the remaining entities, without a rate limit."""
        for number in sorted(self._present):
            await self._publish(Action.REMOVE, number)

    async def _publish(self, action: Action, number: int) -> None:
        if action is Action.CREATE and self._load.kind.service.deleted_subject is not None:
            # Before the call: if its answer is lost, it may have happened.
            self._present.add(number)
        try:
            if action is Action.CREATE:
                await self._publisher.created(self._deploy(number))
            else:
                await self._publisher.deleted(self._load.id_of(number), self._load.config())
        except Retryable:
            self.progress.failed += 1
            self._failures += 1
            if self._failures >= _MAX_FAILURES_IN_A_ROW:
                # The rest cannot be removed either; `remove` does it when the server is back.
                self._present.clear()
                raise
            return
        self._failures = 0
        if action is Action.CREATE:
            self.progress.created += 1
        else:
            self.progress.removed += 1
            self._present.discard(number)
