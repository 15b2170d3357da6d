"""Cache bots' code on this host: one download per version of an object, kept while a container mounts it.

When the storage is down, the version last used for a reference is served if it is cached: a bot that has run can
start again with the same code. The drawback is that a replaced object goes unnoticed until the storage is back.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prometheus_client import Counter

from libs.core.observability.log import get_logger
from libs.core.process.isolation import isolated
from libs.core.storage.errors import ObjectChanged, ObjectMissing, StorageRejected, StorageUnavailable
from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.code.archives import DEFAULT_LIMITS, ArchiveLimits, extract
from libs.docker_runner.code.store import CodeStore, Version
from libs.docker_runner.errors import ArchiveRejected, CodeMissing, CodeReplaced, CodeUnavailable
from libs.docker_runner.executable import CodeRef

log = get_logger(__name__)

FETCHES = Counter("runtime_code_fetches", "Fetches of code, by source.", ["source"])

_ATTEMPTS = 3
_LOCK_POLL_SECONDS = 0.05
_REMEMBERED_REJECTIONS = 1000

T = TypeVar("T")


@dataclass(frozen=True)
class CodeTree:
    """A bot's code: *path* is the folder to mount read-only; *stale* means that the storage was not available."""

    path: Path
    etag: str
    stale: bool = False


class CodeCache:
    """The cache in *directory*, of about *max_bytes*; other processes of the host may use the same folder.

    Args:
        max_bytes: above it, trees are evicted, least recently used first. Trees that a container has pinned, and those
            used within *keep_seconds*, are kept.
        max_archive_bytes: larger objects are rejected before they are downloaded.
        parallel: maximum number of concurrent downloads, which bounds the temporary space.
    """

    def __init__(
        self,
        store: ObjectStore,
        directory: Path,
        max_bytes: int,
        *,
        max_archive_bytes: int = 512 * 1024 * 1024,
        limits: ArchiveLimits = DEFAULT_LIMITS,
        parallel: int = 4,
        keep_seconds: float = 60.0,
    ) -> None:
        self._store = store
        self._code_store = CodeStore(directory)
        self._max_bytes = max_bytes
        self._max_archive_bytes = max_archive_bytes
        self._limits = limits
        self._keep_seconds = keep_seconds
        # More threads than concurrent unpackings, so that a look-up never waits for one.
        self._executor = ThreadPoolExecutor(parallel + 2, thread_name_prefix="code-cache")
        self._downloading = asyncio.Semaphore(parallel)
        self._downloads: dict[str, asyncio.Task[None]] = {}
        self._rejected: dict[str, ArchiveRejected] = {}

    async def open(self) -> None:
        """Create the folders, and remove what killed processes left. Call it before the first use; may be repeated."""
        await self._run(self._code_store.open)

    async def close(self) -> None:
        """Stop downloads. The folder stays for the next process."""
        for download in list(self._downloads.values()):
            download.cancel()
        await asyncio.gather(*self._downloads.values(), return_exceptions=True)
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, ref: CodeRef, holder: str | None = None, *, etag: str | None = None) -> CodeTree:
        """Return the code of *ref*, downloaded and unpacked unless cached. May be repeated.

        Of concurrent callers, in this process and in others of the host, one downloads; a cancelled caller does not
        stop the download for the others. With *holder*, the name of a container, the tree is pinned for it atomically.

        Args:
            etag: the only acceptable version; the storage is not queried when that one is cached.

        Raises:
            CodeMissing: there is no such object.
            CodeReplaced: the object has another version than *etag*, which is not cached.
            CodeUnavailable: the storage or the disk fails, and no earlier version is cached; retry later.
            ArchiveRejected: the archive is unsafe or unreadable.
        """
        if etag is not None:
            wanted = Version(ref.bucket, ref.key, etag, ref.sha256)
            if await self._pinned_for(wanted, holder):
                FETCHES.labels("cache").inc()
                return CodeTree(self._code_store.path(wanted), etag)
        for _ in range(_ATTEMPTS):
            try:
                version = await self._current(ref)
            except CodeUnavailable:
                known = await self._run(self._code_store.last_known, ref.bucket, ref.key, ref.sha256)
                if known is None or etag is not None or not await self._pinned_for(known, holder):
                    raise
                FETCHES.labels("cache-without-storage").inc()
                log.warning("storage is unavailable; using the cached code", bucket=ref.bucket, key=ref.key)
                return CodeTree(self._code_store.path(known), known.etag, stale=True)
            if etag is not None and version.etag != etag:
                raise CodeReplaced(ref.bucket, ref.key, etag)
            if await self._pinned_for(version, holder):
                FETCHES.labels("cache").inc()
                return CodeTree(self._code_store.path(version), version.etag)
            if version.digest in self._rejected:
                raise self._rejected[version.digest]
            # A version that was replaced or evicted meanwhile is looked up again.
            with suppress(ObjectChanged):
                await asyncio.shield(self._download_once(version))
                if await self._pinned_for(version, holder):
                    # Only after it is pinned: a tree larger than the whole cache would be evicted first.
                    with isolated("evict code"):
                        await self.evict()
                    return CodeTree(self._code_store.path(version), version.etag)
        raise CodeUnavailable(ref.bucket, ref.key, f"it was replaced {_ATTEMPTS} times while it was being read")

    async def cached(self, ref: CodeRef, etag: str, holder: str | None = None) -> CodeTree | None:
        """Return that version, pinned for *holder*, if it is on this host; the storage is not queried.

        Raises:
            CodeUnavailable: the disk fails.
        """
        wanted = Version(ref.bucket, ref.key, etag, ref.sha256)
        return CodeTree(self._code_store.path(wanted), etag) if await self._pinned_for(wanted, holder) else None

    async def pin(self, tree: CodeTree, holder: str) -> None:
        """Keep *tree* for the container *holder*. Pins outlive this process; may be repeated."""
        await self._run(self._code_store.pin, tree.path.name, holder)

    async def release(self, holder: str) -> None:
        """Drop the pins of the removed container *holder*. May be repeated."""
        await self._run(self._code_store.release, holder)

    async def drop_stale_pins(self, live: Collection[str], older_than_seconds: float = 600.0) -> int:
        """Drop the pins of removed containers; return how many.

        Args:
            live: the names of all managed containers of this engine, including those of other services and scopes.
            older_than_seconds: younger pins stay, since a pin is created before its container.
        """
        return await self._run(self._code_store.drop_stale_pins, live, older_than_seconds)

    async def evict(self, *, room_bytes: int = 0) -> None:
        """Evict trees until *room_bytes* are left below the limit, except those in use. Called after every download."""
        most = max(0, self._max_bytes - room_bytes)
        for version in await self._run(self._code_store.evict, most, self._keep_seconds):
            log.info("code evicted", bucket=version.bucket, key=version.key, etag=version.etag)

    async def size_bytes(self) -> int:
        """The total bytes of all trees."""
        return await self._run(self._code_store.size_bytes)

    # --- inside

    async def _current(self, ref: CodeRef) -> Version:
        try:
            found = await self._store.stat(ref.bucket, ref.key)
        except ObjectMissing as error:
            raise CodeMissing(ref.bucket, ref.key) from error
        except (StorageUnavailable, StorageRejected) as error:
            raise CodeUnavailable(ref.bucket, ref.key, str(error)) from error
        if found.size > self._max_archive_bytes:
            raise ArchiveRejected(
                ref.key, "", f"has {found.size} bytes; at most {self._max_archive_bytes} are accepted"
            )
        return Version(ref.bucket, ref.key, found.etag, ref.sha256)

    def _download_once(self, version: Version) -> asyncio.Task[None]:
        """Return the one task of this process that fetches *version*; it survives a cancelled caller."""
        if version.digest not in self._downloads:
            task = asyncio.create_task(self._download(version), name=f"download {version.bucket}/{version.key}")
            self._downloads[version.digest] = task
            task.add_done_callback(lambda done: self._downloaded(version.digest, done))
        return self._downloads[version.digest]

    def _downloaded(self, digest: str, done: asyncio.Task[None]) -> None:
        del self._downloads[digest]
        error = None if done.cancelled() else done.exception()
        if isinstance(error, ArchiveRejected):
            # The same bytes will be rejected again: do not fetch them for each restart of the bot.
            if len(self._rejected) >= _REMEMBERED_REJECTIONS:
                self._rejected.clear()
            self._rejected[digest] = error

    async def _download(self, version: Version) -> None:
        async with self._downloading, self._locked(version):
            if await self._pinned_for(version, None):
                return
            try:
                work, descriptor = await self._run(self._code_store.begin_work)
            except OSError as error:
                raise CodeUnavailable(version.bucket, version.key, str(error)) from error
            try:
                archive, unpacked = work / "archive", work / "tree"
                await self._store.get_to_file(
                    version.bucket, version.key, archive, etag=version.etag, max_bytes=self._max_archive_bytes
                )
                await self._run(_check_digest, archive, version)
                done = await self._run(extract, archive, unpacked, version.key, self._limits)
                await self._run(self._code_store.install, version, unpacked, done.total_bytes)
            except ObjectMissing as error:
                raise CodeMissing(version.bucket, version.key) from error
            except (StorageUnavailable, StorageRejected, OSError) as error:
                raise CodeUnavailable(version.bucket, version.key, str(error)) from error
            finally:
                await self._run(self._code_store.end_work, work, descriptor)
        FETCHES.labels("storage").inc()
        log.info("code fetched", bucket=version.bucket, key=version.key, etag=version.etag, bytes=done.total_bytes)

    @asynccontextmanager
    async def _locked(self, version: Version) -> AsyncIterator[None]:
        """Lock against other processes of the host; the kernel releases the lock of a killed one."""
        while (descriptor := await self._try_lock(version)) is None:  # noqa: ASYNC110 - a file lock
            await asyncio.sleep(_LOCK_POLL_SECONDS)
        try:
            yield
        finally:
            os.close(descriptor)

    async def _try_lock(self, version: Version) -> int | None:
        try:
            return await self._run(self._code_store.try_lock, version)
        except OSError as error:
            raise CodeUnavailable(version.bucket, version.key, str(error)) from error

    async def _pinned_for(self, version: Version, holder: str | None) -> bool:
        """Whether the version is cached; if so it is pinned for *holder* from now on."""
        try:
            return await self._run(self._code_store.use, version, holder)
        except OSError as error:
            raise CodeUnavailable(version.bucket, version.key, str(error)) from error

    async def _run(self, call: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: call(*arguments))


def _check_digest(archive: Path, version: Version) -> None:
    if version.sha256 is None:
        return
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != version.sha256:
        raise ArchiveRejected(
            version.key, "", f"has the SHA-256 {found}, and custom.sha256 is {version.sha256}; upload it again"
        )
