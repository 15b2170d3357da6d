"""Garbage-collect what workers left on this host: dead containers soon after their end, the rest periodically.

Only this removes a container whose segment has moved to another host: its old owner has no proven lease any
more, and its new owner never sees it. Its end is recorded first.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from libs.core.aio.wake import Wake
from libs.core.errors import Retryable
from libs.core.leases.lease import LeaseView
from libs.core.process.isolation import isolated, repeat
from libs.docker_runner.code.cache import CodeCache
from libs.docker_runner.containers.container import ContainerState, Ended, ManagedContainer
from libs.docker_runner.containers.expired_containers import ExpiredContainers
from libs.docker_runner.containers.keepalive import remove_abandoned, remove_stale
from libs.docker_runner.containers.run_records import History, Recorder, write_down
from libs.docker_runner.engine.events import ContainerEvent, EventKind
from libs.docker_runner.logs.pipeline import LogPipeline
from libs.docker_runner.runner import DockerRunner

CLEAN_SECONDS = 300.0
# No event reports a container that was created for a segment which was then lost, and that never started.
_CLEAR_SECONDS = 30.0
# Ends are known by events; this interval is for a start that failed, and costs a look into a folder.
_SPEC_SECONDS = 60.0
# A new owner is known some seconds after the death of the old one's containers.
_LOOK_AGAIN_SECONDS = 2.0
# An unowned segment's next owner may be on this host, and counts the end of a container that it finds.
_UNOWNED_SECONDS = 60.0


class HostCleaner:
    """Cleans one engine's host for one service and deployment; several workers of a host may do so at once.

    Args:
        owns: whether this worker owns a segment now.
        leases: returns all live leases.
        keepalives: the folder of this service and deployment, with one folder for each segment.
        life_seconds: duration of a lease.
        former: the folders of keepalives under earlier versions and settings.
    """

    def __init__(
        self,
        runner: DockerRunner,
        *,
        service: str,
        scope: str,
        owns: Callable[[int], bool],
        leases: Callable[[], Awaitable[Sequence[LeaseView]]],
        history: History,
        recorder: Recorder,
        code: CodeCache,
        logs: LogPipeline,
        keepalives: Path,
        former: Sequence[Path],
        life_seconds: float = 5.0,
        unowned_seconds: float = _UNOWNED_SECONDS,
        clear_seconds: float = _CLEAR_SECONDS,
    ) -> None:
        self._runner = runner
        self._service = service
        self._scope = scope
        self._owns = owns
        self._leases = leases
        self._history = history
        self._recorder = recorder
        self._code = code
        self._logs = logs
        self._keepalives = keepalives
        self._former = former
        self._unowned_seconds = unowned_seconds
        self._clear_seconds = clear_seconds
        self._died = Wake()
        self._ended = Wake()
        self._expired = ExpiredContainers(
            runner, service=service, scope=scope, keepalives=keepalives, life_seconds=life_seconds
        )

    async def run(self) -> None:
        """Clean forever. A dead container that this worker does not own is removed soon after its event."""
        runner = self._runner
        with self._runner.watch.listening(self._note, self._service, self._scope):
            async with asyncio.TaskGroup() as tasks:
                clear = repeat("clear dead containers", self.clear_once, self._clear_seconds, wake=self._died)
                tasks.create_task(clear, name="clear dead containers")
                specs = repeat(
                    "remove specs of dead containers",
                    lambda: runner.remove_dead_specs(self._service, self._scope),
                    _SPEC_SECONDS,
                    wake=self._ended,
                    longest_retry_seconds=2.0,
                )
                tasks.create_task(specs, name="remove specs of dead containers")
                clean = repeat("clean the docker host", self.clean_once, CLEAN_SECONDS)
                tasks.create_task(clean, name="clean the host")
                kill = repeat(
                    "kill expired containers", self._expired.kill_once, CLEAN_SECONDS, longest_retry_seconds=2.0
                )
                tasks.create_task(kill, name="kill expired containers")

    def _note(self, event: ContainerEvent) -> None:
        if event.kind in (EventKind.DIED, EventKind.RESYNC):
            self._ended.set()
        if event.kind is EventKind.DIED and not self._owns(event.segment):
            self._died.set()

    async def clear_once(self) -> float | None:
        """Remove dead containers without an owner here; return when to check again, if some are left for now.

        Raises:
            Retryable: the engine or the database is unavailable.
        """
        everybody = await self._runner.list(self._service, self._scope)
        kept = {container.segment for container in everybody if self._owns(container.segment)}
        dead = [c for c in everybody if c.state is not ContainerState.RUNNING and c.segment not in kept]
        if not dead:
            return None
        here = self._recorder.host
        moved = {lease.segment_id for lease in await self._leases() if lease.holder.host != here} - kept
        # Moved ones are removed concurrently, as each may have to wait for the end of its output.
        await asyncio.gather(*(self._take_output(c) for c in dead if c.segment in moved))
        cleared = await self._runner.clear(
            self._service, self._scope, kept, moved, self._unowned_seconds, before_removal=self._record
        )
        return _LOOK_AGAIN_SECONDS if cleared.left else None

    async def clean_once(self) -> None:
        """Remove everything else that is no longer used.

        Raises:
            Retryable: the engine is unavailable; the steps without it are done.
        """
        everybody = await self._runner.list(self._service, self._scope)
        away: Retryable | None = None
        for step in (
            lambda: self._runner.clean(self._service, self._scope),
            self._code.evict,
            lambda: self._logs.clean([container.container_id for container in everybody]),
            lambda: asyncio.to_thread(self._clean_keepalives, everybody),
        ):
            try:
                with isolated("clean the docker host"):
                    await step()
            except Retryable as error:
                away = error
        if away is not None:
            raise away

    async def _take_output(self, container: ManagedContainer) -> None:
        with isolated("clear dead containers"):
            if self._logs.following.is_following(container):
                await self._logs.following.finish(container)

    async def _record(self, ended: Ended) -> None:
        await write_down(self._history, self._recorder, ended)

    def _clean_keepalives(self, everybody: Sequence[ManagedContainer]) -> None:
        remove_stale(self._keepalives, {container.segment for container in everybody})
        remove_abandoned(self._keepalives.parent)
        for former in self._former:
            watched = {c.segment for c in everybody if c.state is ContainerState.RUNNING and _watches(c, former)}
            remove_stale(former, watched)
            # This worker refreshes those of its own segments while they exist, so that they never become stale.
            for folder in former.iterdir() if former.is_dir() else ():
                if folder.name.isdigit() and int(folder.name) not in watched and self._owns(int(folder.name)):
                    shutil.rmtree(folder, ignore_errors=True)


def _watches(container: ManagedContainer, former: Path) -> bool:
    """Whether it watches a file below *former*, or may do so: a container of an older version has no such label."""
    return not container.keepalive or Path(container.keepalive).parent == former
