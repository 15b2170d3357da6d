"""The work of one owned segment on a Docker host: do it while it is owned, end its containers when it no longer is."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

from libs.core.errors import Retryable
from libs.core.lease import Lease
from libs.core.log import get_logger
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.container import Ended
from libs.docker_runner.container_events import EventKind
from libs.docker_runner.container_group import ContainerGroup
from libs.docker_runner.docker_host import DockerHost

log = get_logger(__name__)

_NO_END_YET = (EventKind.STARTED, EventKind.KILLED)


class SegmentWork(Protocol):
    """What a service does with the containers of one owned segment."""

    @property
    def running(self) -> int:
        """How many containers run now; quick."""

    async def run(self) -> None:
        """Do it until cancelled."""

    def container_changed(self, entity_id: str) -> None:
        """A container of this entity has ended or is gone; "" when any may be."""

    def states(self) -> Mapping[str, int]:
        """How many entities are in which state, every state named; quick."""


W = TypeVar("W", bound=SegmentWork)


class DockerSegmentHandler(Generic[W]):
    """A `SegmentHandler` for whatever runs in containers.

    Args:
        work: makes what does the work of an owned segment.
        at_rest: told how the containers of a segment ended that is given back, before they are taken away. When it
            raises Retryable they stay, and whoever comes next finds out.
        keeps_logs: whether the containers' output goes to the day's logs.
    """

    def __init__(
        self,
        docker: DockerHost,
        *,
        work: Callable[[OwnedSegment], W],
        at_rest: Callable[[OwnedSegment, Sequence[Ended]], Awaitable[None]],
        keeps_logs: bool = True,
    ) -> None:
        self._docker = docker
        self._make_work = work
        self._at_rest = at_rest
        self._keeps_logs = keeps_logs
        self.work: W | None = None
        """The work of the segment that is owned; None while none is."""

    async def run(self, owned: OwnedSegment) -> None:
        """Do the segment's work until cancelled; the end of a container is noticed within milliseconds."""
        work = self.work = self._make_work(owned)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(owned, work), name="container events")
                tasks.create_task(work.run(), name="work of the segment")
        finally:
            self.work = None

    def renewed(self, lease: Lease) -> None:
        """Let the containers of the segment live on for as long as the lease is proven."""
        self._docker.keepalive(lease.segment_id).refresh(lease.proven_until)

    async def stop_all(self, owned: OwnedSegment, grace_seconds: float) -> None:
        """End every container of the segment, let none begin late, and have it written down how each ended."""
        group = self._docker.group(owned.segment_id, owned.epoch)
        if not owned.proven(margin_seconds=0.0):
            self._docker.keepalive(owned.segment_id).expire()
        async with self._listening():
            stopped = await group.stop_all(grace_seconds)
            self._docker.keepalive(owned.segment_id).expire()
            log.info("segment is at rest", segment=owned.segment_id, stopped=len(stopped))
            if owned.proven():
                await self._take_away(owned, group)

    def running(self) -> int:
        """How many containers of this worker run."""
        return self.work.running if self.work is not None else 0

    def states(self) -> Mapping[str, int]:
        """How many entities of the owned segment are in which state; nothing without a segment."""
        return self.work.states() if self.work is not None else {}

    async def _watch(self, owned: OwnedSegment, work: W) -> None:
        # Read in any case, for what the runner remembers of it: a container that died is dead at once, whatever the
        # engine lists.
        async for event in self._docker.events():
            if event.kind not in _NO_END_YET and event.segment in (owned.segment_id, -1):
                work.container_changed(event.id)

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        """Let the runner remember what happens to containers meanwhile: when asked, the engine says it later."""

        async def listen() -> None:
            async for _ in self._docker.events():
                pass

        listening = asyncio.create_task(listen(), name="container events")
        try:
            yield
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _take_away(self, owned: OwnedSegment, group: ContainerGroup) -> None:
        ended = await group.endings()
        recorded = True
        try:
            await self._at_rest(owned, ended)
        except Retryable as error:
            recorded = False
            log.warning("ends not recorded; the containers are left to the next owner", reason=str(error))
        if self._keeps_logs:
            await asyncio.gather(*(self._docker.logs.finish(end.container) for end in ended))
        if recorded:
            await group.remove(ended)
        if self._keeps_logs:
            await self._docker.logs.flush()
