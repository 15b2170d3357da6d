"""Remove the saved state of entities that no longer exist, and versions that no document names.

A version is written before the document names it; so only those that are old enough are looked at.
"""

from collections.abc import Sequence
from datetime import timedelta

from libs.collector.sweep import Sweep, pages
from libs.core.process.service import ServiceDefinition
from libs.core.storage.object_store import ObjectInfo, ObjectStore
from libs.core.store.code_references import CodeReferences
from libs.docker_runner.state.keys import folder_and_service, folder_of_copy

_SETTLE_SECONDS = 3600.0
_PAGE = 500


class UnreferencedState:
    """The state of one service's entities in the state bucket, which services share.

    Args:
        settle_seconds: how old an object is at least.
        page: number of objects compared with the entities at once.
    """

    kind = "state"

    def __init__(
        self,
        service: ServiceDefinition,
        store: ObjectStore,
        bucket: str,
        references: CodeReferences,
        *,
        settle_seconds: float = _SETTLE_SECONDS,
        page: int = _PAGE,
    ) -> None:
        self._service = service
        self._store = store
        self._bucket = bucket
        self._references = references
        self._settle_seconds = settle_seconds
        self._page = page

    async def collect(self, sweep: Sweep) -> None:
        """Remove state without an entity. May be repeated and interrupted."""
        before = await self._store.now(self._bucket) - timedelta(seconds=self._settle_seconds)
        # A copy is listed after the versions of its id.
        old = (
            info
            async for info in self._store.list(self._bucket, "")
            if info.modified_at <= before and (folder_of_copy(info.key) is not None or self._is_own(info.key))
        )
        async for page in pages(old, self._page):
            await self._collect(sweep, page)

    def _is_own(self, key: str) -> bool:
        found = folder_and_service(key)
        return found is not None and found[1] == self._service.name

    async def _collect(self, sweep: Sweep, page: Sequence[ObjectInfo]) -> None:
        named = await self._references.among([info.key for info in page if folder_of_copy(info.key) is None])
        for info in page:
            folder = folder_of_copy(info.key)
            if folder is None:
                if info.key not in named:
                    await sweep.remove(self._store, self._bucket, info)
            elif not await self._has_version(folder):
                await sweep.remove(self._store, self._bucket, info)

    async def _has_version(self, folder: str) -> bool:
        async for info in self._store.list(self._bucket, folder):
            found = folder_and_service(info.key)
            if found is not None and found[0] == folder:
                return True
        return False
