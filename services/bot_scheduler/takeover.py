"""Take over the claimed firings and running containers of an earlier owner of the segment.

A firing becomes one run, also after a crash. Its container proves that the run has started: if there is one, the run
is continued. Without one, the run may be started only if it certainly never was: its time has not come yet, it
waited for room, or it was to start on this host. Otherwise it is recorded as lost; `config.retries` then
decides as for any other failure.
"""

from collections.abc import Sequence

from libs.core.observability.log import get_logger
from libs.core.run_record import RunRecord
from libs.docker_runner.containers.container import ContainerState, ManagedContainer
from services.bot_scheduler.attempt import ScheduleKit, once
from services.bot_scheduler.ending import LOST, result_of, utc
from services.bot_scheduler.run import ScheduledRun
from services.bot_scheduler.state import Firing, ScheduleState

log = get_logger(__name__)

# The clocks of two workers may differ; the earlier owner's may have been ahead.
_CLOCKS_DIFFER_SECONDS = 5.0


class Takeover:
    """Takes over for one owned segment. *host* is the Docker host of this worker."""

    def __init__(self, kit: ScheduleKit, *, host: str) -> None:
        self._kit = kit
        self._host = host

    async def take(
        self, state: ScheduleState, containers: Sequence[ManagedContainer], now: float
    ) -> ScheduledRun | None:
        """The run that goes on for the firing in *state*; None when the firing is done with.

        Raises:
            Retryable: try again; nothing was begun.
        """
        firing = state.firing
        if firing is None:
            return None
        found = next((c for c in containers if c.run_id == firing.run_id), None)
        if found is not None and found.state is not ContainerState.CREATED:
            log.info("run taken over", schedule=state.id, run=firing.run_id, container=found.name)
            await self._kit.claims.take_over(state.id, firing)
            return ScheduledRun(state, self._kit.claims.with_owner(firing), self._kit, adopted=found)
        known = await self._kit.records.known_end(firing)
        if known is None and may_begin(firing, host=self._host, now=now):
            log.info("firing taken over", schedule=state.id, run=firing.run_id)
            if not await self._kit.claims.take_over(state.id, firing):
                return None
            # A start requested by its former owner may be in progress.
            return ScheduledRun(state, self._kit.claims.with_owner(firing), self._kit, may_be_started=True)
        return await self._over(state, firing, known, now)

    async def _over(
        self, state: ScheduleState, firing: Firing, known: RunRecord | None, now: float
    ) -> ScheduledRun | None:
        """Handle an attempt that ended, with or without a record of its end."""
        if known is not None and known.reason is not None:
            result = result_of(known.reason, known.ended_at or utc(now), known.message or "")
        else:
            message = "its worker is gone, and the outcome of the run is unknown"
            result = result_of(LOST, utc(now), message)
            log.warning("run lost", schedule=state.id, run=firing.run_id, host=firing.host)
        following = await self._kit.close(state, state.policy, firing, result, once)
        return ScheduledRun(state, following, self._kit) if following is not None else None


def may_begin(firing: Firing, *, host: str, now: float) -> bool:
    """Whether a firing without a container on *host* has certainly not been run, so that it may be begun now."""
    if firing.started:
        return False
    if firing.waiting:
        return True
    return firing.host == host or firing.begins_at > now + _CLOCKS_DIFFER_SECONDS
