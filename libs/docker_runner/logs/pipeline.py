"""The output of all bots on this worker: from the engine into spools on disk, from there into objects.

Each bot has one spool, which its containers use one after the other, in a folder named like them. The folder is locked
by the process that works on it, so that a worker which was superseded and its successor never do so together. Output
goes into the bot's day object while this worker owns the bot's segment. What is left on a host that no longer does,
goes into an object beside it: no two hosts ever write to one. A worker that gives a segment back uploads the rest after
the release, while the next owner waits for its turn (handover.py).
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from libs.core.aio.wake import Wake
from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.process.isolation import unexpected
from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.logs.bot_log import BotLog
from libs.docker_runner.logs.budget import SpoolBudget
from libs.docker_runner.logs.following import LogFollowing, LogSource
from libs.docker_runner.logs.handover import REST_SECONDS, WAIT_SECONDS, HandOver, Turn
from libs.docker_runner.logs.objects import LogObjects
from libs.docker_runner.logs.open_logs import OpenLogs
from libs.docker_runner.logs.spans import Span
from libs.docker_runner.logs.spool import Place
from libs.docker_runner.logs.uploads import LogUploads

log = get_logger(__name__)

_EARLY_UPLOAD_BYTES = 4 * 1024 * 1024


class LogPipeline:
    """Follows containers, uploads what they write, and lets people read along.

    Args:
        directory: where the spools are, for one service and scope alone; its worker processes on a host share it.
        writer: a name of this host, for output of bots that it no longer owns.
        place: what tells the segments of one service and scope from those of others with the same bucket.
        owns: whether this worker owns a segment now, by a lease that it can prove.
        budget: how much output may take on disk while the storage is away; None for the usual one.
        interval_seconds: how long output waits at most before it is uploaded, while the storage is there; longer
            only when uploads of this bot would otherwise take more than a fifth of the time.
        hand_over_seconds: after so long without output, what is left of a bot owned by another goes beside its object.
        rest_seconds: how long after its release the rest of a segment's output may be uploaded.
        parallel: uploads at once; each takes up to 16 MiB of memory.
    """

    def __init__(
        self,
        source: LogSource,
        store: ObjectStore,
        bucket: str,
        directory: Path,
        *,
        writer: str,
        owns: Callable[[int], bool],
        place: str = "",
        budget: SpoolBudget | None = None,
        interval_seconds: float = 30.0,
        hand_over_seconds: float = 60.0,
        rest_seconds: float = REST_SECONDS,
        parallel: int = 4,
    ) -> None:
        host = hashlib.sha256(writer.encode()).hexdigest()[:8]
        objects = LogObjects(store, bucket)
        self._owns = owns
        self._interval_seconds = interval_seconds
        self._turns = HandOver(
            store,
            bucket,
            place=place,
            writer=host,
            owns=owns,
            rest_seconds=rest_seconds,
            # An addition that begins in time is over by then.
            wait_seconds=rest_seconds + (WAIT_SECONDS - REST_SECONDS),
        )
        self._executor = ThreadPoolExecutor(parallel + 4, thread_name_prefix="logs")
        wake = Wake()
        self._logs = OpenLogs(directory, objects, self._executor, budget or SpoolBudget(), wake)
        self._uploads = LogUploads(
            self._logs,
            objects,
            self._turns,
            writer=host,
            owns=owns,
            wake=wake,
            interval_seconds=interval_seconds,
            hand_over_seconds=hand_over_seconds,
            rest_seconds=rest_seconds,
            parallel=parallel,
        )
        # What is there is uploaded at once when its container has ended, and so is the padded twin.
        self._following = LogFollowing(
            source, self._logs, self._executor, written=self._written, done=self._uploads.due_now
        )
        self._finishing: set[asyncio.Task[None]] = set()

    # --- for the worker

    async def run(self) -> None:
        """Do all the work, for ever. Cancelling it is safe at any moment; :meth:`flush` before that is kind."""
        try:
            async with asyncio.TaskGroup() as group:
                self._following.begin(group)
                await self._uploads.run(group)
        finally:
            self._following.end()
            for task in self._finishing:
                task.cancel()
            await asyncio.gather(*self._finishing, return_exceptions=True)
            self._logs.close_all()
            self._executor.shutdown(wait=False)

    def follow(self, container: ManagedContainer) -> None:
        """Take the container's output from where it was left, until :meth:`finish`. May be repeated."""
        self._following.follow(container)

    def is_following(self, container: ManagedContainer) -> bool:
        """Whether the container's output is being taken here."""
        return self._following.is_following(container)

    async def finish(self, container: ManagedContainer, limit_seconds: float = 10.0) -> bool:
        """The container has ended and is about to be removed: take the rest of its output. May be repeated.

        Returns:
            Whether all of it is safe on this host's disk, from where it is uploaded at once. False when the engine did
            not give it within *limit_seconds*, or when another process of this host kept the log for a second;
            removing the container then loses what was not read.
        """
        return await self._following.finish(container, limit_seconds)

    async def flush(self, limit_seconds: float = 10.0) -> None:
        """Upload what there is, once, as far as it goes within the limit. For shutdown, after the last finish()."""
        if not await self._uploads.upload_once([bot for bot in self._logs if bot.spool.pending_bytes], limit_seconds):
            log.warning("output stays on this host's disk and is uploaded later")

    def begin(self, segment: int, epoch: int) -> None:
        """The segment was acquired under *epoch*. To be called before its first container is followed."""
        self._turns.begin(segment, epoch)

    def leave(self, segment: int) -> None:
        """The segment is about to be given back: announce that output will be added after the release.

        To be called while the lease is proven and before the containers are stopped, so that the announcement is
        written meanwhile. Returns at once, and may be repeated.
        """
        self._turns.leave(segment)

    def finish_later(
        self,
        segment: int,
        containers: Sequence[ManagedContainer],
        then: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Take and upload the rest of a segment's output in the background. Returns at once.

        To be called while the lease is proven, when *containers* have ended and their ends are recorded; the lease is
        released afterwards. The rest goes into the days' objects for 10 s after this call if :meth:`leave` was called
        before; what is left then stays on this host's disk, for its next owner here or for an object beside the day's.
        It goes on while :meth:`run` does; :meth:`finished` waits for it.

        Args:
            then: called once their output is on this host's disk, or could not be had in time; removes them.
        """
        finishing = self._finish(segment, containers, then, self._turns.release(segment))
        task = asyncio.create_task(finishing, name=f"finish the logs of segment {segment}")
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def finished(self, limit_seconds: float = 15.0) -> None:
        """Return when what was begun with :meth:`finish_later` is done, or at the limit. For shutdown."""
        if self._finishing:
            _, late = await asyncio.wait(set(self._finishing), timeout=limit_seconds)
            if late:
                log.warning("output stays on this host's disk and is uploaded later", segments=len(late))

    async def clean(self, live: Collection[str]) -> int:
        """Remove the folders of bots whose container is gone and whose output is uploaded; return how many.

        Args:
            live: the ids (the engine's) of all managed containers, those of other services and scopes included.
        """
        return await self._logs.remove_finished(live)

    # --- for readers

    def bot(self, entity_id: str) -> BotLog | None:
        """The log of this bot, if it is followed or uploaded here now."""
        return self._logs.of(entity_id)

    def owns(self, entity_id: str) -> bool:
        """Whether the log of this bot is here because this worker owns it, and not only what is left of it."""
        bot = self._logs.of(entity_id)
        return bot is not None and self._owns(bot.owner.segment)

    async def turn(self, bot: BotLog) -> None:
        """Return when an earlier owner has uploaded what it has promised to, or does not in time."""
        await self._uploads.turn(bot.owner.segment)

    async def upload(self, bot: BotLog) -> None:
        """Upload this bot's output now, if it is this worker's.

        Raises:
            RuntimeFault: it could not be.
        """
        await self._uploads.upload(bot)

    # --- inside

    def _written(self, bot: BotLog, place: Place, payload: bytes, spans: Sequence[Span]) -> None:
        bot.written(place, payload, spans, self._interval_seconds)
        if bot.spool.pending_bytes >= _EARLY_UPLOAD_BYTES and not bot.uploading:
            self._uploads.due_by(bot, bot.rests_until)

    async def _finish(
        self,
        segment: int,
        containers: Sequence[ManagedContainer],
        then: Callable[[], Awaitable[None]] | None,
        turn: Turn | None,
    ) -> None:
        try:
            await asyncio.gather(*(self.finish(container) for container in containers))
            if then is not None:
                await then()
        except RuntimeFault as error:
            log.warning("containers are left for the next owner", segment=segment, reason=str(error))
        except Exception as error:  # noqa: BLE001 - of this segment alone
            unexpected("upload the rest of a segment's output", error, segment=segment)
        try:
            await self._uploads.upload_rest(segment)
        finally:
            # Cancelled at the end of the process: no upload runs any more then.
            if turn is not None:
                await self._turns.done(turn)
