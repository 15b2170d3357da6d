"""The open bot logs of this process; it owns the folder of each until it closes it."""

import asyncio
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from libs.core.aio.wake import Wake
from libs.core.process.isolation import isolated
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.logs.bot_log import BotLog
from libs.docker_runner.logs.budget import SpoolBudget
from libs.docker_runner.logs.folders import LogFolder, LogOwner, has_output_of, remove_finished, with_output
from libs.docker_runner.logs.objects import LogObjects

_LOCK_POLL_SECONDS = 0.1
_THREADS = 8

T = TypeVar("T")


class OpenLogs:
    """One log per bot, in a folder named like its containers, which use it one after the other.

    The folder's lock prevents a superseded worker and its successor from using one log together.

    Args:
        directory: the parent of the folders of one service and scope; its worker processes on a host share it.
        budget: limits the output on disk while the storage is down; None for the default.
    """

    def __init__(self, directory: Path, objects: LogObjects, budget: SpoolBudget | None = None) -> None:
        self.objects = objects
        self.executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="logs")
        """Threads for blocking calls on these logs."""
        self.opened = Wake()
        """Set when a log was opened, since it may contain output that an earlier process did not upload."""
        self._directory = directory
        self._budget = budget or SpoolBudget()
        self._logs: dict[str, BotLog] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._locked_out: set[str] = set()

    def __iter__(self) -> Iterator[BotLog]:
        return iter(list(self._logs.values()))

    def of(self, entity_id: str) -> BotLog | None:
        """Return the open log of this bot."""
        return next((bot for bot in self._logs.values() if bot.owner.entity_id == entity_id), None)

    def is_locked_out(self, container: ManagedContainer) -> bool:
        """Whether another process has the log of the container's bot, and :meth:`open` waits for it."""
        return container.name in self._locked_out

    async def open(self, container: ManagedContainer) -> BotLog:
        """Open the log of the container's bot, with one more follower; wait for another process that has its folder.

        Raises:
            OSError: the disk has no room for it.
        """
        owner = LogOwner(container.id, container.segment, container.container_id)
        async with self._opening.setdefault(container.name, asyncio.Lock()):
            bot = self._logs.get(container.name)
            if bot is None:
                bot = await self._open_locked(container.name, owner)
                bot.followers += 1
            else:
                bot.followers += 1
                try:
                    await self.run(partial(bot.folder.write_owner, owner))
                except BaseException:
                    bot.followers -= 1
                    raise
                bot.owner = owner
            return bot

    async def adopt(self, may: Callable[[LogOwner, float], bool]) -> None:
        """Open the logs with output that other processes of this host have left.

        Args:
            may: whether to open the log of this owner, which was quiet for so many seconds.
        """
        await self.run(partial(self._directory.mkdir, parents=True, exist_ok=True))
        for name in await self._others_with_output():
            async with self._opening.setdefault(name, asyncio.Lock()):
                if name not in self._logs:
                    with isolated("adopt log spool"):
                        await self._adopt(name, may)
        self._budget.divide((bot.spool for bot in self), elsewhere=len(await self._others_with_output()))

    def close(self, bot: BotLog) -> None:
        """Close the log and release its folder."""
        name = bot.folder.path.name
        del self._logs[name]
        lock = self._opening.get(name)
        if lock is not None and not lock.locked():
            del self._opening[name]
        bot.close()

    def close_all(self) -> None:
        """Close all logs. None can be opened afterwards."""
        for bot in self:
            self.close(bot)
        self.executor.shutdown(wait=False)

    async def has_output(self, entity_id: str) -> bool:
        """Whether the log of this bot, which is not open here, has output that is not uploaded."""
        return await self.run(partial(has_output_of, self._directory, frozenset(self._logs), entity_id))

    async def remove_finished(self, live: Collection[str]) -> int:
        """Remove the folders of bots whose container is not *live* and whose output is uploaded; return how many."""
        return await self.run(partial(remove_finished, self._directory, frozenset(live), frozenset(self._logs)))

    async def run(self, call: Callable[[], T]) -> T:
        """Run a call that blocks on the disk, in a thread; if cancelled, raise only after its end."""
        running = asyncio.get_running_loop().run_in_executor(self.executor, call)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # The thread cannot be stopped, and the lock that it takes must be released.
            await asyncio.wait([running])
            raise

    async def _open_locked(self, name: str, owner: LogOwner) -> BotLog:
        folder = LogFolder(self._directory / name)
        try:
            while not await self.run(partial(folder.try_lock, create=True)):
                self._locked_out.add(name)
                await asyncio.sleep(_LOCK_POLL_SECONDS)
            return await self._open_folder(name, folder, owner)
        except BaseException:
            folder.unlock()
            raise
        finally:
            self._locked_out.discard(name)

    async def _open_folder(self, name: str, folder: LogFolder, owner: LogOwner) -> BotLog:
        share = self._budget.share(len(self._logs) + 1)
        bot = await self.run(partial(BotLog.open, folder, owner, self.objects, self.executor, share))
        self._logs[name] = bot
        self._budget.divide(one.spool for one in self)
        self.opened.set()
        return bot

    async def _adopt(self, name: str, may: Callable[[LogOwner, float], bool]) -> None:
        folder = LogFolder(self._directory / name)
        try:
            if not await self.run(partial(folder.try_lock, create=False)):
                return
            owner = await self.run(folder.owner)
            if owner is not None and may(owner, await self.run(folder.quiet_seconds)):
                await self._open_folder(name, folder, owner)
        finally:
            if name not in self._logs:
                folder.unlock()

    async def _others_with_output(self) -> list[str]:
        return await self.run(partial(with_output, self._directory, frozenset(self._logs)))
