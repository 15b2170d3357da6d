"""The state of containers by events, for answers without the engine, which blocks requests about a dying container.

The engine reports a death as soon as the processes are gone, with the exit code. Then it removes the network of the
container, and until that is done, which takes seconds when thirty die at once, each request about it waits.
"""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime

from libs.docker_runner.containers.container import ContainerState, ManagedContainer
from libs.docker_runner.engine.events import ContainerEvent, EventKind

# A removal during a gap in the events is never reported.
_DEATHS_KEPT = 1000
_SIGKILL_EXIT_CODE = 137


@dataclass
class _State:
    started_at: datetime | None = None
    killed_at: datetime | None = None
    out_of_memory: bool = False
    ended_at: datetime | None = None
    exit_code: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)


class ContainerStateCache:
    """Starts and ends of containers, by the engine's ids, as reported by its events."""

    def __init__(self) -> None:
        self._states: dict[str, _State] = {}
        self._dead: dict[str, None] = {}

    def note(self, event: ContainerEvent) -> None:
        """Apply *event*."""
        match event.kind:
            case EventKind.STARTED:
                state = self._of(event.container_id)
                if state.ended_at is not None:
                    state = self._states[event.container_id] = _State()
                    self._dead.pop(event.container_id, None)
                state.started_at = event.at
            case EventKind.KILLED:
                self._of(event.container_id).killed_at = event.at
            case EventKind.OUT_OF_MEMORY:
                self._of(event.container_id).out_of_memory = True
            case EventKind.DIED if event.exit_code is not None:
                state = self._of(event.container_id)
                state.ended_at, state.exit_code = event.at, event.exit_code
                state.over.set()
                self._dead[event.container_id] = None
                if len(self._dead) > _DEATHS_KEPT:
                    self.forget(next(iter(self._dead)))
            case EventKind.REMOVED:
                self.forget(event.container_id)

    def note_start(self, container_id: str, started_at: datetime | None) -> None:
        """Set the start time of a running container, by the engine's clock, which may differ from this host's."""
        state = self._of(container_id)
        state.started_at = state.started_at or started_at

    def forget(self, container_id: str) -> None:
        """Drop a removed container. May be repeated."""
        self._dead.pop(container_id, None)
        state = self._states.pop(container_id, None)
        if state is not None:
            state.over.set()

    def is_over(self, container_id: str) -> bool:
        """Whether it is known to have died, regardless of the engine's list."""
        state = self._states.get(container_id)
        return state is not None and state.ended_at is not None

    async def until_over(self, container_id: str) -> None:
        """Return when it is known to have died, or to be removed."""
        await self._of(container_id).over.wait()

    def ended(self, container: ManagedContainer) -> ManagedContainer | None:
        """Return *container* with its end; None when that is unknown or incomplete."""
        state = self._states.get(container.container_id)
        if state is None or state.ended_at is None:
            return None
        # By one clock, if possible.
        started_at = state.started_at or container.started_at
        if started_at is None:
            return None
        killed_at = state.killed_at if state.exit_code == _SIGKILL_EXIT_CODE else None
        # The engine reports late when many are killed at once, but no process survives this signal.
        finished_at = max(started_at, min(killed_at or state.ended_at, state.ended_at))
        return replace(
            container,
            state=ContainerState.EXITED,
            exit_code=state.exit_code,
            oom_killed=state.out_of_memory,
            started_at=started_at,
            finished_at=finished_at,
        )

    def _of(self, container_id: str) -> _State:
        return self._states.setdefault(container_id, _State())
