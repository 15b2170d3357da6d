"""The standbys of one owned segment: each waits while its bot's container is stopped for another version.

They only make an update shorter. Without one, for whatever reason, the bot is started as always.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from libs.core.aio.wake import Wake
from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.process.isolation import unexpected
from libs.docker_runner.executable import Executable
from libs.docker_runner.runs.run_engine import AttemptEngine

log = get_logger(__name__)

# The old version runs on meanwhile; a standby that takes longer is used if it is ready when the bot is started.
_PATIENCE_SECONDS = 5.0
_MAKE_SECONDS = 30.0


class StandbyEngine(AttemptEngine, Protocol):
    """An engine with standbys; see :class:`~libs.docker_runner.runner.DockerRunner`."""

    async def stand_by(self, executable: Executable) -> None:
        """Create and start a container that runs *executable* only when :meth:`start` is called with it."""

    async def drop_standby(self, executable: Executable) -> None:
        """Remove the standby of *executable*, if there is one. May be repeated."""


@dataclass(frozen=True)
class _Made:
    executable: Executable
    task: "asyncio.Task[bool]"

    def fits(self, executable: Executable) -> bool:
        """Whether it runs the same as *executable*; each start has another run id."""
        own = self.executable
        return replace(executable, run_id=own.run_id, traceparent=own.traceparent) == own


class BotStandbys:
    """Makes and removes the standbys, at most one for each bot."""

    def __init__(self, engine: StandbyEngine) -> None:
        self._engine = engine
        self._made: dict[str, _Made] = {}

    async def prepare(self, executable: Executable, wake: Wake) -> None:
        """Make a standby of *executable*; return when it is ready or has failed, after 5 s, or when *wake* is set."""
        made = self._made.get(executable.id)
        if made is not None and not made.fits(executable):
            await self.drop(executable.id)
            made = None
        if made is None:
            task = asyncio.create_task(self._make(executable), name=f"standby {executable.id[:40]!r}")
            made = self._made[executable.id] = _Made(executable, task)
        changing = asyncio.ensure_future(wake.wait_at_most(_PATIENCE_SECONDS))
        try:
            await asyncio.wait({made.task, changing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changing.cancel()

    @asynccontextmanager
    async def used_for(self, executable: Executable) -> AsyncIterator[Executable]:
        """Yield what to start: *executable*, with the run id of its standby if one is ready.

        A standby that the block has not used is removed, but not when it is cancelled.
        """
        made = self._made.get(executable.id)
        if made is None or not made.task.done() or made.task.cancelled() or not made.fits(executable):
            yield executable
            return
        try:
            yield made.executable if made.task.result() else executable
        except Exception:
            await self.drop(executable.id)
            raise
        await self.drop(executable.id)

    def unused(self, needed: Collection[str]) -> Collection[str]:
        """Return the bots with a standby that are not *needed*."""
        return self._made.keys() - set(needed)

    async def drop(self, bot_id: str) -> None:
        """Remove the bot's standby, once it is made. One that cannot be removed now ends by itself."""
        made = self._made.pop(bot_id, None)
        if made is None:
            return
        await asyncio.wait({made.task})
        try:
            await self._engine.drop_standby(made.executable)
        except RuntimeFault as error:
            log.warning("standby not removed; it ends by itself", bot=bot_id, reason=str(error))
        except Exception as error:  # noqa: BLE001 - the other bots of the segment go on
            unexpected("remove standby", error, bot=bot_id)

    async def close(self) -> None:
        """Stop making standbys. The next owner of the segment removes those that are left."""
        tasks = [made.task for made in self._made.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make(self, executable: Executable) -> bool:
        try:
            async with asyncio.timeout(_MAKE_SECONDS):
                await self._engine.stand_by(executable)
        except (RuntimeFault, TimeoutError) as error:
            log.info("bot is updated without a standby", bot=executable.id, reason=str(error))
            return False
        except Exception as error:  # noqa: BLE001 - the bot is updated without it
            unexpected("make standby", error, bot=executable.id)
            return False
        return True
