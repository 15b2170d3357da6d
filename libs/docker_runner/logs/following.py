"""Follow the output of containers: one task each, from the engine into the bot's log on disk."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Protocol

from libs.core.aio.backoff import Backoff
from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.observability.tracing import outside
from libs.core.process.isolation import unexpected
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.logs.bot_log import BotLog
from libs.docker_runner.logs.follower import LogFollower
from libs.docker_runner.logs.open_logs import OpenLogs
from libs.docker_runner.logs.output import LogLine
from libs.docker_runner.logs.uploads import LogUploads

log = get_logger(__name__)

_RESTART_SECONDS = 5.0
# A container that has ended is removed after this time, even if its output could not be stored.
_AFTER_END_SECONDS = 10.0
# How long a bot's start waits for another process of this host that has the log's folder and reads the output.
_LOCKED_OUT_SECONDS = 1.0


OnMetric = Callable[[ManagedContainer, float, bytes], None]


class LogSource(Protocol):
    """The source of containers' output; each container is read once at a time."""

    def logs(
        self, container: ManagedContainer, since: datetime | None = None, follow: bool = False
    ) -> AsyncIterator[LogLine]:
        """Yield the output since then, in the engine's order; with *follow* until the container ends."""
        ...


class _Following:
    """A followed container: its task, and the follower once the bot's log is open."""

    def __init__(self) -> None:
        self.follower: LogFollower | None = None
        self.ended = asyncio.Event()
        self.done = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def note_end(self) -> None:
        """Note that the container has ended, so that following ends with its output. May be repeated."""
        self.ended.set()
        if self.follower is not None:
            self.follower.container_ended()


class LogFollowing:
    """Reads the output of all containers of this worker into their bots' logs.

    Args:
        uploads: notified of each piece that has reached a log, and when a container is no longer followed.
        on_metric: called for each line that may be a metric; see :class:`LogFollower`.
    """

    def __init__(
        self, source: LogSource, logs: OpenLogs, uploads: LogUploads, on_metric: OnMetric | None = None
    ) -> None:
        self._on_metric = on_metric
        self._source = source
        self._logs = logs
        self._uploads = uploads
        self._group: asyncio.TaskGroup | None = None
        self._containers: dict[str, tuple[ManagedContainer, _Following]] = {}

    def begin(self, group: asyncio.TaskGroup) -> None:
        """Follow in tasks of *group*, including containers that were added before."""
        self._group = group
        for container, following in list(self._containers.values()):
            self._begin(group, container, following)

    def end(self) -> None:
        """Note that the group has ended."""
        self._group = None

    def follow(self, container: ManagedContainer) -> None:
        """Copy the container's output from the stored position on, until :meth:`finish`. May be repeated."""
        if container.container_id in self._containers:
            return
        following = _Following()
        self._containers[container.container_id] = (container, following)
        if self._group is not None:
            self._begin(self._group, container, following)

    def drop(self, segment: int) -> None:
        """Follow the segment's containers no longer, so that another process of this host can. May be repeated."""
        for container, following in list(self._containers.values()):
            if container.segment == segment:
                self._forget(container, following)
                if following.task is not None:
                    following.task.cancel()
                else:
                    following.done.set()

    def end_soon(self, segment: int) -> None:
        """Read the rest of the segment's containers, all of which have ended, and close their logs. Returns at once."""
        for container, following in self._containers.values():
            if container.segment == segment:
                following.note_end()

    def is_following(self, container: ManagedContainer) -> bool:
        """Whether the container's output is followed here."""
        return container.container_id in self._containers

    async def finish(self, container: ManagedContainer, limit_seconds: float = 10.0) -> bool:
        """Copy the rest of the output of an ended container that is about to be removed. May be repeated.

        Returns:
            Whether all of it is safe on this host's disk, from where it is uploaded at once. False when the engine did
            not provide it within *limit_seconds*, or when another process of this host kept the log for a second;
            removing the container then loses the unread part.
        """
        self.follow(container)
        _, following = self._containers[container.container_id]
        following.note_end()
        for limit in (min(_LOCKED_OUT_SECONDS, limit_seconds), limit_seconds - _LOCKED_OUT_SECONDS):
            with suppress(TimeoutError):
                async with asyncio.timeout(limit):
                    await following.done.wait()
            if following.done.is_set():
                return True
            if self._logs.is_locked_out(container):
                break
        log.warning("the end of a container's output was not read in time", entity=container.id)
        return False

    async def stored(self, entity_id: str, limit_seconds: float) -> bool:
        """Upload the output of a bot that was read so far; return whether nothing of it is left on this host's disk."""
        return await self._uploads.empty(entity_id, limit_seconds)

    def _begin(self, group: asyncio.TaskGroup, container: ManagedContainer, following: _Following) -> None:
        # It outlives the start in which it is created.
        with outside():
            task = group.create_task(self._follow(container, following), name=f"follow log {container.name}")
        following.task = task
        # One that is cancelled before its first step runs no handler of its own.
        task.add_done_callback(lambda _: following.done.set())

    async def _follow(self, container: ManagedContainer, following: _Following) -> None:
        bot = await self._opened(container, following)
        if bot is None:
            self._forget(container, following)
            following.done.set()
            return
        try:
            while not await self._read(bot, container, following):
                with suppress(TimeoutError):
                    async with asyncio.timeout(_RESTART_SECONDS):
                        await following.ended.wait()
        finally:
            bot.followers -= 1
            self._forget(container, following)
            following.done.set()
            # The rest is uploaded at once, since its container has ended, and the padded twin is removed.
            self._uploads.due_now(bot)

    def _forget(self, container: ManagedContainer, following: _Following) -> None:
        # After drop() it may be followed again.
        if self._containers.get(container.container_id, (None, None))[1] is following:
            del self._containers[container.container_id]

    async def _read(self, bot: BotLog, container: ManagedContainer, following: _Following) -> bool:
        """Read until the container ends; return whether there is no more output."""
        follower = LogFollower(
            bot.spool,
            container.container_id,
            partial(self._source.logs, container),
            self._logs.executor,
            partial(self._uploads.written, bot),
            container.run_id,
            partial(self._on_metric, container) if self._on_metric is not None else None,
        )
        following.follower = follower
        if following.ended.is_set():
            follower.container_ended()
        try:
            await follower.run()
        except RuntimeFault as error:
            log.warning("output can no longer be followed", entity=container.id, reason=str(error))
        except Exception as error:  # noqa: BLE001 - of this container alone
            unexpected("follow output", error, entity=container.id)
            return following.ended.is_set()
        return True

    async def _opened(self, container: ManagedContainer, following: _Following) -> BotLog | None:
        """Open the bot's log, once the disk has room for it; None when the container is gone before that."""
        backoff = Backoff(initial_seconds=0.1, cap_seconds=_RESTART_SECONDS)
        ended_at = math.inf
        while True:
            try:
                return await self._logs.open(container)
            except OSError as error:
                log.warning("output cannot be spooled", entity=container.id, reason=str(error))
            except Exception as error:  # noqa: BLE001 - of this container alone
                unexpected("open log spool", error, entity=container.id)
            if following.ended.is_set():
                ended_at = min(ended_at, time.monotonic())
                if time.monotonic() - ended_at > _AFTER_END_SECONDS:
                    log.error("output lost: no space left on disk", entity=container.id)
                    return None
                await asyncio.sleep(backoff.next_seconds())
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(backoff.next_seconds()):
                        await following.ended.wait()
