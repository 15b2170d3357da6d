"""The connection of this worker with one pod: keep it, answer the init's questions, and store what it sends."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from libs.core.aio.backoff import Backoff
from libs.core.aio.threads import Threads
from libs.core.leases.boot_clock import boot_seconds
from libs.core.observability.log import get_logger
from libs.docker_runner.containers.container import EndReason, ManagedContainer
from libs.docker_runner.pods.link import (
    End,
    LinkBroken,
    LinkRefused,
    OutcomePart,
    Output,
    Phase,
    PodLink,
    Question,
    Report,
    StartRefused,
    StatePart,
    StateProblem,
    Superseded,
    Welcome,
)
from libs.docker_runner.pods.mirror import PodMirror
from libs.docker_runner.pods.sending import Sent, SentFile, SentFolder

log = get_logger(__name__)

BEYOND_LEASE_SECONDS = 2.0
"""How long a bot may live after its worker's lease: for the next owner, which connects in this time."""
UNREACHABLE_SECONDS = 7.5
"""A lease, the time beyond it, and a margin: then no grant of any worker holds."""
_MARGIN_SECONDS = 0.5
# The init asks twice a second.
_SILENCE_SECONDS = 3.0


@dataclass(frozen=True)
class SegmentLease:
    """What this worker has proven about a segment.

    Attributes:
        epoch: of its ownership.
        until: the end of the lease, by boot_seconds().
    """

    epoch: int
    until: float


def granted_seconds(lease: SegmentLease | None, now: float) -> float | None:
    """Return how long a bot may live from *now* on; None to grant nothing. Pure."""
    if lease is None or lease.until <= now:
        return None
    return lease.until - now + BEYOND_LEASE_SECONDS


class PodSession:
    """The connection with one pod.

    Args:
        lease: returns what this worker has proven about the pod's segment; None: it does not own it.
        changed: called when the bot has started, and when it has ended.

    Attributes:
        phase: as last reported; None before the first connection.
        end: how the bot ended; None while it has not.
    """

    def __init__(
        self,
        container: ManagedContainer,
        mirror: PodMirror,
        threads: Threads,
        *,
        address: str,
        port: int,
        key: bytes,
        lease: Callable[[], SegmentLease | None],
        changed: Callable[["PodSession"], None],
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self.container = container
        self.mirror = mirror
        self.phase: Phase | None = None
        self.end: End | None = None
        self.started = asyncio.Event()
        self.over = asyncio.Event()
        self._threads = threads
        self._address, self._port, self._key = address, port, key
        self._lease = lease
        self._changed = changed
        self._clock = clock
        self._link: PodLink | None = None
        self._granted_until = 0.0
        self._granted_epoch = self._seen_epoch = -1
        self._unreachable_since = clock()
        self._refusal: str | None = None
        self._stored_offset = 0
        self._output = asyncio.Condition()
        self._connected = asyncio.Event()
        self._granted = asyncio.Event()

    @property
    def is_connected(self) -> bool:
        """Whether the init answers now."""
        return self._link is not None

    def dead_at(self) -> float:
        """Return when, by boot_seconds(), the bot of an unreachable pod is dead for certain: no grant holds."""
        lease = self._lease()
        if lease is not None and lease.epoch == self._granted_epoch:
            # An earlier owner's grants ended before: they go no further beyond its lease.
            return self._granted_until + _MARGIN_SECONDS
        return self._unreachable_since + UNREACHABLE_SECONDS

    def is_dead(self) -> bool:
        """Whether the bot has ended, or is dead for certain. Only the owner of its segment can know the latter."""
        if self.end is not None:
            return True
        return not self.is_connected and self.is_owned() and self._clock() >= self.dead_at()

    def is_owned(self) -> bool:
        """Whether this worker owns the segment now."""
        return granted_seconds(self._lease(), self._clock()) is not None

    async def run(self) -> None:
        """Keep the connection while this worker owns the segment, until the bot's end is known."""
        backoff = Backoff(initial_seconds=0.05, cap_seconds=0.2)
        await self._threads.run(self.mirror.open, self.container)
        while not self.over.is_set():
            lease = self._lease()
            if lease is None or not self.is_owned():
                # Another worker may serve it meanwhile: this says nothing about the pod.
                self._unreachable_since = self._clock()
                await asyncio.sleep(0.1)
                continue
            if lease.epoch != self._seen_epoch:
                self._seen_epoch, self._unreachable_since = lease.epoch, self._clock()
            try:
                await self._serve(lease)
            except LinkRefused as error:
                self._unreachable_since = self._clock()
                log.info("a later owner serves a pod", container=self.container.name, reason=str(error))
                await asyncio.sleep(1.0)
            except LinkBroken as error:
                log.debug("the connection with a pod ended", container=self.container.name, reason=str(error))
            await asyncio.sleep(backoff.next_seconds())
            if self.phase is not None:
                backoff.reset()

    async def _serve(self, lease: SegmentLease) -> None:
        link, welcome = await PodLink.open(
            self._address,
            self._port,
            self._key,
            epoch=lease.epoch,
            offset=self.mirror.output.end,
            timeout_seconds=_SILENCE_SECONDS,
        )
        self._link = link
        self._connected.set()
        try:
            await self._take(link, welcome)
            while self.end is None:
                current = self._lease()
                if current is not None and current.epoch != lease.epoch:
                    return
                try:
                    async with asyncio.timeout(_SILENCE_SECONDS):
                        report = await link.receive()
                except TimeoutError as error:
                    raise LinkBroken(f"{self._address} is silent") from error
                await self._take(link, report)
        finally:
            if self.end is None:
                self._link = None
                self._connected.clear()
                self._unreachable_since = self._clock()
                await link.close()

    async def _take(self, link: PodLink, report: Report) -> None:
        match report:
            case Welcome():
                self.phase = report.phase
                if report.phase is Phase.RUNNING and not self.started.is_set():
                    self.started.set()
                    self._changed(self)
            case Question():
                await self._answer(link, report)
            case Output():
                await self._threads.run(self.mirror.output.add, report.offset, report.data)
                async with self._output:
                    self._output.notify_all()
            case OutcomePart():
                await self._threads.run(self.mirror.put_outcome, report.offset, report.size, report.data)
            case StatePart():
                await self._threads.run(self.mirror.put_state, report.offset, report.size, report.data)
            case StateProblem():
                await self._threads.run(self.mirror.put_problem, report.word)
            case StartRefused():
                self._refusal = report.reason
                self.started.set()
            case End():
                if report.lost:
                    await self._threads.run(self.mirror.mark, EndReason.LEASE_LOST)
                await self.ended(report)
            case Superseded():
                raise LinkRefused(self.container.name)

    async def _answer(self, link: PodLink, question: Question) -> None:
        lease, now = self._lease(), self._clock()
        seconds = granted_seconds(lease, now)
        if lease is not None and seconds is not None:
            # Before it is sent: what is granted is known, even if the answer is lost.
            self._granted_until = max(self._granted_until, now + seconds)
            self._granted_epoch = lease.epoch
            await link.grant(question, seconds)
            self._granted.set()

    async def ended(self, end: End) -> None:
        """Note the end of the bot. May be repeated."""
        if self.end is None:
            self.end = end
            self.phase = Phase.ENDED
            self.over.set()
            self.started.set()
            self._granted.set()
            self._connected.set()
            async with self._output:
                self._output.notify_all()
            self._changed(self)

    # --- what the engine asks for

    async def begin(self, things: Iterable[Sent], command: Sequence[str]) -> None:
        """Send the bot's files and start it.

        Raises:
            LinkBroken: unknown; the pod may run.
            StartRefusedError: it was refused.
        """
        while self._link is None:
            if self.over.is_set():
                raise LinkBroken("the pod has ended")
            await self._connected.wait()
        link = self._link
        for thing in things:
            match thing:
                case SentFile():
                    content = thing.content
                    if content is None:
                        content = await self._threads.run(thing.source.read_bytes)
                    await link.put_file(thing.path, content, thing.mode)
                case SentFolder():
                    await link.put_folder(thing.path)
                case _:
                    await link.put_link(thing.path, thing.target)
        # The lease of a start must be proven to the init, or it refuses.
        await self._granted.wait()
        await link.start(command)
        await self.started.wait()
        if self._refusal is not None:
            raise StartRefusedError(self._refusal)

    async def stop(self, grace_seconds: float) -> None:
        """Order the init to end the bot; nothing when it cannot be reached."""
        if self._link is not None and self.end is None:
            await self._link.stop(grace_seconds)

    async def expire(self) -> None:
        """End the bot at once, since the lease is lost."""
        if self._link is not None and self.end is None:
            await self._link.expire()

    async def stored(self, stamp_ns: int) -> None:
        """Let the init drop the output up to the time *stamp_ns*, which the storage has."""
        offset = await self._threads.run(self.mirror.output.offset_after, stamp_ns, self._stored_offset)
        if self._link is not None and offset > self._stored_offset:
            self._stored_offset = offset
            await self._link.stored(offset)

    async def leave(self) -> None:
        """Let the init of a bot that ended exit, and close the connection. May be repeated."""
        link, self._link = self._link, None
        if link is not None:
            try:
                await link.leave()
            except LinkBroken as error:
                log.debug("a pod was gone already", container=self.container.name, reason=str(error))
            await link.close()

    async def more_output(self, offset: int) -> bool:
        """Wait for output after *offset*; return False when there will be none."""
        async with self._output:
            await self._output.wait_for(lambda: self.mirror.output.end > offset or self.over.is_set())
        return self.mirror.output.end > offset


class StartRefusedError(LinkBroken):
    """The init refused to start the bot."""
