"""The work of owned segments on a Docker host: run it while they are owned, then stop their containers."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Generic, Protocol, TypeVar

from libs.core.aio.wake import Wake
from libs.core.errors import Retryable
from libs.core.leases.boot_clock import boot_seconds
from libs.core.leases.lease import Lease
from libs.core.observability.log import get_logger
from libs.core.process.isolation import isolated, unexpected
from libs.core.room import Demand
from libs.core.worker.handler import OwnedSegment
from libs.docker_runner.containers.container import ContainerState, Ended
from libs.docker_runner.containers.container_group import ContainerGroup
from libs.docker_runner.engine.events import ContainerEvent, EventKind
from libs.docker_runner.errors import StateUnsaved
from libs.docker_runner.worker.docker_host import DockerHost

log = get_logger(__name__)

_AFTER_GRACE_SECONDS = 1.0
# How long a segment is kept for the last state of a bot, which another owner would not have.
_STATE_SECONDS = 10.0
_NO_END_YET = (EventKind.STARTED, EventKind.KILLED)


class SegmentWork(Protocol):
    """A service's work on the containers of one owned segment."""

    @property
    def running(self) -> int:
        """How many containers run now; fast."""

    async def run(self) -> None:
        """Do the work until cancelled."""

    def container_changed(self, entity_id: str) -> None:
        """Note that a container of this entity has ended or is gone; "" means any."""

    def states(self) -> Mapping[str, int]:
        """Return the number of entities in each state, including empty states; fast."""

    def demand(self) -> Demand:
        """Return what the entities need of the engine; fast."""


class EndPromises(Protocol):
    """Records until when the containers of an owned segment may stop after the segment was given away."""

    async def promise_ends(self, seconds: float) -> None:
        """Record that they are gone *seconds* from now."""

    async def has_promised(self, alive: Collection[str]) -> bool:
        """Return whether the promise covers the runs *alive*, and close the records of others."""

    async def container_ended(self, ended: Ended) -> None:
        """Record how one ended."""


W = TypeVar("W", bound=SegmentWork)


class DockerSegmentHandler(Generic[W]):
    """A `SegmentHandler` for work in containers.

    Args:
        work: creates the work of an owned segment.
        waking: sets the wake of a segment during the block, after changes of the segment's documents.
        at_rest: called with the ends of a released segment's containers, before they are removed. If it
            raises an exception they stay, and the next owner records their ends.
        keeps_logs: whether the containers' output goes to the day's logs.
        promises: records last deadlines of an owned segment's containers; None: they end before the segment is
            given away.
    """

    def __init__(
        self,
        docker: DockerHost,
        *,
        work: Callable[[OwnedSegment], W],
        waking: Callable[[int, Wake], AbstractAsyncContextManager[None]],
        at_rest: Callable[[OwnedSegment, Sequence[Ended]], Awaitable[None]],
        keeps_logs: bool = True,
        promises: Callable[[OwnedSegment], EndPromises] | None = None,
    ) -> None:
        self._docker = docker
        self._make_work = work
        self._waking = waking
        self._at_rest = at_rest
        self._keeps_logs = keeps_logs
        self._promises = promises
        self._promised_epochs: dict[int, int] = {}
        self._works: dict[int, W] = {}
        self._stopped_epochs: dict[int, int] = {}

    @property
    def works(self) -> Collection[W]:
        """The work of the owned segments."""
        return self._works.values()

    async def run(self, owned: OwnedSegment) -> None:
        """Do the segment's work until cancelled, and notify it of each container's end within milliseconds."""
        async with self._waking(owned.segment_id, owned.wake):
            self._docker.states.begin(owned.segment_id, owned.epoch)
            if self._keeps_logs:
                self._docker.logs.begin(owned.segment_id, owned.epoch)
            work = self._works[owned.segment_id] = self._make_work(owned)
            try:
                with self._docker.listening(lambda event: _pass_on(event, owned.segment_id, work)):
                    await work.run()
            finally:
                if self._works.get(owned.segment_id) is work:
                    del self._works[owned.segment_id]

    async def renewed(self, lease: Lease) -> None:
        """Extend the life of the segment's containers for as long as the lease is proven.

        After stop_all() a renewal of the same ownership has no effect: a late container must not live.
        """
        if self._stopped_epochs.get(lease.segment_id) == lease.epoch:
            return
        await self._docker.keep_alive(lease.segment_id, lease.proven_until, lease.epoch)

    async def expire(self, owned: OwnedSegment) -> None:
        """End the containers of the segment by their dead-man's switch."""
        await self._docker.expire(owned.segment_id)

    def leave(self, owned: OwnedSegment) -> None:
        """Release the logs of the segment, which the neighbour that owns it continues."""
        self._stopped_epochs[owned.segment_id] = owned.epoch
        if self._keeps_logs:
            self._docker.logs.drop(owned.segment_id)

    async def promise_ends(self, owned: OwnedSegment, grace_seconds: float) -> float | None:
        """Record the last deadline of the segment's containers, then write it into their keepalive.

        In this order: a container never lives longer than a later owner waits. A start that is still under way has a
        record, and its init finds the last deadline and does not start the bot.
        """
        if self._promises is None or not owned.proven():
            return None
        records, segment = self._promises(owned), owned.segment_id
        seconds = grace_seconds + _AFTER_GRACE_SECONDS
        if self._keeps_logs:
            self._docker.logs.leave(segment)
        # Before the request is sent: the deadline in MongoDB is never earlier than that of the containers.
        deadline = boot_seconds() + seconds
        await records.promise_ends(seconds)
        self._stopped_epochs[segment] = owned.epoch
        await self._docker.end_by(segment, deadline, owned.epoch)
        containers = await self._docker.group(segment, owned.epoch).list()
        alive = [c.run_id for c in containers if c.state is not ContainerState.EXITED]
        if not await records.has_promised(alive):
            await self._docker.expire(segment)
            return None
        if self._keeps_logs:
            await self._docker.logs.release(segment)
        self._promised_epochs[segment] = owned.epoch
        return seconds

    async def stop_all(self, owned: OwnedSegment, grace_seconds: float) -> None:
        """Stop every container of the segment, including late starts, and record how each ended."""
        group = self._docker.group(owned.segment_id, owned.epoch)
        if self._promises is not None and self._promised_epochs.get(owned.segment_id) == owned.epoch:
            await self._end_promised(owned, group, self._promises(owned), grace_seconds)
            return
        if not owned.proven(margin_seconds=0.0):
            await self._docker.expire(owned.segment_id)
        elif self._keeps_logs:
            self._docker.logs.leave(owned.segment_id)
        stopped = await group.stop_all(grace_seconds)
        self._stopped_epochs[owned.segment_id] = owned.epoch
        await self._docker.expire(owned.segment_id)
        log.info("segment is at rest", segment=owned.segment_id, stopped=len(stopped))
        if owned.proven():
            await self._take_away(owned, group)
        elif self._keeps_logs:
            # The next owner may be on this host, and waits for them.
            self._docker.logs.end_soon(owned.segment_id)

    def running(self) -> int:
        """Return the number of this worker's running containers."""
        return sum(work.running for work in self._works.values())

    def demand(self, segment_id: int) -> Demand:
        """Return what the entities of an owned segment need of the engine."""
        work = self._works.get(segment_id)
        return work.demand() if work is not None else Demand()

    def states(self) -> Mapping[str, int]:
        """Return the number of entities of the owned segments in each state; empty without a segment."""
        total: Counter[str] = Counter()
        for work in self._works.values():
            with isolated("count states", passing=()):
                # update() keeps states that count zero.
                total.update(work.states())
        return total

    async def _end_promised(
        self, owned: OwnedSegment, group: ContainerGroup, records: EndPromises, grace_seconds: float
    ) -> None:
        """Stop containers that have a last deadline. The next owner starts each bot when its end is recorded."""

        async def ended_one(ended: Ended) -> None:
            # Before its end is recorded, with which the next owner starts it.
            await self._save_state(ended)
            await records.container_ended(ended)
            if self._keeps_logs:
                with isolated("read the rest of a container's output", passing=()):
                    await self._docker.logs.read_rest(ended.container)

        self._docker.ending.add(owned.segment_id)
        try:
            await group.end_each(grace_seconds, ended_one)
            ended = await group.endings()
            log.info("segment is at rest", segment=owned.segment_id, stopped=len(ended))
            await self._finish(owned.segment_id, group, ended, ended)
        finally:
            self._docker.ending.discard(owned.segment_id)

    async def _finish(
        self, segment: int, group: ContainerGroup, ended: Sequence[Ended], recorded: Sequence[Ended]
    ) -> None:
        """Upload the output of ended containers, and remove those whose ends are recorded; in the background."""
        if self._keeps_logs:
            containers = [end.container for end in ended]
            self._docker.logs.finish_later(segment, containers, then=lambda: group.remove(recorded))
        else:
            await group.remove(recorded)

    async def _save_state(self, ended: Ended) -> None:
        """Save the last state of a container, for the next owner of the segment."""
        with isolated("save state", passing=()):
            try:
                async with asyncio.timeout(_STATE_SECONDS):
                    await self._docker.states.save(ended.container)
            except (StateUnsaved, TimeoutError) as error:
                log.warning("last state not saved; an earlier one follows", id=ended.container.id, reason=str(error))

    async def _take_away(self, owned: OwnedSegment, group: ContainerGroup) -> None:
        """Record how the containers ended; their output is uploaded and they are removed in the background."""
        ended = await group.endings()
        await asyncio.gather(*(self._save_state(end) for end in ended))
        recorded: Sequence[Ended] = ended
        try:
            await self._at_rest(owned, ended)
        except Exception as error:  # noqa: BLE001 - nothing runs any more: the segment must not stay here for it
            recorded = ()
            if not isinstance(error, Retryable):
                unexpected("record ends", error, segment=owned.segment_id)
            log.warning("ends not recorded; containers are left for the next owner", reason=str(error))
        await self._finish(owned.segment_id, group, ended, recorded)


def _pass_on(event: ContainerEvent, segment: int, work: SegmentWork) -> None:
    """Notify *work* of an end in its segment, and of a gap, in which any container may have ended."""
    if event.kind not in _NO_END_YET and event.segment in (segment, -1):
        work.container_changed(event.id)
