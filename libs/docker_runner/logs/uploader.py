"""Upload one bot's spool into its days' objects: exactly once, also after a kill or an outage.

Before output is added to an object, the spool records the output, the object, and its size. After a crash, the next
uploader checks whether the object has exactly that output at that place: then it was added and only the record is
left. So no state is needed in the storage, and any S3 server suffices.

This cannot detect a request that the storage carries out long after it was given up: it could undo later
additions. Failed requests are aborted on the server if it answers.
"""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import TypeVar

from prometheus_client import Counter

from libs.core.observability.log import get_logger
from libs.core.storage.errors import ObjectChanged, StorageRejected
from libs.docker_runner.logs.keys import index_key
from libs.docker_runner.logs.objects import LogObjects
from libs.docker_runner.logs.spans import Block, encode
from libs.docker_runner.logs.spool import Chunk, LogSpool

log = get_logger(__name__)

APPENDED_BYTES = Counter("runtime_logs_appended_bytes", "Output of bots that was uploaded.")

MAX_CHUNK_BYTES = 8 * 1024 * 1024
_ATTEMPTS = 3

T = TypeVar("T")


class LogUploader:
    """Empties *spool*; runs its disk accesses in *executor*."""

    def __init__(self, spool: LogSpool, objects: LogObjects, executor: Executor) -> None:
        self.lock = asyncio.Lock()
        """Held during an upload; while holding it, spool and objects together are the whole output, once."""
        self._spool = spool
        self._objects = objects
        self._executor = executor
        self._last_key = ""

    async def upload(self, key_of: Callable[[str], str | None], note: Callable[[], T] | None = None) -> T | None:
        """Add the content of the spool to the objects *key_of* (day). May be repeated, also after a failure.

        Returns:
            The last value of *note* before the spool was found empty: all output before it is in the objects. None when
            a rest stays in the spool.

        *key_of* is called before each piece; when it returns None, the rest stays in the spool.

        Raises:
            StorageUnavailable, StorageRejected: the rest stays in the spool.
        """
        async with self.lock:
            await self._settle()
            while True:
                noted = note() if note is not None else None
                chunk = await self._run(lambda: self._spool.next_chunk(MAX_CHUNK_BYTES))
                if chunk is None:
                    return noted
                key = key_of(chunk.day)
                if key is None:
                    return None
                if key != self._last_key:
                    await self._forget()
                    self._last_key = key
                await _to_its_end(self._add(chunk, key))

    async def forget(self) -> None:
        """Remove temporary objects, since no more output is expected soon."""
        async with self.lock:
            await self._forget()

    async def _forget(self) -> None:
        await self._objects.forget(self._last_key)
        await self._objects.forget(index_key(self._last_key))

    async def _add(self, chunk: Chunk, key: str) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            before = await self._objects.stat(key)
            size_before = before.size if before is not None else 0
            await self._index(key, Block(size_before, chunk.spans))
            await self._run(self._spool.intend, chunk, key, size_before)
            try:
                await self._objects.add(key, before, chunk.payload)
                break
            except ObjectChanged as error:
                log.warning("another process writes to a log", key=key, reason=str(error))
                if attempt == _ATTEMPTS:
                    raise
        await self._run(self._spool.commit, chunk)
        APPENDED_BYTES.inc(len(chunk.payload))

    async def _index(self, key: str, block: Block) -> None:
        """Store when and how the output came that is about to be added."""
        if not any(span.run for span in block.spans):
            return
        encoded = await self._run(encode, block)
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                before = await self._objects.stat(index_key(key))
                try:
                    await self._objects.add(index_key(key), before, encoded)
                    break
                except ObjectChanged:
                    if attempt == _ATTEMPTS:
                        raise
        except StorageRejected as error:
            # The output is more important than its times.
            log.warning("times of output are not stored", key=key, reason=str(error))

    async def _settle(self) -> None:
        """Resolve the addition whose outcome is unknown, if there is one."""
        intent = await self._run(self._spool.intent)
        if intent is None:
            return
        now = await self._objects.stat(intent.key)
        size = now.size if now is not None else 0
        if size < intent.size_before:
            log.error("a log has become shorter", key=intent.key, size=size, expected=intent.size_before)
        if size >= intent.size_before + len(intent.chunk.payload) and await self._objects.contains(
            intent.key, intent.size_before, intent.chunk.payload
        ):
            await self._run(self._spool.commit, intent.chunk)
            APPENDED_BYTES.inc(len(intent.chunk.payload))

    async def _run(self, call: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: call(*arguments))


async def _to_its_end(step: Coroutine[None, None, None]) -> None:
    """Run *step* to its end even if the caller is cancelled: its threads would otherwise continue to write."""
    task = asyncio.create_task(step)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise
