"""Record the runs that end with their worker, for the segment's next owner."""

from collections.abc import Sequence

from libs.docker_runner.containers.container import Ended
from services.bot_scheduler.attempt import ScheduleKit, once
from services.bot_scheduler.ending import result_of, utc
from services.bot_scheduler.state import ScheduleState


async def close_all(kit: ScheduleKit, ended: Sequence[Ended]) -> None:
    """Record runs that ended with their worker; retries are left to the next owner.

    Raises:
        Retryable: some are not recorded; may be repeated.
    """
    entities = await kit.claims.read([end.container.id for end in ended])
    for end in ended:
        entity = entities.get(end.container.id)
        await _close(kit, ScheduleState.of(entity) if entity is not None else None, end)


async def _close(kit: ScheduleKit, state: ScheduleState | None, ended: Ended) -> None:
    firing = state.firing if state is not None else None
    if state is None or firing is None or firing.run_id != ended.container.run_id:
        await kit.records.stray_ended(ended, deleted=state is None)
        return
    result = result_of(str(ended.reason), ended.finished_at or utc(kit.clock()), ended=ended)
    await kit.close(state, state.policy, firing, result, once)
