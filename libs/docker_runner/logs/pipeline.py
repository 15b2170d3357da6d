"""The output of all bots on this worker: from the engine into spools on disk, from there into objects.

Each bot has one spool, which its containers use one after the other, in a folder named like them. The folder is locked
by the process that uses it, so that a superseded worker and its successor never use it together. Output
goes into the bot's day object while this worker owns the bot's segment. Output left on a host that no longer owns it
goes into an object beside it: no two hosts ever write to one. A worker that releases a segment uploads the rest after
the release, while the next owner waits for its turn (handover.py).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence

from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.process.isolation import unexpected
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.logs.following import LogFollowing, LogSource, OnMetric
from libs.docker_runner.logs.handover import HandOver, Turn
from libs.docker_runner.logs.open_logs import OpenLogs
from libs.docker_runner.logs.uploads import LogUploads, StoredOutput

log = get_logger(__name__)


class LogPipeline:
    """Follows containers and uploads their output while it runs: a worker's work on the logs of its segments.

    Args:
        interval_seconds, hand_over_seconds: see :class:`LogUploads`.
        on_metric: see :class:`LogFollowing`.
        stored_output: see :class:`LogUploads`.
    """

    def __init__(
        self,
        source: LogSource,
        logs: OpenLogs,
        turns: HandOver,
        *,
        interval_seconds: float = 30.0,
        hand_over_seconds: float = 60.0,
        on_metric: OnMetric | None = None,
        stored_output: StoredOutput | None = None,
    ) -> None:
        self.uploads = LogUploads(
            logs,
            turns,
            interval_seconds=interval_seconds,
            hand_over_seconds=hand_over_seconds,
            stored_output=stored_output,
        )
        self.following = LogFollowing(source, logs, self.uploads, on_metric)
        self._logs = logs
        self._turns = turns
        self._finishing: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Do all the work, forever. Cancelling it loses nothing; :meth:`flush` uploads the rest."""
        try:
            async with asyncio.TaskGroup() as group:
                self.following.begin(group)
                await self.uploads.run(group)
        finally:
            self.following.end()
            for task in self._finishing:
                task.cancel()
            await asyncio.gather(*self._finishing, return_exceptions=True)
            self._logs.close_all()

    async def flush(self, limit_seconds: float = 10.0) -> None:
        """Upload all output once, within the limit. For shutdown, after the last finish()."""
        if not await self.uploads.upload_once([bot for bot in self._logs if bot.spool.pending_bytes], limit_seconds):
            log.warning("output stays on this host's disk and is uploaded later")

    def begin(self, segment: int, epoch: int) -> None:
        """Note that the segment was acquired under *epoch*. Call it before its first container is followed."""
        self._turns.begin(segment, epoch)

    def leave(self, segment: int) -> None:
        """Announce that output will be added after the release of the segment.

        Call it while the lease is proven and before the containers are stopped, so that the announcement is
        written meanwhile. Returns at once, and may be repeated.
        """
        self._turns.leave(segment)

    async def release(self, segment: int, limit_seconds: float = 1.0) -> None:
        """Note that the lease is about to be given away, after :meth:`leave`; wait for the announcement.

        Call it while the lease is proven. :meth:`finish_later` may then be called when it is not any more.
        """
        await self._turns.announced(segment, limit_seconds)
        self._turns.release(segment)

    async def read_rest(self, container: ManagedContainer) -> None:
        """Copy the rest of an ended container's output to this host's disk, from where it is uploaded at once."""
        await self.following.finish(container)

    def finish_later(
        self,
        segment: int,
        containers: Sequence[ManagedContainer],
        then: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Copy and upload the rest of a segment's output in the background. Returns at once.

        Call it while the lease is proven, when *containers* have ended and their ends are recorded; release the lease
        afterwards. The rest goes into the days' objects for 10 s after this call if :meth:`leave` was called
        before; what is left then stays on this host's disk, for its next owner here or for an object beside the day's.
        It continues while :meth:`run` does; :meth:`finished` waits for it.

        Args:
            then: called once their output is on this host's disk, or could not be read in time; removes them.
        """
        finishing = self._finish(segment, containers, then, self._turns.release(segment))
        task = asyncio.create_task(finishing, name=f"finish the logs of segment {segment}")
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    def drop(self, segment: int) -> None:
        """Stop following the segment's containers, at once: another worker of this host may own them now.

        What is read so far stays on this host's disk, and its next owner continues there. May be repeated.
        """
        self.following.drop(segment)

    def end_soon(self, segment: int) -> None:
        """Read the rest of the segment's ended containers and release their logs: the lease was lost. Returns at once.

        The rest stays on this host's disk, for the next owner here or for an object beside the day's.
        """
        self.following.end_soon(segment)

    async def finished(self, limit_seconds: float = 15.0) -> None:
        """Return when the work of :meth:`finish_later` is done, or at the limit. For shutdown."""
        if self._finishing:
            _, late = await asyncio.wait(set(self._finishing), timeout=limit_seconds)
            if late:
                log.warning("output stays on this host's disk and is uploaded later", segments=len(late))

    async def clean(self, live: Collection[str]) -> int:
        """Remove the folders of bots whose container is gone and whose output is uploaded; return how many.

        Args:
            live: the engine's ids of all managed containers, including those of other services and scopes.
        """
        return await self._logs.remove_finished(live)

    # --- inside

    async def _finish(
        self,
        segment: int,
        containers: Sequence[ManagedContainer],
        then: Callable[[], Awaitable[None]] | None,
        turn: Turn | None,
    ) -> None:
        try:
            await asyncio.gather(*(self.following.finish(container) for container in containers))
            if then is not None:
                await then()
        except RuntimeFault as error:
            log.warning("containers are left for the next owner", segment=segment, reason=str(error))
        except Exception as error:  # noqa: BLE001 - of this segment alone
            unexpected("upload the rest of a segment's output", error, segment=segment)
        try:
            await self.uploads.upload_rest(segment)
        finally:
            # Cancelled at the end of the process: no upload runs any more.
            if turn is not None:
                await self._turns.done(turn)
