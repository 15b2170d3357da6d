"""Data sets on this host: each version is fetched once, and kept while a container mounts it.

A name is looked up at each start, so a new version affects the next start only. While the storage is down, the version
that the name had last is used if it is cached.
"""

import asyncio
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from libs.core.aio.threads import Threads
from libs.core.observability.log import get_logger
from libs.core.room import MIB
from libs.core.storage.data_sets import SINGLE_FILE, DataCatalog, DataKind, DataSet
from libs.core.storage.errors import StorageRejected, StorageUnavailable
from libs.docker_runner.code.archives import ArchiveLimits
from libs.docker_runner.code.cache import CodeCache, CodeTree
from libs.docker_runner.errors import (
    ArchiveRejected,
    CodeMissing,
    CodeReplaced,
    CodeUnavailable,
    DataMissing,
    DataRejected,
    DataUnavailable,
)
from libs.docker_runner.executable import CodeRef

log = get_logger(__name__)

# Rows of prices compress well; the size of the files is limited by itself.
_MAX_RATIO = 100_000
_MAX_FILES = 60_000


class HostData:
    """The data sets of *catalog* on this host, in *directory*, which other processes of the host may use as well.

    Args:
        max_bytes: limit on all data sets together. Unused ones are evicted; nothing is fetched beyond it.
        max_set_bytes: limit on one.
        keep_seconds: how long an unused one stays after its last use, although there is no room.
    """

    def __init__(
        self,
        catalog: DataCatalog,
        directory: Path,
        *,
        max_bytes: int,
        max_set_bytes: int,
        keep_seconds: float = 60.0,
    ) -> None:
        self._catalog = catalog
        self._known = directory / "names"
        self._max_bytes = max_bytes
        self._max_set_bytes = min(max_bytes, max_set_bytes)
        self._cache = CodeCache(
            catalog.store,
            directory,
            max_bytes,
            max_archive_bytes=self._max_set_bytes,
            limits=ArchiveLimits(_MAX_FILES, self._max_set_bytes, _MAX_RATIO),
            # An archive needs room beside the cache while it is unpacked.
            parallel=1,
            keep_seconds=keep_seconds,
        )
        self._threads = Threads("data", 2)
        self._making_room = asyncio.Lock()
        self._reserved: dict[str, int] = {}

    async def open(self) -> None:
        """Create the folders, and remove what killed processes left. Call it before the first use; may be repeated."""
        await self._cache.open()
        await self._threads.run(lambda: self._known.mkdir(exist_ok=True))

    async def close(self) -> None:
        """Stop downloads. The folder stays for the next process."""
        await self._cache.close()
        self._threads.close()

    async def fetch(self, names: Sequence[str], holder: str | None = None) -> Mapping[str, Path]:
        """Return the file or folder of each data set, pinned for *holder*. May be repeated.

        Raises:
            DataMissing: there is no such data set.
            DataUnavailable: the storage or the disk fails, or the cache is full of data sets in use; retry later.
            DataRejected: it is too large, or its content is not what was uploaded.
        """
        # At once: while the storage does not answer, each look-up takes its whole timeout.
        found = await asyncio.gather(*(self._current(name) for name in names), return_exceptions=True)
        current = []
        for one in found:
            if isinstance(one, BaseException):
                raise one
            current.append(one)
        return {known.name: await self._fetched(known, holder) for known in current}

    async def release(self, holder: str) -> None:
        """Drop the pins of the removed container *holder*. May be repeated."""
        await self._cache.release(holder)

    async def drop_stale_pins(self, live: Collection[str], older_than_seconds: float = 600.0) -> int:
        """Drop the pins of removed containers; return how many. See :meth:`CodeCache.drop_stale_pins`."""
        return await self._cache.drop_stale_pins(live, older_than_seconds)

    async def size_bytes(self) -> int:
        """The total bytes of all data sets on this host."""
        return await self._cache.size_bytes()

    # --- inside

    async def _fetched(self, known: DataSet, holder: str | None) -> Path:
        name = known.name
        try:
            tree = await self._tree(known, holder)
        except CodeMissing:
            # Its content may have been removed since the look-up, after a newer version.
            newer = await self._current(name)
            if newer == known:
                raise DataMissing(name, "its content was removed from the storage") from None
            known = newer
            try:
                tree = await self._tree(known, holder)
            except CodeMissing as error:
                raise DataUnavailable(name, "it is being replaced") from error
        if known.kind is DataKind.FOLDER:
            return tree.path
        path = tree.path / SINGLE_FILE
        if not await self._threads.run(path.is_file):
            raise DataRejected(f"data set {name!r}", "does not have the one file of its description; upload it again")
        return path

    async def _current(self, name: str) -> DataSet:
        try:
            found = await self._catalog.get(name)
        except (StorageUnavailable, StorageRejected) as error:
            last = await self._threads.run(self._last_known, name)
            if last is None:
                raise DataUnavailable(name, str(error)) from error
            log.warning("storage is unavailable; using the data set last known", data=name, reason=str(error))
            return last
        if found is None:
            await self._threads.run(lambda: (self._known / name).unlink(missing_ok=True))
            raise DataMissing(name)
        try:
            await self._threads.run(self._note, found)
        except OSError as error:
            raise DataUnavailable(name, str(error)) from error
        return found

    async def _tree(self, known: DataSet, holder: str | None) -> CodeTree:
        ref = CodeRef(self._catalog.bucket, known.key, known.sha256)
        try:
            cached = await self._cache.cached(ref, known.etag, holder)
            if cached is not None:
                return cached
            try:
                await self._make_room(known)
                try:
                    return await self._cache.fetch(ref, holder, etag=known.etag)
                except CodeReplaced:
                    # Uploaded again: the digest decides, and it is checked.
                    return await self._cache.fetch(ref, holder)
            finally:
                self._reserved.pop(known.sha256, None)
        except CodeUnavailable as error:
            raise DataUnavailable(known.name, error.reason) from error
        except ArchiveRejected as error:
            raise DataRejected(f"data set {known.name!r}", f"{error.reason}; upload it again") from error

    async def _make_room(self, known: DataSet) -> None:
        """Evict what is unused until *known* fits, and reserve its size until it is fetched."""
        size = known.total_bytes
        if max(size, known.archive_bytes) > self._max_set_bytes:
            limit = self._max_set_bytes // MIB
            raise DataRejected(
                f"data set {known.name!r}", f"has {_mebibytes(size)} MiB; workers accept {limit} (DATA_SET_MB)"
            )
        async with self._making_room:
            others = sum(bytes_ for digest, bytes_ in self._reserved.items() if digest != known.sha256)
            await self._cache.evict(room_bytes=size + others)
            used = await self._cache.size_bytes() + others
            if used + size > self._max_bytes:
                raise DataUnavailable(
                    known.name,
                    f"this host's data sets in use have {_mebibytes(used)} MiB, and with the {_mebibytes(size)} MiB of "
                    f"this one more than {self._max_bytes // MIB} (DATA_CACHE_MB)",
                )
            self._reserved[known.sha256] = size

    def _note(self, data_set: DataSet) -> None:
        """Keep the current version of a name for a time without the storage."""
        content, path = data_set.to_json(), self._known / data_set.name
        if path.exists() and path.read_bytes() == content:
            return
        temporary = self._known / f".{uuid.uuid4().hex}"
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _last_known(self, name: str) -> DataSet | None:
        try:
            return self._catalog.parsed(name, (self._known / name).read_bytes())
        except OSError:
            return None


def _mebibytes(size: int) -> str:
    return f"{size / MIB:,.1f}"
