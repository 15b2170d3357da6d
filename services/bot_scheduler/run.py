"""One firing, from its claim to its completion, with all of its attempts."""

from libs.core.errors import UserError
from libs.core.observability.log import bound_context
from libs.core.observability.tracing import Attributes, span
from libs.core.room import Need
from libs.docker_runner.code.definition import ExecutableBuilder
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.engine.room import RoomRequest
from services.bot_scheduler.attempt import ScheduledAttempt, ScheduleKit
from services.bot_scheduler.ending import StopReason
from services.bot_scheduler.state import Cause, Firing, ScheduleState


class ScheduledRun:
    """Carries out one firing. If cancelled, it leaves the container and the document as they are, for the next owner.

    Args:
        adopted: the container of this attempt, when an earlier owner started it.
        may_be_started: whether an earlier owner may have started it meanwhile.
    """

    def __init__(
        self,
        state: ScheduleState,
        firing: Firing,
        kit: ScheduleKit,
        adopted: ManagedContainer | None = None,
        *,
        may_be_started: bool = False,
    ) -> None:
        self.state = state
        self.policy = state.policy
        self.stop_reason: StopReason | None = None
        self.missed = False
        """Whether it was dropped because it would have been too late."""
        self._kit = kit
        self._room = _room_of(state, kit.executables)
        self._attempt = ScheduledAttempt(self, firing, kit, adopted, may_be_started=may_be_started)

    @property
    def firing(self) -> Firing:
        """The firing with its current attempt."""
        return self._attempt.firing

    @property
    def container(self) -> ManagedContainer | None:
        """The container of its current attempt."""
        return self._attempt.container

    @property
    def need(self) -> Need:
        """The limits of its container."""
        return self._room.need if self._room is not None else Need()

    @property
    def waits(self) -> bool:
        """Whether it waits only for room on the engine."""
        lack = self._attempt.lack
        return lack is not None and lack.need is not None

    @property
    def waits_for(self) -> str:
        """What it waits for since its time has come; an empty string for nothing."""
        lack = self._attempt.lack
        return lack.text if lack is not None else ""

    @property
    def over_quota(self) -> bool:
        """Whether it waits for the quota of its owner, so that more room on engines would not help it."""
        lack = self._attempt.lack
        return lack is not None and lack.need is None

    def changed(self) -> None:
        """Note a change of the container."""
        self._attempt.changed()

    def update(self, state: ScheduleState) -> None:
        """Use the changed document of the schedule for later attempts."""
        self.state = state
        self.policy = state.definition.policy if state.definition is not None else self.policy
        if not state.runnable and self.container is None and self.firing.cause is not Cause.MANUAL:
            self.stop(StopReason.WITHDRAWN)

    def stop(self, reason: StopReason) -> None:
        """Stop the run, or do not start it. The first reason stays, unless it is killed."""
        if self.stop_reason is None or (reason is StopReason.KILLED and self.stop_reason is not reason):
            self.stop_reason = reason
            self.changed()

    async def carry_out(self) -> None:
        """Return when the firing is completed, including all attempts."""
        about: Attributes = {
            "runtime.id": self.state.id,
            "runtime.segment": self._kit.owned.segment_id,
            "runtime.cause": str(self.firing.cause),
        }
        # A trace of its own for each firing: in the event's, a schedule would fill one trace for years.
        firing = span(
            "fire schedule", parent={}, links=[self.state.entity.trace, self._kit.owned.trace], attributes=about
        )
        with bound_context(schedule=self.state.id), firing:
            while True:
                run: Attributes = {"runtime.run_id": self.firing.run_id, "runtime.attempt": self.firing.attempt}
                with bound_context(run=self.firing.run_id), span("run schedule", attributes=run):
                    following = await self._attempt.carry_out()
                if following is None:
                    return
                self._attempt = ScheduledAttempt(self, following, self._kit)


def _room_of(state: ScheduleState, executables: ExecutableBuilder) -> RoomRequest | None:
    try:
        return executables.room(state.entity)
    except UserError:
        return None  # it is rejected as soon as it is to begin
