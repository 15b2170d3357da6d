"""End containers that no firing knows: of schedules that were deleted while no worker owned their segment."""

import asyncio
from collections.abc import Collection, Iterable

from libs.core.aio.retrying import retry_forever
from libs.core.observability.log import get_logger
from libs.core.process.isolation import unexpected
from libs.docker_runner.containers.container import Ended, ManagedContainer
from libs.docker_runner.runs.stop_orders import retire
from services.bot_scheduler.attempt import ScheduleKit

log = get_logger(__name__)


class StrayContainers:
    """Ends the containers of one owned segment that belong to no firing."""

    def __init__(self, kit: ScheduleKit) -> None:
        self._kit = kit
        self._ending: set[str] = set()
        self.is_any_left = False
        """Whether one could not be ended, so that :meth:`end` has to be called again."""

    def end(self, containers: Iterable[ManagedContainer], runs: Collection[str], tasks: asyncio.TaskGroup) -> None:
        """End in *tasks* those of *containers* whose run is not in *runs*. Returns at once, and may be repeated."""
        self.is_any_left = False
        for container in containers:
            if container.run_id not in runs and container.container_id not in self._ending:
                self._ending.add(container.container_id)
                tasks.create_task(self._end(container), name=f"end container of {container.id[:40]!r}")

    async def _end(self, container: ManagedContainer) -> None:
        # In a task of its own: one that cannot be ended must not delay the kill switch of all.
        log.warning("container without a firing is stopped", schedule=container.id, run=container.run_id)
        try:
            await retry_forever(lambda: self._retire(container))
        except Exception as error:  # noqa: BLE001 - of this container alone
            unexpected("end container of no firing", error, schedule=container.id)
            self.is_any_left = True
        finally:
            self._ending.discard(container.container_id)

    async def _retire(self, container: ManagedContainer) -> None:
        kit = self._kit

        async def record(ended: Ended) -> None:
            await kit.records.output_read(container)
            await kit.records.stray_ended(ended, deleted=True)

        await retire(kit.engine, container, kit.stop_grace_seconds, record)
