"""The output of all bots on this worker: from the engine into spools on disk, from there into objects.

Each bot has one spool, which its containers use one after the other, in a folder named like them. The folder is locked
by the process that works on it, so that a worker which was superseded and its successor never do so together. Output
goes into the bot's day object while this worker owns the bot's segment. What is left on a host that no longer does,
goes into an object beside it: no two hosts ever write to one. A worker that gives a segment back uploads the rest after
the release, while the next owner waits for its turn (log_handover.py).
"""

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from prometheus_client import Counter, Gauge

from libs.core.backoff import Backoff
from libs.core.errors import RuntimeFault
from libs.core.isolation import isolated, repeat, unexpected
from libs.core.log import get_logger
from libs.core.object_store import ObjectStore
from libs.core.tracing import outside
from libs.core.wake import Wake
from libs.docker_runner.bot_log import BotLog
from libs.docker_runner.container import ManagedContainer
from libs.docker_runner.log_budget import SpoolBudget
from libs.docker_runner.log_folders import LogFolder, LogOwner, remove_finished, with_output
from libs.docker_runner.log_follower import LogFollower
from libs.docker_runner.log_handover import REST_SECONDS, WAIT_SECONDS, HandOver, Turn
from libs.docker_runner.log_keys import log_key
from libs.docker_runner.log_objects import LogObjects
from libs.docker_runner.log_spans import Span
from libs.docker_runner.log_spool import Place
from libs.docker_runner.output import LogLine

log = get_logger(__name__)

PENDING_BYTES = Gauge("runtime_logs_pending_bytes", "Output of bots on this host's disk that is not uploaded yet.")
DROPPED_BYTES = Counter("runtime_logs_dropped_bytes", "Output of bots that was dropped because its spool was full.")

_LOCK_POLL_SECONDS = 0.1
# The start of a bot waits no longer for another process of this host, which has the log's folder and takes the output.
_LOCKED_OUT_SECONDS = 1.0
_RESTART_SECONDS = 5.0
# A container that has ended is removed after so long, whether or not its output has a place.
_AFTER_END_SECONDS = 10.0
_SWEEP_SECONDS = 24 * 3600.0
_EARLY_UPLOAD_BYTES = 4 * 1024 * 1024
_REST_SHARE = 4
_TURN_POLL_SECONDS = 0.5
_REST_RETRY_SECONDS = 0.5

T = TypeVar("T")


class LogSource(Protocol):
    """Where containers' output is read; of each container once at a time."""

    def logs(
        self, container: ManagedContainer, since: datetime | None = None, follow: bool = False
    ) -> AsyncIterator[LogLine]:
        """The output since then, in the engine's order; with *follow* until the container ends."""
        ...


class _Following:
    """A container that is followed: the task, and the follower once the bot's folder is this process's."""

    def __init__(self) -> None:
        self.follower: LogFollower | None = None
        self.ended = asyncio.Event()
        self.done = asyncio.Event()


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
        self._source = source
        self._objects = LogObjects(store, bucket)
        self._directory = directory
        self._writer = hashlib.sha256(writer.encode()).hexdigest()[:8]
        self._owns = owns
        self._turns = HandOver(
            store,
            bucket,
            place=place,
            writer=self._writer,
            owns=owns,
            rest_seconds=rest_seconds,
            # An addition that begins in time is over by then.
            wait_seconds=rest_seconds + (WAIT_SECONDS - REST_SECONDS),
        )
        self._rest_seconds = rest_seconds
        self._finishing: set[asyncio.Task[None]] = set()
        self._budget = budget or SpoolBudget()
        self._interval_seconds = interval_seconds
        self._hand_over_seconds = hand_over_seconds
        self._executor = ThreadPoolExecutor(parallel + 4, thread_name_prefix="logs")
        self._uploads = asyncio.Semaphore(parallel)
        self._group: asyncio.TaskGroup | None = None
        self._bots: dict[str, BotLog] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._locked_out: set[str] = set()
        self._following: dict[str, tuple[ManagedContainer, _Following]] = {}
        self._wake = Wake()
        self._uploaded = asyncio.Event()
        self._looked_at = -math.inf
        self._swept_at = 0.0

    # --- for the worker

    async def run(self) -> None:
        """Do all the work, for ever. Cancelling it is safe at any moment; :meth:`flush` before that is kind."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for container, following in list(self._following.values()):
                    self._begin(group, container, following)
                one_round = partial(self._one_round, group)
                await repeat("upload logs", one_round, self._interval_seconds, wake=self._wake)
        finally:
            self._group = None
            for task in self._finishing:
                task.cancel()
            await asyncio.gather(*self._finishing, return_exceptions=True)
            for bot in self._bots.values():
                bot.close()
            self._bots.clear()
            self._executor.shutdown(wait=False)

    def follow(self, container: ManagedContainer) -> None:
        """Take the container's output from where it was left, until :meth:`finish`. May be repeated."""
        if container.container_id in self._following:
            return
        following = _Following()
        self._following[container.container_id] = (container, following)
        if self._group is not None:
            self._begin(self._group, container, following)

    def is_following(self, container: ManagedContainer) -> bool:
        """Whether the container's output is being taken here."""
        return container.container_id in self._following

    async def finish(self, container: ManagedContainer, limit_seconds: float = 10.0) -> bool:
        """The container has ended and is about to be removed: take the rest of its output. May be repeated.

        Returns:
            Whether all of it is safe on this host's disk, from where it is uploaded at once. False when the engine did
            not give it within *limit_seconds*, or when another process of this host kept the folder for a second;
            removing the container then loses what the other process has not read.
        """
        self.follow(container)
        _, following = self._following[container.container_id]
        following.ended.set()
        if following.follower is not None:
            following.follower.container_ended()
        limits = (min(_LOCKED_OUT_SECONDS, limit_seconds), limit_seconds - _LOCKED_OUT_SECONDS)
        for limit in limits:
            with suppress(TimeoutError):
                async with asyncio.timeout(limit):
                    await following.done.wait()
            if following.done.is_set():
                return True
            if container.name in self._locked_out:
                break
        log.warning("the end of a container's output was not read in time", entity=container.id)
        return False

    async def flush(self, limit_seconds: float = 10.0) -> None:
        """Upload what there is, once, as far as it goes within the limit. For shutdown, after the last finish()."""
        if not await self._upload_once([bot for bot in self._bots.values() if bot.spool.pending_bytes], limit_seconds):
            log.warning("output is left on this host's disk for later")

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
                log.warning("output is left on this host's disk for later", segments=len(late))

    async def clean(self, live: Collection[str]) -> int:
        """Remove the folders of bots whose container is gone and whose output is uploaded; return how many.

        Args:
            live: the ids (the engine's) of all managed containers, those of other services and scopes included.
        """
        return await self._run(partial(remove_finished, self._directory, frozenset(live), frozenset(self._bots)))

    def bot(self, entity_id: str) -> BotLog | None:
        """The log of this bot, if it is followed or uploaded here now."""
        return next((bot for bot in self._bots.values() if bot.owner.entity_id == entity_id), None)

    def owns(self, entity_id: str) -> bool:
        """Whether the log of this bot is here because this worker owns it, and not only what is left of it."""
        bot = self.bot(entity_id)
        return bot is not None and self._owns(bot.owner.segment)

    async def turn(self, bot: BotLog) -> None:
        """Return when an earlier owner has uploaded what it has promised to, or does not in time."""
        segment = bot.owner.segment
        with suppress(TimeoutError, RuntimeFault):
            async with asyncio.timeout(self._rest_seconds):
                await self._turns.prepare(segment)
                while self._turns.waits(segment):
                    await asyncio.sleep(_TURN_POLL_SECONDS)
                    await self._turns.prepare(segment)

    async def upload(self, bot: BotLog) -> None:
        """Upload this bot's output now, if it is this worker's.

        Raises:
            RuntimeFault: it could not be.
        """

        def key_of(day: str) -> str | None:
            # Anew for each piece: uploading a large rest takes longer than a lease lasts.
            now = self._key_of(bot)
            return now(day) if now is not None else None

        await self._turns.prepare(bot.owner.segment)
        if self._key_of(bot) is not None:
            await bot.uploader.upload(key_of)

    # --- following

    def _begin(self, group: asyncio.TaskGroup, container: ManagedContainer, following: _Following) -> None:
        # It goes on long after the start in which it is begun.
        with outside():
            group.create_task(self._follow(container, following), name=f"follow log {container.name}")

    async def _follow(self, container: ManagedContainer, following: _Following) -> None:
        bot = await self._opened(container, following)
        if bot is None:
            self._following.pop(container.container_id, None)
            following.done.set()
            return
        try:
            while True:
                follower = LogFollower(
                    bot.spool,
                    container.container_id,
                    partial(self._source.logs, container),
                    self._executor,
                    partial(self._written, bot),
                    container.run_id,
                )
                following.follower = follower
                if following.ended.is_set():
                    follower.container_ended()
                try:
                    await follower.run()
                    break
                except RuntimeFault as error:
                    log.warning("output cannot be followed any longer", entity=container.id, reason=str(error))
                    break
                except Exception as error:  # noqa: BLE001 - of this container alone
                    unexpected("follow output", error, entity=container.id)
                if following.ended.is_set():
                    break
                with suppress(TimeoutError):
                    async with asyncio.timeout(_RESTART_SECONDS):
                        await following.ended.wait()
        finally:
            bot.followers -= 1
            self._following.pop(container.container_id, None)
            following.done.set()
            # What is there goes up at once when its container has ended, and so does the padded twin.
            bot.due_at = 0.0
            self._wake.set()

    async def _opened(self, container: ManagedContainer, following: _Following) -> BotLog | None:
        """The bot's log, once the disk has a place for it; None when the container is gone before that."""
        backoff = Backoff(initial_seconds=0.1, cap_seconds=_RESTART_SECONDS)
        ended_at = math.inf
        while True:
            try:
                return await self._open(container)
            except OSError as error:
                log.warning("output cannot be spooled", entity=container.id, reason=str(error))
            except Exception as error:  # noqa: BLE001 - of this container alone
                unexpected("open log spool", error, entity=container.id)
            if following.ended.is_set():
                ended_at = min(ended_at, time.monotonic())
                if time.monotonic() - ended_at > _AFTER_END_SECONDS:
                    log.error("output is lost: there was no place for it on the disk", entity=container.id)
                    return None
                await asyncio.sleep(backoff.next_seconds())
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(backoff.next_seconds()):
                        await following.ended.wait()

    async def _open(self, container: ManagedContainer) -> BotLog:
        """The bot's log, with one follower more; waits for another process that has its folder."""
        owner = LogOwner(container.id, container.segment, container.container_id)
        async with self._opening.setdefault(container.name, asyncio.Lock()):
            bot = self._bots.get(container.name)
            if bot is None:
                folder = LogFolder(self._directory / container.name)
                try:
                    while not await self._run(partial(folder.try_lock, create=True)):
                        self._locked_out.add(container.name)
                        await asyncio.sleep(_LOCK_POLL_SECONDS)
                    bot = await self._open_folder(container.name, folder, owner)
                except BaseException:
                    folder.unlock()
                    raise
                finally:
                    self._locked_out.discard(container.name)
                bot.followers += 1
            else:
                bot.followers += 1
                try:
                    await self._run(partial(bot.folder.write_owner, owner))
                except BaseException:
                    bot.followers -= 1
                    raise
                bot.owner = owner
            return bot

    async def _open_folder(self, name: str, folder: LogFolder, owner: LogOwner) -> BotLog:
        share = self._budget.share(len(self._bots) + 1)
        bot = await self._run(partial(BotLog.open, folder, owner, self._objects, self._executor, share))
        self._bots[name] = bot
        self._budget.divide(one.spool for one in self._bots.values())
        # It may hold what an earlier process did not upload.
        self._wake.set()
        return bot

    def _written(self, bot: BotLog, place: Place, payload: bytes, spans: Sequence[Span]) -> None:
        bot.written(place, payload, spans, self._interval_seconds)
        if bot.spool.pending_bytes >= _EARLY_UPLOAD_BYTES and not bot.uploading:
            bot.due_at = bot.rests_until
            self._wake.set()

    # --- uploading

    async def _one_round(self, group: asyncio.TaskGroup) -> float:
        """Begin the uploads that are due; return for how long none will be."""
        now = time.monotonic()
        if now - self._looked_at >= self._interval_seconds:
            self._looked_at = now
            with isolated("look after log spools"):
                await self._look_around()
        for name, bot in list(self._bots.items()):
            if not bot.in_use:
                self._close(name, bot)
            elif bot.due_at is not None and bot.due_at <= now and not bot.uploading:
                bot.uploading = True
                bot.due_at = None
                group.create_task(self._upload(bot), name=f"upload log {name}")
        due = [bot.due_at for bot in self._bots.values() if bot.due_at is not None and not bot.uploading]
        return max(0.0, min([*due, self._looked_at + self._interval_seconds]) - time.monotonic())

    async def _upload(self, bot: BotLog) -> None:
        try:
            async with self._uploads:
                begun = time.monotonic()
                uploaded = await self._try_to_upload(bot)
                # The server copies the whole object: one of gigabytes is added to less often.
                bot.rests_until = time.monotonic() + _REST_SHARE * (time.monotonic() - begun)
        finally:
            bot.uploading = False
            bot.attempts += 1
            self._uploaded.set()
        if bot.due_at is None and bot.spool.pending_bytes and self._turns.waits(bot.owner.segment):
            bot.due_at = time.monotonic() + _TURN_POLL_SECONDS
        if bot.due_at is None and bot.spool.pending_bytes and (bot.followers or (uploaded and self._has_place(bot))):
            bot.due_at = max(time.monotonic() + self._interval_seconds, bot.rests_until)
        # What cannot be uploaded now and is written by nobody is let go, and found again when one looks around:
        # another process of this host may be waiting to follow the bot's next container.
        self._wake.set()

    async def _upload_once(self, bots: Collection[BotLog], limit_seconds: float) -> bool:
        """Try once to upload what these have, now; return whether all attempts ended within the limit."""
        wanted = {bot: bot.attempts + 1 + bot.uploading for bot in bots}
        for bot in bots:
            bot.due_at = 0.0
        self._wake.set()
        try:
            async with asyncio.timeout(limit_seconds):
                while any(bot.spool.pending_bytes and bot.attempts < attempts for bot, attempts in wanted.items()):
                    await self._next_upload()
        except TimeoutError:
            return False
        return True

    async def _next_upload(self) -> None:
        self._uploaded.clear()
        await self._uploaded.wait()

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
            log.warning("the containers are left to the next owner", segment=segment, reason=str(error))
        except Exception as error:  # noqa: BLE001 - of this segment alone
            unexpected("upload the rest of a segment's output", error, segment=segment)
        try:
            await self._upload_rest(segment)
        finally:
            # Cancelled at the end of the process: no upload runs any more then.
            if turn is not None:
                await self._turns.done(turn)

    async def _upload_rest(self, segment: int) -> None:
        def rest() -> list[BotLog]:
            return [bot for bot in self._bots.values() if bot.owner.segment == segment and bot.spool.pending_bytes]

        ends_at = time.monotonic() + self._rest_seconds
        while (bots := rest()) and self._turns.is_open(segment) and time.monotonic() < ends_at:
            if not await self._upload_once(bots, max(0.0, ends_at - time.monotonic())):
                break
            if rest():
                await asyncio.sleep(_REST_RETRY_SECONDS)
        with suppress(TimeoutError):
            # An addition that is under way belongs to this turn.
            async with asyncio.timeout(self._rest_seconds):
                while any(bot.uploading for bot in rest()):
                    await self._next_upload()

    async def _try_to_upload(self, bot: BotLog) -> bool:
        try:
            await self.upload(bot)
            if not bot.followers:
                await bot.uploader.forget()
        except (RuntimeFault, OSError) as error:
            log.warning("output cannot be uploaded", entity=bot.owner.entity_id, reason=str(error))
            return False
        except Exception as error:  # noqa: BLE001 - of this bot alone
            unexpected("upload output", error, entity=bot.owner.entity_id)
            return False
        return True

    def _close(self, name: str, bot: BotLog) -> None:
        DROPPED_BYTES.inc(bot.spool.take_dropped())
        del self._bots[name]
        lock = self._opening.get(name)
        if lock is not None and not lock.locked():
            del self._opening[name]
        bot.close()

    def _has_place(self, bot: BotLog) -> bool:
        """Whether this process may upload the bot's output, now or as soon as an earlier owner has."""
        return self._turns.is_open(bot.owner.segment) or self._key_of(bot) is not None

    def _key_of(self, bot: BotLog) -> Callable[[str], str] | None:
        if self._turns.may_add(bot.owner.segment):
            return partial(log_key, bot.owner.entity_id)
        if self._turns.is_open(bot.owner.segment):
            return None
        if not bot.followers and time.monotonic() - bot.changed_at >= self._hand_over_seconds:
            return partial(log_key, bot.owner.entity_id, writer=self._writer)
        return None

    async def _look_around(self) -> None:
        """Take over what other processes of this host have left behind; measure; sweep the bucket once a day."""
        await self._run(partial(self._directory.mkdir, parents=True, exist_ok=True))
        for name in await self._run(partial(with_output, self._directory, frozenset(self._bots))):
            async with self._opening.setdefault(name, asyncio.Lock()):
                if name not in self._bots:
                    with isolated("adopt log spool"):
                        await self._adopt(name)
        others = await self._run(partial(with_output, self._directory, frozenset(self._bots)))
        self._budget.divide((bot.spool for bot in self._bots.values()), elsewhere=len(others))
        for bot in list(self._bots.values()):
            with isolated("trim log spool"):
                await self._run(bot.spool.trim)
        PENDING_BYTES.set(sum(bot.spool.pending_bytes for bot in self._bots.values()))
        for bot in self._bots.values():
            DROPPED_BYTES.inc(bot.spool.take_dropped())
        if time.monotonic() - self._swept_at > _SWEEP_SECONDS or not self._swept_at:
            self._swept_at = time.monotonic()
            try:
                await self._objects.sweep()
            except RuntimeFault as error:
                log.warning("the logs bucket was not swept", reason=str(error))

    async def _adopt(self, name: str) -> None:
        folder = LogFolder(self._directory / name)
        try:
            if not await self._run(partial(folder.try_lock, create=False)):
                return
            owner = await self._run(folder.owner)
            if owner is None:
                return
            if self._owns(owner.segment) or await self._run(folder.quiet_seconds) >= self._hand_over_seconds:
                await self._open_folder(name, folder, owner)
        finally:
            if name not in self._bots:
                folder.unlock()

    async def _run(self, call: Callable[[], T]) -> T:
        running = asyncio.get_running_loop().run_in_executor(self._executor, call)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # The thread cannot be stopped, and what it takes (a lock) must be known to be given back.
            await asyncio.wait([running])
            raise
